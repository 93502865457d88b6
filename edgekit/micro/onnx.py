"""A tiny network as an ONNX file, in float or as QDQ with 8-bit integers. Field numbers: onnx.proto."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any

from edgekit.artifact import field
from edgekit.micro.nets import Layer, Map, Net
from edgekit.micro.onnx_blocks import BLOCKS

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7}
_SCALE = 0.05
_OPSETS = {"normalize": (17, 8), "gelu": (20, 9)}
_OPSET = 13, 7
"""Operators and format of a net, and of one with newer operators."""
_OPS = {
    "conv": "Conv", "depthwise": "Conv", "dense": "Gemm", "add": "Add", "mul": "Mul", "max": "MaxPool",
    "average": "AveragePool", "mean": "GlobalAveragePool", "sigmoid": "Sigmoid", "swish": "Mul",
    "tanh": "Tanh", "concat": "Concat", "transpose": "Transpose", "turn": "Transpose", "back": "Transpose",
    "pad": "Pad",
    "resize": "Resize", "slice": "Slice",
    "lstm": "LSTM", "gru": "GRU", "gelu": "Gelu", "relu": "Relu", "larger": "Max", "bilinear": "Resize",
}  # fmt: skip
_GATES = {"lstm": 4, "gru": 3}
_ONLY_FLOAT = frozenset({"tanh", "lstm", "gru"})
"""Without a kernel for integers."""


def writes(net: Net) -> bool:
    """Whether ONNX has operators for all layers."""
    return all(layer.kind in _OPS or layer.kind in BLOCKS for layer in net.layers)


def model(net: Net, precision: str) -> bytes:
    """The file; `precision` is "fp32" or "int8"."""
    made = Writer(integer=precision == "int8", free=net.free)
    shape = (1, net.shape[2], *net.shape[:2])
    at = made.start("x")
    after = net.shape
    for number, (layer, before, behind) in enumerate(net.maps()):
        at, after = made.layer(layer, before, behind, at, number), behind
    opset = max(_OPSETS.get(layer.kind, _OPSET) for layer in net.layers)
    return made.file(("x", shape), (at, (1, after[2], *after[:2])), *opset)


class Writer:
    """Nodes and constants as they come; with `integer` every tensor passes QuantizeLinear and DequantizeLinear."""

    def __init__(self, *, integer: bool, free: bool = False) -> None:
        self.integer = integer
        self._free = free
        self._nodes: list[bytes] = []
        self._constants: list[bytes] = []
        self._first: dict[Map, str] = {}
        if integer:
            import numpy as np

            self.constant(np.array(_SCALE, np.float32), "scale")
            self.constant(np.array(128, np.uint8), "zero")

    def start(self, name: str) -> str:
        return self._rounded(name) if self.integer else name

    def _rounded(self, name: str) -> str:
        self._node("QuantizeLinear", [name, "scale", "zero"], f"{name}_q")
        self._node("DequantizeLinear", [f"{name}_q", "scale", "zero"], f"{name}_d")
        return f"{name}_d"

    def _node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> None:
        body = b"".join(field(1, name.encode()) for name in inputs) + field(2, output.encode())
        body += field(3, output.encode()) + field(4, op.encode())
        self._nodes.append(body + b"".join(field(5, _attribute(k, v)) for k, v in attributes.items()))

    def constant(self, array: NDArray[Any], name: str) -> str:
        dims = b"".join(field(1, int(size)) for size in array.shape)
        content = field(2, _TYPES[array.dtype.name]) + field(8, name.encode()) + field(9, array.tobytes())
        self._constants.append(dims + content)
        return name

    def layer(self, layer: Layer, before: Map, after: Map, at: str, number: int) -> str:
        """Add a layer behind tensor `at`; gives its result."""
        self._first.setdefault(before, at)
        if layer.kind in _GATES:
            return self._recurrent(layer, before, after, at, number)
        if layer.kind in BLOCKS:
            return BLOCKS[layer.kind](self, layer, before, after, at, number)
        inputs, attributes = [at], self._settings(layer, before)
        if layer.kind in ("conv", "depthwise", "dense"):
            inputs += self._weights(layer, before, after, number)
        elif layer.kind == "concat":
            inputs.append(at)
        elif layer.kind in ("add", "mul", "larger"):
            inputs.append(self._first.get(before, at))
        else:
            inputs += self._operands(layer, number)
        name = f"y{number}"
        if layer.kind == "dense":
            inputs[0] = self.shaped(at, (1, math.prod(before)), f"f{number}")
        if layer.kind == "swish":  # the operator of that name is newer than the opset
            self._node("HardSigmoid", [at], f"{name}_h", alpha=1 / 6)
            inputs = [at, self._rounded(f"{name}_h") if self.integer else f"{name}_h"]
        self._node(_OPS[layer.kind], inputs, name, **attributes)
        if layer.kind in ("conv", "depthwise", "dense") and not self.integer:
            self._node("Relu", [name], f"{name}_r")
            name = f"{name}_r"
        elif self.integer and layer.kind not in _ONLY_FLOAT:
            name = self._rounded(name)
        if layer.kind == "dense":
            name = self.shaped(name, (1, after[2], *after[:2]), f"m{number}")
        return name

    def _recurrent(self, layer: Layer, before: Map, after: Map, at: str, number: int) -> str:
        """In float also between integers; what a step holds does not matter, so that maps are not transposed."""
        import numpy as np

        rows = _GATES[layer.kind] * layer.out
        random = np.random.default_rng(number)
        inputs = [self.shaped(at, (before[0] * before[1], 1, before[2]), f"s{number}")]
        for name, width in (("w", before[2]), ("r", layer.out)):
            whole = random.uniform(-1, 1, (1, rows, width)) / math.sqrt(width)
            inputs.append(self.constant(whole.astype(np.float32), f"{name}{number}"))
        inputs.append(self.constant(np.zeros((1, 2 * rows), np.float32), f"b{number}"))
        self._node(_OPS[layer.kind], inputs, f"y{number}", hidden_size=layer.out)
        return self.shaped(f"y{number}", (1, after[2], *after[:2]), f"m{number}")

    def shaped(self, at: str, shape: tuple[int, ...], name: str) -> str:
        import numpy as np

        if self._free:
            shape = (-1, *shape[1:])
        self._node("Reshape", [at, self.constant(np.array(shape, np.int64), f"{name}_s")], name)
        return self._rounded(name) if self.integer else name

    def _settings(self, layer: Layer, before: Map) -> dict[str, Any]:
        same = {"strides": [layer.stride] * 2, "kernel_shape": [layer.kernel] * 2, "auto_pad": "SAME_UPPER"}
        match layer.kind:
            case "conv" | "max" | "average":
                return same
            case "depthwise":
                return {**same, "group": before[2]}
            case "dense":
                return {"transB": 1}
            case "concat":
                return {"axis": 1}
            case "transpose":
                return {"perm": [0, 1, 3, 2]}
            case "turn":
                return {"perm": [0, 3, 1, 2]}
            case "back":
                return {"perm": [0, 2, 3, 1]}
            case "bilinear":
                return {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
            case "resize":
                return {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            case _:
                return {}

    def _operands(self, layer: Layer, number: int) -> list[str]:
        import numpy as np

        if layer.kind == "pad":
            return [self.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64), f"pads{number}")]
        if layer.kind == "slice":
            return [
                self.constant(np.array(values, np.int64), f"{name}{number}")
                for name, values in (("from", (0, 0)), ("to", (2**31 - 1,) * 2), ("axes", (2, 3)), ("steps", (2, 2)))
            ]
        if layer.kind in ("resize", "bilinear"):
            return ["", self.constant(np.array([1, 1, 2, 2], np.float32), f"sizes{number}")]
        return []

    def _weights(self, layer: Layer, before: Map, after: Map, number: int) -> list[str]:
        inner = {"conv": before[2], "depthwise": 1}.get(layer.kind)
        shape = (after[2], math.prod(before)) if inner is None else (after[2], inner, layer.kernel, layer.kernel)
        return self.weights(shape, math.prod(shape[1:]), after[2], number)

    def weights(
        self, shape: tuple[int, ...], depth: int, channels: int, number: int, name: str = "", axis: int = 0,
        parts: str = "wb",
    ) -> list[str]:  # fmt: skip
        """Weights whose sums are over `depth` inputs, and a bias; in integers a scale for each channel along `axis`."""
        import numpy as np

        whole = np.random.default_rng(number).integers(-127, 128, shape)
        scale = 1 / (127 * math.sqrt(depth))
        if not self.integer:
            return [self.constant((whole * scale).astype(np.float32), f"w{name}{number}"),
                    self.constant(np.zeros(channels, np.float32), f"b{name}{number}")]  # fmt: skip
        found = []
        for kind, array, each, along in (
            ("w", whole.astype(np.int8), scale, axis),
            ("b", np.zeros(channels, np.int32), scale * _SCALE, 0),
        ):
            if kind not in parts:
                continue
            made = f"{kind}{name}{number}"
            stored = self.constant(array, f"{made}_q")
            scales = self.constant(np.full(channels, each, np.float32), f"{made}_s")
            zeros = self.constant(np.zeros(channels, array.dtype), f"{made}_z")
            self._node("DequantizeLinear", [stored, scales, zeros], made, axis=along)
            found.append(made)
        return found

    def plain(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """An operator whose result stays as it is."""
        self._node(op, inputs, output, **attributes)
        return output

    def step(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """An operator, its result rounded where the network has integers."""
        self._node(op, inputs, output, **attributes)
        return self._rounded(output) if self.integer else output

    def file(self, first: tuple[str, tuple[int, ...]], last: tuple[str, tuple[int, ...]], opset: int, ir: int) -> bytes:
        graph = b"".join(field(1, node) for node in self._nodes) + field(2, b"tiny")
        graph += b"".join(field(5, constant) for constant in self._constants)
        graph += field(11, _value(*first, free=self._free)) + field(12, _value(*last, free=self._free))
        return field(1, ir) + field(7, graph) + field(8, field(1, b"") + field(2, opset))


def _value(name: str, shape: tuple[int, ...], *, free: bool) -> bytes:
    sizes = b"".join(field(1, field(1, size)) for size in shape)
    if free:
        sizes = field(1, field(2, b"N")) + b"".join(field(1, field(1, size)) for size in shape[1:])
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
