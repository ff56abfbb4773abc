"""The closed loop in the closed world, for several seeds: what becomes of pupils under five tutors.

    python benchmarks/dialogue.py --out benchmarks/results/dialogue.json

Runs the recipe `closed-loop-small` for each seed (kept under `--runs`, so that a stopped benchmark goes on) and writes
the figures as JSON, and as Markdown tables beside it. `--part validation` is what settings are fixed on; the test part
is read once, in the end. Differences are paired by start, intervals resample starts; those of all seeds are pooled.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rounds import where

from maieutic.core import statistics as stats
from maieutic.core.store import read_json
from maieutic.evals.dialogue import compare_starts, load_outcomes, metrics_by_start
from maieutic.recipes import runner
from maieutic.recipes.demo.base import one_thread
from maieutic.report.page import write_report
from maieutic.rollouts.pre_post_test import load_solve_rates

TUTORS = ("control-silent", "control-telling", "base", "single", "outcome")
STUDENTS = ("other", "second")
NAMES = {
    "control-silent": "no tutor",
    "control-telling": "telling",
    "base": "base",
    "single": "single-reply DPO",
    "outcome": "outcome DPO",
    "other": "the other trained student",
    "second": "the scripted pupil",
}
PAIRS = (("single", "base"), ("outcome", "base"), ("outcome", "single"))
MEASURES = {
    "solved": "solved without telling",
    "told": "told",
    "collapse": "gave in when pressed",
    "delta_solve": "Δ solve",
    "turns": "turns",
}


def ran(seed: int, folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """One seed's run, and what it found and took."""
    plan = runner.resolve("closed-loop-small", folder, {**settings, "seed": seed})
    with one_thread():
        stages = runner.run_plan(plan)
    write_report([folder])
    seconds = read_json(folder / "timings.json")
    rounds = [name.removeprefix("mix-") for name in stages if name.startswith("mix-")]
    return {
        "seed": seed,
        "seconds": round(sum(seconds.values()), 1),
        "by_stage": seconds,
        "evaluation": {key: stages["evaluation"][key] for key in ("tutors", "differences")},
        "single_turn": {
            "base": stages["scores-single"]["against"],
            **{arm: stages[f"scores-{arm}"]["scores"] for arm in ("single", "outcome")},
        },
        "pairs": {
            f"{arm}-{number}": stages[f"{arm}-pairs-{number}"]
            for arm in ("single", "outcome")
            for number in rounds
        },
        "plays": {number: stages[f"continuations-{number}"] for number in rounds},
        "mixed": {number: stages[f"mix-{number}"] for number in rounds},
        "simulators": {name: stages[f"fidelity-{name}"]["metrics"] for name in ("student", "other")},
    }


def sides(folders: list[Path], tutor: str, student: str) -> dict[Any, Any]:
    """The starts of all seeds with what became of them under one tutor."""
    found: dict[Any, Any] = {}
    for folder in folders:
        held = folder / "evaluation"
        tries = load_solve_rates(held / f"before-{student}", held / f"after-{tutor}-with-{student}")
        for (start, kind), (unit, row) in metrics_by_start(
            load_outcomes(held / f"{tutor}-with-{student}"), tries
        ).items():
            found[f"{folder.name} {start}", kind] = (f"{folder.name} {unit}", row)
    return found


def pooled(folders: list[Path]) -> dict[str, Any]:
    """Over the starts of all seeds: each tutor's means, and the paired differences."""
    every = {(t, s): sides(folders, t, s) for t in TUTORS for s in STUDENTS}
    means = {
        student: {tutor: {name: mean(every[tutor, student], name) for name in MEASURES} for tutor in TUTORS}
        for student in STUDENTS
    }
    gaps = {
        student: {
            f"{a} - {b}": compare_starts(every[a, student], every[b, student], f"{a} and {b}")
            for a, b in PAIRS
        }
        for student in STUDENTS
    }
    return {"means": means, "differences": gaps}


def mean(side: dict[Any, Any], name: str) -> dict[str, Any]:
    """A metric's mean over starts."""
    known = [(row[name][0] / row[name][1], unit) for unit, row in side.values() if row.get(name, (0, 0))[1]]
    return stats.mean([value for value, _ in known], [unit for _, unit in known]).json()


def number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}".replace("-0.", "−.").replace("0.", ".") if abs(value) < 1 else f"{value:.2f}"


def with_ci(value: float | None, ci: Any) -> str:
    return number(value) + (f" ({number(ci[0])} to {number(ci[1])})" if ci else "")


