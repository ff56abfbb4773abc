"""How many tokens a text has, and long conversations cut into parts at turn borders.

Without a tokenizer the count is an estimate: four thirds of the words, or a quarter of the UTF-8 bytes, whichever is
more. That is near what byte-pair encoders of about 32,000 pieces make of English prose, and high for code.
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
"""Tokens added a turn for what a template puts around it."""

CountTokens = Callable[[Sequence[str]], list[int]]
"""Texts to their numbers of tokens."""


def estimate(texts: Sequence[str]) -> list[int]:
    """The estimate, one number a text."""
    return [max(math.ceil(len(text.split()) * 4 / 3), math.ceil(len(text.encode()) / 4)) for text in texts]


def counter(tokenizer: Path | str | None = None) -> CountTokens:
    """What counts tokens: a tokenizer, or the estimate where none is named.

    Args:
        tokenizer: a `tokenizer.json`, a folder that holds a tokenizer, or a Hub id. No special tokens are added.

    Raises:
        MissingExtra: the libraries to load it are not installed.
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
            "Give a tokenizer.json, a folder that holds a tokenizer, or a Hub id.",
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
    except Exception as error:  # the library raises nothing narrower
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
    """What a conversation was cut into."""

    fitting: tuple[Conversation, ...]
    too_long: tuple[Conversation, ...]
    """Single rounds that are too long by themselves."""


def cut(conversation: Conversation, most: int, count: CountTokens) -> Parts:
    """A conversation in parts of at most `most` tokens; itself alone where it fits.

    Cuts lie before user turns that follow an assistant's, so each part begins with the person; the system turns that
    open the conversation stand at the head of every part. A round that is too long by itself stands alone, apart from
    the fitting parts. A prompt that awaits its reply (`meta.prompt`) is one piece. No part is `ended`: a cut
    conversation teaches no ending.

    Args:
        conversation: any.
        most: tokens, the template's own included at `FRAME` a turn.
        count: from `counter`.
    """
    turns = conversation.messages
    sizes = [size + FRAME for size in count([turn.content for turn in turns])]
    if sum(sizes) <= most:
        return Parts((conversation,), ())
    heads = list(takewhile(lambda index: turns[index].role == Role.SYSTEM, range(len(turns))))
    room = most - sum(sizes[index] for index in heads)
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
            left = room - size
    fits = [sum(sizes[index] for index in group) <= room for group in groups]
    parts = [_part(conversation, heads + group, place, len(groups)) for place, group in enumerate(groups)]
    return Parts(tuple(compress(parts, fits)), tuple(compress(parts, map(not_, fits))))


def _rounds(conversation: Conversation, start: int) -> list[list[int]]:
    """The places of the turns from `start` on, cut before each user turn that follows an assistant's."""
    rounds: list[list[int]] = [[]]
    before, has_user = None, False
    for index in range(start, len(conversation.messages)):
        role = conversation.messages[index].role
        # An assistant that rightly opens stays with the first round.
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
