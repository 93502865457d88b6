"""A small residual network in both formats, one channel of which takes a range 100 times that of the others."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generators import result

from edgekit import artifact as artifacts
from edgekit.converters.calibrate import calibrate
from edgekit.converters.stages import CalibrationOptions, Graph, Ranges
from edgekit.converters.tflite_graphs.builder import Builder
from edgekit.runtimes.model import Model
from edgekit.tensors import TensorSpec

onnx = pytest.importorskip("onnx")

SIZE, WIDTH = 8, 8

# -- A residual net in both formats; one channel of b1/conv takes a range 100 times the others' --------------


def parts(spread: float = 100.0) -> dict[str, Any]:
    random = np.random.default_rng(3)

    def weights(*shape: int) -> Any:
        return (random.normal(size=shape) / math.sqrt(math.prod(shape[1:]))).astype(np.float32)

    made = {
        "stem": (weights(WIDTH, 3, 3, 3), (random.normal(size=WIDTH) / 5).astype(np.float32)),
        "b1/conv": (weights(WIDTH, WIDTH, 3, 3), (random.normal(size=WIDTH) / 5).astype(np.float32)),
        "b2/conv": (weights(WIDTH, WIDTH, 3, 3), (random.normal(size=WIDTH) / 5).astype(np.float32)),
        "head": (weights(5, WIDTH) * 3, np.zeros(5, np.float32)),
    }
    made["b1/conv"][0][0] *= spread
    made["b1/conv"][1][0] *= spread
    made["b2/conv"][0][:, 0] = 0
    return made


def tflite_net(**said: float) -> bytes:
    net, made = Builder(), parts(**said)

    def conv(x: int, name: str, *, relu: bool = True) -> int:
        weights, bias = made[name]
        return net.conv(x, weights.transpose(0, 2, 3, 1).copy(), bias, name, relu=relu)

    x = net.input("image", (1, SIZE, SIZE, 3))
    stem = conv(x, "stem")
    inner = conv(conv(stem, "b1/conv"), "b2/conv", relu=False)
    added = net.op("ADD", [inner, stem], (1, SIZE, SIZE, WIDTH), "b2/add", "AddOptions")
    axes = net.constant("axes", np.array([1, 2], np.int32))
    pooled = net.op("MEAN", [added, axes], (1, WIDTH), "pool", "ReducerOptions")
    weights, bias = (net.constant(f"head/{kind}", made["head"][place]) for place, kind in enumerate("wb"))
    return net.finish([net.op("FULLY_CONNECTED", [pooled, weights, bias], (1, 5), "head", "FullyConnectedOptions")])


def onnx_net(**said: float) -> bytes:
    made = parts(**said)
    node = onnx.helper.make_node
    constants = [
        onnx.numpy_helper.from_array(value, f"{name}/{kind}")
        for name, pair in made.items()
        for kind, value in zip("wb", pair, strict=True)
    ]

    def conv(x: str, name: str, made: str) -> Any:
        return node("Conv", [x, f"{name}/w", f"{name}/b"], [made], name=name, pads=[1] * 4)

    nodes = [
        conv("image", "stem", "stem/conv"),
        node("Relu", ["stem/conv"], ["stem/relu"]),
        conv("stem/relu", "b1/conv", "b1/conv/sum"),
        node("Relu", ["b1/conv/sum"], ["b1/relu"]),
        conv("b1/relu", "b2/conv", "b2/conv/sum"),
        node("Add", ["b2/conv/sum", "stem/relu"], ["b2/add"]),
        node("GlobalAveragePool", ["b2/add"], ["pool"]),
        node("Flatten", ["pool"], ["flat"]),
        node("Gemm", ["flat", "head/w", "head/b"], ["head"], transB=1),
    ]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes, "net", [value("image", 1, [1, 3, SIZE, SIZE])], [value("head", 1, [1, 5])], constants
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def saved(format: str, folder: Path, **said: float) -> Graph:
    path = folder / f"net.{format}"
    path.write_bytes(tflite_net(**said) if format == "tflite" else onnx_net(**said))
    shape = (1, SIZE, SIZE, 3) if format == "tflite" else (1, 3, SIZE, SIZE)
    made = (TensorSpec("image", shape, "float32"),), (TensorSpec("head", (1, 5), "float32"),)
    return Graph("tflite" if format == "tflite" else "onnx", str(path), *made)


def images(graph: Graph, count: int = 24) -> dict[str, Any]:
    shape = tuple(size or 1 for size in graph.inputs[0].shape[1:])
    return {"image": np.random.default_rng(7).normal(size=(count, *shape)).astype(np.float32)}


def observe(graph: Graph, **options: Any) -> Ranges:
    found: Ranges = result(calibrate(graph, iter([images(graph)]), CalibrationOptions(**options)))
    return found


def answers(graph: Graph, feeds: dict[str, Any]) -> Any:
    with Model.from_artifact(
        artifacts.read(graph.path), inputs=graph.inputs, outputs=graph.outputs, threads=1
    ) as model:
        return model.run(feeds)["head"]


def sqnr(reference: Graph, made: Graph) -> float:
    feeds = images(reference)
    s, a = answers(reference, feeds), answers(made, feeds)
    noise = float(((s - a) ** 2).sum())
    return 10 * math.log10(float(((s - s.mean()) ** 2).sum()) / noise) if noise else math.inf
