"""Lists of turns: `messages`, `sharegpt`, and the message trees of Open Assistant.

What a shape holds beyond our fields is kept in `meta` (a turn's in `meta["turns"]`, by index). No text is changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from maieutic.core.messages import Conversation, Problem, Role
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
}
ROLES = {name: role for role, names in _SPEAKERS.items() for name in names}
"""Every name a side goes by."""

_LISTS = ("messages", "turns", "conversations", "conversation", "items")
_IDS = ("conversation_id", "conversation_hash", "prompt_id", "idx")
_FILE_NAME = re.compile(r"\S+\.(?:png|jpe?g|gif|webp|bmp|svg|pdf|mp3|wav|mp4)", re.IGNORECASE)


def from_turns(row: Any) -> Iterator[Conversation]:
    """`messages` and `sharegpt`: a list of turns, each with a role (`role`, `from`) and a text (`content`, `value`).

    The list stands under `messages`, `turns`, `conversation(s)` or `items`. `conversation_id`, `conversation_hash`,
    `prompt_id` or `idx` becomes the id, `task_description` the intent, and a `why_stop` says that the person ended it.
    A `prompt` that only repeats a turn is left out.
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
    yield to_conversation(row)


def set_prompt_aside(row: dict[str, Any], texts: Sequence[str]) -> None:
    """Take a row's own `prompt` out of the way: `meta["prompt"]` means a prompt that awaits its reply.

    It goes where a text already holds it, else it becomes `given_prompt`.
    """
    prompt = row.pop("prompt", None)
    if prompt is not None and prompt not in texts:
        row["given_prompt"] = prompt


def turn_list(row: Mapping[str, Any]) -> str | None:
    """The key under which a row has a list, if that may be a list of turns."""
    return next((name for name in _LISTS if isinstance(row.get(name), list)), None)


def turn(index: int, turn: Any) -> dict[str, Any]:
    """One turn in our shape, whatever its keys are called; what else stood in it is kept beside.

    Raises:
        ValueError: it has no role or no text, or an unknown role.
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
    """A turn's text, and what in it is no text: images and files cannot be spoken."""
    if isinstance(content, str):
        return content, []
    if content is None:
        return "", []
    if not isinstance(content, list):
        raise ValueError(f"turn {index}: the text is neither a string nor a list of parts")
    texts, attachments = [], []
    for part in content:
        words = part.get("text") if isinstance(part, dict) else part
        if isinstance(words, str) and not (isinstance(part, str) and _FILE_NAME.fullmatch(part)):
            texts.append(words)
        else:
            attachments.append(part)
    return "\n".join(texts), attachments


def set_misfits_aside(row: dict[str, Any]) -> None:
    """Move what stands under one of our names but is something else to `meta`, so that no conversation is lost."""
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

    Deleted messages are left out with what hangs on them. All paths of a tree share `meta["tree"]`, so a split keeps
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
    """The value, if it is an object.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{'a list' if isinstance(value, list) else type(value).__name__}, not an object")
    return value
