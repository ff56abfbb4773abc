"""A corpus on disk: JSONL of conversations, read and written as a stream; and hashes to find equal conversations.

Reading skips broken rows and names them. Writing is all or nothing. A file with other content is replaced only with
`overwrite`.
"""

from __future__ import annotations

import filecmp
import gzip
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import orjson
from pydantic import ValidationError

from maieutic.core.console import note
from maieutic.core.errors import EmptyCorpus, MissingInput, StoreError
from maieutic.core.json_rows import BadRows, json_safe
from maieutic.core.messages import Conversation, Problem, Role, fingerprint
from maieutic.core.reading import read_rows, without_rows
from maieutic.core.store import full_disk, stage_rows

Writer = Callable[[bytes], object]
_STARTS = ("intent", "profile", "problem")


def read_corpus(
    path: Path | str, *, on_bad: BadRows | None = None, seeds: bool = False, tools: bool = False
) -> Iterator[Conversation]:
    """The conversations of a corpus, streaming.

    Args:
        path: JSONL (also `.gz`), one JSON list, or a step's folder or `rows.jsonl`, without the `key` of its rows.
        on_bad: collects the broken rows; null: name them on standard error at the end.
        seeds: accept rows without turns if they have an intent, a profile or a problem.
        tools: accept conversations with tool messages, which otherwise count as broken rows.

    Raises:
        MissingInput: at once, if there is no such file.
        EmptyCorpus: at the end, if there is no conversation.
        InputError: at the first broken row, if `on_bad` is strict.
    """
    bad = BadRows() if on_bad is None else on_bad
    return _conversations(Path(path), corpus_rows(path, bad), bad, on_bad is None, seeds, tools)


def read_source(source: Any, on_bad: BadRows, *, tools: bool = False) -> Iterator[Conversation]:
    """The conversations of a corpus. The corpus is a path, or a list of conversations or rows."""
    if isinstance(source, Path):
        return read_corpus(source, on_bad=on_bad, tools=tools)
    rows = ((f"item {number}", one) for number, one in enumerate(source, 1))
    return _conversations(Path("the list"), rows, on_bad, False, False, tools)


def corpus_rows(path: Path | str, bad: BadRows) -> Iterator[tuple[str, Any]]:
    """The rows of a corpus with their places, streaming; `to_conversation` makes conversations of them.

    Raises:
        MissingInput: at once, if there is no such file.
    """
    path = Path(path)
    if not path.exists():
        raise MissingInput(f"{path}: no such file or folder", "Check the path.")
    is_stage = path.is_dir() or (path.name == "rows.jsonl" and (path.parent / "config.json").is_file())
    return _stage(path) if is_stage else ((row.where, row.value) for row in read_rows(path, bad))


def _stage(folder: Path) -> Iterator[tuple[str, Any]]:
    if folder.is_dir():
        own = folder / "rows.jsonl"
        stages = [own] if own.is_file() else [inner / "rows.jsonl" for inner in folder.iterdir()]
        if not any(file.is_file() and file.stat().st_size for file in stages):
            raise without_rows(folder)
    rows = (
        {name: item for name, item in row.items() if name != "key"}
        for row in stage_rows(folder)
        if "failure" not in row  # a failed dialogue has a row too
    )
    return ((f"{folder}, row {number}", row) for number, row in enumerate(rows, 1))


def _conversations(
    path: Path, rows: Iterable[tuple[str, Any]], bad: BadRows, print_bad: bool, seeds: bool, tools: bool
) -> Iterator[Conversation]:
    found = 0
    for where, value in rows:
        try:
            conversation = value if isinstance(value, Conversation) else to_conversation(value, seeds, tools)
        except ValueError as error:
            bad.add(where, str(error))
            continue
        found += 1
        yield conversation
    if not found:
        raise EmptyCorpus(
            f"{path}: no conversation found" + (f" ({bad.summary(1)})" if bad.count else ""),
            "A corpus is JSONL with `messages`; convert other formats with `maieutic import`.",
        )
    if print_bad and bad.count:
        note(bad.summary())


