"""The steps of the public benchmarks: MT-Bench and Vicuna-Bench in FastChat's files, AlpacaEval in its own files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from maieutic.core.budget import Budget
from maieutic.core.console import say, table
from maieutic.core.costs import VERDICT_TOKENS, Ask, Cost, Flow, Size
from maieutic.core.messages import Sampling
from maieutic.core.settings import LocalModel, ModelSpec, Requests
from maieutic.core.step import Result, Step
from maieutic.evals.printing import Measurements, interval_text, note_reasons, words

_JUDGMENTS = "FastChat's judgment JSONL; may be repeated."
_REFERENCES = (
    "Reference answers; default: the file in reference_answer/ next to the questions, else their own."
)
_TURNS = "Number of turns to score per question; 1 for Vicuna-Bench."


class BenchmarkStep(Step):
    """A step that stores rows in the run folder OUT.run, and writes the file OUT from them."""

    writes: ClassVar = "file"

    def run(self, out: Path | str = "") -> Result:
        from maieutic.evals.benchmark_files import run_folder

        path = Path(out) if out else self.default_out()
        assert path is not None, "out is required"
        return self._work(path, run_folder(path))

    def run_stage(self, folder: Path) -> None:
        self._work(folder / self.outputs[0], folder)

    def _work(self, out: Path, folder: Path) -> Result:
        """Store rows in `folder`, from which the same call resumes, and write the file `out` from them."""
        raise NotImplementedError


class BenchmarkFile(Result):
    """A file of answers or judgments."""

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of the file."""
        from maieutic.evals.files import read_table

        return iter(read_table(self.run or "").rows)


class BenchmarkAnswers(BenchmarkFile):
    """Counts of an answer file, and of the call that made it."""

    answers: int
    """Questions with answers in the file."""
    failed: int
    """Questions that failed; they are not in the file."""
    cut: int
    """Replies in the file that stopped at the token limit."""
    replies: int
    """Replies of this call."""
    tokens: int
    """Tokens of this call, prompts counted."""
    seconds: float

    def show(self) -> None:
        say(f"{self.answers} questions answered, {self.failed} failed, {self.cut} cut, in {self.run}")
        say(f"this call: {self.replies} replies, {self.tokens} tokens, {self.seconds} s")


class BenchmarkJudgments(BenchmarkFile):
    """Counts of a judgment file, and of the call that made it."""

    judged: int
    """Judgments in the file."""
    unscored: int
    """Judgments without a readable verdict."""
    without_reference: int | None = None
    """MT-Bench: judgments on math, reasoning or coding without a reference answer."""
    weighted: int | None = None
    """AlpacaEval: judgments by log-probabilities."""
    equal: int | None = None
    """AlpacaEval: equal outputs, a draw without a call."""
    calls: int
    """Calls of this call of the step."""
    seconds: float

    def json(self) -> dict[str, Any]:  # type: ignore[override]
        return self.model_dump(mode="json", exclude_none=True)

    def show(self) -> None:
        names = ("unscored", "without_reference", "weighted", "equal")
        counts = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        parts = [f"{self.judged} judgments", *(f"{count} {words(name)}" for name, count in counts.items())]
        say(f"{', '.join(parts)}, in {self.run}")
        say(f"this call: {self.calls} calls, {self.seconds} s")


def _expected_answers(
    step: EvalMtBenchAnswer | EvalAlpacaEvalAnswer,
    data: Path,
    turns: int,
    max_tokens: int,
    out: Path,
    flow: Flow,
) -> Cost:
    size, memory = flow.size(data), flow.memory(step.models())
    if size is None:
        return Cost(None, None, memory)
    rows = min(size.rows, step.limit or size.rows)
    calls = rows * turns
    flow.put(out, Size(rows, size.tokens + calls * max_tokens))
    asks = [Ask(model, calls, size.tokens * turns, calls * max_tokens) for model in step.models()]
    return flow.asked(asks, step.budget.prices)


def _expected_verdicts(
    step: EvalMtBenchJudge | EvalAlpacaEvalJudge, data: Path, each: int, flow: Flow
) -> Cost:
    size, memory = flow.size(data), flow.memory(step.models())
    if size is None:
        return Cost(None, None, memory)
    calls = size.rows * each
    asks = [Ask(model, calls, size.tokens * each, calls * VERDICT_TOKENS) for model in step.models()]
    return flow.asked(asks, step.budget.prices)


