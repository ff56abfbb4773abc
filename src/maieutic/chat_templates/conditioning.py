"""How a trained simulator is told what its person wants and is: in one system turn, the same in training and in use.

A *kind* is a row's condition: `none`, `round` (the first round is given, and is not in the loss), or what is told:
`intent`, `problem`, `profile`, or several joined by `+`. What is told follows whatever stands in the system turn (the
conversation's own, else the checkpoint's system text) after a blank line, so a server is sent one system message. The
words around it are prompts, kept in the checkpoint: a simulator is told in the words that it was trained with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from maieutic.core.messages import Conversation, Message, Role
from maieutic.core.prompts import Prompt, load

PARTS = ("intent", "problem", "profile")
NONE, ROUND = "none", "round"
Wording = Mapping[str, str]
"""By part, and for the attempt at a problem: the words with a place for the text."""


class Telling(NamedTuple):
    """What a simulator learned to be told, and in which words."""

    kinds: tuple[str, ...]
    wording: Wording

    def best(self, conversation: Conversation, part: str | None = None) -> str | None:
        """The kind that tells most of what is known here, the intent first; null where none of them can be told.

        Args:
            conversation: with what is known of its person.
            part: what has to be told.
        """
        fitting = [
            kind
            for kind in self.kinds
            if (part is None or part in kind.split("+"))
            and told_text(conversation, kind, self.wording) is not None
        ]
        first = sorted(fitting, key=lambda kind: [PARTS.index(name) for name in kind.split("+")])
        return max(first, key=lambda kind: kind.count("+"), default=None)

    def tell(
        self, conversation: Conversation, system: str | None = None, part: str | None = None
    ) -> Conversation:
        """The conversation as the simulator sees it: told the most that it learned to be told, or as it is."""
        kind = self.best(conversation, part)
        return told(conversation, kind, system, self.wording) or conversation if kind else conversation


def check_kind(name: str) -> str:
    """A kind in the one order that its parts are told in.

    Raises:
        ValueError: there is no such kind.
    """
    parts = name.split("+")
    if name in (NONE, ROUND):
        return name
    if len(set(parts)) < len(parts) or not set(parts) <= set(PARTS):
        known = f"{NONE}, {ROUND}, {', '.join(PARTS)}, or several of these three joined by +"
        raise ValueError(f"no condition {name!r}; known: {known}")
    return "+".join(part for part in PARTS if part in parts)


def wording() -> dict[str, str]:
    """The words as they are today, to be kept in what is trained with them."""
    return {name: load(f"told_{name}").text for name in (*PARTS, "attempt")}


def told_text(conversation: Conversation, kind: str, words: Wording) -> str | None:
    """What a kind tells of a conversation's person; null where a part of it is not known."""
    known = {part: _part(conversation, part, words) for part in kind.split("+") if part in PARTS}
    texts = [text for text in known.values() if text]
    return "\n\n".join(texts) if texts and len(texts) == len(known) else None


def told(conversation: Conversation, kind: str, system: str | None, words: Wording) -> Conversation | None:
    """A conversation whose system turn tells what the kind says; null where that is not known.

    Args:
        conversation: its own system turn, where it has one, comes before what is told.
        kind: one with parts.
        system: comes before what is told where there is no system turn.
        words: see `wording`.
    """
    text = told_text(conversation, kind, words)
    return None if text is None else with_system(conversation, text, system)


def with_system(conversation: Conversation, text: str | None, system: str | None = None) -> Conversation:
    """A conversation whose system turn says: its own or else `system`, a blank line, and `text`."""
    turns = conversation.messages
    if turns and turns[0].role == Role.SYSTEM:
        system, turns = turns[0].content, turns[1:]
    content = "\n\n".join(part for part in (system, text) if part)
    return conversation.model_copy(update={"messages": (Message(role=Role.SYSTEM, content=content), *turns)})


def read_telling(said: Any) -> Telling | None:
    """What a checkpoint's record says of its conditions; null where it says nothing that can be told."""
    rates, words = (
        (said.get(name) for name in ("rates", "wording")) if isinstance(said, Mapping) else (None, None)
    )
    if not isinstance(rates, Mapping) or not isinstance(words, Mapping):
        return None
    worded = {str(name): text for name, text in words.items() if isinstance(text, str)}
    tellable = {part for part in PARTS if part in worded and ("attempt" in worded or part != "problem")}
    kinds = tuple(kind for kind in rates if set(str(kind).split("+")) <= tellable)
    return Telling(kinds, worded) if kinds else None


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
    return Prompt(f"told_{name}", words[name], "").fill(**values)
