"""A tiny network as an ONNX file, in float or as QDQ with 8-bit integers. Field numbers: onnx.proto."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any

from edgekit.artifact import field
from edgekit.micro.nets import Layer, Map, Net

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7}
_SCALE = 0.05
_OPSET, _IR = 13, 7
_OPS = {
    "conv": "Conv", "depthwise": "Conv", "dense": "Gemm", "add": "Add", "mul": "Mul", "max": "MaxPool",
    "average": "AveragePool", "mean": "GlobalAveragePool", "softmax": "Softmax", "sigmoid": "Sigmoid", "swish": "Mul",
    "tanh": "Tanh", "concat": "Concat", "transpose": "Transpose", "pad": "Pad", "resize": "Resize", "slice": "Slice",
    "lstm": "LSTM", "gru": "GRU",
}  # fmt: skip
_GATES = {"lstm": 4, "gru": 3}
_ONLY_FLOAT = frozenset({"tanh", "lstm", "gru"})
"""Without a kernel for integers."""


def writes(net: Net) -> bool:
    """Whether ONNX has operators for all layers."""
    return all(layer.kind in _OPS for layer in net.layers)


def model(net: Net, precision: str) -> bytes:
    """The file; `precision` is "fp32" or "int8"."""
    made = _Writer(integer=precision == "int8")
    shape = (1, net.shape[2], *net.shape[:2])
    at = made.start("x")
    after = net.shape
    for number, (layer, before, behind) in enumerate(net.maps()):
        at, after = made.layer(layer, before, behind, at, number), behind
    return made.file("x", shape, at, (1, after[2], *after[:2]))


class _Writer:
    """Nodes and constants as they come; with `integer` every tensor passes QuantizeLinear and DequantizeLinear."""

    def __init__(self, *, integer: bool) -> None:
        self._integer = integer
        self._nodes: list[bytes] = []
        self._constants: list[bytes] = []
        if integer:
            import numpy as np

            self._constant(np.array(_SCALE, np.float32), "scale")
            self._constant(np.array(128, np.uint8), "zero")

    def start(self, name: str) -> str:
        return self._rounded(name) if self._integer else name

    def _rounded(self, name: str) -> str:
        self._node("QuantizeLinear", [name, "scale", "zero"], f"{name}_q")
        self._node("DequantizeLinear", [f"{name}_q", "scale", "zero"], f"{name}_d")
        return f"{name}_d"

    def _node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> None:
        body = b"".join(field(1, name.encode()) for name in inputs) + field(2, output.encode())
        body += field(3, output.encode()) + field(4, op.encode())
        self._nodes.append(body + b"".join(field(5, _attribute(k, v)) for k, v in attributes.items()))

    def _constant(self, array: NDArray[Any], name: str) -> str:
        dims = b"".join(field(1, int(size)) for size in array.shape)
        content = field(2, _TYPES[array.dtype.name]) + field(8, name.encode()) + field(9, array.tobytes())
        self._constants.append(dims + content)
        return name

    def layer(self, layer: Layer, before: Map, after: Map, at: str, number: int) -> str:
        """Add a layer behind tensor `at`; gives its result."""
        if layer.kind in _GATES:
            return self._recurrent(layer, before, after, at, number)
        inputs, attributes = [at], self._settings(layer, before)
        if layer.kind in ("conv", "depthwise", "dense"):
            inputs += self._weights(layer, before, after, number)
        elif layer.kind in ("add", "mul", "concat"):
            inputs.append(at)
        else:
            inputs += self._operands(layer, number)
        name = f"y{number}"
        if layer.kind == "dense":
            inputs[0] = self._shaped(at, (1, math.prod(before)), f"f{number}")
        if layer.kind == "swish":  # the operator of that name is newer than the opset
            self._node("HardSigmoid", [at], f"{name}_h", alpha=1 / 6)
            inputs = [at, self._rounded(f"{name}_h") if self._integer else f"{name}_h"]
        self._node(_OPS[layer.kind], inputs, name, **attributes)
        if layer.kind in ("conv", "depthwise", "dense") and not self._integer:
            self._node("Relu", [name], f"{name}_r")
            name = f"{name}_r"
        elif self._integer and layer.kind not in _ONLY_FLOAT:
            name = self._rounded(name)
        if layer.kind == "dense":
            name = self._shaped(name, (1, after[2], *after[:2]), f"m{number}")
        return name

    def _recurrent(self, layer: Layer, before: Map, after: Map, at: str, number: int) -> str:
        """In float also between integers; what a step holds does not matter, so that maps are not transposed."""
        import numpy as np

        rows = _GATES[layer.kind] * layer.out
        random = np.random.default_rng(number)
        inputs = [self._shaped(at, (before[0] * before[1], 1, before[2]), f"s{number}")]
        for name, width in (("w", before[2]), ("r", layer.out)):
            whole = random.uniform(-1, 1, (1, rows, width)) / math.sqrt(width)
            inputs.append(self._constant(whole.astype(np.float32), f"{name}{number}"))
        inputs.append(self._constant(np.zeros((1, 2 * rows), np.float32), f"b{number}"))
        self._node(_OPS[layer.kind], inputs, f"y{number}", hidden_size=layer.out)
        return self._shaped(f"y{number}", (1, after[2], *after[:2]), f"m{number}")

    def _shaped(self, at: str, shape: tuple[int, ...], name: str) -> str:
        import numpy as np

        self._node("Reshape", [at, self._constant(np.array(shape, np.int64), f"{name}_s")], name)
        return self._rounded(name) if self._integer else name

    def _settings(self, layer: Layer, before: Map) -> dict[str, Any]:
        same = {"strides": [layer.stride] * 2, "kernel_shape": [layer.kernel] * 2, "auto_pad": "SAME_UPPER"}
        match layer.kind:
            case "conv" | "max" | "average":
                return same
            case "depthwise":
                return {**same, "group": before[2]}
            case "dense":
                return {"transB": 1}
            case "softmax" | "concat":
                return {"axis": 1}
            case "transpose":
                return {"perm": [0, 1, 3, 2]}
            case "resize":
                return {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            case _:
                return {}

    def _operands(self, layer: Layer, number: int) -> list[str]:
        import numpy as np

        if layer.kind == "pad":
            return [self._constant(np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64), f"pads{number}")]
        if layer.kind == "slice":
            return [
                self._constant(np.array(values, np.int64), f"{name}{number}")
                for name, values in (("from", (0, 0)), ("to", (2**31 - 1,) * 2), ("axes", (2, 3)), ("steps", (2, 2)))
            ]
        if layer.kind == "resize":
            return ["", self._constant(np.array([1, 1, 2, 2], np.float32), f"sizes{number}")]
        return []

    def _weights(self, layer: Layer, before: Map, after: Map, number: int) -> list[str]:
        import numpy as np

        inner = {"conv": before[2], "depthwise": 1}.get(layer.kind)
        shape = (after[2], math.prod(before)) if inner is None else (after[2], inner, layer.kernel, layer.kernel)
        depth = math.prod(shape[1:])
        whole = np.random.default_rng(number).integers(-127, 128, shape)
        scale = 1 / (127 * math.sqrt(depth))
        if not self._integer:
            return [self._constant((whole * scale).astype(np.float32), f"w{number}"),
                    self._constant(np.zeros(after[2], np.float32), f"b{number}")]  # fmt: skip
        found = []
        for name, array, each in (
            ("w", whole.astype(np.int8), scale),
            ("b", np.zeros(after[2], np.int32), scale * _SCALE),
        ):
            stored = self._constant(array, f"{name}{number}_q")
            scales = self._constant(np.full(after[2], each, np.float32), f"{name}{number}_s")
            zeros = self._constant(np.zeros(after[2], array.dtype), f"{name}{number}_z")
            self._node("DequantizeLinear", [stored, scales, zeros], f"{name}{number}", axis=0)
            found.append(f"{name}{number}")
        return found

    def file(self, first: str, shape: tuple[int, ...], last: str, result: tuple[int, ...]) -> bytes:
        graph = b"".join(field(1, node) for node in self._nodes) + field(2, b"tiny")
        graph += b"".join(field(5, constant) for constant in self._constants)
        graph += field(11, _value(first, shape)) + field(12, _value(last, result))
        return field(1, _IR) + field(7, graph) + field(8, field(1, b"") + field(2, _OPSET))


def _value(name: str, shape: tuple[int, ...]) -> bytes:
    sizes = b"".join(field(1, field(1, size)) for size in shape)
    return field(1, name.encode()) + field(2, field(1, field(1, 1) + field(2, sizes)))


def _attribute(name: str, value: Any) -> bytes:
    """An AttributeProto: int, text, float or a list of ints."""
    head = field(1, name.encode())
    if isinstance(value, int):
        return head + field(3, value) + field(20, 2)
    if isinstance(value, str):
        return head + field(4, value.encode()) + field(20, 3)
    if isinstance(value, float):
        return head + b"\x15" + struct.pack("<f", value) + field(20, 1)
    return head + b"".join(field(8, item) for item in value) + field(20, 7)
