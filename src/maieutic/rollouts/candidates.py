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

from maieutic.core.budget import Spending
from maieutic.core.errors import EmptyCorpus, MaieuticError
from maieutic.core.messages import Conversation, Fault, Message, Reply, Role, fingerprint
from maieutic.core.workers import Failed, fault_of, open_stage, run_async, run_pending
from maieutic.models import ChatModel, identity, load_all, with_problem
from maieutic.rollouts.episodes import Source
from maieutic.rollouts.steps import Candidates, CandidatesResult
from maieutic.rollouts.tutor_prompt import TutorPrompt


class _Prompt(NamedTuple):
    conversation: Conversation
    dialogue: tuple[Message, ...]
    """The conversation up to the student's last message."""
    messages: tuple[Message, ...]
    """The same conversation as the tutor sees it."""
    position: int


def generate_candidates(step: Candidates, out: Path) -> CandidatesResult:
    """Generate the replies of a step into the run folder `out`; the same call resumes it.

    Raises:
        BudgetSpent, TooManyFailures, ModelError, RunConflict, RunLocked, DiskFull, MissingInput, EmptyCorpus.
    """
    connections = step.requests.model_copy(update={"concurrency": step.requests.concurrency * step.k})
    [model] = load_all([step.model], step.local, connections)
    step.budget.checked([model.id])
    return run_async(_Candidates(step, model).run(out))


class _Candidates:
    def __init__(self, step: Candidates, model: ChatModel) -> None:
        self._step, self._model = step, model
        self._spending = Spending(step.budget)
        self._tutor_prompt = TutorPrompt.load(step.prompt, step.show_solution)
        self._skipped = self._truncated = self._tokens = 0

    async def run(self, out: Path) -> CandidatesResult:
        started, step, source = time.monotonic(), self._step, Source(self._step.data)
        prompt = self._tutor_prompt.prompt
        settings = {
            "stage": "candidates",
            "model": identity(self._model),
            "prompt": prompt.hash if prompt else None,
            "show_solution": step.show_solution,
            "sampling": step.sampling,
            "k": step.k,
            "data": source.hash,
        }
        async with open_stage(out, settings, [self._model]) as stage:
            worked = await run_pending(
                stage,
                self._pending(source.read()),
                self._row,
                self._failure_row,
                concurrency=step.requests.concurrency,
                max_failure_rate=step.requests.max_failure_rate,
                total=min(source.count, step.limit or source.count),
                label="candidates",
                spending=self._spending,
            )
            if not worked.rows:
                raise EmptyCorpus("no conversation has a user message", "Give dialogues with a user message.")
            counts = {"failed": worked.failed, "skipped": self._skipped, "truncated": self._truncated}
            stage.finish(counts)
        return CandidatesResult(
            prompts=worked.rows,
            **counts,
            replies=self._spending.replies,
            tokens=self._tokens,
            seconds=round(time.monotonic() - started, 3),
            run=str(out),
        )

    def _pending(self, conversations: Iterable[Conversation]) -> Iterator[tuple[str, _Prompt]]:
        known: set[str] = set()
        for index, conversation in enumerate(conversations):
            if self._step.limit is not None and index >= self._step.limit:
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
                "sampling": self._step.sampling.model_dump(),
                "k": self._step.k,
            }
        )

    async def _row(self, prompt: _Prompt) -> dict[str, Any]:
        seeds = range(self._step.sampling.seed, self._step.sampling.seed + self._step.k)
        draws = [self._step.sampling.model_copy(update={"seed": seed}) for seed in seeds]
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
            "sampling": self._step.sampling.model_dump(),
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
