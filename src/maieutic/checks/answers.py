"""Does a text state a known answer? The check looks at how a sentence uses the answer's number or phrase.

A sentence can use the same number as the answer, as an operand, as a line number or in a supposition. It can also deny
the number, or repeat it from the problem or from the student. A text states the answer if it calls the number the
answer. It also states the answer if a statement contains the number and neither the problem nor the student gave that
number before.
"""

from __future__ import annotations

import re
from enum import IntEnum
from fractions import Fraction
from typing import NamedTuple

from maieutic.checks.numbers import Form, Number, numbers, plain
from maieutic.checks.questions import TAG, Sentence, is_question, sentences
from maieutic.core.messages import Problem

Values = frozenset[Fraction]


class _Use(IntEnum):
    """How a sentence uses a number."""

    OTHER = 0
    """The number is an operand, a label, part of a supposition, or denied."""
    MENTIONED = 1
    """The number occurs in a statement."""
    ANSWER = 2
    """The sentence calls the number the answer, or the result of something."""


def rule(pattern: str) -> re.Pattern[str]:
    """A regular expression that ignores letter case and the white space in the pattern."""
    return re.compile(pattern, re.VERBOSE | re.IGNORECASE)


_MONEY = r"[$£€]?"
_FILLER = r"""(?:\s*(?:about|exactly|actually|only|just|really|indeed|approximately|roughly|simply|around|also|then|now
    |still|a\s+total\s+of|equal\s+to|[:,])\s*){0,3}"""

LABEL = rule(
    r"""\b(?:steps?|lines?|day|part|question|problem|exercise|figure|page|option|case|row|column|chapter|level|grade
    |round|phase|stage|equation|test|example|lesson|unit|session|sheet|book|group)\s*\#?$ | \#$"""
)
_OPERAND_BEFORE = rule(
    rf"""(?:[\w)%]\s*[+*/^] | [\w)%](?:\s+-\s+|-\s*) | [+*/^(])\s*\(?{_MONEY}$
    | \b(?:plus|minus|times|by|add|adding|subtract|subtracting|multiply|multiplying|divide|dividing|doubling|tripling
      |halving|add\sup|deduct|over|from|than|least|most|under|above|below|between|nearly|almost)
      \s+(?:(?:the|these|those)\s+)?{_MONEY}$"""
)
_OPERAND_AFTER = rule(
    r"""\s?(?:[a-z]+\s){0,2}?(?:[+*/^]\s?[$£€(]?[\d(a-z] | -\s?[$£€(]?\d | -\s[$£€(]?[a-z]\b)
    | \s(?:[a-z]+\s){0,2}?(?:plus|minus|times\s+(?:\d|the|that|by|as)|multiplied|divided|over\s\d|added\sto|subtracted)
    | \s?= | \)\s?[*/^(]"""
)
_RATE_AFTER = rule(r"\s(?:[a-z]+\s){0,2}?(?:each|per)\b")
_IS = rule(rf"(?:\b(?:is|are|was|be|equals?)|=)\s*{_MONEY}$")
_FACT_AFTER = rule(r"\s[a-z]+\s(?:in|to|make)\s(?:an?|one|every|each|the)\s[a-z]+\b")
"""A conversion of units, such as sixty minutes in an hour."""
_SHARE_AFTER = rule(r"\s(?:of|as|the)\b(?!\s(?:the\s|all\s)?(?:time|cases|outcomes|it|them)\b)")
_NOT_SO = rule(
    r"\b(would|is|are|does|do|did|could|should|was|were|will)n't(?=\s(?:that|it|this|the|she|he|they|you|we)\b)"
)
"""The negation in a question that expects a yes: "wouldn't that make it 30?"."""
_DENIED_BEFORE = rule(
    rf"(?:\bnot|n't|\bnever|\bwithout|\binstead\s+of|\brather\s+than)\s+(?:\w+\s+){{0,3}}{_MONEY}$"
)
_DENIED_AFTER = rule(
    r"""\s*(?:[a-z]+\s){0,3}?(?:
      (?:is|are|was|were|does|did|would|can|could)(?:n't|\s+not)\b
      | (?:is|seems?|looks?)\s+(?:a\s+(?:bit|little)\s+)?(?:too|wrong|incorrect|off\b))"""
)
_SUPPOSED = rule(
    r"""\b(?:suppose|imagine|pretend|assume|say\s+(?:i|you|we|he|she|they|there)|let'?s\s+say|for\s+(?:example|instance)
    |such\s+as|e\.g|what\s+if|if\s+(?:you|i|we|there|he|she|they|it|each|the)\b|when\s+you\s+see|like)\b"""
)
_ANSWER_BEFORE = rule(
    rf"""(?: =
    | \b(?:answer|solution|result|final\s+(?:\w+\s+)?(?:number|amount|value|count|total))\b
      (?:\s+\w+){{0,6}}?\s*(?:is|was|are|be|to|of|:|=|becomes?)?{_FILLER}
    | \b(?:get|gets|got|getting|give|gives|giving|gave|equal|equals|equalling|make|makes|making|total|totals|leaves
      |leaving|becomes|reach)(?:\s+(?:you|us|her|him|them|me|it|a|an|the))?{_FILLER}
    | \b(?:comes?|works?|adds?|sums?|amounts?|rounds?|simplif(?:y|ies))\s+(?:(?:out|up|down)\s+)?(?:to|as){_FILLER}
    | \b(?:total|sum|difference|product|quotient|remainder|average|mean|it|that|this|which|[xyz])\s*
      (?:'s|\s(?:is|are|was|would\s+be|will\s+be|should\s+be|must\s+be|=)){_FILLER}
    | \b(?:left|remaining)\s+(?:is|are|with){_FILLER}
    | \btotal(?:\s+\w+){{0,4}}?\s+(?:is|was|be|are){_FILLER}
    | \b(?:that|this|it)\s+(?:actually\s+)?(?:be|mean){_FILLER}
    | \b(?:should|would|will|must)\s+(?:\w+\s+)?(?:be|have|get|equal){_FILLER}
    )\s*[("']*{_MONEY}-?{_MONEY}$"""
)
_ANSWER_AFTER = rule(
    r"""\s*(?:[a-z'-]+\s){0,3}?(?:in\s+total|altogether|in\s+all)\b | \s+(?:\w+\s)?total\b
    | \s*(?:[a-z'-]+\s){0,3}?is\s+(?:the|your|our)\s+(?:\w+\s+)?(?:answer|result|total|solution)
    | \s*(?:[a-z'-]+\s){0,3}?is\s+(?:correct|right|exactly\s+right|the\s+correct)\b
    | \s+of\s+(?:\w+\s){1,3}(?:is|are)\s+left\b"""
)
_CALLED_ANSWER = rule(r"\b(?:answer|solution|result|correct|right|final|boxed)\b | =")
_OF_STUDENT = rule(
    r"""\b(?:you|he|she|they)\s+(?:\w+ly\s+)?(?:said|say|wrote|found|got|calculated|counted|had|have|mentioned|stated
      |told|used|multiplied|added|divided|subtracted|computed|arrived|came)\b
    | \byour\s+(?:\w+\s+)?(?:answer|solution|result|equation|total|calculation) | \bthe\s+equation\b"""
)
_UNKNOWN_LEFT = rule(
    rf"(?:\d\s?[a-z] | [a-z]\s?[-+*/]\s?[\d.]+ | [\d.]+\s?[-+*/]\s?[a-z])\)?\s*=\s*{_MONEY}-?$"
)
_CLAUSES = rule(r"[,;:](?=\s) | \b(?:but|so|therefore|thus|because)\b")
_CONCLUDED = rule(rf"\banswer\b[^.]*\b(?:is|be|=)\s*{_MONEY}$")
_REACH = 240
_TOO_COMMON = frozenset(
    ["a", "b", "c", "d", "e", "f", "i", "yes", "no", "true", "false", "none", "all", "both", "one"]
)
"""Short answers that occur in any text. They count only if the text calls them the answer."""


