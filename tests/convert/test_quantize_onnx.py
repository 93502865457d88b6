"""Quantized ONNX graphs through the real engine: right answers, integer kernels, small and equal files, refusals."""

from __future__ import annotations

import gzip
import math
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.converters import quantize_onnx
from edgekit.converters.onnx_graphs import dynamic as onnx_dynamic
from edgekit.converters.onnx_graphs import float16 as onnx_float16
from edgekit.converters.onnx_graphs import graph as onnx_graph
from edgekit.converters.stages import Graph, QuantizeOptions, Range, Ranges
from edgekit.errors import ConversionError
from edgekit.precision import Precision, precisions
from edgekit.tensors import TensorSpec

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

FLOAT = 1


# -- Building, running and observing small models ----------------------------------------------------------------


@dataclass
class Net:
    """A small ONNX model being built; constants are seeded."""

    inputs: dict[str, tuple[Any, ...]]
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)
    opset: int = 17
    seed: int = 0

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(onnx.numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def weight(self, *shape: int) -> str:
        fan = math.prod(shape[1:]) if len(shape) > 2 else shape[0]
        return self.constant(self.random.normal(0, 1 / math.sqrt(fan), shape))

    def op(self, kind: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
        names = [f"t{len(self.nodes)}_{index}" for index in range(outputs)]
        self.nodes.append(onnx.helper.make_node(kind, list(inputs), names, domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def conv(self, x: str, channels_in: int, channels_out: int, kernel: int = 3, **attributes: Any) -> str:
        group = attributes.pop("group", 1)
        weight = self.weight(channels_out, channels_in // group, kernel, kernel)
        bias = self.constant(self.random.normal(0, 0.3, channels_out))
        pad = kernel // 2
        return str(self.op("Conv", x, weight, bias, pads=[pad] * 4, group=group, **attributes))

    def model(self, *outputs: str) -> Any:
        def values(items: Any) -> list[Any]:
            return [onnx.helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in items]

        graph = onnx.helper.make_graph(
            self.nodes,
            "net",
            values(self.inputs.items()),
            [onnx.helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
            self.constants,
        )
        imports = [onnx.helper.make_opsetid("", self.opset), onnx.helper.make_opsetid("ai.onnx.ml", 2)]
        return onnx.helper.make_model(graph, opset_imports=imports, ir_version=8)


def session(model: Any, level: str = "ORT_ENABLE_ALL") -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    data = model if isinstance(model, str) else model.SerializeToString()
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def saved(model: Any, folder: Path, name: str = "float.onnx") -> Graph:
    path = folder / name
    path.write_bytes(model.SerializeToString())
    opened = session(model)
    kinds = {"tensor(float)": "float32", "tensor(int64)": "int64"}

    def specs(values: Any) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(v.name, tuple(s if isinstance(s, int) else None for s in v.shape), kinds[v.type]) for v in values
        )

    return Graph("onnx", str(path), specs(opened.get_inputs()), specs(opened.get_outputs()))


def observe(graph: Graph, feeds: list[dict[str, Any]]) -> Ranges:
    """Smallest and largest value of every float tensor, as the calibrator gives them."""
    model = onnx.load(graph.path)
    outputs = {value.name for value in model.graph.output}
    for node in model.graph.node:
        model.graph.output.extend(
            onnx.ValueInfoProto(name=name) for name in node.output if name and name not in outputs
        )
    opened = session(model, "ORT_DISABLE_ALL")
    names = [value.name for value in opened.get_outputs() if value.type == "tensor(float)"]
    seen: dict[str, Range] = {}
    for feed in feeds:
        answers = dict(zip(names, opened.run(names, feed), strict=True))
        for name, value in {**answers, **feed}.items():
            if value.dtype == np.float32 and value.size:
                low, high = float(value.min()), float(value.max())
                old = seen.get(name, Range(low, high))
                seen[name] = Range(min(low, old.min), max(high, old.max))
    return Ranges("minmax", len(feeds), seen)


def samples(graph: Graph, count: int = 8, seed: int = 1) -> list[dict[str, Any]]:
    random = np.random.default_rng(seed)
    shapes = {spec.name: tuple(size or 1 for size in spec.shape) for spec in graph.inputs}
    return [
        {name: random.normal(0, 1, shape).astype(np.float32) for name, shape in shapes.items()} for _ in range(count)
    ]


def run(graph: Graph, feed: dict[str, Any]) -> list[Any]:
    return list(session(graph.path).run([spec.key for spec in graph.outputs], feed))


def sqnr(expected: Any, answer: Any) -> float:
    """Signal to quantization noise in dB over all samples and outputs."""
    signal = sum(float((a.astype(np.float64) ** 2).sum()) for a in expected)
    noise = sum(float(((a.astype(np.float64) - b) ** 2).sum()) for a, b in zip(expected, answer, strict=True))
    return 10 * math.log10(signal / max(noise, 1e-30))


def compare(before: Graph, after: Graph, feeds: list[dict[str, Any]]) -> float:
    expected = [array for feed in feeds for array in run(before, feed)]
    return sqnr(expected, [array for feed in feeds for array in run(after, feed)])


def convert(
    graph: Graph, folder: Path, precision: str = "int8", *, ranges: Ranges | None = None, **options: Any
) -> Graph:
    chosen = precisions.get(precision)
    if ranges is None and chosen.calibrated:
        ranges = observe(graph, samples(graph))
    return quantize_onnx.quantize(graph, ranges, chosen, QuantizeOptions(**options), folder / f"{precision}.onnx")


def ops(path: str) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


# -- Patterns: each a small net, the answers it must keep, and what may stay in float --------------------------------


def conv_bn_relu() -> Any:
    net = Net({"x": (1, 8, 12, 12)})
    y = net.op("Conv", "x", net.weight(16, 8, 3, 3), pads=[1] * 4)
    parts = [net.constant(net.random.uniform(0.5, 1.5, 16)) for _ in range(4)]
    return net.model(net.op("Relu", net.op("BatchNormalization", y, *parts)))


def depthwise() -> Any:
    net = Net({"x": (1, 16, 12, 12)})
    y = net.op("Relu", net.conv("x", 16, 16, group=16))
    return net.model(net.op("Clip", net.conv(y, 16, 32, 1), net.constant(0), net.constant(6)))


def residual() -> Any:
    net = Net({"x": (1, 16, 8, 8)})
    first = net.op("Relu", net.conv("x", 16, 16))
    second = net.conv(net.op("Relu", net.conv(first, 16, 16)), 16, 16)
    joined = net.op("Relu", net.op("Add", first, second))
    return net.model(net.conv(joined, 16, 16))


def concatenation() -> Any:
    net = Net({"x": (1, 8, 8, 8)})
    wide = net.op("Mul", net.conv("x", 8, 8), net.constant(20))
    return net.model(net.conv(net.op("Concat", wide, net.op("Relu", net.conv("x", 8, 8)), axis=1), 16, 8))


def pooling() -> Any:
    net = Net({"x": (1, 16, 16, 16)})
    y = net.op("MaxPool", net.conv("x", 16, 16), kernel_shape=[2, 2], strides=[2, 2])
    y = net.op("AveragePool", net.conv(y, 16, 16), kernel_shape=[2, 2], strides=[2, 2])
    y = net.op("Flatten", net.op("GlobalAveragePool", net.conv(y, 16, 16)))
    return net.model(net.op("Softmax", net.op("Gemm", y, net.weight(16, 10), net.constant(np.zeros(10)))))


def whole_average(kernel: int = 8, **attributes: Any) -> Any:
    net = Net({"x": (1, 3, 8, 8)})
    y = net.op("AveragePool", net.op("Relu", net.conv("x", 3, 16)), kernel_shape=[kernel] * 2, **attributes)
    return net.model(net.conv(y, 16, 4, 1))


def classifier() -> Any:
    """As tf2onnx writes it: ReduceMean, MatMul and Add."""
    net = Net({"x": (1, 8, 8, 3)})
    y = net.conv(net.op("Transpose", "x", perm=[0, 3, 1, 2]), 3, 16)
    y = net.op("MatMul", net.op("ReduceMean", y, axes=[2, 3], keepdims=0), net.weight(16, 10))
    return net.model(net.op("Add", y, net.constant(net.random.normal(0, 1, (1, 10)))))


def activations() -> Any:
    net = Net({"x": (1, 16, 8, 8)})
    y = net.conv("x", 16, 16)
    y = net.conv(net.op("Mul", y, net.op("Sigmoid", y)), 16, 16)
    y = net.conv(net.op("LeakyRelu", y, alpha=0.1), 16, 16)
    return net.model(net.conv(net.op("PRelu", y, net.constant([[[0.2]]])), 16, 16))


def wrapped_activations() -> Any:
    net = Net({"x": (1, 16, 8, 8)})
    y = net.conv(net.op("HardSwish", net.conv("x", 16, 16)), 16, 16)
    return net.model(net.conv(net.op("Tanh", y), 16, 16))


def resizing() -> Any:
    net = Net({"x": (1, 16, 8, 8)})
    scales = net.constant([1, 1, 2, 2])
    y = net.op("Resize", net.conv("x", 16, 16), "", scales, mode="nearest", nearest_mode="floor",
               coordinate_transformation_mode="asymmetric")  # fmt: skip
    y = net.op("Pad", y, net.constant([0, 0, 1, 1, 0, 0, 1, 1], np.int64), net.constant(0.0))
    return net.model(net.conv(y, 16, 8))


def preactivation() -> Any:
    """A BatchNorm behind an Add cannot be folded."""
    net = Net({"x": (1, 16, 8, 8)})
    y = net.op("Add", net.conv("x", 16, 16), net.conv("x", 16, 16))
    parts = [net.constant(net.random.uniform(0.5, 1.5, 16)) for _ in range(4)]
    return net.model(net.conv(net.op("Relu", net.op("BatchNormalization", y, *parts)), 16, 8))


def normalized_input() -> Any:
    net = Net({"x": (1, 3, 8, 8)})
    y = net.op("Div", net.op("Sub", "x", net.constant([[[0.4]], [[0.5]], [[0.6]]])), net.constant(0.25))
    return net.model(net.conv(y, 3, 8))


def computed_weight() -> Any:
    """onnxruntime issue 24815: a weight that a Reshape makes, a bias of two axes."""
    net = Net({"x": (1, 1, 8, 8)}, opset=8)
    y = net.op("Add", net.op("Conv", "x", net.weight(8, 1, 3, 3)), net.constant(net.random.normal(0, 1, (8, 1, 1))))
    y = net.op("Reshape", net.op("Relu", y), net.constant([1, 288], np.int64))
    table = net.op("Reshape", net.constant(net.random.normal(0, 0.1, (8, 6, 6, 10))), net.constant([288, 10], np.int64))
    return net.model(net.op("Add", net.op("MatMul", y, table), net.constant(net.random.normal(0, 1, (1, 10)))))


def attention() -> Any:
    net = Net({"x": (1, 6, 32)})
    ones, zeros = net.constant(np.ones(32)), net.constant(np.zeros(32))
    y = net.op("LayerNormalization", "x", ones, zeros)
    q, k, v = (net.op("Add", net.op("MatMul", y, net.weight(32, 32)), net.constant(np.zeros(32))) for _ in range(3))
    scores = net.op("Div", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1])), net.constant(5.6))
    mixed = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
    return net.model(net.op("Add", "x", net.op("MatMul", mixed, net.weight(32, 32))))


def stacked_matrices() -> Any:
    """A weight of three axes takes one scale."""
    net = Net({"x": (2, 4, 16)})
    return net.model(net.op("MatMul", net.op("Relu", "x"), net.constant(net.random.normal(0, 0.3, (2, 16, 8)))))


def late_clip() -> Any:
    """Clip(1, 4) does not hold zero: the limits of the integers cannot stand for it."""
    net = Net({"x": (1, 8, 8, 8)})
    y = net.op("Clip", net.conv("x", 8, 8), net.constant(1), net.constant(4))
    return net.model(net.conv(y, 8, 8))


def square() -> Any:
    net = Net({"x": (1, 8, 8, 8)})
    y = net.conv("x", 8, 8)
    return net.model(net.conv(net.op("Mul", y, y), 8, 8))


def shapes_at_run_time() -> Any:
    """Integers that only make shapes are left alone."""
    net = Net({"x": ("N", 8, 4, 4)})
    y = net.conv("x", 8, 8)
    batch = net.op("Gather", net.op("Shape", y), net.constant(0, np.int64), axis=0)
    sizes = net.op(
        "Concat", net.op("Unsqueeze", batch, net.constant([0], np.int64)), net.constant([-1], np.int64), axis=0
    )
    return net.model(net.op("Gemm", net.op("Reshape", y, sizes), net.weight(128, 8), net.constant(np.zeros(8))))


def logits_used_twice() -> Any:
    net = Net({"x": (1, 32)})
    y = net.op("Gemm", "x", net.weight(32, 10), net.constant(np.zeros(10)))
    return net.model(y, net.op("Softmax", y))


def one_axis() -> Any:
    net = Net({"x": (1, 8, 32)})
    y = net.op("Conv", "x", net.weight(16, 8, 5), net.constant(np.zeros(16)), pads=[2, 2])
    y = net.op("MaxPool", net.op("Relu", y), kernel_shape=[2], strides=[2])
    return net.model(net.op("Conv", y, net.weight(8, 16, 3), net.constant(np.zeros(8))))


def upsampling() -> Any:
    net = Net({"x": (1, 16, 8, 8)})
    y = net.op("ConvTranspose", net.conv("x", 16, 16), net.weight(16, 8, 2, 2), strides=[2, 2])
    return net.model(net.conv(y, 8, 8))


def pieces() -> Any:
    net = Net({"x": (1, 16, 8, 8)})
    first, second = net.op("Split", net.conv("x", 16, 16), outputs=2, axis=1)
    second = net.op(
        "Slice", second, net.constant([0], np.int64), net.constant([8], np.int64), net.constant([1], np.int64)
    )
    joined = net.op("Concat", second, net.conv(first, 8, 8), axis=1)
    shuffled = net.op(
        "Transpose", net.op("Reshape", joined, net.constant([1, 2, 8, 8, 8], np.int64)), perm=[0, 2, 1, 3, 4]
    )
    return net.model(net.conv(net.op("Reshape", shuffled, net.constant([1, 16, 8, 8], np.int64)), 16, 8))


PATTERNS: dict[Callable[[], Any], tuple[float, tuple[str, ...]]] = {
    # net: (least SQNR in dB with int8, op types that stay in float)
    conv_bn_relu: (30, ()),
    depthwise: (25, ()),
    residual: (30, ()),
    concatenation: (30, ()),
    pooling: (25, ()),
    whole_average: (30, ()),
    classifier: (30, ()),
    activations: (25, ()),
    wrapped_activations: (25, ("HardSigmoid", "Mul", "Tanh")),
    resizing: (30, ()),
    preactivation: (25, ()),
    normalized_input: (30, ()),
    computed_weight: (30, ()),
    attention: (25, ("LayerNormalization",)),
    stacked_matrices: (30, ()),
    late_clip: (30, ("Clip",)),
    square: (22, ()),
    shapes_at_run_time: (30, ()),
    logits_used_twice: (25, ()),
    one_axis: (25, ()),
    upsampling: (30, ("ConvTranspose",)),
    pieces: (30, ()),
}


def computed_in_float(graph):
    """Op types that the note names."""
    said = [note.partition("computes in float: ")[2] for note in graph.notes]
    return tuple(op.split()[0] for note in said if note for op in note.split(", "))


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.__name__)
def test_int8_keeps_answers_and_uses_integer_kernels(pattern, tmp_path):
    least, in_float = PATTERNS[pattern]
    before = saved(pattern(), tmp_path)
    after = convert(before, tmp_path)
    assert after.precision == "int8"
    assert computed_in_float(after) == in_float
    assert after.float_ops == ()
    assert compare(before, after, samples(before, seed=2)) >= least
    assert not [t for t in onnx.load(after.path).graph.initializer if t.data_type == FLOAT and math.prod(t.dims) >= 100]


@pytest.mark.parametrize("precision", ["int16x8", "dynamic", "fp16"])
@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.__name__)
def test_other_precisions_keep_answers(pattern, precision, tmp_path):
    before = saved(pattern(), tmp_path)
    after = convert(before, tmp_path, precision)
    least = {"int16x8": 32, "dynamic": 30, "fp16": 55}[precision]
    assert compare(before, after, samples(before)) >= least
    if precision == "int16x8":
        model = onnx.load(after.path)
        assert onnx_graph.opset(model) >= 21
        assert model.ir_version <= 10
        assert {node.domain for node in model.graph.node} == {""}


