"""The steps that judge replies, and that make preference pairs and rewards of what was judged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from maieutic.core.budget import Budget
from maieutic.core.console import note, say, table
from maieutic.core.costs import VERDICT_TOKENS, Ask, Cost, Flow, Size
from maieutic.core.json_rows import BadRows
from maieutic.core.messages import Estimate, Sampling
from maieutic.core.reading import read_rows
from maieutic.core.rows import JudgedRow, PreferenceRow, RewardRow, parse, read_step
from maieutic.core.settings import LocalModel, ModelSpec, Requests, Source
from maieutic.core.step import Result, Step

JUDGE_SAMPLING = Sampling(temperature=0.2, max_tokens=400)
"""As published (socratic-llm): temperature 0.2, seed 0."""


def _as_panel(value: Any) -> Any:
    if value is None or value == "code":
        return []
    panel = list(value) if isinstance(value, (list, tuple)) else [value]
    return [model for model in panel if model != "code"]


def _as_sources(value: Any) -> Any:
    several = isinstance(value, (list, tuple)) and all(isinstance(one, (str, Path)) for one in value)
    return value if several and value else [value]


Panel = Annotated[list[ModelSpec], BeforeValidator(_as_panel)]
"""Models that judge. One model is a list of one; `code` stands for no model."""
Sources = Annotated[list[Source], BeforeValidator(_as_sources)]
"""One source, or several paths."""
Measured = Annotated[Estimate, PlainSerializer(Estimate.json)]
"""An estimate, written to JSON as `{"value", "ci", "n"}`."""


class _Judging(Step):
    """The settings of every step that asks judges."""

    rubric: str = Field("socratic", description="A rubric's name, or a .yaml file.")
    judge: Panel = Field(default_factory=list, description="MODEL that judges; several make a panel.")
    samples: int = Field(1, ge=1, description="Verdicts of each model; verdict i uses the seed + i.")
    retries: int = Field(2, ge=0, description="How often an unreadable verdict is asked for again.")
    sampling: Sampling = JUDGE_SAMPLING
    requests: Requests = Requests()
    budget: Budget = Budget()
    local: LocalModel = LocalModel()

    def check(self) -> None:
        from maieutic.judging.judge import check_rubric
        from maieutic.judging.rubrics import load_rubric

        check_rubric(load_rubric(self.rubric), with_model=bool(self.judge))

    def models(self) -> list[str]:
        return [model for model in self.judge if isinstance(model, str)]

    def _panel(self) -> str:
        return " and ".join(model if isinstance(model, str) else model.id for model in self.judge) or "code"

    def _asked(self, flow: Flow, calls: int, read: int) -> Cost:
        """The cost of so many calls to each judge."""
        calls, read = self.samples * calls, self.samples * read
        return flow.asked(
            [Ask(model, calls, read, calls * VERDICT_TOKENS) for model in self.models()], self.budget.prices
        )


class JudgeResult(Result):
    """Counts over the whole run folder; `calls` and `seconds` are those of this call."""

    judged: int
    """Replies with a summary score."""
    unscored: int
    """Replies without a readable verdict."""
    undecided: int
    """Replies with some values but no summary score: no check and no model decided a weighted criterion."""
    prompts: int
    """Number of rows; a row holds one context and its replies."""
    mean: float | None
    """Mean of the summary scores."""
    calls: int
    """Calls to judges in this call."""
    seconds: float

    def rows(self) -> Iterator[JudgedRow]:
        """The dialogues with their replies, verdicts and scores."""
        return read_step(JudgedRow, self.run or "", "judge")

    def show(self) -> None:
        mean = "no mean" if self.mean is None else f"mean {self.mean:.3f}"
        say(
            f"{self.judged} judged ({mean}), {self.unscored} unscored, {self.undecided} undecided, in {self.run}"
        )
        say(f"this call: {self.calls} calls, {self.seconds} s")
        if self.undecided:
            note("undecided: no answer is known and no model was asked; give --judge MODEL")


class Judge(_Judging):
    """Judge replies by a rubric: code first, then models.

    The replies are candidates, or the assistant's messages in conversations, each judged in its context. In simulated
    dialogues only generated messages are judged.
    """

    command: ClassVar = "judge"
    arguments: ClassVar = ("data",)
    shown: ClassVar = (
        "rubric",
        "judge",
        "samples",
        "replies",
        "sampling.temperature",
        "requests.concurrency",
    )
    examples: ClassVar = (
        "maieutic judge runs/tutor/candidates --rubric socratic --judge openai/NAME --out runs/tutor/judge",
        "maieutic judge runs/dialogues --judge openai/NAME --out runs/judge",
    )
    outputs: ClassVar = ("rows.jsonl",)

    data: Source = Field(description="Replies: a candidates or simulate step, or a file of such rows.")
    replies: Literal["all", "last"] = Field(
        "all",
        description="In conversations, judge every reply of the assistant, or only a reply that ends the conversation.",
    )

    def run(self, out: Path | str) -> JudgeResult:
        from maieutic.judging.judge import judge

        return judge(self, Path(out))

    def default_out(self) -> Path | None:
        """The folder `judge` in the run that holds the replies."""
        folder = self.data if self.data.is_dir() else self.data.parent
        return Path(folder.parent if folder.name in ("candidates", "simulate") else folder) / "judge"

    def describe(self) -> str:
        return f"judge by {self.rubric}, {self._panel()}"

    def expect(self, out: Path, flow: Flow) -> Cost:
        size = flow.size(self.data)
        flow.put(out, size)
        if not self.models() or size is None:
            return Cost(0 if size else None, None, flow.memory(self.models()))
        calls = size.rows * max(1, size.replies)
        read = calls * (VERDICT_TOKENS + size.reply_tokens) + max(1, size.replies) * size.tokens
        return self._asked(flow, calls, read)


class EvalTutorPairwiseResult(Result):
    """Counts over the whole run folder; `calls` and `seconds` are those of this call."""

    pairs: int
    won: int
    """Pairs in which A is better."""
    lost: int
    tied: int
    unscored: int
    """Pairs without a readable verdict."""
    code: int
    """Pairs decided by code: one reply reveals the answer, the other does not."""
    equal: int
    """Pairs of equal replies: ties without a call."""
    unmatched: int
    """Replies of A or B to dialogues that the other did not answer."""
    calls: int
    """Calls to judges in this call."""
    seconds: float

    def show(self) -> None:
        say(
            f"{self.pairs} pairs: A won {self.won}, lost {self.lost}, tied {self.tied}; "
            f"{self.unscored} unscored, in {self.run}"
        )
        say(f"without a judge: {self.code} where one reply reveals the answer, {self.equal} equal")
        say(f"this call: {self.calls} calls, {self.seconds} s")
        if self.unmatched:
            note(f"{self.unmatched} replies are unmatched: the other tutor did not answer that dialogue")


class EvalTutorPairwise(_Judging):
    """Compare two tutors' replies: each pair in both orders, a tie where the orders disagree."""

    command: ClassVar = "eval tutor pairwise"
    arguments: ClassVar = ("a", "b")
    shown: ClassVar = ("judge", "rubric", "samples", "sampling.temperature", "requests.concurrency")
    examples: ClassVar = (
        "maieutic eval tutor pairwise tuned/candidates base/candidates --judge openai/NAME --out runs/tuned-base",
    )
    outputs: ClassVar = ("rows.jsonl",)

    a: Path = Field(description="One tutor's replies: a candidates, judge or simulate step, or a file.")
    b: Path = Field(description="The other tutor's replies to the same dialogues.")

    def run(self, out: Path | str) -> EvalTutorPairwiseResult:
        from maieutic.judging.pairwise import compare_tutors

        return compare_tutors(self, Path(out))

    def check(self) -> None:
        from maieutic.core.errors import InputError

        if not self.judge:
            raise InputError("judge is missing", "Give --judge MODEL.")
        super().check()

    def describe(self) -> str:
        return f"compare two tutors by {self.rubric}, {self._panel()}"

    def expect(self, out: Path, flow: Flow) -> Cost:
        size = flow.size(self.a)
        if size is None:
            return Cost(None, None, flow.memory(self.models()))
        pairs = size.rows * max(1, size.replies)
        read = pairs * (VERDICT_TOKENS + 2 * size.reply_tokens) + max(1, size.replies) * size.tokens
        return self._asked(flow, 2 * pairs, 2 * read)


