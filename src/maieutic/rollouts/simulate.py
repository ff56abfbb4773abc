"""Simulate many dialogues concurrently; a resumed run does not pay for finished messages again.

A run folder holds one row per dialogue (`rows.jsonl`, a corpus that can be trained on as it is) and the messages of
dialogues that have not ended (`turns.jsonl`). The same call resumes the run: finished dialogues are not generated
again, and the others continue after their last finished message. Starts are streamed; a finished dialogue costs some
fifty bytes of memory.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from maieutic.core import prompts
from maieutic.core.budget import Spending
from maieutic.core.costs import CHARS_A_TOKEN, Ask, Speaker, taking_turns
from maieutic.core.messages import Message, Role, fingerprint
from maieutic.core.store import Stage
from maieutic.core.workers import check_rate, open_stage, run_async, run_pool
from maieutic.models import ChatModel, identity, load_all
from maieutic.models.student import load_kind
from maieutic.rollouts import guards
from maieutic.rollouts.dialogue import Dialogue, Generated, Rules, Side, StopWhen
from maieutic.rollouts.episodes import Start, Starts, episode_row, first_error, tally, unfinished
from maieutic.rollouts.steps import Simulate, SimulateResult
from maieutic.rollouts.tutor_prompt import TutorPrompt
from maieutic.rollouts.users import CONTROLLER, prompt_hash, swapped, user_mode

_SERVED = ("openai/", "ollama/", "http://", "https://")
"""Models that are prompted to play the user unless `user_mode` is `trained`."""


def run_simulation(step: Simulate, out: Path, stop_when: StopWhen | None = None) -> SimulateResult:
    """Simulate the dialogues of a step.

    Args:
        step: the settings; the models are closed at the end.
        out: the run folder; the same call resumes it.
        stop_when: ends a dialogue once its messages meet this condition.

    Raises:
        TooManyFailures: the share of failures is above the limit; every dialogue still has a row.
        BudgetSpent: the budget is used up; the same call with a larger one resumes the run.
        ModelError: the key or a model's name is wrong.
        RunConflict, RunLocked, DiskFull: the folder cannot be used.
    """
    with _rare_garbage_collection():
        return run_async(_simulate(step, out, stop_when))


@contextmanager
def _rare_garbage_collection() -> Iterator[None]:
    """Run Python's garbage collector a tenth as often.

    Each collection scans the state of hundreds of waiting dialogues, which took a sixth of the CPU time of a reply.
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


async def _simulate(step: Simulate, out: Path, stop_when: StopWhen | None) -> SimulateResult:
    starts = _starts(step)
    given = [step.user, step.assistant, *([step.controller] if step.controller else [])]
    loaded = load_all(given, step.local, step.requests)
    models = _Models(loaded[0], loaded[1], loaded[2] if step.controller else None)
    step.budget.checked([model.id for model in loaded])
    settings = _run_settings(models, step, starts.hash) | ({"stop_when": True} if stop_when else {})
    async with open_stage(out, settings, loaded) as stage:
        run = _Run(models, stage, step, stop_when)
        return _finish(stage, await run.all(starts), step)


def _starts(step: Simulate) -> Starts:
    return Starts(step.seeds, step.seed_turns, step.assistant_system, step.repeat, step.kinds)


def _tutor_prompt(step: Simulate) -> TutorPrompt:
    return TutorPrompt.load(step.assistant_prompt, step.show_solution)


def _run_settings(models: _Models, step: Simulate, seeds: str | None) -> dict[str, Any]:
    """The settings that decide the dialogues; a run folder refuses a call with other values."""
    user, assistant, controller = models
    mode = user_mode(user, step.user_mode)
    plain = {"seed_turns", "rounds", "min_rounds", "ending", "redraws", "repeat", "seed"}
    settings = {
        "stage": "simulate",
        "user": {
            "model": identity(user),
            "mode": mode,
            "prompt": prompt_hash(mode),
            "sampling": step.user_sampling,
        },
        "assistant": {
            "model": identity(assistant),
            "system": step.assistant_system,
            "sampling": step.sampling,
        },
        "controller": controller and f"{identity(controller)} {CONTROLLER.hash()}",
        "seeds": seeds,
        "guards": guards.parse(step.guards),
        **step.model_dump(mode="json", include=plain),
    }
    tutor_prompt = _tutor_prompt(step)
    if tutor_prompt.prompt:
        shown = {"prompt": tutor_prompt.prompt.hash, "show_solution": tutor_prompt.show_solution}
        settings["assistant"] |= shown
    if step.kinds:
        settings["kinds"] = [f"{kind} {load_kind(kind).hash}" for kind in step.kinds]
    if step.user_turns is not None:
        settings["user_turns"] = step.user_turns
    return settings


