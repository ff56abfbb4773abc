"""Several replies of one tutor to each dialogue, for a judge to score and DPO to learn from.

The tutor sees a system prompt (`prompts/tutor_socratic.md`, with the problem's statement and the student's attempt) and
the dialogue up to the student's last message. By default it does not see the misconception, the solution and the known
answer, as in practice; `show_solution` includes them, like the published Debugging prompts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from maieutic.core.budget import Budget, Spending
from maieutic.core.errors import EmptyCorpus, MaieuticError
from maieutic.core.messages import Conversation, Fault, Message, Reply, Role, Sampling, fingerprint
from maieutic.core.workers import Failed, fault_of, open_stage, run_pending
from maieutic.models import ChatModel, identity, with_problem
from maieutic.rollouts.episodes import Source
from maieutic.rollouts.tutor_prompt import TutorPrompt

TUTOR = Sampling(temperature=1.2, max_tokens=400)
"""As published in socratic-llm: 400 new tokens at temperature 1.2."""


class CandidatesResult(NamedTuple):
    """What the run folder holds, and what this call did."""

    prompts: int
    """Dialogues with candidates in the run folder."""
    failed: int
    """Dialogues that failed in this call."""
    skipped: int
    """Conversations without a user message, and repeated prompts."""
    truncated: int
    """Conversations that ended on the tutor: their last reply was dropped and generated anew."""
    replies: int
    """Replies generated in this call."""
    tokens: int
    """New tokens of this call."""
    seconds: float
    run: str


class _Prompt(NamedTuple):
    conversation: Conversation
    dialogue: tuple[Message, ...]
    """The conversation up to the student's last message."""
    messages: tuple[Message, ...]
    """The same as the tutor sees it."""
    position: int


def candidates(
    model: ChatModel,
    data: Path | str | Iterable[Conversation],
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
) -> CandidatesResult:
    """Generate `k` replies to each dialogue, into the run folder `out`.

    Args:
        model: the tutor; closed at the end.
        data: a corpus, or conversations. One that ends on the assistant is answered at its last user message.
        out: the run folder; the same call resumes it.
        k: replies per dialogue; reply i is sampled with the seed `sampling.seed + i`.
        sampling: how each reply is sampled.
        prompt: the tutor's system prompt, a prompt's name or a `.md` file; null for none.
        show_solution: include the misconception, the solution and the known answer in the prompt.
        limit: use only the first `limit` conversations.
        concurrency: dialogues at the same time.
        max_failure_rate: the share of failed dialogues above which the run fails.
        budget: what this call may spend.

    Raises:
        BudgetSpent, TooManyFailures, ModelError, RunConflict, RunLocked, DiskFull, MissingInput, EmptyCorpus.
    """
    budget = (budget or Budget()).checked([model.id])
    work = _Candidates(model, k, sampling, prompt, show_solution, limit, Spending(budget))
    return asyncio.run(work.run(Source(data), Path(out), concurrency, max_failure_rate))


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
        self._tutor_prompt = TutorPrompt.load(prompt, show_solution)
        self._skipped = self._truncated = self._tokens = 0

    async def run(
        self, source: Source, out: Path, concurrency: int, max_failure_rate: float
    ) -> CandidatesResult:
        started = time.monotonic()
        prompt = self._tutor_prompt.prompt
        settings = {
            "stage": "candidates",
            "model": identity(self._model),
            "prompt": prompt.hash if prompt else None,
            "show_solution": self._tutor_prompt.show_solution,
            "sampling": self._sampling,
            "k": self._k,
            "data": source.hash,
        }
        async with open_stage(out, settings, [self._model]) as stage:
            worked = await run_pending(
                stage,
                self._pending(source.read()),
                self._row,
                self._failure_row,
                concurrency=concurrency,
                max_failure_rate=max_failure_rate,
                total=min(source.count, self._limit or source.count),
                label="candidates",
                spending=self._spending,
            )
            if not worked.rows:
                raise EmptyCorpus("no conversation has a user message", "Give dialogues with a user message.")
            counts = {"failed": worked.failed, "skipped": self._skipped, "truncated": self._truncated}
            stage.finish(counts)
        return CandidatesResult(
            worked.rows,
            **counts,
            replies=self._spending.replies,
            tokens=self._tokens,
            seconds=round(time.monotonic() - started, 3),
            run=str(out),
        )

    def _pending(self, conversations: Iterable[Conversation]) -> Iterator[tuple[str, _Prompt]]:
        known: set[str] = set()
        for index, conversation in enumerate(conversations):
            if self._limit is not None and index >= self._limit:
                return
            messages = conversation.messages
            users = [place for place, message in enumerate(messages) if message.role == Role.USER]
            if not users:
                self._skipped += 1
                continue
            dialogue = messages[: users[-1] + 1]
            seen = self._tutor_prompt.apply(conversation.problem, dialogue)
            prompt = _Prompt(conversation, dialogue, seen, index)
            key = self._key(prompt)
            self._skipped += key in known
            self._truncated += len(dialogue) < len(messages) and key not in known
            known.add(key)
            yield key, prompt

    def _key(self, prompt: _Prompt) -> str:
        problem = prompt.conversation.problem
        return fingerprint(
            {
                "messages": [[message.role, message.content] for message in prompt.messages],
                "problem": problem.model_dump() if problem else None,
                "model": self._model.id,
                "sampling": self._sampling.model_dump(),
                "k": self._k,
            }
        )

    async def _row(self, prompt: _Prompt) -> dict[str, Any]:
        seeds = range(self._sampling.seed, self._sampling.seed + self._k)
        draws = [self._sampling.model_copy(update={"seed": seed}) for seed in seeds]
        async with asyncio.TaskGroup() as group:
            model = with_problem(self._model, prompt.conversation.problem)
            tasks = [group.create_task(_caught(model.reply(prompt.messages, draw))) for draw in draws]
        results = [task.result() for task in tasks]
        replies = [result for result in results if isinstance(result, Reply)]
        for reply in replies:  # also where another reply of this prompt failed
            self._spending.charge(reply)
        if error := next((result for result in results if isinstance(result, MaieuticError)), None):
            raise error
        self._tokens += sum(reply.completion_tokens for reply in replies)
        return self._make_row(prompt, replies)

    def _failure_row(self, prompt: _Prompt, error: Failed) -> dict[str, Any]:
        fault = fault_of(error, Fault.ASSISTANT_MODEL)
        return {**self._make_row(prompt, []), "fault": fault, "error": error.what}

    def _make_row(self, prompt: _Prompt, replies: list[Reply]) -> dict[str, Any]:
        conversation = prompt.conversation
        problem = conversation.problem
        return {
            "id": conversation.id,
            "index": prompt.position,
            "messages": [message.model_dump(mode="json") for message in prompt.messages],
            **self._student_fields(prompt),
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

    def _student_fields(self, prompt: _Prompt) -> dict[str, Any]:
        """What a student model needs to continue from here: its conditioning, and the dialogue without the prompt."""
        conversation = prompt.conversation
        known = {name: value for name in ("intent", "profile") if (value := getattr(conversation, name))}
        if self._tutor_prompt.prompt is None:
            return known
        return {**known, "dialogue": [message.model_dump(mode="json") for message in prompt.dialogue]}


async def _caught(call: Any) -> Reply | MaieuticError:
    """The reply, or the error as a value, so that a failed reply does not cancel the others."""
    try:
        reply: Reply = await call
    except MaieuticError as error:
        return error
    return reply
