"""Judged replies with what came of them: score = (1 - w) · rubric + w · outcome, ready for `prefer`.

A reply's outcome is the share of its plays that were solved without telling; a reply that states the answer has outcome
0 without a play. Plays lost to the student simulator, the network or us are left out and counted; a reply with no play
left has no outcome, and where the weight asks for one it is unscored.

The rows are those of a judge stage, with `rubric_scores`, `outcomes`, `plays` and `lost` beside `scores`.
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
from maieutic.core.rows import CandidateRow, Episode, parse, read_stage, read_step
from maieutic.core.store import Stage

WEIGHT = 0.5


class Mixed(NamedTuple):
    """What the mixed rows hold."""

    prompts: int
    replies: int
    scored: int
    unscored: int
    """Replies without a mixed score: no verdict, no known answer, or no play left."""
    told: int
    """Replies that state the answer: outcome 0 without a play."""
    plays: int
    """Plays that count, each once, however many equal replies share it."""
    lost: int
    """Plays left out."""
    rubric: float | None
    """Means over the replies that have both."""
    outcome: float | None
    agreement: Estimate
    """Pearson's r of rubric score and outcome over the replies, resampled by prompt."""
    within: Estimate
    """The same after each prompt's own means are taken off: does the rubric know which of two replies is better?"""
    margin: float
    """One standard error of the difference of two replies' mixed scores, at its largest: what is closer is noise."""
    run: str

    def json(self) -> dict[str, Any]:
        """As one JSON object."""
        estimates = {"agreement": self.agreement.json(), "within": self.within.json()}
        return {**self._asdict(), **estimates}


def mix(judged: Path | str, played: Path | str, out: Path | str, *, weight: float = WEIGHT) -> Mixed:
    """Write the judged rows with mixed scores into the stage folder `out`.

    Args:
        judged: a judge stage, its run, or a file of its rows.
        played: the stage of `play` over the same replies.
        out: the stage's folder.
        weight: of the outcome, from 0 (the rubric alone) to 1.

    Raises:
        InputError: the weight is none, or the plays are of other replies.
        EmptyCorpus, RunConflict, RunLocked, DiskFull.
    """
    if not 0 <= weight <= 1:
        raise InputError(f"{weight} is no weight", "Give a number from 0 (the rubric alone) to 1.")
    found = solved_by_start(read_step(Episode, played, "play"))
    rows = [_mixed(row, found, weight) for row in read_stage(judged, "judge")]
    if not rows:
        raise EmptyCorpus(f"{judged}: no judged row", "Judge some candidates first.")
    if not any(count for row in rows for count in row["plays"]):
        raise InputError(f"{played} has no play of a reply of {judged}", "Play the same candidates first.")
    with Stage(out, {"stage": "mix", "weight": weight, "rows": _hash(rows)}) as stage:
        for row in rows:
            if row["key"] not in stage.rows:
                stage.rows.append(row["key"], {key: value for key, value in row.items() if key != "key"})
        result = _counted(rows, found, weight, str(out))
        stage.finish({**result.json(), "run": None})
    return result


def _starts(row: Mapping[str, Any]) -> list[Start]:
    return starts(parse(CandidateRow, row, f"row {row.get('id', row.get('key'))}"))


def _mixed(
    row: Mapping[str, Any], found: Mapping[str, Sequence[bool | None]], weight: float
) -> dict[str, Any]:
    outcomes: list[float | None] = []
    counted: list[int] = []
    lost: list[int] = []
    for reply in _starts(row):
        ends = found.get(reply.start.id, ()) if reply.start else ()
        known = [solved for solved in ends if solved is not None]
        counted.append(len(known))
        lost.append(len(ends) - len(known))
        outcomes.append(0.0 if reply.told else sum(known) / len(known) if known else None)
    rubric = list(row.get("scores") or [None] * len(outcomes))
    scores = [_score(*both, weight) for both in zip(rubric, outcomes, strict=True)]
    return {
        **row,
        "scores": scores,
        "rubric_scores": rubric,
        "outcomes": outcomes,
        "plays": counted,
        "lost": lost,
        "weight": weight,
    }


def _score(rubric: float | None, outcome: float | None, weight: float) -> float | None:
    """The mixed score; null where a part that has weight is missing."""
    parts = [(1 - weight, rubric), (weight, outcome)]
    if any(value is None for share, value in parts if share):
        return None
    return round(sum(share * value for share, value in parts if share and value is not None), 9)


def noise(m: int, weight: float) -> float:
    """One standard error of the difference between two replies' mixed scores, at its largest.

    Each outcome is a share of m plays, whose variance is at most 1/(4m); the rubric is taken as exact.
    """
    return weight * math.sqrt(0.5 / m)


def _hash(rows: Sequence[Mapping[str, Any]]) -> str:
    return fingerprint([[row["key"], row["rubric_scores"], row["outcomes"], row["plays"]] for row in rows])


def _counted(
    rows: Sequence[Mapping[str, Any]], found: Mapping[str, Sequence[bool | None]], weight: float, run: str
) -> Mixed:
    scores = [score for row in rows for score in row["scores"]]
    started = {reply.start.id for row in rows for reply in _starts(row) if reply.start}
    ends = [solved for start in started for solved in found.get(start, ())]
    both = list(_both(rows))
    plays_a_reply = max(count for row in rows for count in row["plays"])
    return Mixed(
        prompts=len(rows),
        replies=len(scores),
        scored=sum(score is not None for score in scores),
        unscored=sum(score is None for score in scores),
        told=sum(reply.told for row in rows for reply in _starts(row)),
        plays=sum(solved is not None for solved in ends),
        lost=sum(solved is None for solved in ends),
        rubric=float(np.mean([one.rubric for one in both])) if both else None,
        outcome=float(np.mean([one.outcome for one in both])) if both else None,
        agreement=_pearson(both),
        within=_pearson(_centred(both)),
        margin=noise(plays_a_reply, weight),
        run=run,
    )


class _Both(NamedTuple):
    prompt: int
    rubric: float
    outcome: float


def _both(rows: Sequence[Mapping[str, Any]]) -> Iterator[_Both]:
    """The replies that have a rubric score and an outcome; equal texts of a prompt count once."""
    for prompt, row in enumerate(rows):
        seen = {}
        for candidate, rubric, outcome in zip(
            row["candidates"], row["rubric_scores"], row["outcomes"], strict=True
        ):
            if rubric is not None and outcome is not None:
                seen[candidate["text"]] = _Both(prompt, rubric, outcome)
        yield from seen.values()


def _centred(both: Sequence[_Both]) -> list[_Both]:
    """The same with each prompt's means taken off; prompts with one reply say nothing."""
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
