"""Words, their stems, and lists of words that ship as files (`lists/`)."""

from __future__ import annotations

import re
from functools import cache, lru_cache
from importlib import resources

_WORD = re.compile(r"[^\W\d]\w*(?:['’][^\W\d]+)?|\d\w*")
_SUFFIXES: tuple[str, ...] = (
    "ications",
    "ication",
    "ations",
    "ation",
    "ying",
    "ings",
    "ing",
    "ies",
    "ied",
    "ers",
    "er",
    "es",
    "ed",
)
_SUFFIXES += ("ly", "'s", "s", "e", "y")


def words(text: str) -> list[str]:
    """The words of a text in lower case, with a straight apostrophe inside; numbers are words too."""
    return [word.lower().replace("’", "'") for word in _WORD.findall(text)]


@lru_cache(maxsize=4096)
def stem(word: str) -> str:
    """A word without the ending that grammar gives it; at least three letters stay."""
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            rest = word[: -len(suffix)]
            return rest[:-1] if len(rest) > 3 and rest[-1] == rest[-2] else rest
    return word


@cache
def listed(name: str) -> frozenset[str]:
    """The words of a list: `framing` or `generic`."""
    return frozenset(word for line in lines(name) for word in line.split())


def lines(name: str) -> list[str]:
    """The lines of a list, comments left out."""
    text = (resources.files(__package__) / "lists" / f"{name}.txt").read_text("utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]
