"""Parts of a conversation: the longest run of whole turns that fits a context, and the openings of user turns.

At the opening of each user turn, the user either ends the conversation (END) or continues. To fit a context, whole
turns are left out at the end or at the beginning; a turn is never cut.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, NamedTuple

from maieutic.chat_templates.rendering import IGNORED, Rendered, prompt_ids, render
from maieutic.core.errors import UnstablePrefix
from maieutic.core.messages import Conversation, Role

Keep = Literal["start", "end"]
Part = Callable[[], Conversation]


class Fitted(NamedTuple):
    """A conversation that fits."""

    conversation: Conversation
    rendered: Rendered | None
    """Null if no turn in the loss fits."""


def fit(
    conversation: Conversation,
    render: Callable[[Conversation], Rendered],
    sides: Collection[Role],
    max_length: int,
    keep: Keep = "start",
    rendered: Rendered | None = None,
) -> Fitted:
    """The longest run of whole turns that fits, and its rendering.

    If the start is kept, the run ends with a turn in the loss, and END is not trained because the end is cut off. If
    the end is kept, the run begins with a turn of the role that opened the conversation. The system turn is always
    kept.

    Args:
        conversation: has at least one turn of `sides`.
        render: makes ids and labels; it is called about log2(turns) times.
        sides: the roles whose turns are in the loss.
        max_length: maximum number of tokens.
        keep: whether the start or the end is kept.
        rendered: the rendering of the whole conversation, if it is known.
    """
    rendered = render(conversation) if rendered is None else rendered
    if len(rendered.input_ids) <= max_length:
        return Fitted(conversation, rendered)
    parts = _from_start(conversation, sides) if keep == "start" else _from_end(conversation, sides)
    best = Fitted(conversation, None)
    low, high = 0, len(parts) - 1
    while low <= high:  # the parts become shorter: find the first that fits
        middle = (low + high) // 2
        shorter = parts[middle]()
        made = render(shorter)
        if len(made.input_ids) <= max_length:
            best, high = Fitted(shorter, made), middle - 1
        else:
            low = middle + 1
    return best


def _from_start(conversation: Conversation, sides: Collection[Role]) -> list[Part]:
    def upto(count: int) -> Part:
        return lambda: conversation.model_copy(
            update={"messages": conversation.messages[:count], "ended": False}
        )

    stops = [count for count, turn in enumerate(conversation.messages, 1) if turn.role in sides]
    return [upto(count) for count in reversed(stops)]


def _from_end(conversation: Conversation, sides: Collection[Role]) -> list[Part]:
    messages = conversation.messages
    head = 1 if messages[0].role == Role.SYSTEM else 0
    last = max(index for index, turn in enumerate(messages) if turn.role in sides)

    def since(index: int) -> Part:
        return lambda: conversation.model_copy(update={"messages": messages[:head] + messages[index:]})

    opener = messages[head].role
    return [since(index) for index in range(head + 1, last + 1) if messages[index].role == opener]


class Openings(NamedTuple):
    """A conversation's ids up to the last opening of a user turn."""

    ids: list[int]
    places: list[int]
    """Index of the last token of each opening: before each user turn, and after a last turn of the assistant."""


class Decisions(NamedTuple):
    """END at the openings of user turns in one conversation: the model's probabilities, and what the user did."""

    probabilities: list[float]
    ended: list[bool]


def openings(
    conversation: Conversation, tokenizer: Any, template: str | None = None, system: str | None = None
) -> Openings:
    """The openings of user turns in a conversation.

    Raises:
        UnstablePrefix: the openings cannot be found in the rendering.
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
            f"conversation {conversation.id}: the openings of its user turns cannot be found",
            "Pass a template that writes every turn as it is, with --template FILE.",
        )
    return Openings(ids, places)


def decisions(conversation: Conversation, probabilities: Sequence[float | None]) -> Decisions:
    """One decision per opening: the user continued before each user turn, and ended after the last turn.

    The last opening of a conversation that was cut (`ended` is false) is left out, since the decision is unknown.
    Openings without a probability are left out too.
    """
    went_on = len(conversation.turns(Role.USER))
    made = probabilities[: went_on + (1 if conversation.ended else 0)]
    known = [(p, place >= went_on) for place, p in enumerate(made) if p is not None]
    return Decisions([p for p, _ in known], [ended for _, ended in known])
