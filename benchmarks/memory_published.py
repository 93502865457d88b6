"""Predicted memory beside 96 published measurements of six detectors (benchmark_model of TFLite 2.18.0).

    python benchmarks/memory_published.py FOLDER/published-memory.csv [--keep FOLDER]

The detectors are rebuilt as `.tflite` files from their published description (google/automl,
efficientdet/hparams_config.py; tensorflow/tpu, efficientnet/lite), with weights of zero: memory does not depend on
them. They go through the very function that `edgekit check` uses. Nothing is fitted to these rows but the size of the
program itself, which is that of the smallest detector's rows. Prints a JSON line a board, detector and precision, and
the errors in all.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import statistics
import tempfile
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers

from edgekit import artifact
from edgekit.formats import read_facts
from edgekit.memory import predict

BLOCKS = [(1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
          (6, 320, 1, 1, 3)]  # fmt: skip
"""(expansion, channels, count, stride, kernel)."""

DETECTORS = {  # (width, depth) of the backbone, side, channels, cells, layers of the heads
    "efficientdet_lite0": (1.0, 1.0, 320, 64, 3, 3),
    "efficientdet_lite1": (1.0, 1.1, 384, 88, 4, 3),
    "efficientdet_lite2": (1.1, 1.2, 448, 112, 5, 3),
    "efficientdet_lite3": (1.2, 1.4, 512, 160, 6, 4),
    "efficientdet_lite3x": (1.2, 1.4, 640, 200, 6, 4),
    "efficientdet_lite4": (1.4, 1.8, 640, 224, 7, 4),
}
CLASSES, ANCHORS = 90, 9
MACHINES = {"Raspberry Pi 4B": "aarch64", "Raspberry Pi 5": "aarch64", "Intel N100 mini-PC": "x86_64"}


class File:
    """A `.tflite` file in the making; maps are (tensor number, (height, width, channels))."""

    def __init__(self, integer: bool) -> None:
        self.integer = integer
        self.model = schema.ModelT()
        self.model.version, self.model.buffers = 3, [schema.BufferT()]
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.codes: list[tuple[str, bytes | None]] = []

    def tensor(self, shape: tuple[int, ...], data: Any = None, dtype: str | None = None) -> int:
        made = schema.TensorT()
        made.shape, made.name = list(shape), f"t{len(self.graph.tensors)}".encode()
        dtype = dtype or ("INT8" if self.integer else "FLOAT32")
        made.type = getattr(schema.TensorType, dtype)
        if data is not None:
            made.buffer = len(self.model.buffers)
            self.model.buffers.append(schema.BufferT())
            self.model.buffers[-1].data = np.frombuffer(data.tobytes(), np.uint8)
        if dtype in ("INT8", "UINT8", "INT32") and self.integer:
            scales = shape[-1] if data is not None and shape[0] == 1 else shape[0] if data is not None else 1
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale = [0.05] * scales
            made.quantization.zeroPoint = [0] * scales
            made.quantization.quantizedDimension = 3 if data is not None and shape[0] == 1 else 0
        self.graph.tensors.append(made)
        return len(self.graph.tensors) - 1

    def op(
        self, name: str, inputs: list[int], outputs: list[int], options: Any = None, custom: str | None = None
    ) -> None:
        key = (name, custom.encode() if custom else None)
        if key not in self.codes:
            self.codes.append(key)
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = self.codes.index(key), inputs, outputs
        if custom:
            made.customOptions = np.frombuffer(options, np.uint8)
        elif options is not None:
            made.builtinOptions = options
            made.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        self.graph.operators.append(made)

    def weights(self, shape: tuple[int, ...], channels: int) -> list[int]:
        kind = np.int8 if self.integer else np.float32
        bias = np.zeros(channels, np.int32 if self.integer else np.float32)
        return [self.tensor(shape, np.zeros(shape, kind)),
                self.tensor((channels,), bias, "INT32" if self.integer else "FLOAT32")]  # fmt: skip

    def convolution(self, at: Any, channels: int, kernel: int = 1, stride: int = 1, *, depthwise: bool = False) -> Any:
        source, (height, width, inner) = at
        shape = (1, kernel, kernel, inner) if depthwise else (channels, kernel, kernel, inner)
        out = (-(-height // stride), -(-width // stride), inner if depthwise else channels)
        options = schema.DepthwiseConv2DOptionsT() if depthwise else schema.Conv2DOptionsT()
        options.strideH = options.strideW = stride
        if depthwise:
            options.depthMultiplier = 1
        target = self.tensor((1, *out))
        name = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
        self.op(name, [source, *self.weights(shape, out[2])], [target], options)
        return target, out

    def separable(self, at: Any, channels: int, kernel: int = 3) -> Any:
        return self.convolution(self.convolution(at, 0, kernel, depthwise=True), channels)

    def add(self, one: Any, two: Any) -> Any:
        target = self.tensor((1, *one[1]))
        self.op("ADD", [one[0], two[0]], [target], schema.AddOptionsT())
        return target, one[1]

    def pool(self, at: Any) -> Any:
        height, width, channels = at[1]
        out = (-(-height // 2), -(-width // 2), channels)
        options = schema.Pool2DOptionsT()
        options.strideH = options.strideW = 2
        options.filterHeight = options.filterWidth = 3
        target = self.tensor((1, *out))
        self.op("MAX_POOL_2D", [at[0]], [target], options)
        return target, out

    def enlarge(self, at: Any, height: int, width: int) -> Any:
        out = (height, width, at[1][2])
        target = self.tensor((1, *out))
        size = self.tensor((2,), np.array([height, width], np.int32), "INT32")
        self.op("RESIZE_NEAREST_NEIGHBOR", [at[0], size], [target], schema.ResizeNearestNeighborOptionsT())
        return target, out

    def rows(self, at: Any, columns: int) -> tuple[int, int]:
        count = math.prod(at[1]) // columns
        target = self.tensor((1, count, columns))
        shape = self.tensor((3,), np.array([1, count, columns], np.int32), "INT32")
        options = schema.ReshapeOptionsT()
        options.newShape = [1, count, columns]
        self.op("RESHAPE", [at[0], shape], [target], options)
        return target, count

    def join(self, parts: list[tuple[int, int]], columns: int) -> int:
        target = self.tensor((1, sum(count for _, count in parts), columns))
        options = schema.ConcatenationOptionsT()
        options.axis = 1
        self.op("CONCATENATION", [part for part, _ in parts], [target], options)
        return target

    def real(self, source: int) -> int:
        """In floats, as the last op wants it."""
        if not self.integer:
            return source
        target = self.tensor(tuple(self.graph.tensors[source].shape), dtype="FLOAT32")
        self.op("DEQUANTIZE", [source], [target])
        return target

    def finish(self, inputs: list[int], outputs: list[int]) -> bytes:
        self.model.operatorCodes = []
        for name, custom in self.codes:
            code = schema.OperatorCodeT()
            code.builtinCode = getattr(schema.BuiltinOperator, name)
            code.deprecatedBuiltinCode, code.customCode, code.version = min(code.builtinCode, 127), custom, 1
            self.model.operatorCodes.append(code)
        self.graph.inputs, self.graph.outputs = inputs, outputs
        self.model.subgraphs = [self.graph]
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def eight(width: float) -> int:
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * width else rounded


def backbone(file: File, at: Any, width: float, depth: float) -> dict[int, Any]:
    """Feature maps by level (stride 2**level)."""
    at = file.convolution(at, 32, 3, 2)
    levels, level = {}, 1
    for number, (expand, channels, count, stride, kernel) in enumerate(BLOCKS):
        for n in range(count if number in (0, len(BLOCKS) - 1) else math.ceil(count * depth)):
            before = at
            if expand > 1:
                at = file.convolution(at, at[1][2] * expand)
            at = file.convolution(at, 0, kernel, stride if n == 0 else 1, depthwise=True)
            at = file.convolution(at, eight(channels * width))
            if at[1] == before[1]:
                at = file.add(at, before)
        level += stride == 2
        levels[level] = at
    return levels


def cell(file: File, maps: dict[int, Any], channels: int) -> dict[int, Any]:
    """Top down, then bottom up."""

    def own(level: int) -> Any:
        return maps[level] if maps[level][1][2] == channels else file.convolution(maps[level], channels)

    found = {7: maps[7]}
    for level in (6, 5, 4, 3):
        mine = own(level)
        found[level] = file.separable(file.add(mine, file.enlarge(found[level + 1], *mine[1][:2])), channels)
    up = {3: found[3]}
    for level in (4, 5, 6, 7):
        mixed = file.add(own(level), file.pool(up[level - 1]))
        up[level] = file.separable(file.add(mixed, found[level]) if level != 7 else mixed, channels)
    return up


def detector(name: str, *, integer: bool) -> bytes:
    width, depth, side, channels, cells, layers = DETECTORS[name]
    file = File(integer)
    image = file.tensor((1, side, side, 3), dtype="UINT8")
    start = file.tensor((1, side, side, 3))
    file.op("QUANTIZE" if integer else "CAST", [image], [start])
    levels = backbone(file, (start, (side, side, 3)), width, depth)
    maps = {level: levels[level] for level in (3, 4, 5)}
    maps[6] = file.pool(file.convolution(maps[5], channels))
    maps[7] = file.pool(maps[6])
    for _ in range(cells):
        maps = cell(file, maps, channels)
    heads = []
    for columns in (CLASSES, 4):
        parts = []
        for level in range(3, 8):
            at = maps[level]
            for _ in range(layers):
                at = file.separable(at, channels)
            parts.append(file.rows(file.separable(at, ANCHORS * columns), columns))
        heads.append(file.join(parts, columns))
    scores = file.tensor(tuple(file.graph.tensors[heads[0]].shape))
    file.op("LOGISTIC", [heads[0]], [scores])
    count = file.graph.tensors[scores].shape[1]
    anchors = file.tensor((count, 4), np.zeros((count, 4), np.float32), "FLOAT32")
    results = [file.tensor(shape, dtype="FLOAT32") for shape in ((1, 25, 4), (1, 25), (1, 25), (1,))]
    file.op("CUSTOM", [file.real(heads[1]), file.real(scores), anchors], results, settings(),
            custom="TFLite_Detection_PostProcess")  # fmt: skip
    return file.finish([image], results)


def settings() -> bytes:
    """Of the last op, as the published files have them."""
    builder = flexbuffers.Builder()
    with builder.Map():
        builder.Int("max_detections", 25)
        builder.Int("max_classes_per_detection", 1)
        builder.Int("detections_per_class", 100)
        builder.Bool("use_regular_nms", False)
        builder.Float("nms_score_threshold", 0.3)
        builder.Float("nms_iou_threshold", 0.5)
        builder.Int("num_classes", CLASSES)
        for name in ("y_scale", "x_scale", "h_scale", "w_scale"):
            builder.Float(name, 1.0)
    return bytes(builder.Finish())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--keep", type=Path, help="write the detectors there")
    given = parser.parse_args()
    rows = list(csv.DictReader(given.table.open(encoding="utf-8")))
    facts = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.keep or Path(scratch)
        for name in DETECTORS:
            for precision in ("fp32", "int8"):
                path = folder / f"{name}_{precision}.tflite"
                path.write_bytes(detector(name, integer=precision == "int8"))
                facts[name, precision] = read_facts(artifact.read(path))
    errors, loads = [], []
    for row in rows:
        found = facts[row["model"], row["precision"]]
        said = predict(
            found, engine="litert", machine=MACHINES[row["board"]], threads=int(row["threads"]), python=False
        )
        errors.append(said.peak_mib / float(row["overall_mb"]) - 1)
        loads.append(said.load_mib / float(row["init_mb"]) - 1)
        if row["threads"] == "1":
            print(json.dumps({"board": row["board"], "model": row["model"], "precision": row["precision"],
                              "file_mib": round(found.bytes / 2**20, 2), "published_file": float(row["file_mb"]),
                              "init": float(row["init_mb"]), "overall": float(row["overall_mb"]),
                              "predicted": said.peak_mib, "predicted_load": said.load_mib,
                              "error": round(errors[-1], 4),
                              "parts": {part.what: round(part.mib, 1) for part in said.parts}}))  # fmt: skip
    summary = {
        "rows": len(rows), "mean_error": round(statistics.mean(map(abs, errors)), 4),
        "worst": round(max(map(abs, errors)), 4), "under": round(sum(e < 0 for e in errors) / len(rows), 4),
        "mean_error_init": round(statistics.mean(map(abs, loads)), 4),
    }  # fmt: skip
    print(json.dumps(summary))
    return 0 if summary["mean_error"] <= 0.10 and summary["under"] <= 0.10 else 1


if __name__ == "__main__":
    raise SystemExit(main())
