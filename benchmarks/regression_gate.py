"""The regression gate: false alarms in A/A runs, and detections of a planted slowdown.

    python benchmarks/regression_gate.py [--runs 100] [--slowdown 0.1] [--disturb 1] [--first 0] [--engine null|real]
                                         [--method interleaved|recorded] [--model FILE]

Each run is one comparison as `edgekit bench --compare` makes it: with a model file side by side ("interleaved"), with a
stored result alone in two fresh processes ("recorded"). The slowdown is work: after its inference the slower side
spins for the given share of the time that this very inference took; the other side goes through the same code with a
share of nothing. `--disturb` starts processes that keep a core busy in random bursts meanwhile. Prints one JSON line a
run and one for each kind at the end; `--first` continues an earlier count with other seeds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.artifact import read
from edgekit.measure import latency, results
from edgekit.measure.compare import ComparePlan, Comparison, Contender, run
from edgekit.measure.recorded import compare_results
from edgekit.measure.sampling import BenchPlan
from edgekit.measure.subject import Call, open_subject

SHARED = Path(__file__).resolve().parents[2] / "shared"
BURSTS = """
import random, time
while True:
    end = time.time() + 0.4 * random.random()
    while time.time() < end:
        pass
    time.sleep(0.4 * random.random())
"""


def slowed(call: Call, share: float) -> Call:
    """The same inference, followed by a spin of `share` of its time."""
    clock = time.perf_counter_ns

    def once() -> None:
        start = clock()
        call()
        now = clock()
        end = now + share * (now - start)
        while clock() < end:
            pass

    return once


def contender(path: Path, engine: str | None, share: float) -> Contender:
    """One side of an interleaved comparison."""
    artifact = read(path)

    @contextlib.contextmanager
    def opened() -> Iterator[Call]:
        with open_subject(artifact, engine=engine, threads=1) as subject:
            yield slowed(subject.call, share)

    return Contender(path.name, opened)


def interleaved(path: Path, engine: str | None, share: float, seed: int) -> Comparison:
    """Side by side in this process."""
    return run(contender(path, engine, share), contender(path, engine, 0.0), ComparePlan(seed=seed))


def recorded(path: Path, engine: str | None, share: float, seed: int, folder: Path) -> Comparison:
    """Two results of two processes."""
    found = []
    for name, planted in (("new", share), ("old", 0.0)):
        target = folder / f"{name}.json"
        command = [sys.executable, __file__, "--measure", str(target), "--model", str(path), "--slowdown", str(planted)]
        subprocess.run([*command, "--engine", engine or "real"], check=True, stderr=subprocess.DEVNULL)
        found.append(results.read(target))
    return compare_results(found[0], found[1], seed=seed)


def measured(path: Path, engine: str | None, share: float, target: Path) -> None:
    """One result of `bench`, of a model that is slowed."""
    steps = latency.measure(path, BenchPlan(), engine=engine, threads=1, wrap=lambda call: slowed(call, share))
    while True:
        try:
            next(steps)
        except StopIteration as end:
            results.write(target, end.value)
            return


def resnet(folder: Path) -> Path:
    """ResNet8 in int8."""
    import edgekit

    source = SHARED / "models/ic_resnet8/resnet8_fp32.tflite"
    stored = np.load(SHARED / "data/cifar10_jpeg_1000.npz")["x"]
    chosen = np.random.default_rng(0).permutation(len(stored))[:100]
    np.savez(folder / "calibration.npz", x=stored[chosen].astype(np.float32))
    edgekit.convert(source, output=folder / "r.tflite", precision="int8", calibration=folder / "calibration.npz")
    return folder / "r.tflite"


@contextlib.contextmanager
def disturbance(count: int) -> Iterator[None]:
    """Processes that keep a core busy, now and then."""
    started = [subprocess.Popen([sys.executable, "-c", BURSTS]) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def gate(path: Path, chosen: argparse.Namespace, folder: Path) -> None:
    """All runs of one engine, A/A and slowed in random order."""
    engine = "null" if chosen.engine == "null" else None
    seen: dict[str, list[dict[str, Any]]] = {"a/a": [], "slowed": []}
    kinds = ["a/a", "slowed"] * chosen.runs
    random.Random(chosen.first).shuffle(kinds)
    for number, kind in enumerate(kinds, start=2 * chosen.first):
        share = chosen.slowdown if kind == "slowed" else 0.0
        started = time.perf_counter()
        with disturbance(chosen.disturb):
            if chosen.method == "recorded":
                found = recorded(path, engine, share, number, folder)
            else:
                found = interleaved(path, engine, share, number)
        row = {"kind": kind, "verdict": found.verdict, "percent": round(100 * (found.ratio - 1), 2)}
        row |= {"low": round(100 * (found.low - 1), 2), "high": round(100 * (found.high - 1), 2)}
        row |= {"rounds": found.rounds, "seconds": round(time.perf_counter() - started, 2), "load": os.getloadavg()[0]}
        seen[kind].append(row)
        print(json.dumps(row), flush=True)
    about = {"engine": chosen.engine, "method": chosen.method, "disturb": chosen.disturb, "first": chosen.first}
    alarms = sum(row["verdict"] != "no difference" for row in seen["a/a"])
    hits = sum(row["verdict"] == "slower" for row in seen["slowed"])
    share = f"{chosen.slowdown:.0%}"
    print(json.dumps(about | {"a/a runs": chosen.runs, "false alarms": alarms, "asked": "at most 2 of 100"}
                     | spread(seen["a/a"])))  # fmt: skip
    print(json.dumps(about | {f"runs slowed by {share}": chosen.runs, "detected": hits, "asked": "at least 95 of 100"}
                     | spread(seen["slowed"])))  # fmt: skip


def spread(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Median and extremes of the estimates, and how long a run took."""
    estimates = [row["percent"] for row in rows]
    if not estimates:
        return {"percent": math.nan}
    return {
        "percent": statistics.median(estimates), "least": min(estimates), "most": max(estimates),
        "seconds": statistics.median(row["seconds"] for row in rows), "longest": max(row["seconds"] for row in rows),
    }  # fmt: skip


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--slowdown", type=float, default=0.1)
    parser.add_argument("--disturb", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--engine", choices=("null", "real"), default="real")
    parser.add_argument("--method", choices=("interleaved", "recorded"), default="interleaved")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.measure:
        measured(chosen.model, "null" if chosen.engine == "null" else None, chosen.slowdown, chosen.measure)
        return
    with tempfile.TemporaryDirectory() as temporary:
        gate(chosen.model or resnet(Path(temporary)), chosen, Path(temporary))


if __name__ == "__main__":
    main()
