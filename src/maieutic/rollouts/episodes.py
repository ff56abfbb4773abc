"""The starts of a simulation, and the rows of its episodes.

A start is empty, or a conversation of a corpus. It may contain messages, an intent, a profile, and a problem with a
student's wrong attempt. The messages become part of the dialogue. The other fields condition a prompted user, or a
simulator that was trained with this conditioning.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from maieutic.core.errors import EmptyCorpus
from maieutic.core.messages import Conversation, Message, Role, fingerprint
from maieutic.core.rows import TurnRow, parse
from maieutic.core.store import Journal, read_rows
from maieutic.models.student import load_kind
from maieutic.rollouts.dialogue import ENDED, Generated, Transcript
from maieutic.rollouts.users import UNREADABLE


class Source:
    """Conversations that are read several times: first to count and hash them, then to process them.

    Args:
        given: a corpus, or conversations.
        seeds: also read rows that have an intent, a profile or a problem but no messages.
    """

    def __init__(self, given: Path | str | Iterable[Conversation], seeds: bool = False) -> None:
        self._given = Path(given) if isinstance(given, (Path, str)) else list(given)
        self._seeds = seeds
        digest, self.count = hashlib.sha256(), 0
        for conversation in self.read(warn=True):
            digest.update(fingerprint(conversation.row()).encode())
            self.count += 1
        self.hash = digest.hexdigest()[:32]

    def read(self, warn: bool = False) -> Iterable[Conversation]:
        """All conversations; `warn` prints the places of broken rows, needed only for the first reading."""
        if not isinstance(self._given, Path):
            return self._given
        from maieutic.core.json_rows import BadRows
        from maieutic.data.corpus import read_corpus

        return read_corpus(self._given, on_bad=None if warn else BadRows(), seeds=self._seeds)

    def __str__(self) -> str:
        return str(self._given) if isinstance(self._given, Path) else "the list of conversations"


class Start(NamedTuple):
    """The start of one dialogue."""

    key: str
    """A hash of everything that decides the dialogue."""
    draws: str
    """The source of its random seeds. Independent of the models' names: a moved checkpoint has the same seeds."""
    conversation: Conversation


class Starts:
    """The starts of a run, read from a corpus as a stream.

    Args:
        given: a corpus, or conversations; null: every start is empty and the user begins.
        seed_turns: keep only this many messages of each conversation.
        system: system text for conversations that have none.
        repeat: dialogues per start.
        kinds: kinds of students, each combined with every start; see `maieutic.models.student`.
    """

    def __init__(
        self,
        given: Path | Sequence[Conversation] | None,
        seed_turns: int | None,
        system: str | None,
        repeat: int,
        kinds: Sequence[str] = (),
    ) -> None:
        self._seed_turns, self._system, self._repeat = seed_turns, system, repeat
        self._kinds = [load_kind(kind).student for kind in kinds]
        self._source = None if given is None else Source(given, seeds=True)
        if self._source and not self._source.count:
            raise EmptyCorpus(f"{self._source} holds no seeds", "Give a corpus with conversations.")
        self.hash = self._source.hash if self._source else None

    def total(self, n: int | None) -> int:
        """The number of dialogues of a run: `n`, or by default `repeat` for each start and kind."""
        count = self._source.count if self._source else 1
        return n if n is not None else count * self._repeat * max(1, len(self._kinds))

    def take(self, n: int | None, identity: str, seed: int) -> Iterator[Start]:
        """The first `total(n)` starts; where `n` asks for more than the corpus holds, it is read again.

        Args:
            n: how many.
            identity: of the run, part of the keys.
            seed: of every draw.
        """
        for number, start in zip(range(self.total(n)), self._conversations(), strict=False):
            content = [[message.role, message.content] for message in start.messages]
            draws = fingerprint([seed, number, content])
            yield Start(fingerprint([identity, number, start.row()]), draws, start)

    def _conversations(self) -> Iterator[Conversation]:
        free = [Conversation(id="free", messages=())]
        while True:
            for start in self._source.read() if self._source else free:
                for variant in self._of_kinds(self._prepared(start)):
                    for _ in range(self._repeat):
                        yield variant

    def _of_kinds(self, start: Conversation) -> list[Conversation]:
        """The start combined with each kind of student: the kind's profile comes before the start's own."""
        return [
            start.model_copy(
                update={
                    "profile": "\n\n".join(filter(None, (kind.profile, start.profile))),
                    "meta": {**start.meta, "kind": kind.name},
                }
            )
            for kind in self._kinds
        ] or [start]

    def _prepared(self, start: Conversation) -> Conversation:
        """A start truncated to its first messages, with the assistant's system text."""
        system = [message for message in start.messages[:1] if message.role == Role.SYSTEM]
        messages = list(start.messages[len(system) :])
        if self._seed_turns is not None:
            messages = messages[: self._seed_turns]
        if not system and self._system:
            system = [Message(role=Role.SYSTEM, content=self._system)]
        return start.model_copy(update={"messages": (*system, *messages), "ended": False})


