"""The stages that continue replies with a student, and mix the outcomes with the rubric."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from maieutic.core.budget import Budget
from maieutic.core.costs import Cost, Flow, taking_turns
from maieutic.core.messages import Sampling
from maieutic.recipes.stages.action import Action, Options, PromptName

_NOT_CONFIG = {"data", "student", "tutor", "m", "turns", "student_sampling", "sampling", "options"}


class Continuations(Action):
    """Each candidate reply continued with a student several times."""

    outputs = ("rows.jsonl",)
    data: Path
    student: str
    """A MODEL. The students that make pairs never evaluate: `eval-dialogue` refuses it."""
    tutor: str
    """The MODEL that gave the candidates."""
    m: int = Field(4, ge=1)
    turns: int = Field(3, ge=1)
    user_mode: Literal["trained", "prompted"] | None = None
    student_sampling: Sampling = Sampling(temperature=1.0, top_p=0.8, max_tokens=256)
    sampling: Sampling = Sampling(temperature=0.7, max_tokens=512)
    assistant_prompt: PromptName = None
    show_solution: bool = False
    guards: str = "default"
    concurrency: int = 64
    budget: Budget = Budget()
    max_failure_rate: float = 0.05
    seed: int = 0
    options: Options = Options()

    def check(self) -> None:  # noqa: D102
        from maieutic.core import prompts
        from maieutic.rollouts.guards import parse

        parse(self.guards)
        if self.assistant_prompt:
            prompts.load(self.assistant_prompt)

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.models import load
        from maieutic.rollouts.continuations import continuations
        from maieutic.rollouts.simulate import SimulateConfig

        options = self.options.whole(self.concurrency)
        cast = {spec: load(spec, options) for spec in self.models()}
        config = SimulateConfig(
            user=self.student_sampling,
            assistant=self.sampling,
            **self.model_dump(exclude=_NOT_CONFIG),
        )
        continuations(
            self.data, cast[self.student], cast[self.tutor], out, m=self.m, turns=self.turns, config=config
        )

    def models(self) -> list[str]:  # noqa: D102
        return [self.student, self.tutor]

    def describe(self) -> str:  # noqa: D102
        return f"continue each reply, {self.m} × {self.turns} turns"

    def expect(self, out: Path, flow: Flow) -> Cost:  # noqa: D102
        size, memory = flow.size(self.data), flow.memory(self.models())
        if size is None:
            return Cost(None, None, memory)
        dialogues = size.rows * max(1, size.replies) * self.m
        start = size.tokens // max(1, size.rows) + size.reply_tokens
        asks = taking_turns(
            dialogues,
            start,
            (self.student, self.turns, self.student_sampling.max_tokens),
            (self.tutor, self.turns - 1, self.sampling.max_tokens),
        )
        return flow.asked(asks, self.budget.prices)
