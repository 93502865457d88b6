"""ONNX files that are quantized already become integer TFLite by their own scales, without calibration."""

from __future__ import annotations

import collections
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="comes with the convert extra")
pytest.importorskip("onnxruntime", reason="comes with the onnx extra")
pytest.importorskip("ai_edge_quantizer", reason="comes with the convert extra")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnxruntime import quantization as orq  # noqa: E402

import edgekit  # noqa: E402
from edgekit import errors  # noqa: E402
from edgekit.converters.tflite_graphs import graph as tflite_graph  # noqa: E402


def float_net() -> onnx.ModelProto:
    """Convolutions with a residual sum, pooling, a reshape and a dense layer."""
    dice = np.random.default_rng(0)

    def weights(name, *shape):
        return numpy_helper.from_array((dice.normal(size=shape) * 0.3).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Conv", ["r", "w2"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c", "r"], ["s"]),
        helper.make_node("MaxPool", ["s"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"], transB=1),
    ]
    tensors = [weights("w1", 8, 3, 3, 3), weights("b1", 8), weights("w2", 8, 8, 3, 3), weights("w3", 5, 128),
               weights("b3", 5)]  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 3, 8, 8))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("N", 5))], tensors,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class Feeder(orq.CalibrationDataReader):
    def __init__(self):
        dice = np.random.default_rng(1)
        self.feeds = iter([{"x": dice.normal(size=(4, 3, 8, 8)).astype(np.float32)} for _ in range(8)])

    def get_next(self):
        return next(self.feeds, None)


def quantized(folder: Path, style: str, activations: str, weights: str, per_channel: bool) -> Path:
    onnx.save(float_net(), folder / "f.onnx")
    orq.quantize_static(
        folder / "f.onnx", folder / "q.onnx", Feeder(), quant_format=getattr(orq.QuantFormat, style),
        activation_type=getattr(orq.QuantType, activations), weight_type=getattr(orq.QuantType, weights),
        per_channel=per_channel,
    )  # fmt: skip
    return folder / "q.onnx"


@pytest.mark.parametrize(
    ("style", "activations", "weights", "per_channel"),
    [
        ("QDQ", "QInt8", "QInt8", True),
        ("QDQ", "QUInt8", "QUInt8", False),
        ("QOperator", "QUInt8", "QInt8", False),
        ("QOperator", "QInt8", "QInt8", True),
    ],
)
def test_its_scales_become_the_scales_of_the_kernels(style, activations, weights, per_channel, tmp_path):
    artifact = edgekit.convert(quantized(tmp_path, style, activations, weights, per_channel), to="tflite")
    model = tflite_graph.read(bytes(artifact.data))
    kinds = collections.Counter(tflite_graph.op_name(model, op) for op in tflite_graph.operators(model))
    assert artifact.manifest.precision == "int8"
    assert (kinds["QUANTIZE"], kinds["DEQUANTIZE"], kinds["TRANSPOSE"]) == (1, 1, 1)
    weighted = [op for op in tflite_graph.operators(model) if tflite_graph.op_name(model, op) == "CONV_2D"]
    tensors = model.subgraphs[0].tensors
    assert {tflite_graph.dtype_of(tensors[int(op.inputs[1])]) for op in weighted} == {"int8"}
    assert artifact.manifest.proof.relative_error < 0.03
    assert artifact.manifest.inputs[0].shape == (None, 3, 8, 8)


def test_what_the_source_leaves_in_float_stays_in_float_and_is_listed(tmp_path):
    onnx.save(float_net(), tmp_path / "f.onnx")
    orq.quantize_static(
        tmp_path / "f.onnx", tmp_path / "q.onnx", Feeder(), quant_format=orq.QuantFormat.QDQ,
        activation_type=orq.QuantType.QInt8, op_types_to_quantize=["Conv", "Add", "MaxPool"],
    )  # fmt: skip
    artifact = edgekit.convert(tmp_path / "q.onnx", to="tflite")
    assert artifact.manifest.proof.relative_error < 0.03


def test_scales_that_are_found_while_running_are_refused(tmp_path):
    onnx.save(float_net(), tmp_path / "f.onnx")
    orq.quantize_dynamic(tmp_path / "f.onnx", tmp_path / "q.onnx", op_types_to_quantize=["MatMul", "Gemm", "Conv"])
    with pytest.raises(errors.ConversionError, match="scales while it runs") as refused:
        edgekit.convert(tmp_path / "q.onnx", to="tflite")
    assert "--precision dynamic" in str(refused.value.next_step)
