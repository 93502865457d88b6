"""Measuring on engines and clocks whose answer is known."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest

from edgekit.measure import latency, sampling
from edgekit.measure.environment import environment, peak_rss_mb
from edgekit.measure.sampling import BenchPlan


class Engine:
    """A clock, and a call that takes a given time on it. Times in seconds."""

    def __init__(self, times):
        self.now = 0
        self.times = iter(times)
        self.slept = 0

    def clock(self):
        return self.now

    def __call__(self):
        self.now += round(1e9 * next(self.times))

    def sleep(self, seconds):
        self.slept += 1
        self.now += round(1e9 * seconds)


def drained(steps):
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def sampled(engine, plan, **options):
    return drained(sampling.sample(engine, plan, clock=engine.clock, mark=lambda: 0.001, **options))


def endless(draw):
    while True:
        yield draw()


def test_warm_up_ends_when_three_windows_agree():
    falling = Engine([0.004] * 8 + [0.003] * 8 + [0.0025] * 8 + [0.002] * 100)
    runs, reached = latency.warm_up(falling, 10.0, falling.clock)
    assert reached
    assert runs == 24 + 10 + 10 + 10, "windows of 2.5 ms hold 8 runs, those of 2 ms need ten to last 20 ms"


def test_warm_up_does_not_mind_single_disturbances():
    spiky = Engine([0.003 if i % 5 else 0.03 for i in range(100)])
    assert latency.warm_up(spiky, 60.0, spiky.clock) == (24, True)


def test_warm_up_of_a_slow_model_takes_two_runs_a_window():
    slow = Engine([1.0] * 20)
    assert latency.warm_up(slow, 10.0, slow.clock) == (6, True)


def test_warm_up_gives_up_at_its_limit():
    growing = Engine(range(1, 10_000))
    assert latency.warm_up(growing, 1000.0, growing.clock) == (45, False), "1 + 2 + ... + 45 seconds pass 1000"


def test_sampling_reaches_both_minima():
    assert sampled(Engine([0.5] * 99), BenchPlan(seconds=2.0, runs=1)).runs == 4
    assert sampled(Engine([0.5] * 99), BenchPlan(seconds=0.0, runs=7)).runs == 7


def test_the_machine_is_looked_at_between_blocks_and_the_reference_beside_each():
    looks = []
    record = sampled(Engine(endless(lambda: 0.001)), BenchPlan(seconds=1.0, runs=1), look=lambda: looks.append(1))
    assert record.runs == 1000
    assert len(record.blocks) == 20, "blocks of 50 ms"
    assert len(looks) == 21
    assert {marked for _, marked, _ in record.blocks} == {0.001}


@pytest.mark.parametrize("shape", ["even", "skewed", "two speeds"])
def test_percentiles_of_a_synthetic_engine_are_recovered(shape):
    dice = np.random.default_rng(3)
    drawn = {
        "even": lambda n: dice.uniform(0.8e-3, 1.2e-3, n),
        "skewed": lambda n: 1e-3 * np.exp(0.1 * dice.standard_normal(n)),
        "two speeds": lambda n: np.where(dice.random(n) < 0.03, 1.4e-3, 1e-3) * (1 + 0.02 * dice.random(n)),
    }[shape]
    truth = np.percentile(drawn(1_000_000), (50, 90, 99)) * 1000
    times = sampled(Engine(drawn(30_000)), BenchPlan(seconds=20.0, runs=1)).seconds
    seen = latency.summarize(times)
    assert (seen.p50, seen.p90, seen.p99) == pytest.approx(tuple(truth), rel=0.02)
    bounds = latency.intervals(times)
    assert bounds["p50"].low < truth[0] < bounds["p50"].high
    assert bounds["p99"].low < seen.p99 < bounds["p99"].high


def test_summary_of_a_known_distribution():
    dice = random.Random(0)
    seen = latency.summarize([dice.uniform(0.001, 0.002) for _ in range(20_000)])
    assert (seen.p50, seen.p90, seen.p95, seen.p99) == pytest.approx((1.5, 1.9, 1.95, 1.99), rel=0.02)
    assert seen.min <= seen.p50 <= seen.p90 <= seen.p95 <= seen.p99 <= seen.max
    assert seen.mean == pytest.approx(1.5, rel=0.02)


def test_disturbed_times_are_marked():
    good = latency.summarize([0.001] * 100)
    assert latency.doubts(good, is_steady=True) == []
    assert "steady" in latency.doubts(good, is_steady=False)[0]
    disturbed = latency.summarize([0.001] * 80 + [0.01] * 20)
    assert "something else ran" in latency.doubts(disturbed, is_steady=True)[0]


def test_the_stored_times_are_thinned_evenly_and_keep_the_distribution():
    dice = np.random.default_rng(0)
    record = sampled(Engine(dice.uniform(1e-5, 2e-5, 400_000)), BenchPlan(seconds=3.0, runs=1))
    kept = latency.series(record)
    stored = [taken for block in kept for taken in block.times_ms]
    assert len(stored) <= 4000 < record.runs
    assert sum(block.runs for block in kept) == record.runs
    assert np.percentile(stored, (50, 90)) == pytest.approx(np.percentile(record.seconds, (50, 90)) * 1000, rel=0.03)
    assert [block.at_s for block in kept] == sorted(block.at_s for block in kept)


@pytest.mark.parametrize(
    "options",
    [{"runs": 0}, {"seconds": -1}, {"scenario": "batch"}, {"streams": 0}, {"rate": 5.0}, {"latency_bound_ms": 5.0},
     {"scenario": "server"}, {"scenario": "server", "latency_bound_ms": 0.0},
     {"scenario": "server", "latency_bound_ms": 5.0, "rate": 0.0}],
)  # fmt: skip
def test_plans_refuse_nonsense(options):
    with pytest.raises(ValueError, match=r"needs|unknown|at least one|positive|only the server"):
        BenchPlan(**options)


def test_growth_in_the_second_half_is_called_a_leak(monkeypatch):
    def balance(sizes):
        told = iter(sizes)
        monkeypatch.setattr(latency, "rss_bytes", lambda: next(told))
        ledger = latency.Ledger()
        for _ in sizes[1:]:
            ledger.look()
        return ledger.close(None, None, sampled(Engine([0.5] * 9), BenchPlan(seconds=1.0, runs=1)))

    steady = 50_000_000
    assert not balance([steady, steady + 5_000_000, *[steady + 5_000_000] * 6]).leak, "taken once"
    leaking = balance([steady + 500_000 * i for i in range(8)])
    assert leaking.leak
    assert leaking.growth_kb == pytest.approx(3500, rel=0.01)


def test_the_environment_tells_what_it_knows():
    seen = environment()
    assert seen["cores"] >= 1
    assert seen["memory_mb"] > 100
    assert seen["numpy"] == np.__version__
    assert peak_rss_mb() > 10


def test_the_peak_is_not_that_of_the_process_that_started_it():
    child = "from edgekit.measure.environment import peak_rss_mb; print(peak_rss_mb(), flush=True)"
    parent = f"""
import subprocess, sys
ballast = bytearray(400_000_000)
ballast[::4096] = b"x" * len(ballast[::4096])
{child}
subprocess.run([sys.executable, "-c", {child!r}], check=True)
"""
    done = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=True)
    above, below = map(float, done.stdout.split())
    assert above > 400
    assert below < 200
