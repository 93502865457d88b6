"""A tiny network as a TFLite file, in float or in 8-bit integers. Slots and codes: schema.fbs of LiteRT."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgekit.formats.tflite_schema import BUILTIN_OPERATORS
from edgekit.micro.flat import Scalar, Table, Value, Vector, vector, write
from edgekit.micro.nets import Layer, Map, Net
from edgekit.micro.tflite_blocks import BLOCKS

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FLOAT, _INT32, _INT16, _INT8 = 0, 2, 7, 9
_SCALE, _ZERO = 0.05, 3
"""Of activations; no real network has its zero at 0, which XNNPACK has other kernels for."""
_ALIGNED = 16
_RELU = 1
_OPTIONS = {
    "CONV_2D": 1, "DEPTHWISE_CONV_2D": 2, "MAX_POOL_2D": 5, "AVERAGE_POOL_2D": 5, "FULLY_CONNECTED": 8, "SOFTMAX": 9,
    "CONCATENATION": 10, "ADD": 11, "RESHAPE": 17, "MUL": 21, "PAD": 22, "TRANSPOSE": 26, "MEAN": 27,
    "STRIDED_SLICE": 32, "UNIDIRECTIONAL_SEQUENCE_LSTM": 71, "RESIZE_NEAREST_NEIGHBOR": 74, "HARD_SWISH": 91,
    "BATCH_MATMUL": 101, "SUB": 28, "GELU": 116, "TRANSPOSE_CONV": 49, "MAXIMUM": 39, "RESIZE_BILINEAR": 15,
}  # fmt: skip
"""enum BuiltinOptions of the ops that have any."""
_OPS = {
    "conv": "CONV_2D", "depthwise": "DEPTHWISE_CONV_2D", "dense": "FULLY_CONNECTED", "add": "ADD", "mul": "MUL",
    "max": "MAX_POOL_2D", "average": "AVERAGE_POOL_2D", "mean": "MEAN", "softmax": "SOFTMAX", "sigmoid": "LOGISTIC",
    "swish": "HARD_SWISH", "tanh": "TANH", "slice": "STRIDED_SLICE", "lstm": "UNIDIRECTIONAL_SEQUENCE_LSTM",
    "concat": "CONCATENATION", "transpose": "TRANSPOSE", "turn": "TRANSPOSE", "back": "TRANSPOSE", "pad": "PAD",
    "resize": "RESIZE_NEAREST_NEIGHBOR",
    "gelu": "GELU", "relu": "RELU", "larger": "MAXIMUM", "cut": "STRIDED_SLICE",
    "join": "CONCATENATION",
    "bilinear": "RESIZE_BILINEAR",
}  # fmt: skip
_ORDERS = {"transpose": [0, 2, 1, 3], "turn": [0, 3, 1, 2], "back": [0, 2, 3, 1]}
_FIXED = {"softmax": (1 / 256, -128), "sigmoid": (1 / 256, -128), "tanh": (1 / 128, 0)}
"""Scale and zero point that kernels demand of these results."""


_TANH = 4
_GATES = 4
_CELL = 2.0**-12
"""Scale of the cell's state, which the kernel wants to be a power of two."""


_UNVERSIONED = ("RESHAPE", "HARD_SWISH", "GELU", "UNIDIRECTIONAL_SEQUENCE_LSTM")


def writes(net: Net) -> bool:
    """Whether TFLite has kernels for all layers."""
    return all(layer.kind in _OPS or layer.kind in BLOCKS for layer in net.layers)


def model(net: Net, precision: str) -> bytes:
    """The file; `precision` is "fp32" or "int8"."""
    made = Writer(integer=precision == "int8")
    at = made.tensor((1, *net.shape), "x")
    first = at
    for number, (layer, before, after) in enumerate(net.maps()):
        at = made.layer(layer, before, after, at, number)
    return made.file(first, at)


