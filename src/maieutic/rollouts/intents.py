"""What each person of a corpus wanted, written by a chat model: what a simulator is trained, and can be asked, to want.

An intent is UserLM's (arXiv 2510.06552): the goal behind a whole conversation, at a high level, that gives away neither
the person's words nor the order of things. What copies the person's words is drawn again. The conversation stands in a
fence that it cannot close, and nothing in it is an instruction. The stage is a corpus: all conversations, in order.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from maieutic.core import prompts
from maieutic.core.budget import Budget, Spending
from maieutic.core.errors import EmptyCorpus, ModelError
from maieutic.core.messages import Conversation, Finish, Message, Reply, Role, Sampling, fingerprint
from maieutic.core.store import Stage
from maieutic.core.workers import Failed, run_pending
from maieutic.data.wordsets import words
from maieutic.models import ChatModel, identity
from maieutic.rollouts.candidates import corpus_hash

DRAW = Sampling(temperature=0, max_tokens=128)
REDRAWS = 2
REDRAW_TEMPERATURE = 0.7
COPIED = 8
"""Words in a row, as the person said them, from which an intent gives the conversation away."""
_SPEAKERS = {Role.USER: "person", Role.ASSISTANT: "assistant"}


class How(StrEnum):
    """How a row came to its intent; stands in `meta["intent"]`."""

    WRITTEN = "written"
    KEPT = "kept"
    FAILED = "failed"
    NO_PERSON = "no person"


class Intents(NamedTuple):
    """What the stage holds, and what this call did."""

    rows: int
    """Conversations, all of them."""
    written: int
    kept: int
    """Had an intent already."""
    failed: int
    """Have none, for the model gave none that can be used."""
    no_person: int
    """Have none, for nobody speaks in them."""
    replies: int
    """Replies asked for in this call."""
    tokens: int
    seconds: float
    run: str


Reading = Callable[[bool], Iterable[Conversation]]
"""Reads the corpus, from its start; broken rows are named where it is told to."""


class _Item(NamedTuple):
    place: int
    conversation: Conversation


def intents(
    model: ChatModel,
    corpus: Path | str | Iterable[Conversation],
    out: Path | str,
    *,
    replace: bool = False,
    sampling: Sampling = DRAW,
    prompt: str = "intent",
    concurrency: int = 32,
    max_failure_rate: float = 0.05,
    budget: Budget | None = None,
) -> Intents:
    """Ask the model what each person wanted, into the stage folder `out`, which is a corpus.

    Args:
        model: closed at the end.
        corpus: a corpus, or conversations.
        out: the stage's folder; the same call goes on in it.
        replace: ask also where there is an intent.
        sampling: how an intent is drawn; what cannot be used is drawn again, no colder than at .7.
        prompt: a prompt's name or a `.md` file, with `{{mark}}` and `{{talk}}`.
        concurrency: conversations under way at once.
        max_failure_rate: the share of failed conversations past which the run ends as failed.
        budget: what this call may spend.

    Raises:
        BudgetSpent, TooManyFailures, ModelError, RunConflict, RunLocked, DiskFull, MissingInput, EmptyCorpus.
    """
    budget = (budget or Budget()).checked([model.id])
    work = _Intents(model, replace, sampling, prompts.load(prompt), Spending(budget))
    return asyncio.run(work.run(_reading(corpus), Path(out), concurrency, max_failure_rate))


class _Intents:
    def __init__(
        self, model: ChatModel, replace: bool, sampling: Sampling, prompt: prompts.Prompt, spending: Spending
    ) -> None:
        self._model, self._replace, self._sampling = model, replace, sampling
        self._prompt, self._spending = prompt, spending

    async def run(self, corpus: Reading, out: Path, concurrency: int, max_failure_rate: float) -> Intents:
        started = time.monotonic()
        count, data = corpus_hash(corpus(True))
        if not count:
            raise EmptyCorpus("there is no conversation", "Give a corpus.")
        config = {
            "stage": "intents",
            "model": identity(self._model),
            "prompt": self._prompt.hash,
            "replace": self._replace,
            "sampling": self._sampling,
            "data": data,
        }
        try:
            with Stage(out, config) as stage:
                await self._model.check()
                await run_pending(
                    stage,
                    self._owed(corpus(False)),
                    self._row,
                    self._given_up,
                    concurrency=concurrency,
                    max_failure_rate=max_failure_rate,
                    total=count,
                    label="intents",
                    spending=self._spending,
                )
                how = Counter(row["meta"]["intent"]["how"] for row in stage.rows.rows())
                counts = {one.name.lower(): how[one] for one in How}
                stage.finish(counts)
        finally:
            await self._model.close()
        spent = {"replies": self._spending.replies, "tokens": self._spending.tokens}
        return Intents(count, **counts, **spent, seconds=round(time.monotonic() - started, 3), run=str(out))

    def _owed(self, corpus: Iterable[Conversation]) -> Iterator[tuple[str, _Item]]:
        for place, conversation in enumerate(corpus):
            yield fingerprint([place, conversation.row()]), _Item(place, conversation)

    async def _row(self, item: _Item) -> dict[str, Any]:
        conversation = item.conversation
        if conversation.intent and not self._replace:
            return _shape(conversation, How.KEPT)
        if not conversation.turns(Role.USER):
            return _shape(conversation, How.NO_PERSON)
        messages = [Message(role=Role.USER, content=self._question(conversation))]
        why = ""
        for draw in range(1 + REDRAWS):
            reply = await self._model.reply(messages, self._draw(item.place, draw))
            self._spending.charge(reply)
            text, why = " ".join(reply.text.split()), unusable(reply, conversation)
            if not why:
                told = conversation.model_copy(update={"intent": text})
                return _shape(told, How.WRITTEN, model=self._model.id, draws=draw + 1)
        raise ModelError(f"{self._model.id}: {why}, {1 + REDRAWS} times in a row", "Take another model.")

    def _draw(self, place: int, draw: int) -> Sampling:
        seed = self._sampling.seed + (1 + REDRAWS) * place + draw
        heat = max(self._sampling.temperature, REDRAW_TEMPERATURE if draw else 0)
        return self._sampling.model_copy(update={"seed": seed, "temperature": heat})

    def _question(self, conversation: Conversation) -> str:
        said = [turn for turn in conversation.messages if turn.role != Role.SYSTEM]
        talk = "\n\n".join(f"{_SPEAKERS[turn.role]}: {turn.content}" for turn in said)
        return self._prompt.fill(mark=prompts.mark_for([talk]), talk=talk)

    def _given_up(self, item: _Item, error: Failed) -> dict[str, Any]:
        return _shape(item.conversation, How.FAILED, error=error.what)


def unusable(reply: Reply, conversation: Conversation) -> str:
    """Why a reply is no intent of this conversation; empty where it is one."""
    said = words(reply.text)
    if not said:
        return "an empty intent"
    if reply.finish == Finish.LENGTH:
        return "an intent that never ends"
    own = {run for turn in conversation.turns(Role.USER) for run in _runs(words(turn))}
    return "an intent in the person's own words" if own & set(_runs(said)) else ""


def _runs(said: list[str]) -> Iterator[tuple[str, ...]]:
    return (tuple(said[start : start + COPIED]) for start in range(len(said) - COPIED + 1))


def _shape(conversation: Conversation, how: How, **more: Any) -> dict[str, Any]:
    """The conversation as a row, with how it came to its intent."""
    before = conversation.meta.get("intent")
    known = before if how == How.KEPT and isinstance(before, dict) else {}
    meta = {**conversation.meta, "intent": {**known, "how": how.value, **more}}
    return conversation.model_copy(update={"meta": meta}).row()


def _reading(corpus: Path | str | Iterable[Conversation]) -> Reading:
    if not isinstance(corpus, (Path, str)):
        listed = list(corpus)
        return lambda tell: listed
    from maieutic.core.json_rows import BadRows
    from maieutic.data.corpus import read_corpus

    return lambda tell: read_corpus(corpus, on_bad=None if tell else BadRows())
