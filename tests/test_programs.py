"""Student programs run against unit tests: what passes, and what a program cannot do to the machine, for real."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from maieutic.checks.outcomes import outcome, solves
from maieutic.checks.programs import Limits, passes, program, run
from maieutic.core.errors import InputError
from maieutic.core.messages import Conversation, Problem

TESTS = "assert double(2) == 4\nassert double(-1) == -2"
RIGHT = "def double(x):\n    return 2 * x\n"
SHORT = Limits(wall=4, seconds=1)


@pytest.fixture(scope="module", autouse=True)
def sandbox() -> None:
    """Skip where this kernel cannot confine a program: there `run` refuses, which is right."""
    try:
        ran = run(RIGHT, TESTS)
    except InputError as error:
        pytest.skip(str(error))
    assert ran.passed, "else every refusal below would say nothing"


def test_right_and_wrong() -> None:
    assert run(RIGHT, TESTS).passed
    wrong = run("def double(x):\n    return x", TESTS)
    assert not wrong.passed
    assert "AssertionError" in wrong.output
    assert not run("def double(x)", TESTS).passed
    assert run("import math, json, re, random, collections, itertools, functools\n" + RIGHT, TESTS).passed


def test_an_end_before_the_tests_is_no_pass() -> None:
    for end in ("import os; os._exit(0)", "raise SystemExit(0)", "exit()"):
        assert not run(end, TESTS).passed


WRONG = "def double(x):\n    return 7\n"
DECEITS = {
    "token by frame": "import sys, os\nf = sys._getframe(1).f_locals\nos.write(f['verdict'], f['task']['token'].encode())\nos._exit(0)",
    "token by traceback": "import os\ntry:\n    1 / 0\nexcept Exception as e:\n    f = e.__traceback__.tb_frame\n"
    "while 'task' not in f.f_locals:\n    f = f.f_back\nos.write(f.f_locals['verdict'], f.f_locals['task']['token'].encode())\nos._exit(0)",
    "tests by gc": "import gc\nfor o in gc.get_objects():\n    if isinstance(o, dict) and 'tests' in o:\n        o['tests'] = 'assert 1'",
    "trace": f"import sys\nsys.settrace(lambda *a: None)\n{WRONG}",
    "no exec": f"import builtins\nbuiltins.exec = lambda *a: None\n{WRONG}",
    "other code": f"import builtins\nbuiltins.compile = lambda *a: (lambda: 0).__code__\n{WRONG}",
    "main's exec": f"import __main__\n__main__.exec = lambda *a: None\n{WRONG}",
    "main's count": f"import __main__\n__main__.Held.value = lambda s, v: 4\n{WRONG}",
    "no end": f"import os\nos._exit = os.write = lambda *a: 0\n{WRONG}",
    "an error of its own": f"class AssertionError(Exception):\n    pass\n{WRONG}",
    "equals anything": "class A:\n    def __eq__(self, other):\n        return True\ndef double(x):\n    return A()",
    "marker": f"import atexit\natexit.register(print, 'confined')\nprint('confined')\n{WRONG}",
}  # fmt: skip


@pytest.mark.parametrize("deceit", DECEITS)
def test_a_wrong_program_does_not_pass_by_deceit(deceit: str) -> None:
    assert not run(DECEITS[deceit], TESTS, SHORT).passed


def test_what_honest_programs_use_is_no_deceit() -> None:
    """Libraries look at frames themselves; a class of the program may say what it equals."""
    uses = (
        "import collections, dataclasses, enum, typing, functools, logging, sys, traceback, decimal, statistics\n"
        "P = collections.namedtuple('P', 'a b')\nsys.setrecursionlimit(5000)\n"
        "@dataclasses.dataclass\nclass D:\n    a: 'int' = 1\nclass E(enum.Enum):\n    A = 1\n"
        "class V:\n    def __init__(self, v): self.v = v\n    def __eq__(self, other): return self.v == other.v\n"
        "try:\n    1 / 0\nexcept ZeroDivisionError:\n    traceback.format_exc()\n"
    )
    tests = (
        f"{TESTS}\nassert V(1) == V(1) and D() == D(1) and not V(1) == V(2)\nassert 0 < double(1) <= 2, 'no'"
    )
    ran = run(uses + RIGHT, tests)
    assert ran.passed, ran.output


@pytest.mark.parametrize("tests", ["# none", "double(2) == 4", "def check(candidate):\n    assert candidate(2) == 4", "(",
                                   "def test_it(fixture):\n    assert 0", "import unittest\nclass T(unittest.TestCase):\n    def test(self):\n        self.assertEqual(double(2), 4)"])  # fmt: skip
def test_tests_that_test_nothing_are_named(tests: str) -> None:
    with pytest.raises(InputError, match="a problem's tests"):
        run(WRONG, tests)


def test_functions_of_tests_are_run() -> None:
    tests = "def test_two():\n    assert double(2) == 4\n"
    assert run(RIGHT, tests).passed
    assert not run(WRONG, tests).passed
    called = "def check(candidate):\n    assert candidate(2) == 4\ncheck(double)"
    assert run(RIGHT, called).passed
    assert not run(WRONG, called).passed
    assert not run(WRONG, "for one in []:\n    assert double(2) == 4").passed, "no assert was run"
    assert not passes(f"```python\n{WRONG}```", Problem(statement="Write double.", tests=" \n"))


@pytest.mark.parametrize("loop", ["while True: pass", "import time\ntime.sleep(60)", "input()\n" + RIGHT])
def test_what_never_ends_is_ended(loop: str) -> None:
    started = time.monotonic()
    assert not run(loop, TESTS, SHORT).passed
    assert time.monotonic() - started < 20


ATTEMPTS = {
    "fork": "import os\nos.fork()",
    "bomb": "import os\nwhile True:\n    os.fork()",
    "process": "import subprocess\nsubprocess.run(['true'], check=True)",
    "thread": "import threading\nt = threading.Thread(target=print)\nt.start()",
    "memory": "x = bytearray(4 * 2**30)",
    "hog": "x = []\nwhile True:\n    x.append('x' * 2**20)",
    "network": "import socket\nsocket.create_connection(('127.0.0.1', 1))",
    "udp": "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "unix": "import socket\nsocket.socket(socket.AF_UNIX)",
    "signal": "import os\nos.kill(os.getppid(), 15)",
    "mode": "import os\nos.chmod('/tmp', 0o700)",
    "limits": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "passwords": "open('/etc/passwd').read()",
    "environment of others": "open('/proc/1/environ').read()",
    "listing": "import os\nos.listdir('/')",
    "flood": "print('x' * 2**22)",
    "file too large": "open('big', 'w').write('x' * 2**22)",
}


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_what_is_refused(attempt: str) -> None:
    """Each would pass the tests if it were let through."""
    assert not run(f"{ATTEMPTS[attempt]}\n{RIGHT}", TESTS, SHORT).passed


def test_nothing_is_written_outside(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("as it was")
    for way in (f"open({str(kept)!r}, 'w')", f"import os\nos.remove({str(kept)!r})", f"import os\nos.truncate({str(kept)!r}, 0)",
                f"import os\nos.rename({str(kept)!r}, 'mine')", f"import os\nos.mkdir({str(tmp_path / 'new')!r})"):  # fmt: skip
        assert not run(f"{way}\n{RIGHT}", TESTS).passed
    assert kept.read_text() == "as it was"
    assert list(tmp_path.iterdir()) == [kept]
    assert run(f"open('own', 'w').write('1')\nassert open('own').read() == '1'\n{RIGHT}", TESTS).passed


def test_the_environment_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-secret")
    seen = run("import os\nprint(sorted(os.environ.items()))\n" + RIGHT, TESTS)
    assert seen.passed
    assert "secret" not in seen.output
    assert "HOME" not in seen.output


def test_nothing_is_left_behind() -> None:
    run("import time\ntime.sleep(60)", TESTS, SHORT)
    left = subprocess.run(["ps", "-eo", "ppid,args"], capture_output=True, text=True, check=True).stdout
    own = [line for line in left.splitlines() if line.split()[0] == str(os.getpid()) and "sandbox.py" in line]
    assert not own


def test_the_network_is_not_there() -> None:
    """Not even a socket; a server on this machine, which would answer, is not reached."""
    from socketserver import BaseRequestHandler, TCPServer
    from threading import Thread

    hits: list[object] = []

    class Answer(BaseRequestHandler):
        def handle(self) -> None:
            hits.append(self.client_address)

    with TCPServer(("127.0.0.1", 0), Answer) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        ran = run(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)\n{RIGHT}", TESTS)
        server.shutdown()
    assert not ran.passed
    assert "PermissionError" in ran.output
    assert not hits


def test_the_program_of_a_turn() -> None:
    text = "First\n```\nx = 1\n```\nbetter:\n```python\ndef double(x):\n    return 2 * x\n```\nok?"
    assert program(text) == RIGHT
    assert program("double(2) is 4") is None
    problem = Problem(statement="Write double.", tests=TESTS)
    assert passes(text, problem)
    assert not passes("It is 4.", problem)


def test_solved_means_that_the_tests_pass() -> None:
    def talk(*said: str) -> Conversation:
        turns = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(said)]
        infos = {str(n): {} for n in range(1, len(said))}
        problem = {"statement": "Write double.", "tests": TESTS}
        return Conversation.model_validate(
            {"messages": turns, "problem": problem, "meta": {"dialogue": "d", "turns": infos}}
        )

    fixed = talk(
        "```python\ndef double(x): return x\n```", "What does it return for 2?", f"```python\n{RIGHT}```"
    )
    found = outcome(fixed, solves)
    assert found is not None
    assert (found.solved, found.told) == (True, False)
    told = outcome(talk("help", f"Use this:\n```python\n{RIGHT}```", f"```python\n{RIGHT}```"), solves)
    assert told is not None
    assert (told.solved, told.told) == (False, True)
    assert outcome(fixed) is None, "nothing is run unless it is asked for"