@pytest.mark.parametrize("pattern", [pooling, classifier, residual, logits_used_twice], ids=lambda p: p.__name__)
def test_integer_interface(pattern, tmp_path):
    before = saved(pattern(), tmp_path)
    feeds = samples(before)
    floats = convert(before, tmp_path, ranges=observe(before, feeds))
    folder = tmp_path / "io"
    folder.mkdir()
    integers = convert(before, folder, ranges=observe(before, feeds), interface="int8")
    opened = session(integers.path)
    for spec, value in zip(
        (*integers.inputs, *integers.outputs), (*opened.get_inputs(), *opened.get_outputs()), strict=True
    ):
        assert spec.dtype == "uint8"
        assert value.type == "tensor(uint8)"
        assert spec.quant is not None
    expected, answers = [], []
    for feed in feeds:
        raw = {}
        for spec in integers.inputs:
            scale, zero = spec.quant.scale[0], spec.quant.zero_point[0]
            raw[spec.key] = np.clip(np.rint(feed[spec.name] / np.float32(scale)) + zero, 0, 255).astype(np.uint8)
        expected += run(floats, feed)
        for spec, array in zip(integers.outputs, run(integers, raw), strict=True):
            answers.append((array.astype(np.float32) - spec.quant.zero_point[0]) * np.float32(spec.quant.scale[0]))
    # Only a Gemm at the end differs: it need not round its answer for a float interface.
    assert sqnr(expected, answers) >= 35


