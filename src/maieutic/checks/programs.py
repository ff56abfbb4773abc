"""Does a student's program pass the problem's unit tests? Programs run only on request, in a sandbox.

The program is the last fenced block of the turn. The tests are Python, mostly asserts, and see the program's names. The
program runs in a separate process (`checks.sandbox`) with no environment, no network, one empty folder to write to, and
limits on time, memory and output; the process is killed at the end. Known ways to pass the tests with a wrong program
are blocked (`tests/test_programs.py`). A program with an unknown trick can get a wrong score, but cannot harm the
machine.
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

from maieutic.checks.sandbox import CONFINED
from maieutic.core.errors import InputError
from maieutic.core.messages import Problem

_FENCED = re.compile(
    r"^[ \t]*(?:```|~~~)[ \t]*(?:python3?|py)?[ \t]*\n(.*?)^[ \t]*(?:```|~~~)", re.S | re.M | re.I
)


class Limits(NamedTuple):
    """Limits on a program."""

    wall: float = 10.0
    """Seconds of wall time."""
    seconds: int = 5
    """Seconds of processor time."""
    memory: int = 512 * 2**20
    """Bytes of address space."""
    output: int = 2**20
    """Bytes printed, and bytes of any file written."""


class Ran(NamedTuple):
    """The result of a program and its tests."""

    passed: bool
    output: str
    """What the program printed, ending with its error if it had one."""


def program(text: str) -> str | None:
    """The last fenced block of a turn; null where there is none."""
    blocks = _FENCED.findall(text)
    return str(blocks[-1]) if blocks else None


def passes(text: str, problem: Problem) -> bool:
    """Whether the program in a turn passes the problem's tests; false if there is no program or no test.

    Raises:
        InputError: this machine cannot sandbox programs, or the tests contain no assert.
    """
    code = program(text)
    return bool(code is not None and problem.tests and problem.tests.strip()) and _passes(code, problem.tests)


@lru_cache(4096)  # several metrics read the same turn
def _passes(code: str, tests: str) -> bool:
    return run(code, tests).passed


def run(code: str, tests: str, limits: Limits | None = None) -> Ran:
    """Run a program and then its tests in the sandbox.

    Raises:
        InputError: this machine cannot sandbox programs, or the tests contain no assert; nothing was run.
    """
    _check(tests)
    limits, token = limits or Limits(), secrets.token_hex(16)
    task = {"program": code, "tests": tests, "token": token, **limits._asdict()}
    with tempfile.TemporaryDirectory(prefix="maieutic-") as folder, tempfile.TemporaryFile() as printed:
        verdict = _start(folder, json.dumps(task).encode(), printed.fileno(), limits.wall)
        printed.seek(0)
        output = printed.read(limits.output).decode(errors="replace")
    if not verdict.startswith(CONFINED):
        raise InputError(
            f"student programs cannot be run safely here: {verdict or output.strip() or 'the sandbox did not start'}",
            "Leave out --run-code, or run it on Linux 6.2 or later.",
        )
    return Ran(verdict.removeprefix(CONFINED) == token, output)


@lru_cache(256)
def _check(tests: str) -> None:
    """Refuse tests that run no assert, since they would not depend on the program."""
    try:
        tree = ast.parse(tests)
    except (SyntaxError, ValueError) as error:
        raise InputError(
            f"a problem's tests are not valid Python ({error})", "Correct the problem's `tests`."
        ) from None
    if not any(isinstance(node, ast.Assert) for part in _run_parts(tree) for node in ast.walk(part)):
        raise InputError(
            f"a problem's tests run no assert: {' '.join(tests.split())[:60]!r}",
            "Write them as asserts, bare or in functions test_…() without arguments.",
        )


def _run_parts(tree: ast.Module) -> Iterator[ast.stmt]:
    """The statements that run: functions and classes that nothing calls are left out, except `test…()`."""
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    for part in tree.body:
        is_test = isinstance(part, ast.FunctionDef) and part.name.startswith("test") and not part.args.args
        if not isinstance(part, (ast.FunctionDef, ast.ClassDef)) or is_test or part.name in used:
            yield part


def _start(folder: str, task: bytes, printed: int, wall: float) -> str:
    """Run the sandbox in its own process group, and return its verdict."""
    read_end, write_end = os.pipe()
    sandbox = Path(__file__).with_name("sandbox.py")
    try:
        with subprocess.Popen(  # noqa: S603 (our own script, no shell)
            [sys.executable, "-I", "-S", "-B", str(sandbox), str(write_end)],
            cwd=folder, env={}, stdin=subprocess.PIPE, stdout=printed, stderr=printed,
            pass_fds=(write_end,), start_new_session=True,
        ) as process:  # fmt: skip
            try:
                with suppress(subprocess.TimeoutExpired):
                    process.communicate(task, timeout=wall)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
    finally:
        os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        return pipe.read(4096).decode(errors="replace")
