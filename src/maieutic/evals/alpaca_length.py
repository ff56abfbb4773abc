"""AlpacaEval's length-controlled win rate, by its own package (Dubois et al. 2024, arXiv 2404.04475).

The rate is what a logistic model, fitted to these annotations and to those of two gamed baselines, predicts for equal
lengths. The fit is the package's; the baselines' file, which also holds how difficult each instruction is, must be
given, so that nothing is fetched while scoring.
"""

from __future__ import annotations

import csv
import importlib
from pathlib import Path
from typing import Any

from maieutic.core.errors import InputError, MissingExtra, MissingInput
from maieutic.evals.files import read_table

_FETCH = "Fetch it once: hf download tatsu-lab/alpaca_eval df_gamed.csv --repo-type dataset --local-dir ."
_COLUMNS = {"model", "index", "preference", "std_delta_len", "instruction_difficulty", "not_gamed_baseline"}


def length_controlled(annotations: Path, gamed: Path) -> dict[str, float]:
    """`length_controlled_winrate` and `lc_standard_error`, in per cent.

    Args:
        annotations: AlpacaEval's annotations.json of one model against the standard reference, all instructions of
            the set in its order (the difficulties are told by place).
        gamed: df_gamed.csv of the data set tatsu-lab/alpaca_eval.

    Raises:
        MissingExtra: the package is not installed.
        MissingInput, InputError: a file is absent, or is not what it should be.
    """
    rows = read_table(annotations).rows
    if (size := _instructions(gamed)) != len(rows):
        raise InputError(
            f"{annotations}: {len(rows)} annotations for the {size} instructions of {gamed.name}",
            "The length-controlled rate needs the whole set, in its order.",
        )
    models = {str(row.get("generator_2")) for row in rows}
    if len(models) > 1:
        raise InputError(f"{annotations} holds {len(models)} models", "Give the annotations of one.")
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
    package.hf_hub_download = lambda **_: str(gamed)  # the package knows no other way to be given the file
    try:
        metrics = package.get_length_controlled_winrate(
            frame, save_weights_dir=None, is_add_glm_preference_inplace=False
        )
    finally:
        package.hf_hub_download = fetch
    return {name: float(metrics[name]) for name in ("length_controlled_winrate", "lc_standard_error")}


def _instructions(gamed: Path) -> int:
    """How many instructions the baselines' file knows."""
    if not gamed.is_file():
        raise MissingInput(f"{gamed}: no such file; it holds the difficulty of each instruction", _FETCH)
    with gamed.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if missing := _COLUMNS - set(reader.fieldnames or ()):
            raise InputError(f"{gamed}: no column {', '.join(sorted(missing))}", _FETCH)
        return len({row["index"] for row in reader})
