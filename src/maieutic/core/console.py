"""Printing: results on standard output, as text or with `--json` as one JSON document; notes on standard error.

Texts by people and models are never interpreted: control characters are printed as visible symbols, and rich markup is
printed as it is.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

out = Console(highlight=False, markup=False)
err = Console(stderr=True, highlight=False, markup=False)

_state = {"json": False}


def set_json(on: bool) -> None:
    """Set whether the running command prints only one JSON document on standard output."""
    _state["json"] = on


def prints_json() -> bool:
    """Whether `--json` was given. Steps that print while they run, such as a chat, ask this."""
    return _state["json"]


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_CONTROL_UTF8 = re.compile(rb"\x7f|\xc2[\x80-\x9f]|\xe2\x80[\xaa-\xae]|\xe2\x81[\xa6-\xa9]")
"""Control characters that JSON does not escape, as bytes."""


def shown(text: str) -> str:
    """The text with terminal control characters replaced by visible symbols (ESC by ␛)."""
    return _CONTROL.sub(lambda match: _symbol(match[0]), text)


def _symbol(char: str) -> str:
    code = ord(char)
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def print_json(value: Any) -> None:
    """Print one JSON document on standard output; control characters in strings are escaped."""
    text = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY, default=_jsonable)
    text = _CONTROL_UTF8.sub(lambda match: f"\\u{ord(match[0].decode()):04x}".encode(), text)
    sys.stdout.buffer.write(text + b"\n")
    sys.stdout.flush()


def _jsonable(value: Any) -> Any:
    if hasattr(value, "json") and not hasattr(value, "model_dump"):
        return value.json()
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else str(value)


def note(text: str) -> None:
    """Print a line on standard error."""
    err.print(Text(shown(text)), soft_wrap=True)


def say(text: str) -> None:
    """Print a line on standard output."""
    out.print(Text(shown(text)), soft_wrap=True)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table on standard output; all columns but the first are right-aligned."""
    grid = Table(title=shown(title), title_justify="left", title_style="bold", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        grid.add_column(shown(column), justify="left" if index == 0 else "right")
    for row in rows:
        grid.add_row(*(Text(shown(_cell(value))) for value in row))
    out.print(grid)


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
