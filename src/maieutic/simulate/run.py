"""Many dialogues at once, none lost and none paid for twice.

A run folder holds a row a dialogue (`rows.jsonl`, a corpus that trains as it is), and the turns of dialogues still
going on (`turns.jsonl`). The same command goes on: finished dialogues are not asked again, and the others continue
from their last finished turn. Seeds stream, and nothing in memory grows with the number of dialogues but their keys.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from maieutic.errors import BudgetSpent, EmptyCorpus, TooManyFailures
from maieutic.models import ChatModel, identity
from maieutic.progress import Progress, track
from maieutic.simulate import guards
from maieutic.simulate.dialogue import Dialogue, Outcome, Rules, Side, Spoken
from maieutic.simulate.users import UserMode, prompt_hash, user_mode
from maieutic.store import Journal, Stage
from maieutic.types import Conversation, Record, Reply, Role, Sampling, Turn, fingerprint


class SimulateConfig(Record):
    """How to simulate; what is here decides the dialogues, except for the last three."""

    seeds: Path | None = None
    """A corpus whose conversations are starts; without one, the user begins freely."""
    seed_turns: int | None = Field(None, ge=0)
    """Keep only so many turns of each seed: 1 for its first question, 2 for its first round."""
    user_mode: UserMode | None = None
    """`trained` or `prompted`; by default what the user's checkpoint says."""
    user: Sampling = Sampling(temperature=1.0, top_p=0.8, max_tokens=256)
    assistant: Sampling = Sampling(temperature=0.7, max_tokens=512)
    assistant_system: str | None = None
    """A system turn put before dialogues that have none; both sides see it only where the user is trained."""
    rounds: int = Field(10, ge=1)
    """Rounds at most: an assistant's reply ends a round, those of the start counted."""
    min_rounds: int = Field(1, ge=0)
    """The user may not end before so many."""
    guards: str = "default"
    """`default`, `none`, or a list such as `empty,repeat`."""
    redraws: int = Field(3, ge=0)
    """Draws a guard may throw away for one turn."""
    seed: int = 0
    concurrency: int = Field(64, ge=1)
    """Dialogues under way at once."""
    max_failure_rate: float = Field(0.05, ge=0, le=1)
    """Failed dialogues, as a share, past which the run ends as failed."""
    budget_tokens: int | None = Field(None, ge=1)
    """Stop cleanly once this call has used so many tokens, prompts counted."""


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
    tokens: int
    """Tokens this call used, prompts counted."""


def simulate(
    user: ChatModel,
    assistant: ChatModel,
    out: Path | str,
    n: int | None = None,
    config: SimulateConfig | None = None,
) -> Summary:
    """Simulate `n` dialogues into the run folder `out` (default: one for each seed).

    Raises:
        TooManyFailures: past `max_failure_rate`; every dialogue is a row all the same.
        BudgetSpent: the token budget is used up; the same command with a larger one goes on.
        ModelError: the key, or a model's name, is wrong.
        RunConflict, RunLocked, DiskFull: about the folder.
    """
    return asyncio.run(_simulate(user, assistant, Path(out), n, config or SimulateConfig()))


async def _simulate(
    user: ChatModel, assistant: ChatModel, out: Path, n: int | None, config: SimulateConfig
) -> Summary:
    try:
        with Stage(out, _identity(user, assistant, config)) as stage:
            await asyncio.gather(user.check(), assistant.check())
            run = _Run(user, assistant, stage, config)
            summary = await run.all(n)
            return _close(stage, summary, config)
    finally:
        await asyncio.gather(user.close(), assistant.close())


def _identity(user: ChatModel, assistant: ChatModel, config: SimulateConfig) -> dict[str, Any]:
    """What decides the dialogues: a second call that differs in it is another run."""
    mode = user_mode(user, config.user_mode)
    return {
        "stage": "simulate",
        "user": {"model": identity(user), "mode": mode, "prompt": prompt_hash(mode), "sampling": config.user},
        "assistant": {
            "model": identity(assistant),
            "system": config.assistant_system,
            "sampling": config.assistant,
        },
        "seeds": _corpus_hash(config.seeds),
        "guards": guards.parse(config.guards),
        **config.model_dump(mode="json", include={"seed_turns", "rounds", "min_rounds", "redraws", "seed"}),
    }