def test_inputs_of_indices_keep_their_type(tmp_path):
    net = Net({"x": (1, 4)})
    y = net.op("ReduceMean", net.op("Gather", net.weight(50, 32), "i"), axes=[1], keepdims=0)
    model = net.model(net.op("Relu", net.op("Gemm", y, net.weight(32, 8), net.constant(np.zeros(8)))))
    model.graph.input[0].name = "i"
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    before = saved(model, tmp_path)
    feeds = [{"i": np.array([[1, 4, 9, k]])} for k in range(6)]
    after = convert(before, tmp_path, ranges=observe(before, feeds), interface="int8")
    assert after.inputs[0] == before.inputs[0]
    assert after.outputs[0].dtype == "uint8"


# -- Refusals ---------------------------------------------------------------------------------------------------


def recurrent() -> Any:
    net = Net({"x": (5, 1, 8)})
    y = net.op("LSTM", "x", net.weight(1, 64, 8), net.weight(1, 64, 16), hidden_size=16, outputs=2)[1]
    flat = net.op("Reshape", y, net.constant([1, 16], np.int64))
    return net.model(net.op("Gemm", flat, net.weight(16, 4), net.constant(np.zeros(4))))


def test_ops_that_cannot_be_quantized_are_refused_by_name(tmp_path):
    before = saved(recurrent(), tmp_path)
    with pytest.raises(ConversionError) as refusal:
        convert(before, tmp_path)
    assert refusal.value.code == "op-not-quantizable"
    assert refusal.value.details["ops"] == ["LSTM (t0_0)"]
    assert not (tmp_path / "int8.onnx").exists()


