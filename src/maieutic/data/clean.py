"""Cleaning: each conversation is kept, repaired, cut or rejected for a named reason, and everything is counted.

The filters (`data.filters`) run one after the other on one conversation at a time. Cleaning a clean corpus with the
same options changes nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from maieutic.core.errors import EmptyCorpus, InputError
from maieutic.core.messages import Conversation
from maieutic.core.progress import track
from maieutic.data.corpus import identity, line, read_corpus, refuse_source, replacing_all
from maieutic.data.filters import PRESETS, CleanOptions, Filter, Reason, Rejected, Step, is_later_part, steps
from maieutic.data.reading import BadRows
from maieutic.data.repair import Repair

__all__ = ["PRESETS", "CleanOptions", "CleanReport", "Filter", "Reason", "Rejected", "clean", "clean_file"]


@dataclass
class StepCount:
    """What one filter did, and what is left after it."""

    rejected: int = 0
    """Conversations and parts."""
    repaired: int = 0
    conversations: int = 0
    """Left, a cut one counted once."""
    segments: int = 0
    """Left, every part counted."""


@dataclass
class CleanReport:
    """Counts; full once the cleaned conversations are consumed: read - cut + parts = kept + rejected."""

    read: int = 0
    kept: int = 0
    """Conversations and parts of such."""
    cut: int = 0
    parts: int = 0
    """What the cut ones became."""
    repaired: Counter[Repair] = field(default_factory=Counter)
    """Among the kept; one conversation can have several repairs."""
    rejected: Counter[Reason] = field(default_factory=Counter)
    masked: Counter[str] = field(default_factory=Counter)
    """Pieces of personal data by kind, in all that was read."""
    steps: dict[Filter, StepCount] = field(default_factory=dict)
    """By filter, in the order in which they ran."""
    bad: BadRows = field(default_factory=BadRows)
    """Rows that were no conversation at all."""
    rejected_file: Path | None = None

    def json(self) -> dict[str, Any]:
        """`{"read", "kept", "cut", "parts", "repaired", "rejected", "masked", "steps": [...], "rejected_file", "bad"}`.

        `repaired` and `rejected` are counts by name; a step is `{"step", "rejected", "repaired", "conversations",
        "segments"}`.
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
    """The conversations worth keeping, repaired, in their order; streaming.

    Remembered are 16 bytes of each for exact duplicates, and about 2 kB for near ones.

    Args:
        conversations: any; with the filter `floods` something that can be gone through twice, such as a list.
        options: default: roles, turns and exact duplicates.
        report: filled on the way.
        on_rejected: told of each rejected conversation, as it stood by then.

    Raises:
        InputError: `floods` over an iterator; an unknown language or tokenizer.
        MissingExtra: a filter needs a library that is not installed.
    """
    options, report = options or CleanOptions(), report or CleanReport()
    often: frozenset[int] = frozenset()
    if Filter.FLOODS in options.filters:
        if iter(conversations) is conversations:
            raise InputError("floods are counted in a pass of their own", "Give a list, not an iterator.")
        from maieutic.data.near_duplicates import flooded

        often = flooded(_openings(conversations, options))
    return _cleaned(conversations, steps(options, often), report, on_rejected)


def _openings(conversations: Iterable[Conversation], options: CleanOptions) -> Iterator[Conversation]:
    """What comes as far as the flood filter; a conversation that is there a hundred times is no flood."""
    earlier = list(Filter)[: list(Filter).index(Filter.FLOODS)]
    chosen = tuple(name for name in options.filters if name in earlier)
    before = [step for step in steps(options.model_copy(update={"filters": chosen})) if step.name in earlier]
    uncounted = CleanReport()
    seen: set[bytes] = set()
    for conversation in conversations:
        pieces = [_Piece(conversation, ())]
        for step in before:
            pieces = _advance(pieces, step, uncounted, None)
        for piece in pieces:
            digest = bytes.fromhex(identity(piece.conversation))
            if digest not in seen and not is_later_part(piece.conversation):
                seen.add(digest)
                yield piece.conversation


def _cleaned(
    conversations: Iterable[Conversation],
    chosen: list[Step],
    report: CleanReport,
    on_rejected: Callable[[Rejected], object] | None,
) -> Iterator[Conversation]:
    report.steps = {step.name: StepCount() for step in chosen}
    for conversation in conversations:
        report.read += 1
        pieces = [_Piece(conversation, ())]
        for step in chosen:
            pieces = _advance(pieces, step, report, on_rejected)
            if not pieces:
                break
            report.steps[step.name].conversations += 1
            report.steps[step.name].segments += len(pieces)
        for piece in pieces:
            report.kept += 1
            report.repaired.update(piece.repairs)
            yield piece.conversation


