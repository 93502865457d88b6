"""Quantized TFLite graphs through the real engine: right answers, scales from our ranges, float operators named."""

from __future__ import annotations

import gzip
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit import artifact
from edgekit.converters import quantize_tflite
from edgekit.converters.calibrate import calibrate
from edgekit.converters.stages import CalibrationOptions, Graph, QuantizeOptions, Range, Ranges
from edgekit.converters.tflite_graphs import graph as files
from edgekit.converters.tflite_graphs.builder import Builder
from edgekit.errors import ConversionError
from edgekit.precision import Precision, precisions
from edgekit.runtimes.model import Model
from edgekit.tensors import TensorSpec

pytest.importorskip("ai_edge_litert", reason="comes with the tflite extra")
pytest.importorskip("ai_edge_quantizer", reason="comes with the convert extra")

INTEGER = ("int8", "int16x8")


# -- Building, observing, quantizing and running small graphs --------------------------------------------------------


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
    steps = calibrate(graph, iter([feeds]), CalibrationOptions(**options))
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: Ranges = end.value
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


# -- Weights -----------------------------------------------------------------------------------------------------------


def _conv(net: Net) -> int:
    return net.conv3(net.input("x", (1, 6, 6, 3)), 5, "y", relu=False)


def _bare_transposed(net: Net) -> int:
    x = net.input("x", (1, 4, 4, 3))
    parts = [net.ints("size", 1, 8, 8, 5), net.constant("w", net.weights(5, 2, 2, 3)), x]
    return net.op("TRANSPOSE_CONV", parts, (1, 8, 8, 5), "y", "TransposeConvOptions", {"strideW": 2, "strideH": 2})


def _depthwise(net: Net) -> int:
    x = net.input("x", (1, 6, 6, 4))
    parts = [x, net.constant("w", net.weights(1, 3, 3, 4)), net.constant("b", net.bias(4))]
    fields = {"strideW": 1, "strideH": 1, "depthMultiplier": 1}
    return net.op("DEPTHWISE_CONV_2D", parts, (1, 6, 6, 4), "y", "DepthwiseConv2DOptions", fields)


def _transposed(net: Net) -> int:
    x = net.input("x", (1, 4, 4, 3))
    parts = [
        net.ints("size", 1, 8, 8, 5),
        net.constant("w", net.weights(5, 2, 2, 3)),
        x,
        net.constant("b", net.bias(5)),
    ]
    fields = {"strideW": 2, "strideH": 2}
    return net.op("TRANSPOSE_CONV", parts, (1, 8, 8, 5), "y", "TransposeConvOptions", fields, version=3)


def _dense(net: Net) -> int:
    return net.dense(net.input("x", (1, 12)), 5, "y")


def _bare_dense(net: Net) -> int:
    return net.dense(net.input("x", (1, 12)), 5, "y", biased=False)


# build, kind, position of input, weights and bias, channel axis
WEIGHTED = {
    "convolution": (_conv, "CONV_2D", (0, 1, 2), 0),
    "depthwise": (_depthwise, "DEPTHWISE_CONV_2D", (0, 1, 2), 3),
    "transposed": (_transposed, "TRANSPOSE_CONV", (2, 1, 3), 0),
    "dense": (_dense, "FULLY_CONNECTED", (0, 1, 2), 0),
}


@pytest.mark.parametrize("precision", INTEGER)
@pytest.mark.parametrize("case", WEIGHTED)
def test_weights_have_a_scale_a_channel_and_biases_are_int32(tmp_path, case, precision):
    build, kind, (at_input, at_weights, at_bias), axis = WEIGHTED[case]
    net = Net()
    graph = saved(net.finish([build(net)]), tmp_path)
    source = Seen(graph)
    weights, bias = source.values(source.read(kind, at_weights)), source.values(source.read(kind, at_bias))
    seen = Seen(made := convert(graph, tmp_path, precision))
    stored = seen.read(kind, at_weights)
    others = tuple(number for number in range(weights.ndim) if number != axis)
    bounds = np.abs(weights).max(axis=others)
    assert files.dtype_of(stored) == "int8"
    assert int(stored.quantization.quantizedDimension) == axis
    np.testing.assert_allclose(stored.quantization.scale, bounds / 127, rtol=1e-5)
    assert not np.any(stored.quantization.zeroPoint)
    steps = (weights / (bounds / 127).reshape([-1 if n == axis else 1 for n in range(weights.ndim)])).astype(np.float64)
    assert np.abs(seen.values(stored) - steps).max() <= 0.51
    kept = seen.read(kind, at_bias)
    assert files.dtype_of(kept) == ("int32" if precision == "int8" else "int64")
    units = scale(seen.read(kind, at_input)) * np.asarray(stored.quantization.scale, np.float64)
    np.testing.assert_allclose(kept.quantization.scale, units, rtol=1e-5)
    np.testing.assert_allclose(seen.values(kept) * units, bias, atol=units.max())
    assert made.float_ops == ()
    assert sqnr(graph, made) > (28 if precision == "int8" else 38)


@pytest.mark.parametrize("precision", ["int8", "int16x8", "dynamic"])
@pytest.mark.parametrize("build", [_bare_transposed, _bare_dense])
def test_without_a_bias(tmp_path, build, precision):
    net = Net()
    graph = saved(net.finish([build(net)]), tmp_path)
    made = convert(graph, tmp_path, precision)
    assert sqnr(graph, made) > 28


def test_a_dead_channel_keeps_its_bias(tmp_path):
    """Weights of (nearly) zero have steps so small that the bias would wrap around."""
    net = Net()
    x = net.input("x", (1, 12))
    weights = net.weights(4, 12)
    weights[1], weights[2] = 0, 1e-12
    parts = [x, net.constant("w", weights), net.constant("b", np.float32([0.5, 3, -3, 0]))]
    graph = saved(net.finish([net.op("FULLY_CONNECTED", parts, (1, 4), "y", "FullyConnectedOptions")]), tmp_path)
    answer = run(convert(graph, tmp_path), samples(graph))["y"]
    assert answer[:, 1] == pytest.approx(3, abs=0.05)
    assert answer[:, 2] == pytest.approx(-3, abs=0.05)


def test_weights_that_two_operators_share(tmp_path):
    """The inputs' scales differ, so do the biases' units; the weights stay one."""
    net = Net()
    a, b = net.input("a", (1, 12)), net.input("b", (1, 12))
    weights, bias = net.constant("w", net.weights(12, 12)), net.constant("b", net.bias(12))
    first = net.op("FULLY_CONNECTED", [a, weights, bias], (1, 12), "first", "FullyConnectedOptions")
    second = net.op("FULLY_CONNECTED", [b, weights, bias], (1, 12), "second", "FullyConnectedOptions")
    graph = saved(net.finish([first, second]), tmp_path)
    feeds = samples(graph)
    feeds["b"] *= 30
    made = convert(graph, tmp_path, ranges=observe(graph, feeds))
    seen = Seen(made)
    assert seen.read("FULLY_CONNECTED", 1, 0).buffer == seen.read("FULLY_CONNECTED", 1, 1).buffer
    for number in (0, 1):
        units = (
            scale(seen.read("FULLY_CONNECTED", 0, number)) * seen.read("FULLY_CONNECTED", 1, number).quantization.scale
        )
        np.testing.assert_allclose(seen.read("FULLY_CONNECTED", 2, number).quantization.scale, units, rtol=1e-5)
    assert sqnr(graph, made, feeds) > 28


