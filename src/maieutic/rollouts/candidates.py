"""Several replies of one tutor to each dialogue: what a judge compares, and DPO learns from.

The tutor sees a system text (`prompts/tutor_socratic.md`, with the problem's statement and the student's attempt)
and the dialogue up to the student's last turn. The misconception, the solution and the known answer are hidden by
default, as they are when the tutor is in use; `show_solution` puts them in, as the published Debugging prompts do.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from maieutic.core.budget import Budget, Spending
from maieutic.core.errors import EmptyCorpus, MaieuticError
from maieutic.core.messages import Conversation, Fault, Message, Reply, Role, Sampling, fingerprint
from maieutic.core.store import Stage
from maieutic.core.workers import Failed, fault_of, run_pending
from maieutic.models import ChatModel, identity, with_problem
from maieutic.rollouts.tutor_prompt import Brief

TUTOR = Sampling(temperature=1.2, max_tokens=400)
"""As published (socratic-llm): 400 new tokens at temperature 1.2."""


class Candidates(NamedTuple):
    """What the stage holds, and what this call did."""

    prompts: int
    """Dialogues with candidates, in the whole stage."""
    failed: int
    """Dialogues that failed in this call."""
    skipped: int
    """Conversations without a student's turn, and repeats of the same prompt."""
    cut: int
    """Conversations that ended on the tutor and were answered from the student's last turn."""
    replies: int
    """Replies asked for in this call."""
    tokens: int
    """New tokens of this call."""
    seconds: float
    run: str


class _Seed(NamedTuple):
    conversation: Conversation
    turns: tuple[Message, ...]
    """The dialogue up to the student's last turn."""
    messages: tuple[Message, ...]
    """The same as the tutor sees it."""
    place: int


def candidates(
    model: ChatModel,
    seeds: Path | str | Iterable[Conversation],
    out: Path | str,
    *,
    k: int = 5,
    sampling: Sampling = TUTOR,
    prompt: str | None = "tutor_socratic",
    show_solution: bool = False,
    limit: int | None = None,
    concurrency: int = 32,
    max_failure_rate: float = 0.05,
    budget: Budget | None = None,
) -> Candidates:
    """Ask the model for `k` replies to each seed, into the stage folder `out`.

    Args:
        model: closed at the end.
        seeds: a corpus, or conversations. One that ends on the assistant is answered from its last user turn.
        out: the stage's folder; the same call goes on in it.
        k: replies a dialogue; reply i is drawn with the seed `sampling.seed + i`.
        sampling: how each is drawn.
        prompt: the tutor's system text, a prompt's name or a `.md` file; null for none.
        show_solution: let the tutor see the misconception, the solution and the known answer.
        limit: only the first so many conversations.
        concurrency: dialogues under way at once.
        max_failure_rate: the share of failed dialogues past which the run ends as failed.
        budget: what this call may spend.

    Raises:
        BudgetSpent, TooManyFailures, ModelError, RunConflict, RunLocked, DiskFull, MissingInput, EmptyCorpus.
    """
    budget = (budget or Budget()).checked([model.id])
    work = _Candidates(model, k, sampling, prompt, show_solution, limit, Spending(budget))
    return asyncio.run(work.run(seeds, Path(out), concurrency, max_failure_rate))


