"""What a stage is expected to take, before anything has run: calls, tokens, memory, hours, by rules of thumb."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from pydantic import Field

from maieutic.core.budget import Price, spend
from maieutic.core.messages import Record

CHARS_A_TOKEN = 4
VERDICT_TOKENS = 200
FULL_BYTES = 16
"""A weight trained in mixed precision with AdamW: float32 weight, gradient and two moments."""
HELD_BYTES = 2
"""A weight that is only read."""
SAMPLE = 200
"""Rows of a file that are looked into, to tell how much of it is text."""
_AT_ONCE = ("script/", "baseline/", "student/")
"""Models that take no time worth counting."""
_TURNS = ("messages", "conversations", "turns", "prompt")


class Size(NamedTuple):
    """How much a stage makes or reads, as far as it can be told beforehand."""

    rows: int
    tokens: int
    """Of the text, replies to be judged left out."""
    replies: int = 0
    """Replies a row holds to be judged."""
    reply_tokens: int = 0
    """Tokens of such a reply at most."""


class Rates(Record):
    """How fast things go: rules of thumb for one GPU of the H100's kind, to be replaced by what was measured."""

    served: float = Field(2000, gt=0)
    """Tokens a second that a server writes, all that is asked of it at once together; its reading is not counted."""
    local: float = Field(500, gt=0)
    """Tokens a second that a model of 7e9 weights writes in this process, its batch together; half the weights, twice
    as many, since each step reads all of them."""
    flops: float = Field(2e14, gt=0)
    """Floating-point operations a second that training, and the reading of prompts, reaches."""


FORWARD, BACKWARD = 2, 4
"""Operations a weight and token (Kaplan et al. 2020: training takes 6 · weights · tokens)."""


class Ask(NamedTuple):
    """What is asked of one model."""

    model: str
    calls: int
    read: int
    """Tokens of all prompts: each call reads the dialogue so far."""
    written: int
    """Tokens at most."""


class Cost(NamedTuple):
    """What a stage is expected to take; null where nothing can be said."""

    calls: int | None = None
    """Replies asked of models."""
    tokens: int | None = None
    """Tokens written at most, or trained on."""
    gpu_bytes: int | None = None
    """Memory of one device that holds it, weights and optimizer, without activations."""
    hours: float | None = None
    """By the rules of thumb in `Rates`."""
    usd: float | None = None
    """Dollars, of the models that have a price."""


class Flow:
    """Sizes of corpora, by path, and of models, by name, as they are expected to come out of the stages so far."""

    def __init__(
        self, rates: Rates | None = None, count: Callable[[str], float | None] = lambda folder: None
    ) -> None:
        """Start with no stages.

        Args:
            rates: how fast things go.
            count: the number of weights of a checkpoint's folder, from its config.
        """
        self._rates, self._count = rates or Rates(), count
        self._sizes: dict[str, Size] = {}
        self._weights: dict[str, float] = {}

    def put(self, path: Path, size: Size | None) -> None:
        """Say what a stage will make."""
        if size:
            self._sizes[str(path)] = size

    def size(self, path: Path | str) -> Size | None:
        """What is expected at, or lies at, a path."""
        path = Path(path)
        found = self._sizes.get(str(path)) or self._sizes.get(str(path.parent))
        return found or _measured(path)

    def weigh(self, model: str | Path, weights: float | None) -> None:
        """Say how many weights a model has: one that a stage makes, or whose name does not tell."""
        if weights:
            self._weights[_bare(str(model))] = weights

    def weights(self, model: str) -> float | None:
        """How many weights a model has, where it can be told."""
        name = _bare(model)
        return self._weights.get(name) or self._weights.get(name.removesuffix("/model")) or self._own(name)

    def _own(self, name: str) -> float | None:
        """From the checkpoint's config where there is a folder, else from a size in the name."""
        return self._count(name) if name and Path(name).is_dir() else named_size(name)

    def memory(self, models: Iterable[str]) -> int | None:
        """Memory of the models that a stage holds at once in its own process; none for served ones."""
        here = {_bare(model) for model in models if model.startswith("hf/")}
        known = [weights for model in here if (weights := self.weights(model))]
        return round(HELD_BYTES * sum(known)) if known else None

    def asked(self, asks: Sequence[Ask], prices: Mapping[str, Price] | None = None) -> Cost:
        """What it costs to ask these models for so much."""
        hours = [self._asking(ask) for ask in asks]
        known = [hour for hour in hours if hour is not None]
        paid = [spend(prices or {}, ask.model, ask.read, ask.written) for ask in asks]
        dollars = [usd for usd in paid if usd is not None]
        return Cost(
            sum(ask.calls for ask in asks),
            sum(ask.written for ask in asks),
            self.memory(ask.model for ask in asks),
            sum(known) if len(known) == len(hours) else None,
            sum(dollars) if dollars else None,
        )

    def _asking(self, ask: Ask) -> float | None:
        """Hours of one model's answers; null where its size cannot be told."""
        if not ask.model.startswith("hf/"):
            return 0.0 if ask.model.startswith(_AT_ONCE) else ask.written / self._rates.served / 3600
        weights = self.weights(ask.model)
        if weights is None:
            return None
        writing = ask.written / (self._rates.local * 7e9 / weights)
        return (writing + FORWARD * weights * ask.read / self._rates.flops) / 3600

    def trained(self, model: str, tokens: int, operations: int) -> float | None:
        """Hours to train on so many tokens, at so many operations a weight and token."""
        weights = self.weights(model)
        return operations * weights * tokens / self._rates.flops / 3600 if weights else None


