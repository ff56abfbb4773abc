"""Results of the steps that work on corpora: counts that can be printed as tables."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from maieutic.core.console import note, say, table
from maieutic.core.json_rows import summarize
from maieutic.core.step import Result

SHOWN = 20
"""Maximum number of lines of a printed table."""

BadRows = dict[str, Any]
"""`{"count", "rows": [{"where", "reason"}], "summary"?}`: rows that were skipped because they cannot be read."""


class CorpusResult(Result):
    """Counts of a step that reads a corpus. `run` is the file or folder that the step wrote."""

    bad: BadRows = Field(default_factory=dict)

    def json(self) -> dict[str, Any]:  # type: ignore[override]
        """The counts, with the written file or folder as `out`."""
        shape = self.model_dump(mode="json")
        return {"out": shape.pop("run"), **shape}

    def note_bad_rows(self) -> None:
        """Name the skipped rows on standard error."""
        for bad in [self.bad] if "count" in self.bad else self.bad.values():
            if bad["count"]:
                note(summarize(bad["count"], bad["rows"]))


class ImportResult(CorpusResult):
    """How many conversations were imported, from which formats."""

    conversations: int
    formats: dict[str, dict[str, int]]
    """By file or dataset: rows by format."""
    licences: dict[str, int]
    unlicensed: int
    sample: dict[str, dict[str, int]] | None = None
    """By value of the stratifying field: `{"seen", "kept"}`."""
    by: str | None = Field(None, exclude=True)

    def json(self) -> dict[str, Any]:  # type: ignore[override]
        """The counts; `sample` only if a sample was drawn."""
        shape = super().json()
        return shape if self.sample else {key: value for key, value in shape.items() if key != "sample"}

    def show(self) -> None:
        """Print the counts, and how many conversations name no licence."""
        for file, found in self.formats.items():
            ordered = sorted(found.items(), key=lambda item: -item[1])
            say(f"{file}: read {', '.join(f'{rows} as {name}' for name, rows in ordered) or 'nothing'}")
        self.note_bad_rows()
        if self.sample:
            rows = [(value, counts["seen"], counts["kept"]) for value, counts in self.sample.items()]
            table(f"sample by {self.by}" if self.by else "sample", ("value", "seen", "kept"), rows)
        if self.unlicensed:
            note(f"{self.unlicensed} conversations name no licence; give it with --licence")
        say(f"{self.conversations} conversations in {self.run}")


class CleanResult(CorpusResult):
    """Counts: read - cut + parts = kept + rejected."""

    read: int
    kept: int
    cut: int
    parts: int
    repaired: dict[str, int]
    rejected: dict[str, int]
    masked: dict[str, int]
    steps: list[dict[str, Any]]
    """By filter: `{"step", "rejected", "repaired", "conversations", "segments"}`; `step` is the filter's name."""
    rejected_file: str | None

    def show(self) -> None:
        """Print the counts after each filter, and by reason."""
        self.note_bad_rows()
        columns: tuple[str, ...] = ("after", "rejected", "conversations", "segments")
        rows: list[tuple[Any, ...]] = [("read", None, self.read, self.read)]
        rows += [
            (step["step"], step["rejected"], step["conversations"], step["segments"]) for step in self.steps
        ]
        width = 4 if self.cut else 3
        table("clean", columns[:width], [row[:width] for row in rows])
        reasons = [(f"rejected: {name}", count) for name, count in _largest_first(self.rejected)]
        reasons += [("kept", self.kept)]
        reasons += [(f"  of these, {name}", count) for name, count in _largest_first(self.repaired)]
        reasons += [(f"masked: {kind}", count) for kind, count in self.masked.items()]
        table("why", ("what", "count"), reasons)
        if self.cut:
            say(f"{self.cut} conversations were cut into {self.parts} parts")
        if any(self.rejected.values()):
            say(f"rejected conversations, with the reasons: {self.rejected_file}")
        say(f"{self.kept} conversations in {self.run}")


