"""Every known format by name, and which of them a value looks like.

Whole files, folders and datasets of any known shape, streaming into conversations.

A sample of a stream: the same one from the same rows, whatever their order, and stratified by a field if asked.

Of each stratum the conversations with the lowest content hash are kept, in proportion to its size (largest
remainders). The hash does the drawing, so nothing is shuffled and a row's fate does not hang on its neighbours.
"""

from __future__ import annotations

import heapq
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from maieutic.core.errors import EmptyCorpus, InputError
from maieutic.core.json_rows import BadRows, Placed
from maieutic.core.messages import Conversation
from maieutic.core.reading import files_in, read_rows
from maieutic.core.store import full_disk
from maieutic.data.corpus import identity, key_list, line
from maieutic.data.formats.chats import (
    from_baize,
    from_log,
    from_oasst,
    from_single,
    from_turns,
    from_ultrachat,
    from_wizardlm,
    is_transcript,
    turn_list,
)
from maieutic.data.formats.tutoring import (
    from_bridge,
    from_mathdial,
    from_problems,
    from_seeds,
    from_tutorchat,
    is_problem,
)
from maieutic.data.hub import is_hub, open_dataset

FORMATS: dict[str, Callable[[Any], Iterator[Conversation]]] = {
    "messages": from_turns,
    "sharegpt": from_turns,
    "oasst": from_oasst,
    "mathdial": from_mathdial,
    "bridge": from_bridge,
    "socratic-llm": from_seeds,
    "socratic-debugging": from_seeds,
    "tutorchat": from_tutorchat,
    "problems": from_problems,
    "alpaca": from_single,
    "dolly": from_single,
    "wizardlm": from_wizardlm,
    "ultrachat": from_ultrachat,
    "baize": from_baize,
    "wildchat": from_log,
    "lmsys": from_log,
}
"""Every format by the name the command line knows."""


def guess(value: Any) -> str | None:
    """The format a JSON value looks like, by its keys; None where it looks like none."""
    if isinstance(value, str):
        if is_transcript(value):
            return "baize"
        return "socratic-debugging" if "<dialogue>" in value else "socratic-llm"
    if not isinstance(value, dict):
        return None
    name = turn_list(value)
    if name is not None and value[name]:
        return _guess_list(value, name)
    if "instruction" in value and ("response" in value or "output" in value):
        return "dolly" if "response" in value else "alpaca"
    return _guess_rest(value, name)


def _guess_list(row: Mapping[str, Any], name: str) -> str | None:
    first = row[name][0]
    if isinstance(first, str) and name == "conversation" and "mode" in row:
        return "tutorchat"
    if not isinstance(first, dict):
        return None
    if name == "conversation" and ("openai_moderation" in row or "conversation_hash" in row):
        wild = "conversation_hash" in row or "timestamp" in row or "toxic" in row
        return "wildchat" if wild else "lmsys"
    if name == "messages" and "prompt_id" in row:
        return "ultrachat"
    if name == "conversations" and "idx" in row:
        return "wizardlm"
    return "sharegpt" if name == "items" or "from" in first else "messages"


def _guess_rest(row: Mapping[str, Any], name: str | None) -> str | None:
    if isinstance(row.get("prompt"), dict):
        return "oasst"
    if isinstance(row.get("prompt"), str) and name is None:
        return "socratic-llm"
    if isinstance(row.get("c_h"), list):
        return "bridge"
    if isinstance(row.get("conversation"), str) and "question" in row:
        return "mathdial"
    if isinstance(row.get("data"), list) and all(isinstance(text, str) for text in row["data"]):
        return "ultrachat"
    if any(is_transcript(row.get(key)) for key in ("input", "chat_sample", "text")):
        return "baize"
    if name is not None:
        return "sharegpt" if name == "items" else "messages"
    return "problems" if is_problem(row) else None


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
    read: Callable[[BadRows], Iterator[Placed]]
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
        found = draw_sample(found, sample, by, report.strata)
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


def _read(
    row: Placed, format: str, stage: bool, counts: Counter[str], bad: BadRows
) -> Iterator[Conversation]:
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


FIELDS = ("source", "licence", "user_id", "intent", "profile")
"""What of a conversation itself can be sampled by; any other name is a key of `meta`."""
NONE = "(none)"
ALL = "(all)"


class Stratum(NamedTuple):
    """How many conversations had one value of the field, and how many of them were kept."""

    seen: int
    kept: int


def draw_sample(
    conversations: Iterable[Conversation], count: int, by: str | None, strata: dict[str, Stratum]
) -> Iterator[Conversation]:
    """Keep `count` conversations, in their order, reading the stream once.

    What may still be kept waits in a temporary file, so memory holds a few numbers for each and no text.

    Args:
        conversations: consumed to the end before the first one is yielded.
        count: how many to keep; all where there are fewer.
        by: stratify by this field (one of `FIELDS`, or a key of `meta`); None takes all as one stratum.
        strata: filled with what was seen and kept, by value.

    Raises:
        InputError: no conversation has the field.
        DiskFull: the temporary file does not fit.
    """
    draws: dict[str, _Draw] = defaultdict(lambda: _Draw(count))
    names: set[str] = set()
    with tempfile.TemporaryFile() as spool, full_disk(Path(tempfile.gettempdir())):
        offset = 0
        for conversation in conversations:
            names.update(map(str, conversation.meta))
            if draws[_value(conversation, by)].enter(int(identity(conversation), 16), offset):
                offset += spool.write(line(conversation.row()))
        if by is not None and set(draws) == {NONE}:
            raise InputError(
                f"no conversation has {by!r} to sample by",
                f"Fields: {', '.join((*sorted(names)[:12], *FIELDS))}.",
            )
        quotas = _quotas({value: draw.seen for value, draw in draws.items()}, count)
        strata.update({value: Stratum(draws[value].seen, quota) for value, quota in quotas.items()})
        spool.flush()
        for place in sorted(at for value, quota in quotas.items() for at in draws[value].lowest(quota)):
            spool.seek(place)
            yield Conversation.model_validate(orjson.loads(spool.readline()))


class _Draw:
    """The lowest hashes of one stratum so far, at most `size`, each with its place in the spool."""

    def __init__(self, size: int) -> None:
        self.size, self.seen = size, 0
        self._heap: list[tuple[int, int]] = []  # negated, so that the first is the one to give way

    def enter(self, hash: int, place: int) -> bool:
        self.seen += 1
        item = (-hash, -place)
        if len(self._heap) < self.size:
            heapq.heappush(self._heap, item)
            return True
        return bool(self._heap) and heapq.heappushpop(self._heap, item) != item

    def lowest(self, count: int) -> list[int]:
        return [-place for _, place in heapq.nlargest(count, self._heap)]


def _value(conversation: Conversation, by: str | None) -> str:
    if by is None:
        return ALL
    value: Any = getattr(conversation, by) if by in FIELDS else conversation.meta.get(by)
    if value is None:
        return NONE
    return value if isinstance(value, str) else orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def _quotas(seen: dict[str, int], count: int) -> dict[str, int]:
    """Shares of `count` in proportion to the strata, whole numbers by largest remainder."""
    total = sum(seen.values())
    count = min(count, total)
    shares = {value: divmod(size * count, total) for value, size in seen.items()}
    left = count - sum(whole for whole, _ in shares.values())
    largest = sorted(shares, key=lambda value: (-shares[value][1], value))[:left]
    return {value: whole + (value in largest) for value, (whole, _) in sorted(shares.items())}
