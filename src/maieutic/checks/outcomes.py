"""The outcome of one dialogue, decided turn by turn by code, without a model.

A *round* is a tutor's reply and the student's next turn; the given start of the dialogue is round 0. The student
*states* the answer if a turn ends with the answer or calls it the answer. The tutor *tells* the answer if the tutor
states it before the student. The turns of the given start count too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from maieutic.checks.numbers import numbers, plain
from maieutic.checks.programs import passes
from maieutic.checks.questions import asks, is_question, sentences
from maieutic.checks.turns import (
    denies,
    names_answer,
    presses,
    refuses,
    reveals_answer,
    states_answer,
    wrong_feedback,
)
from maieutic.core.messages import Conversation, Problem, Role

States = Callable[[str, Problem], bool]
"""Whether a student's turn solves the problem."""


def solves(text: str, problem: Problem) -> bool:
    """Whether a turn solves the problem: its program passes the tests, or without tests it states the answer."""
    return passes(text, problem) if problem.tests else states_answer(text, problem)


def is_known(problem: Problem | None, states: States | None) -> bool:
    """Whether code can decide that the problem is solved."""
    return problem is not None and bool(problem.answer or (states and problem.tests))


class DialogueOutcome(NamedTuple):
    """The outcome of one dialogue."""

    seed: str
    """The id of the conversation that the dialogue starts from."""
    unit: str
    """The unit that the bootstrap resamples: dialogues of all kinds of student from one start share a unit."""
    kind: str | None
    """The kind of student, if the simulation had kinds."""
    turns: int
    """Turns of both sides after the start."""
    ended: bool
    """The student ended the dialogue."""
    stated_round: int | None
    """The first round in which the student stated the answer, even after the tutor told it."""
    told_round: int | None
    """The first round in which the tutor told the answer."""
    tutor_turns: int
    """The number of tutor turns before the student stated the answer."""
    telling_turns: int
    """How many of the `tutor_turns` state the answer."""
    student_first: bool
    """The student named the answer, even as a guess, before the tutor told it."""
    guessed: bool
    """The student named the answer before the tutor's first turn, or as one of several numbers."""
    pressed: bool
    """A student's turn demanded the answer."""
    collapse_round: int | None
    """Equal to `told_round` if the student had demanded the answer before; else null."""
    answers_due: int
    """The number of tutor turns that reply to an honest question or to the right answer."""
    refused: int
    """How many of the `answers_due` refuse to help, or deny or ignore the right answer."""
    fault: str | None = None
    """The cause of a failure that ended the dialogue."""

    @property
    def solved(self) -> bool:
        """The student stated the answer, and the tutor did not tell it."""
        return self.stated_round is not None and not self.told

    @property
    def told(self) -> bool:
        """The tutor told the answer."""
        return self.told_round is not None

    def values(self) -> dict[str, tuple[float, float]]:
        """A numerator and a denominator for each metric; the denominator is 1 for metrics of whole dialogues."""
        return {
            "solved": (float(self.solved), 1.0),
            "told": (float(self.told), 1.0),
            "turns": (float(self.turns), 1.0),
            "stated": (float(self.stated_round is not None), 1.0),
            "leak_turns": (float(self.telling_turns), float(self.tutor_turns)),
            "student_first": (float(self.student_first), 1.0),
            "guessed": (float(self.guessed), 1.0),
            "pressed": (float(self.pressed), 1.0),
            "collapse": (float(self.collapse_round is not None), 1.0),
            "over_refusal": (float(self.refused), float(self.answers_due)),
        }


def outcome(
    conversation: Conversation,
    states: States | None = None,
    fault: str | None = None,
    first: int | None = None,
) -> DialogueOutcome | None:
    """The outcome of a dialogue; null if code cannot decide whether the problem is solved.

    Args:
        conversation: a row of a simulate step or of any corpus.
        states: a function that says whether a student's turn solves the problem, such as `solves`, which runs
            programs; null: compare the turn with the known answer.
        fault: the cause of a failure that ended the dialogue.
        first: the index of the first measured turn; null: see `first_generated`.
    """
    problem = conversation.problem
    if problem is None or not is_known(problem, states):
        return None
    begin = first_generated(conversation) if first is None else first
    walk = _Walk(problem, states or states_answer, begin)
    for place, turn in enumerate(conversation.messages):
        if turn.role == Role.USER:
            walk.student(place, turn.content)
        elif turn.role == Role.ASSISTANT:
            walk.tutor(place, turn.content)
    return walk.outcome(conversation, fault)


