"""Rewrites of float TFLite graphs: what they compute stays, and each does what its kernel needs."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.converters import quantize_tflite
from edgekit.converters.stages import Graph, QuantizeOptions, Range, Ranges
from edgekit.converters.tflite_graphs import graph as files
from edgekit.converters.tflite_graphs import interface as tflite_interface
from edgekit.converters.tflite_graphs import ranges as tflite_ranges
from edgekit.converters.tflite_graphs import rewrites as tflite_rewrites
from edgekit.converters.tflite_graphs import shapes as tflite_shapes
from edgekit.converters.tflite_graphs import spellings as tflite_spellings
from edgekit.converters.tflite_graphs.builder import Builder
from edgekit.converters.tflite_graphs.write import write
from edgekit.precision import precisions
from edgekit.tensors import TensorSpec

interpreter = pytest.importorskip("ai_edge_litert.interpreter", reason="comes with the tflite extra")

RANDOM = np.random.default_rng(2)
X = RANDOM.normal(size=(3, 8)).astype(np.float32) * 3


def answers(model, *feeds: np.ndarray) -> list[np.ndarray]:
    engine = interpreter.Interpreter(model_content=write(model))
    for detail, feed in zip(engine.get_input_details(), feeds, strict=True):
        if tuple(detail["shape"]) != feed.shape:
            engine.resize_tensor_input(detail["index"], feed.shape)
    engine.allocate_tensors()
    for detail, feed in zip(engine.get_input_details(), feeds, strict=True):
        engine.set_tensor(detail["index"], feed)
    engine.invoke()
    return [engine.get_tensor(detail["index"]).copy() for detail in engine.get_output_details()]


def kinds(model) -> Counter:
    return Counter(files.op_name(model, op) for op in model.subgraphs[0].operators)


def unary(kind: str, *constants: np.ndarray, options: str | None = None, **fields) -> bytes:
    graph = Builder()
    x = graph.input("x", X.shape)
    more = [graph.constant(f"c{number}", value) for number, value in enumerate(constants)]
    return graph.finish([graph.op(kind, [x, *more], X.shape, "y", options, fields)])


def seen(values: np.ndarray) -> Range:
    return Range(float(values.min()), float(values.max()))


# -- Spellings ---------------------------------------------------------------------------------------------------------

SPELLED = {
    "SQUARED_DIFFERENCE": unary("SQUARED_DIFFERENCE", np.float32([0.5])),
    "HARD_SWISH": unary("HARD_SWISH"),
    "PRELU": unary("PRELU", np.linspace(-0.2, 0.5, 8, dtype=np.float32)),
    "ELU": unary("ELU"),
    "RELU_N1_TO_1": unary("RELU_N1_TO_1"),
    "RELU_0_TO_1": unary("RELU_0_TO_1"),
}


@pytest.mark.parametrize("shift", [0.0, 20.0, -20.0])
@pytest.mark.parametrize("kind", SPELLED)
def test_spelled_out_operators_compute_the_same_within_the_ranges_told(kind, shift):
    feed = X + np.float32(shift)
    model = files.read(SPELLED[kind])
    expected = answers(model, feed)[0]
    ranges = {"x": seen(feed), "y": seen(expected)}
    tflite_spellings.spell_out(model, ranges, 16)
    assert kind not in kinds(model)
    assert len(kinds(model)) >= 2
    made = [files.name_of(t) for t in model.subgraphs[0].tensors if not files.is_constant(model, t)]
    assert len(set(made)) == len(made)
    assert set(made) == set(ranges)
    model.subgraphs[0].outputs = np.array(
        [i for i, t in enumerate(model.subgraphs[0].tensors) if files.name_of(t) in made[1:]], np.int32
    )
    for name, values in zip(made[1:], answers(model, feed), strict=True):
        if name == "y":
            np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5)
        room = 1e-5 + 1e-5 * abs(ranges[name].max)
        assert values.min() >= ranges[name].min - room, name
        assert values.max() <= ranges[name].max + room, name


def test_only_what_a_width_lacks_is_spelled_out():
    for kind, data in SPELLED.items():
        model = files.read(data)
        tflite_spellings.spell_out(model, {"x": Range(-1, 1), "y": Range(-1, 1)}, 8)
        assert (kind in kinds(model)) == (kind != "RELU_0_TO_1")


# -- Products ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("behind", ["nothing", "bias", "two readers", "wide"])
def test_a_product_by_a_constant_matrix_is_a_dense_layer(transposed, behind):
    weights = RANDOM.normal(size=(5, 8) if transposed else (8, 5)).astype(np.float32)
    graph = Builder()
    x = graph.input("x", X.shape)
    fields = {"adjY": transposed}
    made = graph.op("BATCH_MATMUL", [x, graph.constant("w", weights)], (3, 5), "m", "BatchMatMulOptions", fields)
    outputs = [made]
    if behind != "nothing":
        added = np.ones((3, 5) if behind == "wide" else 5, np.float32)
        fields = {"fusedActivationFunction": 1}
        outputs = [graph.op("ADD", [made, graph.constant("b", added)], (3, 5), "s", "AddOptions", fields)]
    if behind == "two readers":
        outputs.append(graph.op("TANH", [made], (3, 5), "t"))
    model = files.read(graph.finish(outputs))
    expected = answers(model, X)
    tflite_rewrites.matmul_to_fully_connected(model)
    for one, other in zip(answers(model, X), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert kinds(model)["FULLY_CONNECTED"] == 1
    assert kinds(model)["BATCH_MATMUL"] == 0
    assert kinds(model)["ADD"] == (behind in ("two readers", "wide"))


def test_products_that_are_no_dense_layer_stay():
    graph = Builder()
    x, y = graph.input("x", (2, 3, 8)), graph.input("y", (2, 8, 4))
    stack = graph.constant("w", RANDOM.normal(size=(2, 8, 5)).astype(np.float32))
    outputs = [
        graph.op("BATCH_MATMUL", [x, y], (2, 3, 4), "activations", "BatchMatMulOptions"),
        graph.op("BATCH_MATMUL", [x, stack], (2, 3, 5), "stack", "BatchMatMulOptions"),
    ]
    model = files.read(graph.finish(outputs))
    tflite_rewrites.matmul_to_fully_connected(model)
    assert kinds(model) == {"BATCH_MATMUL": 2}


@pytest.mark.parametrize(("kind", "expected"), [("SQUARE", X * X), ("NEG", -X)])
def test_squares_and_negatives_are_products(kind, expected):
    model = files.read(unary(kind))
    tflite_rewrites.to_multiplication(model)
    assert kinds(model) == {"MUL": 1}
    np.testing.assert_allclose(answers(model, X)[0], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("divisors", "left"), [([2.0], "MUL"), ([-0.5, 1.0, 4.0], "MUL"), ([0.0, 1, 2], "DIV"), ([0.1, 1, 9], "DIV")]
)
def test_divisions_by_constants_are_products(divisors, left):
    graph = Builder()
    x = graph.input("x", (5, 3))
    divisor = graph.constant("d", np.array(divisors, np.float32))
    made = graph.op("DIV", [x, divisor], (5, 3), "y", "DivOptions", {"fusedActivationFunction": 1})
    model = files.read(graph.finish([made]))
    feed = RANDOM.normal(size=(5, 3)).astype(np.float32)
    expected = answers(model, feed)[0]
    tflite_rewrites.to_multiplication(model)
    assert kinds(model) == {left: 1}
    np.testing.assert_allclose(answers(model, feed)[0], expected, rtol=1e-6)


# -- Weights -----------------------------------------------------------------------------------------------------------


def test_half_weights_compute_nearly_the_same_and_say_what_does_not_fit():
    graph = Builder()
    x = graph.input("x", (3, 32))
    small, huge = RANDOM.normal(size=(2, 32, 32)).astype(np.float32) * [[[1]], [[1e7]]]
    parts = [graph.constant("small", small.astype(np.float32)), graph.constant("huge", huge.astype(np.float32))]
    outputs = [
        graph.op("FULLY_CONNECTED", [x, part, -1], (3, 32), f"y{part}", "FullyConnectedOptions") for part in parts
    ]
    model = files.read(graph.finish(outputs))
    feed = RANDOM.normal(size=(3, 32)).astype(np.float32)
    expected = answers(model, feed)
    assert tflite_rewrites.weights_to_half(model) == ["huge"]
    made = answers(model, feed)
    np.testing.assert_allclose(made[0], expected[0], atol=0.02)
    assert np.abs(made[0] - expected[0]).max() > 0
    np.testing.assert_allclose(made[1], expected[1], rtol=1e-5)


def dense(weights: np.ndarray, bias: np.ndarray) -> files.ModelT:
    graph = Builder()
    parts = [graph.input("x", (1, weights.shape[1])), graph.constant("w", weights), graph.constant("b", bias)]
    return files.read(
        graph.finish([graph.op("FULLY_CONNECTED", parts, (1, len(weights)), "y", "FullyConnectedOptions")])
    )


@given(exponents=st.tuples(st.integers(-12, 3), st.integers(-8, 8), st.integers(-8, 8)), bits=st.sampled_from([8, 16]))
@settings(max_examples=60, deadline=None)
def test_widened_ranges_keep_biases_and_factors_in_their_bounds(exponents, bits):
    size, at_input, at_bias = (10.0**exponent for exponent in exponents)
    weights = (RANDOM.normal(size=(4, 6)) * size).astype(np.float32)
    bias = (RANDOM.normal(size=4) * at_bias).astype(np.float32)
    model = dense(weights, bias)
    ranges = {"x": Range(-at_input, at_input), "y": seen(bias)}
    tflite_ranges.widen_results(model, ranges, bits)
    wide = tflite_ranges.wide_weights(model, ranges, bits).get("w")
    bound = np.abs(weights).max(axis=1) if wide is None else wide[1].reshape(-1)
    assert (bound >= np.abs(weights).max(axis=1)).all()
    units = tflite_ranges.scale(ranges["x"], bits) * bound.astype(np.float64) / 127
    assert (np.abs(bias) / units <= 2**29 * 1.001).all()
    factors = units / tflite_ranges.scale(ranges["y"], bits)
    assert (factors > 2.0**-32).all()
    assert (np.abs(weights).max() / 127 * tflite_ranges.scale(ranges["x"], bits)) < 2**8 * tflite_ranges.scale(
        ranges["y"], bits
    )


def test_sane_ranges_are_left_alone():
    model = dense(RANDOM.normal(size=(4, 6)).astype(np.float32), np.zeros(4, np.float32))
    ranges = {"x": Range(-1, 1), "y": Range(-2, 3)}
    assert tflite_ranges.usable(model, ranges) == ranges
    changed = dict(ranges)
    tflite_ranges.widen_results(model, changed, 8)
    assert changed == ranges
    assert tflite_ranges.wide_weights(model, ranges, 8) == {}


def test_a_range_of_no_width_takes_that_of_what_it_is_computed_from():
    graph = Builder()
    x = graph.input("x", (1, 4))
    first = graph.op("RELU", [x], (1, 4), "first")
    model = files.read(graph.finish([graph.op("TANH", [first], (1, 4), "second")]))
    found = tflite_ranges.usable(model, {"x": Range(-3, 1), "first": Range(0, 0), "second": Range(0, 1e-20)})
    assert found == {"x": Range(-3, 1), "first": Range(0, 4), "second": Range(0, 4)}
    assert tflite_ranges.usable(model, {"x": Range(0, 0)}) == {"x": Range(0, 1)}


# -- Shapes and ends ---------------------------------------------------------------------------------------------------


def test_a_shape_that_is_computed_becomes_constant_where_one_size_is_free():
    graph = Builder()
    x = graph.input("x", (-1, 4, 2))
    shape = graph.op("SHAPE", [x], (3,), "shape", "ShapeOptions", {"outType": 2}, dtype="int32")
    ends = [graph.constant(f"e{end}", np.int32([end])) for end in (0, 1, 1)]
    fields = {"shrinkAxisMask": 1}
    batch = graph.op("STRIDED_SLICE", [shape, *ends], (), "batch", "StridedSliceOptions", fields, dtype="int32")
    size = graph.constant("eight", np.array(8, np.int32))
    fields = {"valuesCount": 2}
    wanted = graph.op("PACK", [batch, size], (2,), "wanted", "PackOptions", fields, dtype="int32")
    model = files.read(graph.finish([graph.op("RESHAPE", [x, wanted], (-1, 8), "y", "ReshapeOptions")]))
    tflite_shapes.settle(model)
    assert kinds(model) == {"RESHAPE": 1}
    feed = RANDOM.normal(size=(5, 4, 2)).astype(np.float32)
    np.testing.assert_array_equal(answers(model, feed)[0], feed.reshape(5, 8))


def test_conversions_that_nobody_reads_go():
    graph = Builder()
    x = graph.input("x", (1, 4))
    one = graph.op("QUANTIZE", [x], (1, 4), "one", dtype="int8")
    graph.op("DEQUANTIZE", [one], (1, 4), "two")
    model = files.read(graph.finish([graph.op("RELU", [x], (1, 4), "y")]))
    tflite_interface.drop_idle_conversions(model)
    assert kinds(model) == {"RELU": 1}


def test_results_that_share_their_scale_with_a_constant_are_known():
    graph = Builder()
    x = graph.input("x", (2, 3))
    row, number = graph.constant("row", np.zeros((2, 1), np.float32)), graph.constant("number", np.float32([1]))
    joined = graph.op("CONCATENATION", [x, row], (2, 4), "joined", "ConcatenationOptions", {"axis": 1})
    model = files.read(graph.finish([graph.op("MAXIMUM", [joined, number], (2, 4), "y")]))
    assert tflite_rewrites.ranks_of_constants_beside(model) == {"joined": 2}


def test_a_constant_that_nobody_reads_does_not_keep_one_that_is_read_from_being_quantized(tmp_path):
    pytest.importorskip("ai_edge_quantizer", reason="comes with the convert extra")
    graph = Builder()
    x = graph.input("x", (1, 8))
    zeros = np.zeros(8, np.float32)
    weights, bias = graph.constant("w", np.eye(8, dtype=np.float32)), graph.constant("b", zeros)
    dense = graph.op("FULLY_CONNECTED", [x, weights, bias], (1, 8), "f", "FullyConnectedOptions")
    data = graph.finish([graph.op("ADD", [dense, graph.constant("more", zeros)], (1, 8), "y", "AddOptions")])
    model = files.read(data)
    tensors = model.subgraphs[0].tensors
    bias, more = (next(one for one in tensors if files.name_of(one) == name) for name in ("b", "more"))
    more.buffer = bias.buffer  # as whoever writes equal constants once
    tensors.append(copy.copy(more))
    tensors[-1].name = b"copy"
    adding = model.subgraphs[0].operators[-1]  # reads the copy: as a rewriting leaves what it replaces
    adding.inputs = np.array([adding.inputs[0], len(tensors) - 1], np.int32)
    (tmp_path / "m.tflite").write_bytes(write(model))
    spec = TensorSpec("x", (1, 8), "float32"), TensorSpec("y", (1, 8), "float32")
    ranges = Ranges("minmax", 1, {name: Range(-9, 9) for name in ("x", "f", "y")})
    made = quantize_tflite.quantize(
        Graph("tflite", str(tmp_path / "m.tflite"), spec[:1], spec[1:]), ranges, precisions.get("int8"),
        QuantizeOptions("float"), tmp_path / "q.tflite",
    )  # fmt: skip
    wanted, found = answers(model, X[:1]), answers(files.read(Path(made.path).read_bytes()), X[:1])
    assert np.abs(wanted[0] - found[0]).max() < 0.3
