"""Splits of a corpus: train, validation and test; k folds; train and test of one data set.

- `split`: a conversation's part is decided by a hash of its group (its problem, its user, or its own content), so it
  does not change when the corpus grows. One exception keeps equal content in one part: a conversation with the same
  content as an earlier one goes to the part of the earlier one.
- `k_fold_split`: disjoint folds of about equal size, by a seeded order of the groups.
- `train_test_split`: two lists as they were published, or one list with a share held out by problem.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from maieutic.core.errors import EmptyCorpus, InputError
from maieutic.core.json_rows import BadRows
from maieutic.core.messages import Conversation, fingerprint
from maieutic.data.corpus import identity, line, problem_key, read_corpus, refuse_source, replacing_all
from maieutic.data.importing import import_files
from maieutic.data.overlap import NEAR, Held, Item, Overlap

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
    """Conversations without a user or a problem: each is a group by its own content."""
    moved: int = 0
    """Conversations in the part of an equal conversation instead of their group's part."""
    leakage: dict[str, Overlap] = field(default_factory=dict)
    """By `test in train`, `validation in train` and `test in validation`."""
    bad: BadRows = field(default_factory=BadRows)

    def json(self) -> dict[str, Any]:
        """`{"by", "counts": {part: n}, "groups": {part: n}, "alone", "moved", "leakage": {pair: {...}}, "bad"}`."""
        return {
            "by": self.by.value,
            "counts": {part: self.counts[part] for part in PARTS},
            "groups": {part: self.groups[part] for part in PARTS},
            "alone": self.alone,
            "moved": self.moved,
            "leakage": {pair: found.counts() for pair, found in self.leakage.items()},
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
        conversations: any.
        by: `conversation` (paths of one message tree stay together, and so do parts of a cut conversation),
            `problem` (same statement and program) or `user`. A conversation without a problem or a user is a group by
            its own content.
        parts: shares of train, validation and test, with the sum 1. They are shares of groups, so the shares of
            conversations differ a little.
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
        InputError: not three shares with the sum 1.
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


def split_file(
    source: Path | str,
    out: Path | str,
    by: str = "conversation",
    parts: tuple[float, float, float] = (0.8, 0.1, 0.1),
    *,
    seed: int = 0,
    overwrite: bool = False,
    strict: bool = False,
    leakage: bool = True,
    near: bool = True,
) -> SplitReport:
    """Split a corpus into `train.jsonl`, `validation.jsonl`, `test.jsonl` and `split.json` in the folder `out`.

    Args:
        source: a corpus file or a stage folder.
        out: the folder.
        by: as in `split`.
        parts: as in `split`.
        seed: as in `split`.
        overwrite: replace files with other content.
        strict: stop at the first bad row.
        leakage: measure the overlap of the parts afterwards (a second pass over the source).
        near: count near duplicates too; null without rensa.

    Raises:
        StoreError: a file exists with other content, or is the source; then none is written.
    """
    source, out = Path(source), Path(out)
    report = SplitReport(_by(by), bad=BadRows(strict))
    paths = [*(out / f"{part}.jsonl" for part in PARTS), out / "split.json"]
    for path in paths:
        refuse_source(path, [source])
    placed = split(read_corpus(source, on_bad=report.bad), by, parts, seed=seed, report=report)
    with replacing_all(paths, overwrite=overwrite) as writers:
        write = dict(zip(PARTS, writers, strict=False))
        for part, conversation in placed:
            write[part](line(conversation.row()))
        if leakage and not source.is_fifo():
            report.leakage = measure_leakage(
                lambda: split(read_corpus(source, on_bad=BadRows()), by, parts, seed=seed),
                near and find_spec("rensa") is not None,
            )
        method = {"method": "hash of the group", "source": str(source), "parts": list(parts), "seed": seed}
        writers[-1](orjson.dumps({**method, **report.json()}, option=orjson.OPT_INDENT_2) + b"\n")
    return report


def measure_leakage(placed: Callable[[], Iterable[Placed]], near: bool = True) -> dict[str, Overlap]:
    """Measure how much of each held-out part also occurs in the parts before it.

    Args:
        placed: returns the same conversations with their parts each time it is called; it is called twice. Test and
            validation are kept in memory.
        near: count near duplicates too.

    Returns:
        The overlap by `test in train`, `validation in train` and `test in validation`, for parts with conversations.
    """
    least = NEAR if near else None
    held = {(tested, seen): Held(least) for seen, tested in combinations(PARTS, 2)}
    for part, conversation in placed():
        if part != PARTS[0]:
            item = Item.of(conversation, near)
            for (tested, _), index in held.items():
                if tested == part:
                    index.hold(item)
    for part, conversation in placed():
        if into := [index for (_, seen), index in held.items() if seen == part and index.items]:
            item = Item.of(conversation, near)
            for index in into:
                index.pass_by(item)
    return {
        f"{tested} in {seen}": index.overlap()
        for (tested, seen), index in held.items()
        if index.items and index.passed
    }


MAX_FOLDS = 64


class Folds(NamedTuple):
    """The sizes of the folds."""

    by: str
    counts: list[int]
    """Conversations of each fold."""
    groups: list[int]
    """Problems or users of each fold; a conversation without one is a group by itself."""

    def json(self) -> dict[str, Any]:
        """`{"by", "counts": [n], "groups": [n]}`."""
        return self._asdict()


def fold_name(number: int) -> str:
    """The file name of a fold; the first is 1."""
    return f"fold-{number}.jsonl"


def k_fold_split(
    corpus: Path | str,
    out: Path | str,
    *,
    folds: int,
    by: str = "problem",
    disjoint_from: Sequence[Path] = (),
    seed: int = 0,
    overwrite: bool = False,
) -> Folds:
    """Split a corpus into disjoint folds of about equal size: `fold-1.jsonl`, `fold-2.jsonl`, … in the folder `out`.

    Args:
        corpus: the corpus.
        out: the folder.
        folds: number of folds.
        by: what must stay in one fold: `problem`, `user` or `conversation`.
        disjoint_from: corpora that must not share a problem (or user) with this one, such as test sets.
        seed: another seed gives other folds.
        overwrite: replace files with other content.

    Raises:
        InputError: fewer groups than folds, or a group also occurs in a corpus of `disjoint_from`.
    """
    if not 1 <= folds <= MAX_FOLDS:
        raise InputError(f"{folds} folds", f"Choose 1 to {MAX_FOLDS}.")
    groups = _groups(read_corpus(Path(corpus)), _by(by))
    for other in disjoint_from:
        if shared := groups.keys() & _groups(read_corpus(other), By(by)).keys():
            raise InputError(
                f"{len(shared)} of {len(groups)} groups of {corpus} (by {by}) also occur in {other}",
                "Remove them from one of the two: training and test data must be disjoint.",
            )
    if len(groups) < folds:
        raise InputError(
            f"{corpus}: {len(groups)} groups (by {by}) for {folds} folds", "Use more data or fewer folds."
        )
    order = sorted(groups, key=lambda key: fingerprint([seed, key]))
    keys_of_folds = [order[number::folds] for number in range(folds)]
    files = [Path(out) / fold_name(number) for number in range(1, folds + 1)]
    for file in files:
        refuse_source(file, [corpus, *disjoint_from])
    with replacing_all(files, overwrite=overwrite) as writers:
        for keys, write in zip(keys_of_folds, writers, strict=True):
            for key in keys:
                for conversation in groups[key]:
                    write(line(conversation.row()))
    counts = [sum(len(groups[key]) for key in keys) for keys in keys_of_folds]
    return Folds(by, counts, [len(keys) for keys in keys_of_folds])


def _groups(conversations: Iterable[Conversation], by: By) -> dict[str, list[Conversation]]:
    """The conversations by group, in their order."""
    found: dict[str, list[Conversation]] = {}
    for conversation in conversations:
        found.setdefault(group(conversation, by) or identity(conversation), []).append(conversation)
    return found


def train_test_split(
    train: Path | str,
    out: Path,
    *,
    name: str,
    test: Path | str | None = None,
    share: float = 0.1,
    format: str = "auto",
    seed: int = 0,
) -> dict[str, Any]:
    """Write the `train.jsonl` and `test.jsonl` of one data set into the folder `out`.

    Args:
        train: dialogues in any importable form.
        out: the folder.
        name: name of the data set: the `source` of its rows.
        test: test dialogues in any importable form; null: hold out a share of `train`, by problem or program.
        share: the share of `train` to hold out if there is no `test`.
        format: format of both files.
        seed: another seed holds out other problems.

    Returns:
        `{"train", "test", "held_out", "files": {file: import report}}`: numbers of conversations, and whether the test
        part was held out of `train`.

    Raises:
        EmptyCorpus: one of the two would be empty.
    """
    rows, report = import_files([train], format, source=name)
    reports = {str(train): report}
    placed: Iterator[Placed] = (
        split(rows, "problem", (1 - share, 0.0, share), seed=seed)
        if test is None
        else (Placed("train", row) for row in rows)
    )
    counts = {"train": 0, "test": 0}
    with replacing_all([out / "train.jsonl", out / "test.jsonl"], overwrite=True) as writers:
        write = dict(zip(counts, writers, strict=True))

        def put(part: str, conversation: Conversation) -> None:
            counts[part] += 1
            write[part](line(conversation.model_copy(update={"source": name}).row()))

        for part, conversation in placed:
            put(part, conversation)
        if test is not None:
            test_rows, reports[str(test)] = import_files([test], format, source=name)
            for conversation in test_rows:
                put("test", conversation)
        if empty := next((part for part, count in counts.items() if not count), None):
            raise EmptyCorpus(
                f"{train}: with a share of {share} held out, {empty} is empty",
                "Give a test file, another share, or more dialogues.",
            )
    return {
        **counts,
        "held_out": test is None,
        "files": {Path(file).name: read.json() for file, read in reports.items()},
    }
