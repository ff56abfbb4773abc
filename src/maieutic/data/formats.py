"""Importers: any known shape of conversation into ours. Each takes one JSON value and yields conversations.

What a shape holds beyond our fields is kept in `meta` (a turn's in `meta["turns"]`, by index). No text is changed:
only speaker labels and a teacher's move tag, which nobody said, are taken off.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from maieutic.data.corpus import key_list, to_conversation
from maieutic.data.reading import BadRows, Row, files_in, read_rows
from maieutic.data.seeds import seed_conversation, taught
from maieutic.errors import EmptyCorpus, InputError
from maieutic.types import Conversation, Problem, Role

_SPEAKERS = {
    Role.USER: ("user", "human", "prompter", "student", "customer"),
    Role.ASSISTANT: (
        "assistant",
        "gpt",
        "chatgpt",
        "bard",
        "bing",
        "claude",
        "bot",
        "model",
        "ai",
        "tutor",
        "teacher",
    ),
    Role.SYSTEM: ("system", "developer"),
}
ROLES = {name: role for role, names in _SPEAKERS.items() for name in names}
"""Every name a side goes by."""

_LISTS = ("messages", "turns", "conversations", "conversation", "items")
_FILE_NAME = re.compile(r"\S+\.(?:png|jpe?g|gif|webp|bmp|svg|pdf|mp3|wav|mp4)", re.IGNORECASE)


def from_turns(row: Any) -> Iterator[Conversation]:
    """`messages` and `sharegpt`: a list of turns, each with a role (`role`, `from`) and a text (`content`, `value`).

    The list stands under `messages`, `turns`, `conversation(s)` or `items`. `conversation_id` becomes the id,
    `task_description` the intent, and a `why_stop` says that the person ended it.
    """
    row = dict(_object(row))
    name = _turn_list(row)
    if name is None:
        raise ValueError(f"no list of turns (keys: {key_list(row)})")
    turns = row.pop(name)
    for ours, theirs in (("id", "conversation_id"), ("intent", "task_description")):
        if row.get(ours) is None and isinstance(row.get(theirs), (str, int)):
            row[ours] = row.pop(theirs)
    if row.get("why_stop") and "ended" not in row:
        row["ended"] = True
    _set_misfits_aside(row)
    row["messages"] = [_turn(index, turn) for index, turn in enumerate(turns)]
    yield to_conversation(row)


def _turn_list(row: Mapping[str, Any]) -> str | None:
    return next((name for name in _LISTS if isinstance(row.get(name), list)), None)


def _turn(index: int, turn: Any) -> dict[str, Any]:
    if not isinstance(turn, Mapping):
        raise ValueError(f"turn {index}: not an object with a role and a text")
    speaker = next((key for key in ("role", "from", "user", "speaker") if key in turn), None)
    words = next((key for key in ("content", "value", "text") if key in turn), None)
    if speaker is None or words is None:
        raise ValueError(f"turn {index}: no role or no text (keys: {key_list(dict(turn))})")
    role = ROLES.get(str(turn[speaker]).strip().lower())
    if role is None:
        raise ValueError(f"turn {index}: unknown role {str(turn[speaker])[:40]!r}")
    text, attachments = _text(index, turn[words])
    extra = {key: value for key, value in turn.items() if key not in (speaker, words)}
    return {"role": role, "content": text, **extra, **({"attachments": attachments} if attachments else {})}


def _text(index: int, content: Any) -> tuple[str, list[Any]]:
    """A turn's text, and what in it is no text: images and files cannot be spoken."""
    if isinstance(content, str):
        return content, []
    if content is None:
        return "", []
    if not isinstance(content, list):
        raise ValueError(f"turn {index}: the text is neither a string nor a list of parts")
    texts, attachments = [], []
    for part in content:
        words = part.get("text") if isinstance(part, Mapping) else part
        if isinstance(words, str) and not (isinstance(part, str) and _FILE_NAME.fullmatch(part)):
            texts.append(words)
        else:
            attachments.append(part)
    return "\n".join(texts), attachments


