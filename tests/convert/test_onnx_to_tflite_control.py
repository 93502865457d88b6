"""If, Loop and Scan lowered in place, as onnxruntime answers, for a batch of 1 and of 3."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit import errors
from edgekit.converters import load_onnx, lower_onnx_tflite
from edgekit.converters.sources import identify

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
node = helper.make_node


def info(name, kind=FLOAT, shape=None):
    return helper.make_tensor_value_info(name, kind, shape)


def model_of(nodes, outputs, constants=None, opset=17, width=4):
    """A model of one input, x [N, width]; outputs: name -> shape."""
    graph = helper.make_graph(
        nodes,
        "g",
        [info("x", FLOAT, ("N", width))],
        [info(name, FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def body_of(nodes, inputs, outputs, constants=None):
    """A body; inputs and outputs: name -> (type, shape)."""
    return helper.make_graph(
        nodes,
        "body",
        [info(name, *about) for name, about in inputs.items()],
        [info(name, *about) for name, about in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )


def lowered(model, folder: Path):
    """The lowered file's bytes, the source, and what the lowering says."""
    path, made = folder / "m.onnx", folder / "m.tflite"
    path.write_bytes(model.SerializeToString())
    source = load_onnx.load(identify(path))
    graph = lower_onnx_tflite.lower(source, made)
    return made.read_bytes(), source, graph


def agrees(model, folder: Path, feeds=None, *, free=True):
    """The lowered file answers as the source does; returns what the lowering notes."""
    from ai_edge_litert.interpreter import Interpreter

    data, source, graph = lowered(model, folder)
    assert (graph.inputs[0].shape[0] is None) == free, graph.notes
    rng, width = np.random.default_rng(1), graph.inputs[0].shape[1]
    for x in feeds or [rng.normal(size=(batch, width)).astype(np.float32) for batch in ((1, 3) if free else (1,))]:
        engine = Interpreter(model_content=data, num_threads=1)
        place = engine.get_input_details()[0]["index"]
        engine.resize_tensor_input(place, x.shape)
        engine.allocate_tensors()
        engine.set_tensor(place, x)
        engine.invoke()
        got = {about["name"]: engine.get_tensor(about["index"]) for about in engine.get_output_details()}
        for name, want in source.run({"x": x}).items():
            assert got[name].shape == want.shape
            np.testing.assert_allclose(got[name], want, rtol=2e-6, atol=2e-6, err_msg=name)
    return graph.notes


def branches(first="Relu", second="Tanh", shape=("N", 4)):
    return {
        "then_branch": body_of([node(first, ["x"], ["t"])], {}, {"t": (FLOAT, shape)}),
        "else_branch": body_of([node(second, ["x"], ["e"])], {}, {"e": (FLOAT, shape)}),
    }


@pytest.mark.parametrize("width", [4, 5])
def test_if_by_size(width, tmp_path):
    """A condition that follows from sizes: one branch is left, also if the other could not be written."""
    nodes = [
        node("Shape", ["x"], ["sizes"]),
        node("Gather", ["sizes", "one"], ["width"]),
        node("Equal", ["width", "four"], ["is_four"]),
        node("If", ["is_four"], ["y"], **branches("Relu", "Det" if width == 4 else "Tanh")),
    ]
    constants = {"one": np.int64(1), "four": np.int64(4)}
    assert agrees(model_of(nodes, {"y": ("N", width)}, constants, width=width), tmp_path) == ()


def test_if_by_value(tmp_path):
    """A condition that only the device knows: both branches run."""
    nodes = [
        node("ReduceSum", ["x"], ["sum"], keepdims=0),
        node("Greater", ["sum", "zero"], ["positive"]),
        node("If", ["positive"], ["y"], **branches()),
    ]
    model = model_of(nodes, {"y": ("N", 4)}, {"zero": np.float32(0)})
    feeds = [np.full((batch, 4), sign, np.float32) for batch in (1, 3) for sign in (-0.5, 0.5)]
    (note,) = agrees(model, tmp_path, feeds)
    assert "both branches" in note


