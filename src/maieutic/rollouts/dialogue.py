"""One dialogue, from its start to its end, advancing on its own.

Each finished turn is handed to `keep` before the next is asked for, so that a kill costs at most the turn in flight.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, Literal, NamedTuple

from maieutic.core.errors import ContextFull, ModelError, RenderError
from maieutic.core.messages import Conversation, Fault, Finish, Message, Reply, Role, Sampling, fingerprint
from maieutic.core.workers import HOPELESS, fault_of
from maieutic.models import ChatModel, with_problem
from maieutic.rollouts import guards
from maieutic.rollouts.tutor_prompt import Brief
from maieutic.rollouts.users import CONTROLLER, UserMode, next_user_turn


class End(StrEnum):
    """Why a dialogue is over."""

    END = "end"
    """The user ended it."""
    ROUNDS = "rounds"
    """It has the rounds it was allowed."""
    CONTEXT = "context"
    """The next turn no longer fits a model's context; nothing was cut."""
    CONTROLLER = "controller"
    """The controller said that such a person stops here."""
    FORCED = "forced"
    """It has the rounds it was allowed, and the user was made to take leave."""
    DECIDED = "decided"
    """Whoever asked for it knows what it was for."""


ENDED = (End.END, End.CONTROLLER, End.FORCED)
"""Endings that are the person's, and may be taught as such."""
Ending = Literal["allow", "suppress", "force"]
Decided = Callable[[Conversation], bool]
"""Whether nothing that may follow matters any more; asked after each drawn turn."""


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
    ending: Ending = "allow"
    controller: ChatModel | None = None
    brief: Brief = Brief()
    """What the assistant alone is told."""
    user_turns: int | None = None
    """Turns that the user may draw; the last is its own."""
    decided: Decided | None = None


class Draw(NamedTuple):
    """What a model said when it was asked for a turn."""

    reply: Reply
    sampling: Sampling
    seconds: float
    """Until it came, waiting for a free place included."""


