"""Does a reply misjudge what the student has just said: a wrong answer confirmed, or a right one not acknowledged?"""

from __future__ import annotations

import re
from collections.abc import Sequence

from maieutic.checks.answers import answer_values, known_answer, states_number, states_phrase
from maieutic.checks.feedback import Stance, Yes, stance
from maieutic.checks.numbers import numbers, plain
from maieutic.checks.questions import is_question, sentences
from maieutic.checks.student_state import Claim, Standing, before, claim
from maieutic.core.messages import Problem


def misjudges(text: str, problem: Problem, said: Sequence[str]) -> bool:
    """Whether the reply confirms an answer that is wrong, or passes by or denies one that is right.

    Only what the student's last turn gives as the answer counts; a right step may be confirmed, and a wrong answer
    need not be called wrong: a question is enough. A right answer wants a word of acknowledgement, and then any
    question is fine.
    """
    found = claim(problem, said)
    stands = stance(_marked(text, found))
    if found.standing == Standing.WRONG:
        return _confirms(stands)
    if found.standing == Standing.RIGHT:
        return _passes_by(text, problem, stands)
    sure = Yes.PRAISE if stands.moves_on else Yes.ANSWER if found.says else Yes.SAID
    return stands.yes >= sure and _confirms(stands) and before(problem, said) == Standing.WRONG


def _confirms(stands: Stance) -> bool:
    """Whether a stance is a yes that nothing takes back."""
    if stands.denies:
        return False
    if stands.yes == Yes.ANSWER or (stands.yes and stands.moves_on):
        return True
    return not stands.doubts and (stands.yes >= Yes.BARE or (stands.yes == Yes.PRAISE and not stands.asks))


def _passes_by(text: str, problem: Problem, stands: Stance) -> bool:
    """Whether a right answer is denied, or nothing acknowledges it where the reply goes on."""
    if stands.yes == Yes.ANSWER or (stands.yes >= Yes.BARE and not stands.denies):
        return False
    if stands.denies:
        return True
    if stands.yes == Yes.PRAISE or _restates(text, problem):
        return False
    return stands.asks or stands.doubts


def _restates(text: str, problem: Problem) -> bool:
    """Whether the reply itself states the answer, outside its questions."""
    answer = known_answer(problem) or ""
    told = " ".join(f"{one.text}." for one in sentences(plain(text)) if not is_question(one))
    if values := answer_values(answer):
        return all(states_number(told, one, "", "") for one in values)
    return bool(answer) and states_phrase(told, answer, "", "")


def _marked(text: str, found: Claim) -> str:
    """The text with what the student gave as the answer written as CLAIM."""
    text = plain(text)
    if found.words:
        return re.sub(rf"(?<!\w){re.escape(found.words)}(?!\w)", "CLAIM", text, flags=re.IGNORECASE)
    for number in reversed(numbers(text)):
        if number.values & found.values:
            text = f"{text[: number.start]}CLAIM{text[number.end :]}"
    return text