def _set_misfits_aside(row: dict[str, Any]) -> None:
    """Move what stands under one of our names but is something else to `meta`, so that no conversation is lost."""
    meta = row.pop("meta", None)
    aside: dict[str, Any] = (
        dict(meta) if isinstance(meta, Mapping) else {} if meta is None else {"meta": meta}
    )
    for key in ("id", "intent", "profile", "user_id", "source", "licence"):
        value = row.get(key)
        whole = isinstance(value, int) and not isinstance(value, bool) and key in ("id", "user_id")
        if not (value is None or isinstance(value, str) or whole):
            aside[key] = row.pop(key)
    if not isinstance(row.get("ended", False), bool):
        aside["ended"] = row.pop("ended")
    if row.get("problem") is not None and not isinstance(row["problem"], str):
        try:
            Problem.model_validate(row["problem"])
        except ValidationError:
            aside["problem"] = row.pop("problem")
    row["meta"] = aside


def from_oasst(row: Any) -> Iterator[Conversation]:
    """Open Assistant message trees: one conversation for each path from the root to a leaf.

    Deleted messages are left out with what hangs on them. All paths of a tree share `meta["tree"]`, so a split keeps
    them together.
    """
    tree = _object(row)
    root = tree.get("prompt")
    if not isinstance(root, Mapping):
        raise ValueError(f"no message tree (keys: {key_list(dict(tree))})")
    open_paths: list[list[Mapping[str, Any]]] = [] if root.get("deleted") else [[root]]
    while open_paths:
        path = open_paths.pop()
        replies = path[-1].get("replies") or ()
        living = [reply for reply in replies if isinstance(reply, Mapping) and not reply.get("deleted")]
        open_paths.extend([*path, reply] for reply in reversed(living))
        if not living:
            yield to_conversation(
                {
                    "id": path[-1].get("message_id"),
                    "messages": [
                        {k: v for k, v in _turn(n, node).items() if k in ("role", "content")}
                        for n, node in enumerate(path)
                    ],
                    "meta": {
                        "tree": tree.get("message_tree_id") or root.get("message_id"),
                        "lang": root.get("lang"),
                    },
                }
            )


def from_mathdial(row: Any) -> Iterator[Conversation]:
    """MathDial: the student is the user, the human teacher the assistant; each teacher's move is kept in `meta`."""
    row = dict(_object(row))
    told, statement = row.pop("conversation", None), row.pop("question", None)
    if not isinstance(told, str) or not isinstance(statement, str):
        raise ValueError(f"no MathDial dialogue (keys: {key_list(row)})")
    turns: list[dict[str, Any]] = []
    for said in told.split("|EOM|"):
        speaker, colon, words = said.partition(":")
        if colon and len(speaker) <= 40:
            turns.append(taught(speaker, words.removeprefix(" ")))
        elif turns:
            turns[-1]["content"] += "\n" + said
        else:
            raise ValueError("a MathDial dialogue that begins with no speaker")
    solution = row.pop("ground_truth", None)
    problem = {
        "statement": statement,
        "answer": last_number(solution or ""),
        "solution": solution,
        "attempt": row.pop("student_incorrect_solution", None),
        "misconception": row.pop("teacher_described_confusion", None),
    }
    profile = row.pop("student_profile", None)
    yield to_conversation(
        {
            "messages": turns,
            "problem": problem,
            "profile": profile,
            "ended": True,
            "meta": {**row, **_opens(turns)},
        }
    )


def last_number(solution: str) -> str | None:
    """The number on the last line of a worked solution, as written there: MathDial's and GSM8K's gold answer."""
    lines = solution.strip().splitlines() or [""]
    numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?(?:/\d+)?|-?\.\d+", lines[-1])
    return numbers[-1].rstrip(",") if numbers else None


def from_bridge(row: Any) -> Iterator[Conversation]:
    """Bridge: the context and the tutor's own reply; the experts' revisions are kept in `meta`."""
    row = dict(_object(row))
    context, reply = row.pop("c_h", None), row.pop("c_r", None)
    if not isinstance(context, list):
        raise ValueError(f"no Bridge dialogue (keys: {key_list(row)})")
    turns = [_turn(index, turn) for index, turn in enumerate([*context, *(reply or ())])]
    yield to_conversation({"id": row.pop("c_id", None), "messages": turns, "meta": {**row, **_opens(turns)}})


