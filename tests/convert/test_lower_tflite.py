"""TFLite to TFLite and to ONNX: the same answers under the same names, and what has no counterpart."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from tflite_sources import counting

from edgekit import artifact, errors
from edgekit.converters import load_tflite, lower_tflite_onnx, lower_tflite_tflite
from edgekit.converters.sources import identify
from edgekit.converters.tflite_graphs import graph as files
from edgekit.converters.tflite_graphs.builder import Builder
from edgekit.converters.tflite_graphs.write import write
from edgekit.runtimes.model import Model

pytest.importorskip("tensorflow", reason="comes with the tensorflow extra")
pytest.importorskip("tf2onnx", reason="comes with the tensorflow extra")

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated:UserWarning"),
]
DICE = np.random.default_rng(1)


def load(data: bytes, folder: Path, **about):
    path = folder / "m.tflite"
    path.write_bytes(data)
    return load_tflite.load(identify(path, **about))


def to_onnx(model, folder: Path, feeds: dict, tolerance: float = 1e-5) -> onnx.ModelProto:
    """The ONNX file; it is valid, answers as the source does, and has its names."""
    graph = lower_tflite_onnx.lower(model, folder / "m.onnx")
    proto = onnx.load(graph.path)
    onnx.checker.check_model(proto, full_check=True)
    wanted = model.run(feeds)
    assert list(wanted) == [spec.name for spec in graph.outputs]
    with Model.from_artifact(artifact.read(Path(graph.path)), inputs=graph.inputs, outputs=graph.outputs) as made:
        answers = made.run(feeds)
    for name, value in wanted.items():
        np.testing.assert_allclose(answers[name], value, rtol=tolerance, atol=tolerance, err_msg=name)
    return proto


def kinds(proto) -> Counter:
    return Counter(node.op_type for node in proto.graph.node)


def one(kind, options=None, fields=None, *, shape=(1, 6), more=(), out=None) -> bytes:
    graph = Builder()
    x = graph.input("x", shape)
    extra = [graph.constant(f"c{index}", np.asarray(value)) for index, value in enumerate(more)]
    return graph.finish([graph.op(kind, [x, *extra], out or shape, "y", options, fields)], signature="serving_default")


SINGLE = {
    "exact gelu": one("GELU", "GeluOptions", {"approximate": False}),
    "approximate gelu": one("GELU", "GeluOptions", {"approximate": True}),
    "relu -1..1": one("RELU_N1_TO_1"),
    "relu 0..1": one("RELU_0_TO_1"),
    "hard swish": one("HARD_SWISH"),
    "logistic": one("LOGISTIC"),
    "leaky relu": one("LEAKY_RELU", "LeakyReluOptions", {"alpha": 0.2}),
    "prelu": one("PRELU", more=[DICE.normal(size=6).astype(np.float32)]),
    "concatenation": one(
        "CONCATENATION", "ConcatenationOptions", {"axis": 1}, more=[np.ones((1, 2), np.float32)], out=(1, 8)
    ),
    "mean": one("MEAN", "ReducerOptions", {"keepDims": False}, more=[np.int32([1])], out=(1,)),
    "transpose": one("TRANSPOSE", "TransposeOptions", shape=(2, 3), more=[np.int32([1, 0])], out=(3, 2)),
    "free batch": one("TANH", shape=(-1, 3)),
    "free sizes": one("RELU", shape=(-1, -1, 3)),
    "pooling": one(
        "MAX_POOL_2D", "Pool2DOptions", {"padding": 1, "strideW": 2, "strideH": 2, "filterWidth": 2, "filterHeight": 2},
        shape=(1, 4, 6, 3), out=(1, 2, 3, 3),
    ),
    "resize": one(
        "RESIZE_BILINEAR", "ResizeBilinearOptions", {"alignCorners": False, "halfPixelCenters": True},
        shape=(1, 3, 4, 2), more=[np.int32([6, 8])], out=(1, 6, 8, 2),
    ),
    "strided slice": one(
        "STRIDED_SLICE", "StridedSliceOptions", {"shrinkAxisMask": 2}, shape=(1, 4, 3), out=(1, 3),
        more=[np.int32([0, 2, 0]), np.int32([1, 3, 3]), np.int32([1, 1, 1])],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SINGLE)
def test_single_operators_answer_alike_in_onnx(name, tmp_path):
    model = load(SINGLE[name], tmp_path)
    shape = [size or 3 for size in model.facts.inputs[0].shape]
    to_onnx(model, tmp_path, {"x": 2 * np.random.default_rng(2).normal(size=shape).astype(np.float32)})


def test_a_network_keeps_its_layout_and_names(tiny_files, tmp_path):
    model = load_tflite.load(identify(tiny_files["tflite"]))
    proto = to_onnx(model, tmp_path, {"image": np.random.default_rng(3).normal(size=(4, 8, 8, 2)).astype(np.float32)})
    assert [value.name for value in proto.graph.input] == ["image"]
    (axis, *_) = proto.graph.input[0].type.tensor_type.shape.dim
    assert axis.dim_param == "N"
    first = (tmp_path / "m.onnx").read_bytes()
    lower_tflite_onnx.lower(model, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == first


def test_loops_become_loops(tmp_path):
    proto = to_onnx(load(counting(), tmp_path), tmp_path, {"x": np.float32([[1, 2]])})
    assert kinds(proto)["Loop"] == 1


# -- Recurrent layers -------------------------------------------------------------------------------------------


def lstm(*, steps=5, clip=0.0, time_major=False, batch=1, extra=None, drop=(), **fields) -> bytes:
    """One UNIDIRECTIONAL_SEQUENCE_LSTM of 3 units over 4 inputs a step; `extra`: slot -> values."""
    dice, graph = np.random.default_rng(4), Builder()
    shape = (steps, batch, 4) if time_major else (batch, steps, 4)
    x = graph.input("x", shape)
    slots = [-1] * 24
    slots[0] = x
    for slot in range(1, 9):
        values = dice.normal(size=(3, 4 if slot < 5 else 3)).astype(np.float32)
        slots[slot] = graph.constant(f"w{slot}", values)
    for slot in range(12, 16):
        slots[slot] = graph.constant(f"b{slot}", dice.normal(size=3).astype(np.float32))
    for slot in (18, 19):
        slots[slot] = graph.tensor(f"state{slot}", (batch, 3), variable=True)
    for slot, values in (extra or {}).items():
        slots[slot] = graph.constant(f"extra{slot}", values)
    for slot in drop:
        slots[slot] = -1
    about = {"fusedActivationFunction": 4, "cellClip": clip, "timeMajor": time_major, **fields}
    y = graph.op(
        "UNIDIRECTIONAL_SEQUENCE_LSTM", slots, (*shape[:2], 3), "y", "UnidirectionalSequenceLSTMOptions", about,
        version=3,
    )  # fmt: skip
    return graph.finish([y], signature="serving_default")


@pytest.mark.parametrize("time_major", [False, True])
@pytest.mark.parametrize(("clip", "node"), [(0.0, "LSTM"), (5.0, "LSTM"), (0.3, "Scan"), (4.5, "Scan")])
def test_lstm(time_major, clip, node, tmp_path):
    """A limit that could take effect needs a Scan: ONNX' own clip limits something else."""
    model = load(lstm(time_major=time_major, clip=clip, batch=2), tmp_path)
    shape = [size or 1 for size in model.facts.inputs[0].shape]
    proto = to_onnx(model, tmp_path, {"x": 3 * np.random.default_rng(5).normal(size=shape).astype(np.float32)})
    assert kinds(proto)[node] == 1
    assert kinds(proto)["LSTM"] + kinds(proto)["Scan"] == 1


