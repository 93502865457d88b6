"""Weights and activations of quantized TFLite graphs in the real engine: right answers, and scales from our ranges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quantized_tflite import (
    INTEGER,
    Net,
    Seen,
    classifier,
    convert,
    observe,
    parameters,
    run,
    samples,
    saved,
    scale,
    sqnr,
    zero_point,
)

from edgekit.converters import quantize_tflite
from edgekit.converters.stages import QuantizeOptions, Range, Ranges
from edgekit.converters.tflite_graphs import graph as files
from edgekit.errors import ConversionError
from edgekit.precision import Precision, precisions

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
    graph = saved(classifier(), tmp_path)
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
    graph = saved(classifier(), tmp_path)
    with pytest.raises(ConversionError) as caught:
        quantize_tflite.quantize(
            graph, observe(graph, samples(graph)), strange, QuantizeOptions(), tmp_path / "none.tflite"
        )
    assert caught.value.code == "tflite-precision-unsupported"
