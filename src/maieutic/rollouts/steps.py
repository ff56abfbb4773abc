"""The steps in which models generate conversations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from maieutic.core.budget import Budget
from maieutic.core.console import say
from maieutic.core.costs import CHARS_A_TOKEN, Ask, Cost, Flow, Size, taking_turns
from maieutic.core.messages import Conversation, Sampling
from maieutic.core.rows import CandidateRow, Episode, PrePostRow, read_step
from maieutic.core.settings import LocalModel, ModelSpec, PromptName, Requests, Source
from maieutic.core.step import Result, Step

USER_SAMPLING = Sampling(temperature=1.0, top_p=0.8, max_tokens=256)
UserMode = Literal["trained", "prompted"]
Ending = Literal["allow", "suppress", "force"]
When = Literal["before", "after"]


def _split(value: Any) -> Any:
    """The items of a list; each item may hold several, separated by commas."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)):
        return value
    return [name.strip() for item in items for name in str(item).split(",") if name.strip()]


Names = Annotated[list[str], BeforeValidator(_split)]


def _names(*models: Any) -> list[str]:
    """The MODELs among these models; in Python a model may also be an object."""
    return [model for model in models if isinstance(model, str)]


def _check_prompt(name: str | None) -> None:
    from maieutic.core import prompts

    if name:
        prompts.load(name)


def _spent(replies: int, tokens: int, usd: float | None, seconds: float) -> None:
    dollars = "" if usd is None else f", ${usd:.2f}"
    say(f"this call: {replies} replies, {tokens} tokens{dollars}, {seconds} s")


class SimulateResult(Result):
    """What the run folder holds, and what this call did."""

    dialogues: int
    """Finished dialogues of the whole run."""
    failed: int
    """Failed dialogues of the whole run."""
    replies: int
    """Replies that models gave in this call."""
    seconds: float
    ends: dict[str, int]
    """Finished dialogues, by the reason for the ending."""
    faults: dict[str, int]
    """Failed dialogues, by fault."""
    guards: dict[str, int]
    """Rejected replies, by guard."""
    unreadable: int
    """Answers of the controller that were neither yes nor no; the dialogues continued."""
    tokens: int
    """Tokens of this call, prompts included."""
    usd: float | None
    """Dollars that this call spent; null where no model has a price."""

    def rows(self) -> Iterator[Episode]:
        """The dialogues, failed ones included."""
        return read_step(Episode, self.run or "", "simulate")

    def show(self) -> None:
        ends = ", ".join(f"{count} {end}" for end, count in sorted(self.ends.items())) or "none"
        say(f"{self.dialogues} dialogues ({ends}), {self.failed} failed, in {self.run}")
        _spent(self.replies, self.tokens, self.usd, self.seconds)
        if self.faults:
            say("failed: " + ", ".join(f"{count} by {fault}" for fault, count in sorted(self.faults.items())))
        if self.unreadable:
            say(f"{self.unreadable} answers of the controller were neither yes nor no")
        if self.guards:
            rejected = ", ".join(f"{count} {guard}" for guard, count in sorted(self.guards.items()))
            say(f"rejected by guards: {rejected}")


