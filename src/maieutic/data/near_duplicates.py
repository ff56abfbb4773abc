r"""Texts that share most of their words: hashed word n-grams, a near-duplicate index, and template floods.

A word is a run of letters, digits and underscores (what `\w+` finds), in lower case; a character of a script written
without spaces (Han, kana, Thai, Khmer, Lao, Burmese) is one word. We use our own hash function, since Python's `hash`
gives different values in each process.

The index is MinHash with locality-sensitive hashing, from rensa. It takes at most 512 bytes per text of any length.

A template flood is a first turn that hundreds of people sent with a few words changed. A first turn belongs to a flood
if seven consecutive words of it occur in the first turns of more than a hundred conversations (source: UserLM-8b's
cleaning of WildChat). Counting is exact and takes one pass over the corpus. Hashes beyond 64 MB go to a temporary file
and are counted in batches, so memory does not grow with the corpus.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Collection, Iterable, Iterator
from functools import cache
from typing import IO, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from maieutic.core.errors import MissingExtra
from maieutic.core.messages import Conversation, Role

Hashes = NDArray[np.uint64]
Number = TypeVar("Number", bound=np.unsignedinteger[Any])

NEAR = 0.8
"""Two texts are near duplicates if the Jaccard index of their n-gram sets is at least this."""
GRAM = 5
_BASE = 0x9E3779B97F4A7C15
_UNBASE = pow(_BASE, -1, 2**64)
_STEP = 0xD6E8FEB86659FD93
_ALONE = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3005, 0x30FF), (0x3400, 0x9FFF))
_ALONE_FAR = ((0xF900, 0xFAFF), (0x20000, 0x3FFFF))
_SEED = 7


class Words(NamedTuple):
    """A text in lower case, with the hash, start and end of each word."""

    text: str
    hashes: Hashes
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    def run(self, first: int, count: int) -> str:
        """The piece of the text that begins with word `first` and holds `count` words."""
        return self.text[self.starts[first] : self.ends[min(first + count, len(self.ends)) - 1]]


def words(text: str) -> Words:
    """The words of a text, hashed; a text without words is split at white space."""
    if text.isascii():
        text = text.lower()
        codes: NDArray[Any] = np.frombuffer(text.encode(), np.uint8)
    else:
        text = text.casefold()
        codes = np.frombuffer(text.encode("utf-32-le", "replace"), np.uint32)
    kinds = np.zeros(len(codes) + 2, np.uint8)
    np.take(_kinds(), codes, out=kinds[1:-1])
    turning = (kinds[1:] != kinds[:-1]) | (kinds[1:] == 2)
    last = np.flatnonzero(turning & (kinds[:-1] > 0))
    first = np.flatnonzero(turning & (kinds[1:] > 0))
    if not len(first):
        return _bare(text)
    # The hash of a word is the sum of its characters times rising powers: the difference of two running sums, divided
    # by the power at its start.
    powers, unpowers = _powers(1 << max(12, (len(codes) + 1).bit_length()))
    sums = np.zeros(len(codes) + 1, np.uint64)
    np.cumsum((codes.astype(np.uint64) + np.uint64(1)) * powers[: len(codes)], out=sums[1:])
    return Words(text, _mixed((sums[last] - sums[first]) * unpowers[first]), first, last)


def _bare(text: str) -> Words:
    pieces = text.split()
    digests = [hashlib.blake2b(piece.encode("utf-8", "replace"), digest_size=8).digest() for piece in pieces]
    starts, at = [], 0
    for piece in pieces:
        starts.append(text.index(piece, at))
        at = starts[-1] + len(piece)
    first = np.asarray(starts, np.int64)
    last = first + np.asarray([len(piece) for piece in pieces], np.int64)
    return Words(text, np.frombuffer(b"".join(digests), "<u8").astype(np.uint64), first, last)


def runs(hashes: Hashes, size: int) -> Hashes:
    """The hash of every run of `size` words, in order; none if there are fewer words."""
    count = len(hashes) - size + 1
    if count <= 0:
        return np.zeros(0, np.uint64)
    sums = np.zeros(count, np.uint64)
    for place in range(size):
        sums *= np.uint64(_STEP)
        sums += hashes[place : place + count]
    return _mixed(sums)


def grams(text: str, size: int = GRAM) -> Hashes:
    """The distinct word n-grams of a text, hashed and sorted; a text of fewer than `size` words is one gram."""
    hashes = words(text).hashes
    return distinct(runs(hashes, min(size, len(hashes)))) if len(hashes) else np.zeros(1, np.uint64)


def distinct(values: NDArray[Number]) -> NDArray[Number]:
    """The distinct values, sorted; like `np.unique`, but several times faster at this size."""
    values = np.sort(values)
    fresh = np.ones(len(values), bool)
    np.not_equal(values[1:], values[:-1], out=fresh[1:])
    return values[fresh]


def jaccard(one: NDArray[Any], other: NDArray[Any]) -> float:
    """The Jaccard index of two sorted sets."""
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)


@cache
def _kinds() -> NDArray[np.uint8]:
    """By code point: 0 is not part of a word, 1 is part of a word, 2 is a whole word."""
    kinds = np.zeros(0x110000, np.uint8)
    letters = 0x40000  # higher planes have no letters: they are unassigned, tags, or private use
    kinds[:letters] = np.fromiter((chr(code).isalnum() for code in range(letters)), np.uint8, letters)
    kinds[ord("_")] = 1
    for low, high in (*_ALONE, *_ALONE_FAR):
        kinds[low : high + 1] *= 2
    return kinds


@cache
def _powers(length: int) -> tuple[Hashes, Hashes]:
    up, down = (np.full(length, base, np.uint64) for base in (_BASE, _UNBASE))
    up[0] = down[0] = 1
    return np.multiply.accumulate(up), np.multiply.accumulate(down)


def _mixed(values: Hashes) -> Hashes:
    """Mix the bits in place, so that each output bit depends on each input bit (the finish of splitmix64)."""
    values ^= values >> np.uint64(30)
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


class NearIndex:
    """An index of texts that finds the near duplicates of a new text.

    Two texts with a Jaccard index of `NEAR` become candidates with a probability above .99 (16 bands of 6) or above
    .9999999 (32 bands of 4); the probability grows with the index.

    Raises:
        MissingExtra: rensa is not installed.
    """

    def __init__(self, bands: int = 16, rows: int = 6) -> None:
        try:
            import rensa
        except ImportError:
            raise MissingExtra(
                "finding near duplicates needs rensa", "Install it: pip install 'maieutic[data]'."
            ) from None
        self._new = rensa.RMinHash
        self._size = bands * rows
        self._bands = rensa.RMinHashLSH(NEAR, self._size, bands)
        self._sketches: list[Any] = []

    def sketch(self, hashes: NDArray[Any]) -> Any:
        """The MinHash signature of a set of n-grams, of fixed size."""
        sketch = self._new(self._size, _SEED)
        sketch.update(hashes.view(f"V{hashes.itemsize}").tolist())
        return sketch

    def add(self, sketch: Any) -> int:
        """Add a text to the index, and return its number, counted from 0."""
        place = len(self._sketches)
        self._bands.insert(place, sketch)
        self._sketches.append(sketch)
        return place

    def close(self, sketch: Any, least: float, known: Collection[int] = ()) -> Iterator[int]:
        """The numbers of the texts with an estimated Jaccard index of at least `least`, in order, without `known`.

        The estimate's standard error at .8 is .041 for 96 hashes and .035 for 128.
        """
        for place in sorted(set(self._bands.query(sketch)).difference(known)):
            if sketch.jaccard(self._sketches[place]) >= least:
                yield place


FLOOD_GRAM = 7
FLOOD_LIMIT = 100
_AT_ONCE = 1 << 22
"""Maximum number of hashes in memory, eight bytes each."""


def first_turn(conversation: Conversation) -> str:
    """The text of the first user turn, or an empty string."""
    return next((turn.content for turn in conversation.messages if turn.role == Role.USER), "")


def flooded(conversations: Iterable[Conversation], limit: int = FLOOD_LIMIT) -> frozenset[int]:
    """The hashes of the 7-grams that occur in the first turns of more than `limit` conversations."""
    with tempfile.SpooledTemporaryFile(max_size=8 * 2 * _AT_ONCE) as spill:
        total = 0
        for conversation in conversations:
            found = distinct(runs(words(first_turn(conversation)).hashes, FLOOD_GRAM))
            total += len(found)
            spill.write(found.tobytes())
        shares = np.uint64(-(-total // _AT_ONCE))
        frequent: set[int] = set()
        for share in range(int(shares)):
            frequent.update(_frequent(spill, share, shares, limit))
        return frozenset(frequent)


def _frequent(spill: IO[bytes], share: int, shares: np.uint64, limit: int) -> Iterator[int]:
    mine = [chunk[chunk % shares == share] for chunk in _chunks(spill)]
    values, counts = np.unique(np.concatenate(mine), return_counts=True)
    yield from values[counts > limit].tolist()


def _chunks(spill: IO[bytes]) -> Iterator[Hashes]:
    spill.seek(0)
    while piece := spill.read(8 * _AT_ONCE):
        yield np.frombuffer(piece, np.uint64)


def flood_words(conversation: Conversation, frequent: frozenset[int]) -> str | None:
    """The first words of a conversation's first turn that belong to a flood, or None."""
    if not frequent:
        return None
    found = words(first_turn(conversation))
    for place, value in enumerate(runs(found.hashes, FLOOD_GRAM).tolist()):
        if value in frequent:
            return found.run(place, FLOOD_GRAM)
    return None
