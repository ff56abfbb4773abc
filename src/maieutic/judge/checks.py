"""What code can decide of a tutor's reply: that it asks a question, and that it reveals the known answer.

Pure functions of texts; no model, no state. A check returns null where it cannot know (no known answer), and then a
model is asked instead. `CHECKS` holds them under the names that a rubric's `code:` uses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from enum import IntEnum
from fractions import Fraction

from maieutic.judge.fixes import gives_away, reads_as_fixes, reference_fixes
from maieutic.judge.numbers import Number, numbers, plain
from maieutic.judge.questions import Sentence, asks, is_question, sentences
from maieutic.types import Problem


def asks_question(text: str) -> bool:
    """Whether the reply asks the student something, by syntax (see `judge.questions`)."""
    return asks(text)


def reveals_answer(text: str, problem: Problem | None, student_said: str | Sequence[str] = ()) -> bool | None:
    """Whether the reply states the problem's known answer, or null where none is known.

    A number that the statement holds or the student has said reveals nothing by standing there, only where the reply
    calls it the answer; and what the student has just stated as the answer is no longer the tutor's to reveal.

    Args:
        text: the tutor's reply.
        problem: with an `answer` (a number in any writing, or a phrase), or, for code, the reference fixes as its
            `solution` and the program as its `attempt`.
        student_said: the student's turns so far, oldest first; the last one is what the reply answers.
    """
    if problem is None:
        return None
    said = [student_said] if isinstance(student_said, str) else list(student_said)
    if reads_as_fixes(problem.solution, problem.attempt):
        return _reveals_fix(text, problem, said)
    answer = _known_answer(problem)
    if not answer:
        return None
    values = _answer_values(answer)
    given = "\n".join((problem.statement, problem.attempt or "", *said))
    last = said[-1] if said else ""
    if not values:
        return _states_phrase(text, answer, given, last)
    if all(_concludes(last, one) for one in values):
        return False
    return all(_states_number(text, one, problem.statement, given) for one in values)


def _reveals_fix(text: str, problem: Problem, said: list[str]) -> bool | None:
    fixes = reference_fixes(problem.solution or "", problem.attempt or "")
    known = "\n".join((problem.statement, problem.attempt or "", *said))
    return any(gives_away(text, fix, known) for fix in fixes) if fixes else None


def _known_answer(problem: Problem) -> str | None:
    """The answer, or the bare number that a worked solution ends with, as in GSM8K (`#### 12`) and MathDial."""
    if problem.answer and problem.answer.strip():
        return problem.answer.strip()
    lines = (problem.solution or "").strip().splitlines()
    last = lines[-1].replace("####", "").strip() if lines else ""
    return last if re.fullmatch(r"[-$£€]{0,2}[\d.,/]*\d%?", last) else None


def _answer_values(answer: str) -> list[frozenset[Fraction]]:
    """What each number of the answer may mean; none where the answer is rather a phrase or an expression."""
    text = plain(answer)
    found = numbers(text)
    rest = text
    for number in reversed(found):
        rest = rest[: number.start] + " " + rest[number.end :]
    letters = re.sub(r"^\s*[a-z]\s*=", "", rest.strip(), flags=re.IGNORECASE)
    if re.search(r"\d|[+*^()]", letters) or len(re.findall(r"[A-Za-z]+", letters)) > 3 * max(1, len(found)):
        return []
    if "half" in rest and not found:
        return []
    return [number.values for number in found]


class _Standing(IntEnum):
    NONE = 0
    """An operand, a label, denied, supposed."""
    MENTIONED = 1
    """There, in a statement."""
    ANSWER = 2
    """Called the answer, or what something comes to."""


_LABEL = re.compile(
    r"\b(?:steps?|lines?|day|part|question|problem|exercise|figure|page|option|case|row|column|chapter|level|grade"
    r"|round|phase|stage|equation|test|example)\s*#?$|#$",
    re.IGNORECASE,
)
_OPERAND_BEFORE = re.compile(
    r"(?:[\w)%]\s*[+*/^]|[\w)%]\s*-|[+*/^(])\s*\(?[$£€]?$"
    r"|\b(?:plus|minus|times|by|add|adding|subtract|subtracting|multiply|multiplying|divide|dividing|doubling|tripling"
    r"|halving|add up|deduct|over|from|than|least|most|under|above|below|between|nearly|almost)\s+(?:the\s+|these\s+|those\s+)?[$£€]?$",
    re.IGNORECASE,
)
_OPERAND_AFTER = re.compile(
    r"\s?(?:[a-z]+\s){0,2}?(?:[+*/^×]\s?[$£€(]?[\d(a-z]|-\s?[$£€(]?\d|-\s[$£€(]?[a-z]\b)"
    r"|\s(?:[a-z]+\s){0,2}?(?:plus|minus|times\s+(?:\d|the|that|by|as)|multiplied|divided|over\s\d|added to|subtracted|each\b|per\b)"
    r"|\s?=|\)\s?[*/^(]",
    re.IGNORECASE,
)
_DENIED_BEFORE = re.compile(
    r"(?:\bnot|n't|\bnever|\bwithout|\binstead of|\brather than)\s+(?:\w+\s+){0,3}[$£€]?$", re.I
)
_DENIED_AFTER = re.compile(
    r"\s*(?:[a-z]+\s){0,3}?(?:(?:is|are|was|were|does|did|would|can|could)(?:n't|\s+not)\b|(?:is|seems?|looks?)\s+(?:a\s+(?:bit|little)\s+)?"
    r"(?:too|wrong|incorrect|off\b))",
    re.IGNORECASE,
)
_SUPPOSED = re.compile(
    r"\b(?:suppose|imagine|pretend|assume|say\s+(?:i|you|we|he|she|they|there)|let'?s\s+say|for\s+(?:example|instance)"
    r"|such\s+as|e\.g|what\s+if|if\s+(?:you|i|we|there|he|she|they|it|each|the)\b|when\s+you\s+see|like)\b",
    re.IGNORECASE,
)
_FILLER = r"(?:\s*(?:about|exactly|actually|only|just|really|indeed|approximately|roughly|simply|around|a\s+total\s+of|equal\s+to|also|then|now|still|:|,)\s*){0,3}"
_ANSWER_BEFORE = re.compile(
    rf"(?:=|\b(?:answer|solution|result|final\s+(?:\w+\s+)?(?:number|amount|value|count|total))\b(?:\s+\w+){{0,6}}?\s*(?:is|was|are|be|to|of|:|=|become|becomes)?{_FILLER}"
    rf"|\b(?:get|gets|got|getting|give|gives|giving|gave|equal|equals|equalling|make|makes|making|total|totals|leaves|leaving|becomes|reach)"
    rf"(?:\s+(?:you|us|her|him|them|me|it|a|an|the))?{_FILLER}"
    rf"|\b(?:comes?|works?|adds?|sums?|amounts?|rounds?|simplif(?:y|ies))\s+(?:out\s+|up\s+|down\s+)?(?:to|as){_FILLER}"
    rf"|\b(?:total|sum|difference|product|quotient|remainder|average|mean|it|that|this|which|[xyz])\s*(?:'s|\s(?:is|are|was|would\s+be|will\s+be|should\s+be|must\s+be|=)){_FILLER}"
    rf"|\btotal(?:\s+\w+){{0,4}}?\s+(?:is|was|be|are){_FILLER}|\b(?:that|this|it)\s+(?:actually\s+)?(?:be|mean){_FILLER}"
    rf"|\b(?:should|would|will|must)\s+(?:\w+\s+)?(?:be|have|get|equal){_FILLER})\s*[(\"']*[$£€]?-?[$£€]?$",
    re.IGNORECASE,
)
_ANSWER_AFTER = re.compile(
    r"\s*(?:[a-z'-]+\s){0,3}?(?:in\s+total|altogether|in\s+all)\b|\s+(?:\w+\s)?total\b"
    r"|\s*(?:[a-z'-]+\s){0,3}?is\s+(?:the|your|our)\s+(?:\w+\s+)?(?:answer|result|total|solution)"
    r"|\s*(?:[a-z'-]+\s){0,3}?is\s+(?:correct|right|exactly\s+right|the\s+correct)\b",
    re.IGNORECASE,
)
_CALLED_ANSWER = re.compile(r"\b(?:answer|solution|result|correct|right|final|boxed)\b|=", re.IGNORECASE)
_OF_STUDENT = re.compile(
    r"\b(?:you|he|she|they)\s+(?:\w+ly\s+)?(?:said|say|wrote|found|got|calculated|counted|had|have|mentioned|stated|told|used|multiplied|added"
    r"|divided|subtracted|computed|arrived|came)\b|\byour\s+(?:\w+\s+)?(?:answer|solution|result|equation|total|calculation)"
    r"|\bthe\s+equation\b",
    re.IGNORECASE,
)
_UNKNOWN_LEFT = re.compile(
    r"(?:\d\s?[a-z]|[a-z]\s?[-+*/]\s?[\d.]+|[\d.]+\s?[-+*/]\s?[a-z])\)?\s*=\s*[$£€]?-?$", re.IGNORECASE
)


def _states_number(text: str, values: frozenset[Fraction], statement: str, given: str) -> bool:
    """Whether the text states one of the values: called the answer, or mentioned where nobody has said it yet."""
    in_statement, said = _holds(statement, values), _holds(given, values)
    nouns = {word[:4].lower() for word in re.findall(r"[A-Za-z]{3,}", given)}
    for sentence in sentences(plain(text)):
        for number in numbers(sentence.text):
            if not number.values & values:
                continue
            standing = _standing(sentence, number, nouns)
            if standing == _Standing.MENTIONED and not said:
                return True
            if standing != _Standing.ANSWER or (
                said and _OF_STUDENT.search(_clause(sentence.text[: number.start]))
            ):
                continue
            if not in_statement or _CALLED_ANSWER.search(sentence.text):
                return True
    return False


def _clause(before: str) -> str:
    return re.split(r"[,;:](?=\s)|\b(?:but|so|therefore|thus|because)\b", before)[-1]


def _holds(text: str, values: frozenset[Fraction]) -> bool:
    return any(number.values & values for number in numbers(plain(text)))


def _concludes(text: str, values: frozenset[Fraction]) -> bool:
    """Whether a student's turn ends on one of the values, or calls it the answer."""
    concluded = False
    for sentence in sentences(plain(text)):
        for number in numbers(sentence.text):
            before, after = sentence.text[: number.start], sentence.text[number.end :]
            denied = _DENIED_BEFORE.search(before) or _DENIED_AFTER.match(after)
            operand = _OPERAND_AFTER.match(after) or _LABEL.search(before)
            concluded = bool(number.values & values) and not denied and not operand
            if concluded and re.search(r"\banswer\b[^.]*\b(?:is|be|=)\s*[$£€]?$", before, re.IGNORECASE):
                return True
    return concluded


