"""The four scenarios of MLPerf's LoadGen, with its meaning of their figures of merit.

    single-stream   the next query when the last is answered; the 90th percentile of latency
    multi-stream    the same with several samples a query; the 99th percentile of a query's latency
    server          queries arrive at random (Poisson) at a mean rate, whether or not the last is answered; the highest
                    rate at which 99 % of them are answered within a bound
    offline         all samples are there at once; samples a second

Percentiles are LoadGen's early-stopping estimates, which state them with 99 % confidence and so lie a little above the
plain ones. Source: table of scenarios and appendix on early stopping in
https://github.com/mlcommons/inference_policies/blob/master/inference_rules.adoc, and loadgen/results.cc of
https://github.com/mlcommons/inference. Not LoadGen's: the minimum of 600 s and of 24,576 samples, for which the
plan's stand in, and its sample library: every sample is the self-test's, as an engine's time hardly depends on values.
"""

from __future__ import annotations

import random
import time
from array import array
from collections.abc import Callable, Generator, Sequence
from statistics import median
from typing import Any

from edgekit.measure.reference import reference
from edgekit.measure.results import Metric, Scenario, Trial
from edgekit.measure.sampling import BenchPlan, Record, sample
from edgekit.measure.statistics import bound_holds, early_stopping_rank, percentile
from edgekit.measure.subject import Call, Clock, Subject

SINGLE_PERCENT, TAIL_PERCENT = 90, 99
"""Percentiles of single stream; of multi stream and server. Source: the table of scenarios in the rules."""
LEAST_QUERIES = 662
"""Queries that prove the 99th percentile although one of them was late; `bound_holds(662, 1, 99)`."""
BATCHES = (1, 4, 16)
SEARCH_STEPS = 7
"""Halvings of the bracket around the highest rate: to 1 % of the engine's capacity."""
_SPIN_NS = 300_000
"""Sleeping ends late; the last of the wait is spent looking at the clock."""

Served = tuple[Trial, "array[float]", float]
"""What was tried, the latencies in seconds, and the reference workload's."""
Steps = Generator[dict[str, Any], None, tuple[Record, Scenario]]


def perform(subject: Subject, plan: BenchPlan, look: Callable[[], None]) -> Steps:
    """Run the plan's scenario.

    Args:
        subject: The model, warm.
        plan: Which, and for how long.
        look: Called now and then, between queries.
    """
    if plan.scenario == "server":
        return (yield from server(subject.call, plan, look=look))
    if plan.scenario == "offline":
        return (yield from _offline(subject, plan, look))
    samples = plan.streams if plan.scenario == "multi-stream" else 1
    percent = TAIL_PERCENT if plan.scenario == "multi-stream" else SINGLE_PERCENT
    record = yield from sample(subject.batch(samples), plan, look=look)
    record.samples = samples
    name = f"{percent}th percentile latency, early-stopping estimate"
    metric = Metric(name, early_stopping(record.seconds, percent), "ms")
    return record, Scenario(plan.scenario, metric, samples, record.runs)


def early_stopping(seconds: Sequence[float], percent: float) -> float | None:
    """LoadGen's estimate of a percentile, in milliseconds; None when the run is too short to state it."""
    rank = early_stopping_rank(len(seconds), percent)
    return None if rank is None else 1000 * sorted(seconds)[-rank]


def arrivals(rate: float, count: int, seed: int) -> array[float]:
    """Times of arrival in seconds: a Poisson process, its gaps independent and exponential with mean 1 / rate.

    For one seed the gaps of two rates are proportional, so that a search compares rates under the same pattern.
    """
    dice = random.Random(seed)  # noqa: S311 - a pattern of load, no secret
    at = 0.0
    times = array("d")
    for _ in range(count):
        at += dice.expovariate(1.0) / rate
        times.append(at)
    return times


