"""Read rows of tables: CSV with a header, and Parquet.

A CSV cell is text. A list or an object that is written into a cell as JSON (`messages`, `meta`) is parsed. No cell is
evaluated as Python: a printed Python list is not JSON, and its row is reported as broken.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from maieutic.core.errors import InputError, MissingExtra
from maieutic.core.json_rows import BadRows, Placed, from_table, parse_json
from maieutic.core.messages import utf8

LISTS = ("messages", "turns", "conversations", "conversation", "items", "data")
"""Columns that may contain messages. In a text column they are a JSON list."""
_OBJECTS = ("meta", "problem")
_OPTIONAL = ("id", "intent", "profile", "user_id", "source", "licence", "license", "category", "ended")
_BOOLEANS = ("true", "false")
_FIELD = 1 << 28
"""A longer cell counts as a quotation without a closing mark."""
_SEPARATORS = ",;\t|"
_NAMES = frozenset(
    (*LISTS, *_OBJECTS, *_OPTIONAL, "statement", "question", "answer", "solution", "attempt", "misconception",
     "instruction", "input", "output", "context", "response", "prompt", "text")
)  # fmt: skip
"""Columns that the formats read; letter case is ignored (`Problem`)."""
_BATCH = 64
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def csv_rows(path: Path, file: BinaryIO, bad: BadRows) -> Iterator[Placed]:
    """The rows of a CSV file as objects by column name; the header decides the separator (comma, semicolon, tab, bar).

    Accepts the output of spreadsheets: a `sep=;` line before the header, unnamed columns, rows with only separators.
    """
    csv.field_size_limit(max(csv.field_size_limit(), _FIELD))
    whole = io.BufferedReader(file)  # type: ignore[type-var]
    encoding = "utf-16" if whole.peek(2)[:2] in _UTF_16 else "utf-8-sig"
    with io.TextIOWrapper(whole, encoding=encoding, errors="surrogateescape", newline="") as text:
        first, line = next(iter(text), ""), 1
        marked = re.fullmatch(r"sep=(.)\s*", first, re.IGNORECASE)
        if marked:
            first, line = next(iter(text), ""), 2
        separator = marked[1] if marked else max(_SEPARATORS, key=first.count)
        names = _header(first, separator)
        if not names:
            bad.add(f"{path}:{line}", "the first line is not a header: it must name the columns, each once")
            return
        reader = csv.reader(text, delimiter=separator, strict=True)
        while True:
            at = f"{path}:{reader.line_num + line + 1}"  # after the header and the lines read so far
            try:
                cells = next(reader)
                if any(cells):
                    yield Placed(at, _row(names, cells))
            except StopIteration:
                return
            except csv.Error as error:
                bad.add(at, f"broken CSV ({_said(error)})")
            except InputError:
                raise
            except ValueError as error:
                bad.add(at, str(error))


def _header(first: str, separator: str) -> list[str]:
    """The names of the columns; empty if the line is not a header."""
    try:
        names = [
            utf8(name.strip()) for name in next(csv.reader([first], delimiter=separator, strict=True), [])
        ]
    except csv.Error:
        names = []
    while names and not names[-1]:
        names.pop()
    names = [low if (low := name.lower()) in _NAMES and low not in names else name for name in names]
    return names if len(set(names)) == len(names) else []


def _said(error: csv.Error) -> str:
    said = str(error)
    if "end of data" in said:
        return "a quote is never closed; the rest of the file cannot be read"
    return said


def _row(names: list[str], cells: list[str]) -> dict[str, Any]:
    if len(cells) < len(names) or any(cells[len(names) :]):
        raise ValueError(f"broken CSV ({len(cells)} cells under {len(names)} names)")
    row: dict[str, Any] = {}
    for name, cell in zip(names, cells, strict=False):  # further cells are empty
        if not cell and name in (*_OPTIONAL, *_OBJECTS, *LISTS):
            continue
        try:
            cell.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"not UTF-8 (column {name[:40]}); a spreadsheet has “CSV UTF-8” to save it as"
            ) from None
        row[name] = cell.lower() == "true" if name == "ended" and cell.lower() in _BOOLEANS else cell
    return nested(row)


def nested(row: dict[str, Any]) -> dict[str, Any]:
    """The row, with JSON lists and objects in its text cells parsed.

    Raises:
        ValueError: a cell with messages begins like a list and is not JSON.
    """
    for name in (*LISTS, *_OBJECTS):
        cell = row.get(name)
        if isinstance(cell, str) and cell.lstrip()[:1] in ("[", "{"):
            try:
                row[name] = parse_json(cell.encode())
            except ValueError as error:
                if name in ("messages", "conversations"):
                    raise ValueError(f"{name}: {error}; a cell of messages is a JSON list") from None
        elif name in LISTS and isinstance(cell, dict):
            row[name] = _turned(cell)
    return row


def _turned(columns: dict[str, Any]) -> Any:
    """Convert an object of lists, as a table stores it, to a list of objects."""
    lists = list(columns.values())
    if not lists or not all(isinstance(one, list) and len(one) == len(lists[0]) for one in lists):
        return columns
    return [dict(zip(columns, turn, strict=True)) for turn in zip(*lists, strict=True)]


def parquet_rows(path: Path, bad: BadRows) -> Iterator[Placed]:
    """The rows of a Parquet file as objects; times become ISO text, and nulls are left out.

    Raises:
        MissingExtra: pyarrow is not installed.
        InputError: the file may not be read.
    """
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtra(
            f"{path}: reading Parquet needs pyarrow", "Install it: pip install 'maieutic[train]'."
        ) from None
    number = 0
    try:
        # With a buffer, a column of a large row group is read piece by piece and not at once.
        with parquet.ParquetFile(path, buffer_size=1 << 20) as file:
            for batch in file.iter_batches(batch_size=_BATCH, use_threads=False):
                for value in _values(batch):
                    number += 1
                    yield from table_row(f"{path}, row {number}", value, bad)
    except PermissionError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})", "Check the file.") from None
    except (arrow.ArrowException, OSError) as error:  # broken pages come as OSError
        said = " ".join(str(error).split())[:80]
        if number:
            bad.add(
                f"{path}, row {number + 1}",
                f"the Parquet file is damaged ({said}); the rows before that were read",
            )
        else:
            bad.add(str(path), f"not a Parquet file, or a damaged one ({said})")


def _values(batch: Any) -> Iterator[Any]:
    """The rows of a batch as Python values, or an error in place of a broken row."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for place in range(batch.num_rows):
            try:
                yield from batch.slice(place, 1).to_pylist()
            except UnicodeDecodeError as error:
                yield ValueError(f"not UTF-8 ({error.reason})")


def table_row(where: str, value: dict[str, Any] | ValueError, bad: BadRows) -> Iterator[Placed]:
    """One row of a typed table; no row if a cell or the whole row is broken."""
    try:
        if isinstance(value, ValueError):
            raise value
        yield Placed(where, nested(from_table(value)))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        bad.add(where, str(error))
