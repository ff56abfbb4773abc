"""Does a reply take up something of this problem, or of what the student said, and add something to it?

"What do you think?" fits any lesson, and a copy of the student's words adds nothing. A reply shows uptake if one of its
sentences contains two things. The first is something *specific* to the context: a content word, a number, a name of the
program, the name of an operation that was used, or a quoted word of the problem. The second is something that the
student did not say there: a content word, another number, or a question with why, how or where. The term is from
Demszky et al. 2021 (arXiv 2106.03873), who measure uptake with a model. This check compares words, so it does not
recognise paraphrases.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from functools import cache, lru_cache
from typing import NamedTuple

from maieutic.checks.answers import LABEL
from maieutic.checks.fixes import code_spans
from maieutic.checks.numbers import numbers, plain
from maieutic.checks.questions import Sentence, is_question, lines, listed, sentences, stem, words

_QUOTED = re.compile(
    r"[\"“‘']([^\"”’'\n]{1,60})[\"”’']|\b(?:words?|phrases?|sign)\s+((?:[\w'-]+\s*){1,4})", re.IGNORECASE
)
_SIGN = re.compile(
    r"(?<=\w)\s?(?:[-+*/]\s?(?=[$£€]?\d)|%)|(?<=\d)\s?[-+*/]\s?(?=[\w(])|(?<=\s)[+*/%](?=\s)|\[|\+=|:$",
    re.MULTILINE,
)
_LINE = re.compile(r"\blines?\s+(\d{1,3})\b", re.IGNORECASE)
_PROGRAM = re.compile(
    r"^[ \t]*(?:\d+[.:)][ \t]*)?(?:def \w+|for \w+ in|while .+:|return\b|import \w+|print\()", re.MULTILINE
)
_ASKING = frozenset(("why", "how", "where", "which", "when", "whose", "who"))
_EMPTY_ASKING = re.compile(
    r"\b(?:what|how)\s+about\b|\bhow\s+(?:come|so|nice|good|great)\b|\bhow\s+do\s+you\s+(?:feel|know)\b",
    re.IGNORECASE,
)
_BOTH = frozenset(("you", "your", "we", "you've"))
_RUN = 3
"""A sentence counts as a copy of a text if it consists of runs of this many words from that text."""


class _Kind(NamedTuple):
    """A concept with several names or signs; see `lists/kinds.txt`."""

    names: frozenset[str]
    signs: frozenset[str]
    of_programs: bool
    common: bool
    """Any lesson may name this concept, so it is specific only if the reply says that the student used it."""


class _Context(NamedTuple):
    """What a reply can take up."""

    stems: frozenset[str]
    values: frozenset[Fraction]
    kinds: frozenset[str]
    text: str
    """The whole context: lower-case words with single spaces, a space at both ends."""
    lines: int
    """The number of lines of the program; 0 without a program."""
    letters: frozenset[str]
    """The one-letter names of the program."""


class _Turn(NamedTuple):
    """A student's turn. The words, but not the runs, exclude words of the problem's statement."""

    words: frozenset[str]
    stems: frozenset[str]
    runs: frozenset[tuple[str, ...]]


def takes_up(text: str, statement: str, attempt: str, student_turns: Sequence[str]) -> bool:
    """Whether the text takes up something specific and adds to it; see the module's docstring.

    Args:
        text: the tutor's reply.
        statement: the problem, or empty.
        attempt: the student's solution or program, or empty.
        student_turns: oldest first.
    """
    context = _context((statement, attempt, *student_turns))
    turns = [_turn(turn, statement) for turn in student_turns]
    problem = _turn(statement, "")
    letters = context.letters.intersection(code_spans(text))
    for sentence in sentences(plain(text)):
        spoken = words(sentence.text)
        if not spoken or any(_copies(spoken, turn) for turn in turns):
            continue
        if len(spoken) > 2 * _RUN and _copies(spoken, problem):
            continue
        specific = _specific(sentence, spoken, context) or not letters.isdisjoint(spoken)
        if specific and all(_adds(sentence, spoken, turn) for turn in turns):
            return True
    return False


@lru_cache(maxsize=256)  # a prompt's candidates all answer the same turns
def _context(texts: tuple[str, ...]) -> _Context:
    whole = plain("\n".join(texts))
    spoken = words(whole)
    program = next((text for text in texts if _PROGRAM.search(text)), "")
    signs = {match[0].strip() for match in _SIGN.finditer(whole)} | set(spoken)
    return _Context(
        frozenset(map(stem, _content(spoken))),
        frozenset(value for number in numbers(whole) for value in number.values),
        frozenset(_kinds_in(signs, bool(program))),
        _joined(spoken),
        len(program.strip().splitlines()),
        frozenset(re.findall(r"\b[a-zA-Z]\b", program)),
    )


def _kinds_in(signs: set[str], program: bool) -> Iterator[str]:
    for name, kind in _kinds().items():
        if kind.of_programs and not program:
            continue
        if kind.signs & signs or (not kind.of_programs and kind.names & signs):
            yield name


@lru_cache(maxsize=256)
def _turn(text: str, statement: str) -> _Turn:
    spoken, given = words(plain(text)), words(plain(statement))
    own = _joined(spoken).replace(_joined(given), " ", 1).split() if given else spoken
    return _Turn(frozenset(own), frozenset(map(stem, own)), frozenset(_runs(spoken)))


def _specific(sentence: Sentence, spoken: list[str], context: _Context) -> bool:
    """Whether a sentence contains something that is specific to the context."""
    if any(stem(word) in context.stems for word in _content(spoken)):
        return True
    kinds = [kind for name in context.kinds if not (kind := _kinds()[name]).names.isdisjoint(spoken)]
    if any(not kind.common for kind in kinds) or (kinds and not _BOTH.isdisjoint(spoken)):
        return True
    if any(0 < int(line) <= context.lines for line in _LINE.findall(sentence.text)):
        return True
    for number in numbers(sentence.text):
        before = sentence.text[max(0, number.start - 40) : number.start]
        small = number.words and max(number.values) <= 2
        if number.values & context.values and not small and not LABEL.search(before):
            return True
    return any(_quoted(one or other, context) for one, other in _QUOTED.findall(sentence.text))


def _quoted(fragment: str, context: _Context) -> bool:
    """Whether the context contains a quoted fragment, or the one or two words after "the word"."""
    quoted = words(fragment)
    return any(f" {' '.join(quoted[:length])} " in context.text for length in (1, 2) if len(quoted) >= length)


def _adds(sentence: Sentence, spoken: list[str], turn: _Turn) -> bool:
    """Whether a sentence contains more than a turn's own words and words of any lesson."""
    new = [word for word in spoken if word not in turn.words and stem(word) not in turn.stems]
    if any(word not in listed("framing") and word not in _ASKING and word != "what" for word in new):
        return True
    asking = not _ASKING.isdisjoint(new) and not _EMPTY_ASKING.search(sentence.text)
    return asking and is_question(sentence)


def _copies(spoken: list[str], turn: _Turn) -> bool:
    """Whether a sentence consists of a turn's runs of words."""
    if len(spoken) < _RUN:
        return turn.words.issuperset(spoken)
    return turn.runs.issuperset(_runs(spoken))


def _runs(spoken: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return zip(*(spoken[place:] for place in range(_RUN)), strict=False)


def _joined(spoken: Sequence[str]) -> str:
    return f" {' '.join(spoken)} "


def _content(spoken: Iterable[str]) -> Iterator[str]:
    """The words that are specific to a lesson; numbers are compared by value elsewhere."""
    common = listed("framing") | listed("generic")
    return (word for word in spoken if len(word) > 1 and not word[0].isdigit() and word not in common)


@cache
def _kinds() -> dict[str, _Kind]:
    kinds: dict[str, _Kind] = {}
    for line in lines("kinds"):
        names, _, signs = line.partition("|")
        name, *others = names.split()
        kinds[name] = _Kind(frozenset(others), frozenset(signs.split()), name[0] == "!", name[0] == "?")
    return kinds
