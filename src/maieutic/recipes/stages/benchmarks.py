"""The stages of MT-Bench, Vicuna-Bench (`turns: 1`) and AlpacaEval: answers, judgments, scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from maieutic.core.costs import VERDICT_TOKENS, Ask, Cost, Flow, Size
from maieutic.recipes.stages.action import Action, Options, wrapped


class _Answers(Action):
    """What answers of either benchmark have alike."""

    model: str
    data: Path
    """The questions, or the instructions."""
    name: str | None = None
    """The model's name in the file; null: its MODEL."""
    max_tokens: int = Field(1024, ge=1)
    seed: int = 0
    limit: int | None = Field(None, ge=1)
    """Only the first so many."""
    options: Options = Options()

    def models(self) -> list[str]:
        return [self.model]

    def describe(self) -> str:
        return f"answers to {self.data.name}"

    def _asked(self, out: Path, flow: Flow, turns: int) -> Cost:
        size, memory = flow.size(self.data), flow.memory(self.models())
        if size is None:
            return Cost(None, None, memory)
        rows = min(size.rows, self.limit or size.rows)
        calls = rows * turns
        flow.put(out, Size(rows, size.tokens + calls * self.max_tokens))
        return flow.asked([Ask(self.model, calls, size.tokens * turns, calls * self.max_tokens)])


class MtBenchAnswer(_Answers):
    """A model's answers to FastChat's questions."""

    outputs = ("answers.jsonl",)
    references: Path | None = None
    turns: int = Field(2, ge=1, le=2)

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.evals.mt_answer import answer
        from maieutic.models import load

        answer(
            load(self.model, self.options.whole()),
            self.data,
            out / "answers.jsonl",
            run=out,
            name=self.name,
            turns=self.turns,
            references=self.references,
            max_tokens=self.max_tokens,
            seed=self.seed,
            limit=self.limit,
        )

    def expect(self, out: Path, flow: Flow) -> Cost:  # noqa: D102
        return self._asked(out, flow, self.turns)


class MtBenchJudge(Action):
    """Ratings of answers; beside a baseline's, both games of every pair."""

    outputs = ("judgments.jsonl",)
    data: Path
    """The answers."""
    judge: str
    baseline: Path | None = None
    """Another model's answers, to compare with instead of rating."""
    questions: Path | None = None
    references: Path | None = None
    prompts: Path | None = None
    turns: int = Field(2, ge=1, le=2)
    options: Options = Options()

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.evals.mt_judge import judge
        from maieutic.models import load

        judge(
            [self.data],
            load(self.judge, self.options.whole()),
            out / "judgments.jsonl",
            run=out,
            baseline=str(self.baseline) if self.baseline else None,
            questions=self.questions,
            references=self.references,
            prompts=self.prompts,
            turns=self.turns,
        )

    def models(self) -> list[str]:  # noqa: D102
        return [self.judge]

    def describe(self) -> str:  # noqa: D102
        return f"{'pairs' if self.baseline else 'ratings'} by {self.judge}"

    def expect(self, out: Path, flow: Flow) -> Cost:  # noqa: D102
        return _verdicts(flow, self.data, self.models(), self.turns * (2 if self.baseline else 1))


class MtBenchScore(Action):
    """Scores of ratings, or wins of pairs."""

    outputs = ("scores.json",)
    data: Path
    """The judgments."""
    pairs: bool = False
    questions: Path | None = None
    turns: int = Field(2, ge=1, le=2)

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.evals.mt_bench import pairwise, score

        wrapped(
            out,
            self,
            lambda: _written(
                out,
                pairwise([self.data], turns=self.turns)
                if self.pairs
                else score([self.data], self.questions, self.turns),
            ),
        )

    def describe(self) -> str:  # noqa: D102
        return "wins and losses" if self.pairs else "scores"


class AlpacaAnswer(_Answers):
    """A model's outputs for AlpacaEval's instructions."""

    outputs = ("outputs.json",)
    temperature: float = Field(0.7, ge=0)
    max_tokens: int = Field(2048, ge=1)

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.evals.alpaca_answer import answer
        from maieutic.models import load

        answer(
            load(self.model, self.options.whole()),
            self.data,
            out / "outputs.json",
            run=out,
            name=self.name,
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            seed=self.seed,
            limit=self.limit,
        )

    def expect(self, out: Path, flow: Flow) -> Cost:  # noqa: D102
        return self._asked(out, flow, 1)


class AlpacaJudge(Action):
    """A model's outputs beside a reference's."""

    outputs = ("annotations.json",)
    data: Path
    """The model's outputs."""
    reference: Path
    judge: str
    max_tokens: int = Field(16, ge=1)
    options: Options = Options()

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.evals.alpaca_judge import judge
        from maieutic.models import load

        model = load(self.judge, self.options.whole())
        judge(self.data, self.reference, model, out / "annotations.json", run=out, max_tokens=self.max_tokens)

    def models(self) -> list[str]:  # noqa: D102
        return [self.judge]

    def describe(self) -> str:  # noqa: D102
        return f"preferences by {self.judge}"

    def expect(self, out: Path, flow: Flow) -> Cost:  # noqa: D102
        return _verdicts(flow, self.data, self.models(), 1)


class AlpacaScore(Action):
    """The win rate of annotations."""

    outputs = ("scores.json",)
    data: Path
    """The annotations."""

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.evals.alpaca_eval import score

        wrapped(out, self, lambda: _written(out, score(self.data)))

    def describe(self) -> str:  # noqa: D102
        return "win rate"


def _written(out: Path, scores: dict[str, Any]) -> dict[str, Any]:
    from maieutic.core.store import write_json

    write_json(out / "scores.json", scores)
    return {"scores": scores}


def _verdicts(flow: Flow, data: Path, models: list[str], each: int) -> Cost:
    """The cost of `each` verdicts on every row."""
    size, memory = flow.size(data), flow.memory(models)
    if size is None:
        return Cost(None, None, memory)
    calls = size.rows * each
    return flow.asked([Ask(models[0], calls, size.tokens * each, calls * VERDICT_TOKENS)])
