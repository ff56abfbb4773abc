"""Is a simulated student like a student? Where conversations carry problems with known answers, all by code.

How long the wrong answer is held, how many find the right one, are told it, or demand it. The *wrong answer* is the
number that the problem's attempt ends on (or the attempt itself, where that is a few words). The tutor has *addressed*
it once a turn calls something wrong or asks about something in the problem or in the student's words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from maieutic.checks.answers import concludes, states_phrase
from maieutic.checks.numbers import numbers, plain
from maieutic.checks.outcomes import DialogueOutcome, first_generated, outcome
from maieutic.checks.turns import denies, presses, states_answer
from maieutic.core import statistics as stats
from maieutic.core.messages import Conversation, Estimate, Message, Problem, Role
from maieutic.models.student import move

NOTHING_KNOWN = "no conversation has a problem with a known answer"
_A_FEW = 5
"""Words of an attempt that is a phrase."""


class Held(NamedTuple):
    """One student's turn, up to the one that states the right answer."""

    wrong: bool
    """It ends on the wrong answer, or calls it the answer."""
    addressed: bool
    """The tutor had addressed the mistake before."""
    drawn: bool
    """It is to be measured: not somebody else's start."""


def came(conversation: Conversation) -> DialogueOutcome | None:
    """What came of it for the student, from its first own turn on; null without a known answer."""
    return _came(conversation.messages, conversation.problem, first_generated(conversation))


@lru_cache(4096)  # people stand in a whole and in its halves
def _came(messages: tuple[Message, ...], problem: Problem | None, first: int) -> DialogueOutcome | None:
    return outcome(Conversation(id="", messages=messages, problem=problem), first=first)


def holds_wrong(text: str, problem: Problem) -> bool | None:
    """Whether a turn states the attempt's wrong answer; null where the attempt has none that can be told."""
    attempt = (problem.attempt or "").strip()
    found = numbers(plain(attempt))
    if found:
        return None if states_answer(attempt, problem) else concludes(text, found[-1].values)
    return states_phrase(text, attempt, problem.statement, "") if 0 < len(attempt.split()) <= _A_FEW else None


def held(conversation: Conversation) -> tuple[Held, ...]:
    """The student's turns until it states the right answer, or is told it."""
    problem = conversation.problem
    if problem is None or not problem.answer or holds_wrong("", problem) is None:
        return ()
    return _held(conversation.messages, problem, first_generated(conversation))


@lru_cache(4096)
def _held(messages: tuple[Message, ...], problem: Problem, first: int) -> tuple[Held, ...]:
    return tuple(_turns(messages, problem, first))


def _turns(messages: tuple[Message, ...], problem: Problem, first: int) -> Iterator[Held]:
    said: list[str] = []
    addressed = False
    for place, turn in enumerate(messages):
        if turn.role == Role.USER:
            if states_answer(turn.content, problem):
                return
            said.append(turn.content)
            yield Held(bool(holds_wrong(turn.content, problem)), addressed, place >= first)
        elif turn.role == Role.ASSISTANT:
            did = move(turn.content, problem, said)
            if did == "tells":
                return
            addressed = addressed or (bool(said) and (did == "takes_up" or denies(turn.content)))


def _persistence(addressed: bool) -> Callable[[Sequence[Conversation]], Estimate]:
    def share(conversations: Sequence[Conversation]) -> Estimate:
        turns = [
            [one.wrong for one in held(c) if one.drawn and one.addressed == addressed] for c in conversations
        ]
        rows = [one for one in turns if one]
        if not rows:
            return stats.undefined("no turn of that sort")
        return stats.ratio([sum(one) for one in rows], [len(one) for one in rows])

    return share


def _rate(of: Callable[[DialogueOutcome], bool]) -> Callable[[Sequence[Conversation]], Estimate]:
    def share(conversations: Sequence[Conversation]) -> Estimate:
        found = [(one, c) for c in conversations if (one := came(c)) is not None]
        if not found:
            return stats.undefined(NOTHING_KNOWN)
        groups = [str(c.meta.get("seed", n)) for n, (_, c) in enumerate(found)]
        return stats.proportion([float(of(one)) for one, _ in found], groups)

    return share


def presses_rate(conversations: Sequence[Conversation]) -> Estimate:
    """Turns per hundred that demand the answer, of conversations with a known one."""
    rows = []
    for one in conversations:
        if one.problem is not None and one.problem.answer:
            first = first_generated(one)
            said = [
                t.content for place, t in enumerate(one.messages) if t.role == Role.USER and place >= first
            ]
            rows.append((100.0 * sum(map(presses, said)), len(said)))
    rows = [row for row in rows if row[1]]
    return stats.ratio(*zip(*rows, strict=True)) if rows else stats.undefined(NOTHING_KNOWN)


SCALARS: dict[str, Callable[[Sequence[Conversation]], Estimate]] = {
    "misconception_before": _persistence(addressed=False),
    "misconception_after": _persistence(addressed=True),
    "solve_rate": _rate(lambda one: one.solved),
    "told_rate": _rate(lambda one: one.told),
    "presses_rate": presses_rate,
}


def tutored(conversations: Sequence[Conversation]) -> bool:
    """Whether any conversation has a problem with a known answer."""
    return any(one.problem is not None and one.problem.answer for one in conversations)
