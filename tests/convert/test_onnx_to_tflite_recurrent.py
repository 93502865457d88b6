"""LSTM, GRU and RNN written out as TFLite: as onnxruntime answers, for a batch of 1 and of 3."""

from __future__ import annotations

import collections
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit import errors
from edgekit.converters import load_onnx, lower_onnx_tflite
from edgekit.converters.sources import identify
from edgekit.converters.tflite_graphs import graph as tflite_graph

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
STEPS, WIDTH, HIDDEN = 4, 5, 6


def recurrent(op, *, batch=None, directions=1, bias=True, given=(), outputs=None, constants=None, **options):
    """A model whose input and outputs have their batch first, as exporters write it.

    Args:
        op: LSTM, GRU or RNN.
        batch: A fixed one.
        directions: 1 or 2.
        bias: Whether it has one.
        given: Names of further inputs, of which `constants` has the values.
        outputs: Which outputs it has.
        constants: Further initializers.
        options: Attributes.
    """
    rng = np.random.default_rng(3)
    rows, layout = GATES[op] * HIDDEN, options.get("layout", 0)
    names = ["Y", "Y_h", "Y_c"] if op == "LSTM" else ["Y", "Y_h"]
    outputs = names if outputs is None else outputs
    held = {
        "W": rng.normal(size=(directions, rows, WIDTH)).astype(np.float32) * 0.5,
        "R": rng.normal(size=(directions, rows, HIDDEN)).astype(np.float32) * 0.5,
        **({"B": rng.normal(size=(directions, 2 * rows)).astype(np.float32) * 0.5} if bias else {}),
        **(constants or {}),
    }
    optional = [name if name in given else "" for name in ("lens", "h0", "c0", "P")]
    while optional and not optional[-1]:
        optional.pop()
    nodes = [] if layout else [helper.make_node("Transpose", ["x"], ["xt"], perm=[1, 0, 2])]
    inner = [name if name in outputs else "" for name in names]
    nodes.append(
        helper.make_node(
            op, ["x" if layout else "xt", "W", "R", "B" if bias else "", *optional],
            inner if layout else [f"{name}_t" if name else "" for name in inner], hidden_size=HIDDEN, **options,
        )
    )  # fmt: skip
    if not layout:
        turns = {"Y": [2, 0, 1, 3], "Y_h": [1, 0, 2], "Y_c": [1, 0, 2]}
        nodes += [helper.make_node("Transpose", [f"{name}_t"], [name], perm=turns[name]) for name in outputs]
    shapes = {"Y": (batch, STEPS, directions, HIDDEN), "Y_h": (batch, directions, HIDDEN)}
    shapes["Y_c"] = shapes["Y_h"]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (batch or "N", STEPS, WIDTH))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ("N", *shapes[name][1:])) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in held.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def lowered(model, folder: Path):
    """The lowered file's bytes, the source, and what the lowering says."""
    path, made = folder / "m.onnx", folder / "m.tflite"
    path.write_bytes(model.SerializeToString())
    source = load_onnx.load(identify(path))
    graph = lower_onnx_tflite.lower(source, made)
    return made.read_bytes(), source, graph


def answers(data: bytes, feeds: dict) -> dict:
    """What LiteRT answers."""
    from ai_edge_litert.interpreter import Interpreter

    engine = Interpreter(model_content=data, num_threads=1)
    for about in engine.get_input_details():
        engine.resize_tensor_input(about["index"], feeds[about["name"]].shape)
    engine.allocate_tensors()
    for about in engine.get_input_details():
        engine.set_tensor(about["index"], feeds[about["name"]])
    engine.invoke()
    return {about["name"]: engine.get_tensor(about["index"]) for about in engine.get_output_details()}


