"""A picture of a corpus: how many turns its conversations have, and how long each side's turns are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from maieutic.core.errors import InputError, MissingExtra
from maieutic.core.messages import Role
from maieutic.core.store import full_disk
from maieutic.data.stats import Survey

FORMATS = (".png", ".svg", ".pdf")
# Blue and vermilion of Okabe and Ito's palette: told apart with any common colour blindness, and in grey by the dashes.
_LOOKS = {Role.USER: ("#0072B2", "-"), Role.ASSISTANT: ("#D55E00", "--")}
_BAR = "#56B4E9"


def draw(survey: Survey, path: Path | str) -> Path:
    """Draw a survey into a `.png`, `.svg` or `.pdf` file: turns a conversation, and tokens a turn by role.

    Raises:
        InputError: the name ends in something else.
        MissingExtra: matplotlib is not installed.
    """
    path = Path(path)
    check_name(path)
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra(
            "drawing needs matplotlib", "Install it: pip install 'maieutic[report]'."
        ) from None
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _turns(left, survey)
    _lengths(right, survey)
    for panel in (left, right):
        panel.spines[["top", "right"]].set_visible(False)
    with full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # No date and no chance inside, so the same corpus gives the same file.
        dateless = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
        with rc_context({"svg.hashsalt": "maieutic"}):
            figure.savefig(path, dpi=200, metadata=dateless[path.suffix.lower()])
    return path


def check_name(path: Path) -> None:
    """Refuse a file name that no picture can be written under, before any work is done.

    Raises:
        InputError: it ends in something else than `FORMATS`.
    """
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{path}: no picture is written there", f"End the name in {', '.join(FORMATS)}.")


def _turns(panel: Any, survey: Survey) -> None:
    turns = np.asarray(survey.turns)
    # The few longest would squeeze the others into one bar.
    most = max(2, int(np.quantile(turns, 0.99)))
    panel.hist(
        np.minimum(turns, most),
        bins=np.arange(0.5, most + 1.5, max(1, most // 40)),
        color=_BAR,
        edgecolor="white",
    )
    median = float(np.median(turns))
    panel.axvline(median, color="black", linewidth=1, linestyle=":")
    panel.annotate(
        f"median {median:g}", (median, 0.98), xycoords=("data", "axes fraction"), xytext=(4, 0),
        textcoords="offset points", va="top", fontsize=9,
    )  # fmt: skip
    over = int((turns > most).sum())
    panel.set_xlabel("turns" + (f" ({over} of more than {most} in the last bar)" if over else ""))
    panel.set_ylabel("conversations")
    panel.set_title(f"{survey.conversations:,} conversations", fontsize=11)


def _lengths(panel: Any, survey: Survey) -> None:
    spoken = {
        role: np.maximum(1, np.asarray(survey.tokens[role])) for role in _LOOKS if len(survey.tokens[role])
    }
    if spoken:
        longest = max(int(lengths.max()) for lengths in spoken.values())
        bins = np.unique(np.geomspace(1, longest + 1, 40).round())
        bins = bins if len(bins) > 1 else np.array([0.5, 1.5])
        for role, lengths in spoken.items():
            colour, dash = _LOOKS[role]
            shares = np.histogram(lengths, bins)[0] / len(lengths)
            label = f"{role.value} (median {np.median(lengths):g})"
            panel.stairs(100 * shares, bins, color=colour, linestyle=dash, linewidth=1.8, label=label)
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        panel.legend(frameon=False, fontsize=9)
    panel.set_xlabel("tokens a turn" + ("" if survey.tokenizer else ", estimated"))
    panel.set_ylabel("% of the side's turns")
    panel.set_title("length by role", fontsize=11)
