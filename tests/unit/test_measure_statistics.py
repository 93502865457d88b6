"""Statistics against numpy, exact binomials and published tables."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.measure.statistics import (
    binomial_below,
    binomial_quantile,
    bound_holds,
    early_stopping_rank,
    mean_interval,
    percentile,
    percentile_interval,
    spread,
    steady,
    student_quantile,
)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60), st.floats(0, 100))
def test_percentile_is_numpys(values, percent):
    ordered = sorted(values)
    assert percentile(ordered, percent) == pytest.approx(np.percentile(ordered, percent), rel=1e-9, abs=1e-9)


def test_steady_after_the_slope_not_on_it():
    assert not steady([100.0, 97.0])
    assert not steady([100.0, 90.0, 85.0])
    assert steady([100.0, 90.0, 85.0, 84.0, 83.0])
    assert not steady([84.0, 83.0, 100.0])


@given(st.integers(1, 60), st.floats(0.01, 0.99), st.integers(0, 60))
def test_binomials_are_exact(count, chance, k):
    whole = sum(math.comb(count, i) * chance**i * (1 - chance) ** (count - i) for i in range(min(k, count) + 1))
    assert binomial_below(min(k, count), count, chance) == pytest.approx(whole, abs=1e-9)


@pytest.mark.parametrize("count", [10, 100, 5000, 200_000])
def test_binomial_quantiles_enclose_the_level(count):
    for level in (0.025, 0.5, 0.975):
        k = binomial_quantile(level, count, 0.9)
        assert binomial_below(k, count, 0.9) >= level - 1e-9
        assert k == 0 or binomial_below(k - 1, count, 0.9) < level


@pytest.mark.parametrize(("percent", "count"), [(50, 40), (90, 200), (99, 2000)])
def test_intervals_cover_as_often_as_they_promise(percent, count):
    dice = np.random.default_rng(percent)
    truth = -math.log(1 - percent / 100)  # of the exponential distribution
    held = 0
    for _ in range(600):
        low, high = percentile_interval(sorted(dice.exponential(size=count)), percent)
        held += low <= truth <= high
    assert held / 600 >= 0.93, "95 % but for the chance of 600 trials"


def test_an_interval_without_enough_runs_is_open():
    ordered = [float(i) for i in range(100)]
    low, high = percentile_interval(ordered, 99)
    assert low is not None
    assert high is None, "the largest of 100 lies below the 99th percentile in every third case"
    assert percentile_interval([1.0], 50) == (None, None)
    low, high = percentile_interval(ordered, 50)
    assert (low, high) == (39.0, 60.0), "ranks 40 and 61 of 100: David and Nagaraja, table of section 7.1"


def test_early_stopping_is_loadgens():
    # Queries that LoadGen's rules ask for at least: one late for p90 and p99, at 99 % confidence.
    assert early_stopping_rank(63, 90) is None
    assert early_stopping_rank(64, 90) == 1
    assert early_stopping_rank(661, 99) is None
    assert early_stopping_rank(662, 99) == 1
    assert early_stopping_rank(100_000, 99) == pytest.approx(1000 - 2.33 * math.sqrt(990), abs=5)


def test_the_servers_bound_is_loadgens():
    assert not bound_holds(458, 0, 99)
    assert bound_holds(459, 0, 99), "ln 0.01 / ln 0.99"
    assert not bound_holds(661, 1, 99)
    assert bound_holds(662, 1, 99)


@pytest.mark.parametrize(
    ("freedom", "level", "value"),
    [
        (1, 0.975, 12.706),
        (2, 0.995, 9.925),
        (3, 0.995, 5.841),
        (4, 0.995, 4.604),
        (9, 0.975, 2.262),
        (30, 0.995, 2.750),
    ],
)
def test_students_table(freedom, level, value):
    assert student_quantile(level, freedom) == pytest.approx(value, abs=6e-4)


def test_the_mean_of_few():
    mean, half = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0], 0.99)
    assert mean == 3
    assert half == pytest.approx(4.604 * math.sqrt(2.5) / math.sqrt(5), rel=1e-3)
    assert mean_interval([7.0], 0.99) == (7.0, math.inf)


def test_spread_of_a_normal_distribution():
    assert spread(np.random.default_rng(0).normal(5, 2, 20_000).tolist()) == pytest.approx(2, rel=0.03)
