"""What code can decide of a tutor's reply: that it asks a question, and that it reveals the known answer.

Pure functions of texts; no model, no state. A check returns null where it cannot know (no known answer), and then a
model is asked instead. `CHECKS` holds them under the names that a rubric's `code:` uses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from maieutic.checks.answers import answer_values, concludes, states_number, states_phrase
from maieutic.checks.fixes import gives_away, reads_as_fixes, reference_fixes
from maieutic.checks.numbers import numbers, plain
from maieutic.checks.questions import asks
from maieutic.types import Problem


def asks_question(text: str) -> bool:
    """Whether the reply asks the student something, by syntax (see `checks.questions`)."""
    return asks(text)


def reveals_answer(text: str, problem: Problem | None, student_said: str | Sequence[str] = ()) -> bool | None:
    """Whether the reply states the problem's known answer, or null where none is known.

    A number that the statement holds or the student has said reveals nothing by standing there, only where the reply
    comes to it as the answer; and what the student has just given as the answer is no longer the tutor's to reveal.

    Args:
        text: the tutor's reply.
        problem: with an `answer` (a number in any writing, or a phrase), or, for code, the reference fixes as its
            `solution` and the program as its `attempt`.
        student_said: the student's turns so far, oldest first; the last one is what the reply answers.
    """
    if problem is None:
        return None
    said = [student_said] if isinstance(student_said, str) else list(student_said)
    given = "\n".join((problem.statement, problem.attempt or "", *said))
    if reads_as_fixes(problem.solution, problem.attempt):
        fixes = reference_fixes(problem.solution or "", problem.attempt or "")
        return any(gives_away(text, fix, given) for fix in fixes) if fixes else None
    answer = _known_answer(problem)
    if not answer:
        return None
    last = said[-1] if said else ""
    values = answer_values(answer)
    if not values:
        return states_phrase(text, answer, given, last)
    if all(concludes(last, one) for one in values):
        return False
    return all(states_number(text, one, problem.statement, given) for one in values)


def states_answer(text: str, problem: Problem) -> bool:
    """Whether a student's turn states the problem's known answer: ends on it, or calls it the answer."""
    answer = (problem.answer or "").strip()
    if values := answer_values(answer):
        return all(concludes(text, one) for one in values)
    return bool(answer) and states_phrase(text, answer, problem.statement, "")


def names_answer(text: str, problem: Problem) -> bool:
    """Whether a student's turn holds the known answer at all, be it as one of several guesses.

    A number that the statement or the attempt holds names nothing: there the turn must state it.
    """
    values = answer_values((problem.answer or "").strip())
    known = numbers(plain(f"{problem.statement}\n{problem.attempt or ''}"))
    if not values or any(number.values & one for number in known for one in values):
        return states_answer(text, problem)
    said = numbers(plain(text))
    return all(any(number.values & one for number in said) for one in values)


def _known_answer(problem: Problem) -> str | None:
    """The answer, or the bare number that a worked solution ends with, as in GSM8K (`#### 12`) and MathDial."""
    if problem.answer and problem.answer.strip():
        return problem.answer.strip()
    lines = (problem.solution or "").strip().splitlines()
    last = lines[-1].replace("####", "").strip() if lines else ""
    return last if re.fullmatch(r"[-$£€]{0,2}[\d.,/]*\d%?", last) else None


CHECKS: dict[str, Callable[[str, Problem | None, Sequence[str]], bool | None]] = {
    "asks_question": lambda text, problem, said: asks_question(text),
    "reveals_answer": reveals_answer,
}
