"""Peak memory and time of the corpus commands on synthetic conversations (by default 200,000, about 1 GB).

    python benchmarks/corpora_memory.py [--conversations N] [--folder DIR] [--json FILE]

Each command runs in a process of its own, so its peak is its own. One conversation in ten is an exact duplicate of an
earlier one and one in twenty a near one. The files are removed at the end.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson

LIMIT_MB = 1500
SYLLABLES = "ba co di fu ge ha jo ki la mo ne po qua ri sa tu ve wo xa ze str ent ing ous ly er"
COMMON = (
    "the a to of and is in that it for you with on as this be are or can what how not if by from at have which one all "
    "would there their more some about when them other into than then only time people first also after where because "
    "should could these very well work way even new use make know take see come think look want give find tell ask "
    "try leave call good great small large different important example number question answer problem point case "
    "part place water school world family student teacher system program group country money story fact month right "
    "end member law city study book word business issue side kind head house service friend father power hour game line"
)
CODE = "\n```python\ndef f(x):\n    return [x * k for k in range(10) if k % 3]\n```\n"
FORMULA = " $\\frac{a_1}{b^2} + \\sqrt{c}$ "


def vocabulary(rng: np.random.Generator, size: int = 40_000) -> np.ndarray:
    syllables = SYLLABLES.split()
    parts = rng.integers(0, len(syllables), (size, 3))
    return np.array([*COMMON.split(), *("".join(syllables[part] for part in row) for row in parts)], object)


def conversations(count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    words = vocabulary(rng)
    common = len(COMMON.split())
    recent: list[dict[str, Any]] = []
    for number in range(count):
        draw = rng.random()
        if recent and draw < 0.15:
            old = recent[int(rng.integers(len(recent)))]["messages"]
            turns = [dict(turn) for turn in old]
            if draw < 0.05:  # a near duplicate: other words at the end
                turns[-1]["content"] += " " + " ".join(words[rng.integers(0, 500, 8)])
        else:
            sizes = [
                int(rng.integers(8, 60)) if turn % 2 == 0 else int(rng.integers(80, 260)) for turn in range(8)
            ]
            rare = rng.integers(common, len(words), sum(sizes))
            text = words[np.where(rng.random(sum(sizes)) < 0.7, rng.integers(0, common, sum(sizes)), rare)]
            turns, at = [], 0
            for place, size in enumerate(sizes):
                said = " ".join(text[at : at + size])
                extra = CODE if rng.random() < 0.1 else FORMULA if rng.random() < 0.1 else ""
                turns.append({"role": ("user", "assistant")[place % 2], "content": said + extra})
                at += size
        row = {"id": f"c{number}", "messages": turns, "user_id": f"u{number % 5000}", "source": "synthetic"}
        if len(recent) < 2000:
            recent.append(row)
        else:
            recent[int(rng.integers(2000))] = row
        yield row


def measured(arguments: list[str]) -> dict[str, Any]:
    """Run `maieutic ARGUMENTS` and say how long it took and how much memory it held at most."""
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "maieutic", *arguments, "--json"], stdout=subprocess.PIPE
    )
    assert process.stdout
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    if status:
        raise SystemExit(f"maieutic {' '.join(arguments)} failed")
    process.returncode = 0
    return {
        "command": arguments[0],
        "seconds": round(seconds, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mb": round(usage.ru_maxrss / 1024),
        "result": orjson.loads(out),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--conversations", type=int, default=200_000)
    parser.add_argument("--folder", type=Path, help="Where to work (default: a temporary folder).")
    parser.add_argument("--json", type=Path, help="Write the numbers here too.")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="corpora-", dir=given.folder))
    try:
        raw = folder / "raw.jsonl"
        with raw.open("wb") as file:
            for row in conversations(given.conversations):
                file.write(orjson.dumps(row) + b"\n")
        size = raw.stat().st_size
        print(f"{given.conversations} conversations, {size / 1e6:.0f} MB")
        corpus, cleaned, parts = folder / "corpus.jsonl", folder / "clean.jsonl", folder / "parts"
        runs = {
            "import": ["import", str(raw), "--out", str(corpus)],
            "clean": ["clean", str(corpus), "--out", str(folder / "plain.jsonl")],
            "clean, near": ["clean", str(corpus), "--filters", "near", "--out", str(cleaned)],
            "clean, platolm": [
                "clean",
                str(corpus),
                "--preset",
                "platolm",
                "--out",
                str(folder / "platolm.jsonl"),
            ],
            "clean, all": ["clean", str(corpus), "--filters", "all", "--out", str(folder / "all.jsonl")],
            "split": ["split", str(cleaned), "--by", "user", "--out", str(parts)],
            "split --check": ["split", "--check", str(parts / "train.jsonl"), str(parts / "test.jsonl")],
            "stats": ["stats", str(cleaned)],
        }
        found = {}
        for name, arguments in runs.items():
            found[name] = measured(arguments)
            line = found[name]
            print(
                f"{name:16} {line['seconds']:8.1f} s {line['cpu_seconds']:8.1f} s CPU {line['peak_mb']:6} MB",
                flush=True,
            )
            if given.json:  # after each, so that a run that is cut short still says something
                shape = {
                    "conversations": given.conversations,
                    "bytes": size,
                    "limit_mb": LIMIT_MB,
                    "runs": found,
                }
                given.json.write_bytes(orjson.dumps(shape, option=orjson.OPT_INDENT_2))
        if over := [name for name, line in found.items() if line["peak_mb"] > LIMIT_MB]:
            raise SystemExit(f"more than {LIMIT_MB} MB: {', '.join(over)}")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