class FailedEpisode(NamedTuple):
    """A dialogue whose last row is a failure."""

    fault: str
    guards: Counter[str]
    unreadable: int


class Tallies:
    """Counts over the rows of a run."""

    def __init__(self) -> None:
        self.ends: Counter[str] = Counter()
        self.guards: Counter[str] = Counter()
        self.unreadable = 0
        self.failed: dict[str, FailedEpisode] = {}
        self.failures: Counter[str] = Counter()
        """Failed rows, by dialogue."""

    def add(self, row: dict[str, Any]) -> None:
        """Count one row, of this call or of an earlier one."""
        meta = row["meta"]
        key, infos = meta["dialogue"], dict(meta.get("turns", {}))
        last = infos.pop("end", {})
        guards, unreadable = _rejected(infos.values()), _unreadable(infos.values())
        if before := self.failed.pop(key, None):  # this row repeats the failed row's messages
            self.guards -= before.guards
            self.unreadable -= before.unreadable
        self.guards += guards + _rejected([last])
        self.unreadable += unreadable + _unreadable([last])
        if "failure" in row:
            self.failures[key] += 1
            self.failed[key] = FailedEpisode(row["failure"]["fault"], guards, unreadable)
        else:
            self.ends[meta["end"]] += 1

    def faults(self) -> dict[str, int]:
        """Failed dialogues, by fault."""
        return dict(Counter(failed.fault for failed in self.failed.values()))


def _rejected(infos: Iterable[Mapping[str, Any]]) -> Counter[str]:
    return Counter(draw["guard"] for info in infos for draw in info.get("redrawn", ()))


def _unreadable(infos: Iterable[Mapping[str, Any]]) -> int:
    return sum(info.get("controller") == UNREADABLE for info in infos)


def tally(rows: Journal) -> Tallies:
    """The counts of a run so far."""
    tallies = Tallies()
    for row in rows.rows():
        tallies.add(row)
    return tallies


def unfinished(turns: Journal, rows: Journal) -> dict[str, list[Generated]]:
    """The messages already generated in dialogues that have not ended, by the dialogue's key."""
    found: dict[str, list[Generated]] = {}
    for number, value in enumerate(read_rows(turns.path), 1):
        if value["dialogue"] not in rows:
            row = parse(TurnRow, value, f"{turns.path}:{number}")
            generated = found.setdefault(row.dialogue, [])
            if row.index == len(generated):
                generated.append(Generated(row.turn, row.info))
    return found


def episode_row(key: str, start: Conversation, transcript: Transcript) -> dict[str, Any]:
    """A dialogue as a corpus row: the start's own fields, all messages, and in `meta` how each was generated."""
    first = len(start.messages)
    infos = {str(first + index): each.info for index, each in enumerate(transcript.generated)}
    if transcript.last_draw:
        infos["end"] = transcript.last_draw
    meta = {"seed": start.id, "dialogue": key, "end": transcript.end, "turns": infos}
    if kind := start.meta.get("kind"):
        meta["kind"] = kind
    whole = start.model_copy(
        update={
            "id": key[:16],
            "messages": (*start.messages, *(each.message for each in transcript.generated)),
            "ended": transcript.end in ENDED,
            "source": "maieutic-simulate",
            "meta": meta,
        }
    )
    row = whole.row()
    if transcript.failure:
        row["failure"] = {"fault": transcript.failure.fault.value, "error": transcript.failure.error}
    return row


def first_error(rows: Journal) -> str:
    """The error of the first failed dialogue that no later call has completed."""
    failed = (row for row in rows.rows() if "failure" in row and row["meta"]["dialogue"] not in rows)
    return next((str(row["failure"]["error"]) for row in failed), "")
