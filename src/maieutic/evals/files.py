"""Read result files of any origin: a JSON list, JSONL, or a step's folder, as a list of objects.

A broken line of a JSONL file is reported in `notes` and the rest is kept; a command prints `notes` on standard error.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from maieutic.core import store
from maieutic.core.errors import EmptyCorpus, InputError, MissingInput
from maieutic.core.messages import utf8

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
        rows, notes = Table(list(store.stage_rows(path)), [])
    elif path.is_file():
        rows, notes = _parse(path)
    else:
        raise MissingInput(f"{path}: no such file", "Check the path.")
    if not rows:
        raise EmptyCorpus(f"{path}: has no rows", "Give a file with at least one row.")
    return Table(rows, notes)


def _parse(path: Path) -> Table:
    data = path.read_bytes().removeprefix(b"\xef\xbb\xbf").strip()
    if not data:
        return Table([], [])
    try:
        value = loads(data)
    except ValueError as error:
        if data[:1] == b"[":
            raise InputError(
                f"{path}: not JSON ({error})", "Give a JSON list of objects, or JSONL."
            ) from None
        return _parse_lines(path, data)
    values = value if isinstance(value, list) else [value]
    rows = [row for row in values if isinstance(row, dict)]
    if values and not rows:
        raise InputError(f"{path}: its items are not JSON objects", "Give a JSON list of objects, or JSONL.")
    skipped = len(values) - len(rows)
    return Table(rows, [f"{path}: {skipped} items are not JSON objects and were left out"] if skipped else [])


def _parse_lines(path: Path, data: bytes) -> Table:
    rows: list[Row] = []
    broken: list[int] = []
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            broken.append(number)
    if not rows:
        raise InputError(f"{path}: no line is a JSON object", "Give a JSON list of objects, or JSONL.")
    where = ", ".join(map(str, broken[:5])) + ("…" if len(broken) > 5 else "")
    return Table(rows, [f"{path}: {len(broken)} broken lines left out (line {where})"] if broken else [])


def loads(data: bytes) -> Any:
    """JSON, including the NaN, Infinity and lone surrogates that Python's writer may leave in a file.

    Lone surrogates become U+FFFD.

    Raises:
        ValueError: it is not JSON, or is nested too deeply.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    try:
        return _clean(json.loads(data))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return utf8(value)
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {utf8(key): _clean(item) for key, item in value.items()}
    return value


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