def test_the_limit_of_a_cell_takes_effect(tmp_path):
    """Otherwise the case above would prove nothing."""
    x = {"x": 3 * np.random.default_rng(5).normal(size=(1, 5, 4)).astype(np.float32)}
    (tmp_path / "free").mkdir()
    free, limited = load(lstm(), tmp_path / "free"), load(lstm(clip=0.3), tmp_path)
    assert np.abs(free.run(x)["y"] - limited.run(x)["y"]).max() > 0.05


def test_two_lstms_in_a_row(tmp_path):
    first, second = files.read(lstm()), files.read(lstm(clip=0.5))
    graph = first.subgraphs[0]
    base, buffers = len(graph.tensors), len(first.buffers)
    for tensor in second.subgraphs[0].tensors:
        tensor.name += b"_2"
        tensor.buffer += buffers
    first.buffers += second.buffers
    graph.tensors += second.subgraphs[0].tensors
    op = second.subgraphs[0].operators[0]
    op.inputs = np.int32([index + base if index >= 0 else -1 for index in op.inputs])
    op.outputs = np.int32([op.outputs[0] + base])
    widen = np.eye(4, 3, dtype=np.float32)
    weights = files.add_constant(first, graph, widen, "widen")
    dense = files.schema().OperatorT()
    dense.opcodeIndex = files.use_op_code(first, files.schema().BuiltinOperator.FULLY_CONNECTED, 1)
    dense.builtinOptionsType = files.schema().BuiltinOptions.FullyConnectedOptions
    dense.builtinOptions = files.schema().FullyConnectedOptionsT()
    dense.builtinOptions.keepNumDims = True
    dense.inputs, dense.outputs = np.int32([graph.outputs[0], weights, -1]), np.int32([base])
    graph.operators += [dense, op]
    graph.outputs = op.outputs
    first.signatureDefs = None
    model = load(write(first), tmp_path)
    proto = to_onnx(model, tmp_path, {"x": np.random.default_rng(6).normal(size=(3, 5, 4)).astype(np.float32)})
    assert (kinds(proto)["LSTM"], kinds(proto)["Scan"]) == (1, 1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lstm(extra={9: np.ones(3, np.float32), 10: np.ones(3, np.float32), 11: np.ones(3, np.float32)}), "peephole"),
        (lstm(extra={16: np.eye(3, dtype=np.float32)}), "projection"),
        (lstm(extra={slot: np.ones(3, np.float32) for slot in (20, 21, 22, 23)}), "layer normalization"),
        (lstm(drop=(1, 5, 12)), "coupled gates"),
        (lstm(fusedActivationFunction=1), "another activation"),
    ],
)
def test_forms_of_lstm_that_onnx_does_not_have_are_refused(data, message, tmp_path):
    model = load(data, tmp_path)
    with pytest.raises(errors.ConversionError, match=message) as caught:
        lower_tflite_onnx.lower(model, tmp_path / "m.onnx")
    assert caught.value.code == "op-unsupported-conversion"
    assert caught.value.details["ops"] == ["UNIDIRECTIONAL_SEQUENCE_LSTM"]
    assert "Keep TFLite" in caught.value.next_step


