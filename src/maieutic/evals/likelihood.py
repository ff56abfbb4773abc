"""How well a model predicts people's turns: perplexity, and END decisions; from token probabilities.

There is one END decision at each human opening, compared with what the person did. END is not part of a perplexity, so
that a model that never learned it is compared on the same tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

from maieutic.chat_templates.conditioning import Conditioning, with_system
from maieutic.chat_templates.turns import Decisions, decisions
from maieutic.core import statistics as stats
from maieutic.core.errors import RenderError
from maieutic.core.messages import Conversation, Estimate, Role
from maieutic.core.progress import track

Array = NDArray[np.float64]
LogProbs = Sequence[Sequence[float] | None]
"""Log-probabilities of the tokens of people's turns, by conversation; null for one that does not fit the context."""
PERPLEXITIES = ("perplexity_on_human_turns", "perplexity_with_intent", "perplexity_without_intent")
END_METRICS = ("end_precision", "end_recall", "end_f1", "end_calibration_error", "end_brier")
BINS = 10
NO_END = "the model gives no probability of END"
NO_ENDED = "no conversation was ended by its person"
NO_INTENT = "no held-out conversation has an intent"
OTHER_TOKENS = "the two models tokenize the text differently, so their perplexities are not comparable"


class Scorer(Protocol):
    """A model that gives token probabilities; models in this process do."""

    def logprobs(
        self, conversations: Sequence[Conversation], role: Role, *, end: bool = True
    ) -> list[list[float] | None]:
        """Natural-log probability of every token of the role's turns; null for one that does not fit the context."""
        ...

    def end_probabilities(self, conversations: Sequence[Conversation]) -> list[list[float | None]]:
        """Probability of END at each human opening, by conversation; null where the model has none."""
        ...


def is_scorer(model: Any) -> TypeGuard[Scorer]:
    """Whether a model gives token probabilities."""
    return hasattr(model, "logprobs")


class Likelihood(NamedTuple):
    """One model's predictions of people's turns."""

    scores: dict[str, Estimate]
    logprobs: dict[str, LogProbs]
    """By perplexity metric."""
    decisions: list[Decisions]
    notes: list[str]


def score_likelihood(model: Scorer, people: Sequence[Conversation], name: str = "the model") -> Likelihood:
    """Perplexity on people's turns and the END scores of one model; conversations too long for it are counted.

    Perplexity with and without intent is measured on the same people, those who have an intent; see `add_intent`.
    """
    wanting = [conversation for conversation in people if conversation.intent]
    system, conditioning = getattr(model, "system", None), getattr(model, "conditioning", None)
    conditioned = [add_intent(conversation, system, conditioning) for conversation in wanting]
    with track(3, f"score {name}") as bar:
        whole = model.logprobs(people, Role.USER, end=False)
        bar.advance()
        with_intent, refused = _conditioned_logprobs(model, conditioned)
        bar.advance()
        openings = model.end_probabilities(people)
    without_intent = [row for row, person in zip(whole, people, strict=True) if person.intent]
    logprobs: dict[str, LogProbs] = {PERPLEXITIES[0]: whole}
    scores = dict.fromkeys(PERPLEXITIES[1:], stats.undefined(refused or NO_INTENT))
    if conditioned and not refused:
        both = [bool(a and b) for a, b in zip(with_intent, without_intent, strict=True)]
        for metric, rows in zip(PERPLEXITIES[1:], (with_intent, without_intent), strict=True):
            logprobs[metric] = [row if ok else None for row, ok in zip(rows, both, strict=True)]
    made = [decisions(*pair) for pair in zip(people, openings, strict=True)]
    too_long = sum(row is None for row in whole)
    notes = (
        [f"{too_long} of {len(people)} conversations do not fit the context of {name}"] if too_long else []
    )
    ended = [conversation for conversation in people if conversation.ended]
    if no_opening := sum(conversation.messages[-1].role == Role.USER for conversation in ended):
        notes.append(
            f"{no_opening} of {len(ended)} conversations end with the person's own last turn, where {name} has no "
            "opening to predict END at: these endings are in no END metric"
        )
    scores |= {metric: perplexity(rows) for metric, rows in logprobs.items()}
    return Likelihood(scores | end_scores(made), logprobs, made, notes)


def _conditioned_logprobs(model: Scorer, conditioned: Sequence[Conversation]) -> tuple[LogProbs, str | None]:
    """The log-probabilities given the intent, or the reason why the model cannot be conditioned on the intent."""
    try:
        return (model.logprobs(conditioned, Role.USER, end=False) if conditioned else []), None
    except RenderError as error:
        return [], f"the model cannot be conditioned on the intent: {error.what}"


def add_intent(
    conversation: Conversation, system: str | None = None, conditioning: Conditioning | None = None
) -> Conversation:
    """The conversation with its intent in the system turn, as a conditioned simulator sees it.

    A simulator trained on intents gets the words of its training (`chat_templates.conditioning`). Any other gets the
    intent after the system text (the conversation's own system turn, else `system`, the model's) and a blank line, as
    UserLM-8b does (arXiv 2510.06552); a model that was never trained so need not profit from it.
    """
    if conditioning and conditioning.best(conversation, "intent"):
        return conditioning.apply(conversation, system, "intent")
    return with_system(conversation, conversation.intent, system)


