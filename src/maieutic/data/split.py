"""Splits of a corpus: train, validation and test, or k folds.

- A hash of a conversation's group (its problem, its user or its content) decides its part, so the part does not change
  when the corpus grows. There is one exception: a conversation with the same content as an earlier conversation goes to
  the part of the earlier conversation.
- Folds are disjoint and of about equal size. A seeded order of the groups decides the folds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from maieutic.core.errors import InputError
from maieutic.core.json_rows import BadRows
from maieutic.core.messages import Conversation, fingerprint
from maieutic.data.corpus import identity, line, problem_key, read_corpus, refuse_source, replacing_all
from maieutic.data.importing import ImportReport, read_sources
from maieutic.data.overlap import NEAR, Item, LeakIndex, Overlap
from maieutic.data.steps import Import, Split

PARTS = ("train", "validation", "test")


class By(StrEnum):
    """What must stay in one part."""

    CONVERSATION = "conversation"
    PROBLEM = "problem"
    USER = "user"


@dataclass
class SplitReport:
    """Counts, complete once the split conversations are consumed."""

    by: By
    counts: Counter[str] = field(default_factory=Counter)
    groups: Counter[str] = field(default_factory=Counter)
    alone: int = 0
    """Conversations without a user or a problem; each is grouped by its content."""
    moved: int = 0
    """Conversations that went to the part of an equal conversation instead of their group's part."""
    leakage: dict[str, Overlap] = field(default_factory=dict)
    """The overlap by `test in train`, `validation in train` and `test in validation`."""
    bad: BadRows = field(default_factory=BadRows)
    empty: list[str] = field(default_factory=list)
    """Parts without a conversation, although their share is not zero."""
    imported: dict[str, ImportReport] = field(default_factory=dict)
    """Counts of files that had to be imported, by file name."""

    def json(self) -> dict[str, Any]:
        """`{"by", "counts", "groups", "alone", "moved", "leakage", "empty", "files", "bad"}`: by part, pair or file."""
        return {
            "by": self.by.value,
            "counts": {part: self.counts[part] for part in PARTS},
            "groups": {part: self.groups[part] for part in PARTS},
            "alone": self.alone,
            "moved": self.moved,
            "leakage": {pair: found.counts() for pair, found in self.leakage.items()},
            "empty": self.empty,
            "files": {name: found.json() for name, found in self.imported.items()},
            "bad": self.bad.json(),
        }


class Placed(NamedTuple):
    """A conversation and its part."""

    part: str
    conversation: Conversation


def split(
    conversations: Iterable[Conversation],
    by: str = "conversation",
    parts: tuple[float, float, float] = (0.8, 0.1, 0.1),
    *,
    seed: int = 0,
    report: SplitReport | None = None,
) -> Iterator[Placed]:
    """Yield each conversation with its part, streaming and in order.

    Args:
        conversations: any number of conversations.
        by: `conversation` (paths of one message tree stay together, and so do parts of a cut conversation),
            `problem` (same statement and program) or `user`. A conversation without a problem or a user is grouped by
            its content.
        parts: shares of train, validation and test, with the sum 1. They are shares of the groups, so the shares of
            the conversations differ a little.
        seed: another seed gives another split.
        report: filled while the conversations are consumed.

    Raises:
        InputError: unknown `by`, or invalid `parts`.
    """
    kind, bounds = _by(by), check_parts(parts)
    return _placed(conversations, kind, bounds, seed, report or SplitReport(kind))


def _placed(
    conversations: Iterable[Conversation], by: By, bounds: tuple[float, float], seed: int, report: SplitReport
) -> Iterator[Placed]:
    part_of_content: dict[bytes, str] = {}
    groups: set[bytes] = set()
    for conversation in conversations:
        content = identity(conversation)
        key = group(conversation, by)
        report.alone += key is None and by != By.CONVERSATION
        hashed = bytes.fromhex(fingerprint([seed, by.value, key or _own_key(conversation, content)]))
        at = int.from_bytes(hashed[:8]) / 2**64
        own = PARTS[0] if at < bounds[0] else PARTS[1] if at < bounds[1] else PARTS[2]
        part = part_of_content.setdefault(bytes.fromhex(content), own)
        if part == own and hashed not in groups:
            groups.add(hashed)
            report.groups[part] += 1
        report.moved += part != own
        report.counts[part] += 1
        yield Placed(part, conversation)


