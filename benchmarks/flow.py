"""What the flow costs and holds: overload, threads, memory over many calls, watched engines, metrics.

    python benchmarks/flow.py [--scale 0.01]     # the full figures take about ten minutes; --scale shortens

One JSON line a figure, with what is asked.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from runtime_overhead import tiny

import edgekit
from edgekit.errors import LimitError


def say(what: str, **figures: Any) -> None:
    print(json.dumps({"what": what, **figures}), flush=True)


def resident() -> float:
    """MB of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


class Steady:
    """In place of a model: a frame takes 5 ms, as an engine that the interpreter waits for."""

    def predict(self, frame: Any) -> Any:
        time.sleep(0.005)
        return frame

    def predict_batch(self, frames: list[Any], **_: Any) -> list[Any]:
        return [self.predict(frame) for frame in frames]

    def close(self) -> None:
        pass


def overload(seconds: float) -> None:
    """Three times what can be answered: who is answered, how fresh, and how many."""
    deadline = 0.05
    capacity_begun, count = time.monotonic(), 0
    model = Steady()
    while time.monotonic() - capacity_begun < seconds / 3:
        model.predict(0)
        count += 1
    capacity = 2 * count / (time.monotonic() - capacity_begun)
    metrics = edgekit.Metrics()
    pool = edgekit.Pool(Steady, sessions=2, queue=8, policy="drop-oldest", deadline=deadline, metrics=metrics)
    waits, answered, dropped, late = [], [0], [0], [0]

    def done(future: Any, sent: float, number: int) -> None:
        error = future.exception()
        if error is None:
            answered[0] += 1
            waits.append((number, time.monotonic() - sent))
        elif isinstance(error, LimitError) and error.code == "request-late":
            late[0] += 1
        else:
            dropped[0] += 1

    begun, number = time.monotonic(), 0
    while (now := time.monotonic()) - begun < seconds:
        pool.submit(number).add_done_callback(lambda f, s=now, n=number: done(f, s, n))
        number += 1
        time.sleep(max(begun + number / (3 * capacity) - time.monotonic(), 0))
    taken = time.monotonic() - begun
    pool.close()
    rate = answered[0] / taken
    seen = metrics.snapshot()["wait_seconds"]
    say("overload of a pool, 3 times capacity", capacity=round(capacity, 1), offered=round(number / taken, 1),
        answered=round(rate, 1), share=round(rate / capacity, 3), wait_p99_ms=round(1000 * seen["p99"], 1),
        age_max_ms=round(1000 * max(age for _, age in waits), 1), deadline_ms=50, late=late[0], dropped=dropped[0],
        asked="share >= 0.95, waits under the deadline")  # fmt: skip


def stream_overload(seconds: float) -> None:
    """A camera three times as fast as the model."""
    ends = time.monotonic() + seconds

    def camera() -> Any:
        number = 0
        while time.monotonic() < ends:
            yield number
            number += 1
            time.sleep(0.005 / 3)

    begun = time.monotonic()
    stream = edgekit.Stream(Steady(), camera(), deadline=0.05)
    seen = list(stream)
    rate = len(seen) / (time.monotonic() - begun)
    model, begun, count = Steady(), time.monotonic(), 0
    while time.monotonic() - begun < seconds / 3:
        model.predict(0)
        count += 1
    capacity = count / (time.monotonic() - begun)
    say("overload of a stream, 3 times capacity", share=round(rate / capacity, 3), stale=stream.tally.stale,
        wait_max_ms=round(1000 * max(s.waited for s in seen), 1), deadline_ms=50, dropped=stream.tally.dropped,
        asked="share >= 0.95, waits under the deadline")  # fmt: skip


def threads(path: Path, calls: int) -> None:
    model = edgekit.load(path, threads=1)
    dice = np.random.default_rng(0)
    things = [dice.random(16).astype(np.float32) for _ in range(32)]
    expected = [model.predict(thing).to_dict() for thing in things]

    def work(thread: int) -> int:
        return sum(
            model.predict(things[(n + thread) % 32]).to_dict() != expected[(n + thread) % 32] for n in range(calls)
        )

    with ThreadPoolExecutor(8) as pool:
        wrong = sum(pool.map(work, range(8)))
    say("predict of 8 threads", format=path.suffix[1:], calls=8 * calls, wrong=wrong, asked=0)


def memory(path: Path, calls: int, loads: int) -> None:
    model = edgekit.load(path, threads=1)
    thing, feeds = np.ones(16, np.float32), {"x": np.ones((1, 16), np.float32)}
    for _ in range(2000):
        model.predict(thing), model.run(feeds)
    gc.collect()
    before = resident()
    for _ in range(calls // 2):
        model.predict(thing), model.run(feeds)
    gc.collect()
    say("growth over calls, MB", format=path.suffix[1:], calls=calls, growth=round(resident() - before, 3), asked=1)
    for _ in range(50):
        edgekit.load(path, threads=1).close()
    gc.collect()
    before = resident()
    for _ in range(loads):
        with edgekit.load(path, threads=1) as opened:
            opened.predict(thing)
    gc.collect()
    say("growth over loads, MB", format=path.suffix[1:], loads=loads, growth=round(resident() - before, 3), asked=2)


def costs(path: Path) -> None:
    """Of metrics, and of the way to a child process and back."""
    feeds = {"x": np.ones((1, 16), np.float32)}
    metrics = edgekit.Metrics()

    def median(call: Any) -> float:
        taken = []
        for _ in range(4000):
            begun = time.perf_counter_ns()
            call()
            taken.append(time.perf_counter_ns() - begun)
        return round(statistics.median(taken) / 1000, 2)

    say(
        "an observation, us",
        observe=median(lambda: metrics.observe("x", 0.01)),
        count=median(lambda: metrics.count("y")),
    )
    with (
        edgekit.load(path) as plain,
        edgekit.load(path, metrics=metrics) as counted,
        edgekit.load(path, watchdog=30) as there,
    ):
        say("a call of a tiny model, us", plain=median(lambda: plain.run(feeds)),
            with_metrics=median(lambda: counted.run(feeds)), watched=median(lambda: there.run(feeds)))  # fmt: skip


def main() -> None:
    """All figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0)
    scale = parser.parse_args().scale
    threading.current_thread().name = "main"
    overload(max(6 * scale, 1.5))
    stream_overload(max(6 * scale, 1.5))
    with tempfile.TemporaryDirectory() as temporary:
        for path in tiny(Path(temporary)).values():
            costs(path)
            threads(path, int(50_000 * scale))
            memory(path, int(1_000_000 * scale), max(int(1000 * scale), 50))


if __name__ == "__main__":
    main()
