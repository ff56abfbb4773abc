"""What a tutor is told before it answers: its instructions, with the problem that the dialogue is about.

The tutor alone sees it. By default it is not told what a tutor in use would not know either: the misconception, the
solution and the known answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from maieutic.core import prompts
from maieutic.core.messages import Message, Problem, Role


class Brief(NamedTuple):
    """Instructions, and how much of the problem comes with them."""

    prompt: prompts.Prompt | None = None
    """Null: the tutor sees the dialogue as it is."""
    show_solution: bool = False
    """The misconception, the solution and the known answer too."""

    @classmethod
    def named(cls, prompt: str | None, show_solution: bool = False) -> Brief:
        """By the prompt's name, or a `.md` file."""
        return cls(prompts.load(prompt) if prompt else None, show_solution)

    def frame(self, problem: Problem | None, turns: Sequence[Message]) -> tuple[Message, ...]:
        """The turns as the tutor sees them: the instructions and the dialogue's own system texts in one turn first."""
        system = self.system(problem, turns)
        return (
            *([system] if system else []),
            *(turn for turn in turns if not system or turn.role != Role.SYSTEM),
        )

    def system(self, problem: Problem | None, turns: Sequence[Message]) -> Message | None:
        """The one system turn that `frame` puts first; null without a prompt."""
        if self.prompt is None:
            return None
        about = material(problem, "\n".join(turn.content for turn in turns), self.show_solution)
        text = self.prompt.text
        text = self.prompt.fill(material=about) if "{{material}}" in text else f"{text}\n\n{about}"
        own = [turn.content for turn in turns if turn.role == Role.SYSTEM]
        return Message(role=Role.SYSTEM, content="\n\n".join([text.strip(), *own]))


def material(problem: Problem | None, said: str, show_solution: bool) -> str:
    """What the tutor is told of the problem; what already stands in the dialogue is not told twice."""
    if problem is None:
        return ""
    parts = [("The problem", problem.statement), ("The student's attempt", problem.attempt)]
    if show_solution:
        parts += [
            ("What is wrong in it", problem.misconception),
            ("The solution, for your eyes only", problem.solution),
            ("The answer, for your eyes only", problem.answer),
        ]
    told = [
        f"{title}:\n{text.strip()}"
        for title, text in parts
        if text and text.strip() and text.strip() not in said
    ]
    return "\n\n".join(told)
