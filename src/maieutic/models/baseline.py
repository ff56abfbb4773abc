"""Tutors whose words are fixed: those that must not win under a rubric, and the two controls of whole dialogues.

`probe/question-only` asks the same empty questions of everybody, `probe/sycophant` praises whatever stands there,
`probe/never-ending` asks on for ever, `probe/repeater` gives the student's words back. `probe/silent` is no tutor at
all, and `probe/telling` states the known answer at once. What they say is data: `probes.yaml`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from maieutic.core.errors import InputError, ModelError
from maieutic.core.messages import Message, Problem, Reply, Role, Sampling, fingerprint

MUST_NOT_WIN = ("question-only", "sycophant", "never-ending", "repeater")
CONTROLS = ("silent", "telling")
_PLACEHOLDER = re.compile(r"\{\{(answer|student)\}\}")


class Probe:
    """A tutor of fixed words, `probe/NAME`.

    What it says depends on the dialogue and the seed alone. It has to be told the problem by `about`, as
    `models.briefed` does, before it can state its answer.

    Raises:
        InputError: there is no such probe.
    """

    trained_role: Role | None = Role.ASSISTANT

    def __init__(self, name: str, problem: Problem | None = None) -> None:
        said = _said()
        if name not in said:
            raise InputError(f"no probe {name!r}", f"Known: {', '.join(said)}.")
        self.id = f"probe/{name}"
        self._name, self._texts, self._problem = name, said[name], problem
        self.fingerprint: str | None = fingerprint(self._texts)[:16]

    def about(self, problem: Problem) -> Probe:
        """The same tutor, who knows this problem."""
        return Probe(self._name, problem)

    async def reply(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        role: Role = Role.ASSISTANT,
        schema: dict[str, Any] | None = None,
        suppress_end: bool = False,
    ) -> Reply:
        """The tutor's next turn.

        Raises:
            ModelError: it should state an answer that nobody knows.
        """
        said = sum(turn.role == Role.ASSISTANT for turn in messages)
        template = self._texts[(said + sampling.seed) % len(self._texts)]
        student = next((turn.content for turn in reversed(messages) if turn.role == Role.USER), "")
        answer = (self._problem.answer or self._problem.solution) if self._problem else None
        if "{{answer}}" in template and not answer:
            raise ModelError(f"{self.id}: no answer is known here", "Give dialogues whose problem has one.")
        words = {"answer": answer or "", "student": student}
        text = _PLACEHOLDER.sub(lambda found: words[found[1]], template)
        read = sum(len(turn.content.split()) for turn in messages)
        return Reply(text=text, model=self.id, prompt_tokens=read, completion_tokens=len(text.split()))

    async def check(self) -> None:
        """Nothing to check: the words ship with the package."""

    async def close(self) -> None:
        """Nothing to free."""


@cache
def _said() -> dict[str, tuple[str, ...]]:
    raw = yaml.safe_load((files(__package__) / "probes.yaml").read_text(encoding="utf-8"))
    return {name: tuple(texts) for name, texts in raw.items()}
