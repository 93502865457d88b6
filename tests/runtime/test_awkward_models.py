"""Models as strangers make them: scalars, tables, strings, unnamed tensors, answers without a batch axis."""

from __future__ import annotations

import json
import subprocess
import sys
import wave
from dataclasses import replace

import numpy as np
import pytest

import edgekit
from edgekit.artifact import from_bytes
from edgekit.errors import ArtifactError, DataError, EdgeKitError, EngineError, FeedError, UsageError
from edgekit.manifest import Interpret, Preprocess
from edgekit.runtimes.base import dequantize, quantize
from edgekit.runtimes.interpret import interpret
from edgekit.runtimes.preprocess import prepare, read_wav
from edgekit.runtimes.replay import replay
from edgekit.tensors import QuantParams, TensorSpec


def onnx_model(nodes, inputs, outputs, constants=()):
    """Opened. Inputs and outputs: (name, dtype, shape); nodes: (op, inputs, outputs, attributes)."""
    from onnx import helper, numpy_helper

    def values(entries):
        made = []
        for name, dtype, shape in entries:
            kind = 8 if dtype == "string" else helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
            made.append(helper.make_tensor_value_info(name, kind, shape))
        return made

    graph = helper.make_graph(
        [helper.make_node(op, list(taken), list(given), **extra) for op, taken, given, extra in nodes],
        "graph",
        values(inputs),
        values(outputs),
        [numpy_helper.from_array(array, name) for name, array in constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return edgekit.load(from_bytes(model.SerializeToString()), threads=1)


def tflite_model(change, shape=(-1, 4)):
    """A RELU from x to y, changed as an object tree, opened."""
    from edgekit.converters.tflite_graphs import graph as tflite_graph
    from edgekit.converters.tflite_graphs.builder import Builder
    from edgekit.converters.tflite_graphs.write import write

    graph = Builder()
    made = graph.op("RELU", [graph.input("x", shape)], shape, "y")
    model = tflite_graph.read(graph.finish([made], signature=None))
    change(model.subgraphs[0], tflite_graph.schema())
    return edgekit.load(from_bytes(write(model)), threads=1)


def refused(model, feeds, code, match=None):
    with pytest.raises(FeedError, match=match) as caught:
        model.run(feeds)
    assert caught.value.code == code


RELU = [("Relu", ["x"], ["y"], {})]


def test_a_scalar_for_a_row_is_one_sample():
    model = onnx_model(
        [("Gather", ["table", "at"], ["y"], {})],
        [("at", "int64", [None])],
        [("y", "float32", [None])],
        [("table", np.array([1, 2, 3], np.float32))],
    )
    for two in (np.array(2), np.int64(2), 2):
        np.testing.assert_array_equal(model.run({"at": two})["y"], [3])
    refused(model, {"at": [[1, 2], [3]]}, "feed-dtype", "makes none")


def test_scalar_inputs_stay_scalars():
    model = onnx_model(
        [("Mul", ["x", "k"], ["scaled"], {}), ("Shape", ["k"], ["rank"], {})],
        [("x", "float32", [None, 3]), ("k", "float32", [])],
        [("scaled", "float32", [None, 3]), ("rank", "int64", [None])],
    )
    for k in (2.0, np.float32(2), np.array(2, np.float32)):
        answer = model.run({"x": np.ones((2, 3)), "k": k})
        np.testing.assert_array_equal(answer["scaled"], np.full((2, 3), 2))
        assert answer["rank"].shape == (0,)
    refused(model, {"x": np.ones((2, 3)), "k": float("nan")}, "feed-nan", r"k holds nan at \(\)")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])  # the straight way and the general one
