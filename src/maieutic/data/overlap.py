"""Overlap of two corpora: which items of a test set are also in a train set, and the train set without them.

Every count is a number of test items:

- *exact*: the same prompt string if both have one; else the same roles and texts, and no different problem;
- *near*: not exact, but a Jaccard index of at least .8 of the word 5-grams (lower case) with one train item, over
  problem and turns together;
- *problems*: the same statement and program, ignoring white space;
- *prompts*: the same first user turn about the same problem, ignoring white space, or (*near*) .8 of its 5-grams;
- *programs*: the same program with any statement.

Test items are kept in memory, at about the size of their text; train items are streamed. MinHash finds candidates for
near duplicates (it misses one in ten million pairs at .8). Candidates are then compared exactly, so no pair below .8
counts.

`find_leaks` names the leaked items of several test sets, so that the clean items can be scored.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from maieutic.core.messages import Conversation, Role, fingerprint
from maieutic.data import near_duplicates as near
from maieutic.data.corpus import problem_key, program, program_key, read_corpus
from maieutic.data.importing import ImportReport, import_files

NEAR = near.NEAR
_SLACK = 0.16
"""A pair is compared exactly if its estimate is at most this far below the limit: four standard errors."""


class Overlap(NamedTuple):
    """The overlap of two corpora, in test items."""

    exact: int
    near: int | None
    """Null if near duplicates were not counted."""
    problems: int
    train: int
    test: int
    leaked: tuple[str, ...]
    """Ids of the test items that are exact or near, or share a problem."""
    prompts: int = 0
    near_prompts: int | None = None
    programs: int = 0

    @property
    def clean(self) -> bool:
        """Whether no item is exact, near, or shares a problem."""
        return not (self.exact or self.near or self.problems)

    def json(self) -> dict[str, Any]:
        """`counts`, and `{"leaked": [ids]}`."""
        return {**self.counts(), "leaked": list(self.leaked)}

    def counts(self) -> dict[str, Any]:
        """`{"overlap": {"exact", "near", "problems"}, "prompts": {"exact", "near"}, "programs", "train", "test"}`."""
        return {
            "overlap": {"exact": self.exact, "near": self.near, "problems": self.problems},
            "prompts": {"exact": self.prompts, "near": self.near_prompts},
            "programs": self.programs,
            "train": self.train,
            "test": self.test,
        }


class Checked(NamedTuple):
    """An overlap, and the reports of reading both files."""

    overlap: Overlap
    train: ImportReport
    test: ImportReport


def check(
    train: Path | str, test: Path | str, *, strict: bool = False, least: float | None = NEAR
) -> Checked:
    """Compare two files in any importable form; the arguments are those of `overlap`.

    Raises:
        MissingInput, EmptyCorpus: a file cannot be read, or has no conversation.
        MissingExtra: near duplicates are counted, and rensa is not installed.
    """
    train_rows, train_report = import_files([train], strict=strict)
    test_rows, test_report = import_files([test], strict=strict)
    return Checked(overlap(train_rows, test_rows, least), train_report, test_report)


def overlap(
    train: Iterable[Conversation], test: Iterable[Conversation], least: float | None = NEAR
) -> Overlap:
    """Measure how much of `test` is in `train`.

    Args:
        train: any number of conversations, streaming.
        test: conversations that should be unseen; they are kept in memory.
        least: minimum Jaccard index of the word 5-grams of near duplicates, .8 or more; null: do not count near
            duplicates.

    Raises:
        MissingExtra: near duplicates are counted, and rensa is not installed.
    """
    index = LeakIndex(least)
    for conversation in test:
        index.add(Item.of(conversation, least is not None))
    for conversation in train:
        index.compare(Item.of(conversation, least is not None))
    return index.overlap()


class Item(NamedTuple):
    """The parts of a conversation that are compared."""

    id: str
    prompt: str | None
    turns: str
    problem: str | None
    program: str | None
    opening: str | None
    """A hash of the first user turn and the problem."""
    grams: NDArray[np.uint32] | None
    opening_grams: NDArray[np.uint32] | None

    @classmethod
    def of(cls, conversation: Conversation, with_grams: bool = True) -> Item:
        """The item of a conversation; it has n-grams if near duplicates are counted."""
        prompt = conversation.meta.get("prompt")
        problem = problem_key(conversation.problem)
        first = next(iter(conversation.turns(Role.USER)), None)
        return cls(
            conversation.id,
            fingerprint(prompt) if isinstance(prompt, str) else None,
            fingerprint([message.key() for message in conversation.messages]),
            problem,
            program_key(conversation.problem),
            None if first is None else fingerprint([problem, " ".join(first.split())]),
            grams(conversation) if with_grams else None,
            _grams([*_material(conversation, with_attempt=False), first]) if with_grams and first else None,
        )

    def equals(self, other: Item) -> bool:
        """Whether two items are exactly the same."""
        if self.prompt and other.prompt:
            return self.prompt == other.prompt
        agree = self.problem == other.problem or not (self.problem and other.problem)
        return self.turns == other.turns and agree


def grams(conversation: Conversation) -> NDArray[np.uint32]:
    """The word 5-grams of problem and turns, hashed and sorted; a shorter text is one gram."""
    return _grams([*_material(conversation), *(turn.content for turn in conversation.messages)])


def _material(conversation: Conversation, with_attempt: bool = True) -> list[str]:
    problem = conversation.problem
    if problem is None:
        return []
    return [problem.statement, (problem.attempt if with_attempt else program(problem)) or ""]


def _grams(texts: Iterable[str]) -> NDArray[np.uint32]:
    # Half of each hash is enough to distinguish the grams of two texts, and takes half the memory.
    return near.distinct((near.grams("\n".join(texts)) >> np.uint64(32)).astype(np.uint32))


class LeakIndex:
    """The test items, and which of them were found in train items.

    Raises:
        MissingExtra: near duplicates are counted, and rensa is not installed.
    """

    def __init__(self, least: float | None = NEAR) -> None:
        self.items: list[Item] = []
        self.compared = 0
        self.exact: set[int] = set()
        self.problems: set[int] = set()
        self.programs: set[int] = set()
        self.prompts: set[int] = set()
        self._whole = _Near(least) if least is not None else None
        self._openings = _Near(least) if least is not None else None
        self._by_text: defaultdict[str, list[int]] = defaultdict(list)
        self._by: dict[str, defaultdict[str, list[int]]] = {
            name: defaultdict(list) for name in ("problem", "program", "opening")
        }

    def add(self, item: Item) -> None:
        """Add a test item."""
        place = len(self.items)
        if self._whole and self._openings:
            self._whole.add(place, item.grams)
            self._openings.add(place, item.opening_grams)
        self.items.append(item._replace(grams=None, opening_grams=None))
        for text in {item.turns, item.prompt} - {None}:
            self._by_text[str(text)].append(place)
        for name, places in self._by.items():
            if key := getattr(item, name):
                places[key].append(place)

    def compare(self, item: Item) -> None:
        """Compare a train item with every test item, and note the test items that it contains."""
        self.compared += 1
        for text in (item.prompt, item.turns):
            for place in self._by_text.get(text, ()) if text else ():
                if item.equals(self.items[place]):
                    self.exact.add(place)
        for name, found in (
            ("problem", self.problems),
            ("program", self.programs),
            ("opening", self.prompts),
        ):
            if key := getattr(item, name):
                found.update(self._by[name].pop(key, ()))
        if self._whole and self._openings:
            self._whole.look(item.grams)
            self._openings.look(item.opening_grams)

    def leaked_places(self) -> dict[int, tuple[str, ...]]:
        """The indices of the leaked test items, each with its kinds of leak: exact, near, problem, program."""
        near_ones = self._whole.found if self._whole else set()
        kinds = {"exact": self.exact, "near": near_ones, "problem": self.problems, "program": self.programs}
        return {
            place: tuple(name for name, places in kinds.items() if place in places)
            for place in sorted(set().union(*kinds.values()))
        }

    def overlap(self) -> Overlap:
        """The counts so far."""
        near_only = self._whole.found - self.exact if self._whole else None
        near_prompts = self._openings.found - self.prompts if self._openings else None
        leaked = sorted(self.exact | (near_only or set()) | self.problems)
        return Overlap(
            len(self.exact),
            None if near_only is None else len(near_only),
            len(self.problems),
            self.compared,
            len(self.items),
            tuple(self.items[place].id for place in leaked),
            len(self.prompts),
            None if near_prompts is None else len(near_prompts),
            len(self.programs),
        )


class _Near:
    """Sets of grams by index, and which of them were near another set; equal sets are stored once."""

    def __init__(self, least: float) -> None:
        self.least = least
        self._index = near.NearIndex(bands=32, rows=4)
        self._grams: list[NDArray[np.uint32]] = []
        self._places: list[list[int]] = []
        self._numbers: dict[bytes, int] = {}
        self._found: set[int] = set()

    def add(self, place: int, grams: NDArray[np.uint32] | None) -> None:
        if grams is None:
            return
        number = self._numbers.setdefault(hashlib.sha256(grams.tobytes()).digest(), len(self._grams))
        if number == len(self._grams):
            self._grams.append(grams)
            self._places.append([])
            self._index.add(self._index.sketch(grams))
        self._places[number].append(place)

    def look(self, grams: NDArray[np.uint32] | None) -> None:
        if grams is None:
            return
        for number in self._index.close(self._index.sketch(grams), self.least - _SLACK, self._found):
            if near.jaccard(grams, self._grams[number]) >= self.least - 1e-9:
                self._found.add(number)

    @property
    def found(self) -> set[int]:
        return {place for number in self._found for place in self._places[number]}


class Leaks(NamedTuple):
    """The test items that a train set contains."""

    kept: list[Conversation]
    """The train set without the dropped conversations."""
    dropped: int
    tests: dict[str, dict[str, Any]]
    """By test set: `{"overlap", "prompts", "programs", "train", "test", "leaked", "ids", "before"?}`. `leaked` counts
    the test items with any leak, `ids` is `{id: [kind of leak]}`, `before` has the counts for the whole train set,
    without `ids`."""

    def json(self) -> dict[str, Any]:
        """`{"train", "dropped", "tests"}`: the content of `leaks.json`."""
        return {"train": len(self.kept), "dropped": self.dropped, "tests": self.tests}


def find_leaks(train: Sequence[Conversation], tests: Mapping[str, Path | str], *, drop: bool) -> Leaks:
    """Find the items of each test set in a train set, and with `drop` remove the conversations that contain them.

    Args:
        train: the train set.
        tests: corpora that should be unseen, by name. All sets are kept in memory.
        drop: remove train items that are equal or near to a test item, or share its problem or program.

    Raises:
        MissingExtra: rensa, which finds near duplicates, is not installed.
    """
    items = [Item.of(conversation) for conversation in train]
    test_items = {name: [Item.of(one) for one in read_corpus(path)] for name, path in tests.items()}
    gone: set[int] = set()
    if drop:
        for others in test_items.values():
            gone |= shared(items, others).keys()
    kept = [place for place in range(len(items)) if place not in gone]
    found = {name: _found([items[place] for place in kept], others) for name, others in test_items.items()}
    if drop:
        for name, others in test_items.items():
            found[name]["before"] = _counts(_found(items, others))
    return Leaks([train[place] for place in kept], len(gone), found)


def without_ids(tests: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The counts by test set, without the ids of the items."""
    return {name: _counts(found) for name, found in tests.items()}


def shared(items: Sequence[Item], others: Sequence[Item]) -> dict[int, tuple[str, ...]]:
    """The indices of the items that are also in `others`, each with its kinds of leak."""
    return _compared(items, others).leaked_places()


def _compared(items: Sequence[Item], others: Sequence[Item]) -> LeakIndex:
    index = LeakIndex()
    for item in items:
        index.add(item)
    for other in others:
        index.compare(other)
    return index


def _found(train: Sequence[Item], test: Sequence[Item]) -> dict[str, Any]:
    index = _compared(test, train)
    places = index.leaked_places()
    ids: dict[str, list[str]] = {}
    for place, how in places.items():
        ids[test[place].id] = sorted({*ids.get(test[place].id, ()), *how})
    return {**index.overlap().counts(), "leaked": len(places), "ids": ids}


def _counts(found: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key != "ids"}
