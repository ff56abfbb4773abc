"""Compare two tutors' replies, dialogue by dialogue, into a stage of its own; see `judge.games` for one pair.

Replies belong together where the dialogue they answer is the same, the instructions to the tutor aside; of several
replies to it the first of A meets the first of B, and so on. What has no partner is counted.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from maieutic.core.budget import Budget, Spending
from maieutic.core.errors import EmptyCorpus, InputError
from maieutic.core.messages import Fault, Message, Problem, Role, Sampling, fingerprint
from maieutic.core.rows import read_stage
from maieutic.core.store import Stage
from maieutic.core.workers import Failed, check_rate, fault_of, run_pending
from maieutic.judging.games import Decided, Game, Side, Two, by_code, gathered, play, prompt_hash, settle
from maieutic.judging.judge import UNREADABLE, check_rubric, read_item
from maieutic.judging.judges import JUDGE
from maieutic.judging.rubrics import Rubric, load
from maieutic.models import ChatModel, identity


class Compared(NamedTuple):
    """What the stage holds, and what this call did."""

    pairs: int
    won: int
    """By A."""
    lost: int
    tied: int
    unscored: int
    """Pairs without a verdict of any judge that could be read."""
    code: int
    """Pairs that code decided: one reply reveals, the other does not."""
    equal: int
    """Pairs of equal replies, ties without a call."""
    alone: int
    """Replies of A or B without a partner."""
    calls: int
    """Calls to judges in this call."""
    seconds: float
    run: str


class _Reply(NamedTuple):
    row: dict[str, Any]
    turns: tuple[Message, ...]
    problem: Problem | None
    text: str


class _Pair(NamedTuple):
    a: _Reply
    b: _Reply
    place: int
    two: Two


def pairwise(
    a: Path | str,
    b: Path | str,
    out: Path | str,
    *,
    model: ChatModel | Sequence[ChatModel],
    rubric: str | Rubric = "socratic",
    samples: int = 1,
    sampling: Sampling = JUDGE,
    retries: int = 2,
    concurrency: int = 32,
    max_failure_rate: float = 0.05,
    budget: Budget | None = None,
) -> Compared:
    """Compare A's replies with B's into the stage folder `out`.

    Args:
        a: a candidates or judge stage, its run, or a file of such rows, of conversations that end on the tutor, or of
            rows with `prompt` and `output`.
        b: the same of the other tutor.
        out: the stage's folder; the same call goes on in it.
        model: the judge, or a panel that votes. Closed at the end.
        rubric: a rubric, its name, or its file.
        samples: votes of each judge for each pair; vote i is drawn with the seed + i. Each vote is two games.
        sampling: how a verdict is drawn.
        retries: re-asks of a verdict that cannot be read.
        concurrency: calls under way at once.
        max_failure_rate: unscored pairs, as a share, past which the run ends as failed.
        budget: what this call may spend.

    Raises:
        BudgetSpent, TooManyFailures, ModelError, InputError, EmptyCorpus, RunConflict, RunLocked, DiskFull.
    """
    rubric = load(rubric) if isinstance(rubric, str) else rubric
    panel = list(model) if isinstance(model, Sequence) else [model]
    if not panel:
        raise InputError("no judge is named", "Give --judge MODEL.")
    check_rubric(rubric, with_model=True)
    spending = Spending((budget or Budget()).checked([judge.id for judge in panel]))
    draws = [sampling.model_copy(update={"seed": sampling.seed + place}) for place in range(samples)]
    work = _Comparing(rubric, panel, draws, retries, concurrency, spending)
    return asyncio.run(work.run(a, b, Path(out), max_failure_rate))


class _Comparing:
    def __init__(
        self,
        rubric: Rubric,
        panel: list[ChatModel],
        draws: list[Sampling],
        retries: int,
        concurrency: int,
        spending: Spending,
    ) -> None:
        self._rubric, self._panel, self._draws = rubric, panel, draws
        self._retries, self._concurrency, self._spending = retries, concurrency, spending
        self._slots = asyncio.Semaphore(concurrency)
        self._identity = {
            "rubric": rubric.name,
            "rubric_hash": rubric.hash,
            "judges": [identity(model) for model in panel],
            "samples": len(draws),
            "sampling": draws[0].model_dump(),
            "retries": retries,
            "prompt": prompt_hash(),
        }

    async def run(self, a: Path | str, b: Path | str, out: Path, max_failure_rate: float) -> Compared:
        started = time.monotonic()
        pairs, alone = _matched(a, b)
        owed = [(self._key(pair), pair) for pair in pairs]
        data = sha256("\n".join(key for key, _ in owed).encode()).hexdigest()[:32]
        try:
            with Stage(out, {"stage": "pairwise", **self._identity, "data": data}) as stage:
                await asyncio.gather(*(model.check() for model in self._panel))
                await run_pending(
                    stage,
                    owed,
                    self._row,
                    self._given_up,
                    concurrency=self._concurrency,
                    max_failure_rate=max_failure_rate,
                    total=len(owed),
                    label="pairs",
                    spending=self._spending,
                )
                result = self._counted(stage, alone, time.monotonic() - started)
                first = next((row["error"] for row in stage.rows.rows() if row["error"]), "")
                check_rate(result.unscored, result.pairs, max_failure_rate, "pairs", first, UNREADABLE)
                stage.finish(
                    {name: value for name, value in result._asdict().items() if name not in ("run", "calls")}
                )
        finally:
            await asyncio.gather(*(model.close() for model in self._panel))
        return result

    def _key(self, pair: _Pair) -> str:
        two = pair.two
        said = [[turn.role, turn.content] for turn in two.turns]
        problem = two.problem.model_dump() if two.problem else None
        return fingerprint([said, problem, pair.place, two.a, two.b, self._identity])

    async def _row(self, pair: _Pair) -> dict[str, Any]:
        if decided := by_code(self._rubric, pair.two):
            return self._shape(pair, *decided, [], [])
        games = await gathered(
            play(
                model,
                self._rubric,
                pair.two,
                place,
                sampling=draw,
                retries=self._retries,
                slots=self._slots,
                pay=self._spending.charge,
            )
            for model in self._panel
            for place, draw in enumerate(self._draws)
        )
        played = [game for two in games for game in two]
        winner, votes = settle(played)
        return self._shape(pair, winner, Decided.JUDGE, played, votes)

    def _given_up(self, pair: _Pair, error: Failed) -> dict[str, Any]:
        shape = self._shape(pair, None, Decided.JUDGE, [], [])
        return {**shape, "fault": fault_of(error, Fault.JUDGE), "error": error.what}

    def _shape(
        self,
        pair: _Pair,
        winner: Side | None,
        decided: Decided,
        games: Sequence[Game],
        votes: Sequence[Side | None],
    ) -> dict[str, Any]:
        unread = next((game.error for game in games if game.error), None)
        return {
            "id": pair.a.row.get("id"),
            "index": pair.a.row.get("index"),
            "source": pair.a.row.get("source"),
            "messages": [turn.model_dump(mode="json") for turn in pair.two.turns],
            "problem": pair.two.problem.model_dump(exclude_none=True) if pair.two.problem else None,
            "place": pair.place,
            "a": {"text": pair.two.a, "model": pair.a.row.get("model")},
            "b": {"text": pair.two.b, "model": pair.b.row.get("model")},
            "rubric": self._rubric.name,
            "winner": winner,
            "decided": decided,
            "votes": list(votes),
            "games": [game.model_dump(mode="json") for game in games],
            "error": unread if winner is None else None,
        }

    def _counted(self, stage: Stage, alone: int, seconds: float) -> Compared:
        rows = [(row["winner"], row["decided"]) for row in stage.rows.rows()]
        winners = Counter(winner for winner, _ in rows)
        decided = Counter(by for _, by in rows)
        return Compared(
            len(rows),
            winners[Side.A],
            winners[Side.B],
            winners[Side.TIE],
            winners[None],
            decided[Decided.CODE],
            decided[Decided.EQUAL],
            alone,
            self._spending.replies,
            round(seconds, 3),
            str(stage.folder),
        )


def _matched(a: Path | str, b: Path | str) -> tuple[list[_Pair], int]:
    """The pairs in the order of A, and how many replies have no partner."""
    left, right = _replies(a), _replies(b)
    pairs = [
        _Pair(one, other, place, Two(one.turns, one.problem or other.problem, one.text, other.text))
        for key, several in left.items()
        for place, (one, other) in enumerate(zip(several, right.get(key, []), strict=False))
    ]
    total = sum(map(len, left.values())) + sum(map(len, right.values()))
    if not pairs:
        raise EmptyCorpus(
            f"{a} and {b} answer no dialogue in common", "Let both tutors answer the same dialogues."
        )
    return pairs, total - 2 * len(pairs)


def _replies(source: Path | str) -> dict[str, list[_Reply]]:
    """The replies to each dialogue, in their order; those of rows that failed are none."""
    found: dict[str, list[_Reply]] = {}
    for row in read_stage(source, "candidates"):
        item = read_item(_published(row))
        turns = tuple(turn for turn in item.turns if turn.role != Role.SYSTEM)
        key = fingerprint([[turn.role, turn.content] for turn in turns])
        found.setdefault(key, []).extend(_Reply(row, turns, item.problem, text) for text in item.texts)
    return found


def _published(row: dict[str, Any]) -> dict[str, Any]:
    """A row of socratic-llm's `evaluation/{dataset}/{model}.json` as one with candidates; others as they are."""
    if "messages" in row or not isinstance(row.get("prompt"), str) or not isinstance(row.get("output"), str):
        return row
    return {
        "key": row["key"],
        "id": fingerprint(row["prompt"])[:16],
        "messages": [{"role": "user", "content": row["prompt"]}],
        "candidates": [{"text": row["output"]}],
    }
