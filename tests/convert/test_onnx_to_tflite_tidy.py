"""What is made smaller without changing an answer: cut products, reductions whose axes go, softplus to its digits."""

from __future__ import annotations

import collections

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.converters import load_onnx, lower_onnx_tflite
from edgekit.converters.sources import identify
from edgekit.converters.tflite_graphs import graph as tflite_graph

FLOAT = TensorProto.FLOAT
node = helper.make_node
DICE = np.random.default_rng(0)


def converted(folder, nodes, shape, outputs, constants, *, opset=17, rtol=1e-4, atol=1e-5, floats=False):
    """Operators of the lowered file, after its answers were compared with onnxruntime's."""
    from edgekit.runtimes.engine_litert import interpreter

    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, ["N", *shape])],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    path, made = folder / "m.onnx", folder / "m.tflite"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    lower_onnx_tflite.lower(load_onnx.load(identify(path)), made, floats=floats)
    data = made.read_bytes()
    session, engine = ort.InferenceSession(path), interpreter(data, 1)
    for batch in (1, 3):
        x = DICE.normal(size=(batch, *shape)).astype(np.float32) * 4
        engine.resize_tensor_input(engine.get_input_details()[0]["index"], x.shape)
        answer = engine.get_signature_runner()(x=x)
        for name, want in zip(outputs, session.run(list(outputs), {"x": x}), strict=True):
            np.testing.assert_allclose(answer[name], want, rtol=rtol, atol=atol)
    read = tflite_graph.read(data)
    return collections.Counter(tflite_graph.op_name(read, op) for op in tflite_graph.operators(read))


def weights(*shape):
    return (DICE.normal(size=shape) * 0.3).astype(np.float32)


def test_queries_keys_and_values_are_products_of_their_own_with_their_factors_inside(tmp_path):
    heads = [part for name in "qkv" for part in (
        node("Reshape", [name, "heads"], [f"{name}h"]),
        node("Transpose", [f"{name}h"], [f"{name}t"], perm=[0, 2, 1, 3]),
    )]  # fmt: skip
    nodes = [
        node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "b"], ["a"]),
        node("Split", ["a"], ["q", "k", "v"], axis=2), *heads,
        node("Mul", ["qt", "scale"], ["qs"]), node("Transpose", ["kt"], ["kk"], perm=[0, 1, 3, 2]),
        node("MatMul", ["qs", "kk"], ["s"]), node("Softmax", ["s"], ["p"], axis=-1), node("MatMul", ["p", "vt"], ["y"]),
    ]  # fmt: skip
    constants = {
        "w": weights(8, 24), "b": weights(24), "heads": np.array([0, 5, 2, 4]), "scale": np.array(0.5, np.float32)
    }  # fmt: skip
    ops = converted(tmp_path, nodes, (5, 8), ["y"], constants)
    assert ops["FULLY_CONNECTED"] == 3
    assert not ops["SLICE"] + ops["SPLIT"] + ops["MUL"]


def attention(bias):
    """Nodes and constants of attention with a layer for each of queries, keys and values, and two heads of four."""
    nodes, constants = [], {"heads": np.array([0, 5, 2, 4]), "rows": np.array([0, 5, 8]), "w": weights(8, 8)}
    for name, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        constants |= {f"{name}w": weights(8, 8)} | ({f"{name}b": weights(8)} if bias else {})
        nodes += [
            node("MatMul", ["x", f"{name}w"], [f"{name}m"]),
            *([node("Add", [f"{name}m", f"{name}b"], [f"{name}a"])] if bias else []),
            node("Reshape", [f"{name}{'a' if bias else 'm'}", "heads"], [f"{name}h"]),
            node("Transpose", [f"{name}h"], [name], perm=order),
        ]  # fmt: skip
    nodes += [
        node("MatMul", ["q", "k"], ["s"]), node("Softmax", ["s"], ["p"], axis=-1), node("MatMul", ["p", "v"], ["o"]),
        node("Transpose", ["o"], ["t"], perm=[0, 2, 1, 3]), node("Reshape", ["t", "rows"], ["r"]),
        node("MatMul", ["r", "w"], ["y"]),
    ]  # fmt: skip
    return nodes, constants


