"""The stages in which models speak: to each other, or several times over."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from maieutic.core.budget import Budget
from maieutic.core.costs import CHARS_A_TOKEN, Ask, Cost, Flow, Size, taking_turns
from maieutic.core.messages import Sampling
from maieutic.recipes.stages.action import Action, Options, PromptName

_NOT_CONFIG = {"user", "assistant", "controller", "n", "user_sampling", "sampling", "options"}


class Simulate(Action):
    """Two models talk."""

    outputs = ("rows.jsonl",)
    user: str
    assistant: str
    n: int | None = Field(None, ge=1)
    seeds: Path | None = None
    seed_turns: int | None = None
    kinds: tuple[str, ...] = ()
    """Kinds of students, each with every seed."""
    user_mode: Literal["trained", "prompted"] | None = None
    user_sampling: Sampling = Sampling(temperature=1.0, top_p=0.8, max_tokens=256)
    sampling: Sampling = Sampling(temperature=0.7, max_tokens=512)
    assistant_system: str | None = None
    assistant_prompt: PromptName = None
    show_solution: bool = False
    rounds: int = 10
    min_rounds: int = 1
    ending: Literal["allow", "suppress", "force"] = "allow"
    controller: str | None = None
    repeat: int = Field(1, ge=1)
    guards: str = "default"
    concurrency: int = 64
    budget: Budget = Budget()
    max_failure_rate: float = 0.05
    seed: int = 0
    options: Options = Options()

    def _config(self) -> Any:
        from maieutic.rollouts.simulate import SimulateConfig

        renamed = {"user": self.user_sampling, "assistant": self.sampling}
        others = self.model_dump(exclude=_NOT_CONFIG)
        return SimulateConfig(**others, **renamed)

    def check(self) -> None:  # noqa: D102
        from maieutic.core import prompts
        from maieutic.models.student import load_kind
        from maieutic.rollouts.guards import parse

        parse(self._config().guards)
        for kind in self.kinds:
            load_kind(kind)
        if self.assistant_prompt:
            prompts.load(self.assistant_prompt)

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.models import load
        from maieutic.rollouts.simulate import simulate

        options = self.options.whole(self.concurrency)
        cast = {spec: load(spec, options) for spec in self.models()}
        controller = cast[self.controller] if self.controller else None
        simulate(cast[self.user], cast[self.assistant], out, self.n, self._config(), controller)

    def models(self) -> list[str]:  # noqa: D102
        return [self.user, self.assistant, *([self.controller] if self.controller else [])]

    def describe(self) -> str:  # noqa: D102
        return "the two sides talk"

    def expect(self, out: Path, flow: Flow) -> Cost:  # noqa: D102
        seeds = flow.size(self.seeds) if self.seeds else None
        n = self.n or (seeds.rows * self.repeat * max(1, len(self.kinds)) if seeds else None)
        if n is None:
            return Cost(None, None, flow.memory(self.models()))
        start = seeds.tokens // max(1, seeds.rows) if seeds else 0
        asks = taking_turns(
            n,
            start,
            (self.user, self.rounds, self.user_sampling.max_tokens),
            (self.assistant, self.rounds, self.sampling.max_tokens),
        )
        cost = flow.asked(asks, self.budget.prices)
        flow.put(out, Size(n, n * start + (cost.tokens or 0)))
        return cost._replace(gpu_bytes=flow.memory(self.models()))


class PrePostTest(Action):
    """A student answers each problem alone several times, before or after the dialogues."""

    outputs = ("rows.jsonl",)
    model: str
    data: Path
    """A simulate step."""
    when: Literal["before", "after"]
    n: int = Field(8, ge=1)
    prompt: str = "attempt"
    """The assistant's question."""
    mode: Literal["trained", "prompted"] | None = None
    run_code: bool = False
    """An answer is correct where its program passes the problem's tests, which run in a sandbox."""
    sampling: Sampling = Sampling(temperature=1.0, top_p=0.8, max_tokens=256)
    concurrency: int = 64
    budget: Budget = Budget()
    max_failure_rate: float = 0.05
    options: Options = Options()

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.checks.outcomes import solves
        from maieutic.models import load
        from maieutic.rollouts.pre_post_test import pre_post_test

        pre_post_test(
            load(self.model, self.options.whole(self.concurrency)),
            self.data,
            out,
            self.when,
            n=self.n,
            prompt=self.prompt,
            sampling=self.sampling,
            mode=self.mode,
            states=solves if self.run_code else None,
            concurrency=self.concurrency,
            max_failure_rate=self.max_failure_rate,
            budget=self.budget,
        )

    def check(self) -> None:  # noqa: D102
        from maieutic.core import prompts

        prompts.load(self.prompt)

    def models(self) -> list[str]:  # noqa: D102
        return [self.model]

    def describe(self) -> str:  # noqa: D102
        return f"{self.n} answers of the student alone, {self.when} the dialogues"

    def expect(self, out: Path, flow: Flow) -> Cost:  # noqa: D102
        size, memory = flow.size(self.data), flow.memory(self.models())
        if size is None:
            return Cost(None, None, memory)
        calls = size.rows * self.n
        return Cost(calls, calls * self.sampling.max_tokens, memory)


