"""Quantized ONNX files beside onnxruntime's own quantization of the same float file and samples.

    python benchmarks/onnx_int8.py FLOAT.onnx DATA.npz [--calibration 100] [--runs 300] [--beside FILE ...]

DATA holds `x` (samples, first axis) and, where there are labels, `y`. Calibration is the first of a seeded shuffle,
evaluation the rest (or all again, when that leaves fewer than 20). Prints one JSON line a file: bytes, top-1, agreement
with float, signal to noise in dB, latency (median in us, one thread, runs interleaved) absolutely and as a multiple of
float, and the ops that onnxruntime runs after fusing. `--beside` adds other files (.onnx, .tflite) to the latency only.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.converters import quantize_onnx
from edgekit.converters.calibrate import calibrate
from edgekit.converters.stages import CalibrationOptions, Graph, QuantizeOptions, Ranges
from edgekit.precision import precisions
from edgekit.tensors import TensorSpec

PRECISIONS = ("int8", "int16x8", "dynamic", "fp16")
OBSERVERS = {
    "minmax": CalibrationOptions("minmax"),
    "p99.99": CalibrationOptions("percentile", 99.99),
    "p99.999": CalibrationOptions("percentile", 99.999),
}


def main() -> None:
    arguments = parse()
    data = np.load(arguments.data)
    x, labels = data["x"].astype(np.float32), data.get("y")
    order = np.random.default_rng(0).permutation(len(x))
    samples, rest = order[: arguments.calibration], order[arguments.calibration :]
    if len(rest) < 20:
        rest = order
    with tempfile.TemporaryDirectory() as folder:
        files = make(Path(arguments.model), x[samples], Path(folder))
        reference = answers(arguments.model, x[rest])
        lines = {name: measure(path, x[rest], reference, labels, rest) for name, path in files.items()}
        beside = {Path(path).name: path for path in arguments.beside}
        for name, median in latencies({**files, **beside}, x[rest][:1], arguments.runs).items():
            lines.setdefault(name, {})["us"] = round(median, 1)
        for name, line in lines.items():
            line["of_float"] = round(line["us"] / lines["float"]["us"], 2)
            print(json.dumps({"file": name, **line}))


def parse() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--calibration", type=int, default=100)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--beside", nargs="*", default=[])
    return parser.parse_args()


def make(model: Path, samples: Any, folder: Path) -> dict[str, str]:
    """Quantize in every way; name -> file."""
    graph = as_graph(model)
    files = {"float": str(model)}
    ranges = {name: observe(graph, samples, options) for name, options in OBSERVERS.items()}
    for name in PRECISIONS:
        precision = precisions.get(name)
        for observer, seen in ranges.items() if precision.calibrated else [("", None)]:
            title = f"{name} {observer}".strip()
            made = quantize_onnx.quantize(graph, seen, precision, QuantizeOptions(), folder / f"{title}.onnx")
            files[title] = made.path
    for name in ("QUInt8", "QInt8"):
        files[f"onnxruntime {name}"] = theirs(str(model), samples, name, folder)
    return files


def as_graph(path: Path) -> Graph:
    opened = session(str(path))
    specs = [
        tuple(TensorSpec(v.name, tuple(s if isinstance(s, int) else None for s in v.shape), "float32") for v in values)
        for values in (opened.get_inputs(), opened.get_outputs())
    ]
    return Graph("onnx", str(path), specs[0], specs[1])


def observe(graph: Graph, samples: Any, options: CalibrationOptions) -> Ranges:
    name = graph.inputs[0].name
    steps = calibrate(graph, ({name: sample[None]} for sample in samples), options)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


def theirs(model: str, samples: Any, activations: str, folder: Path) -> str:
    """`onnxruntime.quantization.quantize_static` with min-max ranges; per channel where it can."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    logging.disable(logging.CRITICAL)
    name = session(model).get_inputs()[0].name

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rest: Iterator[Any] = iter(samples)

        def get_next(self) -> Any:
            sample = next(self.rest, None)
            return None if sample is None else {name: sample[None]}

    path = str(folder / f"{activations}.onnx")
    options = {"activation_type": getattr(QuantType, activations), "weight_type": QuantType.QInt8}
    try:
        quantize_static(model, path, Reader(), per_channel=True, **options)
    except ValueError:
        quantize_static(model, path, Reader(), per_channel=False, **options)
    return path


def session(path: str, save: str | None = None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if save is not None:
        options.optimized_model_filepath = save
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def answers(path: str, x: Any) -> list[Any]:
    opened = session(path)
    feed = opened.get_inputs()[0]
    step = 1 if feed.shape[0] == 1 else 50
    parts = [opened.run(None, {feed.name: x[i : i + step]}) for i in range(0, len(x), step)]
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def measure(path: str, x: Any, reference: list[Any], labels: Any, rest: Any) -> dict[str, Any]:
    import onnx

    found = answers(path, x)
    line: dict[str, Any] = {"bytes": Path(path).stat().st_size, "sqnr_db": sqnr(reference, found)}
    if labels is not None:
        top = found[0].reshape(len(x), -1).argmax(-1)
        line["top1"] = round(100 * float((top == labels[rest]).mean()), 2)
        line["agreement"] = round(100 * float((top == reference[0].reshape(len(x), -1).argmax(-1)).mean()), 2)
    with tempfile.TemporaryDirectory() as folder:
        fused = f"{folder}/fused.onnx"
        session(path, fused)
        line["ops"] = dict(Counter(node.op_type for node in onnx.load(fused).graph.node))
    return line


def sqnr(reference: list[Any], found: list[Any]) -> float | None:
    signal = sum(float(np.square(array.astype(np.float64)).sum()) for array in reference)
    noise = sum(float(np.square(a.astype(np.float64) - b).sum()) for a, b in zip(reference, found, strict=True))
    return round(10 * math.log10(signal / noise), 2) if noise else None


def latencies(files: dict[str, str], sample: Any, runs: int) -> dict[str, float]:
    """Median of each file, in us: one run of each in turn, so that a change of clock hits all alike."""
    calls = {name: runner(path, sample) for name, path in files.items()}
    times: dict[str, list[int]] = {name: [] for name in calls}
    for turn in range(runs + 50):
        for name, call in calls.items():
            start = time.perf_counter_ns()
            call()
            if turn >= 50:
                times[name].append(time.perf_counter_ns() - start)
    return {name: statistics.median(seen) / 1000 for name, seen in times.items()}


def runner(path: str, sample: Any) -> Callable[[], Any]:
    if path.endswith(".tflite"):
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(path, num_threads=1)
        interpreter.allocate_tensors()
        return interpreter.invoke  # type: ignore[no-any-return]
    opened = session(path)
    feed = {opened.get_inputs()[0].name: sample}
    return lambda: opened.run(None, feed)


if __name__ == "__main__":
    main()
