"""Token counts of texts, and cutting long conversations into parts at turn borders.

Without a tokenizer the count is an estimate: the larger of 4/3 of the words and 1/4 of the UTF-8 bytes. On English
prose the estimate is close to BPE tokenizers with a vocabulary of about 32,000; for code it is too high.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import compress, takewhile
from operator import not_
from pathlib import Path
from typing import Any, NamedTuple

from maieutic.core.errors import MissingExtra, MissingInput
from maieutic.core.messages import Conversation, Role

FRAME = 4
"""Tokens added for each turn, for the chat template's markup."""

CountTokens = Callable[[Sequence[str]], list[int]]
"""A function from texts to their numbers of tokens."""


def estimate(texts: Sequence[str]) -> list[int]:
    """The estimated number of tokens of each text."""
    return [max(math.ceil(len(text.split()) * 4 / 3), math.ceil(len(text.encode()) / 4)) for text in texts]


def token_counter(tokenizer: Path | str | None = None) -> CountTokens:
    """The function that counts tokens with a tokenizer; without one, the estimate.

    Args:
        tokenizer: a `tokenizer.json`, a folder with a tokenizer, or a Hub id. Special tokens are not counted.

    Raises:
        MissingExtra: the libraries that load the tokenizer are not installed.
        MissingInput: there is no such tokenizer.
    """
    if tokenizer is None:
        return estimate
    path = Path(tokenizer)
    file = path / "tokenizer.json" if path.is_dir() else path
    if file.is_file():
        return _fast(file)
    if path.is_absolute() or not _hub_id(str(tokenizer)):
        raise MissingInput(
            f"{tokenizer}: no tokenizer there",
            "Give a tokenizer.json, a folder with a tokenizer, or a Hub id.",
        )
    return _transformers(str(tokenizer))


def _hub_id(name: str) -> bool:
    return name.count("/") <= 1 and not name.startswith(".") and not name.endswith(".json")


def _fast(file: Path) -> CountTokens:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise _missing() from None
    try:
        loaded = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises no narrower exception
        raise MissingInput(f"{file}: not a tokenizer ({str(error)[:80]})", "Check the file.") from None

    def count(texts: Sequence[str]) -> list[int]:
        found = loaded.encode_batch_fast(list(texts), add_special_tokens=False)
        return [len(encoding.ids) for encoding in found]

    return count


def _transformers(name: str) -> CountTokens:
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise _missing() from None
    try:
        loaded = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        first = (str(error).splitlines() or [""])[0][:120]
        raise MissingInput(f"{name}: the tokenizer cannot be loaded ({first})", "Check the name.") from None

    def count(texts: Sequence[str]) -> list[int]:
        return (
            [len(ids) for ids in loaded(list(texts), add_special_tokens=False)["input_ids"]] if texts else []
        )

    return count


def _missing() -> MissingExtra:
    return MissingExtra(
        "counting with a tokenizer needs the train extra", "Install it: pip install 'maieutic[train]'."
    )


class Parts(NamedTuple):
    """The parts of a cut conversation."""

    fitting: tuple[Conversation, ...]
    too_long: tuple[Conversation, ...]
    """Single rounds that exceed the limit."""


def cut(conversation: Conversation, most: int, count: CountTokens) -> Parts:
    """Cut a conversation into parts of at most `most` tokens; a conversation that fits is returned whole.

    Cuts are made before user turns that follow an assistant turn, so each part begins with the user. The system turns
    at the start of the conversation are repeated in every part. A single round above the limit goes to `too_long`. A
    prompt that has no reply yet (`meta.prompt`) is not cut. No part is `ended`, since a cut is not the end.

    Args:
        conversation: the conversation to cut.
        most: maximum number of tokens, including `FRAME` tokens per turn for the template.
        count: from `token_counter`.
    """
    turns = conversation.messages
    sizes = [size + FRAME for size in count([turn.content for turn in turns])]
    if sum(sizes) <= most:
        return Parts((conversation,), ())
    heads = list(takewhile(lambda index: turns[index].role == Role.SYSTEM, range(len(turns))))
    limit = most - sum(sizes[index] for index in heads)
    rounds = _rounds(conversation, len(heads))
    if len(rounds) == 1 or "prompt" in conversation.meta:
        return Parts((), (conversation,))
    groups: list[list[int]] = []
    left = -1
    for unit in rounds:
        size = sum(sizes[index] for index in unit)
        if size <= left:
            groups[-1] += unit
            left -= size
        else:
            groups.append(list(unit))
            left = limit - size
    fits = [sum(sizes[index] for index in group) <= limit for group in groups]
    parts = [_part(conversation, heads + group, place, len(groups)) for place, group in enumerate(groups)]
    return Parts(tuple(compress(parts, fits)), tuple(compress(parts, map(not_, fits))))


def _rounds(conversation: Conversation, start: int) -> list[list[int]]:
    """The indices of the turns from `start` on, split before each user turn that follows an assistant turn."""
    rounds: list[list[int]] = [[]]
    before, has_user = None, False
    for index in range(start, len(conversation.messages)):
        role = conversation.messages[index].role
        # An assistant turn that opens the conversation belongs to the first round.
        if role == Role.USER and before == Role.ASSISTANT and has_user:
            rounds.append([])
        rounds[-1].append(index)
        if role != Role.SYSTEM:
            before, has_user = role, has_user or role == Role.USER
    return rounds


def _part(conversation: Conversation, indices: list[int], place: int, parts: int) -> Conversation:
    meta = {key: value for key, value in conversation.meta.items() if key != "turns"}
    if place:
        meta.pop("opens", None)
    extras = conversation.meta.get("turns")
    if isinstance(extras, Mapping):
        moved: dict[str, Any] = {
            str(to): extras[str(index)] for to, index in enumerate(indices) if str(index) in extras
        }
        meta |= {"turns": moved} if moved else {}
    whole = meta.get("part_of", conversation.id)
    changes = {
        "id": f"{conversation.id}#{place + 1}",
        "messages": tuple(conversation.messages[index] for index in indices),
        "ended": False,
        "meta": {**meta, "part_of": whole, "part": place + 1, "parts": parts},
    }
    return conversation.model_copy(update=changes)