def test_if_of_other_sizes_is_refused(tmp_path):
    other = body_of([node("ReduceSum", ["x", "first"], ["e"])], {}, {"e": (FLOAT, (1, 4))})
    nodes = [
        node("ReduceSum", ["x"], ["sum"], keepdims=0),
        node("Greater", ["sum", "zero"], ["positive"]),
        node("If", ["positive"], ["y"], name="choice", **{**branches(), "else_branch": other}),
    ]
    with pytest.raises(errors.ConversionError, match=r"If \(choice\): what t is depends on the data"):
        lowered(model_of(nodes, {"y": ("N", 4)}, {"zero": np.float32(0), "first": np.array([0], np.int64)}), tmp_path)


def test_gap_in_a_body_is_named(tmp_path):
    """By its own name, and once though the body runs three times."""
    body = body_of(
        [node("Identity", ["go"], ["on"]), node("Reshape", ["v", "s"], ["square"]),
         node("Det", ["square"], ["d"], name="inside"), node("Add", ["v", "d"], ["w"])],
        {"i": (INT64, ()), "go": (BOOL, ()), "v": (FLOAT, None)}, {"on": (BOOL, ()), "w": (FLOAT, None)},
        {"s": np.array([2, 2], np.int64)},
    )  # fmt: skip
    model = model_of([node("Loop", ["n", "", "x"], ["y"], body=body)], {"y": ("N", 4)}, {"n": np.int64(3)})
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    with pytest.raises(errors.ConversionError, match=r"Det \(inside\)") as caught:
        lowered(model, tmp_path)
    assert str(caught.value).count("inside") == 1


def loop(extra=(), *, on=("Identity", ["go"], ["on"]), outputs=("y", "scans"), inputs=("n", "", "x"), constants=None):
    """Sums of x * (round + 1), the values of every round collected."""
    nodes = [
        node(*on),
        node("Cast", ["i"], ["f"], to=FLOAT),
        node("Add", ["f", "one"], ["g"]),
        node("Mul", ["v", "g"], ["w"]),
        *extra,
    ]
    made = {"on": (BOOL, ()), "w": (FLOAT, None), "z": (FLOAT, None)}
    if len(outputs) == 1:
        del made["z"]
    else:
        nodes.append(node("Identity", ["w"], ["z"]))
    given = {"i": (INT64, ()), "go": (BOOL, ()), "v": (FLOAT, None)}
    body = body_of(nodes, given, made, {"one": np.float32(1)})
    shapes = {"y": ("N", 4), "scans": (None, "N", 4)}
    held = {"n": np.int64(4), **(constants or {})}
    return [node("Loop", list(inputs), list(outputs), body=body)], {name: shapes[name] for name in outputs}, held


def test_loop(tmp_path):
    agrees(model_of(*loop()), tmp_path)


def test_loop_until_a_known_round(tmp_path):
    """A condition that follows from the round: the loop ends there."""
    held = {"bound": np.int64(1), "yes": np.bool_(True), "n": np.int64(1 << 62)}
    nodes, outputs, held = loop(on=("Less", ["i", "bound"], ["on"]), inputs=("n", "yes", "x"), constants=held)
    agrees(model_of(nodes, outputs, held), tmp_path)


def test_loop_that_does_not_run(tmp_path):
    agrees(model_of(*loop(outputs=("y",), constants={"n": np.int64(0)})), tmp_path)


def test_loop_that_the_device_ends(tmp_path):
    """It keeps what it had."""
    extra = [node("ReduceSum", ["w"], ["sum"], keepdims=0)]
    nodes, outputs, held = loop(extra, on=("Identity", ["go"], ["same"]), outputs=("y",))
    body = nodes[0].attribute[0].g
    body.node.append(node("Less", ["sum", "limit"], ["on"]))
    held["limit"] = np.float32(10)
    feeds = [np.full((batch, 4), size, np.float32) for batch in (1, 3) for size in (0.01, 0.4, 1.0, 5.0)]
    agrees(model_of(nodes, outputs, held), tmp_path, feeds)


@pytest.mark.parametrize("kind", [INT64, BOOL, TensorProto.INT32, TensorProto.UINT8])
def test_loop_collects_other_types(kind, tmp_path):
    extra = [node("Cast", ["w"], ["whole"], to=kind)]
    nodes, _, held = loop(extra)
    body = nodes[0].attribute[0].g
    body.node[-1].input[0] = "whole"
    body.output[2].CopyFrom(info("z", kind))
    nodes += [node("Cast", ["scans"], ["floats"], to=FLOAT)]
    feeds = [np.arange(4 * batch, dtype=np.float32).reshape(batch, 4) % 8 for batch in (1, 3)]
    agrees(model_of(nodes, {"floats": (None, "N", 4)}, held), tmp_path, feeds)


