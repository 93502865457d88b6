"""Preparation inside the graph: raw pictures in, the same answers out, in both formats and precisions."""

from __future__ import annotations

import numpy as np
import pytest

import edgekit
from edgekit import pipeline
from edgekit.errors import UsageError
from edgekit.options import Options
from edgekit.runtimes.replay import replay

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LABELS = ["a", "b", "c", "d", "e"]


def said(colors="RGB", kind="image", mean=MEAN, std=STD):
    return {"preprocess": {"kind": kind, "scale": 1 / 255, "mean": list(mean), "std": list(std), "colors": colors}}


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    """Suffix -> a small net over [N,8,8,3] (TFLite) or [N,3,8,8] (ONNX), of a convolution and a dense layer."""
    from onnx import TensorProto, helper, numpy_helper

    from edgekit.converters.tflite_graphs.builder import Builder

    folder = tmp_path_factory.mktemp("fold")
    dice = np.random.default_rng(0)
    conv, conv_bias = dice.normal(size=(6, 3, 3, 3)).astype(np.float32) / 5, dice.normal(size=6).astype(np.float32)
    dense, dense_bias = dice.normal(size=(5, 384)).astype(np.float32) / 12, dice.normal(size=5).astype(np.float32)
    graph = Builder()
    made = graph.conv(graph.input("image", (-1, 8, 8, 3)), conv, conv_bias, "conv")
    shape = graph.constant("flat_shape", np.array([-1, 384], np.int32))
    flat = graph.op("RESHAPE", [made, shape], (-1, 384), "flat", "ReshapeOptions", {"newShape": [-1, 384]})
    parts = [flat, graph.constant("w", dense), graph.constant("b", dense_bias)]
    scores = graph.op("FULLY_CONNECTED", parts, (-1, 5), "scores", "FullyConnectedOptions")
    (folder / "net.tflite").write_bytes(graph.finish([scores], signature="serving_default"))
    constants = {"cw": conv.transpose(0, 3, 1, 2), "cb": conv_bias, "dw": dense.T, "db": dense_bias}
    nodes = [
        helper.make_node("Conv", ["image", "cw", "cb"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("Gemm", ["f", "dw", "db"], ["scores"]),
    ]
    whole = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(whole, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "net.onnx").write_bytes(model.SerializeToString())
    return folder


def frames(count=24):
    """Smooth pictures, as cameras give: bytes [N,8,8,3]."""
    dice = np.random.default_rng(1)
    coarse = dice.integers(0, 256, (count, 2, 2, 3)).astype(np.float32)
    return np.repeat(np.repeat(coarse, 4, axis=1), 4, axis=2).astype(np.uint8)


def fed(raw, colors, first):
    """As training fed the source: scaled, in its color order and layout."""
    turned = raw[..., ::-1] if colors == "BGR" else raw
    real = ((turned / 255 - np.array(MEAN)) / np.array(STD)).astype(np.float32)
    return real.transpose(0, 3, 1, 2) if first else real


@pytest.mark.parametrize(
    ("source", "target", "colors"), [("tflite", "tflite", "RGB"), ("onnx", "onnx", "BGR"), ("onnx", "tflite", "BGR")]
)
def test_raw_pictures_get_the_answers_of_prepared_ones(nets, source, target, colors):
    raw = frames()
    folded = edgekit.convert(nets / f"net.{source}", to=target, metadata=said(colors), fold_preprocess=True)
    with edgekit.load(nets / f"net.{source}") as before, edgekit.load(folded) as after:
        (expected,) = before.run(fed(raw, colors, first=source == "onnx")).values()
        found = after.run({"image": raw.astype(np.float32)})["scores"]
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.ptp(expected))
        assert after.inputs[0].shape[1:] == (8, 8, 3)
        assert after.preprocess.identity
        assert after.preprocess.colors == "RGB"
        by_frame = after.predict(raw[0]).outputs["scores"]
        np.testing.assert_array_equal(by_frame, found[:1])
        camera = np.ascontiguousarray(raw[0][..., ::-1])
        np.testing.assert_array_equal(after.predict(camera, colors="BGR").outputs["scores"], by_frame)
    assert folded.manifest.provenance.options["fold_preprocess"] is True


@pytest.mark.parametrize(("source", "target"), [("tflite", "tflite"), ("onnx", "onnx"), ("onnx", "tflite")])
def test_integers_take_bytes(nets, tmp_path, source, target):
    np.savez(tmp_path / "calibration.npz", x=fed(frames(), "BGR", first=source == "onnx"))
    artifact = edgekit.convert(
        nets / f"net.{source}", to=target, metadata=said("BGR"), fold_preprocess=True, precision="int8",
        calibration=tmp_path / "calibration.npz", interface="int8" if target == "tflite" else None,
    )  # fmt: skip
    assert artifact.manifest.proof.sqnr_db > 15
    with edgekit.load(artifact) as model:
        spec = model.inputs[0]
        if target == "tflite":
            assert spec.quant.scale[0] == pytest.approx(1)
            assert spec.quant.zero_point == (-128,)
            prepared = model.predict(frames()[0])
            assert prepared.outputs["scores"].shape == (1, 5)
        assert replay(model).passed


def test_other_inputs_than_pictures(tiny_files):
    from edgekit.converters.tflite_graphs.builder import Builder

    graph = Builder()
    x = graph.input("row", (-1, 4))
    parts = [x, graph.constant("w", np.eye(3, 4, dtype=np.float32)), graph.constant("b", np.zeros(3, np.float32))]
    data = graph.finish(
        [graph.op("FULLY_CONNECTED", parts, (-1, 3), "y", "FullyConnectedOptions")], signature="serving_default"
    )
    how = {"preprocess": {"scale": 2.0, "mean": [1, 2, 3, 4], "std": [1, 2, 4, 8]}}
    with edgekit.load(edgekit.convert(data, to="tflite", metadata=how, fold_preprocess=True)) as model:
        raw = np.array([[5, 6, 7, 8]], np.float32)
        np.testing.assert_allclose(model.run(raw)["y"], [[9, 5, 11 / 4]], rtol=1e-6)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({}, "nothing to fold"),
        ({"preprocess": {"kind": "image", "mean": [1, 2]}}, "2 means or stds for 3 channels"),
        ({"preprocess": {"kind": "waveform", "scale": 2.0, "audio": {}}}, "no part of a graph"),
        ({"preprocess": {"kind": "text", "scale": 2.0}}, "no part of a graph"),
    ],
)
def test_what_cannot_be_folded(nets, metadata, words):
    with pytest.raises(UsageError, match=words) as caught:
        edgekit.convert(nets / "net.tflite", to="tflite", metadata=metadata, fold_preprocess=True)
    assert caught.value.code == "fold-impossible"


@pytest.mark.parametrize(("colors", "told"), [("BGR", True), ("RGB", False)])
def test_frames_that_are_taken_in_another_order_than_before_are_told(nets, tmp_path, colors, told):
    conversion = pipeline.run(
        nets / "net.onnx", Options(output=tmp_path / "m.onnx", metadata=said(colors), fold_preprocess=True)
    )
    assert any('colors="BGR"' in warning for warning in conversion.warnings) == told