def _corpus_hash(path: Path | None) -> str | None:
    from maieutic.data.corpus import read_corpus

    if path is None:
        return None
    digest = hashlib.sha256()
    for conversation in read_corpus(path):
        digest.update(fingerprint(conversation.row()).encode())
    return digest.hexdigest()[:32]


class _Start(NamedTuple):
    """A dialogue to come."""

    key: str
    """Hashes all that decides it."""
    draws: str
    """What its random numbers come from: not the models' names, so that a folder's path changes nothing."""
    conversation: Conversation


class _Run:
    """The dialogues of one call."""

    def __init__(self, user: ChatModel, assistant: ChatModel, stage: Stage, config: SimulateConfig) -> None:
        self._sides = (Side(user, config.user), Side(assistant, config.assistant))
        self._mode = user_mode(user, config.user_mode)
        self._rules = Rules(
            self._mode, config.rounds, config.min_rounds, guards.parse(config.guards), config.redraws
        )
        self._config = config
        self._stage = stage
        self._identity = fingerprint(stage.config)
        self._turns = stage.journal("turns")
        self._partial = _partial_dialogues(self._turns, stage.rows)
        self._tallies = _tally(stage.rows)
        self._order: dict[str, int] = {}
        self._replies = 0
        self._tokens = 0

    async def all(self, n: int | None) -> Summary:
        """Every owed dialogue."""
        started = time.monotonic()
        starts = self._starts(n)
        with track(n, "simulate") as progress:
            workers = [
                asyncio.create_task(self._work(starts, progress))
                for _ in range(min(self._config.concurrency, n or self._config.concurrency))
            ]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
        self._stage.rows.settle(self._order)
        return self._summary(time.monotonic() - started)

    async def _work(self, starts: Iterator[_Start], progress: Progress) -> None:
        for start in starts:
            self._order[start.key] = len(self._order)
            if start.key not in self._stage.rows:
                await self._one(*start)
            progress.advance(note=f"{self._replies} replies, {self._tokens} tokens")

    async def _one(self, key: str, draws: str, start: Conversation) -> None:
        def keep(index: int, spoken: Spoken) -> None:
            row = {
                "dialogue": key,
                "index": index,
                "turn": spoken.turn.model_dump(mode="json"),
                "info": spoken.info,
            }
            self._turns.append(f"{key}:{index}", row)
            self._check_budget()

        dialogue = Dialogue(
            draws, start, *self._sides, self._rules, self._partial.pop(key, []), keep, self._count
        )
        outcome = await dialogue.run()
        tried = self._tallies.tries[key]
        self._tallies.add(key, outcome)
        row = _row(key, start, outcome, dialogue.end_info)
        self._stage.rows.append(f"{key}:failed:{tried}" if outcome.failure else key, row)

    def _count(self, reply: Reply) -> None:
        self._replies += 1
        self._tokens += reply.prompt_tokens + reply.completion_tokens

    def _check_budget(self) -> None:
        budget = self._config.budget_tokens
        if budget is not None and self._tokens >= budget:
            raise BudgetSpent(
                f"the budget of {budget} tokens is used up",
                "Run the same command with a larger one: it goes on.",
            )

    def _starts(self, n: int | None) -> Iterator[_Start]:
        """Starts, streaming; the seeds are gone through again where `n` asks for more."""
        for number, start in enumerate(self._seeds(once=n is None)):
            if n is not None and number >= n:
                return
            said = [[turn.role, turn.content] for turn in start.messages]
            draws = fingerprint([self._config.seed, number, said])
            yield _Start(fingerprint([self._identity, number, start.row()]), draws, start)

    def _seeds(self, once: bool) -> Iterator[Conversation]:
        from maieutic.data.corpus import read_corpus
        from maieutic.data.reading import BadRows

        path = self._config.seeds
        free = [Conversation(id="free", messages=())]
        for _ in range(1) if once else count():
            empty = True
            # Broken rows were named when the seeds were hashed.
            for seed in free if path is None else read_corpus(path, on_bad=BadRows()):
                empty = False
                yield self._framed(seed)
            if empty:
                raise EmptyCorpus(f"{path} holds no seeds", "Give a corpus with conversations.")

    def _framed(self, seed: Conversation) -> Conversation:
        """A seed cut to its first turns and given the assistant's system text."""
        system = [turn for turn in seed.messages[:1] if turn.role == Role.SYSTEM]
        turns = list(seed.messages[len(system) :])
        if self._config.seed_turns is not None:
            turns = turns[: self._config.seed_turns]
        if not system and self._config.assistant_system:
            system = [Turn(role=Role.SYSTEM, content=self._config.assistant_system)]
        return seed.model_copy(update={"messages": (*system, *turns), "ended": False})

    def _summary(self, seconds: float) -> Summary:
        tallies = self._tallies
        return Summary(
            dialogues=sum(tallies.ends.values()),
            failed=len(tallies.failed),
            replies=self._replies,
            seconds=round(seconds, 3),
            run=str(self._stage.folder),
            ends=dict(tallies.ends),
            faults=dict(Counter(tallies.failed.values())),
            guards=dict(tallies.guards),
            tokens=self._tokens,
        )


