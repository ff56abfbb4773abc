"""Speed of this checkout beside another one, such as an earlier version: masks, simulate, SFT, DPO, candidates.

    git worktree add ../before REVISION
    python benchmarks/versions.py ../before --out benchmarks/results/versions.json

Each benchmark runs in both checkouts in turn, with the checkout's own sources and scripts, `--rounds` times. Printed are
the medians of both rates, and the median of the ratios within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent.parent


class Work(NamedTuple):
    script: str
    options: tuple[str, ...]
    rate: Callable[[dict[str, Any]], float]
    unit: str


def _mask_rate(found: dict[str, Any]) -> float:
    rates = found["tokens_per_second"]
    return next(rate for name, rate in rates.items() if name in ("ours, one process", "ours, 1 process"))


WORKS = {
    "masks": Work("corpora.py", ("--conversations", "500"), _mask_rate, "tokens/s"),
    "simulate": Work(
        "simulate.py", ("--quick", "--slots", "64"), lambda f: f["served"][0]["share"]["ours"], "of bound"
    ),
    "SFT": Work(
        "train_sft.py",
        ("--size", "10m", "--way", "train sft"),
        lambda f: f["table"]["10m"]["train sft"]["rate"],
        "tokens/s",
    ),
    "DPO": Work(
        "train_dpo.py",
        ("--size", "10m", "--way", "train dpo"),
        lambda f: f["table"]["10m"]["train dpo"]["rate"],
        "pairs/s",
    ),
    "candidates": Work(
        "tutor.py",
        ("--size", "10m", "--way", "candidates"),
        lambda f: f["table"]["10m"]["candidates"]["rate"],
        "replies/s",
    ),
}


def measured(checkout: Path, work: Work) -> float:
    """One round of a benchmark in a checkout."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        call = [
            sys.executable,
            f"benchmarks/{work.script}",
            "--rounds",
            "1",
            *work.options,
            "--out",
            str(out),
        ]
        env = {**os.environ, "PYTHONPATH": str(checkout / "src")}
        done = subprocess.run(call, cwd=checkout, env=env, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{checkout}: {work.script}: {done.stderr[-3000:]}")
        return work.rate(json.loads(out.read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("other", type=Path, help="the other checkout")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=WORKS, action="append")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    options = parser.parse_args()
    os.environ.setdefault("MAIEUTIC_DATA", str(HERE.parent / "shared" / "data"))
    found = {}
    print("| work | this | other | times |\n|---|---:|---:|---:|", flush=True)
    for name in options.only or WORKS:
        pairs = [
            (measured(HERE, WORKS[name]), measured(options.other.resolve(), WORKS[name]))
            for _ in range(options.rounds)
        ]
        mine, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
        times = statistics.median(a / b for a, b in pairs)
        found[name] = {
            "unit": WORKS[name].unit,
            "pairs": pairs,
            "this": mine,
            "other": theirs,
            "times": times,
        }
        print(f"| {name}, {WORKS[name].unit} | {mine:,.4g} | {theirs:,.4g} | {times:.2f} |", flush=True)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
