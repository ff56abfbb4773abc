"""Encode many texts at once, with a faster encoder if it gives the same ids as the tokenizer.

gigatoken encodes byte-level BPE tens of times faster than `tokenizers`. It is used if it is installed, can read the
tokenizer, and gives the same ids on test texts with all pairs of character classes, digits, spaces and contractions.
While it is used, a sample of the texts is encoded by both encoders; after the first difference it is no longer used.
The tokenizer itself encodes texts that spell an added token, and texts that a normalizer would change.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from importlib.metadata import version
from itertools import pairwise
from typing import Any

import numpy as np

from maieutic.chat_templates.encode import Encoder, Form, Ids
from maieutic.core.console import note

CHECK_EVERY = 512
"""One in this many texts is encoded by both encoders."""
CHECK_RARE = 64
"""The same for texts with characters beyond ASCII, which are harder to split."""
RENEW_AFTER = 1 << 28
"""Characters after which the faster encoder is rebuilt, since it caches every word."""
BUILD_AFTER = 1024
"""Texts after which the faster encoder is built (building takes half a second)."""
MANY = 200
"""For at least this many texts, one array for all texts is faster than a list for each text."""


class Batches:
    """Encodes lists of texts; see the module's docstring.

    Args:
        encoder: the tokenizer, whose ids are the reference.
        faster: whether a faster encoder may be used.
        check_all: encode every text by both encoders, which checks every id but saves no time.
    """

    def __init__(self, encoder: Encoder, faster: bool = True, check_all: bool = False) -> None:
        self._encoder = encoder
        self._faster = faster
        self._check_all = check_all
        self._made: dict[str, Gigatoken | None] = {}
        self._met = 0
        self.checked = 0
        """Number of texts that both encoders encoded."""
        self.disproved = False
        """Whether the faster encoder gave other ids after it had been used."""

    @property
    def name(self) -> str:
        """The encoder: `tokenizers`, or the faster encoder with its version."""
        return next((one.name for one in self._made.values() if one is not None), "tokenizers")

    def ids(self, texts: Sequence[str], starts: Sequence[str]) -> list[Ids]:
        """The ids of each text, encoded for the place where it starts."""
        self._met += len(texts)
        places = {start: self._encoder.variants.place(start) for start in set(starts)}
        added = self._with_added(texts)
        found: list[Ids] = [_NONE] * len(texts)
        for place in set(places.values()):
            mine = [
                index
                for index, (start, text) in enumerate(zip(starts, texts, strict=True))
                if text and places[start] == place and index not in added
            ]
            made = self._of_place([texts[index] for index in mine], place)
            for index, ids in zip(mine, made, strict=True):
                found[index] = ids
        for index in added | self._forged(found):
            found[index] = np.asarray(self._encoder.text_ids(texts[index], starts[index]), np.int32)
        return found

    def _with_added(self, texts: Sequence[str]) -> set[int]:
        """The texts that spell an added token. Usually one search in all texts together finds none."""
        if not self._encoder.spells_added("\n".join(texts)):
            return set()
        return {index for index, text in enumerate(texts) if self._encoder.spells_added(text)}

    def _forged(self, found: list[Ids]) -> set[int]:
        """The texts in which a normalizer created a control token."""
        forbidden = np.fromiter(self._encoder.forbidden, np.int32)
        if not np.isin(np.concatenate([_NONE, *found]), forbidden).any():
            return set()
        return {index for index, ids in enumerate(found) if np.isin(ids, forbidden).any()}

    def _of_place(self, texts: list[str], place: str) -> list[Ids]:
        quick = self._quick(place) if texts else None
        if quick is None:
            return self._own(texts, place)
        plain = [text for text in texts if quick.takes(text)]
        made = quick.ids(plain)
        if not self._agree(quick, plain, made, place):
            note(f"{quick.name} differs from the tokenizer on a text; it is no longer used")
            self._made[place] = None
            self.disproved = True
            return self._own(texts, place)
        if len(plain) == len(texts):
            return made
        others = iter(self._own([text for text in texts if not quick.takes(text)], place))
        mine = iter(made)
        return [next(mine) if quick.takes(text) else next(others) for text in texts]

    def _own(self, texts: list[str], place: str) -> list[Ids]:
        encoded = self._encoder.variants.full(place).encode_batch_fast(texts, add_special_tokens=False)
        return [np.asarray(one.ids, np.int32) for one in encoded]

    def _agree(self, quick: Gigatoken, texts: list[str], made: list[Ids], place: str) -> bool:
        sample = range(len(texts)) if self._check_all else quick.sample(texts)
        self.checked += len(sample)
        own = self._own([texts[index] for index in sample], place)
        return all(np.array_equal(made[index], ids) for index, ids in zip(sample, own, strict=True))

    def _quick(self, place: str) -> Gigatoken | None:
        if not self._faster or (place not in self._made and self._met < BUILD_AFTER):
            return None
        held = self._made.get(place)
        if place not in self._made or (held is not None and held.characters > RENEW_AFTER):
            self._made[place] = Gigatoken.build(self._encoder, place)
        return self._made[place]

    def build(self) -> None:
        """Build the faster encoder now."""
        self._met += BUILD_AFTER
        for start in ("after", "inside"):
            self._quick(self._encoder.variants.place(start))


class Gigatoken:
    """The faster encoder for one place, without added tokens and without Unicode normalization."""

    def __init__(self, inner: Any, form: Form | None) -> None:
        self._inner = inner
        self._form = form
        self._plain = self._rare = 0
        self.name = f"gigatoken {version('gigatoken')}"
        self.characters = 0

    @classmethod
    def build(cls, encoder: Encoder, place: str) -> Gigatoken | None:
        """The encoder; null if it is not installed, cannot read the tokenizer, or differs on a test text."""
        try:
            gigatoken = import_module("gigatoken")
            import_module("awkward")  # gigatoken returns the ids of many texts as its arrays
        except ImportError:
            return None
        shape, form = encoder.variants.bare_json(place)
        own = encoder.variants.full(place)
        try:
            made = cls(gigatoken.Tokenizer.from_json(shape), form)
            probes = [text for text in _probes() if made.takes(text) and not encoder.spells_added(text)]
            ids = made.ids(probes)
        except Exception:  # gigatoken refuses tokenizers with several kinds of errors
            return None
        expected = own.encode_batch_fast(probes, add_special_tokens=False)
        same = all(one.ids == mine.tolist() for one, mine in zip(expected, ids, strict=True))
        return made if same and len(probes) > len(_probes()) / 2 else None

    def takes(self, text: str) -> bool:
        """Whether the tokenizer's normalizer would not change the text."""
        return self._form is None or text.isascii() or unicodedata.is_normalized(self._form, text)

    def ids(self, texts: list[str]) -> list[Ids]:
        """The ids of each text."""
        if len(texts) < MANY:
            return [np.asarray(ids, np.int32) for ids in self._inner.encode_batch_list(texts, parallel=False)]
        layout = self._inner.encode_batch(texts, parallel=False).layout
        flat = np.asarray(layout.content.data, np.int32)
        return [flat[start:end] for start, end in pairwise(layout.offsets.data.tolist())]

    def sample(self, texts: list[str]) -> list[int]:
        """The indices of the texts to check."""
        chosen: list[int] = []
        for index, text in enumerate(texts):
            self.characters += len(text)
            if text.isascii():
                due, self._plain = self._plain % CHECK_EVERY == 0, self._plain + 1
            else:
                due, self._rare = self._rare % CHECK_RARE == 0, self._rare + 1
            if due:
                chosen.append(index)
        return chosen