def test_nested(tmp_path):
    """A Loop with an If in it, whose condition follows from the round and whose branches read what is around."""
    turn = node("If", ["even"], ["w"],
                then_branch=body_of([node("Mul", ["v", "two"], ["a"])], {}, {"a": (FLOAT, None)}),
                else_branch=body_of([node("Sub", ["v", "x"], ["b"])], {}, {"b": (FLOAT, None)}))  # fmt: skip
    body = body_of(
        [node("Identity", ["go"], ["on"]), node("Mod", ["i", "pair"], ["rest"]),
         node("Equal", ["rest", "none"], ["even"]), turn],
        {"i": (INT64, ()), "go": (BOOL, ()), "v": (FLOAT, None)}, {"on": (BOOL, ()), "w": (FLOAT, None)},
        {"pair": np.int64(2), "none": np.int64(0)},
    )  # fmt: skip
    held = {"n": np.int64(5), "two": np.float32(2)}
    assert agrees(model_of([node("Loop", ["n", "", "x"], ["y"], body=body)], {"y": ("N", 4)}, held), tmp_path) == ()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"constants": {"n": np.int64(600)}}, "600 rounds would be written out"),
        ({"on": ("Less", ["i", "far"], ["on"]), "constants": {"far": np.int64(9999), "n": np.int64(9999)}},
         "more than 512 rounds"),
    ],
)  # fmt: skip
def test_long_loops_are_refused(change, why, tmp_path):
    with pytest.raises(errors.ConversionError, match=why):
        lowered(model_of(*loop(**change)), tmp_path)


def test_collecting_an_unknown_number_is_refused(tmp_path):
    nodes, outputs, held = loop([node("ReduceSum", ["w"], ["sum"], keepdims=0)], on=("Identity", ["go"], ["same"]))
    nodes[0].attribute[0].g.node.append(node("Less", ["sum", "limit"], ["on"]))
    held["limit"] = np.float32(10)
    with pytest.raises(errors.ConversionError, match="what it collects depends on the data"):
        lowered(model_of(nodes, outputs, held), tmp_path)


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("backward", [0, 1])
@pytest.mark.parametrize("out", [(0, 0), (1, 1), (-1, 0)])
def test_scan(axis, backward, out, tmp_path):
    """Running sums along the second or the last axis."""
    body = body_of(
        [node("Add", ["s", "e"], ["t"]), node("Mul", ["t", "e"], ["o"])],
        {"s": (FLOAT, None), "e": (FLOAT, None)}, {"t": (FLOAT, None), "o": (FLOAT, None)},
    )  # fmt: skip
    nodes = [
        node("Reshape", ["x", "cube"], ["c"]),
        node("ReduceSum", ["c", "axes"], ["start"], keepdims=0),
        node("Scan", ["start", "c"], ["y", "z"], body=body, num_scan_inputs=1, scan_input_axes=[axis],
             scan_input_directions=[backward], scan_output_axes=[out[0]], scan_output_directions=[out[1]]),
    ]  # fmt: skip
    constants = {"cube": np.array([-1, 3, 4], np.int64), "axes": np.array([axis], np.int64)}
    agrees(model_of(nodes, {"y": None, "z": None}, constants, width=12), tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_torch(tmp_path):
    """What TorchScript exports of a loop over steps."""
    torch = pytest.importorskip("torch")

    class Decay(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.outer = torch.nn.Linear(2, 3), torch.nn.Linear(3, 3)

        def forward(self, x):
            state = torch.zeros(x.shape[0], 3)
            for step in range(x.shape[1] // 2):
                state = torch.tanh(self.inner(x[:, 2 * step : 2 * step + 2]) + self.outer(state))
            if state.shape[1] == 3:
                state = torch.relu(state)
            return state

    path = tmp_path / "torch.onnx"
    torch.manual_seed(0)
    torch.onnx.export(
        torch.jit.script(Decay().eval()), (torch.zeros(2, 8),), str(path), input_names=["x"], output_names=["y"],
        dynamo=False, dynamic_axes={"x": {0: "N"}, "y": {0: "N"}},
    )  # fmt: skip
    agrees(onnx.load(str(path)), tmp_path)