def _largest_first(counts: dict[str, int]) -> list[tuple[str, int]]:
    return [(name, count) for name, count in sorted(counts.items(), key=lambda item: -item[1]) if count]


class SplitResult(CorpusResult):
    """Counts of the parts, and their overlap."""

    by: str
    counts: dict[str, int]
    groups: dict[str, int]
    alone: int
    """Conversations without a user or a problem; each is grouped by its content."""
    moved: int
    """Conversations that went to the part of an equal conversation instead of their group's part."""
    leakage: dict[str, Any]
    empty: list[str] = Field(default_factory=list)
    """Parts without a conversation, although their share is not zero."""
    files: dict[str, Any] = Field(default_factory=dict)
    """Counts of files that had to be imported, by file name."""

    def show(self) -> None:
        """Print the parts and their overlap."""
        self.note_bad_rows()
        rows = [(part, count, self.groups[part]) for part, count in self.counts.items()]
        table(f"split by {self.by}", ("part", "conversations", "groups"), rows)
        if self.alone:
            say(f"{self.alone} conversations have no {self.by} and were split by their own content")
        if self.moved:
            say(
                f"{self.moved} conversations went to the part of an equal conversation instead of their group's part"
            )
        if self.leakage:
            _show_overlap("leakage", self.leakage)
        if any(found["overlap"]["near"] is None for found in self.leakage.values()):
            note("near duplicates were not counted (without --no-near, rensa counts them: maieutic[data])")
        if self.empty:
            note(f"empty: {', '.join(self.empty)}; there are too few groups for these shares")
        say(f"in {self.run}: {', '.join(f'{part}.jsonl' for part in self.counts)}, split.json")


class FoldsResult(CorpusResult):
    """The sizes of the folds."""

    by: str
    counts: list[int]
    """Conversations of each fold."""
    groups: list[int]
    """Number of groups (problems or users) in each fold; a conversation without a group key is its own group."""

    def show(self) -> None:
        """Print the sizes."""
        self.note_bad_rows()
        rows = [
            (f"fold-{number}.jsonl", *both)
            for number, both in enumerate(zip(self.counts, self.groups, strict=True), 1)
        ]
        table(f"folds by {self.by}", ("fold", "conversations", "groups"), rows)


class OverlapResult(CorpusResult):
    """How many items of a test set are also in a train set."""

    overlap: dict[str, int | None]
    """`{"exact", "near", "problems"}`; `near` is null if near duplicates were not counted."""
    prompts: dict[str, int | None]
    programs: int
    train: int
    test: int
    leaked: list[str]
    """Ids of the test items that are exact or near, or share a problem."""

    def exit_code(self) -> int:
        """1 if a test item is exact or near, or shares a problem."""
        return int(any(self.overlap.values()))

    def json(self) -> dict[str, Any]:  # type: ignore[override]
        """The counts."""
        return {key: value for key, value in super().json().items() if key != "out"}

    def show(self) -> None:
        """Print the counts."""
        self.note_bad_rows()
        _show_overlap("overlap", {"test in train": self.json()})
        say("train and test overlap" if self.exit_code() else "no overlap")


def _show_overlap(title: str, pairs: dict[str, Any]) -> None:
    def row(name: str, *keys: str) -> tuple[Any, ...]:
        values = list(pairs.values())
        for key in keys:
            values = [value[key] for value in values]
        return (name, *values)

    rows = [
        row("exact", "overlap", "exact"),
        row("near", "overlap", "near"),
        row("problems", "overlap", "problems"),
        row("prompts", "prompts", "exact"),
        row("near prompts", "prompts", "near"),
        row("programs", "programs"),
        row("test items", "test"),
        row("train items", "train"),
    ]
    table(title, ("test items with", *pairs), rows)