class _Run:
    """The dialogues of one call."""

    def __init__(self, models: _Models, stage: Stage, step: Simulate, stop_when: StopWhen | None) -> None:
        self._sides = (Side(models.user, step.user_sampling), Side(models.assistant, step.sampling))
        self._rules = Rules(
            user_mode(models.user, step.user_mode),
            step.rounds,
            step.min_rounds,
            guards.parse(step.guards),
            step.redraws,
            step.ending,
            models.controller,
            _tutor_prompt(step),
            step.user_turns,
            stop_when,
        )
        self._step = step
        self._stage = stage
        self._turns = stage.journal("turns")
        self._unfinished = unfinished(self._turns, stage.rows)
        self._tallies = tally(stage.rows)
        self._spending = Spending(step.budget)
        self._started = time.monotonic()

    async def all(self, starts: Starts) -> SimulateResult:
        """Generate every pending dialogue."""
        n = self._step.n
        total = starts.total(n)
        pending = starts.take(n, fingerprint(self._stage.config), self._step.seed)
        keys = await run_pool(
            ((start.key, start) for start in pending),
            self._stage.rows,
            self._one,
            concurrency=min(self._step.requests.concurrency, total),
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
            usd=round(self._spending.usd, 6) if self._step.budget.prices else None,
        )


def _finish(stage: Stage, result: SimulateResult, step: Simulate) -> SimulateResult:
    total = result.dialogues + result.failed
    stage.finish({**result.json(), "run": None})
    faults = ", ".join(f"{count} by {fault}" for fault, count in sorted(result.faults.items()))
    limit = step.requests.max_failure_rate
    check_rate(result.failed, total, limit, f"dialogues ({faults})", first_error(stage.rows))
    return result


class StartTokens(NamedTuple):
    """The number of starts, and the total number of tokens that each side reads before the first generated message."""

    dialogues: int
    user: int
    assistant: int
    text: int
    """Tokens of the starts' own messages."""


def count_starts(step: Simulate) -> StartTokens:
    """The number and the tokens of a step's starts, at four characters per token; reads the corpus of seeds."""
    starts = _starts(step)
    served = isinstance(step.user, str) and step.user.startswith(_SERVED)
    prompted = step.user_mode == "prompted" or (step.user_mode is None and served)
    free_start = [Message(role=Role.SYSTEM, content=prompts.load("dyadic").text)] if served else []
    tutor_prompt = _tutor_prompt(step)
    user = assistant = text = 0
    for start in starts.take(step.n, "", step.seed):
        messages = start.conversation.messages
        seen = swapped(start.conversation, messages, step.ending == "force") if prompted else messages
        user += _tokens(seen or free_start)
        assistant += _tokens(tutor_prompt.apply(start.conversation.problem, messages))
        text += _tokens(messages)
    return StartTokens(starts.total(step.n), user, assistant, text)


def planned_requests(step: Simulate, starts: StartTokens) -> list[Ask]:
    """The requests to each side, if all rounds and tokens are used, no reply is rejected and no call fails."""
    turns = step.rounds + (step.ending == "force")  # of the user; a forced ending adds a goodbye
    user = Speaker(_name(step.user), turns, step.user_sampling.max_tokens, starts.user)
    assistant = Speaker(_name(step.assistant), step.rounds, step.sampling.max_tokens, starts.assistant)
    return taking_turns(starts.dialogues, 0, user, assistant)


def _name(model: str | ChatModel) -> str:
    return model if isinstance(model, str) else model.id


def _tokens(messages: Iterable[Message]) -> int:
    return sum(len(message.content) for message in messages) // CHARS_A_TOKEN