Strategy = Literal["best-worst", "all-pairs", "margin"]


class PreferencesResult(Result):
    """Counts of prompts and pairs. Each prompt gives pairs or is refused: `paired` + `refused` = `prompts`."""

    prompts: int
    paired: int
    """Prompts that gave at least one pair."""
    pairs: int
    refused: dict[str, int]
    """Prompts without a pair, by reason."""
    unscored: int
    """Candidates without a score, over all prompts."""
    chosen_cut: int
    """Chosen replies that stopped at the token limit."""
    score_chosen: float | None
    score_rejected: float | None
    """Mean summary scores of the chosen and of the rejected replies."""
    words_chosen: float | None
    words_rejected: float | None
    """Mean lengths: DPO learns a difference in length first."""
    words_gap: Measured
    """Words of the chosen reply minus words of the rejected one: mean, interval over prompts, prompts."""
    longer_chosen: float | None
    """Share of pairs whose chosen reply is longer."""
    rejected_reveal: float | None
    """Share of pairs whose rejected reply reveals the answer."""
    by_strategy: dict[str, dict[str, Any]]
    """`paired`, `pairs` and `refused` for each strategy, all other rules being equal."""
    strategy: Strategy

    def rows(self) -> Iterator[PreferenceRow]:
        """The pairs."""
        file = read_rows(Path(self.run or ""), BadRows(strict=True))
        return (parse(PreferenceRow, row.value, row.where) for row in file)

    def show(self) -> None:
        say(f"{self.pairs} pairs of {self.prompts} prompts, in {self.run}")
        table("", ("", "chosen", "rejected"), [
            ("mean score", self.score_chosen, self.score_rejected),
            ("mean words", self.words_chosen, self.words_rejected),
            ("share revealing", 0, self.rejected_reveal),
        ])  # fmt: skip
        gap = self.words_gap
        say(
            f"chosen replies are {gap.value or 0:+.1f} words longer (95 % {_span(gap)}, {gap.n} prompts); "
            f"{self.longer_chosen or 0:.0%} of the chosen replies are the longer one"
        )
        rows = [
            (
                name,
                of["paired"],
                of["pairs"],
                ", ".join(f"{count} {why}" for why, count in of["refused"].items()),
            )
            for name, of in self.by_strategy.items()
        ]
        title = f"pairs by strategy (written: {self.strategy})"
        table(title, ("strategy", "prompts", "pairs", "no pair"), rows)
        if self.unscored:
            note(f"{self.unscored} candidates have no score")
        if self.chosen_cut:
            note(f"{self.chosen_cut} chosen replies stopped at the token limit")


