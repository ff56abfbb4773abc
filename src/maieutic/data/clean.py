"""Cleaning: each conversation is kept, repaired or rejected for a named reason, and everything is counted.

The filters are pure and stream. Cleaning a clean corpus changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from maieutic.data.corpus import identity, line, read_corpus, refuse_source, replacing_all
from maieutic.data.reading import BadRows
from maieutic.errors import EmptyCorpus
from maieutic.types import Conversation, Record, Role, Turn


class Repair(StrEnum):
    """What was mended in a conversation that was kept."""

    EMPTY = "empty turns dropped"
    OPENING = "leading assistant turns dropped"
    MERGED = "same-role neighbours merged"


class Reason(StrEnum):
    """Why a conversation was rejected."""

    NO_USER = "no user turn"
    NO_ASSISTANT = "no assistant turn"
    SHORT = "too few turns"
    DUPLICATE = "exact duplicate"


class CleanOptions(Record):
    """What counts as clean."""

    keep_opening: bool = False
    """Keep assistant turns before the first user turn everywhere. They are kept in any case where the importer noted
    that the tutor rightly speaks first (`meta.opens`)."""
    min_turns: int = Field(2, ge=1)
    """User and assistant turns at least, after repairs."""
    keep_duplicates: bool = False
    """Keep exact duplicates (same roles, texts and problem)."""


class Mended(NamedTuple):
    """A conversation after repairs, and which there were."""

    conversation: Conversation
    repairs: tuple[Repair, ...]


@dataclass
class CleanReport:
    """Counts of conversations; full once the cleaned ones are consumed."""

    read: int = 0
    kept: int = 0
    repaired: Counter[Repair] = field(default_factory=Counter)
    """Among the kept; one conversation can have several repairs."""
    rejected: Counter[Reason] = field(default_factory=Counter)
    bad: BadRows = field(default_factory=BadRows)
    """Rows that were no conversation at all."""
    rejected_file: Path | None = None

    def json(self) -> dict[str, Any]:
        """`{"read", "kept", "repaired": {what: n}, "rejected": {reason: n}, "rejected_file", "bad"}`."""
        return {
            "read": self.read,
            "kept": self.kept,
            "repaired": {repair.value: self.repaired[repair] for repair in Repair},
            "rejected": {reason.value: self.rejected[reason] for reason in Reason},
            "rejected_file": str(self.rejected_file) if self.rejected_file else None,
            "bad": self.bad.json(),
        }


def clean(
    conversations: Iterable[Conversation],
    options: CleanOptions | None = None,
    report: CleanReport | None = None,
    on_rejected: Callable[[Conversation, Reason], object] | None = None,
) -> Iterator[Conversation]:
    """The conversations worth keeping, repaired, in their order; streaming, 16 bytes remembered of each.

    Args:
        conversations: any.
        options: default: all filters.
        report: filled on the way.
        on_rejected: told of each rejected conversation, as it came in.
    """
    options, report = options or CleanOptions(), report or CleanReport()
    seen: set[bytes] = set()
    for conversation in conversations:
        report.read += 1
        mended = mend(conversation, options)
        reason = reject(mended.conversation, options)
        if reason is None and not options.keep_duplicates:
            digest = bytes.fromhex(identity(mended.conversation))
            reason = Reason.DUPLICATE if digest in seen else None
            seen.add(digest)
        if reason is not None:
            report.rejected[reason] += 1
            if on_rejected:
                on_rejected(conversation, reason)
            continue
        report.kept += 1
        report.repaired.update(mended.repairs)
        yield mended.conversation


def mend(conversation: Conversation, options: CleanOptions) -> Mended:
    """Drop empty turns and a leading assistant, then merge same-role neighbours with a blank line between.

    What `meta["turns"]` holds by turn index moves with its turn; of merged turns the later ones' stands in `merged`.
    """
    turns = conversation.messages
    keep_opening = options.keep_opening or conversation.meta.get("opens") == "assistant"
    spoken = [index for index, turn in enumerate(turns) if turn.content.strip()]
    first = next((index for index in spoken if turns[index].role == Role.USER), len(turns))
    wanted = [
        index for index in spoken if keep_opening or index >= first or turns[index].role != Role.ASSISTANT
    ]
    groups: list[list[int]] = []
    for index in wanted:
        if groups and turns[groups[-1][-1]].role == turns[index].role:
            groups[-1].append(index)
        else:
            groups.append([index])
    if len(groups) == len(turns):
        return Mended(conversation, ())
    repairs = (
        *([Repair.EMPTY] if len(spoken) < len(turns) else []),
        *([Repair.OPENING] if len(wanted) < len(spoken) else []),
        *([Repair.MERGED] if len(groups) < len(wanted) else []),
    )
    messages = tuple(
        turns[group[0]]
        if len(group) == 1
        else Turn(role=turns[group[0]].role, content="\n\n".join(turns[index].content for index in group))
        for group in groups
    )
    changes = {"messages": messages, "meta": _moved(conversation.meta, groups)}
    return Mended(conversation.model_copy(update=changes), repairs)


def _moved(meta: dict[str, Any], groups: list[list[int]]) -> dict[str, Any]:
    extras = meta.get("turns")
    if not isinstance(extras, Mapping):
        return meta
    moved: dict[str, Any] = {}
    for place, group in enumerate(groups):
        own, *later = [extras.get(str(index)) or {} for index in group]
        later = [extra for extra in later if extra]
        if whole := {**own, **({"merged": later} if later else {})}:
            moved[str(place)] = whole
    rest = {key: value for key, value in meta.items() if key != "turns"}
    return {**rest, "turns": moved} if moved else rest


def reject(conversation: Conversation, options: CleanOptions) -> Reason | None:
    """Why a repaired conversation is not worth keeping, duplicates aside; None where it is.

    A prompt that awaits its reply (`meta.prompt`, from seed lists) needs no assistant turn and may be one turn long.
    """
    users = len(conversation.turns(Role.USER))
    assistants = len(conversation.turns(Role.ASSISTANT))
    awaits = "prompt" in conversation.meta
    if not users:
        return Reason.NO_USER
    if not assistants and not awaits:
        return Reason.NO_ASSISTANT
    if users + assistants < (1 if awaits and options.min_turns == 2 else options.min_turns):
        return Reason.SHORT
    return None


def clean_file(
    source: Path | str,
    out: Path | str,
    options: CleanOptions | None = None,
    *,
    overwrite: bool = False,
    strict: bool = False,
) -> CleanReport:
    """Clean a corpus file into another; rejected rows go to `rejected.jsonl` beside it, each with its `reason`.

    Both files are written together, the second also where nothing was rejected. Where `rejected.jsonl` belongs to
    another corpus of the folder, it is `NAME.rejected.jsonl`.

    Raises:
        StoreError: the output exists with other content, or is the source.
        EmptyCorpus: nothing was left; nothing is written.
    """
    source, out = Path(source), Path(out)
    rejected = _rejected_path(out)
    for path in (out, rejected):
        refuse_source(path, [source])
    report = CleanReport(bad=BadRows(strict), rejected_file=rejected)
    corpus = read_corpus(source, on_bad=report.bad)
    with replacing_all([out, rejected], overwrite=overwrite) as (write, write_rejected):

        def on_rejected(conversation: Conversation, reason: Reason) -> None:
            write_rejected(line({"reason": reason.value, **conversation.row()}))

        for conversation in _some(clean(corpus, options, report, on_rejected), source, report):
            write(line(conversation.row()))
    return report


def _rejected_path(out: Path) -> Path:
    own, shared = out.with_name(f"{out.name.split('.')[0]}.rejected.jsonl"), out.with_name("rejected.jsonl")
    taken = out.name == shared.name or (shared.exists() and not out.exists())
    return own if taken or own.exists() else shared


def _some(kept: Iterator[Conversation], source: Path, report: CleanReport) -> Iterator[Conversation]:
    yield from kept
    if not report.kept:
        why = ", ".join(f"{count} {reason.value}" for reason, count in report.rejected.most_common())
        raise EmptyCorpus(
            f"{source}: nothing is left after cleaning ({why})", "Nothing was written; see the options."
        )
