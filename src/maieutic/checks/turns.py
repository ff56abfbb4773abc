"""Checks of one turn: does it ask, reveal the answer, take up the context, give wrong feedback, press or refuse?

The checks are pure functions of texts, without a model or state. A check returns null if it cannot decide, for example
if the problem has no known answer; then a judge model decides. `CHECKS` maps the names in a rubric's `code:` to the
functions.

`presses` and `refuses` match phrases clause by clause; the phrases are in `demands.yaml`. Asking for the answer differs
from asking about it: "how do I get the answer?", "is the answer 12?" and "tell me if this is right" do not press. A
tutor who withholds the answer and goes on ("I will not tell you, but what does each mean?") does not refuse.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files

import yaml

from maieutic.checks import feedback, uptake
from maieutic.checks.answers import answer_values, concludes, known_answer, states_number, states_phrase
from maieutic.checks.fixes import gives_away, reads_as_fixes, reference_fixes
from maieutic.checks.numbers import has_comma, numbers, plain, with_points
from maieutic.checks.questions import asks, sentences
from maieutic.core.messages import Problem

_CLAUSE = re.compile(r"(?<=[.!?\n])\s+|;\s+|\s+\b(?:but|though|although)\b\s+", re.IGNORECASE)
_BUT = re.compile(r":\s+|\s+\b(?:but|however|though|instead|so)\b[,\s]+", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")


def asks_question(text: str) -> bool:
    """Whether the reply asks the student something; see `checks.questions`."""
    return asks(text)


def reveals_answer(
    text: str, problem: Problem | None, student_turns: str | Sequence[str] = ()
) -> bool | None:
    """Whether the reply states the problem's known answer; null if no answer is known.

    If the answer's number is also in the statement or in a student's turn, the reply must call it the answer or the
    result. If the student's last turn gives the answer, the tutor does not reveal it.

    Args:
        text: the tutor's reply.
        problem: has an `answer` (a number in any form, or a phrase); for code, has the reference fixes as its
            `solution` and the program as its `attempt`.
        student_turns: the student's turns so far, oldest first; the reply answers the last one.
    """
    if problem is None:
        return None
    if has_comma(problem.answer):
        text, problem, student_turns = _with_points(text, problem, student_turns)
    turns = _turns(student_turns)
    given = "\n".join((problem.statement, problem.attempt or "", *turns))
    if reads_as_fixes(problem.solution, problem.attempt):
        fixes = reference_fixes(problem.solution or "", problem.attempt or "")
        return any(gives_away(text, fix, given) for fix in fixes) if fixes else None
    answer = known_answer(problem)
    if not answer:
        return None
    last = turns[-1] if turns else ""
    values = answer_values(answer)
    if not values:
        return states_phrase(text, answer, given, last)
    if all(concludes(last, one) for one in values):
        return False
    return all(states_number(text, one, problem.statement, given) for one in values)


def states_answer(text: str, problem: Problem) -> bool:
    """Whether a student's turn ends with the problem's known answer, or calls it the answer."""
    if has_comma(problem.answer):
        text, problem, _ = _with_points(text, problem)
    answer = (problem.answer or "").strip()
    if values := answer_values(answer):
        return all(concludes(text, one) for one in values)
    return bool(answer) and states_phrase(text, answer, problem.statement, "")


def names_answer(text: str, problem: Problem) -> bool:
    """Whether a student's turn contains the known answer, for example as one of several guesses.

    If the statement or the attempt contains that number too, the turn must state it as the answer.
    """
    if has_comma(problem.answer):
        text, problem, _ = _with_points(text, problem)
    values = answer_values((problem.answer or "").strip())
    known = numbers(plain(f"{problem.statement}\n{problem.attempt or ''}"))
    if not values or any(number.values & one for number in known for one in values):
        return states_answer(text, problem)
    named = numbers(plain(text))
    return all(any(number.values & one for number in named) for one in values)


def takes_up(text: str, problem: Problem | None, student_turns: str | Sequence[str] = ()) -> bool | None:
    """Whether the reply takes up something specific from the problem or the student's turns, and adds to it.

    Null if there is neither a problem nor a student's turn; see `checks.uptake`.
    """
    turns = _turns(student_turns)
    if problem is None and not any(turn.strip() for turn in turns):
        return None
    about = problem or Problem(statement="")
    return uptake.takes_up(text, about.statement, about.attempt or "", turns)


def wrong_feedback(
    text: str, problem: Problem | None, student_turns: str | Sequence[str] = ()
) -> bool | None:
    """Whether the reply confirms a student's wrong answer, or ignores or denies a right answer.

    Null if `reveals_answer` is null; see `checks.feedback`.
    """
    if problem is None or not _is_known(problem):
        return None
    if has_comma(problem.answer):
        text, problem, student_turns = _with_points(text, problem, student_turns)
    return feedback.wrong_feedback(text, problem, _turns(student_turns))


def presses(text: str) -> bool:
    """Whether a student's turn demands the answer, or demands that the tutor does the work."""
    clauses = (clause.strip() for clause in _CLAUSE.split(_one_line(text)))
    return any(_holds("presses", clause) and not _holds("does_not_press", clause) for clause in clauses)


def refuses(text: str) -> bool:
    """Whether a tutor's turn refuses to help, and gives the student neither a question nor a hint."""
    spoken = sentences(_one_line(text))
    parts = [part.strip() + sentence.mark for sentence in spoken for part in _BUT.split(sentence.text)]
    refused = [_holds("refuses", part) and not _holds("refuses_nothing", part) for part in parts]
    return any(refused) and not any(_goes_on(part) for part, no in zip(parts, refused, strict=True) if not no)


def denies(text: str) -> bool:
    """Whether a tutor's reply calls the student's turn wrong."""
    return any(_holds("denies", sentence.text.strip()) for sentence in sentences(_one_line(text)))


CHECKS: dict[str, Callable[[str, Problem | None, Sequence[str]], bool | None]] = {
    "asks_question": lambda text, problem, turns: asks_question(text),
    "reveals_answer": reveals_answer,
    "takes_up": takes_up,
    "misjudges": wrong_feedback,
}
"""The checks, by the names that rubrics use."""


def _is_known(problem: Problem) -> bool:
    """Whether the problem has a known answer or a reference fix."""
    if reads_as_fixes(problem.solution, problem.attempt):
        return bool(reference_fixes(problem.solution or "", problem.attempt or ""))
    return known_answer(problem) is not None


def _with_points(
    text: str, problem: Problem, student_turns: str | Sequence[str] = ()
) -> tuple[str, Problem, list[str]]:
    """The texts with decimal points instead of commas, if the known answer has a decimal comma."""
    pointed = {
        name: with_points(value)
        for name in ("statement", "answer", "attempt", "solution")
        if (value := getattr(problem, name))
    }
    turns = [with_points(turn) for turn in _turns(student_turns)]
    return with_points(text), problem.model_copy(update=pointed), turns


def _turns(texts: str | Sequence[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts)


def _goes_on(part: str) -> bool:
    """Whether the rest of a refusing turn gives the student something to continue with."""
    return not _holds("closes", part) and (asks(part) or len(re.findall(r"\w+", part)) >= 4)


def _one_line(text: str) -> str:
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