def to_conversation(value: Any, seed: bool = False, tools: bool = False) -> Conversation:
    """A row as a conversation.

    Args:
        value: the row.
        seed: accept a row without turns if it has an intent, a profile or a problem.
        tools: accept tool messages. They can be imported and converted, but not yet rendered or simulated.

    Raises:
        ValueError: the row is not a conversation; the message names the wrong field and quotes no text of the row.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{_named(value)}, not an object")
    if bare := seed and not value.get("messages") and any(value.get(key) for key in _STARTS):
        name = fingerprint([str(value.get(key)) for key in _STARTS])[:16]
        value = {**value, "id": value.get("id") or name, "messages": []}
    try:
        conversation = Conversation.model_validate(value)
    except ValidationError as error:
        raise ValueError(_first_problem(value, error)) from None
    if not conversation.messages and not bare:
        raise ValueError("a conversation without turns")
    if not tools and any(message.role is Role.TOOL for message in conversation.messages):
        raise ValueError("a message with the role `tool`, which is not supported here")
    return conversation


def _named(value: Any) -> str:
    names = {list: "a list", str: "a string", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null")


def _first_problem(row: dict[str, Any], error: ValidationError) -> str:
    if "messages" not in row:
        return f"no `messages` (keys: {key_list(row)})"
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(_short(str(part)) for part in first["loc"])
    more = f", and {error.error_count() - 1} more" if error.error_count() > 1 else ""
    return f"{place}: {first['msg']}{more}" if place else f"{first['msg']}{more}"


def key_list(row: dict[str, Any]) -> str:
    """At most ten keys of a row as text, each cut short."""
    keys = [_short(key) for key in sorted(map(str, row))]
    return (", ".join(keys[:10]) + (", …" if len(keys) > 10 else "")) or "none"


def _short(name: str) -> str:
    flat = " ".join(name.split())
    return flat if len(flat) <= 40 else flat[:39] + "…"


def line(row: dict[str, Any]) -> bytes:
    """A row as one line of JSONL, the newline included."""
    try:
        return orjson.dumps(row) + b"\n"
    except TypeError:  # lone surrogates or huge integers in a row that was built in Python
        return json.dumps(json_safe(row), ensure_ascii=False, allow_nan=False).encode() + b"\n"


def write_corpus(
    path: Path | str,
    conversations: Iterable[Conversation],
    *,
    overwrite: bool = False,
    sources: Iterable[Path | str] = (),
) -> int:
    """Write a corpus (compressed if the name ends in `.gz`), all or nothing, and return the number of its rows.

    A file with the same content is left as it is.

    Args:
        path: JSONL; its folders are created.
        conversations: consumed once, streaming.
        overwrite: replace a file with other content.
        sources: the files that the conversations are read from; they are never replaced, even with `overwrite`.

    Raises:
        StoreError: the file exists with other content, or is one of the sources.
    """
    path = Path(path)
    refuse_source(path, sources)
    count = 0
    with replacing(path, overwrite=overwrite) as write:
        for count, conversation in enumerate(conversations, 1):  # noqa: B007
            write(line(conversation.row()))
    return count


def refuse_source(path: Path, sources: Iterable[Path | str]) -> None:
    """Refuse an output file that is one of the inputs, or an existing file inside an input folder.

    Raises:
        StoreError: the output is an input.
    """
    for source in map(Path, sources):
        same = path.exists() and source.exists() and path.samefile(source)
        inside = source.is_dir() and path.exists() and path.resolve().is_relative_to(source.resolve())
        if same or inside:
            raise StoreError(
                f"{path} is an input of this command", "Choose another --out; the input was not changed."
            )


@contextmanager
def replacing(path: Path, *, overwrite: bool) -> Iterator[Writer]:
    """Write one file, which appears only when it is complete. See `replacing_all`."""
    with replacing_all([path], overwrite=overwrite) as (write,):
        yield write


@contextmanager
def replacing_all(paths: Sequence[Path], *, overwrite: bool) -> Iterator[list[Writer]]:
    """Write files that appear together, only when all are complete; yields a function that writes to each.

    Raises:
        StoreError: a file exists with other content and may not be replaced, or a file cannot be written.
    """
    parts = [path.with_name(f".{path.name}.{os.getpid()}.part") for path in paths]
    with full_disk(paths[0]):
        for path in paths:
            if path.exists() and not path.is_file():
                raise StoreError(f"{path} is not an ordinary file", "Choose another --out.")
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with ExitStack() as stack:
                raws = [stack.enter_context(part.open("wb")) for part in parts]
                with ExitStack() as packing:
                    files = [_packed(path, raw, packing) for path, raw in zip(paths, raws, strict=True)]
                    yield [file.write for file in files]
                for raw in raws:
                    raw.flush()
                    os.fsync(raw.fileno())
            _move_parts(list(zip(parts, paths, strict=True)), overwrite)
        finally:
            for part in parts:
                part.unlink(missing_ok=True)


def _packed(path: Path, raw: BinaryIO, packing: ExitStack) -> BinaryIO:
    if path.suffix != ".gz":
        return raw
    return cast(BinaryIO, packing.enter_context(gzip.GzipFile("", "wb", 6, raw, 0)))


def _move_parts(files: list[tuple[Path, Path]], overwrite: bool) -> None:
    """Rename all parts to their final names, or no part if a rename would replace other content."""
    for part, path in files:
        if path.exists() and not overwrite and not filecmp.cmp(part, path, shallow=False):
            raise StoreError(
                f"{path} exists with other content", "Choose another --out, or replace the file with --force."
            )
    for part, path in files:
        part.replace(path)


def identity(conversation: Conversation) -> str:
    """A hash of messages and problem: equal for two conversations that differ only in id and other fields."""
    turns = [message.key() for message in conversation.messages]
    problem = conversation.problem.model_dump() if conversation.problem else None
    return fingerprint([turns, problem])


_CODE = re.compile(
    r"^\s*(?:\d+\.\s*)?(?:def \w+\s*\(|class \w+|import \w+|from [\w.]+ import |#include|function \w*\s*\(|"
    r"(?:public|private|static) \w+|(?:for|while|if) .*[:{]\s*$|(?:const|let|var) \w+ ?=)",
    re.MULTILINE,
)


def program(problem: Problem) -> str | None:
    """The student's attempt if it is code. A wrong solution in words is not part of the problem."""
    return problem.attempt if problem.attempt and _CODE.search(problem.attempt) else None


def problem_key(problem: Problem | None) -> str | None:
    """A hash of statement and program, ignoring white space: equal for equal problems; None without either."""
    if problem is None:
        return None
    words = [" ".join(text.split()) for text in (problem.statement, program(problem) or "")]
    return fingerprint(words) if any(words) else None


def program_key(problem: Problem | None) -> str | None:
    """A hash of the program, ignoring white space and the statement; None without a program."""
    code = program(problem) if problem else None
    return fingerprint(" ".join(code.split())) if code and code.strip() else None
