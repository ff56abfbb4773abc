"""One tokenizer, seen from different places in a string.

Many tokenizers put a space before the text they are given (SentencePiece's `▁`). Inside a longer string they do so at
its very beginning only, or after every control token; in the middle of running text, where a turn's opening cuts it,
never. So a stretch of text is encoded by a copy of the tokenizer that fits the place it begins at:

- `first`: at the very beginning of the string;
- `after`: right after a control token;
- `inside`: anywhere else.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal, get_args

import orjson

Form = Literal["NFC", "NFD", "NFKC", "NFKD"]


class Variants:
    """The copies of a `tokenizers.Tokenizer`, made when first needed; where none differs, there is no copy."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._made: dict[str, Any] = {}

    @property
    def whole(self) -> Any:
        """The tokenizer itself, with nothing cut and nothing padded."""
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
        """The id that stands for what the vocabulary lacks, where the tokenizer has one."""
        model = self._shape["model"]
        name = model.get("unk_token")
        index = model.get("unk_id") if name is None else self._backend.token_to_id(name)
        return None if index is None else int(index)

    @cached_property
    def _pipelines(self) -> dict[str, dict[str, Any]]:
        """For each place the normalizer and the pre-tokenizer that fit it."""
        return {start: _pipeline(self._shape, start) for start in ("first", "after", "inside")}

    def place(self, start: str) -> str:
        """The first of the three places at which the tokenizer does the same as at this one."""
        here = self._pipelines[start]
        return next(place for place, pipeline in self._pipelines.items() if pipeline == here)

    def bare_json(self, start: str) -> tuple[str, Form | None]:
        """The tokenizer for a place as JSON, without added tokens and without its Unicode normal form; and that."""
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
        """The tokenizer for a place, to which no special token is anything but text."""
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
    """A normalizer or pre-tokenizer that puts nothing before the text where its place forbids it."""
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
