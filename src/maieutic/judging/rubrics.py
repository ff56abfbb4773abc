"""Scoring rubrics as data: one YAML file each, validated and hashed.

A rubric names its criteria, the meaning of their values, their weights in the summary score, and the criteria that code
decides before a model is asked. Its hash is part of the key of every row that it decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator, model_validator

from maieutic.core.errors import InputError, MissingInput
from maieutic.core.messages import Record, fingerprint


class Kind(StrEnum):
    """The values of a criterion."""

    YES_NO = "yes_no"
    SCALE = "scale"


class Better(StrEnum):
    """Which end of a criterion's scale is better."""

    HIGH = "high"
    LOW = "low"


class Criterion(Record):
    """One thing to judge."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z_]*$")]
    kind: Kind
    low: int = 0
    high: int = 1
    """The ends of the scale, both included; 0 and 1 for yes/no."""
    question: str
    """The question to the judge."""
    anchors: dict[str, str] = Field(default_factory=dict)
    """The meaning of values: `yes`, `no`, or numbers of the scale."""
    better: Better = Better.HIGH
    weight: float = Field(0.0, ge=0)
    """How much one point of the value adds to the summary score."""
    code: str | None = None
    """The check that decides the criterion where it can; see `checks.turns.CHECKS`."""
    also: tuple[str, ...] = ()
    """Other names of the criterion in published files."""

    @field_validator("anchors", mode="before")
    @classmethod
    def _as_words(cls, anchors: Any) -> Any:
        """YAML reads `yes:` as true and `5:` as a number."""
        words = {True: "yes", False: "no"}
        if not isinstance(anchors, Mapping):
            return anchors
        return {words[key] if isinstance(key, bool) else str(key): value for key, value in anchors.items()}

    @model_validator(mode="after")
    def _scale_fits(self) -> Criterion:
        if self.kind == Kind.YES_NO and (self.low, self.high) != (0, 1):
            raise ValueError(f"{self.name}: yes_no has no low and high")
        if self.low >= self.high:
            raise ValueError(f"{self.name}: low must be below high")
        allowed = (
            {"yes", "no"} if self.kind == Kind.YES_NO else {str(n) for n in range(self.low, self.high + 1)}
        )
        if strange := set(self.anchors) - allowed:
            raise ValueError(f"{self.name}: the anchor {sorted(strange)[0]!r} is not a value of the scale")
        return self


class Rubric(Record):
    """A set of criteria for one kind of text."""

    name: str
    about: str
    judged: str
    """What is judged, in the words of the prompt: `the tutor's reply`."""
    show_answer: bool = True
    """Whether the judge sees the known answer, where there is one."""
    criteria: tuple[Criterion, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_differ(self) -> Rubric:
        names = [name for criterion in self.criteria for name in (criterion.name, *criterion.also)]
        if len(set(names)) != len(names):
            raise ValueError("two criteria share a name")
        return self

    @property
    def hash(self) -> str:
        """A hash of the whole rubric."""
        return fingerprint(self.model_dump(mode="json"))[:16]

    @property
    def code_only(self) -> bool:
        """Whether code may decide every criterion."""
        return all(criterion.code for criterion in self.criteria)


@cache
def load_rubric(name: str) -> Rubric:
    """A shipped rubric by name, or any rubric by the path of its `.yaml` file.

    Raises:
        MissingInput: there is no such rubric.
        InputError: the file is not a rubric; names the part.
    """
    import yaml

    shipped = files(__package__) / "rubrics"
    path = Path(name) if name.endswith((".yaml", ".yml")) else shipped / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.name.removesuffix(".yaml") for file in shipped.iterdir()))
        raise MissingInput(f"no rubric {name!r}", f"Known: {known}; or give the path of a .yaml file.")
    try:
        return Rubric.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(
            f"rubric {name}: not YAML ({str(error).splitlines()[0]})", "Correct the file."
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(
            f"rubric {name}: {where}: {first['msg']}", "Compare it with rubrics/socratic.yaml."
        ) from None


def summary_score(rubric: Rubric, values: Mapping[str, float]) -> float | None:
    """The weighted sum of the values, each oriented so that more is better; null where a weighted one is missing.

    For `socratic` this is the published score, .25·asks + .25·(1 - reveals) + .05·on_topic + .05·helpful: .10 to 1.
    """
    total, weighted = 0.0, False
    for criterion in rubric.criteria:
        if not criterion.weight:
            continue
        if criterion.name not in values:
            return None
        value = values[criterion.name]
        weighted = True
        total += criterion.weight * (
            value if criterion.better == Better.HIGH else criterion.low + criterion.high - value
        )
    return round(total, 9) if weighted else None
