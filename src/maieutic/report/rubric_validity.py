"""What plays say of the rubric that the replies were scored by, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from maieutic.report.collect import Run
from maieutic.report.numbers import num, sure

TUTORS = {"control-silent": "no tutor", "control-telling": "one that tells"}
"""What the controls are called on the page."""


class Given(NamedTuple):
    """Replies that got one score by the rubric, and what came of their plays."""

    rubric: float
    outcome: float
    n: int


class Worth(NamedTuple):
    """What the plays say of a rubric."""

    label: str
    given: list[Given]
    within: Mapping[str, Any]
    """Pearson's r among the replies of one dialogue, as an estimate."""


def tutor_name(name: str) -> str:
    """A tutor as people call it."""
    return TUTORS.get(name, name)


def worths(runs: Sequence[Run]) -> list[Worth]:
    """The mean outcome by the rubric's score, for each stage of `mix`; equal replies to a dialogue count once."""
    found = []
    for stage in (stage for run in runs for stage in run.stages if stage.kind == "mix"):
        sums: dict[float, tuple[float, int]] = {}
        for row in stage.rows():
            seen = {
                str(candidate["text"]): (round(float(rubric), 2), float(outcome))
                for candidate, rubric, outcome in zip(
                    row["candidates"], row["rubric_scores"], row["outcomes"], strict=True
                )
                if rubric is not None and outcome is not None
            }
            for rubric, outcome in seen.values():
                total, n = sums.get(rubric, (0.0, 0))
                sums[rubric] = (total + outcome, n + 1)
        given = [Given(rubric, total / n, n) for rubric, (total, n) in sorted(sums.items())]
        if given:
            found.append(Worth(stage.label, given, (stage.manifest or {}).get("within") or {}))
    return found


def said(worth: Worth) -> str:
    """A sentence for those who cannot see the figure."""
    parts = [f"rubric {num(one.rubric)}: {num(one.outcome)} (n = {one.n})" for one in worth.given]
    r = worth.within
    tail = f" Within a dialogue r {num(r['value'])} ({sure(r)})." if r.get("value") is not None else ""
    return f"{worth.label}, mean outcome by score: {', '.join(parts)}.{tail}"
