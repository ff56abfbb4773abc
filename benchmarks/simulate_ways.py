"""Other ways to let two served models talk than `simulate`, for benchmarks/simulate.py to run beside it.

Each way is given the server's address, a number of dialogues and how many may be under way, and says how many replies
it got. None of them stores anything, except curator, which always does. `distilabel` and `curator` run under an
interpreter of their own, which need not have this project.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROUNDS = 4
START = "How do I add a half and a third?"
PROCESSES = 30


def answered(talk: list[dict[str, str]], text: str) -> None:
    """Put a reply at the end of a dialogue."""
    talk.append({"role": "assistant" if len(talk) % 2 else "user", "content": text})


def opened(dialogues: int) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": START}] for _ in range(dialogues)]


def official(url: str, dialogues: int, concurrency: int) -> int:
    """The official client in a bare loop."""
    from openai import AsyncOpenAI

    async def run() -> int:
        owed = iter(opened(dialogues))
        async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as client:

            async def work() -> None:
                for talk in owed:
                    for _ in range(2 * ROUNDS):
                        got = await client.chat.completions.create(model="m", messages=talk, max_tokens=256)
                        answered(talk, got.choices[0].message.content)

            await asyncio.gather(*(work() for _ in range(concurrency)))
        return 2 * ROUNDS * dialogues

    return asyncio.run(run())


def bare(url: str, dialogues: int, concurrency: int) -> int:
    """aiohttp and orjson in a bare loop, with no retries and no checks: what any such client must spend."""
    import aiohttp
    import orjson

    async def run() -> int:
        owed = iter(opened(dialogues))
        connector = aiohttp.TCPConnector(limit=0)
        headers = {"Content-Type": "application/json"}
        async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

            async def work() -> None:
                for talk in owed:
                    for _ in range(2 * ROUNDS):
                        body = orjson.dumps({"model": "m", "messages": talk, "max_tokens": 256})
                        async with session.post(f"{url}/chat/completions", data=body) as response:
                            got = orjson.loads(await response.read())
                        answered(talk, got["choices"][0]["message"]["content"])

            await asyncio.gather(*(work() for _ in range(concurrency)))
        return 2 * ROUNDS * dialogues

    return asyncio.run(run())


def single(url: str, dialogues: int, concurrency: int) -> int:
    """One dialogue at a time in one process, by a synchronous client."""
    from openai import OpenAI

    with OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as client:
        for talk in opened(dialogues):
            for _ in range(2 * ROUNDS):
                got = client.chat.completions.create(model="m", messages=talk, max_tokens=256)
                answered(talk, got.choices[0].message.content)
    return 2 * ROUNDS * dialogues


def distilabel(url: str, dialogues: int, concurrency: int) -> int:
    """distilabel's client, all dialogues half a turn at a time: it knows none that go on by themselves."""
    from distilabel.models import OpenAILLM

    llm = OpenAILLM(model="m", base_url=url, api_key="none", generation_kwargs={"max_new_tokens": 256})
    llm.load()
    owed = opened(dialogues)
    for first in range(0, dialogues, concurrency):
        talks = owed[first : first + concurrency]
        for _ in range(2 * ROUNDS):
            outs = llm.generate_outputs(inputs=talks, **llm.generation_kwargs)
            for talk, out in zip(talks, outs, strict=True):
                answered(talk, out["generations"][0])
    return 2 * ROUNDS * dialogues


def _curator(folder: str) -> Any:
    """The library, quiet, without its viewer, and with the tokenizer file that comes with it."""
    litellm = importlib.util.find_spec("litellm")
    assert litellm is not None and litellm.origin is not None
    os.environ |= {
        "CURATOR_VIEWER": "0", "TELEMETRY_ENABLED": "false", "CURATOR_DISABLE_RICH_DISPLAY": "1",
        "CURATOR_DISABLE_CACHE": "1", "CURATOR_CACHE_DIR": folder, "OPENAI_API_KEY": "none",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "TIKTOKEN_CACHE_DIR": str(Path(litellm.origin).parent / "litellm_core_utils" / "tokenizers"),
    }  # fmt: skip
    from bespokelabs import curator

    return curator


