"""What the student's last turn gives as the answer: the known answer, a wrong one, or none.

A right intermediate step is not a wrong answer. A number counts as an answer only if the turn calls it the answer, if
it is in the student's first turn, if the words after it name what the problem asks for, or if it was the student's
answer before. A number of the worked solution is a step unless the turn calls it the answer. For a program, the answer
is a change: the correct change, another change, or the claim that the program needs no change.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from fractions import Fraction
from typing import NamedTuple

from maieutic.checks.answers import (
    Values,
    answer_values,
    bare,
    concludes,
    conclusion,
    known_answer,
    states_phrase,
)
from maieutic.checks.fixes import CHANGE, code_spans, gives_away, reads_as_fixes, reference_fixes
from maieutic.checks.numbers import numbers, plain
from maieutic.checks.questions import asks, listed, words
from maieutic.core.messages import Problem


class State(Enum):
    """How a turn compares with the known answer."""

    RIGHT = "right"
    WRONG = "wrong"
    OPEN = "open"
    """The turn gives no answer: the turn is a step, a question or a comment."""


class Claim(NamedTuple):
    """What a turn gives as the answer."""

    state: State
    values: frozenset[Fraction] = frozenset()
    words: str = ""
    says: bool = True
    """False if the turn says nothing that could be right or wrong: "no idea", "just tell me"."""


_CLAIMS = re.compile(
    r"\b(?:it(?:'s|s|\s+is|\s+was|\s+must\s+be|\s+should\s+be)|is\s+it|i\s+(?:still\s+)?(?:think|thikn|say|guess|got|get|took|take|chose"
    r"|choose|pick(?:ed)?|found|have|put|wrote|believe)|(?:answer|solution|result|sign)\b[^.?!]{0,20}?\b(?:is|be|was|:|=)|then|still|so"
    r"|must\s+be|should\s+be|maybe|perhaps|probably)\s+(?:(?:that|it|is|it's|its|be|the|an?|by|for|we|need|use|answer)\s+){0,4}"
    r"(?P<what>[\w'/^-]+(?:\s+[\w'/^-]+){0,3})",
    re.IGNORECASE,
)
_NO_CLAIM = re.compile(
    r"\b(?:no\s+(?:idea|clue)|(?:don'?t|do\s+not|dont|didn'?t)\s+(?:\w+\s+)?(?:know|get|understand|see)|not\s+sure|dunno|idk|tell\s+me|help\s+me"
    r"|say\s+that\s+again|explain|stuck|lost|confused|give\s+up|what\s+do\s+you\s+mean|can\s+you|could\s+you|sorry|how\s+do\s+i)\b",
    re.IGNORECASE,
)
_WORKS = re.compile(
    r"\b(?:it|code|program|function|everything|this|that|mine)\s+(?:now\s+)?(?:works?|is\s+(?:right|correct|fine|done|ok|okay)|runs\s+fine|looks\s+(?:right|fine|good))\b"
    r"|\bi(?:'m|\s+am)\s+done\b|\bi\s+(?:have\s+)?(?:fixed|solved)\b|\bnothing\s+(?:is\s+)?wrong\b|^\s*done\b",
    re.IGNORECASE,
)
_CALLED = re.compile(
    r"\b(?:in\s+total|total|therefore|altogether|in\s+all|final(?:ly)?|in\s+the\s+end)\b", re.IGNORECASE
)
_ASKED = re.compile(
    r"\bhow\s+(?:many|much)\s+(?:more\s+|fewer\s+|less\s+|total\s+)?([a-z]{3,})", re.IGNORECASE
)
_PROPOSES = re.compile(
    r"\b(?:should|could|maybe|what\s+if|i(?:'ll|\s+will|\s+would|\s+can)|do\s+i|shall|let\s+me|need\s+to|have\s+to|must|try"
    r"|i\s+(?:changed|added|replaced|moved|removed|swapped|set|put|used))\b",
    re.IGNORECASE,
)
_NONE_LEFT = re.compile(r"\b(?:none|nothing|nobody)\b[^.\d]*[.!]?\s*$", re.IGNORECASE)
_SO = re.compile(r"\b(?:so|therefore|thus|hence|concluded?|which\s+means|this\s+means)\b", re.IGNORECASE)
_SHORT = 12
"""A turn of at most this many words contains little more than its answer."""


def claim(problem: Problem, student_turns: Sequence[str]) -> Claim:
    """What the last turn gives as the answer."""
    last = student_turns[-1] if student_turns else ""
    if reads_as_fixes(problem.solution, problem.attempt):
        return _of_program(problem, last)
    answer = known_answer(problem) or ""
    if values := answer_values(answer):
        return _of_number(problem, student_turns, values)
    return _of_phrase(problem, answer, student_turns)


def state_before(problem: Problem, student_turns: Sequence[str]) -> State:
    """The state before the last turn: the state of the latest turn with an answer, else of the attempt."""
    for place in range(len(student_turns) - 1, 0, -1):
        if (found := claim(problem, student_turns[:place]).state) != State.OPEN:
            return found
    return State.WRONG if problem.attempt else State.OPEN


def _of_number(problem: Problem, student_turns: Sequence[str], values: list[Values]) -> Claim:
    last = student_turns[-1] if student_turns else ""
    given = [] if _NONE_LEFT.search(last) else [one for one in values if concludes(last, one)]
    if len(given) == len(values):
        return Claim(State.RIGHT, frozenset().union(*values))
    found = conclusion(last)
    if given or found is None:
        return Claim(State.OPEN, says=bool(given) or _says(last))
    earlier = conclusion(problem.attempt or "")
    wrong = (
        found.called
        or (bool(_SO.search(found.before)) and _is_asked(problem, found.after))
        or (
            not found.values & _on_the_way(problem)
            and _meant(problem, student_turns, found.before, found.after)
        )
        or bool(earlier and found.values & earlier.values and not found.values & _of_statement(problem))
    )
    return Claim(State.WRONG if wrong else State.OPEN, found.values)


def _on_the_way(problem: Problem) -> frozenset[Fraction]:
    """The numbers of the statement and the worked solution, which a student may name as intermediate steps."""
    solution = {value for number in numbers(plain(problem.solution or "")) for value in number.values}
    return _of_statement(problem) | solution


def _of_statement(problem: Problem) -> frozenset[Fraction]:
    return frozenset(value for number in numbers(plain(problem.statement)) for value in number.values)


def _meant(problem: Problem, student_turns: Sequence[str], before: str, after: str) -> bool:
    """Whether the turn gives a number, which is not in the problem, as the answer and not as a step."""
    if len(student_turns) == 1 or _CALLED.search(before) or _CALLED.search(after):
        return True
    if _is_asked(problem, after):
        return True
    short = len(words(student_turns[-1])) <= _SHORT and not before.rstrip(" $").endswith("=")
    return short and bool(problem.solution or _CLAIMS.search(student_turns[-1]))


def _is_asked(problem: Problem, after: str) -> bool:
    """Whether the words after a number name what the problem asks for: "how many boxes"."""
    asked = list(_ASKED.finditer(problem.statement))
    return bool(asked) and bool(
        re.match(rf"\s*(?:[a-z]+\s)?{re.escape(asked[-1][1][:4])}", after, re.IGNORECASE)
    )


def _of_phrase(problem: Problem, answer: str, student_turns: Sequence[str]) -> Claim:
    last = student_turns[-1] if student_turns else ""
    if not last.strip():
        return Claim(State.OPEN, says=False)
    brief = len(words(last)) <= _SHORT
    if states_phrase(last, answer, "" if brief else problem.statement, ""):
        return Claim(State.RIGHT, words=answer)
    attempt = bare(problem.attempt or "")
    if attempt and len(attempt.split()) <= 4 and re.search(rf"(?<!\w){re.escape(attempt)}(?!\w)", bare(last)):
        return Claim(State.WRONG, words=problem.attempt or "")
    found = None if _NO_CLAIM.search(last) else _CLAIMS.search(last)
    what = words(found["what"])[:1] if found and brief else []
    if what and what[0] not in listed("framing"):
        return Claim(State.WRONG, words=what[0])
    return Claim(State.OPEN, says=_says(last))


def _of_program(problem: Problem, last: str) -> Claim:
    fixes = reference_fixes(problem.solution or "", problem.attempt or "")
    known = f"{problem.statement}\n{problem.attempt or ''}"
    given = [fix for fix in fixes if gives_away(last, fix, known)]
    if given:
        return Claim(State.RIGHT if len(given) == len(fixes) else State.OPEN)
    named = code_spans(last) or re.search(r"\bline\s+\d", last, re.IGNORECASE)
    brief = len(words(last)) <= 4 * _SHORT
    if _WORKS.search(last) or (named and brief and _PROPOSES.search(last) and CHANGE.search(last)):
        return Claim(State.WRONG)
    return Claim(State.OPEN, says=bool(named) or _says(last))


def _says(turn: str) -> bool:
    """Whether a turn without an answer says something that may be right or wrong."""
    return len(words(turn)) > 3 and not _NO_CLAIM.search(turn) and not asks(turn)
