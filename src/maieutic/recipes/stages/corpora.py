"""The stages that make corpora, and the tiny base model that one is made into."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from maieutic.core.costs import Cost, Flow, Size
from maieutic.core.errors import RecipeError
from maieutic.recipes.stages.action import Action, wrapped

if TYPE_CHECKING:
    from maieutic.data.filters import CleanOptions


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


class Import(Action):
    """Files of any known shape, folders of them and datasets → one corpus."""

    outputs = ("corpus.jsonl",)
    sources: list[str]
    """Paths, or `hub:NAME[:SPLIT]`."""
    format: str = "auto"
    ended: bool = False
    source: str | None = None
    licence: str | None = None
    sample: int | None = Field(None, ge=1)
    """Keep this many."""
    by: str | None = None
    """Stratify the sample by this field, or key of `meta`."""

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.data.corpus import write_corpus
        from maieutic.data.importing import import_files

        def work() -> dict[str, Any]:
            conversations, report = import_files(**dict(self))
            count = write_corpus(out / "corpus.jsonl", conversations, overwrite=True)
            return {"conversations": count, **report.json()}

        wrapped(out, self, work)

    def check(self) -> None:  # noqa: D102
        from maieutic.data.importing import FORMATS

        if self.format not in ("auto", *FORMATS):
            raise RecipeError(f"no format {self.format!r}", f"Known: auto, {', '.join(FORMATS)}.")
        if self.by is not None and self.sample is None:
            raise RecipeError("`by` says how `sample` is drawn", "Give both.")

    def inputs(self) -> list[Path]:  # noqa: D102
        from maieutic.data.hub import is_hub

        return [Path(source) for source in self.sources if not is_hub(source)]

    def describe(self) -> str:  # noqa: D102
        return f"import {len(self.sources)} sources as {self.format}"

    def expect(self, out: Path, flow: Flow) -> Cost:  # noqa: D102
        sizes = [flow.size(source) for source in self.sources]
        if sizes and all(sizes):
            rows, tokens, *_ = map(sum, zip(*filter(None, sizes), strict=True))
            kept = min(rows, self.sample or rows)
            flow.put(out / "corpus.jsonl", Size(kept, round(tokens * kept / max(1, rows))))
        return Cost()


class Clean(Action):
    """Repairs and rejects, each with a named reason; a setting that is left out is as in the preset."""

    outputs = ("corpus.jsonl", "rejected.jsonl")
    corpus: Path
    preset: str | None = None
    filters: tuple[str, ...] = ()
    """Beside the preset's, or `all` alone."""
    keep_opening: bool = False
    keep_duplicates: bool = False
    min_turns: int | None = Field(None, ge=1)
    languages: list[str] | None = None
    max_tokens: int | None = Field(None, ge=1)
    tokenizer: str | None = None

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.data.clean import clean_file

        options = self._options()
        wrapped(
            out, self, lambda: clean_file(self.corpus, out / "corpus.jsonl", options, overwrite=True).json()
        )

    def check(self) -> None:  # noqa: D102
        self._options()
        if self.languages:  # a preset's are known; to look others up takes the library that tells languages
            from maieutic.data.language import check_codes

            check_codes(self.languages)

    def _options(self) -> CleanOptions:
        from maieutic.data.filters import choose

        given = {key: value for key, value in self if key not in ("corpus", "preset", "filters")}
        return choose(self.preset, self.filters, given)

    def describe(self) -> str:  # noqa: D102
        return "clean: " + ", ".join(self._options().chosen())

    def expect(self, out: Path, flow: Flow) -> Cost:  # noqa: D102
        flow.put(out / "corpus.jsonl", flow.size(self.corpus))
        return Cost()


class Contamination(Action):
    """A corpus without the conversations that hold a benchmark's questions."""

    outputs = ("corpus.jsonl",)
    corpus: Path
    against: list[Path]

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.data.decontaminate import decontaminate_file

        target = out / "corpus.jsonl"
        wrapped(
            out,
            self,
            lambda: decontaminate_file(self.corpus, self.against, target, overwrite=True).json(),
        )

    def describe(self) -> str:  # noqa: D102
        return f"leave out the questions of {', '.join(path.name for path in self.against)}"

    def expect(self, out: Path, flow: Flow) -> Cost:  # noqa: D102
        flow.put(out / "corpus.jsonl", flow.size(self.corpus))
        return Cost()


class Stats(Action):
    """What is in a corpus; the numbers are the stage's manifest."""

    corpus: Path
    tokenizer: str | None = None

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.data.corpus import read_corpus
        from maieutic.data.stats import stats

        wrapped(out, self, lambda: stats(read_corpus(self.corpus), tokenizer=self.tokenizer))

    def describe(self) -> str:  # noqa: D102
        return f"count {self.corpus.name}"


class Convert(Action):
    """A corpus in a form that other tools read."""

    outputs = ("corpus.json", "corpus.parquet", "corpus.jsonl")
    corpus: Path
    to: Literal["sharegpt", "parquet", "messages"]

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.data.convert import convert

        suffix = {"sharegpt": ".json", "parquet": ".parquet", "messages": ".jsonl"}[self.to]

        def work() -> dict[str, Any]:
            done = convert(self.corpus, self.to, out / f"corpus{suffix}", overwrite=True)
            return {"conversations": done.conversations, "bad": done.bad.json()}

        wrapped(out, self, work)

    def describe(self) -> str:  # noqa: D102
        return f"write {self.corpus.name} as {self.to}"


class Folds(Action):
    """A corpus in disjoint folds of about equal size, such as the problems of each round."""

    outputs = tuple(f"fold-{number}.jsonl" for number in range(1, 65))
    corpus: Path
    folds: int = Field(2, ge=1, le=64)
    by: Literal["problem", "user", "conversation"] = "problem"
    disjoint_from: list[Path] = Field(default_factory=list)
    """Corpora that must not share a problem or user with it, such as test sets."""
    seed: int = 0

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.data.split import k_fold_split

        settings = self.model_dump(exclude={"corpus"})
        wrapped(out, self, lambda: k_fold_split(self.corpus, out, overwrite=True, **settings).json())

    def describe(self) -> str:  # noqa: D102
        return f"split into {self.folds} folds by {self.by}" + (
            ", disjoint from the test sets" if self.disjoint_from else ""
        )

    def expect(self, out: Path, flow: Flow) -> Cost:  # noqa: D102
        if size := flow.size(self.corpus):
            for name in self.outputs[: self.folds]:
                flow.put(out / name, Size(size.rows // self.folds, size.tokens // self.folds))
        return Cost()


class Split(Action):
    """Train, validation and test, by a hash of the group."""

    outputs = ("train.jsonl", "validation.jsonl", "test.jsonl")
    corpus: Path
    by: Literal["conversation", "problem", "user"] = "conversation"
    parts: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 0

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.data.split import split_file

        wrapped(
            out,
            self,
            lambda: split_file(
                self.corpus, out, by=self.by, parts=self.parts, seed=self.seed, overwrite=True
            ).json(),
        )

    def check(self) -> None:  # noqa: D102
        from maieutic.data.split import check_parts

        check_parts(self.parts)

    def describe(self) -> str:  # noqa: D102
        return f"split by {self.by}"

    def expect(self, out: Path, flow: Flow) -> Cost:  # noqa: D102
        if size := flow.size(self.corpus):
            for name, part in zip(self.outputs, self.parts, strict=True):
                flow.put(out / name, Size(round(size.rows * part), round(size.tokens * part)))
        return Cost()
