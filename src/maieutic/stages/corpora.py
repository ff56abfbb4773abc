"""The stages that make corpora, and the tiny base model that one is made into."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from maieutic.costs import Cost, Flow, Size
from maieutic.errors import RecipeError
from maieutic.stages.action import Action, wrapped


class World(Action):
    """The demo's closed world: dialogues, seeds and starts, in parts that share no problem."""

    outputs = (
        *("train.jsonl", "validation.jsonl", "test.jsonl", "starts.jsonl"),
        *("train-seeds.jsonl", "validation-seeds.jsonl", "test-seeds.jsonl"),
    )
    dialogues: tuple[int, int, int] = (3000, 200, 300)
    """In train, validation and test."""
    seeds: tuple[int, int, int] = (240, 100, 150)
    """Lessons that stop at a pupil who has not got it yet."""
    starts: int = 72
    """Sheets of train before which nobody has spoken yet."""
    seed: int = 0

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.demo.world import PARTS, Sizes, write

        counts = zip(self.dialogues, self.seeds, (self.starts, 0, 0), strict=True)
        sizes = {part: Sizes(*three) for part, three in zip(PARTS, counts, strict=True)}
        wrapped(out, self, lambda: write(out, sizes, self.seed))

    def describe(self) -> str:  # noqa: D102
        return "the dialogues of a small closed world"


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
        from maieutic.demo.base import build

        sizes = self.model_dump(exclude={"corpus"})
        wrapped(out, self, lambda: build(self.corpus, out / "model", **sizes).json())

    def describe(self) -> str:  # noqa: D102
        return f"a tiny base model from {self.corpus.name}"


class Import(Action):
    """Files of any known shape → one corpus."""

    outputs = ("corpus.jsonl",)
    sources: list[Path]
    format: str = "auto"
    ended: bool = False
    licence: str | None = None

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.data.corpus import write_corpus
        from maieutic.data.formats import import_files

        def work() -> dict[str, Any]:
            conversations, report = import_files(
                self.sources, self.format, ended=self.ended, licence=self.licence
            )
            count = write_corpus(out / "corpus.jsonl", conversations, overwrite=True)
            return {"conversations": count, **report.json()}

        wrapped(out, self, work)

    def check(self) -> None:  # noqa: D102
        from maieutic.data.formats import FORMATS

        if self.format not in ("auto", *FORMATS):
            raise RecipeError(f"no format {self.format!r}", f"Known: auto, {', '.join(FORMATS)}.")

    def describe(self) -> str:  # noqa: D102
        return f"import {len(self.sources)} sources as {self.format}"

    def expect(self, out: Path, flow: Flow) -> Cost:  # noqa: D102
        sizes = [flow.size(source) for source in self.sources]
        if all(sizes):
            flow.put(out / "corpus.jsonl", Size(*map(sum, zip(*filter(None, sizes), strict=True))))
        return Cost()


class Clean(Action):
    """Repairs and rejects, each with a named reason."""

    outputs = ("corpus.jsonl", "rejected.jsonl")
    corpus: Path
    keep_opening: bool = False

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.data.clean import CleanOptions, clean_file

        options = CleanOptions(keep_opening=self.keep_opening)
        wrapped(
            out, self, lambda: clean_file(self.corpus, out / "corpus.jsonl", options, overwrite=True).json()
        )

    def expect(self, out: Path, flow: Flow) -> Cost:  # noqa: D102
        flow.put(out / "corpus.jsonl", flow.size(self.corpus))
        return Cost()


class Split(Action):
    """Train, validation and test, by a hash of the group."""

    outputs = ("train.jsonl", "validation.jsonl", "test.jsonl")
    corpus: Path
    by: Literal["conversation", "problem", "user"] = "conversation"
    parts: tuple[float, float, float] = (0.8, 0.1, 0.1)

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.data.split import split_file

        wrapped(
            out,
            self,
            lambda: split_file(self.corpus, out, by=self.by, parts=self.parts, overwrite=True).json(),
        )

    def describe(self) -> str:  # noqa: D102
        return f"split by {self.by}"

    def expect(self, out: Path, flow: Flow) -> Cost:  # noqa: D102
        if size := flow.size(self.corpus):
            for name, part in zip(self.outputs, self.parts, strict=True):
                flow.put(out / name, Size(round(size.rows * part), round(size.tokens * part)))
        return Cost()