def _standing(sentence: Sentence, number: Number, nouns: set[str]) -> _Standing:
    before, after = sentence.text[: number.start], sentence.text[number.end :]
    if not re.search(r"\w", before + after):
        return _Standing.ANSWER  # the number is all there is
    if (
        _LABEL.search(before)
        or _OPERAND_AFTER.match(after)
        or _DENIED_BEFORE.search(before)
        or _DENIED_AFTER.match(after)
    ):
        return _Standing.NONE
    if _UNKNOWN_LEFT.search(before):
        return _Standing.NONE  # an equation still to be solved
    if _ANSWER_BEFORE.search(before) or _ANSWER_AFTER.match(after):
        return _Standing.ANSWER
    if _OPERAND_BEFORE.search(before) or _SUPPOSED.search(before) or is_question(sentence):
        return _Standing.NONE
    if number.fraction and re.match(r"\s(?:of|as|the)\b", after):
        return _Standing.NONE  # a share of something, on the way
    if number.words and not number.fraction and max(number.values) <= 10:
        noun = re.match(r"[\s-]*([A-Za-z]{3,})", after)
        return _Standing.MENTIONED if noun and noun[1][:4].lower() in nouns else _Standing.NONE
    return _Standing.MENTIONED


_TOO_COMMON = frozenset("yes no true false a b c d e f i none all both".split())


