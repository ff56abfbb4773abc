r"""Texts that share most of their words: n-grams as hashes, and an index that finds the near ones.

A word is a run of letters, digits and underscores (what `\w+` finds), in lower case; a character of a script written
without spaces (Han, kana, Thai, Khmer, Lao, Burmese) is a word of its own. Hashes are ours and the same everywhere:
Python's differ from run to run.

The index is MinHash with locality-sensitive hashing, from rensa: 512 bytes or fewer a text, whatever its length.


Template floods: first turns that hundreds of people sent with a few words changed.

A first turn is flooded where a run of seven words of it stands in the first turns of more than a hundred
conversations (Source: UserLM-8b's cleaning of WildChat). Counting is exact and takes a pass of its own; hashes go to a
temporary file beyond 64 MB, and are counted a share at a time, so memory does not grow with the corpus.
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
"""Share of n-grams in common, as a Jaccard index, from which two texts are near duplicates."""
GRAM = 5
_BASE = 0x9E3779B97F4A7C15
_UNBASE = pow(_BASE, -1, 2**64)
_STEP = 0xD6E8FEB86659FD93
_ALONE = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3005, 0x30FF), (0x3400, 0x9FFF))
_ALONE_FAR = ((0xF900, 0xFAFF), (0x20000, 0x3FFFF))
_SEED = 7


class Words(NamedTuple):
    """A text in lower case, its words' hashes, and where each begins and ends in it."""

    text: str
    hashes: Hashes
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    def run(self, first: int, count: int) -> str:
        """The stretch of text from a word on, `count` words long."""
        return self.text[self.starts[first] : self.ends[min(first + count, len(self.ends)) - 1]]


def words(text: str) -> Words:
    """The words of a text, hashed; a text without any goes by what stands between white space."""
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
    # The hash of a word is the sum of its characters times rising powers: a difference of two running sums, moved
    # back to the power it would have at the start of a text.
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
    """The hash of every run of `size` words, in order; none where there are fewer words."""
    count = len(hashes) - size + 1
    if count <= 0:
        return np.zeros(0, np.uint64)
    sums = np.zeros(count, np.uint64)
    for place in range(size):
        sums *= np.uint64(_STEP)
        sums += hashes[place : place + count]
    return _mixed(sums)


def grams(text: str, size: int = GRAM) -> Hashes:
    """The different word n-grams of a text, hashed and sorted; a shorter text is one gram, whatever its length."""
    hashes = words(text).hashes
    return distinct(runs(hashes, min(size, len(hashes)))) if len(hashes) else np.zeros(1, np.uint64)


def distinct(values: NDArray[Number]) -> NDArray[Number]:
    """Sorted, each once: what `np.unique` gives, several times faster at this size."""
    values = np.sort(values)
    fresh = np.ones(len(values), bool)
    np.not_equal(values[1:], values[:-1], out=fresh[1:])
    return values[fresh]


def jaccard(one: NDArray[Any], other: NDArray[Any]) -> float:
    """The share two sorted sets have in common."""
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)


@cache
def _kinds() -> NDArray[np.uint8]:
    """By code point: 0 no part of a word, 1 part of one, 2 a word of its own."""
    kinds = np.zeros(0x110000, np.uint8)
    letters = 0x40000  # beyond lie no letters: planes without characters, tags, private use
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
    """Every bit of the result hangs on every bit of the value (the finish of splitmix64); in place."""
    values ^= values >> np.uint64(30)
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


class NearIndex:
    """Texts by what they share, found again by any text close to them.

    Two texts with a Jaccard index at `NEAR` become candidates with a probability above .99 (16 bands of 6) or beyond
    .9999999 (32 bands of 4), and the more alike they are, the surer.

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
        """The fixed-size sketch of a set of n-grams."""
        sketch = self._new(self._size, _SEED)
        sketch.update(hashes.view(f"V{hashes.itemsize}").tolist())
        return sketch

    def add(self, sketch: Any) -> int:
        """Put a text into the index; the places count up from 0."""
        place = len(self._sketches)
        self._bands.insert(place, sketch)
        self._sketches.append(sketch)
        return place

    def close(self, sketch: Any, least: float, known: Collection[int] = ()) -> Iterator[int]:
        """The places whose estimated Jaccard index is at least `least`, in order, without the `known` ones.

        The estimate's standard error at .8 is .041 for 96 hashes and .035 for 128.
        """
        for place in sorted(set(self._bands.query(sketch)).difference(known)):
            if sketch.jaccard(self._sketches[place]) >= least:
                yield place


FLOOD_GRAM = 7
FLOOD_LIMIT = 100
_AT_ONCE = 1 << 22
"""Hashes held at a time, eight bytes each."""


def first_turn(conversation: Conversation) -> str:
    """The first user turn, or nothing."""
    return next((turn.content for turn in conversation.messages if turn.role == Role.USER), "")


def flooded(conversations: Iterable[Conversation], limit: int = FLOOD_LIMIT) -> frozenset[int]:
    """The hashes of the 7-grams that stand in the first turns of more than `limit` conversations."""
    with tempfile.SpooledTemporaryFile(max_size=8 * 2 * _AT_ONCE) as spill:
        total = 0
        for conversation in conversations:
            found = distinct(runs(words(first_turn(conversation)).hashes, FLOOD_GRAM))
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
    for place, value in enumerate(runs(found.hashes, FLOOD_GRAM).tolist()):
        if value in often:
            return found.run(place, FLOOD_GRAM)
    return None
