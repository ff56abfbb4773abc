"""What code can decide of a tutor's reply: that it asks, reveals the answer, takes up what is there, or misjudges it.

Pure functions of texts; no model, no state. A check returns null where it cannot know (no known answer), and then a
model is asked instead. `CHECKS` holds them under the names that a rubric's `code:` uses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from maieutic.checks import uptake
from maieutic.checks import wrong_feedback as misjudging
from maieutic.checks.answers import answer_values, concludes, known_answer, states_number, states_phrase
from maieutic.checks.fixes import gives_away, reads_as_fixes, reference_fixes
from maieutic.checks.numbers import has_comma, numbers, plain, with_points
from maieutic.checks.questions import asks
from maieutic.core.messages import Problem


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
    if has_comma(problem.answer):
        text, problem, student_said = _with_points(text, problem, student_said)
    said = _turns(student_said)
    given = "\n".join((problem.statement, problem.attempt or "", *said))
    if reads_as_fixes(problem.solution, problem.attempt):
        fixes = reference_fixes(problem.solution or "", problem.attempt or "")
        return any(gives_away(text, fix, given) for fix in fixes) if fixes else None
    answer = known_answer(problem)
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
    if has_comma(problem.answer):
        text, problem, _ = _with_points(text, problem)
    answer = (problem.answer or "").strip()
    if values := answer_values(answer):
        return all(concludes(text, one) for one in values)
    return bool(answer) and states_phrase(text, answer, problem.statement, "")


def names_answer(text: str, problem: Problem) -> bool:
    """Whether a student's turn holds the known answer at all, be it as one of several guesses.

    A number that the statement or the attempt holds names nothing: there the turn must state it.
    """
    if has_comma(problem.answer):
        text, problem, _ = _with_points(text, problem)
    values = answer_values((problem.answer or "").strip())
    known = numbers(plain(f"{problem.statement}\n{problem.attempt or ''}"))
    if not values or any(number.values & one for number in known for one in values):
        return states_answer(text, problem)
    said = numbers(plain(text))
    return all(any(number.values & one for number in said) for one in values)


def takes_up(text: str, problem: Problem | None, student_said: str | Sequence[str] = ()) -> bool | None:
    """Whether the reply takes up something specific of the problem or of what the student said, and adds to it.

    Null where there is neither a problem nor a student's word; see `checks.uptake`.
    """
    said = _turns(student_said)
    if problem is None and not any(turn.strip() for turn in said):
        return None
    about = problem or Problem(statement="")
    return uptake.takes_up(text, about.statement, about.attempt or "", said)


def misjudges(text: str, problem: Problem | None, student_said: str | Sequence[str] = ()) -> bool | None:
    """Whether the reply confirms an answer of the student's that is wrong, or passes by one that is right.

    Known wherever `reveals_answer` knows, and null elsewhere; see `checks.misjudging`.
    """
    if problem is None or not _is_known(problem):
        return None
    if has_comma(problem.answer):
        text, problem, student_said = _with_points(text, problem, student_said)
    return misjudging.misjudges(text, problem, _turns(student_said))


def _is_known(problem: Problem) -> bool:
    """Whether an answer, or a reference fix, is there to compare with."""
    if reads_as_fixes(problem.solution, problem.attempt):
        return bool(reference_fixes(problem.solution or "", problem.attempt or ""))
    return known_answer(problem) is not None


def _with_points(
    text: str, problem: Problem, student_said: str | Sequence[str] = ()
) -> tuple[str, Problem, list[str]]:
    """The texts with decimal points, of a problem whose known answer is written with a decimal comma."""
    pointed = {
        name: with_points(value)
        for name in ("statement", "answer", "attempt", "solution")
        if (value := getattr(problem, name))
    }
    turns = [with_points(turn) for turn in _turns(student_said)]
    return with_points(text), problem.model_copy(update=pointed), turns


def _turns(said: str | Sequence[str]) -> list[str]:
    return [said] if isinstance(said, str) else list(said)


CHECKS: dict[str, Callable[[str, Problem | None, Sequence[str]], bool | None]] = {
    "asks_question": lambda text, problem, said: asks_question(text),
    "reveals_answer": reveals_answer,
    "takes_up": takes_up,
    "misjudges": misjudges,
}
