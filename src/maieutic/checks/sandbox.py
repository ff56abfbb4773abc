"""Runs one program and its tests in a sandboxed process. `checks.programs` starts this script.

The script imports only the standard library. It applies, in this order: limits on time, memory and files (setrlimit);
write access to the working folder only and read access to Python's own files only (Landlock); no sockets, processes,
signals, or changes of owners, modes or limits (seccomp). It adds an empty network namespace if the kernel allows that.
If the kernel lacks any of the other features, the program is not run.

The tests run in the same process as the program. The objects that decide the verdict are saved before the program
runs, builtins are restored after it, and executed asserts are counted. If the program reads frames, traces, the garbage
collector's objects or raw memory, the process ends.
"""

from __future__ import annotations

import ast
import builtins
import ctypes
import json
import os
import platform
import resource
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

CONFINED = "confined\n"
"""The script writes this before the program runs; the token follows if the tests pass."""
_HELD = "_maieutic_held"
_WATCHED = (
    "sys._getframe",
    "sys._current_frames",
    "sys.settrace",
    "sys.setprofile",
    "gc.get_",
    "ctypes.",
    "object.__getattr__",
)
_FRAMES = ("tb_frame", "gi_frame", "cr_frame", "ag_frame")
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2
_NEWNET, _NEWUSER = 0x40000000, 0x10000000
_RULESET, _RULE, _RESTRICT = 444, 445, 446
_READ = 0b1101  # execute, read a file, read a folder
_ALLOW, _KILL, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050001  # the last: EPERM
# fmt: off
_CALLS = {
    "x86_64": (0xC000003E, (
        41, 56, 57, 58, 435, 425, 62, 200, 234, 424, 434, 438, 101, 310, 311, 272, 308, 165, 321, 160, 302, 248, 250,
        90, 91, 268, 452, 92, 93, 94, 260, 132, 235, 261, 280, 188, 189, 190)),
    "aarch64": (0xC00000B7, (
        198, 220, 435, 425, 129, 130, 131, 424, 434, 438, 117, 270, 271, 97, 268, 40, 280, 164, 261, 217, 219,
        52, 53, 452, 54, 55, 88, 5, 6, 7)),
}
# fmt: on
"""For each architecture, its seccomp number and the refused system calls: socket; clone, fork, vfork, clone3;
io_uring_setup; kill, tkill, tgkill, pidfd_*; ptrace, process_vm_*; unshare, setns, mount, bpf; setrlimit, prlimit;
keys; chmod, chown, utime, setxattr."""


class Refused(Exception):
    """This machine cannot sandbox the program."""


def main() -> None:
    """Read the task, restrict the process, and run the program and its tests."""
    task, verdict = json.load(sys.stdin), int(sys.argv[1])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    try:
        confine(task["seconds"], task["memory"], task["output"])
    except (Refused, OSError, ValueError) as error:
        os.write(verdict, str(error).encode())
        os._exit(0)
    os.write(verdict, CONFINED.encode())
    # Saved before the program runs, so that the program cannot replace them.
    tests, held, own = _checked(task["tests"]), Held(), vars(builtins)
    kept = own.copy()
    run, write, leave, flush = exec, os.write, os._exit, sys.stdout.flush
    student = ModuleType("student")
    names = vars(student)
    sys.modules |= {"student": student, "__main__": ModuleType("__main__")}
    program = compile(task["program"], "<student>", "exec")
    sys.addaudithook(_watch())
    run(program, names)
    own.update(kept)
    names["__builtins__"] = builtins
    names[_HELD] = held
    run(tests, names)
    flush()
    if held.count:
        write(verdict, task["token"].encode())
    leave(0)


