"""Does a simulator know when to end? One decision at each human opening, against what the person did."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from maieutic.chat_templates.openings import Decisions
from maieutic.core import statistics as stats
from maieutic.core.messages import Estimate

Array = NDArray[np.float64]
BINS = 10
METRICS = ("end_precision", "end_recall", "end_f1", "end_calibration_error", "end_brier")
NO_END = "the model gives no probability of END"
NOBODY_ENDED = "no conversation was ended by its person"


def end_scores(made: Sequence[Decisions], threshold: float = 0.5) -> dict[str, Estimate]:
    """Precision, recall and F1 of END, its calibration error (ten equal bins) and Brier score; by conversation.

    END counts as predicted from `threshold` on. Sources: end F1, UserLM-8b (arXiv 2510.06552); expected calibration
    error, Naeini et al. 2015.
    """
    rows = [_end_row(one, threshold) for one in made if one.probabilities]
    if not rows:
        return {name: stats.undefined(NO_END) for name in METRICS}
    table = np.array(rows)
    return {
        "end_precision": stats.bootstrap(table, lambda s: s[..., 0] / (s[..., 0] + s[..., 1]),
                                         undefined_because="END was never predicted"),
        "end_recall": stats.bootstrap(table, lambda s: s[..., 0] / (s[..., 0] + s[..., 2]),
                                      undefined_because=NOBODY_ENDED),
        "end_f1": stats.bootstrap(table, _f1, undefined_because=NOBODY_ENDED),
        "end_calibration_error": stats.bootstrap(
            table, lambda s: np.abs(s[..., 5 : 5 + BINS] - s[..., 5 + BINS :]).sum(axis=-1) / s[..., 4]
        ),
        "end_brier": stats.bootstrap(table, lambda s: s[..., 3] / s[..., 4]),
    }  # fmt: skip


def end_bins(made: Sequence[Decisions]) -> list[dict[str, float]]:
    """The calibration of END by ten equal bins of its probability, those with decisions in them.

    Returns:
        `low`, `high` of the bin, `n` decisions, the mean probability `predicted`, the share that `ended`.
    """
    p = np.array([value for one in made for value in one.probabilities])
    ended = np.array([value for one in made for value in one.ended], dtype=float)
    place = np.minimum((p * BINS).astype(int), BINS - 1)
    bins = [(number, place == number) for number in range(BINS)]
    return [
        {"low": number / BINS, "high": (number + 1) / BINS, "n": int(here.sum()),
         "predicted": float(p[here].mean()), "ended": float(ended[here].mean())}
        for number, here in bins if here.any()
    ]  # fmt: skip


def _f1(sums: Array) -> Array:
    """2tp / (2tp + fp + fn); undefined where nobody ended and nothing was predicted."""
    hit, false, missed = sums[..., 0], sums[..., 1], sums[..., 2]
    return np.where(hit + missed > 0, 2 * hit / (2 * hit + false + missed), np.nan)


def _end_row(made: Decisions, threshold: float) -> list[float]:
    """Hits, false ends, missed ends, squared error, decisions; then Σ p and Σ ended by bin of p."""
    p, ended = np.array(made.probabilities), np.array(made.ended, dtype=float)
    said = p >= threshold
    place = np.minimum((p * BINS).astype(int), BINS - 1)
    counts = [(said * ended).sum(), (said * (1 - ended)).sum(), (~said * ended).sum()]
    binned = [np.bincount(place, of, minlength=BINS) for of in (p, ended)]
    return [*map(float, counts), float(((p - ended) ** 2).sum()), float(len(p)), *binned[0], *binned[1]]


def f1_difference(
    first: Sequence[Decisions], second: Sequence[Decisions], threshold: float = 0.5
) -> Estimate:
    """F1 of END of one model minus another's, both on the same people; conversations are resampled in pairs.

    Args:
        first: the decisions of one model, by conversation.
        second: those of the other, in the same order; openings that only one can decide leave the pair out.
        threshold: from which END counts as predicted.
    """
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a.probabilities and a.ended == b.ended]
    if not pairs:
        return stats.undefined(NO_END)
    table = np.array([[*_end_row(a, threshold), *_end_row(b, threshold)] for a, b in pairs])
    half = table.shape[1] // 2
    return stats.bootstrap(
        table, lambda s: _f1(s[..., :half]) - _f1(s[..., half:]), undefined_because=NOBODY_ENDED
    )
