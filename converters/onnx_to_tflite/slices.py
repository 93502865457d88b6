"""Slice, of constant bounds and of such that are computed; and what is cut out elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.converters.onnx_to_tflite import steps
from edgekit.converters.onnx_to_tflite.draft import Shape, Tensor
from edgekit.converters.onnx_to_tflite.lowering import Lowering
from edgekit.converters.onnx_to_tflite.nodes import Node, Value, axis_of
from edgekit.converters.onnx_to_tflite.refusal import Refused
from edgekit.converters.onnx_to_tflite.registry import lowers


@lowers("Slice")
def _slice(low: Lowering, node: Node) -> None:
    value, output = node.value(), node.output
    if any(part is not None and part.data is None for part in node.inputs[1:]) or low.sizes.any([value]):
        _slice_fed(low, node)
        return
    starts, ends = node.ints("starts", 1) or [], node.ints("ends", 2) or []
    axes = node.ints("axes", 3, range(len(starts))) or []
    every = node.ints("steps", 4, [1] * len(starts)) or []
    cuts = [slice(None)] * value.rank
    for start, end, given, step in zip(starts, ends, axes, every, strict=True):
        axis = axis_of(given, value.rank)
        # ONNX clamps what lies outside, as Python does; a negative end of a negative step stands before the start.
        cuts[axis] = slice(start, None if step < 0 and end < -value.shape[axis] else end, step)
    if output.shape == value.shape and all(cut.step in (None, 1) for cut in cuts):
        low.alias(output, value)
        return
    order = low.order([value])
    low.put(output, cut_out(low, low.get(value, order), [cuts[axis] for axis in order]), order)


_FAR = 1 << 30
"""Beyond every axis; twice as much is still an int32."""


def _slice_fed(low: Lowering, node: Node) -> None:
    """With bounds that are computed while the model runs: the kernel reads them as Python would, and so does ONNX."""
    value, output, draft = node.value(), node.output, low.draft
    x = low.get(value)
    own, x = x.dtype, movable(low, x, "STRIDED_SLICE")
    count = node.value(1).size
    axes = node.maybe(3)
    places = draft.ints(range(count)) if axes is None else wrapped(low, axes, value.rank)
    bounds = []
    for index, usual in ((1, 0), (2, _FAR), (4, 1)):
        given = node.maybe(index)
        numbers = draft.ints([1] * count) if given is None else near(low, given)
        bounds.append(scattered(low, places, numbers, [value.rank], usual))
    made = draft.emit(
        "STRIDED_SLICE", [x, *bounds], output.shape,
        beginMask=0, endMask=0, ellipsisMask=0, newAxisMask=0, shrinkAxisMask=0,
    )  # fmt: skip
    low.put(output, steps.cast(draft, made, own))


def near(low: Lowering, value: Value) -> Tensor:
    """Bounds as int32; what lies beyond every axis is brought near."""
    if value.data is not None:
        return low.draft.ints(np.clip(value.data.reshape(-1), -_FAR, _FAR))
    x = low.get(value)
    for kind, bound in (("MAXIMUM", -_FAR), ("MINIMUM", _FAR)):
        x = steps.binary(low.draft, kind, x, low.draft.scalar(bound, x.dtype))
    return steps.cast(low.draft, x, "int32")


def scattered(low: Lowering, places: Tensor, numbers: Tensor, shape: Sequence[int], usual: int) -> Tensor:
    """Integers at their places [n] along the first axis of `shape`, and a usual one where there are none."""
    draft = low.draft
    column = steps.reshape(draft, places, [places.size, 1])
    less = numbers if not usual else steps.binary(draft, "SUB", numbers, draft.scalar(usual, "int32"))
    put = draft.emit("SCATTER_ND", [column, less, draft.ints(shape)], shape)
    return put if not usual else steps.binary(draft, "ADD", put, draft.scalar(usual, "int32"))


def cut_out(low: Lowering, tensor: Tensor, cuts: Sequence[slice]) -> Tensor:
    """tensor[cuts], with Python's meaning of the slices."""
    draft = low.draft
    spans = [cut.indices(size) for cut, size in zip(cuts, tensor.shape, strict=True)]
    sizes = [len(range(*span)) for span in spans]
    if 0 in sizes:
        raise Refused("it takes nothing, and TFLite has no empty tensors")
    if list(tensor.shape) == sizes and all(step == 1 for *_, step in spans):
        return tensor
    if tensor.data is not None:
        return draft.constant(tensor.data[tuple(cuts)])
    own, tensor = tensor.dtype, movable(low, tensor, "STRIDED_SLICE")
    if all(step == 1 for *_, step in spans):
        shape, begin, size = _joined(tensor.shape, [start for start, *_ in spans], sizes)
        merged = steps.reshape(draft, tensor, shape)
        made = draft.emit("SLICE", [merged, draft.ints(begin), draft.ints(size)], size, quant=tensor.quant)
        return steps.cast(draft, steps.reshape(draft, made, sizes), own)
    whole = sum(1 << axis for axis, (count, size) in enumerate(zip(sizes, tensor.shape, strict=True)) if count == size
                and spans[axis][2] == 1)  # fmt: skip
    begin = [start for start, *_ in spans]
    stops = [start + count * step for (start, _, step), count in zip(spans, sizes, strict=True)]
    # An end before the first element cannot be written as a number: -1 would be the last.
    # Axes that are taken whole have no numbers at all, since the batch may be one of them.
    mask = whole | sum(1 << axis for axis, stop in enumerate(stops) if stop < 0)
    ends = [0 if whole >> axis & 1 else max(stop, 0) for axis, stop in enumerate(stops)]
    made = draft.emit(
        "STRIDED_SLICE",
        [tensor, draft.ints(begin), draft.ints(ends), draft.ints([step for *_, step in spans])],
        sizes, quant=tensor.quant, beginMask=whole, endMask=mask, ellipsisMask=0, newAxisMask=0, shrinkAxisMask=0,
    )  # fmt: skip
    return steps.cast(draft, made, own)


def movable(low: Lowering, tensor: Tensor, kind: str) -> Tensor:
    """In a type that the kernels which only move elements take."""
    from edgekit.converters.onnx_to_tflite.draft import kernels

    if tensor.dtype in kernels()[kind].dtypes:
        return tensor
    return steps.cast(
        low.draft, tensor, {"uint16": "int32", "bool": "uint8", "int64": "int32"}.get(tensor.dtype, "int32")
    )


def _joined(shape: Shape, begin: list[int], sizes: list[int]) -> tuple[list[int], list[int], list[int]]:
    """The same slice over fewer axes: whole axes join the one before."""
    out: list[list[int]] = []
    for size, start, count in zip(shape, begin, sizes, strict=True):
        if out and size == count and len(shape) > 4:
            out[-1] = [out[-1][0] * size, out[-1][1] * size, out[-1][2] * size]
        else:
            out.append([size, start, count])
    return [o[0] for o in out], [o[1] for o in out], [o[2] for o in out]


def wrapped(low: Lowering, indices: Value, size: int) -> Tensor:
    """Indices as int32, negative ones counted from the end."""
    draft = low.draft
    if indices.data is not None:
        data = np.where(indices.data < 0, indices.data + size, indices.data)
        if data.size and (data.min() < 0 or data.max() >= size):
            raise Refused(f"an index lies outside of the axis of {size}")
        return draft.constant(data.astype(np.int32))
    places = steps.cast(draft, low.get(indices), "int32")
    return steps.binary(draft, "FLOOR_MOD", places, draft.scalar(size, "int32"))
