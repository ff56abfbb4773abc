"""Formats of chats: lists of turns, message trees, single rounds, and logs of conversations with assistants.

- lists of turns (`messages`, `sharegpt`), message trees (`oasst`)
- single rounds: one instruction and its answer (`alpaca`, `dolly`, `wizardlm`); the material of an instruction
  (`input`, `context`) follows it in the user's turn, after an empty line
- logs: `wildchat`, `lmsys`, `ultrachat`, `baize`

Other keys of a row are kept in `meta`, those of a turn in `meta["turns"]` by its index. No text is changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from maieutic.core.messages import Conversation, Problem, Role, join_parts
from maieutic.data.corpus import key_list, to_conversation

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
    Role.TOOL: ("tool",),
}
ROLES = {name: role for role, names in _SPEAKERS.items() for name in names}
"""The roles by the names that formats use."""

_LISTS = ("messages", "turns", "conversations", "conversation", "items")
_IDS = ("conversation_id", "conversation_hash", "prompt_id", "idx")


def from_turns(row: Any) -> Iterator[Conversation]:
    """`messages` and `sharegpt`: a list of turns, each with a role (`role`, `from`) and a text (`content`, `value`).

    The key of the list is `messages`, `turns`, `conversation(s)` or `items`. `conversation_id`, `conversation_hash`,
    `prompt_id` or `idx` becomes the id, `task_description` the intent, and `why_stop` means that the person ended the
    conversation. A `prompt` that repeats a turn is dropped.
    """
    row = dict(as_object(row))
    name = turn_list(row)
    if name is None:
        raise ValueError(f"no list of turns (keys: {key_list(row)})")
    turns = row.pop(name)
    for ours, theirs in (*(("id", name) for name in _IDS), ("intent", "task_description")):
        if row.get(ours) is None and isinstance(row.get(theirs), (str, int)):
            row[ours] = row.pop(theirs)
    if row.get("why_stop") and "ended" not in row:
        row["ended"] = True
    set_misfits_aside(row)
    row["messages"] = [turn(index, said) for index, said in enumerate(turns)]
    set_prompt_aside(row, [said["content"] for said in row["messages"]])
    yield to_conversation(row, tools=True)


def set_prompt_aside(row: dict[str, Any], texts: Sequence[str]) -> None:
    """Drop a row's own `prompt` if it is one of the texts, else rename it to `given_prompt`.

    In our corpora `meta["prompt"]` marks a prompt that has no reply yet.
    """
    prompt = row.pop("prompt", None)
    if prompt is not None and prompt not in texts:
        row["given_prompt"] = prompt


def turn_list(row: Mapping[str, Any]) -> str | None:
    """The key of a row's list of turns, or None."""
    return next((name for name in _LISTS if isinstance(row.get(name), list)), None)


def turn(index: int, turn: Any) -> dict[str, Any]:
    """A turn with its role and text under the keys `role` and `content`; its other keys are kept.

    Raises:
        ValueError: the turn has no role, no text, or an unknown role.
    """
    if not isinstance(turn, dict):
        raise ValueError(f"turn {index}: not an object with a role and a text")
    speaker = next((key for key in ("role", "from", "user", "speaker") if key in turn), None)
    words = next((key for key in ("content", "value", "text") if key in turn), None)
    if speaker is None or words is None:
        raise ValueError(f"turn {index}: no role or no text (keys: {key_list(dict(turn))})")
    role = ROLES.get(str(turn[speaker]).strip().lower())
    if role is None:
        raise ValueError(f"turn {index}: unknown role {str(turn[speaker])[:40]!r}")
    text, attachments = _text(index, turn[words])
    extra = {key: value for key, value in turn.items() if value is not None and key not in (speaker, words)}
    return {"role": role, "content": text, **extra, **({"attachments": attachments} if attachments else {})}


def _text(index: int, content: Any) -> tuple[str, list[Any]]:
    """A turn's text, and its parts that are not text, such as images and files."""
    if isinstance(content, str):
        return content, []
    if content is None:
        return "", []
    if not isinstance(content, list):
        raise ValueError(f"turn {index}: the text is neither a string nor a list of parts")
    return join_parts(content)


