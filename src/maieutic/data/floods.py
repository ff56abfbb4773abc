"""Template floods: first turns that hundreds of people sent with a few words changed.

A first turn is flooded where a run of seven words of it stands in the first turns of more than a hundred
conversations (Source: UserLM-8b's cleaning of WildChat). Counting is exact and takes a pass of its own; hashes go to a
temporary file beyond 64 MB, and are counted a share at a time, so memory does not grow with the corpus.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from typing import IO

import numpy as np

from maieutic.core.messages import Conversation, Role
from maieutic.data.near import Hashes, distinct, runs, words

GRAM = 7
LIMIT = 100
_AT_ONCE = 1 << 22
"""Hashes held at a time, eight bytes each."""


def first_turn(conversation: Conversation) -> str:
    """The first user turn, or nothing."""
    return next((turn.content for turn in conversation.messages if turn.role == Role.USER), "")


def flooded(conversations: Iterable[Conversation], limit: int = LIMIT) -> frozenset[int]:
    """The hashes of the 7-grams that stand in the first turns of more than `limit` conversations."""
    with tempfile.SpooledTemporaryFile(max_size=8 * 2 * _AT_ONCE) as spill:
        total = 0
        for conversation in conversations:
            found = distinct(runs(words(first_turn(conversation)).hashes, GRAM))
            total += len(found)
            spill.write(found.tobytes())
        shares = np.uint64(-(-total // _AT_ONCE))
        often: set[int] = set()
        for share in range(int(shares)):
            often.update(_often(spill, share, shares, limit))
        return frozenset(often)


def _often(spill: IO[bytes], share: int, shares: np.uint64, limit: int) -> Iterator[int]:
    mine = [chunk[chunk % shares == share] for chunk in _chunks(spill)]
    values, counts = np.unique(np.concatenate(mine), return_counts=True)
    yield from values[counts > limit].tolist()


def _chunks(spill: IO[bytes]) -> Iterator[Hashes]:
    spill.seek(0)
    while piece := spill.read(8 * _AT_ONCE):
        yield np.frombuffer(piece, np.uint64)


def template(conversation: Conversation, often: frozenset[int]) -> str | None:
    """The first flooded words of a conversation's first turn; None where it holds none."""
    if not often:
        return None
    found = words(first_turn(conversation))
    for place, value in enumerate(runs(found.hashes, GRAM).tolist()):
        if value in often:
            return found.run(place, GRAM)
    return None