class Writer:
    """Tensors, buffers and ops as they come."""

    def __init__(self, *, integer: bool) -> None:
        self.integer = integer
        self._buffers: list[Table] = [{}]
        self._tensors: list[Table] = []
        self._ops: list[tuple[str, Sequence[int], int, Table, Sequence[int]]] = []
        self._first: dict[Map, int] = {}

    def tensor(
        self, shape: Sequence[int], name: str, scale: tuple[float, int] = (_SCALE, _ZERO), *, integer: bool = False
    ) -> int:
        """An activation; `integer` also in a network of floats."""
        whole = integer or self.integer
        kind = _INT8 if whole else _FLOAT
        quant: dict[int, Value] = {2: vector("f", [scale[0]]), 3: vector("q", [scale[1]])} if whole else {}
        return self._add(shape, kind, name, 0, quant)

    def constant(self, array: NDArray[Any], name: str, scales: Sequence[float] = (), axis: int = 0) -> int:
        kind = {"float32": _FLOAT, "int32": _INT32, "int8": _INT8}[array.dtype.name]
        self._buffers.append({0: Vector(array.tobytes(), array.nbytes, _ALIGNED)})
        quant: dict[int, Value] = {}
        if scales:
            quant = {2: vector("f", scales), 3: vector("q", [0] * len(scales)), 6: Scalar("i", axis)}
        return self._add(array.shape, kind, name, len(self._buffers) - 1, quant)

    def _add(
        self, shape: Sequence[int], kind: int, name: str, buffer: int, quant: dict[int, Value], *, kept: bool = False
    ) -> int:
        table: dict[int, Value] = {0: vector("i", shape), 1: Scalar("b", kind), 2: Scalar("I", buffer), 3: name}
        if quant:
            table[4] = quant
        if kept:
            table[5] = Scalar("B", 1)
        self._tensors.append(table)
        return len(self._tensors) - 1

    def layer(self, layer: Layer, before: Map, after: Map, at: int, number: int) -> int:
        """Add a layer behind tensor `at`; gives its result."""
        import numpy as np

        self._first.setdefault(before, at)
        if layer.kind == "lstm":
            return self._lstm(layer, before, after, at, number)
        if layer.kind in BLOCKS:
            return BLOCKS[layer.kind](self, layer, before, after, at, number)
        inputs, options = [at], self._settings(layer)
        if layer.kind in ("conv", "depthwise", "dense"):
            inputs += self._weights(layer, before, after, number)
        elif layer.kind in ("concat", "join"):
            inputs.append(at)
        elif layer.kind in ("add", "mul", "larger"):
            inputs.append(self._first.get(before, at))
        elif layer.kind == "mean":
            inputs.append(self.constant(np.array([1, 2], np.int32), f"axes{number}"))
        elif layer.kind in _ORDERS:
            order = _ORDERS[layer.kind]
            inputs.append(self.constant(np.array(order, np.int32), f"order{number}"))
        elif layer.kind == "pad":
            inputs.append(self.constant(np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32), f"pads{number}"))
        elif layer.kind in ("resize", "bilinear"):
            inputs.append(self.constant(np.array(after[:2], np.int32), f"size{number}"))
        elif layer.kind in ("slice", "cut"):
            step = 2 if layer.kind == "slice" else 1
            end = before if layer.kind == "slice" else after
            for name, values in (("from", (0, 0, 0, 0)), ("to", (1, *end)), ("steps", (1, step, step, 1))):
                inputs.append(self.constant(np.array(values, np.int32), f"{name}{number}"))
        shape = (1, after[2]) if layer.kind == "dense" else (1, *after)
        result = self.tensor(shape, f"y{number}", _FIXED.get(layer.kind, (_SCALE, _ZERO)))
        self.op(_OPS[layer.kind], inputs, result, options)
        return self.shaped(result, (1, *after), f"z{number}") if layer.kind == "dense" else result

    def op(self, kind: str, inputs: Sequence[int], result: int, options: Table) -> None:
        self._ops.append((kind, inputs, result, options, ()))

    def filled(self, shape: Sequence[int], value: float, name: str) -> int:
        """A constant activation; in integers the smallest step above zero."""
        import numpy as np

        if not self.integer:
            return self.constant(np.full(shape, value, np.float32), name)
        return self.constant(np.ones(shape, np.int8), name, [_SCALE])

    def shaped(self, at: int, shape: Sequence[int], name: str) -> int:
        """The same elements: layers take maps, some kernels do not."""
        import numpy as np

        wanted = self.constant(np.array(shape, np.int32), f"{name}s")
        result = self.tensor(shape, name)
        self._ops.append(("RESHAPE", [at, wanted], result, {}, ()))
        return result

    def _lstm(self, layer: Layer, before: Map, after: Map, at: int, number: int) -> int:
        """UNIDIRECTIONAL_SEQUENCE_LSTM: four gates without peepholes, projection and normalization."""
        import numpy as np

        steps, units = before[0] * before[1], layer.out
        random = np.random.default_rng(number)
        weights = [
            self._matrix(random.integers(-127, 128, (units, width)), f"{name}{number}_{gate}")
            for name, width in (("w", before[2]), ("r", units))
            for gate in range(_GATES)
        ]
        kind, scales = (np.int32, [_SCALE / 127]) if self.integer else (np.float32, ())
        biases = [self.constant(np.zeros(units, kind), f"b{number}_{gate}", scales) for gate in range(_GATES)]
        output = self._add((1, units), _INT8 if self.integer else _FLOAT, f"h{number}", 0,
                           self._scaled(_SCALE), kept=True)  # fmt: skip
        cell = self._add((1, units), _INT16 if self.integer else _FLOAT, f"c{number}", 0,
                         self._scaled(_CELL), kept=True)  # fmt: skip
        between: list[int] = []
        if self.integer:
            between = [self._add((0,), _FLOAT, f"i{number}_{gate}", 0, {}) for gate in range(_GATES)]
            between.append(self._add((0,), _INT8, f"i{number}", 0, self._scaled(_SCALE)))
        inputs = [
            self.shaped(at, (1, steps, before[2]), f"s{number}"), *weights, -1, -1, -1, *biases, -1, -1, output, cell,
            -1, -1, -1, -1,
        ]  # fmt: skip
        result = self.tensor((1, steps, units), f"y{number}", (_SCALE, 0))
        options: Table = {0: Scalar("b", _TANH), 1: Scalar("f", 10.0)}
        self._ops.append((_OPS["lstm"], inputs, result, options, between))
        return self.shaped(result, (1, *after), f"z{number}")

    def _matrix(self, whole: NDArray[Any], name: str) -> int:
        import numpy as np

        scale = 1 / (127 * math.sqrt(whole.shape[1]))
        if self.integer:
            return self.constant(whole.astype(np.int8), name, [scale])
        return self.constant((whole * scale).astype(np.float32), name)

    def _scaled(self, scale: float) -> dict[int, Value]:
        return {2: vector("f", [scale]), 3: vector("q", [0])} if self.integer else {}

    def _settings(self, layer: Layer) -> dict[int, Value]:
        stride = Scalar("i", layer.stride)
        match layer.kind:
            case "conv":
                return {1: stride, 2: stride, 3: Scalar("b", _RELU)}
            case "depthwise":
                return {1: stride, 2: stride, 3: Scalar("i", 1), 4: Scalar("b", _RELU)}
            case "dense":
                return {0: Scalar("b", _RELU)}
            case "max" | "average":
                return {1: stride, 2: stride, 3: Scalar("i", layer.kernel), 4: Scalar("i", layer.kernel)}
            case "mean":
                return {0: Scalar("B", 1)}
            case "softmax":
                return {0: Scalar("f", 1.0)}
            case "concat" | "join":
                return {0: Scalar("i", 3)}
            case _:
                return {}

    def _weights(self, layer: Layer, before: Map, after: Map, number: int) -> list[int]:
        if layer.kind == "conv":
            return self.weights((after[2], layer.kernel, layer.kernel, before[2]), 0, number)
        if layer.kind == "depthwise":
            return self.weights((1, layer.kernel, layer.kernel, after[2]), 3, number)
        return self.weights((after[2], math.prod(before)), 0, number)

    def weights(self, shape: Sequence[int], axis: int, number: int, name: str = "") -> list[int]:
        """Weights and bias; in integers a scale for each channel along `axis`."""
        import numpy as np

        random = np.random.default_rng(number)
        channels = shape[axis]
        depth = math.prod(shape) // channels
        whole = random.integers(-127, 128, shape)
        scale = 1 / (127 * math.sqrt(depth))
        if not self.integer:
            bias = self.constant(np.zeros(channels, np.float32), f"b{name}{number}")
            return [self.constant((whole * scale).astype(np.float32), f"w{name}{number}"), bias]
        stored = self.constant(whole.astype(np.int8), f"w{name}{number}", [scale] * channels, axis)
        bias = self.constant(np.zeros(channels, np.int32), f"b{name}{number}", [scale * _SCALE] * channels)
        return [stored, bias]

    def file(self, first: int, last: int) -> bytes:
        kinds = sorted({kind for kind, *_ in self._ops})
        codes: list[Value] = []
        for kind in kinds:
            code = BUILTIN_OPERATORS.index(kind)
            version = 3 if kind == "DEPTHWISE_CONV_2D" and self.integer else 2 if self.integer else 1
            version = 1 if kind in _UNVERSIONED else version
            codes.append({0: Scalar("b", min(code, 127)), 2: Scalar("i", version), 3: Scalar("i", code)})
        ops: list[Value] = []
        for kind, inputs, result, options, between in self._ops:
            op: dict[int, Value] = {
                0: Scalar("I", kinds.index(kind)), 1: vector("i", inputs), 2: vector("i", [result]),
            }  # fmt: skip
            if kind in _OPTIONS:
                op |= {3: Scalar("B", _OPTIONS[kind]), 4: options}
            if between:
                op[8] = vector("i", between)
            ops.append(op)
        graph: dict[int, Value] = {0: self._tensors, 1: vector("i", [first]), 2: vector("i", [last]), 3: ops}
        return write({0: Scalar("I", 3), 1: codes, 2: [graph], 3: "edgekit", 4: self._buffers}, b"TFL3")
