"""Does a student demand the answer, does a tutor refuse to help? Decided by set phrases, clause by clause.

Asking for the answer is not asking about it: "how do I get the answer?", "is the answer 12?" and "tell me if this is
right" are honest questions. A tutor who keeps the answer back but goes on ("I will not tell you, but what does each
mean?") refuses nothing; one who says no and leaves it at that does. The phrases are data: `demands.yaml`.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

import yaml

from maieutic.checks.questions import asks, sentences

_CLAUSE = re.compile(r"(?<=[.!?\n])\s+|;\s+|\s+\b(?:but|though|although)\b\s+", re.IGNORECASE)
_BUT = re.compile(r":\s+|\s+\b(?:but|however|though|instead|so)\b[,\s]+", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")


def presses(text: str) -> bool:
    """Whether a student's turn demands the answer itself, or that the tutor do the work."""
    clauses = (clause.strip() for clause in _CLAUSE.split(_plain(text)))
    return any(_holds("presses", clause) and not _holds("does_not_press", clause) for clause in clauses)


def refuses(text: str) -> bool:
    """Whether a tutor's turn says no and leaves it at that: nothing asked, nothing given to go on with."""
    parts = [
        part.strip() + sentence.mark
        for sentence in sentences(_plain(text))
        for part in _BUT.split(sentence.text)
    ]
    refused = [_holds("refuses", part) and not _holds("refuses_nothing", part) for part in parts]
    return any(refused) and not any(_goes_on(part) for part, no in zip(parts, refused, strict=True) if not no)


def denies(text: str) -> bool:
    """Whether a tutor's reply calls what the student said wrong."""
    return any(_holds("denies", sentence.text.strip()) for sentence in sentences(_plain(text)))


def _goes_on(part: str) -> bool:
    """Whether what stands beside a refusal gives the student something to go on with."""
    return not _holds("closes", part) and (asks(part) or len(re.findall(r"\w+", part)) >= 4)


def _plain(text: str) -> str:
    return re.sub(r"[ \t]+", " ", text.replace("’", "'")).strip()


def _holds(name: str, text: str) -> bool:
    return any(rule.search(text) for rule in _rules()[name])


@cache
def _rules() -> dict[str, tuple[re.Pattern[str], ...]]:
    raw = yaml.safe_load((files(__package__) / "demands.yaml").read_text(encoding="utf-8"))
    words = {name: "|".join(members) for name, members in raw.pop("words").items()}
    return {
        name: tuple(
            re.compile(_PLACEHOLDER.sub(lambda found: words[found[1]], rule), re.IGNORECASE | re.VERBOSE)
            for rule in rules
        )
        for name, rules in raw.items()
    }
