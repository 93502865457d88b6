"""Dynamic quantization of an ONNX graph: int8 weights without calibration. Decided op by op, by measurement.

onnxruntime 1.32, x86 with AVX512-VNNI, one thread, times in us:

- MatMul and Gemm with a large constant matrix: DynamicQuantizeLinear, MatMulInteger with a scale a column. Fused to
  one kernel it takes 410 instead of 1373 (128 x 1024 x 1024) and 20 instead of 51 (1 x 1024 x 1024); at 64 x 64
  nothing is gained, and the activations' rounding would be for nothing.
- Conv: weights stored as int8 with a scale a channel, computed in float. ConvInteger, which
  `onnxruntime.quantization.quantize_dynamic` writes, takes 309 where float takes 173 (ResNet-8), 327 for 42 (DS-CNN),
  twice to three times that with signed weights, and has no scale a channel (22.5 dB; stored so: 27.8 dB).
- LSTM, GRU, RNN and embedding tables: stored as int8, computed in float. DynamicQuantizeLSTM is onnxruntime's own op:
  no other tool would open the file.

Stored weights are restored by Cast and Mul, not by DequantizeLinear: onnxruntime folds the former when it opens the
model and runs the latter again at every inference (ResNet-8: 176 against 301).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.converters.onnx_graphs import graph as onnx_graph
from edgekit.converters.onnx_graphs.graph import View, attribute

if TYPE_CHECKING:
    from numpy.typing import NDArray

INTEGER_ELEMENTS = 16384
"""Size of a matrix from which on integer products win (see the module header)."""

OVERHEAD = 128
"""Bytes that the nodes and names for one stored weight take."""

_AXES = {"Conv": 0, "ConvTranspose": 1, "Gather": 0, "MatMul": -1}
"""Channel axis of the weights of an op. Recurrent ops have [direction, gate rows, columns]: a scale a row."""

_RECURRENT = ("LSTM", "GRU", "RNN")


def quantize(model: Any, levels: int = 127) -> tuple[bool, tuple[str, ...]]:
    """Make the weights int8; the model (optimized) is changed in place.

    Args:
        model: The model.
        levels: Largest integer of the weights that are multiplied as such.

    Returns:
        Whether any was, and for the user: what is computed how.
    """
    view = View(model)
    work = _Work(model, view, levels)
    constants = []
    for tensor in model.graph.initializer:
        value = view.array(tensor.name)
        readers = view.consumers.get(tensor.name, [])
        if value is None or value.dtype != np.float32 or tensor.name in view.outputs or not readers:
            constants.append(tensor)
        elif value.size >= INTEGER_ELEMENTS and all(_multiplies(node, tensor.name, value) for node in readers):
            work.multiply(tensor.name, value, readers)
        elif not work.store(tensor.name, value, readers):
            constants.append(tensor)
    onnx_graph.replace_constants(model, [*constants, *work.constants])
    work.apply()
    return bool(work.constants), work.notes()


def _multiplies(node: Any, name: str, value: NDArray[np.float32]) -> bool:
    """Whether `name` is the right matrix of a plain product."""
    if node.domain or value.ndim != 2 or list(node.input).count(name) != 1 or node.input[1] != name:
        return False
    if node.op_type == "Gemm":
        plain = attribute(node, "alpha", 1.0) == 1 and attribute(node, "beta", 1.0) == 1
        return plain and not attribute(node, "transA", 0)
    return bool(node.op_type == "MatMul")


def _axis(node: Any, name: str, value: NDArray[np.float32]) -> tuple[int, ...] | None:
    """Axes that share a scale in a weight of `node`; None if `name` is no weight there."""
    index = list(node.input).index(name)
    everything = tuple(range(value.ndim))
    if node.domain or value.ndim < 2:
        return None
    if node.op_type in _RECURRENT:
        return everything[2:] if index in (1, 2) else None
    if node.op_type == "Gemm" and index == 1:
        return (1,) if attribute(node, "transB", 0) else (0,)
    if node.op_type in _AXES and index == (0 if node.op_type == "Gather" else 1):
        channel = _AXES[node.op_type] % value.ndim
        return everything[:channel] + everything[channel + 1 :]
    return None


class _Work:
    """The new constants and nodes."""

    def __init__(self, model: Any, view: View, levels: int) -> None:
        self._levels = levels
        self.constants: list[Any] = []
        self._model = model
        self._view = view
        self._first: list[Any] = []
        self._instead: dict[int, list[Any]] = {}
        self._quantized: dict[str, tuple[str, str, str]] = {}
        self._stored: Counter[str] = Counter()
        self._multiplied: Counter[str] = Counter()

    def store(self, name: str, value: NDArray[np.float32], readers: list[Any]) -> bool:
        """Store a weight as int8 and restore it by Cast and Mul; False if it is none, or too small to gain by it."""
        from onnx import TensorProto, helper

        axes = [_axis(node, name, value) for node in readers]
        if axes[0] is None or any(other != axes[0] for other in axes):
            return False
        integers, scale = _round(value, axes[0])
        if integers is None or value.size * 3 - scale.size * 4 <= OVERHEAD:
            return False
        self.constants += [onnx_graph.constant(f"{name}_int8", integers), onnx_graph.constant(f"{name}_scale", scale)]
        self._first += [
            helper.make_node("Cast", [f"{name}_int8"], [f"{name}_unscaled"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{name}_unscaled", f"{name}_scale"], [name]),
        ]
        self._stored.update(node.op_type for node in readers)
        return True

    def multiply(self, name: str, value: NDArray[np.float32], readers: list[Any]) -> None:
        """Replace products with a matrix by integer products."""
        transposed = [bool(attribute(node, "transB", 0)) for node in readers]
        if len(set(transposed)) > 1 or not np.isfinite(value).all():
            if not self.store(name, value, readers):
                self.constants.append(onnx_graph.constant(name, value))
            return
        integers, scale = _round(value.T if transposed[0] else value, (0,), self._levels)
        self.constants += [
            onnx_graph.constant(f"{name}_int8", integers),
            onnx_graph.constant(f"{name}_scale", scale.reshape(-1)),
        ]
        for node in readers:
            self._instead[id(node)] = self._product(node, name)
        self._multiplied.update(node.op_type for node in readers)

    def _product(self, node: Any, name: str) -> list[Any]:
        from onnx import TensorProto, helper

        result = node.output[0]
        nodes = []
        if node.input[0] not in self._quantized:
            names = (f"{node.input[0]}_u8", f"{node.input[0]}_u8_scale", f"{node.input[0]}_u8_zero")
            self._quantized[node.input[0]] = names
            nodes.append(helper.make_node("DynamicQuantizeLinear", [node.input[0]], list(names)))
        integers, scale, zero = self._quantized[node.input[0]]
        biased = len(node.input) > 2 and bool(node.input[2])
        scaled = f"{result}_scaled" if biased else result
        nodes += [
            helper.make_node("MatMulInteger", [integers, f"{name}_int8", zero], [f"{result}_sums"]),
            helper.make_node("Cast", [f"{result}_sums"], [f"{result}_float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [scale, f"{name}_scale"], [f"{result}_scale"]),
            helper.make_node("Mul", [f"{result}_float", f"{result}_scale"], [scaled]),
        ]
        if biased:
            nodes.append(helper.make_node("Add", [scaled, node.input[2]], [result]))
        return nodes

    def apply(self) -> None:
        """Put the new nodes into the graph."""
        nodes = [*self._first]
        for node in self._model.graph.node:
            nodes += self._instead.get(id(node), [node])
        onnx_graph.set_nodes(self._model, nodes)

    def notes(self) -> tuple[str, ...]:
        """What is computed how, for the user."""
        if not self._stored and not self._multiplied:
            return ("no weight is large enough to gain by int8: all stay in float",)
        notes = []
        if self._stored:
            ops = ", ".join(f"{count} {op}" for op, count in sorted(self._stored.items()))
            notes.append(f"computed in float from int8 weights, which onnxruntime does faster: {ops}")
        if self._multiplied:
            ops = ", ".join(f"{count} {op}" for op, count in sorted(self._multiplied.items()))
            notes.append(f"computed in integers: {ops}")
        return tuple(notes)


def _round(value: NDArray[np.float32], axes: tuple[int, ...], levels: int = 127) -> tuple[Any, NDArray[np.float32]]:
    """Symmetric int8: real = scale * integer, a scale for each slice over `axes`; None if a number is not finite."""
    largest = np.abs(value).max(axis=axes, keepdims=True)
    # 2**-126 is the smallest normal float32: a slice of zeros divides by it instead of by zero.
    scale = np.maximum(largest / np.float32(levels), np.float32(2.0**-126)).astype(np.float32)
    if not np.isfinite(largest).all():
        return None, scale
    return np.clip(np.rint(value / scale), -levels, levels).astype(np.int8), scale
