"""The student's attempts at a problem before and after a dialogue, read back: what a dialogue did for it (Δ solve).

Mean accuracy after minus before, as PedagogicalRL has it. The attempts before belong to a start, those after to a
dialogue.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from maieutic.core.messages import Conversation, Problem, fingerprint
from maieutic.core.store import stage_rows


class Tries(NamedTuple):
    """Shares of right attempts."""

    before: dict[str, float]
    """By `start_key`."""
    after: dict[str, float]
    """By the dialogue's own id."""

    def of(self, conversations: Sequence[Conversation]) -> list[dict[str, tuple[float, float]]]:
        """For each dialogue its metrics; none where either side of it was not tried."""
        made: list[dict[str, tuple[float, float]]] = []
        for one in conversations:
            first, last = self.before.get(start_key(one)), self.after.get(one.id)
            gained = None if first is None or last is None else last - first
            values = {"solve_before": first, "solve_after": last, "delta_solve": gained}
            made.append({name: (value, 1.0) for name, value in values.items() if value is not None})
        return made


def start_key(conversation: Conversation) -> str:
    """What a start is known by: its problem and turns, whoever went on from it."""
    turns = before_dialogue(conversation)
    problem: Problem | None = conversation.problem
    return fingerprint(
        [
            problem.model_dump(exclude_none=True) if problem else None,
            conversation.profile,
            [[turn.role, turn.content] for turn in turns],
        ]
    )


def before_dialogue(conversation: Conversation) -> tuple[Any, ...]:
    """The turns of the start: all that stood before the first drawn one."""
    spoken = [int(place) for place in conversation.meta.get("turns", {}) if place.isdigit()]
    return conversation.messages[: min(spoken, default=len(conversation.messages))]


def read_tries(before: Path | str | None, after: Path | str | None) -> Tries | None:
    """The attempts of two stages; null where there is neither."""
    if before is None and after is None:
        return None
    return Tries(_shares(before), _shares(after))


def _shares(stage: Path | str | None) -> dict[str, float]:
    if stage is None:
        return {}
    return {
        str(row["of"]): sum(one["right"] for one in row["attempts"]) / len(row["attempts"])
        for row in stage_rows(stage)
        if row["attempts"]
    }
