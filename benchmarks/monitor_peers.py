"""The monitor beside other drift detectors on the same streams: delay, early alarms, time a sample.

    python benchmarks/monitor_peers.py edgekit | river-adwin | river-page-hinkley [--runs 10] [--long 10000]

Thirty independent normal numbers, 500 known samples, half a deviation in one of them after 600 more. The others are to
be installed beside (`pip install river`), watch each number by a detector of their own, and are used as they come.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np

KNOWN, BEFORE, AFTER, NUMBERS = 500, 600, 1000, 30
Array = np.ndarray[Any, Any]
Watcher = Callable[[Array], bool]


def edgekit(known: Array) -> Watcher:
    from edgekit.monitor.build import Builder
    from edgekit.monitor.monitor import Monitor
    from edgekit.reading import Interpret
    from edgekit.tensors import TensorSpec

    inputs, outputs = (TensorSpec("x", (None, NUMBERS), "float32"),), (TensorSpec("y", (None, 1), "float32"),)
    how = Interpret(task="regression")
    builder = Builder(inputs, outputs, None, how)
    x = known.astype(np.float32)
    builder.add({"x": x}, {"y": x[:, :1]})
    monitor = Monitor(builder.finish(), inputs, outputs, None, how)

    def watch(row: Array) -> bool:
        x = row.astype(np.float32)[None]
        return bool(monitor.observe({"x": x}, {"y": x[:, 1:2]}).alarms)

    return watch


def river(kind: str) -> Callable[[Array], Watcher]:
    def made(known: Array) -> Watcher:
        from river import drift

        detectors = [getattr(drift, kind)() for _ in range(NUMBERS)]

        def watch(row: Array) -> bool:
            found = False
            for detector, value in zip(detectors, row.tolist(), strict=True):
                detector.update(value)
                found |= detector.drift_detected
            return found

        for row in known:
            watch(row)
        return watch

    return made


TOOLS: dict[str, Callable[[Array], Watcher]] = {
    "edgekit": edgekit,
    "river-adwin": river("ADWIN"),
    "river-page-hinkley": river("PageHinkley"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tool", choices=list(TOOLS))
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--long", type=int, default=10_000)
    options = parser.parse_args()
    delays, early, spent, seen = [], 0, 0.0, 0
    for run in range(options.runs):
        dice = np.random.default_rng(run)
        known, x = dice.normal(size=(KNOWN, NUMBERS)), dice.normal(size=(BEFORE + AFTER, NUMBERS))
        x[BEFORE:, run % NUMBERS] += 0.5
        watch = TOOLS[options.tool](known)
        begun = time.perf_counter()
        hits = [place for place, row in enumerate(x) if watch(row)]
        spent, seen = spent + time.perf_counter() - begun, seen + len(x)
        early += any(place < BEFORE for place in hits)
        delays.append(min((place - BEFORE + 1 for place in hits if place >= BEFORE), default=np.inf))
    dice = np.random.default_rng(1000)
    watch = TOOLS[options.tool](dice.normal(size=(KNOWN, NUMBERS)))
    wrong = sum(watch(row) for row in dice.normal(size=(options.long, NUMBERS)))
    print(json.dumps({
        "tool": options.tool, "runs": options.runs, "median": float(np.median(delays)),
        "p95": float(np.quantile(delays, 0.95, method="higher")), "early_runs": early,
        "false_alarms": wrong, "of_samples": options.long, "microseconds_a_sample": round(spent / seen * 1e6, 1),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
