"""Statistics of latencies on series whose answer is known."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.measure import latency
from edgekit.measure.environment import environment, peak_rss_mb
from edgekit.measure.latency import BenchPlan
from edgekit.measure.statistics import STEADY_WINDOW, percentile, steady


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60), st.floats(0, 100))
def test_percentile_is_numpys(values, percent):
    ordered = sorted(values)
    assert percentile(ordered, percent) == pytest.approx(np.percentile(ordered, percent), rel=1e-9, abs=1e-9)


def test_steady_after_the_slope_not_on_it():
    falling = [100.0 - 3 * i for i in range(3 * STEADY_WINDOW)]
    assert not steady(falling)
    assert steady(falling + [28.0] * 3 * STEADY_WINDOW)
    assert not steady([28.0] * (3 * STEADY_WINDOW - 1)), "too few runs to tell"
    spikes = [28.0 if i % 5 else 280.0 for i in range(3 * STEADY_WINDOW)]
    assert steady(spikes), "single disturbances do not count"


def test_warm_up_gives_up_at_its_limit():
    growing = iter(range(1, 10_000))
    runs, reached = latency.warm_up(lambda: float(next(growing)), limit=1000.0)
    assert not reached
    assert runs == 45, "1 + 2 + ... + 45 seconds pass the limit of 1000"


def test_sampling_reaches_both_minima():
    assert len(latency.sample(lambda: 0.5, BenchPlan(seconds=2.0, runs=1))) == 4
    assert len(latency.sample(lambda: 0.5, BenchPlan(seconds=0.0, runs=7))) == 7


def test_summary_of_a_known_distribution():
    dice = random.Random(0)
    times = [dice.uniform(0.001, 0.002) for _ in range(20_000)]
    seen = latency.summarize(times)
    assert (seen.p50, seen.p90, seen.p99) == pytest.approx((1.5, 1.9, 1.99), rel=0.02)
    assert seen.min <= seen.p50 <= seen.p90 <= seen.p99 <= seen.max
    assert seen.mean == pytest.approx(1.5, rel=0.02)


def test_doubtful_runs_are_marked():
    calm = {"load": 0.1, "cores": 2}
    good = latency.summarize([0.001] * 100)
    assert latency._doubts(good, calm, is_steady=True) == []
    assert "steady" in latency._doubts(good, calm, is_steady=False)[0]
    disturbed = latency.summarize([0.001] * 80 + [0.01] * 20)
    assert "something else ran" in latency._doubts(disturbed, calm, is_steady=True)[0]
    assert "busy" in latency._doubts(good, {"load": 9.0, "cores": 2}, is_steady=True)[0]


def test_plans_refuse_nonsense():
    with pytest.raises(ValueError, match="at least one run"):
        BenchPlan(runs=0)


def test_the_environment_tells_what_it_knows():
    seen = environment()
    assert seen["cores"] >= 1
    assert seen["memory_mb"] > 100
    assert seen["numpy"] == np.__version__
    assert peak_rss_mb() > 10
