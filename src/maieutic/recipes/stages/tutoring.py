"""The stages of a comparison of tutors over several sets: lists, leaks, replies that people scored, the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
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


class Rated(Action):
    """Replies that people scored, as candidates for a judge."""

    outputs = ("rated.jsonl",)
    data: Path

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.data.corpus import replacing
        from maieutic.evals.judge_agreement import rated_replies

        def work() -> dict[str, Any]:
            count = 0
            with replacing(out / "rated.jsonl", overwrite=True) as write:
                for row in rated_replies(self.data):
                    write(orjson.dumps(row) + b"\n")
                    count += 1
            return {"replies": count}

        wrapped(out, self, work)

    def describe(self) -> str:  # noqa: D102
        return "replies that people scored"

    def expect(self, out: Path, flow: Flow) -> Cost:  # noqa: D102
        if size := flow.size(self.data):
            flow.put(out / "rated.jsonl", size._replace(replies=1))
        return Cost()


class Agreement(Action):
    """The judge beside people, on the same replies."""

    outputs = ("human_vs_gpt.json",)
    data: Path

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.core.store import write_json
        from maieutic.evals.judge_agreement import human_and_judge, score_judge

        def work() -> dict[str, Any]:
            write_json(out / "human_vs_gpt.json", human_and_judge(self.data))
            return {"agreement": score_judge(out / "human_vs_gpt.json")}

        wrapped(out, self, work)

    def describe(self) -> str:  # noqa: D102
        return "the judge beside people"


class Grid(Action):
    """Every test set with every tutor: as published and clean, and the differences from the base."""

    outputs = ("grid.json",)
    sets: list[str]
    """Test sets, and the sets that tutors were trained on."""
    others: list[str] = Field(default_factory=list)
    """Names of tutors that were only prompted, beside the base."""
    base: list[Path]
    """The base's judged replies, a test set each."""
    beside: list[Path] = Field(default_factory=list)
    """The others' judged replies, for each test set each of them."""
    tuned: list[Path]
    """The tuned tutors' judged replies, for each test set each set that one was trained on."""
    leaks: list[Path]
    """What each train set gives away."""
    shown: str | None = None
    """The set whose tutor the figures show; null, or none of `sets`: the first."""

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.core.store import write_json
        from maieutic.evals.tutor_grid import score_grid

        def work() -> dict[str, Any]:
            found = score_grid(self._cells(), dict(zip(self.sets, self.leaks, strict=True)))
            whole = {"shown": self.shown if self.shown in self.sets else self.sets[0], **found}
            write_json(out / "grid.json", whole)
            return whole

        wrapped(out, self, work)

    def _cells(self) -> list[Any]:
        from maieutic.evals.tutor_grid import BASE, GridCell, GridTutor

        base, beside, tuned = iter(self.base), iter(self.beside), iter(self.tuned)
        return [
            cell
            for test in self.sets
            for cell in (
                GridCell(test, GridTutor(BASE, None), next(base)),
                *(GridCell(test, GridTutor(name, None), next(beside)) for name in self.others),
                *(
                    GridCell(test, GridTutor(f"from_finetuned_with_{name}", name), next(tuned))
                    for name in self.sets
                ),
            )
        ]

    def check(self) -> None:  # noqa: D102
        many, others = len(self.sets), len(self.others)
        counts = (len(self.base), len(self.beside), len(self.tuned), len(self.leaks))
        if not many or counts != (many, many * others, many * many, many):
            raise RecipeError(
                f"{many} sets and {others} others do not go with {counts} files",
                "Give each set a base, each of the others, each tuned tutor, and its leaks.",
            )

    def describe(self) -> str:  # noqa: D102
        return f"tutors by test sets: {1 + len(self.others) + len(self.sets)} × {len(self.sets)}"
