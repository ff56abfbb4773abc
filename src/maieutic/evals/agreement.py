"""Agreement of two raters, each statistic with a bootstrap interval over the rated rows.

Rows with the same two ratings form one cell with a count. A resample draws new counts, so ranks, ties and marginals of
thousands of resamples are computed at once. The same function computes the value and its resamples.

Sources: Pearson; Spearman on midranks; Kendall's τ-b (1945); Cohen's κ (1960), weighted by squared differences of
the *values* (1968), so an unused category still counts as a step; Krippendorff's alpha, interval metric (2011).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from maieutic.core import statistics as stats
from maieutic.core.messages import Estimate

Array = NDArray[np.float64]
CORRELATIONS = ("pearson", "spearman", "kendall")
SAME_SCALE = ("kappa", "weighted_kappa", "accuracy", "bias")
EACH = ("kappa", "accuracy")
"""Statistics that count equal ratings, and so need each person's own rating and not the mean."""
_DRAWS = 2_000_000
"""Limit of cells × resamples: 10,000 resamples for up to 200 cells, fewer for more cells, at least 1,000."""
_PAIR_WORK = 2e10
"""Limit of multiplications for Kendall's τ-b."""
_NOISE = 1e-24
"""A variance below this share of the squares is rounding error: a spread of 1e-12 of the ratings' size."""
CONSTANT = "one side is constant: no correlation"


class Cells(NamedTuple):
    """Distinct pairs of ratings and how often each occurs."""

    x: Array
    y: Array
    counts: Array


def cells(x: Sequence[float], y: Sequence[float]) -> Cells:
    """Two ratings of the same rows as cells."""
    pairs, counts = np.unique(np.column_stack([x, y]).astype(float).round(12), axis=0, return_counts=True)
    return Cells(pairs[:, 0], pairs[:, 1], counts.astype(float))


