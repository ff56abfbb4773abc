"""Many dialogues at once, none lost and none paid for twice.

A run folder holds a row a dialogue (`rows.jsonl`, a corpus that trains as it is), and the turns of dialogues still
going on (`turns.jsonl`). The same command goes on: finished dialogues are not asked again, and the others continue
from their last finished turn. Starts stream; what memory holds of a dialogue that is over is some fifty bytes.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from maieutic.core.budget import Budget, Spending
from maieutic.core.messages import Conversation, Record, Sampling, fingerprint
from maieutic.core.store import Stage
from maieutic.core.workers import check_rate, open_stage, run_pool
from maieutic.models import ChatModel, identity
from maieutic.models.student import load_kind
from maieutic.rollouts import guards
from maieutic.rollouts.dialogue import Decided, Dialogue, Ending, Rules, Side, Spoken
from maieutic.rollouts.rows import dialogue_row, first_error, partial_dialogues, tally
from maieutic.rollouts.starts import Start, Starts
from maieutic.rollouts.tutor_prompt import Brief
from maieutic.rollouts.users import CONTROLLER, UserMode, prompt_hash, user_mode


class SimulateConfig(Record):
    """How to simulate; what is here decides the dialogues, except for the last three."""

    seeds: Path | None = None
    """A corpus whose conversations are starts; without one, the user begins freely."""
    seed_turns: int | None = Field(None, ge=0)
    """Keep only so many turns of each seed: 1 for its first question, 2 for its first round."""
    repeat: int = Field(1, ge=1)
    """Dialogues a seed, each with draws of its own."""
    kinds: tuple[str, ...] = ()
    """Kinds of students, each with every seed (see `maieutic.models.student`): told to the user before the profile."""
    user_mode: UserMode | None = None
    """`trained` or `prompted`; by default what the user's checkpoint says."""
    user: Sampling = Sampling(temperature=1.0, top_p=0.8, max_tokens=256)
    assistant: Sampling = Sampling(temperature=0.7, max_tokens=512)
    assistant_system: str | None = None
    """A system turn put before dialogues that have none; both sides see it only where the user is trained."""
    assistant_prompt: str | None = None
    """What the assistant alone is told, a prompt's name or a `.md` file, with the dialogue's problem in it."""
    show_solution: bool = False
    """Let `assistant_prompt` tell it the misconception, the solution and the known answer too."""
    rounds: int = Field(10, ge=1)
    """Rounds at most: an assistant's reply ends a round, those of the start counted."""
    user_turns: int | None = Field(None, ge=1)
    """The user speaks at most so many times after the start, and has the last word then."""
    min_rounds: int = Field(1, ge=0)
    """The user may not end before so many."""
    ending: Ending = "allow"
    """`allow` the user to end from `min_rounds` on, `suppress` that wholly, or `force` it: where the rounds are used
    up the user says one turn more, its last, and the dialogue counts as ended."""
    guards: str = "default"
    """`default`, `none`, or a list such as `empty,repeat`."""
    redraws: int = Field(3, ge=0)
    """Draws a guard may throw away for one turn."""
    seed: int = 0
    concurrency: int = Field(64, ge=1)
    """Dialogues under way at once."""
    max_failure_rate: float = Field(0.05, ge=0, le=1)
    """Failed dialogues, as a share, past which the run ends as failed."""
    budget: Budget = Budget()
    """Stop cleanly once this call has spent so much; turns under way are finished and kept."""


class Summary(NamedTuple):
    """What a run holds, and what this call did."""

    dialogues: int
    """Finished dialogues of the whole run."""
    failed: int
    """Dialogues of the whole run that could not be finished."""
    replies: int
    """Replies that models gave in this call."""
    seconds: float
    run: str
    ends: dict[str, int]
    """Finished dialogues by why they ended."""
    faults: dict[str, int]
    """Failed dialogues by whose fault it was."""
    guards: dict[str, int]
    """Draws thrown away, by guard."""
    unread: int
    """Answers of the controller that were neither yes nor no; the dialogues went on."""
    tokens: int
    """Tokens this call used, prompts counted."""
    usd: float | None
    """Dollars this call spent; null where no model has a price."""


def simulate(
    user: ChatModel,
    assistant: ChatModel,
    out: Path | str,
    n: int | None = None,
    config: SimulateConfig | None = None,
    controller: ChatModel | None = None,
    *,
    starts: Sequence[Conversation] | None = None,
    decided: Decided | None = None,
) -> Summary:
    """Simulate `n` dialogues into the run folder `out` (default: `repeat` for each seed).

    `controller` is asked after each reply whether such a person would stop here: an end for prompted users, who
    seldom find it themselves. `starts` are conversations in place of the corpus that `config.seeds` names. Where
    `decided` says of what was said so far that nothing which may follow matters, the dialogue is over.

    Raises:
        TooManyFailures: past `max_failure_rate`; every dialogue is a row all the same.
        BudgetSpent: the budget is used up; the same command with a larger one goes on.
        ModelError: the key, or a model's name, is wrong.
        RunConflict, RunLocked, DiskFull: about the folder.
    """
    with _seldom_collected():
        return asyncio.run(
            _simulate(
                _Cast(user, assistant, controller),
                Path(out),
                n,
                config or SimulateConfig(),
                starts,
                decided,
            )
        )


@contextmanager
def _seldom_collected() -> Iterator[None]:
    """Let Python look for garbage a tenth as often as it would.

    Each look goes through what hundreds of waiting dialogues hold: a sixth of the time a served reply takes here.
    """
    usual = gc.get_threshold()
    gc.set_threshold(10 * usual[0], *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)