def test_a_table_goes_into_every_call(dtype):
    model = onnx_model(
        [("MatMul", ["x", "w"], ["y"], {})],
        [("x", "float32", [None, 4]), ("w", "float32", [4, 2])],
        [("y", "float32", [None, 2])],
    )
    x, w = np.arange(12, dtype=dtype).reshape(3, 4), np.arange(8, dtype=dtype).reshape(4, 2)
    np.testing.assert_array_equal(model.run({"x": x, "w": w})["y"], x @ w)
    refused(model, {"x": x, "w": np.concatenate([w, w])}, "feed-shape", "different numbers of samples: x 3, w 8")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fixed_inputs_of_different_lengths(dtype):
    model = onnx_model(
        [("Add", ["a", "b"], ["y"], {})],
        [("a", "float32", [1, 2]), ("b", "float32", [3, 2])],
        [("y", "float32", [3, 2])],
    )
    a, b = np.array([[1, 2]], dtype), np.arange(6, dtype=dtype).reshape(3, 2)
    np.testing.assert_array_equal(model.run({"a": a, "b": b})["y"], a + b)
    both = model.run({"a": np.concatenate([a, -a]), "b": np.concatenate([b, b])})["y"]
    np.testing.assert_array_equal(both, np.concatenate([a + b, b - a]))
    refused(model, {"a": np.concatenate([a, a]), "b": b}, "feed-shape", "different numbers of samples")
    refused(model, {"a": a, "b": np.concatenate([b, b[:1]])}, "feed-shape", "batches of 3, 4 samples do not divide")


def test_answers_without_a_batch_axis_get_one():
    model = onnx_model(
        [("Squeeze", ["x", "first"], ["row"], {}), ("ReduceSum", ["x"], ["sum"], {"keepdims": 0})],
        [("x", "float32", [1, 3])],
        [("row", "float32", [3]), ("sum", "float32", [])],
        [("first", np.array([0]))],
    )
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    answer = model.run({"x": x})
    np.testing.assert_array_equal(answer["row"], x)
    np.testing.assert_array_equal(answer["sum"], x.sum(axis=1))
    assert model.run({"x": x[:1]})["row"].shape == (3,)


def test_answers_of_uneven_size_make_no_array():
    model = onnx_model(
        [("NonZero", ["x"], ["at"], {}), ("Transpose", ["at"], ["y"], {})],
        [("x", "float32", [1, 3])],
        [("y", "int64", [None, 2])],
    )
    assert model.run({"x": [[1, 1, 0]]})["y"].shape == (2, 2)
    refused(model, {"x": [[1, 0, 0], [1, 1, 0]]}, "feed-uneven", "another size for each sample")


def test_strings():
    model = onnx_model([("Identity", ["x"], ["y"], {})], [("x", "string", [None])], [("y", "string", [None])])
    for words in (["a", "bc"], np.array(["a", "bc"]), np.array(["a", "bc"], object)):
        assert model.run({"x": words})["y"].tolist() == ["a", "bc"]
    refused(model, {"x": [1, 2]}, "feed-dtype", "takes strings")
    refused(model, {"x": np.array([1, "a"], object)}, "feed-dtype", "takes strings")
    assert "y" in interpret(model.run({"x": ["a"]}), Interpret("other")).to_dict()


@pytest.mark.parametrize(("dtype", "value"), [("float32", 1e300), ("float16", 70000.0), ("float16", 70000)])
def test_numbers_too_large_for_a_float_input(dtype, value):
    model = onnx_model(RELU, [("x", dtype, [None, 2])], [("y", dtype, [None, 2])])
    refused(model, {"x": np.array([[1, value]])}, "feed-dtype", rf"takes {dtype}, .* is too large")
    refused(model, {"x": np.array([[1, np.inf]])}, "feed-nan", r"holds inf at \(0, 1\)")


def test_numbers_too_large_for_float32_saturate_where_all_do(artifacts):
    with edgekit.load(artifacts["int8.tflite"], threads=1) as model:
        shape = (1, *model.inputs[0].shape[1:])
        for value in (1e300, -1e300):
            expected = model.run({"image": np.full(shape, np.copysign(1e30, value), np.float32)})["probs"]
            np.testing.assert_array_equal(model.run({"image": np.full(shape, value)})["probs"], expected)


