"""Train, validation and test by a hash of what belongs together: nothing is shuffled, so nothing moves later on.

A conversation's part depends on its group alone (its problem, its user, or its own content), never on the rest of the
corpus. Only content decides otherwise: a conversation seen before goes where it went before, so the same content never
stands in two parts, whoever it came from.


A corpus dealt into disjoint parts of about one size: rounds that never see a problem twice, people for two students.

What belongs together (a problem, a person) goes to one part, by a seeded order of the groups; so any number of
parts can be had, and a part's size does not hang on the luck of a hash.


The train and the test list of one set of dialogues: both as others made them, or one share held out by problem.
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
from maieutic.core.messages import Conversation, fingerprint
from maieutic.data.corpus import identity, line, problem_key, read_corpus, refuse_source, replacing_all
from maieutic.data.importing import import_files
from maieutic.data.overlap import NEAR, Held, Item, Overlap
from maieutic.data.reading import BadRows

PARTS = ("train", "validation", "test")


class By(StrEnum):
    """What must not be torn apart."""

    CONVERSATION = "conversation"
    PROBLEM = "problem"
    USER = "user"


@dataclass
class SplitReport:
    """Counts; full once the split conversations are consumed."""

    by: By
    counts: Counter[str] = field(default_factory=Counter)
    groups: Counter[str] = field(default_factory=Counter)
    alone: int = 0
    """Conversations without a user or a problem to go by, grouped by their own content."""
    moved: int = 0
    """Conversations that went to the part of their equal instead of their group's."""
    leakage: dict[str, Overlap] = field(default_factory=dict)
    """What of one part stands in another, by `test in train`, `validation in train` and `test in validation`."""
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
    """A conversation and the part it belongs to."""

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
    """Place each conversation, streaming and in order.

    Args:
        conversations: any.
        by: `conversation` (paths of one message tree, and parts of a cut conversation, stay together), `problem` (same
            statement and program) or `user`. A conversation without a problem or a user goes by its own content.
        parts: shares of train, validation and test, summing to 1; of groups, so of conversations about.
        seed: another one gives another split.
        report: filled on the way.

    Raises:
        InputError: `by` or `parts` is not what it should be.
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
        hashed = bytes.fromhex(fingerprint([seed, by.value, key or _own(conversation, content)]))
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
    """Where validation and test begin between 0 and 1.

    Raises:
        InputError: they are not three shares that sum to 1.
    """
    if len(parts) != 3 or min(parts) < 0 or not abs(sum(parts) - 1) <= 1e-6:
        raise InputError("the parts are not three shares that sum to 1", "Give for example 0.8,0.1,0.1.")
    train, validation, test = parts
    # Without a test part everything above train is validation, whatever rounding does to the sum.
    return train if validation + test else 1.0, train + validation if test else 1.0


def group(conversation: Conversation, by: By) -> str | None:
    """The key of what a conversation must stay together with, or None where there is nothing but itself."""
    if by == By.USER:
        return conversation.user_id
    return problem_key(conversation.problem) if by == By.PROBLEM else None


def _own(conversation: Conversation, content: str) -> list[str]:
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
        by: as `split`.
        parts: as `split`.
        seed: as `split`.
        overwrite: replace parts that hold something else.
        strict: stop at the first broken row.
        leakage: measure afterwards what of the held-out parts stands in the others (a second pass over the source).
        near: look for near ones there too. Where rensa is not installed they are left out, and count as null.

    Raises:
        StoreError: one of them exists with other content, or is the source; then none is written.
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
            report.leakage = leaks(
                lambda: split(read_corpus(source, on_bad=BadRows()), by, parts, seed=seed),
                near and find_spec("rensa") is not None,
            )
        method = {"method": "hash of the group", "source": str(source), "parts": list(parts), "seed": seed}
        writers[-1](orjson.dumps({**method, **report.json()}, option=orjson.OPT_INDENT_2) + b"\n")
    return report


def leaks(placed: Callable[[], Iterable[Placed]], near: bool = True) -> dict[str, Overlap]:
    """Measure what of each held-out part stands in the parts before it.

    Args:
        placed: gives the same placed conversations each time it is called; they are gone through twice. Test and
            validation are held in memory.
        near: look for near ones too.

    Returns:
        `test in train`, `validation in train` and `test in validation`, as far as those parts have conversations.
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