class Preferences(Step):
    """Make preference pairs for DPO from judged replies.

    Replies to one context make pairs: the candidates of one prompt, or the replies of several judged dialogues that
    begin alike, such as repeats of one start or two tutors' dialogues given together.
    """

    command: ClassVar = "preferences"
    arguments: ClassVar = ("data",)
    examples: ClassVar = (
        "maieutic preferences runs/tutor/judge --out pairs.jsonl",
        "maieutic preferences runs/a/judge runs/b/judge --out pairs.jsonl",
    )
    writes: ClassVar = "file"
    outputs: ClassVar = ("pairs.jsonl",)

    data: Sources = Field(
        description="Judge or rewards steps, files of such rows, or socratic-llm's dpo/DATASET/train_dataset.json."
    )
    strategy: Strategy = Field(
        "best-worst",
        description="best-worst: one pair per prompt, with the largest gap. margin: all pairs that the rules allow, "
        "largest gap first. all-pairs: the same pairs, cut to per_prompt by a hash and not by gap.",
    )
    min_chosen: float = Field(0.8, description="The chosen reply must score more than this.")
    min_margin: float = Field(
        0.0,
        ge=0,
        description="Minimum score difference of chosen and rejected reply (best-worst: exclusive).",
    )
    match_length: float | None = Field(
        None, ge=1, description="Maximum ratio of the words of the longer reply to those of the shorter one."
    )
    per_prompt: int | None = Field(None, ge=1, description="Maximum pairs per prompt.")
    agreement: float = Field(
        0.5,
        ge=0,
        le=1,
        description="With repeated judging: share of repeats in which the chosen reply must win; 0: no such rule.",
    )
    force: bool = Field(False, description="Replace a file that holds other pairs.")

    def run(self, out: Path | str) -> PreferencesResult:
        from maieutic.judging.preferences import write_preferences

        return write_preferences(self, Path(out))

    def describe(self) -> str:
        return f"pairs ({self.strategy}), chosen above {self.min_chosen}"

    def expect(self, out: Path, flow: Flow) -> Cost:
        for source in self.data:
            if isinstance(source, Path) and (size := flow.size(source)):
                both = 2 * (
                    size.tokens + size.rows * size.reply_tokens
                )  # each reply with the prompt before it
                flow.put(out / "pairs.jsonl", Size(size.rows, both))
        return Cost()