class DecontaminateResult(CorpusResult):
    """The questions and test items that were found."""

    read: int
    flagged: int
    """Conversations that contain a question or a test item."""
    questions: int
    questions_found: int
    hits: list[dict[str, Any]]
    """`{"conversation", "question", "how", "share", "words"}`."""
    tests: dict[str, Any] = Field(default_factory=dict)
    """By test set: `{"overlap", "prompts", "programs", "train", "test", "leaked", "before"?}`; `before` has the
    same counts for the whole corpus."""
    dropped: int = 0
    fail: bool = Field(False, exclude=True)

    def exit_code(self) -> int:
        """1 if `fail` is set and a question was found."""
        return int(self.fail and self.flagged > 0)

    def show(self) -> None:
        """Print what was found."""
        self.note_bad_rows()
        if self.hits:
            columns = ("conversation", "question", "how", "of its 5-grams", "shared words")
            table("questions found", columns, [_hit_row(hit) for hit in self.hits[:SHOWN]])
        if len(self.hits) > SHOWN:
            say(f"and {len(self.hits) - SHOWN} more; --json gives all")
        if self.tests:
            _show_overlap("test items found", self.tests)
        if self.questions:
            found = f"{self.questions_found} of {self.questions} questions found"
            say(f"{found}, in {self.flagged} of {self.read} conversations")
        if self.run:
            say(f"{self.read - self.dropped} conversations in {self.run}")


def _hit_row(hit: dict[str, Any]) -> tuple[str, ...]:
    question = hit["question"].rpartition("/")[2]
    return hit["conversation"], question, hit["how"], f"{hit['share']:.2f}", _cut(hit["words"])


def _cut(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= 60 else flat[:59] + "…"


class StatsResult(CorpusResult):
    """Counts of a corpus, by role where the role matters; an undefined value is null."""

    conversations: int
    rounds: dict[str, float]
    turns: dict[str, int]
    characters: dict[str, int]
    words: dict[str, int]
    tokens: dict[str, int]
    tokenizer: str | None
    """The tokenizer that counted the tokens; null: estimated."""
    lengths: dict[str, dict[str, float]]
    languages: dict[str, int] | None
    first_turn_diversity: dict[str, Any]
    ended: int
    problems: int
    users: int
    sources: dict[str, int]
    licences: dict[str, int]
    figure: str | None = None
    name: str = Field("", exclude=True)

    def json(self) -> dict[str, Any]:  # type: ignore[override]
        """The counts."""
        return {key: value for key, value in super().json().items() if key != "out"}

    def show(self) -> None:
        """Print the counts as tables."""
        self.note_bad_rows()
        diversity = self.first_turn_diversity
        rows: list[tuple[Any, ...]] = [
            ("conversations", self.conversations),
            ("ended by the person", self.ended),
            ("with a problem", self.problems),
            ("known users", self.users),
            (f"first-turn diversity (n={diversity['n']})", diversity["value"]),
        ]
        table(self.name, ("what", "count"), rows)
        columns = ("mean", "p10", "median", "p90", "max")
        lengths = {"rounds": self.rounds, **self.lengths}
        rows = [
            (what.replace("_", " "), *(str(round(spread[key], 1)) for key in columns))
            for what, spread in lengths.items()
        ]
        table("lengths", ("per conversation or turn", *columns), rows)
        rows = [
            (role, count, self.characters[role], self.words[role], self.tokens[role])
            for role, count in self.turns.items()
        ]
        tokens = "tokens" if self.tokenizer else "tokens (estimated)"
        table("by role", ("role", "turns", "characters", "words", tokens), rows)
        if self.languages is None:
            note("languages were not identified; that needs py3langid (pip install 'maieutic[data]')")
        for name, found in (
            ("language", self.languages),
            ("source", self.sources),
            ("licence", self.licences),
        ):
            if found:
                table(f"{name}s", (name, "conversations"), list(found.items())[:SHOWN])
        if self.figure:
            say(f"figure: {self.figure}")


class ConvertResult(CorpusResult):
    """How many conversations were written."""

    to: str
    conversations: int
    of: int
    """Conversations of the corpus."""

    def show(self) -> None:
        """Print the count."""
        self.note_bad_rows()
        say(f"{self.conversations} conversations in {self.run}")
