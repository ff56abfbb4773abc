"""Many texts → ids at once, by a faster encoder where it is proven to give the tokenizer's own ids.

gigatoken encodes byte-level BPE tens of times faster than `tokenizers` does. It is used where it is installed, reads
this tokenizer, and agrees with it on texts that hold every kind of character, digit, space and contraction; while it
is used, one text in so many is encoded by both, and the first that differs ends its use and is said. Texts that spell
a token added to the vocabulary always go to the tokenizer itself.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maieutic.render.encode import Encoder

Ids = NDArray[np.int32]

CHECK_EVERY = 256
"""One text in so many is encoded by both encoders, beginning with the first."""
RENEW_AFTER = 1 << 28
"""Characters after which the faster encoder is built anew: it keeps every word it has met."""
WORTH_IT = 256
"""Texts after which building it (a fifth of a second) pays."""


class Batches:
    """Encodes lists of texts; see the module.

    Args:
        encoder: decides the ids.
        faster: whether a faster encoder may be used.
        check_every: compare one text in so many with the tokenizer's own ids; 1 proves every one.
    """

    def __init__(self, encoder: Encoder, faster: bool = True, check_every: int = CHECK_EVERY) -> None:
        self._encoder = encoder
        self._faster = faster
        self._check_every = check_every
        self._made: dict[str, _Gigatoken | None] = {}
        self._met = 0
        self.checked = 0
        """Texts that both have encoded."""

    @property
    def name(self) -> str:
        """What encodes: `tokenizers`, or that and the faster one, with its version."""
        used = [one for one in self._made.values() if one is not None]
        return f"gigatoken {used[0].version}" if used else "tokenizers"

    def ids(self, texts: Sequence[str], starts: Sequence[str]) -> list[Ids]:
        """The ids of each text, encoded for the place it starts at."""
        self._met += len(texts)
        places = {start: self._encoder.variants.place(start) for start in set(starts)}
        plain = self._without_added(texts)
        found: list[Ids] = [_EMPTY] * len(texts)
        for place in set(places.values()):
            mine = [index for index, start in enumerate(starts) if places[start] == place and texts[index]]
            quick = [index for index in mine if plain[index]]
            self._fill(found, quick, texts, place)
            for index in mine:
                if not plain[index]:
                    found[index] = np.asarray(self._encoder.text_ids(texts[index], place), np.int32)
        return found

    def _without_added(self, texts: Sequence[str]) -> list[bool]:
        """Whether each text is free of added tokens; one look at all of them together is mostly enough."""
        if not self._encoder.spells_added("\n".join(texts)):
            return [True] * len(texts)
        return [not self._encoder.spells_added(text) for text in texts]

    def _fill(self, found: list[Ids], where: list[int], texts: Sequence[str], place: str) -> None:
        if not where:
            return
        wanted = [texts[index] for index in where]
        encoder = self._quick(place)
        made = encoder.ids(wanted) if encoder is not None else self._own(wanted, place)
        if encoder is not None and not self._agree(encoder, wanted, made, place):
            sys.stderr.write(f"{encoder.name} differs from the tokenizer on this text; it is no longer used\n")
            self._made[place] = None
            self.disproved = True
            made = self._own(wanted, place)
        for index, ids in zip(where, made, strict=True):
            found[index] = ids

    disproved = False
    """Whether the faster encoder was once found to differ, after it had been used."""

    def _own(self, texts: list[str], place: str) -> list[Ids]:
        encoded = self._encoder.variants.full(place).encode_batch_fast(texts, add_special_tokens=False)
        return [np.asarray(one.ids, np.int32) for one in encoded]

    def _agree(self, encoder: _Gigatoken, texts: list[str], made: list[Ids], place: str) -> bool:
        first = -encoder.met % self._check_every
        encoder.met += len(texts)
        sample = range(first, len(texts), self._check_every)
        self.checked += len(sample)
        own = self._own([texts[index] for index in sample], place)
        return all(np.array_equal(made[index], ids) for index, ids in zip(sample, own, strict=True))

    def _quick(self, place: str) -> _Gigatoken | None:
        if not self._faster or (place not in self._made and self._met < WORTH_IT):
            return None
        held = self._made.get(place)
        if place not in self._made or (held is not None and held.characters > RENEW_AFTER):
            self._made[place] = _Gigatoken.build(self._encoder, place)
        return self._made[place]


class _Gigatoken:
    """The faster encoder of one place, without added tokens."""

    name = "gigatoken"

    def __init__(self, inner: Any, version: str) -> None:
        self._inner = inner
        self.version = version
        self.met = 0
        self.characters = 0

    @classmethod
    def build(cls, encoder: Encoder, place: str) -> _Gigatoken | None:
        """The encoder, or null where it is not installed, cannot read the tokenizer, or differs on a probe."""
        try:
            import gigatoken
        except ImportError:
            return None
        from importlib.metadata import version

        try:
            made = cls(gigatoken.Tokenizer.from_json(encoder.variants.bare_json(place)), version("gigatoken"))
            ids = made.ids(list(_probes()))
        except Exception:  # it says that it cannot read a tokenizer by errors of several kinds, panics among them
            return None
        own = encoder.variants.full(place).encode_batch_fast(list(_probes()), add_special_tokens=False)
        if not all(one.ids == mine.tolist() for one, mine in zip(own, ids, strict=True)):
            return None
        made.characters = 0
        return made

    def ids(self, texts: list[str]) -> list[Ids]:
        self.characters += sum(map(len, texts))
        made = self._inner.encode_batch(texts, parallel=False)
        if isinstance(made, list):  # its form where awkward is not installed
            return [np.asarray(ids, np.int32) for ids in made]
        flat = np.asarray(made.layout.content.data, np.int32)
        return [flat[start:end] for start, end in pairwise(made.layout.offsets.data.tolist())]


_EMPTY: Ids = np.empty(0, np.int32)


@cache
def _probes() -> tuple[str, ...]:
    """Texts that tell one way of splitting from another: all pairs of kinds of characters, and each character."""
    kinds = ["a", "Z", "é", "中", "か", "한", "ß", "ſ", "K", "'", "’", "s", "'s", "'LL", "1", "٣", "²", "½", "Ⅷ", " ", "  ",
             "\t", "\n", "\r", "\r\n", "\n\n", "\x0b", "\x1c", "\x85", "\u00a0", "\u2003", "\u2028", "\u3000", "\u200b", "\u200d",
             "\u0301", "\ufe0f", "\ufeff", "\x00", "\x7f", "_", "-", ".", "...", "$", "+", "“", "—", "🍰", "\ue000", "\ufffd"]  # fmt: skip
    pairs = [f"x{one}{two}{one} {two}y" for one in kinds for two in kinds]
    blocks = (range(0, 0x3000), range(0xA640, 0xA700), range(0xFB00, 0xFFFE), range(0x1F300, 0x1F700))
    singles = [f"a{chr(code)}{chr(code)} {chr(code)}1" for block in blocks for code in block]
    words = ["How would I've DON'T 12345 it?", "def f(x):\n    return x ** 2  # ok\n\n\n", "https://a.b/c?d=e&f=1"]
    return tuple(pairs + [" ".join(singles[start : start + 8]) for start in range(0, len(singles), 8)] + words)
