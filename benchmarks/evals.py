"""Statistics and corpus metrics: seconds and peak memory, medians of three rounds.

    make bench-evals            (or: python benchmarks/evals.py --out benchmarks/results/evals.json)

Turns are 30 words drawn from 20,000 by Zipf's law, the same each time. Every measurement is a process of its own, one
thread, so that its peak memory (resident, interpreter and numpy included) is its own; seconds leave the start out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

from maieutic.core import statistics as stats
from maieutic.core.words import pairwise_diversity
from maieutic.evals import realism, topics

LIMITS = {
    "10,000 clustered resamples, 1,000 items": {"seconds": 2.0},
    "pairwise diversity, 2,000 turns": {"seconds": 2.0},
    "pairwise diversity, 20,000 turns": {"megabytes": 2000.0},
}


def turns(count: int, seed: int = 0) -> list[str]:
    shares = 1 / np.arange(1, 20_001)
    numbers = np.random.default_rng(seed).choice(20_000, size=(count, 30), p=shares / shares.sum())
    return [" ".join(f"w{number}" for number in row) for row in numbers]


def by_fours(said: list[str]) -> list[list[str]]:
    return [said[start : start + 4] for start in range(0, len(said), 4)]


def resamples() -> Callable[[], Any]:
    """5,000 rows of 1,000 items."""
    values = np.random.default_rng(0).random(5000)
    items = [number % 1000 for number in range(5000)]
    return lambda: stats.mean(values, items)


def pairwise(count: int) -> Callable[[], Any]:
    said = turns(count)
    return lambda: pairwise_diversity(said)


def cosine(count: int) -> Callable[[], Any]:
    said = turns(count)
    return lambda: topics.topic_diversity(topics.embed_turns(by_fours(said), topics.ngram_embedder(said)))


def auc() -> Callable[[], Any]:
    sides = [by_fours(turns(600, seed)) for seed in (1, 2)]
    return lambda: realism.human_likeness_auc(*sides)


WAYS: dict[str, Callable[[], Callable[[], Any]]] = {
    "10,000 clustered resamples, 1,000 items": resamples,
    "pairwise diversity, 2,000 turns": lambda: pairwise(2_000),
    "pairwise diversity, 20,000 turns": lambda: pairwise(20_000),
    "topic diversity, offline embedding, 2,000 turns": lambda: cosine(2_000),
    "topic diversity, offline embedding, 20,000 turns": lambda: cosine(20_000),
    "human-likeness AUC, 600 turns a side": auc,
}


def once(name: str) -> dict[str, float]:
    work = WAYS[name]()
    stats.mean([0.0, 1.0])  # what is loaded once is not counted
    started = time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)
    return {"seconds": seconds, "megabytes": peak}


def measure(rounds: int) -> dict[str, Any]:
    found: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}
    for number in range(rounds):
        for name in WAYS:
            done = subprocess.run(
                [sys.executable, __file__, "--one", name], capture_output=True, text=True, check=True
            )
            found[name].append(json.loads(done.stdout))
            print(f"round {number + 1}: {name}: {found[name][-1]}", file=sys.stderr, flush=True)
    medians = {
        name: {key: round(statistics.median(row[key] for row in rows), 3) for key in rows[0]}
        for name, rows in found.items()
    }
    return {
        "medians": medians,
        "rounds": found,
        "limits": LIMITS,
        "kept": {
            name: all(medians[name][key] < most for key, most in limit.items())
            for name, limit in LIMITS.items()
        },
        "machine": {
            "cores": os.cpu_count(),
            "load": [round(one, 1) for one in os.getloadavg()],
            "python": platform.python_version(),
            "numpy": np.__version__,
        },
    }


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = ["| what | seconds | peak MB | limit |", "|---|---:|---:|---|"]
    for name, row in result["medians"].items():
        limit = result["limits"].get(name, {})
        words = ", ".join(f"{most:g} {key}" for key, most in limit.items())
        kept = f"{words}: {'kept' if result['kept'][name] else 'MISSED'}" if limit else ""
        lines.append(f"| {name} | {row['seconds']:.2f} | {row['megabytes']:,.0f} | {kept} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", choices=list(WAYS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(once(options.one)))
        return
    result = measure(options.rounds)
    print(table(result))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        print(f"\n{options.out}")
    if not all(result["kept"].values()):
        sys.exit("a limit is missed")


if __name__ == "__main__":
    main()
