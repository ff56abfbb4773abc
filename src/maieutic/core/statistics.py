"""Intervals and tests: bootstrap, exact binomial, permutation, Holm, and sample sizes of comparisons.

Everything is seeded, so results are reproducible. An undefined statistic is null, with a reason. A single unit, equal
values or no values raise no error and no warning.

The bootstrap resamples *units* (clusters: conversations, questions, prompts) with replacement and recomputes a
function of column sums; means, ratios, F1, correlations and calibration errors are all such functions, so one
vectorised routine serves them all (Efron & Tibshirani 1993, ch. 13: the percentile interval).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from maieutic.core.errors import InputError
from maieutic.core.messages import Estimate

Array = NDArray[np.float64]
RESAMPLES = 10_000
LEVEL = 0.95
_CELLS = 4_000_000
"""Maximum cells of the weight matrix in memory: 32 MB."""

NO_UNITS = "nothing to measure"
ONE_UNIT = "only one unit: no interval"
NO_SPREAD = "all units are equal: no interval"


def undefined(reason: str, n: int = 0) -> Estimate:
    """An estimate without a value, and the reason."""
    return Estimate(None, None, n, reason)


def cluster(columns: ArrayLike, groups: Sequence[Hashable] | None) -> Array:
    """Column sums by group, in the order of first occurrence; without groups each row is a unit."""
    table = np.asarray(columns, dtype=float)
    table = table.reshape(len(table), -1) if table.size else np.empty((0, 1))
    if groups is None or not len(table):
        return table
    numbers: dict[Hashable, int] = {}
    index = [numbers.setdefault(group, len(numbers)) for group in groups]
    sums = np.zeros((len(numbers), table.shape[1]))
    np.add.at(sums, index, table)
    return sums


def weights(units: int, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[Array]:
    """How often each unit occurs in each resample: chunks of shape (resamples, units), rows summing to `units`."""
    generator = np.random.default_rng(seed)
    rows = max(1, min(resamples, _CELLS // max(units, 1)))
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        drawn = generator.integers(0, units, size=(size, units))
        drawn += (np.arange(size) * units)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * units).reshape(size, units).astype(float)


def interval(
    draws: Array, level: float = LEVEL, scale: float = 1.0
) -> tuple[tuple[float, float] | None, str | None]:
    """The percentile interval of bootstrap draws, ignoring undefined draws (NaN); null with a reason if there is none.

    `scale` is the size of the numbers that the draws were computed from (1 for shares and correlations): draws that
    differ by less than 1e-12 of it differ by rounding only.
    """
    known = draws[np.isfinite(draws)]
    if len(known) < max(2, len(draws) / 2):
        return None, "undefined in most resamples: no interval"
    if np.ptp(known) <= 1e-12 * max(scale, abs(float(known[0]))):
        return None, NO_SPREAD
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return (float(low), float(high)), None


def bootstrap(
    columns: ArrayLike,
    function: Callable[[Array], Any],
    groups: Sequence[Hashable] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    undefined_because: str = "undefined for these values",
    scale: float = 1.0,
) -> Estimate:
    """A function of column sums, with a clustered percentile bootstrap interval.

    Args:
        columns: rows by k numbers.
        function: takes sums of shape (..., k), returns values of shape (...); NaN where undefined.
        groups: the unit of each row; null: every row is a unit.
        resamples: bootstrap draws.
        seed: the random seed of the draws.
        undefined_because: the reason for an undefined value.
        scale: see `interval`.

    Returns:
        `value` on all rows, its interval, and `n`, the number of units.
    """
    units = cluster(columns, groups)
    if not len(units):
        return undefined(NO_UNITS)
    with np.errstate(all="ignore"):
        value = float(function(units.sum(axis=0)))
        if not math.isfinite(value):
            return undefined(undefined_because, len(units))
        if len(units) == 1:
            return Estimate(value, None, 1, ONE_UNIT)
        draws = [np.asarray(function(chunk @ units)) for chunk in weights(len(units), resamples, seed)]
    ci, reason = interval(np.concatenate(draws), scale=scale)
    return Estimate(value, ci, len(units), reason)


def _first_over_second(sums: Array) -> Array:
    return np.asarray(sums[..., 0] / sums[..., 1])


def mean(values: ArrayLike, groups: Sequence[Hashable] | None = None, *, seed: int = 0) -> Estimate:
    """The mean of all values; the interval resamples groups (a ratio of sums: larger groups weigh more)."""
    numbers = np.asarray(values, dtype=float)
    columns = np.column_stack([numbers, np.ones(len(numbers))])
    scale = float(np.abs(numbers).max(initial=0.0))
    estimate = bootstrap(columns, _first_over_second, groups, seed=seed, scale=scale)
    if estimate.value is None:
        return estimate
    return estimate._replace(value=math.fsum(numbers.tolist()) / len(numbers))


def ratio(
    numerators: ArrayLike,
    denominators: ArrayLike,
    groups: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    transform: Callable[[Array], Array] | None = None,
) -> Estimate:
    """Σ numerators / Σ denominators, through `transform` (`np.exp` gives a perplexity)."""
    columns = np.column_stack([np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)])
    outer = transform or (lambda share: share)
    return bootstrap(columns, lambda sums: outer(_first_over_second(sums)), groups, seed=seed)


def proportion(
    values: Sequence[float], groups: Sequence[Hashable] | None = None, *, seed: int = 0
) -> Estimate:
    """The share of ones; the interval is exact binomial if every row is its own unit, else a clustered bootstrap.

    Values between 0 and 1 (averaged verdicts) are bootstrapped too.
    """
    if (groups is not None and len(set(groups)) < len(values)) or not set(values) <= {0.0, 1.0}:
        return mean(values, groups, seed=seed)
    return binomial(round(math.fsum(values)), len(values))


def binomial(successes: int, n: int, level: float = LEVEL) -> Estimate:
    """A share with its exact interval (Clopper & Pearson 1934): β quantiles."""
    from scipy.special import betaincinv

    if n == 0:
        return undefined(NO_UNITS)
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else float(betaincinv(successes, n - successes + 1, tail))
    high = 1.0 if successes == n else float(betaincinv(successes + 1, n - successes, 1 - tail))
    return Estimate(successes / n, (low, high), n)


def paired(
    first: ArrayLike, second: ArrayLike, groups: Sequence[Hashable] | None = None, *, seed: int = 0
) -> Estimate:
    """The mean of first - second over the same items; the interval resamples items (or groups of them)."""
    return mean(np.asarray(first, dtype=float) - np.asarray(second, dtype=float), groups, seed=seed)


def sign_flip(
    differences: ArrayLike, groups: Sequence[Hashable] | None = None, *, seed: int = 0
) -> float | None:
    """Two-sided p of "no difference" by flipping the signs of units at random (Fisher's paired permutation test)."""
    sums = cluster(differences, groups)[:, 0]
    if not len(sums):
        return None
    generator = np.random.default_rng(seed)
    observed, extreme = abs(sums.sum()) * (1 - 1e-12), 0
    rows = max(1, _CELLS // len(sums))
    for start in range(0, RESAMPLES, rows):
        signs = generator.integers(0, 2, size=(min(rows, RESAMPLES - start), len(sums))) * 2.0 - 1.0
        extreme += int((np.abs(signs @ sums) >= observed).sum())
    return (extreme + 1) / (RESAMPLES + 1)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """The p-values adjusted for multiple tests (Holm 1979); null values stay null and are not counted."""
    known = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, index) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        adjusted[index] = highest
    return adjusted


def standard_error(values: Sequence[float]) -> float | None:
    """The standard error of a mean: sd (n - 1) / √n; null for fewer than two values."""
    if len(values) < 2:
        return None
    centre = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1) / len(values))


