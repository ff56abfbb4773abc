"""Intervals, permutation, Holm and planning: against formulas written another way, and on degenerate input."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as reference

from maieutic.core import statistics as stats
from maieutic.core.errors import InputError


def test_bootstrap_is_the_plain_loop() -> None:
    generator = np.random.default_rng(7)
    values, groups = generator.normal(size=60), generator.integers(0, 15, 60).tolist()
    estimate = stats.mean(values, groups)
    loop = np.random.default_rng(1)
    clusters = [values[np.array(groups) == group] for group in sorted(set(groups))]
    draws = [
        np.concatenate([clusters[i] for i in loop.integers(0, len(clusters), len(clusters))]).mean()
        for _ in range(4000)
    ]
    assert estimate.value == pytest.approx(values.mean(), abs=1e-12)
    assert estimate.n == len(clusters)
    assert estimate.ci == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.03)
    assert stats.mean(values, groups) == estimate, "the same digits each time"


def test_weights_draw_as_many_units_as_there_are() -> None:
    chunks = list(stats.weights(7, resamples=100, seed=3))
    assert np.concatenate(chunks).shape == (100, 7)
    assert (np.concatenate(chunks).sum(axis=1) == 7).all()


@pytest.mark.parametrize(
    ("values", "groups", "value", "reason"),
    [
        ([], None, None, stats.NO_UNITS),
        ([3.0], None, 3.0, stats.ONE_UNIT),
        ([1.0, 2.0], ["a", "a"], 1.5, stats.ONE_UNIT),
        ([0.1, 0.1, 0.1], None, 0.1, stats.NO_SPREAD),
    ],
)
def test_no_interval_says_why(
    values: list[float], groups: list[str] | None, value: float | None, reason: str
) -> None:
    estimate = stats.mean(values, groups)
    assert estimate.ci is None
    assert estimate.reason == reason
    assert estimate.value == (None if value is None else pytest.approx(value))


def test_ratio_of_nothing_is_undefined() -> None:
    assert stats.ratio([0.0, 0.0], [0.0, 0.0]).value is None


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (3, 10), (10, 10), (57, 100)])
def test_exact_binomial_equals_scipys(successes: int, n: int) -> None:
    exact = reference.binomtest(successes, n).proportion_ci(method="exact")
    assert stats.binomial(successes, n).ci == pytest.approx((exact.low, exact.high), abs=1e-9)


def test_proportion_is_exact_only_where_rows_are_units() -> None:
    assert stats.proportion([1.0, 1.0, 0.0, 1.0], ["a", "b", "c", "d"]) == stats.binomial(3, 4)
    assert stats.proportion([1.0, 1.0, 0.0, 1.0], ["a", "a", "b", "b"]).n == 2


def test_sign_flip_is_the_exact_test_in_the_small() -> None:
    differences = [1.0, 2.0, 3.0, -0.5, 2.5, 1.5, 0.5, 3.5]
    signs = np.array(np.meshgrid(*[[-1, 1]] * len(differences))).reshape(len(differences), -1).T
    exact = (np.abs(signs @ np.array(differences)) >= sum(differences) - 1e-9).mean()
    assert stats.sign_flip(differences) == pytest.approx(exact, abs=0.01)
    assert stats.sign_flip([0.0, 0.0]) == 1.0
    assert stats.sign_flip([]) is None


def test_holm() -> None:
    assert stats.holm([0.01, 0.04, None, 0.03]) == pytest.approx([0.03, 0.06, None, 0.06])
    assert stats.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_never_lowers_a_p_and_keeps_their_order(p_values: list[float]) -> None:
    adjusted = stats.holm(p_values)
    pairs = sorted(zip(p_values, adjusted, strict=True))
    assert all(q is not None and p <= q <= 1 for p, q in pairs)
    assert [q for _, q in pairs] == sorted(q for _, q in pairs if q is not None)


def test_plan_reaches_its_power() -> None:
    planned = stats.plan(0.1, sd=0.5, power=0.8)
    assert planned.items == 197
    shift = 0.1 * math.sqrt(planned.items) / 0.5
    assert reference.norm.cdf(shift - 1.959964) == pytest.approx(0.8, abs=0.002)


@pytest.mark.parametrize(
    "wrong",
    [
        (0, 0.5, 0.8),
        (0.1, 0, 0.8),
        (0.1, 0.5, 1),
        (float("nan"), 0.5, 0.8),
        (float("inf"), 0.5, 0.8),
        (0.1, float("inf"), 0.8),
        (1e-300, 0.5, 0.8),
        (0.1, 0.5, 0.8, 1e-320),
        (0.1, 0.5, 0.01),
        (0.1, 0.5, 0.025),
    ],
)
def test_plan_refuses_what_makes_no_sense(wrong: tuple[float, ...]) -> None:
    with pytest.raises(InputError):
        stats.plan(*wrong)


def test_ten_thousand_resamples_of_a_thousand_clusters_in_two_seconds() -> None:
    values = np.random.default_rng(0).normal(size=3000)
    started = time.process_time()
    stats.mean(values, [index % 1000 for index in range(3000)])
    assert time.process_time() - started < 2


@pytest.mark.parametrize("scale", [1e-14, 1.0, 1e12])
def test_means_of_any_size_have_an_interval(scale: float) -> None:
    values = np.random.default_rng(0).normal(size=50)
    plain, scaled = stats.mean(values), stats.mean(values * scale)
    assert plain.ci is not None
    assert scaled.ci is not None
    assert np.array(scaled.ci) / scale == pytest.approx(np.array(plain.ci))
    assert stats.mean(np.full(9, 0.1 * scale)).reason == stats.NO_SPREAD
