"""Peak memory and time of calibration against the number of samples, for both formats and observers.

    python benchmarks/calibration_memory.py [--samples 100 1000 5000] [--memory 256] [--tensors 26] [--write]

Each row is a fresh process that does nothing but calibrate a synthetic network (2 MiB a tensor, samples made on the
fly); its peak is what the kernel counted (VmHWM): Python, numpy, the engine and the calibrator together; growth is
what came on top of Python, numpy and our own modules. Exits with 1 when a peak passes the bound by more than 10 %.
--write puts the table into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pages

SIDE, CHANNELS = 256, 8
TENSOR_MB = SIDE * SIDE * CHANNELS * 4 / 2**20


def write_tflite(path: Path, tensors: int) -> None:
    from edgekit.converters.tflite_graphs.builder import Builder

    graph = Builder()
    shape = (1, SIDE, SIDE, CHANNELS)
    last = graph.input("x", shape)
    for number in range(tensors):
        factor = graph.constant(f"k{number}", np.float32([1.01 if number % 2 else 0.98]))
        last = graph.op("MUL", [last, factor], shape, f"t{number}", "MulOptions")
    path.write_bytes(graph.finish([last]))


def write_onnx(path: Path, tensors: int) -> None:
    import onnx
    from onnx import TensorProto, helper

    shape = (1, CHANNELS, SIDE, SIDE)
    nodes, constants, last = [], [], "x"
    for number in range(tensors):
        value = 1.01 if number % 2 else 0.98
        constants.append(helper.make_tensor(f"k{number}", TensorProto.FLOAT, [1], [value]))
        nodes.append(helper.make_node("Mul", [last, f"k{number}"], [f"t{number}"]))
        last = f"t{number}"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", last)]
    graph = helper.make_graph(nodes, "synthetic", ends[:1], ends[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def measure(format: str, path: str, samples: int, observer: str, memory: int) -> dict[str, Any]:
    """In the fresh process."""
    from edgekit.converters.calibrate import calibrate
    from edgekit.converters.stages import CalibrationOptions, Graph
    from edgekit.tensors import TensorSpec

    shape = (1, SIDE, SIDE, CHANNELS) if format == "tflite" else (1, CHANNELS, SIDE, SIDE)
    graph = Graph(format, path, (TensorSpec("x", shape, "float32"),), (TensorSpec("y", shape, "float32"),))

    def batches() -> Iterator[dict[str, Any]]:
        random = np.random.default_rng(0)
        for _ in range(samples):
            yield {"x": random.random(shape, np.float32)}

    steps = calibrate(graph, batches(), CalibrationOptions(observer, memory_mb=memory))
    before = _status("VmRSS")
    started = time.perf_counter()
    while True:
        try:
            next(steps)
        except StopIteration as end:
            ranges = end.value
            break
    seconds = time.perf_counter() - started
    peak = _status("VmHWM")
    return {
        "seconds": seconds,
        "peak_mb": peak,
        "growth_mb": peak - before,
        "tensors": len(ranges.tensors),
        "samples": ranges.samples,
    }


def _status(field: str) -> float:
    """A figure of the kernel's about this process, in MiB."""
    with open("/proc/self/status") as file:
        status = dict(line.split(":", 1) for line in file)
    return int(status[field].split()[0]) / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, nargs="+", default=[100, 1000, 5000])
    parser.add_argument("--memory", type=int, default=256, help="the bound, MiB")
    parser.add_argument("--tensors", type=int, default=26, help="activations, 2 MiB each")
    parser.add_argument("--format", nargs="+", default=["tflite", "onnx"])
    parser.add_argument("--observer", nargs="+", default=["minmax", "percentile"])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--measure", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        format, path, samples, observer, memory = options.measure
        print(json.dumps(measure(format, path, int(samples), observer, int(memory))))
        return 0
    over, rows = False, []
    print(f"{options.tensors * TENSOR_MB:.0f} MiB of activations a sample, bound {options.memory} MiB")
    print(f"{'format':8} {'observer':12} {'samples':>8} {'peak MiB':>9} {'growth MiB':>11} {'seconds':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for format in options.format:
            path = Path(folder, f"synthetic.{format}")
            {"tflite": write_tflite, "onnx": write_onnx}[format](path, options.tensors)
            for observer in options.observer:
                for samples in options.samples:
                    command = [sys.executable, __file__, "--measure", format, str(path), str(samples), observer]
                    done = subprocess.run(
                        [*command, str(options.memory)], check=True, stdout=subprocess.PIPE, text=True
                    )
                    row = json.loads(done.stdout.splitlines()[-1])
                    over |= row["peak_mb"] > options.memory * 1.1
                    figures = f"{row['peak_mb']:9.0f} {row['growth_mb']:11.0f} {row['seconds']:8.1f}"
                    print(f"{format:8} {observer:12} {samples:8} {figures}", flush=True)
                    rows.append((format, observer, samples, row["peak_mb"], row["seconds"]))
    if options.write:
        pages.put("calibration-memory", table(rows, options.tensors * TENSOR_MB, options.memory))
    return int(over)


def table(rows: list[tuple[str, str, int, float, float]], activations: float, memory: int) -> str:
    lines = [
        "## Memory of calibration",
        "",
        "Generated by `python benchmarks/calibration_memory.py --write`: a synthetic network with",
        f"{activations:.0f} MiB of activations a sample, `--calibration-memory {memory}`; peak of the whole process.",
        "",
        "| format | observer | samples | peak MiB | s |",
        "| --- | --- | --: | --: | --: |",
    ]
    lines += [f"| {kind} | {who} | {count} | {peak:.0f} | {took:.0f} |" for kind, who, count, peak, took in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