def agrees(model, folder: Path, batches=(1, 3), tolerance: float = 2e-6, shape=(STEPS, WIDTH)):
    """The lowered file answers as the source does; its batch is free unless only one is asked for."""
    data, source, graph = lowered(model, folder)
    if len(batches) > 1:
        assert graph.inputs[0].shape[0] is None, graph.notes
    for batch in batches:
        feeds = {"x": np.random.default_rng(batch).normal(size=(batch, *shape)).astype(np.float32)}
        got = answers(data, feeds)
        for name, want in source.run(feeds).items():
            assert got[name].shape == want.shape
            np.testing.assert_allclose(got[name], want, rtol=tolerance, atol=tolerance, err_msg=name)
    return data


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_directions(op, direction, tmp_path):
    agrees(recurrent(op, direction=direction, directions=1 + (direction == "bidirectional")), tmp_path)


@pytest.mark.parametrize("op", GATES)
def test_left_out(op, tmp_path):
    agrees(recurrent(op, bias=False, outputs=["Y_h"]), tmp_path)
    agrees(recurrent(op, bias=False, outputs=["Y"]), tmp_path)


@pytest.mark.parametrize("bias", [True, False])
def test_reset_behind_the_product(bias, tmp_path):
    agrees(recurrent("GRU", bias=bias, linear_before_reset=1, direction="bidirectional", directions=2), tmp_path)


def test_coupled_gates(tmp_path):
    agrees(recurrent("LSTM", input_forget=1), tmp_path)


@pytest.mark.parametrize("op", GATES)
def test_clip(op, tmp_path):
    agrees(recurrent(op, clip=0.3), tmp_path)


@pytest.mark.parametrize("clip", [{}, {"clip": 0.4}])
def test_peepholes(clip, tmp_path):
    peepholes = np.random.default_rng(5).normal(size=(2, 3 * HIDDEN)).astype(np.float32)
    model = recurrent("LSTM", given=["P"], constants={"P": peepholes}, direction="bidirectional", directions=2, **clip)
    agrees(model, tmp_path)


@pytest.mark.parametrize("op", GATES)
def test_given_states(op, tmp_path):
    rng = np.random.default_rng(6)
    held = {name: rng.normal(size=(2, 3, HIDDEN)).astype(np.float32) for name in ("h0", "c0")[: 1 + (op == "LSTM")]}
    model = recurrent(op, batch=3, given=list(held), constants=held, direction="bidirectional", directions=2)
    agrees(model, tmp_path, batches=(3,))


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_shorter_sequences(op, direction, tmp_path):
    held = {"lens": np.array([2, 4, 1], np.int32)}
    agrees(recurrent(op, batch=3, given=["lens"], constants=held, direction=direction), tmp_path, batches=(3,))


@pytest.mark.parametrize("op", GATES)
def test_sequences_without_steps(op, tmp_path):
    """onnxruntime answers zeros for them, not the first state."""
    held = {"lens": np.array([2, 0, 1], np.int32), "h0": np.ones((2, 3, HIDDEN), np.float32)}
    both = {"direction": "bidirectional", "directions": 2}
    agrees(recurrent(op, batch=3, given=["lens", "h0"], constants=held, **both), tmp_path, batches=(3,))


@pytest.mark.parametrize(
    "activations",
    [
        {"activations": ["HardSigmoid", "Relu", "Softsign"], "activation_alpha": [0.3], "activation_beta": [0.4]},
        {"activations": ["Sigmoid", "LeakyRelu", "ThresholdedRelu"], "activation_alpha": [0.1, 0.2]},
        {"activations": ["Affine", "ScaledTanh", "Elu"], "activation_alpha": [0.1, 0.5, 0.7],
         "activation_beta": [0.2, 0.9]},
        {"activations": ["sigmoid", "softplus", "tanh"]},
    ],
)  # fmt: skip
def test_activations(activations, tmp_path):
    agrees(recurrent("LSTM", **activations), tmp_path)


def test_activations_of_each_direction(tmp_path):
    both = {"direction": "bidirectional", "directions": 2}
    agrees(recurrent("GRU", activations=["Sigmoid", "Relu", "HardSigmoid", "Tanh"], activation_alpha=[0.25],
                     activation_beta=[0.5], **both), tmp_path)  # fmt: skip
    agrees(recurrent("RNN", activations=["Relu", "Tanh"], **both), tmp_path)


