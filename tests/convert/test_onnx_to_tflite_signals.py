"""Fourier transforms and reading backwards, lowered to TFLite and answered by both engines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="comes with the convert extra")
ort = pytest.importorskip("onnxruntime", reason="comes with the onnx extra")
pytest.importorskip("ai_edge_litert.interpreter", reason="comes with the tflite extra")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

import edgekit  # noqa: E402
from edgekit.converters import load_onnx, lower_onnx_tflite  # noqa: E402
from edgekit.converters.stages import Graph, Source  # noqa: E402
from edgekit.errors import ConversionError  # noqa: E402


def lower(folder: Path, kind: str, shape: tuple, constants: dict, opset: int = 18, **attributes) -> tuple[bytes, Graph]:
    """A model of one node: `x` in, `y` out, the other inputs constant."""
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items() if value is not None]
    inputs = ["x", *(name if value is not None else "" for name, value in constants.items())]
    graph = helper.make_graph(
        [helper.make_node(kind, inputs, ["y"], **attributes)], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], held,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    path = folder / "m.onnx"
    onnx.save(model, path)
    loaded = load_onnx.load(Source(str(path), load_onnx.NAME, "", path.stat().st_size))
    return model.SerializeToString(), lower_onnx_tflite.lower(loaded, folder / "m.tflite")


def compare(data: bytes, graph: Graph, shape: tuple) -> None:
    x = np.random.default_rng(0).normal(size=(5, *shape)).astype(np.float32)
    (expected,) = ort.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    with edgekit.load(graph.path, verify=False) as model:
        (found,) = model.run({model.inputs[0].name: x}).values()
    assert found.shape == expected.shape
    # onnxruntime transforms other sizes than powers of two with an error of 4e-6 of its own.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("onesided", [0, 1])
@pytest.mark.parametrize("window", [None, np.hanning(32).astype(np.float32)], ids=["plain", "window"])
def test_short_time_transforms(onesided: int, window: np.ndarray | None, tmp_path: Path) -> None:
    shape = (200, 1)
    constants = {"step": np.int64(12), "window": window, "length": np.int64(32)}
    data, graph = lower(tmp_path, "STFT", shape, constants, onesided=onesided)
    assert graph.inputs[0].shape == (None, 200, 1)
    compare(data, graph, shape)


@pytest.mark.parametrize(
    ("shape", "length", "attributes"),
    [
        ((20, 1), None, {"onesided": 1}),
        ((20, 2), None, {}),
        ((20, 1), 16, {"onesided": 1}),
        ((20, 1), 25, {}),
        ((6, 20, 1), None, {"axis": 2}),
        ((6, 20, 2), None, {"axis": 1}),
    ],
)
def test_transforms_of_real_and_complex_numbers_cut_and_filled_up(
    shape: tuple, length: int | None, attributes: dict, tmp_path: Path
) -> None:
    constants = {} if length is None else {"length": np.int64(length)}
    compare(*lower(tmp_path, "DFT", shape, constants, **attributes), shape)


def test_back_to_complex_numbers_is_refused(tmp_path: Path) -> None:
    """ONNX' own test of it asks for digits of numbers that cancel to zero."""
    with pytest.raises(ConversionError, match="cancel to zero"):
        lower(tmp_path, "DFT", (20, 2), {}, inverse=1)


@pytest.mark.parametrize("length", [31, 32])
def test_back_from_half_a_spectrum(length: int, tmp_path: Path) -> None:
    shape = (17, 2)
    attributes = {"inverse": 1, "onesided": 1}
    constants = {"length": np.int64(length), "axis": np.int64(1)}
    _, graph = lower(tmp_path, "DFT", shape, constants, opset=20, **attributes)
    x = np.random.default_rng(0).normal(size=(5, *shape)).astype(np.float32)
    with edgekit.load(graph.path, verify=False) as model:
        (found,) = model.run({model.inputs[0].name: x}).values()
    expected = np.fft.irfft(x[..., 0].astype(np.float64) + 1j * x[..., 1], length)[..., None]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_sequences_read_backwards(tmp_path: Path) -> None:
    shape = (7, 3)
    lengths = {"lengths": np.full(5, 7, np.int64)}
    graph = helper.make_graph(
        [
            helper.make_node("Shape", ["x"], ["count"], start=0, end=1),
            helper.make_node("Expand", ["seven", "count"], ["lengths"]),
            helper.make_node("ReverseSequence", ["x", "lengths"], ["y"], time_axis=1, batch_axis=0),
        ],
        "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", *shape])],
        [numpy_helper.from_array(lengths["lengths"][:1], "seven")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "m.onnx")
    loaded = load_onnx.load(Source(str(tmp_path / "m.onnx"), load_onnx.NAME, "", 1))
    made = lower_onnx_tflite.lower(loaded, tmp_path / "m.tflite")
    assert made.inputs[0].shape == (None, *shape)
    compare(model.SerializeToString(), made, shape)


def test_sequences_of_several_lengths_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="several lengths"):
        lower(tmp_path, "ReverseSequence", (7, 3), {"lengths": np.array([7])}, time_axis=0, batch_axis=1)
