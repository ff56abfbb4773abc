"""A sample of a stream: the same one from the same rows, whatever their order, and stratified by a field if asked.

Of each stratum the conversations with the lowest content hash are kept, in proportion to its size (largest
remainders). The hash does the drawing, so nothing is shuffled and a row's fate does not hang on its neighbours.
"""

from __future__ import annotations

import heapq
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from maieutic.core.errors import InputError
from maieutic.core.messages import Conversation
from maieutic.core.store import full_disk
from maieutic.data.corpus import identity, line

FIELDS = ("source", "licence", "user_id", "intent", "profile")
"""What of a conversation itself can be sampled by; any other name is a key of `meta`."""
NONE = "(none)"
ALL = "(all)"


class Stratum(NamedTuple):
    """How many conversations had one value of the field, and how many of them were kept."""

    seen: int
    kept: int


def sample(
    conversations: Iterable[Conversation], count: int, by: str | None, strata: dict[str, Stratum]
) -> Iterator[Conversation]:
    """Keep `count` conversations, in their order, reading the stream once.

    What may still be kept waits in a temporary file, so memory holds a few numbers for each and no text.

    Args:
        conversations: consumed to the end before the first one is yielded.
        count: how many to keep; all where there are fewer.
        by: stratify by this field (one of `FIELDS`, or a key of `meta`); None takes all as one stratum.
        strata: filled with what was seen and kept, by value.

    Raises:
        InputError: no conversation has the field.
        DiskFull: the temporary file does not fit.
    """
    draws: dict[str, _Draw] = defaultdict(lambda: _Draw(count))
    names: set[str] = set()
    with tempfile.TemporaryFile() as spool, full_disk(Path(tempfile.gettempdir())):
        offset = 0
        for conversation in conversations:
            names.update(map(str, conversation.meta))
            if draws[_value(conversation, by)].enter(int(identity(conversation), 16), offset):
                offset += spool.write(line(conversation.row()))
        if by is not None and set(draws) == {NONE}:
            raise InputError(
                f"no conversation has {by!r} to sample by",
                f"Fields: {', '.join((*sorted(names)[:12], *FIELDS))}.",
            )
        quotas = _quotas({value: draw.seen for value, draw in draws.items()}, count)
        strata.update({value: Stratum(draws[value].seen, quota) for value, quota in quotas.items()})
        spool.flush()
        for place in sorted(at for value, quota in quotas.items() for at in draws[value].lowest(quota)):
            spool.seek(place)
            yield Conversation.model_validate(orjson.loads(spool.readline()))


class _Draw:
    """The lowest hashes of one stratum so far, at most `size`, each with its place in the spool."""

    def __init__(self, size: int) -> None:
        self.size, self.seen = size, 0
        self._heap: list[tuple[int, int]] = []  # negated, so that the first is the one to give way

    def enter(self, hash: int, place: int) -> bool:
        self.seen += 1
        item = (-hash, -place)
        if len(self._heap) < self.size:
            heapq.heappush(self._heap, item)
            return True
        return bool(self._heap) and heapq.heappushpop(self._heap, item) != item

    def lowest(self, count: int) -> list[int]:
        return [-place for _, place in heapq.nlargest(count, self._heap)]


def _value(conversation: Conversation, by: str | None) -> str:
    if by is None:
        return ALL
    value: Any = getattr(conversation, by) if by in FIELDS else conversation.meta.get(by)
    if value is None:
        return NONE
    return value if isinstance(value, str) else orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def _quotas(seen: dict[str, int], count: int) -> dict[str, int]:
    """Shares of `count` in proportion to the strata, whole numbers by largest remainder."""
    total = sum(seen.values())
    count = min(count, total)
    shares = {value: divmod(size * count, total) for value, size in seen.items()}
    left = count - sum(whole for whole, _ in shares.values())
    largest = sorted(shares, key=lambda value: (-shares[value][1], value))[:left]
    return {value: whole + (value in largest) for value, (whole, _) in sorted(shares.items())}