def test_allowed_float_ops_are_listed(tmp_path):
    before = saved(recurrent(), tmp_path)
    after = convert(before, tmp_path, allow_float_ops=True)
    assert after.float_ops == ("LSTM (t0_0)",)
    assert any("LSTM (t0_0)" in note for note in after.notes)
    assert compare(before, after, samples(before, seed=2)) >= 30


def test_many_refused_ops_are_counted_and_the_first_named(tmp_path):
    net = Net({"x": (1, 8)})
    at = "x"
    for _ in range(12):
        at = str(net.op("Det", net.op("Reshape", at, net.constant([2, 2, 2], np.int64))))
        at = str(
            net.op("Expand", net.op("Reshape", at, net.constant([1, 2], np.int64)), net.constant([4, 2], np.int64))
        )
    before = saved(net.model(net.op("Relu", net.op("Reshape", at, net.constant([1, 8], np.int64)))), tmp_path)
    with pytest.raises(ConversionError, match=r"12 ops cannot be quantized: Det .* and 4 more") as refusal:
        convert(before, tmp_path)
    assert len(refusal.value.details["ops"]) == 12


def test_indices_that_are_compared_as_floats_are_not_quantized(tmp_path):
    """As tf2onnx writes the wrap-around of an embedding's negative indices."""
    net = Net({"x": (1, 8)})
    index = net.op("ArgMax", net.op("Relu", "x"), axis=1, keepdims=0)
    low = net.op("Less", net.op("Cast", index, to=FLOAT), net.constant([4.0]))
    row = net.op("Where", low, net.op("Add", index, net.constant([2], np.int64)), index)
    before = saved(net.model(net.op("MatMul", net.op("Gather", net.weight(8, 16), row), net.weight(16, 4))), tmp_path)
    after = convert(before, tmp_path)
    assert after.float_ops == ()
    assert compare(before, after, samples(before, seed=2)) >= 30


