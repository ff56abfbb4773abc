"""Simulate many dialogues at once, without losing one and without paying for one twice.

A run folder holds one row per dialogue (`rows.jsonl`, a corpus that can be trained on as it is) and the messages of
dialogues that have not ended (`turns.jsonl`). The same call resumes the run: finished dialogues are not generated
again, and the others continue after their last finished message. Starts are streamed; a finished dialogue costs some
fifty bytes of memory.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from maieutic.core import prompts
from maieutic.core.budget import Budget, Spending
from maieutic.core.costs import CHARS_A_TOKEN, Flow, Speaker, taking_turns
from maieutic.core.messages import Conversation, Message, Record, Role, Sampling, fingerprint
from maieutic.core.store import Stage
from maieutic.core.workers import check_rate, open_stage, run_pool
from maieutic.models import ChatModel, identity
from maieutic.models.student import load_kind
from maieutic.rollouts import guards
from maieutic.rollouts.dialogue import Dialogue, Ending, Generated, Rules, Side, StopWhen
from maieutic.rollouts.episodes import Start, Starts, episode_row, first_error, tally, unfinished
from maieutic.rollouts.tutor_prompt import TutorPrompt
from maieutic.rollouts.users import CONTROLLER, UserMode, prompt_hash, swapped, user_mode

_SERVED = ("openai/", "ollama/", "http://", "https://")
"""Models that are prompted to play the user unless `user_mode` is `trained`."""


class SimulateConfig(Record):
    """The settings of a simulation. All but the last three decide the content of the dialogues."""

    seeds: Path | None = None
    """A corpus whose conversations are the starts; without one, the user begins freely."""
    seed_turns: int | None = Field(None, ge=0)
    """Keep only this many messages of each seed: 1 for its first question, 2 for its first round."""
    repeat: int = Field(1, ge=1)
    """Dialogues per seed, each sampled with its own random seeds."""
    kinds: tuple[str, ...] = ()
    """Kinds of students, each combined with every seed (see `maieutic.models.student`); a kind's profile
    conditions the user before the seed's own."""
    user_mode: UserMode | None = None
    """`trained` or `prompted`; by default what the user's checkpoint says."""
    user: Sampling = Sampling(temperature=1.0, top_p=0.8, max_tokens=256)
    assistant: Sampling = Sampling(temperature=0.7, max_tokens=512)
    assistant_system: str | None = None
    """System text of dialogues that have none. The assistant and a trained user see it, a prompted user does not."""
    assistant_prompt: str | None = None
    """A system prompt that only the assistant sees, with the dialogue's problem: a prompt's name or a `.md` file."""
    show_solution: bool = False
    """Include the misconception, the solution and the known answer in `assistant_prompt`."""
    rounds: int = Field(10, ge=1)
    """Rounds at most: an assistant's reply ends a round; those of the start count."""
    user_turns: int | None = Field(None, ge=1)
    """The user generates at most this many messages; a user message is the last."""
    min_rounds: int = Field(1, ge=0)
    """The user may not end the dialogue before this many rounds."""
    ending: Ending = "allow"
    """`allow` the user to end from `min_rounds` on, `suppress` endings, or `force` one: after the last round the user
    writes a goodbye, and the dialogue counts as ended."""
    guards: str = "default"
    """`default`, `none`, or a list such as `empty,repeat`."""
    redraws: int = Field(3, ge=0)
    """How often one message may be generated again after a guard rejected it."""
    seed: int = 0
    concurrency: int = Field(64, ge=1)
    """Dialogues at the same time."""
    max_failure_rate: float = Field(0.05, ge=0, le=1)
    """The share of failed dialogues above which the run fails."""
    budget: Budget = Budget()
    """Stop cleanly when this call has spent this much; messages that are being generated are finished and kept."""


class SimulateResult(NamedTuple):
    """What the run folder holds, and what this call did."""

    dialogues: int
    """Finished dialogues of the whole run."""
    failed: int
    """Failed dialogues of the whole run."""
    replies: int
    """Replies that models gave in this call."""
    seconds: float
    run: str
    ends: dict[str, int]
    """Finished dialogues, by why they ended."""
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