class Spoken(NamedTuple):
    """A turn and what is known of how it came about."""

    turn: Message
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
        pay: called with each reply that a model gave; says what it cost.
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
        pay: Callable[[Reply], float | None],
    ) -> None:
        self._draws = draws
        self._start = start
        self._user = user
        self._assistant = assistant
        self._rules = rules
        self._spoken = list(spoken)
        self._messages = [*start.messages, *(each.turn for each in spoken)]
        self._rounds = sum(turn.role == Role.ASSISTANT for turn in self._messages)
        self._keep = keep
        self._pay = pay
        self._asked: str | None = None
        self._asked_cost: float | None = None

    async def run(self) -> Outcome:
        """Talk until an end or a failure.

        Raises:
            WrongKey, UnknownModel, NoTemplate: no dialogue can go on with such a model; the run stops.
        """
        while (end := self._end()) is None:
            role = self._next_role()
            blamed = Fault.JUDGE
            try:
                if role == Role.USER and await self._is_over():
                    end = End.CONTROLLER
                    break
                blamed = Fault.USER_MODEL if role == Role.USER else Fault.ASSISTANT_MODEL
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
                return self._failed(fault_of(error, blamed), error.what)
        return Outcome(self._spoken, end, None)

    def _failed(self, fault: Fault, error: str) -> Outcome:
        return Outcome(self._spoken, None, Failure(fault, error))

    def _next_role(self) -> Role:
        asked = bool(self._messages) and self._messages[-1].role == Role.USER
        return Role.ASSISTANT if asked else Role.USER

    def _end(self) -> End | None:
        if self._spoken and self._spoken[-1].info["finish"] == Finish.END:
            return End.END
        if self._spoken and self._spoken[-1].info.get("forced"):
            return End.FORCED
        if self._spoken and self._rules.decided and self._rules.decided(self._so_far()):
            return End.DECIDED
        if self._rules.user_turns and self._drawn_by_user() >= self._rules.user_turns:
            return End.ROUNDS
        return End.ROUNDS if self._rounds_used_up() and self._rules.ending != "force" else None

    def _so_far(self) -> Conversation:
        """The dialogue up to now, its drawn turns marked as such."""
        first = len(self._start.messages)
        turns: dict[str, Any] = {str(place): {} for place in range(first, len(self._messages))}
        meta = {"dialogue": self._start.id, "turns": turns}
        return self._start.model_copy(update={"messages": tuple(self._messages), "meta": meta})

    def _drawn_by_user(self) -> int:
        return sum(spoken.turn.role == Role.USER for spoken in self._spoken)

    def _rounds_used_up(self) -> bool:
        return self._rounds >= self._rules.rounds and self._next_role() == Role.USER

    def _may_end(self) -> bool:
        allowed = self._rules.ending != "suppress" and bool(self._messages)
        return allowed and self._rounds >= self._rules.min_rounds

    async def _is_over(self) -> bool:
        """Whether the controller, where there is one, says that the person stops here."""
        self._asked = self._asked_cost = None
        controller = self._rules.controller
        if controller is None or not self._may_end() or not self._rounds:
            return False
        reply = await CONTROLLER.ask(controller, self._start, self._messages)
        cost = self._asked_cost = self._pay(reply)
        self._asked = CONTROLLER.read(reply.text)
        if self._asked == "yes":
            self._end_info = {"model": reply.model, "controller": "yes"} | (
                {} if cost is None else {"cost": cost}
            )
        return self._asked == "yes"

    async def _speak(self, role: Role) -> bool:
        """Draw the next turn and keep it; false where the user ended without a word."""
        side = self._user if role == Role.USER else self._assistant
        redrawn: list[dict[str, str]] = []
        forced = role == Role.USER and self._rounds_used_up()
        costs = [self._asked_cost] if self._asked_cost is not None and role == Role.USER else []
        while True:
            draw = await self._draw(role, side, len(redrawn), forced)
            reply = draw.reply
            costs += [cost] if (cost := self._pay(reply)) is not None else []
            why = guards.broken(
                self._rules.guards, reply, guards.Context(self._messages, role, self._start.intent)
            )
            if why is None or len(redrawn) >= self._rules.redraws:
                break
            redrawn.append({"guard": why, "text": reply.text})
        info = _info(draw, redrawn, why)
        info |= {"cost": sum(costs)} if costs else {}
        info |= {"forced": True} if forced else {}
        info |= {"controller": self._asked} if self._asked and role == Role.USER else {}
        if why == "empty":
            self._end_info = info
            raise GuardFailed(f"{side.model.id} gave {len(redrawn) + 1} empty turns in a row")
        if reply.finish == Finish.END and not reply.text.strip():
            self._end_info = info
            return False
        spoken = Spoken(Message(role=role, content=reply.text), info)
        self._keep(len(self._spoken), spoken)
        self._spoken.append(spoken)
        self._messages.append(spoken.turn)
        self._rounds += role == Role.ASSISTANT
        return True

    async def _draw(self, role: Role, side: Side, redraw: int, forced: bool) -> Draw:
        seed = int(fingerprint([self._draws, len(self._spoken), redraw])[:7], 16) + side.sampling.seed
        changes: dict[str, Any] = {"seed": seed}
        if redraw and side.sampling.temperature == 0:
            changes["temperature"] = 0.7  # a greedy redraw would be the same again
        sampling = side.sampling.model_copy(update=changes)
        started = time.monotonic()
        if role == Role.USER:
            reply = await next_user_turn(
                side.model, self._rules.mode, self._start, self._messages, sampling, self._may_end(), forced
            )
        else:
            model = with_problem(side.model, self._start.problem)
            reply = await model.reply(self._as_told(), sampling)
        return Draw(reply, sampling, round(time.monotonic() - started, 4))

    def _as_told(self) -> Sequence[Message]:
        """The dialogue as the assistant sees it: as `candidates` shows it to a tutor at the same place."""
        brief = self._rules.brief
        return brief.frame(self._start.problem, self._messages) if brief.prompt else self._messages

    _end_info: dict[str, Any] | None = None

    @property
    def end_info(self) -> dict[str, Any] | None:
        """How the draw came about after which no turn came: an END without a word, or the last of empty ones."""
        return self._end_info


def _info(draw: Draw, redrawn: list[dict[str, str]], gave_up: str | None) -> dict[str, Any]:
    reply, sampling = draw.reply, draw.sampling
    info: dict[str, Any] = {
        "model": reply.model,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "seed": sampling.seed,
        "finish": reply.finish,
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "seconds": draw.seconds,
        "attempts": reply.attempts,
    }
    if reply.end_probability is not None:
        info["end_probability"] = reply.end_probability
    if redrawn:
        info["redrawn"] = redrawn
    if gave_up:
        info["gave_up"] = gave_up
    return info
