"""fp16 and dynamic, and what stays in float in an integer TFLite graph, by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from quantized_tflite import (
    INTEGER,
    Net,
    Seen,
    classifier,
    convert,
    float_inside,
    observe,
    parameters,
    run,
    samples,
    saved,
    sqnr,
)

from edgekit.converters.tflite_graphs import graph as files
from edgekit.errors import ConversionError

# -- fp16 and dynamic --------------------------------------------------------------------------------------------------


def test_half_weights_are_widened_once(tmp_path):
    graph = saved(classifier(), tmp_path)
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