def set_misfits_aside(row: dict[str, Any]) -> None:
    """Move values that do not fit our field of the same name to `meta`, so that no conversation is lost."""
    meta = row.pop("meta", None)
    aside: dict[str, Any] = dict(meta) if isinstance(meta, dict) else {} if meta is None else {"meta": meta}
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

    Deleted messages are left out with all their replies. All paths of a tree share `meta["tree"]`, so a split keeps
    them together.
    """
    tree = as_object(row)
    root = tree.get("prompt")
    if not isinstance(root, dict):
        raise ValueError(f"no message tree (keys: {key_list(dict(tree))})")
    open_paths: list[list[Mapping[str, Any]]] = [] if root.get("deleted") else [[root]]
    while open_paths:
        path = open_paths.pop()
        replies = path[-1].get("replies") or ()
        living = [reply for reply in replies if isinstance(reply, dict) and not reply.get("deleted")]
        open_paths.extend([*path, reply] for reply in reversed(living))
        if not living:
            yield to_conversation(
                {
                    "id": path[-1].get("message_id"),
                    "messages": [
                        {k: v for k, v in turn(n, node).items() if k in ("role", "content")}
                        for n, node in enumerate(path)
                    ],
                    "meta": {
                        "tree": tree.get("message_tree_id") or root.get("message_id"),
                        "lang": root.get("lang"),
                    },
                }
            )


def as_object(value: Any) -> Mapping[str, Any]:
    """The value, which must be a JSON object.

    Raises:
        ValueError: the value is something else.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{'a list' if isinstance(value, list) else type(value).__name__}, not an object")
    return value


_MATERIAL = ("input", "context")
_ANSWERS = ("output", "response")


def from_single(row: Any) -> Iterator[Conversation]:
    """`alpaca` (`instruction`, `input`, `output`) and `dolly` (`instruction`, `context`, `response`).

    All other keys, such as `category`, go to `meta`; a `text` or `prompt` that repeats the round is dropped.
    """
    row = dict(as_object(row))
    keys = key_list(row)
    answer = next((name for name in _ANSWERS if row.get(name) is not None), None)
    if row.get("instruction") is None or answer is None:
        raise ValueError(f"no instruction with an output or a response (keys: {keys})")
    material = next((name for name in _MATERIAL if row.get(name)), None)
    asked, answered = _string(row, "instruction"), _string(row, answer)
    _drop_repetitions(row, asked, answered)
    if material:
        asked = f"{asked}\n\n{_string(row, material)}"
    for name in (*_MATERIAL, *_ANSWERS):
        if row.get(name) in (None, ""):
            row.pop(name, None)
    set_misfits_aside(row)
    turns = [{"role": Role.USER, "content": asked}, {"role": Role.ASSISTANT, "content": answered}]
    yield to_conversation({**row, "messages": turns})


def from_wizardlm(row: Any) -> Iterator[Conversation]:
    """WizardLM's evolved instructions: `instruction` and `output`, or `idx` and a list of `conversations`."""
    row = as_object(row)
    return from_single(row) if turn_list(row) is None else from_turns(row)


def _string(row: dict[str, Any], name: str) -> str:
    text = row.pop(name)
    if not isinstance(text, str):
        raise ValueError(f"{name}: not a text")
    return text


def _drop_repetitions(row: dict[str, Any], asked: str, answered: str) -> None:
    """Drop `text` (in Alpaca the round in a prompt template) and `prompt` (in some copies the first half of `text`)."""
    text, prompt = row.get("text"), row.get("prompt")
    if isinstance(text, str) and asked and answered and asked in text and answered in text:
        del row["text"]
    set_prompt_aside(row, [prompt] if isinstance(prompt, str) and asked and asked in prompt else [])


_USERS = ("hashed_ip", "user_hash")
_PERSON = (*_USERS, "country", "state", "header")
"""Keys about the user that a log repeats in every turn."""
_TRANSCRIPTS = ("input", "chat_sample", "text")
_LABEL = re.compile(r"(?:\A|(?<=\n))\[\|(Human|AI)\|\] ?")
_FRAME = "The conversation between human and AI assistant."


def from_log(row: Any) -> Iterator[Conversation]:
    """`wildchat` and `lmsys`: `conversation` is a list of turns with their own flags.

    `conversation_hash` or `conversation_id` becomes the id, `hashed_ip` (the row's, else the first turn that has one)
    the `user_id`. Language, model, time (as text) and all moderation flags stay in `meta`, those of a turn
    in `meta["turns"]`. Nulls are dropped, and so are keys about the user that repeat the row's value.
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
    """UltraChat: `data` is a list of strings, the user first; or `messages` with `prompt` and `prompt_id`."""
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

    A label, one space after it and the line break before the next label are removed; the rest of a turn is kept byte
    for byte. An empty human turn at the end is dropped.
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
    """Whether a value is a text with the labels of Baize."""
    return isinstance(value, str) and _LABEL.search(value) is not None