def serve(
    call: Call,
    due: Sequence[float],
    *,
    clock: Clock = time.perf_counter_ns,
    sleep: Callable[[float], None] = time.sleep,
    bound: float = float("inf"),
    lost: Callable[[int], bool] | None = None,
) -> array[float]:
    """Answer queries that arrive at `due`, first come first served, one at a time.

    Args:
        call: Answers one.
        due: Ascending arrival times in seconds from now.
        clock: Nanoseconds.
        sleep: Waits, in seconds.
        bound: Seconds after which an answer is late.
        lost: Whether to give up, by the number of late queries.

    Returns:
        Latency of each query in seconds, from its arrival: what it waited for others counts, as in LoadGen, which
        measures from the scheduled time.
    """
    latencies = array("d")
    late = 0
    start = clock()
    for at in due:
        wanted = start + int(at * 1e9)
        while (left := wanted - clock()) > 0:
            if left > _SPIN_NS:
                sleep((left - _SPIN_NS) / 1e9)
        call()
        taken = (clock() - wanted) / 1e9
        latencies.append(taken)
        late += taken > bound
        if lost is not None and lost(late):
            break
    return latencies


def server(
    call: Call,
    plan: BenchPlan,
    *,
    clock: Clock = time.perf_counter_ns,
    sleep: Callable[[float], None] = time.sleep,
    look: Callable[[], None] = lambda: None,
    mark: Callable[[], float] | None = None,
) -> Steps:
    """The server scenario at the plan's rate, or at the highest that holds the bound.

    The search halves a bracket, from nothing to what the engine answers back to back, and ends with the highest rate
    that held. A trial that can no longer hold is given up.
    """
    bound = (plan.latency_bound_ms or 0.0) / 1000
    mark = mark or reference(clock)
    trials: list[Trial] = []

    def attempt(rate: float) -> Served:
        look()
        count = max(plan.runs, LEAST_QUERIES, int(plan.seconds * rate))
        marked = mark()
        hopeless = next(late for late in range(count + 1) if not bound_holds(count, late, TAIL_PERCENT))
        lost = (lambda late: late >= hopeless) if plan.rate is None else None
        seen = serve(call, arrivals(rate, count, plan.seed), clock=clock, sleep=sleep, bound=bound, lost=lost)
        look()
        late = sum(taken > bound for taken in seen)
        p99 = 1000 * percentile(sorted(seen), TAIL_PERCENT)
        holds = len(seen) == count and bound_holds(count, late, TAIL_PERCENT)
        trials.append(Trial(rate, len(seen), late, p99, holds))
        return trials[-1], seen, marked

    if plan.rate is not None:
        yield {"stage": f"serve {plan.rate:g} queries a second"}
        best = attempt(plan.rate)
    else:
        low, high = 0.0, _capacity(call, clock)
        tried: list[Served] = []
        for step in range(SEARCH_STEPS):
            middle = (low + high) / 2
            yield {"stage": f"serve {middle:.4g} queries a second", "done": step, "total": SEARCH_STEPS}
            tried.append(attempt(middle))
            low, high = (middle, high) if tried[-1][0].holds else (low, middle)
        best = max(tried, key=lambda one: (one[0].holds, one[0].rate_qps if one[0].holds else -one[0].rate_qps))
    return _served(best, plan, trials)


def _served(best: Served, plan: BenchPlan, trials: list[Trial]) -> tuple[Record, Scenario]:
    trial, seen, marked = best
    record = Record([(0, marked, array("q", (round(taken * 1e9) for taken in seen)))])
    searched = plan.rate is None
    name = "highest rate that holds the bound" if searched else "rate that holds the bound"
    metric = Metric(name, trial.rate_qps if trial.holds else None, "queries/s")
    return record, Scenario(
        "server", metric, 1, trial.queries, trial.rate_qps, plan.latency_bound_ms, trial.late, trial.holds,
        tuple(trials) if searched else (),
    )  # fmt: skip


def _capacity(call: Call, clock: Clock) -> float:
    """Queries a second, answered back to back."""
    taken = []
    for _ in range(30):
        start = clock()
        call()
        taken.append(clock() - start)
    return 1e9 / max(1.0, median(taken))


def _offline(subject: Subject, plan: BenchPlan, look: Callable[[], None]) -> Steps:
    """All samples at once: in the batches that turn out fastest, where the engine takes batches."""
    quickest = 1
    if subject.batches:
        rates = {size: size * _capacity(subject.batch(size), time.perf_counter_ns) for size in BATCHES}
        quickest = max(rates, key=lambda size: rates[size])
    start = time.perf_counter_ns()
    record = yield from sample(subject.batch(quickest), plan, look=look, mark=lambda: 0.0)
    seconds = (time.perf_counter_ns() - start) / 1e9
    record.samples = quickest
    metric = Metric("throughput", quickest * record.runs / seconds, "samples/s")
    return record, Scenario("offline", metric, quickest, quickest * record.runs)
