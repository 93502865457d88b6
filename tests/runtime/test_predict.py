"""`Model.predict`: the fast way and the general one answer alike."""

from __future__ import annotations

import numpy as np
import pytest

import edgekit
from edgekit.errors import EngineError
from edgekit.runtimes.preprocess import Preparer

FRAME = np.random.default_rng(3).integers(0, 256, (48, 64, 3), dtype=np.uint8)
METADATA = {
    "preprocess": {"kind": "image", "scale": 1 / 255, "image": {"fit": "letterbox"}},
    "interpret": {"task": "classification", "labels": ["a", "b", "c", "d", "e"], "scores": "probabilities"},
}


@pytest.fixture(scope="session")
def picture_models(tmp_path_factory):
    """Kind -> path of a classifier [N,8,8,3] (ONNX: [N,3,8,8]) whose manifest says how pictures are prepared."""
    from onnx import TensorProto, helper, numpy_helper

    from edgekit.converters.tflite_builder import Builder

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
                metadata=METADATA, interface=interface,
            )  # fmt: skip
    return found


@pytest.fixture(params=["fp32.tflite", "int8.tflite", "fp32.onnx", "int8.onnx"])
def picture_model(picture_models, request):
    with edgekit.load(picture_models[request.param], threads=1) as opened:
        yield opened


def test_a_frame_is_answered_as_by_hand(picture_model):
    """Letterboxed, scaled, quantized and read, step by step."""
    real = Preparer(picture_model.inputs, picture_model.preprocess).real(FRAME)
    expected = picture_model.run(real.feeds)["probs"][0]
    for _ in range(2):
        answer = picture_model.predict(FRAME)
        found = np.zeros(5)
        for score in answer.classes:
            found[score.index] = score.score
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert answer.label == "abcde"[int(expected.argmax())]


def test_the_fast_way_is_taken(picture_model):
    prepared = Preparer(picture_model.inputs, picture_model.preprocess)(FRAME)
    assert prepared.ready
    assert prepared.feeds["image"].dtype == np.dtype(picture_model.inputs[0].dtype)
    assert prepared.placement.offset == (0.0, 1.0)


def test_cameras_of_the_other_color_order(picture_model):
    np.testing.assert_array_equal(
        [c.score for c in picture_model.predict(FRAME[..., ::-1], colors="BGR").classes],
        [c.score for c in picture_model.predict(FRAME).classes],
    )


def test_a_closed_model_says_so(picture_models):
    for predicted in (False, True):
        model = edgekit.load(picture_models["int8.tflite"])
        if predicted:
            model.predict(FRAME)
        model.close()
        with pytest.raises(EngineError) as caught:
            model.predict(FRAME)
        assert caught.value.code == "model-closed"


def test_a_path_and_an_array_are_the_same_picture(picture_model, tmp_path):
    from PIL import Image

    Image.fromarray(FRAME).save(tmp_path / "frame.png")
    by_path = picture_model.predict(tmp_path / "frame.png")
    assert by_path == picture_model.predict(FRAME) == picture_model.predict(Image.fromarray(FRAME))
