"""Two tutors' replies to the same dialogue, compared by a judge in both orders.

A judge that prefers a place rather than a reply contradicts itself when the two change places: such a pair is a tie.
What code knows comes first: a reply that gives the known answer away loses to one that does not, and equal replies
tie, without a call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, TypeVar

from maieutic.checks.turns import CHECKS
from maieutic.core import prompts
from maieutic.core.messages import Message, Problem, Record, Reply, Role, Sampling, fingerprint
from maieutic.core.prompts import fenced
from maieutic.judging.judges import Question, background, described, insist
from maieutic.judging.parse import BETTER, pair_schema, pair_shape, parse_pair
from maieutic.judging.rubrics import Better, Criterion, Rubric
from maieutic.models import ChatModel

T = TypeVar("T")
_REVEALS = "reveals_answer"
"""The check whose word decides a pair without a call."""


class Side(StrEnum):
    """Which of two is better."""

    A = "a"
    B = "b"
    TIE = "tie"

    @property
    def other(self) -> Side:
        """The opposite side; a tie stays one."""
        return {Side.A: Side.B, Side.B: Side.A, Side.TIE: Side.TIE}[self]


class Decided(StrEnum):
    """Who decided a pair."""

    CODE = "code"
    """One reply reveals the known answer, the other does not."""
    EQUAL = "equal"
    """The replies are the same text."""
    JUDGE = "judge"


class Game(Record):
    """One question to one judge."""

    judge: str
    draw: int
    """Which of the repeats."""
    first: Side
    """Whose reply stood first."""
    better: Side | None
    """Null where the verdict could not be read."""
    raw: str = ""
    error: str | None = None


class Two(NamedTuple):
    """What is compared."""

    turns: tuple[Message, ...]
    problem: Problem | None
    a: str
    b: str


def prompt_hash() -> str:
    """Of the two prompts that decide a judge's verdict on a pair."""
    return fingerprint([prompts.load("judge_pair").hash, prompts.load("judge_pair_again").hash])[:16]


def by_code(rubric: Rubric, two: Two) -> tuple[Side, Decided] | None:
    """What is decided without a judge."""
    if two.a == two.b:
        return Side.TIE, Decided.EQUAL
    if not any(one.code == _REVEALS and one.better == Better.LOW for one in rubric.criteria):
        return None
    said = [turn.content for turn in two.turns if turn.role == Role.USER]
    a, b = (CHECKS[_REVEALS](text, two.problem, said) for text in (two.a, two.b))
    if a is None or b is None or a == b:
        return None
    return Side.B if a else Side.A, Decided.CODE


async def play(
    model: ChatModel,
    rubric: Rubric,
    two: Two,
    draw: int,
    *,
    sampling: Sampling,
    retries: int = 2,
    slots: asyncio.Semaphore,
    pay: Callable[[Reply], object] | None = None,
) -> list[Game]:
    """Both games of one judge in one draw: A first, then B first. `slots` bounds the calls under way.

    Raises:
        ModelError: the judge did not answer.
    """

    async def game(first: Side) -> Game:
        async with slots:
            return await _game(model, rubric, two, draw, first, sampling=sampling, retries=retries, pay=pay)

    return await gathered(game(first) for first in (Side.A, Side.B))


async def gathered(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What the calls give, all of them ended before one's error is raised: an answer under way is paid for too."""
    found: list[T] = []
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
        found.append(outcome)
    return found


async def _game(
    model: ChatModel,
    rubric: Rubric,
    two: Two,
    draw: int,
    first: Side,
    *,
    sampling: Sampling,
    retries: int,
    pay: Callable[[Reply], object] | None,
) -> Game:
    shown = _material(rubric, two, first)
    material = [part for _, part in shown]
    question = Question(_prompt(rubric, shown), pair_schema(), pair_shape(), "judge_pair_again")
    said, _ = await insist(
        model, question, lambda text: parse_pair(text, material), sampling=sampling, retries=retries, pay=pay
    )
    better = None
    if said.scored:
        better = {1.0: first, 0.0: first.other, 0.5: Side.TIE}[said.values[BETTER]]
    return Game(judge=model.id, draw=draw, first=first, better=better, raw=said.raw, error=said.error)


def pair_prompt(rubric: Rubric, two: Two, first: Side = Side.A) -> str:
    """The whole question to a judge."""
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
    whole = sum(_span(criterion) for criterion in rubric.criteria)
    return prompts.load("judge_pair").fill(
        judged=rubric.judged,
        mark=mark,
        material=between,
        criteria="\n".join(_weighed(criterion, whole) for criterion in rubric.criteria),
        shape=pair_shape(),
    )


def _span(criterion: Criterion) -> float:
    """What the criterion can add to the summary score."""
    return criterion.weight * (criterion.high - criterion.low)


def _weighed(criterion: Criterion, whole: float) -> str:
    """A criterion, which end of it is the good one, and how much of the whole it is."""
    low = "no" if criterion.high == 1 and criterion.low == 0 else "less"
    good = f"\n    Better: {low}." if criterion.better == Better.LOW else ""
    part = f"\n    It counts for {_span(criterion) / whole:.0%} of the whole." if whole else ""
    return described(criterion) + good + part


def vote(games: Sequence[Game]) -> Side | None:
    """What two games with the places changed say together: a tie where they differ, null where one is unreadable."""
    sides = [game.better for game in games]
    if None in sides:
        return None
    return sides[0] if len(set(sides)) == 1 else Side.TIE


def settle(games: Sequence[Game]) -> tuple[Side | None, list[Side | None]]:
    """The winner by the votes of every judge and draw, unscored ones left out, and the votes; null without any."""
    groups: dict[tuple[str, int], list[Game]] = {}
    for game in games:
        groups.setdefault((game.judge, game.draw), []).append(game)
    votes = [vote(group) for group in groups.values()]
    known = [one for one in votes if one is not None]
    if not known:
        return None, votes
    a, b = known.count(Side.A), known.count(Side.B)
    return Side.A if a > b else Side.B if b > a else Side.TIE, votes
