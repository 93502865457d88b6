"""Layers of a QDQ graph that compute in another precision than the rest, by rules.

They are kept out of the quantizer, which leaves them floats on all sides, and done here afterwards:

- float, fp16: what a lifted layer gives to another goes there as floats; onnxruntime's quantizer rounds it for all
  readers as soon as one of them computes in integers.
- int16x8: weights behind a DequantizeLinear, results through int16 and back. onnxruntime has no such kernels and
  computes in float.

onnxruntime quantizes the weights of a float Conv, ConvTranspose or Gemm again by itself, with one scale for all, where
it stands between DequantizeLinear and QuantizeLinear (1.32; also with a Relu or Clip behind it). A Max with zero
instead of the Relu, or with the least float where there is none, keeps it from that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.converters import rules as matching
from edgekit.converters.onnx_graphs import float16 as onnx_float16
from edgekit.converters.onnx_graphs import graph as onnx_graph
from edgekit.converters.onnx_graphs.graph import View, attribute
from edgekit.converters.rules import Layer
from edgekit.converters.stages import Range
from edgekit.rules import Rule

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm")
_ACTIVATIONS = ("Relu", "Clip")
_BITS = {"int8": 8, "int16x8": 16}
_WIDEST = 16
_INT16, _UINT8, _INT8 = 32767, 255, 127
_TINY = np.float32(2.0**-126)
"""The smallest normal float32: a scale for what is zero throughout."""


def layers(model: Any) -> list[Layer]:
    """The nodes of a graph."""
    return [
        Layer(node.op_type, tuple(filter(None, node.input)), tuple(filter(None, node.output)), node.name)
        for node in model.graph.node
    ]


@dataclass(frozen=True)
class Lifts:
    """What rules say of the nodes of a float graph.

    Attributes:
        base: The precision of all others.
    """

    base: str
    _rules: tuple[Rule, ...] = ()
    _layers: tuple[Layer, ...] = ()
    _marked: Mapping[str, int] | None = None

    @property
    def wide(self) -> bool:
        """Whether some layers may get 16 bits."""
        return any(rule.precision == "int16x8" for rule in self._rules)

    def settle(self, model: Any) -> dict[str, str]:
        """Tensor -> precision of the node that makes it, where it is not the base; once nodes were folded.

        A Relu or Clip that alone reads a lifted node and that no rule means goes with it, as in TFLite, where both are
        one operator.
        """
        if not self._marked:
            return {}
        numbers = matching.settle(self._layers, layers(model), self._marked)
        view = View(model)
        for node in model.graph.node:
            before = node.input[0] if node.input else ""
            alone = len(view.consumers.get(before, ())) == 1 and before not in view.outputs
            if node.op_type in _ACTIVATIONS and alone and before in numbers:
                numbers.setdefault(node.output[0], numbers[before])
        return dict(matching.precisions(numbers, self._rules, self.base))


def match(model: Any, rules: Sequence[Rule], base: str) -> Lifts:
    """Match the rules on a float graph as the user sees it.

    Raises:
        UsageError: `rule-unmatched`.
    """
    known = layers(model)
    return Lifts(base, tuple(rules), tuple(known), matching.assign(known, rules))


def finish(model: Any, lifted: Mapping[str, str], ranges: Mapping[str, Range]) -> None:
    """Make lifted nodes of a quantized graph what their precision means, in place.

    Args:
        model: With QuantizeLinear and DequantizeLinear around all but them.
        lifted: From `Lifts.settle`.
        ranges: By tensor.
    """
    _read_floats(model, lifted)
    halves = {name for made, precision in lifted.items() if precision == "fp16" for name in _constants(model, made)}
    _round(model, {made: _BITS[precision] for made, precision in lifted.items() if precision in _BITS}, ranges)
    _keep_weights(model, lifted)
    if halves:
        onnx_float16.quantize(model, only=halves)


def _read_floats(model: Any, lifted: Mapping[str, str]) -> None:
    view = View(model)
    for node in model.graph.node:
        if not any(name in lifted for name in node.output):
            continue
        for place, name in enumerate(node.input):
            last = view.producer.get(name)
            first = (
                view.producer.get(last.input[0]) if last is not None and last.op_type == "DequantizeLinear" else None
            )
            if first is not None and first.op_type == "QuantizeLinear" and first.input[0] in lifted:
                node.input[place] = first.input[0]
    # An output of the model that a lifted node makes.
    for value in model.graph.output:
        last = view.producer.get(value.name)
        first = view.producer.get(last.input[0]) if last is not None and last.op_type == "DequantizeLinear" else None
        if last is None or first is None or first.op_type != "QuantizeLinear" or first.input[0] not in lifted:
            continue
        maker = view.producer[first.input[0]]
        old = first.input[0]
        last.output[0] = f"{value.name}_rounded"
        maker.output[list(maker.output).index(old)] = value.name
        for reader in model.graph.node:
            for place, name in enumerate(reader.input):
                if name == old:
                    reader.input[place] = value.name


def _constants(model: Any, made: str) -> list[str]:
    view = View(model)
    node = view.producer.get(made)
    return [] if node is None else [name for name in node.input if name in view.constants]


def _round(model: Any, made: Mapping[str, int], ranges: Mapping[str, Range]) -> None:
    """Weights of 8 bits, inputs and results of as many as `made` says of the node that makes a tensor."""
    view = View(model)
    editor = _Editor(model)
    made = {name: bits for name, bits in made.items() if name in view.producer}
    for node in model.graph.node:
        bits = next((made[name] for name in node.output if name in made), 0)
        for place, name in enumerate(node.input if bits else ()):
            value = view.array(name)
            if value is not None and place == 1 and node.op_type in (*_WEIGHTED, "MatMul"):
                node.input[place] = editor.weights(name, value, _axis(node, value))
            elif value is None and name in ranges and made.get(name, 32) > bits:
                maker = view.producer.get(name)
                enough = maker is not None and maker.op_type == "DequantizeLinear" and bits == _WIDEST
                node.input[place] = name if enough else editor.rounded(name, ranges[name], bits)
    for name, bits in sorted(made.items()):
        if name in ranges:
            editor.round_result(name, ranges[name], bits, view)
    editor.finish()


def _axis(node: Any, value: NDArray[Any]) -> int | None:
    """Channel axis of the weights; None for one scale."""
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    if node.op_type == "MatMul":
        return 1 if value.ndim == 2 else None
    if node.op_type == "ConvTranspose":
        return 1 if attribute(node, "group", 1) == 1 else None
    return 0


class _Editor:
    """Adds roundings; `finish` puts them into the graph."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._new: list[Any] = []
        self._done: dict[str, str] = {}

    def weights(self, name: str, value: NDArray[Any], axis: int | None) -> str:
        """The name of the same weights in 8 bits, widened."""
        if name not in self._done:
            others = tuple(place for place in range(value.ndim) if place != axis)
            largest = np.abs(value).max(axis=None if axis is None else others)
            scale = np.maximum(np.asarray(largest, np.float32) / np.float32(_INT8), _TINY)
            shaped = (
                scale if axis is None else scale.reshape([-1 if place == axis else 1 for place in range(value.ndim)])
            )
            integers = np.clip(np.rint(value / shaped), -_INT8, _INT8).astype(np.int8)
            parts = [self._constant(f"{name}_int8", integers), self._constant(f"{name}_int8_scale", scale)]
            parts.append(self._constant(f"{name}_int8_zero", np.zeros(scale.shape, np.int8)))
            self._done[name] = f"{name}_widened"
            self._node("DequantizeLinear", parts, self._done[name], **({} if axis is None else {"axis": axis}))
        return self._done[name]

    def rounded(self, name: str, seen: Range, bits: int) -> str:
        """The name of the same tensor rounded to so many bits."""
        made = f"{name}_of_{bits}_bits"
        if made not in self._done:
            low, high = min(seen.min, 0.0), max(seen.max, 0.0)
            scale = np.float32(max(-low, high) / _INT16 if bits == _WIDEST else (high - low) / _UINT8)
            scale = np.maximum(scale, _TINY)
            zero = np.int16(0) if bits == _WIDEST else np.uint8(np.clip(np.rint(-low / scale), 0, _UINT8))
            parts = [self._constant(f"{made}_scale", scale), self._constant(f"{made}_zero", zero)]
            self._node("QuantizeLinear", [name, *parts], f"{made}_integers")
            self._node("DequantizeLinear", [f"{made}_integers", *parts], made)
            self._done[made] = made
        return made

    def round_result(self, name: str, seen: Range, bits: int, view: View) -> None:
        """Let all readers of a result read it rounded; an output of the model stays as it is."""
        readers = [node for node in view.consumers.get(name, []) if name in node.input]
        if readers:
            new = self.rounded(name, seen, bits)
            for node in readers:
                for place, read in enumerate(node.input):
                    if read == name:
                        node.input[place] = new

    def finish(self) -> None:
        if self._new:
            onnx_graph.set_nodes(self._model, [*self._model.graph.node, *self._new])
            onnx_graph.sort(self._model)

    def _constant(self, name: str, value: Any) -> str:
        self._model.graph.initializer.append(onnx_graph.constant(name, np.asarray(value)))
        return name

    def _node(self, kind: str, read: Iterable[str], made: str, **attributes: Any) -> None:
        from onnx import helper

        self._new.append(helper.make_node(kind, list(read), [made], **attributes))