class EvalMtBenchAnswer(BenchmarkStep):
    """Answer MT-Bench's questions with a model, at the temperature of each category.

    Rows are stored in the folder OUT.run, from which the same command resumes. OUT is written at the end.
    """

    command: ClassVar = "eval mt-bench answer"
    shown: ClassVar = ("name", "turns", "references", "max_tokens", "seed", "limit", "requests.concurrency")
    examples: ClassVar = (
        "maieutic eval mt-bench answer --model openai/NAME --questions question.jsonl --out answers.jsonl",
    )
    outputs: ClassVar = ("answers.jsonl",)

    model: ModelSpec = Field(description="MODEL that answers.")
    questions: Path = Field(description="FastChat's question.jsonl.")
    name: str | None = Field(None, description="The model's name in the file; default: its MODEL.")
    turns: int = Field(2, ge=1, le=2, description=_TURNS)
    references: Path | None = Field(None, description=_REFERENCES)
    max_tokens: int = Field(1024, ge=1, description="Maximum new tokens per reply.")
    seed: int = Field(0, description="Question i is sampled with seed + i.")
    limit: int | None = Field(None, ge=1, description="Use only the first N questions.")
    requests: Requests = Requests()
    budget: Budget = Budget()
    local: LocalModel = LocalModel()

    def _work(self, out: Path, folder: Path) -> BenchmarkAnswers:
        from maieutic.evals.benchmark_answer import answer_mt_bench

        return BenchmarkAnswers(run=str(out), **answer_mt_bench(self, out, folder))

    def models(self) -> list[str]:
        return [self.model] if isinstance(self.model, str) else []

    def describe(self) -> str:
        return f"answers to {self.questions.name}"

    def expect(self, out: Path, flow: Flow) -> Cost:
        return _expected_answers(self, self.questions, self.turns, self.max_tokens, out, flow)


class EvalMtBenchJudge(BenchmarkStep):
    """Judge MT-Bench answers with a model: rate each turn, or compare it with a baseline's in both orders.

    Rows are stored in OUT.run, from which the same command resumes. Default OUT: STEM_single.jsonl, or STEM_pair.jsonl
    with --baseline, next to the answers.
    """

    command: ClassVar = "eval mt-bench judge"
    shown: ClassVar = ("baseline", "questions", "references", "prompts", "turns", "max_tokens")
    flags: ClassVar = {"baseline": "--baseline --pairwise"}
    examples: ClassVar = (
        "maieutic eval mt-bench judge --answers answers.jsonl --judge openai/NAME --out judgments.jsonl",
    )
    outputs: ClassVar = ("judgments.jsonl",)

    answers: list[Path] = Field(description="Answers in FastChat's form; may be repeated.", min_length=1)
    judge: ModelSpec = Field(description="MODEL that judges.")
    baseline: str | None = Field(
        None,
        description="Compare answers with this baseline instead of rating them: a model's name, or a file of answers.",
    )
    questions: Path | None = Field(
        None, description="FastChat's question.jsonl; default: the questions that the answers carry."
    )
    references: Path | None = Field(None, description=_REFERENCES)
    prompts: Path | None = Field(
        None, description="Judge prompts in FastChat's form (judge_prompts.jsonl); default: our own."
    )
    turns: int = Field(2, ge=1, le=2, description=_TURNS)
    max_tokens: int = Field(2048, ge=1, description="Maximum new tokens per judgment.")
    requests: Requests = Requests()
    budget: Budget = Budget()
    local: LocalModel = LocalModel()

    def _work(self, out: Path, folder: Path) -> BenchmarkJudgments:
        from maieutic.evals.mt_bench_judge import judge_mt_bench

        self.check()
        return BenchmarkJudgments(run=str(out), **judge_mt_bench(self, out, folder))

    def default_out(self) -> Path:
        kind = "pair" if self.baseline else "single"
        return self.answers[0].with_name(f"{self.answers[0].stem}_{kind}.jsonl")

    def check(self) -> None:
        from maieutic.core.errors import InputError

        if self.references and not self.questions:
            raise InputError("--references needs --questions", "Give FastChat's question.jsonl too.")

    def inputs(self) -> list[Path]:
        baseline = [Path(self.baseline)] if self.baseline and self.baseline.endswith(".jsonl") else []
        return super().inputs() + baseline

    def models(self) -> list[str]:
        return [self.judge] if isinstance(self.judge, str) else []

    def describe(self) -> str:
        return f"{'pairs' if self.baseline else 'ratings'} by {self.judge}"

    def expect(self, out: Path, flow: Flow) -> Cost:
        return _expected_verdicts(self, self.answers[0], self.turns * (2 if self.baseline else 1), flow)


