"""How well a model foresees what people say: perplexity of their turns, alone, told an intent, and beside another's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from maieutic.evals import stats
from maieutic.types import Conversation, Estimate, Role, Turn

Rows = Sequence[Sequence[float] | None]
"""Log-probabilities of the tokens of people's turns, by conversation; null for one that does not fit the context."""
OTHER_TOKENS = (
    "the two models cut the text into different tokens, so their perplexities are of different things"
)


def perplexity(logprobs: Rows) -> Estimate:
    """The exponential of the mean loss of a token, resampled by conversation; rows without tokens left out."""
    rows = [(-float(np.sum(row)), len(row)) for row in logprobs if row]
    return stats.ratio([loss for loss, _ in rows], [count for _, count in rows], transform=np.exp)


def difference(first: Rows, second: Rows) -> Estimate:
    """Perplexity of one model minus another's on the same people; conversations are resampled in pairs.

    Args:
        first: one model's log-probabilities, by conversation.
        second: the other's, in the same order; a conversation that does not fit one of them is left out.

    Undefined where the tokens of a conversation differ in number: a loss by token can then not be compared.
    """
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a and b]
    if any(len(a) != len(b) for a, b in pairs):
        return stats.undefined(OTHER_TOKENS, len(pairs))
    table = np.array([[-float(np.sum(a)), -float(np.sum(b)), len(a)] for a, b in pairs]).reshape(-1, 3)
    return stats.bootstrap(table, lambda s: np.exp(s[..., 0] / s[..., 2]) - np.exp(s[..., 1] / s[..., 2]))


def with_intent(conversation: Conversation, system: str | None = None) -> Conversation:
    """A conversation whose intent a trained simulator is told.

    The one way to tell it is the system turn: what stands there (the conversation's own, else `system`, the
    checkpoint's), a blank line, and the intent to the letter. After UserLM-8b (arXiv 2510.06552), whose system
    turn is the intent. A simulator that was never trained so has no reason to profit from it.
    """
    turns = conversation.messages
    if turns and turns[0].role == Role.SYSTEM:
        system, turns = turns[0].content, turns[1:]
    told = "\n\n".join(part for part in (system, conversation.intent) if part)
    return conversation.model_copy(update={"messages": (Turn(role=Role.SYSTEM, content=told), *turns)})
