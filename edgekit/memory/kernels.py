"""Scratch memory of LiteRT's own kernels, in the arena while an op runs or for as long as the model is open.

Source: LiteRT, tflite/kernels/batch_matmul.cc, conv.cc, conv3d.cc, conv3d_transpose.cc, depthwise_conv.cc,
fully_connected.cc, reduce.cc, rfft2d.cc, transpose_conv.cc, unidirectional_sequence_lstm.cc,
detection_postprocess.cc: the temporaries that each Prepare asks for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from edgekit.formats.facts import Shape
from edgekit.formats.graph import GraphFacts, Node, Tensor

_WORD = 4
_OPERANDS = 2
"""Data, and weights or axes."""
DETECTIONS = ("CUSTOM:TFLite_Detection_PostProcess",)
_INTEGERS = frozenset({"int8", "uint8", "int4"})
_SIZES = {"int8": 1, "uint8": 1, "bool": 1, "int16": 2, "int64": 8}


@dataclass(frozen=True, slots=True)
class Temporary:
    """A tensor that a kernel adds to the graph.

    Attributes:
        bytes: In the arena; None for what lies outside.
        lasting: It outlives the op.
        used: The op lists it; else it has a number only.
    """

    bytes: int | None
    lasting: bool = False
    used: bool = True


_NUMBER = Temporary(None, used=False)
_OUTSIDE = Temporary(None)
Scratch = list[Temporary]


def scratch(node: Node, graph: GraphFacts, threads: int | None) -> Scratch:
    """What an op's kernel asks for, in the order of the tensors' numbers; nothing where a shape is unknown.

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
        or any(t is None or t.shape is None for t in (*operands[:_OPERANDS], results[0]))
    ):
        return []
    return rule(node, [*operands, None, None], results[0], threads)  # type: ignore[arg-type]


def _passing(*sizes: int) -> Scratch:
    return [Temporary(size) for size in sizes]


def _lasting(size: int) -> Temporary:
    return Temporary(size, lasting=True)


def _shape(tensor: Tensor | None) -> Shape:
    assert tensor is not None and tensor.shape is not None  # noqa: S101, PT018
    return tensor.shape


def _pair(operands: list[Tensor | None]) -> tuple[Tensor, Tensor]:
    first, second = operands[:_OPERANDS]
    assert first is not None and second is not None  # noqa: S101, PT018
    return first, second


def _size(tensor: Tensor) -> int:
    return _SIZES.get(tensor.dtype, _WORD)


def _hybrid(source: Tensor, weights: Tensor) -> bool:
    """Float activations, integer weights: the activations are rounded while the op runs."""
    return source.dtype == "float32" and weights.dtype in _INTEGERS


def _plain(node: Node, names: tuple[str, ...]) -> bool:
    return all(node.attributes.get(name, 1) == 1 for name in names)


def _convolution(node: Node, operands: list[Tensor | None], result: Tensor, threads: int | None) -> Scratch:
    source, weights = _pair(operands)
    shape, window, target = _shape(source), _shape(weights), _shape(result)
    if len(shape) != 4 or len(window) != 4 or len(target) != 4 or not window[3]:
        return []
    hybrid = _hybrid(source, weights)
    straight = _plain(node, ("dilation_w", "dilation_h"))
    fixed = weights.constant or weights.variable
    if source.dtype == "float32" and not hybrid and threads != 1 and straight and fixed:
        return [_lasting(math.prod(window) * _WORD)]  # the weights transposed, for several threads
    columns = []
    if not straight or not _plain(node, ("stride_w", "stride_h")) or window[1:3] != (1, 1):
        size = 1 if hybrid else _size(source)
        columns = _passing(math.prod(target[:3]) * math.prod(window[1:]) * size)
    if not hybrid:
        return columns
    rows = math.prod(shape) // window[3]
    found = [*columns, *_passing(math.prod(shape), _WORD * rows, _WORD * window[0] * math.prod(target[:3]))]
    if node.attributes.get("per_channel"):
        found += [Temporary(_WORD * rows), _lasting(_WORD * window[0])]
    return found


def _depthwise(_: Node, operands: list[Tensor | None], __: Tensor, ___: int | None) -> Scratch:
    source, weights = _pair(operands)
    if not _hybrid(source, weights):
        return []
    shape = _shape(source)
    return _passing(math.prod(shape), _WORD * shape[0], _WORD * shape[0])


def _volume(node: Node, operands: list[Tensor | None], result: Tensor, __: int | None) -> Scratch:
    """CONV_3D writes its windows out, unless they are the pixels themselves."""
    weights = _pair(operands)[1]
    window, target = _shape(weights), _shape(result)
    steps = ("stride_d", "stride_w", "stride_h", "dilation_d", "dilation_w", "dilation_h")
    if len(window) != 5 or (_plain(node, steps) and window[:3] == (1, 1, 1)):
        return []
    return _passing(_WORD * math.prod(target[:4]) * math.prod(window[:4]))


def _volume_transposed(node: Node, _: list[Tensor | None], __: Tensor, ___: int | None) -> Scratch:
    return [_OUTSIDE] if _plain(node, ("dilation_d", "dilation_w", "dilation_h")) else []


