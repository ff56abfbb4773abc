"""The stages that judge, and that make pairs of what was judged."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from maieutic.core.budget import Budget
from maieutic.core.console import note
from maieutic.core.costs import VERDICT_TOKENS, Ask, Cost, Flow, Size
from maieutic.recipes.stages.action import Action, Options, wrapped


class Judge(Action):
    """Verdicts: deterministic checks first, then a model where the rubric needs one."""

    outputs = ("rows.jsonl",)
    data: Path
    rubric: str = "socratic"
    judge: str | list[str] = "code"
    """A MODEL, several, which make a panel, or `code`: deterministic checks alone."""
    budget: Budget = Budget()
    options: Options = Options()

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.judging import judge
        from maieutic.models import load

        options = self.options.whole()
        panel = [load(model, options) for model in self.models()]
        done = judge(self.data, out, rubric=self.rubric, model=panel or None, budget=self.budget)
        if done.undecided:
            note(f"{done.undecided} replies are undecided: no answer is known there, and no model was asked")

    def check(self) -> None:  # noqa: D102
        from maieutic.judging import rubrics
        from maieutic.judging.judge import check_rubric

        check_rubric(rubrics.load(self.rubric), with_model=bool(self.models()))

    def models(self) -> list[str]:  # noqa: D102
        named = [self.judge] if isinstance(self.judge, str) else self.judge
        return [model for model in named if model != "code"]

    def describe(self) -> str:  # noqa: D102
        return f"judge by {self.rubric}, {' and '.join(self.models()) or 'code'}"

    def expect(self, out: Path, flow: Flow) -> Cost:  # noqa: D102
        size = flow.size(self.data)
        flow.put(out, size)
        memory = flow.memory(self.models())
        if not self.models() or size is None:
            return Cost(0 if size else None, None, memory)
        calls = size.rows * max(1, size.replies)
        read = calls * (VERDICT_TOKENS + size.reply_tokens) + max(1, size.replies) * size.tokens
        asks = [Ask(model, calls, read, calls * VERDICT_TOKENS) for model in self.models()]
        return flow.asked(asks, self.budget.prices)


class Prefer(Action):
    """Judged candidates → preference pairs; see `maieutic.judging.preferences.Rules`."""

    outputs = ("pairs.jsonl",)
    data: Path
    strategy: Literal["best-worst", "all-pairs", "margin"] = "best-worst"
    min_chosen: float = 0.8
    min_margin: float = Field(0.0, ge=0)
    match_length: float | None = Field(None, ge=1)
    per_prompt: int | None = Field(None, ge=1)
    agreement: float = Field(0.5, ge=0, le=1)

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.judging.preferences import prefer

        wrapped(
            out,
            self,
            lambda: prefer(
                self.data,
                out / "pairs.jsonl",
                strategy=self.strategy,
                min_chosen=self.min_chosen,
                min_margin=self.min_margin,
                match_length=self.match_length,
                per_prompt=self.per_prompt,
                agreement=self.agreement,
                overwrite=True,
            ).json(),
        )

    def describe(self) -> str:  # noqa: D102
        return f"pairs ({self.strategy}), chosen above {self.min_chosen}"

    def expect(self, out: Path, flow: Flow) -> Cost:  # noqa: D102
        if size := flow.size(self.data):
            both = 2 * (size.tokens + size.rows * size.reply_tokens)  # each reply with the prompt before it
            flow.put(out / "pairs.jsonl", Size(size.rows, both))
        return Cost()