_MOST_ITEMS = 1e15


class Plan(NamedTuple):
    """The number of items that a paired comparison needs, and the assumptions."""

    items: int
    difference: float
    sd: float
    power: float
    alpha: float


def plan(difference: float, sd: float = 0.5, power: float = 0.8, alpha: float = 0.05) -> Plan:
    """Items for a two-sided paired comparison: ((z(1 - alpha/2) + z(power)) · sd / difference)², rounded up.

    `sd` is the standard deviation of the paired differences; .5 is a cautious guess for scores between 0 and 1. The
    normal approximation is slightly low below 30 items.

    Raises:
        InputError: the difference or sd is not positive and finite, the power or alpha is outside (0, 1), the power is
            at most alpha / 2, or more than 1e15 items are needed.
    """
    from scipy.special import ndtri

    asked = f"cannot plan for difference {difference:g}, sd {sd:g}, power {power:g}, alpha {alpha:g}"
    if not (0 < difference < math.inf and 0 < sd < math.inf and 0 < power < 1 and 0 < alpha < 1):
        raise InputError(
            asked, "Give a difference and an sd above 0, and a power and an alpha between 0 and 1."
        )
    if power <= alpha / 2:
        raise InputError(asked, "Give a power above alpha / 2, which a test without any effect has.")
    root = float(ndtri(1 - alpha / 2) + ndtri(power)) * sd / difference
    if not root < _MOST_ITEMS**0.5:
        raise InputError(
            asked, f"It takes more than {_MOST_ITEMS:g} items: give a larger difference or alpha."
        )
    return Plan(math.ceil(root**2), difference, sd, power, alpha)
