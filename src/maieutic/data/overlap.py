"""What of one corpus already stands in another: how much of a test set has leaked into train.

Counted in test items:

- *exact*: the same prompt string to the byte, where both are seed strings; else the same roles and texts (and no
  different problem);
- *near*: not exact, but at least .8 of the word 5-grams (lower case) are shared with one train item, material and all
  turns together, as a Jaccard index;
- *problems*: the same statement and program, up to white space. Items without a problem have none to share;
- *prompts*: the same first user turn about the same problem, up to white space, or (*near*) .8 of its 5-grams shared;
- *programs*: the same program, whatever the statement says.

Test items are held in memory, at about the size of their text; train streams past, in time linear in its size. Near
ones are found by MinHash (a pair at .8 is missed once in ten million) and then compared in full, so no pair below .8
counts.


What a train list gives away of several test lists, item by item; and on request the train list without it.

Numbers alone do not help whoever wants to score the clean items: here stands which test items are given away, and how
(`exact`, `near`, `problem`, `program`; see `overlap`). Both lists are held in memory, at about the size of their text.
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
"""How far an estimate may lie below the truth before a pair is not looked at: four standard errors."""


class Overlap(NamedTuple):
    """Leakage between two corpora, in test items."""

    exact: int
    near: int | None
    """Null where it was not looked for."""
    problems: int
    train: int
    test: int
    leaked: tuple[str, ...]
    """Ids of the test items that are exact, near or share a problem."""
    prompts: int = 0
    near_prompts: int | None = None
    programs: int = 0

    @property
    def clean(self) -> bool:
        """Whether there is nothing exact, nothing near and no problem in common."""
        return not (self.exact or self.near or self.problems)

    def json(self) -> dict[str, Any]:
        """What `counts` says, and `{"leaked": [ids]}`."""
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
    """An overlap and what could not be read of either file."""

    overlap: Overlap
    train: ImportReport
    test: ImportReport


def check(
    train: Path | str, test: Path | str, *, strict: bool = False, least: float | None = NEAR
) -> Checked:
    """Compare two files in any importable form; the arguments are those of `overlap`.

    Raises:
        MissingInput, EmptyCorpus: one of them cannot be read, or holds nothing.
        MissingExtra: near ones are looked for, and rensa is not installed.
    """
    train_rows, train_report = import_files([train], strict=strict)
    test_rows, test_report = import_files([test], strict=strict)
    return Checked(overlap(train_rows, test_rows, least), train_report, test_report)


def overlap(
    train: Iterable[Conversation], test: Iterable[Conversation], least: float | None = NEAR
) -> Overlap:
    """Measure what of `test` stands in `train`.

    Args:
        train: any number of conversations; they stream.
        test: the ones that should be unseen; they are held in memory.
        least: Jaccard index of word 5-grams from which two items are near duplicates, .8 or more; null looks for none.

    Raises:
        MissingExtra: near ones are looked for, and rensa is not installed.
    """
    held = Held(least)
    for conversation in test:
        held.hold(Item.of(conversation, least is not None))
    for conversation in train:
        held.pass_by(Item.of(conversation, least is not None))
    return held.overlap()


class Item(NamedTuple):
    """What of a conversation is compared."""

    id: str
    prompt: str | None
    turns: str
    problem: str | None
    program: str | None
    opening: str | None
    """Of the first user turn and the problem."""
    grams: NDArray[np.uint32] | None
    opening_grams: NDArray[np.uint32] | None

    @classmethod
    def of(cls, conversation: Conversation, with_grams: bool = True) -> Item:
        """A conversation, boiled down; the grams only where near ones are looked for."""
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
    """The word 5-grams of the material and all turns, hashed and sorted; a shorter text is one gram."""
    return _grams([*_material(conversation), *(turn.content for turn in conversation.messages)])


def _material(conversation: Conversation, with_attempt: bool = True) -> list[str]:
    problem = conversation.problem
    if problem is None:
        return []
    return [problem.statement, (problem.attempt if with_attempt else program(problem)) or ""]


def _grams(texts: Iterable[str]) -> NDArray[np.uint32]:
    # Half of each hash is enough between two texts, and half the memory.
    return near.distinct((near.grams("\n".join(texts)) >> np.uint64(32)).astype(np.uint32))


class Held:
    """Test items, and which of them the train items that passed by give away.

    Raises:
        MissingExtra: near ones are looked for, and rensa is not installed.
    """

    def __init__(self, least: float | None = NEAR) -> None:
        self.items: list[Item] = []
        self.passed = 0
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

    def hold(self, item: Item) -> None:
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

    def pass_by(self, item: Item) -> None:
        """Note every test item that this train item gives away."""
        self.passed += 1
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

    def given_away(self) -> dict[int, tuple[str, ...]]:
        """The places of test items that were given away so far, in order, and how."""
        near_ones = self._whole.found if self._whole else set()
        kinds = {"exact": self.exact, "near": near_ones, "problem": self.problems, "program": self.programs}
        return {
            place: tuple(name for name, places in kinds.items() if place in places)
            for place in sorted(set().union(*kinds.values()))
        }

    def overlap(self) -> Overlap:
        """What was given away so far."""
        near_only = self._whole.found - self.exact if self._whole else None
        near_prompts = self._openings.found - self.prompts if self._openings else None
        leaked = sorted(self.exact | (near_only or set()) | self.problems)
        return Overlap(
            len(self.exact),
            None if near_only is None else len(near_only),
            len(self.problems),
            self.passed,
            len(self.items),
            tuple(self.items[place].id for place in leaked),
            len(self.prompts),
            None if near_prompts is None else len(near_prompts),
            len(self.programs),
        )


class _Near:
    """Sets of grams by place, and those of them that were found near another; equal sets are held once."""

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
    """The train set, without what was dropped."""
    dropped: int
    tests: dict[str, dict[str, Any]]
    """By test set: `{"overlap", "prompts", "programs", "train", "test", "leaked", "ids", "before"?}`. `leaked` counts
    the test items with any leak, `ids` is `{id: [how]}`, `before` holds the counts without `ids` for the whole train
    set."""

    def json(self) -> dict[str, Any]:
        """`{"train", "dropped", "tests"}`: the content of `leaks.json`."""
        return {"train": len(self.kept), "dropped": self.dropped, "tests": self.tests}


def find_leaks(train: Sequence[Conversation], tests: Mapping[str, Path | str], *, drop: bool) -> Leaks:
    """Find the items of each test set in a train set, and on request drop the conversations that contain them.

    Args:
        train: the train set.
        tests: corpora that should be unseen, by name. All sets are held in memory.
        drop: leave out of the train set what is equal or near to a test item, or shares its problem or program.

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
    """The places of those items that the others give away, and how."""
    return _held(items, others).given_away()


def _held(items: Sequence[Item], others: Sequence[Item]) -> Held:
    held = Held()
    for item in items:
        held.hold(item)
    for other in others:
        held.pass_by(other)
    return held


def _found(train: Sequence[Item], test: Sequence[Item]) -> dict[str, Any]:
    held = _held(test, train)
    places = held.given_away()
    ids: dict[str, list[str]] = {}
    for place, how in places.items():
        ids[test[place].id] = sorted({*ids.get(test[place].id, ()), *how})
    return {**held.overlap().counts(), "leaked": len(places), "ids": ids}


def _counts(found: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key != "ids"}
