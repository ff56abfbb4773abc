"""Compare two tutors' replies to the same dialogues by a judge, each pair in both orders, into a run folder.

Two replies make a pair where the dialogue that they answer is the same, system messages aside; of several replies to
one dialogue the first of A is compared with the first of B, and so on. Unmatched replies are counted.

A judge that prefers a position rather than a reply contradicts itself when the replies change places: such a pair is a
tie. Code decides first: a reply that reveals the known answer loses to one that does not, and equal replies tie.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from maieutic.checks.turns import CHECKS
from maieutic.core import prompts
from maieutic.core.budget import Spending
from maieutic.core.errors import EmptyCorpus
from maieutic.core.messages import Fault, Message, Problem, Record, Reply, Role, Sampling, fingerprint
from maieutic.core.prompts import fenced
from maieutic.core.rows import CandidateRow, ComparedRow
from maieutic.core.store import Stage
from maieutic.core.workers import Failed, check_rate, fault_of, open_stage, run_async, run_pending
from maieutic.judging.judge import UNREADABLE, open_panel, panel_settings, read_replies, samplings
from maieutic.judging.judges import (
    BETTER,
    Question,
    ask_until_read,
    background,
    described,
    pair_schema,
    pair_shape,
    parse_pair,
)
from maieutic.judging.rubrics import Better, Criterion, Rubric, load_rubric
from maieutic.judging.steps import EvalTutorPairwise, EvalTutorPairwiseResult
from maieutic.models import ChatModel

T = TypeVar("T")
_REVEALS = "reveals_answer"
"""The check that decides a pair without a call."""


class Side(StrEnum):
    """Which of two is better."""

    A = "a"
    B = "b"
    TIE = "tie"

    @property
    def other(self) -> Side:
        """The opposite side; a tie stays a tie."""
        return {Side.A: Side.B, Side.B: Side.A, Side.TIE: Side.TIE}[self]


class Decided(StrEnum):
    """What decided a pair."""

    CODE = "code"
    """One reply reveals the known answer, the other does not."""
    EQUAL = "equal"
    """The replies are the same text."""
    JUDGE = "judge"


class Game(Record):
    """One question to one judge."""

    judge: str
    draw: int
    """The number of the sample."""
    first: Side
    """Whose reply was shown first."""
    better: Side | None
    """Null where the verdict could not be read."""
    raw: str = ""
    error: str | None = None


class Two(NamedTuple):
    """Two replies to one dialogue."""

    turns: tuple[Message, ...]
    problem: Problem | None
    a: str
    b: str


class _Pair(NamedTuple):
    a: CandidateRow
    b: CandidateRow
    place: int
    """The number of the pair among those of its dialogue."""
    two: Two


def compare_tutors(step: EvalTutorPairwise, out: Path) -> EvalTutorPairwiseResult:
    """Compare the step's two sets of replies into the run folder `out`.

    Raises:
        BudgetSpent, TooManyFailures, ModelError, InputError, EmptyCorpus, RunConflict, RunLocked, DiskFull.
    """
    step.check()
    panel = open_panel(step.judge, step.local, step.requests)
    return run_async(_Comparing(step, panel).run(out))


class _Comparing:
    def __init__(self, step: EvalTutorPairwise, panel: list[ChatModel]) -> None:
        self._step, self._rubric, self._panel = step, load_rubric(step.rubric), panel
        self._spending = Spending(step.budget.checked([model.id for model in panel]))
        self._samplings = samplings(step.sampling, step.samples)
        self._slots = asyncio.Semaphore(step.requests.concurrency)
        self._settings = panel_settings(self._rubric, panel, step, prompt_hash())

    async def run(self, out: Path) -> EvalTutorPairwiseResult:
        started = time.monotonic()
        limits = self._step.requests
        pairs, unmatched = _matched(self._step.a, self._step.b)
        pending = [(self._key(pair), pair) for pair in pairs]
        data = sha256("\n".join(key for key, _ in pending).encode()).hexdigest()[:32]
        settings = {"stage": "pairwise", **self._settings, "data": data}
        async with open_stage(out, settings, self._panel) as stage:
            await run_pending(
                stage,
                pending,
                self._row,
                self._failed_row,
                concurrency=limits.concurrency,
                max_failure_rate=limits.max_failure_rate,
                total=len(pending),
                label="pairs",
                spending=self._spending,
            )
            result = self._counted(stage, unmatched, time.monotonic() - started)
            first = next((row["error"] for row in stage.rows.rows() if row["error"]), "")
            rate = limits.max_failure_rate
            check_rate(result.unscored, result.pairs, rate, "pairs", first, UNREADABLE)
            stage.finish(result.model_dump(mode="json", exclude={"run", "calls"}))
        return result

    def _key(self, pair: _Pair) -> str:
        two = pair.two
        context = [message.key() for message in two.turns]
        problem = two.problem.model_dump() if two.problem else None
        return fingerprint([context, problem, pair.place, two.a, two.b, self._settings])

    async def _row(self, pair: _Pair) -> dict[str, Any]:
        if decided := by_code(self._rubric, pair.two):
            return self._shape(pair, *decided, [], [])
        calls = (
            self._both_orders(model, pair.two, number, sampling)
            for model in self._panel
            for number, sampling in enumerate(self._samplings)
        )
        games = [game for both in await gather_all(calls) for game in both]
        winner, votes = settle(games)
        return self._shape(pair, winner, Decided.JUDGE, games, votes)

    async def _both_orders(self, model: ChatModel, two: Two, number: int, sampling: Sampling) -> list[Game]:
        async def game(first: Side) -> Game:
            async with self._slots:
                retries, charge = self._step.retries, self._spending.charge
                return await ask_game(
                    model, self._rubric, two, number, first, sampling=sampling, retries=retries, charge=charge
                )

        return await gather_all(game(first) for first in (Side.A, Side.B))

    def _failed_row(self, pair: _Pair, error: Failed) -> dict[str, Any]:
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
            "id": pair.a.id,
            "index": pair.a.index,
            "source": pair.a.source,
            "messages": [message.model_dump(mode="json") for message in pair.two.turns],
            "problem": pair.two.problem.model_dump(exclude_none=True) if pair.two.problem else None,
            "place": pair.place,
            "a": {"text": pair.two.a, "model": pair.a.model},
            "b": {"text": pair.two.b, "model": pair.b.model},
            "rubric": self._rubric.name,
            "winner": winner,
            "decided": decided,
            "votes": list(votes),
            "games": [game.model_dump(mode="json") for game in games],
            "error": unread if winner is None else None,
        }

    def _counted(self, stage: Stage, unmatched: int, seconds: float) -> EvalTutorPairwiseResult:
        rows = [ComparedRow.model_validate(row) for row in stage.rows.rows()]
        winners = Counter(row.winner for row in rows)
        decided = Counter(row.decided for row in rows)
        return EvalTutorPairwiseResult(
            run=str(stage.folder),
            pairs=len(rows),
            won=winners[Side.A],
            lost=winners[Side.B],
            tied=winners[Side.TIE],
            unscored=winners[None],
            code=decided[Decided.CODE],
            equal=decided[Decided.EQUAL],
            unmatched=unmatched,
            calls=self._spending.replies,
            seconds=round(seconds, 3),
        )


def _matched(a: Path, b: Path) -> tuple[list[_Pair], int]:
    """The pairs in the order of A, and the number of unmatched replies."""
    left, right = _by_context(a), _by_context(b)
    pairs = [
        _Pair(one, other, place, Two(one.context, one.problem or other.problem, first, second))
        for key, several in left.items()
        for place, ((one, first), (other, second)) in enumerate(
            zip(several, right.get(key, []), strict=False)
        )
    ]
    total = sum(map(len, left.values())) + sum(map(len, right.values()))
    if not pairs:
        raise EmptyCorpus(
            f"{a} and {b} answer no dialogue in common", "Let both tutors answer the same dialogues."
        )
    return pairs, total - 2 * len(pairs)


def _by_context(source: Path) -> dict[str, list[tuple[CandidateRow, str]]]:
    """The replies to each dialogue, in their order; failed rows have none."""
    found: dict[str, list[tuple[CandidateRow, str]]] = {}
    for row in read_replies(source, "generated"):
        context = fingerprint([message.key() for message in row.context])
        found.setdefault(context, []).extend((row, text) for text in row.texts)
    return found


def prompt_hash() -> str:
    """A hash of the two prompts that decide a verdict on a pair."""
    return fingerprint([prompts.load("judge_pair").hash, prompts.load("judge_pair_again").hash])[:16]


def by_code(rubric: Rubric, two: Two) -> tuple[Side, Decided] | None:
    """The winner of a pair that needs no judge; null where one is needed."""
    if two.a == two.b:
        return Side.TIE, Decided.EQUAL
    if not any(one.code == _REVEALS and one.better == Better.LOW for one in rubric.criteria):
        return None
    turns = [message.content for message in two.turns if message.role == Role.USER]
    a, b = (CHECKS[_REVEALS](text, two.problem, turns) for text in (two.a, two.b))
    if a is None or b is None or a == b:
        return None
    return Side.B if a else Side.A, Decided.CODE


async def gather_all(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of the calls. All calls finish before an error is raised, so that no paid answer is lost."""
    found: list[T] = []
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
        found.append(outcome)
    return found