# -- Activations -------------------------------------------------------------------------------------------------------


@given(low=st.floats(-50, 20), span=st.floats(0.01, 60))
@settings(max_examples=12, deadline=None)
def test_scales_derive_from_the_ranges_given(tmp_path_factory, low, span):
    """Whatever calibration says is what the file holds: asymmetric in 8 bits, symmetric in 16, zero inside."""
    folder = tmp_path_factory.mktemp("ranges")
    net = Net()
    graph = saved(net.finish([_dense(net)]), folder)
    high = low + span
    ranges = Ranges("minmax", 1, {"x": Range(-1.0, 3.0), "y": Range(low, high)})
    low, high = min(low, 0.0), max(high, 0.0)
    seen = Seen(convert(graph, folder, ranges=ranges))
    (x,), (y,) = seen.inputs, seen.outputs
    assert scale(x) == pytest.approx(4 / 255, rel=1e-5)
    assert zero_point(x) == -64
    assert scale(y) == pytest.approx((high - low) / 255, rel=1e-5)
    assert zero_point(y) == pytest.approx(-128 - low / scale(y), abs=0.51)
    wide = Seen(convert(graph, folder, "int16x8", ranges=ranges))
    made = wide.made("FULLY_CONNECTED")
    assert files.dtype_of(made) == "int16"
    assert parameters(made) == (pytest.approx(max(-low, high) / 32767, rel=1e-5), 0)


@pytest.mark.parametrize("observer", ["minmax", "percentile"])
def test_scales_derive_from_the_ranges_observed(tmp_path, observer):
    net = Net()
    hidden = net.conv3(net.input("x", (1, 8, 8, 2)), 6, "hidden")
    graph = saved(net.finish([net.conv3(hidden, 3, "y", relu=False)]), tmp_path)
    ranges = observe(graph, samples(graph), observer=observer, percentile=99.0)
    seen = Seen(convert(graph, tmp_path, ranges=ranges))
    for name, tensor in (("x", seen.inputs[0]), ("hidden", seen.made("CONV_2D")), ("y", seen.outputs[0])):
        told = ranges.tensors[name]
        low, high = min(told.min, 0.0), max(told.max, 0.0)
        assert scale(tensor) == pytest.approx((high - low) / 255, rel=1e-5), name
        assert zero_point(tensor) == pytest.approx(-128 - low / scale(tensor), abs=0.51), name


FIXED = {
    "SOFTMAX": (1 / 256, -128, {"options": "SoftmaxOptions", "beta": 1.0}),
    "LOGISTIC": (1 / 256, -128, {}),
    "TANH": (1 / 128, 0, {}),
    "LOG_SOFTMAX": (16 / 256, 127, {}),
    "L2_NORMALIZATION": (1 / 128, 0, {"options": "L2NormOptions"}),
}


@pytest.mark.parametrize("kind", FIXED)
def test_results_whose_scale_the_kernel_fixes(tmp_path, kind):
    wanted, zero, options = FIXED[kind]
    net = Net()
    hidden = net.dense(net.input("x", (1, 12)), 6, "hidden")
    graph = saved(net.finish([net.like(kind, hidden, "y", **options)]), tmp_path)
    made = convert(graph, tmp_path)
    assert parameters(Seen(made).made(kind)) == (pytest.approx(wanted), zero)
    assert made.float_ops == ()
    assert sqnr(graph, made) > 20


def _shared_concat(net: Net, x: int) -> tuple[int, list[int]]:
    wide = net.like("MUL", net.conv3(x, 4, "a"), "wide", net.constant("k", np.float32([20])), options="MulOptions")
    made = net.op("CONCATENATION", [wide, net.conv3(x, 4, "b")], (1, 8, 8, 8), "y", "ConcatenationOptions", {"axis": 3})
    return made, [0, 1]


def _shared_pool(net: Net, x: int) -> tuple[int, list[int]]:
    fields = {"padding": 1, "strideW": 2, "strideH": 2, "filterWidth": 2, "filterHeight": 2}
    return net.op("MAX_POOL_2D", [net.conv3(x, 4, "a")], (1, 4, 4, 4), "y", "Pool2DOptions", fields), [0]


def _shared_reshape(net: Net, x: int) -> tuple[int, list[int]]:
    parts = [net.conv3(x, 4, "a"), net.ints("to", 1, 256)]
    return net.op("RESHAPE", parts, (1, 256), "y", "ReshapeOptions", {"newShape": [1, 256]}), [0]


def _shared_transpose(net: Net, x: int) -> tuple[int, list[int]]:
    parts = [net.conv3(x, 4, "a"), net.ints("order", 0, 3, 1, 2)]
    return net.op("TRANSPOSE", parts, (1, 4, 8, 8), "y", "TransposeOptions"), [0]


def _shared_pad(net: Net, x: int) -> tuple[int, list[int]]:
    rows = net.constant("rows", np.int32([[0, 0], [1, 2], [0, 1], [0, 0]]))
    return net.op("PAD", [net.conv3(x, 4, "a", relu=False), rows], (1, 11, 9, 4), "y", "PadOptions"), [0]


def _shared_slice(net: Net, x: int) -> tuple[int, list[int]]:
    parts = [net.conv3(x, 4, "a"), net.ints("from", 0, 1, 2, 0), net.ints("size", 1, 4, 5, 3)]
    return net.op("SLICE", parts, (1, 4, 5, 3), "y", "SliceOptions"), [0]


def _shared_strided_slice(net: Net, x: int) -> tuple[int, list[int]]:
    limits = [net.ints("from", 0, 0, 1, 0), net.ints("to", 1, 8, 7, 4), net.ints("by", 1, 2, 3, 1)]
    return net.op("STRIDED_SLICE", [net.conv3(x, 4, "a"), *limits], (1, 4, 2, 4), "y", "StridedSliceOptions"), [0]


def _shared_squeeze(net: Net, x: int) -> tuple[int, list[int]]:
    return net.op("SQUEEZE", [net.conv3(x, 1, "a")], (1, 8, 8), "y", "SqueezeOptions", {"squeezeDims": [3]}), [0]


def _shared_nearest(net: Net, x: int) -> tuple[int, list[int]]:
    parts = [net.conv3(x, 4, "a"), net.ints("size", 16, 16)]
    return net.op("RESIZE_NEAREST_NEIGHBOR", parts, (1, 16, 16, 4), "y", "ResizeNearestNeighborOptions"), [0]


SHARED = {
    "CONCATENATION": _shared_concat,
    "MAX_POOL_2D": _shared_pool,
    "RESHAPE": _shared_reshape,
    "TRANSPOSE": _shared_transpose,
    "PAD": _shared_pad,
    "SLICE": _shared_slice,
    "STRIDED_SLICE": _shared_strided_slice,
    "SQUEEZE": _shared_squeeze,
    "RESIZE_NEAREST_NEIGHBOR": _shared_nearest,
}


