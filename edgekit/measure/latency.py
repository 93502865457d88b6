"""Latency of an artifact: load, first inference, warm-up until steady, then the distribution.

Warm-up ends when a stated test says so (`statistics.steady`), not after a fixed count; measuring ends when both a
minimum time and a minimum count are reached. Between blocks of runs the reference workload is timed and the machine
looked at, never within one. A run that never got steady, or whose machine was busy or slowed down, is marked invalid
and says why: a figure that cannot be trusted must not look like one that can.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from edgekit.measure import scenarios
from edgekit.measure.environment import Watch, peak_rss_mb, rss_bytes
from edgekit.measure.results import KEPT_TIMES, Bench, Block, Interval, Latency, Memory
from edgekit.measure.sampling import BenchPlan, Record
from edgekit.measure.statistics import STEADY_WINDOW, percentile, percentile_interval, steady
from edgekit.measure.subject import Call, Clock, Subject, open_subject

SPREAD_LIMIT = 3.0
"""p90 above this multiple of the median: something else ran."""
WINDOW_SECONDS = 0.02
"""A warm-up window lasts at least this long: a governor needs some ms to raise the clock."""
LONG_WINDOW = 0.5
"""A window this long is enough with two runs: on slow models eight would take minutes."""
LEAK_BYTES = 256 << 10
_BLOCKS_EACH = 6  # what one block of the record and one look keep: a tuple, an array, numbers


def measure(
    path: Path,
    plan: BenchPlan,
    *,
    engine: str | None = None,
    threads: int | None = None,
    verify: bool = True,
    wrap: Callable[[Call], Call] | None = None,
) -> Generator[dict[str, Any], None, Bench]:
    """Measure an artifact on this machine.

    Args:
        path: The file.
        plan: What to measure and for how long.
        engine: None for the format's own.
        threads: None for the engine's choice.
        verify: Compare the digest.
        wrap: Puts something around each inference that is then measured with it.

    Yields:
        Progress events.

    Returns:
        The figures, through `yield from`.

    Raises:
        EdgeKitError: As `edgekit.load` and `Model.run`.
    """
    yield {"stage": "load"}
    before = rss_bytes()
    with open_subject(path, engine=engine, threads=threads, verify=verify, wrap=wrap) as subject:
        loaded = rss_bytes()
        yield {"stage": "warm-up"}
        warmup, is_steady = warm_up(subject.call, plan.warmup_seconds)
        watch = Watch()
        ledger = Ledger()

        def look() -> None:
            watch.look()
            ledger.look()

        record, scenario = yield from scenarios.perform(subject, plan, look)
        memory = ledger.close(before, loaded, record)
        seen, reasons = watch.finish()
        return _result(subject, record, scenario, memory, seen, reasons, warmup, is_steady=is_steady)


def _result(
    subject: Subject, record: Record, scenario: Any, memory: Memory, seen: dict[str, Any], reasons: list[str],
    warmup: int, *, is_steady: bool,
) -> Bench:  # fmt: skip
    times = record.seconds
    latency = summarize(times)
    found = doubts(latency, is_steady=is_steady) + reasons
    remarks = [f"memory grew by {memory.growth_kb:.0f} kB over the measured runs: a leak?"] if memory.leak else []
    return Bench(
        latency, subject.load_ms, subject.first_ms, memory.peak_mb, len(times), warmup, subject.threads,
        subject.engine, "local", seen, not found, intervals(times), memory, scenario, tuple(found + remarks),
        series=series(record),
    )  # fmt: skip


def warm_up(call: Call, limit: float, clock: Clock = time.perf_counter_ns) -> tuple[int, bool]:
    """Run until steady: (runs, whether it got there within `limit` seconds).

    The medians of three successive windows must agree (`statistics.steady`). A window holds at least 8 runs and 20 ms,
    or 0.5 s and two runs.
    """
    medians: list[float] = []
    window: list[int] = []
    start = now = clock()
    runs = opened = 0
    while (now - start) / 1e9 < limit or runs < 3:
        begin = clock()
        call()
        now = clock()
        runs += 1
        opened = opened if window else begin
        window.append(now - begin)
        lasted = (now - opened) / 1e9
        short = len(window) >= STEADY_WINDOW and lasted >= WINDOW_SECONDS
        if short or (len(window) >= 2 and lasted >= LONG_WINDOW):
            medians.append(median(window))
            window = []
            if steady(medians):
                return runs, True
    return runs, False


class Ledger:
    """What the measured runs do to memory, from the first look to the last."""

    def __init__(self) -> None:
        self._looks: list[tuple[int | None, int, int]] = []
        self.look()

    def look(self) -> None:
        """Note resident memory, Python's memory blocks and page faults; between runs."""
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        self._looks.append((rss_bytes(), sys.getallocatedblocks(), faults))

    def close(self, before: int | None, loaded: int | None, record: Record) -> Memory:
        """The balance; what the record itself takes, eight bytes a run and a handful of blocks, is left out."""
        rss = [seen for seen, _, _ in self._looks if seen is not None]
        _, first_blocks, first_faults = self._looks[0]
        _, last_blocks, last_faults = self._looks[-1]
        runs = max(1, record.runs)
        own = 8 * runs
        growth = rss[-1] - rss[0] - own if rss else None
        # What leaks goes on leaking; what is taken once, in the first half, is no leak.
        later = rss[-1] - rss[len(rss) // 2] - own // 2 if rss else 0
        return Memory(
            before_mb=None if before is None else before / 1e6,
            loaded_mb=None if loaded is None else loaded / 1e6,
            peak_mb=peak_rss_mb(),
            growth_kb=None if growth is None else max(0.0, growth / 1e3),
            blocks_kept=max(0, last_blocks - first_blocks - _BLOCKS_EACH * (len(record.blocks) + len(self._looks))),
            faults_per_run=round(max(0.0, last_faults - first_faults - own / 4096) / runs, 3),
            leak=later > LEAK_BYTES,
        )


def summarize(times: Sequence[float]) -> Latency:
    """Distribution in milliseconds of times in seconds."""
    ordered = sorted(1000 * t for t in times)
    return Latency(
        min=ordered[0],
        p50=percentile(ordered, 50),
        p90=percentile(ordered, 90),
        p99=percentile(ordered, 99),
        max=ordered[-1],
        mean=sum(ordered) / len(ordered),
        p95=percentile(ordered, 95),
    )


def intervals(times: Sequence[float]) -> dict[str, Interval]:
    """95 % intervals, in milliseconds, of the percentiles of times in seconds."""
    ordered = sorted(1000 * t for t in times)
    return {f"p{percent}": Interval(*percentile_interval(ordered, percent)) for percent in (50, 90, 95, 99)}


def series(record: Record) -> tuple[Block, ...]:
    """The blocks for the file, at most `KEPT_TIMES` times in all, evenly chosen in each."""
    kept = max(1, KEPT_TIMES // max(1, len(record.blocks)))
    found = []
    for at, marked, times in record.blocks:
        step = max(1, -(-len(times) // kept))
        chosen = tuple(round(taken / 1e6, 6) for taken in times[::step])
        found.append(Block(round(at / 1e9, 4), len(times), round(median(times) / 1e6, 6), 1000 * marked, chosen))
    return tuple(found)


def doubts(latency: Latency, *, is_steady: bool) -> list[str]:
    """Why the times themselves look disturbed."""
    found = []
    if not is_steady:
        found.append("warm-up never got steady: the medians of successive windows differ by more than 5 %")
    if latency.p90 > SPREAD_LIMIT * latency.p50:
        found.append(f"p90 is {latency.p90 / latency.p50:.1f} times the median: something else ran at the same time")
    return found