def answer_values(answer: str) -> list[Values]:
    """The possible values of each number in an answer; empty where the answer is a phrase or an expression."""
    text = plain(answer)
    found = numbers(text)
    rest = text
    for number in reversed(found):
        rest = f"{rest[: number.start]} {rest[number.end :]}"
    rest = re.sub(r"^\s*[a-z]\s*=", "", rest, flags=re.IGNORECASE)
    if re.search(r"\d|[+*^()]", rest) or len(re.findall(r"[A-Za-z]+", rest)) > 3 * max(1, len(found)):
        return []
    return [number.values for number in found]


def states_number(text: str, values: Values, statement: str, given: str) -> bool:
    """Whether the text states one of the values.

    Args:
        text: the checked text.
        values: the possible values of the answer.
        statement: the problem; a number in it counts only where the text calls it the answer.
        given: the problem and the student's turns; a number in it counts only as the result of something.
    """
    stated = [number.form for number in numbers(plain(statement)) if number.values & values]
    others = given.removeprefix(statement)
    known = [*stated, *(Form.PLAIN for number in numbers(plain(others)) if number.values & values)]
    nouns = {word[:4].lower() for word in re.findall(r"[A-Za-z]{3,}", given)}
    for sentence in sentences(plain(text)):
        for number in numbers(sentence.text):
            if not number.values & values:
                continue
            use = _use(sentence, number, nouns)
            if use == _Use.MENTIONED and not _written(number, known):
                return True
            clause = _CLAUSES.split(_around(sentence, number)[0])[-1]
            if use != _Use.ANSWER or (_written(number, known) and _OF_STUDENT.search(clause)):
                continue
            if not _written(number, stated) or _CALLED_ANSWER.search(sentence.text):
                return True
    return False


def known_answer(problem: Problem) -> str | None:
    """The answer, or the number at the end of a worked solution, as in GSM8K (`#### 12`) and MathDial."""
    if problem.answer and problem.answer.strip():
        return problem.answer.strip()
    lines = (problem.solution or "").strip().splitlines()
    last = lines[-1].replace("####", "").strip() if lines else ""
    return last if re.fullmatch(r"[-$£€]{0,2}[\d.,/]*\d%?", last) else None