def _transposed(_: Node, operands: list[Tensor | None], __: Tensor, ___: int | None) -> Scratch:
    """Columns, turned weights and sums of integers lie outside the arena."""
    source, weights = operands[2], operands[1]
    assert source is not None and weights is not None  # noqa: S101, PT018
    if source.dtype in ("int8", "uint8", "int16"):
        return [_OUTSIDE] * 3
    if not _hybrid(source, weights) or source.shape is None or not _shape(weights)[-1]:
        return [_OUTSIDE] * 2
    count = math.prod(source.shape)
    scales = _WORD * (count // _shape(weights)[-1])
    return [_OUTSIDE, _OUTSIDE, *_passing(count, scales, scales)]


def _dense(_: Node, operands: list[Tensor | None], __: Tensor, ___: int | None) -> Scratch:
    source, weights = _pair(operands)
    if not _hybrid(source, weights):
        return [_NUMBER] * 6
    shape, (units, depth) = _shape(source), (*_shape(weights), 1, 1)[:2]
    batch = math.prod(shape) // depth if depth else 0
    return [
        *_passing(math.prod(shape), _WORD * batch, _WORD * units * batch, _WORD * batch),
        _lasting(_WORD * units), _NUMBER,
    ]  # fmt: skip


def _product(node: Node, operands: list[Tensor | None], _: Tensor, __: int | None) -> Scratch:
    """BATCH_MATMUL keeps room to turn both operands, used or not."""
    left, right = _pair(operands)
    one, two = _shape(left), _shape(right)
    if min(len(one), len(two)) < 2:
        return []
    turned = math.prod(two) * _size(right)
    found = [Temporary(math.prod(one) * _size(left)), Temporary(turned, lasting=right.constant)]
    if left.dtype != "float32" or right.dtype != "int8":
        return [*found, *[_NUMBER] * 5]
    rows = one[-1] if node.attributes.get("adjoint_x") else one[-2]
    units = two[-2] if node.attributes.get("adjoint_y") else two[-1]
    scales = _WORD * math.prod(one[:-2]) * rows
    found += _passing(math.prod(one), scales, _WORD * units * rows, scales)
    return [*found, _lasting(_WORD * math.prod(two[:-2]) * units)]


_SUMS = frozenset({"MEAN", "SUM", "REDUCE_PROD"})
_WIDER = {"int32": 8, "int64": 8, "bool": 1}
"""Bytes of a sum, by what is summed."""


def _reduction(node: Node, operands: list[Tensor | None], result: Tensor, __: int | None) -> Scratch:
    source, axes = _pair(operands)
    index = _WORD * len(_shape(source))
    axis = sums = _OUTSIDE
    if axes.constant:
        axis = Temporary(_WORD * math.prod(_shape(axes)))
        if node.kind in _SUMS:
            sums = Temporary(math.prod(_shape(result)) * _WIDER.get(source.dtype, _WORD))
    return [Temporary(index), axis, sums, Temporary(index) if source.constant else _OUTSIDE]


def _fourier(_: Node, operands: list[Tensor | None], result: Tensor, __: int | None) -> Scratch:
    """RFFT2D: working areas of the library."""
    length = _pair(operands)[1]
    if not length.constant or len(_shape(result)) < 2:
        return [_OUTSIDE] * 4
    height, width = _shape(result)[-2], 2 * (_shape(result)[-1] - 1)
    work = max(height, width // 2)
    return _passing(_WORD * (2 + math.isqrt(work)), 8 * (work // 2 + width // 4), 8 * height, 8 * height * (width + 2))


def _lstm(_: Node, operands: list[Tensor | None], result: Tensor, __: int | None) -> Scratch:
    cells = _shape(operands[2])[0] if operands[2] is not None and operands[2].shape else 0
    batch = _shape(result)[0] if len(_shape(result)) == 3 else 1
    if operands[0] is not None and operands[0].dtype == "float32":
        gates = 5 if operands[1] is not None else 4
        return _passing(_WORD * batch * (gates * cells + 16))
    return _passing(*[2 * batch * cells] * 4, batch * cells, _WORD * batch * cells)


def _detections(_: Node, operands: list[Tensor | None], __: Tensor, ___: int | None) -> Scratch:
    """Decoded boxes, and scores as floats."""
    boxes, scores = _shape(operands[0]), _shape(operands[1])
    count = boxes[1] if len(boxes) > 1 else 0
    return _passing(_WORD * 4 * count, _WORD * math.prod(scores))


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


_RULES: dict[str, Callable[[Node, list[Tensor | None], Tensor, int | None], Scratch]] = {
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _dense,
    "BATCH_MATMUL": _product,
    "CONV_3D": _volume,
    "CONV_3D_TRANSPOSE": _volume_transposed,
    "TRANSPOSE_CONV": _transposed,
    "RFFT2D": _fourier,
    **dict.fromkeys((*_SUMS, "REDUCE_MAX", "REDUCE_MIN", "REDUCE_ANY", "REDUCE_ALL"), _reduction),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": _lstm,
    **dict.fromkeys(DETECTIONS, _detections),
}
