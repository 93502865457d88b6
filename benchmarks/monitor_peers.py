"""The monitor beside other drift detectors on the same streams: delay, early and false alarms, memory, time a sample.

    python benchmarks/monitor_peers.py edgekit | edgekit-32 | edgekit-bold | river-adwin | river-adwin-alike
        | river-page-hinkley | frouros-ks | alibi-ks | evidently [--runs 10] [--long 10000]

Thirty independent normal numbers, 500 known samples, half a deviation in one of them after 600 more. The others are to
be installed beside, each in an environment of its own (`pip install river`, `frouros`, `alibi-detect`, `evidently`);
`make monitor-peers` does that. They are used as they come: what watches one number has a detector a number (or the
correction for many that it offers itself), what compares tables is given windows of 100 samples. alibi-detect's
streaming tests prepare for minutes and are left out. "river-adwin-alike" has an ADWIN for each of the 123 things that
ours scans: each number, its square, its residual given the others and that one's square, the whole's distance, the
answer and its square. "edgekit-32" is handed 32 samples at a time, after which it looks in any case; "edgekit-bold"
accepts a false alarm in a thousand samples, about what the others do.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

KNOWN, BEFORE, AFTER, NUMBERS, WINDOW = 500, 600, 1000, 30, 100
Array = np.ndarray[Any, Any]
Watcher = Callable[[Array], bool]


def edgekit(known: Array, together: int = 1, rate: float = 1e-6) -> Watcher:
    from edgekit.monitor.build import Builder
    from edgekit.monitor.monitor import Monitor
    from edgekit.reading import Interpret
    from edgekit.tensors import TensorSpec

    inputs, outputs = (TensorSpec("x", (None, NUMBERS), "float32"),), (TensorSpec("y", (None, 1), "float32"),)
    how = Interpret(task="regression")
    builder = Builder(inputs, outputs, None, how)
    x = known.astype(np.float32)
    builder.add({"x": x}, {"y": x[:, :1]})
    monitor = Monitor(builder.finish(), inputs, outputs, None, how, rate=rate)

    def judge(table: Array) -> bool:
        x = table.astype(np.float32)
        return bool(monitor.observe({"x": x}, {"y": x[:, 1:2]}).alarms)

    return windowed(judge, together)


def _any_drifted(detectors: list[Any], values: Array) -> bool:
    """Give each its value; all of them, whoever tells."""
    found = False
    for detector, value in zip(detectors, values.tolist(), strict=True):
        detector.update(value)
        found |= detector.drift_detected
    return found


def river(kind: str) -> Callable[[Array], Watcher]:
    def made(known: Array) -> Watcher:
        from river import drift

        detectors = [getattr(drift, kind)() for _ in range(NUMBERS)]

        def watch(row: Array) -> bool:
            return _any_drifted(detectors, row)

        for row in known:
            watch(row)
        return watch

    return made


def river_alike(known: Array) -> Watcher:
    """An ADWIN for each stream that ours scans."""
    from river import drift

    mean, deviation = known.mean(axis=0), known.std(axis=0)
    inverse = np.linalg.inv(np.corrcoef(known.T))
    units = 1 / np.sqrt(np.diag(inverse))
    detectors = [drift.ADWIN() for _ in range(4 * NUMBERS + 3)]

    def watch(row: Array) -> bool:
        z = (row - mean) / deviation
        weighted = inverse @ z
        residual = weighted * units
        made = np.concatenate([z, z * z, residual, residual * residual, [weighted @ z, row[1], row[1] * row[1]]])
        return _any_drifted(detectors, made)

    for row in known:
        watch(row)
    return watch


def frouros(known: Array) -> Watcher:
    """Its streaming Kolmogorov-Smirnov test, one a number; p below 0.05 shared by all of them."""
    from frouros.detectors.data_drift import IncrementalKSTest

    detectors = [IncrementalKSTest(window_size=WINDOW) for _ in range(NUMBERS)]
    for place, detector in enumerate(detectors):
        detector.fit(X=known[:, place])

    def watch(row: Array) -> bool:
        found = False
        for detector, value in zip(detectors, row.tolist(), strict=True):
            result, _ = detector.update(value=value)
            found |= result is not None and result.p_value < 0.05 / NUMBERS
        return found

    return watch


def alibi_ks(known: Array) -> Watcher:
    """Kolmogorov-Smirnov tests of windows, corrected for many numbers as by default."""
    from alibi_detect.cd import KSDrift

    detector = KSDrift(known, p_val=0.05)
    return windowed(lambda table: bool(detector.predict(table)["data"]["is_drift"]))


def evidently(known: Array) -> Watcher:
    """Its data drift preset on windows; an alarm is any number that it calls drifted."""
    import pandas as pd
    from evidently import Report
    from evidently.presets import DataDriftPreset

    names = [f"x{place}" for place in range(NUMBERS)]
    reference = pd.DataFrame(known, columns=names)
    report = Report([DataDriftPreset()])

    def judge(table: Array) -> bool:
        result = report.run(pd.DataFrame(table, columns=names), reference).dict()
        counts = [m["value"]["count"] for m in result["metrics"] if "DriftedColumnsCount" in str(m["metric_name"])]
        return bool(counts[0] > 0)

    return windowed(judge)


def windowed(judge: Callable[[Array], bool], together: int = WINDOW) -> Watcher:
    """Judges so many samples at a time."""
    rows: list[Array] = []

    def watch(row: Array) -> bool:
        if together == 1:
            return judge(row[None])
        rows.append(row)
        if len(rows) < together:
            return False
        table = np.stack(rows)
        rows.clear()
        return judge(table)

    return watch


TOOLS: dict[str, Callable[[Array], Watcher]] = {
    "edgekit": edgekit,
    "edgekit-32": lambda known: edgekit(known, 32),
    "edgekit-bold": lambda known: edgekit(known, rate=1e-3),
    "river-adwin": river("ADWIN"),
    "river-adwin-alike": river_alike,
    "river-page-hinkley": river("PageHinkley"),
    "frouros-ks": frouros,
    "alibi-ks": alibi_ks,
    "evidently": evidently,
}


def resident() -> float:
    """Megabytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tool", nargs="?", choices=list(TOOLS), default="edgekit")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--long", type=int, default=10_000)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    make = TOOLS[options.tool]
    dice = np.random.default_rng(1000)
    warm = make(dice.normal(size=(KNOWN, NUMBERS)))  # what importing takes is not the detector's
    before = resident()
    watch = make(dice.normal(size=(KNOWN, NUMBERS)))
    wrong = sum(watch(row) for row in (dice.normal(size=NUMBERS) for _ in range(options.long)))
    taken = resident() - before
    del warm
    delays, early, spent, seen = [], 0, 0.0, 0
    for run in range(options.runs):
        dice = np.random.default_rng(run)
        known, x = dice.normal(size=(KNOWN, NUMBERS)), dice.normal(size=(BEFORE + AFTER, NUMBERS))
        x[BEFORE:, run % NUMBERS] += 0.5
        watch = make(known)
        begun = time.thread_time()
        hits = [place for place, row in enumerate(x) if watch(row)]
        spent, seen = spent + time.thread_time() - begun, seen + len(x)
        early += any(place < BEFORE for place in hits)
        delays.append(min((place - BEFORE + 1 for place in hits if place >= BEFORE), default=np.inf))
    median, p95 = float(np.median(delays)), float(np.quantile(delays, 0.95, method="higher"))
    print(json.dumps({
        "tool": options.tool, "runs": options.runs, "median": median if np.isfinite(median) else None,
        "p95": p95 if np.isfinite(p95) else None, "found": int(np.isfinite(delays).sum()), "early_runs": early,
        "false_alarms": int(wrong), "of_samples": options.long, "megabytes": round(taken, 1),
        "microseconds_a_sample": round(spent / seen * 1e6, 1),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