@pytest.mark.parametrize("bias", [True, False])
def test_attention_that_stays_in_real_numbers_is_turned_once_and_back(tmp_path, bias):
    nodes, constants = attention(bias)
    ops = converted(tmp_path, nodes, (5, 8), ["y"], constants, floats=True)
    assert (ops["TRANSPOSE"], ops["FULLY_CONNECTED"], ops["BATCH_MATMUL"]) == (2, 2, 2)
    ops = converted(tmp_path, nodes, (5, 8), ["y"], constants)
    assert ops["FULLY_CONNECTED"] == 4, "each has a range of its own where it is quantized"


def test_only_layers_that_are_turned_alike_and_read_by_nobody_else_become_one(tmp_path):
    nodes, constants = attention(bias=True)
    ops = converted(tmp_path, [*nodes, node("Relu", ["kh"], ["z"])], (5, 8), ["y", "z"], constants, floats=True)
    assert (ops["TRANSPOSE"], ops["FULLY_CONNECTED"]) == (3, 3), "queries and values"


def test_factors_and_offsets_of_rows_go_into_the_weights_that_take_them(tmp_path):
    nodes = [
        node("LayerNormalization", ["x", "g", "b"], ["n"], epsilon=1e-5), node("MatMul", ["n", "w"], ["m"]),
        node("Add", ["m", "c"], ["y"]), node("Slice", ["n", "one", "two", "one"], ["s"]),
        node("MatMul", ["s", "w2"], ["z"]),
    ]  # fmt: skip
    constants = {
        "g": weights(8) + 1, "b": weights(8), "w": weights(8, 6), "c": weights(6), "w2": weights(8, 4),
        "one": np.array([1]), "two": np.array([2]),
    }  # fmt: skip
    kept = converted(tmp_path, nodes, (5, 8), ["y", "z"], constants)
    ops = converted(tmp_path, nodes, (5, 8), ["y", "z"], constants, floats=True)
    assert (kept["MUL"] - ops["MUL"], kept["ADD"] - ops["ADD"]) == (1, 1)

    read = converted(tmp_path, [*nodes, node("Relu", ["n"], ["r"])], (5, 8), ["y", "z", "r"], constants, floats=True)
    assert read - kept == {"RELU": 1}, "somebody else wants the rows themselves"
    gated = [
        node("Mul", ["x", "g"], ["a"]),
        node("Transpose", ["a"], ["t"], perm=[0, 2, 1]),
        node("MatMul", ["t", "w5"], ["y"]),
    ]
    ops = converted(tmp_path, gated, (5, 8), ["y"], {"g": weights(8), "w5": weights(5, 4)}, floats=True)
    assert ops["MUL"] == 1, "the features are no features of the weights"


@pytest.mark.parametrize("sizes", [[0, 5, 3, 8], [-1, 1, 3, 8]])
def test_parts_along_an_axis_of_their_own_are_products_too(tmp_path, sizes):
    cut = [node("Slice", ["r", f"from{n}", f"to{n}", "axis"], [name]) for n, name in enumerate("abc")]
    nodes = [node("MatMul", ["x", "w"], ["m"]), node("Reshape", ["m", "sizes"], ["r"]), *cut]
    ends = {f"from{n}": np.array([n]) for n in range(3)} | {f"to{n}": np.array([n + 1]) for n in range(3)}
    constants = {"w": weights(8, 24), "sizes": np.array(sizes), "axis": np.array([2]), **ends}
    ops = converted(tmp_path, nodes, (5, 8), ["a", "b", "c"], constants)
    assert ops["FULLY_CONNECTED"] == 3
    assert not ops["SLICE"]


def test_what_is_read_whole_or_twice_is_not_cut(tmp_path):
    nodes = [
        node("MatMul", ["x", "w"], ["m"]), node("Split", ["m"], ["a", "b"], axis=2), node("Relu", ["m"], ["c"]),
        node("MatMul", ["x", "v"], ["n"]), node("Slice", ["n", "one", "all", "two"], ["d"]),
        node("Slice", ["n", "zero", "last", "two"], ["e"]),
    ]  # fmt: skip
    constants = {
        "w": weights(8, 4), "v": weights(8, 6), "one": np.array([1]), "all": np.array([6]), "two": np.array([2]),
        "zero": np.array([0]), "last": np.array([5]),
    }  # fmt: skip
    assert converted(tmp_path, nodes, (5, 8), ["a", "b", "c", "d", "e"], constants)["FULLY_CONNECTED"] == 2


