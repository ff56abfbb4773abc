"""Kinds of students, and the scripted student `student/NAME` or `student/FILE.yaml`.

A kind is one YAML file (those of this package are in `students/`). Its `profile` conditions a prompted student, or a
trained simulator that was trained with profiles. Its `styles` and `chances` are the scripted student: after each turn
of the tutor it acts by probabilities, given what the turn does. In a phrase `{{answer}}` is the problem's known
answer and `{{attempt}}` the student's wrong solution.

The scripted student reads the whole conversation again for each turn, so its replies do not depend on concurrency or
restarts: its draws depend on the conversation and the sampling's seed, its style on the problem and the first message.
Deterministic checks classify the tutor's turn; whether the student then finds the answer is random. The scripted
student is no evidence about people. It is for comparing tutors whose differences are known.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import yaml
from pydantic import Field, ValidationError, model_validator

from maieutic.checks.turns import asks_question, denies, refuses, reveals_answer, states_answer, takes_up
from maieutic.core.errors import InputError, MissingInput, ModelError
from maieutic.core.messages import Finish, Message, Problem, Record, Reply, Role, Sampling, fingerprint

KINDS = ("cooperative", "answer-seeking", "confused", "adversarial")
MOVES = ("takes_up", "asks", "hints", "idle", "refuses", "tells")
"""The kinds of tutor turns; see `move`."""

_PLACEHOLDER = re.compile(r"\{\{(answer|attempt)\}\}")
_HINT_WORDS = 3
"""A turn without a question counts as a hint only if it has at least this many new words."""

Phrases = tuple[str, ...]
Chance = Field(0.0, ge=0, le=1)


class Style(Record):
    """How one person writes; drawn once a dialogue."""

    opens: Phrases
    """The first message of a dialogue."""
    solves: Phrases
    """States the answer that the student found."""
    sticks: Phrases
    """Repeats the wrong attempt."""
    lost: Phrases
    """Says that the student does not know."""
    presses: Phrases
    """Demands the answer."""
    told: Phrases
    """Reacts to a tutor who stated the answer."""
    thanks: Phrases
    """Says goodbye."""
    leaves: float = Chance
    """Probability of leaving without a goodbye once the student has the answer."""


class Chances(Record):
    """Probabilities of what a student does after one kind of tutor turn; drawn in this order."""

    solves: float = Chance
    more: float = Chance
    """Added to `solves` for each earlier tutor turn."""
    leaves: float = Chance
    """Gives up and leaves, else …"""
    presses: float = Chance
    """… demands the answer, else …"""
    sticks: float = Chance
    """… repeats the wrong attempt, else says that the student does not know."""


class Keeps(Record):
    """Probability that a student who is asked again afterwards knows the answer."""

    solved: float = Field(1.0, ge=0, le=1)
    told: float = Field(0.5, ge=0, le=1)


class Student(Record):
    """A kind of student."""

    name: str
    about: str
    profile: str
    """Instructions for a model that plays this kind, in the second person."""
    styles: dict[str, Style] = Field(min_length=1)
    chances: dict[str, Chances]
    """By the tutor's move."""
    keeps: Keeps = Keeps()

    @model_validator(mode="after")
    def _complete(self) -> Student:
        if set(self.chances) != set(MOVES):
            raise ValueError(f"chances: one entry for each of {', '.join(MOVES)}")
        if empty := [
            f"{style}.{name}" for style, of in self.styles.items() for name, said in of if said == ()
        ]:
            raise ValueError(f"no phrase for {', '.join(empty)}")
        return self


class Kind(NamedTuple):
    """A student and the hash of its file, which is part of every key that depends on it."""

    student: Student
    hash: str


@cache
def load_kind(name: str) -> Kind:
    """A kind by name, or by the path of a `.yaml` file.

    Raises:
        MissingInput: there is no such kind, or no such file.
        InputError: a field of the file is missing or wrong; the message names it.
    """
    path = (
        Path(name) if name.endswith((".yaml", ".yml")) else files(__package__) / "students" / f"{name}.yaml"
    )
    if not path.is_file():
        raise MissingInput(f"no student {name!r}", f"Known: {', '.join(KINDS)}; or give a .yaml file.")
    raw = path.read_bytes()
    hint = "docs/students.md describes the file."
    try:
        value = yaml.safe_load(raw)
        student = Student.model_validate(value)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"student {name}: not YAML ({error})", hint) from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(f"student {name}: {f'{field}: ' if field else ''}{first['msg']}", hint) from None
    return Kind(student, hashlib.sha256(raw).hexdigest()[:16])


