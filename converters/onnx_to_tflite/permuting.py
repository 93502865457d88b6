"""Orders of channels that the weights beside them take in: what moves them while the model runs is not needed then."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.converters.onnx_to_tflite.draft import Array, Draft, Op, Tensor

_OUTPUTS = {"CONV_2D": 0, "FULLY_CONNECTED": 0}
"""Operator -> axis of its weights that is the output's last; of every place of it alike."""
_INPUTS = {"CONV_2D": 3, "FULLY_CONNECTED": 1}
"""The same of its input."""


def permutation(op: Op) -> Array | None:
    """Which of the channels, that come last, each one is that an operator GATHERs; None where it leaves some out."""
    if op.kind != "GATHER" or op.options.get("batchDims") or op.inputs[0] is None or op.inputs[1] is None:
        return None
    places, source = op.inputs[1].data, op.inputs[0]
    if places is None or places.ndim != 1 or op.options.get("axis") != source.rank - 1:
        return None
    return places if sorted(places.tolist()) == list(range(source.shape[-1])) else None


def turned_rows(before: Tensor, reshaped: Tensor, order: Sequence[int]) -> Array | None:
    """Rows of features that were reshaped and transposed, in the order in which a reshape alone gives that.

    Args:
        before: [N, features].
        reshaped: [N, ...].
        order: Of the axes of `reshaped` in the transposition; the first stays.
    """
    if before.rank != 2 or reshaped.shape[0] != before.shape[0] or order[0] != 0:
        return None
    return (
        np.arange(before.shape[1]).reshape(reshaped.shape[1:]).transpose([axis - 1 for axis in order[1:]]).reshape(-1)
    )


def made_in_order(draft: Draft, maker: Op, places: Array) -> bool:
    """Let an operator with weights make its channels in another order; whether it can."""
    axis = _OUTPUTS.get(maker.kind)
    if axis is None or any(not _plain(part) for part in maker.inputs[1:]):
        return False
    maker.inputs[1:] = [None if part is None else _taken(draft, part, places, axis) for part in maker.inputs[1:]]
    return True


def read_in_order(draft: Draft, reader: Op, places: Array) -> bool:
    """Let an operator with weights take channels before they were put in order; whether it can."""
    axis = _INPUTS.get(reader.kind)
    weights = reader.inputs[1] if axis is not None else None
    if axis is None or weights is None or not _plain(weights) or weights.shape[axis] != len(places):
        return False
    reader.inputs[1] = _taken(draft, weights, np.argsort(places), axis)
    return True


def _plain(part: Tensor | None) -> bool:
    """Whether it is left out, or a constant of real numbers."""
    return part is None or (part.data is not None and part.quant is None and part.dtype == "float32")


def _taken(draft: Draft, part: Tensor, places: Array, axis: int) -> Tensor:
    if part.data is None:
        raise TypeError("weights are no constant")
    return draft.constant(np.ascontiguousarray(np.take(part.data, places, axis)), part.name)
