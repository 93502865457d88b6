"""Runs in succession, timed in blocks until a plan's minima are reached: what every scenario is made of."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from edgekit.measure.reference import reference
from edgekit.measure.subject import Call, Clock

BLOCK_SECONDS = 0.05
PROGRESS_SECONDS = 0.2
SCENARIOS = ("single-stream", "multi-stream", "server", "offline")


@dataclass(frozen=True)
class BenchPlan:
    """What to measure and for how long.

    Attributes:
        seconds, runs: Both must be reached.
        warmup_seconds: Give up waiting for a steady state after this long.
        scenario: One of `SCENARIOS`, as MLPerf's LoadGen means them.
        streams: Samples a query, for multi-stream.
        rate: Mean queries a second, for server; None searches for the highest that holds the bound.
        latency_bound_ms: For server.
        seed: Of the arrivals, for server.
    """

    seconds: float = 2.0
    runs: int = 50
    warmup_seconds: float = 10.0
    scenario: str = "single-stream"
    streams: int = 8
    rate: float | None = None
    latency_bound_ms: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.seconds < 0 or self.runs < 1 or self.warmup_seconds < 0:
            raise ValueError("a measurement needs at least one run and no negative times")
        if self.scenario not in SCENARIOS:
            raise ValueError(f"unknown scenario {self.scenario!r}; known: {', '.join(SCENARIOS)}")
        if self.streams < 1 or (self.rate is not None and self.rate <= 0):
            raise ValueError("a query has at least one sample, and a rate is positive")
        if (self.scenario == "server") != (self.latency_bound_ms is not None):
            raise ValueError("the server scenario, and only that, needs a latency bound")
        if self.latency_bound_ms is not None and self.latency_bound_ms <= 0:
            raise ValueError("a latency bound is positive")
        if self.rate is not None and self.scenario != "server":
            raise ValueError("only the server scenario has a rate")


@dataclass
class Record:
    """Times of runs in succession, in blocks, in nanoseconds; filled while measuring.

    Attributes:
        blocks: Start (since the first), reference seconds, and the times.
        samples: In each run.
    """

    blocks: list[tuple[int, float, array[int]]] = field(default_factory=list)
    samples: int = 1

    @property
    def seconds(self) -> list[float]:
        """Of each run."""
        return [taken / 1e9 for _, _, times in self.blocks for taken in times]

    @property
    def runs(self) -> int:
        return sum(len(times) for _, _, times in self.blocks)


def sample(
    call: Call,
    plan: BenchPlan,
    *,
    clock: Clock = time.perf_counter_ns,
    look: Callable[[], None] = lambda: None,
    mark: Callable[[], float] | None = None,
) -> Generator[dict[str, Any], None, Record]:
    """Time runs until both minima of the plan are reached.

    Args:
        call: One run.
        plan: Gives `seconds` (of the runs themselves) and `runs`.
        clock: Nanoseconds.
        look: Called before each block and after the last.
        mark: The reference workload, timed before each block: seconds.
    """
    mark = mark or reference(clock)
    record = Record()
    start = shown = clock()
    spent = 0
    runs = 0
    longest = int(plan.seconds * 1e9)
    block_ns = int(BLOCK_SECONDS * 1e9)
    typical = 0
    while spent < longest or runs < plan.runs:
        look()
        marked = mark()
        if typical and typical < block_ns // 10:
            call()  # what the reference threw out of the caches comes back
        begin = end = clock()
        times = array("q")
        while end - begin < block_ns and (spent < longest or runs < plan.runs):
            started = clock()
            call()
            end = clock()
            taken = end - started
            times.append(taken)
            spent += taken
            runs += 1
        typical = int(median(times))
        record.blocks.append((begin - start, marked, times))
        if (end - shown) / 1e9 > PROGRESS_SECONDS:
            shown = end
            yield {"stage": "measure", "done": min(spent, longest) // 1_000_000, "total": longest // 1_000_000}
    look()
    return record
