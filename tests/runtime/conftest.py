"""Artifacts to run: the tiny classifier, converted once."""

from __future__ import annotations

import numpy as np
import pytest

import edgekit

KINDS = ["fp32.tflite", "int8.tflite", "fp32.onnx", "int8.onnx"]
PICTURES = {
    "preprocess": {"kind": "image", "scale": 1 / 255, "image": {"fit": "letterbox"}},
    "interpret": {"task": "classification", "labels": ["a", "b", "c", "d", "e"], "scores": "probabilities"},
}


@pytest.fixture(scope="session")
def artifacts(tiny_files, tmp_path_factory):
    """Kind ("int8.tflite") -> path."""
    folder = tmp_path_factory.mktemp("artifacts")
    found = {}
    for kind in KINDS:
        precision, _, suffix = kind.partition(".")
        shape = (40, 8, 8, 2) if suffix == "tflite" else (40, 2, 8, 8)
        np.savez(folder / "calibration.npz", x=np.random.default_rng(1).random(shape, np.float32))
        found[kind] = folder / kind
        data = folder / "calibration.npz"
        edgekit.convert(tiny_files[suffix], output=found[kind], precision=precision, calibration=data)
    return found


@pytest.fixture(scope="session")
def picture_models(tmp_path_factory):
    """Kind -> path of a classifier [N,8,8,3] (ONNX: [N,3,8,8]) whose manifest says how pictures are prepared."""
    from onnx import TensorProto, helper, numpy_helper

    from edgekit.converters.tflite_graphs.builder import Builder

    folder = tmp_path_factory.mktemp("pictures")
    dice = np.random.default_rng(5)
    weights, bias = dice.normal(size=(5, 192)).astype(np.float32), dice.normal(size=5).astype(np.float32)
    graph = Builder()
    shape = graph.constant("flat_shape", np.array([-1, 192], np.int32))
    x = graph.input("image", (-1, 8, 8, 3))
    flat = graph.op("RESHAPE", [x, shape], (-1, 192), "flat", "ReshapeOptions", {"newShape": [-1, 192]})
    parts = [flat, graph.constant("w", weights), graph.constant("b", bias)]
    scores = graph.op("FULLY_CONNECTED", parts, (-1, 5), "scores", "FullyConnectedOptions")
    probabilities = graph.op("SOFTMAX", [scores], (-1, 5), "probs", "SoftmaxOptions", {"beta": 1.0})
    (folder / "source.tflite").write_bytes(graph.finish([probabilities], signature="serving_default"))
    first = weights.reshape(5, 8, 8, 3).transpose(0, 3, 1, 2).reshape(5, 192)
    nodes = [helper.make_node("Flatten", ["image"], ["f"]), helper.make_node("Gemm", ["f", "w", "b"], ["s"]),
             helper.make_node("Softmax", ["s"], ["probs"], axis=1)]  # fmt: skip
    made = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("probs", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(np.ascontiguousarray(first.T), "w"), numpy_helper.from_array(bias, "b")],
    )  # fmt: skip
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "source.onnx").write_bytes(model.SerializeToString())
    found = {}
    for suffix in ("tflite", "onnx"):
        size = (40, 8, 8, 3) if suffix == "tflite" else (40, 3, 8, 8)
        np.savez(folder / f"{suffix}.npz", x=dice.random(size, np.float32))
        for precision, interface in (("fp32", None), ("int8", "int8" if suffix == "tflite" else None)):
            kind = f"{precision}.{suffix}"
            found[kind] = folder / kind
            data = folder / f"{suffix}.npz"
            edgekit.convert(
                folder / f"source.{suffix}", output=found[kind], precision=precision, calibration=data,
                metadata=PICTURES, interface=interface,
            )  # fmt: skip
    return found


@pytest.fixture(params=KINDS)
def model(artifacts, request):
    """Each kind, opened."""
    with edgekit.load(artifacts[request.param], threads=1) as opened:
        yield opened


@pytest.fixture
def samples():
    """Real inputs for a model: [n, ...] float32 in its layout."""

    def make(opened, count=1, seed=0):
        shape = [count, *opened.inputs[0].shape[1:]]
        return np.random.default_rng(seed).random(shape, np.float32)

    return make


@pytest.fixture
def bare():
    """The engine driven by hand: one real sample in, the real answer out."""
    return answer_bare


def answer_bare(opened, sample):
    data = opened.artifact.data
    spec, out = opened.inputs[0], opened.outputs[0]
    raw = sample
    if spec.quant:
        steps = np.rint(sample / np.float32(spec.quant.scale[0])) + spec.quant.zero_point[0]
        raw = np.clip(steps, -128, 127).astype(spec.dtype)
    if opened.artifact.format == "tflite":
        from ai_edge_litert.interpreter import Interpreter

        engine = Interpreter(model_content=data, num_threads=1)
        engine.allocate_tensors()
        engine.set_tensor(engine.get_input_details()[0]["index"], raw)
        engine.invoke()
        answer = engine.get_tensor(engine.get_output_details()[0]["index"])
    else:
        import onnxruntime

        engine = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        (answer,) = engine.run(None, {engine.get_inputs()[0].name: raw})
    if out.quant:
        answer = (answer.astype(np.float32) - out.quant.zero_point[0]) * np.float32(out.quant.scale[0])
    return answer