def test_yes_or_no():
    model = onnx_model([("Not", ["x"], ["y"], {})], [("x", "bool", [None])], [("y", "bool", [None])])
    assert model.run({"x": [True, False]})["y"].tolist() == [False, True]
    refused(model, {"x": [1, 0]}, "feed-dtype", "takes bool, got int64")


def test_a_model_without_inputs():
    model = onnx_model([("Identity", ["c"], ["y"], {})], [], [("y", "float32", [2])], [("c", np.ones(2, np.float32))])
    np.testing.assert_array_equal(model.run({})["y"], [1, 1])
    refused(model, {"x": np.ones(2)}, "feed-name")


def test_free_sizes_inside():
    model = onnx_model(RELU, [("x", "float32", [None, None, 2])], [("y", "float32", [None, None, 2])])
    for length in (5, 1, 7):
        x = np.random.default_rng(length).normal(size=(2, length, 2)).astype(np.float32)
        np.testing.assert_array_equal(model.run({"x": x})["y"], np.maximum(x, 0))


def test_free_sizes_inside_a_tflite_file_and_one_that_it_cannot_take():
    from edgekit.converters.tflite_graphs.builder import Builder

    graph, shape = Builder(), (-1, -1)
    x = graph.input("x", shape)
    made = graph.op("ADD", [x, graph.constant("c", np.ones((1, 3), np.float32))], shape, "y", "AddOptions")
    model = edgekit.load(from_bytes(graph.finish([made], signature=None)), threads=1)
    row = np.arange(3, dtype=np.float32)[None]
    np.testing.assert_array_equal(model.run({"x": row})["y"], row + 1)
    for _ in range(2):  # the failed size leaves nothing behind, and fails again
        with pytest.raises(EngineError) as caught:
            model.run({"x": np.ones((1, 5), np.float32)})
        assert caught.value.code == "engine-failed"
        assert "unallocated" not in caught.value.cause.lower()
        np.testing.assert_array_equal(model.run({"x": row})["y"], row + 1)
    np.testing.assert_array_equal(model.run({"x": np.concatenate([row, -row])})["y"], np.concatenate([row, -row]) + 1)


@pytest.mark.parametrize("threads", [0, -1])
def test_no_threads(artifacts, threads):
    for path in artifacts.values():
        with pytest.raises(UsageError) as caught:
            edgekit.load(path, threads=threads)
        assert caught.value.code == "option-value"


def scales(scale, zero):
    def change(graph, schema):
        for tensor in graph.tensors[:2]:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = np.array(scale, np.float32)
            tensor.quantization.zeroPoint = np.array(zero, np.int64)

    return change


def test_scales_on_floats_mean_nothing():
    for scale in (0.5, np.inf):
        model = tflite_model(scales([scale], [3]))
        assert model.inputs[0].quant is None
        np.testing.assert_array_equal(model.run({"x": np.full((1, 4), 2, np.float32)})["y"], np.full((1, 4), 2))


def test_scales_that_are_none():
    def change(graph, schema):
        scales([np.inf], [0])(graph, schema)
        for tensor in graph.tensors[:2]:
            tensor.type = schema.TensorType.INT8

    with pytest.raises(EngineError) as caught:
        tflite_model(change)
    assert caught.value.code == "engine-refused"


def test_scales_on_wide_integers():
    spec = TensorSpec("x", (None,), "int32", quant=QuantParams((2**-10,), (5,)))
    reals = np.array([0, 1, -1, 12345.5, 1e30, -1e30], np.float32)
    integers = quantize(reals, spec)
    assert integers.tolist() == [5, 1029, -1019, 12345.5 * 1024 + 5, 2**31 - 1, -(2**31)]
    np.testing.assert_allclose(dequantize(integers, spec)[:4], reals[:4], rtol=1e-6)

    def change(graph, schema):
        scales([0.5], [3])(graph, schema)
        for tensor in graph.tensors[:2]:
            tensor.type = schema.TensorType.INT32

    assert tflite_model(change).inputs[0].quant == QuantParams((0.5,), (3,))