def test_comparisons_of_values_are_refused(tmp_path):
    net = Net({"x": (1, 8)})
    hidden = net.op("MatMul", "x", net.weight(8, 8))
    chosen = net.op("Where", net.op("Less", hidden, net.constant([0.1])), hidden, "x")
    before = saved(net.model(net.op("MatMul", chosen, net.weight(8, 4))), tmp_path)
    with pytest.raises(ConversionError, match="Less"):
        convert(before, tmp_path)


def test_foreign_domain_is_refused(tmp_path):
    net = Net({"x": (1, 8)})
    model = net.model(net.op("QuickGelu", net.op("Relu", "x"), domain="com.microsoft", alpha=1.7))
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    before = saved(model, tmp_path)
    with pytest.raises(ConversionError) as refusal:
        convert(before, tmp_path)
    assert "QuickGelu" in str(refusal.value)


def test_comparisons_of_the_models_own_inputs_are_no_arithmetic(tmp_path):
    """A mask that came with the samples is compared as it is; a comparison of what was computed is refused."""
    net = Net({"x": (8, 6, 16), "mask": (8, 6)})
    half = net.constant(0.5)
    there = net.op("Greater", net.op("Unsqueeze", "mask", net.constant([-1], np.int64)), half)
    hidden = net.op("Relu", net.op("MatMul", "x", net.weight(16, 32)))
    chosen = net.op("Where", there, hidden, net.constant(0.0))
    before = saved(net.model(net.op("MatMul", chosen, net.weight(32, 4))), tmp_path)
    x = net.random.normal(0, 1, (8, 6, 16)).astype(np.float32)
    feeds = [{"x": x, "mask": (net.random.random((8, 6)) < 0.5) * np.float32(0.6)}]
    after = convert(before, tmp_path, ranges=observe(before, feeds))
    assert after.float_ops == ()
    (expected,), (found,) = (session(graph.path).run(None, feeds[0]) for graph in (before, after))
    assert (found[feeds[0]["mask"] == 0] == 0).all()
    assert np.square(expected).sum() > 300 * np.square(expected - found).sum()

    computed = Net({"x": (8, 16)})
    product = computed.op("MatMul", "x", computed.weight(16, 4))
    above = computed.op("Greater", product, computed.constant(0.5))
    before = saved(computed.model(computed.op("Where", above, product, computed.constant(0.0))), tmp_path)
    with pytest.raises(ConversionError) as refusal:
        convert(before, tmp_path, ranges=observe(before, [{"x": x[:, 0]}]))
    assert refusal.value.details["ops"] == ["Greater (t1_0)"]