def lines(found: dict[str, Any]) -> Iterator[str]:
    """The tables, as Markdown."""
    for student in STUDENTS:
        yield f"\n### With {NAMES[student]}\n"
        seeds = [run["seed"] for run in found["runs"]]
        yield (
            "| tutor | "
            + " | ".join(f"solved, seed {seed}" for seed in seeds)
            + " | "
            + " | ".join([f"{label}, all seeds" for label in MEASURES.values()])
            + " |"
        )
        yield "|---" * (1 + len(seeds) + len(MEASURES)) + "|"
        for tutor in TUTORS:
            own = [run["evaluation"]["tutors"][tutor][student]["solved"] for run in found["runs"]]
            whole = found["pooled"]["means"][student][tutor]
            cells = [with_ci(one["value"], one["ci"]) for one in (*own, *(whole[name] for name in MEASURES))]
            yield f"| {NAMES[tutor]} | " + " | ".join(cells) + " |"
        yield "\n| difference | " + " | ".join(MEASURES.values()) + " |"
        yield "|---" * (1 + len(MEASURES)) + "|"
        for pair, gaps in found["pooled"]["differences"][student].items():
            a, b = pair.split(" - ")
            cells = [
                with_ci(gap["difference"], gap["ci"]) if (gap := gaps.get(name)) else "–" for name in MEASURES
            ]
            yield f"| {NAMES[a]} less {NAMES[b]} | " + " | ".join(cells) + " |"
        yield (
            "\n| tutor, all seeds | "
            + " | ".join(f"{what}@{k}" for what in ("Success", "Telling") for k in (1, 2, 3))
            + " |"
        )
        yield "|---" * 7 + "|"
        for tutor in TUTORS:
            yield f"| {NAMES[tutor]} | " + " | ".join(at(found, tutor, student)) + " |"
    yield from single_turn(found)
    yield from taught(found)


def at(found: dict[str, Any], tutor: str, student: str) -> Iterator[str]:
    """Success@k and Telling@k, averaged over the seeds; a run whose dialogues were over before k has its last."""
    for what in ("success", "telling"):
        for k in (1, 2, 3):
            tables = [run["evaluation"]["tutors"][tutor][student]["at"] for run in found["runs"]]
            values = [table[min(k, len(table)) - 1][what]["value"] for table in tables]
            yield number(sum(values) / len(values))


def single_turn(found: dict[str, Any]) -> Iterator[str]:
    """The greedy single replies, judged by code."""
    names = ("summary_score", "asks_question", "reveals_answer", "takes_up", "misjudges")
    yield "\n### Single replies\n"
    yield "| seed | tutor | " + " | ".join(name.replace("_", " ") for name in names) + " |"
    yield "|---" * (2 + len(names)) + "|"
    for run in found["runs"]:
        for tutor, scores in run["single_turn"].items():
            criteria = scores.get("criteria", {})
            values = [scores.get(name, criteria.get(name, {}).get("value")) for name in names]
            yield f"| {run['seed']} | {NAMES[tutor]} | " + " | ".join(map(number, values)) + " |"


def taught(found: dict[str, Any]) -> Iterator[str]:
    """What the pairs were made of, and what the plays cost."""
    yield "\n### Pairs and plays\n"
    yield (
        "| seed | plays | lost | calls | seconds | r of rubric and outcome | r within a dialogue | "
        "outcome pairs | single-reply pairs | seconds in all |"
    )
    yield "|---" * 10 + "|"
    for run in found["runs"]:
        for key, mixed in run["mixed"].items():
            play = run["plays"][key]
            cells = [
                *(f"{one:,}" for one in (mixed["plays"], mixed["lost"], play["replies"])),
                f"{run['by_stage'][f'continuations-{key}']:.0f}",
                *(with_ci(mixed[name]["value"], mixed[name]["ci"]) for name in ("agreement", "within")),
                *(f"{run['pairs'][f'{arm}-{key}']['pairs']}" for arm in ("outcome", "single")),
                f"{run['seconds']:.0f}",
            ]
            yield f"| {run['seed']} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/dialogue.json"))
    parser.add_argument("--runs", type=Path, help="Where the runs are kept; default: beside --out.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--part", choices=("validation", "test"), default="test")
    args = parser.parse_args()
    runs = args.runs or args.out.with_name(f"dialogue-{args.part}")
    started = time.monotonic()
    made = []
    for seed in args.seeds:
        made.append(ran(seed, runs / f"seed-{seed}", {"part": args.part}))
        print(f"seed {seed}: {made[-1]['seconds']:.0f} s", file=sys.stderr, flush=True)
    found = {
        **where("cpu"),
        "part": args.part,
        "wall_seconds": round(time.monotonic() - started, 1),
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "runs": made,
        "pooled": pooled([runs / f"seed-{seed}" for seed in args.seeds]),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=2), encoding="utf-8")
    text = "\n".join(lines(found)) + "\n"
    args.out.with_suffix(".md").write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