class _Cast(NamedTuple):
    """Who takes part."""

    user: ChatModel
    assistant: ChatModel
    controller: ChatModel | None

    def models(self) -> list[ChatModel]:
        return [model for model in self if model is not None]


async def _simulate(
    cast: _Cast,
    out: Path,
    n: int | None,
    config: SimulateConfig,
    given: Sequence[Conversation] | None,
    decided: Decided | None,
) -> Summary:
    starts = Starts(
        config.seeds if given is None else given,
        config.seed_turns,
        config.assistant_system,
        config.repeat,
        config.kinds,
    )
    config.budget.checked([model.id for model in cast.models()])
    identified = _identity(cast, config, starts.hash) | ({"decided": True} if decided else {})
    async with open_stage(out, identified, cast.models()) as stage:
        run = _Run(cast, stage, config, decided)
        return _close(stage, await run.all(starts, n), config)


def _identity(cast: _Cast, config: SimulateConfig, seeds: str | None) -> dict[str, Any]:
    """What decides the dialogues: a second call that differs in it is another run."""
    user, assistant, controller = cast
    mode = user_mode(user, config.user_mode)
    settings = {"seed_turns", "rounds", "min_rounds", "ending", "redraws", "repeat", "seed"}
    return {
        "stage": "simulate",
        "user": {"model": identity(user), "mode": mode, "prompt": prompt_hash(mode), "sampling": config.user},
        "assistant": {
            "model": identity(assistant),
            "system": config.assistant_system,
            "sampling": config.assistant,
            **_briefing(config),
        },
        "controller": controller and f"{identity(controller)} {CONTROLLER.hash()}",
        "seeds": seeds,
        **({"kinds": [f"{kind} {load_kind(kind).hash}" for kind in config.kinds]} if config.kinds else {}),
        "guards": guards.parse(config.guards),
        **config.model_dump(mode="json", include=settings),
        **({} if config.user_turns is None else {"user_turns": config.user_turns}),
    }


def _briefing(config: SimulateConfig) -> dict[str, Any]:
    """What the assistant is told, in a run's settings; nothing where it is told nothing."""
    brief = Brief.named(config.assistant_prompt, config.show_solution)
    return {"prompt": brief.prompt.hash, "show_solution": brief.show_solution} if brief.prompt else {}


class _Run:
    """The dialogues of one call."""

    def __init__(self, cast: _Cast, stage: Stage, config: SimulateConfig, decided: Decided | None) -> None:
        self._sides = (Side(cast.user, config.user), Side(cast.assistant, config.assistant))
        self._rules = Rules(
            user_mode(cast.user, config.user_mode),
            config.rounds,
            config.min_rounds,
            guards.parse(config.guards),
            config.redraws,
            config.ending,
            cast.controller,
            Brief.named(config.assistant_prompt, config.show_solution),
            config.user_turns,
            decided,
        )
        self._config = config
        self._stage = stage
        self._turns = stage.journal("turns")
        self._partial = partial_dialogues(self._turns, stage.rows)
        self._tallies = tally(stage.rows)
        self._spending = Spending(config.budget)
        self._started = time.monotonic()

    async def all(self, starts: Starts, n: int | None) -> Summary:
        """Every pending dialogue."""
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
        return self._summary(time.monotonic() - self._started)

    async def _one(self, key: str, start: Start) -> None:
        """One dialogue; a spent budget lets it finish the turn it is at."""

        def keep(index: int, spoken: Spoken) -> None:
            row = {
                "dialogue": start.key,
                "index": index,
                "turn": {"role": spoken.turn.role, "content": spoken.turn.content},
                "info": spoken.info,
            }
            self._turns.append(f"{start.key}:{index}", row)
            self._spending.check()

        partial = self._partial.pop(start.key, [])
        dialogue = Dialogue(
            start.draws, start.conversation, *self._sides, self._rules, partial, keep, self._spending.charge
        )
        outcome = await dialogue.run()
        row = dialogue_row(start.key, start.conversation, outcome, dialogue.end_info)
        tried = self._tallies.tries[start.key]
        self._stage.rows.append(f"{start.key}:failed:{tried}" if outcome.failure else start.key, row)
        self._tallies.add(row)

    def _live(self) -> str:
        """What the progress line says: replies a second, what was spent, failures by kind."""
        rate = self._spending.replies / max(1e-6, time.monotonic() - self._started)
        faults = ", ".join(f"{count} {fault}" for fault, count in self._tallies.faults().items())
        return f"{rate:.1f} replies/s, {self._spending}" + (f"; failed: {faults}" if faults else "")

    def _summary(self, seconds: float) -> Summary:
        tallies = self._tallies
        return Summary(
            dialogues=sum(tallies.ends.values()),
            failed=len(tallies.failed),
            replies=self._spending.replies,
            seconds=round(seconds, 3),
            run=str(self._stage.folder),
            ends=dict(tallies.ends),
            faults=tallies.faults(),
            guards=dict(tallies.guards),
            unread=tallies.unread,
            tokens=self._spending.tokens,
            usd=round(self._spending.usd, 6) if self._config.budget.prices else None,
        )


def _close(stage: Stage, summary: Summary, config: SimulateConfig) -> Summary:
    total = summary.dialogues + summary.failed
    stage.finish({**summary._asdict(), "run": None})
    worst = ", ".join(f"{count} by {fault}" for fault, count in sorted(summary.faults.items()))
    what = f"dialogues ({worst})"
    check_rate(summary.failed, total, config.max_failure_rate, what, first_error(stage.rows))
    return summary