class RewardsResult(Result):
    """Counts and means over the rows."""

    prompts: int
    replies: int
    scored: int
    unscored: int
    """Replies without a reward: no verdict, no known answer, or no continuation left."""
    told: int
    """Replies that state the answer: outcome 0 without a continuation."""
    plays: int
    """Counted continuations; a continuation shared by equal replies counts once."""
    lost: int
    """Continuations left out because they failed."""
    rubric: float | None
    """Means over the replies that have both a rubric score and an outcome."""
    outcome: float | None
    agreement: Measured
    """Pearson's r of rubric score and outcome over the replies, resampled by prompt."""
    within: Measured
    """Pearson's r after subtracting each prompt's means: how well the rubric ranks the replies to one prompt."""
    margin: float
    """One standard error of the difference of two replies' rewards, at its largest: closer rewards are noise."""

    def rows(self) -> Iterator[RewardRow]:
        """The judged rows with rewards as their scores."""
        return read_step(RewardRow, self.run or "", "rewards")

    def show(self) -> None:
        say(
            f"{self.scored} of {self.replies} replies to {self.prompts} dialogues scored, "
            f"{self.unscored} not, in {self.run}"
        )
        say(
            f"{self.plays} continuations count, {self.lost} failed; {self.told} replies state the answer themselves"
        )
        for name, of in (
            ("over all replies", self.agreement),
            ("among the replies of one dialogue", self.within),
        ):
            value = f"undefined ({of.reason})" if of.value is None else f"{of.value:.2f} ({_span(of)})"
            say(f"rubric and outcome {name}: r {value}")
        note(
            f"differences below {self.margin:.2f} (one standard error) are noise: --min-margin {self.margin:.2f}"
        )


class Rewards(Step):
    """Combine the rubric's scores with the outcome of each reply's continuations, for `preferences`."""

    command: ClassVar = "rewards"
    arguments: ClassVar = ("data",)
    examples: ClassVar = (
        "maieutic rewards RUN/judge --continuations RUN/continuations --weight 0.5 --out RUN/rewards",
    )
    outputs: ClassVar = ("rows.jsonl",)

    data: Path = Field(description="A judge step, or a file of its rows.")
    continuations: Path = Field(description="The continuations step over the same replies.")
    weight: float = Field(0.5, ge=0, le=1, description="Weight of the outcome; 0: the rubric alone.")

    def run(self, out: Path | str) -> RewardsResult:
        from maieutic.judging.rewards import write_rewards

        return write_rewards(self, Path(out))

    def describe(self) -> str:
        return f"{1 - self.weight:g} of the rubric, {self.weight:g} of the outcome"

    def expect(self, out: Path, flow: Flow) -> Cost:
        flow.put(out, flow.size(self.data))
        return Cost()


def _span(estimate: Estimate) -> str:
    return f"{estimate.ci[0]:.3f} to {estimate.ci[1]:.3f}" if estimate.ci else "no interval"