def _settings(url: str, concurrency: int) -> dict[str, Any]:
    most = {"max_requests_per_minute": 10**7, "max_tokens_per_minute": 10**10}
    return {
        "model_name": "m", "backend": "openai", "generation_params": {"max_tokens": 256},
        "backend_params": {"base_url": url, "api_key": "none", "max_concurrent_requests": concurrency, **most},
    }  # fmt: skip


def curator(url: str, dialogues: int, concurrency: int) -> int:
    """curator, all dialogues half a turn at a time: its fast way."""
    from datasets import Dataset

    with tempfile.TemporaryDirectory() as folder:

        class Half(_curator(folder).LLM):
            def prompt(self, input: dict[str, Any]) -> Any:
                return input["messages"]

            def parse(self, input: dict[str, Any], response: str) -> dict[str, Any]:
                talk = list(input["messages"])
                answered(talk, response)
                return {"messages": talk}

        llm = Half(**_settings(url, concurrency))
        rows = [{"messages": talk} for talk in opened(dialogues)]
        for _ in range(2 * ROUNDS):
            found = llm(Dataset.from_list(rows))
            rows = [{"messages": row["messages"]} for row in getattr(found, "dataset", found)]
        return sum(len(row["messages"]) - 1 for row in rows)


def curator_agents(url: str, dialogues: int, concurrency: int) -> int:
    """curator's agents that talk to each other: one dialogue a call."""
    with tempfile.TemporaryDirectory() as folder:
        _curator(folder)
        from bespokelabs.curator.agent.agent import Agent, MultiTurnAgents

        class Speaker(Agent):
            def prompt(self, text: str) -> Any:
                return [{"role": "user", "content": text}]

        replies = 0
        for _ in range(dialogues):
            pair = [Speaker(name, **_settings(url, concurrency)) for name in ("one", "other")]
            replies += len(MultiTurnAgents(*pair, 2 * ROUNDS, START)().dataset)
        return replies


WAYS: dict[str, Callable[[str, int, int], int]] = {
    "bare": bare,
    "official": official,
    "single": single,
    "distilabel": distilabel,
    "curator": curator,
    "curator_agents": curator_agents,
}


def timed(way: Callable[[str, int, int], int], url: str, dialogues: int, concurrency: int) -> dict[str, Any]:
    """What a way took; a first small run loads and connects."""
    way(url, min(2, dialogues), 2)
    before, started = time.process_time(), time.perf_counter()
    replies = way(url, dialogues, concurrency)
    return {
        "replies": replies,
        "seconds": time.perf_counter() - started,
        "cpu": time.process_time() - before,
    }


def thirty(url: str, dialogues: int) -> dict[str, Any]:
    """Thirty processes, one dialogue at a time in each; they start together, once all are loaded and connected."""
    command = [sys.executable, __file__, "waiting", url, str(dialogues)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    started = [subprocess.Popen(command, text=True, **pipes) for _ in range(PROCESSES)]
    for process in started:
        assert process.stdout is not None
        process.stdout.readline()
    clock = time.perf_counter()
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    took = [json.loads(process.communicate()[0]) for process in started]
    return {
        "replies": sum(one["replies"] for one in took),
        "seconds": time.perf_counter() - clock,
        "cpu": sum(one["cpu"] for one in took),
    }


def waiting(url: str, dialogues: int) -> dict[str, Any]:
    """One of the thirty."""
    single(url, 1, 1)
    print("ready", flush=True)
    sys.stdin.readline()
    before = time.process_time()
    return {"replies": single(url, dialogues, 1), "cpu": time.process_time() - before}


def main() -> None:
    name, url, *numbers = sys.argv[1:]
    if name == "waiting":
        print(json.dumps(waiting(url, int(numbers[0]))))
    elif name == "thirty":
        print(json.dumps(thirty(url, int(numbers[0]))))
    else:
        print(json.dumps(timed(WAYS[name], url, *map(int, numbers))))


if __name__ == "__main__":
    main()
