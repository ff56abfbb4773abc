"""Stream rows from files or folders: JSON lines, one JSON list, CSV, Parquet and tagged text.

A broken row does not stop the reading. The row is skipped, counted, and named by file and line in a `BadRows` report.
"""

from __future__ import annotations

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, cast

import orjson

from maieutic.core.errors import InputError, MissingInput
from maieutic.core.json_rows import DEEP, BadRows, Placed, check_depth, json_safe, parse_json
from maieutic.core.tables import csv_rows, parquet_rows

SUFFIXES = (".json", ".jsonl", ".ndjson", ".txt", ".csv", ".tsv", ".parquet")
"""Suffixes of readable files; all but Parquet may be followed by `.gz`."""
_CHUNK = 1 << 20
_NUMBER = re.compile(r"[-+.\deE]*")
"""Characters that may continue a number at the end of the buffer."""
_SPACE = re.compile(r"[ \t\n\r]*")


def files_in(source: Path) -> list[Path]:
    """The files of a source: the file itself, a step's `rows.jsonl`, or every readable file below a folder.

    Raises:
        MissingInput: there is no such file, or no readable file in the folder.
    """
    if source.is_file() or source.is_fifo():
        return [source]
    if not source.is_dir():
        raise MissingInput(f"{source}: no such file or folder", "Check the path.")
    if (source / "rows.jsonl").is_file():
        if not (source / "rows.jsonl").stat().st_size:
            raise without_rows(source)
        return [source / "rows.jsonl"]
    inside = (path for path in sorted(source.rglob("*")) if path.is_file())
    found = [path for path in inside if _kind(path) and not _hidden(path.relative_to(source))]
    if not found:
        raise MissingInput(
            f"{source}: no file to read in this folder",
            f"It should hold {', '.join(SUFFIXES)} files (or .gz).",
        )
    return found


def without_rows(folder: Path) -> MissingInput:
    """The error for a folder that is given as a corpus and has no rows."""
    inside = (path for path in sorted(folder.iterdir()) if path.is_file() and path.name != "rows.jsonl")
    named = [path.name for path in inside if _kind(path) not in ("", ".json", ".txt")][:5]
    return MissingInput(
        f"{folder}: not a corpus: the folder has no rows.jsonl, or an empty one",
        f"Name one of its files: {', '.join(named)}."
        if named
        else "Name a corpus file, or import the folder's files with `maieutic import`.",
    )


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _kind(path: Path) -> str:
    suffixes = path.suffixes[:-1] if path.suffix.lower() == ".gz" else path.suffixes
    return suffixes[-1].lower() if suffixes and suffixes[-1].lower() in SUFFIXES else ""


def read_rows(path: Path, bad: BadRows) -> Iterator[Placed]:
    """The values of one file, streaming. A row of a table is an object; a tagged text file (`.txt`) is one string.

    Raises:
        MissingInput: there is no such file.
        InputError: the file cannot be read at all, or a row is broken and `bad` is strict.
    """
    if not (path.is_file() or path.is_fifo()):
        raise MissingInput(f"{path}: no such file", "Check the path.")
    if _kind(path) == ".parquet":
        yield from parquet_rows(path, bad)
        return
    try:
        with _open(path) as file:
            if _kind(path) in (".csv", ".tsv"):
                yield from csv_rows(path, file, bad)
            else:
                yield from _text_rows(path, file, bad)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        bad.add(str(path), f"the gzip stream is damaged ({error}); the rows before that were read")
    except OSError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read ({error.strerror or error})", "Check the file.") from None


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix.lower() == ".gz" else path.open("rb")