def test_long_sequences_are_refused(tmp_path):
    model = recurrent("RNN", outputs=["Y_h"])
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 513
    with pytest.raises(errors.ConversionError, match="513 steps would be written out"):
        lowered(model, tmp_path)


def unlike_onnxruntime(model, feeds: dict) -> None:
    """What onnxruntime does not run: the lowered graph against ONNX' own evaluator."""
    from onnx.reference import ReferenceEvaluator

    from edgekit.converters.onnx_to_tflite import tidy, writing
    from edgekit.converters.onnx_to_tflite.lowering import Lowering

    lowering = Lowering(model)
    draft = lowering.run()
    assert not lowering.gaps
    tidy.tidy(draft)
    got = answers(writing.write(draft), feeds)
    for info, want in zip(model.graph.output, ReferenceEvaluator(model).run(None, feeds), strict=True):
        np.testing.assert_allclose(got[info.name], want, rtol=2e-6, atol=2e-6, err_msg=info.name)


@pytest.mark.parametrize("op", GATES)
def test_batch_first(op):
    feeds = {"x": np.random.default_rng(1).normal(size=(3, STEPS, WIDTH)).astype(np.float32)}
    outputs = ["Y", "Y_h"]  # of Y_c ONNX' evaluator knows nothing
    unlike_onnxruntime(recurrent(op, batch=3, layout=1, outputs=outputs), feeds)


def one_node(op, feeds: dict, constants: dict, inputs, **options):
    """A model of one node, its inputs as they are."""
    graph = helper.make_graph(
        [helper.make_node(op, inputs, ["Y", "Y_h"], hidden_size=HIDDEN, **options)],
        "g",
        [helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in feeds.items()],
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, None) for k in ("Y", "Y_h")],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("op", GATES)
def test_everything_computed(op, tmp_path):
    """Weights, lengths and states that are only known on the device."""
    import onnxruntime as ort

    from edgekit.converters.onnx_to_tflite import writing
    from edgekit.converters.onnx_to_tflite.lowering import Lowering

    rng, rows = np.random.default_rng(2), GATES[op] * HIDDEN
    sizes = {"X": (STEPS, 3, WIDTH), "W": (1, rows, WIDTH), "R": (1, rows, HIDDEN), "B": (1, 2 * rows),
             "h0": (1, 3, HIDDEN)}  # fmt: skip
    feeds = {name: rng.normal(size=size).astype(np.float32) for name, size in sizes.items()}
    feeds["lens"] = np.array([4, 1, 3], np.int32)
    model = one_node(op, feeds, {}, ["X", "W", "R", "B", "lens", "h0"])
    lowering = Lowering(model)
    draft = lowering.run()
    assert not lowering.gaps
    got = answers(writing.write(draft), feeds)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for name, want in zip(("Y", "Y_h"), session.run(None, feeds), strict=True):
        np.testing.assert_allclose(got[name], want, rtol=2e-6, atol=2e-6)


def test_weights_are_there_once(tmp_path):
    """The steps share what they multiply their state with."""
    model = recurrent("LSTM", outputs=["Y"])
    data = agrees(model, tmp_path)
    held = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    assert len(data) < held + STEPS * 12 * 400


def test_steps_that_are_alike_are_described_once(tmp_path):
    """Files of floats; where ranges are kept, each tensor has a name of its own."""
    _, loaded, _ = lowered(recurrent("LSTM", batch=1, outputs=["Y_h"]), tmp_path)
    sizes, names = [], []
    for floats in (True, False):
        lower_onnx_tflite.lower(loaded, tmp_path / "m.tflite", floats=floats)
        data = (tmp_path / "m.tflite").read_bytes()
        sizes.append(len(data))
        names.append([tflite_graph.name_of(t) for t in tflite_graph.tensors(tflite_graph.read(data))])
    assert len(names[0]) == len(names[1]) == len(set(names[1])) > 2 * len(set(names[0]))
    assert sizes[0] < sizes[1] - 25 * len(names[0])


