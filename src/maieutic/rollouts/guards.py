"""Guards: rules that reject a generated message. Each is a pure function with a name that can be turned off.

A rejected message is generated again. Its row records the guard's name and the rejected text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from maieutic.core.errors import InputError
from maieutic.core.messages import Finish, Message, Reply, Role

NEAR = 0.9
"""Two messages of five or more words count as the same if their Jaccard similarity is at least this."""

_WORD = re.compile(r"\w+")
_THANKS = re.compile(
    r"\b(thanks?|thank you|thx|cheers|bye|goodbye|welcome|have a (?:nice|good|great) \w+)\b", re.I
)
_ASSISTANT_VOICE = re.compile(
    r"^\W*(?:as an ai\b|how (?:can|may) i (?:help|assist)|i(?:'m| am) here to (?:help|assist)|"
    r"(?:sure|certainly|of course)[,!.]? (?:here|i(?:'d| would) be (?:happy|glad))|is there anything else i can)",
    re.I,
)
_BANNED_OPENING = re.compile(r"^\W*(?:i|you|here)\b", re.I)


class Context(NamedTuple):
    """What a guard sees besides the reply."""

    messages: Sequence[Message]
    role: Role
    intent: str | None


def empty(reply: Reply, context: Context) -> bool:
    """Only white space, and not the end of the conversation."""
    return not reply.text.strip() and reply.finish != Finish.END


def repeat(reply: Reply, context: Context) -> bool:
    """An earlier message of the same side, or the intent, repeated (almost) word for word."""
    earlier = [message.content for message in context.messages if message.role == context.role]
    return any(_same(reply.text, text) for text in [*earlier, context.intent or ""] if text.strip())


def role_flip(reply: Reply, context: Context) -> bool:
    """A user who speaks like an assistant."""
    return context.role == Role.USER and bool(_ASSISTANT_VOICE.search(reply.text))


def thanks(reply: Reply, context: Context) -> bool:
    """A second user message in a row that only thanks or says goodbye."""
    if context.role != Role.USER or not _only_thanks(reply.text):
        return False
    mine = [message.content for message in context.messages if message.role == Role.USER]
    return bool(mine) and _only_thanks(mine[-1])


def long(reply: Reply, context: Context) -> bool:
    """A user message that reached the limit of new tokens."""
    return context.role == Role.USER and reply.finish == Finish.LENGTH


def openings(reply: Reply, context: Context) -> bool:
    """A first user message that starts with I, You or Here (UserLM's rule); not among the defaults."""
    first = not any(message.role == Role.USER for message in context.messages)
    return context.role == Role.USER and first and bool(_BANNED_OPENING.search(reply.text))


GUARDS: dict[str, Callable[[Reply, Context], bool]] = {
    "empty": empty,
    "repeat": repeat,
    "role_flip": role_flip,
    "thanks": thanks,
    "long": long,
    "openings": openings,
}
DEFAULT = ("empty", "repeat", "role_flip", "thanks", "long")


def parse(names: str) -> tuple[str, ...]:
    """The guards named by `default`, `none` or a comma-separated list.

    Raises:
        InputError: an unknown name.
    """
    if names in ("default", "none"):
        return DEFAULT if names == "default" else ()
    chosen = tuple(name.strip() for name in names.split(",") if name.strip())
    if unknown := [name for name in chosen if name not in GUARDS]:
        raise InputError(f"no guard {unknown[0]!r}", f"Give default, none, or some of {', '.join(GUARDS)}.")
    return chosen


def first_broken(names: Sequence[str], reply: Reply, context: Context) -> str | None:
    """The first of these guards that rejects the reply."""
    return next((name for name in names if GUARDS[name](reply, context)), None)


def _same(one: str, other: str) -> bool:
    left, right = _WORD.findall(one.lower()), _WORD.findall(other.lower())
    if left == right:
        return bool(left) or one.strip() == other.strip()
    if min(len(left), len(right)) < 5:
        return False
    words, others = set(left), set(right)
    return len(words & others) / len(words | others) >= NEAR


def _only_thanks(text: str) -> bool:
    return len(_WORD.findall(text)) <= 8 and bool(_THANKS.search(text)) and "?" not in text
