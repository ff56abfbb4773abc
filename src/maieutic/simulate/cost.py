"""What a simulation costs at most, before the first call."""

from __future__ import annotations

from typing import NamedTuple

from maieutic.simulate.run import SimulateConfig
from maieutic.simulate.starts import Starts
from maieutic.spending import spend

CHARS_A_TOKEN = 4


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
    starts = Starts(config.seeds, config.seed_turns, config.assistant_system, config.repeat)
    total, rounds = starts.total(n), config.rounds
    before = sum(
        sum(len(turn.content) for turn in start.conversation.messages) // CHARS_A_TOKEN
        for start in starts.take(n, "", config.seed)
    )
    said, answered = config.user.max_tokens, config.assistant.max_tokens
    earlier = (said + answered) * rounds * (rounds - 1) // 2
    reads = (before * rounds + total * earlier, before * rounds + total * (earlier + said * rounds))
    writes = (total * rounds * said, total * rounds * answered)
    prices = config.budget.prices
    sides = zip((user, assistant), reads, writes, strict=True)
    paid = [spend(prices, model, read, written) for model, read, written in sides]
    known = [dollars for dollars in paid if dollars is not None]
    return SimulationCost(total, 2 * total * rounds, sum(reads), sum(writes), sum(known) if known else None)
