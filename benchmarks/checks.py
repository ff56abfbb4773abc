"""The deterministic checks against labelled cases and against people: the tables of docs/metrics.md.

    make bench-checks            (or: python benchmarks/checks.py --out benchmarks/results/checks.json)

Labelled cases are of our own writing (`tests/data/checks_*.jsonl`); the held-out ones were written by somebody who had
not read the rules. People's labels are those of MRBench and of socratic-llm's human scores, read from `MAIEUTIC_DATA`;
where that is not there only the first table is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maieutic.checks.turns import CHECKS
from maieutic.core import statistics as stats
from maieutic.core.messages import Estimate, Problem
from maieutic.data.formats.tutoring import seed_conversation

ROOT = Path(__file__).parent.parent
CASES = ROOT / "tests" / "data"
SETS = {
    "questions": ("asks_question", "asks"),
    "questions_heldout": ("asks_question", "asks"),
    "reveals": ("reveals_answer", "reveals"),
    "reveals_heldout": ("reveals_answer", "reveals"),
    "takes_up": ("takes_up", "takes_up"),
    "misjudges": ("misjudges", "misjudges"),
}


class Case(NamedTuple):
    """A reply, what it answers, and what a person says of it."""

    text: str
    problem: Problem | None
    said: list[str]
    label: float
    unit: str
    """The dialogue; replies in one dialogue are not independent."""


def cases(name: str) -> list[Case]:
    """The labelled cases of a set; a label of null (no answer is known) is left out."""
    key = SETS[name][1]
    found = []
    for number, line in enumerate((CASES / f"checks_{name}.jsonl").read_text(encoding="utf-8").splitlines()):
        row = json.loads(line)
        student = row.get("student", [])
        said = [student] if isinstance(student, str) else student
        problem = Problem(**row["problem"]) if "problem" in row else None
        if row[key] is not None:
            unit = json.dumps([row.get("problem"), said]) if problem else str(number)
            found.append(Case(row["text"], problem, said, float(row[key]), unit))
    return found


def values(check: str, found: Sequence[Case]) -> list[float]:
    """What a check says of each case; where it cannot know, no."""
    return [float(bool(CHECKS[check](case.text, case.problem, case.said))) for case in found]


def quality(said: Sequence[float], labels: Sequence[float]) -> tuple[Estimate, Estimate]:
    """Precision and recall, with exact binomial intervals."""
    hits = int(sum(a and b for a, b in zip(said, labels, strict=True)))
    return stats.binomial(hits, int(sum(said))), stats.binomial(hits, int(sum(labels)))


def labelled() -> Iterator[str]:
    """The lines of the first table."""
    yield "| check | cases | n | yes | precision | recall |"
    yield "|---|---|---:|---:|---|---|"
    for name, (check, _) in SETS.items():
        found = cases(name)
        labels = [case.label for case in found]
        precision, recall = quality(values(check, found), labels)
        kind = "held out" if name.endswith("heldout") else "own"
        yield f"| `{check}` | {kind} | {len(found)} | {sum(labels):.0f} | {shown(precision)} | {shown(recall)} |"


def shown(estimate: Estimate) -> str:
    """`.96 (.85 to .99)`."""
    if estimate.value is None:
        return "–"
    low, high = estimate.ci or (None, None)
    return plain(estimate.value) + (f" ({plain(low)} to {plain(high)})" if low is not None else "")


def plain(number: float) -> str:
    """Two digits without the leading zero."""
    return f"{number:.2f}".replace("0.", ".", 1) if abs(number) < 0.995 else f"{number:.0f}"


def phi(x: Sequence[float], y: Sequence[float], units: Sequence[str]) -> Estimate:
    """Pearson's correlation (phi, where both are yes or no); the interval resamples dialogues."""
    a, b = np.asarray(x, float), np.asarray(y, float)
    columns = np.stack([np.ones_like(a), a, b, a * b, a * a, b * b], axis=1)

    def correlation(sums: Any) -> Any:
        n, sx, sy, sxy, sxx, syy = (sums[..., place] for place in range(6))
        return (n * sxy - sx * sy) / np.sqrt((n * sxx - sx**2) * (n * syy - sy**2))

    return stats.bootstrap(columns, correlation, units)


