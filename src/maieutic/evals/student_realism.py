"""How similar a simulated student is to real students, where problems have known answers; decided by code alone.

Measures how long students keep the wrong answer, and how often they find, are told or demand the right answer. The
*wrong answer* is the number that the problem's attempt ends on (or the attempt itself, where that is a few words). The
tutor has *addressed* it once a tutor turn calls something wrong, or asks about something in the problem or in the
student's words.
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

NO_KNOWN_ANSWER = "no conversation has a problem with a known answer"
_PHRASE_WORDS = 5
"""An attempt of at most so many words is compared as a phrase."""


class StudentTurn(NamedTuple):
    """A student turn before the right answer is stated."""

    wrong: bool
    """It ends on the wrong answer, or calls it the answer."""
    addressed: bool
    """The tutor had addressed the mistake before."""
    measured: bool
    """It was generated, and does not belong to the given start."""


def dialogue_outcome(conversation: Conversation) -> DialogueOutcome | None:
    """The outcome for the student, from its first own turn on; null without a known answer."""
    return _cached_outcome(conversation.messages, conversation.problem, first_generated(conversation))


@lru_cache(4096)  # people are measured as a whole and in halves
def _cached_outcome(
    messages: tuple[Message, ...], problem: Problem | None, first: int
) -> DialogueOutcome | None:
    return outcome(Conversation(id="", messages=messages, problem=problem), first=first)


def states_wrong_answer(text: str, problem: Problem) -> bool | None:
    """Whether a turn states the attempt's wrong answer; null where the attempt has no recognizable wrong answer."""
    attempt = (problem.attempt or "").strip()
    found = numbers(plain(attempt))
    if found:
        return None if states_answer(attempt, problem) else concludes(text, found[-1].values)
    if 0 < len(attempt.split()) <= _PHRASE_WORDS:
        return states_phrase(text, attempt, problem.statement, "")
    return None


def turns_before_answer(conversation: Conversation) -> tuple[StudentTurn, ...]:
    """The student's turns until the student or the tutor states the right answer."""
    problem = conversation.problem
    if problem is None or not problem.answer or states_wrong_answer("", problem) is None:
        return ()
    return _cached_turns(conversation.messages, problem, first_generated(conversation))


@lru_cache(4096)
def _cached_turns(messages: tuple[Message, ...], problem: Problem, first: int) -> tuple[StudentTurn, ...]:
    return tuple(_student_turns(messages, problem, first))


def _student_turns(messages: tuple[Message, ...], problem: Problem, first: int) -> Iterator[StudentTurn]:
    texts: list[str] = []
    addressed = False
    for place, turn in enumerate(messages):
        if turn.role == Role.USER:
            if states_answer(turn.content, problem):
                return
            texts.append(turn.content)
            yield StudentTurn(bool(states_wrong_answer(turn.content, problem)), addressed, place >= first)
        elif turn.role == Role.ASSISTANT:
            tutor_move = move(turn.content, problem, texts)
            if tutor_move == "tells":
                return
            addressed = addressed or (bool(texts) and (tutor_move == "takes_up" or denies(turn.content)))


def _persistence(addressed: bool) -> Callable[[Sequence[Conversation]], Estimate]:
    """The share of student turns that state the wrong answer, before or after the tutor addressed it."""

    def share(conversations: Sequence[Conversation]) -> Estimate:
        turns = [
            [t.wrong for t in turns_before_answer(c) if t.measured and t.addressed == addressed]
            for c in conversations
        ]
        rows = [row for row in turns if row]
        if not rows:
            return stats.undefined(f"no student turn {'after' if addressed else 'before'} it was addressed")
        return stats.ratio([sum(row) for row in rows], [len(row) for row in rows])

    return share


def _outcome_rate(of: Callable[[DialogueOutcome], bool]) -> Callable[[Sequence[Conversation]], Estimate]:
    def share(conversations: Sequence[Conversation]) -> Estimate:
        found = [(each, c) for c in conversations if (each := dialogue_outcome(c)) is not None]
        if not found:
            return stats.undefined(NO_KNOWN_ANSWER)
        groups = [str(c.meta.get("seed", n)) for n, (_, c) in enumerate(found)]
        return stats.proportion([float(of(each)) for each, _ in found], groups)

    return share


def presses_rate(conversations: Sequence[Conversation]) -> Estimate:
    """Student turns per hundred that demand the answer, in conversations with a known answer."""
    rows = []
    for conversation in conversations:
        if conversation.problem is not None and conversation.problem.answer:
            first = first_generated(conversation)
            turns = [
                turn.content
                for place, turn in enumerate(conversation.messages)
                if turn.role == Role.USER and place >= first
            ]
            rows.append((100.0 * sum(map(presses, turns)), len(turns)))
    rows = [row for row in rows if row[1]]
    return stats.ratio(*zip(*rows, strict=True)) if rows else stats.undefined(NO_KNOWN_ANSWER)


METRICS: dict[str, Callable[[Sequence[Conversation]], Estimate]] = {
    "misconception_before": _persistence(addressed=False),
    "misconception_after": _persistence(addressed=True),
    "solve_rate": _outcome_rate(lambda each: each.solved),
    "told_rate": _outcome_rate(lambda each: each.told),
    "presses_rate": presses_rate,
}


def has_known_answers(conversations: Sequence[Conversation]) -> bool:
    """Whether any conversation has a problem with a known answer."""
    return any(one.problem is not None and one.problem.answer for one in conversations)
