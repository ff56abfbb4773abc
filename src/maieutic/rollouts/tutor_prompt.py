"""The tutor's system prompt: instructions and the problem that the dialogue is about.

Only the tutor sees it. By default it leaves out what a tutor would not know in practice: the misconception, the
solution and the known answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from maieutic.core import prompts
from maieutic.core.messages import Message, Problem, Role


class TutorPrompt(NamedTuple):
    """A system prompt, and how much of the problem it contains."""

    prompt: prompts.Prompt | None = None
    """Null: the tutor sees the dialogue without a prompt."""
    show_solution: bool = False
    """Include the misconception, the solution and the known answer."""

    @classmethod
    def load(cls, prompt: str | None, show_solution: bool = False) -> TutorPrompt:
        """Load a prompt by name, or from a `.md` file."""
        return cls(prompts.load(prompt) if prompt else None, show_solution)

    def apply(self, problem: Problem | None, messages: Sequence[Message]) -> tuple[Message, ...]:
        """The messages as the tutor sees them: first one system message with the prompt and the dialogue's own ones."""
        system = self.system(problem, messages)
        if system is None:
            return tuple(messages)
        return (system, *(message for message in messages if message.role != Role.SYSTEM))

    def system(self, problem: Problem | None, messages: Sequence[Message]) -> Message | None:
        """The system message that `apply` puts first; null without a prompt."""
        if self.prompt is None:
            return None
        about = _material(problem, "\n".join(message.content for message in messages), self.show_solution)
        text = self.prompt.text
        text = self.prompt.fill(material=about) if "{{material}}" in text else f"{text}\n\n{about}"
        own = [message.content for message in messages if message.role == Role.SYSTEM]
        return Message(role=Role.SYSTEM, content="\n\n".join([text.strip(), *own]))


def _material(problem: Problem | None, dialogue: str, show_solution: bool) -> str:
    """The parts of the problem that the dialogue's text does not already contain."""
    if problem is None:
        return ""
    parts = [("The problem", problem.statement), ("The student's attempt", problem.attempt)]
    if show_solution:
        parts += [
            ("What is wrong in it", problem.misconception),
            ("The solution, for your eyes only", problem.solution),
            ("The answer, for your eyes only", problem.answer),
        ]
    return "\n\n".join(
        f"{title}:\n{text.strip()}"
        for title, text in parts
        if text and text.strip() and text.strip() not in dialogue
    )