class MtBenchScores(Measurements):
    """Scores of each model, as FastChat counts them."""

    turns: int = 2

    def show(self) -> None:
        models = self["models"]
        parts = ("first_turn", "second_turn", "average") if self.turns > 1 else ("first_turn",)
        rows = [
            ("" if place else name, *_mean(part, m))
            for name, m in models.items()
            for place, part in enumerate(parts)
        ]
        table("scores, 1 to 10", ("model", "", "mean", "95 %", "questions"), rows)
        by_category = [
            ("" if place else name, category, *_mean("average", of)[1:])
            for name, m in models.items()
            for place, (category, of) in enumerate(m["by_category"].items())
        ]
        if by_category:
            table("average by category", ("model", "category", "mean", "95 %", "questions"), by_category)
        keys = ("rows", "unscored", "duplicates")
        table("judgments", ("model", *keys), [(name, *map(m.get, keys)) for name, m in models.items()])
        note_reasons(models, (*parts, "se"))


def _mean(name: str, shape: dict[str, Any]) -> tuple[object, ...]:
    return words(name), shape[name], interval_text(shape[f"{name}_ci"]), shape[f"{name}_questions"]


class EvalMtBenchScore(Step):
    """Score MT-Bench ratings: each turn's mean and their pooled average, as FastChat counts them."""

    command: ClassVar = "eval mt-bench score"
    examples: ClassVar = (
        "maieutic eval mt-bench score --judgments gpt-4_single.jsonl --questions question.jsonl",
    )
    writes: ClassVar = "result"
    outputs: ClassVar = ("scores.json",)

    judgments: list[Path] = Field(description=_JUDGMENTS, min_length=1)
    questions: Path | None = Field(None, description="FastChat's question file, for scores by category.")
    turns: int = Field(2, ge=1, le=2, description=_TURNS)

    def run(self, out: Path | str = "") -> MtBenchScores:
        from maieutic.evals.mt_bench import score_single

        return MtBenchScores(
            values=score_single(self.judgments, self.questions, self.turns), turns=self.turns
        )

    def describe(self) -> str:
        return "scores"


class EvalVicunaBenchScore(EvalMtBenchScore):
    """Score Vicuna-Bench ratings: first turns only, as FastChat counts them."""

    command: ClassVar = "eval vicuna-bench score"
    examples: ClassVar = ("maieutic eval vicuna-bench score --judgments gpt-4_single.jsonl",)

    turns: int = Field(1, ge=1, le=2, description="Number of turns to score per question.")


class MtBenchMatches(Measurements):
    """Wins, losses and ties of each model."""

    def show(self) -> None:
        rows: list[tuple[object, ...]] = []
        for name, m in self["models"].items():
            wins, adjusted = (
                (title, m[key], interval_text(m[f"{key}_ci"]))
                for title, key in (("win rate", "win_rate"), ("adjusted", "adjusted_win_rate"))
            )
            rows += [(name, m["win"], m["loss"], m["tie"], m["n"], *wins), ("", "", "", "", "", *adjusted)]
        counts = f"{self['dropped']} rows dropped, {self['strict_ties']} ties in both games"
        say(f"{counts}, {self['inconsistent']} rows where the games differ")
        table("", ("model", "win", "loss", "tie", "n", "", "value", "95 %"), rows)
        note_reasons(self["models"])


class EvalMtBenchPairwise(Step):
    """Count wins, losses and ties over two games with the answers swapped."""

    command: ClassVar = "eval mt-bench pairwise"
    examples: ClassVar = (
        "maieutic eval mt-bench pairwise --judgments gpt-4_pair.jsonl --baseline gpt-3.5-turbo",
    )
    writes: ClassVar = "result"
    outputs: ClassVar = ("scores.json",)

    judgments: list[Path] = Field(description=_JUDGMENTS, min_length=1)
    baseline: str | None = Field(None, description="Count only the matches against this model.")
    turns: int = Field(2, ge=1, le=2, description=_TURNS)

    def run(self, out: Path | str = "") -> MtBenchMatches:
        from maieutic.evals.mt_bench import score_pairwise

        return MtBenchMatches(values=score_pairwise(self.judgments, self.baseline, self.turns))

    def describe(self) -> str:
        return "wins and losses"