class Candidates(Action):
    """Several replies of a tutor to each dialogue."""

    outputs = ("rows.jsonl",)
    model: str
    data: Path
    k: int = Field(5, ge=1)
    sampling: Sampling = Sampling(temperature=1.2, max_tokens=400)
    prompt: PromptName = "tutor_socratic"
    """The tutor's system text; null: none, the dialogue as it is."""
    show_solution: bool = False
    limit: int | None = Field(None, ge=1)
    """Only the first so many dialogues."""
    budget: Budget = Budget()
    options: Options = Options()

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.models import load
        from maieutic.rollouts.candidates import candidates

        candidates(
            load(self.model, self.options.whole()),
            self.data,
            out,
            k=self.k,
            sampling=self.sampling,
            prompt=self.prompt,
            show_solution=self.show_solution,
            limit=self.limit,
            budget=self.budget,
        )

    def check(self) -> None:  # noqa: D102
        from maieutic.core import prompts

        if self.prompt:
            prompts.load(self.prompt)

    def models(self) -> list[str]:  # noqa: D102
        return [self.model]

    def describe(self) -> str:  # noqa: D102
        return f"{self.k} replies a dialogue" if self.k > 1 else "a reply to each dialogue"

    def expect(self, out: Path, flow: Flow) -> Cost:  # noqa: D102
        from maieutic.core import prompts

        size, memory = flow.size(self.data), flow.memory(self.models())
        if size is None:
            return Cost(None, None, memory)
        rows = min(size.rows, self.limit or size.rows)
        told = len(prompts.load(self.prompt).text) // CHARS_A_TOKEN if self.prompt else 0
        read = round(size.tokens * rows / max(1, size.rows)) + rows * told
        flow.put(out, Size(rows, read, self.k, self.sampling.max_tokens))
        ask = Ask(self.model, rows * self.k, read * self.k, rows * self.k * self.sampling.max_tokens)
        return flow.asked([ask], self.budget.prices)


class Intents(Action):
    """What each person of a corpus wanted."""

    outputs = ("rows.jsonl",)
    model: str
    data: Path
    replace: bool = False
    sampling: Sampling = Sampling(temperature=0, max_tokens=128)
    budget: Budget = Budget()
    max_failure_rate: float = 0.05
    options: Options = Options()

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.models import load
        from maieutic.rollouts.intents import intents

        intents(
            load(self.model, self.options.whole()),
            self.data,
            out,
            replace=self.replace,
            sampling=self.sampling,
            budget=self.budget,
            max_failure_rate=self.max_failure_rate,
        )

    def models(self) -> list[str]:  # noqa: D102
        return [self.model]

    def describe(self) -> str:  # noqa: D102
        return "write what each person wanted"

    def expect(self, out: Path, flow: Flow) -> Cost:  # noqa: D102
        size, memory = flow.size(self.data), flow.memory(self.models())
        if size is None:
            return Cost(None, None, memory)
        flow.put(out, size)
        ask = Ask(self.model, size.rows, size.tokens, size.rows * self.sampling.max_tokens)
        return flow.asked([ask], self.budget.prices)