def agreement(x: Sequence[float], y: Sequence[float], *, seed: int = 0) -> dict[str, Estimate]:
    """Every statistic of two raters (`bias` is the mean of y - x), by name; an undefined one is null, with a reason."""
    names = (*CORRELATIONS, *SAME_SCALE)
    if len(x) < 2:
        return {name: stats.undefined("fewer than two rated rows", len(x)) for name in (*names, "alpha")}
    table = cells(x, y)
    resamples = int(min(stats.RESAMPLES, max(1000, _DRAWS // len(table.counts))))
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(len(x), table.counts / len(x), size=resamples).astype(float)
    with np.errstate(all="ignore"):
        values = _statistics(table.counts[None, :], table)
        spread = _statistics(draws, table)
    result = {name: _estimate(values[name], spread[name], len(x)) for name in names if name != "bias"}
    size = float(max(np.abs(table.x).max(), np.abs(table.y).max()))
    result["bias"] = _estimate(values["bias"], spread["bias"], len(x), size)
    result["alpha"] = krippendorff([list(pair) for pair in zip(x, y, strict=True)], seed=seed)
    return result


def _estimate(value: Array, draws: Array, n: int, scale: float = 1.0) -> Estimate:
    if not np.isfinite(value[0]):
        return stats.undefined(CONSTANT, n)
    ci, reason = stats.interval(draws, scale=scale)
    return Estimate(float(value[0]), ci, n, reason)


def against_each(
    people: Sequence[Sequence[float | None]], judge: Sequence[float], *, seed: int = 0
) -> dict[str, Estimate]:
    """Kappa and accuracy of a judge against each of several people, averaged over the people.

    Args:
        people: for each rated row the people's ratings, in the same order of people; null for a missing rating.
        judge: the judge's rating of each row.
        seed: of the bootstrap draws; a drawn row counts for every person.
    """
    width = max((len(row) for row in people), default=0)
    padded = [
        [*(np.nan if one is None else one for one in row), *[np.nan] * (width - len(row)), rating]
        for row, rating in zip(people, judge, strict=True)
    ]
    if len(padded) < 2:
        return {name: stats.undefined("fewer than two rated rows", len(padded)) for name in EACH}
    table, counts = np.unique(np.array(padded).round(12), axis=0, return_counts=True)
    resamples = int(min(stats.RESAMPLES, max(1000, _DRAWS // len(counts))))
    draws = np.random.default_rng(seed).multinomial(len(padded), counts / len(padded), size=resamples)
    with np.errstate(all="ignore"):
        value, spread = (
            _each(weights, table) for weights in (counts[None, :].astype(float), draws.astype(float))
        )
    return {name: _estimate(value[name], spread[name], len(padded)) for name in EACH}


def _each(weights: Array, table: Array) -> dict[str, Array]:
    """The means over people; a person whose statistic is undefined in a resample is left out of it."""
    sums = {name: np.zeros((2, len(weights))) for name in EACH}
    for ratings in table[:, :-1].T:
        known = ~np.isnan(ratings)
        x, y, w = ratings[known], table[known, -1], weights[:, known]
        same, n = w @ (x == y), w.sum(axis=1)
        for name, found in (
            ("kappa", _kappa(same, n, _levels(w, x), _levels(w, y))),
            ("accuracy", same / n),
        ):
            given = np.isfinite(found)
            sums[name] += np.stack([np.where(given, found, 0.0), given])
    return {name: total / several for name, (total, several) in sums.items()}


def _statistics(weights: Array, table: Cells) -> dict[str, Array]:
    """Every statistic for each row of weights (resamples by cells); NaN where undefined."""
    x, y = table.x, table.y
    levels_x, levels_y = _levels(weights, x), _levels(weights, y)
    n = weights.sum(axis=1)
    same, gap = weights @ (x == y), weights @ (x - y) ** 2
    mean_x, mean_y = weights @ x / n, weights @ y / n
    from_x, from_y = x - x.mean(), y - y.mean()
    variance = (weights @ from_x**2 + weights @ from_y**2) / n
    variance -= (weights @ from_x / n) ** 2 + (weights @ from_y / n) ** 2
    apart = variance + (mean_x - mean_y) ** 2
    farthest = max(x.max(), y.max()) - min(x.min(), y.min())
    return {
        "pearson": _correlation(
            weights, np.broadcast_to(x, weights.shape), np.broadcast_to(y, weights.shape)
        ),
        "spearman": _correlation(weights, levels_x.midranks, levels_y.midranks),
        "kendall": _kendall(weights, table, levels_x, levels_y),
        "kappa": _kappa(same, n, levels_x, levels_y),
        "weighted_kappa": np.where(apart > 1e-12 * farthest**2, 1 - gap / n / apart, np.nan),
        "accuracy": same / n,
        "bias": mean_y - mean_x,
    }


class _Levels(NamedTuple):
    values: Array
    counts: Array
    """resamples × distinct values"""
    midranks: Array
    """resamples by cells: the mean rank, from 1, of the cell's value"""


def _levels(weights: Array, ratings: Array) -> _Levels:
    values, place = np.unique(ratings, return_inverse=True)
    order = np.argsort(place, kind="stable")
    ends = np.searchsorted(place[order], np.arange(len(values)), side="right") - 1
    up_to = weights[:, order].cumsum(axis=1)[:, ends]
    counts = np.diff(up_to, axis=1, prepend=0.0)
    return _Levels(values, counts, (up_to - (counts - 1) / 2)[:, place])


def _kappa(same: Array, n: Array, levels_x: _Levels, levels_y: _Levels) -> Array:
    _, in_x, in_y = np.intersect1d(levels_x.values, levels_y.values, return_indices=True)
    by_chance = (levels_x.counts[:, in_x] * levels_y.counts[:, in_y]).sum(axis=1) / n**2
    return np.where(by_chance < 1 - 1e-12, (same / n - by_chance) / (1 - by_chance), np.nan)


def _correlation(weights: Array, x: Array, y: Array) -> Array:
    """Weighted Pearson correlation of each row; NaN where a side does not vary."""
    n = weights.sum(axis=1, keepdims=True)
    dx = x - (weights * x).sum(axis=1, keepdims=True) / n
    dy = y - (weights * y).sum(axis=1, keepdims=True) / n
    xx, yy = (weights * dx * dx).sum(axis=1), (weights * dy * dy).sum(axis=1)
    scale_x, scale_y = (weights * x * x).sum(axis=1), (weights * y * y).sum(axis=1)
    varies = (xx > _NOISE * scale_x) & (yy > _NOISE * scale_y)
    result = np.where(varies, (weights * dx * dy).sum(axis=1) / np.sqrt(xx * yy), np.nan)
    return np.clip(result, -1.0, 1.0)


def _kendall(weights: Array, table: Cells, levels_x: _Levels, levels_y: _Levels) -> Array:
    size = len(table.x)
    kept = weights[: max(1, min(len(weights), max(100, int(_PAIR_WORK / size**2))))]
    balance = np.zeros(len(kept))
    for start in range(0, size, 1024):
        block = slice(start, start + 1024)
        signs = np.sign(table.x[:, None] - table.x[block]) * np.sign(table.y[:, None] - table.y[block])
        balance += ((kept @ signs) * kept[:, block]).sum(axis=1) / 2
    n = kept.sum(axis=1)
    pairs = n * (n - 1) / 2
    free = [
        pairs - (c * (c - 1) / 2).sum(axis=1)
        for c in (levels_x.counts[: len(kept)], levels_y.counts[: len(kept)])
    ]
    return np.where((free[0] > 0) & (free[1] > 0), balance / np.sqrt(free[0] * free[1]), np.nan)


_ALL_EQUAL = "all ratings are equal: alpha is undefined"


def krippendorff(ratings: Sequence[Sequence[float | None]], *, seed: int = 0) -> Estimate:
    """Krippendorff's alpha with the interval metric, for any number of raters and missing ratings.

    Args:
        ratings: for each rated row its ratings, null where a rater gave none; rows with fewer than two are left out.
        seed: of the bootstrap draws, over rows.

    On yes/no ratings as 1 and 0 the interval metric is the nominal one.
    """
    known = [[value for value in row if value is not None] for row in ratings]
    known = [row for row in known if len(row) >= 2]
    if not known:
        return stats.undefined("no row has two ratings")
    every = np.array([value for row in known for value in row], dtype=float)
    if np.ptp(every) <= 1e-12 * np.abs(every).max():
        return stats.undefined(_ALL_EQUAL, len(known))
    centre = float(np.mean(every))
    columns = []
    for row in known:
        values = np.asarray(row) - centre
        m, total, squares = len(row), values.sum(), (values**2).sum()
        columns.append((m, total, squares, 2 * m / (m - 1) * (squares - total**2 / m)))
    return stats.bootstrap(columns, _alpha, seed=seed, undefined_because=_ALL_EQUAL)


def _alpha(sums: Array) -> Array:
    n, total, squares, within = (sums[..., column] for column in range(4))
    spread = n * squares - total**2
    return np.where(spread > 1e-12 * n * squares, 1 - within * (n - 1) / (2 * spread), np.nan)


def pearson_difference(human: Sequence[float], first: Sequence[float], second: Sequence[float]) -> Estimate:
    """Pearson(human, first) - Pearson(human, second) on the same rows, the rows resampled together."""
    z = [_standard(np.asarray(side, dtype=float)) for side in (human, first, second)]
    if any(side is None for side in z):
        return stats.undefined(CONSTANT, len(human))
    h, a, b = (side for side in z if side is not None)
    columns = np.column_stack([np.ones_like(h), h, a, b, h * h, a * a, b * b, h * a, h * b])

    def difference(sums: Array) -> Array:
        n, sh, sa, sb, hh, aa, bb, ha, hb = (sums[..., column] for column in range(9))
        vh, va, vb = n * hh - sh**2, n * aa - sa**2, n * bb - sb**2
        known = (vh > 1e-12 * n * hh) & (va > 1e-12 * n * aa) & (vb > 1e-12 * n * bb)
        gap = (n * ha - sh * sa) / np.sqrt(vh * va) - (n * hb - sh * sb) / np.sqrt(vh * vb)
        return np.where(known, gap, np.nan)

    return stats.bootstrap(columns, difference)


def _standard(values: Array) -> Array | None:
    spread = values.std()
    size = float(np.abs(values).max(initial=0.0))
    return (values - values.mean()) / spread if spread > 1e-12 * size else None
