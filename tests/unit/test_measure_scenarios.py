"""LoadGen's scenarios on a clock that we turn."""

from __future__ import annotations

import itertools
import random
import statistics

import pytest

from edgekit.measure import scenarios
from edgekit.measure.sampling import BenchPlan
from edgekit.measure.statistics import percentile


class Engine:
    """A clock, and a call that takes `seconds` on it."""

    def __init__(self, seconds):
        self.now = 0
        self.seconds = seconds

    def clock(self):
        return self.now

    def __call__(self):
        taken = self.seconds() if callable(self.seconds) else self.seconds
        self.now += round(1e9 * taken)

    def sleep(self, seconds):
        self.now += round(1e9 * seconds)


class Spinning(Engine):
    """The last of a wait is spent looking at the clock: each look takes a little."""

    def clock(self):
        self.now += 1000
        return self.now


def drained(steps):
    events = []
    while True:
        try:
            events.append(next(steps))
        except StopIteration as end:
            return end.value, events


def served(engine, **options):
    plan = BenchPlan(seconds=0.0, runs=1, scenario="server", **options)
    steps = scenarios.server(engine, plan, clock=engine.clock, sleep=engine.sleep, mark=lambda: 0.001)
    return drained(steps)


def test_arrivals_are_poisson_and_seeded():
    times = scenarios.arrivals(200.0, 20_000, seed=1)
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert statistics.fmean(gaps) == pytest.approx(1 / 200, rel=0.03)
    assert statistics.stdev(gaps) == pytest.approx(1 / 200, rel=0.03), "exponential: mean and deviation are equal"
    counts = [sum(1 for t in times if second <= t < second + 1) for second in range(90)]
    assert statistics.variance(counts) == pytest.approx(200, rel=0.35), "of a Poisson count, variance and mean"
    assert times == scenarios.arrivals(200.0, 20_000, seed=1)
    assert times != scenarios.arrivals(200.0, 20_000, seed=2)
    assert scenarios.arrivals(100.0, 50, 1)[-1] == pytest.approx(2 * scenarios.arrivals(200.0, 50, 1)[-1])


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_waiting_for_others_counts_as_queueing_theory_says(load):
    """M/D/1: mean wait = rho s / (2 (1 - rho)), the Pollaczek-Khinchine formula for a constant service time."""
    service = 0.004
    engine = Spinning(service)
    due = scenarios.arrivals(load / service, 60_000, seed=5)
    seen = scenarios.serve(engine, due, clock=engine.clock, sleep=engine.sleep)
    expected = service + load * service / (2 * (1 - load))
    assert statistics.fmean(seen) == pytest.approx(expected, rel=0.06)
    assert min(seen) >= service


def test_no_query_is_answered_before_it_arrives():
    engine = Spinning(0.001)
    due = [0.5, 0.5, 2.0]
    seen = scenarios.serve(engine, due, clock=engine.clock, sleep=engine.sleep)
    assert list(seen) == pytest.approx([0.001, 0.002, 0.001], abs=1e-5)


def test_a_given_rate_holds_or_not():
    (record, good), _ = served(Spinning(0.001), rate=300.0, latency_bound_ms=10.0)
    assert good.holds
    assert (good.metric.value, good.metric.unit, good.rate_qps) == (300.0, "queries/s", 300.0)
    assert good.queries == record.runs == scenarios.LEAST_QUERIES
    (_, bad), _ = served(Spinning(0.001), rate=995.0, latency_bound_ms=2.0)
    assert not bad.holds
    assert bad.metric.value is None
    assert bad.late > 7


def test_the_search_finds_the_highest_rate_that_holds():
    (_, seen), events = served(Spinning(0.002), latency_bound_ms=10.0)
    assert seen.holds
    assert len(seen.trials) == len(events) == scenarios.SEARCH_STEPS
    assert seen.metric.value == max(trial.rate_qps for trial in seen.trials if trial.holds)
    (_, near), _ = served(Spinning(0.002), rate=seen.metric.value * 1.03, latency_bound_ms=10.0)
    assert not near.holds, "3 % more does not hold"
    # The truth by a long simulation of the same queue.
    engine = Spinning(0.002)
    due = scenarios.arrivals(seen.metric.value, 40_000, seed=9)
    p99 = percentile(sorted(scenarios.serve(engine, due, clock=engine.clock, sleep=engine.sleep)), 99)
    assert 0.005 < p99 < 0.012


def test_an_engine_that_is_too_slow_holds_no_rate():
    (_, seen), _ = served(Spinning(0.05), latency_bound_ms=10.0)
    assert not seen.holds
    assert seen.metric.value is None
    assert all(trial.queries < scenarios.LEAST_QUERIES for trial in seen.trials), "given up early"


def test_early_stopping_needs_enough_queries():
    times = [0.001 + i * 1e-6 for i in range(64)]
    random.Random(0).shuffle(times)
    assert scenarios.early_stopping(times[:63], 90) is None
    assert scenarios.early_stopping(times, 90) == pytest.approx(1.063), "the slowest of 64"
