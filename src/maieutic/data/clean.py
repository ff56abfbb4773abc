"""Clean a corpus: keep, repair, cut or reject each conversation for a named reason, and count everything.

The filters (`data.filters`) run one after the other on one conversation at a time. Cleaning a clean corpus with the
same options changes nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from maieutic.core.errors import EmptyCorpus, InputError
from maieutic.core.json_rows import BadRows
from maieutic.core.messages import Conversation
from maieutic.core.progress import track
from maieutic.data.corpus import identity, line, read_source, refuse_source, replacing_all
from maieutic.data.filters import (
    ActiveFilter,
    CleanOptions,
    Filter,
    Reason,
    Rejected,
    active_filters,
    is_later_part,
)
from maieutic.data.repair import Repair

if TYPE_CHECKING:
    from maieutic.data.steps import Clean


@dataclass
class FilterCount:
    """Counts of one filter, and of the conversations that remain after it."""

    rejected: int = 0
    """Conversations, and parts of cut conversations."""
    repaired: int = 0
    conversations: int = 0
    """Conversations that remain; a cut conversation counts once."""
    segments: int = 0
    """Conversations and parts that remain; every part counts."""


@dataclass
class CleanReport:
    """Counts, complete once the cleaned conversations are consumed: read - cut + parts = kept + rejected."""

    read: int = 0
    kept: int = 0
    """Conversations, and parts of cut conversations."""
    cut: int = 0
    parts: int = 0
    """The number of parts of all cut conversations."""
    repaired: Counter[Repair] = field(default_factory=Counter)
    """Kept conversations by repair; one conversation can have several repairs."""
    rejected: Counter[Reason] = field(default_factory=Counter)
    masked: Counter[str] = field(default_factory=Counter)
    """Pieces of personal data by kind, in all conversations read."""
    steps: dict[Filter, FilterCount] = field(default_factory=dict)
    """Counts by filter, in the order in which the filters ran."""
    bad: BadRows = field(default_factory=BadRows)
    """Rows that are not conversations."""
    rejected_file: Path | None = None

    def json(self) -> dict[str, Any]:
        """`{"read", "kept", "cut", "parts", "repaired", "rejected", "masked", "steps": [...], "rejected_file", "bad"}`.

        `repaired` and `rejected` are counts by name; an item of `steps` is `{"step", "rejected", "repaired",
        "conversations", "segments"}`, where `step` names a filter.
        """
        return {
            "read": self.read,
            "kept": self.kept,
            "cut": self.cut,
            "parts": self.parts,
            "repaired": {repair.value: self.repaired[repair] for repair in Repair},
            "rejected": {reason.value: self.rejected[reason] for reason in Reason},
            "masked": dict(sorted(self.masked.items())),
            "steps": [{"step": name.value, **vars(count)} for name, count in self.steps.items()],
            "rejected_file": str(self.rejected_file) if self.rejected_file else None,
            "bad": self.bad.json(),
        }


class _Piece(NamedTuple):
    conversation: Conversation
    repairs: tuple[Repair, ...]


def clean(
    conversations: Iterable[Conversation],
    options: CleanOptions | None = None,
    report: CleanReport | None = None,
    on_rejected: Callable[[Rejected], object] | None = None,
) -> Iterator[Conversation]:
    """Yield the conversations that pass the filters, repaired, in their order; streaming.

    Memory: 16 bytes a conversation for exact duplicates, about 2 kB for near duplicates.

    Args:
        conversations: any iterable; the filter `floods` needs an iterable that can be read twice, such as a list.
        options: the settings of cleaning; by default the filters roles, turns and duplicates run.
        report: filled while the conversations are consumed.
        on_rejected: called with each rejected conversation.

    Raises:
        InputError: the filter `floods` gets an iterator, or a language or tokenizer is unknown.
        MissingExtra: a filter needs a library that is not installed.
    """
    options, report = options or CleanOptions(), report or CleanReport()
    frequent: frozenset[int] = frozenset()
    if Filter.FLOODS in options.filters:
        if iter(conversations) is conversations:
            raise InputError(
                "the filter `floods` reads the conversations twice", "Give a list, not an iterator."
            )
        from maieutic.data.near_duplicates import flooded

        frequent = flooded(_openings(conversations, options))
    return _cleaned(conversations, active_filters(options, frequent), report, on_rejected)


def _openings(conversations: Iterable[Conversation], options: CleanOptions) -> Iterator[Conversation]:
    """The distinct conversations that reach the flood filter; copies of a conversation do not count as a flood."""
    earlier = list(Filter)[: list(Filter).index(Filter.FLOODS)]
    chosen = tuple(name for name in options.filters if name in earlier)
    chain = active_filters(options.model_copy(update={"filters": chosen}))
    before = [one for one in chain if one.name in earlier]
    uncounted = CleanReport()
    seen: set[bytes] = set()
    for conversation in conversations:
        pieces = [_Piece(conversation, ())]
        for one in before:
            pieces = _apply(one, pieces, uncounted, None)
        for piece in pieces:
            digest = bytes.fromhex(identity(piece.conversation))
            if digest not in seen and not is_later_part(piece.conversation):
                seen.add(digest)
                yield piece.conversation


def _cleaned(
    conversations: Iterable[Conversation],
    chosen: list[ActiveFilter],
    report: CleanReport,
    on_rejected: Callable[[Rejected], object] | None,
) -> Iterator[Conversation]:
    report.steps = {one.name: FilterCount() for one in chosen}
    for conversation in conversations:
        report.read += 1
        pieces = [_Piece(conversation, ())]
        for one in chosen:
            pieces = _apply(one, pieces, report, on_rejected)
            if not pieces:
                break
            report.steps[one.name].conversations += 1
            report.steps[one.name].segments += len(pieces)
        for piece in pieces:
            report.kept += 1
            report.repaired.update(piece.repairs)
            yield piece.conversation


def _apply(
    one: ActiveFilter,
    pieces: list[_Piece],
    report: CleanReport,
    on_rejected: Callable[[Rejected], object] | None,
) -> list[_Piece]:
    """Run one filter on the pieces of one conversation, and count."""
    count = report.steps.setdefault(one.name, FilterCount())
    left: list[_Piece] = []
    for piece in pieces:
        result = one.run(piece.conversation)
        repairs = tuple(dict.fromkeys((*piece.repairs, *result.repairs)))
        left += [_Piece(kept, repairs) for kept in result.kept]
        report.masked.update(result.masked or {})
        count.repaired += bool(result.repairs)
        count.rejected += len(result.rejected)
        if (parts := len(result.kept) + len(result.rejected)) > 1:
            report.cut += 1
            report.parts += parts
        for rejected in result.rejected:
            report.rejected[rejected.reason] += 1
            if on_rejected:
                on_rejected(rejected)
    return left


def clean_file(step: Clean, out: Path) -> CleanReport:
    """Clean a corpus into a file, and write the rejected rows to `rejected.jsonl` in the same folder.

    A rejected row also has `of` (the name of the cleaned file), its `reason` and, for some filters, a `detail`. Both
    files are written together; `rejected.jsonl` is written even if nothing was rejected. If the folder's
    `rejected.jsonl` belongs to another corpus, the file is named `NAME.rejected.jsonl`.

    Raises:
        InputError, MissingExtra: as `clean`.
        StoreError: the output exists with other content, or the output is the corpus itself.
        EmptyCorpus: no conversation is left; nothing is written.
    """
    rejected = _rejected_path(out)
    source = step.corpus if isinstance(step.corpus, Path) else None
    for path in (out, rejected):
        refuse_source(path, [source] if source else [])
    if source and Filter.FLOODS in step.filters and source.is_fifo():
        raise InputError(
            f"{source} can be read only once", "The filter `floods` reads it twice: give a file."
        )
    report = CleanReport(bad=BadRows(step.strict), rejected_file=rejected)
    with (
        replacing_all([out, rejected], overwrite=step.force) as (write, write_rejected),
        track(None, "clean") as bar,
    ):

        def on_rejected(found: Rejected) -> None:
            detail = {"detail": found.detail} if found.detail else {}
            row = {"of": out.name, "reason": found.reason.value, **detail, **found.conversation.row()}
            write_rejected(line(row))

        for conversation in clean(_Corpus(step.corpus, report), step, report, on_rejected):
            write(line(conversation.row()))
            bar.advance()
        if not report.kept:
            why = ", ".join(f"{count} {reason.value}" for reason, count in report.rejected.most_common())
            raise EmptyCorpus(
                f"{source or 'the list'}: no conversation is left after cleaning ({why})",
                "Nothing was written. Relax the filters.",
            )
    return report


class _Corpus:
    """A corpus that can be iterated twice; its bad rows are reported once."""

    def __init__(self, source: Any, report: CleanReport) -> None:
        self.source, self.report = source, report

    def __iter__(self) -> Iterator[Conversation]:
        self.report.bad = BadRows(self.report.bad.strict)
        return read_source(self.source, self.report.bad)


def _rejected_path(out: Path) -> Path:
    """`rejected.jsonl`, or `NAME.rejected.jsonl` if the former belongs to another corpus of the folder."""
    name = re.sub(r"\.jsonl?(\.gz)?$", "", out.name)
    own, shared = out.with_name(f"{name}.rejected.jsonl"), out.with_name("rejected.jsonl")
    return own if out.name == shared.name or own.exists() or not _is_of(shared, out) else shared


def _is_of(rejected: Path, out: Path) -> bool:
    """Whether a file of rejected rows belongs to this corpus, or does not exist."""
    if not rejected.is_file():
        return not rejected.exists()
    with rejected.open("rb") as file:
        first = file.readline()
    try:
        # An empty file names no corpus: it belongs to this one if the corpus exists.
        return bool(orjson.loads(first).get("of") == out.name) if first else out.exists()
    except (orjson.JSONDecodeError, AttributeError):
        return False
