"""Transpositions move down through reshapes and arithmetic until they meet the next one, and both become one.

Exporters write attention as transpositions and reshapes by turns; each reshape that only splits or joins neighbours can
stand before a transposition as well as behind it.
"""

from __future__ import annotations

from edgekit.converters.onnx_to_tflite.draft import Draft, Op, Tensor
from edgekit.converters.onnx_to_tflite.regrouping import regrouped

_PLAIN = frozenset({"MUL", "ADD", "SUB", "DIV"})


def below_reshape(draft: Draft, before: Op, reshape: Op) -> bool:
    """TRANSPOSE, RESHAPE as RESHAPE, TRANSPOSE, where no element has to move for it."""
    source, middle = before.inputs[0], before.output
    permutation = _permutation(before)
    if source is None or permutation is None:
        return False
    order = tuple(permutation.index(axis) for axis in range(len(permutation)))
    kept = regrouped(middle.shape, reshape.output.shape, order)
    if kept is None:
        return False
    shape = tuple(reshape.output.shape[axis] for axis in kept)
    made = Tensor(middle.name, shape, source.dtype, quant=source.quant, range=middle.range)
    at = draft.ops.index(reshape)
    first = Op("RESHAPE", [source, draft.ints(shape)], [made], dict(reshape.options), reshape.origin)
    first.options["newShape"] = draft.ints(shape).data
    back = draft.ints(kept.index(axis) for axis in range(len(kept)))
    draft.ops[at] = first
    draft.ops.insert(at + 1, Op("TRANSPOSE", [made, back], [reshape.output], {}, reshape.origin))
    return True


def below_number(draft: Draft, before: Op, op: Op) -> bool:
    """TRANSPOSE or RESHAPE, then arithmetic with a number, the other way round."""
    source = before.inputs[0]
    numbers = [part for part in op.inputs if part is not None and part is not before.output]
    if op.kind not in _PLAIN or source is None or any(part.data is None or part.size != 1 for part in numbers):
        return False
    if any(len(part.shape) > len(source.shape) for part in numbers):
        return False  # it gives its axes to the result
    made = Tensor(before.output.name, source.shape, source.dtype, quant=source.quant, range=op.output.range)
    at = draft.ops.index(op)
    inputs = [source if part is before.output else part for part in op.inputs]
    draft.ops[at] = Op(op.kind, inputs, [made], op.options, op.origin)
    draft.ops.insert(at + 1, Op(before.kind, [made, before.inputs[1]], [op.output], dict(before.options), op.origin))
    return True


def _permutation(op: Op) -> list[int] | None:
    axes = op.inputs[1]
    return None if axes is None or axes.data is None else [int(axis) for axis in axes.data]
