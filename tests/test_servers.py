"""Real servers on a trained simulator: they answer as the user, id for id as our own decoding does, and end."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from maieutic.export import export
from maieutic.models import load
from maieutic.types import Finish, Role, Sampling, Turn

pytestmark = pytest.mark.slow

ASK = {"role": "user", "content": "What is a half in {LaTeX}?"}
ANSWER = {"role": "assistant", "content": "Which sign would you try first?"}
CHATS = {
    "ends on an assistant": [ASK, ANSWER],
    "is over": [
        ASK,
        ANSWER,
        {"role": "user", "content": "\\frac{1}{2}"},
        {"role": "assistant", "content": "Yes."},
    ],
    "was never seen": [
        {"role": "user", "content": "hello 🙂"},
        {"role": "assistant", "content": "Hm? {3}, 2"},
    ],
    "begins freely": [{"role": "system", "content": "You are a pupil."}],
}
GREEDY = Sampling(temperature=0, max_tokens=40)


def post(url: str, body: dict[str, Any]) -> Any:
    request = Request(
        f"{url}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def ours(model: Path) -> dict[str, Any]:
    """Our own greedy replies."""
    held = load(f"hf/{model}")

    async def ask() -> dict[str, Any]:
        return {
            name: await held.reply([Turn.model_validate(row) for row in rows], GREEDY, role=Role.USER)
            for name, rows in CHATS.items()
        }

    async def whole() -> dict[str, Any]:
        try:
            return await ask()
        finally:
            await held.close()

    return asyncio.run(whole())


def agree(url: str, name: str, model: Path) -> None:
    replies = ours(model)
    assert replies["is over"].finish == Finish.ENDED and replies["is over"].text == ""
    assert len({reply.text for reply in replies.values()}) == len(CHATS)
    for chat, rows in CHATS.items():
        body = {"model": name, "messages": rows, "temperature": 0, "max_tokens": GREEDY.max_tokens}
        choice = post(url, body)["choices"][0]
        reply = replies[chat]
        assert choice["message"]["content"] == reply.text, chat
        assert choice["finish_reason"] == ("length" if reply.finish == Finish.LENGTH else "stop"), chat


@contextmanager
def running(command: list[str], environment: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command, env={**os.environ, **(environment or {})}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_transformers_serve(simulator: Path) -> None:
    pytest.importorskip("fastapi", reason="transformers[serving] is not installed")
    command = [
        sys.executable,
        "-m",
        "maieutic",
        "serve",
        str(simulator),
        "--engine",
        "transformers",
        "--port",
        "0",
    ]
    with running(command) as process:
        assert process.stdout is not None
        shown = process.stdout.readline()
        answer = json.loads(
            subprocess.run(["sh", "-c", shown], capture_output=True, text=True, check=True).stdout
        )
        assert answer["choices"][0]["message"]["role"] == "assistant"
        url = shown.split("curl -s ")[1].split("/chat/completions")[0]
        agree(url, answer["model"], simulator / "model")


def free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("source", ["whole", "adapter"])
def test_llama_cpp_s_server(simulator: Path, adapted: Path, tmp_path: Path, source: str) -> None:
    """The file alone, tokenizer and template inside, of a full model and of a LoRA adapter merged on the way."""
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    pytest.importorskip("sse_starlette", reason="llama-cpp-python[server] is not installed")
    run, model = (simulator, simulator) if source == "whole" else (adapted, adapted / "adapter")
    done = export(str(model), "gguf", tmp_path / "out")
    port = free()
    words = {
        "model": done.out,
        "host": "127.0.0.1",
        "port": port,
        "n_ctx": 512,
        "n_threads": 1,
        "verbose": False,
    }
    command = [sys.executable, "-m", "llama_cpp.server"]
    command += [word for name, value in words.items() for word in (f"--{name}", str(value))]
    url = f"http://127.0.0.1:{port}/v1"
    with running(command) as process:
        for _ in range(300):
            try:
                with urlopen(f"{url}/models", timeout=2) as answer:
                    assert answer.status == 200
                break
            except OSError:
                assert process.poll() is None
                time.sleep(0.2)
        agree(url, "any", run / "model")
        served = load(f"{url}#any")

        async def talk() -> Any:
            try:
                rows = [Turn.model_validate(row) for row in CHATS["ends on an assistant"]]
                return await served.reply(rows, GREEDY, role=Role.USER)
            finally:
                await served.close()

        assert asyncio.run(talk()).text == ours(run / "model")["ends on an assistant"].text
