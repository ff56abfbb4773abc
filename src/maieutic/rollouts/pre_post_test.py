"""Test the student alone, before or after a dialogue: it answers the problem several times.

A neutral assistant message asks for the answer (`prompts/attempt.md`; another prompt can be given), and the student's
next message is the answer: correct where it states the known answer. *Before* sees the dialogue's start only, *after*
sees the whole dialogue. The difference of the two shares of correct answers is delta solve, the mean accuracy after
minus before. Protocol: PedagogicalRL, 8 answers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from maieutic.checks.outcomes import States, is_known, solves
from maieutic.checks.turns import states_answer
from maieutic.core import prompts
from maieutic.core.budget import Spending
from maieutic.core.errors import EmptyCorpus
from maieutic.core.messages import Conversation, Fault, Finish, Message, Role, fingerprint
from maieutic.core.rows import PrePostRow, read_step
from maieutic.core.workers import Failed, fault_of, open_stage, run_async, run_pending
from maieutic.data.corpus import read_corpus
from maieutic.models import ChatModel, identity, load_all
from maieutic.rollouts.steps import PrePostTest, PrePostTestResult
from maieutic.rollouts.users import next_user_message, prompt_hash, user_mode


def run_test(step: PrePostTest, out: Path) -> PrePostTestResult:
    """Let the student answer at each start or after each dialogue; the same call resumes the run folder `out`.

    Dialogues without a known answer are skipped.

    Raises:
        BudgetSpent, TooManyFailures, ModelError, RunConflict, RunLocked, DiskFull, MissingInput, EmptyCorpus.
    """
    [model] = load_all([step.model], step.local, step.requests)
    step.budget.checked([model.id])
    is_correct = solves if step.run_code else None
    conversations = read_corpus(step.data) if isinstance(step.data, Path) else step.data
    known = [conversation for conversation in conversations if is_known(conversation.problem, is_correct)]
    return run_async(_PrePostTest(step, model, is_correct or states_answer).run(known, out))


class _PrePostTest:
    def __init__(self, step: PrePostTest, model: ChatModel, is_correct: States) -> None:
        self._step, self._model, self._is_correct = step, model, is_correct
        self._mode = user_mode(model, step.user_mode)
        self._prompt, self._spending = prompts.load(step.prompt), Spending(step.budget)

    async def run(self, conversations: list[Conversation], out: Path) -> PrePostTestResult:
        started, step = time.monotonic(), self._step
        async with open_stage(out, self._run_settings(), [self._model]) as stage:
            worked = await run_pending(
                stage,
                self._pending(conversations),
                self._row,
                self._failure_row,
                concurrency=step.requests.concurrency,
                max_failure_rate=step.requests.max_failure_rate,
                total=len(conversations),
                label=f"test {step.when}",
                spending=self._spending,
            )
            if not worked.rows:
                raise EmptyCorpus("no dialogue has a known answer", "Seed the dialogues with problems.")
            correct = [answer["correct"] for row in stage.rows.rows() for answer in row["answers"]]
            share = sum(correct) / len(correct) if correct else None
            stage.finish({"failed": worked.failed, "correct": share, "when": step.when})
        return PrePostTestResult(
            tested=worked.rows,
            failed=worked.failed,
            correct=share,
            replies=self._spending.replies,
            tokens=self._spending.tokens,
            usd=round(self._spending.usd, 6) or None,
            seconds=round(time.monotonic() - started, 3),
            run=str(out),
        )

    def _run_settings(self) -> dict[str, Any]:
        """The settings without the dialogues: a later call may have more dialogues, and row keys include them."""
        return {
            "stage": "pre-post-test",
            "when": self._step.when,
            "model": identity(self._model),
            "mode": self._mode,
            "user_prompt": prompt_hash(self._mode),
            "prompt": self._prompt.hash,
            "sampling": self._step.sampling,
            "n": self._step.n,
        }

    def _pending(self, conversations: Iterable[Conversation]) -> Iterator[tuple[str, Conversation]]:
        for conversation in conversations:
            content = (
                [[message.role, message.content] for message in conversation.messages]
                if self._step.when == "after"
                else None
            )
            yield fingerprint([self._step.when, self._subject(conversation), content]), conversation

    def _subject(self, conversation: Conversation) -> str:
        return start_key(conversation) if self._step.when == "before" else conversation.id

    async def _row(self, conversation: Conversation) -> dict[str, Any]:
        shown = start_messages(conversation) if self._step.when == "before" else conversation.messages
        messages = with_question(shown, self._prompt.text)
        calls = [self._answer(conversation, messages, index) for index in range(self._step.n)]
        # return_exceptions: an answer that fails does not cancel the others
        answers = await asyncio.gather(*calls, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return {**self._make_row(conversation), "answers": answers}

    async def _answer(
        self, conversation: Conversation, messages: tuple[Message, ...], index: int
    ) -> dict[str, Any]:
        drawn = fingerprint([self._step.when, self._subject(conversation), index])
        seed = int(drawn[:7], 16) + self._step.sampling.seed
        sampling = self._step.sampling.model_copy(update={"seed": seed})
        reply = await next_user_message(
            self._model, self._mode, conversation, messages, sampling, may_end=False
        )
        self._spending.charge(reply)
        assert conversation.problem
        return {
            "text": reply.text,
            "correct": self._is_correct(reply.text, conversation.problem),
            "seed": seed,
            **({"finish": reply.finish} if reply.finish != Finish.STOP else {}),
        }

    def _failure_row(self, conversation: Conversation, error: Failed) -> dict[str, Any]:
        return {
            **self._make_row(conversation),
            "answers": [],
            "fault": fault_of(error, Fault.USER_MODEL),
            "error": error.what,
        }

    def _make_row(self, conversation: Conversation) -> dict[str, Any]:
        return {
            "subject": self._subject(conversation),
            "seed": str(conversation.meta.get("seed", conversation.id)),
            "when": self._step.when,
            "model": self._model.id,
            "mode": self._mode,
            "prompt": self._prompt.hash,
            "sampling": self._step.sampling.model_dump(),
        }


def with_question(messages: Iterable[Message], question: str) -> tuple[Message, ...]:
    """The messages and the assistant's question; if the assistant spoke last, its message is extended by it."""
    shown = tuple(messages)
    if shown and shown[-1].role == Role.ASSISTANT:
        question, shown = f"{shown[-1].content}\n\n{question}", shown[:-1]
    return (*shown, Message(role=Role.ASSISTANT, content=question))


