"""QuantizeLinear, DequantizeLinear and the operators that have them inside.

By default they are the arithmetic that ONNX defines, in float32. For a graph that was quantized as a whole, the walk is
told to keep ranges instead (`Lowering.ranges`): what is quantized and dequantized again stays a real number whose
tensor knows the range that its integers could show, and the quantizer writes integer operators with those.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekit.converters.onnx_to_tflite import steps
from edgekit.converters.onnx_to_tflite.activations import Maths
from edgekit.converters.onnx_to_tflite.draft import Array, Tensor
from edgekit.converters.onnx_to_tflite.lowering import Lowering
from edgekit.converters.onnx_to_tflite.nodes import Node, Value, axis_of
from edgekit.converters.onnx_to_tflite.refusal import Refused
from edgekit.converters.onnx_to_tflite.registry import lowers

_LIMITS = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767), "uint16": (0, 65535)}


@lowers("DequantizeLinear")
@lowers("DequantizeLinear", domain="com.microsoft")
def _dequantize(low: Lowering, node: Node) -> None:
    value, output = node.value(), node.output
    scale, zero = _parameters(node, value)
    if node.domain:
        output.shape, output.dtype = value.shape, "float32"
    if value.data is not None and scale.data is not None and (zero is None or zero.data is not None):
        shape = _spread(node, value, scale)
        offset = 0 if zero is None or zero.data is None else zero.data.astype(np.float32).reshape(shape)
        real = (value.data.astype(np.float32) - offset) * scale.data.astype(np.float32).reshape(shape)
        output.data = real.astype(output.dtype)
        return
    if low.ranges and value.scaled is not None:
        low.alias(output, value.scaled)
        return
    order, do = low.order([value]), Maths(low)
    x = steps.cast(low.draft, low.get(value, order), "float32")
    if zero is not None:
        x = do("SUB", x, _along(low, node, value, zero, order))
    low.put(output, do("MUL", x, _along(low, node, value, scale, order)), order)


@lowers("QuantizeLinear")
@lowers("QuantizeLinear", domain="com.microsoft")
def _quantize(low: Lowering, node: Node) -> None:
    value, output = node.value(), node.output
    scale, zero = _parameters(node, value)
    if node.domain:
        output.shape, output.dtype = value.shape, zero.dtype if zero is not None else "uint8"
    if output.dtype not in _LIMITS:
        raise Refused(f"no kernel of TFLite computes in {output.dtype}")
    lowest, highest = _LIMITS[output.dtype]
    if low.ranges and scale.data is not None and scale.size == 1 and value.data is None:
        offset = 0 if zero is None or zero.data is None else int(zero.data.reshape(-1)[0])
        step = float(scale.data.reshape(-1)[0])
        # A reshape that was put off stays so: its elements have this range, too.
        held = value.flat if value.flat is not None and not value.forms else value
        low.get(held, low.order([held]))
        for tensor in held.forms.values():
            if tensor.range is None or held is value:
                tensor.range = ((lowest - offset) * step, (highest - offset) * step)
        output.scaled = value
        return
    order, do = low.order([value]), Maths(low)
    divided = do("DIV", low.get(value, order), _along(low, node, value, scale, order))
    whole = do("ROUND", divided)
    if zero is not None:
        whole = do("ADD", whole, _along(low, node, value, zero, order))
    inside = do("MINIMUM", do("MAXIMUM", whole, float(lowest)), float(highest))
    low.put(output, steps.cast(low.draft, steps.cast(low.draft, inside, "int32"), output.dtype), order)


def _parameters(node: Node, value: Value) -> tuple[Value, Value | None]:
    scale = node.value(1)
    if node.attribute("block_size", 0):
        raise Refused("its scales are for blocks, which TFLite's kernels do not know")
    if scale.size > 1 and scale.size != value.shape[axis_of(node.attribute("axis", 1), value.rank)]:
        raise Refused("its scales do not fit its axis")
    return scale, node.maybe(2)


def _spread(node: Node, value: Value, scale: Value) -> list[int]:
    """The shape in which scales broadcast against the value."""
    shape = [1] * value.rank
    if scale.size > 1:
        shape[axis_of(node.attribute("axis", 1), value.rank)] = scale.size
    return shape


def _along(low: Lowering, node: Node, value: Value, part: Value, order: tuple[int, ...]) -> Tensor:
    tensor = steps.cast(low.draft, low.get(part), "float32")
    return steps.transpose(low.draft, steps.reshape(low.draft, tensor, _spread(node, value, part)), order)


# Operators with integers inside are written out: dequantize, compute, quantize.


class _Written:
    """Nodes in place of one."""

    def __init__(self, low: Lowering, node: Node) -> None:
        self.low, self.node, self.nodes = low, node, list[Any]()
        self.scope: dict[str, Value | None] = {}
        self._count = 0

    def give(self, value: Value) -> str:
        """A name by which the nodes know a value."""
        self._count += 1
        name = f"{self.node.name}/{self._count}"
        self.scope[name] = value
        return name

    def constant(self, array: Array) -> str:
        """A constant's name."""
        return self.give(Value(f"{self.node.name}/constant", tuple(array.shape), array.dtype.name, array))

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """A node; the name of its output."""
        from onnx import helper

        self._count += 1
        made = f"{self.node.name}/{kind}_{self._count}"
        self.nodes.append(helper.make_node(kind, list(inputs), [made], **attributes))
        return made

    def real(self, at: int, scale: int, zero: int | None, axis: int | None = None) -> str:
        """An input as a real number."""
        parts = [self.give(self.node.value(at)), self.give(self.node.value(scale))]
        if zero is not None and self.node.maybe(zero) is not None:
            parts.append(self.give(self.node.value(zero)))
        return self.add("DequantizeLinear", *parts, **({} if axis is None else {"axis": axis}))

    def whole(self, name: str, scale: int, zero: int) -> str:
        """A real number as the node's integers."""
        parts = [self.give(self.node.value(scale))]
        if self.node.maybe(zero) is not None:
            parts.append(self.give(self.node.value(zero)))
        return self.add("QuantizeLinear", name, *parts)

    def finish(self, name: str) -> None:
        """Walk the nodes; the last name is the answer."""
        before = len(self.low.gaps)
        self.low.walk(self.nodes, self.scope, {"": 21, "com.microsoft": 1})
        if len(self.low.gaps) > before:
            why = self.low.gaps[before].why
            del self.low.gaps[before:]
            raise Refused(why)
        found = self.scope[name]
        if found is None:
            raise Refused("it could not be written out")
        self.low.alias(self.node.output, found)


