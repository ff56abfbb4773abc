"""The user side: a trained simulator, or a chat model that is asked to play a person.

A trained simulator sees the conversation as it is, told what it learned to be told (`render.told`), and opens the
human's turn. A prompted model sees it with the sides swapped, under a system prompt that holds the intent, the profile
and the problem; it ends by writing the END word of its prompt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from maieutic.core import prompts
from maieutic.core.messages import Conversation, Finish, Message, Reply, Role, Sampling
from maieutic.models import ChatModel, with_problem

UserMode = Literal["trained", "prompted"]
END_WORD = "[DONE]"
"""What a prompted user writes to end the conversation; stands in its prompt."""
UNREAD = "unread"
"""An answer of the controller that is neither yes nor no."""


def user_mode(model: ChatModel, wanted: UserMode | None = None) -> UserMode:
    """Trained where the checkpoint says that it speaks the user, or where no other way is left; else prompted."""
    return wanted or ("trained" if model.trained_role == Role.USER else "prompted")


def prompt_hash(mode: UserMode) -> str | None:
    """What the prompted user was told, for the rows' keys."""
    if mode == "trained":
        return None
    return "-".join(prompts.load(name).hash for name in ("user_prompted", "user_start", "user_last"))


async def next_user_turn(
    model: ChatModel,
    mode: UserMode,
    start: Conversation,
    messages: Sequence[Message],
    sampling: Sampling,
    may_end: bool,
    last: bool = False,
) -> Reply:
    """The human's next turn; `finish` is END where the person stops, with whatever was said before stopping.

    Args:
        model: of the user's side.
        mode: how it is asked.
        start: what the person wants and is.
        messages: everything said so far.
        sampling: how the turn is drawn.
        may_end: whether the person may stop here; who does so all the same (a server cannot be kept from it) is taken
            to go on, without a word if none was said.
        last: whether the person takes leave with this turn.
    """
    model = with_problem(model, start.problem)
    if mode == "trained":
        told = told_turns(model, start, messages)
        reply = await model.reply(told, sampling, role=Role.USER, suppress_end=not may_end)
    else:
        reply = _read_end(await model.reply(swapped(start, messages, last), sampling))
    early = reply.finish == Finish.END and not may_end
    return reply.model_copy(update={"finish": Finish.STOP}) if early else reply


def tells(model: ChatModel, start: Conversation, part: str) -> bool:
    """Whether a trained simulator learned to be told a part (see `render.told`) that is known here."""
    conditioning = getattr(model, "conditioning", None)
    return conditioning is not None and conditioning.best(start, part) is not None


def told_turns(model: ChatModel, start: Conversation, messages: Sequence[Message]) -> Sequence[Message]:
    """The conversation as a trained simulator sees it: told what it learned to be told, else as it is."""
    conditioning = getattr(model, "conditioning", None)
    if conditioning is None:
        return messages
    so_far = start.model_copy(update={"messages": tuple(messages)})
    turns: tuple[Message, ...] = conditioning.apply(so_far, getattr(model, "system", None)).messages
    return turns


def swapped(start: Conversation, messages: Sequence[Message], last: bool = False) -> list[Message]:
    """The conversation as a prompted user model sees it: its own turns are the assistant's."""
    turns = [
        Message(role=turn.role.other, content=turn.content) for turn in messages if turn.role != Role.SYSTEM
    ]
    if not turns or turns[0].role == Role.ASSISTANT:
        turns.insert(0, Message(role=Role.USER, content=prompts.load("user_start").text))
    return [_told(_who(start), _want(start), last), *turns]


@lru_cache(1024)
def _told(who: str, want: str, last: bool) -> Message:
    """What a prompted user is told: the same in all turns of a dialogue."""
    system = prompts.load("user_prompted").fill(end=END_WORD, who=who, want=want)
    if last:
        system += "\n\n" + prompts.load("user_last").fill(end=END_WORD)
    return Message(role=Role.SYSTEM, content=system)


class _Controller:
    """Asks a model, in words, whether the person would stop here."""

    sampling = Sampling(temperature=0, max_tokens=16)

    def hash(self) -> str:
        """Of its prompt."""
        return prompts.load("user_controller").hash

    async def ask(self, model: ChatModel, start: Conversation, messages: Sequence[Message]) -> Reply:
        """What the model says of a conversation; its texts stand in a fence that none of them can close."""
        said = [turn for turn in messages if turn.role != Role.SYSTEM]
        talk = "\n\n".join(f"{_NAMES[turn.role]}: {turn.content}" for turn in said)
        who, want = _who(start), _want(start)
        mark = prompts.mark_for([talk, who, want])
        text = prompts.load("user_controller").fill(mark=mark, who=who, want=want, talk=talk)
        return await model.reply([Message(role=Role.USER, content=text)], self.sampling)

    def read(self, text: str) -> str:
        """`yes`, `no`, or `UNREAD`, after which the dialogue goes on."""
        words = _ANSWER.findall(text.lower())
        return words[0] if len(set(words)) == 1 else UNREAD


CONTROLLER = _Controller()
_NAMES = {Role.USER: "person", Role.ASSISTANT: "assistant"}
_ANSWER = re.compile(r"\b(yes|no)\b")


def _who(start: Conversation) -> str:
    return (
        f"Who you are: {start.profile}"
        if start.profile
        else "You are an ordinary person with a matter of your own."
    )


def _want(start: Conversation) -> str:
    parts = [f"What you want: {start.intent}"] if start.intent else []
    if start.problem:
        parts.append(f"The problem you are working on:\n{start.problem.statement}")
        if start.problem.attempt:
            parts.append(f"What you tried, and believe to be right:\n{start.problem.attempt}")
    return "\n\n".join(parts) or "What you want is up to you."


def _read_end(reply: Reply) -> Reply:
    before, found, _ = reply.text.partition(END_WORD)
    return reply.model_copy(update={"text": before.rstrip(), "finish": Finish.END}) if found else reply
