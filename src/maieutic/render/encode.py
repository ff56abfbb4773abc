"""Pieces of text → token ids, each token owned by the piece it came from.

A conversation is frame (what the template writes) and content (what people wrote). Control tokens are recognised in
the frame only: content that spells `<|im_end|>` stays text. Where no content spells one, which is nearly always, the
whole conversation is encoded in one call, with the very ids a server would make of it; where one does, the text
between control tokens is encoded by a copy of the tokenizer that knows no control tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from maieutic.errors import RenderError

FRAME = -1


class Piece(NamedTuple):
    """A stretch of text; `owner` is the index of the turn whose loss it belongs to, or FRAME.

    `is_content` text is never read for control tokens. `opens` marks the start of a turn's supervised stretch: a
    token boundary must lie there, because generation starts from exactly the ids before it.
    """

    text: str
    owner: int = FRAME
    is_content: bool = False
    opens: bool = False


class Encoded(NamedTuple):
    """Token ids, and for each the turn it belongs to (or FRAME)."""

    ids: list[int]
    owners: list[int]


class Encoder:
    """A fast tokenizer, seen as a function from pieces to ids."""

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise RenderError(
                f"{type(tokenizer).__name__} has no fast implementation",
                "Save the tokenizer as tokenizer.json (a fast tokenizer): masks need character offsets.",
            )
        self._backend = tokenizer.backend_tokenizer
        added = tokenizer.added_tokens_decoder
        self.control = {str(token.content): int(index) for index, token in added.items()}
        self._flags = {int(index): token for index, token in added.items()}
        names = sorted(self.control, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, names)) or r"(?!)")

    @cached_property
    def leading(self) -> list[int]:
        """The special tokens the tokenizer itself puts before a text."""
        self._backend.no_truncation()
        self._backend.no_padding()
        with_special = self._backend.encode("a", add_special_tokens=True)
        ids: list[int] = []
        for index, special in zip(with_special.ids, with_special.special_tokens_mask, strict=True):
            if not special:
                break
            ids.append(index)
        return ids

    def first_control(self, text: str) -> re.Match[str] | None:
        """The first control token spelled in a frame's text."""
        return self._pattern.search(text)

    def encode(self, pieces: Sequence[Piece]) -> Encoded:
        """Encode pieces as the one string they make together."""
        text = "".join(piece.text for piece in pieces)
        spelled = sum(1 for _ in self._pattern.finditer(text))
        meant = sum(1 for piece in pieces if not piece.is_content for _ in self._pattern.finditer(piece.text))
        if spelled != meant or any(piece.is_content and self._pattern.search(piece.text) for piece in pieces):
            return self._encode_runs(pieces, whole=False)
        return self._encode_whole(text, pieces)

    def encode_apart(self, pieces: Sequence[Piece]) -> Encoded:
        """Encode each run of text between control tokens as a string of its own (the dyadic frame's rule)."""
        return self._encode_runs(pieces, whole=True)

    def _encode_whole(self, text: str, pieces: Sequence[Piece]) -> Encoded:
        ids, ends = self._with_offsets(text, 0)
        cuts = _cuts(pieces)
        if astray := [cut for cut in cuts if not _is_boundary(ids, ends, cut)]:
            ids, ends = [], []
            for start, end in zip([0, *astray], [*astray, len(text)], strict=True):
                part, part_ends = self._with_offsets(text[start:end], start)
                ids += part
                ends += part_ends
        return Encoded(ids, _owners(ids, ends, pieces, self._flags))

    def _with_offsets(self, text: str, base: int) -> tuple[list[int], list[tuple[int, int]]]:
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = False
        encoding = self._backend.encode(text, add_special_tokens=False)
        return encoding.ids, [(start + base, end + base) for start, end in encoding.offsets]

    def _encode_runs(self, pieces: Sequence[Piece], whole: bool) -> Encoded:
        """Encode run by run; a run is the text between two control tokens, frame and content together."""
        ids: list[int] = []
        owners: list[int] = []
        run: list[Piece] = []
        swallow = False  # a control token may take the frame's white space after it, across pieces

        def flush() -> None:
            if any(piece.text for piece in run):
                part = self._encode_run(run, first=whole or not ids)
                ids.extend(part.ids)
                owners.extend(part.owners)
            run.clear()

        for piece in pieces:
            if piece.is_content:
                run.append(piece)
                swallow = swallow and not piece.text
                continue
            position = _spaces(piece.text) if swallow else 0
            swallow = swallow and position == len(piece.text)
            for match in self._pattern.finditer(piece.text):
                token = self.control[match[0]]
                run.append(
                    piece._replace(text=_swallow(piece.text[position : match.start()], self._flags[token]))
                )
                flush()
                ids.append(token)
                owners.append(piece.owner)
                position = match.end()
                if self._flags[token].rstrip:
                    position += _spaces(piece.text[position:])
                    swallow = position == len(piece.text)
            run.append(piece._replace(text=piece.text[position:]))
        flush()
        return Encoded(ids, owners)

    def _encode_run(self, run: Sequence[Piece], first: bool) -> Encoded:
        text = "".join(piece.text for piece in run)
        ids, ends = self._text_ids(text, 0, first)
        astray = [cut for cut in _cuts(run) if 0 < cut < len(text) and not _is_boundary(ids, ends, cut)]
        if astray:
            ids, ends = [], []
            for start, end in zip([0, *astray], [*astray, len(text)], strict=True):
                part, part_ends = self._text_ids(text[start:end], start, first and start == 0)
                ids += part
                ends += part_ends
        return Encoded(ids, _owners(ids, ends, run, ()))

    def _text_ids(self, text: str, base: int, first: bool) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids of text in which nothing is a control token."""
        encoding = (self._plain_first if first else self._plain_later).encode(text, add_special_tokens=False)
        match = self._pattern.search(text)
        if match is None or not set(encoding.ids) & self._flags.keys():
            return encoding.ids, [(start + base, end + base) for start, end in encoding.offsets]
        # The bare vocabulary holds the control token as a piece of its own: break its spelling in two.
        middle = match.start() + 1
        left, left_ends = self._text_ids(text[:middle], base, first)
        right, right_ends = self._text_ids(text[middle:], base + middle, first=False)
        return left + right, left_ends + right_ends

    @cached_property
    def _plain_first(self) -> Any:
        return self._without_control(later=False)

    @cached_property
    def _plain_later(self) -> Any:
        return self._without_control(later=True)

    def _without_control(self, later: bool) -> Any:
        """A copy of the tokenizer that knows no added tokens; `later`: for text that does not open the string."""
        from tokenizers import Tokenizer

        shape = json.loads(self._backend.to_str())
        shape.update(added_tokens=[], truncation=None, padding=None, post_processor=None)
        if later:
            _never_prepend(shape.get("pre_tokenizer"))
        return Tokenizer.from_str(json.dumps(shape))


def _never_prepend(pre_tokenizer: Any) -> None:
    if isinstance(pre_tokenizer, dict):
        if pre_tokenizer.get("prepend_scheme") == "first":
            pre_tokenizer["prepend_scheme"] = "never"
        for inner in pre_tokenizer.get("pretokenizers") or ():
            _never_prepend(inner)


def _spaces(text: str) -> int:
    return len(text) - len(text.lstrip())


def _swallow(text: str, following: Any) -> str:
    return text.rstrip() if following.lstrip else text


def _cuts(pieces: Sequence[Piece]) -> list[int]:
    """The character positions at which a token must begin."""
    cuts, position = [], 0
    for piece in pieces:
        if piece.opens:
            cuts.append(position)
        position += len(piece.text)
    return cuts


def _is_boundary(ids: Sequence[int], offsets: Sequence[tuple[int, int]], cut: int) -> bool:
    """Whether no token spans the position; offsets ascend, so a bisection finds it."""
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high) // 2
        if offsets[middle][1] <= cut:
            low = middle + 1
        else:
            high = middle
    return low == len(ids) or offsets[low][0] >= cut


def _owners(
    ids: Sequence[int], offsets: Sequence[tuple[int, int]], pieces: Sequence[Piece], control: Container[int]
) -> list[int]:
    """The owner of the piece that holds each token's last character (a token may begin in the space before).

    A control token belongs where it begins: it may have swallowed the white space after it.
    """
    owners: list[int] = []
    index, end = 0, len(pieces[0].text) if pieces else 0
    for token, (start, stop) in zip(ids, offsets, strict=True):
        last = start if token in control else max(stop - 1, start if stop > start else start - 1, 0)
        while last >= end and index + 1 < len(pieces):
            index += 1
            end += len(pieces[index].text)
        owners.append(pieces[index].owner)
    return owners