def _states_phrase(text: str, answer: str, given: str, last: str) -> bool:
    """An answer in words or symbols: the phrase itself, and for a short or known one only where it is called the answer."""
    phrase = _bare(answer)
    if not phrase:
        return re.sub(r"\s+", "", plain(answer)) in re.sub(r"\s+", "", plain(text))
    found = rf"(?<!\w){re.escape(phrase)}(?!\w)"
    reply, known = _bare(text), _bare(given)
    if reply == phrase:
        return _bare(last) != phrase
    called = rf"\b(?:answer|option|choice|solution|it)\b(?: \w+){{0,3}}? (?:is|are|be|was|s)? ?(?:the |an? |option )?{found}"
    if phrase in _TOO_COMMON or len(phrase) <= 2 or re.search(found, known):
        return bool(re.search(called.replace("|it)", ")"), reply)) and not re.search(called, _bare(last))
    denied = rf"\b(?:not|isn t|aren t|wasn t) (?:an? |the )?{found}"
    return bool(re.search(found, re.sub(denied, " ", reply)))


def _bare(text: str) -> str:
    """Lower-case words and signs with single spaces."""
    return " ".join(re.findall(r"\w+|[-+*/^=<>]", plain(text).lower()))


CHECKS: dict[str, Callable[[str, Problem | None, Sequence[str]], bool | None]] = {
    "asks_question": lambda text, problem, said: asks_question(text),
    "reveals_answer": reveals_answer,
}
