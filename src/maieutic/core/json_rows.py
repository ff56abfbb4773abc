"""JSON values with their file and line, and the report of broken rows. Every value can be written as JSON again."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from maieutic.core.errors import InputError
from maieutic.core.messages import utf8

NAMED = 1000
"""This many broken rows are named; all further broken rows are only counted."""
DEEP = "JSON nested too deeply"
_DEPTH = 200
_TEXTS = ("content", "value", "text")
"""Keys that are kept when null: a message whose text is null is an empty message, not a message without text."""


class Placed(NamedTuple):
    """A JSON value, and its place: `file:line`, or `file, item N` in a JSON list."""

    where: str
    value: Any


class BadRows:
    """The rows that could not be read: their number, places and reasons.

    Args:
        strict: raise at the first broken row.
    """

    def __init__(self, strict: bool = False) -> None:
        self.strict = strict
        self.count = 0
        self.rows: list[dict[str, str]] = []

    def add(self, where: str, reason: str) -> None:
        """Report a broken row.

        Raises:
            InputError: the report is strict.
        """
        if self.strict:
            raise InputError(
                f"{where}: {reason}", "Repair or remove the row, or run without --strict to skip it."
            )
        self.count += 1
        if len(self.rows) < NAMED:
            self.rows.append({"where": where, "reason": reason})

    def summary(self, shown: int = 5) -> str:
        """The count and the first few rows, in one line."""
        return summarize(self.count, self.rows, shown)

    def json(self) -> dict[str, Any]:
        """`{"count", "rows": [{"where", "reason"}, ...]}`."""
        return {"count": self.count, "rows": self.rows}


def summarize(count: int, rows: Sequence[Mapping[str, str]], shown: int = 5) -> str:
    """How many rows are broken, and the first few, in one line."""
    named = "; ".join(f"{row['where']}: {row['reason']}" for row in rows[:shown])
    more = f"; and {count - shown} more" if count > shown else ""
    return f"{count} broken {'row' if count == 1 else 'rows'} skipped: {named}{more}"


def parse_json(text: bytes) -> Any:
    """One JSON value, in a form that can be written back.

    orjson parses the text if it can; integers beyond 64 bits become floats. If only Python's parser accepts the text,
    lone surrogates become U+FFFD, NaN and infinity become null, and integers beyond 64 bits become strings.

    Raises:
        ValueError: the text is not JSON; the message is short and quotes no text.
    """
    try:
        return check_depth(orjson.loads(text), text.count(b"[") + text.count(b"{"))
    except orjson.JSONDecodeError:
        pass
    try:
        decoded = text.decode()
        return check_depth(json_safe(json.loads(decoded)), decoded.count("[") + decoded.count("{"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start + 1})") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"broken JSON ({error.msg}, column {error.colno})") from None
    except RecursionError:
        raise ValueError(DEEP) from None


def check_depth(value: Any, brackets: int) -> Any:
    """The value unchanged; raises ValueError if it is nested too deeply to be written again."""
    if brackets > _DEPTH:
        level, depth = [value], 0
        while level:
            level = [
                item
                for node in level
                if isinstance(node, (dict, list))
                for item in (node.values() if isinstance(node, dict) else node)
            ]
            depth += 1
            if depth > _DEPTH:
                raise ValueError(DEEP)
    return value


def json_safe(value: Any) -> Any:
    """The value with replacements for everything that a UTF-8 JSON file cannot contain."""
    if isinstance(value, str):
        return utf8(value)
    if isinstance(value, dict):
        return {
            utf8(key) if isinstance(key, str) else str(key): json_safe(item) for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [json_safe(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return str(value)
    return value


def from_table(value: Any) -> Any:
    """A value of a table as JSON: times as ISO text, bytes as their count, other objects as text.

    Nulls inside an object are left out, since in a table every row has every field.
    """
    if value is None or isinstance(value, str):
        return value  # a table's text is always valid UTF-8
    if isinstance(value, dict):
        return {
            str(key): from_table(item) for key, item in value.items() if item is not None or key in _TEXTS
        }
    if isinstance(value, (list, tuple)):
        return [from_table(item) for item in value]
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (bytes, bytearray)):
        return f"({len(value)} bytes)"
    return json_safe(value) if isinstance(value, (int, float)) else str(value)
