"""Write the intent of each user in a corpus with a chat model, to condition a simulator on intents.

An intent is defined as in UserLM (arXiv 2510.06552): the goal of a whole conversation, at a high level, without the
user's words and without the order of the requests. An intent that copies the user's words is generated again. The
conversation is quoted inside a fence that no text in it can close, so no message acts as an instruction. The rows are
a corpus: all conversations, in order.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from maieutic.core import prompts
from maieutic.core.budget import Spending
from maieutic.core.errors import EmptyCorpus, ModelError
from maieutic.core.messages import Conversation, Finish, Message, Reply, Role, Sampling, fingerprint
from maieutic.core.words import words
from maieutic.core.workers import Failed, open_stage, run_async, run_pending
from maieutic.models import ChatModel, identity, load_all
from maieutic.rollouts.episodes import Source
from maieutic.rollouts.steps import Intents, IntentsResult

REDRAWS = 2
REDRAW_TEMPERATURE = 0.7
COPIED = 8
"""An intent that shares this many consecutive words with the user is rejected."""
_SPEAKERS = {Role.USER: "person", Role.ASSISTANT: "assistant"}


class IntentStatus(StrEnum):
    """Where a row's intent comes from; stored in `meta["intent"]["status"]`."""

    WRITTEN = "written"
    KEPT = "kept"
    FAILED = "failed"
    NO_USER = "no_user"


class _Item(NamedTuple):
    position: int
    conversation: Conversation


def write_intents(step: Intents, out: Path) -> IntentsResult:
    """Write the intents of a step into the run folder `out`, which is a corpus; the same call resumes it.

    Raises:
        BudgetSpent, TooManyFailures, ModelError, RunConflict, RunLocked, DiskFull, MissingInput, EmptyCorpus.
    """
    [model] = load_all([step.model], step.local, step.requests)
    step.budget.checked([model.id])
    return run_async(_Intents(step, model).run(out))


class _Intents:
    def __init__(self, step: Intents, model: ChatModel) -> None:
        self._step, self._model = step, model
        self._prompt, self._spending = prompts.load(step.prompt), Spending(step.budget)

    async def run(self, out: Path) -> IntentsResult:
        started, step, source = time.monotonic(), self._step, Source(self._step.data)
        if not source.count:
            raise EmptyCorpus("there is no conversation", "Give a corpus.")
        settings = {
            "stage": "intents",
            "model": identity(self._model),
            "prompt": self._prompt.hash,
            "replace": step.replace,
            "sampling": step.sampling,
            "data": source.hash,
        }
        async with open_stage(out, settings, [self._model]) as stage:
            await run_pending(
                stage,
                self._pending(source.read()),
                self._row,
                self._failure_row,
                concurrency=step.requests.concurrency,
                max_failure_rate=step.requests.max_failure_rate,
                total=source.count,
                label="intents",
                spending=self._spending,
            )
            found = Counter(row["meta"]["intent"]["status"] for row in stage.rows.rows())
            counts = {status.value: found[status] for status in IntentStatus}
            stage.finish(counts)
        return IntentsResult(
            conversations=source.count,
            **counts,
            replies=self._spending.replies,
            tokens=self._spending.tokens,
            seconds=round(time.monotonic() - started, 3),
            run=str(out),
        )

    def _pending(self, conversations: Iterable[Conversation]) -> Iterator[tuple[str, _Item]]:
        for index, conversation in enumerate(conversations):
            yield fingerprint([index, conversation.row()]), _Item(index, conversation)

    async def _row(self, item: _Item) -> dict[str, Any]:
        conversation = item.conversation
        if conversation.intent and not self._step.replace:
            return _make_row(conversation, IntentStatus.KEPT)
        if not conversation.turns(Role.USER):
            return _make_row(conversation, IntentStatus.NO_USER)
        messages = [Message(role=Role.USER, content=self._question(conversation))]
        problem = ""
        for draw in range(1 + REDRAWS):
            reply = await self._model.reply(messages, self._draw(item.position, draw))
            self._spending.charge(reply)
            text, problem = " ".join(reply.text.split()), rejection(reply, conversation)
            if not problem:
                written = conversation.model_copy(update={"intent": text})
                return _make_row(written, IntentStatus.WRITTEN, model=self._model.id, draws=draw + 1)
        raise ModelError(f"{self._model.id}: {problem}, {1 + REDRAWS} times in a row", "Use another model.")

    def _draw(self, index: int, draw: int) -> Sampling:
        seed = self._step.sampling.seed + (1 + REDRAWS) * index + draw
        temperature = max(self._step.sampling.temperature, REDRAW_TEMPERATURE if draw else 0)
        return self._step.sampling.model_copy(update={"seed": seed, "temperature": temperature})

    def _question(self, conversation: Conversation) -> str:
        said = [message for message in conversation.messages if message.role != Role.SYSTEM]
        talk = "\n\n".join(f"{_SPEAKERS[message.role]}: {message.content}" for message in said)
        return self._prompt.fill(mark=prompts.mark_for([talk]), talk=talk)

    def _failure_row(self, item: _Item, error: Failed) -> dict[str, Any]:
        return _make_row(item.conversation, IntentStatus.FAILED, error=error.what)


def rejection(reply: Reply, conversation: Conversation) -> str:
    """Why a reply is not an intent of this conversation; empty if it is one."""
    written = words(reply.text)
    if not written:
        return "an empty intent"
    if reply.finish == Finish.LENGTH:
        return "an intent longer than max_tokens"
    own = {ngram for turn in conversation.turns(Role.USER) for ngram in _ngrams(words(turn))}
    return "an intent that copies the user's words" if own & set(_ngrams(written)) else ""


def _ngrams(text: list[str]) -> Iterator[tuple[str, ...]]:
    return (tuple(text[start : start + COPIED]) for start in range(len(text) - COPIED + 1))


def _make_row(conversation: Conversation, status: IntentStatus, **details: Any) -> dict[str, Any]:
    """The conversation as a row, with the status of its intent."""
    before = conversation.meta.get("intent")
    known = before if status == IntentStatus.KEPT and isinstance(before, dict) else {}
    meta = {**conversation.meta, "intent": {**known, "status": status.value, **details}}
    return conversation.model_copy(update={"meta": meta}).row()