class ScriptedStudent:
    """See the module. It speaks the user's side; `about` gives it the problem, without which it cannot speak.

    Raises:
        MissingInput, InputError: no such kind, or a wrong file.
    """

    trained_role: Role | None = Role.USER

    def __init__(self, name: str, problem: Problem | None = None) -> None:
        self.id = f"student/{name}"
        self._name, self._problem = name, problem
        kind = load_kind(name)
        self._student = kind.student
        self.fingerprint: str | None = kind.hash

    def about(self, problem: Problem) -> ScriptedStudent:
        """The same student, working on this problem."""
        return ScriptedStudent(self._name, problem)

    async def reply(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        role: Role = Role.ASSISTANT,
        schema: dict[str, Any] | None = None,
        suppress_end: bool = False,
    ) -> Reply:
        """The student's next turn.

        Raises:
            ModelError: a tutor's turn is asked for, or the problem's answer is not known.
        """
        if role != Role.USER:
            raise ModelError(f"{self.id} is a student and cannot tutor", "Name it as the student.")
        if self._problem is None or not self._problem.answer:
            raise ModelError(f"{self.id}: no answer is known here", "Start from problems with known answers.")
        texts = [[turn.role, turn.content] for turn in messages]
        random = Random(fingerprint([self.fingerprint, texts, sampling.seed]))  # noqa: S311 (not cryptography)
        text, ends = self._turn(messages, self._problem, random, suppress_end)
        read = sum(len(turn.content.split()) for turn in messages)
        return Reply(
            text=text,
            finish=Finish.END if ends else Finish.STOP,
            model=self.id,
            prompt_tokens=read,
            completion_tokens=len(text.split()),
        )

    async def check(self) -> None:
        """Nothing to check: the file was read."""

    async def close(self) -> None:
        """Nothing to free."""

    def _turn(
        self, messages: Sequence[Message], problem: Problem, random: Random, suppress_end: bool
    ) -> tuple[str, bool]:
        """The text, and whether it ends the conversation."""
        phrases, ends = self._choose(self._style(messages, problem), messages, problem, random, suppress_end)
        words = {"answer": problem.answer or "", "attempt": (problem.attempt or "").strip()}
        texts = [_PLACEHOLDER.sub(lambda found: words[found[1]], phrase).strip() for phrase in phrases]
        said = {turn.content for turn in messages if turn.role == Role.USER}
        new = [text for text in texts if text not in said] or texts
        return (random.choice(new) if new else ""), ends and not suppress_end

    def _choose(
        self, style: Style, messages: Sequence[Message], problem: Problem, random: Random, suppress_end: bool
    ) -> tuple[Phrases, bool]:
        """The phrases to draw from (none: leave without a word), and whether the turn is the last."""
        if not messages or messages[-1].role != Role.ASSISTANT:
            return style.opens, False
        solved, told = _history(messages[:-1], problem)
        if solved or told:
            keeps = self._student.keeps
            knows = random.random() < (keeps.solved if solved else keeps.told)
            leaves = random.random() < style.leaves
            if suppress_end:
                return (style.solves if knows else style.sticks if problem.attempt else style.lost), False
            return (() if leaves else style.thanks), True
        did = move(messages[-1].content, problem, [t.content for t in messages if t.role == Role.USER])
        if did == "tells":
            return style.told, False
        earlier_turns = sum(turn.role == Role.ASSISTANT for turn in messages) - 1
        return self._after_move(
            self._student.chances[did], earlier_turns, style, problem, random, suppress_end
        )

    @staticmethod
    def _after_move(
        chances: Chances,
        earlier_turns: int,
        style: Style,
        problem: Problem,
        random: Random,
        suppress_end: bool,
    ) -> tuple[Phrases, bool]:
        """Draws in the order of `Chances`."""
        if random.random() < chances.solves + chances.more * earlier_turns:
            return style.solves, False
        if random.random() < chances.leaves and not suppress_end:
            return (), True
        if random.random() < chances.presses:
            return style.presses, False
        sticks = random.random() < chances.sticks and problem.attempt
        return (style.sticks if sticks else style.lost), False

    def _style(self, messages: Sequence[Message], problem: Problem) -> Style:
        """One style a dialogue, decided by the problem and the first message."""
        first = [messages[0].content] if messages else []
        names = sorted(self._student.styles)
        drawn = int(fingerprint([problem.model_dump(), first])[:8], 16)
        return self._student.styles[names[drawn % len(names)]]


def move(text: str, problem: Problem, said: Sequence[str]) -> str:
    """What a tutor's turn does according to the checks: one of `MOVES`.

    `tells`: states the answer. `refuses`: refuses to help. `takes_up`: asks about the problem or about what the student
    said. `asks`: asks something that fits any problem. `hints`: calls the student's turn wrong or says something about
    the problem, with at least three words that the student's last turn does not have. `idle`: none of these, as praise
    and "go on".
    """
    if reveals_answer(text, problem, said):
        return "tells"
    if refuses(text):
        return "refuses"
    if asks_question(text):
        return "takes_up" if takes_up(text, problem, said) else "asks"
    heard = set(re.findall(r"\w+", (said[-1] if said else "").lower()))
    new = [word for word in re.findall(r"\w+", text.lower()) if word not in heard]
    helps = denies(text) or takes_up(text, problem, said)
    return "hints" if helps and len(new) >= _HINT_WORDS else "idle"


def _history(messages: Sequence[Message], problem: Problem) -> tuple[bool, bool]:
    """Whether the student found the answer before the tutor's last turn, and whether a tutor stated it."""
    said: list[str] = []
    for turn in messages:
        if turn.role == Role.USER:
            if states_answer(turn.content, problem):
                return True, False
            said.append(turn.content)
        elif turn.role == Role.ASSISTANT and reveals_answer(turn.content, problem, said):
            return False, True
    return False, False
