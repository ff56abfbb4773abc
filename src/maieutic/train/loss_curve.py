"""The learning curve of a run as a figure, from its rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maieutic.core.console import note
from maieutic.core.store import Stage, full_disk

_TRAIN, _HELD_OUT, _END = "#56B4E9", "#D55E00", "#009E73"
"""Okabe and Ito's blue, vermilion and green; markers and dashes tell them apart too."""
_STYLE = {
    "svg.hashsalt": "maieutic",
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def draw_curve(stage: Stage, best: int | None) -> Path | None:
    """Draw the loss, and what was measured on held-out people, into `learning.svg` in the run's folder.

    Args:
        stage: of the run.
        best: the step that became the model, marked.

    Returns:
        The file, or null where matplotlib is not installed, which is said.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError:
        note("no learning curve: matplotlib is not installed (pip install 'maieutic[report]')")
        return None
    rows = list(stage.rows.rows())
    path = stage.folder / "learning.svg"
    with rc_context(_STYLE), full_disk(path):
        figure = Figure(figsize=(7, 3.6), layout="constrained")
        FigureCanvasSVG(figure)
        _paint(figure, rows, best)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    return path


def _paint(figure: Any, rows: Sequence[dict[str, Any]], best: int | None) -> None:
    axes = figure.add_subplot()
    axes.plot(*_points(rows, "loss"), color=_TRAIN, linewidth=1, label="loss in training")
    held_out = _points(rows, "eval_loss")
    if held_out[0]:
        axes.plot(*held_out, color=_HELD_OUT, marker="o", label="held-out loss")
    if best is not None:
        axes.axvline(best, color="black", linewidth=1, linestyle=":", label="kept as the model")
    axes.set_xlabel("step")
    axes.set_ylabel("loss a token")
    lines, labels = axes.get_legend_handles_labels()
    ends = _points(rows, "eval_end_f1")
    if ends[0]:
        right = axes.twinx()
        lines += right.plot(*ends, color=_END, marker="s", linestyle="--")
        labels.append("F1 of the ending")
        right.set_ylim(0, 1)
        right.set_ylabel("F1 of the ending")
        right.spines["right"].set_visible(True)
    figure.legend(lines, labels, loc="outside upper center", ncols=len(lines), frameon=False, fontsize=9)


def _points(rows: Sequence[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    found = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    return [step for step, _ in found], [value for _, value in found]
