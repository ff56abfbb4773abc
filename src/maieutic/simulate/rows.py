"""Dialogues as rows: how one is written, counted, and taken up again."""

from __future__ import annotations

from collections import Counter
from typing import Any

from maieutic.simulate.dialogue import ENDED, Outcome, Spoken
from maieutic.store import Journal, read_rows
from maieutic.types import Conversation, Turn


class Tallies:
    """What the rows hold, counted as they come."""

    def __init__(self) -> None:
        self.ends: Counter[str] = Counter()
        self.guards: Counter[str] = Counter()
        self.failed: dict[str, str] = {}
        self.tries: Counter[str] = Counter()

    def add(self, key: str, outcome: Outcome) -> None:
        """Count a dialogue that is over."""
        for spoken in outcome.spoken:
            self.guards.update(draw["guard"] for draw in spoken.info.get("redrawn", ()))
        self._settle(key, outcome.end and outcome.end.value, outcome.failure and outcome.failure.fault.value)

    def add_row(self, row: dict[str, Any]) -> None:
        """Count one that an earlier call wrote."""
        meta = row.get("meta", {})
        for info in meta.get("turns", {}).values():
            self.guards.update(draw["guard"] for draw in info.get("redrawn", ()))
        self._settle(meta["dialogue"], meta.get("end"), row.get("failure", {}).get("fault"))

    def faults(self) -> dict[str, int]:
        """Failed dialogues by whose fault it was."""
        return dict(Counter(self.failed.values()))

    def _settle(self, key: str, end: str | None, fault: str | None) -> None:
        if fault is not None:
            self.tries[key] += 1
            self.failed[key] = fault
        elif end is not None:
            self.failed.pop(key, None)
            self.ends[end] += 1


def tally(rows: Journal) -> Tallies:
    """The counts of a run so far."""
    tallies = Tallies()
    for row in rows.rows():
        tallies.add_row(row)
    return tallies


def partial_dialogues(turns: Journal, rows: Journal) -> dict[str, list[Spoken]]:
    """The turns already spoken in dialogues that are not finished."""
    partial: dict[str, list[Spoken]] = {}
    for row in read_rows(turns.path):
        if row["dialogue"] not in rows:
            spoken = partial.setdefault(row["dialogue"], [])
            if row["index"] == len(spoken):
                spoken.append(Spoken(Turn.model_validate(row["turn"]), row["info"]))
    return partial


def dialogue_row(
    key: str, start: Conversation, outcome: Outcome, end_info: dict[str, Any] | None
) -> dict[str, Any]:
    """A dialogue as a corpus row: the start's own fields, the turns, and in `meta` how each came about."""
    first = len(start.messages)
    infos = {str(first + index): spoken.info for index, spoken in enumerate(outcome.spoken)}
    if end_info:
        infos["end"] = end_info
    meta = {"seed": start.id, "dialogue": key, "end": outcome.end, "turns": infos}
    whole = start.model_copy(
        update={
            "id": key[:16],
            "messages": (*start.messages, *(spoken.turn for spoken in outcome.spoken)),
            "ended": outcome.end in ENDED,
            "source": "maieutic-simulate",
            "meta": meta,
        }
    )
    row = whole.row()
    return {**row, "failure": outcome.failure._asdict()} if outcome.failure else row


def first_error(rows: Journal) -> str:
    """The words of the first failure that no later call has mended."""
    failed = (row for row in rows.rows() if "failure" in row and row["meta"]["dialogue"] not in rows)
    return next((str(row["failure"]["error"]) for row in failed), "")
