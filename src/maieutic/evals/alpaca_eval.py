"""AlpacaEval from its own `annotations.json` (github.com/tatsu-lab/alpaca_eval; Dubois et al. 2023, 2024).

`output_1` is the reference's, `output_2` the model's. A preference of 1 is for the reference, 2 for the model; 0 is
the old form of a draw and becomes 1.5; null or outside [1, 2] is dropped and counted. With x = preference - 1 the
win rate is 100 · mean(x) and its standard error 100 · sd(n - 1)/√n. Weighted annotators write preferences between
1 and 2; the discrete win rate rounds each x (a draw stays .5).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from maieutic.core import statistics as stats
from maieutic.core.errors import InputError
from maieutic.evals.files import Row, read_table
from maieutic.evals.mt_bench import decimal, named


class Annotation(NamedTuple):
    """One comparison; `win` is null where the preference was dropped."""

    instruction: str
    win: float | None
    """0 the reference, 1 the model, .5 a draw."""
    output: str | None
    """The model's."""
    generator: str | None


def read_annotations(
    rows: Sequence[Row], path: object = "the file", notes: list[str] | None = None
) -> list[Annotation]:
    """AlpacaEval's annotations; a row without an instruction is a unit of its own, and counted in a note.

    Raises:
        InputError: no row has a preference.
    """
    if not any("preference" in row for row in rows):
        raise InputError(
            f"{path}: no row has a `preference` (rows hold {', '.join(sorted(rows[0])[:8])})",
            "Give AlpacaEval's annotations.json.",
        )
    bare = sum(row.get("instruction") in (None, "") for row in rows)
    if bare and notes is not None:
        notes.append(f"{path}: {bare} rows without an instruction; each is taken as a unit of its own")
    return [_annotation(row, f"{path}, row {place}") for place, row in enumerate(rows, 1)]


def _annotation(row: Row, place: str) -> Annotation:
    preference = decimal(row.get("preference"))
    preference = 1.5 if preference == 0 else preference
    known = preference is not None and 1 <= preference <= 2
    output, generator = row.get("output_2"), row.get("generator_2")
    return Annotation(
        place if row.get("instruction") in (None, "") else str(row["instruction"]),
        preference - 1 if known and preference is not None else None,
        output if isinstance(output, str) else None,
        generator if isinstance(generator, str) else None,
    )


def discrete(win: float) -> float:
    """A draw stays .5; everything else goes to the nearer side."""
    return win if win == 0.5 else float(win > 0.5)


def score(path: Path | str) -> dict[str, Any]:
    """Read annotations and give the published numbers.

    Returns:
        `win_rate`, `standard_error` and `discrete_win_rate` in per cent, `wins`, `losses`, `draws`, `n`, `dropped`,
        `avg_length` (mean characters of the model's outputs, cut to a whole number as AlpacaEval prints it;
        `avg_length_exact` beside it, from `avg_length_n` outputs), the intervals with `_ci`, `reasons` of what is
        null, by its name, and `notes`.
    """
    rows, notes = read_table(path)
    items = read_annotations(rows, path, notes)
    models = sorted({item.generator for item in items if item.generator})
    if len(models) > 1:
        notes = [*notes, f"{len(models)} models in one file are pooled: {', '.join(models[:5])}"]
    return {**score_annotations(items), "notes": notes}


def score_annotations(items: Sequence[Annotation]) -> dict[str, Any]:
    """`score` on annotations already read."""
    known = [item for item in items if item.win is not None]
    wins = [item.win for item in known if item.win is not None]
    instructions = [item.instruction for item in known]
    whole = stats.mean([100 * win for win in wins], instructions)
    rounded = stats.mean([100 * discrete(win) for win in wins], instructions)
    error = stats.standard_error(wins)
    outputs = [item for item in items if item.output is not None]
    length = stats.mean([len(item.output or "") for item in outputs], [item.instruction for item in outputs])
    if not wins:
        whole = rounded = stats.undefined("no preference in [1, 2]")
    reasons: dict[str, str] = {}
    if whole.reason:
        reasons["win_rate"] = whole.reason
    if error is None:
        reasons["standard_error"] = "fewer than two preferences"
    if length.value is None:
        length = stats.undefined("no row has an `output_2`")
        reasons["avg_length_exact"] = "no row has an `output_2`"
    return {
        **named("win_rate", whole, reasons),
        "standard_error": None if error is None else 100 * error,
        **named("discrete_win_rate", rounded, reasons),
        "wins": sum(win > 0.5 for win in wins),
        "losses": sum(win < 0.5 for win in wins),
        "draws": sum(win == 0.5 for win in wins),
        "n": len(wins),
        "dropped": len(items) - len(wins),
        **named("avg_length", length, reasons),
        "avg_length": None if length.value is None else int(length.value),
        "avg_length_exact": length.value,
        "avg_length_n": len(outputs),
        "reasons": reasons,
    }