async def ask_game(
    model: ChatModel,
    rubric: Rubric,
    two: Two,
    number: int,
    first: Side,
    *,
    sampling: Sampling,
    retries: int = 2,
    charge: Callable[[Reply], object] | None = None,
) -> Game:
    """Ask a judge which of two replies is better; `first` is the one that is shown as A.

    Raises:
        ModelError: the judge did not answer.
    """
    shown = _material(rubric, two, first)
    texts = [part for _, part in shown]
    verdict, _ = await ask_until_read(
        model,
        Question(_prompt(rubric, shown), pair_schema(), pair_shape(), "judge_pair_again"),
        lambda text: parse_pair(text, texts),
        sampling=sampling,
        retries=retries,
        charge=charge,
    )
    better = None
    if verdict.scored:
        better = {1.0: first, 0.0: first.other, 0.5: Side.TIE}[verdict.values[BETTER]]
    return Game(judge=model.id, draw=number, first=first, better=better, raw=verdict.raw, error=verdict.error)


def pair_prompt(rubric: Rubric, two: Two, first: Side = Side.A) -> str:
    """The prompt of a judge of a pair."""
    return _prompt(rubric, _material(rubric, two, first))


def _material(rubric: Rubric, two: Two, first: Side) -> list[tuple[str, str]]:
    one, other = (two.a, two.b) if first == Side.A else (two.b, two.a)
    return [
        *background(rubric, two.turns, two.problem),
        ("TO BE COMPARED: A", one),
        ("TO BE COMPARED: B", other),
    ]