def _keep_weights(model: Any, lifted: Mapping[str, str]) -> None:
    """Hold onnxruntime off the weights of lifted nodes; see the module header."""
    from onnx import helper

    view = View(model)
    nodes: list[Any] = []
    lows: dict[float, str] = {}

    def low(value: float) -> str:
        if value not in lows:
            lows[value] = f"least_{len(lows)}"
            model.graph.initializer.append(onnx_graph.constant(lows[value], np.array(value, np.float32)))
        return lows[value]

    for node in model.graph.node:
        if node.op_type == "Relu" and _maker_is_held(node, view, lifted):
            nodes.append(helper.make_node("Max", [node.input[0], low(0.0)], list(node.output)))
            continue
        nodes.append(node)
        if _held(node, view, lifted) and not any(
            reader.op_type == "Relu" for reader in view.consumers.get(node.output[0], ())
        ):
            made = node.output[0]
            node.output[0] = f"{made}_held"
            nodes.append(helper.make_node("Max", [node.output[0], low(float(np.finfo(np.float32).min))], [made]))
    onnx_graph.set_nodes(model, nodes)


def _held(node: Any, view: View, lifted: Mapping[str, str]) -> bool:
    """Whether onnxruntime would quantize the float weights of a lifted node."""
    if node.op_type not in _WEIGHTED or node.output[0] not in lifted or node.output[0] in view.outputs:
        return False
    if len(node.input) < 2 or node.input[1] not in view.constants:
        return False
    maker = view.producer.get(node.input[0])
    return maker is not None and maker.op_type == "DequantizeLinear" and len(view.consumers[node.output[0]]) == 1


def _maker_is_held(node: Any, view: View, lifted: Mapping[str, str]) -> bool:
    maker = view.producer.get(node.input[0])
    return maker is not None and _held(maker, view, lifted)
