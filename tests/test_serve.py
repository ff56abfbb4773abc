"""`serve`: started with the right flags, waited for, asked by its own curl line, and gone with us."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tiny import tiny_checkpoint

ENGINE = """#!{python}
import http.server, json, os, subprocess, sys, time
words = sys.argv[1:]
record = {record!r}
open(record, "w").write(json.dumps({{"words": words, "offline": os.environ.get("HF_HUB_OFFLINE")}}))
if os.environ.get("BREAKS"):
    print("no such kernel", file=sys.stderr)
    sys.exit(3)
helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(record + ".pids", "w").write(f"{{os.getpid()}} {{helper.pid}}")
time.sleep(0.5)

class Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer({{"status": "ok"}} if self.path == "/health" else {{}})
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        reply = {{"role": "assistant", "content": str(len(body["messages"]))}}
        self.answer({{"model": body["model"], "choices": [{{"index": 0, "message": reply}}]}})
    def answer(self, value):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())
    def log_message(self, *words):
        pass

where = dict(zip(words[2::2], words[3::2]))
http.server.ThreadingHTTPServer((where["--host"], int(where["--port"])), Server).serve_forever()
"""
"""Stands in for vLLM: a program of that name, with a process of its own beside it, as vLLM has."""


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "vllm"
    program.write_text(ENGINE.format(python=sys.executable, record=str(tmp_path / "seen")))
    program.chmod(0o755)
    return folder


@contextmanager
def serving(*words: object, path: Path | None = None, **more: str) -> Iterator[subprocess.Popen[str]]:
    """`maieutic serve` in the background; killed at the end, whatever became of it."""
    environment = {**os.environ, **more}
    if path:
        environment["PATH"] = f"{path}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(
        [sys.executable, "-m", "maieutic", "serve", *map(str, words)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    text = process.stdout.readline()
    assert text, process.communicate()[1]
    return text


def gone(pid: int, within: float = 10) -> bool:
    """Whether a process has ended (a zombie has)."""
    for _ in range(int(within / 0.05)):
        try:
            status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if status == "Z":
            return True
        time.sleep(0.05)
    return False


def pids(tmp_path: Path) -> list[int]:
    return [int(pid) for pid in (tmp_path / "seen.pids").read_text().split()]


def test_the_curl_line_works_and_ctrl_c_leaves_nothing(tmp_path: Path, engine: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    (folder / "maieutic.json").write_text(json.dumps({"role": "user", "template": None, "system": None}))
    with serving(folder, "--engine", "vllm", "--port", "0", path=engine) as process:
        shown = line(process)
        answer = json.loads(
            subprocess.run(["sh", "-c", shown], capture_output=True, text=True, check=True).stdout
        )
        assert answer["model"] == str(folder)
        assert (
            answer["choices"][0]["message"]["content"] == "2"
        )  # it answers an assistant: a chat that ends on one
        assert not any(gone(pid, 0.1) for pid in pids(tmp_path))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert process.returncode == 0, err
        assert out == "" and "stopped" in err
    assert all(gone(pid) for pid in pids(tmp_path))
    seen = json.loads((tmp_path / "seen").read_text())
    port = seen["words"][5]
    assert seen["words"] == [
        "serve", str(folder), "--host", "127.0.0.1", "--port", port, "--chat-template-content-format", "string"
    ]  # fmt: skip
    assert seen["offline"] == "1" and f"127.0.0.1:{port}/v1/chat/completions" in shown


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_no_server_outlives_us(tmp_path: Path, engine: Path, how: signal.Signals) -> None:
    """Also where we are killed without a word: the kernel tells the server."""
    folder = tiny_checkpoint(tmp_path / "model")
    with serving(folder, "--engine", "vllm", "--port", "0", "--json", path=engine) as process:
        assert process.stdout is not None
        shown = ""
        while not shown.endswith("}\n"):
            shown += line(process)
        held = json.loads(shown)
        assert held["engine"] == "vllm" and held["model"] == str(folder) and held["url"].endswith("/v1")
        server, helper = pids(tmp_path)
        process.send_signal(how)
        process.wait(30)
        assert gone(server)
        if how == signal.SIGTERM:
            assert process.returncode == 0 and gone(helper)
        elif not gone(helper, 0.1):
            os.kill(
                helper, signal.SIGKILL
            )  # a stand-in has no care for its own; vLLM ends its workers itself


def test_a_server_that_breaks_says_so(tmp_path: Path, engine: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    with serving(folder, "--engine", "vllm", "--port", "0", path=engine, BREAKS="1") as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and out == ""
    assert "no such kernel" in err and "stopped with status 3" in err


def test_a_taken_port_a_missing_engine_and_a_missing_template(tmp_path: Path, engine: Path) -> None:
    from maieutic.core.errors import InputError, MissingExtra, NoTemplate
    from maieutic.serving.server import Serve, arguments

    folder = tiny_checkpoint(tmp_path / "model")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match="cannot be listened on"):
            Serve(model=str(folder), engine="transformers", port=taken.getsockname()[1]).serve()
    with pytest.raises(InputError, match="cannot be listened on"):
        Serve(model=str(folder), engine="transformers", host="no.such.host.invalid").serve()
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(MissingExtra, match="vllm is not installed") as caught,
    ):
        patch.setenv("PATH", str(tmp_path))
        arguments("vllm", str(folder), "127.0.0.1", 1)
    assert "pip install" in caught.value.hint
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(NoTemplate) as refused:
        Serve(model=str(folder)).serve()
    assert "export --to merged" in refused.value.hint