def _by(by: str) -> By:
    try:
        return By(by)
    except ValueError:
        raise InputError(f"no split by {by!r}", f"Known: {', '.join(By)}.") from None


def check_parts(parts: tuple[float, float, float]) -> tuple[float, float]:
    """The points between 0 and 1 at which validation and test begin.

    Raises:
        InputError: the parts are not three shares with the sum 1.
    """
    if len(parts) != 3 or min(parts) < 0 or not abs(sum(parts) - 1) <= 1e-6:
        raise InputError("the parts are not three shares with the sum 1", "Give for example 0.8,0.1,0.1.")
    train, validation, test = parts
    # An empty part must stay empty even if the sum of the shares is rounded to less than 1.
    return train if validation + test else 1.0, train + validation if test else 1.0


def group(conversation: Conversation, by: By) -> str | None:
    """The key of a conversation's group, or None if it has no problem or user."""
    if by == By.USER:
        return conversation.user_id
    return problem_key(conversation.problem) if by == By.PROBLEM else None


def _own_key(conversation: Conversation, content: str) -> list[str]:
    for name in ("tree", "part_of"):
        if isinstance(whole := conversation.meta.get(name), str):
            return [name, whole]
    return ["content", content]


def split_file(step: Split, out: Path) -> SplitReport:
    """Split a corpus into `train.jsonl`, `validation.jsonl`, `test.jsonl` and `split.json` in the folder `out`.

    With a separate test set the whole corpus is the train part. A second pass over the files measures the overlap of
    the parts; near duplicates count only if rensa is installed.

    Raises:
        StoreError: a file exists with other content, or is an input; then no file is written.
    """
    report = SplitReport(By(step.by), bad=BadRows(step.strict))
    sources = [path for path in (step.corpus, step.test) if path is not None]
    paths = [*(out / f"{part}.jsonl" for part in PARTS), out / "split.json"]
    for path in paths:
        refuse_source(path, sources)
    with replacing_all(paths, overwrite=step.force) as writers:
        write = dict(zip(PARTS, writers, strict=False))
        for part, conversation in _split_sources(step, report):
            write[part](line(conversation.row()))
        shares = (1.0, 0.0, 1.0) if step.test else step.parts
        report.empty = [
            part for part, share in zip(PARTS, shares, strict=True) if share and not report.counts[part]
        ]
        if not any(source.is_fifo() for source in sources):
            report.leakage = measure_leakage(
                lambda: _split_sources(step, SplitReport(By(step.by))),
                step.near and find_spec("rensa") is not None,
            )
        method = {
            "method": "separate test set" if step.test else "hash of the group",
            "source": str(step.corpus),
            "parts": list(step.parts),
            "seed": step.seed,
        }
        writers[-1](orjson.dumps({**method, **report.json()}, option=orjson.OPT_INDENT_2) + b"\n")
    return report


def _split_sources(step: Split, report: SplitReport) -> Iterator[Placed]:
    """The conversations of the corpus, and of a separate test set, with their parts."""
    rows = _read(step, step.corpus, report)
    if step.test is None:
        yield from split(rows, step.by, step.parts, seed=step.seed, report=report)
        return
    for part, conversations in ((PARTS[0], rows), (PARTS[2], _read(step, step.test, report))):
        groups: set[str] = set()
        for conversation in conversations:
            report.counts[part] += 1
            groups.add(group(conversation, report.by) or identity(conversation))
            yield Placed(part, conversation)
        report.groups[part] = len(groups)