def test_tensors_without_names():
    def change(graph, _):
        for tensor in graph.tensors:
            tensor.name = b""

    model = tflite_model(change)
    assert ([spec.name for spec in model.inputs], [spec.name for spec in model.outputs]) == (["input_0"], ["output_0"])
    np.testing.assert_array_equal(model.run({"input_0": np.full((2, 4), -1)})["output_0"], np.zeros((2, 4)))


def test_outputs_named_alike_are_kept_apart():
    def change(graph, _):
        graph.outputs = [0, 1]
        for tensor in graph.tensors[:2]:
            tensor.name = b"same"

    model = tflite_model(change)
    answer = model.run(np.full((1, 4), -1, np.float32))
    np.testing.assert_array_equal(answer["same"], np.full((1, 4), -1))
    np.testing.assert_array_equal(answer["same_1"], np.zeros((1, 4)))


def test_a_tensor_given_out_twice():
    def change(graph, _):
        graph.outputs = [1, 1]

    model = tflite_model(change)
    assert [spec.name for spec in model.outputs] == ["y", "y_1"]
    answer = model.run({"x": np.ones((1, 4))})
    np.testing.assert_array_equal(answer["y"], answer["y_1"])


def test_a_manifest_of_another_type(artifacts):
    artifact = edgekit.load(artifacts["int8.tflite"]).artifact
    spec = artifact.manifest.inputs[0]
    for wrong in (replace(spec, dtype="uint8"), replace(spec, shape=(None, 128), layout=None)):
        with pytest.raises(ArtifactError, match="its manifest says") as caught:
            edgekit.Model.from_artifact(artifact, inputs=(wrong,))
        assert caught.value.code == "manifest-mismatch"


def test_a_manifest_that_lacks_an_input():
    model = onnx_model(
        [("Add", ["a", "b"], ["y"], {})],
        [("a", "float32", [None]), ("b", "float32", [None])],
        [("y", "float32", [None])],
    )
    with pytest.raises(ArtifactError, match="has the input b") as caught:
        edgekit.Model.from_artifact(model.artifact, inputs=model.inputs[:1])
    assert caught.value.code == "manifest-mismatch"


def test_the_null_engine_takes_scalars_and_strings(artifacts):
    from edgekit.runtimes.engine_null import NullSession

    out = (TensorSpec("y", (None, 2), "float32"),)
    session = NullSession((TensorSpec("k", (), "float32"), TensorSpec("x", (None,), "string")), out)
    words = np.array(["a", "b", "c"], object)
    np.testing.assert_array_equal(session.run({"k": np.float32(4), "x": words})["y"], np.full((3, 2), 4))
    assert NullSession((), out).run({})["y"].shape == (1, 2)


def test_a_self_test_of_another_model(artifacts):
    artifact = edgekit.load(artifacts["fp32.onnx"]).artifact
    for answers in ({}, {"probs": ""}, {"probs": "AAAA"}, {"probs": "AAAAAA=="}):
        model = edgekit.load(artifact)
        vectors = tuple(replace(vector, outputs=answers) for vector in artifact.selftest.vectors)
        model.artifact.__dict__["selftest"] = replace(artifact.selftest, vectors=vectors)
        with pytest.raises(ArtifactError) as caught:
            replay(model)
        assert caught.value.code == "selftest-invalid"


def test_large_logits_do_not_overflow():
    outputs = {"y": np.array([[-1000.0, 0.0, 1000.0]])}
    found = interpret(outputs, Interpret("multi-label", scores="logits"))
    assert [(score.index, score.score) for score in found.classes] == [(2, 1.0), (1, 0.5)]
    (first, second) = interpret({"y": np.array([[-1000.0]])}, Interpret("classification", scores="logits")).classes
    assert (first.index, first.score, second.score) == (0, 1.0, 0.0)


