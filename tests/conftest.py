"""Fixtures that every test may use."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Trained models and labelled data beside the checkout."""
    if not (SHARED / "models").is_dir():
        pytest.skip("needs the trained models and data in ../shared, which are not part of the repository")
    return SHARED


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-stress", action="store_true", help="also the long runs: thousands of files, kills, calls")


@pytest.fixture(scope="session")
def effort(request: pytest.FixtureRequest) -> int:
    """How often a stress test repeats: 1 in every run, 100 with --run-stress."""
    return 100 if request.config.getoption("--run-stress") else 1


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """Permissions hold for this thread, also when the tests run as root: its right to pass over them is put down."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
    held = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; and the same of capabilities beyond 31
    assert libc.capget(header, held) == 0
    less = (ctypes.c_uint32 * 6)(held[0] & ~0b110, *held[1:])  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(header, less) == 0
    try:
        yield
    finally:
        assert libc.capset(header, held) == 0


@pytest.fixture(scope="session")
def tiny_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small float classifier as a file of each format: image [N,8,8,2] (ONNX: [N,2,8,8]) -> probabilities [N,5]."""
    folder = tmp_path_factory.mktemp("tiny")
    files = {"tflite": folder / "tiny.tflite", "onnx": folder / "tiny.onnx"}
    files["tflite"].write_bytes(_tiny_tflite())
    files["onnx"].write_bytes(_tiny_onnx())
    return files


def _weights() -> tuple[Any, Any, Any, Any]:
    dice = np.random.default_rng(7)
    conv = dice.normal(size=(6, 3, 3, 2)).astype(np.float32) / 4
    dense = dice.normal(size=(5, 6 * 64)).astype(np.float32) / 6
    return conv, dice.normal(size=6).astype(np.float32) / 10, dense, dice.normal(size=5).astype(np.float32) / 10


def _tiny_tflite() -> bytes:
    from edgekit.converters.tflite_graphs.builder import Builder

    conv, conv_bias, dense, dense_bias = _weights()
    graph = Builder()
    x = graph.input("image", (-1, 8, 8, 2))
    made = graph.conv(x, conv, conv_bias, "conv")
    shape = graph.constant("flat_shape", np.array([-1, 6 * 64], np.int32))
    flat = graph.op("RESHAPE", [made, shape], (-1, 6 * 64), "flat", "ReshapeOptions", {"newShape": [-1, 6 * 64]})
    parts = [flat, graph.constant("dense/weights", dense), graph.constant("dense/bias", dense_bias)]
    scores = graph.op("FULLY_CONNECTED", parts, (-1, 5), "scores", "FullyConnectedOptions")
    probabilities = graph.op("SOFTMAX", [scores], (-1, 5), "probs", "SoftmaxOptions", {"beta": 1.0})
    return graph.finish([probabilities], signature="serving_default")


def _tiny_onnx() -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    conv, conv_bias, dense, dense_bias = _weights()
    constants = {"conv_w": conv.transpose(0, 3, 1, 2), "conv_b": conv_bias, "dense_w": dense.T, "dense_b": dense_bias}
    nodes = [
        helper.make_node("Conv", ["image", "conv_w", "conv_b"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("Flatten", ["r"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "dense_w", "dense_b"], ["s"], "dense"),
        helper.make_node("Softmax", ["s"], ["probs"], "softmax", axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 2, 8, 8])],
        [helper.make_tensor_value_info("probs", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data
