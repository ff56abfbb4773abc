"""Can a classifier tell simulated turns from people's? The AUC of one trained here; .5 is indistinguishable.

A logistic regression on hashed character n-grams, cross-validated by conversation: a turn is scored by a model that
saw no turn of its conversation. Offline, deterministic, and only as sharp as its features: .5 says that this
classifier sees no difference, not that there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from maieutic.core import statistics as stats
from maieutic.core.messages import Estimate, fingerprint
from maieutic.evals.embed import gram_counts, unit_rows

Array = NDArray[np.float64]
SIZES = (1, 2, 3, 4)
BITS = 16
FOLDS = 5
PENALTY = 0.1
"""Times half the squared length of the weights, against the summed loss (scikit-learn's C is 1 / this: 10)."""
MOST = 600
"""Turns of a side that are used: whole conversations, in the order of their hashes."""
GROUPS = 13
"""Of conversations, each left out once for the interval; prime to the folds, so that no fold loses most."""


class _Turns(NamedTuple):
    """The turns of both sides, the simulated first."""

    features: Array
    """A row for each, in as many dimensions as there are independent ones."""
    label: Array
    """1 for a simulated turn, -1 for a person's."""
    home: NDArray[Any]
    """The conversation of each, numbered from 0 on either side."""


def auc(simulated: Sequence[Sequence[str]], people: Sequence[Sequence[str]]) -> Estimate:
    """The chance that a simulated turn looks more simulated than a person's; pairs of turns of one fold, ties ½.

    Args:
        simulated: the turns of each conversation of one side.
        people: of the other.

    Up to 600 turns a side, five folds of conversations by hash (fewer where a side has fewer conversations), both
    sides weighing the same. The interval is value ± t standard errors of a grouped jackknife that trains anew without
    each of 13 groups of conversations: which conversations were trained on decides more than which were tested.
    After human-likeness by a trained detector (PlatoLM, arXiv 2308.11534; UserLM-8b, arXiv 2510.06552), whose
    detectors are closed.
    """
    sides = [[turns for turns in side if turns] for side in (simulated, people)]
    fewest = min(map(len, sides))
    folds = min(FOLDS, fewest)
    if folds < 2:
        return stats.undefined("fewer than two conversations on one side: nothing to train and to test on")
    turns = _turns([_chosen(side, folds) for side in sides])
    value = cross_validated(turns, folds)
    units, groups = int(turns.home[turns.label > 0].max()) + 1, min(GROUPS, fewest)
    if value is None:
        return stats.undefined("no fold has turns of both sides", units)
    without = [
        cross_validated(_Turns(*(part[turns.home % groups != group] for part in turns)), folds)
        for group in range(groups)
    ]
    ci, reason = _interval(value, [one for one in without if one is not None])
    return Estimate(value, ci, units, reason)


def _interval(value: float, without: Sequence[float]) -> tuple[tuple[float, float] | None, str | None]:
    """Value ± t standard errors of the grouped jackknife."""
    from scipy.special import stdtrit

    count = len(without)
    if count < 3:
        return None, "too few conversations: no interval"
    if np.ptp(without) == 0:
        return None, stats.NO_SPREAD
    error = float(np.sqrt((count - 1) * np.var(without))) * float(stdtrit(count - 1, 0.975))
    return (max(0.0, value - error), min(1.0, value + error)), None


def _chosen(side: Sequence[Sequence[str]], folds: int) -> list[Sequence[str]]:
    """Conversations in the order of their hashes, at least one a fold, as many as the turns allow; long ones cut."""
    short = [turns[: MOST // folds] for turns in side]
    ordered = sorted(short, key=lambda turns: fingerprint(list(turns)))
    total = np.cumsum([len(turns) for turns in ordered])
    return ordered[: max(folds, int(np.searchsorted(total, MOST, side="right")))]


def _turns(sides: Sequence[Sequence[Sequence[str]]]) -> _Turns:
    """Features of all turns: n-grams by 1 + ln count, of unit length, turned into their own few dimensions.

    The rotation changes no product of two rows, hence no penalised regression on them, only its cost.
    """
    said = [(f"\2{turn}\3", sign, home) for sign, side in zip((1.0, -1.0), sides, strict=True)
            for home, turns in enumerate(side) for turn in turns]  # fmt: skip
    counts = gram_counts([turn for turn, _, _ in said], SIZES, BITS)
    counts.data = 1 + np.log(counts.data)
    rows = unit_rows(counts)
    sizes, axes = np.linalg.eigh((rows @ rows.T).toarray())
    kept = sizes > 1e-9
    features = axes[:, kept] * np.sqrt(sizes[kept])
    return _Turns(features, np.array([sign for _, sign, _ in said]), np.array([home for *_, home in said]))


def cross_validated(turns: _Turns, folds: int) -> float | None:
    """The AUC over pairs of turns of one fold, each fold scored by a model that saw nothing of it."""
    fold = turns.home % folds
    won = pairs = 0.0
    for held in range(folds):
        seen, here = fold != held, fold == held
        if len(set(turns.label[seen])) < 2 or len(set(turns.label[here])) < 2:
            continue
        weights, bias = logistic(turns.features[seen], turns.label[seen])
        # a score differs in its last digits with the order of sums; equal turns must tie
        scores = np.round(turns.features[here] @ weights + bias, 9)
        more, of = wins(scores[turns.label[here] > 0], scores[turns.label[here] < 0])
        won, pairs = won + more, pairs + of
    return won / pairs if pairs else None


def wins(first: Array, second: Array) -> tuple[float, int]:
    """In how many pairs the first is greater, ties counted half; and how many pairs there are (Mann & Whitney 1947)."""
    ordered = np.sort(second)
    below = np.searchsorted(ordered, first, "left") + np.searchsorted(ordered, first, "right")
    return float(below.sum()) / 2, len(first) * len(second)


def logistic(features: Array, label: Array) -> tuple[Array, float]:
    """Weights and bias of the least penalised log-loss, both labels (1 and -1) weighing the same; by L-BFGS."""
    from scipy.optimize import minimize
    from scipy.special import expit

    balance = 0.5 / np.where(label > 0, (label > 0).mean(), (label < 0).mean())

    def loss(point: Array) -> tuple[float, Array]:
        margins = label * (features @ point[:-1] + point[-1])
        slope = -balance * label * expit(-margins)
        value = balance @ np.logaddexp(0, -margins) + PENALTY / 2 * point[:-1] @ point[:-1]
        return float(value), np.append(slope @ features + PENALTY * point[:-1], slope.sum())

    found = minimize(loss, np.zeros(features.shape[1] + 1), jac=True, method="L-BFGS-B")
    return found.x[:-1], float(found.x[-1])