def test_other_float_types_are_refused(tmp_path):
    net = Net({"x": (1, 8)})
    double = net.op("Cast", "x", to=onnx.TensorProto.DOUBLE)
    product = net.op("MatMul", double, net.constant(net.random.normal(0, 1, (8, 8)), np.float64))
    before = saved(net.model(net.op("Cast", product, to=onnx.TensorProto.FLOAT)), tmp_path)
    with pytest.raises(ConversionError) as refusal:
        convert(before, tmp_path)
    assert refusal.value.code == "op-not-quantizable"


def test_masks_of_infinity_stay_in_float(tmp_path):
    net = Net({"x": (1, 4, 4)})
    mask = net.constant(np.triu(np.full((4, 4), -np.inf), 1))
    before = saved(net.model(net.op("Softmax", net.op("Add", net.op("Relu", "x"), mask))), tmp_path)
    with pytest.raises(ConversionError) as refusal:
        convert(before, tmp_path, ranges=Ranges("minmax", 1, {"x": Range(-1, 1)}))
    assert refusal.value.code == "op-not-quantizable"


@pytest.mark.parametrize(
    ("ranges", "code"),
    [
        (None, "ranges-missing"),
        (Ranges("minmax", 1, {"x": Range(-1, 1)}), "range-missing"),
        (Ranges("minmax", 1, {"x": Range(-1, math.inf)}), "range-not-finite"),
    ],
)
def test_bad_ranges(ranges, code, tmp_path):
    before = saved(residual(), tmp_path)
    with pytest.raises(ConversionError) as refusal:
        quantize_onnx.quantize(before, ranges, precisions.get("int8"), QuantizeOptions(), tmp_path / "out.onnx")
    assert refusal.value.code == code


def test_unknown_precision(tmp_path):
    before = saved(residual(), tmp_path)
    precision: Precision = replace(precisions.get("int8"), kind="dynamic", activations="int16")
    with pytest.raises(ConversionError, match="has no way to int8"):
        quantize_onnx.quantize(before, None, precision, QuantizeOptions(), tmp_path / "out.onnx")


@pytest.mark.parametrize("content", [b"", b"\x08\x08", b"not a model at all, but long enough to be one"])
def test_damaged_float_file(content, tmp_path):
    before = saved(residual(), tmp_path)
    Path(before.path).write_bytes(content)
    with pytest.raises(ConversionError):
        convert(before, tmp_path, ranges=Ranges("minmax", 1, {}))


# -- Files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["int8", "int16x8", "dynamic", "fp16"])
def test_same_input_gives_same_bytes_and_leaves_the_source_alone(precision, tmp_path):
    before = saved(attention(), tmp_path)
    source = Path(before.path).read_bytes()
    ranges = observe(before, samples(before))
    first = Path(convert(before, tmp_path, precision, ranges=ranges).path).read_bytes()
    script = f"""
import pickle, sys
from pathlib import Path
from edgekit.converters import quantize_onnx
from edgekit.converters.stages import QuantizeOptions
from edgekit.precision import precisions
graph, ranges = pickle.loads(sys.stdin.buffer.read())
path = Path({str(tmp_path / "again")!r})
quantize_onnx.quantize(graph, ranges, precisions.get({precision!r}), QuantizeOptions(), path)
"""
    child = subprocess.run(
        [sys.executable, "-c", script], input=pickle.dumps((before, ranges)), capture_output=True,
        env={"PYTHONHASHSEED": "7", "PATH": ""}, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr.decode()
    assert (tmp_path / "again").read_bytes() == first
    assert Path(before.path).read_bytes() == source
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(["again", "float.onnx", f"{precision}.onnx"])


def test_observed_tensors_keep_their_names_and_the_rest_is_short(tmp_path):
    before = saved(residual(), tmp_path)
    ranges = observe(before, samples(before))
    model = onnx.load(convert(before, tmp_path, ranges=ranges).path)
    kept = {name for node in model.graph.node for name in node.output} & set(ranges.tensors)
    assert len(kept) >= 5
    others = {name for node in model.graph.node for name in (*node.input, *node.output)} - set(ranges.tensors)
    assert max(map(len, others)) <= 3
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)
    assert not model.graph.value_info
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(model), full_check=True)


