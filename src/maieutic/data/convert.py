"""Convert a corpus to formats that other tools read. Importing a converted file gives the same conversations."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from maieutic.core.errors import InputError, MissingExtra
from maieutic.core.json_rows import BadRows
from maieutic.core.messages import Conversation, Problem, Role
from maieutic.data.corpus import Writer, line, read_source, refuse_source, replacing
from maieutic.data.importing import Stratum, draw_sample
from maieutic.data.results import ConvertResult

if TYPE_CHECKING:
    from maieutic.data.steps import Convert

SPEAKERS = {Role.USER: "human", Role.ASSISTANT: "gpt", Role.SYSTEM: "system", Role.TOOL: "tool"}
_ROWS, _BYTES = 1000, 16 << 20
"""A Parquet row group ends at the first of these limits, so that long conversations do not fill the memory."""


def to_sharegpt(conversations: Iterable[Conversation], write: Writer, lines: bool) -> int:
    """Write FastChat's ShareGPT format, as one JSON list or as JSON lines; each row keeps our other fields."""
    count = 0
    write(b"" if lines else b"[")
    for count, conversation in enumerate(conversations, 1):
        text = line(sharegpt_row(conversation))
        write(text if lines else (b"\n" if count == 1 else b",\n") + text[:-1])
    write(b"" if lines else b"\n]\n")
    return count


def sharegpt_row(conversation: Conversation) -> dict[str, Any]:
    """`{"id", "conversations": [{"from", "value"}], …}`; a message's other fields are kept next to `value`."""
    row = conversation.row()
    turns = [
        {"from": SPEAKERS[Role(message.pop("role"))], "value": message.pop("content"), **message}
        for message in row.pop("messages")
    ]
    return {"id": row.pop("id"), "conversations": turns, **row}


def to_messages(conversations: Iterable[Conversation], write: Writer, lines: bool) -> int:
    """Write our own JSONL: a plain corpus from a JSON list, a step's folder or a compressed corpus."""
    count = 0
    for count, conversation in enumerate(conversations, 1):  # noqa: B007
        write(line(conversation.row()))
    return count


def to_parquet(conversations: Iterable[Conversation], write: Writer, lines: bool) -> int:
    """Write Parquet with the columns of a corpus row; `meta`, which has no fixed shape, is JSON text.

    Tools, tool calls and the other optional fields of messages go to `meta` as well: reading brings them back.

    Raises:
        MissingExtra: pyarrow is not installed.
    """
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtra(
            "writing Parquet needs pyarrow", "Install it: pip install 'maieutic[train]'."
        ) from None
    text = arrow.string()
    turns = arrow.list_(arrow.struct([("role", text), ("content", text)]))
    problem = arrow.struct([(name, text) for name in Problem.model_fields])
    kinds = {"messages": turns, "problem": problem, "ended": arrow.bool_()}
    names = [name for name in Conversation.model_fields if name != "tools"]
    schema = arrow.schema([(name, kinds.get(name, text)) for name in names])
    count = 0
    with parquet.ParquetWriter(_Sink(write), schema) as writer:
        for batch in _batches(conversations):
            writer.write_table(arrow.Table.from_pylist(batch, schema=schema))
            count += len(batch)
    return count


def _batches(conversations: Iterable[Conversation]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    size = 0
    for conversation in conversations:
        text = line(conversation.row())
        row = _with_fields_in_meta(orjson.loads(text))
        batch.append({**row, "meta": orjson.dumps(row["meta"]).decode() if "meta" in row else None})
        size += len(text)
        if len(batch) >= _ROWS or size >= _BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _with_fields_in_meta(row: dict[str, Any]) -> dict[str, Any]:
    """A corpus row whose messages hold only role and content."""
    fields = {
        str(index): rest
        for index, message in enumerate(row["messages"])
        if (rest := {name: value for name, value in message.items() if name not in ("role", "content")})
    }
    tools = row.pop("tools", None)
    if not fields and not tools:
        return row
    meta = row.get("meta", {})
    turns = meta.get("turns") or {}
    both = {place: turns.get(place, {}) | fields.get(place, {}) for place in dict.fromkeys((*turns, *fields))}
    meta |= ({"tools": tools} if tools else {}) | ({"turns": both} if both else {})
    messages = [{name: message[name] for name in ("role", "content")} for message in row["messages"]]
    return {**row, "messages": messages, "meta": meta}


class _Sink(io.RawIOBase):
    """A write-only stream that passes its bytes to a function, as pyarrow requires."""

    def __init__(self, write: Writer) -> None:
        self._write, self._at = write, 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        written = bytes(data)
        self._write(written)
        self._at += len(written)
        return len(written)

    def tell(self) -> int:
        return self._at


FORMS: dict[str, Callable[[Iterable[Conversation], Writer, bool], int]] = {
    "sharegpt": to_sharegpt,
    "parquet": to_parquet,
    "messages": to_messages,
}
"""The formats in which a corpus can be written, by name."""


def convert_file(step: Convert, out: Path) -> ConvertResult:
    """Write a corpus, or a sample of it, in another format; streaming, all or nothing.

    For ShareGPT, a name that ends in `.jsonl` gives JSON lines, any other name one JSON list. `.gz` compresses.

    Raises:
        InputError: the corpus has fewer conversations than the sample, and the sample must be exact.
        StoreError: the output exists with other content, or the output is the corpus itself.
    """
    bad = BadRows(step.strict)
    refuse_source(out, [step.corpus] if isinstance(step.corpus, Path) else [])
    conversations = read_source(step.corpus, bad, tools=True)
    strata: dict[str, Stratum] = {}
    if step.sample is not None:
        conversations = draw_sample(conversations, step.sample, step.by, strata)
    with replacing(out, overwrite=step.force) as write:
        count = FORMS[step.to](conversations, write, ".jsonl" in out.suffixes)
        if step.exact_sample and step.sample is not None and count < step.sample:
            raise InputError(
                f"{step.corpus}: {count} conversations, fewer than the sample of {step.sample}",
                "Choose a smaller sample or a larger corpus; nothing was written.",
            )
    of = sum(stratum.seen for stratum in strata.values()) if strata else count
    return ConvertResult(run=str(out), to=step.to, conversations=count, of=of, bad=bad.json())
