"""What dialogues start from: nothing, or the conversations of a corpus, each once or several times, streaming.

A start may hold a first round, an intent, a profile, a problem with a student's wrong attempt, or any of them. Its
messages stand in the dialogue; the rest is told to a prompted user, and to a trained one that learned to be told it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple

from maieutic.core.errors import EmptyCorpus
from maieutic.core.messages import Conversation, Message, Role, fingerprint
from maieutic.models.student import load_kind


class Start(NamedTuple):
    """A dialogue to come."""

    key: str
    """Hashes all that decides it."""
    draws: str
    """What its random numbers come from: not the models' names, so that a folder's path changes nothing."""
    conversation: Conversation


class Starts:
    """The starts of a run.

    Args:
        given: a corpus, or conversations; without either every start is free.
        seed_turns: keep only so many turns of each conversation.
        system: put before those that have no system turn.
        repeat: dialogues a start.
        kinds: of students, each with every start; see `maieutic.models.student`. Null: as the start has it.
    """

    def __init__(
        self,
        given: Path | Sequence[Conversation] | None,
        seed_turns: int | None,
        system: str | None,
        repeat: int,
        kinds: Sequence[str] = (),
    ) -> None:
        self._given, self._seed_turns, self._system, self._repeat = given, seed_turns, system, repeat
        self._kinds = [load_kind(kind).student for kind in kinds]
        self.count = 1
        self.hash = None if given is None else self._hashed()

    def _hashed(self) -> str:
        digest, self.count = hashlib.sha256(), 0
        for conversation in self._once(tell=True):
            digest.update(fingerprint(conversation.row()).encode())
            self.count += 1
        if not self.count:
            where = self._given if isinstance(self._given, Path) else "the list of starts"
            raise EmptyCorpus(f"{where} holds no seeds", "Give a corpus with conversations.")
        return digest.hexdigest()[:32]

    def _once(self, tell: bool = False) -> Iterable[Conversation]:
        """The starts, each once; `tell` names broken rows on standard error, which the later readings need not."""
        if self._given is None:
            return [Conversation(id="free", messages=())]
        if not isinstance(self._given, Path):
            return self._given
        from maieutic.core.json_rows import BadRows
        from maieutic.data.corpus import read_corpus

        return read_corpus(self._given, on_bad=None if tell else BadRows(), seeds=True)

    def total(self, n: int | None) -> int:
        """Dialogues of a run of `n`; null: each start once, or `repeat` times."""
        return n if n is not None else self.count * self._repeat * max(1, len(self._kinds))

    def take(self, n: int | None, identity: str, seed: int) -> Iterator[Start]:
        """`total(n)` starts; the corpus is gone through again where `n` asks for more.

        Args:
            n: how many.
            identity: of the run, for the keys.
            seed: of every draw.
        """
        for number, start in zip(range(self.total(n)), self._conversations(), strict=False):
            said = [[turn.role, turn.content] for turn in start.messages]
            draws = fingerprint([seed, number, said])
            yield Start(fingerprint([identity, number, start.row()]), draws, start)

    def _conversations(self) -> Iterator[Conversation]:
        for _ in count():
            for start in self._once():
                framed = self._framed(start)
                for one in self._of_kinds(framed):
                    for _ in range(self._repeat):
                        yield one

    def _of_kinds(self, start: Conversation) -> list[Conversation]:
        """The start with each kind of student: the kind's profile, then the start's own."""
        return [
            start.model_copy(
                update={
                    "profile": "\n\n".join(filter(None, (kind.profile, start.profile))),
                    "meta": {**start.meta, "kind": kind.name},
                }
            )
            for kind in self._kinds
        ] or [start]

    def _framed(self, start: Conversation) -> Conversation:
        """A start cut to its first turns and given the assistant's system text."""
        system = [turn for turn in start.messages[:1] if turn.role == Role.SYSTEM]
        turns = list(start.messages[len(system) :])
        if self._seed_turns is not None:
            turns = turns[: self._seed_turns]
        if not system and self._system:
            system = [Message(role=Role.SYSTEM, content=self._system)]
        return start.model_copy(update={"messages": (*system, *turns), "ended": False})