def _prompt(rubric: Rubric, shown: Sequence[tuple[str, str]]) -> str:
    mark, between = fenced(shown)
    total = sum(_range(criterion) for criterion in rubric.criteria)
    return prompts.load("judge_pair").fill(
        judged=rubric.judged,
        mark=mark,
        material=between,
        criteria="\n".join(_weighted(criterion, total) for criterion in rubric.criteria),
        shape=pair_shape(),
    )


def _range(criterion: Criterion) -> float:
    """How much the criterion can add to the summary score."""
    return criterion.weight * (criterion.high - criterion.low)


def _weighted(criterion: Criterion, total: float) -> str:
    """A criterion, its better end, and its share of the summary score."""
    low = "no" if criterion.high == 1 and criterion.low == 0 else "less"
    better = f"\n    Better: {low}." if criterion.better == Better.LOW else ""
    share = f"\n    It counts for {_range(criterion) / total:.0%} of the whole." if total else ""
    return described(criterion) + better + share


def vote(games: Sequence[Game]) -> Side | None:
    """The result of both orders: a tie where they differ, null where a verdict is unreadable."""
    sides = [game.better for game in games]
    if None in sides:
        return None
    return sides[0] if len(set(sides)) == 1 else Side.TIE


def settle(games: Sequence[Game]) -> tuple[Side | None, list[Side | None]]:
    """The winner by the readable votes of all judges and samples, and the votes; null without a readable vote."""
    groups: dict[tuple[str, int], list[Game]] = {}
    for game in games:
        groups.setdefault((game.judge, game.draw), []).append(game)
    votes = [vote(group) for group in groups.values()]
    known = [one for one in votes if one is not None]
    if not known:
        return None, votes
    a, b = known.count(Side.A), known.count(Side.B)
    return Side.A if a > b else Side.B if b > a else Side.TIE, votes