@pytest.mark.parametrize("file", ["lstm_fp32.tflite", "lstm_int8.tflite"])
def test_a_real_lstm(file, shared, tmp_path):
    model = load_tflite.load(identify(shared / "models" / "mnist_lstm_tflite" / file))
    x = np.random.default_rng(0).uniform(0, 1, (20, 28, 28)).astype(np.float32)
    tolerance = 1e-4 if "fp32" in file else 0.1
    proto = to_onnx(model, tmp_path, {"fixed_input": x}, tolerance)
    stored = {tensor.data_type for tensor in proto.graph.initializer if len(tensor.dims) == 2}
    assert stored == ({onnx.TensorProto.FLOAT} if "fp32" in file else {onnx.TensorProto.INT8})


@pytest.mark.parametrize(
    "file",
    ["ic_resnet8/resnet8_fp32.tflite", "kws_dscnn/kws_fp32.tflite", "kws_dscnn/kws_int8.tflite",
     "mnist_conv_tflite/conv_fc_mnist.tflite"],
)  # fmt: skip
def test_real_files(file, shared, tmp_path):
    model = load_tflite.load(identify(shared / "models" / file))
    spec = model.facts.inputs[0]
    x = np.random.default_rng(0).uniform(0, 1, [4, *spec.shape[1:]]).astype(np.float32)
    to_onnx(model, tmp_path, {spec.name: x}, 1e-4 if model.precision == "fp32" else 0.05)


