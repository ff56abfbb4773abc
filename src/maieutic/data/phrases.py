"""Refusals, branding and mentions: whole phrases from files of our own, looked for where they say something.

A phrase counts only as whole words. Letter case, the kind of apostrophe and the white space between words do not
matter; white space elsewhere, and every other sign, does.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

from maieutic.core.messages import Conversation, Role

OPENING = 300
"""Characters of an assistant turn in which a refusal is looked for: what declines, declines at once."""


def mention(conversation: Conversation) -> str | None:
    """The first name of a service (OpenAI, ChatGPT, …) in any turn."""
    return next(filter(None, (_first("mentions", turn.content) for turn in conversation.messages)), None)


def branding(conversation: Conversation) -> str | None:
    """The first phrase in which the assistant speaks of being somebody's model."""
    found = (_first("branding", text) for text in conversation.turns(Role.ASSISTANT))
    return next(filter(None, found), None)


def refusal(conversation: Conversation) -> str | None:
    """The first phrase with which the assistant declines, near the beginning of a turn."""
    found = (_first("refusals", text[:OPENING]) for text in conversation.turns(Role.ASSISTANT))
    return next(filter(None, found), None)


def phrases(name: str) -> tuple[str, ...]:
    """The phrases of a file: `mentions`, `branding` or `refusals`."""
    text = (resources.files("maieutic.data") / "phrases" / f"{name}.txt").read_text("utf-8")
    lines = (line.strip() for line in text.splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


def _first(name: str, text: str) -> str | None:
    pattern, hints = _compiled(name)
    text = text.lower().replace("’", "'")
    # Looking for short strings is many times faster than the pattern, and in most texts it is all there is to do.
    if not any(hint in text for hint in hints):
        return None
    found = pattern.search(text)
    return " ".join(found[0].split()) if found else None


@cache
def _compiled(name: str) -> tuple[re.Pattern[str], tuple[str, ...]]:
    lowered = [phrase.lower().replace("’", "'") for phrase in phrases(name)]
    longest_first = sorted(lowered, key=len, reverse=True)
    body = "|".join(r"\s+".join(map(re.escape, phrase.split())) for phrase in longest_first)
    hints = {max(phrase.split(), key=len) for phrase in lowered}
    fewest = tuple(sorted(hint for hint in hints if not any(other in hint for other in hints - {hint})))
    return re.compile(rf"(?<!\w)(?:{body})(?!\w)"), fewest
