"""Logs of conversations with assistants: `wildchat`, `lmsys`, `ultrachat` and Baize's transcripts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from maieutic.core.messages import Conversation, Role
from maieutic.data.corpus import key_list, to_conversation
from maieutic.data.formats.turns import as_object, from_turns, set_misfits_aside

_USERS = ("hashed_ip", "user_hash")
_PERSON = (*_USERS, "country", "state", "header")
"""What a log says of the person again in every turn."""
_TRANSCRIPTS = ("input", "chat_sample", "text")
_LABEL = re.compile(r"(?:\A|(?<=\n))\[\|(Human|AI)\|\] ?")
_FRAME = "The conversation between human and AI assistant."


def from_log(row: Any) -> Iterator[Conversation]:
    """`wildchat` and `lmsys`: `conversation` is a list of turns with their own flags.

    `conversation_hash` or `conversation_id` becomes the id, `hashed_ip` (the row's, else the first turn that has one)
    the `user_id`. Language, model, time (as text) and all moderation flags stay in `meta`, a turn's own in
    `meta["turns"]`; nulls go, and so does what a turn only repeats of the person.
    """
    row = dict(as_object(row))
    said = row.get("conversation")
    if not isinstance(said, list):
        raise ValueError(f"no list of turns under `conversation` (keys: {key_list(row)})")
    turns = [turn for turn in said if isinstance(turn, dict)]
    person = {key: value for key in _PERSON if (value := _first(key, [row, *turns])) is not None}
    row |= person
    user = next((key for key in _USERS if key in person), None)
    if row.get("user_id") is None and user is not None:
        row["user_id"] = str(row.pop(user))
    row["conversation"] = [_lean(turn, person) if isinstance(turn, dict) else turn for turn in said]
    if row.get("timestamp") is not None:
        row["timestamp"] = str(row["timestamp"])
    for key in ("openai_moderation", "detoxify_moderation"):
        if key in row:
            row[key] = _without_nulls(row[key])
    yield from from_turns(row)


def _first(key: str, places: list[Mapping[str, Any]]) -> Any:
    return next((place[key] for place in places if place.get(key) is not None), None)


def _lean(turn: Mapping[str, Any], person: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in turn.items() if key not in person or value != person[key]}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def from_ultrachat(row: Any) -> Iterator[Conversation]:
    """UltraChat: `data` is a list of strings, the person first; or `messages` with `prompt` and `prompt_id`."""
    row = dict(as_object(row))
    said = row.pop("data", None)
    if said is None:
        yield from from_turns(row)
        return
    if not isinstance(said, list):
        raise ValueError("`data` is no list of texts")
    for index, text in enumerate(said):
        if not isinstance(text, str):
            raise ValueError(f"turn {index}: not a text")
    set_misfits_aside(row)
    order = (Role.USER, Role.ASSISTANT)
    yield to_conversation(
        {**row, "messages": [{"role": order[n % 2], "content": text} for n, text in enumerate(said)]}
    )


def from_baize(value: Any) -> Iterator[Conversation]:
    """Baize: one string whose turns begin `[|Human|]` and `[|AI|]`, alone or as `input` (or `chat_sample`, `text`).

    A label, one space behind it and the line break before the next are the layout; the rest of a turn is kept to the
    byte. The empty human opening at the end is no turn.
    """
    row = {"input": value} if isinstance(value, str) else dict(as_object(value))
    name = next((key for key in _TRANSCRIPTS if is_transcript(row.get(key))), None)
    if name is None:
        raise ValueError(f"no transcript with [|Human|] and [|AI|] (keys: {key_list(row)})")
    text = row.pop(name)
    marks = list(_LABEL.finditer(text))
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    turns = [
        {
            "role": Role.USER if mark[1] == "Human" else Role.ASSISTANT,
            "content": text[mark.end() : end].removesuffix("\n"),
        }
        for mark, end in zip(marks, ends, strict=True)
    ]
    if len(turns) > 1 and turns[-1]["role"] == Role.USER and not turns[-1]["content"].strip():
        turns.pop()
    set_misfits_aside(row)
    before = text[: marks[0].start()].strip()
    if before and before != _FRAME:
        row["preamble"] = before
    yield to_conversation({**row, "messages": turns})


def is_transcript(value: Any) -> bool:
    """Whether a value is a text with Baize's labels."""
    return isinstance(value, str) and _LABEL.search(value) is not None
