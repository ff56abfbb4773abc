"""Dialogues as rows: how one is written, counted, and taken up again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from maieutic.core.messages import Conversation, Message
from maieutic.core.store import Journal, read_rows
from maieutic.rollouts.dialogue import ENDED, Outcome, Spoken
from maieutic.rollouts.users import UNREAD


class Failed(NamedTuple):
    """A dialogue whose last row is a failure."""

    fault: str
    guards: Counter[str]
    unread: int


class Tallies:
    """What the rows hold, counted as they come."""

    def __init__(self) -> None:
        self.ends: Counter[str] = Counter()
        self.guards: Counter[str] = Counter()
        self.unread = 0
        self.failed: dict[str, Failed] = {}
        self.tries: Counter[str] = Counter()

    def add(self, row: dict[str, Any]) -> None:
        """Count a dialogue that is over, of this call or of an earlier one."""
        meta = row["meta"]
        key, infos = meta["dialogue"], dict(meta.get("turns", {}))
        last = infos.pop("end", {})
        guards, unread = _thrown(infos.values()), _unread(infos.values())
        if before := self.failed.pop(key, None):  # its turns stand in this row again
            self.guards -= before.guards
            self.unread -= before.unread
        self.guards += guards + _thrown([last])
        self.unread += unread + _unread([last])
        if "failure" in row:
            self.tries[key] += 1
            self.failed[key] = Failed(row["failure"]["fault"], guards, unread)
        else:
            self.ends[meta["end"]] += 1

    def faults(self) -> dict[str, int]:
        """Failed dialogues by whose fault it was."""
        return dict(Counter(failed.fault for failed in self.failed.values()))


def _thrown(infos: Iterable[Mapping[str, Any]]) -> Counter[str]:
    return Counter(draw["guard"] for info in infos for draw in info.get("redrawn", ()))


def _unread(infos: Iterable[Mapping[str, Any]]) -> int:
    return sum(info.get("controller") == UNREAD for info in infos)


def tally(rows: Journal) -> Tallies:
    """The counts of a run so far."""
    tallies = Tallies()
    for row in rows.rows():
        tallies.add(row)
    return tallies


def partial_dialogues(turns: Journal, rows: Journal) -> dict[str, list[Spoken]]:
    """The turns already spoken in dialogues that are not finished."""
    partial: dict[str, list[Spoken]] = {}
    for row in read_rows(turns.path):
        if row["dialogue"] not in rows:
            spoken = partial.setdefault(row["dialogue"], [])
            if row["index"] == len(spoken):
                spoken.append(Spoken(Message.model_validate(row["turn"]), row["info"]))
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
    if kind := start.meta.get("kind"):
        meta["kind"] = kind
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
    if outcome.failure:
        row["failure"] = {"fault": outcome.failure.fault.value, "error": outcome.failure.error}
    return row


def first_error(rows: Journal) -> str:
    """The words of the first failure that no later call has mended."""
    failed = (row for row in rows.rows() if "failure" in row and row["meta"]["dialogue"] not in rows)
    return next((str(row["failure"]["error"]) for row in failed), "")