def _text_rows(path: Path, file: BinaryIO, bad: BadRows) -> Iterator[Placed]:
    first, number = file.readline(_CHUNK).removeprefix(codecs.BOM_UTF8), 1
    while first.isspace():
        first, number = file.readline(_CHUNK), number + 1
    if not first:
        return
    if _kind(path) == ".txt":
        yield Placed(str(path), (first + file.read()).decode(errors="replace"))
        return
    is_list, is_lines = first.lstrip()[:1] == b"[", _kind(path) in (".jsonl", ".ndjson")
    if is_list and not is_lines:
        yield from _list_items(path, first, file, bad)
        return
    first += b"" if first.endswith(b"\n") else file.readline()
    if is_list and not _is_json(first):
        yield from _list_items(path, first, file, bad)
    elif first.lstrip()[:1] == b"{" and not is_lines and not _is_json(first):
        yield from _whole(path, first + file.read(), bad)
    else:
        yield from _lines(path, first, number, file, bad)


def _lines(path: Path, first: bytes, number: int, file: BinaryIO, bad: BadRows) -> Iterator[Placed]:
    for at, line in enumerate(chain((first,), file), number):
        if not line.isspace():
            yield from _value(f"{path}:{at}", line, bad)


def _whole(path: Path, text: bytes, bad: BadRows) -> Iterator[Placed]:
    """Read a `.json` file whose first line is not a JSON value: one object over several lines, or broken JSON lines."""
    if _is_json(text):
        yield from _value(str(path), text, bad)
        return
    for number, line in enumerate(text.split(b"\n"), 1):
        if line and not line.isspace():
            yield from _value(f"{path}:{number}", line, bad)


def _value(where: str, text: bytes, bad: BadRows) -> Iterator[Placed]:
    try:
        yield Placed(where, parse_json(text))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        bad.add(where, str(error))


def _is_json(text: bytes) -> bool:
    try:
        parse_json(text)
    except ValueError:
        return False
    return True


def _list_items(path: Path, first: bytes, file: BinaryIO, bad: BadRows) -> Iterator[Placed]:
    """Read the items of one JSON list piece by piece; after a broken item the rest of the list is skipped."""
    number = 0
    try:
        for number, value in enumerate(_items(first, file), 1):
            yield Placed(f"{path}, item {number}", value)
    except UnicodeDecodeError:
        bad.add(f"{path}, item {number + 1}", "not UTF-8; the rest of the list cannot be read")
    except RecursionError:
        bad.add(f"{path}, item {number + 1}", f"{DEEP}; the rest of the list cannot be read")
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        bad.add(f"{path}, item {number + 1}", f"{error}; the rest of the list cannot be read")


def _items(first: bytes, file: BinaryIO) -> Iterator[Any]:
    decoder, decode = json.JSONDecoder(), codecs.getincrementaldecoder("utf-8")().decode
    buffer, at, size, ended = decode(first).lstrip(), 1, _CHUNK, False
    while True:
        at = _skip(buffer, at)
        if buffer.startswith("]", at):
            return
        found = _complete(decoder, buffer, at, ended)
        if found is None:
            piece = file.read(size)
            ended, size = not piece, size * 2
            buffer, at = buffer[at:] + decode(piece, not piece), 0
            continue
        value, end, next_at = found
        size = _CHUNK
        try:  # the same parser as for lines, much faster than checking every value
            yield orjson.loads(buffer[at:end])
        except orjson.JSONDecodeError:
            yield json_safe(value)
        at = next_at


def _skip(buffer: str, at: int) -> int:
    match = _SPACE.match(buffer, at)
    return match.end() if match else at


def _complete(decoder: json.JSONDecoder, buffer: str, at: int, ended: bool) -> tuple[Any, int, int] | None:
    """The value at `at`, its end, and the start of the next value; None if the value may continue after the buffer."""
    try:
        value, end = decoder.raw_decode(buffer, at)
    except json.JSONDecodeError as error:
        if ended:
            raise ValueError(
                f"broken JSON ({error.msg})" if at < len(buffer) else "the list is never closed"
            ) from None
        return None
    behind = _skip(buffer, end)
    if behind == len(buffer) and ended:
        raise ValueError("the list is never closed")
    if behind == len(buffer) or (not ended and _NUMBER.fullmatch(buffer, end)):
        return None
    if buffer[behind] not in ",]":
        raise ValueError("broken JSON (no comma after the item)")
    check_depth(value, buffer.count("[", at, end) + buffer.count("{", at, end))
    return value, end, behind + (buffer[behind] == ",")
