"""Small models, built here, that several tests read; and the mutations that hostile files are made of."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from edgekit.manifest import Manifest, Needs, Provenance
from edgekit.selftest import SelfTest, Vector
from edgekit.tensors import TensorSpec


def build_tflite(
    tensors: Sequence[dict[str, Any]],
    ops: Sequence[tuple[str, Sequence[int], Sequence[int], Any]],
    inputs: Sequence[int],
    outputs: Sequence[int],
    signature: tuple[dict[str, int], dict[str, int]] | None = None,
) -> bytes:
    """A `.tflite` of one subgraph.

    Args:
        tensors: name, shape, dtype ("FLOAT32"), and optionally data, free (axes), quant (scale, zero point, axis).
        ops: Name of the builtin op (or ("CUSTOM", name)), tensor numbers in and out, options object or None.
        inputs: Tensor numbers.
        outputs: Tensor numbers.
        signature: Public name -> tensor number, of inputs and outputs.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT()
    model.version, model.description = 3, b"built by a test"
    model.buffers = [schema.BufferT()]
    graph = schema.SubGraphT()
    graph.tensors = [_tensor(schema, model, about) for about in tensors]
    codes: list[Any] = []
    model.operatorCodes, graph.operators = [], []
    for kind, takes, gives, options in ops:
        if kind not in codes:
            codes.append(kind)
            code = schema.OperatorCodeT()
            name, custom = kind if isinstance(kind, tuple) else (kind, None)
            code.builtinCode = getattr(schema.BuiltinOperator, name)
            code.deprecatedBuiltinCode = min(code.builtinCode, 127)
            code.customCode, code.version = custom, 1
            model.operatorCodes.append(code)
        op = schema.OperatorT()
        op.opcodeIndex, op.inputs, op.outputs = codes.index(kind), list(takes), list(gives)
        if options is not None:
            op.builtinOptions = options
            op.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        graph.operators.append(op)
    graph.inputs, graph.outputs = list(inputs), list(outputs)
    model.subgraphs = [graph]
    if signature:
        entry = schema.SignatureDefT()
        entry.signatureKey = b"serving_default"
        entry.inputs, entry.outputs = (_maps(schema, side) for side in signature)
        model.signatureDefs = [entry]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _tensor(schema: Any, model: Any, about: dict[str, Any]) -> Any:
    tensor = schema.TensorT()
    tensor.name, tensor.shape = about["name"], list(about["shape"])
    tensor.type = getattr(schema.TensorType, about["dtype"])
    tensor.isVariable = about.get("variable", False)
    if "free" in about:
        tensor.shapeSignature = [-1 if i in about["free"] else size for i, size in enumerate(about["shape"])]
    if "quant" in about:
        scale, point, axis = about["quant"]
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale, tensor.quantization.zeroPoint = list(scale), list(point)
        tensor.quantization.quantizedDimension = axis
    if "data" in about:
        buffer = schema.BufferT()
        buffer.data = list(np.ascontiguousarray(about["data"]).tobytes())
        model.buffers.append(buffer)
        tensor.buffer = len(model.buffers) - 1
    return tensor


def _maps(schema: Any, side: dict[str, int]) -> list[Any]:
    entries = []
    for name, index in side.items():
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name, index
        entries.append(entry)
    return entries


@pytest.fixture(scope="session")
def make_tflite() -> Callable[..., bytes]:
    return build_tflite


@pytest.fixture(scope="session")
def tiny_tflite() -> bytes:
    """x [N,4] float32 -> fully connected, softmax -> y [N,3]; a signature names both."""
    from ai_edge_litert import schema_py_generated as schema

    weights = np.arange(12, dtype=np.float32).reshape(3, 4) / 12
    softmax = schema.SoftmaxOptionsT()
    softmax.beta = 1.0
    return build_tflite(
        [
            {"name": "in:0", "shape": (1, 4), "dtype": "FLOAT32", "free": (0,)},
            {"name": "w", "shape": (3, 4), "dtype": "FLOAT32", "data": weights},
            {"name": "b", "shape": (3,), "dtype": "FLOAT32", "data": np.ones(3, np.float32)},
            {"name": "h", "shape": (1, 3), "dtype": "FLOAT32", "free": (0,)},
            {"name": "out:0", "shape": (1, 3), "dtype": "FLOAT32", "free": (0,)},
        ],
        [
            ("FULLY_CONNECTED", (0, 1, 2), (3,), schema.FullyConnectedOptionsT()),
            ("SOFTMAX", (3,), (4,), softmax),
        ],
        inputs=(0,),
        outputs=(4,),
        signature=({"x": 0}, {"y": 4}),
    )


@pytest.fixture(scope="session")
def tiny_onnx() -> bytes:
    """x [N,4] float32 -> Gemm, Softmax -> y [N,3]."""
    from onnx import TensorProto, helper, numpy_helper

    weights = np.arange(12, dtype=np.float32).reshape(4, 3) / 12
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w", "b"], ["h"], name="dense"),
            helper.make_node("Softmax", ["h"], ["y"], axis=1),
        ],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.ones(3, np.float32), "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="test")
    model.ir_version = 8
    content: bytes = model.SerializeToString()
    return content


@pytest.fixture(scope="session")
def tiny(tiny_tflite: bytes, tiny_onnx: bytes) -> dict[str, bytes]:
    """Both, by format."""
    return {"tflite": tiny_tflite, "onnx": tiny_onnx}


def describe(format: str, model: bytes) -> tuple[Manifest, SelfTest]:
    """A manifest and a self-test for the tiny models."""
    inputs = (TensorSpec("x", (None, 4), "float32", tensor="in:0" if format == "tflite" else None),)
    outputs = (TensorSpec("y", (None, 3), "float32", tensor="out:0" if format == "tflite" else None),)
    about = Manifest(
        schema=1,
        format=format,
        precision="fp32",
        inputs=inputs,
        outputs=outputs,
        model_sha256="0" * 64,
        model_bytes=len(model),
        provenance=Provenance("keras", "1" * 64, {"keras": "3"}, {}),
        needs=Needs("litert" if format == "tflite" else "onnxruntime", "1.0", {"FULLY_CONNECTED": 1}, 60),
    )
    return about, SelfTest(7, {"x": (0.0, 1.0)}, {"x": (1, 4)}, (Vector({"y": "AAAAAAAAAAAAAAAA"}, 0),))


@pytest.fixture(scope="session")
def describe_tiny() -> Callable[[str, bytes], tuple[Manifest, SelfTest]]:
    return describe


def mutate(rng: random.Random, data: bytes) -> bytes:
    """One hostile variant: cut, overwritten, flipped, shortened, lengthened, or with an extreme number in it."""
    content, at = bytearray(data), rng.randrange(len(data))
    kind = rng.randrange(7)
    if kind == 0:
        return bytes(content[:at])
    if kind == 1:
        for _ in range(rng.choice((1, 2, 8, 64))):
            content[rng.randrange(len(content))] = rng.randrange(256)
    elif kind == 2:
        for _ in range(rng.choice((1, 4, 16))):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif kind == 3:
        del content[at : at + rng.choice((1, 4, 8, 100))]
    elif kind == 4:
        content[at:at] = rng.randbytes(rng.choice((1, 4, 8)))
    elif kind == 5:
        content[at : at + 4] = rng.choice((b"\xff" * 4, bytes(4), b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80"))
    else:
        other, length = rng.randrange(len(content)), rng.choice((4, 16, 64))
        content[at : at + length] = content[other : other + length]
    return bytes(content)


@pytest.fixture(scope="session")
def mutated() -> Callable[[random.Random, bytes], bytes]:
    return mutate
