"""The stages of a comparison of tutors over several sets: train and test lists, and leaks."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from maieutic.core.costs import Cost, Flow, Size
from maieutic.core.errors import RecipeError
from maieutic.recipes.stages.action import Action, wrapped

NONE = "none"


class Lists(Action):
    """The train and the test list of one set; where there is no test list, a share is held out by problem."""

    outputs = ("train.jsonl", "test.jsonl")
    train: Path
    test: str = NONE
    """A file, or `none`: hold out a share of train."""
    name: str
    share: float = Field(0.1, gt=0, lt=1)
    format: str = "auto"
    seed: int = 0

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.data.split import train_test_split

        settings = {**dict(self), "test": self._test()}
        train = settings.pop("train")
        wrapped(out, self, lambda: train_test_split(train, out, **settings))

    def _test(self) -> Path | None:
        return None if self.test == NONE else Path(self.test)

    def check(self) -> None:  # noqa: D102
        from maieutic.data.importing import FORMATS

        if self.format not in ("auto", *FORMATS):
            raise RecipeError(f"no format {self.format!r}", f"Known: auto, {', '.join(FORMATS)}.")

    def inputs(self) -> list[Path]:  # noqa: D102
        return [self.train, *([Path(self.test)] if self._test() else [])]

    def describe(self) -> str:  # noqa: D102
        return f"the lists of {self.name}, " + (
            "tested by its own" if self._test() else f"{self.share:.0%} held out"
        )

    def expect(self, out: Path, flow: Flow) -> Cost:  # noqa: D102
        size, tested = flow.size(self.train), flow.size(self.test) if self._test() else None
        if size:
            held = Size(round(size.rows * self.share), round(size.tokens * self.share))
            kept = size if self._test() else Size(size.rows - held.rows, size.tokens - held.tokens)
            flow.put(out / "train.jsonl", kept)
            flow.put(out / "test.jsonl", tested if self._test() else held)
        return Cost()


class Leaks(Action):
    """What a train list gives away of each test list; without it where that is wanted."""

    outputs = ("corpus.jsonl", "leaks.json")
    corpus: Path
    names: list[str]
    tests: list[Path]
    """In the order of `names`."""
    drop: bool = False
    """Leave out of train what gives a test item away."""

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.data.overlap import write_leaks

        named = dict(zip(self.names, self.tests, strict=True))
        wrapped(out, self, lambda: write_leaks(self.corpus, named, out, drop=self.drop))

    def describe(self) -> str:  # noqa: D102
        return "what of the tests stands in it" + (", left out" if self.drop else "")

    def expect(self, out: Path, flow: Flow) -> Cost:  # noqa: D102
        flow.put(out / "corpus.jsonl", flow.size(self.corpus))
        return Cost()
