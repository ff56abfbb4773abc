"""The estimated cost of a step before it runs: calls, tokens, memory, hours and dollars, by rules of thumb."""

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
"""Bytes per weight in mixed-precision training with AdamW: float32 weight, gradient and two moments."""
HELD_BYTES = 2
"""Bytes per weight of a model that is not trained."""
SAMPLE = 200
"""Number of rows that are read to estimate the tokens of a file."""
_AT_ONCE = ("script/", "baseline/", "student/")
"""Prefixes of models that take no noticeable time."""
_TURNS = ("messages", "conversations", "turns", "prompt")


class Size(NamedTuple):
    """The estimated size of a file that a step reads or writes."""

    rows: int
    tokens: int
    """Tokens of the text, without the replies to be judged."""
    replies: int = 0
    """Replies to be judged per row."""
    reply_tokens: int = 0
    """Maximum tokens of such a reply."""


class Rates(Record):
    """Speeds: rules of thumb for one GPU such as an H100; replace them by measured speeds."""

    served: float = Field(2000, gt=0)
    """Tokens per second that a server generates, all requests together; time to read prompts is not counted."""
    local: float = Field(500, gt=0)
    """Tokens per second that a model of 7e9 weights generates in this process, for the whole batch. A model of half the
    size generates twice as many, since each decoding step reads all weights."""
    flops: float = Field(2e14, gt=0)
    """Floating-point operations per second in training and in reading prompts."""


FORWARD, BACKWARD = 2, 4
"""Operations per weight and token (Kaplan et al. 2020: training takes 6 · weights · tokens)."""


class Ask(NamedTuple):
    """The calls to one model."""

    model: str
    calls: int
    read: int
    """Tokens of all prompts: each call reads the dialogue so far."""
    written: int
    """Maximum number of generated tokens."""


class Cost(NamedTuple):
    """The estimated cost of a step; a value without an estimate is null."""

    calls: int | None = None
    """Number of model replies."""
    tokens: int | None = None
    """Maximum number of generated tokens, or tokens to train on."""
    gpu_bytes: int | None = None
    """Memory per device for weights and optimizer, without activations."""
    hours: float | None = None
    """Hours by the rules of thumb in `Rates`."""
    usd: float | None = None
    """Dollars, for the models that have a price."""
    read: int | None = None
    """Prompt tokens: each call reads the dialogue so far."""


class Flow:
    """Estimated sizes of files and models after each stage of a recipe."""

    def __init__(
        self, rates: Rates | None = None, count: Callable[[str], float | None] = lambda folder: None
    ) -> None:
        """Start with no stages.

        Args:
            rates: speeds of training and generation.
            count: a function that returns the number of weights of a checkpoint's folder, from its config.
        """
        self._rates, self._count = rates or Rates(), count
        self._sizes: dict[str, Size] = {}
        self._weights: dict[str, float] = {}

    def put(self, path: Path, size: Size | None) -> None:
        """Record the size of a file that a step will write."""
        if size:
            self._sizes[str(path)] = size

    def size(self, path: Path | str) -> Size | None:
        """The size of the file that a step will write to a path, or of the existing file."""
        path = Path(path)
        found = self._sizes.get(str(path)) or self._sizes.get(str(path.parent))
        return found or _measured(path)

    def weigh(self, model: str | Path, weights: float | None) -> None:
        """Record the number of weights of a model that a step trains, or of a model without a size in its name."""
        if weights:
            self._weights[_bare(str(model))] = weights

    def weights(self, model: str) -> float | None:
        """The number of weights of a model; null if unknown."""
        name = _bare(model)
        return self._weights.get(name) or self._weights.get(name.removesuffix("/model")) or self._own(name)

    def _own(self, name: str) -> float | None:
        """The number of weights from the config if the model is a folder, else from a size in the name."""
        return self._count(name) if name and Path(name).is_dir() else named_size(name)

    def memory(self, models: Iterable[str]) -> int | None:
        """Memory of the models that a step loads into its own process; null if a server runs them all."""
        here = {_bare(model) for model in models if model.startswith("hf/")}
        known = [weights for model in here if (weights := self.weights(model))]
        return round(HELD_BYTES * sum(known)) if known else None

    def asked(self, asks: Sequence[Ask], prices: Mapping[str, Price] | None = None) -> Cost:
        """The cost of these calls."""
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
            sum(ask.read for ask in asks),
        )

    def _asking(self, ask: Ask) -> float | None:
        """Hours for one model's replies; null if the model's size is unknown."""
        if not ask.model.startswith("hf/"):
            return 0.0 if ask.model.startswith(_AT_ONCE) else ask.written / self._rates.served / 3600
        weights = self.weights(ask.model)
        if weights is None:
            return None
        writing = ask.written / (self._rates.local * 7e9 / weights)
        return (writing + FORWARD * weights * ask.read / self._rates.flops) / 3600

    def trained(self, model: str, tokens: int, operations: int) -> float | None:
        """Hours to train on `tokens` tokens, with `operations` operations per weight and token."""
        weights = self.weights(model)
        return operations * weights * tokens / self._rates.flops / 3600 if weights else None