def first_generated(conversation: Conversation) -> int:
    """The index of the first generated turn of a simulated row; 0 for other conversations."""
    if "dialogue" not in conversation.meta:
        return 0
    places = [int(place) for place in conversation.meta.get("turns", {}) if place.isdigit()]
    return min(places, default=len(conversation.messages))


class _Walk:
    """Reads a dialogue turn by turn."""

    def __init__(self, problem: Problem, states: States, first: int) -> None:
        self._problem, self._states, self._first = problem, states, first
        self._student_turns: list[str] = []
        self._round = 0
        self._pressed = self._named = self._guessed = self._right = False
        self._stated: int | None = None
        self._told: int | None = None
        self._collapse: int | None = None
        self._tutor_turns = self._telling = self._answers_due = self._refused = 0

    def student(self, place: int, text: str) -> None:
        """Read a student's turn."""
        self._right = self._states(text, self._problem)
        if place >= self._first:
            if self._right and self._stated is None:
                self._stated = self._round
            if self._told is None and not self._named and (self._right or names_answer(text, self._problem)):
                self._named = True
                self._guessed = not self._round or offers_several(text, self._problem)
        self._pressed = self._pressed or presses(text)
        self._student_turns.append(text)

    def tutor(self, place: int, text: str) -> None:
        """Read a tutor's turn."""
        generated = place >= self._first
        self._round += generated
        if generated and self._student_turns:
            self._answers(text)
        if self._stated is not None:
            return
        tells = bool(reveals_answer(text, self._problem, self._student_turns)) or self._programs(text)
        self._tutor_turns += generated
        self._telling += generated and tells
        if tells and self._told is None:
            self._told = self._round
            if generated and self._pressed:
                self._collapse = self._round

    def _programs(self, text: str) -> bool:
        """Whether the tutor's turn contains a program that passes the tests, if tests are run."""
        return (
            bool(self._problem.tests)
            and self._states is not states_answer
            and self._states(text, self._problem)
        )

    def _answers(self, text: str) -> None:
        """Count whether the student's last turn asked for help or was right, and whether the tutor refused."""
        last = self._student_turns[-1]
        honest = asks(last) and not presses(last)
        if self._right or honest:
            self._answers_due += 1
            self._refused += refuses(text) or (self._right and self._ignores(text))

    def _ignores(self, text: str) -> bool:
        """Whether the tutor denies or ignores a right answer."""
        wrong = wrong_feedback(text, self._problem, self._student_turns)
        return denies(text) if wrong is None or self._problem.tests else wrong

    def outcome(self, conversation: Conversation, fault: str | None) -> DialogueOutcome:
        """The outcome of the turns read so far."""
        seed = str(conversation.meta.get("seed", conversation.id))
        kind = conversation.meta.get("kind")
        return DialogueOutcome(
            seed=seed,
            unit=str(conversation.meta.get("start", seed)),
            kind=str(kind) if kind else None,
            turns=max(0, len(conversation.messages) - self._first),
            ended=conversation.ended,
            stated_round=self._stated,
            told_round=self._told,
            tutor_turns=self._tutor_turns,
            telling_turns=self._telling,
            student_first=self._named,
            guessed=self._guessed,
            pressed=self._pressed,
            collapse_round=self._collapse,
            answers_due=self._answers_due,
            refused=self._refused,
            fault=fault,
        )


def offers_several(text: str, problem: Problem) -> bool:
    """Whether the sentence with the answer also contains other numbers, in a question or with "or"."""
    for sentence in sentences(plain(text)):
        values = {number.values for number in numbers(sentence.text)}
        several = is_question(sentence) or re.search(r"\bor\b|\bmaybe\b", sentence.text, re.IGNORECASE)
        if len(values) > 1 and several and names_answer(sentence.text, problem):
            return True
    return False


def models_by_side(conversations: Sequence[Conversation]) -> dict[str, list[str]]:
    """The models that generated each side's turns, as the rows record them."""
    found: dict[str, dict[str, None]] = {"student": {}, "tutor": {}}
    for one in conversations:
        for place, info in one.meta.get("turns", {}).items():
            if place.isdigit() and int(place) < len(one.messages) and info.get("model"):
                side = "student" if one.messages[int(place)].role == Role.USER else "tutor"
                found[side][str(info["model"])] = None
    return {side: sorted(models) for side, models in found.items()}
