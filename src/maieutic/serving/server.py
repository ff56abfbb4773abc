"""`serve`: start vLLM or transformers' server on a checkpoint, wait until it is ready, and stop it with this process.

The checkpoint carries its chat template and its stop tokens, so the server needs no flags for them. The server runs
in a process group of its own: Ctrl-C reaches it once, through this process, and everything it has started stops with
it; if this process is killed, the kernel stops the server.
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
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from maieutic.core import console
from maieutic.core.errors import InputError, MissingExtra, ModelError, NoTemplate
from maieutic.core.messages import Role
from maieutic.core.step import Step

if TYPE_CHECKING:
    from maieutic.models.checkpoint import Source

Engine = Literal["vllm", "transformers"]

GRACE = 10.0
"""Seconds to wait for a server to stop, after SIGINT and again after SIGTERM."""
_EXTRAS = {"vllm": "pip install vllm", "transformers": "pip install 'maieutic[train,serve]'"}
_DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG


class Server(NamedTuple):
    """A running server."""

    url: str
    """Ends in /v1."""
    model: str
    """The name of the model in requests."""
    engine: str
    curl: str
    """A shell command that sends a request."""

    def json(self) -> dict[str, Any]:
        """As printed."""
        return self._asdict()


class Serve(Step):
    """Serve a model as an ordinary chat model (OpenAI's API) until Ctrl-C; prints a curl command once it is ready."""

    command: ClassVar = "serve"
    arguments: ClassVar = ("model",)
    examples: ClassVar = ("maieutic serve runs/user --port 8001",)
    writes: ClassVar = "result"

    model: str = Field(description="A finished run, a checkpoint's folder, or a hub name.")
    engine: Engine | None = Field(
        None, description="Server; default: vllm where it is installed, else transformers."
    )
    host: str = Field("127.0.0.1", description="Address to listen on; the default is for this machine only.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0: a free port.")

    def run(self, out: Path | str = "") -> None:
        """Serve the model until an interrupt.

        Raises:
            MissingExtra: the engine is not installed.
            InputError: the port is taken.
            NoTemplate: the checkpoint has no chat template.
            ModelError: the server stopped by itself.
        """
        try:
            self.serve(_print)
        except KeyboardInterrupt:
            console.note("stopped")

    def serve(self, ready: Callable[[Server], None] = lambda server: None) -> None:
        """Serve the model until an interrupt, which is raised; `ready` is called once the server answers."""
        from maieutic.models.checkpoint import check_weights, settings
        from maieutic.models.weights import locate

        source = locate(self.model)
        check_weights(source)
        _check_template(source)
        engine: Engine = self.engine or ("vllm" if _program("vllm") else "transformers")
        command = arguments(engine, source.name, self.host, port := _free(self.host, self.port))
        quiet = {"HF_HUB_DISABLE_UPDATE_CHECK": "1", "VLLM_NO_USAGE_STATS": "1"}
        if Path(source.name).is_dir():
            quiet["HF_HUB_OFFLINE"] = "1"
        with _Child(command, os.environ | quiet) as child:
            base = f"http://{_reachable(self.host)}:{port}"
            child.wait_for(f"{base}/health")
            example = curl(f"{base}/v1", source.name, settings(source).roles == {Role.USER})
            ready(Server(f"{base}/v1", source.name, engine, example))
            child.wait()


def _print(server: Server) -> None:
    if console.prints_json():
        console.print_json(server.json())
        return
    console.say(server.curl)
    sys.stdout.flush()
    console.note(f"{server.engine} serves {server.model} at {server.url}; Ctrl-C stops it.")


def arguments(engine: Engine, name: str, host: str, port: int) -> list[str]:
    """The command that starts an engine.

    Raises:
        MissingExtra: it is not installed.
    """
    program = _program(engine)
    if program is None:
        raise MissingExtra(f"{engine} is not installed", f"Run: {_EXTRAS[engine]}")
    where = ["--host", host, "--port", str(port)]
    if engine == "vllm":  # the template gets contents as text, not as parts
        return [program, "serve", name, *where, "--chat-template-content-format", "string"]
    return [program, "serve", name, *where]


def curl(url: str, name: str, user: bool) -> str:
    """A shell command that requests the next turn of the side that the model speaks."""
    messages = [{"role": "user", "content": "Why is the sky blue?"}]
    if user:
        messages.append({"role": "assistant", "content": "What have you read about it?"})
    body = json.dumps({"model": name, "messages": messages, "max_tokens": 64}, ensure_ascii=False)
    words = ["curl", "-s", f"{url}/chat/completions", "-H", "Content-Type: application/json", "-d", body]
    return shlex.join(words)


def _program(engine: str) -> str | None:
    """The engine's program; this environment's program first."""
    own = Path(sys.executable).parent
    found = shutil.which(engine, path=str(own)) or shutil.which(engine)
    if engine == "transformers" and found:
        from importlib.util import find_spec

        needed = ("fastapi", "uvicorn", "openai", "pydantic", "rich", "torch")
        return found if all(find_spec(name) for name in needed) else None
    return found


def _check_template(source: Source) -> None:
    held = source.json("tokenizer_config.json").get("chat_template") or "chat_template.jinja" in source.files
    if not held and not source.offline:
        raise NoTemplate(
            f"{source.name} has no chat template", "Add one: maieutic export --to merged --template …"
        )


def _free(host: str, port: int) -> int:
    """The port, or a free one for 0.

    Raises:
        InputError: the port is taken, or the address is not this machine's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            return int(listener.getsockname()[1])
    except OSError as error:
        raise InputError(
            f"{host}:{port} cannot be listened on: {error.strerror}", "Choose another --port."
        ) from None


def _reachable(host: str) -> str:
    """The address by which this machine reaches a server that listens on `host`."""
    if host in ("0.0.0.0", "::"):  # noqa: S104
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


class _Child:
    """A server's process, which ends with this process; its output goes to standard error."""

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
            signal.signal(one, signal.SIG_IGN)  # a second Ctrl-C must not leave processes behind
        try:
            self._stop()
        finally:
            for one, before in self._before.items():
                signal.signal(one, before)

    def wait_for(self, url: str) -> None:
        """Wait until the server reports that it is ready.

        Raises:
            ModelError: the server stopped before it was ready.
        """
        from urllib.error import URLError
        from urllib.request import ProxyHandler, build_opener

        direct = build_opener(ProxyHandler({}))  # no proxy for a server on this machine
        while True:
            self._check()
            with suppress(URLError, OSError), direct.open(url, timeout=2) as answer:
                if answer.status == 200:
                    return
            time.sleep(0.2)

    def wait(self) -> None:
        """Wait until the server stops.

        Raises:
            ModelError: it stopped by itself.
        """
        self._process.wait()
        self._check()

    def _check(self) -> None:
        if (status := self._process.poll()) is not None:
            how = f"by signal {-status}" if status < 0 else f"with status {status}"
            raise ModelError(f"{self._name} stopped {how}", "Its own output is above.")

    def _stop(self) -> None:
        """Interrupt, terminate, then kill the server and every process that it has started."""
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
    """Runs in the new process: the kernel ends it when the parent ends (Linux), also if the parent already has."""
    libc = ctypes.CDLL(None)

    def ask() -> None:
        if sys.platform == "linux":
            libc.prctl(_DIES_WITH_PARENT, signal.SIGTERM)
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGTERM)

    return ask
