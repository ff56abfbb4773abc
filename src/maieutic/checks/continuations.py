"""Continuations of a dialogue after one candidate reply: where each starts, and whether the student solves the problem.

A continuation is *solved* if the student states the known answer and the tutor has not stated it before. The
continuation stops as soon as either of them states the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from maieutic.checks.outcomes import outcome
from maieutic.core.messages import Conversation, Fault, Message, Problem, Role, fingerprint
from maieutic.core.rows import CandidateRow, Episode


class Start(NamedTuple):
    """The start of the continuations of one candidate reply."""

    start: Conversation | None
    """The dialogue with this reply as its last message; null if it cannot be continued."""
    told: bool
    """The reply states the answer, so the student can no longer find it alone."""


def starts(row: CandidateRow) -> list[Start]:
    """The start of each candidate's continuations, in the order of the candidates.

    A failed row, or a row without a known answer, has no start.
    """
    if row.problem is None or not row.problem.answer:
        return [Start(None, False) for _ in row.candidates]
    turns = tuple(Message(role=message.role, content=message.content) for message in row.start)
    about = {"intent": row.intent, "profile": row.profile, "source": row.source, "licence": row.licence}
    return [_start(text, turns, row.problem, about) for text in row.texts]


def _start(text: str, turns: tuple[Message, ...], problem: Problem, about: Mapping[str, Any]) -> Start:
    whole = (*turns, Message(role=Role.ASSISTANT, content=text))
    name = fingerprint([[[turn.role, turn.content] for turn in whole], problem.model_dump()])[:24]
    start = Conversation(id=name, messages=whole, problem=problem, **about)
    if (found := outcome(start, first=len(whole))) is not None and found.told:
        return Start(None, True)
    return Start(start if text.strip() else None, False)


def settled(so_far: Conversation) -> bool:
    """Whether a continuation is solved, or can no longer be solved because the tutor stated the answer."""
    found = outcome(so_far)
    return found is not None and (found.solved or found.told)


def solved_by_start(episodes: Iterable[Episode]) -> dict[str, list[bool | None]]:
    """By start, whether each continuation was solved; null for a failed continuation that does not count.

    If the tutor's model failed, the continuation counts as not solved. If something else failed, it does not count.
    """
    ended: dict[str, tuple[str, bool | None]] = {}
    for episode in episodes:
        finished = episode.failure is None
        if finished or episode.dialogue not in ended:
            ended[episode.dialogue] = (episode.seed, _solved(episode))
    found: dict[str, list[bool | None]] = {}
    for start, solved in ended.values():
        found.setdefault(start, []).append(solved)
    return found


def _solved(episode: Episode) -> bool | None:
    if episode.failure is not None:
        return False if episode.failure.fault == Fault.ASSISTANT_MODEL else None
    found = outcome(episode)
    return found is not None and found.solved
