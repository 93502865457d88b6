"""Small TFLite graphs, and what observes, quantizes and runs them."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generators import result

from edgekit import artifact
from edgekit.converters import quantize_tflite
from edgekit.converters.calibrate import calibrate
from edgekit.converters.stages import CalibrationOptions, Graph, QuantizeOptions, Ranges
from edgekit.converters.tflite_graphs import graph as files
from edgekit.converters.tflite_graphs.builder import Builder
from edgekit.precision import precisions
from edgekit.runtimes.model import Model
from edgekit.tensors import TensorSpec

pytest.importorskip("ai_edge_litert", reason="comes with the tflite extra")
pytest.importorskip("ai_edge_quantizer", reason="comes with the convert extra")

INTEGER = ("int8", "int16x8")


class Net(Builder):
    """A small float graph being built; weights are seeded."""

    def __init__(self) -> None:
        super().__init__()
        self.random = np.random.default_rng(5)

    def weights(self, *shape: int) -> Any:
        return (self.random.normal(size=shape) / math.sqrt(math.prod(shape[1:]))).astype(np.float32)

    def bias(self, size: int) -> Any:
        return (self.random.normal(size=size) / 5).astype(np.float32)

    def shape(self, x: int) -> list[int]:
        tensor = self._graph.tensors[x]
        return [int(size) for size in (tensor.shape if tensor.shapeSignature is None else tensor.shapeSignature)]

    def like(self, kind: str, x: int, name: str, *more: int, options: str | None = None, **fields: Any) -> int:
        """An operator whose result has the shape of its first input."""
        return self.op(kind, [x, *more], self.shape(x), name, options, fields)

    def conv3(self, x: int, out: int, name: str, *, relu: bool = True) -> int:
        return self.conv(x, self.weights(out, 3, 3, self.shape(x)[-1]), self.bias(out), name, relu=relu)

    def dense(self, x: int, out: int, name: str, *, biased: bool = True, rows: int = 1) -> int:
        parts = [x, self.constant(f"{name}/weights", self.weights(out, self.shape(x)[-1]))]
        parts += [self.constant(f"{name}/bias", self.bias(out))] if biased else [-1]
        return self.op("FULLY_CONNECTED", parts, (rows, out), name, "FullyConnectedOptions")

    def ints(self, name: str, *values: int) -> int:
        return self.constant(name, np.array(values, np.int32))

    @property
    def last(self) -> Any:
        """The operator added last."""
        return self._graph.operators[-1]


def saved(data: bytes, folder: Path) -> Graph:
    path = folder / "float.tflite"
    path.write_bytes(data)
    model = files.read(data)
    main = model.subgraphs[0]

    def specs(indices: Any) -> tuple[TensorSpec, ...]:
        return tuple(_spec(main.tensors[int(index)]) for index in indices)

    return Graph("tflite", str(path), specs(main.inputs), specs(main.outputs))


def _spec(tensor: Any) -> TensorSpec:
    sizes = tensor.shape if tensor.shapeSignature is None else tensor.shapeSignature
    shape = tuple(None if size < 0 else int(size) for size in ([] if sizes is None else sizes))
    return TensorSpec(files.name_of(tensor), shape, files.dtype_of(tensor))


def samples(graph: Graph, count: int = 48, seed: int = 1) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    made = {}
    for spec in graph.inputs:
        shape = (count, *(size or 1 for size in spec.shape[1:]))
        whole = spec.dtype.startswith("int")
        made[spec.name] = random.integers(0, 4, shape) if whole else random.normal(size=shape)
        made[spec.name] = made[spec.name].astype(spec.dtype)
    return made


def observe(graph: Graph, feeds: dict[str, Any], **options: Any) -> Ranges:
    found: Ranges = result(calibrate(graph, iter([feeds]), CalibrationOptions(**options)))
    return found


def convert(
    graph: Graph, folder: Path, precision: str = "int8", *, ranges: Ranges | None = None, **options: Any
) -> Graph:
    chosen = precisions.get(precision)
    if ranges is None and chosen.calibrated:
        ranges = observe(graph, samples(graph))
    options.setdefault("interface", "int8" if precision == "int8" else "float")
    return quantize_tflite.quantize(graph, ranges, chosen, QuantizeOptions(**options), folder / f"{precision}.tflite")


def run(graph: Graph, feeds: dict[str, Any], *, raw: bool = False) -> dict[str, Any]:
    opened = artifact.read(Path(graph.path))
    with Model.from_artifact(opened, inputs=graph.inputs, outputs=graph.outputs, threads=1) as model:
        return dict(model.run(feeds, raw=raw))


def sqnr(before: Graph, after: Graph, feeds: dict[str, Any] | None = None) -> float:
    """Signal to quantization noise in dB; the worst output's."""
    feeds = feeds or samples(before)  # those of calibration: clipping is not what is measured
    expected, answers = run(before, feeds), run(after, feeds)
    assert list(expected) == list(answers)
    worst = math.inf
    for name, values in expected.items():
        wanted, got = values.astype(np.float64), answers[name].astype(np.float64)
        assert np.isfinite(got).all(), name
        noise = float(((wanted - got) ** 2).sum())
        worst = min(worst, 10 * math.log10(float((wanted**2).sum()) / noise) if noise else math.inf)
    return worst


class Seen:
    """A quantized file, by what its operators make and read."""

    def __init__(self, graph: Graph) -> None:
        self.model = files.read(Path(graph.path).read_bytes())
        self.main = self.model.subgraphs[0]
        self.kinds = Counter(files.op_name(self.model, op) for op in self.main.operators)

    def op(self, kind: str, number: int = 0) -> Any:
        return [op for op in self.main.operators if files.op_name(self.model, op) == kind][number]

    def read(self, kind: str, position: int = 0, number: int = 0) -> Any:
        return self.main.tensors[int(self.op(kind, number).inputs[position])]

    def made(self, kind: str, number: int = 0) -> Any:
        return self.main.tensors[int(self.op(kind, number).outputs[0])]

    def values(self, tensor: Any) -> Any:
        return files.constant(self.model, tensor)

    @property
    def inputs(self) -> list[Any]:
        return [self.main.tensors[int(index)] for index in self.main.inputs]

    @property
    def outputs(self) -> list[Any]:
        return [self.main.tensors[int(index)] for index in self.main.outputs]


def scale(tensor: Any) -> float:
    (found,) = tensor.quantization.scale
    return float(found)


def zero_point(tensor: Any) -> int:
    (found,) = tensor.quantization.zeroPoint
    return int(found)


def parameters(tensor: Any) -> tuple[float, int]:
    return scale(tensor), zero_point(tensor)


def classifier(batch: int = 1) -> bytes:
    net = Net()
    made = net.conv3(net.input("image", (batch, 8, 8, 2)), 6, "hidden")
    flat = net.op(
        "RESHAPE", [made, net.ints("to", -1, 384)], (batch, 384), "flat", "ReshapeOptions", {"newShape": [-1, 384]}
    )
    scores = net.dense(flat, 5, "scores", rows=batch)
    return net.finish([net.like("SOFTMAX", scores, "probs", options="SoftmaxOptions", beta=1.0)], signature="serve")


def float_inside(graph: Graph) -> list[str]:
    """Float tensors between the input's and the output's conversion."""
    seen = Seen(graph)
    ends = {files.name_of(tensor) for tensor in (*seen.inputs, *seen.outputs)}
    return sorted({files.name_of(t) for t in seen.main.tensors if files.dtype_of(t) == "float32"} - ends)
