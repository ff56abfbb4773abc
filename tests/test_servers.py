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
import torch
from exporting import export
from trained import PUPILS, talk
from transformers import AutoModelForCausalLM, AutoTokenizer

from maieutic.chat_templates.rendering import prompt_ids
from maieutic.core.messages import Finish, Message, Role, Sampling
from maieutic.models import load
from maieutic.models.weights import quiet

pytestmark = pytest.mark.slow

SEEN = [talk(pupil)[:count] for pupil in PUPILS for count in (1, 3, 5)]
"""Chats of a system message alone, chats that end on an assistant, and chats that are over."""
UNSEEN = [
    [*talk(pupil)[:2], {"role": "assistant", "content": words}]
    for pupil in PUPILS
    for words in ("Which one?", "Hm? {3}, 2 🙂", "And what have you tried?", "No.", "Think of a sign first.")
]
MARGIN = 0.3
"""By how much the first choice must lead at every step, for sixteen bits to leave it the first."""
GREEDY = Sampling(temperature=0, max_tokens=40)


def post(url: str, body: dict[str, Any]) -> Any:
    request = Request(
        f"{url}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def ours(model: Path, chats: list[list[dict[str, str]]]) -> list[Any]:
    """Our own greedy replies."""
    held = load(f"hf/{model}")

    async def ask() -> list[Any]:
        try:
            return [
                await held.reply([Message.model_validate(row) for row in rows], GREEDY, role=Role.USER)
                for rows in chats
            ]
        finally:
            await held.close()

    return asyncio.run(ask())


def sure(model: Path, chats: list[list[dict[str, str]]]) -> list[list[dict[str, str]]]:
    """The chats in whose greedy replies every token leads by MARGIN, by transformers alone."""
    with quiet():
        held, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
        found = []
        for rows in chats:
            ids = prompt_ids([Message.model_validate(row) for row in rows], tokenizer, "user")
            drawn = held.generate(
                torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=GREEDY.max_tokens,
                do_sample=False, output_scores=True, return_dict_in_generate=True,
            )  # fmt: skip
            first, second = torch.stack(drawn.scores)[:, 0].topk(2).values.unbind(-1)
            if bool((first - second > MARGIN).all()):
                found.append(rows)
    return found


def agree(url: str, name: str, model: Path, **more: Any) -> None:
    """What the server says is what we say ourselves, and it stops where we do."""
    chats = SEEN + sure(model, UNSEEN)
    assert len(chats) >= len(SEEN) + 3, "too few chats in which the model is sure"
    replies = ours(model, chats)
    assert [reply.finish for reply in replies[: len(SEEN)]] == [Finish.STOP, Finish.STOP, Finish.END] * 3
    assert [reply.text for reply in replies[1:9:3]] == [sign for _, sign in PUPILS.values()]
    for rows, reply in zip(chats, replies, strict=True):
        body = {"model": name, "messages": rows, "temperature": 0, "max_tokens": GREEDY.max_tokens, **more}
        choice = post(url, body)["choices"][0]
        assert choice["message"]["content"] == reply.text, rows
        assert choice["finish_reason"] == ("length" if reply.finish == Finish.LENGTH else "stop"), rows


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
        "model": Path(done.run),
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
        agree(url, "any", run / "model", repeat_penalty=1.0)  # its own default is 1.1
        served = load(f"{url}#any")

        async def speak() -> Any:
            try:
                return await served.reply(
                    [Message.model_validate(row) for row in SEEN[1]], GREEDY, role=Role.USER
                )
            finally:
                await served.close()

        assert asyncio.run(speak()).text == PUPILS["one"][1]
