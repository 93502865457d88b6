"""TFLite graphs as repairs see them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.converters import rules as matching
from edgekit.converters.repairs.view import Floats, Kind, Layer, Op, Window, reduced, reshaped, transposed
from edgekit.converters.tflite_graphs import graph as files
from edgekit.converters.tflite_graphs import rewrites
from edgekit.converters.tflite_graphs.graph import OperatorT
from edgekit.converters.tflite_graphs.write import write
from edgekit.rules import Rule

_NONE, _RELU = 0, 1
"""ActivationFunctionType of the schema."""
_SAME_PADDING = 0
_TIMES = 4
"""Kernels of one content that are still looked at each by itself: repaired, each is stored by itself. A recurrent layer
has one a step (a GRU of 49 steps and two directions: 770 kB repaired, 385 as it is, and no less accurate).
"""

_SAME = frozenset({
    "RELU", "LEAKY_RELU", "PRELU", "MAX_POOL_2D", "AVERAGE_POOL_2D", "MEAN", "PAD", "ADD", "RESHAPE", "SQUEEZE",
    "EXPAND_DIMS", "TRANSPOSE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR",
})  # fmt: skip
_MOVES = frozenset({
    "RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE", "SLICE", "STRIDED_SLICE", "GATHER", "SPLIT", "SPLIT_V", "PACK",
    "UNPACK",
})  # fmt: skip


class TFLiteView:
    """See `View`; branches and bodies of loops stay out of sight."""

    def __init__(self, path: Path) -> None:
        self._model = files.read(path.read_bytes())
        self._graph = self._model.subgraphs[0]
        self._called = [self._layer_of(op, files.unique_names(self._graph)) for op in self._graph.operators]
        # As the quantizer will: only so they have a bias, and a scale a channel.
        rewrites.matmul_to_fully_connected(self._model)
        self._names = files.unique_names(self._graph)
        self._index = {name: index for index, name in enumerate(self._names)}
        self._readers = Counter(int(i) for op in self._graph.operators for i in op.inputs)
        self._stored = Counter(int(tensor.buffer) for tensor in self._graph.tensors)
        self._layers: dict[str, OperatorT] = {}
        self.inputs = frozenset(self._names[int(i)] for i in self._graph.inputs)
        self.outputs = frozenset(self._names[int(i)] for i in self._graph.outputs)
        self.fused: frozenset[str] = frozenset()  # it has no name of its own
        self.ops = tuple(self._read(op) for op in self._graph.operators)

    def shape(self, name: str) -> tuple[int, ...] | None:
        return self._sizes(self._index[name])

    def kernel(self, layer: Layer) -> Floats:
        op = self._layers[layer.name]
        values = files.constant(self._model, self._graph.tensors[int(op.inputs[1])])
        return np.ascontiguousarray(_canonical(files.op_name(self._model, op), values), np.float32)

    def set_kernel(self, layer: Layer, kernel: Floats) -> None:
        op = self._layers[layer.name]
        values = _own(files.op_name(self._model, op), kernel)
        tensor = self._graph.tensors[int(op.inputs[1])]
        files.set_constant(self._model, tensor, np.ascontiguousarray(values.reshape(tensor.shape), np.float32))

    def bias(self, layer: Layer) -> Floats | None:
        index = self._bias(self._layers[layer.name])
        return None if index < 0 else np.array(files.constant(self._model, self._graph.tensors[index]), np.float32)

    def set_bias(self, layer: Layer, bias: Floats) -> None:
        op = self._layers[layer.name]
        place = _BIAS[files.op_name(self._model, op)]
        made = files.add_constant(self._model, self._graph, bias.astype(np.float32), self._free(f"{layer.name}_bias"))
        inputs = [int(i) for i in op.inputs]
        inputs += [-1] * (place + 1 - len(inputs))
        inputs[place] = made
        op.inputs = np.array(inputs, np.int32)

    def constant(self, name: str) -> Floats:
        return np.array(files.constant(self._model, self._graph.tensors[self._index[name]]), np.float32).reshape(-1)

    def set_constant(self, name: str, values: Floats) -> None:
        tensor = self._graph.tensors[self._index[name]]
        files.set_constant(self._model, tensor, values.astype(np.float32).reshape(tensor.shape))

    def divide(self, name: str, divisors: Floats, axis: int) -> str:
        if axis != self._rank(self._index[name]) - 1:
            raise AssertionError(name)
        after, before = self._index[name], len(self._graph.tensors)
        title = self._free(f"{name}_apart")
        self._graph.tensors.append(copy(self._graph.tensors[after]))
        self._graph.tensors[before].name = title.encode()
        operators = self._graph.operators
        place, maker = next((n, op) for n, op in enumerate(operators) if after in [int(i) for i in op.outputs])
        maker.outputs = np.array([before if int(i) == after else int(i) for i in maker.outputs], np.int32)
        values = (1 / divisors).astype(np.float32)
        constant = files.add_constant(self._model, self._graph, values, self._free(f"{name}_divisors"))
        schema = files.schema()
        product = schema.OperatorT()
        product.opcodeIndex = files.use_op_code(self._model, schema.BuiltinOperator.MUL, 1)
        product.inputs, product.outputs = np.array([before, constant], np.int32), np.array([after], np.int32)
        product.builtinOptionsType, product.builtinOptions = schema.BuiltinOptions.MulOptions, schema.MulOptionsT()
        operators.insert(place + 1, product)
        return "MUL"

    def lifted(self, rules: Sequence[Rule]) -> frozenset[str]:
        return frozenset(matching.assign(self._called, rules))

    def _layer_of(self, op: OperatorT, names: Sequence[str]) -> matching.Layer:
        made = tuple(names[int(i)] for i in op.outputs)
        return matching.Layer(files.op_name(self._model, op), (), made)

    def write(self, path: Path) -> None:
        # Not tidied up: names of tensors that have none are made of their places, which must stay.
        path.write_bytes(write(self._model))

    def _free(self, name: str) -> str:
        """A name that no tensor has; ranges are keyed by names, so those of others must not change."""
        free, number = name, 1
        while free in self._index:
            free, number = f"{name}_{number}", number + 1
        self._index[free] = len(self._graph.tensors)
        self._names.append(free)
        return free

    def _sizes(self, index: int) -> tuple[int, ...] | None:
        tensor = self._graph.tensors[index]
        sizes = tensor.shape if tensor.shapeSignature is None else tensor.shapeSignature
        return None if sizes is None else tuple(int(size) for size in sizes)

    def _rank(self, index: int) -> int:
        return len(self._sizes(index) or ())

    def _bias(self, op: OperatorT) -> int:
        place = _BIAS[files.op_name(self._model, op)]
        return int(op.inputs[place]) if len(op.inputs) > place else -1

    def _constant(self, index: int) -> bool:
        return index >= 0 and rewrites.is_float_constant(self._model, self._graph.tensors[index])

    def _read(self, op: OperatorT) -> Op:
        title = files.op_name(self._model, op)
        inputs = [int(i) for i in op.inputs if int(i) >= 0]
        real = tuple(self._names[i] for i in inputs if not files.is_constant(self._model, self._graph.tensors[i]))
        made = tuple(self._names[int(i)] for i in op.outputs)
        layer = self._layer(title, op)
        if layer is not None:
            self._layers[layer.name] = op
            return Op("layer", title, (layer.source,), made, layer)
        if title == "CONCATENATION" and op.builtinOptions.fusedActivationFunction == _NONE:
            axis = int(op.builtinOptions.axis)
            axis += self._rank(int(op.outputs[0])) if axis < 0 else 0
            whole = len(real) == len(inputs)
            return Op("concat" if whole else "opaque", title, real, made, axis=axis, moves=True)
        constant = self._by_channel(title, op)
        if constant is not None and len(real) == 1:
            kind: Kind = "shift" if title == "ADD" else "scale"
            return Op(kind, title, real, made, constants=(constant,), axis=self._rank(int(op.outputs[0])) - 1)
        moves = title in _MOVES
        turn = self._turn(title, op)
        if turn is None or not all(len(self.shape(name) or ()) for name in (*real[:1], *made)):
            return Op("opaque", title, real, made, moves=moves)
        return Op("same", title, real, made, turn=turn, moves=moves)

    def _layer(self, title: str, op: OperatorT) -> Layer | None:
        if title not in _BIAS or len(op.inputs) < 2:
            return None
        place = 2 if title == "TRANSPOSE_CONV" else 0
        source, kernel = int(op.inputs[place]), int(op.inputs[1])
        bias = self._bias(op)
        if not self._constant(kernel) or self._readers[kernel] > 1 or (bias >= 0 and not self._constant(bias)):
            return None
        if self._stored[int(self._graph.tensors[kernel].buffer)] > _TIMES:
            return None
        if self._constant(source) or files.dtype_of(self._graph.tensors[source]) != "float32":
            return None
        options = op.builtinOptions
        fused = getattr(options, "fusedActivationFunction", _NONE)
        shape, made = self._sizes(source), int(op.outputs[0])
        if shape is None or not shape or self._sizes(made) is None:
            return None
        sizes = self._graph.tensors[kernel].shape
        if title == "FULLY_CONNECTED" and shape[-1] != int(sizes[-1]):
            return None  # it flattens what it reads
        rows = int(np.prod([max(1, size) for size in shape[:-1]]))
        return Layer(
            self._names[made],
            self._names[source],
            groups=int(shape[-1]) if title == "DEPTHWISE_CONV_2D" else _groups(title, shape, sizes),
            window=self._window(title, op, shape, sizes),
            axis=len(shape) - 1,
            made_axis=self._rank(made) - 1,
            homogeneous=fused in (_NONE, _RELU),
            # See `tflite_graphs.rewrites.dense_of_several_rows`; in 8 bits all take a scale a channel.
            per_channel=not (title == "FULLY_CONNECTED" and rows > 1),
            transposed=title == "TRANSPOSE_CONV",
        )

    def _window(self, title: str, op: OperatorT, shape: Sequence[int], kernel: Any) -> Window | None:
        if title not in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            return None
        options = op.builtinOptions
        size = (int(kernel[1]), int(kernel[2]))
        strides = (int(options.strideH), int(options.strideW))
        dilations = (int(options.dilationHFactor), int(options.dilationWFactor))
        total = [0, 0]
        if options.padding == _SAME_PADDING:
            for axis in (0, 1):
                reach, length = (size[axis] - 1) * dilations[axis] + 1, shape[axis + 1]
                total[axis] = max(0, (-(-length // strides[axis]) - 1) * strides[axis] + reach - length)
        before = (total[0] // 2, total[1] // 2)
        return Window(size, strides, dilations, before, (total[0] - before[0], total[1] - before[1]))

    def _by_channel(self, title: str, op: OperatorT) -> str | None:
        """The constant of an ADD or MUL with an element a channel, which is the last axis."""
        if title not in ("ADD", "MUL") or op.builtinOptions.fusedActivationFunction not in (_NONE, _RELU):
            return None
        made = self._sizes(int(op.outputs[0]))
        for index in (int(i) for i in op.inputs):
            values = self._sizes(index)
            if self._constant(index) and made and values and self._readers[index] == 1:
                fits = values[-1] == made[-1] and int(np.prod(values)) == made[-1]
                return self._names[index] if fits and self._rank(int(op.outputs[0])) >= len(values) else None
        return None

    def _turn(self, title: str, op: OperatorT) -> Callable[[int], int | None] | None:
        """Where axes go in an operator that does one thing to all channels; None if it is no such."""
        if title not in _SAME or getattr(op.builtinOptions, "fusedActivationFunction", _NONE) not in (_NONE, _RELU):
            return None
        source, made = self._sizes(int(op.inputs[0])), self._sizes(int(op.outputs[0]))
        if title in ("RESHAPE", "SQUEEZE", "EXPAND_DIMS"):
            return reshaped(source, made)
        if title == "TRANSPOSE":
            order = self._integers(op, 1)
            return None if order is None else transposed(order)
        if title == "MEAN":
            axes = self._integers(op, 1)
            rank = len(source or ())
            return None if axes is None else reduced([a % rank for a in axes], keeps=bool(op.builtinOptions.keepDims))
        if title == "ADD" and (
            self._sizes(int(op.inputs[1])) != source or any(self._constant(int(i)) for i in op.inputs)
        ):
            return None
        if title == "PAD" and len(source or ()) != len(made or ()):
            return None
        return lambda axis: axis

    def _integers(self, op: OperatorT, place: int) -> list[int] | None:
        tensor = self._graph.tensors[int(op.inputs[place])]
        if not files.is_constant(self._model, tensor):
            return None
        return [int(value) for value in files.constant(self._model, tensor).reshape(-1)]


_BIAS = {"CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "FULLY_CONNECTED": 2, "TRANSPOSE_CONV": 3}


def _groups(title: str, shape: Sequence[int], kernel: Any) -> int:
    return int(shape[-1]) // int(kernel[-1]) if title == "CONV_2D" else 1


def _canonical(title: str, values: Any) -> Any:
    if title == "DEPTHWISE_CONV_2D":
        return values.transpose(3, 0, 1, 2)
    return values.transpose(0, 3, 1, 2) if title in ("CONV_2D", "TRANSPOSE_CONV") else values


def _own(title: str, kernel: Any) -> Any:
    if title == "DEPTHWISE_CONV_2D":
        return kernel.transpose(1, 2, 3, 0)
    return kernel.transpose(0, 2, 3, 1) if title in ("CONV_2D", "TRANSPOSE_CONV") else kernel
