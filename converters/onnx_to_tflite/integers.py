"""Ranges of a draft whose source was quantized: what its integers said, and what follows from it.

The source gives a range to each tensor that it quantizes. Operators that only move elements have the range of what
they move; bounded functions have their bounds.
"""

from __future__ import annotations

from edgekit.converters.onnx_to_tflite.draft import Draft, Op, Tensor

Bounds = tuple[float, float]

_MOVES = {
    "RESHAPE": 0, "TRANSPOSE": 0, "SLICE": 0, "STRIDED_SLICE": 0, "GATHER": 0, "PAD": 0, "MAX_POOL_2D": 0, "SPLIT": 1,
    "SPLIT_V": 0, "TILE": 0, "DEPTH_TO_SPACE": 0, "SPACE_TO_DEPTH": 0, "BROADCAST_TO": 0, "REVERSE_V2": 0,
    "RESIZE_NEAREST_NEIGHBOR": 0, "RESIZE_BILINEAR": 0, "MIRROR_PAD": 0,
}  # fmt: skip
"""Operator -> the input whose elements it moves."""

_AVERAGES = {"AVERAGE_POOL_2D": 0, "MEAN": 0, "REDUCE_MAX": 0, "REDUCE_MIN": 0}
_BOUNDED: dict[str, Bounds] = {"SOFTMAX": (0.0, 1.0), "LOGISTIC": (0.0, 1.0), "TANH": (-1.0, 1.0)}


def spread(draft: Draft) -> None:
    """Give ranges to tensors that follow from others, in place."""
    while sum(_forward(op) + _backward(op) for op in draft.ops):
        pass


def _take(tensor: Tensor | None, bounds: Bounds | None) -> bool:
    if tensor is None or tensor.data is not None or tensor.range is not None or bounds is None:
        return False
    tensor.range = bounds
    return True


def _forward(op: Op) -> bool:
    place = _MOVES.get(op.kind, _AVERAGES.get(op.kind))
    if place is not None:
        source = op.inputs[place]
        bounds = source.range if source is not None else None
        return sum(_take(made, bounds) for made in op.outputs) > 0
    if op.kind == "CONCATENATION":
        ranges = [part.range for part in op.inputs if part is not None]
        known = [bounds for bounds in ranges if bounds is not None]
        if len(known) == len(ranges):
            return _take(op.output, (min(low for low, _ in known), max(high for _, high in known)))
    return _take(op.output, _BOUNDED.get(op.kind))


def _backward(op: Op) -> bool:
    place = _MOVES.get(op.kind)
    if place is not None:
        return _take(op.inputs[place], op.output.range)
    if op.kind == "CONCATENATION":
        return sum(_take(part, op.output.range) for part in op.inputs) > 0
    return False