MOST = 64
"""Parts at most: their files have fixed names."""


class Dealt(NamedTuple):
    """What became of a corpus."""

    by: str
    parts: list[int]
    """Conversations of each part."""
    groups: list[int]
    """Problems or people of each; a conversation without one is a group of its own."""

    def json(self) -> dict[str, Any]:
        """As one JSON object."""
        return self._asdict()


def file_name(number: int) -> str:
    """Of a part, from 1 on."""
    return f"part-{number}.jsonl"


def deal(
    corpus: Path | str,
    out: Path | str,
    *,
    parts: int,
    by: str = "problem",
    apart_from: Sequence[Path] = (),
    seed: int = 0,
    overwrite: bool = False,
) -> Dealt:
    """Write `part-1.jsonl`, `part-2.jsonl`, … into `out`, which share no problem, or no person.

    Args:
        corpus: what is dealt.
        out: the folder.
        parts: how many.
        by: what must not stand in two parts: `problem`, `user` or `conversation`.
        apart_from: corpora that hold none of the corpus's problems (or people), such as those that evaluate.
        seed: another one deals otherwise.
        overwrite: replace files that hold other parts.

    Raises:
        InputError: there are fewer groups than parts, or one stands in a corpus of `apart_from`.
    """
    if not 1 <= parts <= MOST:
        raise InputError(f"{parts} parts", f"Deal into 1 to {MOST}.")
    if by not in list(By):
        raise InputError(f"by {by!r} is not known", f"Use {', '.join(By)}.")
    groups = _groups(read_corpus(Path(corpus)), By(by))
    for other in apart_from:
        if shared := groups.keys() & _groups(read_corpus(other), By(by)).keys():
            raise InputError(
                f"{len(shared)} of {len(groups)} groups of {corpus} (by {by}) stand in {other} too",
                "Take them out of one of the two: what trains must not evaluate.",
            )
    if len(groups) < parts:
        raise InputError(
            f"{corpus}: {len(groups)} groups (by {by}) for {parts} parts", "Give more, or fewer parts."
        )
    order = sorted(groups, key=lambda key: fingerprint([seed, key]))
    heaps = [order[number::parts] for number in range(parts)]
    files = [Path(out) / file_name(number) for number in range(1, parts + 1)]
    for file in files:
        refuse_source(file, [corpus, *apart_from])
    with replacing_all(files, overwrite=overwrite) as writers:
        for heap, write in zip(heaps, writers, strict=True):
            for key in heap:
                for conversation in groups[key]:
                    write(line(conversation.row()))
    return Dealt(by, [sum(len(groups[key]) for key in heap) for heap in heaps], [len(heap) for heap in heaps])


def _groups(conversations: Iterable[Conversation], by: By) -> dict[str, list[Conversation]]:
    """The conversations by what belongs together, in their order."""
    found: dict[str, list[Conversation]] = {}
    for conversation in conversations:
        found.setdefault(group(conversation, by) or identity(conversation), []).append(conversation)
    return found


def write_lists(
    train: Path | str,
    out: Path,
    *,
    name: str,
    test: Path | str | None = None,
    share: float = 0.1,
    format: str = "auto",
    seed: int = 0,
) -> dict[str, Any]:
    """Write `train.jsonl` and `test.jsonl` into the folder `out`; what is already a list of its own stays whole.

    Args:
        train: dialogues in any importable form.
        out: the folder.
        name: the set's, as the `source` of its rows.
        test: the dialogues to test on; null holds out a share of `train`, by problem or program.
        share: how much of `train` is held out then.
        format: of both files.
        seed: another one holds out other problems.

    Returns:
        `{"train", "test", "held_out", "files": {file: what of it was read}}`: conversations, and whether the test part
        came from the train list.

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
            tested, reports[str(test)] = import_files([test], format, source=name)
            for conversation in tested:
                put("test", conversation)
        if empty := next((part for part, count in counts.items() if not count), None):
            raise EmptyCorpus(
                f"{train}: with a share of {share} held out, nothing is left to {empty}",
                "Give a test file, another share, or more dialogues.",
            )
    return {
        **counts,
        "held_out": test is None,
        "files": {Path(file).name: read.json() for file, read in reports.items()},
    }
