"""The student tries the problem alone, several times: before a dialogue, knowing its start, or after it, all told.

A neutral turn of the assistant's asks for it (`prompts/attempt.md`; a world of few words brings its own), and the
student's next turn is the attempt: right where it states the known answer. Protocol: PedagogicalRL, 8 attempts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from maieutic.checks.outcomes import States, is_known
from maieutic.checks.turns import states_answer
from maieutic.core import prompts
from maieutic.core.budget import Budget, Spending
from maieutic.core.errors import EmptyCorpus
from maieutic.core.messages import Conversation, Fault, Finish, Message, Role, Sampling, fingerprint
from maieutic.core.store import Stage
from maieutic.core.workers import Failed, fault_of, run_pending
from maieutic.data.corpus import read_corpus
from maieutic.models import ChatModel, identity
from maieutic.rollouts.pre_post_rows import before_dialogue, start_key
from maieutic.rollouts.users import UserMode, next_user_turn, prompt_hash, user_mode

N = 8
STUDENT = Sampling(temperature=1.0, top_p=0.8, max_tokens=256)
When = Literal["before", "after"]


class Attempts(NamedTuple):
    """What the stage holds, and what this call did."""

    tried: int
    """Starts, or dialogues, in the whole stage."""
    failed: int
    """Of these, those that failed in this call."""
    right: float | None
    """The share of right attempts."""
    replies: int
    """Replies asked for in this call."""
    tokens: int
    usd: float | None
    run: str


def attempts(
    model: ChatModel,
    source: Path | str | Iterable[Conversation],
    out: Path | str,
    when: When,
    *,
    n: int = N,
    prompt: str = "attempt",
    sampling: Sampling = STUDENT,
    mode: UserMode | None = None,
    states: States | None = None,
    concurrency: int = 64,
    max_failure_rate: float = 0.05,
    budget: Budget | None = None,
) -> Attempts:
    """Let the student try `n` times at each start (before) or after each dialogue, into the stage folder `out`.

    Args:
        model: the student; closed at the end.
        source: a simulate stage, or its conversations; those without a known answer are passed over.
        out: the stage's folder; the same call goes on in it.
        when: `before` sees no more than the start, and each start once; `after` sees the whole dialogue.
        n: attempts; attempt i is drawn with a seed of its own.
        prompt: the assistant's turn that asks, a prompt's name or a `.md` file.
        sampling: how each is drawn.
        mode: `trained` or `prompted`; by default what the checkpoint says.
        states: whether a turn solves the problem; null: it states the known answer.
        concurrency: starts or dialogues under way at once.
        max_failure_rate: the share of failures past which the run ends as failed.
        budget: what this call may spend.

    Raises:
        BudgetSpent, TooManyFailures, ModelError, RunConflict, RunLocked, DiskFull, MissingInput, EmptyCorpus.
    """
    work = _Attempts(model, when, n, prompts.load(prompt), sampling, user_mode(model, mode), states)
    work.spending = Spending((budget or Budget()).checked([model.id]))
    talks = [
        one
        for one in (read_corpus(source) if isinstance(source, (Path, str)) else source)
        if is_known(one.problem, states)
    ]
    return asyncio.run(work.run(talks, Path(out), concurrency, max_failure_rate))


class _Attempts:
    def __init__(
        self,
        model: ChatModel,
        when: When,
        n: int,
        prompt: prompts.Prompt,
        sampling: Sampling,
        mode: UserMode,
        states: States | None,
    ) -> None:
        self._model, self._when, self._n, self._mode = model, when, n, mode
        self._prompt, self._sampling, self._states = prompt, sampling, states or states_answer
        self.spending = Spending()

    async def run(
        self, talks: list[Conversation], out: Path, concurrency: int, max_failure_rate: float
    ) -> Attempts:
        try:
            with Stage(out, self._identity()) as stage:
                await self._model.check()
                worked = await run_pending(
                    stage, self._owed(talks), self._row, self._given_up,
                    concurrency=concurrency, max_failure_rate=max_failure_rate,
                    total=len(talks), label=f"attempts {self._when}", spending=self.spending,
                )  # fmt: skip
                if not worked.rows:
                    raise EmptyCorpus("no dialogue has a known answer", "Seed the dialogues with problems.")
                made = [one["right"] for row in stage.rows.rows() for one in row["attempts"]]
                right = sum(made) / len(made) if made else None
                stage.finish({"failed": worked.failed, "right": right, "when": self._when})
        finally:
            await self._model.close()
        usd = round(self.spending.usd, 6)
        return Attempts(
            worked.rows,
            worked.failed,
            right,
            self.spending.replies,
            self.spending.tokens,
            usd or None,
            str(out),
        )

    def _identity(self) -> dict[str, Any]:
        """The settings; not the dialogues, of which a later call may have more: each stands in its row's key."""
        return {
            "stage": "attempts",
            "when": self._when,
            "model": identity(self._model),
            "mode": self._mode,
            "told": prompt_hash(self._mode),
            "prompt": self._prompt.hash,
            "sampling": self._sampling,
            "n": self._n,
        }

    def _owed(self, talks: Iterable[Conversation]) -> Iterator[tuple[str, Conversation]]:
        for one in talks:
            said = [[turn.role, turn.content] for turn in one.messages] if self._when == "after" else None
            yield fingerprint([self._when, self._of(one), said]), one

    def _of(self, talk: Conversation) -> str:
        return start_key(talk) if self._when == "before" else talk.id

    async def _row(self, talk: Conversation) -> dict[str, Any]:
        messages = asked(
            before_dialogue(talk) if self._when == "before" else talk.messages, self._prompt.text
        )
        tries = [self._try(talk, messages, place) for place in range(self._n)]
        made = await asyncio.gather(
            *tries, return_exceptions=True
        )  # one that fails does not cancel the others
        for one in made:
            if isinstance(one, BaseException):
                raise one
        return {**self._shape(talk), "attempts": made}

    async def _try(self, talk: Conversation, messages: tuple[Message, ...], place: int) -> dict[str, Any]:
        drawn = int(fingerprint([self._when, self._of(talk), place])[:7], 16) + self._sampling.seed
        sampling = self._sampling.model_copy(update={"seed": drawn})
        reply = await next_user_turn(self._model, self._mode, talk, messages, sampling, may_end=False)
        self.spending.charge(reply)
        assert talk.problem
        return {
            "text": reply.text,
            "right": self._states(reply.text, talk.problem),
            "seed": drawn,
            **({"finish": reply.finish} if reply.finish != Finish.STOP else {}),
        }

    def _given_up(self, talk: Conversation, error: Failed) -> dict[str, Any]:
        return {
            **self._shape(talk),
            "attempts": [],
            "fault": fault_of(error, Fault.USER_MODEL),
            "error": error.what,
        }

    def _shape(self, talk: Conversation) -> dict[str, Any]:
        return {
            "of": self._of(talk),
            "seed": str(talk.meta.get("seed", talk.id)),
            "when": self._when,
            "model": self._model.id,
            "mode": self._mode,
            "prompt": self._prompt.hash,
            "sampling": self._sampling.model_dump(),
        }


def asked(messages: Iterable[Message], question: str) -> tuple[Message, ...]:
    """The turns with the assistant's question; where the assistant spoke last, it is part of that turn."""
    turns = tuple(messages)
    if turns and turns[-1].role == Role.ASSISTANT:
        question, turns = f"{turns[-1].content}\n\n{question}", turns[:-1]
    return (*turns, Message(role=Role.ASSISTANT, content=question))
