"""What a stage is expected to take, before anything has run: calls, tokens, memory, by rules of thumb."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import orjson

CHARS_A_TOKEN = 4
VERDICT_TOKENS = 200
"""Rules of thumb for estimates only."""


class Size(NamedTuple):
    """How much a corpus holds, as far as it can be told beforehand."""

    rows: int
    tokens: int


class Cost(NamedTuple):
    """What a stage is expected to take; null where nothing can be said."""

    calls: int | None = None
    """Replies asked of models."""
    tokens: int | None = None
    """Tokens written at most, or trained on."""
    gpu_bytes: int | None = None
    """Memory of one device that holds it, weights and optimizer, without activations."""


class Flow:
    """Sizes of corpora, by path, as they are expected to come out of the stages so far."""

    def __init__(self) -> None:
        self._sizes: dict[str, Size] = {}

    def put(self, path: Path, size: Size | None) -> None:
        """Say what a stage will make."""
        if size:
            self._sizes[str(path)] = size

    def size(self, path: Path | str) -> Size | None:
        """What is expected at, or lies at, a path."""
        path = Path(path)
        found = self._sizes.get(str(path)) or self._sizes.get(str(path.parent))
        return found or _measured(path)


def parameters(model: str) -> float | None:
    """How many weights a model has: from its own config where it lies here, else from a size in its name."""
    name = model.removeprefix("hf/")
    if name and Path(name).is_dir():
        from maieutic.models.checkpoint import parameters as count

        return count(name)
    if match := re.search(r"(?<![\d.])(\d+(?:\.\d+)?)b(?![a-z])", name, re.I):
        return float(match[1]) * 1e9
    return None


def largest(models: list[str]) -> int | None:
    """Memory for the largest model in this process, at two bytes a weight; none for served ones."""
    here = [model for model in models if model.startswith("hf/")]
    sizes = [parameters(model) for model in here]
    return round(2 * max(size for size in sizes if size)) if any(sizes) else None


def _measured(path: Path) -> Size | None:
    """Rows and tokens of a file that lies there already: lines, or list items, and characters over four."""
    if path.is_dir():
        path = path / "rows.jsonl"
    if not path.is_file() or path.suffix not in (".jsonl", ".json"):
        return None
    try:
        rows = _lines(path) if path.suffix == ".jsonl" else len(orjson.loads(path.read_bytes()))
    except (ValueError, TypeError):  # broken, or no list: whoever reads it will say so
        return None
    return Size(rows, path.stat().st_size // CHARS_A_TOKEN)


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(2**20), b""))
