"""What watching costs: time a call, memory over many samples, bytes to the disk.

    python benchmarks/monitor_cost.py [--samples 200000]

Times are of `Monitor.observe` on samples of several shapes, one or 32 a call, the blocks that are looked at every 32
samples in them, and of `Capture.offer` after it; 5 % of a model of 1 ms are 50 microseconds. No sample comes twice.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
import tracemalloc
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from edgekit.feeding import Preprocess
from edgekit.monitor.build import Builder
from edgekit.monitor.capture import Capture
from edgekit.monitor.monitor import Monitor
from edgekit.reading import Interpret
from edgekit.tensors import TensorSpec

SHAPES = {
    "30 numbers": ((30,), 2), "series of 784": ((784,), 10), "picture 28 x 28": ((28, 28, 1), 10),
    "picture 32 x 32 x 3": ((32, 32, 3), 10), "picture 96 x 96 x 3": ((96, 96, 3), 2),
    "MFCC 49 x 10": ((49, 10, 1), 12), "wave of 16,000": ((16_000,), 10),
}  # fmt: skip


def say(what: str, **figures: Any) -> None:
    print(json.dumps({"what": what, **figures}), flush=True)


def watched(shape: tuple[int, ...], classes: int, samples: int = 400, **options: Any) -> tuple[Monitor, Any, Any, Any]:
    """A monitor, so many inputs and answers, and what a capture asks of a model."""
    dice = np.random.default_rng(0)
    inputs, outputs = (TensorSpec("x", (None, *shape), "float32"),), (TensorSpec("p", (None, classes), "float32"),)
    how = Interpret(task="classification", scores="probabilities")
    x = dice.standard_normal((400 + samples, *shape), np.float32)
    p = dice.dirichlet(np.ones(classes), 400 + samples).astype(np.float32)
    builder = Builder(inputs, outputs, None, how)
    builder.add({"x": x[:400]}, {"p": p[:400]})
    builder.judge({"x": x[:400]}, {"p": p[:400]}, dice.integers(0, classes, 400))
    monitor = Monitor(builder.finish(), inputs, outputs, None, how, **options)
    model = SimpleNamespace(inputs=inputs, outputs=outputs, interpret=how, preprocess=Preprocess(),
                            artifact=SimpleNamespace(sha256="0" * 64))  # fmt: skip
    return monitor, x[400:], p[400:], model


def times() -> None:
    for name, (shape, classes) in SHAPES.items():
        samples = min(6400, 100_000_000 // (4 * math.prod(shape)) // 32 * 32)
        for size, captures in product((1, 32), (False, True)):
            monitor, x, p, model = watched(shape, classes, samples)
            with tempfile.TemporaryDirectory() as root:
                capture = Capture("model", model, root=root, seed=0) if captures else None
                taken = []
                for at in range(0, samples, size):
                    inputs, outputs = {"x": x[at : at + size]}, {"p": p[at : at + size]}
                    begun = time.perf_counter()
                    verdict = monitor.observe(inputs, outputs, seconds=0.001)
                    if capture is not None:
                        capture.offer(inputs, outputs, verdict)
                    taken.append(time.perf_counter() - begun)
                if capture is not None:
                    capture.close()
            spent = np.array(taken[len(taken) // 5 :]) * 1e6
            say(
                "time",
                input=name,
                samples_a_call=size,
                capture=captures,
                mean_us_a_sample=round(float(spent.mean()) / size, 1),
                median_us_a_call=round(float(np.median(spent)), 1),
                p99_us_a_call=round(float(np.quantile(spent, 0.99)), 1),
            )


def memory(samples: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tracemalloc.start()
        monitor, x, p, _ = watched((30,), 2, folder=folder)
        marks = {}
        for at in range(samples):
            place = at % 400
            monitor.observe({"x": x[place : place + 1]}, {"p": p[place : place + 1]})
            if at + 1 in (2000, samples // 2, samples):
                marks[at + 1] = round(tracemalloc.get_traced_memory()[0] / 1e6, 3)
        tracemalloc.stop()
        monitor.snapshot()
        written = (Path(folder) / "state.npz").stat().st_size
    say("memory", megabytes_after_samples=marks, snapshot_bytes=written)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=200_000)
    parser.add_argument("--what", nargs="*", default=["times", "memory"], choices=["times", "memory"])
    options = parser.parse_args()
    if "times" in options.what:
        times()
    if "memory" in options.what:
        memory(options.samples)


if __name__ == "__main__":
    main()
