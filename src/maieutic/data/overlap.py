"""What of one corpus already stands in another: how much of a test set has leaked into train.

Counted in test items, three ways:

- *exact*: the same prompt string to the byte, where both are seed strings; else the same roles and texts (and no
  different problem);
- *near*: not exact, but at least .8 of the word 5-grams (lower case) are shared with one train item, material and all
  turns together, as a Jaccard index;
- *problems*: the same statement and program, up to white space. Items without a problem have none to share.

The near search is exact, not sampled: only test items are indexed, by their rarest 5-grams (two sets that share 80 %
must share one of those), and train streams past.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from maieutic.data.formats import ImportReport, import_files
from maieutic.data.split import problem_key
from maieutic.types import Conversation, fingerprint

NEAR = 0.8
GRAM = 5
_WORD = re.compile(r"\w+")


class Overlap(NamedTuple):
    """Leakage between two corpora, in test items."""

    exact: int
    near: int
    problems: int
    train: int
    test: int
    leaked: tuple[str, ...]
    """Ids of the test items with any overlap."""

    @property
    def clean(self) -> bool:
        """Whether nothing overlaps."""
        return not (self.exact or self.near or self.problems)

    def json(self) -> dict[str, Any]:
        """`{"overlap": {"exact", "near", "problems"}, "train", "test", "leaked": [ids]}`."""
        counts = {"exact": self.exact, "near": self.near, "problems": self.problems}
        return {"overlap": counts, "train": self.train, "test": self.test, "leaked": list(self.leaked)}


class Checked(NamedTuple):
    """An overlap and what could not be read of either file."""

    overlap: Overlap
    train: ImportReport
    test: ImportReport


def check(train: Path | str, test: Path | str, *, strict: bool = False) -> Checked:
    """Compare two files in any importable form.

    Raises:
        MissingInput, EmptyCorpus: one of them cannot be read, or holds nothing.
    """
    train_rows, train_report = import_files([train], strict=strict)
    test_rows, test_report = import_files([test], strict=strict)
    return Checked(overlap(train_rows, test_rows), train_report, test_report)


def overlap(train: Iterable[Conversation], test: Iterable[Conversation], near: float = NEAR) -> Overlap:
    """Measure what of `test` stands in `train`; `test` is held in memory, `train` streams.

    Args:
        train: any number of conversations.
        test: the ones that should be unseen.
        near: Jaccard index of word 5-grams from which two items are near duplicates.
    """
    index = _Index([_Item.of(conversation) for conversation in test], near)
    count = 0
    for count, conversation in enumerate(train, 1):  # noqa: B007
        index.pass_by(_Item.of(conversation))
    near_only = index.near - index.exact
    found = sorted(index.exact | near_only | index.problems)
    ids = tuple(index.items[place].id for place in found)
    return Overlap(len(index.exact), len(near_only), len(index.problems), count, len(index.items), ids)


class _Item(NamedTuple):
    id: str
    prompt: str | None
    turns: str
    problem: str | None
    grams: frozenset[int]

    @classmethod
    def of(cls, conversation: Conversation) -> _Item:
        prompt = conversation.meta.get("prompt")
        return cls(
            conversation.id,
            fingerprint(prompt) if isinstance(prompt, str) else None,
            fingerprint([[turn.role.value, turn.content] for turn in conversation.messages]),
            problem_key(conversation.problem),
            grams(conversation),
        )

    def equals(self, other: _Item) -> bool:
        if self.prompt and other.prompt:
            return self.prompt == other.prompt
        agree = self.problem == other.problem or not (self.problem and other.problem)
        return self.turns == other.turns and agree


def grams(conversation: Conversation) -> frozenset[int]:
    """The word 5-grams of the material and all turns, hashed; a shorter text is one gram, whatever its length."""
    problem = conversation.problem
    material = (problem.statement, problem.attempt or "") if problem else ()
    text = "\n".join((*material, *(turn.content for turn in conversation.messages))).casefold()
    words = _WORD.findall(text) or text.split()
    if len(words) < GRAM:
        return frozenset((hash(tuple(words)),))
    return frozenset(map(hash, zip(*(words[start:] for start in range(GRAM)), strict=False)))


class _Index:
    def __init__(self, items: list[_Item], near: float) -> None:
        self.items, self.threshold = items, near
        self.exact: set[int] = set()
        self.near: set[int] = set()
        self.problems: set[int] = set()
        self._by_text: defaultdict[str, list[int]] = defaultdict(list)
        self._by_problem: defaultdict[str, list[int]] = defaultdict(list)
        self._by_gram: defaultdict[int, list[int]] = defaultdict(list)
        self._frequency = Counter(gram for item in items for gram in item.grams)
        for place, item in enumerate(items):
            for text in {item.turns, item.prompt} - {None}:
                self._by_text[str(text)].append(place)
            if item.problem:
                self._by_problem[item.problem].append(place)
            for gram in self._rarest(item.grams, len(item.grams)):
                self._by_gram[gram].append(place)

    def _rarest(self, known: Iterable[int], size: int) -> list[int]:
        """The grams one of which a set must share with any set similar enough; the unknown ones come first."""
        ordered = sorted(known, key=lambda gram: (self._frequency[gram], gram))
        unknown = size - len(ordered)
        return ordered[: max(0, size - math.ceil(self.threshold * size - 1e-9) + 1 - unknown)]

    def pass_by(self, item: _Item) -> None:
        """Note every test item that this train item gives away."""
        for text in (item.prompt, item.turns):
            for place in self._by_text.get(text, ()) if text else ():
                if item.equals(self.items[place]):
                    self.exact.add(place)
        if item.problem:
            self.problems.update(self._by_problem.pop(item.problem, ()))
        known = [gram for gram in item.grams if gram in self._frequency]
        if len(known) >= self.threshold * len(item.grams) - 1e-9:
            self._look_near(item, known)

    def _look_near(self, item: _Item, known: list[int]) -> None:
        rare = self._rarest(known, len(item.grams))
        for place in (
            {place for gram in rare for place in self._by_gram.get(gram, ())} - self.near - self.exact
        ):
            other = self.items[place].grams
            shared = len(item.grams & other)
            if shared >= self.threshold * (len(item.grams) + len(other) - shared) - 1e-9:
                self.near.add(place)
