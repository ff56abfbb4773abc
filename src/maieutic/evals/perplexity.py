"""How well a model foresees what people say: perplexity of their turns, alone, told an intent, and beside another's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from maieutic.chat_templates.conditioning import Telling, with_system
from maieutic.core import statistics as stats
from maieutic.core.messages import Conversation, Estimate

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


def with_intent(
    conversation: Conversation, system: str | None = None, telling: Telling | None = None
) -> Conversation:
    """A conversation whose intent a simulator is told, in its system turn.

    One that learned to be told is told as in its training (`render.told`). Any other is told after what stands there
    (the conversation's own system turn, else `system`, the model's) and a blank line, to the letter, as UserLM-8b is
    (arXiv 2510.06552); one that was never trained so has no reason to profit from it.
    """
    if telling and telling.best(conversation, "intent"):
        return telling.tell(conversation, system, "intent")
    return with_system(conversation, conversation.intent, system)