def _advance(
    pieces: list[_Piece], step: Step, report: CleanReport, on_rejected: Callable[[Rejected], object] | None
) -> list[_Piece]:
    """The pieces of one conversation after one more filter."""
    count = report.steps.setdefault(step.name, StepCount())
    ahead: list[_Piece] = []
    for piece in pieces:
        outcome = step.run(piece.conversation)
        repairs = tuple(dict.fromkeys((*piece.repairs, *outcome.repairs)))
        ahead += [_Piece(kept, repairs) for kept in outcome.kept]
        report.masked.update(outcome.found or {})
        count.repaired += bool(outcome.repairs)
        count.rejected += len(outcome.rejected)
        if (came := len(outcome.kept) + len(outcome.rejected)) > 1:
            report.cut += 1
            report.parts += came
        for rejected in outcome.rejected:
            report.rejected[rejected.reason] += 1
            if on_rejected:
                on_rejected(rejected)
    return ahead


def clean_file(
    source: Path | str,
    out: Path | str,
    options: CleanOptions | None = None,
    *,
    overwrite: bool = False,
    strict: bool = False,
) -> CleanReport:
    """Clean a corpus file into another; rejected rows go to `rejected.jsonl` beside it.

    Each of those carries the corpus it is `of`, its `reason` and, where there is one, a `detail`. Both files are
    written together, the second also where nothing was rejected. Where `rejected.jsonl` belongs to another corpus of
    the folder, it is `NAME.rejected.jsonl`.

    Raises:
        InputError, MissingExtra: as `clean`.
        StoreError: the output exists with other content, or is the source.
        EmptyCorpus: nothing was left; nothing is written.
    """
    source, out = Path(source), Path(out)
    rejected = _rejected_path(out)
    for path in (out, rejected):
        refuse_source(path, [source])
    if options and Filter.FLOODS in options.filters and source.is_fifo():
        raise InputError(f"{source} can be read only once", "Floods take two passes: give a file.")
    report = CleanReport(bad=BadRows(strict), rejected_file=rejected)
    with (
        replacing_all([out, rejected], overwrite=overwrite) as (write, write_rejected),
        track(None, "clean") as bar,
    ):

        def on_rejected(found: Rejected) -> None:
            detail = {"detail": found.detail} if found.detail else {}
            row = {"of": out.name, "reason": found.reason.value, **detail, **found.conversation.row()}
            write_rejected(line(row))

        corpus = _Corpus(source, report)
        for conversation in _some(clean(corpus, options, report, on_rejected), source, report):
            write(line(conversation.row()))
            bar.advance()
    return report


class _Corpus:
    """A corpus file that can be gone through twice; what was broken in it is told once."""

    def __init__(self, source: Path, report: CleanReport) -> None:
        self.source, self.report = source, report

    def __iter__(self) -> Iterator[Conversation]:
        self.report.bad = BadRows(self.report.bad.strict)
        return read_corpus(self.source, on_bad=self.report.bad)


def _rejected_path(out: Path) -> Path:
    """`rejected.jsonl`, or `NAME.rejected.jsonl` where that holds what another corpus of the folder lost."""
    name = re.sub(r"\.jsonl?(\.gz)?$", "", out.name)
    own, shared = out.with_name(f"{name}.rejected.jsonl"), out.with_name("rejected.jsonl")
    return own if out.name == shared.name or own.exists() or not _is_of(shared, out) else shared


def _is_of(rejected: Path, out: Path) -> bool:
    """Whether a file of rejected rows is that of a corpus, or nobody's."""
    if not rejected.is_file():
        return not rejected.exists()
    with rejected.open("rb") as file:
        first = file.readline()
    try:
        # An empty one tells nothing: it is the corpus' own where that stands, for another's would lie beside it.
        return bool(orjson.loads(first).get("of") == out.name) if first else out.exists()
    except (orjson.JSONDecodeError, AttributeError):
        return False


def _some(kept: Iterator[Conversation], source: Path, report: CleanReport) -> Iterator[Conversation]:
    yield from kept
    if not report.kept:
        why = ", ".join(f"{count} {reason.value}" for reason, count in report.rejected.most_common())
        raise EmptyCorpus(
            f"{source}: nothing is left after cleaning ({why})", "Nothing was written; see the options."
        )
