"""What a simulation costs at most, before the first call."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from maieutic.core import prompts
from maieutic.core.budget import spend
from maieutic.core.messages import Message, Role
from maieutic.rollouts.simulate import SimulateConfig
from maieutic.rollouts.starts import Starts
from maieutic.rollouts.tutor_prompt import Brief
from maieutic.rollouts.users import swapped

CHARS_A_TOKEN = 4
_SERVED = ("openai/", "ollama/", "http://", "https://")
"""Models that are prompted to play the user unless it is said that they were trained for it."""


class SimulationCost(NamedTuple):
    """At most, where no draw is thrown away and no call fails."""

    dialogues: int
    calls: int
    read: int
    """Tokens of all prompts: each call reads the dialogue so far."""
    written: int
    usd: float | None
    """Null where neither model has a price."""


def cost(config: SimulateConfig, user: str, assistant: str, n: int | None = None) -> SimulationCost:
    """What a simulation costs if every dialogue uses all its rounds and every turn all its tokens.

    Args:
        config: as for the simulation; a start's text is counted at four characters a token.
        user: the user's MODEL.
        assistant: the assistant's.
        n: dialogues.
    """
    starts = Starts(config.seeds, config.seed_turns, config.assistant_system, config.repeat, config.kinds)
    total, rounds = starts.total(n), config.rounds
    forced, served = config.ending == "force", user.startswith(_SERVED)
    turns = rounds + forced  # of the user, who takes leave with one more
    prompted = config.user_mode == "prompted" or (config.user_mode is None and served)
    frame = [Message(role=Role.SYSTEM, content=prompts.load("dyadic").text)] if served else []
    brief = Brief.named(config.assistant_prompt, config.show_solution)
    begun = told = 0
    for start in starts.take(n, "", config.seed):
        messages = start.conversation.messages
        begun += _tokens(brief.frame(start.conversation.problem, messages))
        told += _tokens(swapped(start.conversation, messages, forced) if prompted else messages or frame)
    said, answered = config.user.max_tokens, config.assistant.max_tokens
    user_reads = told * turns + total * (said + answered) * turns * (turns - 1) // 2
    earlier = (said + answered) * rounds * (rounds - 1) // 2
    reads = (user_reads, begun * rounds + total * (earlier + said * rounds))
    writes = (total * turns * said, total * rounds * answered)
    prices = config.budget.prices
    sides = zip((user, assistant), reads, writes, strict=True)
    paid = [spend(prices, model, read, written) for model, read, written in sides]
    known = [dollars for dollars in paid if dollars is not None]
    calls = total * (turns + rounds)
    return SimulationCost(total, calls, sum(reads), sum(writes), sum(known) if known else None)


def _tokens(messages: Iterable[Message]) -> int:
    return sum(len(turn.content) for turn in messages) // CHARS_A_TOKEN
