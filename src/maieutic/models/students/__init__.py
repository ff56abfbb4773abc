"""Kinds of students, one YAML file each: who a simulated student is told to be, and how a scripted one speaks and acts.

`profile` conditions a prompted student, or a trained simulator that learned to be told a profile. `styles` and
`chances` are what `student/NAME` (`models/student.py`) speaks from; a world of few words brings a file of its own. In a
phrase `{{answer}}` is the problem's known answer and `{{attempt}}` the student's wrong one.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import yaml
from pydantic import Field, ValidationError, model_validator

from maieutic.core.errors import InputError, MissingInput
from maieutic.core.messages import Record

KINDS = ("cooperative", "answer-seeking", "confused", "adversarial")
MOVES = ("takes_up", "asks", "hints", "idle", "refuses", "tells")
"""What a tutor's turn can do, as a scripted student sees it; see `models.student.move`."""

Phrases = tuple[str, ...]
Chance = Field(0.0, ge=0, le=1)


class Style(Record):
    """How one person writes; drawn once a dialogue."""

    opens: Phrases
    """Where the dialogue is still empty."""
    solves: Phrases
    """States the answer, having found it."""
    sticks: Phrases
    """Holds on to the wrong attempt."""
    lost: Phrases
    """Does not know."""
    presses: Phrases
    """Demands the answer."""
    told: Phrases
    """Was told the answer."""
    thanks: Phrases
    """Goes."""
    leaves: float = Chance
    """How probably it goes without another word once it has the answer."""


class Chances(Record):
    """What a student does after one kind of turn of the tutor's; drawn in this order."""

    solves: float = Chance
    more: float = Chance
    """By so much `solves` grows with each turn of the tutor's before."""
    leaves: float = Chance
    """Gives up and goes, else …"""
    presses: float = Chance
    """… demands the answer, else …"""
    sticks: float = Chance
    """… holds on to the wrong attempt, else says that it does not know."""


class Keeps(Record):
    """How probably a student who is asked again afterwards knows the answer."""

    solved: float = Field(1.0, ge=0, le=1)
    told: float = Field(0.5, ge=0, le=1)


class Student(Record):
    """A kind of student."""

    name: str
    about: str
    profile: str
    """Said to a model that plays this kind, in the second person."""
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
    """A student and the hash of its file, which stands in every key it decides."""

    student: Student
    hash: str


@cache
def load(name: str) -> Kind:
    """A kind by name (one of this folder), or by the path of a `.yaml` file.

    Raises:
        MissingInput: there is no such kind, or no such file.
        InputError: the file does not say what it should; the message names the field.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else files(__package__) / f"{name}.yaml"
    if not path.is_file():
        raise MissingInput(f"no student {name!r}", f"Known: {', '.join(KINDS)}; or give a .yaml file.")
    raw = path.read_bytes()
    hint = "See docs/dialogues.md for what such a file holds."
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