def _axis(node: Node, scale: int, axis: int) -> int | None:
    return axis if node.value(scale).size > 1 else None


@lowers("QLinearConv")
def _qlinear_conv(low: Lowering, node: Node) -> None:
    written = _Written(low, node)
    parts = [written.real(0, 1, 2), written.real(3, 4, 5, _axis(node, 4, 0))]
    if node.maybe(8) is not None:
        bias = node.constant(8, "bias")
        scale = np.asarray(node.constant(1, "scale")) * np.asarray(node.constant(4, "scale"))
        parts.append(written.constant((np.asarray(bias) * scale.reshape(-1)).astype(np.float32)))
    written.finish(written.whole(written.add("Conv", *parts, **_plain(node)), 6, 7))


def _plain(node: Node) -> dict[str, Any]:
    return {key: value for key, value in node.attributes.items() if key != "channels_last"}


@lowers("QLinearMatMul")
def _qlinear_matmul(low: Lowering, node: Node) -> None:
    written = _Written(low, node)
    rank = node.value(3).rank
    product = written.add("MatMul", written.real(0, 1, 2), written.real(3, 4, 5, _axis(node, 4, rank - 1)))
    written.finish(written.whole(product, 6, 7))


@lowers("QGemm", domain="com.microsoft")
def _qgemm(low: Lowering, node: Node) -> None:
    written = _Written(low, node)
    a, b = written.real(0, 1, 2), written.real(3, 4, 5, _axis(node, 4, 0 if node.attribute("transB", 0) else 1))
    parts = [a, b]
    if node.maybe(6) is not None:
        scale = np.asarray(node.constant(1, "scale")) * np.asarray(node.constant(4, "scale"))
        bias = np.asarray(node.constant(6, "bias")) * scale.reshape(-1) * float(node.attribute("alpha", 1.0))
        parts.append(written.constant(bias.astype(np.float32)))
    product = written.add("Gemm", *parts, **_plain(node))
    written.finish(written.whole(product, 7, 8) if node.maybe(7) is not None else product)


@lowers("QLinearAdd", "QLinearMul", domain="com.microsoft")
def _qlinear_pair(low: Lowering, node: Node) -> None:
    written = _Written(low, node)
    made = written.add(node.op.removeprefix("QLinear"), written.real(0, 1, 2), written.real(3, 4, 5))
    written.finish(written.whole(made, 6, 7))


@lowers("QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax", "QLinearGlobalAveragePool", "QLinearAveragePool",
        domain="com.microsoft")  # fmt: skip
def _qlinear_one(low: Lowering, node: Node) -> None:
    if node.attribute("channels_last", 0):
        raise Refused("its channels are last, which no exporter writes")
    written = _Written(low, node)
    attributes = {key: value for key, value in _plain(node).items() if key != "opset"}
    made = written.add(node.op.removeprefix("QLinear"), written.real(0, 1, 2), **attributes)
    written.finish(written.whole(made, 3, 4))


@lowers("QLinearConcat", domain="com.microsoft")
def _qlinear_concat(low: Lowering, node: Node) -> None:
    written = _Written(low, node)
    parts = [written.real(at, at + 1, at + 2) for at in range(2, len(node.inputs), 3)]
    written.finish(written.whole(written.add("Concat", *parts, **_plain(node)), 0, 1))


@lowers("MatMulInteger", "ConvInteger")
def _integers(low: Lowering, node: Node) -> None:
    """Sums of products of bytes, exact in float32 while they stay below 2^24."""
    a, b = node.value(0), node.value(1)
    depth = a.shape[-1] if node.op == "MatMulInteger" else int(np.prod(b.shape[1:]))
    if depth > (1 << 24) // (255 * 255):
        raise Refused(f"its sums of {depth} products of bytes are not exact in float32")
    written = _Written(low, node)
    one = written.constant(np.ones((), np.float32))
    parts = []
    for at, zero in ((0, 2), (1, 3)):
        name = written.give(node.value(at))
        offset = node.maybe(zero)
        if offset is not None and offset.size > 1:
            raise Refused("it has a zero point for each row or channel")
        parts.append(
            written.add("DequantizeLinear", name, one, *([written.give(offset)] if offset is not None else []))
        )
    kind = "MatMul" if node.op == "MatMulInteger" else "Conv"
    made = written.add(kind, *parts, **_plain(node))
    written.finish(written.add("Cast", written.add("Round", made), to=6))