def test_pictures_of_sixteen_bits_are_scaled_not_clipped(tmp_path):
    from PIL import Image

    pixels = np.linspace(0, 65535, 24).astype(np.uint16).reshape(4, 6)
    Image.fromarray(pixels).save(tmp_path / "deep.png")
    spec = TensorSpec("image", (None, 4, 6, 1), "float32")
    found = prepare(tmp_path / "deep.png", (spec,), Preprocess("image"))["image"][..., 0]
    np.testing.assert_array_equal(found, pixels // 257)


def test_sounds_that_were_cut_short(tmp_path):
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((2, 2, 8000, 0, "NONE", None))
        file.writeframes(np.full(8, 16384, "<i2").tobytes())
    for cut in range(1, 12):
        path.write_bytes(path.read_bytes()[:-1])
        assert (read_wav(path) == 0.5).all(), cut
    with pytest.raises(DataError) as caught:
        read_wav(tmp_path)
    assert caught.value.code == "data-unreadable"


HIDDEN = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name == {hidden!r}: raise ModuleNotFoundError("No module named " + repr(name), name=name)
sys.meta_path.insert(0, Hide())
{before}
import json, edgekit
try:
    edgekit.load({path!r})
except edgekit.EdgeKitError as error:
    print(json.dumps([error.code, error.message]))
"""


@pytest.mark.parametrize(
    ("kind", "engine", "needs"), [("fp32.tflite", "ai_edge_litert", "libstub"), ("fp32.onnx", "onnxruntime", "libstub")]
)
def test_an_engine_that_lacks_something_is_not_called_missing(artifacts, tmp_path, kind, engine, needs):
    (tmp_path / engine).mkdir()
    (tmp_path / engine / "__init__.py").write_text(f"import {needs}\n")
    code = HIDDEN.format(hidden=needs, before=f"sys.path.insert(0, {str(tmp_path)!r})", path=str(artifacts[kind]))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    code, message = json.loads(done.stdout.splitlines()[-1])
    assert code == "engine-broken"
    assert needs in message


@pytest.mark.skipif(np.__version__ < "2", reason="said of numpy 2")
@pytest.mark.parametrize("kind", ["SystemError", "ImportError", "AttributeError", "RuntimeError"])
def test_however_tflite_runtime_fails_with_numpy_2(artifacts, tmp_path, kind):
    (tmp_path / "tflite_runtime").mkdir()
    (tmp_path / "tflite_runtime" / "__init__.py").write_text("")
    (tmp_path / "tflite_runtime" / "interpreter.py").write_text(f"raise {kind}('_ARRAY_API not found')\n")
    code = HIDDEN.format(
        hidden="ai_edge_litert",
        before=f"sys.path.insert(0, {str(tmp_path)!r})",
        path=str(artifacts["fp32.tflite"]),
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1])[0] == "engine-numpy2"


def test_only_our_own_errors_come_out(model, samples):
    """Whatever is fed: an answer, or an EdgeKitError."""
    shape = samples(model).shape
    things = [None, 3, "photo.jpg", b"", [], [[]], {}, {"image": None}, {"image": {}}, {"image": [[1], [2, 3]]},
              {"image": np.empty(shape, object)}, {"image": np.ma.masked_all(shape)}, {"image": np.zeros(shape, "V4")},
              {3: np.zeros(shape)}, {"image": np.zeros(shape, np.complex64)}, {"image": np.zeros((1,) * 32)}, object(),
              {"image": np.zeros(shape, "longdouble")}, {"image": memoryview(np.zeros(shape))}]  # fmt: skip
    refusals = 0
    for thing in things:
        for raw in (False, True):
            try:
                answer = model.run(thing, raw=raw)
            except EdgeKitError as error:
                assert isinstance(error, FeedError), thing
                refusals += 1
            else:
                assert answer["probs"].shape == (1, 5)
    assert refusals >= 2 * len(things) - 6
