"""The user side: a trained simulator, or a chat model that is prompted to play a person.

A trained simulator sees the conversation as it is, with the conditioning that it was trained with
(`chat_templates.conditioning`), and opens the user's turn. A prompted model sees the conversation with the sides
swapped, under a system prompt with the intent, the profile and the problem; it ends a conversation by writing the END
word of its prompt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from maieutic.core import prompts
from maieutic.core.messages import Conversation, Finish, Message, Reply, Role, Sampling
from maieutic.models import ChatModel, with_problem
from maieutic.rollouts.steps import UserMode

END_WORD = "[DONE]"
"""The word with which a prompted user ends the conversation; its prompt names it."""
UNREADABLE = "unreadable"
"""An answer of the controller that is neither yes nor no."""


def user_mode(model: ChatModel, wanted: UserMode | None = None) -> UserMode:
    """The given mode; by default `trained` if the checkpoint was trained to speak as the user, else `prompted`."""
    return wanted or ("trained" if model.trained_role == Role.USER else "prompted")


def prompt_hash(mode: UserMode) -> str | None:
    """A hash of the prompts of a prompted user, for the keys of rows; null for a trained one."""
    if mode == "trained":
        return None
    return "-".join(prompts.load(name).hash for name in ("user_prompted", "user_start", "user_last"))


async def next_user_message(
    model: ChatModel,
    mode: UserMode,
    start: Conversation,
    messages: Sequence[Message],
    sampling: Sampling,
    may_end: bool,
    last: bool = False,
) -> Reply:
    """The user's next message. `finish` is END if the user ends the conversation; text before the end is kept.

    Args:
        model: the user's model.
        mode: how the model is used.
        start: holds the intent, the profile and the problem.
        messages: the dialogue so far.
        sampling: how the message is sampled.
        may_end: whether the user may end here. A server cannot suppress END, so its early END counts as STOP.
        last: whether the user should say goodbye with this message.
    """
    model = with_problem(model, start.problem)
    if mode == "trained":
        seen = conditioned(model, start, messages)
        reply = await model.reply(seen, sampling, role=Role.USER, suppress_end=not may_end)
    else:
        reply = _split_end_word(await model.reply(swapped(start, messages, last), sampling))
    early = reply.finish == Finish.END and not may_end
    return reply.model_copy(update={"finish": Finish.STOP}) if early else reply


def can_condition(model: ChatModel, start: Conversation, part: str) -> bool:
    """Whether a trained simulator learned to be conditioned on `part`, and the start has that part."""
    conditioning = getattr(model, "conditioning", None)
    return conditioning is not None and conditioning.best(start, part) is not None


def conditioned(model: ChatModel, start: Conversation, messages: Sequence[Message]) -> Sequence[Message]:
    """The conversation as a trained simulator sees it: with the conditioning that it learned, if any."""
    conditioning = getattr(model, "conditioning", None)
    if conditioning is None:
        return messages
    so_far = start.model_copy(update={"messages": tuple(messages)})
    seen: tuple[Message, ...] = conditioning.apply(so_far, getattr(model, "system", None)).messages
    return seen


def swapped(start: Conversation, messages: Sequence[Message], last: bool = False) -> list[Message]:
    """The conversation as a prompted user model sees it: its own messages have the assistant's role."""
    seen = [
        Message(role=message.role.other, content=message.content)
        for message in messages
        if message.role != Role.SYSTEM
    ]
    if not seen or seen[0].role == Role.ASSISTANT:
        seen.insert(0, Message(role=Role.USER, content=prompts.load("user_start").text))
    return [_user_prompt(_who(start), _want(start), last), *seen]


@lru_cache(1024)
def _user_prompt(who: str, want: str, last: bool) -> Message:
    """The system message of a prompted user: the same in all turns of a dialogue."""
    system = prompts.load("user_prompted").fill(end=END_WORD, who=who, want=want)
    if last:
        system += "\n\n" + prompts.load("user_last").fill(end=END_WORD)
    return Message(role=Role.SYSTEM, content=system)


class _Controller:
    """Asks a chat model whether the user would end the conversation here."""

    sampling = Sampling(temperature=0, max_tokens=16)

    def hash(self) -> str:
        """A hash of its prompt."""
        return prompts.load("user_controller").hash

    async def ask(self, model: ChatModel, start: Conversation, messages: Sequence[Message]) -> Reply:
        """The model's answer about a conversation, which is quoted inside a fence that no text in it can close."""
        said = [message for message in messages if message.role != Role.SYSTEM]
        talk = "\n\n".join(f"{_NAMES[message.role]}: {message.content}" for message in said)
        who, want = _who(start), _want(start)
        mark = prompts.mark_for([talk, who, want])
        text = prompts.load("user_controller").fill(mark=mark, who=who, want=want, talk=talk)
        return await model.reply([Message(role=Role.USER, content=text)], self.sampling)

    def parse(self, text: str) -> str:
        """`yes`, `no` or `UNREADABLE`; after an unreadable answer the dialogue continues."""
        words = _ANSWER.findall(text.lower())
        return words[0] if len(set(words)) == 1 else UNREADABLE


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


def _split_end_word(reply: Reply) -> Reply:
    before, found, _ = reply.text.partition(END_WORD)
    return reply.model_copy(update={"text": before.rstrip(), "finish": Finish.END}) if found else reply
