"""AlpacaEval's win rates from its `annotations.json` (github.com/tatsu-lab/alpaca_eval; Dubois et al. 2023, 2024).

`output_1` is the reference's, `output_2` the model's. A preference of 1 is for the reference, 2 for the model. 0 is
the old form of a draw and becomes 1.5; null and values outside [1, 2] are dropped and counted. With x = preference - 1
the win rate is 100 · mean(x) and its standard error 100 · sd(n - 1)/√n. Weighted annotators write preferences between
1 and 2; the discrete win rate rounds each x (a draw stays .5).

The length-controlled win rate (Dubois et al. 2024, arXiv 2404.04475) is computed by AlpacaEval's own package: a
logistic model, fitted to the annotations and to those of two gamed baselines, predicts the rate for equal lengths. The
baselines' file also holds each instruction's difficulty. It must be given, so that scoring fetches nothing.
"""

from __future__ import annotations

import csv
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from maieutic.core import statistics as stats
from maieutic.core.errors import InputError, MissingExtra, MissingInput
from maieutic.evals.files import Row, read_table
from maieutic.evals.mt_bench import parse_decimal, with_reasons

_FETCH = "Fetch it once: hf download tatsu-lab/alpaca_eval df_gamed.csv --repo-type dataset --local-dir ."
_COLUMNS = {"model", "index", "preference", "std_delta_len", "instruction_difficulty", "not_gamed_baseline"}


class Annotation(NamedTuple):
    """One comparison; `win` is null where the preference is dropped."""

    instruction: str
    win: float | None
    """0 the reference, 1 the model, .5 a draw."""
    output: str | None
    """The model's."""
    generator: str | None


def read_annotations(
    rows: Sequence[Row], path: object = "the file", notes: list[str] | None = None
) -> list[Annotation]:
    """Read AlpacaEval's annotations; a row without an instruction counts as its own unit, with a note.

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
        notes.append(f"{path}: {bare} rows without an instruction; each counts as its own unit")
    return [_annotation(row, f"{path}, row {place}") for place, row in enumerate(rows, 1)]


def _annotation(row: Row, place: str) -> Annotation:
    preference = parse_decimal(row.get("preference"))
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
    """The nearer of 0 and 1; a draw stays .5."""
    return win if win == 0.5 else float(win > 0.5)


def score_file(path: Path | str) -> dict[str, Any]:
    """The published numbers of an annotations file.

    Returns:
        `win_rate`, `standard_error` and `discrete_win_rate` in per cent, `wins`, `losses`, `draws`, `n`, `dropped`,
        `avg_length` (mean characters of the model's outputs, truncated to a whole number as AlpacaEval prints it),
        `avg_length_exact` (over `avg_length_n` outputs), the intervals with `_ci`, `reasons` (why a value is null, by
        name), and `notes`.
    """
    rows, notes = read_table(path)
    items = read_annotations(rows, path, notes)
    models = sorted({item.generator for item in items if item.generator})
    if len(models) > 1:
        notes = [*notes, f"{len(models)} models in one file are pooled: {', '.join(models[:5])}"]
    return {**score_annotations(items), "notes": notes}


def score_annotations(items: Sequence[Annotation]) -> dict[str, Any]:
    """`score_file` of annotations that were read."""
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
        **with_reasons("win_rate", whole, reasons),
        "standard_error": None if error is None else 100 * error,
        **with_reasons("discrete_win_rate", rounded, reasons),
        "wins": sum(win > 0.5 for win in wins),
        "losses": sum(win < 0.5 for win in wins),
        "draws": sum(win == 0.5 for win in wins),
        "n": len(wins),
        "dropped": len(items) - len(wins),
        **with_reasons("avg_length", length, reasons),
        "avg_length": None if length.value is None else int(length.value),
        "avg_length_exact": length.value,
        "avg_length_n": len(outputs),
        "reasons": reasons,
    }


def length_controlled(annotations: Path, gamed: Path) -> dict[str, float]:
    """`length_controlled_winrate` and `lc_standard_error`, in per cent.

    Args:
        annotations: AlpacaEval's annotations.json of one model against the standard reference, all instructions of
            the set in its order (the file of difficulties has no other key).
        gamed: df_gamed.csv of the data set tatsu-lab/alpaca_eval.

    Raises:
        MissingExtra: the package is not installed.
        MissingInput, InputError: a file does not exist or has another form.
    """
    rows = read_table(annotations).rows
    if (size := _instructions(gamed)) != len(rows):
        raise InputError(
            f"{annotations}: {len(rows)} annotations for the {size} instructions of {gamed.name}",
            "The length-controlled rate needs the whole set, in its order.",
        )
    models = {str(row.get("generator_2")) for row in rows}
    if len(models) > 1:
        raise InputError(f"{annotations} holds {len(models)} models", "Give the annotations of one model.")
    try:
        pandas: Any = importlib.import_module("pandas")
        package: Any = importlib.import_module("alpaca_eval.metrics.glm_winrate")
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"the length-controlled rate needs {error.name}, which is not installed",
            "Run: python -m pip install 'maieutic[alpaca]'",
        ) from None
    keys = ("instruction", "output_1", "output_2", "preference", "generator_1", "generator_2")
    frame = pandas.DataFrame([{key: row.get(key) for key in keys} for row in rows])
    fetch = package.hf_hub_download
    package.hf_hub_download = lambda **_: str(gamed)  # the package has no parameter for the file
    try:
        metrics = package.get_length_controlled_winrate(
            frame, save_weights_dir=None, is_add_glm_preference_inplace=False
        )
    finally:
        package.hf_hub_download = fetch
    return {name: float(metrics[name]) for name in ("length_controlled_winrate", "lc_standard_error")}


def _instructions(gamed: Path) -> int:
    """The number of instructions in the baselines' file."""
    if not gamed.is_file():
        raise MissingInput(f"{gamed}: no such file; it holds the difficulty of each instruction", _FETCH)
    with gamed.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if missing := _COLUMNS - set(reader.fieldnames or ()):
            raise InputError(f"{gamed}: no column {', '.join(sorted(missing))}", _FETCH)
        return len({row["index"] for row in reader})
