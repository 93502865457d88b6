"""TFLite sources: signatures, shapes, stored precisions, state, and what is refused."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tflite_sources import counting

from edgekit import errors
from edgekit.converters import load_tflite, lower_tflite_tflite
from edgekit.converters.sources import identify
from edgekit.converters.tflite_graphs import graph as files
from edgekit.converters.tflite_graphs.builder import Builder
from edgekit.converters.tflite_graphs.write import write

pytest.importorskip("ai_edge_litert", reason="comes with the convert extra")

WEIGHTS = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
X = np.random.default_rng(2).normal(size=(5, 4)).astype(np.float32)


def load(data: bytes, folder: Path, **about):
    path = folder / "m.tflite"
    path.write_bytes(data)
    return load_tflite.load(identify(path, **about))


def dense(weights=WEIGHTS, *, batch=-1, signature="serving_default") -> bytes:
    """y = x @ weights.T"""
    graph = Builder()
    x = graph.input("x", (batch, weights.shape[1]))
    parts = [x, graph.constant("w", weights)]
    y = graph.op("FULLY_CONNECTED", parts, (batch, weights.shape[0]), "y", "FullyConnectedOptions")
    return graph.finish([y], signature=signature)


def changed(data: bytes, change) -> bytes:
    model = files.read(data)
    change(model)
    return write(model)


def quant(scales, points=0, axis=0):
    table = files.schema().QuantizationParametersT()
    table.scale = np.atleast_1d(np.float32(scales))
    table.zeroPoint = np.broadcast_to(np.int64(points), table.scale.shape).copy()
    table.quantizedDimension = axis
    return table


def again(model, folder: Path):
    """The lowered file as a source of its own."""
    path = folder / "lowered.tflite"
    lower_tflite_tflite.lower(model, path)
    return load_tflite.load(identify(path))


def agrees(model, folder: Path, feeds: dict) -> dict:
    answers = model.run(feeds)
    for name, got in again(model, folder).run(feeds).items():
        np.testing.assert_allclose(got, answers[name], rtol=1e-5, atol=1e-6)
    return answers


# -- Answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [-1, 1, 2])
@pytest.mark.parametrize("signature", ["serving_default", "other", None])
def test_any_number_of_samples_with_and_without_a_signature(batch, signature, tmp_path):
    model = load(dense(batch=batch, signature=signature), tmp_path)
    np.testing.assert_allclose(agrees(model, tmp_path, {"x": X})["y"], X @ WEIGHTS.T, rtol=1e-4, atol=1e-5)
    assert model.facts.inputs[0].shape == (None if batch < 0 else batch, 4)
    assert not model.facts.quantized


def test_an_unchanged_file_is_passed_on_byte_by_byte(tmp_path):
    data = dense()
    lower_tflite_tflite.lower(load(data, tmp_path), tmp_path / "l.tflite")
    assert (tmp_path / "l.tflite").read_bytes() == data


def test_inner_free_sizes(tmp_path):
    graph = Builder()
    x = graph.input("x", (1, -1, -1, 2))
    y = graph.op("LOGISTIC", [x], (1, -1, -1, 2), "y")
    data = graph.finish([y])
    model = load(data, tmp_path)
    x = np.random.default_rng(0).normal(size=(3, 4, 5, 2)).astype(np.float32)
    np.testing.assert_allclose(agrees(model, tmp_path, {"x": x})["y"], 1 / (1 + np.exp(-x)), rtol=1e-5)
    fixed = load(data, tmp_path, shapes={"x": (1, 4, 5, 2)})
    assert [spec.shape for spec in (*fixed.facts.inputs, *fixed.facts.outputs)] == [(1, 4, 5, 2)] * 2
    np.testing.assert_allclose(agrees(fixed, tmp_path, {"x": x})["y"], 1 / (1 + np.exp(-x)), rtol=1e-5)


@pytest.mark.parametrize(
    ("shapes", "code"),
    [
        ({"nobody": (1, 4)}, "input-unknown"),
        ({"x": (1, 5)}, "shape-conflict"),
        ({"x": (1, 4, 1)}, "shape-conflict"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(shapes, code, tmp_path):
    with pytest.raises(errors.UsageError) as caught:
        load(dense(), tmp_path, shapes=shapes)
    assert caught.value.code == code


def test_sizes_that_the_network_cannot_have_are_refused(tmp_path):
    graph = Builder()
    x = graph.input("x", (1, -1))
    parts = [x, graph.constant("c", WEIGHTS)]
    data = graph.finish([graph.op("ADD", parts, (3, -1), "y", "AddOptions")])
    assert load(data, tmp_path, shapes={"x": (1, 4)}).facts.outputs[0].shape == (3, 4)
    with pytest.raises(errors.UsageError, match="cannot be computed with these sizes") as caught:
        load(data, tmp_path, shapes={"x": (1, 7)})
    assert caught.value.code == "shape-conflict"


def test_a_size_of_one_need_not_be_possible_where_it_is_free(tmp_path):
    graph = Builder()
    x = graph.input("x", (1, -1, -1, 1))
    parts = [x, graph.constant("w", np.ones((1, 3, 3, 1), np.float32)), graph.constant("b", np.zeros(1, np.float32))]
    fields = {"padding": 1, "strideW": 1, "strideH": 1}
    y = graph.op("CONV_2D", parts, (1, -1, -1, 1), "y", "Conv2DOptions", fields)
    for signature in ("serving_default", None):
        model = load(graph.finish([y], signature=signature), tmp_path)
        assert model.run({"x": np.ones((2, 4, 5, 1), np.float32)})["y"][1, :, :, 0].tolist() == [[9] * 3] * 2


def test_tensors_with_one_name_or_none(tmp_path):
    def rename(model):
        for tensor in model.subgraphs[0].tensors:
            tensor.name = b"same"

    model = load(changed(dense(signature=None), rename), tmp_path)
    names = [spec.name for spec in (*model.facts.inputs, *model.facts.outputs)]
    assert len(set(names)) == 2
    assert agrees(model, tmp_path, {names[0]: X})[names[1]].shape == (5, 3)

    def blank(model):
        for tensor in model.subgraphs[0].tensors:
            tensor.name = None

    model = load(changed(dense(signature=None), blank), tmp_path)
    assert all(spec.name for spec in (*model.facts.inputs, *model.facts.outputs))


# -- Signatures and graphs --------------------------------------------------------------------------------------


def two_signatures(first="encode", second="decode") -> bytes:
    """Two graphs, each under a signature of its own; the second doubles."""
    model = files.read(dense(signature=first))
    graph = Builder()
    x = graph.input("z", (-1, 3))
    other = files.read(graph.finish([graph.op("ADD", [x, x], (-1, 3), "z2", "AddOptions")], signature=second))
    for op in other.subgraphs[0].operators:
        op.opcodeIndex += len(model.operatorCodes)
    model.operatorCodes += other.operatorCodes
    model.subgraphs += other.subgraphs
    other.signatureDefs[0].subgraphIndex = 1
    model.signatureDefs += other.signatureDefs
    return write(model)


def test_one_of_several_signatures_is_chosen_by_name(tmp_path):
    for name, key, wanted in (("encode", "x", X @ WEIGHTS.T), ("decode", "z", 2 * X[:, :3])):
        model = load(two_signatures(), tmp_path, signature=name)
        feed = X if key == "x" else X[:, :3].copy()
        (answer,) = agrees(model, tmp_path, {key: feed}).values()
        np.testing.assert_allclose(answer, wanted, rtol=1e-4, atol=1e-5)
        kept = files.read(model.handle)
        assert len(kept.subgraphs) == len(kept.signatureDefs) == 1


def test_the_default_signature_is_taken_with_a_note(tmp_path):
    model = load(two_signatures(second="serving_default"), tmp_path)
    assert [spec.name for spec in model.facts.inputs] == ["z"]
    assert "the signature 'serving_default' was taken; there are also encode" in model.facts.notes


def test_several_signatures_are_listed_when_none_is_named(tmp_path):
    with pytest.raises(errors.UsageError, match="encode, decode") as caught:
        load(two_signatures(), tmp_path)
    assert caught.value.code == "signature-ambiguous"


@pytest.mark.parametrize("signature", ["serving_default", None])
def test_unknown_signatures_are_refused_with_the_known_ones(signature, tmp_path):
    with pytest.raises(errors.UsageError, match=r"it has: (serving_default|none)") as caught:
        load(dense(signature=signature), tmp_path, signature="train")
    assert caught.value.code == "signature-unknown"


def test_loops_over_further_graphs(tmp_path):
    model = load(counting(), tmp_path)
    answers = agrees(model, tmp_path, {"x": np.float32([[1, 2], [3, 4]])})
    np.testing.assert_array_equal(answers["x_out"], [[8, 16], [24, 32]])


# -- What numbers are stored as ---------------------------------------------------------------------------------


def half_weights() -> bytes:
    graph = Builder()
    x = graph.input("x", (-1, 4))
    stored = graph.constant("stored", WEIGHTS)
    w = graph.op("DEQUANTIZE", [stored], (3, 4), "w", "DequantizeOptions")
    data = graph.finish([graph.op("FULLY_CONNECTED", [x, w], (-1, 3), "y", "FullyConnectedOptions")])

    def halve(model):
        tensor = next(t for t in model.subgraphs[0].tensors if t.name == b"stored")
        files.set_constant(model, tensor, WEIGHTS.astype(np.float16))
        tensor.type = files.schema().TensorType.FLOAT16

    return changed(data, halve)


def test_half_weights_are_a_float_source(tmp_path):
    model = load(half_weights(), tmp_path)
    assert (model.precision, model.facts.quantized) == ("fp32", False)
    assert "1 weights that were stored as float16 became float32, the same numbers" in model.facts.notes
    half = WEIGHTS.astype(np.float16).astype(np.float32)
    np.testing.assert_allclose(agrees(model, tmp_path, {"x": X})["y"], X @ half.T, rtol=1e-4, atol=1e-5)
    assert {files.op_name(m, op) for m in [files.read(model.handle)] for op in files.operators(m)} == {
        "FULLY_CONNECTED"
    }


def integers(kind: str) -> bytes:
    """The same layer, stored or computed in integers."""
    model = files.read(dense(np.tile(WEIGHTS, (1, 16)), batch=1))
    types = files.schema().TensorType
    x, w, y = (next(t for t in model.subgraphs[0].tensors if t.name == name) for name in (b"x", b"w", b"y"))
    weights = np.tile(WEIGHTS, (1, 16))
    files.set_constant(model, w, np.clip(np.round(weights / 0.03), -127, 127).astype(np.int8))
    w.type, w.quantization = types.INT8, quant(0.03)
    if kind != "hybrid":
        wide = kind == "int16x8"
        for tensor, scale in ((x, 1e-4 if wide else 0.03), (y, 2e-3 if wide else 0.4)):
            tensor.type, tensor.quantization = (types.INT16 if wide else types.INT8), quant(scale)
    return write(model)


@pytest.mark.parametrize(("kind", "precision"), [("hybrid", "dynamic"), ("int8", "int8"), ("int16x8", "int16x8")])
def test_integers_are_recognized_and_kept(kind, precision, tmp_path):
    model = load(integers(kind), tmp_path)
    assert (model.facts.quantized, model.precision) == (True, precision)
    x = np.tile(X, (1, 16))
    wanted = x @ np.tile(WEIGHTS, (1, 16)).T
    np.testing.assert_allclose(agrees(model, tmp_path, {"x": x})["y"], wanted, atol=0.05 * np.abs(wanted).max())
    assert (tmp_path / "lowered.tflite").read_bytes() == integers(kind)
    if kind != "hybrid":
        assert model.facts.inputs[0].quant is not None


@pytest.mark.parametrize(
    ("file", "precision"),
    [
        ("kws_dscnn/kws_fp32.tflite", "dynamic"),
        ("kws_dscnn/kws_int8.tflite", "int8"),
        ("ic_resnet8/resnet8_fp32.tflite", "fp32"),
        ("imagenet_mobilenet_tflite/mobilenet_v1_0.25_128_quant.tflite", "int8"),
        ("mnist_lstm_tflite/lstm_fp32.tflite", "fp32"),
        ("mnist_lstm_tflite/lstm_int8.tflite", "int8"),
    ],
)
def test_real_files_are_told_apart(file, precision, shared, tmp_path):
    model = load_tflite.load(identify(shared / "models" / file))
    assert (model.precision, model.facts.quantized) == (precision, precision != "fp32")
    spec = model.facts.inputs[0]
    x = np.random.default_rng(0).uniform(0, 1, [2, *spec.shape[1:]]).astype(np.float32)
    agrees(model, tmp_path, {spec.name: x})


# -- State ------------------------------------------------------------------------------------------------------


def recurrent() -> bytes:
    """One step of an RNN: h = tanh(x w + h r), a variable tensor between the calls."""
    graph = Builder()
    x = graph.input("x", (1, 2))
    w, r = graph.constant("w", np.eye(3, 2, dtype=np.float32)), graph.constant("r", np.eye(3, dtype=np.float32))
    bias = graph.constant("b", np.zeros(3, np.float32))
    state = graph.tensor("state", (1, 3), variable=True)
    y = graph.op("RNN", [x, w, r, bias, state], (1, 3), "y", "RNNOptions", {"fusedActivationFunction": 4})
    return graph.finish([y])


def test_recurrent_layers_start_anew_with_each_sample(tmp_path):
    model = load(recurrent(), tmp_path)
    x = np.float32([[1, 2], [1, 2], [0.5, 1]])
    answers = agrees(model, tmp_path, {"x": x})["y"]
    np.testing.assert_allclose(answers[:, :2], np.tanh(x), rtol=1e-5)


def remembering(*, once: bool) -> bytes:
    """ASSIGN_VARIABLE in the main graph, or in one that is called at the start."""
    graph = Builder()
    x = graph.input("x", (1, 2))
    handle = graph.op("VAR_HANDLE", [], (), "handle", "VarHandleOptions", {"sharedName": b"v"}, dtype="int32")
    y = graph.op("READ_VARIABLE", [handle], (1, 2), "y", "ReadVariableOptions")
    model = files.read(graph.finish([y]))
    schema = files.schema()
    for tensor in model.subgraphs[0].tensors:
        if tensor.name == b"handle":
            tensor.type = schema.TensorType.RESOURCE
    code = files.use_op_code(model, schema.BuiltinOperator.ASSIGN_VARIABLE, 1)
    assign = schema.OperatorT()
    assign.opcodeIndex, assign.outputs = code, np.zeros(0, np.int32)
    assign.builtinOptionsType, assign.builtinOptions = (
        schema.BuiltinOptions.AssignVariableOptions,
        schema.AssignVariableOptionsT(),
    )
    if not once:
        assign.inputs = np.int32([handle, x])
        model.subgraphs[0].operators.insert(1, assign)
        return write(model)
    start = Builder()
    value = start.constant("value", np.float32([[3, 4]]))
    inner = start.op("VAR_HANDLE", [], (), "handle", "VarHandleOptions", {"sharedName": b"v"}, dtype="int32")
    setup = files.read(start.finish([]))
    for tensor in setup.subgraphs[0].tensors:
        tensor.buffer += len(model.buffers)
        if tensor.name == b"handle":
            tensor.type = schema.TensorType.RESOURCE
    setup.subgraphs[0].operators[0].opcodeIndex = model.subgraphs[0].operators[0].opcodeIndex
    assign.inputs = np.int32([inner, value])
    setup.subgraphs[0].operators.append(assign)
    model.buffers += setup.buffers
    model.subgraphs += setup.subgraphs
    call = schema.OperatorT()
    call.opcodeIndex = files.use_op_code(model, schema.BuiltinOperator.CALL_ONCE, 1)
    call.inputs = call.outputs = np.zeros(0, np.int32)
    call.builtinOptionsType, call.builtinOptions = schema.BuiltinOptions.CallOnceOptions, schema.CallOnceOptionsT()
    call.builtinOptions.initSubgraphIndex = 1
    model.subgraphs[0].operators.insert(0, call)
    return write(model)


def test_variables_that_outlive_a_call_are_refused(tmp_path):
    with pytest.raises(errors.SourceError, match="from one call to the next") as caught:
        load(remembering(once=False), tmp_path)
    assert caught.value.code == "source-stateful"


def test_variables_that_are_set_up_once_are_read(tmp_path):
    model = load(remembering(once=True), tmp_path)
    np.testing.assert_array_equal(model.run({"x": np.zeros((2, 2), np.float32)})["y"], [[3, 4], [3, 4]])


# -- What is refused --------------------------------------------------------------------------------------------


def custom(name: bytes) -> bytes:
    def replace(model):
        model.operatorCodes[0].builtinCode = model.operatorCodes[0].deprecatedBuiltinCode = 32
        model.operatorCodes[0].customCode = name
        for op in model.subgraphs[0].operators:
            op.builtinOptions, op.builtinOptionsType = None, 0

    return changed(dense(), replace)


@pytest.mark.parametrize(
    ("name", "message"),
    [(b"FlexErf", "FlexErf"), (b"edgetpu-custom-op", "Edge TPU"), (b"Warp", "Warp")],
)
def test_custom_operators_are_refused_by_name(name, message, tmp_path):
    with pytest.raises(errors.SourceError, match=message) as caught:
        load(custom(name), tmp_path)
    assert caught.value.code == "source-custom-ops"


@pytest.mark.parametrize("kind", ["STRING", "COMPLEX64", "INT4", "RESOURCE"])
def test_types_that_cannot_be_fed_are_refused(kind, tmp_path):
    def retype(model):
        model.subgraphs[0].tensors[0].type = getattr(files.schema().TensorType, kind)

    with pytest.raises(errors.SourceError, match="'x'") as caught:
        load(changed(dense(), retype), tmp_path)
    assert caught.value.code == "source-dtype"


def _no_graph(model):
    model.subgraphs, model.signatureDefs = [], None


def _tensor_out_of_range(model):
    model.subgraphs[0].operators[0].inputs = np.int32([0, 99])


def _code_out_of_range(model):
    model.subgraphs[0].operators[0].opcodeIndex = 9


def _buffer_out_of_range(model):
    model.subgraphs[0].tensors[1].buffer = 99


def _input_out_of_range(model):
    model.subgraphs[0].inputs, model.signatureDefs = np.int32([50]), None


def _signature_without_a_graph(model):
    model.signatureDefs[0].subgraphIndex = 7


def _no_inputs(model):
    model.subgraphs[0].inputs, model.signatureDefs = np.int32([]), None


def _no_outputs(model):
    model.subgraphs[0].outputs, model.signatureDefs = np.int32([]), None


def _impossible_sizes(model):
    model.subgraphs[0].tensors[1].shape = np.int32([3, 5])


@pytest.mark.parametrize(
    "change",
    [_no_graph, _tensor_out_of_range, _code_out_of_range, _buffer_out_of_range, _input_out_of_range,
     _signature_without_a_graph, _no_inputs, _no_outputs, _impossible_sizes],
)  # fmt: skip
def test_contradictions_are_refused(change, tmp_path):
    with pytest.raises(errors.SourceError) as caught:
        load(changed(dense(), change), tmp_path)
    assert caught.value.code in ("source-unreadable", "tflite-unreadable")


@pytest.mark.parametrize("cut", [12, 40, 0.5, 0.9])
def test_damaged_files_are_refused(cut, tmp_path):
    data = dense()
    keep = cut if cut > 1 else int(len(data) * cut)
    with pytest.raises((errors.SourceError, errors.ConversionError)) as caught:
        load(data[:keep], tmp_path)
    assert caught.value.code in ("source-unreadable", "tflite-unreadable")


@pytest.mark.parametrize(
    ("feeds", "code"),
    [({"z": X}, "feed-names"), ({"x": X[:, :3]}, "source-run"), ({"x": X[:0]}, "feed-batch")],
)
def test_wrong_feeds_are_refused(feeds, code, tmp_path):
    with pytest.raises(errors.FeedError) as caught:
        load(dense(), tmp_path).run(feeds)
    assert caught.value.code == code


def test_data_that_the_network_cannot_compute_with(tmp_path):
    graph = Builder()
    ids = graph.input("ids", (1, 2), "int32")
    table = graph.constant("table", WEIGHTS)
    data = graph.finish([graph.op("GATHER", [table, ids], (1, 2, 4), "y", "GatherOptions")])
    with pytest.raises(errors.FeedError, match="cannot answer these inputs") as caught:
        load(data, tmp_path).run({"ids": np.int32([[0, 99]])})
    assert caught.value.code == "source-run"


def test_files_packed_behind_a_model_are_named_when_they_are_lost(tmp_path):
    stream = io.BytesIO(half_weights())
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr("labels.txt", "cat\ndog\n")
    assert "left behind, because the graph was rewritten: labels.txt" in load(stream.getvalue(), tmp_path).facts.notes
    stream = io.BytesIO(dense())
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr("labels.txt", "cat\ndog\n")
    assert not load(stream.getvalue(), tmp_path).facts.notes


# -- Live objects and layout ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_are_sources(kind, tmp_path):
    live = kind(dense())
    assert load_tflite.accepts(live)
    model = load_tflite.load(identify(load_tflite.save(live, tmp_path)))
    np.testing.assert_allclose(model.run({"x": X})["y"], X @ WEIGHTS.T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("other", [None, "m.tflite", b"", b"TFL3", X])
def test_other_objects_are_not_accepted(other):
    assert not load_tflite.accepts(other)


def test_the_layout_is_told_from_the_first_convolution(tiny_files):
    assert load_tflite.load(identify(tiny_files["tflite"])).facts.inputs[0].layout == "NHWC"
