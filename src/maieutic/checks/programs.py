"""Does a student's program pass the problem's unit tests? It is run, shut in, and only where the caller asked for that.

The program is the last fenced block of the turn; the tests are Python, asserts mostly, and see the program's names. It
runs in a process of its own with no environment, no network, an empty folder that it alone may write, and limits on
time, memory and output (`checks.jail`), and is killed in the end. What a program does to pass without being right is
refused as far as we know it (`tests/test_programs.py`); one that is clever enough still harms a score, not the machine.
"""

from __future__ import annotations

import ast
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from maieutic.checks.jail import SHUT_IN
from maieutic.core.errors import InputError
from maieutic.core.messages import Problem

_FENCED = re.compile(
    r"^[ \t]*(?:```|~~~)[ \t]*(?:python3?|py)?[ \t]*\n(.*?)^[ \t]*(?:```|~~~)", re.S | re.M | re.I
)


class Limits(NamedTuple):
    """What a program may use."""

    wall: float = 10.0
    """Seconds in all."""
    seconds: int = 5
    """Of processor time."""
    memory: int = 512 * 2**20
    """Bytes of address space."""
    output: int = 2**20
    """Bytes of what it prints, and of any file it writes."""


class Ran(NamedTuple):
    """What came of it."""

    passed: bool
    output: str
    """What it printed, the error that ended it last."""


def program(text: str) -> str | None:
    """The last fenced block of a turn; null where there is none."""
    blocks = _FENCED.findall(text)
    return str(blocks[-1]) if blocks else None


def passes(text: str, problem: Problem) -> bool:
    """Whether the program in a turn passes the problem's tests; false where there is no program, or there are no tests.

    Raises:
        InputError: programs cannot be shut in here, or the tests test nothing.
    """
    code = program(text)
    return bool(code is not None and problem.tests and problem.tests.strip()) and _passes(code, problem.tests)


@lru_cache(4096)  # a turn is read by several measures
def _passes(code: str, tests: str) -> bool:
    return run(code, tests).passed


def run(code: str, tests: str, limits: Limits | None = None) -> Ran:
    """Run a program and then its tests, shut in.

    Raises:
        InputError: it cannot be shut in here, or the tests test nothing; nothing was run.
    """
    _check(tests)
    limits, token = limits or Limits(), secrets.token_hex(16)
    task = {"program": code, "tests": tests, "token": token, **limits._asdict()}
    with tempfile.TemporaryDirectory(prefix="maieutic-") as folder, tempfile.TemporaryFile() as printed:
        told = _start(folder, json.dumps(task).encode(), printed.fileno(), limits.wall)
        printed.seek(0)
        output = printed.read(limits.output).decode(errors="replace")
    if not told.startswith(SHUT_IN):
        raise InputError(
            f"student programs cannot be run safely here: {told or output.strip() or 'the jail did not start'}",
            "Leave out --run-code, or run it on Linux 6.2 or later.",
        )
    return Ran(told.removeprefix(SHUT_IN) == token, output)


@lru_cache(256)
def _check(tests: str) -> None:
    """Tests that run no assert would let every program pass, or none."""
    try:
        tree = ast.parse(tests)
    except (SyntaxError, ValueError) as error:
        raise InputError(
            f"a problem's tests are no Python ({error})", "Mend the problem's `tests`."
        ) from None
    if not any(isinstance(node, ast.Assert) for part in _run_parts(tree) for node in ast.walk(part)):
        raise InputError(
            f"a problem's tests run no assert: {' '.join(tests.split())[:60]!r}",
            "Write them as asserts, bare or in functions test_…() without arguments.",
        )


def _run_parts(tree: ast.Module) -> Iterator[ast.stmt]:
    """All but the functions and classes that nothing calls; functions `test…()` are called by the jail."""
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    for part in tree.body:
        is_test = isinstance(part, ast.FunctionDef) and part.name.startswith("test") and not part.args.args
        if not isinstance(part, (ast.FunctionDef, ast.ClassDef)) or is_test or part.name in used:
            yield part


def _start(folder: str, task: bytes, printed: int, wall: float) -> str:
    """Run the jail in a process group of its own, and return what it said of the end."""
    told, say = os.pipe()
    jail = Path(__file__).with_name("jail.py")
    try:
        with subprocess.Popen(  # noqa: S603 (our own script, no shell)
            [sys.executable, "-I", "-S", "-B", str(jail), str(say)],
            cwd=folder, env={}, stdin=subprocess.PIPE, stdout=printed, stderr=printed,
            pass_fds=(say,), start_new_session=True,
        ) as process:  # fmt: skip
            try:
                with suppress(subprocess.TimeoutExpired):
                    process.communicate(task, timeout=wall)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
    finally:
        os.close(say)
    with os.fdopen(told, "rb") as pipe:
        return pipe.read(4096).decode(errors="replace")
