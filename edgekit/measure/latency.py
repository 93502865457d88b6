"""Latency of an artifact: load, first inference, warm-up until steady, then the distribution.

Warm-up ends when a stated test says so (`statistics.steady`), not after a fixed count; measuring ends when both
a minimum time and a minimum count are reached. A run that never got steady, or whose machine was busy, is marked
invalid and says why: a figure that cannot be trusted must not look like one that can.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.measure.environment import environment, peak_rss_mb
from edgekit.measure.statistics import percentile, steady

SPREAD_LIMIT = 3.0
"""p90 above this multiple of the median: something else ran."""


@dataclass(frozen=True)
class BenchPlan:
    """How long to measure.

    Attributes:
        seconds, runs: Both must be reached.
        warmup_seconds: Give up waiting for a steady state after this long.
    """

    seconds: float = 2.0
    runs: int = 50
    warmup_seconds: float = 5.0

    def __post_init__(self) -> None:
        if self.seconds < 0 or self.runs < 1 or self.warmup_seconds < 0:
            raise ValueError("a measurement needs at least one run and no negative times")


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one inference, inputs in, outputs out."""

    min: float
    p50: float
    p90: float
    p99: float
    max: float
    mean: float


@dataclass(frozen=True)
class Bench:
    """The contract's fields of `bench`; times in milliseconds, memory in MB (10^6 bytes).

    Attributes:
        load_ms: From the file to a ready session, digest check and allocation included.
        first_ms: The first inference.
        rss_mb: Peak resident memory of the process, Python and numpy included.
        warmup_runs: Runs before the measurement.
        threads: As asked; 0 for the engine's own choice.
        valid: False when `notes` tells why the figures cannot be trusted.
    """

    latency_ms: Latency
    load_ms: float
    first_ms: float
    rss_mb: float
    runs: int
    warmup_runs: int
    threads: int
    engine: str
    target: str
    environment: dict[str, Any]
    valid: bool
    notes: tuple[str, ...] = field(default=())


def measure(
    path: Path, plan: BenchPlan, *, engine: str | None = None, threads: int | None = None, verify: bool = True
) -> Generator[dict[str, Any], None, Bench]:
    """Measure an artifact on this machine.

    Yields:
        Progress events.

    Returns:
        The figures, through `yield from`.
    """
    from edgekit.runtimes.model import load

    started = time.perf_counter()
    with load(path, threads=threads, engine=engine, verify=verify) as model:
        load_ms = 1000 * (time.perf_counter() - started)
        feeds = _feeds(model)

        def once() -> float:
            begin = time.perf_counter()
            model.run(feeds, raw=True)
            return time.perf_counter() - begin

        first_ms = 1000 * once()
        yield {"stage": "warm-up"}
        warmup, is_steady = warm_up(once, plan.warmup_seconds)
        yield {"stage": "measure"}
        times = sample(once, plan)
        latency = summarize(times)
        seen = environment()
        notes = _doubts(latency, seen, is_steady=is_steady)
        return Bench(
            latency, load_ms, first_ms, peak_rss_mb(), len(times), warmup, model.threads or 0,
            f"{model.engine} {model.engine_version}", "local", seen, not notes, tuple(notes),
        )  # fmt: skip


def warm_up(once: Callable[[], float], limit: float) -> tuple[int, bool]:
    """Run until steady: (runs, whether it got there within `limit` seconds)."""
    values: list[float] = []
    spent = 0.0
    while spent < limit or len(values) < 3:
        values.append(once())
        spent += values[-1]
        if steady(values):
            return len(values), True
    return len(values), False


def sample(once: Callable[[], float], plan: BenchPlan) -> list[float]:
    """Seconds of each run, until both minima of the plan are reached."""
    times: list[float] = []
    spent = 0.0
    while spent < plan.seconds or len(times) < plan.runs:
        times.append(once())
        spent += times[-1]
    return times


def summarize(times: list[float]) -> Latency:
    """Distribution in milliseconds of times in seconds."""
    ordered = sorted(1000 * t for t in times)
    return Latency(
        min=ordered[0],
        p50=percentile(ordered, 50),
        p90=percentile(ordered, 90),
        p99=percentile(ordered, 99),
        max=ordered[-1],
        mean=sum(ordered) / len(ordered),
    )


def _feeds(model: Any) -> dict[str, Any]:
    """Raw inputs: the self-test's where there is one, else seeded values over each input's range."""
    from edgekit.selftest import generate
    from edgekit.tensors import INTEGER_RANGE

    tested = model.artifact.selftest
    if tested is not None:
        stored: dict[str, Any] = tested.feeds(tested.vectors[0], model.inputs)
        return stored
    feeds = {}
    for stream, spec in enumerate(model.inputs):
        low, high = (0, 1)
        if spec.quant is not None and spec.dtype in INTEGER_RANGE:
            scale, zero = spec.quant.scale[0], spec.quant.zero_point[0]
            low, high = (scale * (edge - zero) for edge in INTEGER_RANGE[spec.dtype])
        shape = tuple(1 if size is None else size for size in spec.shape)
        feeds[spec.name] = generate(spec, shape, (low, high), seed=0, stream=stream)
    return feeds


def _doubts(latency: Latency, seen: dict[str, Any], *, is_steady: bool) -> list[str]:
    notes = []
    if not is_steady:
        notes.append("warm-up never got steady: the medians of successive windows differ by more than 5 %")
    if latency.p90 > SPREAD_LIMIT * latency.p50:
        notes.append(f"p90 is {latency.p90 / latency.p50:.1f} times the median: something else ran at the same time")
    if seen["load"] > 2 * seen["cores"]:
        notes.append(f"the machine is busy: load {seen['load']} on {seen['cores']} cores")
    return notes
