"""Steps along several axes, which exporters write one axis after the other, by one STRIDED_SLICE."""

from __future__ import annotations

from edgekit.converters.onnx_to_tflite.draft import Draft, Op


def join(draft: Draft, before: Op, op: Op) -> bool:
    """Let `op` do what `before` does as well; whether it can, since they cut other axes.

    An axis that is taken whole is one that the mask of beginnings names, see `slices.cut_out`.
    """
    first, second = before.options["beginMask"], op.options["beginMask"]
    parts = [(one, other) for one, other in zip(before.inputs[1:], op.inputs[1:], strict=True)]
    if any(part is None or part.data is None for pair in parts for part in pair):
        return False
    axes = range(op.output.rank)
    if before.output.rank != op.output.rank or any(not (first | second) >> axis & 1 for axis in axes):
        return False
    chosen = [before if not first >> axis & 1 else op for axis in axes]
    numbers = [
        draft.ints(int(who.inputs[at].data[axis]) for axis, who in enumerate(chosen))  # type: ignore[union-attr,index]
        for at in (1, 2, 3)
    ]
    op.options = {
        **op.options,
        "beginMask": first & second,
        "endMask": sum(1 << axis for axis, who in enumerate(chosen) if who.options["endMask"] >> axis & 1),
    }
    op.inputs = [before.inputs[0], *numbers]
    return True