def perplexity(logprobs: LogProbs) -> Estimate:
    """The exponential of the mean loss of a token, resampled by conversation; rows without tokens left out."""
    rows = [(-float(np.sum(row)), len(row)) for row in logprobs if row]
    return stats.ratio([loss for loss, _ in rows], [count for _, count in rows], transform=np.exp)


def perplexity_difference(first: LogProbs, second: LogProbs) -> Estimate:
    """Perplexity of one model minus another's on the same people; conversations are resampled in pairs.

    Args:
        first: one model's log-probabilities, by conversation.
        second: the other's, in the same order; a conversation that does not fit one of them is left out.

    Undefined where the number of tokens of a conversation differs: losses per token are then not comparable.
    """
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a and b]
    if any(len(a) != len(b) for a, b in pairs):
        return stats.undefined(OTHER_TOKENS, len(pairs))
    table = np.array([[-float(np.sum(a)), -float(np.sum(b)), len(a)] for a, b in pairs]).reshape(-1, 3)
    return stats.bootstrap(table, lambda s: np.exp(s[..., 0] / s[..., 2]) - np.exp(s[..., 1] / s[..., 2]))


def end_scores(made: Sequence[Decisions], threshold: float = 0.5) -> dict[str, Estimate]:
    """Precision, recall and F1 of END, its calibration error (ten equal bins) and Brier score; by conversation.

    A probability from `threshold` on predicts END. Sources: end F1, UserLM-8b (arXiv 2510.06552); expected calibration
    error, Naeini et al. 2015.
    """
    rows = [_end_row(each, threshold) for each in made if each.probabilities]
    if not rows:
        return {name: stats.undefined(NO_END) for name in END_METRICS}
    table = np.array(rows)
    return {
        "end_precision": stats.bootstrap(table, lambda s: s[..., 0] / (s[..., 0] + s[..., 1]),
                                         undefined_because="END was never predicted"),
        "end_recall": stats.bootstrap(table, lambda s: s[..., 0] / (s[..., 0] + s[..., 2]),
                                      undefined_because=NO_ENDED),
        "end_f1": stats.bootstrap(table, _f1, undefined_because=NO_ENDED),
        "end_calibration_error": stats.bootstrap(
            table, lambda s: np.abs(s[..., 5 : 5 + BINS] - s[..., 5 + BINS :]).sum(axis=-1) / s[..., 4]
        ),
        "end_brier": stats.bootstrap(table, lambda s: s[..., 3] / s[..., 4]),
    }  # fmt: skip


def end_bins(made: Sequence[Decisions]) -> list[dict[str, float]]:
    """The calibration of END by ten equal bins of its probability; bins without decisions are left out.

    Returns:
        `low`, `high` of the bin, `n` decisions, the mean probability `predicted`, the share that `ended`.
    """
    p = np.array([value for each in made for value in each.probabilities])
    ended = np.array([value for each in made for value in each.ended], dtype=float)
    place = np.minimum((p * BINS).astype(int), BINS - 1)
    bins = [(number, place == number) for number in range(BINS)]
    return [
        {"low": number / BINS, "high": (number + 1) / BINS, "n": int(here.sum()),
         "predicted": float(p[here].mean()), "ended": float(ended[here].mean())}
        for number, here in bins if here.any()
    ]  # fmt: skip


def end_f1_difference(
    first: Sequence[Decisions], second: Sequence[Decisions], threshold: float = 0.5
) -> Estimate:
    """F1 of END of one model minus another's, both on the same people; conversations are resampled in pairs.

    Args:
        first: the decisions of one model, by conversation.
        second: those of the other, in the same order; a pair whose openings differ is left out.
        threshold: the probability from which END counts as predicted.
    """
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a.probabilities and a.ended == b.ended]
    if not pairs:
        return stats.undefined(NO_END)
    table = np.array([[*_end_row(a, threshold), *_end_row(b, threshold)] for a, b in pairs])
    half = table.shape[1] // 2
    return stats.bootstrap(
        table, lambda s: _f1(s[..., :half]) - _f1(s[..., half:]), undefined_because=NO_ENDED
    )


def _f1(sums: Array) -> Array:
    """2tp / (2tp + fp + fn); undefined if no conversation ended and no END was predicted."""
    hit, false, missed = sums[..., 0], sums[..., 1], sums[..., 2]
    return np.where(hit + missed > 0, 2 * hit / (2 * hit + false + missed), np.nan)


def _end_row(made: Decisions, threshold: float) -> list[float]:
    """True positives, false positives, false negatives, squared error, decisions; then Σ p and Σ ended by bin of p."""
    p, ended = np.array(made.probabilities), np.array(made.ended, dtype=float)
    predicted = p >= threshold
    place = np.minimum((p * BINS).astype(int), BINS - 1)
    counts = [(predicted * ended).sum(), (predicted * (1 - ended)).sum(), (~predicted * ended).sum()]
    binned = [np.bincount(place, of, minlength=BINS) for of in (p, ended)]
    return [*map(float, counts), float(((p - ended) ** 2).sum()), float(len(p)), *binned[0], *binned[1]]