class EvalAlpacaEvalAnswer(BenchmarkStep):
    """Answer AlpacaEval's instructions with a model, into its model_outputs.json.

    Rows are stored in the folder OUT.run, from which the same command resumes. OUT is written at the end.
    """

    command: ClassVar = "eval alpaca-eval answer"
    shown: ClassVar = (
        *("name", "limit", "requests.concurrency"),
        *("sampling.temperature", "sampling.max_tokens", "sampling.seed"),
    )
    flags: ClassVar = {"instructions": "--instructions --questions"}
    examples: ClassVar = (
        "maieutic eval alpaca-eval answer --model openai/NAME --instructions alpaca_eval.json --out outputs.json",
    )
    outputs: ClassVar = ("outputs.json",)

    model: ModelSpec = Field(description="MODEL that answers.")
    instructions: Path = Field(description="AlpacaEval's set: JSON rows with instruction.")
    name: str | None = Field(None, description="The model's name in the file; default: its MODEL.")
    sampling: Sampling = Sampling(temperature=0.7, max_tokens=2048)
    limit: int | None = Field(None, ge=1, description="Use only the first N instructions.")
    requests: Requests = Requests()
    budget: Budget = Budget()
    local: LocalModel = LocalModel()

    def _work(self, out: Path, folder: Path) -> BenchmarkAnswers:
        from maieutic.evals.benchmark_answer import answer_alpaca_eval

        return BenchmarkAnswers(run=str(out), **answer_alpaca_eval(self, out, folder))

    def models(self) -> list[str]:
        return [self.model] if isinstance(self.model, str) else []

    def describe(self) -> str:
        return f"answers to {self.instructions.name}"

    def expect(self, out: Path, flow: Flow) -> Cost:
        return _expected_answers(self, self.instructions, 1, self.sampling.max_tokens, out, flow)


class EvalAlpacaEvalJudge(BenchmarkStep):
    """Compare a model's outputs with a reference's by a judge, into AlpacaEval's annotations.json.

    Rows are stored in OUT.run, from which the same command resumes.
    """

    command: ClassVar = "eval alpaca-eval judge"
    shown: ClassVar = ("prompt", "max_tokens", "requests.concurrency", "requests.max_failure_rate")
    flags: ClassVar = {"answers": "--answers --outputs", "reference": "--reference --references"}
    examples: ClassVar = (
        "maieutic eval alpaca-eval judge --answers outputs.json --reference alpaca_eval.json "
        "--judge openai/NAME --out annotations.json",
    )
    outputs: ClassVar = ("annotations.json",)

    answers: Path = Field(description="The model's outputs, AlpacaEval's model_outputs.json.")
    reference: Path = Field(description="The reference's outputs, in the same form.")
    judge: ModelSpec = Field(description="MODEL that judges.")
    prompt: str = Field(
        "alpaca_eval_pair", description="A prompt's name, or a .md file that asks for m or M."
    )
    max_tokens: int = Field(
        16, ge=1, description="Maximum new tokens per verdict; a judge that reasons first needs more."
    )
    requests: Requests = Requests()
    budget: Budget = Budget()
    local: LocalModel = LocalModel()

    def _work(self, out: Path, folder: Path) -> BenchmarkJudgments:
        from maieutic.evals.alpaca_judge import judge_alpaca_eval

        return BenchmarkJudgments(run=str(out), **judge_alpaca_eval(self, out, folder))

    def check(self) -> None:
        from maieutic.core import prompts

        prompts.load(self.prompt)

    def models(self) -> list[str]:
        return [self.judge] if isinstance(self.judge, str) else []

    def describe(self) -> str:
        return f"preferences by {self.judge}"

    def expect(self, out: Path, flow: Flow) -> Cost:
        return _expected_verdicts(self, self.answers, 1, flow)


class AlpacaEvalScores(Measurements):
    """The win rates of one model against the reference."""

    def show(self) -> None:
        found = self.values
        say(
            f"{found['n']} comparisons ({found['wins']} won, {found['losses']} lost, {found['draws']} drawn), "
            f"{found['dropped']} dropped"
        )
        rates = (("win_rate", "standard_error"), ("discrete_win_rate", ""), ("avg_length", ""),
                 ("length_controlled_winrate", "lc_standard_error"))  # fmt: skip
        rows = []
        for name, error in rates:
            if name in found:
                n = found.get(f"{name}_n", found["n"])
                rows.append((name, found[name], found.get(error), interval_text(found.get(f"{name}_ci")), n))
        table("", ("", "value", "standard error", "95 %", "n"), rows)
        note_reasons({"": found})


class EvalAlpacaEvalScore(Step):
    """Compute AlpacaEval's win rate and its standard error from annotations."""

    command: ClassVar = "eval alpaca-eval score"
    examples: ClassVar = ("maieutic eval alpaca-eval score --annotations annotations.json",)
    writes: ClassVar = "result"
    outputs: ClassVar = ("scores.json",)

    annotations: Path = Field(description="AlpacaEval's annotations.json.")
    length_controlled: Path | None = Field(
        None,
        description="Also compute the length-controlled rate, with df_gamed.csv of the data set tatsu-lab/alpaca_eval.",
    )

    def run(self, out: Path | str = "") -> AlpacaEvalScores:
        from maieutic.evals.alpaca_eval import length_controlled, score_file

        found = score_file(self.annotations)
        if self.length_controlled:
            found |= length_controlled(self.annotations, self.length_controlled)
        return AlpacaEvalScores(values=found)

    def describe(self) -> str:
        return "win rate"