class _Tallies:
    """What the rows hold, counted as they come."""

    def __init__(self) -> None:
        self.ends: Counter[str] = Counter()
        self.guards: Counter[str] = Counter()
        self.failed: dict[str, str] = {}
        self.tries: Counter[str] = Counter()

    def add(self, key: str, outcome: Outcome) -> None:
        for spoken in outcome.spoken:
            self.guards.update(draw["guard"] for draw in spoken.info.get("redrawn", ()))
        self._settle(key, outcome.end and outcome.end.value, outcome.failure and outcome.failure.fault.value)

    def add_row(self, row: dict[str, Any]) -> None:
        meta = row.get("meta", {})
        for info in meta.get("turns", {}).values():
            self.guards.update(draw["guard"] for draw in info.get("redrawn", ()))
        self._settle(meta["dialogue"], meta.get("end"), row.get("failure", {}).get("fault"))

    def _settle(self, key: str, end: str | None, fault: str | None) -> None:
        self.tries[key] += fault is not None
        if fault is not None:
            self.failed[key] = fault
        elif end is not None:
            self.failed.pop(key, None)
            self.ends[end] += 1


def _tally(rows: Journal) -> _Tallies:
    tallies = _Tallies()
    for row in rows.rows():
        tallies.add_row(row)
    return tallies


def _partial_dialogues(turns: Journal, rows: Journal) -> dict[str, list[Spoken]]:
    """The turns already spoken in dialogues that are not finished."""
    partial: dict[str, list[Spoken]] = {}
    for row in turns.rows():
        if row["dialogue"] not in rows:
            spoken = partial.setdefault(row["dialogue"], [])
            if row["index"] == len(spoken):
                spoken.append(Spoken(Turn.model_validate(row["turn"]), row["info"]))
    return partial


def _row(key: str, start: Conversation, outcome: Outcome, end_info: dict[str, Any] | None) -> dict[str, Any]:
    """A dialogue as a corpus row: the start's own fields, the turns, and in `meta` how each came about."""
    first = len(start.messages)
    infos = {str(first + index): spoken.info for index, spoken in enumerate(outcome.spoken)}
    if end_info:
        infos["end"] = end_info
    meta = {"seed": start.id, "dialogue": key, "end": outcome.end, "turns": infos}
    whole = start.model_copy(
        update={
            "id": key[:16],
            "messages": (*start.messages, *(spoken.turn for spoken in outcome.spoken)),
            "ended": outcome.end == "end",
            "source": "maieutic-simulate",
            "meta": meta,
        }
    )
    row = whole.row()
    return {**row, "failure": outcome.failure._asdict()} if outcome.failure else row


def _close(stage: Stage, summary: Summary, config: SimulateConfig) -> Summary:
    total = summary.dialogues + summary.failed
    stage.finish({**summary._asdict(), "run": None})
    if total and summary.failed / total > config.max_failure_rate:
        worst = ", ".join(f"{count} by {fault}" for fault, count in sorted(summary.faults.items()))
        first = _first_error(stage.rows)
        raise TooManyFailures(
            f"{summary.failed} of {total} dialogues failed ({worst}; the first: {first})",
            "Mend the cause and run the same command: only those are asked again. Or raise --max-failure-rate.",
        )
    return summary


def _first_error(rows: Journal) -> str:
    """The words of the first failure that no later call has mended."""
    failed = (row for row in rows.rows() if "failure" in row and row["meta"]["dialogue"] not in rows)
    return next((str(row["failure"]["error"]) for row in failed), "")