def test_low_opset_is_raised_with_a_note(tmp_path):
    before = saved(computed_weight(), tmp_path)
    after = convert(before, tmp_path)
    assert any("opset 8 was raised to 13" in note for note in after.notes)


def test_channels_have_their_own_scale(tmp_path):
    net = Net({"x": (1, 4, 6, 6)})
    weight = net.random.normal(0, 1, (6, 4, 3, 3)) * np.logspace(-3, 1, 6).reshape(-1, 1, 1, 1)
    before = saved(net.model(net.op("Conv", "x", net.constant(weight), pads=[1] * 4)), tmp_path)
    model = onnx.load(convert(before, tmp_path).path)
    scales = [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer if list(tensor.dims) == [6]]
    largest = np.abs(weight).max(axis=(1, 2, 3))
    assert any(np.allclose(scale, largest / 127.5, rtol=0.01) for scale in scales)


def test_an_average_of_the_whole_map_has_a_scale_of_its_own(tmp_path):
    """An average is several times smaller than the largest value: on the pooling's scale it would keep five bits."""
    graph = saved(whole_average(), tmp_path)
    ranges = observe(graph, samples(graph))
    pooled, wide = ranges.tensors["t2_0"], ranges.tensors["t1_0"]
    assert pooled.max < wide.max / 2
    after = convert(graph, tmp_path, ranges=ranges)
    model = onnx.load(after.path)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    scales = [float(constants[n.input[1]]) for n in model.graph.node if n.op_type == "QuantizeLinear"]
    assert min(abs(scale * 255 / (pooled.max - min(pooled.min, 0)) - 1) for scale in scales) < 0.02
    assert computed_in_float(after) == ()
    assert compare(graph, after, samples(graph)) > 30


@pytest.mark.parametrize(
    "attributes",
    [{"kernel": 4, "strides": [4, 4]}, {"pads": [1, 1, 1, 1]}, {"auto_pad": "SAME_UPPER"}],
    ids=["part", "padded", "same"],
)
def test_other_averages_stay_poolings(attributes, tmp_path):
    graph = saved(whole_average(**attributes), tmp_path)
    after = convert(graph, tmp_path)
    assert "AveragePool" in ops(after.path)
    assert compare(graph, after, samples(graph)) > 25


def test_dead_channels_and_constant_tensors(tmp_path):
    """Ranges of zero width and weights of zeros make no scale of zero and no NaN."""
    net = Net({"x": (1, 4, 6, 6)})
    weight = net.random.normal(0, 1, (8, 4, 3, 3))
    weight[2:4] = 0
    y = net.op(
        "Relu",
        net.op("Sub", net.op("Relu", net.op("Conv", "x", net.constant(weight), pads=[1] * 4)), net.constant(1e3)),
    )
    before = saved(net.model(net.conv(y, 8, 4), net.conv("x", 4, 4)), tmp_path)
    for precision in ("int8", "int16x8", "dynamic", "fp16"):
        for array in run(convert(before, tmp_path, precision), samples(before, 1)[0]):
            assert np.isfinite(array).all()


# -- Dynamic and float16 ----------------------------------------------------------------------------------------


def large_products() -> Any:
    net = Net({"x": (4, 256)})
    y = net.op("Relu", net.op("Gemm", "x", net.weight(256, 128), net.constant(net.random.normal(0, 1, 128))))
    y = net.op("Relu", net.op("Gemm", y, net.constant(net.random.normal(0, 0.1, (160, 128))), transB=1))
    return net.model(net.op("MatMul", y, net.weight(160, 128)))


def test_large_products_are_computed_in_integers(tmp_path):
    before = saved(large_products(), tmp_path)
    after = convert(before, tmp_path, "dynamic")
    assert ops(after.path).count("MatMulInteger") == 3
    assert any("computed in integers: 2 Gemm, 1 MatMul" in note for note in after.notes)
    assert compare(before, after, samples(before)) >= 32
    assert Path(after.path).stat().st_size < 0.3 * Path(before.path).stat().st_size


