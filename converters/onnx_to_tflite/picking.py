"""A step that is picked from a sequence is read where it is made, and steps that nobody reads are not made.

Recurrent layers are written out step by step and packed again; most networks go on with the last step alone.
"""

from __future__ import annotations

import math

from edgekit.converters.onnx_to_tflite.draft import Draft, Op, Tensor


def pick(draft: Draft, makers: dict[Tensor, Op], op: Op) -> bool:
    """Let a SLICE of one element of packed tensors, perhaps joined along another axis, read these; in place."""
    source, at = op.inputs[0], _picked(op)
    if source is None or at is None or source not in makers:
        return False
    axis, place = at
    maker = makers[source]
    before = maker.inputs[0]
    if maker.kind == "RESHAPE" and before in makers:
        same = _same_axis(source, axis, before)
        if same is None:
            return False
        source, maker, axis = before, makers[before], same
    if maker.kind == "CONCATENATION" and (
        maker.options["axis"] % source.rank == axis or maker.options.get("fusedActivationFunction")
    ):
        return False
    joined = maker.inputs if maker.kind == "CONCATENATION" else [source]
    packs = [makers[part] for part in joined if part in makers]
    if len(packs) < len(joined) or any(
        pack.kind != "PACK" or pack.options["axis"] % pack.output.rank != axis for pack in packs
    ):
        return False
    parts = [pack.inputs[place] for pack in packs]
    number = draft.ops.index(op)
    made, added = parts[0], []
    if len(parts) > 1:
        shape, along = list(source.shape), maker.options["axis"] % source.rank
        del shape[axis]
        made = Tensor(f"{op.output.name}/parts", tuple(shape), op.output.dtype)
        added = [Op(maker.kind, parts, [made], maker.options | {"axis": along - (along > axis)}, op.origin)]
    sizes = draft.ints(op.output.shape)
    draft.ops[number : number + 1] = [
        *added, Op("RESHAPE", [made, sizes], [op.output], {"newShape": sizes.data}, op.origin)
    ]  # fmt: skip
    return True


def _same_axis(reshaped: Tensor, axis: int, before: Tensor) -> int | None:
    """Which axis this one was before a reshape that cuts and joins only what lies before and behind it."""
    count, ahead = reshaped.shape[axis], math.prod(reshaped.shape[:axis])
    found = [at for at, size in enumerate(before.shape) if size == count and math.prod(before.shape[:at]) == ahead]
    return found[0] if found else None


def _picked(op: Op) -> tuple[int, int] | None:
    """The axis along which a SLICE takes one element of several and all of the others, and which one."""
    if op.kind != "SLICE" or op.inputs[0] is None or op.inputs[1] is None or op.inputs[1].data is None:
        return None
    before, after = op.inputs[0].shape, op.output.shape
    cut = [axis for axis, size in enumerate(after) if size != before[axis]]
    if len(cut) != 1 or math.prod(after) * before[cut[0]] != math.prod(before):
        return None
    return cut[0], int(op.inputs[1].data[cut[0]])