def simulate(
    user: ChatModel,
    assistant: ChatModel,
    out: Path | str,
    n: int | None = None,
    config: SimulateConfig | None = None,
    controller: ChatModel | None = None,
    *,
    starts: Sequence[Conversation] | None = None,
    stop_when: StopWhen | None = None,
) -> SimulateResult:
    """Simulate `n` dialogues into the run folder `out`.

    Args:
        user: the user's model.
        assistant: the assistant's model.
        out: the run folder; the same call resumes it.
        n: dialogues; by default `repeat` for each seed and kind.
        config: all other settings.
        controller: a model that is asked after each reply whether such a person would stop here. Prompted users need
            it: they seldom end a dialogue themselves.
        starts: conversations instead of the corpus that `config.seeds` names.
        stop_when: ends a dialogue once its messages meet this condition.

    Raises:
        TooManyFailures: above `max_failure_rate`; every dialogue has its row all the same.
        BudgetSpent: the budget is used up; the same call with a larger one resumes the run.
        ModelError: the key or a model's name is wrong.
        RunConflict, RunLocked, DiskFull: the folder cannot be used.
    """
    with _rare_garbage_collection():
        return asyncio.run(
            _simulate(
                _Models(user, assistant, controller),
                Path(out),
                n,
                config or SimulateConfig(),
                starts,
                stop_when,
            )
        )


@contextmanager
def _rare_garbage_collection() -> Iterator[None]:
    """Collect garbage a tenth as often.

    Each collection scans the state of hundreds of waiting dialogues: a sixth of the processor time of a served reply.
    """
    usual = gc.get_threshold()
    gc.set_threshold(10 * usual[0], *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)


class _Models(NamedTuple):
    user: ChatModel
    assistant: ChatModel
    controller: ChatModel | None

    def all(self) -> list[ChatModel]:
        return [model for model in self if model is not None]


async def _simulate(
    models: _Models,
    out: Path,
    n: int | None,
    config: SimulateConfig,
    given: Sequence[Conversation] | None,
    stop_when: StopWhen | None,
) -> SimulateResult:
    starts = _starts(config, given)
    config.budget.checked([model.id for model in models.all()])
    settings = _run_settings(models, config, starts.hash) | ({"stop_when": True} if stop_when else {})
    async with open_stage(out, settings, models.all()) as stage:
        run = _Run(models, stage, config, stop_when)
        return _finish(stage, await run.all(starts, n), config)


def _starts(config: SimulateConfig, given: Sequence[Conversation] | None = None) -> Starts:
    return Starts(
        config.seeds if given is None else given,
        config.seed_turns,
        config.assistant_system,
        config.repeat,
        config.kinds,
    )


def _run_settings(models: _Models, config: SimulateConfig, seeds: str | None) -> dict[str, Any]:
    """The settings that decide the dialogues: a second call with other values is another run."""
    user, assistant, controller = models
    mode = user_mode(user, config.user_mode)
    plain = {"seed_turns", "rounds", "min_rounds", "ending", "redraws", "repeat", "seed"}
    settings = {
        "stage": "simulate",
        "user": {"model": identity(user), "mode": mode, "prompt": prompt_hash(mode), "sampling": config.user},
        "assistant": {
            "model": identity(assistant),
            "system": config.assistant_system,
            "sampling": config.assistant,
        },
        "controller": controller and f"{identity(controller)} {CONTROLLER.hash()}",
        "seeds": seeds,
        "guards": guards.parse(config.guards),
        **config.model_dump(mode="json", include=plain),
    }
    tutor_prompt = TutorPrompt.load(config.assistant_prompt, config.show_solution)
    if tutor_prompt.prompt:
        shown = {"prompt": tutor_prompt.prompt.hash, "show_solution": tutor_prompt.show_solution}
        settings["assistant"] |= shown
    if config.kinds:
        settings["kinds"] = [f"{kind} {load_kind(kind).hash}" for kind in config.kinds]
    if config.user_turns is not None:
        settings["user_turns"] = config.user_turns
    return settings