_NONE: Ids = np.empty(0, np.int32)


@cache
def _probes() -> tuple[str, ...]:
    """Test texts that show differences in splitting: all pairs of character classes, and single characters."""
    kinds = [
        *"aZéßſK中か한s1٣²½Ⅷ'’_-.$+“—🍰",
        "'s",
        "'LL",
        "...",
        *" \t\n\r\x00\x0b\x1c\x7f\x85\u00a0\u2003\u2028\u3000",
    ]
    kinds += ["  ", "\r\n", "\n\n", *"\u200b\u200d\u0301\ufe0f\ufeff\ue000\ufffd"]
    pairs = [f"x{one}{two}{one} {two}y" for one in kinds for two in kinds]
    blocks = (range(0x3000), range(0xA640, 0xA700), range(0xFB00, 0xFFFE), range(0x1F300, 0x1F700))
    codes = [code for block in blocks for code in block]
    singles = [
        " ".join(f"a{chr(code)}{chr(code)} {chr(code)}1" for code in codes[start : start + 8])
        for start in range(0, len(codes), 8)
    ]
    words = [
        "How would I've DON'T 12345 it?",
        "def f(x):\n    return x ** 2  # ok\n\n\n",
        "https://a.b/c?d=e&f=1",
    ]
    return tuple(pairs + singles + words)