def taking_turns(dialogues: int, start: int, *speakers: tuple[str, int, int]) -> list[Ask]:
    """What dialogues ask of their speakers, each `(MODEL, turns, tokens a turn)`, from starts of so many tokens."""
    a_round = sum(tokens for _, _, tokens in speakers)
    return [
        Ask(
            model,
            dialogues * turns,
            dialogues * (turns * start + a_round * turns * (turns - 1) // 2),
            dialogues * turns * tokens,
        )
        for model, turns, tokens in speakers
    ]


def _bare(model: str) -> str:
    return model.removeprefix("hf/")


def named_size(name: str) -> float | None:
    """How many weights a model has by a size in its name, such as `7b`."""
    if match := re.search(r"(?<![\d.])(\d+(?:\.\d+)?)b(?![a-z])", name, re.I):
        return float(match[1]) * 1e9
    return None


def _measured(path: Path) -> Size | None:
    """Rows and tokens of what lies there already: lines, or list items, and characters of their text over four."""
    if path.is_dir():
        if (path / "rows.jsonl").is_file():
            return _measured(path / "rows.jsonl")
        inside = [_measured(file) for file in sorted(path.rglob("*.json*")) if file.is_file()]
        return Size(*(sum(part) for part in zip(*[size[:2] for size in inside if size], strict=True))) \
            if any(inside) else None  # fmt: skip
    if not path.is_file() or path.suffix not in (".jsonl", ".json"):
        return None
    try:
        if path.suffix == ".json":
            items = orjson.loads(path.read_bytes())
            return Size(len(items), sum(map(_characters, items)) // CHARS_A_TOKEN)
        return _measured_lines(path)
    except (ValueError, TypeError):  # broken, or no list: whoever reads it will say so
        return None


def _measured_lines(path: Path) -> Size:
    """Of a file of lines only the first are looked into; the others are taken to be like them."""
    with path.open("rb") as file:
        first = list(islice(file, SAMPLE))
        rows = len(first) + sum(block.count(b"\n") for block in iter(lambda: file.read(2**20), b""))
    values = [orjson.loads(line) for line in first if line.strip()]
    share = sum(map(_characters, values)) / max(1, sum(map(len, first)))
    replies = max(
        (len(value.get("candidates") or ()) for value in values if isinstance(value, dict)), default=0
    )
    return Size(rows, round(path.stat().st_size * share) // CHARS_A_TOKEN, replies)


def _characters(value: Any) -> int:
    """Characters of a row's text: of its turns where it has some, else of everything."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list):
        return sum(map(_characters, value))
    if isinstance(value, dict):
        turns = next((value[key] for key in _TURNS if key in value), None)
        return _characters(list(value.values()) if turns is None else turns)
    return 0