@pytest.mark.parametrize("precision", INTEGER)
@pytest.mark.parametrize("kind", SHARED)
def test_operators_that_move_values_share_one_range(tmp_path, kind, precision):
    net = Net()
    made, positions = SHARED[kind](net, net.input("x", (1, 8, 8, 3)))
    graph = saved(net.finish([made]), tmp_path)
    quantized = convert(graph, tmp_path, precision)
    seen = Seen(quantized)
    result = seen.made(kind)
    assert files.dtype_of(result) == {"int8": "int8", "int16x8": "int16"}[precision]
    assert {parameters(seen.read(kind, position)) for position in positions} == {parameters(result)}
    assert sqnr(graph, quantized) > (25 if precision == "int8" else 35)


# -- The interface -----------------------------------------------------------------------------------------------------


def _pooled(net: Net, window: tuple[int, int], *, free: bool = False) -> int:
    x = net.input("x", (1, 8, 8, 3), free=(1, 2) if free else ())
    wide = net.conv3(x, 8, "wide")
    made = (1, 8 // window[0], 8 // window[1], 8)
    fields = {"filterHeight": window[0], "filterWidth": window[1], "strideH": window[0], "strideW": window[1]}
    return net.op("AVERAGE_POOL_2D", [wide], made, "pooled", "Pool2DOptions", {**fields, "padding": 1})


@pytest.mark.parametrize("precision", INTEGER)
def test_an_average_of_the_whole_map_has_a_scale_of_its_own(tmp_path, precision):
    """An average is several times smaller than the largest value: on the pooling's scale it would keep five bits."""
    net = Net()
    flat = net.op("SQUEEZE", [_pooled(net, (8, 8))], (1, 8), "flat", "SqueezeOptions", {"squeezeDims": [1, 2]})
    graph = saved(net.finish([net.dense(flat, 4, "dense")]), tmp_path)
    ranges = observe(graph, samples(graph), observer="minmax")
    made = convert(graph, tmp_path, precision, ranges=ranges)
    tensors = {
        files.name_of(tensor): tensor for tensor in files.read(Path(made.path).read_bytes()).subgraphs[0].tensors
    }
    seen = ranges.tensors["pooled"]
    assert seen.max < ranges.tensors["wide"].max / 2
    steps = 255 if precision == "int8" else 32767
    assert scale(tensors["pooled"]) == pytest.approx((seen.max - min(seen.min, 0)) / steps, rel=0.02)
    assert sqnr(graph, made) > 30


@pytest.mark.parametrize(("window", "free"), [((4, 4), False), ((8, 4), False), ((8, 8), True)])
def test_other_averages_stay_poolings(tmp_path, window, free):
    net = Net()
    graph = saved(net.finish([_pooled(net, window, free=free)]), tmp_path)
    model = files.read(Path(convert(graph, tmp_path).path).read_bytes())
    assert "AVERAGE_POOL_2D" in [files.op_name(model, op) for op in model.subgraphs[0].operators]


def _classifier(batch: int = 1) -> bytes:
    net = Net()
    made = net.conv3(net.input("image", (batch, 8, 8, 2)), 6, "hidden")
    flat = net.op(
        "RESHAPE", [made, net.ints("to", -1, 384)], (batch, 384), "flat", "ReshapeOptions", {"newShape": [-1, 384]}
    )
    scores = net.dense(flat, 5, "scores", rows=batch)
    return net.finish([net.like("SOFTMAX", scores, "probs", options="SoftmaxOptions", beta=1.0)], signature="serve")


def test_the_interface_is_of_integers_or_of_floats(tmp_path):
    graph = saved(_classifier(), tmp_path)
    whole = convert(graph, tmp_path)
    assert [spec.dtype for spec in (*whole.inputs, *whole.outputs)] == ["int8", "int8"]
    assert all(spec.quant is not None for spec in (*whole.inputs, *whole.outputs))
    assert [files.dtype_of(tensor) for tensor in Seen(whole).inputs] == ["int8"]
    raw = run(whole, {"image": np.zeros((1, 8, 8, 2), np.int8)}, raw=True)
    assert raw["probs"].dtype == np.int8
    expected = run(whole, samples(graph))
    floats = convert(graph, tmp_path, interface="float")
    assert [spec.dtype for spec in (*floats.inputs, *floats.outputs)] == ["float32", "float32"]
    assert all(spec.quant is None for spec in (*floats.inputs, *floats.outputs))
    seen = Seen(floats)
    assert seen.kinds["QUANTIZE"] == seen.kinds["DEQUANTIZE"] == 1
    assert floats.float_ops == ()
    np.testing.assert_allclose(run(floats, samples(graph))["probs"], expected["probs"], atol=1 / 256)


@pytest.mark.parametrize("precision", ["fp16", "dynamic", "int8", "int16x8"])
def test_names_signatures_and_a_free_batch_stay(tmp_path, precision):
    graph = saved(_classifier(-1), tmp_path)
    made = convert(graph, tmp_path, precision)
    for before, after in zip((*graph.inputs, *graph.outputs), (*made.inputs, *made.outputs), strict=True):
        assert (before.name, before.shape) == (after.name, after.shape)
    seen = Seen(made)
    (signature,) = seen.model.signatureDefs
    assert signature.signatureKey == b"serve"
    (entry,) = signature.inputs
    assert (entry.name, int(entry.tensorIndex)) == (b"image", int(seen.main.inputs[0]))
    (entry,) = signature.outputs
    assert (entry.name, int(entry.tensorIndex)) == (b"probs", int(seen.main.outputs[0]))
    assert seen.inputs[0].name == b"image"
    feeds = samples(graph, 7)
    single = np.concatenate([run(made, {"image": feeds["image"][n : n + 1]})["probs"] for n in range(7)])
    np.testing.assert_allclose(run(made, feeds)["probs"], single, atol=1e-6 if precision == "fp16" else 0.01)


@pytest.mark.parametrize("precision", ["fp16", "dynamic", "int8", "int16x8"])
def test_the_same_bytes_every_time(tmp_path, precision):
    graph = saved(_classifier(), tmp_path)
    first = Path(convert(graph, tmp_path, precision).path).read_bytes()
    assert Path(convert(graph, tmp_path, precision).path).read_bytes() == first


@pytest.mark.parametrize("interface", ["int8", "float"])
def test_several_inputs_and_outputs_keep_their_order(tmp_path, interface):
    """Outputs of other scales, one of them read again inside, one input that nothing reads."""
    net = Net()
    a, unused, b = net.input("a", (1, 12)), net.input("unused", (1, 3)), net.input("b", (1, 6))
    first, second = net.dense(a, 8, "first"), net.dense(b, 8, "second")
    both = net.like("ADD", first, "both", second, options="AddOptions")
    last = net.dense(both, 3, "last")
    graph = saved(net.finish([last, first, both], signature="serve"), tmp_path)
    assert unused == 1
    made = convert(graph, tmp_path, interface=interface)
    assert [spec.name for spec in made.inputs] == ["a", "unused", "b"]
    assert [spec.name for spec in made.outputs] == ["last", "first", "both"]
    assert made.float_ops == ()
    assert sqnr(graph, made) > 25


@pytest.mark.parametrize("interface", ["int8", "float"])
@pytest.mark.parametrize("kind", ["ABS", "MAX_POOL_2D", "CONCATENATION", "CONV_2D", "SIN"])
def test_an_output_that_is_read_again(tmp_path, kind, interface):
    """By an operator that is lifted, that shares its scale, that wants another scale, that quantizes, that cannot."""
    net = Net()
    x = net.input("x", (1, 6, 6, 4))
    inner = net.conv3(x, 4, "inner", relu=False)
    if kind == "MAX_POOL_2D":
        fields = {"padding": 0, "strideW": 1, "strideH": 1, "filterWidth": 2, "filterHeight": 2}
        last = net.like(kind, inner, "last", options="Pool2DOptions", **fields)
    elif kind == "CONCATENATION":
        wide = net.like("MUL", x, "wide", net.constant("k", np.float32([9])), options="MulOptions")
        last = net.op(kind, [inner, wide], (1, 6, 6, 8), "last", "ConcatenationOptions", {"axis": 3})
    else:
        last = net.conv3(inner, 4, "last") if kind == "CONV_2D" else net.like(kind, inner, "last")
    graph = saved(net.finish([last, inner], signature="serve"), tmp_path)
    made = convert(graph, tmp_path, interface=interface, allow_float_ops=kind == "SIN")
    seen = Seen(made)
    (signature,) = seen.model.signatureDefs
    places = {entry.name.decode(): int(entry.tensorIndex) for entry in signature.outputs}
    assert [places["last"], places["inner"]] == [int(index) for index in seen.main.outputs]
    assert made.outputs[1].dtype == {"int8": "int8", "float": "float32"}[interface]
    assert sqnr(graph, made) > 20


@pytest.mark.parametrize(("kind", "stays"), [("ABS", ()), ("SIN", ("SIN (first)", "SIN (second)"))])
def test_an_output_between_two_operators_that_the_quantizer_leaves(tmp_path, kind, stays):
    """It hands the integers of the output to the float operator behind."""
    net = Net()
    first = net.like(kind, net.dense(net.input("x", (1, 12)), 8, "hidden"), "first")
    graph = saved(net.finish([first, net.like(kind, first, "second")], signature="serve"), tmp_path)
    made = convert(graph, tmp_path, allow_float_ops=bool(stays))
    assert made.float_ops == stays
    assert sqnr(graph, made) > 25


def test_an_output_that_is_constant(tmp_path):
    """As folding leaves it: nothing computes it, and it stays what it was."""
    net = Net()
    y = net.dense(net.input("x", (1, 12)), 3, "y")
    fixed = net.constant("anchors", np.float32([[1, 2, 4]]))
    graph = saved(net.finish([y, fixed]), tmp_path)
    for precision in ("fp16", "dynamic", "int8", "int16x8"):
        made = convert(graph, tmp_path, precision)
        np.testing.assert_allclose(run(made, samples(graph, 1))["anchors"], [[1, 2, 4]], rtol=0.01)


def test_an_output_that_is_an_input(tmp_path):
    net = Net()
    x = net.input("x", (1, 12))
    graph = saved(net.finish([net.dense(x, 3, "y"), x]), tmp_path)
    for precision in ("fp16", "dynamic", "int8", "int16x8"):
        assert sqnr(graph, convert(graph, tmp_path, precision)) > 25
    assert sqnr(graph, convert(graph, tmp_path, interface="float")) > 25


def test_integer_inputs_and_index_outputs_stay(tmp_path):
    net = Net()
    rows = net.input("rows", (1, 4), "int32")
    table = net.constant("table", net.weights(4, 12))
    taken = net.op("GATHER", [table, rows], (1, 4, 12), "taken", "GatherOptions", {"axis": 0})
    mean = net.op("MEAN", [taken, net.ints("axis", 1)], (1, 12), "mean", "ReducerOptions")
    scores = net.dense(mean, 6, "scores")
    best = net.op(
        "ARG_MAX", [scores, net.ints("last", 1)], (1,), "best", "ArgMaxOptions", {"outputType": 2}, dtype="int32"
    )
    graph = saved(net.finish([best, scores]), tmp_path)
    made = convert(graph, tmp_path)
    assert [(spec.name, spec.dtype) for spec in (*made.inputs, *made.outputs)] == [
        ("rows", "int32"),
        ("best", "int32"),
        ("scores", "int8"),
    ]
    assert made.float_ops == ()
    feeds = samples(graph)
    answer = run(made, feeds)
    assert (answer["best"] == run(graph, feeds)["best"]).mean() > 0.9
    assert (answer["best"].reshape(-1) == answer["scores"].argmax(axis=1)).all()


# -- Ranges at the edge ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", INTEGER)
@pytest.mark.parametrize("value", [0.0, 1e-30, 2.5, -1e6])
def test_a_tensor_that_never_changes(tmp_path, value, precision):
    """A range of no width: the answers stay finite and near."""
    net = Net()
    x = net.input("x", (1, 12))
    none = net.like("MUL", x, "none", net.constant("zero", np.float32([0])), options="MulOptions")
    level = net.like("ADD", none, "level", net.constant("value", np.float32([value])), options="AddOptions")
    graph = saved(net.finish([level, net.dense(x, 3, "y")]), tmp_path)
    feeds = samples(graph)
    answer = run(convert(graph, tmp_path, precision), feeds)
    assert answer["level"] == pytest.approx(value, rel=0.01, abs=1e-6)
    assert np.isfinite(answer["y"]).all()


@pytest.mark.parametrize("precision", INTEGER)
def test_a_layer_that_is_dead(tmp_path, precision):
    """Zero on all of the data, then added, multiplied, concatenated and convolved: steps of nothing stop kernels."""
    net = Net()
    x = net.input("x", (1, 6, 6, 4))
    dead = net.conv(x, net.weights(4, 3, 3, 4), np.full(4, -1e4, np.float32), "dead")
    branches = [
        net.like("ADD", dead, "added", x, options="AddOptions"),
        net.like("MUL", dead, "scaled", x, options="MulOptions"),
        net.conv3(dead, 4, "after", relu=False),
    ]
    made = net.op("CONCATENATION", [dead, *branches], (1, 6, 6, 16), "y", "ConcatenationOptions", {"axis": 3})
    graph = saved(net.finish([made]), tmp_path)
    quantized = convert(graph, tmp_path, precision)
    assert quantized.float_ops == ()
    assert sqnr(graph, quantized) > 25


@given(size=st.floats(1e-30, 1e30))
@settings(max_examples=15, deadline=None)
def test_no_scale_makes_nan(tmp_path_factory, size):
    """Weights and inputs of any magnitude: finite answers, and refusals that say why."""
    folder = tmp_path_factory.mktemp("tiny")
    net = Net()
    graph = saved(net.finish([net.dense(net.input("x", (1, 12)), 3, "y")]), folder)
    feeds = {"x": samples(graph)["x"] * np.float32(size)}
    ranges = observe(graph, feeds)
    for precision in INTEGER:
        answer = run(convert(graph, folder, precision, ranges=ranges), feeds)["y"]
        assert np.isfinite(answer).all()


def test_ranges_are_asked_for(tmp_path):
    graph = saved(_classifier(), tmp_path)
    with pytest.raises(ConversionError) as caught:
        quantize_tflite.quantize(graph, None, precisions.get("int8"), QuantizeOptions(), tmp_path / "none.tflite")
    assert caught.value.code == "ranges-missing"
    some = observe(graph, samples(graph))
    del some.tensors["scores"]
    with pytest.raises(ConversionError, match="scores") as caught:
        convert(graph, tmp_path, ranges=some)
    assert caught.value.code == "range-missing"
    assert not (tmp_path / "int8.tflite").exists()


def test_a_precision_that_the_format_lacks(tmp_path):
    known = precisions.get("int8")
    strange = Precision(**{**vars(known), "name": "int4", "weights": "int4"})
    graph = saved(_classifier(), tmp_path)
    with pytest.raises(ConversionError) as caught:
        quantize_tflite.quantize(
            graph, observe(graph, samples(graph)), strange, QuantizeOptions(), tmp_path / "none.tflite"
        )
    assert caught.value.code == "tflite-precision-unsupported"


# -- fp16 and dynamic --------------------------------------------------------------------------------------------------


def test_half_weights_are_widened_once(tmp_path):
    graph = saved(_classifier(), tmp_path)
    made = convert(graph, tmp_path, "fp16")
    seen = Seen(made)
    halves = [tensor for tensor in seen.main.tensors if files.dtype_of(tensor) == "float16"]
    assert seen.kinds["DEQUANTIZE"] == len(halves) == 1  # the convolution's weights are too few to be worth it
    assert seen.values(halves[0]).dtype == np.float16
    assert [spec.dtype for spec in (*made.inputs, *made.outputs)] == ["float32", "float32"]
    assert Path(made.path).stat().st_size < 0.7 * Path(graph.path).stat().st_size
    assert sqnr(graph, made) > 60


def test_what_half_cannot_hold_stays_and_is_named(tmp_path):
    net = Net()
    x = net.input("x", (1, 12))
    weights = net.weights(12, 12) * 1e6
    huge = net.op("FULLY_CONNECTED", [x, net.constant("huge", weights), -1], (1, 12), "y", "FullyConnectedOptions")
    graph = saved(net.finish([huge]), tmp_path)
    made = convert(graph, tmp_path, "fp16")
    assert any("huge" in note for note in made.notes)
    assert sqnr(graph, made) > 100


def test_dynamic_keeps_activations_in_float(tmp_path):
    net = Net()
    hidden = net.conv(net.input("x", (1, 8, 8, 3)), net.weights(32, 3, 3, 3), net.bias(32), "hidden")
    mean = net.op("MEAN", [hidden, net.ints("axes", 1, 2)], (1, 32), "mean", "ReducerOptions")
    graph = saved(net.finish([net.dense(mean, 40, "y")]), tmp_path)
    made = convert(graph, tmp_path, "dynamic")
    seen = Seen(made)
    for kind in ("CONV_2D", "FULLY_CONNECTED"):
        assert files.dtype_of(seen.read(kind, 0)) == files.dtype_of(seen.made(kind)) == "float32"
        assert files.dtype_of(seen.read(kind, 1)) == "int8"
        assert files.dtype_of(seen.read(kind, 2)) == "float32"
    assert made.float_ops == ()
    assert sqnr(graph, made) > 30


# -- What stays in float -----------------------------------------------------------------------------------------------


def _with_sine(net: Net) -> int:
    hidden = net.dense(net.input("x", (1, 12)), 8, "hidden")
    return net.dense(net.like("SIN", hidden, "wave"), 3, "y")


@pytest.mark.parametrize("precision", INTEGER)
def test_an_operator_without_integer_kernel_is_refused_by_name(tmp_path, precision):
    net = Net()
    graph = saved(net.finish([_with_sine(net)]), tmp_path)
    with pytest.raises(ConversionError, match=r"SIN \(wave\)") as caught:
        convert(graph, tmp_path, precision)
    assert caught.value.code == "op-not-quantizable"
    assert caught.value.details["ops"] == ["SIN (wave)"]
    assert "dynamic" in (caught.value.next_step or "")
    made = convert(graph, tmp_path, precision, allow_float_ops=True)
    assert made.float_ops == ("SIN (wave)",)
    seen = Seen(made)
    assert files.dtype_of(seen.read("SIN")) == files.dtype_of(seen.made("SIN")) == "float32"
    assert files.dtype_of(seen.read("FULLY_CONNECTED", 0, 1)) == ("int8" if precision == "int8" else "int16")
    assert sqnr(graph, made) > 25


Unary = Callable[[Net, int], int]

LIFTED: dict[str, tuple[Unary, tuple[str, ...]]] = {
    # What ai-edge-quantizer leaves in float though kernels for integers exist, or others that say the same: the last
    # operator, and the precisions that spell it by others.
    "RELU6": (lambda net, x: net.like("RELU6", x, "y"), ()),
    "RELU_N1_TO_1": (lambda net, x: net.like("RELU_N1_TO_1", x, "y"), ("int16x8",)),
    "RELU_0_TO_1": (lambda net, x: net.like("RELU_0_TO_1", x, "y"), INTEGER),
    "LEAKY_RELU": (lambda net, x: net.like("LEAKY_RELU", x, "y", options="LeakyReluOptions", alpha=0.2), ()),
    "PRELU": (lambda net, x: net.like("PRELU", x, "y", net.constant("s", np.full(8, 0.3, np.float32))), ("int16x8",)),
    "ELU": (lambda net, x: net.like("ELU", x, "y"), ("int16x8",)),
    "HARD_SWISH": (lambda net, x: net.like("HARD_SWISH", x, "y"), ("int16x8",)),
    "ABS": (lambda net, x: net.like("ABS", x, "y"), ()),
    "EXP": (lambda net, x: net.like("EXP", x, "y", options="ExpOptions"), ()),
    "NEG": (lambda net, x: net.like("NEG", x, "y"), INTEGER),
    "SQUARE": (lambda net, x: net.like("SQUARE", x, "y"), INTEGER),
    "SQUARED_DIFFERENCE": (
        lambda net, x: net.like("SQUARED_DIFFERENCE", x, "y", net.constant("half", np.float32([0.5]))),
        ("int16x8",),
    ),
    "MINIMUM": (lambda net, x: net.like("MINIMUM", x, "y", net.constant("top", np.float32([0.2]))), ()),
    "MAXIMUM": (lambda net, x: net.like("MAXIMUM", x, "y", net.constant("least", np.float32([0.2]))), ()),
}


def float_inside(graph: Graph) -> list[str]:
    """Float tensors between the input's and the output's conversion."""
    seen = Seen(graph)
    ends = {files.name_of(tensor) for tensor in (*seen.inputs, *seen.outputs)}
    return sorted({files.name_of(t) for t in seen.main.tensors if files.dtype_of(t) == "float32"} - ends)


@pytest.mark.parametrize("precision", INTEGER)
@pytest.mark.parametrize("kind", LIFTED)
def test_integer_kernels_that_the_quantizer_does_not_know(tmp_path, kind, precision):
    apply, spelled = LIFTED[kind]
    net = Net()
    made = apply(net, net.dense(net.input("x", (1, 12)), 8, "hidden"))
    graph = saved(net.finish([net.dense(made, 4, "last")]), tmp_path)
    quantized = convert(graph, tmp_path, precision)
    assert quantized.float_ops == ()
    assert float_inside(quantized) == []
    assert (kind in Seen(quantized).kinds) == (precision not in spelled)
    assert sqnr(graph, quantized) > (25 if precision == "int8" else 35)


def test_comparisons_are_exact_at_any_scale(tmp_path):
    """The int8 kernels of comparisons round scales below 1/256 away and stop at scales above 1."""
    for size in (1e-3, 1.0, 1e3):
        net = Net()
        x = net.input("x", (1, 12))
        positive = net.op("GREATER", [x, net.constant("zero", np.float32([0]))], (1, 12), "positive", dtype="bool")
        half = net.like("MUL", x, "half", net.constant("k", np.float32([-0.5])), options="MulOptions")
        graph = saved(net.finish([net.op("SELECT_V2", [positive, x, half], (1, 12), "y")]), tmp_path)
        feeds = {"x": samples(graph)["x"] * np.float32(size)}
        for precision in INTEGER:
            made = convert(graph, tmp_path, precision, ranges=observe(graph, feeds))
            assert made.float_ops == ()
            assert sqnr(graph, made, feeds) > (30 if precision == "int8" else 60)


@pytest.mark.parametrize("kind", ["SELECT_V2", "ADD"])
def test_masks_of_attention_leave_the_scores_their_steps(tmp_path, kind):
    """-1e9 in the range of a softmax's input would leave one step to all scores."""
    net = Net()
    scores = net.dense(net.input("x", (1, 12)), 8, "scores")
    kept = np.arange(8)[None] % 3 > 0
    if kind == "ADD":
        mask = net.constant("mask", np.where(kept, 0, -1e9).astype(np.float32))
        masked = net.like("ADD", scores, "masked", mask, options="AddOptions")
    else:
        parts = [net.constant("kept", kept), scores, net.constant("never", np.float32([-1e9]))]
        masked = net.op("SELECT_V2", parts, (1, 8), "masked")
    graph = saved(net.finish([net.like("SOFTMAX", masked, "y", options="SoftmaxOptions", beta=1.0)]), tmp_path)
    for precision, decibels in (("int8", 30), ("int16x8", 40)):
        made = convert(graph, tmp_path, precision)
        assert made.float_ops == ()
        assert sqnr(graph, made) > decibels
        assert run(made, samples(graph))["y"][:, ~kept[0]].max() < 1e-4


def test_rows_of_a_code_and_positions_of_the_largest(tmp_path):
    """ONE_HOT and TOPK_V2 have int8 kernels, CAST computes nothing, and zeros like a tensor take its scale."""
    net = Net()
    rows = net.input("rows", (1, 4), "int32")
    parts = [rows, net.constant("depth", np.array(6, np.int32))]
    parts += [net.constant(name, np.array(value, np.float32)) for name, value in (("on", 1), ("off", 0))]
    coded = net.op("ONE_HOT", parts, (1, 4, 6), "coded", "OneHotOptions", {"axis": -1})
    number = net.op("CAST", [rows], (1, 4), "number", "CastOptions", {"inDataType": 2, "outDataType": 0})
    mean = net.op("MEAN", [coded, net.ints("axis", 1)], (1, 6), "mean", "ReducerOptions")
    zeros = net.like("ZEROS_LIKE", mean, "zeros", options="ZerosLikeOptions")
    larger = net.like("MAXIMUM", mean, "larger", zeros, options="MaximumMinimumOptions")
    graph = saved(net.finish([larger, net.like("MUL", number, "twice", number, options="MulOptions")]), tmp_path)
    made = convert(graph, tmp_path)
    assert made.float_ops == ()
    assert files.dtype_of(Seen(made).made("ONE_HOT")) == "int8"
    assert sqnr(graph, made) > 35
    with pytest.raises(ConversionError, match=r"ONE_HOT \(coded\)"):
        convert(graph, tmp_path, "int16x8")
    assert sqnr(graph, convert(graph, tmp_path, "int16x8", allow_float_ops=True)) > 60


@pytest.mark.parametrize("unread", [0, 1, 3])
@pytest.mark.parametrize("precision", INTEGER)
@pytest.mark.parametrize("kind", ["SPLIT", "SPLIT_V", "UNPACK"])
def test_a_part_that_nobody_reads_is_of_integers_like_its_siblings(tmp_path, kind, precision, unread):
    """As the forget gate of the first step of an unrolled LSTM; engines refuse operators of mixed results."""
    net = Net()
    x = net.dense(net.input("x", (1, 6)), 24, "gates")
    whole = net.op("RESHAPE", [x, net.ints("shape", 4, 6)], (4, 6), "whole", "ReshapeOptions", {"newShape": [4, 6]})
    axis, sizes = net.constant("axis", np.array(0, np.int32)), net.ints("sizes", 1, 1, 1, 1)
    parts, options, fields = {
        "SPLIT": ([axis, whole], "SplitOptions", {"numSplits": 4}),
        "SPLIT_V": ([whole, sizes, axis], "SplitVOptions", {"numSplits": 4}),
        "UNPACK": ([whole], "UnpackOptions", {"num": 4, "axis": 0}),
    }[kind]
    shape = (6,) if kind == "UNPACK" else (1, 6)
    first = net.op(kind, parts, shape, "part0", options, fields)
    made = [first, *(net.tensor(f"part{number}", shape) for number in (1, 2, 3))]
    net.last.outputs = np.array(made, np.int32)
    a, b, c = (index for number, index in enumerate(made) if number != unread)
    y = net.like("ADD", net.like("MUL", a, "ab", b, options="MulOptions"), "y", c, options="AddOptions")
    before = saved(net.finish([y]), tmp_path)
    after = convert(before, tmp_path, precision)
    assert after.float_ops == ()
    seen = Seen(after)
    tensors = [seen.main.tensors[int(index)] for index in seen.op(kind).outputs]
    assert {files.dtype_of(tensor) for tensor in tensors} == {"int8" if precision == "int8" else "int16"}
    assert {parameters(tensor) for tensor in tensors} == {parameters(tensors[0])}
    assert sqnr(before, after) > (28 if precision == "int8" else 40)


def test_an_operator_that_nobody_reads_goes(tmp_path):
    """The quantizer would leave its result in float, and the engine then refuses its mixed types."""
    net = Net()
    hidden = net.dense(net.input("x", (1, 12)), 8, "hidden")
    net.op("RESHAPE", [hidden, net.ints("to", 2, 4)], (2, 4), "unread", "ReshapeOptions", {"newShape": [2, 4]})
    graph = saved(net.finish([net.dense(hidden, 3, "y")]), tmp_path)
    for precision in ("fp16", "dynamic", *INTEGER):
        made = convert(graph, tmp_path, precision)
        assert Seen(made).kinds["RESHAPE"] == 0
        assert sqnr(graph, made) > 28


def test_scales_that_are_powers_of_two(tmp_path):
    """Of x / 127.5 - 1 on 0..255, the usual preparation of images: the kernel's short cut for them refuses it."""
    net = Net()
    x = net.input("x", (1, 12))
    scaled = net.like("MUL", x, "scaled", net.constant("k", np.float32([1 / 127.5])), options="MulOptions")
    shifted = net.like("ADD", scaled, "shifted", net.constant("one", np.float32([-1])), options="AddOptions")
    graph = saved(net.finish([net.dense(shifted, 4, "y")]), tmp_path)
    feeds = {"x": np.linspace(0, 255, 48 * 12, dtype=np.float32).reshape(48, 12)}
    assert sqnr(graph, convert(graph, tmp_path, "int16x8", ranges=observe(graph, feeds)), feeds) > 40


@pytest.mark.parametrize("precision", INTEGER)
def test_reading_a_shape_is_no_arithmetic(tmp_path, precision):
    """As converters write a transposed convolution of a free batch."""
    net = Net()
    hidden = net.conv3(net.input("x", (-1, 4, 4, 3)), 4, "hidden")
    shape = net.op("SHAPE", [hidden], (4,), "shape", "ShapeOptions", {"outType": 2}, dtype="int32")
    limits = [net.ints("from", 0), net.ints("to", 1), net.ints("by", 1)]
    fields = {"shrinkAxisMask": 1}
    batch = net.op("STRIDED_SLICE", [shape, *limits], (), "batch", "StridedSliceOptions", fields, dtype="int32")
    sizes = [batch, *(net.constant(f"s{size}", np.array(size, np.int32)) for size in (8, 9, 5))]
    fields = {"valuesCount": 4, "axis": 0}
    wanted = net.op(
        "PACK", [sizes[0], sizes[1], sizes[1], sizes[3]], (4,), "wanted", "PackOptions", fields, dtype="int32"
    )
    parts = [wanted, net.constant("w", net.weights(5, 2, 2, 4)), hidden]
    fields = {"strideW": 2, "strideH": 2}
    graph = saved(
        net.finish([net.op("TRANSPOSE_CONV", parts, (-1, 8, 8, 5), "y", "TransposeConvOptions", fields)]), tmp_path
    )
    made = convert(graph, tmp_path, precision)
    assert made.float_ops == ()
    assert float_inside(made) == []
    assert sqnr(graph, made) > 28


@pytest.mark.parametrize(("least", "stays"), [(0.001, True), (1.0, False)])
def test_a_divisor_that_may_be_rounded_to_zero_stays_in_float(tmp_path, least, stays):
    """The integer kernels stop with an error at a divisor of zero, on the device, at some sample."""
    net = Net()
    x, by = net.input("x", (1, 12)), net.input("by", (1, 12))
    graph = saved(net.finish([net.like("DIV", x, "ratio", by, options="DivOptions")]), tmp_path)
    feeds = samples(graph)
    feeds["by"] = np.random.default_rng(3).uniform(least, 10, (48, 12)).astype(np.float32)
    feeds["by"][0, 0] = least
    ranges = observe(graph, feeds)
    if stays:
        with pytest.raises(ConversionError, match=r"DIV \(ratio\)"):
            convert(graph, tmp_path, ranges=ranges)
    made = convert(graph, tmp_path, ranges=ranges, allow_float_ops=stays)
    assert made.float_ops == (("DIV (ratio)",) if stays else ())
    assert np.isfinite(run(made, feeds)["ratio"]).all()
    if not stays:  # beyond what calibration saw the quotient is clipped, but there is one
        feeds["by"][:] = 0
        assert np.isfinite(run(made, feeds)["ratio"]).all()


def test_dynamic_stores_tables_as_integers(tmp_path):
    """Rows are looked up as integers and widened then; positions beside the table stay small."""
    net = Net()
    rows = net.input("rows", (1, 8), "int32")
    taken = net.op(
        "GATHER", [net.constant("table", net.weights(100, 24)), rows], (1, 8, 24), "taken", "GatherOptions", {"axis": 0}
    )
    graph = saved(net.finish([net.op("MEAN", [taken, net.ints("axis", 1)], (1, 24), "y", "ReducerOptions")]), tmp_path)
    made = convert(graph, tmp_path, "dynamic")
    seen = Seen(made)
    assert files.dtype_of(seen.read("GATHER")) == files.dtype_of(seen.made("GATHER")) == "int8"
    assert made.float_ops == ()
    assert Path(made.path).stat().st_size < 0.5 * Path(graph.path).stat().st_size
    assert sqnr(graph, made) > 35


def test_dynamic_stores_volumes_as_integers(tmp_path):
    net = Net()
    x = net.input("x", (1, 4, 6, 6, 3))
    weights = net.constant("w", net.random.normal(size=(3, 3, 3, 3, 16)).astype(np.float32))
    fields = {"strideD": 1, "strideW": 1, "strideH": 1, "padding": 0, "dilationDFactor": 1}
    graph = saved(
        net.finish([net.op("CONV_3D", [x, weights], (1, 4, 6, 6, 16), "y", "Conv3DOptions", fields)]), tmp_path
    )
    made = convert(graph, tmp_path, "dynamic")
    assert made.float_ops == ()
    assert Path(made.path).stat().st_size < 0.5 * Path(graph.path).stat().st_size
    assert sqnr(graph, made) > 35
    with pytest.raises(ConversionError, match=r"CONV_3D \(y\)"):
        convert(graph, tmp_path, "int8")


def test_dynamic_names_other_constants_that_stay(tmp_path):
    """Anchors of a detector are no weights: 8 bits would move its boxes."""
    net = Net()
    x = net.input("x", (1, 300, 4))
    anchors = net.constant("anchors", net.random.uniform(size=(1, 300, 4)).astype(np.float32))
    graph = saved(net.finish([net.like("ADD", x, "boxes", anchors, options="AddOptions")]), tmp_path)
    with pytest.raises(ConversionError, match=r"ADD \(boxes\)"):
        convert(graph, tmp_path, "dynamic")
    made = convert(graph, tmp_path, "dynamic", allow_float_ops=True)
    assert made.float_ops == ("ADD (boxes)",)
    assert sqnr(graph, made) == math.inf


@pytest.mark.parametrize("interface", ["int8", "float"])
def test_a_float_island_at_both_ends(tmp_path, interface):
    """An operator without integer kernel that reads the input and gives the output, beside one that has one."""
    net = Net()
    x = net.input("x", (1, 12))
    wave = net.like("SIN", x, "wave")
    graph = saved(
        net.finish(
            [wave, net.dense(x, 4, "y"), net.like("PRELU", x, "bent", net.constant("s", np.full(12, 0.2, np.float32)))]
        ),
        tmp_path,
    )
    made = convert(graph, tmp_path, interface=interface, allow_float_ops=True)
    assert made.float_ops == ("SIN (wave)",)
    dtype = "float32" if interface == "float" else "int8"
    assert made.inputs[0].dtype == dtype
    assert [spec.dtype for spec in made.outputs[1:]] == [dtype, dtype]
    feeds = samples(graph)
    assert sqnr(graph, made, feeds) > 25
    if interface == "float":  # what computes in float from floats is exact
        np.testing.assert_allclose(run(made, feeds)["wave"], np.sin(feeds["x"]), atol=1e-5)


def _step(net: Net, kind: str, name: str, x: int, other: int) -> int:
    """One operator on images of [1, 4, 4, 8]."""
    if kind == "conv":
        return net.conv3(x, 8, name)
    if kind in ("ADD", "SUB"):
        return net.like(kind, x, name, other, options=f"{kind.title()}Options")
    if kind in ("MAXIMUM", "MINIMUM"):
        return net.like(kind, x, name, other)
    if kind == "SELECT_V2":
        asked = [x, net.constant(f"{name}/limit", np.float32([0.1]))]
        larger = net.op("GREATER", asked, net.shape(x), f"{name}/larger", dtype="bool")
        return net.op(kind, [larger, x, other], net.shape(x), name)
    if kind == "CONCATENATION":
        both = net.op(kind, [x, other], (1, 4, 4, 16), f"{name}/both", "ConcatenationOptions", {"axis": 3})
        limits = [net.ints(f"{name}/from", 0, 0, 0, 4), net.ints(f"{name}/size", 1, 4, 4, 8)]
        return net.op("SLICE", [both, *limits], net.shape(x), name, "SliceOptions")
    if kind == "MAX_POOL_2D":
        fields = {"padding": 0, "strideW": 1, "strideH": 1, "filterWidth": 2, "filterHeight": 2}
        return net.like(kind, x, name, options="Pool2DOptions", **fields)
    if kind == "TRANSPOSE":
        return net.op(kind, [x, net.ints(f"{name}/order", 0, 2, 1, 3)], net.shape(x), name, "TransposeOptions")
    if kind == "PRELU":
        return net.like(kind, x, name, net.constant(f"{name}/slope", np.full((1, 1, 8), 0.2, np.float32)))
    return net.like(kind, x, name)


_KINDS = (
    # No products: some of them in a row make ranges of which 8 bits keep nothing.
    *("conv", "ADD", "SUB", "MAXIMUM", "MINIMUM", "SELECT_V2", "CONCATENATION", "PRELU", "MAX_POOL_2D", "TRANSPOSE"),
    *("RELU", "RELU6", "TANH", "LOGISTIC", "ELU", "HARD_SWISH", "ABS", "NEG"),
)


@given(
    steps=st.lists(st.tuples(st.sampled_from(_KINDS), st.integers(0, 9), st.booleans()), min_size=2, max_size=7),
    precision=st.sampled_from(INTEGER),
    interface=st.sampled_from(["int8", "float"]),
)
@settings(max_examples=25, deadline=None)
def test_any_graph_of_known_operators_is_quantized_throughout(tmp_path_factory, steps, precision, interface):
    """Whatever reads whatever, and whatever of it is an output: no float inside, the engine takes it, answers hold."""
    folder = tmp_path_factory.mktemp("graphs")
    net = Net()
    made = [net.input("x", (1, 4, 4, 8))]
    outputs = []
    for number, (kind, other, shown) in enumerate(steps):
        made.append(_step(net, kind, f"t{number}", made[-1], made[other % len(made)]))
        outputs += [made[-1]] if shown or number == len(steps) - 1 else []
    graph = saved(net.finish(outputs, signature="serve"), folder)
    feeds = samples(graph, 8)
    options = {"interface": interface} if precision == "int8" else {}
    quantized = convert(graph, folder, precision, ranges=observe(graph, feeds), **options)
    assert quantized.float_ops == ()
    assert float_inside(quantized) == []
    expected, answer = run(graph, feeds), run(quantized, feeds)
    for name, values in expected.items():
        span = float(np.ptp(values)) or float(np.abs(values).max()) or 1.0
        assert np.abs(answer[name] - values).mean() <= span * (0.15 if precision == "int8" else 0.05), name


# -- Real models -------------------------------------------------------------------------------------------------------


def _digits(shared: Path, count: int) -> Any:
    with gzip.open(shared / "data" / "mnist_t10k" / "t10k-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read()[16:], np.uint8).reshape(-1, 28, 28)
    chosen = np.random.default_rng(0).permutation(len(pixels))[:count]
    return pixels[chosen].astype(np.float32) / 255


def _lowered(shared: Path, name: str, folder: Path) -> Graph:
    """The graph as the pipeline hands it to the quantizer."""
    from edgekit.converters import load_tflite, lower_tflite_tflite
    from edgekit.converters.sources import identify

    return lower_tflite_tflite.lower(load_tflite.load(identify(shared / "models" / name)), folder / "float.tflite")


@pytest.mark.parametrize(
    ("precision", "decibels", "kilobytes"),
    [("fp16", 50, 175), ("dynamic", 25, 100), ("int8", 20, 99), ("int16x8", 24, 101)],
)
def test_resnet(shared, tmp_path, precision, decibels, kilobytes):
    graph = _lowered(shared, "ic_resnet8/resnet8_fp32.tflite", tmp_path)
    with np.load(shared / "data" / "cifar10_jpeg_1000.npz") as stored:
        chosen = np.random.default_rng(0).permutation(len(stored["x"]))[:150]
        images = stored["x"][chosen].astype(np.float32)
    (name,) = (spec.name for spec in graph.inputs)
    kind = {"int8": {"observer": "percentile"}, "int16x8": {}}.get(precision)
    ranges = None if kind is None else observe(graph, {name: images[:100]}, **kind)
    made = convert(graph, tmp_path, precision, ranges=ranges)
    assert made.float_ops == ()
    assert sqnr(graph, made, {name: images[100:]}) > decibels
    assert Path(made.path).stat().st_size < kilobytes * 1024


def test_digits(shared, tmp_path):
    graph = _lowered(shared, "mnist_conv_tflite/conv_fc_mnist.tflite", tmp_path)
    (name,) = (spec.name for spec in graph.inputs)
    images = _digits(shared, 300)[..., None]
    made = convert(graph, tmp_path, ranges=observe(graph, {name: images[:100]}))
    feeds = {name: images[100:]}
    (expected,), (answer,) = run(graph, feeds).values(), run(made, feeds).values()
    assert (expected.argmax(axis=1) == answer.argmax(axis=1)).mean() > 0.98
    assert (
        Path(made.path).stat().st_size
        <= 1.05 * (shared / "models/mnist_conv_tflite/conv_fc_mnist_a8w8.tflite").stat().st_size
    )


def test_recurrent_layers_go_dynamic_and_are_refused_by_name_in_int8(shared, tmp_path):
    graph = _lowered(shared, "mnist_lstm_tflite/lstm_fp32.tflite", tmp_path)
    (name,) = (spec.name for spec in graph.inputs)
    feeds = {name: _digits(shared, 100)}
    for precision in INTEGER:
        with pytest.raises(ConversionError, match="UNIDIRECTIONAL_SEQUENCE_LSTM") as caught:
            convert(graph, tmp_path, precision, ranges=observe(graph, feeds))
        assert caught.value.code == "op-not-quantizable"
        assert "--precision dynamic" in (caught.value.next_step or "")
        assert not (tmp_path / f"{precision}.tflite").exists()
    made = convert(graph, tmp_path, "dynamic")
    assert made.float_ops == ()
    (expected,), (answer,) = run(graph, feeds).values(), run(made, feeds).values()
    assert (expected.argmax(axis=1) == answer.argmax(axis=1)).mean() >= 0.98
    assert Path(made.path).stat().st_size < 0.5 * Path(graph.path).stat().st_size
    left = convert(graph, tmp_path, allow_float_ops=True, ranges=observe(graph, feeds))
    assert any("UNIDIRECTIONAL_SEQUENCE_LSTM" in op for op in left.float_ops)
    (answer,) = run(left, feeds).values()
    assert (expected.argmax(axis=1) == answer.argmax(axis=1)).mean() >= 0.95
