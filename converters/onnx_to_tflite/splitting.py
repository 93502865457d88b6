"""A fully connected operator whose result is only cut up becomes one for each part.

Attention computes queries, keys and values at once. Cutting these apart copies every element; three operators that
compute a part each multiply as much and copy nothing, and what scales a part goes into its weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from edgekit.converters.onnx_to_tflite.draft import Draft, Op, Shape, Tensor

Part = tuple[Tensor, int, int]
"""What holds it, and its first and last but one output."""


def split(draft: Draft, readers: dict[Tensor, list[Op]], dense: Op) -> bool:
    """Split one operator, in place; whether that was done."""
    made, weights = dense.output, dense.inputs[1]
    if dense.kind != "FULLY_CONNECTED" or made in draft.outputs or weights is None or weights.data is None:
        return False
    bias = dense.inputs[2] if len(dense.inputs) > 2 else None
    if weights.quant is not None or weights.dtype != "float32" or (bias is not None and bias.data is None):
        return False
    width = made.shape[-1]
    cutters = list(_cutters(draft, readers, made, width))
    found = [list(_parts(op, width)) for op in cutters]
    parts = [part for some in found for part in some]
    if len(parts) < 2 or not all(found) or sum(last - first for _, first, last in parts) > width:
        return False
    at = draft.ops.index(dense)
    added: list[Op] = []
    for held, first, last in parts:
        shape = (*made.shape[:-1], last - first)
        target = held if held.shape == shape else Tensor(f"{held.name}/part", shape, held.dtype, range=held.range)
        offset = None if bias is None or bias.data is None else draft.constant(bias.data[first:last])
        inputs = [dense.inputs[0], draft.constant(weights.data[first:last]), offset]
        added.append(Op(dense.kind, inputs, [target], dict(dense.options), dense.origin))
        if target is not held:
            sizes = draft.ints(held.shape)
            added.append(Op("RESHAPE", [target, sizes], [held], {"newShape": sizes.data}, dense.origin))
    draft.ops[at : at + 1] = added
    for cutter in cutters:
        draft.ops.remove(cutter)
    return True


def _cutters(draft: Draft, readers: dict[Tensor, list[Op]], tensor: Tensor, width: int) -> Iterator[Op]:
    """What reads a tensor, perhaps as other rows or with its last axis in several."""
    for op in readers.get(tensor, []):
        if op.kind == "RESHAPE" and _last(op.output.shape, width) is not None and op.output not in draft.outputs:
            yield from _cutters(draft, readers, op.output, width)
        else:
            yield op


def _last(shape: Shape, width: int) -> int | None:
    """The axis from which on a shape holds the outputs of the operator."""
    for axis in range(len(shape) - 1, -1, -1):
        if math.prod(shape[axis:]) == width:
            return axis
    return None


def _parts(op: Op, width: int) -> Iterator[Part]:
    """Parts of the outputs that an operator cuts out in one piece; none where it does anything else."""
    if op.kind == "SLICE":
        whole, begin, size = op.inputs
        if whole is None or begin is None or size is None or begin.data is None or size.data is None:
            return
        start = _last(whole.shape, width)
        cut = [axis for axis in range(whole.rank) if op.output.shape[axis] != whole.shape[axis]]
        if start is None or len(cut) != 1 or cut[0] < start or math.prod(whole.shape[start : cut[0]]) != 1:
            return
        step = math.prod(whole.shape[cut[0] + 1 :])
        first = int(begin.data[cut[0]]) * step
        yield op.output, first, first + op.output.shape[cut[0]] * step
    elif op.kind == "SPLIT":
        axis, whole = op.inputs
        if axis is None or axis.data is None or whole is None or int(axis.data) % whole.rank != whole.rank - 1:
            return
        if whole.shape[-1] != width:
            return
        step = width // len(op.outputs)
        for number, part in enumerate(op.outputs):
            yield part, number * step, (number + 1) * step
