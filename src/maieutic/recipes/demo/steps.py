"""The steps of the demo: a small closed world of conversations, and a tiny base model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from maieutic.core.console import say
from maieutic.core.costs import Cost, Flow, Size
from maieutic.core.settings import Source
from maieutic.core.step import Result, Step
from maieutic.core.store import Stage

_PARTS = ("train", "validation", "test")
_WORLD_TOKENS = 75
"""Tokens of a dialogue of the world, approximately."""


class DemoWorldResult(Result):
    """Counts of the world's files."""

    conversations: dict[str, int]
    """Conversations by file."""
    vocabulary: int
    """Distinct words."""


class DemoWorld(Step):
    """Write the demo's closed world: dialogues, seeds and starts, in three parts that share no problem."""

    command: ClassVar = "demo-world"
    shown: ClassVar = ("dialogues", "seeds", "starts", "seed")
    examples: ClassVar = ("maieutic demo-world --out runs/world",)
    outputs: ClassVar = (
        *("train.jsonl", "validation.jsonl", "test.jsonl", "starts.jsonl"),
        *("train-seeds.jsonl", "validation-seeds.jsonl", "test-seeds.jsonl"),
        *("students.yaml", "answer_prompt.md"),
    )

    dialogues: tuple[int, int, int] = Field(
        (3000, 200, 300), description="Dialogues in train, validation and test."
    )
    seeds: tuple[int, int, int] = Field(
        (240, 100, 150), description="Lessons of each part that stop while the student is still wrong."
    )
    starts: int = Field(72, description="System messages of train before the first turn.")
    idle_questions: float = Field(
        0.0, ge=0, le=1, description="Share of the tutors' questions that do not help."
    )
    answer_questions: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the tutors' turns that also ask for the student's current answer.",
    )
    seed: int = Field(0, description="Seed of the world.")

    def run(self, out: Path | str) -> DemoWorldResult:
        from maieutic.recipes.demo.students import LessonOptions
        from maieutic.recipes.demo.world import Sizes, write

        counts = zip(self.dialogues, self.seeds, (self.starts, 0, 0), strict=True)
        sizes = {part: Sizes(*three) for part, three in zip(_PARTS, counts, strict=True)}
        options = LessonOptions(self.idle_questions, self.answer_questions)
        folder = Path(out)
        with Stage(folder, self.settings(folder.parent)) as stage:
            found = write(folder, sizes, self.seed, options)
            stage.finish(found)
        return DemoWorldResult(run=str(out), **found)

    def describe(self) -> str:
        return "the dialogues of a small closed world"

    def expect(self, out: Path, flow: Flow) -> Cost:
        for part, dialogues, seeds in zip(_PARTS, self.dialogues, self.seeds, strict=True):
            flow.put(out / f"{part}.jsonl", Size(dialogues, dialogues * _WORLD_TOKENS))
            flow.put(out / f"{part}-seeds.jsonl", Size(seeds, seeds * _WORLD_TOKENS // 2))
        return Cost()


class DemoBaseResult(Result):
    """A tiny base model."""

    parameters: int
    vocabulary: int
    loss: float | None
    """Mean cross-entropy of a token over the last tenth of the steps; null without training."""

    def show(self) -> None:
        loss = f", loss {self.loss:.3f}" if self.loss is not None else ""
        say(f"{self.run}: {self.parameters:,} parameters, {self.vocabulary:,} tokens{loss}")


class DemoBase(Step):
    """Build a tokenizer and a tiny Llama from scratch on a corpus.

    OUT is the checkpoint's folder. It is written completely or not at all. A repeated call does nothing.
    """

    command: ClassVar = "demo-base"
    examples: ClassVar = ("maieutic demo-base --corpus corpus.jsonl --out runs/base",)
    writes: ClassVar = "file"
    outputs: ClassVar = ("model",)

    corpus: Source = Field(description="A corpus, or a step's folder.")
    vocab_size: int = Field(2048, description="Tokens of the byte-level BPE, at least 260.")
    hidden: int = Field(128, description="Width; a multiple of twice the heads.")
    layers: int = Field(2, ge=1, description="Number of layers.")
    heads: int = Field(4, ge=1, description="Attention heads.")
    context: int = Field(4096, description="Positions of the model.")
    steps: int = Field(200, ge=0, description="Training steps of about 2,000 tokens; 0: random weights.")
    seed: int = Field(0, description="Seed; equal settings give equal weights on one machine.")

    def run(self, out: Path | str) -> DemoBaseResult:
        from maieutic.recipes.demo.base import build_base

        return DemoBaseResult(run=str(out), **build_base(self, Path(out)))

    def describe(self) -> str:
        name = self.corpus.name if isinstance(self.corpus, Path) else f"{len(self.corpus)} conversations"
        return f"a tiny base model from {name}"

    def sizes(self) -> dict[str, Any]:
        """The settings without the corpus."""
        return self.model_dump(exclude={"corpus"})