class Simulate(Step):
    """Let a user model and an assistant model talk, and keep the dialogues as a corpus."""

    command: ClassVar = "simulate"
    shown: ClassVar = (
        *("n", "seeds", "rounds", "user_mode", "guards", "sampling.temperature", "user_sampling.temperature"),
        *("requests.concurrency", "seed"),
    )
    flags: ClassVar = {"n": "-n"}
    examples: ClassVar = (
        "maieutic simulate --user hf/runs/user --assistant openai/NAME --seeds seeds.jsonl -n 1000 --out runs/talk",
    )
    outputs: ClassVar = ("rows.jsonl",)

    user: ModelSpec = Field(description="MODEL that plays the user.")
    assistant: ModelSpec = Field(description="MODEL that plays the assistant.")
    n: int | None = Field(None, ge=1, description="Number of dialogues; default: one per seed.")
    seeds: Source | None = Field(
        None, description="Corpus of starts; without it, the user model starts freely."
    )
    seed_turns: int | None = Field(
        None,
        ge=0,
        description="Keep only the first messages of each seed; 0: only its intent, profile and problem.",
    )
    repeat: int = Field(1, ge=1, description="Dialogues per seed.")
    kinds: Names = Field(
        default_factory=list,
        description="Kinds of students, each combined with every seed: names or .yaml files, separated by commas.",
    )
    user_mode: UserMode | None = Field(
        None,
        description="Default: trained if the checkpoint was trained to speak as the user, else prompted.",
    )
    rounds: int = Field(
        10,
        ge=1,
        description="Maximum rounds, those in the seed included; an assistant reply ends a round.",
    )
    min_rounds: int = Field(1, ge=0, description="The user may not end before this many rounds.")
    user_turns: int | None = Field(
        None, ge=1, description="Maximum generated user messages; the dialogue then ends on a user message."
    )
    ending: Ending = Field(
        "allow",
        description="allow: the user may end after min_rounds; suppress: never; force: goodbye after the last round.",
    )
    controller: ModelSpec | None = Field(
        None, description="MODEL that decides after each assistant reply whether the user would stop."
    )
    guards: str = Field("default", description="default, none, or a list such as empty,repeat.")
    redraws: int = Field(
        3, ge=0, description="How often one message may be generated again after a guard rejected it."
    )
    user_sampling: Sampling = USER_SAMPLING
    sampling: Sampling = Sampling(temperature=0.7, max_tokens=512)
    assistant_system: str | None = Field(
        None, description="System text of dialogues that have none. A prompted user does not see it."
    )
    assistant_prompt: PromptName = Field(
        None,
        description="System prompt that only the assistant sees, with the problem: a prompt's name or .md file.",
    )
    show_solution: bool = Field(
        False, description="Include the solution and the known answer in the assistant's prompt."
    )
    seed: int = Field(0, description="Random seed.")
    requests: Requests = Requests(concurrency=64)
    budget: Budget = Budget()
    local: LocalModel = LocalModel()

    def run(self, out: Path | str) -> SimulateResult:
        from maieutic.rollouts.simulate import run_simulation

        return run_simulation(self, Path(out))

    def check(self) -> None:
        from maieutic.models.student import load_kind
        from maieutic.rollouts.guards import parse

        parse(self.guards)
        for kind in self.kinds:
            load_kind(kind)
        _check_prompt(self.assistant_prompt)

    def models(self) -> list[str]:
        return _names(self.user, self.assistant, self.controller)

    def describe(self) -> str:
        return "simulate dialogues"

    def expect(self, out: Path, flow: Flow) -> Cost:
        from maieutic.rollouts.simulate import StartTokens, count_starts, planned_requests

        memory = flow.memory(self.models())
        if isinstance(self.seeds, Path) and not self.seeds.exists():
            size = flow.size(self.seeds)
            n = self.n or (size.rows * self.repeat * max(1, len(self.kinds)) if size else None)
            if n is None:
                return Cost(None, None, memory)
            tokens = n * (size.tokens // max(1, size.rows)) if size else 0
            starts = StartTokens(n, tokens, tokens, tokens)
        elif self.seeds is None and self.n is None:
            return Cost(None, None, memory)
        else:
            starts = count_starts(self)
        cost = flow.asked(planned_requests(self, starts), self.budget.prices)
        flow.put(out, Size(starts.dialogues, starts.text + (cost.tokens or 0)))
        return cost._replace(gpu_bytes=memory)


class CandidatesResult(Result):
    """What the run folder holds, and what this call did."""

    prompts: int
    """Dialogues with candidates in the run folder."""
    failed: int
    """Dialogues that failed in this call."""
    skipped: int
    """Conversations without a user message, and repeated prompts."""
    truncated: int
    """Conversations that ended on a tutor reply; that reply was dropped and generated again."""
    replies: int
    """Replies generated in this call."""
    tokens: int
    """New tokens of this call."""
    seconds: float

    def rows(self) -> Iterator[CandidateRow]:
        """The dialogues with their candidates."""
        return read_step(CandidateRow, self.run or "", "candidates")

    def show(self) -> None:
        say(f"{self.prompts} dialogues with candidates, {self.failed} failed, in {self.run}")
        if self.skipped or self.truncated:
            cut = f"{self.truncated} answered before their last reply"
            say(f"{self.skipped} skipped (repeated, or without a user message), {cut}")
        _spent(self.replies, self.tokens, None, self.seconds)


class Candidates(Step):
    """Ask a tutor for several replies to each dialogue."""

    command: ClassVar = "candidates"
    shown: ClassVar = (
        *("k", "prompt", "show_solution", "limit", "sampling.temperature", "sampling.max_tokens"),
        *("sampling.seed", "requests.concurrency"),
    )
    flags: ClassVar = {"k": "-k"}
    examples: ClassVar = (
        "maieutic candidates --model hf/runs/tutor --data dialogues.jsonl -k 5 --out runs/tutor/candidates",
    )
    outputs: ClassVar = ("rows.jsonl",)

    model: ModelSpec = Field(description="MODEL that plays the tutor.")
    data: Source = Field(description="Corpus of dialogues; the tutor answers each one's last user message.")
    k: int = Field(
        5, ge=1, description="Replies per dialogue; reply i is sampled with the sampling's seed + i."
    )
    prompt: PromptName = Field(
        "tutor_socratic", description="Tutor's system prompt: a prompt's name, a .md file, or none."
    )
    show_solution: bool = Field(
        False, description="Include the misconception, the solution and the answer in the prompt."
    )
    limit: int | None = Field(None, ge=1, description="Use only the first LIMIT dialogues.")
    sampling: Sampling = Sampling(temperature=1.2, max_tokens=400)
    requests: Requests = Requests()
    budget: Budget = Budget()
    local: LocalModel = LocalModel()

    def run(self, out: Path | str) -> CandidatesResult:
        from maieutic.rollouts.candidates import generate_candidates

        return generate_candidates(self, Path(out))

    def check(self) -> None:
        _check_prompt(self.prompt)

    def models(self) -> list[str]:
        return _names(self.model)

    def describe(self) -> str:
        return f"{self.k} replies a dialogue" if self.k > 1 else "a reply to each dialogue"

    def expect(self, out: Path, flow: Flow) -> Cost:
        from maieutic.core import prompts

        size = flow.size(self.data) if isinstance(self.data, Path) else None
        if size is None:
            return Cost(None, None, flow.memory(self.models()))
        rows = min(size.rows, self.limit or size.rows)
        prompt = len(prompts.load(self.prompt).text) // CHARS_A_TOKEN if self.prompt else 0
        read = round(size.tokens * rows / max(1, size.rows)) + rows * prompt
        flow.put(out, Size(rows, read, self.k, self.sampling.max_tokens))
        calls = rows * self.k
        asks = [Ask(model, calls, read * self.k, calls * self.sampling.max_tokens) for model in self.models()]
        return flow.asked(asks, self.budget.prices)


class ContinuationsResult(Result):
    """What the run folder holds, and what this call did."""

    prompts: int
    """Dialogues with at least one reply that is continued."""
    replies: int
    """Different replies that are continued."""
    revealing: int
    """Candidates that state the answer: not continued, their outcome is 0."""
    without_answer: int
    """Prompts without a known answer: not continued, their outcome is unknown."""
    continuations: int
    """Finished continuations."""
    failed: int
    """Continuations that could not be finished."""
    calls: int
    """Replies that models gave in this call."""
    tokens: int
    """Tokens of this call, prompts included."""
    usd: float | None
    seconds: float

    def rows(self) -> Iterator[Episode]:
        """The continuations, failed ones included."""
        return read_step(Episode, self.run or "", "continuations")

    def show(self) -> None:
        counts = f"{self.continuations} continuations, {self.failed} failed"
        say(f"{self.replies} replies to {self.prompts} dialogues: {counts}, in {self.run}")
        if self.revealing or self.without_answer:
            revealing = f"{self.revealing} replies that state the answer"
            say(f"not continued: {revealing}, {self.without_answer} dialogues without a known answer")
        _spent(self.calls, self.tokens, self.usd, self.seconds)


class Continuations(Step):
    """Continue each candidate reply with a student several times, to see whether the student solves the problem."""

    command: ClassVar = "continuations"
    arguments: ClassVar = ("data",)
    shown: ClassVar = (
        *("m", "turns", "user_mode", "tutor_prompt", "student_sampling.temperature", "sampling.temperature"),
        *("requests.concurrency", "seed"),
    )
    flags: ClassVar = {"m": "-m"}
    examples: ClassVar = (
        "maieutic continuations RUN/judge --student hf/runs/student --tutor hf/runs/tutor --out RUN/continuations",
    )
    outputs: ClassVar = ("rows.jsonl",)

    data: Source = Field(description="Replies: a judge or candidates step, its run, or a file of its rows.")
    student: ModelSpec = Field(
        description="MODEL that plays the student; use another student to evaluate the tutor."
    )
    tutor: ModelSpec = Field(description="MODEL that wrote the replies and continues the dialogues.")
    m: int = Field(
        4, ge=1, description="Continuations of each reply; equal replies to one dialogue are continued once."
    )
    turns: int = Field(
        3, ge=1, description="Maximum student messages; the dialogue ends on a student message."
    )
    user_mode: UserMode | None = Field(
        None,
        description="Default: trained if the checkpoint was trained to speak as the user, else prompted.",
    )
    student_sampling: Sampling = USER_SAMPLING
    sampling: Sampling = Sampling(temperature=0.7, max_tokens=512)
    tutor_prompt: PromptName = Field(
        None,
        description="System prompt that only the tutor sees, with the problem: a prompt's name or .md file.",
    )
    show_solution: bool = Field(
        False, description="Include the solution and the known answer in the tutor's prompt."
    )
    guards: str = Field("default", description="default, none, or a list such as empty,repeat.")
    redraws: int = Field(
        3, ge=0, description="How often one message may be generated again after a guard rejected it."
    )
    seed: int = Field(0, description="Random seed.")
    requests: Requests = Requests(concurrency=64)
    budget: Budget = Budget()
    local: LocalModel = LocalModel()

    def run(self, out: Path | str) -> ContinuationsResult:
        from maieutic.rollouts.continuations import continue_candidates

        return continue_candidates(self, Path(out))

    def check(self) -> None:
        from maieutic.rollouts.guards import parse

        parse(self.guards)
        _check_prompt(self.tutor_prompt)

    def models(self) -> list[str]:
        return _names(self.student, self.tutor)

    def describe(self) -> str:
        return f"continue each reply, {self.m} × {self.turns} turns"

    def expect(self, out: Path, flow: Flow) -> Cost:
        size = flow.size(self.data) if isinstance(self.data, Path) else None
        memory = flow.memory(self.models())
        if size is None:
            return Cost(None, None, memory)
        dialogues = size.rows * max(1, size.replies) * self.m
        asks = taking_turns(
            dialogues,
            size.tokens // max(1, size.rows) + size.reply_tokens,
            (str(self.student), self.turns, self.student_sampling.max_tokens),
            (str(self.tutor), self.turns - 1, self.sampling.max_tokens),
        )
        return flow.asked(asks, self.budget.prices)


class PrePostTestResult(Result):
    """What the run folder holds, and what this call did."""

    tested: int
    """Starts (before) or dialogues (after) in the run folder."""
    failed: int
    """Starts or dialogues that failed in this call."""
    correct: float | None
    """The share of correct answers."""
    replies: int
    """Replies generated in this call."""
    tokens: int
    usd: float | None
    seconds: float

    def rows(self) -> Iterator[PrePostRow]:
        """The answers, by start or dialogue."""
        return read_step(PrePostRow, self.run or "", "pre-post-test")

    def show(self) -> None:
        correct = "no answer" if self.correct is None else f"{self.correct:.1%} of the answers correct"
        say(f"{self.tested} tested, {correct}, {self.failed} failed, in {self.run}")
        _spent(self.replies, self.tokens, self.usd, self.seconds)


class PrePostTest(Step):
    """Let a student answer the problem of each dialogue alone several times, before or after the dialogue."""

    command: ClassVar = "pre-post-test"
    arguments: ClassVar = ("data",)
    shown: ClassVar = (
        *("n", "prompt", "user_mode", "run_code", "sampling.temperature", "sampling.seed"),
        "requests.concurrency",
    )
    flags: ClassVar = {"n": "-n"}
    examples: ClassVar = (
        "maieutic pre-post-test runs/talk --model hf/runs/student --when after --out runs/after",
    )
    outputs: ClassVar = ("rows.jsonl",)

    data: Source = Field(description="Dialogues: a simulate step, or a corpus.")
    model: ModelSpec = Field(description="MODEL that plays the student.")
    when: When = Field(description="before: test each start once; after: test each whole dialogue.")
    n: int = Field(8, ge=1, description="Answers per problem.")
    prompt: str = Field("attempt", description="The assistant's question: a prompt's name or a .md file.")
    user_mode: UserMode | None = Field(
        None,
        description="Default: trained if the checkpoint was trained to speak as the user, else prompted.",
    )
    run_code: bool = Field(
        False,
        description="An answer is correct if its program passes the problem's tests, which run in a sandbox.",
    )
    sampling: Sampling = USER_SAMPLING
    requests: Requests = Requests(concurrency=64)
    budget: Budget = Budget()
    local: LocalModel = LocalModel()

    def run(self, out: Path | str) -> PrePostTestResult:
        from maieutic.rollouts.pre_post_test import run_test

        return run_test(self, Path(out))

    def check(self) -> None:
        _check_prompt(self.prompt)

    def models(self) -> list[str]:
        return _names(self.model)

    def describe(self) -> str:
        return f"{self.n} answers of the student alone, {self.when} the dialogues"

    def expect(self, out: Path, flow: Flow) -> Cost:
        size, memory = (
            flow.size(self.data) if isinstance(self.data, Path) else None,
            flow.memory(self.models()),
        )
        if size is None:
            return Cost(None, None, memory)
        calls = size.rows * self.n
        return Cost(calls, calls * self.sampling.max_tokens, memory)


class IntentsResult(Result):
    """What the run folder holds, and what this call did."""

    conversations: int
    written: int
    kept: int
    """Conversations that already had an intent."""
    failed: int
    """Conversations without an intent: the model wrote no usable intent."""
    no_user: int
    """Conversations without an intent: they have no user message."""
    replies: int
    """Replies generated in this call."""
    tokens: int
    seconds: float

    def rows(self) -> Iterator[Conversation]:
        """The corpus."""
        from maieutic.data.corpus import read_corpus

        return iter(read_corpus(self.run or ""))

    def show(self) -> None:
        counts = f"{self.written} intents written, {self.kept} kept"
        say(f"{self.conversations} conversations in {self.run}: {counts}")
        if self.failed or self.no_user:
            say(f"without an intent: {self.failed} failed, {self.no_user} have no user message")
        _spent(self.replies, self.tokens, None, self.seconds)


class Intents(Step):
    """Write each user's intent (the goal, not the words) with a chat model, to condition a simulator on it."""

    command: ClassVar = "intents"
    arguments: ClassVar = ("data",)
    shown: ClassVar = ("replace", "prompt", "sampling.temperature", "requests.concurrency")
    examples: ClassVar = ("maieutic intents parts/train.jsonl --model openai/NAME --out runs/intents",)
    outputs: ClassVar = ("rows.jsonl",)

    data: Source = Field(description="Conversations: a corpus file or a step's folder.")
    model: ModelSpec = Field(description="MODEL that writes the intents: a chat model.")
    replace: bool = Field(False, description="Replace intents that conversations already have.")
    prompt: str = Field("intent", description="A prompt's name or a .md file, with {{mark}} and {{talk}}.")
    sampling: Sampling = Sampling(temperature=0, max_tokens=128)
    requests: Requests = Requests()
    budget: Budget = Budget()
    local: LocalModel = LocalModel()

    def run(self, out: Path | str) -> IntentsResult:
        from maieutic.rollouts.intents import write_intents

        return write_intents(self, Path(out))

    def check(self) -> None:
        _check_prompt(self.prompt)

    def models(self) -> list[str]:
        return _names(self.model)

    def describe(self) -> str:
        return "write each user's intent"

    def expect(self, out: Path, flow: Flow) -> Cost:
        size = flow.size(self.data) if isinstance(self.data, Path) else None
        if size is None:
            return Cost(None, None, flow.memory(self.models()))
        flow.put(out, size)
        written = size.rows * self.sampling.max_tokens
        asks = [Ask(model, size.rows, size.tokens, written) for model in self.models()]
        return flow.asked(asks, self.budget.prices)
