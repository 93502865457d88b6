"""What `Model.run` costs over a bare engine loop that does the same copies, and what loading costs over a bare script.

    python benchmarks/runtime_overhead.py [--rounds N]

Calls are interleaved in one process, ours and the bare one in turn, and medians compared; starts are whole fresh
processes in turn. Both of ResNet8 int8 (when the trained models lie beside the checkout) and of a tiny model that a
call takes microseconds on. Prints one JSON line a comparison.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import edgekit

SHARED = Path(__file__).resolve().parents[2] / "shared"

BARE_START = {
    "tflite": """
import sys, numpy as np
from ai_edge_litert.interpreter import Interpreter
engine = Interpreter(model_path=sys.argv[1])
engine.allocate_tensors()
taken, given = engine.get_input_details()[0], engine.get_output_details()[0]
engine.set_tensor(taken["index"], np.zeros(taken["shape"], taken["dtype"]))
engine.invoke()
engine.get_tensor(given["index"])
""",
    "onnx": """
import sys, numpy as np, onnxruntime
engine = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
taken = engine.get_inputs()[0]
shape = [size if isinstance(size, int) else 1 for size in taken.shape]
engine.run(None, {taken.name: np.zeros(shape, np.float32)})
""",
}
OUR_START = """
import sys, numpy as np, edgekit
model = edgekit.load(sys.argv[1])
taken = model.inputs[0]
model.run({taken.name: np.zeros([size or 1 for size in taken.shape], np.float32)})
"""

Call = Callable[[], Any]


def bare_litert(path: Path, real: Any, raw: Any) -> tuple[Call, Call]:
    """Loops as an app would write them, with real values and with the tensors' own."""
    from ai_edge_litert.interpreter import Interpreter

    engine = Interpreter(model_path=str(path), num_threads=1)
    engine.allocate_tensors()
    taken, given = engine.get_input_details()[0], engine.get_output_details()[0]
    at, to = taken["index"], given["index"]

    def straight() -> Any:
        engine.set_tensor(at, raw)
        engine.invoke()
        return engine.get_tensor(to)

    if not taken["quantization"][0]:
        return straight, straight
    scale, zero = np.float32(taken["quantization"][0]), taken["quantization"][1]
    out_scale, out_zero = np.float32(given["quantization"][0]), given["quantization"][1]

    def quantized() -> Any:
        engine.set_tensor(at, np.clip(np.rint(real / scale) + zero, -128, 127).astype(np.int8))
        engine.invoke()
        return (engine.get_tensor(to).astype(np.float32) - out_zero) * out_scale

    return quantized, straight


def bare_onnxruntime(path: Path, real: Any) -> Call:
    """The same for onnxruntime, whose files take real values."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    engine = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name, outputs = engine.get_inputs()[0].name, [value.name for value in engine.get_outputs()]
    return lambda: engine.run(outputs, {name: real})


def interleaved(ours: Call, bare: Call, rounds: int) -> dict[str, float]:
    """Medians of medians, in microseconds."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for which in (0, 1) if number % 2 else (1, 0):
            call = (ours, bare)[which]
            taken = []
            for _ in range(100):
                start = time.perf_counter_ns()
                call()
                taken.append(time.perf_counter_ns() - start)
            times[which].append(statistics.median(taken) / 1000)
    mine, theirs = (statistics.median(each) for each in times)
    return {
        "edgekit_us": round(mine, 2),
        "bare_us": round(theirs, 2),
        "ratio": round(mine / theirs, 3),
        "difference_us": round(mine - theirs, 2),
    }


def starts(path: Path, pairs: int, environment: dict[str, str]) -> dict[str, float]:
    """Start to first answer, in fresh processes, in milliseconds."""

    def once(code: str) -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code, str(path)], env=environment, check=True, capture_output=True)
        return 1000 * (time.perf_counter() - started)

    bare, both = BARE_START[path.suffix[1:]], []
    once(bare), once(OUR_START)  # compiled and cached
    for _ in range(pairs):
        both.append((once(bare), once(OUR_START)))
    theirs, mine = (statistics.median(times) for times in zip(*both, strict=True))
    return {"edgekit_ms": round(mine, 1), "bare_ms": round(theirs, 1), "ratio": round(mine / theirs, 3), "asked": 1.15}


def tiny(folder: Path) -> dict[str, Path]:
    """A model of microseconds in both formats, as float artifacts."""
    from onnx import TensorProto, helper, numpy_helper

    from edgekit.converters.tflite_graphs.builder import Builder

    weights = np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32)
    graph = Builder()
    made = graph.op(
        "FULLY_CONNECTED",
        [graph.input("x", (1, 16)), graph.constant("w", weights), graph.constant("b", np.zeros(8, np.float32))],
        (1, 8),
        "y",
        "FullyConnectedOptions",
    )
    (folder / "tiny.tflite").write_bytes(graph.finish([made], signature="serving_default"))
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "tiny",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8])],
            [numpy_helper.from_array(weights.T.copy(), "w")],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    (folder / "tiny.onnx").write_bytes(model.SerializeToString())
    made_files = {}
    for suffix in ("tflite", "onnx"):
        made_files[suffix] = folder / f"tiny_fp32.{suffix}"
        edgekit.convert(folder / f"tiny.{suffix}", output=made_files[suffix])
    return made_files


def resnet(folder: Path) -> dict[str, Path]:
    """ResNet8 in int8, in both formats; empty without the trained models."""
    source = SHARED / "models/ic_resnet8/resnet8_fp32.tflite"
    if not source.exists():
        return {}
    stored = np.load(SHARED / "data/cifar10_jpeg_1000.npz")["x"]
    chosen = np.random.default_rng(0).permutation(len(stored))[:100]
    np.savez(folder / "calibration.npz", x=stored[chosen].astype(np.float32))
    files = {suffix: folder / f"resnet8_int8.{suffix}" for suffix in ("tflite", "onnx")}
    for target in files.values():
        edgekit.convert(source, output=target, precision="int8", calibration=folder / "calibration.npz")
    return files


def main() -> None:
    """Convert, then compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--pairs", type=int, default=40)
    chosen = parser.parse_args()
    dice = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        # For both sides: bytecode is cached, and onnxruntime does not report usage, which takes it a tenth of a second.
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(folder / "bytecode"), "ORT_DISABLE_TELEMETRY": "1"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for name, files in (("resnet8 int8", resnet(folder)), ("tiny fp32", tiny(folder))):
            for suffix, path in files.items():
                model = edgekit.load(path, threads=1)
                spec = model.inputs[0]
                real = (255 * dice.random([size or 1 for size in spec.shape])).astype(np.float32)
                raw = real if spec.quant is None else dice.integers(-128, 127, real.shape).astype(spec.dtype)
                if suffix == "tflite":
                    bare, straight = bare_litert(path, real, raw)
                else:
                    bare = straight = bare_onnxruntime(path, real)
                row = {"model": name, "format": suffix}
                asked = {"asked": {"ratio": 1.05}} if files and name.startswith("resnet") else {"asked_us": 5}
                seen = interleaved(lambda: model.run({spec.name: real}), bare, chosen.rounds)  # noqa: B023
                print(json.dumps(row | {"what": "real values"} | seen | asked), flush=True)
                seen = interleaved(lambda: model.run({spec.name: raw}, raw=True), straight, chosen.rounds)  # noqa: B023
                print(json.dumps(row | {"what": "raw"} | seen | asked), flush=True)
                seen = starts(path, chosen.pairs, environment)
                print(json.dumps(row | {"what": "start to first answer"} | seen), flush=True)


if __name__ == "__main__":
    main()
