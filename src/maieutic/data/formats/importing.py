"""Whole files, folders and datasets of any known shape, streaming into conversations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from maieutic.core.errors import EmptyCorpus, InputError
from maieutic.core.messages import Conversation
from maieutic.data.corpus import key_list
from maieutic.data.formats.known import FORMATS, guess
from maieutic.data.hub import is_hub, open_dataset
from maieutic.data.reading import BadRows, Row, files_in, read_rows
from maieutic.data.sample import Stratum
from maieutic.data.sample import sample as sampled


class ImportReport(NamedTuple):
    """What an import read; full once its conversations are consumed."""

    formats: dict[str, Counter[str]]
    """By file or dataset: rows read as each format."""
    bad: BadRows
    licences: Counter[str | None]
    """Conversations by licence; None where nobody named one."""
    strata: dict[str, Stratum]
    """Of a sample: what was seen and kept, by value of the field."""

    def json(self) -> dict[str, Any]:
        """`{"formats": {file: {format: rows}}, "bad": {...}, "licences": {name: n}, "unlicensed", "sample"?}`."""
        named = {name: count for name, count in self.licences.items() if name is not None}
        shape = {
            "formats": {name: dict(found) for name, found in self.formats.items()},
            "bad": self.bad.json(),
            "licences": named,
            "unlicensed": self.licences[None],
        }
        if self.strata:
            shape["sample"] = {value: stratum._asdict() for value, stratum in self.strata.items()}
        return shape


class _Place(NamedTuple):
    """One file or dataset: how it is called, what its rows get where they do not say themselves."""

    label: str
    source: str
    licence: str | None
    read: Callable[[BadRows], Iterator[Row]]
    stage: bool


class _Fill(NamedTuple):
    """What the caller says of every conversation."""

    ended: bool
    source: str | None
    licence: str | None


def import_files(
    sources: Iterable[Path | str],
    format: str = "auto",
    *,
    ended: bool = False,
    source: str | None = None,
    licence: str | None = None,
    sample: int | None = None,
    by: str | None = None,
    strict: bool = False,
) -> tuple[Iterator[Conversation], ImportReport]:
    """Read files, folders or datasets of any known shape, streaming.

    Args:
        sources: files (`.json`, `.jsonl`, `.csv`, `.tsv`, `.txt`, also `.gz`; `.parquet`), folders of them, and
            datasets (`hub:NAME`, `hub:NAME:SPLIT`, `hub:NAME:CONFIG:SPLIT`).
        format: one of `FORMATS`, or `auto` to go by each row's keys.
        ended: say of every conversation that the person ended it where it stops.
        source: where the rows come from, if a row does not say so itself; default: its file's or dataset's name.
        licence: their licence, if a row does not say so itself; default: what the dataset's card says.
        sample: keep this many, drawn by a hash of each conversation's content.
        by: stratify the sample by this field of a conversation, or key of its `meta`.
        strict: raise at the first row that cannot be read.

    Returns:
        The conversations, and the report that fills as they are consumed.

    Raises:
        InputError: the format is unknown, or a row is broken under `strict`.
        MissingInput: at once, where a source does not exist.
        MissingExtra: a library that reads one of them is not installed.
        EmptyCorpus: at the end, where not one conversation came.
    """
    if format != "auto" and format not in FORMATS:
        raise InputError(f"no format {format!r}", f"Known: auto, {', '.join(FORMATS)}.")
    if sample is not None and sample < 1:
        raise InputError(f"a sample of {sample}", "Keep at least one.")
    places = [place for one in sources for place in _places(one)]
    report = ImportReport({}, BadRows(strict), Counter(), {})
    found = _imported(places, format, _Fill(ended, source, licence), report)
    if sample is not None:
        found = sampled(found, sample, by, report.strata)
    return _counted(found, report), report


def _places(source: Path | str) -> Iterator[_Place]:
    if is_hub(source):
        opened = open_dataset(source)
        yield _Place(opened.name, opened.name, opened.licence, opened.read, False)
        return
    for path in files_in(Path(source)):
        yield _Place(str(path), path.name, None, partial(read_rows, path), path.name == "rows.jsonl")


def _imported(
    places: Sequence[_Place], format: str, fill: _Fill, report: ImportReport
) -> Iterator[Conversation]:
    found = 0
    for place in places:
        counts = report.formats.setdefault(place.label, Counter())
        for row in place.read(report.bad):
            for conversation in _read(row, format, place.stage, counts, report.bad):
                found += 1
                yield _filled(conversation, place, fill)
    if not found:
        first = f" ({report.bad.summary(1)})" if report.bad.count else ""
        raise EmptyCorpus(
            f"{', '.join(place.label for place in places[:3])}: not one conversation to import{first}",
            f"Known formats: {', '.join(FORMATS)}; name one with --format if the guess is wrong.",
        )


def _counted(conversations: Iterable[Conversation], report: ImportReport) -> Iterator[Conversation]:
    for conversation in conversations:
        report.licences[conversation.licence] += 1
        yield conversation


def _read(row: Row, format: str, stage: bool, counts: Counter[str], bad: BadRows) -> Iterator[Conversation]:
    value = row.value
    if stage and isinstance(value, dict):
        value = {key: item for key, item in value.items() if key != "key"}
    name = guess(value) if format == "auto" else format
    if name is None:
        keys = f"keys: {key_list(value)}" if isinstance(value, dict) else "no object"
        bad.add(row.where, f"unknown shape ({keys})")
        return
    try:
        conversations = list(FORMATS[name](value))
    except ValueError as error:
        bad.add(row.where, str(error))
        return
    counts[name] += 1
    yield from conversations


def _filled(conversation: Conversation, place: _Place, fill: _Fill) -> Conversation:
    changes: dict[str, Any] = {"ended": True} if fill.ended else {}
    if conversation.source is None:
        changes["source"] = fill.source or place.source
    if conversation.licence is None:
        own = conversation.meta.get("license")
        if isinstance(own, str) and own:
            changes["licence"] = own
            changes["meta"] = {key: item for key, item in conversation.meta.items() if key != "license"}
        elif licence := fill.licence or place.licence:
            changes["licence"] = licence
    return conversation.model_copy(update=changes)