class Held:
    """Counts the asserts that passed, and refuses values that compare equal to everything."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        """An assert passed."""
        self.count += 1

    def value(self, value: Any) -> Any:
        """A side of a comparison in an assert."""
        try:
            anything = bool(value == object())
        except Exception:
            anything = False  # the value does not compare equal to everything
        if anything:
            raise AssertionError("a value that compares equal to everything")
        return value


class _Counting(ast.NodeTransformer):
    """Makes each assert report that it passed, and checks its compared values."""

    def visit_Assert(self, node: ast.Assert) -> list[ast.stmt]:
        for part in ast.walk(node.test):
            if isinstance(part, ast.Compare):
                part.left = _call(".value", part.left)
                part.comparators = [_call(".value", side) for side in part.comparators]
        return [node, ast.Expr(_call(""))]


def _call(method: str, *given: ast.expr) -> ast.Call:
    name = ast.parse(_HELD + method, mode="eval").body
    return ast.Call(name, list(given), [])


def _checked(tests: str) -> Any:
    """The compiled tests: their asserts are counted, and functions `test…` without arguments are called at the end."""
    tree = ast.parse(tests)
    called = [
        ast.Expr(ast.Call(ast.Name(part.name, ast.Load()), [], []))
        for part in tree.body
        if isinstance(part, ast.FunctionDef) and part.name.startswith("test") and not part.args.args
    ]
    tree = _Counting().visit(tree)
    tree.body += called
    return compile(ast.fix_missing_locations(tree), "<tests>", "exec")


def _watch() -> Callable[[str, tuple[Any, ...]], None]:
    """A hook that ends the process if the program reads frames or objects of the code that tests it."""
    leave, frame = os._exit, sys._getframe
    busy: list[str] = []  # reading the frame calls the hook again

    def hook(event: str, given: tuple[Any, ...]) -> None:
        if (
            busy
            or not event.startswith(_WATCHED)
            or (event.startswith("object.") and given[1] not in _FRAMES)
        ):
            return
        busy.append(event)
        caller = frame(1).f_code.co_filename
        busy.pop()
        if caller == "<student>" or event.startswith(("sys.set", "gc.", "ctypes.")):
            leave(0)

    return hook


def confine(seconds: int, memory: int, output: int) -> None:
    """Remove every right of this process that a student's program does not need.

    Raises:
        Refused: the kernel lacks a feature.
    """
    if sys.platform != "linux" or platform.machine() not in _CALLS:
        raise Refused("Linux on x86_64 or aarch64 is required")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    if libc.unshare(_NEWNET):
        libc.unshare(_NEWUSER | _NEWNET)  # if both are refused, seccomp alone blocks sockets
    for kind, limit in (
        (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, output),
        (resource.RLIMIT_NOFILE, 64), (resource.RLIMIT_CORE, 0),
    ):  # fmt: skip
        resource.setrlimit(kind, (limit, limit))
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise Refused("the kernel does not support no_new_privs")
    _only_these_files(libc)
    _only_these_calls(libc)


def _readable() -> Iterator[str]:
    """Python's own files and the system's libraries."""
    own = {sys.base_prefix, sys.base_exec_prefix, sys.prefix, *sys.path}
    yield from (path for path in own if Path(path).is_dir() and path != "/")
    yield from (
        path
        for path in ("/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/lib", "/lib64")
        if Path(path).is_dir()
    )
    yield from ("/dev/null", "/dev/urandom")


def _only_these_files(libc: ctypes.CDLL) -> None:
    abi = libc.syscall(_RULESET, None, 0, 1)
    if abi < 1:
        raise Refused("the kernel has no Landlock (Linux 5.13), so files cannot be protected")
    handled = (1 << 13) - 1 | (1 << 13 if abi >= 2 else 0) | (1 << 14 if abi >= 3 else 0)
    if abi < 3:
        raise Refused("the kernel's Landlock allows truncating files (Linux 6.2 is required)")
    rules = struct.pack("=Q", handled)
    made = libc.syscall(_RULESET, rules, len(rules), 0)
    if made < 0:
        raise Refused("Landlock accepts no rules")
    for path, allowed in (*((path, _READ) for path in _readable()), (str(Path.cwd()), handled)):
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        file = 0 if Path(path).is_dir() else _READ & ~0b1000
        rule = struct.pack("=Qi", file or allowed, place)
        if libc.syscall(_RULE, made, 1, rule, 0):
            raise Refused(f"Landlock accepts no rule for {path}")
        os.close(place)
    if libc.syscall(_RESTRICT, made, 0):
        raise Refused("Landlock does not restrict this process")
    os.close(made)


def _only_these_calls(libc: ctypes.CDLL) -> None:
    """Install a seccomp filter: calls of another architecture kill the process, listed calls fail with EPERM."""
    arch, refused = _CALLS[platform.machine()]
    steps = [(0x20, 0, 0, 4), (0x15, 1, 0, arch), (0x06, 0, 0, _KILL), (0x20, 0, 0, 0)]
    if platform.machine() == "x86_64":
        steps += [(0x35, 0, 1, 0x40000000), (0x06, 0, 0, _KILL)]  # the call numbers of the x32 ABI
    steps += [(0x15, len(refused) - place, 0, call) for place, call in enumerate(refused)]
    steps += [(0x06, 0, 0, _ALLOW), (0x06, 0, 0, _REFUSE)]
    code = b"".join(struct.pack("=HBBI", *step) for step in steps)
    held = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HxxxxxxP", len(steps), ctypes.addressof(held))
    if libc.prctl(_PR_SET_SECCOMP, _FILTER, program, 0, 0):
        raise Refused("the kernel accepts no seccomp filter, so the network cannot be blocked")


if __name__ == "__main__":
    main()
