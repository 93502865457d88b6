"""Calibration beside other tools' calibrators: seconds and peak memory on one float model.

    python benchmarks/calibration_peers.py MODEL.onnx [ENVIRONMENTS] [--samples 100] [--many 1000] [--rounds 3]
        [--kept ROWS.json] [--only ROW]

The other tools are onnxruntime, NNCF and, where MODEL.tflite lies beside MODEL.onnx, ai-edge-quantizer.

Each row is a fresh process that calibrates on samples made on the fly (normal, seeded), two threads; imports do not
count. "edgekit auto, with its choice" is all that `convert` spends on ranges, its samples read from a file. NNCF's time
is that of `nncf.quantize`, which calibrates and rewrites. Rounds take the tools in turn; a row has the least of each
tool's times, since other work on the machine only adds. onnxruntime's entropy and percentile calibrators keep all
activations: they run on --samples only. --write puts the table into docs/benchmarks.md; --kept holds the rows between
runs, so that rounds can be done one by one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
OURS = ("minmax", "percentile", "mse", "entropy", "auto")
THEIRS = ("MinMax", "Entropy", "Percentile")
HOARDING = ("onnxruntime Entropy", "onnxruntime Percentile")


def shapes(path: str) -> tuple[str, list[int]]:
    import onnx

    graph = onnx.load(path).graph
    constants = {tensor.name for tensor in graph.initializer}
    value = next(value for value in graph.input if value.name not in constants)
    return value.name, [size.dim_value or 1 for size in value.type.tensor_type.shape.dim]


def samples(shape: list[int], count: int) -> Iterator[Any]:
    random = np.random.default_rng(0)
    some = [random.normal(0, 0.5, shape).astype(np.float32) for _ in range(8)]
    return (some[number % 8] for number in range(count))


def edgekit(path: str, observer: str, count: int) -> Callable[[], Any]:
    from edgekit.converters.calibrate import calibrate
    from edgekit.converters.stages import CalibrationOptions, Graph
    from edgekit.tensors import TensorSpec

    name, shape = shapes(path)
    graph = Graph("onnx", path, (TensorSpec(name, tuple(shape), "float32"),), ())
    steps = calibrate(graph, ({name: sample} for sample in samples(shape, count)), CalibrationOptions(observer))
    return lambda: [None for _ in steps]


def edgekit_whole(path: str, observer: str, count: int) -> Callable[[], Any]:
    """All that `convert` does for ranges, read from a file: a set of them for a trial, the way that is chosen by it."""
    from edgekit.converters.calibration.observing import ObserveRequest, observe
    from edgekit.converters.stages import CalibrationOptions, Graph, QuantizeOptions
    from edgekit.data_ref import DataRef
    from edgekit.tensors import TensorSpec

    name, shape = shapes(path)
    spec = TensorSpec(name, tuple(shape), "float32")
    graph = Graph("onnx", path, (spec,), ())
    folder = tempfile.TemporaryDirectory()
    header = {"descr": "<f4", "fortran_order": False, "shape": (count, *shape[1:])}
    with open(f"{folder.name}/x.npy", "wb") as stored:  # a mapped file would count as memory
        np.lib.format.write_array_header_1_0(stored, header)
        for number, sample in enumerate(samples(shape, count)):
            moved = sample[0] + np.float32(1e-3 * number)  # one that comes again would count once
            stored.write(moved.tobytes())
    request = ObserveRequest(
        graph, DataRef(f"{folder.name}/x.npy"), (spec,), CalibrationOptions(observer), "int8", QuantizeOptions(),
        folder.name, even=True,
    )  # fmt: skip

    def run() -> None:
        for _ in observe(request):
            pass
        folder.cleanup()

    return run


def onnxruntime(path: str, method: str, count: int) -> Callable[[], Any]:
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator

    name, shape = shapes(path)

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rest = samples(shape, count)

        def get_next(self) -> Any:
            sample = next(self.rest, None)
            return None if sample is None else {name: sample}

    folder = tempfile.TemporaryDirectory()
    made = f"{folder.name}/augmented.onnx"
    calibrator = create_calibrator(path, None, made, calibrate_method=getattr(CalibrationMethod, method))

    def run() -> None:
        calibrator.collect_data(Reader())
        calibrator.compute_data()
        folder.cleanup()

    return run


def nncf(path: str, _: str, count: int) -> Callable[[], Any]:
    import nncf as tool
    import onnx

    model = onnx.load(path)
    constants = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    if next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")) < 13:
        model = onnx.version_converter.convert_version(model, 13)
    name, shape = shapes(path)
    data = tool.Dataset(list(samples(shape, 8)) * (count // 8 + 1), lambda sample: {name: sample})
    return lambda: tool.quantize(model, data, subset_size=count)


def ai_edge_quantizer(path: str, _: str, count: int) -> Callable[[], Any]:
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe

    path = str(Path(path).with_suffix(".tflite"))
    engine = Interpreter(path)
    (key, names), *_rest = engine.get_signature_list().items()
    shape = [int(size) for size in engine.get_input_details()[0]["shape"]]
    worker = quantizer.Quantizer(path, recipe.static_wi8_ai8())
    data = {key: [{names["inputs"][0]: sample} for sample in samples(shape, count)]}
    return lambda: worker.calibrate(data)


def measure(tool: str, path: str, way: str, count: int) -> None:
    """In the fresh process."""
    run = globals()[tool](path, way, count)
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    row = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    with open("/proc/self/status") as file:
        peak = next(line for line in file if line.startswith("VmHWM"))
    print(json.dumps({**row, "peak_mb": int(peak.split()[1]) / 1024}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("environments", nargs="?", type=Path, default=ROOT / "build" / "peers")
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--many", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--kept", type=Path)
    parser.add_argument("--only", action="append", help="a row, as it is titled")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        tool, way, count = options.measure
        measure(tool, options.model, way, int(count))
        return
    if not options.model:
        print(json.dumps({"skipped": "no model was named"}))
        return
    ways = (
        [("edgekit", way) for way in OURS]
        + [("edgekit_whole", "auto")]
        + [("onnxruntime", way) for way in THEIRS]
        + [("nncf", "")]
    )
    if Path(options.model).with_suffix(".tflite").exists():
        ways.append(("ai_edge_quantizer", ""))
    rows: dict[tuple[str, int], dict[str, float]] = {}
    if options.kept and options.kept.exists():
        rows = {(title, count): row for title, count, row in json.loads(options.kept.read_text())}
    for _ in range(options.rounds):
        for count in (options.samples, options.many):
            for tool, way in ways:
                title = f"{tool} {way}".strip().replace("_whole auto", " auto, with its choice")
                if options.only and title not in options.only:
                    continue
                python = options.environments / "nncf/bin/python" if tool == "nncf" else Path(sys.executable)
                if (count != options.samples and title in HOARDING) or not python.exists():
                    continue
                command = [python, __file__, options.model, "--measure", tool, way, str(count)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                row = json.loads(done.stdout.splitlines()[-1])
                best = rows.setdefault((title, count), row)
                rows[title, count] = {key: min(best[key], value) for key, value in row.items()}
    if options.kept:
        options.kept.write_text(json.dumps([[title, count, row] for (title, count), row in rows.items()]))
    for (title, count), row in rows.items():
        print(json.dumps({"tool": title, "samples": count, **{key: round(value, 2) for key, value in row.items()}}))
    if options.write:
        import pages

        pages.put("calibration", table(Path(options.model).name, rows))


def table(name: str, rows: dict[tuple[str, int], dict[str, float]]) -> str:
    lines = [
        "## Calibration",
        "",
        f"Generated by `make int8-peers`: seconds (processor seconds in brackets) and peak MiB of calibrating {name},",
        "two threads, the least of the rounds; on a busy machine compare processor seconds. Imports do not count.",
        "",
        "| tool | samples | s | MiB |",
        "| --- | --: | --: | --: |",
    ]
    for (title, count), row in sorted(rows.items(), key=lambda item: item[0][1]):
        figures = f"{row['seconds']:.1f} ({row['cpu_seconds']:.1f}) | {row['peak_mb']:.0f}"
        lines.append(f"| {title} | {count} | {figures} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