def test_rows_are_not_joined_for_a_product_and_cut_again(tmp_path):
    nodes = [
        node("Reshape", ["x", "flat"], ["f"]), node("Gemm", ["f", "w", "b"], ["m"]),
        node("Reshape", ["m", "back"], ["y"]),
    ]  # fmt: skip
    constants = {"flat": np.array([-1, 8]), "w": weights(8, 4), "b": weights(4), "back": np.array([-1, 5, 4])}
    assert converted(tmp_path, nodes, (5, 8), ["y"], constants) == {"FULLY_CONNECTED": 1}


def test_axes_that_a_reduction_keeps_and_a_reshape_drops_are_not_kept(tmp_path):
    nodes = [node("ReduceMean", ["x"], ["m"], axes=[2], keepdims=1), node("Flatten", ["m"], ["y"])]
    assert converted(tmp_path, nodes, (4, 6), ["y"], {}) == {"MEAN": 1}


def test_softplus_and_mish_keep_their_digits_where_they_are_small(tmp_path):
    nodes = [
        node("Mul", ["x", "four"], ["w"]), node("Softplus", ["w"], ["s"]), node("Tanh", ["s"], ["t"]),
        node("Mul", ["w", "t"], ["y"]),
    ]  # fmt: skip
    alone = [node("Mul", ["x", "four"], ["w"]), node("Mish", ["w"], ["y"])]
    four = {"four": np.array(4, np.float32)}
    converted(tmp_path, nodes, (64,), ["s", "y"], four, rtol=1e-3, atol=1e-7)
    ops = converted(tmp_path, alone, (64,), ["y"], four, opset=18, rtol=1e-3, atol=1e-7)
    assert sum(ops.values()) <= 8


def conv(x, y, w, **more):
    return node("Conv", [x, w], [y], kernel_shape=[1, 1], **more)


def test_a_shuffle_of_channels_is_one_transposition_where_channels_lie_last(tmp_path):
    nodes = [
        conv("x", "a", "w1"), node("Reshape", ["a", "apart"], ["b"]),
        node("Transpose", ["b"], ["c"], perm=[0, 2, 1, 3, 4]),
        node("Reshape", ["c", "whole"], ["d"]), node("Split", ["d"], ["e", "f"], axis=1), conv("e", "g", "w2"),
        node("Concat", ["g", "f"], ["h"], axis=1), conv("h", "i", "w1"), node("GlobalAveragePool", ["i"], ["y"]),
    ]  # fmt: skip
    constants = {
        "w1": weights(8, 8, 1, 1), "w2": weights(4, 4, 1, 1),
        "apart": np.array([-1, 2, 4, 5, 6]), "whole": np.array([-1, 8, 5, 6]),
    }  # fmt: skip
    ops = converted(tmp_path, nodes, (8, 5, 6), ["y"], constants)
    assert ops["TRANSPOSE"] == 2, "the input, and the shuffle"


def test_groups_of_channels_are_normalized_where_they_lie(tmp_path):
    nodes = [
        conv("x", "a", "w"), node("Reshape", ["a", "grouped"], ["b"]),
        node("InstanceNormalization", ["b", "scale", "offset"], ["c"], epsilon=1e-5), node("Shape", ["a"], ["s"]),
        node("Reshape", ["c", "s"], ["d"]), node("Mul", ["d", "gamma"], ["e"]), conv("e", "f", "w"),
        node("GlobalAveragePool", ["f"], ["y"]),
    ]  # fmt: skip
    constants = {
        "w": weights(8, 8, 1, 1), "grouped": np.array([0, 4, -1]), "scale": weights(4), "offset": weights(4),
        "gamma": weights(1, 8, 1, 1),
    }  # fmt: skip
    ops = converted(tmp_path, nodes, (8, 5, 6), ["y"], constants)
    assert ops["TRANSPOSE"] == 1


