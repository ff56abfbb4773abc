"""Import: files, folders and datasets of any known format into conversations, streaming; and samples of a stream.

`FORMATS` names every format and the function that reads it (`data.formats`); to add a format, add it there and, if
its rows can be recognised, to `guess`.

A sample keeps the conversations with the lowest content hashes. Each stratum has a share in proportion to its size
(largest remainders). So the same rows give the same sample in any order, and nothing is shuffled.
"""

from __future__ import annotations

import heapq
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import orjson

from maieutic.core.errors import EmptyCorpus, InputError
from maieutic.core.json_rows import BadRows, Placed
from maieutic.core.messages import Conversation
from maieutic.core.reading import files_in, read_rows
from maieutic.core.step import build
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

if TYPE_CHECKING:
    from maieutic.data.steps import Import

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
"""The formats by name."""


def guess(value: Any) -> str | None:
    """The format of a JSON value, by its keys; None if unknown."""
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
    """Counts of an import, complete once its conversations are consumed."""

    formats: dict[str, Counter[str]]
    """By file or dataset: rows read as each format."""
    bad: BadRows
    licences: Counter[str | None]
    """Conversations by licence; None counts conversations without a licence."""
    strata: dict[str, Stratum]
    """For a sample: conversations seen and kept, by value of the stratifying field."""

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
    """One file or dataset: its name, and the source and licence of rows without their own."""

    label: str
    source: str
    licence: str | None
    read: Callable[[BadRows], Iterator[Placed]]
    is_stage: bool


def import_files(
    sources: Iterable[Path | str], format: str = "auto", **settings: Any
) -> tuple[Iterator[Conversation], ImportReport]:
    """`read_sources` for the step `Import(sources=sources, format=format, **settings)`."""
    from maieutic.data.steps import Import

    step = build(Import, {"sources": list(map(str, sources)), "format": format, **settings})
    return read_sources(cast("Import", step))


def read_sources(step: Import, bad: BadRows | None = None) -> tuple[Iterator[Conversation], ImportReport]:
    """Read files, folders or datasets of any known format, streaming.

    Files are `.json`, `.jsonl`, `.csv`, `.tsv`, `.txt` (each also with `.gz`) and `.parquet`; datasets are `hub:NAME`,
    `hub:NAME:SPLIT` and `hub:NAME:CONFIG:SPLIT`.

    Args:
        step: the settings.
        bad: collects the bad rows.

    Returns:
        The conversations, and the report, which is complete once they are consumed.

    Raises:
        InputError: the format is unknown, or a row is bad and the step is strict.
        MissingInput: at once, if a source does not exist.
        MissingExtra: a library that reads one of the sources is not installed.
        EmptyCorpus: at the end, if there is no conversation.
    """
    check_format(step.format)
    places = [place for source in step.sources for place in _places(source)]
    report = ImportReport({}, BadRows(step.strict) if bad is None else bad, Counter(), {})
    found = _imported(places, step, report)
    if step.sample is not None:
        found = draw_sample(found, step.sample, step.by, report.strata)
    return _counted(found, report), report


def check_format(name: str) -> None:
    """Refuse an unknown format.

    Raises:
        InputError: the format is neither `auto` nor in `FORMATS`.
    """
    if name != "auto" and name not in FORMATS:
        raise InputError(f"no format {name!r}", f"Known: auto, {', '.join(FORMATS)}.")


def _places(source: Path | str) -> Iterator[_Place]:
    if is_hub(source):
        opened = open_dataset(source)
        yield _Place(opened.name, opened.name, opened.licence, opened.read, False)
        return
    for path in files_in(Path(source)):
        yield _Place(str(path), path.name, None, partial(read_rows, path), path.name == "rows.jsonl")


def _imported(places: Sequence[_Place], step: Import, report: ImportReport) -> Iterator[Conversation]:
    found = 0
    for place in places:
        counts = report.formats.setdefault(place.label, Counter())
        for row in place.read(report.bad):
            for conversation in _read(row, step.format, place.is_stage, counts, report.bad):
                found += 1
                yield _filled(conversation, place, step)
    if not found:
        first = f" ({report.bad.summary(1)})" if report.bad.count else ""
        raise EmptyCorpus(
            f"{', '.join(place.label for place in places[:3])}: no conversation to import{first}",
            f"Known formats: {', '.join(FORMATS)}; give one with --format if the guess is wrong.",
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
        bad.add(row.where, f"unknown format ({keys})")
        return
    try:
        conversations = list(FORMATS[name](value))
    except ValueError as error:
        bad.add(row.where, str(error))
        return
    counts[name] += 1
    yield from conversations


def _filled(conversation: Conversation, place: _Place, step: Import) -> Conversation:
    changes: dict[str, Any] = {"ended": True} if step.ended else {}
    if conversation.source is None:
        changes["source"] = step.source or place.source
    if conversation.licence is None:
        own = conversation.meta.get("license")
        if isinstance(own, str) and own:
            changes["licence"] = own
            changes["meta"] = {key: item for key, item in conversation.meta.items() if key != "license"}
        elif licence := step.licence or place.licence:
            changes["licence"] = licence
    return conversation.model_copy(update=changes)


FIELDS = ("source", "licence", "user_id", "intent", "profile")
"""Fields of a conversation that can stratify a sample; any other name is a key of `meta`."""
NONE = "(none)"
ALL = "(all)"


class Stratum(NamedTuple):
    """How many conversations had a value of the field, and how many of them were kept."""

    seen: int
    kept: int


def draw_sample(
    conversations: Iterable[Conversation], count: int, by: str | None, strata: dict[str, Stratum]
) -> Iterator[Conversation]:
    """Keep `count` conversations, in their order, reading the stream once.

    Candidates are held in a temporary file, so memory holds a few numbers for each and no text.

    Args:
        conversations: consumed to the end before the first conversation is yielded.
        count: how many to keep; all if there are fewer.
        by: stratify by this field (one of `FIELDS`, or a key of `meta`); None: do not stratify.
        strata: filled with the numbers of conversations seen and kept, by value.

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
                f"cannot stratify the sample by {by!r}: no conversation has that field",
                f"Fields: {', '.join((*sorted(names)[:12], *FIELDS))}.",
            )
        quotas = _quotas({value: draw.seen for value, draw in draws.items()}, count)
        strata.update({value: Stratum(draws[value].seen, quota) for value, quota in quotas.items()})
        spool.flush()
        for place in sorted(at for value, quota in quotas.items() for at in draws[value].lowest(quota)):
            spool.seek(place)
            yield Conversation.model_validate(orjson.loads(spool.readline()))


class _Draw:
    """The lowest hashes of one stratum so far, at most `size`, each with its offset in the temporary file."""

    def __init__(self, size: int) -> None:
        self.size, self.seen = size, 0
        self._heap: list[tuple[int, int]] = []  # negated: the first item is the largest hash

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
