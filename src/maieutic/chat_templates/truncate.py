"""Making a conversation fit: whole turns are left out, at its end or at its beginning; nothing is cut inside a turn."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Literal, NamedTuple

from maieutic.chat_templates.renderer import Rendered
from maieutic.core.messages import Conversation, Role

Keep = Literal["start", "end"]


class Fitted(NamedTuple):
    """What is left of a conversation."""

    conversation: Conversation
    rendered: Rendered | None
    """Null where not one turn in the loss fits."""


def fit(
    conversation: Conversation,
    render: Callable[[Conversation], Rendered],
    sides: Collection[Role],
    max_length: int,
    keep: Keep = "start",
    rendered: Rendered | None = None,
) -> Fitted:
    """The longest run of whole turns that fits, and its rendering.

    From the start, it ends with a turn that is in the loss, and no longer shows how the conversation ended, so it
    teaches no END. From the end, it begins with a turn of the role that opened the conversation, after the system
    turn, which is always kept; it still shows how the conversation ended.

    Args:
        conversation: with at least one turn of `sides`.
        render: makes ids and labels; called about log2(turns) times.
        sides: whose turns are in the loss.
        max_length: tokens at most.
        keep: which part is kept.
        rendered: the whole conversation's rendering, where it is known already.
    """
    rendered = render(conversation) if rendered is None else rendered
    if len(rendered.input_ids) <= max_length:
        return Fitted(conversation, rendered)
    parts = _from_start(conversation, sides) if keep == "start" else _from_end(conversation, sides)
    best = Fitted(conversation, None)
    low, high = 0, len(parts) - 1
    while low <= high:  # the parts grow shorter: find the first that fits
        middle = (low + high) // 2
        shorter = parts[middle]()
        made = render(shorter)
        if len(made.input_ids) <= max_length:
            best, high = Fitted(shorter, made), middle - 1
        else:
            low = middle + 1
    return best


Part = Callable[[], Conversation]


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
