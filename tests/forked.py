"""`maieutic` commands as processes of their own, forked from one that has loaded what they import already.

    run = Maieutic()
    done = run("mask", corpus, "--model", folder, "--role", "user")
    assert (done.code, done.out) == (1, "")

A fresh process with torch costs seconds, a fork of a warm one a tenth; the command itself, its arguments,
environment, files and exit code are real. Commands without a model in the process are forked from one without torch,
which is quicker still. No network is reached: the hub's address is a closed port of this machine.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import resource
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any, NamedTuple

OFFLINE = {"HF_ENDPOINT": "http://127.0.0.1:9", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
HEAVY = ("torch", "transformers", "trl", "datasets", "tokenizers")
KEYS = (
    "OPENAI_API_KEY",
    "OPENAI_BASE_URL",
    "MAIEUTIC_API_KEY",
    "MAIEUTIC_API_HOST",
    "HF_TOKEN",
    "HF_HUB_OFFLINE",
)


class Done(NamedTuple):
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> list[str]:
        """The lines on standard error from the first that begins with `error: `."""
        lines = self.err.splitlines()
        return lines[next((n for n, line in enumerate(lines) if line.startswith("error: ")), len(lines)) :]


class Maieutic:
    """Runs commands; `close` ends the warm processes."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._warm: dict[str, subprocess.Popen[str]] = {}

    def _process(self, kind: str) -> subprocess.Popen[str]:
        if kind not in self._warm:
            env = {name: value for name, value in os.environ.items() if name not in KEYS} | OFFLINE
            self._warm[kind] = subprocess.Popen(
                [sys.executable, __file__, kind],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=env,
            )
        return self._warm[kind]

    def __call__(
        self,
        *words: object,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        typed: str = "",
        largest_file: int | None = None,
    ) -> Done:
        """Run `maieutic *words`; `typed` is its standard input, and no file may grow past `largest_file` bytes."""
        files = [Path(self._folder.name) / name for name in ("in", "out", "err")]
        files[0].write_text(typed)
        call = {
            "words": [str(word) for word in words],
            "cwd": str(cwd or Path.cwd()),
            "env": env or {},
            "files": [str(file) for file in files],
            "largest_file": largest_file,
        }
        torch = any(str(word) in ("mask", "train", "base", "demo") or "hf/" in str(word) for word in words)
        process = self._process("torch" if torch else "light")
        assert process.stdin and process.stdout
        process.stdin.write(json.dumps(call) + "\n")
        process.stdin.flush()
        code = int(process.stdout.readline())
        return Done(code, *(file.read_text(errors="surrogateescape") for file in files[1:]))

    def close(self) -> None:
        """End the warm processes."""
        for process in self._warm.values():
            process.communicate(timeout=30)
        self._folder.cleanup()


def _serve(kind: str) -> None:
    """Fork a command for each line of standard input; its exit code is a line of standard output."""
    import maieutic

    absent = HEAVY if kind == "light" else ()
    sys.modules.update(dict.fromkeys(absent))  # None there: the rooms that need one of them are passed over
    for room in pkgutil.walk_packages(maieutic.__path__, "maieutic."):
        with contextlib.suppress(ImportError):  # a command that needs it will say so
            importlib.import_module(room.name)
    for name in absent:
        del sys.modules[name]
    if kind == "torch":
        import transformers.models.llama.modeling_llama  # noqa: F401
    gc.freeze()  # what the forks share stays shared
    for line in sys.stdin:
        call = json.loads(line)
        if child := os.fork():
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            print(code, flush=True)
            continue
        _be(call)


def _be(call: dict[str, Any]) -> None:
    for number, (file, mode) in enumerate(zip(call["files"], ("rb", "wb", "wb"), strict=True)):
        os.dup2(os.open(file, os.O_RDONLY if mode == "rb" else os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    os.chdir(call["cwd"])
    os.environ.update(call["env"])
    if call["largest_file"] is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (call["largest_file"],) * 2)
    sys.argv = ["maieutic", *call["words"]]
    code: Any = 0
    try:
        sys.modules["maieutic.cli"].main()
    except SystemExit as left:
        code = left.code
    except BaseException:
        traceback.print_exc()
        code = 1
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    _serve(sys.argv[1])
