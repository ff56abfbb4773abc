"""Replies a second of `simulate` against a served model, beside other ways to ask it; memory; the store's rows a second.

    make bench-simulate            (or: python benchmarks/simulate.py --out benchmarks/results/simulate.json)

A chat-completions server on loopback, in a process of its own, answers so many requests at once, each after 200 ms: no
client can have more replies a second than slots / 0.2 s, the bound. Dialogues are four rounds between two models of
that server, with the store on. One interleaved run: every way in turn, three rounds; medians of the share of the bound
and of the client's CPU time a reply. Then the peak memory of 1,000 and of 50,000 scripted dialogues, and rows a second
of the store.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

LATENCY = 0.2
ROUNDS = 4
WORDS = "What have you tried so far, and which step of it are you least sure of? " * 4
START = "How do I add a half and a third?"


def serve(slots: int) -> None:
    """Answer on a free port, printed first, until standard input ends."""
    import orjson
    from aiohttp import web

    gate = asyncio.Semaphore(slots)
    usage = {"prompt_tokens": 100, "completion_tokens": 60, "total_tokens": 160}
    message = {"role": "assistant", "content": WORDS}
    whole = {
        "id": "c", "object": "chat.completion", "model": "m", "usage": usage,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
    }  # fmt: skip
    said = orjson.dumps(whole)

    async def chat(request: web.Request) -> web.Response:
        orjson.loads(await request.read())
        async with gate:
            await asyncio.sleep(LATENCY)
        return web.Response(body=said, content_type="application/json")

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "m"}]})

    async def run() -> None:
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/v1/chat/completions", chat)
        app.router.add_get("/v1/models", models)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=4096)
        await site.start()
        assert site._server is not None
        print(site._server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        await runner.cleanup()

    asyncio.run(run())


def ours(url: str, dialogues: int, concurrency: int) -> int:
    """`simulate` with the store on; one process."""
    from maieutic.models import ModelOptions, load
    from maieutic.simulate import SimulateConfig, simulate

    with tempfile.TemporaryDirectory() as folder:
        options = ModelOptions(concurrency=concurrency)
        user, assistant = load(f"{url}#m", options), load(f"{url}#m", options)
        config = SimulateConfig(rounds=ROUNDS, guards="none", concurrency=concurrency)
        return simulate(user, assistant, Path(folder) / "run", dialogues, config).replies


def official(url: str, dialogues: int, concurrency: int) -> int:
    """The official client in a bare loop: nothing is stored."""
    from openai import AsyncOpenAI

    async def run() -> int:
        replies = 0
        owed = iter(range(dialogues))
        async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as client:

            async def work() -> None:
                nonlocal replies
                for _ in owed:
                    turns = [{"role": "user", "content": START}]
                    for turn in range(2 * ROUNDS):
                        got = await client.chat.completions.create(model="m", messages=turns, max_tokens=256)
                        text = got.choices[0].message.content
                        turns.append({"role": "user" if turn % 2 else "assistant", "content": text})
                        replies += 1

            await asyncio.gather(*(work() for _ in range(concurrency)))
        return replies

    return asyncio.run(run())


def bare(url: str, dialogues: int, concurrency: int) -> int:
    """aiohttp and orjson in a bare loop, with no retries, no checks and no store: what any such client must spend."""
    import aiohttp
    import orjson

    async def run() -> int:
        replies = 0
        owed = iter(range(dialogues))
        connector = aiohttp.TCPConnector(limit=0)
        headers = {"Content-Type": "application/json"}
        async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

            async def work() -> None:
                nonlocal replies
                for _ in owed:
                    turns = [{"role": "user", "content": START}]
                    for turn in range(2 * ROUNDS):
                        body = orjson.dumps({"model": "m", "messages": turns, "max_tokens": 256})
                        async with session.post(f"{url}/chat/completions", data=body) as response:
                            got = orjson.loads(await response.read())
                        text = got["choices"][0]["message"]["content"]
                        turns.append({"role": "user" if turn % 2 else "assistant", "content": text})
                        replies += 1

            await asyncio.gather(*(work() for _ in range(concurrency)))
        return replies

    return asyncio.run(run())


def single(url: str, dialogues: int, concurrency: int) -> int:
    """One dialogue at a time in one process, by a synchronous client."""
    from openai import OpenAI

    replies = 0
    with OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as client:
        for _ in range(dialogues):
            turns = [{"role": "user", "content": START}]
            for turn in range(2 * ROUNDS):
                got = client.chat.completions.create(model="m", messages=turns, max_tokens=256)
                text = got.choices[0].message.content
                turns.append({"role": "user" if turn % 2 else "assistant", "content": text})
                replies += 1
    return replies


WAYS: dict[str, Callable[[str, int, int], int]] = {
    "ours": ours,
    "bare": bare,
    "official": official,
    "single": single,
}


def client(way: str, url: str, dialogues: int, concurrency: int) -> None:
    """Run one way in this process and print what it took; a first small run loads and connects."""
    WAYS[way](url, 2 if way != "single" else 1, 2)
    before, started = time.process_time(), time.perf_counter()
    replies = WAYS[way](url, dialogues, concurrency)
    seconds, cpu = time.perf_counter() - started, time.process_time() - before
    print(json.dumps({"replies": replies, "seconds": seconds, "cpu": cpu}))


def asked(*arguments: object) -> dict[str, Any]:
    """This file run again with arguments; what it prints."""
    done = subprocess.run(
        [sys.executable, __file__, *map(str, arguments)], check=True, capture_output=True, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def speed(slots: int, concurrency: int, ways: dict[str, int], rounds: int) -> dict[str, Any]:
    """Each way's replies a second as a share of the bound, by round."""
    bound = slots / LATENCY
    server = subprocess.Popen(
        [sys.executable, __file__, "serve", str(slots)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None and server.stdin is not None
    url = f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    try:
        for number in range(rounds):
            for way, dialogues in ways.items():
                took = asked("client", way, url, dialogues, concurrency)
                share = took["replies"] / took["seconds"] / bound
                found[way].append({"share": share, "cpu_ms": 1000 * took["cpu"] / took["replies"]})
                print(f"{slots} slots, round {number + 1}: {way} {share:.1%}", file=sys.stderr, flush=True)
    finally:
        server.stdin.close()
        server.wait(30)
    return {
        "slots": slots, "concurrency": concurrency, "bound": bound, "dialogues": ways, "rounds": found,
        "share": {way: round(statistics.median(one["share"] for one in each), 3) for way, each in found.items()},
        "cpu_ms": {way: round(statistics.median(one["cpu_ms"] for one in each), 3) for way, each in found.items()},
    }  # fmt: skip


def scripted(dialogues: int) -> None:
    """Simulate scripted dialogues and print the peak memory and the time."""
    from maieutic.models import load
    from maieutic.simulate import SimulateConfig, simulate

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = [
            {"trained_role": "user"},
            {"text": START},
            {"text": WORDS},
            {"text": "Bye.", "finish": "end"},
        ]
        (folder / "user.jsonl").write_text("\n".join(map(json.dumps, lines)))
        (folder / "assistant.jsonl").write_text(json.dumps({"text": WORDS}))
        user, assistant = (load(f"script/{folder / side}.jsonl") for side in ("user", "assistant"))
        started = time.perf_counter()
        simulate(user, assistant, folder / "run", dialogues, SimulateConfig(guards="none"))
        seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"peak_mb": round(peak, 1), "seconds": round(seconds, 1)}))


