"""The steps that make and measure corpora: import, clean, split, decontaminate, stats, convert."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, PlainValidator

from maieutic.core.costs import Cost, Flow, Size
from maieutic.core.errors import InputError
from maieutic.core.settings import Source
from maieutic.core.step import Step
from maieutic.data.filters import CleanOptions, Filter, split_commas
from maieutic.data.results import (
    CleanResult,
    ConvertResult,
    DecontaminateResult,
    FoldsResult,
    ImportResult,
    OverlapResult,
    SplitResult,
    StatsResult,
)

MAX_FOLDS = 64


def _strings(value: Any) -> Any:
    return [str(item) for item in (value if isinstance(value, (list, tuple)) else [value])]


def _none(value: Any) -> Any:
    return None if value == "none" else value


def _shares(value: Any) -> tuple[float, float, float]:
    try:
        train, validation, test = (float(share) for share in split_commas(value))
    except (TypeError, ValueError):
        raise ValueError("give three shares, for example 0.8,0.1,0.1") from None
    return train, validation, test


def _named_paths(value: Any) -> Any:
    if not isinstance(value, (list, tuple)):
        return value
    if bad := [item for item in value if "=" not in str(item)]:
        raise ValueError(f"{bad[0]!r} is not NAME=FILE")
    return dict(str(item).split("=", 1) for item in value)


class Import(Step):
    """Read conversations of any known format into a corpus (JSONL of `messages`)."""

    command: ClassVar = "import"
    arguments: ClassVar = ("sources",)
    flags: ClassVar = {"format": "--format -f"}
    examples: ClassVar = (
        "maieutic import chats.json trees.jsonl --out corpus.jsonl",
        "maieutic import dolly.jsonl --sample 1000 --by category --out seeds.jsonl",
    )
    writes: ClassVar = "file"
    outputs: ClassVar = ("corpus.jsonl",)

    sources: Annotated[list[str], BeforeValidator(_strings)] = Field(
        description="Files and folders of any known format; hub:NAME[:SPLIT] for a dataset."
    )
    format: str = Field(
        "auto",
        description="auto (guessed and printed), messages, sharegpt, oasst, mathdial, bridge, socratic-llm, "
        "socratic-debugging, tutorchat, problems, alpaca, dolly, wizardlm, ultrachat, baize, wildchat, lmsys.",
    )
    ended: bool = Field(False, description="The user ended every one of these conversations.")
    source: str | None = Field(
        None, description="Source of rows that name no source; default: the file or dataset."
    )
    licence: str | None = Field(
        None, description="Licence of rows that name no licence; default: from the dataset's card."
    )
    sample: int | None = Field(
        None, ge=1, description="Keep this many conversations, sampled by a hash of their content."
    )
    by: str | None = Field(
        None, description="Stratify the sample by this field or key of meta, such as category."
    )
    strict: bool = Field(False, description="Stop at the first broken row instead of skipping it.")
    force: bool = Field(False, description="Replace an output with other content.")

    def run(self, out: Path | str) -> ImportResult:
        """Write the corpus."""
        from maieutic.data.corpus import write_corpus
        from maieutic.data.hub import place
        from maieutic.data.importing import read_sources

        conversations, report = read_sources(self)
        count = write_corpus(out, conversations, overwrite=self.force, sources=map(place, self.sources))
        return ImportResult(run=str(out), conversations=count, by=self.by, **report.json())

    def check(self) -> None:
        """Refuse an unknown format, and `by` without `sample`."""
        from maieutic.data.importing import check_format

        check_format(self.format)
        if self.by is not None and self.sample is None:
            raise InputError("`by` needs `sample`", "Give both, or neither.")

    def inputs(self) -> list[Path]:
        """The sources that are files."""
        from maieutic.data.hub import is_hub

        return [Path(source) for source in self.sources if not is_hub(source)]

    def describe(self) -> str:
        """A short description for the plan of a recipe."""
        return f"import {len(self.sources)} sources as {self.format}"

    def expect(self, out: Path, flow: Flow) -> Cost:
        """No cost; the corpus has the rows of all sources, or of the sample."""
        sizes = [flow.size(source) for source in self.sources]
        if sizes and all(sizes):
            rows, tokens, *_ = map(sum, zip(*filter(None, sizes), strict=True))
            kept = min(rows, self.sample or rows)
            flow.put(out / "corpus.jsonl", Size(kept, round(tokens * kept / max(1, rows))))
        return Cost()


class Clean(Step, CleanOptions):
    """Repair conversations, reject those that cannot be used, and count both by reason.

    By default, empty turns and leading assistant turns are dropped, and neighbouring turns of one role are merged.
    Conversations without a user turn or without an assistant turn, conversations with too few turns and exact
    duplicates are rejected. Other filters run with --preset, --filters or an option of the filter. The order of the
    filters is fixed. Rejected rows go to rejected.jsonl in the folder of the output.
    """

    command: ClassVar = "clean"
    arguments: ClassVar = ("corpus",)
    examples: ClassVar = (
        "maieutic clean corpus.jsonl --out clean.jsonl",
        "maieutic clean corpus.jsonl --preset platolm --filters near --out platolm.jsonl",
    )
    writes: ClassVar = "file"
    outputs: ClassVar = ("corpus.jsonl", "rejected.jsonl")

    corpus: Source = Field(description="A corpus: JSONL (or .gz), a JSON list, or a step's folder.")
    strict: bool = Field(False, description="Stop at the first broken row instead of skipping it.")
    force: bool = Field(False, description="Replace an output with other content.")

    def run(self, out: Path | str) -> CleanResult:
        """Write the cleaned corpus and the rejected rows."""
        from maieutic.data.clean import clean_file

        report = clean_file(self, Path(out))
        return CleanResult(run=str(out), **report.json())

    def check(self) -> None:
        """Refuse an unknown language."""
        if Filter.LANGUAGE in self.filters and self.languages != ("en",):
            from maieutic.data.language import check_codes

            check_codes(self.languages)

    def describe(self) -> str:
        """A short description for the plan of a recipe."""
        return "clean: " + ", ".join(self.chosen())

    def expect(self, out: Path, flow: Flow) -> Cost:
        """No cost; the size of the cleaned corpus is estimated as the size of the corpus."""
        flow.put(out / "corpus.jsonl", _size(flow, self.corpus))
        return Cost()


class Split(Step):
    """Split a corpus into train, validation and test, or into folds; or check two files for overlap.

    A hash of each group decides its part, so the split does not change when the corpus grows. Afterwards the overlap
    of the parts is measured and written to split.json. With --check, both files may have any importable format.
    --check counts items of TEST that are in TRAIN: exact (same text), near (not exact; a Jaccard index of at least .8
    of the word 5-grams), problems (same statement and program), prompts (same first user turn and problem) and
    programs (same program, any statement). It exits with 1 if there is an exact, near or problem overlap.
    """

    command: ClassVar = "split"
    arguments: ClassVar = ("corpus",)
    flags: ClassVar = {"compare": "--check"}
    shown: ClassVar = ("corpus", "by", "parts", "folds", "test", "compare", "near", "seed", "force")
    examples: ClassVar = (
        "maieutic split clean.jsonl --by user --out parts",
        "maieutic split --check parts/train.jsonl parts/test.jsonl",
    )
    writes: ClassVar = "files"
    outputs: ClassVar = (
        *("train.jsonl", "validation.jsonl", "test.jsonl", "split.json"),
        *(f"fold-{number}.jsonl" for number in range(1, MAX_FOLDS + 1)),
    )

    corpus: Path | None = Field(None, description="The corpus to split.")
    by: Literal["conversation", "problem", "user"] = Field(
        "conversation", description="Conversations with the same value stay in one part."
    )
    parts: Annotated[Any, PlainValidator(_shares)] = Field(
        (0.8, 0.1, 0.1), description="Shares of train, validation and test."
    )
    folds: int | None = Field(
        None, ge=1, le=MAX_FOLDS, description="Write this many folds of about equal size instead."
    )
    disjoint_from: list[Path] = Field(
        default_factory=list,
        description="With --folds: corpora that must not share a problem or user with CORPUS, such as test sets.",
    )
    test: Annotated[Path | None, BeforeValidator(_none)] = Field(
        None, description="A separate test set; all of CORPUS becomes train. `none`: no separate test set."
    )
    format: str | None = Field(
        None, description="Import CORPUS and the test set from this format, or auto (see `maieutic import`)."
    )
    source: str | None = Field(None, description="Name of the data set; becomes the source of every row.")
    seed: int = Field(0, description="Random seed; another seed gives another split.")
    compare: tuple[Path, Path] | None = Field(
        None, description="TRAIN and TEST: do not split, but measure how much of TEST is in TRAIN."
    )
    near: bool = Field(True, description="Also count near duplicates.")
    strict: bool = Field(False, description="Stop at the first broken row instead of skipping it.")
    force: bool = Field(False, description="Replace outputs with other content.")

    def run(self, out: Path | str) -> SplitResult | FoldsResult | OverlapResult:
        """Write the parts or folds, or measure the overlap."""
        if self.compare is not None:
            from maieutic.data.overlap import NEAR, check

            found = check(*self.compare, strict=self.strict, least=NEAR if self.near else None)
            bad = {"train": found.train.bad.json(), "test": found.test.bad.json()}
            return OverlapResult(**found.overlap.json(), bad=bad)
        from maieutic.data.split import k_fold_split, split_file

        if self.folds is not None:
            return FoldsResult(run=str(out), **k_fold_split(self, Path(out)).json())
        report = split_file(self, Path(out))
        return SplitResult(run=str(out), **report.json())

    def check(self) -> None:
        """Refuse shares that do not add up to 1, and options that do not fit together."""
        from maieutic.data.split import check_parts

        check_parts(self.parts)
        if (self.compare is None) == (self.corpus is None):
            raise InputError(
                "give either a corpus to split or two files to check", "See maieutic split --help."
            )
        if self.format is not None:
            from maieutic.data.importing import check_format

            check_format(self.format)
        if self.disjoint_from and self.folds is None:
            raise InputError("`disjoint_from` needs `folds`", "Use --check to compare other parts.")

    def needs_out(self) -> bool:
        """Whether the step writes parts or folds."""
        return self.compare is None

    def describe(self) -> str:
        """A short description for the plan of a recipe."""
        if self.test:
            return f"split: {self.test.name} is the test set"
        into = f"into {self.folds} folds " if self.folds else ""
        return f"split {into}by {self.by}" + (", disjoint from the test sets" if self.disjoint_from else "")

    def expect(self, out: Path, flow: Flow) -> Cost:
        """No cost; each part has its share of the rows."""
        size = _size(flow, self.corpus)
        if size is None:
            return Cost()
        if self.folds:
            for name in self.outputs[4 : 4 + self.folds]:
                flow.put(out / name, Size(size.rows // self.folds, size.tokens // self.folds))
        elif self.test:
            flow.put(out / "train.jsonl", size)
            flow.put(out / "test.jsonl", flow.size(self.test))
        else:
            for name, part in zip(self.outputs, self.parts, strict=False):
                flow.put(out / name, Size(round(size.rows * part), round(size.tokens * part)))
        return Cost()


class Decontaminate(Step):
    """Find conversations that contain questions of a benchmark or items of a test set, and remove them.

    A conversation contains a question if thirteen consecutive words of the question occur in one turn, or half of the
    question's word 5-grams. A question of eight to twelve words must occur completely, and a shorter question must be
    a whole turn. A conversation contains a test item if both have the same or nearly the same text, or the same
    problem or program. With --test, leaks.json in the folder of the output names the test items that were found.
    """

    command: ClassVar = "decontaminate"
    arguments: ClassVar = ("corpus",)
    flags: ClassVar = {"against": "--against -q", "test": "--test"}
    examples: ClassVar = ("maieutic decontaminate clean.jsonl --against question.jsonl --out unseen.jsonl",)
    writes: ClassVar = "file"
    outputs: ClassVar = ("corpus.jsonl", "leaks.json")

    corpus: Source = Field(description="A corpus: JSONL (or .gz), a JSON list, or a step's folder.")
    against: list[Path] = Field(
        default_factory=list,
        description="Questions: FastChat's question.jsonl, AlpacaEval's JSON, a JSON list, or one question per line.",
    )
    test: Annotated[dict[str, Path], BeforeValidator(_named_paths)] = Field(
        default_factory=dict, description="Test sets by name: corpora whose items must not be in CORPUS."
    )
    drop: bool = Field(
        True,
        description="Remove the conversations that were found from the output; otherwise only report them.",
    )
    fail: bool = Field(False, description="Exit with 1 if a question was found.")
    strict: bool = Field(False, description="Stop at the first broken row instead of skipping it.")
    force: bool = Field(False, description="Replace an output with other content.")

    def run(self, out: Path | str = "") -> DecontaminateResult:
        """Report what was found, and write the corpus if there is an `out`."""
        from maieutic.data.decontaminate import decontaminate_file

        return decontaminate_file(self, Path(out) if str(out) else None)

    def check(self) -> None:
        """Refuse a call without questions and without test sets."""
        if not self.against and not self.test:
            raise InputError(
                "nothing to look for", "Give questions with --against, or test sets with --test."
            )

    def needs_out(self) -> bool:
        """Without `out` the step only reports."""
        return False

    def inputs(self) -> list[Path]:
        """The corpus, the questions and the test sets."""
        return [*super().inputs(), *self.test.values()]

    def describe(self) -> str:
        """A short description for the plan of a recipe."""
        names = [*(path.name for path in self.against), *self.test]
        return f"{'leave out' if self.drop else 'find'} what is in {', '.join(names)}"

    def expect(self, out: Path, flow: Flow) -> Cost:
        """No cost; few conversations are left out."""
        flow.put(out / "corpus.jsonl", _size(flow, self.corpus))
        return Cost()


class Stats(Step):
    """Count a corpus: rounds, turns, lengths and tokens by role, languages, first-turn diversity, sources."""

    command: ClassVar = "stats"
    arguments: ClassVar = ("corpus",)
    examples: ClassVar = ("maieutic stats corpus.jsonl --figure corpus.png",)
    writes: ClassVar = "result"
    outputs: ClassVar = ("stats.json",)

    corpus: Source = Field(description="A corpus: JSONL (or .gz), a JSON list, or a step's folder.")
    tokenizer: str | None = Field(
        None, description="Tokenizer that counts the tokens; default: an estimate from the words."
    )
    languages: bool = Field(True, description="Identify the languages, which takes most of the time.")
    figure: Path | None = Field(None, description="Draw turns and lengths into a .png, .svg or .pdf file.")
    strict: bool = Field(False, description="Stop at the first broken row instead of skipping it.")

    def run(self, out: Path | str = "") -> StatsResult:
        """Count, and draw the figure."""
        from maieutic.data.stats import draw, survey_file

        survey, bad = survey_file(self)
        if self.figure:
            draw(survey, self.figure)
        figure = str(self.figure) if self.figure else None
        return StatsResult(**survey.json(), figure=figure, bad=bad.json(), name=_name(self.corpus))

    def check(self) -> None:
        """Refuse a figure's name that ends in an unknown format."""
        if self.figure:
            from maieutic.data.stats import check_name

            check_name(self.figure)

    def inputs(self) -> list[Path]:
        """The corpus."""
        return [self.corpus] if isinstance(self.corpus, Path) else []

    def describe(self) -> str:
        """A short description for the plan of a recipe."""
        return f"count {_name(self.corpus)}"


