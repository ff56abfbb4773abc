"""Rewards of judged replies: score = (1 - weight) · rubric + weight · outcome, for `preferences`.

A reply's outcome is the share of its continuations in which the student solved the problem and the tutor did not tell
the answer; a reply that states the answer has outcome 0 without a continuation. Continuations that failed because of
the student simulator, the network or this program are left out and counted. A reply without a continuation left has no
outcome; where the outcome has weight, the reply is unscored.

The rows are those of a judge step, with `rubric_scores`, `outcomes`, `plays` and `lost` in addition to `scores`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maieutic.checks.continuations import Start, solved_by_start, starts
from maieutic.core import statistics as stats
from maieutic.core.errors import EmptyCorpus, InputError
from maieutic.core.messages import Estimate, fingerprint
from maieutic.core.rows import Episode, JudgedRow, RewardRow, read_step
from maieutic.core.store import Stage
from maieutic.judging.steps import Rewards, RewardsResult

Solved = Mapping[str, Sequence[bool | None]]
"""For each start, whether its continuations were solved; null where one failed."""


class Rewarded(NamedTuple):
    """A row, and where the continuations of its candidates start."""

    row: RewardRow
    starts: list[Start]


def write_rewards(step: Rewards, out: Path) -> RewardsResult:
    """Write the judged rows with rewards into the run folder `out`.

    Raises:
        InputError: the continuations are of other replies.
        EmptyCorpus, RunConflict, RunLocked, DiskFull.
    """
    solved = solved_by_start(read_step(Episode, step.continuations, "continuations"))
    rewarded = [reward(row, solved, step.weight) for row in read_step(JudgedRow, step.data, "judge")]
    rows = [one.row for one in rewarded]
    if not rows:
        raise EmptyCorpus(f"{step.data}: no judged row", "Run `maieutic judge` on candidates first.")
    if not any(count for row in rows for count in row.plays):
        raise InputError(
            f"{step.continuations} continues no reply of {step.data}",
            "Run `maieutic continuations` on the same candidates first.",
        )
    with Stage(out, {"stage": "rewards", "weight": step.weight, "rows": _hash(rows)}) as stage:
        for row in rows:
            if row.key not in stage.rows:
                stage.rows.append(row.key, row.row())
        result = _counted(rewarded, solved, step.weight, str(out))
        stage.finish({**result.json(), "run": None})
    return result


def reward(row: JudgedRow, solved: Solved, weight: float) -> Rewarded:
    """A judged row with rewards, given which continuations were solved."""
    found = starts(row)
    outcomes: list[float | None] = []
    counted: list[int] = []
    failed: list[int] = []
    for candidate in found:
        ends = solved.get(candidate.start.id, ()) if candidate.start else ()
        known = [one for one in ends if one is not None]
        counted.append(len(known))
        failed.append(len(ends) - len(known))
        outcomes.append(0.0 if candidate.told else sum(known) / len(known) if known else None)
    fields = {
        "scores": [combined(*both, weight) for both in zip(row.scores, outcomes, strict=True)],
        "rubric_scores": row.scores,
        "outcomes": outcomes,
        "plays": counted,
        "lost": failed,
        "weight": weight,
    }
    return Rewarded(RewardRow.model_validate({**row.model_dump(), **fields}), found)


def combined(rubric: float | None, outcome: float | None, weight: float) -> float | None:
    """The reward; null where a part that has weight is missing."""
    parts = [(1 - weight, rubric), (weight, outcome)]
    if any(value is None for share, value in parts if share):
        return None
    return round(sum(share * value for share, value in parts if share and value is not None), 9)


def noise(m: int, weight: float) -> float:
    """One standard error of the difference between two replies' rewards, at its largest.

    Each outcome is a share of m continuations, whose variance is at most 1/(4m); the rubric is taken as exact.
    """
    return weight * math.sqrt(0.5 / m)


def _hash(rows: Sequence[RewardRow]) -> str:
    return fingerprint([[row.key, row.rubric_scores, row.outcomes, row.plays] for row in rows])


def _counted(rewarded: Sequence[Rewarded], solved: Solved, weight: float, run: str) -> RewardsResult:
    rows = [one.row for one in rewarded]
    scores = [score for row in rows for score in row.scores]
    continued = {reply.start.id for one in rewarded for reply in one.starts if reply.start}
    ends = [one for start in continued for one in solved.get(start, ())]
    both = list(_both(rows))
    return RewardsResult(
        run=run,
        prompts=len(rows),
        replies=len(scores),
        scored=sum(score is not None for score in scores),
        unscored=sum(score is None for score in scores),
        told=sum(reply.told for one in rewarded for reply in one.starts),
        plays=sum(one is not None for one in ends),
        lost=sum(one is None for one in ends),
        rubric=float(np.mean([one.rubric for one in both])) if both else None,
        outcome=float(np.mean([one.outcome for one in both])) if both else None,
        agreement=_pearson(both),
        within=_pearson(_centred(both)),
        margin=noise(max(count for row in rows for count in row.plays), weight),
    )


class _Both(NamedTuple):
    prompt: int
    rubric: float
    outcome: float


def _both(rows: Sequence[RewardRow]) -> Iterator[_Both]:
    """The replies that have a rubric score and an outcome; equal texts of a prompt count once."""
    for prompt, row in enumerate(rows):
        seen = {}
        for candidate, rubric, outcome in zip(row.candidates, row.rubric_scores, row.outcomes, strict=True):
            if rubric is not None and outcome is not None:
                seen[candidate.text] = _Both(prompt, rubric, outcome)
        yield from seen.values()


def _centred(both: Sequence[_Both]) -> list[_Both]:
    """The scores and outcomes minus their means over the prompt; prompts with one reply are left out."""
    by_prompt: dict[int, list[_Both]] = {}
    for one in both:
        by_prompt.setdefault(one.prompt, []).append(one)
    return [
        _Both(
            one.prompt,
            one.rubric - sum(x.rubric for x in group) / len(group),
            one.outcome - sum(x.outcome for x in group) / len(group),
        )
        for group in by_prompt.values()
        if len(group) > 1
        for one in group
    ]


def _pearson(both: Sequence[_Both]) -> Estimate:
    columns = [(1.0, x.rubric, x.outcome, x.rubric**2, x.outcome**2, x.rubric * x.outcome) for x in both]
    return stats.bootstrap(
        columns,
        _r,
        [one.prompt for one in both],
        undefined_because="rubric or outcome does not vary",
    )


def _r(sums: stats.Array) -> Any:
    """Pearson's r from column sums: n, x, y, x², y², xy."""
    n, x, y, xx, yy, xy = sums.T
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.sqrt(np.maximum(xx / n - (x / n) ** 2, 0) * np.maximum(yy / n - (y / n) ** 2, 0))
        r = (xy / n - x * y / n**2) / spread
    return np.where(spread > 1e-12, r, np.nan)
