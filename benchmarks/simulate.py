"""Replies a second of `simulate` against a served model, beside other ways to ask it; memory; the store's rows a second.

    make bench-simulate            (or: python benchmarks/simulate.py --out benchmarks/results/simulate.json)

A chat-completions server on loopback, in a process of its own, answers so many requests at once, each after 200 ms: no
client can have more replies a second than slots / 0.2 s, the bound. Dialogues are four rounds between two models of
that server, with the store on. One interleaved run: every way in turn, three rounds; medians of the share of the bound
and of the client's CPU time a reply. The other ways stand in simulate_ways.py; distilabel and curator, whose needs clash
with ours, each in an environment of its own, whose Python is named by --distilabel and --curator:

    python -m venv D && D/bin/pip install distilabel requests openai
    python -m venv C && C/bin/pip install bespokelabs-curator

Then the peak memory of 1,000 and of 50,000 scripted dialogues, and rows a second of the store.
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
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

sys.path.insert(0, str(Path(__file__).parent))
from simulate_ways import ROUNDS, START, timed

BESIDE = Path(__file__).parent / "simulate_ways.py"
LATENCY = 0.2
WORDS = "What have you tried so far, and which step of it are you least sure of? " * 4


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
    from maieutic.core.settings import Requests
    from maieutic.rollouts.steps import Simulate

    with tempfile.TemporaryDirectory() as folder:
        models = {"user": f"{url}#m", "assistant": f"{url}#m"}
        requests = Requests(concurrency=concurrency)
        step = Simulate(**models, n=dialogues, rounds=ROUNDS, guards="none", requests=requests)
        return step.run(Path(folder) / "run").replies


def asked(*command: object) -> dict[str, Any]:
    """What a program prints last; what it says beside that is shown only where it fails."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


class Way(NamedTuple):
    """A way to let two models talk."""

    name: str
    dialogues: int
    python: str = sys.executable

    def took(self, url: str, concurrency: int) -> dict[str, Any]:
        """Run it in a process of its own."""
        if self.name == "ours":
            return asked(self.python, __file__, "ours", url, self.dialogues, concurrency)
        return asked(self.python, "-W", "ignore", BESIDE, self.name, url, self.dialogues, concurrency)


def speed(slots: int, concurrency: int, ways: list[Way], rounds: int) -> dict[str, Any]:
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
    found: dict[str, list[dict[str, float]]] = {way.name: [] for way in ways}
    try:
        for number in range(rounds):
            for way in ways:
                took = way.took(url, concurrency)
                share = took["replies"] / took["seconds"] / bound
                found[way.name].append({"share": share, "cpu_ms": 1000 * took["cpu"] / took["replies"]})
                words = f"{slots} slots, round {number + 1}: {way.name} {share:.1%}"
                print(f"{words}, {found[way.name][-1]['cpu_ms']:.2f} ms", file=sys.stderr, flush=True)
    finally:
        server.stdin.close()
        server.wait(30)
    return {
        "slots": slots, "concurrency": concurrency, "bound": bound, "rounds": found,
        "dialogues": {way.name: way.dialogues for way in ways},
        "share": {way: round(statistics.median(one["share"] for one in each), 3) for way, each in found.items()},
        "cpu_ms": {way: round(statistics.median(one["cpu_ms"] for one in each), 3) for way, each in found.items()},
    }  # fmt: skip


def scripted(dialogues: int) -> None:
    """Simulate scripted dialogues and print the peak memory and the time."""
    from maieutic.rollouts.steps import Simulate

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
        user, assistant = (f"script/{folder / side}.jsonl" for side in ("user", "assistant"))
        started = time.perf_counter()
        Simulate(user=user, assistant=assistant, n=dialogues, guards="none").run(folder / "run")
        seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"peak_mb": round(peak, 1), "seconds": round(seconds, 1)}))


def store(rows: int) -> None:
    """Append rows of about 1.5 kB, durable in groups, and print rows a second."""
    from maieutic.core.store import Stage

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


def beside(python: Path | None, distributions: list[str]) -> dict[str, str | None]:
    """The versions of what another interpreter has."""
    if python is None:
        return dict.fromkeys(distributions)
    code = "import sys, json, importlib.metadata as m; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    return asked(python, "-c", code, *distributions)


def measure(rounds: int, quick: bool, slots: list[int], others: dict[str, Path | None]) -> dict[str, Any]:
    scale = 8 if quick else 1
    ways = [Way("ours", 480 // scale), Way("bare", 480 // scale), Way("official", 240 // scale)]
    ways += [Way("single", 2), Way("thirty", 4 // scale or 1)]
    if python := others["distilabel"]:
        ways.append(Way("distilabel", 96, str(python)))
    if python := others["curator"]:
        ways += [Way("curator", 96, str(python)), Way("curator_agents", 2, str(python))]
    wide = [Way("ours", 1920 // scale), Way("bare", 1920 // scale), Way("official", 384 // scale)]
    sizes = (1000, 50_000 // scale)
    return {
        "served": [speed(each, each * 3 // 2, {64: ways, 256: wide}[each], rounds) for each in slots],
        "scripted": {size: asked(sys.executable, __file__, "scripted", size) for size in sizes},
        "store": asked(sys.executable, __file__, "store", 100_000 // scale),
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "load": [round(one, 1) for one in os.getloadavg()],
            "python": platform.python_version(),
        },
        "versions": {name: installed(name) for name in ("aiohttp", "orjson", "openai", "maieutic")}
        | beside(others["distilabel"], ["distilabel"])
        | beside(others["curator"], ["bespokelabs-curator"]),
        "left_out": [name for name, python in others.items() if python is None],
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
    for name in result["left_out"]:
        lines.append(f"{name}: left out; --{name} names the Python of an environment that has it")
    return "\n".join(lines)


def main() -> None:
    inner: dict[str, Callable[..., None]] = {
        "serve": lambda slots: serve(int(slots)),
        "ours": lambda url, *sizes: print(json.dumps(timed(ours, url, *map(int, sizes)))),
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
    parser.add_argument("--slots", type=int, choices=(64, 256), nargs="*", default=(64, 256))
    parser.add_argument("--distilabel", type=Path, help="the Python of an environment that has distilabel")
    parser.add_argument("--curator", type=Path, help="the same for bespokelabs-curator")
    options = parser.parse_args()
    others = {"distilabel": options.distilabel, "curator": options.curator}
    result = measure(options.rounds, options.quick, options.slots, others)
    print(table(result))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        print(f"\n{options.out}")


if __name__ == "__main__":
    main()