def store(rows: int) -> None:
    """Append rows of about 1.5 kB, durable in groups, and print rows a second."""
    from maieutic.store import Stage

    row = {"messages": [{"role": "user", "content": WORDS}] * 4}
    with tempfile.TemporaryDirectory() as name, Stage(Path(name) / "s", {}) as stage:
        started = time.perf_counter()
        for number in range(rows):
            stage.rows.append(str(number), row)
        stage.rows.sync()
        print(json.dumps({"rows_a_second": round(rows / (time.perf_counter() - started))}))


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def measure(rounds: int, quick: bool) -> dict[str, Any]:
    scale = 8 if quick else 1
    # `single` is one process of the thirty that such a way would need: its share is told times thirty.
    narrow = speed(
        64, 96, {"ours": 480 // scale, "bare": 480 // scale, "official": 480 // scale, "single": 2}, rounds
    )
    wide = speed(256, 384, {"ours": 1920 // scale, "bare": 1920 // scale, "official": 480 // scale}, rounds)
    sizes = (1000, 50_000 // scale)
    return {
        "served": [narrow, wide],
        "thirty_single_processes_at_most": round(30 * narrow["share"]["single"], 3),
        "scripted": {size: asked("scripted", size) for size in sizes},
        "store": asked("store", 100_000 // scale),
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "load": [round(one, 1) for one in os.getloadavg()],
            "python": platform.python_version(),
        },
        "versions": {name: installed(name) for name in ("aiohttp", "orjson", "openai", "maieutic")},
    }


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = ["| slots | way | share of the bound | client CPU, ms a reply |", "|---:|---|---:|---:|"]
    for served in result["served"]:
        for way, share in served["share"].items():
            lines.append(f"| {served['slots']} | {way} | {share:.1%} | {served['cpu_ms'][way]:.2f} |")
    lines.append("")
    for size, took in result["scripted"].items():
        lines.append(f"{size} scripted dialogues: {took['peak_mb']} MB, {took['seconds']} s")
    lines.append(f"store: {result['store']['rows_a_second']:,} rows a second, durable in groups")
    thirty = result["thirty_single_processes_at_most"]
    lines.append(f"thirty processes with one dialogue each: {thirty:.1%} of the bound at most")
    return "\n".join(lines)


def main() -> None:
    inner: dict[str, Callable[..., None]] = {
        "serve": lambda slots: serve(int(slots)),
        "client": lambda way, url, dialogues, concurrency: client(way, url, int(dialogues), int(concurrency)),
        "scripted": lambda size: scripted(int(size)),
        "store": lambda rows: store(int(rows)),
    }
    if len(sys.argv) > 1 and sys.argv[1] in inner:
        inner[sys.argv[1]](*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="an eighth of the dialogues")
    options = parser.parse_args()
    result = measure(options.rounds, options.quick)
    print(table(result))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        print(f"\n{options.out}")


if __name__ == "__main__":
    main()