class Conclusion(NamedTuple):
    """The number that a text ends with, or that the text calls the answer."""

    values: Values
    called: bool
    """The text calls the number the answer."""
    before: str
    after: str


def conclusion(text: str) -> Conclusion | None:
    """A student's result: the number that the turn calls the answer, else the last number that is not denied."""
    first = last = None
    for sentence in reversed(sentences(plain(text))):
        calls = "answer" in sentence.text.lower()
        for number in reversed(numbers(sentence.text)):
            if (last is None or calls) and not _is_aside(sentence, number):
                before, after = _around(sentence, number)
                found = Conclusion(number.values, bool(_CONCLUDED.search(before)), before, after)
                first = found if found.called else first
                last = last or found
    return first or last


def concludes(text: str, values: Values) -> bool:
    """Whether a student's turn ends with one of the values, or calls it the answer."""
    ends: tuple[Sentence, Number] | None = None
    for sentence in sentences(plain(text)):
        calls = "answer" in sentence.text.lower()
        for number in numbers(sentence.text):
            ends = sentence, number
            called = calls and number.values & values and _CONCLUDED.search(_around(sentence, number)[0])
            if called and not _is_aside(sentence, number):
                return True
    return ends is not None and bool(ends[1].values & values) and not _is_aside(*ends)


def _is_aside(sentence: Sentence, number: Number) -> bool:
    """Whether a number is denied, an operand or a label."""
    before, after = _around(sentence, number)
    denied = _DENIED_BEFORE.search(before) or _DENIED_AFTER.match(after)
    return bool(denied or _OPERAND_AFTER.match(after) or LABEL.search(before))


def states_phrase(text: str, answer: str, given: str, last: str) -> bool:
    """Whether the text states an answer that is written in words or symbols.

    If the answer is short or was given before, the text must call it the answer.
    """
    phrase = bare(answer)
    if not phrase:
        return re.sub(r"\s+", "", plain(answer)) in re.sub(r"\s+", "", plain(text))
    found = rf"(?<!\w){re.escape(phrase)}(?!\w)"
    reply = bare(text)
    if reply == phrase:
        return bare(last) != phrase
    if phrase in _TOO_COMMON or len(phrase) <= 2 or re.search(found, bare(given)):
        noun, verb = r"(?:answer|option|choice|solution)", r"(?: \w+){0,3}? ?(?:is|are|be|was)?"
        called = rf"\b{noun}\b{verb} ?(?:the |an? |option )?{found}"
        called += rf"|{found} is (?:the|your) (?:\w+ )?{noun}"
        return bool(re.search(called, reply)) and not re.search(called, bare(last)) and bare(last) != phrase
    denied = rf"\b(?:not|isn t|aren t|wasn t) (?:an? |the )?{found}"
    return bool(re.search(found, re.sub(denied, " ", reply)))


def _use(sentence: Sentence, number: Number, nouns: set[str]) -> _Use:
    before, after = _around(sentence, number)
    asks = is_question(sentence) and not TAG.search(sentence.text)
    if asks:
        before = _NOT_SO.sub(r"\1", before)
    if not re.search(r"\w", before + after):
        return _Use.ANSWER  # the sentence contains nothing else
    if LABEL.search(before) or _OPERAND_AFTER.match(after) or _UNKNOWN_LEFT.search(before):
        return _Use.OTHER
    if (_RATE_AFTER.match(after) and not _IS.search(before)) or _FACT_AFTER.match(after):
        return _Use.OTHER
    if _DENIED_BEFORE.search(before) or _DENIED_AFTER.match(after):
        return _Use.OTHER
    if _ANSWER_BEFORE.search(before) or _ANSWER_AFTER.match(after):
        return _Use.ANSWER
    if _OPERAND_BEFORE.search(before) or _SUPPOSED.search(before) or asks:
        return _Use.OTHER
    if number.fraction and _SHARE_AFTER.match(after):
        return _Use.OTHER  # "half of the apples" is a step, not an answer
    if number.words and not number.fraction and max(number.values) <= 10:
        # "two ways to see it" does not count anything that the problem asks about
        noun = re.match(r"[\s-]*([A-Za-z]{3,})", after)
        return _Use.MENTIONED if noun and noun[1][:4].lower() in nouns else _Use.OTHER
    return _Use.MENTIONED


def _around(sentence: Sentence, number: Number) -> tuple[str, str]:
    """The text before and after a number, cut to a fixed length so that long sentences are fast."""
    text = sentence.text
    return text[max(0, number.start - _REACH) : number.start], text[number.end : number.end + _REACH]


def _written(number: Number, forms: list[Form]) -> bool:
    """Whether the number is written in one of these forms: a problem with 7/8 does not give the decimal .875."""
    return any(form in (number.form, Form.PLAIN) or number.form == Form.PLAIN for form in forms)


def bare(text: str) -> str:
    """Lower-case words and signs with single spaces."""
    return " ".join(re.findall(r"\w+|[-+*/^=<>]", plain(text).lower()))