def _opens(turns: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """A note for `clean`: here the tutor rightly speaks first."""
    return {"opens": "assistant"} if turns and turns[0]["role"] == Role.ASSISTANT else {}


def from_seeds(value: Any) -> Iterator[Conversation]:
    """socratic-llm's prompt strings, alone or as the `prompt` of its result rows (the rest goes to `meta`)."""
    if isinstance(value, str):
        yield seed_conversation(value)
        return
    row = dict(_object(value))
    prompt = row.pop("prompt", None)
    if not isinstance(prompt, str):
        raise ValueError(f"no prompt string (keys: {key_list(dict(value))})")
    yield seed_conversation(prompt, row)


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{'a list' if isinstance(value, list) else type(value).__name__}, not an object")
    return value


FORMATS: dict[str, Callable[[Any], Iterator[Conversation]]] = {
    "messages": from_turns,
    "sharegpt": from_turns,
    "oasst": from_oasst,
    "mathdial": from_mathdial,
    "bridge": from_bridge,
    "socratic-llm": from_seeds,
    "socratic-debugging": from_seeds,
}
"""Every format by the name the command line knows."""


def guess(value: Any) -> str | None:
    """The format a JSON value looks like, by its keys; None where it looks like none."""
    if isinstance(value, str):
        return "socratic-debugging" if "<dialogue>" in value else "socratic-llm"
    if not isinstance(value, Mapping):
        return None
    if isinstance(value.get("prompt"), Mapping):
        return "oasst"
    if isinstance(value.get("prompt"), str) and _turn_list(value) is None:
        return "socratic-llm"
    if isinstance(value.get("c_h"), list):
        return "bridge"
    if isinstance(value.get("conversation"), str) and "question" in value:
        return "mathdial"
    name = _turn_list(value)
    if name is None or (value[name] and not isinstance(value[name][0], Mapping)):
        return None
    return "sharegpt" if name == "items" or (value[name] and "from" in value[name][0]) else "messages"


class ImportReport(NamedTuple):
    """What an import read; full once its conversations are consumed."""

    formats: dict[str, Counter[str]]
    """By file: rows read as each format."""
    bad: BadRows

    def json(self) -> dict[str, Any]:
        """`{"formats": {file: {format: rows}}, "bad": {"count", "rows"}}`."""
        return {
            "formats": {name: dict(found) for name, found in self.formats.items()},
            "bad": self.bad.json(),
        }


def import_files(
    sources: Iterable[Path | str],
    format: str = "auto",
    *,
    ended: bool = False,
    source: str | None = None,
    licence: str | None = None,
    strict: bool = False,
) -> tuple[Iterator[Conversation], ImportReport]:
    """Read files or folders of any known shape, streaming.

    Args:
        sources: files (`.json`, `.jsonl`, `.txt`, `.parquet`, also `.gz`) and folders of them.
        format: one of `FORMATS`, or `auto` to go by each row's keys.
        ended: say of every conversation that the person ended it where it stops.
        source: where the rows come from, if a row does not say so itself; default: its file's name.
        licence: their licence, if a row does not say so itself.
        strict: raise at the first row that cannot be read.

    Returns:
        The conversations, and the report that fills as they are consumed.

    Raises:
        InputError: the format is unknown, or a row is broken under `strict`.
        MissingInput: at once, where a source does not exist.
        EmptyCorpus: at the end, where not one conversation came.
    """
    if format != "auto" and format not in FORMATS:
        raise InputError(f"no format {format!r}", f"Known: auto, {', '.join(FORMATS)}.")
    files = [file for one in sources for file in files_in(Path(one))]
    report = ImportReport({}, BadRows(strict))
    return _imported(files, format, {"ended": ended, "source": source, "licence": licence}, report), report


def _imported(
    files: Sequence[Path], format: str, fill: dict[str, Any], report: ImportReport
) -> Iterator[Conversation]:
    found = 0
    for path in files:
        counts = report.formats.setdefault(str(path), Counter())
        for row in read_rows(path, report.bad):
            for conversation in _read(row, format, path.name == "rows.jsonl", counts, report.bad):
                found += 1
                yield _filled(conversation, path.name, fill)
    if not found:
        first = f" ({report.bad.summary(1)})" if report.bad.count else ""
        raise EmptyCorpus(
            f"{', '.join(map(str, files[:3]))}: not one conversation to import{first}",
            f"Known formats: {', '.join(FORMATS)}; name one with --format if the guess is wrong.",
        )


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


def _filled(conversation: Conversation, file: str, fill: Mapping[str, Any]) -> Conversation:
    changes: dict[str, Any] = {"ended": True} if fill["ended"] else {}
    if conversation.source is None:
        changes["source"] = fill["source"] or file
    if conversation.licence is None and fill["licence"]:
        changes["licence"] = fill["licence"]
    return conversation.model_copy(update=changes)
