"""One dialogue, from its start to its end, advancing on its own.

Each finished turn is handed to `keep` before the next is asked for, so that a kill costs at most the turn in flight.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from maieutic.errors import ContextFull, ModelError, RenderError
from maieutic.models import ChatModel
from maieutic.owed import HOPELESS, fault_of
from maieutic.simulate import guards
from maieutic.simulate.users import UserMode, next_user_turn
from maieutic.types import Conversation, Fault, Finish, Reply, Role, Sampling, Turn, fingerprint


class End(StrEnum):
    """Why a dialogue is over."""

    END = "end"
    """The user ended it."""
    ROUNDS = "rounds"
    """It has the rounds it was allowed."""
    CONTEXT = "context"
    """The next turn no longer fits a model's context; nothing was cut."""


class Failure(NamedTuple):
    """Why a dialogue could not go on, and whose fault it was."""

    fault: Fault
    error: str


class Side(NamedTuple):
    """One speaker."""

    model: ChatModel
    sampling: Sampling


class Rules(NamedTuple):
    """How dialogues go."""

    mode: UserMode
    rounds: int
    min_rounds: int
    guards: tuple[str, ...]
    redraws: int


class Spoken(NamedTuple):
    """A turn and what is known of how it came about."""

    turn: Turn
    info: dict[str, Any]


class Outcome(NamedTuple):
    """A dialogue as far as it came: over, or failed."""

    spoken: list[Spoken]
    end: End | None
    failure: Failure | None


class GuardFailed(ModelError):
    """A model kept giving empty turns."""


class Dialogue:
    """The state of one dialogue.

    Args:
        draws: where the random numbers of its turns come from.
        start: what stands before the first turn to be drawn.
        spoken: turns drawn earlier, where an interrupted dialogue goes on.
        keep: called with each finished turn, in order.
        count: called with each reply that a model gave.
    """

    def __init__(
        self,
        draws: str,
        start: Conversation,
        user: Side,
        assistant: Side,
        rules: Rules,
        spoken: Sequence[Spoken],
        keep: Callable[[int, Spoken], None],
        count: Callable[[Reply], None],
    ) -> None:
        self._draws = draws
        self._start = start
        self._user = user
        self._assistant = assistant
        self._rules = rules
        self._spoken = list(spoken)
        self._keep = keep
        self._count = count

    @property
    def messages(self) -> list[Turn]:
        """Everything said so far, the start included."""
        return [*self._start.messages, *(each.turn for each in self._spoken)]

    async def run(self) -> Outcome:
        """Talk until an end or a failure.

        Raises:
            WrongKey, UnknownModel, NoTemplate: no dialogue can go on with such a model; the run stops.
        """
        while (end := self._end()) is None:
            role = self._next_role()
            try:
                if not await self._speak(role):
                    end = End.END
                    break
            except ContextFull as error:
                if not self._spoken:
                    return self._failed(Fault.US, f"the start does not fit the context: {error.what}")
                end = End.CONTEXT
                break
            except HOPELESS:
                raise
            except (ModelError, RenderError) as error:
                model = Fault.USER_MODEL if role == Role.USER else Fault.ASSISTANT_MODEL
                return self._failed(fault_of(error, model), error.what)
        return Outcome(self._spoken, end, None)

    def _failed(self, fault: Fault, error: str) -> Outcome:
        return Outcome(self._spoken, None, Failure(fault, error))

    def _next_role(self) -> Role:
        messages = self.messages
        return Role.ASSISTANT if messages and messages[-1].role == Role.USER else Role.USER

    def _end(self) -> End | None:
        if self._spoken and self._spoken[-1].info["finish"] == Finish.END:
            return End.END
        replies = sum(turn.role == Role.ASSISTANT for turn in self.messages)
        return End.ROUNDS if replies >= self._rules.rounds and self._next_role() == Role.USER else None

    async def _speak(self, role: Role) -> bool:
        """Draw the next turn and keep it; false where the user ended without a word."""
        side = self._user if role == Role.USER else self._assistant
        redrawn: list[dict[str, str]] = []
        while True:
            reply, sampling = await self._draw(role, side, len(redrawn))
            why = guards.broken(
                self._rules.guards, reply, guards.Context(self.messages, role, self._start.intent)
            )
            if why is None or len(redrawn) >= self._rules.redraws:
                break
            redrawn.append({"guard": why, "text": reply.text})
        if why == "empty":
            raise GuardFailed(f"{side.model.id} gave {len(redrawn) + 1} empty turns in a row")
        if reply.finish == Finish.END and not reply.text.strip():
            self._end_info = _info(reply, sampling, redrawn, None)
            return False
        spoken = Spoken(Turn(role=role, content=reply.text), _info(reply, sampling, redrawn, why))
        self._keep(len(self._spoken), spoken)
        self._spoken.append(spoken)
        return True

    async def _draw(self, role: Role, side: Side, redraw: int) -> tuple[Reply, Sampling]:
        seed = int(fingerprint([self._draws, len(self._spoken), redraw])[:7], 16) + side.sampling.seed
        changes: dict[str, Any] = {"seed": seed}
        if redraw and side.sampling.temperature == 0:
            changes["temperature"] = 0.7  # a greedy redraw would be the same again
        sampling = side.sampling.model_copy(update=changes)
        started = time.monotonic()
        if role == Role.USER:
            rounds = sum(turn.role == Role.ASSISTANT for turn in self.messages)
            may_end = bool(self.messages) and rounds >= self._rules.min_rounds
            reply = await next_user_turn(
                side.model, self._rules.mode, self._start, self.messages, sampling, may_end
            )
        else:
            reply = await side.model.reply(self.messages, sampling)
        reply = reply.model_copy(update={"seconds": round(time.monotonic() - started, 4)})
        self._count(reply)
        return reply, sampling

    _end_info: dict[str, Any] | None = None

    @property
    def end_info(self) -> dict[str, Any] | None:
        """How the END that closed the dialogue without a word came about."""
        return self._end_info


def _info(
    reply: Reply, sampling: Sampling, redrawn: list[dict[str, str]], gave_up: str | None
) -> dict[str, Any]:
    info: dict[str, Any] = {
        "model": reply.model,
        "seed": sampling.seed,
        "finish": reply.finish,
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "seconds": reply.seconds,
        "attempts": reply.attempts,
    }
    if reply.end_probability is not None:
        info["end_probability"] = reply.end_probability
    if redrawn:
        info["redrawn"] = redrawn
    if gave_up:
        info["gave_up"] = gave_up
    return info
