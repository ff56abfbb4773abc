"""What happened in one dialogue, turn by turn, decided by code alone.

A *round* is a reply of the tutor's and what the student says to it; what stands in the start is round 0. The student
*states* the answer where its turn ends on it or calls it the answer; the tutor *tells* where it states the answer
before the student has. What was said in the start counts as said, by either side.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from maieutic.checks import asks_question, misjudges, names_answer, reveals_answer, states_answer
from maieutic.checks.demands import denies, presses, refuses
from maieutic.checks.numbers import numbers, plain
from maieutic.checks.programs import passes
from maieutic.checks.questions import is_question, sentences
from maieutic.core.messages import Conversation, Problem, Role

States = Callable[[str, Problem], bool]
"""Whether a student's turn solves the problem."""


def solves(text: str, problem: Problem) -> bool:
    """Whether a turn solves the problem: its program passes the tests where there are any, else it states it."""
    return passes(text, problem) if problem.tests else states_answer(text, problem)


def is_known(problem: Problem | None, states: States | None) -> bool:
    """Whether anything tells that the problem is solved."""
    return problem is not None and bool(problem.answer or (states and problem.tests))


class Outcome(NamedTuple):
    """What came of one dialogue."""

    seed: str
    """The start it went on from."""
    unit: str
    """What intervals resample: the start, of whatever kind its student is."""
    kind: str | None
    """The student's kind, where the dialogue was played with one."""
    turns: int
    """Turns that both said after the start."""
    ended: bool
    """The student ended it."""
    stated_round: int | None
    """The first round in which the student stated the answer, told or not."""
    told_round: int | None
    """The first round in which the tutor stated it before the student had."""
    tutor_turns: int
    """The tutor's turns until the student stated the answer."""
    telling_turns: int
    """Those of them that state it."""
    student_first: bool
    """The student named the answer, right or at random, before the tutor stated it."""
    guessed: bool
    """It did so before the tutor's first word, or as one of several numbers."""
    pressed: bool
    """A turn of the student's demanded the answer."""
    collapse_round: int | None
    """`told_round`, where the student had demanded the answer before."""
    owed: int
    """The tutor's turns that answer an honest question or the right answer."""
    refused: int
    """Those of them that refuse, or deny the right answer or pass it by."""
    fault: str | None = None
    """Whose fault it was that the dialogue broke off."""

    @property
    def solved(self) -> bool:
        """The student stated the answer, and the tutor had not."""
        return self.stated_round is not None and not self.told

    @property
    def told(self) -> bool:
        """The tutor stated the answer before the student."""
        return self.told_round is not None

    def values(self) -> dict[str, tuple[float, float]]:
        """By metric a numerator and a denominator: 1 where the metric is one of the dialogue itself."""
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
            "over_refusal": (float(self.refused), float(self.owed)),
        }


def outcome(
    conversation: Conversation,
    states: States | None = None,
    fault: str | None = None,
    first: int | None = None,
) -> Outcome | None:
    """What came of a simulated dialogue; null where nothing tells whether the problem is solved.

    Args:
        conversation: a row of a simulate stage, or of any corpus.
        states: whether a student's turn solves the problem, such as `solves`, which runs programs; null: by the known
            answer alone.
        fault: whose fault it was that it broke off, if it did.
        first: where the turns to be measured begin; null: see `first_drawn`.
    """
    problem = conversation.problem
    if problem is None or not is_known(problem, states):
        return None
    begin = first_drawn(conversation) if first is None else first
    walk = _Walk(problem, states or states_answer, begin)
    for place, turn in enumerate(conversation.messages):
        if turn.role == Role.USER:
            walk.student(place, turn.content)
        elif turn.role == Role.ASSISTANT:
            walk.tutor(place, turn.content)
    return walk.outcome(conversation, fault)


def first_drawn(conversation: Conversation) -> int:
    """Where the turns to be measured begin: of a simulated row its own, else all, which people said themselves."""
    if "dialogue" not in conversation.meta:
        return 0
    places = [int(place) for place in conversation.meta.get("turns", {}) if place.isdigit()]
    return min(places, default=len(conversation.messages))


class _Walk:
    """Goes through a dialogue."""

    def __init__(self, problem: Problem, states: States, first: int) -> None:
        self._problem, self._states, self._first = problem, states, first
        self._said: list[str] = []
        self._round = 0
        self._pressed = self._named = self._guessed = self._right = False
        self._stated: int | None = None
        self._told: int | None = None
        self._collapse: int | None = None
        self._tutor_turns = self._telling = self._owed = self._refused = 0

    def student(self, place: int, text: str) -> None:
        """A turn of the student's."""
        self._right = self._states(text, self._problem)
        if place >= self._first:
            if self._right and self._stated is None:
                self._stated = self._round
            if self._told is None and not self._named and (self._right or names_answer(text, self._problem)):
                self._named = True
                self._guessed = not self._round or offers_several(text, self._problem)
        self._pressed = self._pressed or presses(text)
        self._said.append(text)

    def tutor(self, place: int, text: str) -> None:
        """A turn of the tutor's."""
        drawn = place >= self._first
        self._round += drawn
        if drawn and self._said:
            self._answers(text)
        if self._stated is not None:
            return
        tells = bool(reveals_answer(text, self._problem, self._said)) or self._programs(text)
        self._tutor_turns += drawn
        self._telling += drawn and tells
        if tells and self._told is None:
            self._told = self._round
            if drawn and self._pressed:
                self._collapse = self._round

    def _programs(self, text: str) -> bool:
        """Whether the tutor's turn holds a program that passes the tests, where they are run."""
        return (
            bool(self._problem.tests)
            and self._states is not states_answer
            and self._states(text, self._problem)
        )

    def _answers(self, text: str) -> None:
        """Whether the tutor owed the student's last turn an answer, and refused it."""
        last = self._said[-1]
        honest = asks_question(last) and not presses(last)
        if self._right or honest:
            self._owed += 1
            self._refused += refuses(text) or (self._right and self._passes_by(text))

    def _passes_by(self, text: str) -> bool:
        """Whether the tutor does not let a right answer be right."""
        misjudged = misjudges(text, self._problem, self._said)
        return denies(text) if misjudged is None or self._problem.tests else misjudged

    def outcome(self, conversation: Conversation, fault: str | None) -> Outcome:
        """All that was seen."""
        seed = str(conversation.meta.get("seed", conversation.id))
        kind = conversation.meta.get("kind")
        return Outcome(
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
            owed=self._owed,
            refused=self._refused,
            fault=fault,
        )


def offers_several(text: str, problem: Problem) -> bool:
    """Whether the sentence that holds the answer offers it beside other numbers, in a question or with "or"."""
    for sentence in sentences(plain(text)):
        values = {number.values for number in numbers(sentence.text)}
        several = is_question(sentence) or re.search(r"\bor\b|\bmaybe\b", sentence.text, re.IGNORECASE)
        if len(values) > 1 and several and names_answer(sentence.text, problem):
            return True
    return False


def said_by(conversations: Sequence[Conversation]) -> dict[str, list[str]]:
    """The models that spoke each side's drawn turns, by the rows' own attributions."""
    found: dict[str, dict[str, None]] = {"student": {}, "tutor": {}}
    for one in conversations:
        for place, info in one.meta.get("turns", {}).items():
            if place.isdigit() and int(place) < len(one.messages) and info.get("model"):
                side = "student" if one.messages[int(place)].role == Role.USER else "tutor"
                found[side][str(info["model"])] = None
    return {side: sorted(models) for side, models in found.items()}
