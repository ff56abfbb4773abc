"""Read result files of any origin: a JSON list, JSONL, or a step's folder, as a list of objects.

A broken line of a JSONL file is reported in `notes`, which a command prints on standard error, and the rest is kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from maieutic.core.errors import EmptyCorpus, InputError, MissingInput
from maieutic.core.json_rows import BadRows
from maieutic.core.reading import read_rows
from maieutic.core.store import stage_rows

Row = dict[str, Any]


class Table(NamedTuple):
    """Rows of a file, and notes on how it was read."""

    rows: list[Row]
    notes: list[str]


def read_table(path: Path | str) -> Table:
    """The objects of a JSON list, a JSONL file or a step's folder, in order.

    Raises:
        MissingInput: there is no such file.
        InputError: it has no JSON objects.
        EmptyCorpus: it has no rows.
    """
    path = Path(path)
    if path.is_dir():
        rows, bad = list(stage_rows(path)), BadRows()
    elif path.is_file():
        rows, bad = [], BadRows(strict=path.suffix == ".json")
        for row in read_rows(path, bad):
            if isinstance(row.value, dict):
                rows.append(row.value)
            else:
                bad.add(row.where, "not a JSON object")
    else:
        raise MissingInput(f"{path}: no such file", "Check the path.")
    if bad.count and not rows:
        raise InputError(
            f"{path}: no JSON object ({bad.summary(1)})", "Give a JSON list of objects, or JSONL."
        )
    if not rows:
        raise EmptyCorpus(f"{path}: has no rows", "Give a file with at least one row.")
    return Table(rows, [bad.summary()] if bad.count else [])


_LARGEST = 1e15
"""Larger numbers are not ratings; sums and squares of smaller ones stay finite."""


def parse_number(value: Any) -> float | None:
    """A number up to ±1e15 from a JSON value (numeric strings too), else null; true and false are not numbers."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        result = float(value)
    except (ValueError, OverflowError):
        return None
    return result if abs(result) <= _LARGEST else None


_YES = {"yes", "true", "y", "1", "1.0"}
_NO = {"no", "false", "n", "0", "0.0"}


def parse_yes_no(value: Any) -> float | None:
    """1 or 0 from a yes or no as judges write them (`"Yes."`, true, 1), null where it is unclear."""
    if not isinstance(value, (bool, int, float, str)):
        return None
    word = str(value).strip().strip(".!\"'* ").lower()
    return 1.0 if word in _YES else 0.0 if word in _NO else None
