"""Where a person's turns open, and what the person did there: one decision about the END at each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from maieutic.chat_templates import IGNORED, prompt_ids, render
from maieutic.core.errors import UnstablePrefix
from maieutic.core.messages import Conversation, Role


class Openings(NamedTuple):
    """A conversation's ids up to its last human opening."""

    ids: list[int]
    places: list[int]
    """Where each opening's last token stands: before each human turn, and at the end where the user does not end it."""


class Decisions(NamedTuple):
    """END at the human openings of one conversation: what the model thought, and what the person did."""

    probabilities: list[float]
    ended: list[bool]


def openings(
    conversation: Conversation, tokenizer: Any, template: str | None = None, system: str | None = None
) -> Openings:
    """The human openings of a conversation.

    Raises:
        UnstablePrefix: they cannot be told from its rendering.
    """
    sides = [turn.role for turn in conversation.messages]
    ids: list[int] = []
    places: list[int] = []
    if Role.USER in sides:
        ids, labels = render(conversation, tokenizer, Role.USER, template, system, end=False)
        mine = [label != IGNORED for label in labels]
        places = [i - 1 for i in range(1, len(mine)) if mine[i] and not mine[i - 1]]
    known = len(places) == sides.count(Role.USER)
    if not sides or sides[-1] != Role.USER:
        before = ids[: places[-1] + 1] if places else []
        ids = prompt_ids(conversation.messages, tokenizer, Role.USER, template, system)
        known = known and ids[: len(before)] == before
        places.append(len(ids) - 1)
    if not known:
        raise UnstablePrefix(
            f"conversation {conversation.id}: where its human turns open cannot be told",
            "Pass a template that writes every turn as it is, with --template FILE.",
        )
    return Openings(ids, places)


def decisions(conversation: Conversation, probabilities: Sequence[float | None]) -> Decisions:
    """One decision at each human opening: every human turn is a going on; what follows the last turn is an end.

    A conversation that was cut (`ended` false) says nothing about its last opening, which is left out, and so is an
    opening without a probability.
    """
    went_on = len(conversation.turns(Role.USER))
    made = probabilities[: went_on + (1 if conversation.ended else 0)]
    known = [(p, place >= went_on) for place, p in enumerate(made) if p is not None]
    return Decisions([p for p, _ in known], [ended for _, ended in known])