class SolveRates(NamedTuple):
    """Shares of correct answers."""

    before: dict[str, float]
    """By `start_key`."""
    after: dict[str, float]
    """By the dialogue's id."""

    def metrics(self, conversations: Sequence[Conversation]) -> list[dict[str, tuple[float, float]]]:
        """For each dialogue its metrics, as numerator and denominator; empty where it was not tested."""
        found: list[dict[str, tuple[float, float]]] = []
        for conversation in conversations:
            before = self.before.get(start_key(conversation))
            after = self.after.get(conversation.id)
            gain = None if before is None or after is None else after - before
            values = {"solve_before": before, "solve_after": after, "delta_solve": gain}
            found.append({name: (value, 1.0) for name, value in values.items() if value is not None})
        return found


def start_key(conversation: Conversation) -> str:
    """A hash of a dialogue's start: its problem, profile and messages. The same for every tutor that continues it."""
    problem = conversation.problem
    messages = start_messages(conversation)
    return fingerprint(
        [
            problem.model_dump(exclude_none=True) if problem else None,
            conversation.profile,
            [[message.role, message.content] for message in messages],
        ]
    )


def start_messages(conversation: Conversation) -> tuple[Message, ...]:
    """The messages before the first generated one."""
    generated = [int(index) for index in conversation.meta.get("turns", {}) if index.isdigit()]
    return conversation.messages[: min(generated, default=len(conversation.messages))]


def load_solve_rates(before: Path | str | None, after: Path | str | None) -> SolveRates | None:
    """The shares of correct answers of two pre/post tests; null where neither is given."""
    if before is None and after is None:
        return None
    return SolveRates(_rates(before), _rates(after))


def _rates(stage: Path | str | None) -> dict[str, float]:
    if stage is None:
        return {}
    return {
        row.subject: sum(answer.correct for answer in row.answers) / len(row.answers)
        for row in read_step(PrePostRow, stage, "pre-post-test")
        if row.answers
    }