class _Run:
    """The dialogues of one call."""

    def __init__(
        self, models: _Models, stage: Stage, config: SimulateConfig, stop_when: StopWhen | None
    ) -> None:
        self._sides = (Side(models.user, config.user), Side(models.assistant, config.assistant))
        self._rules = Rules(
            user_mode(models.user, config.user_mode),
            config.rounds,
            config.min_rounds,
            guards.parse(config.guards),
            config.redraws,
            config.ending,
            models.controller,
            TutorPrompt.load(config.assistant_prompt, config.show_solution),
            config.user_turns,
            stop_when,
        )
        self._config = config
        self._stage = stage
        self._turns = stage.journal("turns")
        self._unfinished = unfinished(self._turns, stage.rows)
        self._tallies = tally(stage.rows)
        self._spending = Spending(config.budget)
        self._started = time.monotonic()

    async def all(self, starts: Starts, n: int | None) -> SimulateResult:
        """Generate every pending dialogue."""
        total = starts.total(n)
        pending = starts.take(n, fingerprint(self._stage.config), self._config.seed)
        keys = await run_pool(
            ((start.key, start) for start in pending),
            self._stage.rows,
            self._one,
            concurrency=min(self._config.concurrency, total),
            total=total,
            label="simulate",
            spending=self._spending,
            note=self._live,
        )
        self._stage.rows.sort(keys)
        return self._result(time.monotonic() - self._started)

    async def _one(self, key: str, start: Start) -> None:
        """Generate one dialogue; once the budget is spent, the current message is finished and the dialogue stops."""

        def keep(index: int, generated: Generated) -> None:
            row = {
                "dialogue": key,
                "index": index,
                "turn": generated.message.model_dump(mode="json"),
                "info": generated.info,
            }
            self._turns.append(f"{key}:{index}", row)
            self._spending.check()

        earlier = self._unfinished.pop(key, [])
        dialogue = Dialogue(
            start.draws, start.conversation, *self._sides, self._rules, earlier, keep, self._spending.charge
        )
        transcript = await dialogue.run()
        row = episode_row(key, start.conversation, transcript)
        failures = self._tallies.failures[key]
        self._stage.rows.append(f"{key}:failed:{failures}" if transcript.failure else key, row)
        self._tallies.add(row)

    def _live(self) -> str:
        """The text of the progress line: replies per second, spending, failures by fault."""
        rate = self._spending.replies / max(1e-6, time.monotonic() - self._started)
        faults = ", ".join(f"{count} {fault}" for fault, count in self._tallies.faults().items())
        return f"{rate:.1f} replies/s, {self._spending}" + (f"; failed: {faults}" if faults else "")

    def _result(self, seconds: float) -> SimulateResult:
        tallies = self._tallies
        return SimulateResult(
            dialogues=sum(tallies.ends.values()),
            failed=len(tallies.failed),
            replies=self._spending.replies,
            seconds=round(seconds, 3),
            run=str(self._stage.folder),
            ends=dict(tallies.ends),
            faults=tallies.faults(),
            guards=dict(tallies.guards),
            unreadable=tallies.unreadable,
            tokens=self._spending.tokens,
            usd=round(self._spending.usd, 6) if self._config.budget.prices else None,
        )


def _finish(stage: Stage, result: SimulateResult, config: SimulateConfig) -> SimulateResult:
    total = result.dialogues + result.failed
    stage.finish({**result._asdict(), "run": None})
    faults = ", ".join(f"{count} by {fault}" for fault, count in sorted(result.faults.items()))
    check_rate(
        result.failed, total, config.max_failure_rate, f"dialogues ({faults})", first_error(stage.rows)
    )
    return result


class SimulationCost(NamedTuple):
    """An upper bound, if no reply is rejected and no call fails."""

    dialogues: int
    calls: int
    read: int
    """Prompt tokens: each call reads the dialogue so far."""
    written: int
    usd: float | None
    """Null where neither model has a price."""


def simulation_cost(
    config: SimulateConfig, user: str, assistant: str, n: int | None = None
) -> SimulationCost:
    """The cost of a simulation in which every dialogue uses all rounds and every message all its tokens.

    Args:
        config: of the simulation. The text of starts is counted at four characters per token.
        user: the user's MODEL.
        assistant: the assistant's MODEL.
        n: dialogues.
    """
    starts = _starts(config)
    total, rounds = starts.total(n), config.rounds
    forced, served = config.ending == "force", user.startswith(_SERVED)
    turns = rounds + forced  # of the user; a forced ending adds a goodbye
    prompted = config.user_mode == "prompted" or (config.user_mode is None and served)
    free_start = [Message(role=Role.SYSTEM, content=prompts.load("dyadic").text)] if served else []
    tutor_prompt = TutorPrompt.load(config.assistant_prompt, config.show_solution)
    assistant_start = user_start = 0
    for start in starts.take(n, "", config.seed):
        messages = start.conversation.messages
        seen = swapped(start.conversation, messages, forced) if prompted else messages or free_start
        user_start += _tokens(seen)
        assistant_start += _tokens(tutor_prompt.apply(start.conversation.problem, messages))
    asks = taking_turns(
        total,
        0,
        Speaker(user, turns, config.user.max_tokens, user_start),
        Speaker(assistant, rounds, config.assistant.max_tokens, assistant_start),
    )
    cost = Flow().asked(asks, config.budget.prices)
    return SimulationCost(total, cost.calls or 0, cost.read or 0, cost.tokens or 0, cost.usd)


def _tokens(messages: Iterable[Message]) -> int:
    return sum(len(message.content) for message in messages) // CHARS_A_TOKEN
