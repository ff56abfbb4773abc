"""`serve MODEL`: vLLM or transformers' own server on a checkpoint, waited for, and taken down with us.

The checkpoint carries its chat template and its stop tokens, so the server needs no flags for either. It runs in a
process group of its own: Ctrl-C reaches it once, through us, and whatever it has started goes with it; should we be
killed, the kernel tells it to stop.
"""

from __future__ import annotations

import ctypes
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NamedTuple
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from maieutic.core.errors import InputError, MissingExtra, ModelError, NoTemplate
from maieutic.core.messages import Role
from maieutic.models.checkpoint import Source, check_weights, settings
from maieutic.models.weights import locate

Engine = Literal["vllm", "transformers"]

GRACE = 10.0
"""Seconds that a server has to stop by itself, twice: after an interrupt, and after a termination."""
_EXTRAS = {"vllm": "pip install vllm", "transformers": "pip install 'maieutic[train,serve]'"}
_DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG


class Serving(NamedTuple):
    """A server that answers."""

    url: str
    """Ends in /v1."""
    model: str
    """The name it answers to."""
    engine: str
    curl: str
    """A line for a shell that asks it something."""

    def json(self) -> dict[str, Any]:
        """As printed."""
        return self._asdict()


def serve(
    model: str,
    engine: Engine | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    ready: Callable[[Serving], None] = lambda serving: None,
) -> None:
    """Serve a model until it is interrupted.

    Args:
        model: a finished run, a checkpoint's folder, or a name on the hub.
        engine: null: vLLM where it is installed, else transformers.
        host: the address to listen on; nobody else reaches the default.
        port: 0 takes a free one.
        ready: told once the server answers.

    Raises:
        MissingExtra: the engine is not installed.
        InputError: the port is taken.
        NoTemplate: the checkpoint has no chat template.
        ModelError: the server stopped by itself.
    """
    source = locate(model)
    check_weights(source)
    _check_template(source)
    chosen: Engine = engine or ("vllm" if _program("vllm") else "transformers")
    command = arguments(chosen, source.name, host, port := _free(host, port))
    quiet = {"HF_HUB_DISABLE_UPDATE_CHECK": "1", "VLLM_NO_USAGE_STATS": "1"}
    if Path(source.name).is_dir():
        quiet["HF_HUB_OFFLINE"] = "1"
    with _Child(command, os.environ | quiet) as child:
        base = f"http://{_reachable(host)}:{port}"
        child.wait_for(f"{base}/health")
        url = f"{base}/v1"
        ready(
            Serving(url, source.name, chosen, curl(url, source.name, settings(source).roles == {Role.USER}))
        )
        child.wait()


def arguments(engine: Engine, name: str, host: str, port: int) -> list[str]:
    """The command that starts an engine.

    Raises:
        MissingExtra: it is not installed.
    """
    program = _program(engine)
    if program is None:
        raise MissingExtra(f"{engine} is not installed", f"Run: {_EXTRAS[engine]}")
    where = ["--host", host, "--port", str(port)]
    if engine == "vllm":  # texts come to the template as texts, however the template looks to it
        return [program, "serve", name, *where, "--chat-template-content-format", "string"]
    return [program, "serve", name, *where]


def curl(url: str, name: str, user: bool) -> str:
    """A line that asks the server for the next turn of the side it speaks."""
    messages = [{"role": "user", "content": "Why is the sky blue?"}]
    if user:
        messages.append({"role": "assistant", "content": "What have you read about it?"})
    body = json.dumps({"model": name, "messages": messages, "max_tokens": 64}, ensure_ascii=False)
    words = ["curl", "-s", f"{url}/chat/completions", "-H", "Content-Type: application/json", "-d", body]
    return shlex.join(words)


def _program(engine: str) -> str | None:
    """The engine's program, of our own environment first."""
    beside = Path(sys.executable).parent
    found = shutil.which(engine, path=str(beside)) or shutil.which(engine)
    if engine == "transformers" and found:
        from importlib.util import find_spec

        needed = ("fastapi", "uvicorn", "openai", "pydantic", "rich", "torch")
        return found if all(find_spec(name) for name in needed) else None
    return found


def _check_template(source: Source) -> None:
    held = source.json("tokenizer_config.json").get("chat_template") or "chat_template.jinja" in source.files
    if not held and not source.offline:
        raise NoTemplate(
            f"{source.name} carries no chat template", "Give it one: maieutic export --to merged --template …"
        )


def _free(host: str, port: int) -> int:
    """The port, or a free one for 0.

    Raises:
        InputError: something listens there, or the address is not this machine's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    except OSError as error:
        raise InputError(
            f"{host}:{port} cannot be listened on: {error.strerror}", "Choose another --port."
        ) from None


def _reachable(host: str) -> str:
    """The address under which a server that listens on `host` is asked from here."""
    if host in ("0.0.0.0", "::"):  # noqa: S104
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


class _Child:
    """A server's process, which ends when we do; what it prints goes to standard error."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._name = " ".join(command[:2])
        self._before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
        self._process = subprocess.Popen(  # noqa: S603
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
            start_new_session=True,
            preexec_fn=_die_with(os.getpid()),
        )

    def __enter__(self) -> _Child:
        for one in self._before:
            signal.signal(one, _interrupted)
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._before:
            signal.signal(one, signal.SIG_IGN)  # a second Ctrl-C must not leave anything behind
        try:
            self._stop()
        finally:
            for one, before in self._before.items():
                signal.signal(one, before)

    def wait_for(self, url: str) -> None:
        """Wait until the server says that it is well.

        Raises:
            ModelError: it stopped before.
        """
        direct = build_opener(ProxyHandler({}))  # a proxy knows nothing of a server of ours
        while True:
            self._check()
            with suppress(URLError, OSError), direct.open(url, timeout=2) as answer:
                if answer.status == 200:
                    return
            time.sleep(0.2)

    def wait(self) -> None:
        """Wait until it stops, which it does not by itself.

        Raises:
            ModelError: it did.
        """
        self._process.wait()
        self._check()

    def _check(self) -> None:
        if (status := self._process.poll()) is not None:
            how = f"by signal {-status}" if status < 0 else f"with status {status}"
            raise ModelError(f"{self._name} stopped {how}", "Its own words stand above.")

    def _stop(self) -> None:
        """Ask, ask again, then kill; and with it whatever it has started."""
        for one in (signal.SIGINT, signal.SIGTERM):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, one)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE)
                break
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _interrupted(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _die_with(parent: int) -> Callable[[], None]:
    """Run in the new process: have the kernel end it when we are gone (Linux), be it already."""
    libc = ctypes.CDLL(None)

    def ask() -> None:
        if sys.platform == "linux":
            libc.prctl(_DIES_WITH_PARENT, signal.SIGTERM)
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGTERM)

    return ask
