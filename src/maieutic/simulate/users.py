"""The user side: a trained simulator, or a chat model that is asked to play a person.

A trained simulator sees the conversation as it is and opens the human's turn. A prompted model sees it with the
sides swapped, under a system prompt that holds the intent, the profile and the problem; it ends by writing the END
word of its prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from maieutic import prompts
from maieutic.models import ChatModel
from maieutic.types import Conversation, Finish, Reply, Role, Sampling, Turn

UserMode = Literal["trained", "prompted"]
END_WORD = "[DONE]"
"""What a prompted user writes to end the conversation; stands in its prompt."""


def user_mode(model: ChatModel, wanted: UserMode | None = None) -> UserMode:
    """Trained where the checkpoint says that it speaks the user, or where no other way is left; else prompted."""
    return wanted or ("trained" if model.trained_role == Role.USER else "prompted")


def prompt_hash(mode: UserMode) -> str | None:
    """What the prompted user was told, for the rows' keys."""
    if mode == "trained":
        return None
    return "-".join(prompts.load(name).hash for name in ("user_prompted", "user_start"))


async def next_user_turn(
    model: ChatModel,
    mode: UserMode,
    start: Conversation,
    messages: Sequence[Turn],
    sampling: Sampling,
    may_end: bool,
) -> Reply:
    """The human's next turn; `finish` is END where the person stops, with whatever was said before stopping."""
    if mode == "trained":
        return await model.reply(messages, sampling, role=Role.USER, suppress_end=not may_end)
    reply = await model.reply(swapped(start, messages), sampling)
    return _read_end(reply)


def swapped(start: Conversation, messages: Sequence[Turn]) -> list[Turn]:
    """The conversation as a prompted user model sees it: its own turns are the assistant's."""
    system = prompts.load("user_prompted").fill(end=END_WORD, who=_who(start), want=_want(start))
    turns = [
        Turn(role=turn.role.other, content=turn.content) for turn in messages if turn.role != Role.SYSTEM
    ]
    if not turns or turns[0].role == Role.ASSISTANT:
        turns.insert(0, Turn(role=Role.USER, content=prompts.load("user_start").text))
    return [Turn(role=Role.SYSTEM, content=system), *turns]


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
