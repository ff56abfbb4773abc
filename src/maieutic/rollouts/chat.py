"""Talking with a model in the terminal: one side is the model's, the other the person's.

What the model writes is shown as it comes and never interpreted. A fault that may pass leaves the
conversation as it was and the turn still owed; any other ends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple, Protocol, runtime_checkable

from maieutic.core.errors import MaieuticError, MalformedReply, Unreachable
from maieutic.core.messages import Finish, Message, Reply, Role, Sampling
from maieutic.models import ChatModel

EXIT = "/exit"


class Chatted(NamedTuple):
    """A chat as it was held."""

    messages: tuple[Message, ...]
    ended: bool
    """The model ended the conversation."""
    owed: MaieuticError | None
    """What kept the model from its last turn, where the person left without it."""


class Terminal(NamedTuple):
    """How a chat reads and shows. `ask` gives the person's line, null at the end of the input."""

    ask: Callable[[], str | None]
    show: Callable[[str], None]
    """A piece of the model's text; an empty piece ends its turn."""
    note: Callable[[str], None]


@runtime_checkable
class Streaming(Protocol):
    """A model that gives its turn as it is written."""

    def stream(
        self, messages: list[Message], sampling: Sampling, *, role: Role, done: Callable[[Reply], None]
    ) -> AsyncIterator[str]:
        """The next turn of `role`, in pieces that make up its text; then `done` with the whole reply."""
        ...


def chat(
    model: ChatModel, terminal: Terminal, role: Role | None = None, sampling: Sampling | None = None
) -> Chatted:
    """Hold a conversation until the person leaves or the model ends it.

    Args:
        model: the other side.
        terminal: where the person sits.
        role: the side the model speaks; null: the one it was trained for, else the assistant. A model that
            speaks the user opens the conversation.
        sampling: turn k is drawn with `seed + k`.

    Raises:
        ModelError: the model failed for good (a wrong key, a full context).
    """
    role = role or model.trained_role or Role.ASSISTANT
    with asyncio.Runner() as runner:
        runner.run(model.check())
        try:
            return _converse(runner, model, terminal, role, sampling or Sampling())
        finally:
            runner.run(model.close())


def _converse(
    runner: asyncio.Runner, model: ChatModel, terminal: Terminal, role: Role, sampling: Sampling
) -> Chatted:
    history: list[Message] = []
    pending: list[Message] | None = [] if role == Role.USER else None
    owed: MaieuticError | None = None
    while True:
        if pending is None or owed:
            line = terminal.ask()
            if line is None or line.strip() == EXIT:
                return Chatted(tuple(history), False, owed)
            if line.strip():
                pending = (
                    [Message(role=role.other, content=line)] if history or role == Role.ASSISTANT else []
                )
            elif pending is None:
                continue
        assert pending is not None
        drawn = sampling.model_copy(update={"seed": sampling.seed + len(history)})
        try:
            text, ended = runner.run(_speak(model, [*history, *pending], drawn, role, terminal.show))
        except (Unreachable, MalformedReply) as error:
            owed = error
            terminal.note(f"error: {error}\n  Press Enter to ask again, or write something else.")
            continue
        history += pending
        pending = owed = None
        if text or not ended:
            history.append(Message(role=role, content=text))
        if not text and not ended:
            terminal.note("The model said nothing.")
        if ended:
            terminal.note("The model has ended the conversation.")
            return Chatted(tuple(history), True, None)


async def _speak(
    model: ChatModel, messages: list[Message], sampling: Sampling, role: Role, show: Callable[[str], None]
) -> tuple[str, bool]:
    """One turn, shown; its text, and whether it ended the conversation."""
    replies: list[Reply] = []
    try:
        if isinstance(model, Streaming):
            async for piece in model.stream(messages, sampling, role=role, done=replies.append):
                if piece:
                    show(piece)
        else:
            replies.append(await model.reply(messages, sampling, role=role))
            if replies[0].text:
                show(replies[0].text)
    finally:
        show("")
    return replies[0].text, replies[0].finish == Finish.END
