"""The commands as a tree, and what the command line itself would say of a call, without running it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from typing import Any

import typer

from maieutic import cli


@cache
def root() -> Any:
    cli.gather()
    return typer.main.get_command(cli.app)


def commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that does something, by the words that call it."""
    command = command or root()
    inner = getattr(command, "commands", {})
    if path and (not inner or command.invoke_without_command):
        yield path, command
    for name, child in inner.items():
        yield from commands(child, (*path, name))


def parse(words: list[str]) -> tuple[str, ...]:
    """The command that the words after `maieutic` call.

    Raises:
        Exception: there is no such command, option or value; says which.
    """
    command, path, rest = root(), (), list(words)
    while rest and rest[0] in getattr(command, "commands", {}):
        path, command, rest = (*path, rest[0]), command.commands[rest[0]], rest[1:]
    if getattr(command, "commands", None) and not (command.invoke_without_command and rest):
        raise LookupError(f"maieutic {shlex.join(words)}: no such command")
    command.make_context(" ".join(path), rest)
    return path


def examples(command: Any) -> list[list[str]]:
    """The calls that a command's help shows, as the words after `maieutic`."""
    text = " ".join(f"{command.help or ''} {command.epilog or ''}".split())
    _, found, calls = (
        re.split(r"(Examples?: )(?=maieutic )", text, maxsplit=1) if "maieutic " in text else ("",) * 3
    )
    return [shlex.split(call)[1:] for call in re.split(r"; (?=maieutic )", calls)] if found else []