def test_convolutions_and_recurrence_store_int8(tmp_path):
    net = Net({"x": (5, 1, 32)})
    y = net.op("LSTM", "x", net.weight(1, 256, 32), net.weight(1, 256, 64), hidden_size=64, outputs=1)
    before = saved(net.model(y), tmp_path)
    after = convert(before, tmp_path, "dynamic")
    assert ops(after.path) == ["Cast", "Mul", "Cast", "Mul", "LSTM"]
    assert any("1 LSTM" in note or "2 LSTM" in note for note in after.notes)
    assert compare(before, after, samples(before)) >= 30
    assert Path(after.path).stat().st_size < 0.35 * Path(before.path).stat().st_size


def test_weights_too_small_to_gain_stay(tmp_path):
    net = Net({"x": (1, 4)})
    before = saved(net.model(net.op("Gemm", "x", net.weight(4, 3), net.constant(np.zeros(3)))), tmp_path)
    for precision in ("dynamic", "fp16"):
        after = convert(before, tmp_path, precision)
        assert Path(after.path).read_bytes() == Path(before.path).read_bytes()
        assert any("stay in float" in note for note in after.notes)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=4, max_size=40),
    st.sampled_from([(0,), (1,), (0, 1)]),
)
def test_rounding_to_int8_is_within_half_a_step(numbers, axes):
    value = np.array(numbers[: len(numbers) // 2 * 2], np.float32).reshape(2, -1)
    integers, scale = onnx_dynamic._round(value, axes)
    assert np.abs(integers.astype(int)).max() <= 127
    restored = integers.astype(np.float64) * scale
    assert (np.abs(restored - value) <= 0.5001 * scale.astype(np.float64)).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=40))
def test_float16_never_makes_infinity_and_never_loses_much(numbers):
    value = np.array(numbers, np.float32)
    half = onnx_float16._half(value)
    if half is None:
        largest = np.abs(value).max()
        assert largest >= 65504 or 0 < largest < 1
    else:
        assert np.isfinite(half).all()
        error = np.linalg.norm(value.astype(np.float64) - half)
        assert error <= 1e-3 * np.linalg.norm(value.astype(np.float64))


def test_float16_leaves_what_it_cannot_hold(tmp_path):
    net = Net({"x": (1, 32)})
    large = net.random.normal(0, 1e5, (32, 32))
    y = net.op("Mul", net.op("Gemm", "x", net.constant(large), net.constant(np.zeros(32))), net.constant(1e-5))
    before = saved(net.model(net.op("Gemm", y, net.weight(32, 32), net.constant(np.zeros(32)))), tmp_path)
    after = convert(before, tmp_path, "fp16")
    assert any("1 weights stay in float32" in note for note in after.notes)
    assert compare(before, after, samples(before)) >= 55
    alone = saved(net.model(net.op("Gemm", "x", net.constant(large), net.constant(np.zeros(32)))), tmp_path)
    (note,) = convert(alone, tmp_path, "fp16").notes
    assert "cannot hold" in note


# -- Real models ------------------------------------------------------------------------------------------------


def digits(folder: Path, count: int) -> tuple[Any, Any]:
    raw = gzip.decompress((folder / "data/mnist_t10k/t10k-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / "data/mnist_t10k/t10k-labels-idx1-ubyte.gz").read_bytes())
    images = np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 1, 28, 28).astype(np.float32)
    return images[:count], np.frombuffer(labels, np.uint8, offset=8)[:count]


def raised(path: Path, folder: Path) -> Graph:
    """What the loader hands over: a recent opset, no weights among the inputs."""
    model = onnx_graph.read(path)
    model.ir_version = 8
    model, _ = onnx_graph.raise_opset(model, 17)
    return saved(model, folder)


def test_mnist(shared, tmp_path):
    before = raised(shared / "models/mnist_cnn_onnx/mnist.onnx", tmp_path)
    images, labels = digits(shared, 1100)
    ranges = observe(before, [{"Input3": image[None]} for image in images[1000:]])
    sizes = {"int8": 8700, "int16x8": 9200, "dynamic": 8200, "fp16": 14000}
    for precision, largest in sizes.items():
        after = convert(before, tmp_path, precision, ranges=ranges)
        opened = session(after.path)
        answers = np.concatenate([opened.run(None, {"Input3": image[None]})[0] for image in images[:1000]])
        # The float model gets 98.0 % of these thousand right.
        assert (answers.argmax(-1) == labels[:1000]).mean() >= 0.975
        assert Path(after.path).stat().st_size <= largest


def test_ultraface(shared, tmp_path):
    before = raised(shared / "models/face_ultraface_onnx/version-RFB-320.onnx", tmp_path)
    feeds = samples(before, 3)
    after = convert(before, tmp_path, ranges=observe(before, feeds))
    assert computed_in_float(after) == ("Exp", "Sub")
    assert compare(before, after, feeds) >= 35
    assert Path(after.path).stat().st_size < 365_000
