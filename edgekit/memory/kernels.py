"""Scratch memory of LiteRT's own kernels, in the arena while an op runs or for as long as the model is open.

Source: LiteRT, tflite/kernels/conv.cc, depthwise_conv.cc, fully_connected.cc, reduce.cc and
unidirectional_sequence_lstm.cc,
detection_postprocess.cc: the temporaries that each Prepare asks for.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from edgekit.formats.facts import Shape
from edgekit.formats.graph import GraphFacts, Node, Tensor

_WORD = 4
_OPERANDS = 2
"""Data, and weights or axes."""
DETECTIONS = ("CUSTOM:TFLite_Detection_PostProcess",)
_INTEGERS = frozenset({"int8", "uint8", "int4"})

Scratch = tuple[list[int], list[int]]
"""Bytes of the temporaries, and of those that outlive the op."""


def scratch(node: Node, graph: GraphFacts, threads: int | None) -> Scratch:
    """What an op's kernel asks for; nothing where a shape is unknown.

    Args:
        node: The op.
        graph: Its graph.
        threads: Of the interpreter; None for its default.
    """
    rule = _RULES.get(node.kind)
    operands = [graph.tensors[key] if key is not None and key in graph.tensors else None for key in node.inputs]
    results = [graph.tensors[key] if key is not None and key in graph.tensors else None for key in node.outputs]
    if (
        rule is None
        or not operands
        or not results
        or any(t is None or t.shape is None for t in (*operands[:2], results[0]))
    ):
        return [], []
    return rule(node, [*operands, None, None], results[0], threads)  # type: ignore[arg-type]


def _shape(tensor: Tensor | None) -> Shape:
    assert tensor is not None and tensor.shape is not None  # noqa: S101, PT018
    return tensor.shape


def _convolution(node: Node, operands: list[Tensor | None], result: Tensor, threads: int | None) -> Scratch:
    source, weights = operands[:2]
    assert source is not None and weights is not None  # noqa: S101, PT018
    shape, window, target = _shape(source), _shape(weights), _shape(result)
    if len(shape) != 4 or len(window) != 4 or len(target) != 4 or not window[3]:
        return [], []
    hybrid = source.dtype == "float32" and weights.dtype in _INTEGERS
    dilated = node.attributes.get("dilation_w", 1) != 1 or node.attributes.get("dilation_h", 1) != 1
    if source.dtype == "float32" and not hybrid and threads != 1 and not dilated and weights.constant:
        return [], [_bytes(window, _WORD)]  # the weights transposed, for several threads
    size = 1 if hybrid or source.dtype in _INTEGERS else 2 if source.dtype == "int16" else _WORD
    stride = node.attributes.get("stride_w", 1) != 1 or node.attributes.get("stride_h", 1) != 1
    columns = []
    if dilated or stride or window[1:3] != (1, 1):
        columns = [target[0] * target[1] * target[2] * math.prod(window[1:]) * size]
    if not hybrid:
        return columns, []
    rows = math.prod(shape) // window[3]
    found = [*columns, math.prod(shape), _WORD * rows, _WORD * window[0] * math.prod(target[:3])]
    if node.attributes.get("per_channel"):
        return [*found, _WORD * rows], [_WORD * window[0]]
    return found, []


def _depthwise(_: Node, operands: list[Tensor | None], __: Tensor, ___: int | None) -> Scratch:
    source, weights = operands[:2]
    assert source is not None and weights is not None  # noqa: S101, PT018
    if source.dtype != "float32" or weights.dtype not in _INTEGERS:
        return [], []
    shape = _shape(source)
    return [math.prod(shape), _WORD * shape[0], _WORD * shape[0]], []


def _dense(_: Node, operands: list[Tensor | None], __: Tensor, ___: int | None) -> Scratch:
    source, weights = operands[:2]
    assert source is not None and weights is not None  # noqa: S101, PT018
    if source.dtype != "float32" or weights.dtype not in _INTEGERS:
        return [], []
    shape, (units, depth) = _shape(source), (*_shape(weights), 1, 1)[:2]
    batch = math.prod(shape) // depth if depth else 0
    return [math.prod(shape), _WORD * batch, _WORD * units * batch, _WORD * batch], [_WORD * units]


def _reduction(_: Node, operands: list[Tensor | None], result: Tensor, __: int | None) -> Scratch:
    return [
        _WORD * len(_shape(operands[0])),
        _WORD * math.prod(_shape(operands[1])),
        _WORD * math.prod(_shape(result)),
    ], []


def _lstm(_: Node, operands: list[Tensor | None], result: Tensor, __: int | None) -> Scratch:
    cells = _shape(operands[2])[0] if operands[2] is not None and operands[2].shape else 0
    batch = _shape(result)[0] if len(_shape(result)) == 3 else 1
    if operands[0] is not None and operands[0].dtype == "float32":
        gates = 5 if operands[1] is not None else 4
        return [_WORD * batch * (gates * cells + 16)], []
    return [*[2 * batch * cells] * 4, batch * cells, _WORD * batch * cells], []


def _detections(_: Node, operands: list[Tensor | None], __: Tensor, ___: int | None) -> Scratch:
    """Decoded boxes, and scores as floats."""
    boxes, scores = _shape(operands[0]), _shape(operands[1])
    count = boxes[1] if len(boxes) > 1 else 0
    return [_WORD * 4 * count, _WORD * math.prod(scores)], []


def idle(node: Node, graph: GraphFacts) -> tuple[int, ...]:
    """Which temporaries of an op are never written: scores that are floats already."""
    key = node.inputs[1] if node.kind in DETECTIONS and len(node.inputs) > 1 else None
    scores = None if key is None else graph.tensors.get(key)
    return (1,) if scores is not None and scores.dtype == "float32" else ()


def heap(node: Node, graph: GraphFacts) -> int:
    """Bytes outside the arena while an op runs: the detections' classes in the order of their scores, and the like."""
    key = node.inputs[1] if node.kind in DETECTIONS and len(node.inputs) > 1 else None
    scores = None if key is None else graph.tensors.get(key)
    if scores is None or not scores.shape:
        return 0
    return _WORD * math.prod(scores.shape) + 3 * _WORD * math.prod(scores.shape[:-1])


def _bytes(shape: Shape, size: int) -> int:
    return math.prod(shape) * size


_RULES: dict[str, Callable[[Node, list[Tensor | None], Tensor, int | None], Scratch]] = {
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _dense,
    "MEAN": _reduction,
    "SUM": _reduction,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": _lstm,
    **dict.fromkeys(DETECTIONS, _detections),
}