# -- What is refused --------------------------------------------------------------------------------------------


def test_operators_without_a_counterpart_are_refused_by_name(tmp_path):
    model = load(one("RELU6"), tmp_path)
    changed = files.read(model.handle)
    code = files.schema().BuiltinOperator.SVDF
    changed.operatorCodes[0].builtinCode = changed.operatorCodes[0].deprecatedBuiltinCode = code
    stand_in = type(model)(model.facts, write(changed), model.precision, model.answering)
    with pytest.raises(errors.ConversionError, match="SVDF") as caught:
        lower_tflite_onnx.lower(stand_in, tmp_path / "m.onnx")
    assert caught.value.code == "op-unsupported-conversion"
    assert caught.value.details["ops"] == ["SVDF"]
    assert not (tmp_path / "m.onnx").exists()


def test_what_is_input_and_output_at_once_is_refused(tmp_path):
    graph = Builder()
    x = graph.input("x", (1, 6))
    y = graph.op("RELU", [x], (1, 6), "y")
    model = load(graph.finish([y, x]), tmp_path)
    with pytest.raises(errors.ConversionError, match="also an output") as caught:
        lower_tflite_onnx.lower(model, tmp_path / "m.onnx")
    assert caught.value.code == "conversion-names"


def test_what_tf2onnx_stumbles_over_is_a_typed_error(tmp_path, monkeypatch):
    from tf2onnx import convert

    model = load(one("RELU"), tmp_path)

    def stumble(*_: object, **__: object) -> None:
        raise AssertionError("make_sure failure")

    monkeypatch.setattr(convert, "from_tflite", stumble)
    with pytest.raises(errors.ConversionError, match="make_sure failure") as caught:
        lower_tflite_onnx.lower(model, tmp_path / "m.onnx")
    assert caught.value.code == "conversion-failed"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda proto: setattr(proto.graph.node[0], "op_type", "TFL_RELU"), "op-unsupported-conversion"),
        (lambda proto: setattr(proto.graph.output[0], "name", "other"), "conversion-names"),
        (lambda proto: proto.graph.output[0].type.tensor_type.shape.dim.add(), "conversion-names"),
    ],
)
def test_what_tf2onnx_gets_wrong_is_noticed(change, code, tmp_path, monkeypatch):
    from tf2onnx import convert

    model, real = load(one("RELU"), tmp_path), convert.from_tflite

    def wrong(*args: object, **options: object):
        proto, tables = real(*args, **options)
        change(proto)
        return proto, tables

    monkeypatch.setattr(convert, "from_tflite", wrong)
    with pytest.raises(errors.ConversionError) as caught:
        lower_tflite_onnx.lower(model, tmp_path / "m.onnx")
    assert caught.value.code == code


def test_tflite_stays_as_it_is(tiny_files, tmp_path):
    model = load_tflite.load(identify(tiny_files["tflite"]))
    graph = lower_tflite_tflite.lower(model, tmp_path / "m.tflite")
    assert (tmp_path / "m.tflite").read_bytes() == tiny_files["tflite"].read_bytes()
    assert (graph.precision, graph.format) == ("fp32", "tflite")