class Convert(Step):
    """Write a corpus, or a sample of it, in a format that other tools read."""

    command: ClassVar = "convert"
    arguments: ClassVar = ("corpus",)
    examples: ClassVar = ("maieutic convert corpus.jsonl --to sharegpt --out chats.json",)
    writes: ClassVar = "file"
    outputs: ClassVar = ("corpus.jsonl", "corpus.json", "corpus.parquet")

    corpus: Source = Field(description="A corpus: JSONL (or .gz), a JSON list, or a step's folder.")
    to: Literal["messages", "sharegpt", "parquet"] = Field(description="The format to write.")
    sample: int | None = Field(
        None, ge=1, description="Keep this many conversations, sampled by a hash of their content."
    )
    by: str | None = Field(None, description="Stratify the sample by this field or key of meta.")
    exact_sample: bool = Field(False, description="Fail if the corpus is smaller than the sample.")
    strict: bool = Field(False, description="Stop at the first broken row instead of skipping it.")
    force: bool = Field(False, description="Replace an output with other content.")

    def run(self, out: Path | str) -> ConvertResult:
        """Write the file."""
        from maieutic.data.convert import convert_file

        return convert_file(self, Path(out))

    def check(self) -> None:
        """Refuse `by` without `sample`."""
        if self.by is not None and self.sample is None:
            raise InputError("`by` needs `sample`", "Give both, or neither.")

    def file_name(self) -> str:
        """The corpus, with the suffix of its format."""
        return {"messages": "corpus.jsonl", "sharegpt": "corpus.json", "parquet": "corpus.parquet"}[self.to]

    def describe(self) -> str:
        """A short description for the plan of a recipe."""
        sample = f"a sample of {self.sample} of " if self.sample else ""
        return f"write {sample}{_name(self.corpus)} as {self.to}"

    def expect(self, out: Path, flow: Flow) -> Cost:
        """No cost; the file has as many rows as the corpus or the sample."""
        if size := _size(flow, self.corpus):
            kept = min(size.rows, self.sample or size.rows)
            tokens = round(size.tokens * kept / max(1, size.rows))
            flow.put(out / self.file_name(), size._replace(rows=kept, tokens=tokens))
        return Cost()


def _name(corpus: Any) -> str:
    return corpus.name if isinstance(corpus, Path) else f"{len(corpus)} conversations"


def _size(flow: Flow, corpus: Any) -> Size | None:
    return flow.size(corpus) if isinstance(corpus, Path) else None


__all__ = ["Clean", "Convert", "Decontaminate", "Import", "Split", "Stats"]