class Speaker(NamedTuple):
    """One side of simulated dialogues."""

    model: str
    turns: int
    """Turns of this side in a dialogue."""
    tokens: int
    """Maximum tokens of a turn."""
    start: int | None = None
    """Total tokens of all dialogues' starts as this side sees them; null: `dialogues * start` of `taking_turns`."""


def taking_turns(dialogues: int, start: int, *speakers: Speaker | tuple[str, int, int]) -> list[Ask]:
    """The calls of simulated dialogues. The speakers take turns in the given order; each call reads all earlier turns.

    Args:
        dialogues: the number of dialogues.
        start: tokens of the start of one dialogue.
        speakers: both sides.
    """
    sides = [Speaker(*speaker) for speaker in speakers]
    in_a_round = sum(side.tokens for side in sides)
    asks, said = [], 0
    for model, turns, tokens, own in sides:
        begun = dialogues * start if own is None else own
        read = begun * turns + dialogues * (in_a_round * turns * (turns - 1) // 2 + said * turns)
        asks.append(Ask(model, dialogues * turns, read, dialogues * turns * tokens))
        said += tokens
    return asks


def total_cost(costs: Iterable[Cost]) -> Cost:
    """The sum of the known costs of several steps; memory is the maximum."""
    listed = list(costs)
    return Cost(
        _sum(cost.calls for cost in listed),
        _sum(cost.tokens for cost in listed),
        max((cost.gpu_bytes for cost in listed if cost.gpu_bytes), default=None),
        _sum(cost.hours for cost in listed),
        _sum(cost.usd for cost in listed),
        _sum(cost.read for cost in listed),
    )


def _sum(values: Iterable[Any]) -> Any:
    """The sum of the known values; null if no value is known."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _bare(model: str) -> str:
    return model.removeprefix("hf/")


def named_size(name: str) -> float | None:
    """The number of weights according to a size in the model's name, such as `7b`."""
    if match := re.search(r"(?<![\d.])(\d+(?:\.\d+)?)b(?![a-z])", name, re.I):
        return float(match[1]) * 1e9
    return None


def _measured(path: Path) -> Size | None:
    """Rows and tokens of an existing file or folder, at four characters of text per token."""
    if path.is_dir():
        if (path / "rows.jsonl").is_file():
            return _measured(path / "rows.jsonl")
        inside = [_measured(file) for file in sorted(path.rglob("*.json*")) if file.is_file()]
        sizes = [size for size in inside if size]
        return Size(sum(s.rows for s in sizes), sum(s.tokens for s in sizes)) if sizes else None
    if not path.is_file() or path.suffix not in (".jsonl", ".json"):
        return None
    try:
        if path.suffix == ".json":
            items = orjson.loads(path.read_bytes())
            return Size(len(items), sum(map(_characters, items)) // CHARS_A_TOKEN)
        return _measured_lines(path)
    except (ValueError, TypeError):  # the step that reads the file reports broken rows
        return None


def _measured_lines(path: Path) -> Size:
    """The size of a file of lines, estimated from its first lines."""
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
    """Characters of a row's text: of its messages if it has any, else of all its values."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list):
        return sum(map(_characters, value))
    if isinstance(value, dict):
        turns = next((value[key] for key in _TURNS if key in value), None)
        return _characters(list(value.values()) if turns is None else turns)
    return 0
