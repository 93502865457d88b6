"""`bench` against the engines' own bare loops and against MLPerf LoadGen, on one model in one run, in turns.

    python benchmarks/bench_against_loops.py [--rounds 150] [--seconds 0.05] [MODEL ...]

Models: .tflite or .onnx files whose inputs have no free size but the batch; without any, ResNet8 in int8 in both
formats from the models beside the checkout. LoadGen is used when `mlperf_loadgen` can be imported:
`pip install mlcommons-loadgen`. Prints one JSON line a model: medians in microseconds, and our ratio to each;
`loadgen_itself_us` is what LoadGen and its Python binding take with an engine that does nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.measure import latency, sampling
from edgekit.measure.reference import reference
from edgekit.measure.sampling import BenchPlan
from edgekit.measure.subject import Subject, open_subject

SHARED = Path(__file__).resolve().parents[2] / "shared"
Call = Callable[[], Any]
Loop = Callable[[float], list[float]]


def bare(path: Path, subject: Subject) -> Call:
    """One inference, as the engine's own documentation writes it."""
    if path.suffix == ".onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        taken = session.get_inputs()
        feeds = dict(zip([value.name for value in taken], subject.feeds.values(), strict=True))
        return lambda: session.run(None, feeds)
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    inputs = [detail["index"] for detail in interpreter.get_input_details()]
    outputs = [detail["index"] for detail in interpreter.get_output_details()]
    arrays = list(subject.feeds.values())

    def once() -> list[Any]:
        for index, array in zip(inputs, arrays, strict=True):
            interpreter.set_tensor(index, array)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in outputs]

    return once


def our_loop(call: Call) -> Loop:
    """What `edgekit bench` runs: seconds of each inference."""
    mark = reference()

    def run(seconds: float) -> list[float]:
        steps = sampling.sample(call, BenchPlan(seconds=seconds, runs=1), mark=mark)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                times: list[float] = end.value.seconds
                return times

    return run


def bare_loop(call: Call) -> Loop:
    """The loop that everybody writes."""

    def run(seconds: float) -> list[float]:
        clock = time.perf_counter
        times = []
        end = clock() + seconds
        while (start := clock()) < end:
            call()
            times.append(clock() - start)
        return times

    return run


def loadgen_loop(call: Call, folder: Path) -> Loop | None:
    """MLPerf LoadGen, single stream; the system under test answers in the thread that asks."""
    try:
        import mlperf_loadgen as lg
    except ImportError:
        return None
    seen: list[float] = []

    def issue(queries: list[Any]) -> None:
        for query in queries:
            call()
            lg.QuerySamplesComplete([lg.QuerySampleResponse(query.id, 0, 0)])

    def run(seconds: float) -> list[float]:
        settings = lg.TestSettings()
        settings.scenario = lg.TestScenario.SingleStream
        settings.mode = lg.TestMode.PerformanceOnly
        settings.single_stream_expected_latency_ns = max(1000, int(1e9 * typical(call)))
        settings.min_duration_ms = int(1000 * seconds)
        settings.min_query_count = 1
        output = lg.LogOutputSettings()
        output.outdir = str(folder)
        output.copy_summary_to_stdout = False
        logs = lg.LogSettings()
        logs.log_output = output
        logs.enable_trace = False
        system = lg.ConstructSUT(issue, lambda: None)
        library = lg.ConstructQSL(1, 1, lambda _: None, lambda _: None)
        lg.StartTestWithLogSettings(system, library, settings, logs)
        lg.DestroyQSL(library)
        lg.DestroySUT(system)
        seen[:] = [summary(folder, "50.00 percentile latency (ns)") / 1e9]
        return list(seen)

    return run


def summary(folder: Path, name: str) -> float:
    """A figure of LoadGen's summary."""
    for line in (folder / "mlperf_log_summary.txt").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return float(value)
    raise LookupError(name)


def typical(call: Call) -> float:
    """Median seconds of a few runs."""
    return statistics.median(bare_loop(call)(0.02))


def compare(path: Path, rounds: int, seconds: float, folder: Path) -> dict[str, Any]:
    """Medians over rounds in random order; ratios of neighbors."""
    dice = random.Random(0)
    with open_subject(path, threads=1) as subject:
        call = bare(path, subject)
        loops: dict[str, Loop | None] = {
            "bench": our_loop(subject.call), "bare": bare_loop(call), "loadgen": loadgen_loop(call, folder),
        }  # fmt: skip
        medians: dict[str, list[float]] = {name: [] for name, loop in loops.items() if loop}
        latency.warm_up(subject.call, 5)
        latency.warm_up(call, 5)
        for _ in range(rounds):
            for name in dice.sample(list(medians), len(medians)):
                loop = loops[name]
                assert loop is not None
                medians[name].append(1e6 * statistics.median(loop(seconds)))
    row: dict[str, Any] = {"model": path.name, "rounds": rounds, "seconds": seconds}
    row |= {f"{name}_us": round(statistics.median(values), 3) for name, values in medians.items()}
    if empty := loadgen_loop(lambda: None, folder):
        row["loadgen_itself_us"] = round(1e6 * statistics.median(empty(seconds)[0] for _ in range(5)), 3)
    for other in ("bare", "loadgen"):
        if other in medians:
            pairs = zip(medians["bench"], medians[other], strict=True)
            row[f"against_{other}"] = round(statistics.median(ours / theirs for ours, theirs in pairs), 4)
    return row | {"asked": "within 0.97 and 1.03"}


def resnet(folder: Path) -> list[Path]:
    """ResNet8 in int8, in both formats; none without the trained models."""
    import edgekit

    source = SHARED / "models/ic_resnet8/resnet8_fp32.tflite"
    if not source.exists():
        return []
    stored = np.load(SHARED / "data/cifar10_jpeg_1000.npz")["x"]
    chosen = np.random.default_rng(0).permutation(len(stored))[:100]
    np.savez(folder / "calibration.npz", x=stored[chosen].astype(np.float32))
    files = [folder / f"resnet8_int8.{suffix}" for suffix in ("tflite", "onnx")]
    for target in files:
        edgekit.convert(source, output=target, precision="int8", calibration=folder / "calibration.npz")
    return files


def main() -> None:
    """Parse, convert where nothing is named, compare."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path, metavar="MODEL")
    parser.add_argument("--rounds", type=int, default=150)
    parser.add_argument("--seconds", type=float, default=0.05)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for path in chosen.models or resnet(Path(temporary)):
            print(json.dumps(compare(path, chosen.rounds, chosen.seconds, Path(temporary))), flush=True)


if __name__ == "__main__":
    main()