def test_weights_make_channels_and_features_in_the_order_in_which_they_are_wanted(tmp_path):
    image = [
        node("Gemm", ["x", "w"], ["a"]), node("Relu", ["a"], ["b"]), node("Reshape", ["b", "image"], ["c"]),
        conv("c", "d", "k"), node("GlobalAveragePool", ["d"], ["y"]),
    ]  # fmt: skip
    constants = {"w": weights(6, 60), "image": np.array([-1, 5, 3, 4]), "k": weights(7, 5, 1, 1)}
    ops = converted(tmp_path, image, (6,), ["y"], constants)
    assert not ops["TRANSPOSE"]

    pixels = [
        conv("x", "a", "k"), node("DepthToSpace", ["a"], ["b"], blocksize=2, mode="CRD"), conv("b", "c", "m"),
        node("GlobalAveragePool", ["c"], ["y"]),
    ]  # fmt: skip
    ops = converted(tmp_path, pixels, (5, 3, 4), ["y"], {"k": weights(12, 5, 1, 1), "m": weights(2, 3, 1, 1)})
    assert ops["DEPTH_TO_SPACE"] == 1
    assert not ops["GATHER"]


def test_weights_take_channels_before_they_are_put_in_order(tmp_path):
    nodes = [
        node("MaxPool", ["x"], ["a"], kernel_shape=[2, 2]), node("Gather", ["a", "places"], ["b"], axis=1),
        conv("b", "c", "k"), node("GlobalAveragePool", ["c"], ["y"]),
    ]  # fmt: skip
    places = np.array([3, 0, 4, 1, 2])
    assert not converted(tmp_path, nodes, (5, 6, 6), ["y"], {"places": places, "k": weights(2, 5, 1, 1)})["GATHER"]
    some = {"places": places[:4], "k": weights(2, 4, 1, 1)}
    assert converted(tmp_path, nodes, (5, 6, 6), ["y"], some)["GATHER"] == 1, "one is left out"


@pytest.mark.parametrize("starts", [(0, 1), (1, -1)])
def test_steps_along_two_axes_are_one_operator(tmp_path, starts):
    steps = {"one": 2, "other": 3 if starts[1] >= 0 else -2}
    constants = {
        "rows": np.array([2]), "columns": np.array([3]), "far": np.array([np.iinfo(np.int64).max]),
        "back": np.array([np.iinfo(np.int64).min]), "s0": np.array([starts[0]]), "s1": np.array([starts[1]]),
        "one": np.array([steps["one"]]), "other": np.array([steps["other"]]), "w": weights(4, 3, 1, 1),
    }  # fmt: skip
    end = "far" if steps["other"] > 0 else "back"
    nodes = [
        conv("x", "a", "w"), node("Slice", ["a", "s0", "far", "rows", "one"], ["b"]),
        node("Slice", ["b", "s1", end, "columns", "other"], ["c"]), node("GlobalAveragePool", ["c"], ["m"]),
        node("Mul", ["c", "m"], ["y"]),
    ]  # fmt: skip
    assert converted(tmp_path, nodes, (3, 8, 9), ["y"], constants)["STRIDED_SLICE"] == 1
    again = [*nodes[:2], node("Slice", ["b", "s1", end, "rows", "other"], ["c"]), *nodes[3:]]
    assert converted(tmp_path, again, (3, 8, 9), ["y"], constants)["STRIDED_SLICE"] == 2, "the same axis"


@pytest.mark.parametrize(("threshold", "left"), [(20.0, 0), (2.0, 1)])
def test_softplus_needs_no_choice_where_it_is_its_input(tmp_path, threshold, left):
    nodes = [
        node("Softplus", ["x"], ["s"]), node("Greater", ["x", "t"], ["g"]), node("Where", ["g", "x", "s"], ["y"]),
    ]  # fmt: skip
    usual = converted(tmp_path, nodes[:1], (5, 6), ["s"], {})["SELECT_V2"]
    ops = converted(tmp_path, nodes, (5, 6), ["y"], {"t": np.array(threshold, np.float32)})
    assert ops["SELECT_V2"] - usual == left
