"""What watching costs: time a call, memory over many samples, bytes to the disk.

    python benchmarks/monitor_cost.py [--samples 200000]

Times are of `Monitor.observe` on single samples of several shapes, the blocks that are looked at every 32 samples in
them; 5 % of a model of 1 ms are 50 microseconds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.monitor.build import Builder
from edgekit.monitor.monitor import Monitor
from edgekit.reading import Interpret
from edgekit.tensors import TensorSpec

SHAPES = {
    "30 numbers": ((30,), 2), "picture 28 x 28": ((28, 28, 1), 10), "picture 32 x 32 x 3": ((32, 32, 3), 10),
    "picture 96 x 96 x 3": ((96, 96, 3), 2), "MFCC 49 x 10": ((49, 10, 1), 12), "wave of 16,000": ((16_000,), 10),
}  # fmt: skip


def say(what: str, **figures: Any) -> None:
    print(json.dumps({"what": what, **figures}), flush=True)


def watched(shape: tuple[int, ...], classes: int, **options: Any) -> tuple[Monitor, list[Any], int]:
    dice = np.random.default_rng(0)
    inputs, outputs = (TensorSpec("x", (None, *shape), "float32"),), (TensorSpec("p", (None, classes), "float32"),)
    how = Interpret(task="classification", scores="probabilities")
    x = dice.normal(size=(400, *shape)).astype(np.float32)
    p = dice.dirichlet(np.ones(classes), 400).astype(np.float32)
    builder = Builder(inputs, outputs, None, how)
    builder.add({"x": x}, {"p": p})
    builder.judge({"x": x}, {"p": p}, dice.integers(0, classes, 400))
    reference = builder.finish()
    monitor = Monitor(reference, inputs, outputs, None, how, **options)
    feeds = [({"x": x[at : at + 1]}, {"p": p[at : at + 1]}) for at in range(400)]
    return monitor, feeds, len(reference.to_bytes())


def times(rounds: int) -> None:
    for name, (shape, classes) in SHAPES.items():
        monitor, feeds, size = watched(shape, classes)
        taken = []
        for _ in range(rounds):
            for inputs, outputs in feeds:
                begun = time.perf_counter()
                monitor.observe(inputs, outputs, seconds=0.001)
                taken.append(time.perf_counter() - begun)
        spent = np.array(taken[400:]) * 1e6
        say(
            "time a call",
            input=name,
            mean_us=round(float(spent.mean()), 1),
            median_us=round(float(np.median(spent)), 1),
            p99_us=round(float(np.quantile(spent, 0.99)), 1),
            reference_bytes=size,
        )


def memory(samples: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tracemalloc.start()
        monitor, feeds, _ = watched((30,), 2, folder=folder)
        marks = {}
        for at in range(samples):
            monitor.observe(*feeds[at % 400])
            if at + 1 in (2000, samples // 2, samples):
                marks[at + 1] = round(tracemalloc.get_traced_memory()[0] / 1e6, 3)
        tracemalloc.stop()
        monitor.snapshot()
        written = (Path(folder) / "state.npz").stat().st_size
    say("memory", megabytes_after_samples=marks, snapshot_bytes=written)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--what", nargs="*", default=["times", "memory"], choices=["times", "memory"])
    options = parser.parse_args()
    if "times" in options.what:
        times(options.rounds)
    if "memory" in options.what:
        memory(options.samples)


if __name__ == "__main__":
    main()