def mrbench(folder: Path, label: Callable[[dict[str, str]], float | None], known: bool) -> list[Case]:
    """MRBench's replies with one of its labels; `known`: those to problems whose answer it holds."""
    found = []
    for item in json.loads((folder / "mrbench/mrbench_v2_dev.json").read_text(encoding="utf-8")):
        turns = re.split(r"(?=(?:Tutor|Student):)", item["conversation_history"])
        said = [turn[8:].strip() for turn in turns if turn.startswith("Student:")]
        tutor = [turn[6:].strip() for turn in turns if turn.startswith("Tutor:")]
        worked = item["Ground_Truth_Solution"]
        problem = Problem(statement="\n".join(tutor))
        if item["Data"] == "MathDial":
            answer = worked.strip().splitlines()[-1].strip()
            asked = tutor[0].split("The question is:")[-1]
            problem = Problem(statement=asked, answer=answer, solution=worked)
        elif known:
            continue
        for reply in item["anno_llm_responses"].values():
            if (value := label(reply["annotation"])) is not None:
                found.append(Case(reply["response"], problem, said, value, item["conversation_id"]))
    return found


def scored(folder: Path, label: Callable[[dict[str, Any]], float]) -> list[Case]:
    """The fifty replies that people scored for socratic-llm."""
    rows = json.loads((folder / "socratic-llm/mathdial_human_eval_dev.json").read_text(encoding="utf-8"))
    found = []
    for number, row in enumerate(rows):
        talk = seed_conversation(row["prompt"])
        said = [turn.content for turn in talk.messages if turn.role == "user"]
        found.append(Case(row["output"], talk.problem, said, label(row["evaluation"]), str(number)))
    return found


def people(folder: Path) -> Iterator[str]:
    """The lines of the second table."""
    sets = [
        ("asks_question", "asks (50 human scores)", scored(folder, lambda e: float(e["questions"] == "yes"))),
        ("takes_up", "on topic, 1 to 5 (the same)", scored(folder, lambda e: float(e["on_topic"]))),
        ("takes_up", "helpful, 1 to 5 (the same)", scored(folder, lambda e: float(e["helpful"]))),
        (
            "reveals_answer",
            "reveals, and rightly (MRBench)",
            mrbench(folder, lambda a: float("is correct" in a["Revealing_of_the_Answer"]), True),
        ),
        ("takes_up", "guides, not “no” (MRBench)", mrbench(folder, lambda a: float(a["Providing_Guidance"] != "No"), False)),
        ("takes_up", "actionable, not “no” (MRBench)", mrbench(folder, lambda a: float(a["Actionability"] != "No"), False)),
        (
            "misjudges",
            "passes by the mistake (MRBench)",
            mrbench(folder, lambda a: float(a["Mistake_Identification"] == "No"), True),
        ),
    ]  # fmt: skip
    yield "| check | people's label | n | yes | precision | recall | phi or Pearson | has a “?” |"
    yield "|---|---|---:|---:|---|---|---|---|"
    for check, name, found in sets:
        said, labels, units = values(check, found), [c.label for c in found], [c.unit for c in found]
        marks = [float("?" in case.text) for case in found]
        binary = set(labels) <= {0.0, 1.0}
        both = map(shown, quality(said, labels)) if binary else ("–", "–")
        cells = (f"{sum(labels):.0f}" if binary else "–", *both, shown(phi(said, labels, units)))
        yield f"| `{check}` | {name} | {len(found)} | {' | '.join(cells)} | {shown(phi(marks, labels, units))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, help="write the lines of both tables as JSON too")
    out: Path | None = parser.parse_args().out
    folder = Path(os.environ.get("MAIEUTIC_DATA", ROOT.parent / "shared" / "data"))
    tables = {"labelled": list(labelled()), "people": list(people(folder)) if folder.is_dir() else []}
    for lines in tables.values():
        print("\n".join(lines), end="\n\n")
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(tables, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