def test_half_the_weights_do_not_take_more_than_all(tmp_path):
    """The quantizer's unique names do not stay where numbers stay real ones."""
    from edgekit.converters import quantize_tflite
    from edgekit.converters.stages import QuantizeOptions
    from edgekit.precision import precisions

    _, loaded, _ = lowered(recurrent("LSTM", batch=1, outputs=["Y_h"]), tmp_path)
    graph = lower_onnx_tflite.lower(loaded, tmp_path / "m.tflite", floats=True)
    quantize_tflite.quantize(
        graph, None, precisions.get("fp16"), QuantizeOptions("float", allow_float_ops=False), tmp_path / "half.tflite"
    )
    assert (tmp_path / "half.tflite").stat().st_size < (tmp_path / "m.tflite").stat().st_size
    feeds = {"x": np.random.default_rng(1).normal(size=(1, STEPS, WIDTH)).astype(np.float32)}
    for name, want in loaded.run(feeds).items():
        got = answers((tmp_path / "half.tflite").read_bytes(), feeds)[name]
        np.testing.assert_allclose(got, want, rtol=5e-3, atol=5e-3)


@pytest.mark.filterwarnings("ignore")
def test_torch(tmp_path):
    torch = pytest.importorskip("torch")

    class Tagger(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = torch.nn.LSTM(WIDTH, HIDDEN, num_layers=2, bidirectional=True, batch_first=True)
            self.gru = torch.nn.GRU(2 * HIDDEN, HIDDEN, batch_first=True)
            self.out = torch.nn.Linear(HIDDEN, 3)

        def forward(self, x):
            seen, _ = self.lstm(x)
            _, last = self.gru(seen)
            return self.out(last[-1])

    path = tmp_path / "torch.onnx"
    torch.manual_seed(0)
    torch.onnx.export(
        Tagger().eval(), (torch.zeros(2, 9, WIDTH),), str(path), input_names=["x"], output_names=["y"], dynamo=False,
        dynamic_axes={"x": {0: "N"}, "y": {0: "N"}},
    )  # fmt: skip
    agrees(onnx.load(str(path)), tmp_path, shape=(9, WIDTH))


@pytest.mark.parametrize("batch", [None, 1])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_a_step_that_is_picked_is_read_where_it_is_made(direction, batch, tmp_path):
    """The usual way to go on: the last step alone. Of the other direction that is the first one made."""
    both = direction == "bidirectional"
    model = recurrent("LSTM", direction=direction, directions=1 + both, outputs=["Y"], batch=batch)
    for name, value in (("start", [-1]), ("end", [2**31]), ("axis", [1])):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
    model.graph.node.append(helper.make_node("Slice", ["Y", "start", "end", "axis"], ["last"]))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("last", TensorProto.FLOAT, None))
    if batch and not both:  # as PyTorch writes it: of one sample, time goes to the front without moving anything
        model.graph.initializer.append(numpy_helper.from_array(np.array([STEPS, batch, HIDDEN]), "sizes"))
        del model.graph.node[-1]
        model.graph.node.append(helper.make_node("Reshape", ["Y", "sizes"], ["timed"]))
        model.graph.initializer.append(numpy_helper.from_array(np.array(-1, np.int64), "place"))
        model.graph.node.append(helper.make_node("Gather", ["timed", "place"], ["last"], axis=0))
    read = tflite_graph.read(agrees(model, tmp_path, batches=(1, 3) if batch is None else (1,)))
    kinds = collections.Counter(tflite_graph.op_name(read, op) for op in tflite_graph.operators(read))
    assert not kinds["PACK"] + kinds["SLICE"]
    assert kinds["TANH"] == {"forward": 2 * STEPS, "reverse": 2, "bidirectional": 2 * STEPS + 2}[direction]
