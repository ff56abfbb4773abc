"""The stages that make corpora, and the tiny base model that one is made into."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from maieutic.core.costs import Cost, Flow, Size
from maieutic.recipes.stages.action import Action, wrapped

if TYPE_CHECKING:
    pass


_WORLD_TOKENS = 75
"""Tokens of one of the closed world's dialogues, about."""


class World(Action):
    """The demo's closed world: dialogues, seeds and starts, in parts that share no problem."""

    outputs = (
        *("train.jsonl", "validation.jsonl", "test.jsonl", "starts.jsonl"),
        *("train-seeds.jsonl", "validation-seeds.jsonl", "test-seeds.jsonl"),
        *("pupils.yaml", "exam.md"),
    )
    dialogues: tuple[int, int, int] = (3000, 200, 300)
    """In train, validation and test."""
    seeds: tuple[int, int, int] = (240, 100, 150)
    """Lessons that stop at a pupil who has not got it yet."""
    starts: int = 72
    """Sheets of train before which nobody has spoken yet."""
    idle: float = Field(0.0, ge=0, le=1)
    """Share of its tutors' questions that lead nowhere."""
    exams: float = Field(0.0, ge=0, le=1)
    """Share of its tutors' turns that also ask what the pupil says now."""
    seed: int = 0

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.recipes.demo.pupils import Ways
        from maieutic.recipes.demo.world import PARTS, Sizes, write

        counts = zip(self.dialogues, self.seeds, (self.starts, 0, 0), strict=True)
        sizes = {part: Sizes(*three) for part, three in zip(PARTS, counts, strict=True)}
        ways = Ways(self.idle, self.exams)
        wrapped(out, self, lambda: write(out, sizes, self.seed, ways))

    def describe(self) -> str:  # noqa: D102
        return "the dialogues of a small closed world"

    def expect(self, out: Path, flow: Flow) -> Cost:  # noqa: D102
        for part, dialogues, seeds in zip(
            ("train", "validation", "test"), self.dialogues, self.seeds, strict=True
        ):
            flow.put(out / f"{part}.jsonl", Size(dialogues, dialogues * _WORLD_TOKENS))
            flow.put(out / f"{part}-seeds.jsonl", Size(seeds, seeds * _WORLD_TOKENS // 2))
        return Cost()


class Base(Action):
    """A tiny base model from a corpus."""

    outputs = ("model",)
    corpus: Path
    vocab_size: int = 2048
    hidden: int = 128
    layers: int = 2
    heads: int = 4
    context: int = 4096
    steps: int = Field(200, ge=0)
    seed: int = 0

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.recipes.demo.base import build

        sizes = self.model_dump(exclude={"corpus"})
        wrapped(out, self, lambda: build(self.corpus, out / "model", **sizes).json())

    def describe(self) -> str:  # noqa: D102
        return f"a tiny base model from {self.corpus.name}"