def _read(step: Split, path: Path | None, report: SplitReport) -> Iterator[Conversation]:
    assert path is not None
    rows: Iterable[Conversation]
    if step.format is None:
        rows = read_corpus(path, on_bad=report.bad)
    else:
        rows, found = read_sources(Import(sources=[str(path)], format=step.format), report.bad)
        report.imported[path.name] = found
    for conversation in rows:
        yield conversation.model_copy(update={"source": step.source}) if step.source else conversation


def measure_leakage(placed: Callable[[], Iterable[Placed]], near: bool = True) -> dict[str, Overlap]:
    """Measure how much of each held-out part also occurs in the parts before it.

    Args:
        placed: a function that returns the conversations with their parts. It is called twice, and must return the
            same conversations. Test and validation are kept in memory.
        near: count near duplicates too.

    Returns:
        The overlap by `test in train`, `validation in train` and `test in validation`, for parts with conversations.
    """
    least = NEAR if near else None
    indexes = {(tested, seen): LeakIndex(least) for seen, tested in combinations(PARTS, 2)}
    for part, conversation in placed():
        if part != PARTS[0]:
            item = Item.of(conversation, near)
            for (tested, _), index in indexes.items():
                if tested == part:
                    index.add(item)
    for part, conversation in placed():
        if into := [index for (_, seen), index in indexes.items() if seen == part and index.items]:
            item = Item.of(conversation, near)
            for index in into:
                index.compare(item)
    return {
        f"{tested} in {seen}": index.overlap()
        for (tested, seen), index in indexes.items()
        if index.items and index.compared
    }


class Folds(NamedTuple):
    """The sizes of the folds."""

    by: str
    counts: list[int]
    """Conversations of each fold."""
    groups: list[int]
    """Number of groups (problems or users) in each fold; a conversation without a group key is its own group."""
    bad: BadRows

    def json(self) -> dict[str, Any]:
        """`{"by", "counts": [n], "groups": [n], "bad"}`."""
        return {**self._asdict(), "bad": self.bad.json()}


def fold_name(number: int) -> str:
    """The file name of a fold; the first is 1."""
    return f"fold-{number}.jsonl"


def k_fold_split(step: Split, out: Path) -> Folds:
    """Split a corpus into disjoint folds of about equal size: `fold-1.jsonl`, `fold-2.jsonl`, … in the folder `out`.

    Raises:
        InputError: there are fewer groups than folds, or a group also occurs in a corpus of `disjoint_from`.
    """
    by, count = By(step.by), step.folds or 1
    bad = BadRows(step.strict)
    groups = _groups(_read(step, step.corpus, SplitReport(by, bad=bad)), by)
    for other in step.disjoint_from:
        if shared := groups.keys() & _groups(read_corpus(other), by).keys():
            raise InputError(
                f"{len(shared)} of {len(groups)} groups of {step.corpus} (by {by}) also occur in {other}",
                "Remove them from one of the two corpora: training and test data must be disjoint.",
            )
    if len(groups) < count:
        raise InputError(
            f"{step.corpus}: {len(groups)} groups (by {by}) for {count} folds",
            "Use more data or fewer folds.",
        )
    order = sorted(groups, key=lambda key: fingerprint([step.seed, key]))
    keys_of_folds = [order[number::count] for number in range(count)]
    files = [out / fold_name(number) for number in range(1, count + 1)]
    for file in files:
        refuse_source(file, [path for path in (step.corpus, *step.disjoint_from) if path is not None])
    with replacing_all(files, overwrite=step.force) as writers:
        for keys, write in zip(keys_of_folds, writers, strict=True):
            for key in keys:
                for conversation in groups[key]:
                    write(line(conversation.row()))
    counts = [sum(len(groups[key]) for key in keys) for keys in keys_of_folds]
    return Folds(by, counts, [len(keys) for keys in keys_of_folds], bad)


def _groups(conversations: Iterable[Conversation], by: By) -> dict[str, list[Conversation]]:
    """The conversations by group, in their order."""
    found: dict[str, list[Conversation]] = {}
    for conversation in conversations:
        found.setdefault(group(conversation, by) or identity(conversation), []).append(conversation)
    return found
