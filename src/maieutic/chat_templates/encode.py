"""Encode pieces of text as token ids. Each token belongs to the piece of text that it encodes.

A conversation consists of frame (text of the template) and content (text of the messages). Control tokens are
recognised in the frame only: content that spells `<|im_end|>` stays text. A *stretch* of text between two control
tokens is encoded separately, with the ids that the tokenizer gives it inside a longer string. A stretch is also split
at the start of a turn's supervised text. So the prompt ids in generation are a prefix of the ids in training, whatever
text follows. If a tokenizer gives a whole string other ids than its stretches, the string is encoded in one call.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import orjson
from numpy.typing import NDArray

from maieutic.core.errors import RenderError

Form = Literal["NFC", "NFD", "NFKC", "NFKD"]
"""Unicode normalization forms."""
Ids = NDArray[np.int32]
FRAME = -1
"""The owner of a piece that belongs to no turn."""
END = "<|endofconversation|>"
"""The token with which a user simulator ends the conversation. It is added to tokenizers that lack it."""


class Piece(NamedTuple):
    """A piece of text; `owner` is the index of the turn whose loss it belongs to, or FRAME.

    `is_content` text is never searched for control tokens. `opens` marks the start of a turn's supervised text: a token
    must begin here, because generation starts from exactly the ids before it. `turn` is the index of the message whose
    text belongs here; a layout does not have that text yet.
    """

    text: str
    owner: int = FRAME
    is_content: bool = False
    opens: bool = False
    turn: int | None = None


class Encoded(NamedTuple):
    """Token ids, and the turn that each id belongs to (or FRAME)."""

    ids: list[int]
    owners: list[int]


class Control(NamedTuple):
    """A control token of the frame."""

    id: int
    owner: int


class Stretch(NamedTuple):
    """Pieces that are encoded as one string; `start` is the place where the string begins (see `Variants`)."""

    start: str
    pieces: list[Piece]


class Encoder:
    """Encodes pieces as ids with a fast tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise RenderError(
                f"{type(tokenizer).__name__} has no fast implementation",
                "Save the tokenizer as tokenizer.json (a fast tokenizer): masks need character offsets.",
            )
        self.variants = Variants(tokenizer.backend_tokenizer)
        self._added = {int(index): token for index, token in tokenizer.added_tokens_decoder.items()}
        self._ids = {str(token.content): index for index, token in self._added.items()}
        self.control = {name: index for name, index in self._ids.items() if self._added[index].special}
        self._any = _any_of([*self._ids, END])
        self._heads = tuple({name[:4] for name in [*self._ids, END]})
        self._compile()

    def _compile(self) -> None:
        self._control = _any_of([*self.control, END])
        self.control_ids = frozenset(self.control.values())
        self.forbidden = self.control_ids - {self.variants.unknown}
        """Ids that content must never get."""

    def learn_frame(self, texts: Iterable[str]) -> None:
        """Treat added tokens in a frame as control tokens, even if they are not special tokens."""
        found = {match[0] for text in texts for match in self._any.finditer(text)} & self._ids.keys()
        if new := {name for name in found - self.control.keys() if not name.isspace() and not name.isalnum()}:
            self.control |= {name: self._ids[name] for name in new}
            self._compile()

    @cached_property
    def leading(self) -> list[int]:
        """The special tokens that the tokenizer adds before a text."""
        with_special = self.variants.whole.encode("a", add_special_tokens=True)
        ids: list[int] = []
        for index, special in zip(with_special.ids, with_special.special_tokens_mask, strict=True):
            if not special:
                break
            ids.append(index)
        return ids

    def first_control(self, text: str) -> re.Match[str] | None:
        """The first control token spelled in a frame's text."""
        return self._control.search(text)

    def spells_added(self, text: str) -> bool:
        """Whether a text contains the spelling of an added token."""
        return any(head in text for head in self._heads) and self._any.search(text) is not None

    def encode(self, pieces: Sequence[Piece], apart: bool = False) -> Encoded:
        """Encode pieces stretch by stretch.

        Args:
            pieces: pieces that have their text.
            apart: encode each stretch as a separate string (the rule of the dyadic frame).
        """
        ids: list[int] = []
        owners: list[int] = []
        for item in self.stretches(pieces):
            if isinstance(item, Control):
                ids.append(item.id)
                owners.append(item.owner)
                continue
            part = self.encode_stretch("first" if apart else item.start, item.pieces)
            ids += part.ids
            owners += part.owners
        return Encoded(ids, owners)

    def stretches(self, pieces: Iterable[Piece]) -> list[Control | Stretch]:
        """The control tokens of the frame, and the stretches of text between control tokens and openings."""
        found: list[Control | Stretch] = []
        run: list[Piece] = []
        start = "first"
        swallow = (
            False  # a control token may include the white space after it in the frame, even across pieces
        )

        def flush(following: str) -> None:
            nonlocal start
            if any(piece.text or piece.turn is not None for piece in run):
                found.append(Stretch(start, run.copy()))
                start = following
            elif following == "after":
                start = following
            run.clear()

        for piece in pieces:
            if piece.opens:
                flush("inside")
            if piece.is_content:
                run.append(piece)
                swallow = swallow and not piece.text and piece.turn is None
                continue
            position = _spaces(piece.text) if swallow else 0
            swallow = swallow and position == len(piece.text)
            for match in self._control.finditer(piece.text):
                if match[0] not in self.control or match.start() < position:
                    continue
                token = self.control[match[0]]
                before = piece.text[position : match.start()]
                run.append(piece._replace(text=before.rstrip() if self._added[token].lstrip else before))
                flush("after")
                found.append(Control(token, piece.owner))
                position = match.end()
                if self._added[token].rstrip:
                    position += _spaces(piece.text[position:])
                    swallow = position == len(piece.text)
            run.append(piece._replace(text=piece.text[position:]))
        flush("after")
        return found

    def encode_stretch(self, start: str, pieces: Sequence[Piece]) -> Encoded:
        """Encode one stretch; no part of it counts as a control token."""
        text = "".join(piece.text for piece in pieces)
        ids, offsets = self._text(text, 0, start)
        owner = pieces[0].owner if pieces else FRAME
        if all(piece.owner == owner for piece in pieces):
            return Encoded(ids, [owner] * len(ids))
        return Encoded(ids, _owners(ids, offsets, pieces, ()))

    def text_ids(self, text: str, start: str) -> list[int]:
        """Ids of a text; no part of it counts as a control token."""
        return self._text(text, 0, start)[0]

    def _text(self, text: str, base: int, start: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids and offsets. The spelling of a control token is encoded as text, even if normalization creates it."""
        if not text:
            return [], []
        variants = self.variants
        ways = [variants.text_only, variants.bare]
        for way in ways if self._control.search(text) else [variants.full, *ways]:
            encoding = way(start).encode(text, add_special_tokens=False)
            if self.forbidden.isdisjoint(encoding.ids):
                return encoding.ids, [(first + base, last + base) for first, last in encoding.offsets]
        # The model's vocabulary contains the control token itself: split its spelling in two.
        place = next(place for place, index in enumerate(encoding.ids) if index in self.forbidden)
        first, last = encoding.offsets[place]
        if last - first < 2:
            raise RenderError(
                f"the tokenizer reads {text[first:last]!r} as a control token everywhere",
                "Remove it from the texts, or use another tokenizer.",
            )
        left, left_offsets = self._text(text[: first + 1], base, start)
        right, right_offsets = self._text(text[first + 1 :], base + first + 1, "inside")
        return left + right, left_offsets + right_offsets

    def encode_whole(self, pieces: Sequence[Piece]) -> Encoded:
        """Encode the pieces as one string, which is split only if a token would span an opening.

        This is for tokenizers that give a whole string other ids than its stretches. A text that spells a control token
        is refused.
        """
        text = "".join(piece.text for piece in pieces)
        meant = sum(len(self._control.findall(piece.text)) for piece in pieces if not piece.is_content)
        ids, offsets = self._with_offsets(text, 0, "first")
        if len(self._control.findall(text)) != meant or sum(index in self.forbidden for index in ids) > meant:
            raise RenderError(
                "a text spells a control token, which this tokenizer reads depending on the text around it",
                "Remove it from the text, or use a tokenizer without `single_word` and `rstrip` tokens.",
            )
        if astray := [cut for cut in _cuts(pieces) if not _is_boundary(ids, offsets, cut)]:
            ids, offsets = self._with_offsets(text[: astray[0]], 0, "first")
            for start, end in pairwise([*astray, len(text)]):
                control = self._control.search(text, start, end)
                middle = control.start() if control else end
                for first, last, place in ((start, middle, "inside"), (middle, end, "first")):
                    part, part_offsets = self._with_offsets(text[first:last], first, place)
                    ids += part
                    offsets += part_offsets
        return Encoded(ids, _owners(ids, offsets, pieces, self.control_ids))

    def _with_offsets(self, text: str, base: int, start: str) -> tuple[list[int], list[tuple[int, int]]]:
        encoding = self.variants.full(start).encode(text, add_special_tokens=False)
        return encoding.ids, [(first + base, last + base) for first, last in encoding.offsets]


def _any_of(names: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))) or r"(?!)")


def _spaces(text: str) -> int:
    return len(text) - len(text.lstrip())


def _cuts(pieces: Sequence[Piece]) -> list[int]:
    """The character positions at which a token must begin."""
    cuts, position = [], 0
    for piece in pieces:
        if piece.opens:
            cuts.append(position)
        position += len(piece.text)
    return cuts


def _is_boundary(ids: Sequence[int], offsets: Sequence[tuple[int, int]], cut: int) -> bool:
    """Whether no token spans the position. Offsets ascend, so bisection is used."""
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high) // 2
        if offsets[middle][1] <= cut:
            low = middle + 1
        else:
            high = middle
    return low == len(ids) or offsets[low][0] >= cut


def _owners(
    ids: Sequence[int],
    offsets: Sequence[tuple[int, int]],
    pieces: Sequence[Piece],
    control: Iterable[int],
) -> list[int]:
    """The owner of each token: of the piece with its last character, since a token may begin with the space before.

    A control token belongs to the piece where it begins, since it may include the white space after it.
    """
    control = frozenset(control)
    owners: list[int] = []
    index, end = 0, len(pieces[0].text) if pieces else 0
    for token, (start, stop) in zip(ids, offsets, strict=True):
        last = start if token in control else max(stop - 1, start if stop > start else start - 1, 0)
        while last >= end and index + 1 < len(pieces):
            index += 1
            end += len(pieces[index].text)
        owners.append(pieces[index].owner)
    return owners


class Variants:
    """Copies of a tokenizer for the different places in a string. Each copy is made when first needed.

    Many tokenizers add a space before the given text (SentencePiece's `▁`). Inside a longer string they add it only at
    the beginning, or after every control token, but never in the middle of running text, where a turn may open. So a
    stretch of text is encoded by the copy of the tokenizer for the place where the stretch begins:

    - `first`: at the beginning of the string;
    - `after`: right after a control token;
    - `inside`: anywhere else.
    """

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._made: dict[str, Any] = {}

    @property
    def whole(self) -> Any:
        """The tokenizer itself, without truncation and padding."""
        if self._backend.truncation is not None:
            self._backend.no_truncation()
        if self._backend.padding is not None:
            self._backend.no_padding()
        self._backend.encode_special_tokens = False
        return self._backend

    @cached_property
    def _shape(self) -> dict[str, Any]:
        shape: dict[str, Any] = orjson.loads(self._backend.to_str())
        shape.update(truncation=None, padding=None, post_processor=None)
        return shape

    @cached_property
    def unknown(self) -> int | None:
        """The id for unknown text, if the tokenizer has one."""
        model = self._shape["model"]
        name = model.get("unk_token")
        index = model.get("unk_id") if name is None else self._backend.token_to_id(name)
        return None if index is None else int(index)

    @cached_property
    def _pipelines(self) -> dict[str, dict[str, Any]]:
        """The normalizer and the pre-tokenizer for each place."""
        return {start: _pipeline(self._shape, start) for start in ("first", "after", "inside")}

    def place(self, start: str) -> str:
        """The first of the three places where the tokenizer behaves as in this place."""
        here = self._pipelines[start]
        return next(place for place, pipeline in self._pipelines.items() if pipeline == here)

    def bare_json(self, start: str) -> tuple[str, Form | None]:
        """The tokenizer for a place as JSON, without added tokens and Unicode normalization; and that normalization."""
        shape = {**self._shape, **self._pipelines[start], "added_tokens": []}
        form = (shape["normalizer"] or {}).get("type")
        if form not in get_args(Form):
            return orjson.dumps(shape).decode(), None
        return orjson.dumps({**shape, "normalizer": None}).decode(), form

    def full(self, start: str) -> Any:
        """The tokenizer for a place, added tokens included."""
        place = self.place(start)
        return self.whole if place == "first" else self._copy(f"full {place}", place)

    def text_only(self, start: str) -> Any:
        """The tokenizer for a place, in a copy that reads special tokens as text."""
        place = self.place(start)
        made = self._copy(f"text {place}", place)
        made.encode_special_tokens = True
        return made

    def bare(self, start: str) -> Any:
        """The tokenizer for a place, without its added tokens."""
        place = self.place(start)
        return self._copy(f"bare {place}", place, added_tokens=[])

    def _copy(self, name: str, place: str, **changes: Any) -> Any:
        if name not in self._made:
            from tokenizers import Tokenizer

            shape = {**self._shape, **self._pipelines[place], **changes}
            self._made[name] = Tokenizer.from_str(orjson.dumps(shape).decode())
        return self._made[name]


def _pipeline(shape: dict[str, Any], start: str) -> dict[str, Any]:
    return {name: _adapted(shape.get(name), start) for name in ("normalizer", "pre_tokenizer")}


def _adapted(step: Any, start: str) -> Any:
    """A copy of a normalizer or pre-tokenizer that adds a space only if the place allows it."""
    if not isinstance(step, dict):
        return step
    step = dict(step)
    for name in ("normalizers", "pretokenizers"):
        if name in step:
            step[name] = [made for inner in step[name] if (made := _adapted(inner, start)) is not None]
    if start != "first" and step.get("prepend_scheme") == "first":
        step["prepend_scheme"] = "never"
    if start == "inside":
        if step.get("type") == "Prepend":
            return None
        if step.get("prepend_scheme") == "always":
            step["prepend_scheme"] = "never"
        if step.get("add_prefix_space"):
            step["add_prefix_space"] = False
    return step