class _Candidates:
    def __init__(
        self,
        model: ChatModel,
        k: int,
        sampling: Sampling,
        prompt: str | None,
        show_solution: bool,
        limit: int | None,
        spending: Spending,
    ) -> None:
        self._spending = spending
        self._model, self._k, self._sampling, self._limit = model, k, sampling, limit
        self._brief = Brief.named(prompt, show_solution)
        self._skipped = self._cut = self._tokens = 0

    async def run(
        self, seeds: Path | str | Iterable[Conversation], out: Path, concurrency: int, max_failure_rate: float
    ) -> Candidates:
        started = time.monotonic()
        listed = None if isinstance(seeds, (Path, str)) else list(seeds)
        count, data = corpus_hash(_corpus(seeds) if listed is None else listed)
        config = {
            "stage": "candidates",
            "model": identity(self._model),
            "prompt": self._brief.prompt.hash if self._brief.prompt else None,
            "show_solution": self._brief.show_solution,
            "sampling": self._sampling,
            "k": self._k,
            "data": data,
        }
        try:
            with Stage(out, config) as stage:
                await self._model.check()
                worked = await run_pending(
                    stage,
                    self._owed(_corpus(seeds, tell=False) if listed is None else listed),
                    self._row,
                    self._given_up,
                    concurrency=concurrency,
                    max_failure_rate=max_failure_rate,
                    total=min(count, self._limit or count),
                    label="candidates",
                    spending=self._spending,
                )
                if not worked.rows:
                    raise EmptyCorpus(
                        "no conversation holds a student's turn", "Give dialogues with a user's turn."
                    )
                counts = {"failed": worked.failed, "skipped": self._skipped, "cut": self._cut}
                stage.finish(counts)
        finally:
            await self._model.close()
        seconds = round(time.monotonic() - started, 3)
        return Candidates(
            worked.rows,
            **counts,
            replies=self._spending.replies,
            tokens=self._tokens,
            seconds=seconds,
            run=str(out),
        )

    def _owed(self, seeds: Iterable[Conversation]) -> Iterator[tuple[str, _Seed]]:
        known: set[str] = set()
        for index, conversation in enumerate(seeds):
            if self._limit is not None and index >= self._limit:
                return
            turns = conversation.messages
            last = max((place for place, turn in enumerate(turns) if turn.role == Role.USER), default=None)
            if last is None:
                self._skipped += 1
                continue
            said = turns[: last + 1]
            seed = _Seed(conversation, said, self._brief.frame(conversation.problem, said), index)
            key = self._key(seed)
            self._skipped += key in known
            self._cut += last + 1 < len(turns) and key not in known
            known.add(key)
            yield key, seed

    def _key(self, seed: _Seed) -> str:
        problem = seed.conversation.problem
        return fingerprint(
            {
                "messages": [[turn.role, turn.content] for turn in seed.messages],
                "problem": problem.model_dump() if problem else None,
                "model": self._model.id,
                "sampling": self._sampling.model_dump(),
                "k": self._k,
            }
        )

    async def _row(self, seed: _Seed) -> dict[str, Any]:
        draws = [
            self._sampling.model_copy(update={"seed": self._sampling.seed + place})
            for place in range(self._k)
        ]
        async with asyncio.TaskGroup() as group:
            model = with_problem(self._model, seed.conversation.problem)
            asked = [group.create_task(_caught(model.reply(seed.messages, draw))) for draw in draws]
        outcomes = [task.result() for task in asked]
        replies = [got for got in outcomes if isinstance(got, Reply)]
        for reply in replies:  # paid for also where a sibling failed
            self._spending.charge(reply)
        if failed := next((got for got in outcomes if isinstance(got, MaieuticError)), None):
            raise failed
        self._tokens += sum(reply.completion_tokens for reply in replies)
        return self._shape(seed, replies)

    def _given_up(self, seed: _Seed, error: Failed) -> dict[str, Any]:
        fault = fault_of(error, Fault.ASSISTANT_MODEL)
        return {**self._shape(seed, []), "fault": fault, "error": error.what}

    def _shape(self, seed: _Seed, replies: list[Reply]) -> dict[str, Any]:
        conversation = seed.conversation
        problem = conversation.problem
        return {
            "id": conversation.id,
            "index": seed.place,
            "messages": [turn.model_dump(mode="json") for turn in seed.messages],
            **self._beside(seed),
            "problem": problem.model_dump(exclude_none=True) if problem else None,
            "source": conversation.source,
            "licence": conversation.licence,
            "candidates": [
                reply.model_dump(mode="json", include={"text", "finish", "completion_tokens"})
                for reply in replies
            ],
            "model": self._model.id,
            "sampling": self._sampling.model_dump(),
        }

    def _beside(self, seed: _Seed) -> dict[str, Any]:
        """What a student who goes on from here needs, and must not see: the dialogue without the tutor's brief."""
        talk = seed.conversation
        known = {name: value for name in ("intent", "profile") if (value := getattr(talk, name))}
        if self._brief.prompt is None:
            return known
        return {**known, "dialogue": [turn.model_dump(mode="json") for turn in seed.turns]}


async def _caught(call: Any) -> Reply | MaieuticError:
    """The reply, or the error as a value, so that one failed draw does not cancel the others mid-flight."""
    try:
        reply: Reply = await call
    except MaieuticError as error:
        return error
    return reply


def corpus_hash(conversations: Iterable[Conversation]) -> tuple[int, str]:
    """How many conversations there are, and a hash of them all: a stage belongs to its data."""
    digest, count = sha256(), 0
    for conversation in conversations:
        digest.update(fingerprint(conversation.row()).encode())
        count += 1
    return count, digest.hexdigest()[:32]


def _corpus(path: Any, tell: bool = True) -> Iterator[Conversation]:
    """The conversations; `tell` names broken rows on standard error, which the second reading need not."""
    from maieutic.core.json_rows import BadRows
    from maieutic.data.corpus import read_corpus

    return iter(read_corpus(Path(path), on_bad=None if tell else BadRows()))
