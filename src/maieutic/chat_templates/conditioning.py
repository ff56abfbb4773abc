"""Condition a user simulator on its user, with the same system turn in training and in generation.

A *condition* is `none`, `round` (the first round is given and is not in the loss), or what the system turn states:
`intent`, `problem`, `profile`, or several of these joined by `+`. The condition's text follows the system text (from
the conversation, else from the checkpoint) after a blank line, so that a server gets one system message. The checkpoint
stores the wording, so that a simulator is conditioned with the words that it was trained with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from maieutic.core.messages import Conversation, Message, Role
from maieutic.core.prompts import Prompt, load

PARTS = ("intent", "problem", "profile")
NONE, ROUND = "none", "round"
Wording = Mapping[str, str]
"""Templates with a placeholder, by part of a condition, and a template for the attempt at a problem."""


class Conditioning(NamedTuple):
    """The conditions that a simulator was trained with, and the wording of each."""

    kinds: tuple[str, ...]
    wording: Wording

    def best(self, conversation: Conversation, part: str | None = None) -> str | None:
        """The condition with the most parts that fits the conversation, preferring the intent; null if none fits.

        Args:
            conversation: with intent, problem and profile as far as they are known.
            part: a part that the condition must have.
        """
        fitting = [
            kind
            for kind in self.kinds
            if (part is None or part in kind.split("+"))
            and condition_text(conversation, kind, self.wording) is not None
        ]
        first = sorted(fitting, key=lambda kind: [PARTS.index(name) for name in kind.split("+")])
        return max(first, key=lambda kind: kind.count("+"), default=None)

    def apply(
        self, conversation: Conversation, system: str | None = None, part: str | None = None
    ) -> Conversation:
        """The conversation as the simulator gets it: with the best condition, or unchanged if no condition fits."""
        kind = self.best(conversation, part)
        return conditioned(conversation, kind, system, self.wording) or conversation if kind else conversation


def check_kind(name: str) -> str:
    """A condition with its parts in the order of `PARTS`.

    Raises:
        ValueError: there is no such condition.
    """
    parts = name.split("+")
    if name in (NONE, ROUND):
        return name
    if len(set(parts)) < len(parts) or not set(parts) <= set(PARTS):
        known = f"{NONE}, {ROUND}, {', '.join(PARTS)}, or several of these three joined by +"
        raise ValueError(f"no condition {name!r}; known: {known}")
    return "+".join(part for part in PARTS if part in parts)


def wording() -> dict[str, str]:
    """The wording of this version, which checkpoints store in training."""
    return {name: load(f"conditioning_{name}").text for name in (*PARTS, "attempt")}


def condition_text(conversation: Conversation, kind: str, words: Wording) -> str | None:
    """The text of a condition; null if the conversation lacks a part of the condition."""
    found = {part: _part(conversation, part, words) for part in kind.split("+") if part in PARTS}
    texts = [text for text in found.values() if text]
    return "\n\n".join(texts) if texts and len(texts) == len(found) else None


def conditioned(
    conversation: Conversation, kind: str, system: str | None, words: Wording
) -> Conversation | None:
    """The conversation with a condition in its system turn; null if the conversation lacks a part of the condition.

    Args:
        conversation: its own system text, if any, is placed before the condition.
        kind: a condition with parts.
        system: the text to place before the condition if the conversation has no system turn.
        words: see `wording`.
    """
    text = condition_text(conversation, kind, words)
    return None if text is None else with_system(conversation, text, system)


def with_system(conversation: Conversation, text: str | None, system: str | None = None) -> Conversation:
    """The conversation with a new system turn: its own system text or else `system`, a blank line, and `text`."""
    turns = conversation.messages
    if turns and turns[0].role == Role.SYSTEM:
        system, turns = turns[0].content, turns[1:]
    content = "\n\n".join(part for part in (system, text) if part)
    return conversation.model_copy(update={"messages": (Message(role=Role.SYSTEM, content=content), *turns)})


def read_conditioning(record: Any) -> Conditioning | None:
    """The conditioning in a checkpoint's record; null if the record has no usable condition."""
    rates, words = (
        (record.get(name) for name in ("rates", "wording")) if isinstance(record, Mapping) else (None, None)
    )
    if not isinstance(rates, Mapping) or not isinstance(words, Mapping):
        return None
    worded = {str(name): text for name, text in words.items() if isinstance(text, str)}
    usable = {part for part in PARTS if part in worded and ("attempt" in worded or part != "problem")}
    kinds = tuple(kind for kind in rates if set(str(kind).split("+")) <= usable)
    return Conditioning(kinds, worded) if kinds else None


def _part(conversation: Conversation, part: str, words: Wording) -> str | None:
    if part != "problem":
        text = conversation.intent if part == "intent" else conversation.profile
        return _filled(part, words, **{part: text}) if text and text.strip() else None
    problem = conversation.problem
    if problem is None or not problem.statement.strip():
        return None
    text = _filled("problem", words, statement=problem.statement)
    if problem.attempt and problem.attempt.strip():
        text += "\n\n" + _filled("attempt", words, attempt=problem.attempt)
    return text


def _filled(name: str, words: Wording, **values: str) -> str:
    return Prompt(f"conditioning_{name}", words[name], "").fill(**values)
