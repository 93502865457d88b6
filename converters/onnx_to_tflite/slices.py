"""Operators that take elements out or put them in: Slice, Gather and Scatter in all forms, Pad."""

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
    own, x = x.dtype, _movable(low, x, "STRIDED_SLICE")
    count = node.value(1).size
    axes = node.maybe(3)
    places = draft.ints(range(count)) if axes is None else _wrapped(low, axes, value.rank)
    bounds = []
    for index, usual in ((1, 0), (2, _FAR), (4, 1)):
        given = node.maybe(index)
        numbers = draft.ints([1] * count) if given is None else _near(low, given)
        bounds.append(scattered(low, places, numbers, [value.rank], usual))
    made = draft.emit(
        "STRIDED_SLICE", [x, *bounds], output.shape,
        beginMask=0, endMask=0, ellipsisMask=0, newAxisMask=0, shrinkAxisMask=0,
    )  # fmt: skip
    low.put(output, steps.cast(draft, made, own))


def _near(low: Lowering, value: Value) -> Tensor:
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
    own, tensor = tensor.dtype, _movable(low, tensor, "STRIDED_SLICE")
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


def _movable(low: Lowering, tensor: Tensor, kind: str) -> Tensor:
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


def _wrapped(low: Lowering, indices: Value, size: int) -> Tensor:
    """Indices as int32, negative ones counted from the end."""
    draft = low.draft
    if indices.data is not None:
        data = np.where(indices.data < 0, indices.data + size, indices.data)
        if data.size and (data.min() < 0 or data.max() >= size):
            raise Refused(f"an index lies outside of the axis of {size}")
        return draft.constant(data.astype(np.int32))
    places = steps.cast(draft, low.get(indices), "int32")
    return steps.binary(draft, "FLOOR_MOD", places, draft.scalar(size, "int32"))


@lowers("Gather")
def _gather(low: Lowering, node: Node) -> None:
    value, indices, output, draft = node.value(0), node.value(1), node.output, low.draft
    axis = axis_of(node.attribute("axis", 0), value.rank)
    order = low.order([value])
    if indices.rank > 1 or (indices.rank == 1 and order[0] != 0 and indices.data is None):
        order = tuple(range(value.rank))
    tensor, place = low.get(value, order), order.index(axis)
    places = _wrapped(low, indices, value.shape[axis])
    if indices.rank == 0 and places.data is not None:
        start = int(places.data)
        cuts = [slice(start, start + 1) if a == place else slice(None) for a in range(value.rank)]
        rest = tuple(a - (a > axis) for a in order if a != axis)
        part = cut_out(low, tensor, cuts)
        low.put(output, steps.reshape(draft, part, [output.shape[a] for a in rest]), rest)
        return
    own, tensor = tensor.dtype, _movable(low, tensor, "GATHER")
    shape = [*tensor.shape[:place], *indices.shape, *tensor.shape[place + 1 :]]
    made = draft.emit("GATHER", [tensor, places], shape, axis=place, batchDims=0, quant=tensor.quant)
    made = steps.cast(draft, made, own)
    if indices.rank == 1:
        low.put(output, made, order)
    elif indices.rank == 0:
        low.put(output, made, tuple(a - (a > axis) for a in order if a != axis))
    else:
        low.put(output, made)


def _strides(shape: Shape) -> list[int]:
    return [int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))]


def _flat_places(low: Lowering, indices: Value, shape: Shape, axis: int) -> Tensor:
    """Where the elements that GatherElements and ScatterElements name lie in the flattened tensor."""
    draft, strides = low.draft, _strides(shape)
    if np.prod(shape, dtype=np.int64) > np.iinfo(np.int32).max:
        raise Refused("its tensor has more elements than an index of 32 bits counts")
    others = sum(
        (np.arange(indices.shape[a]).reshape([-1 if b == a else 1 for b in range(indices.rank)]) * strides[a]
         for a in range(indices.rank) if a != axis),
        np.zeros((1,) * indices.rank, np.int64),
    )  # fmt: skip
    places = _wrapped(low, indices, shape[axis])
    base = draft.constant(np.broadcast_to(others, indices.shape).astype(np.int32))
    if places.data is not None and base.data is not None:
        return draft.constant(places.data * np.int32(strides[axis]) + base.data)
    scaled = steps.binary(draft, "MUL", places, draft.scalar(strides[axis], "int32"))
    return steps.binary(draft, "ADD", scaled, base)


@lowers("GatherElements")
def _gather_elements(low: Lowering, node: Node) -> None:
    value, indices, output, draft = node.value(0), node.value(1), node.output, low.draft
    axis = axis_of(node.attribute("axis", 0), value.rank)
    places = steps.reshape(draft, _flat_places(low, indices, value.shape, axis), [indices.size])
    tensor = low.get(value)
    own, tensor = tensor.dtype, _movable(low, tensor, "GATHER")
    flat = steps.reshape(draft, tensor, [value.size])
    made = draft.emit("GATHER", [flat, places], [indices.size], axis=0, batchDims=0)
    low.put(output, steps.cast(draft, steps.reshape(draft, made, output.shape), own))


def _row_places(low: Lowering, indices: Value, shape: Shape, batch: int) -> tuple[Tensor, int]:
    """Index tuples as single indices into the tensor with those axes joined; and the size of what each points at."""
    draft, depth = low.draft, indices.shape[-1]
    sizes = shape[batch : batch + depth]
    strides = _strides((*sizes, 1))[:depth] if depth else []
    rows = int(np.prod(indices.shape[:-1]))
    block = int(np.prod(sizes))
    if indices.data is not None:
        wrapped = np.where(indices.data < 0, indices.data + np.array(sizes), indices.data)
        flat = (wrapped * np.array(strides)).sum(-1).reshape(-1)
        tensor = draft.constant(flat.astype(np.int32))
    else:
        tuples = steps.reshape(draft, steps.cast(draft, low.get(indices), "int32"), [rows, depth])
        tuples = steps.binary(draft, "FLOOR_MOD", tuples, draft.constant(np.array([sizes], np.int32)))
        tuples = steps.binary(draft, "MUL", tuples, draft.constant(np.array([strides], np.int32)))
        tensor = draft.emit("SUM", [tuples, draft.ints([1])], [rows], keepDims=False)
    if batch:
        count = int(np.prod(shape[:batch]))
        offsets = np.repeat(np.arange(count, dtype=np.int32) * block, rows // count)
        tensor = steps.binary(draft, "ADD", tensor, draft.constant(offsets))
    return tensor, int(np.prod(shape[batch + depth :]))


@lowers("GatherND")
def _gather_nd(low: Lowering, node: Node) -> None:
    value, indices, output, draft = node.value(0), node.value(1), node.output, low.draft
    places, width = _row_places(low, indices, value.shape, int(node.attribute("batch_dims", 0)))
    tensor = low.get(value)
    own, tensor = tensor.dtype, _movable(low, tensor, "GATHER")
    flat = steps.reshape(draft, tensor, [value.size // width, width])
    made = draft.emit("GATHER", [flat, places], [places.size, width], axis=0, batchDims=0)
    low.put(output, steps.cast(draft, steps.reshape(draft, made, output.shape), own))


@lowers("ScatterND")
def _scatter_nd(low: Lowering, node: Node) -> None:
    value, indices, updates = node.value(0), node.value(1), node.value(2)
    places, width = _row_places(low, indices, value.shape, 0)
    _scatter(low, node, value, places, updates, width)


@lowers("ScatterElements", "Scatter")
def _scatter_elements(low: Lowering, node: Node) -> None:
    value, indices, updates = node.value(0), node.value(1), node.value(2)
    axis = axis_of(node.attribute("axis", 0), value.rank)
    places = steps.reshape(low.draft, _flat_places(low, indices, value.shape, axis), [indices.size])
    _scatter(low, node, value, places, updates, 1)


def _scatter(low: Lowering, node: Node, value: Value, places: Tensor, updates: Value, width: int) -> None:
    draft, rows = low.draft, value.size // width
    reduction = node.attribute("reduction", "none")
    data = steps.reshape(draft, low.get(value), [rows, width])
    own = data.dtype
    inner = {"bool": "int32", "int16": "int32", "uint16": "int32"}.get(own, own)
    data, news = steps.cast(draft, data, inner), steps.cast(draft, low.get(updates), inner)
    news = steps.reshape(draft, news, [places.size, width])
    column = steps.reshape(draft, places, [places.size, 1])
    if reduction in ("none", "add"):
        put = _scattered(low, column, news, rows)
        if reduction == "add":
            made = steps.binary(draft, "ADD", data, put)
        else:
            held = _written(low, places, rows)
            made = steps.select(draft, held, put, data)
    else:
        made = _one_by_one(low, reduction, data, places, news)
    low.put(node.output, steps.reshape(draft, steps.cast(draft, made, own), node.output.shape))


def _scattered(low: Lowering, column: Tensor, news: Tensor, rows: int) -> Tensor:
    """Rows added up at their places, zero elsewhere."""
    draft, width = low.draft, news.shape[1]
    return draft.emit("SCATTER_ND", [column, news, draft.ints([rows, width])], [rows, width])


def _written(low: Lowering, places: Tensor, rows: int) -> Tensor:
    """Which rows are written at all: [rows, 1], bool."""
    draft = low.draft
    if places.data is not None:
        if len(np.unique(places.data)) < places.data.size:
            raise Refused("it writes to one place more than once")
        held = np.zeros((rows, 1), bool)
        held[places.data.reshape(-1)] = True
        return draft.constant(held)
    ones = draft.constant(np.ones((places.size, 1), np.int32))
    column = steps.reshape(draft, places, [places.size, 1])
    return steps.binary(draft, "GREATER", _scattered(low, column, ones, rows), draft.scalar(0, "int32"), "bool")


def _one_by_one(low: Lowering, reduction: str, data: Tensor, places: Tensor, news: Tensor) -> Tensor:
    """Products and extremes: an update after the other, since TFLite's scatter can only add."""
    draft, rows = low.draft, data.shape[0]
    kind = {"mul": "MUL", "max": "MAXIMUM", "min": "MINIMUM"}.get(reduction)
    if kind is None or places.size > 64:
        raise Refused(f"TFLite's scatter can only add, and {places.size} updates are too many to do one by one")
    numbers = draft.constant(np.arange(rows, dtype=np.int32).reshape(rows, 1))
    for index in range(places.size):
        place = cut_out(low, places, [slice(index, index + 1)])
        row = cut_out(low, news, [slice(index, index + 1), slice(None)])
        here = steps.binary(draft, "EQUAL", numbers, steps.reshape(draft, place, [1, 1]), "bool")
        data = steps.select(draft, here, steps.binary(draft, kind, data, row), data)
    return data


@lowers("Pad")
def _pad(low: Lowering, node: Node) -> None:
    value, output = node.value(), node.output
    if any(part is not None and part.data is None for part in (node.maybe(1), node.maybe(3))):
        _pad_fed(low, node)
        return
    given = node.ints("pads", 1) or []
    axes = [axis_of(a, value.rank) for a in node.ints("axes", 3, range(value.rank)) or []]
    pads = [(0, 0)] * value.rank
    for at, axis in enumerate(axes):
        pads[axis] = (given[at], given[at + len(axes)])
    if not any(before or after for before, after in pads):
        low.alias(output, value)
        return
    order = low.order([value])
    tensor = low.get(value, order)
    mode = node.attribute("mode", "constant")
    filling = _filling(low, node, tensor.dtype) if mode == "constant" else None
    low.put(output, padded(low, tensor, [pads[axis] for axis in order], mode, filling), order)


def _pad_fed(low: Lowering, node: Node) -> None:
    """With amounts that are computed while the model runs."""
    value, output, draft = node.value(), node.output, low.draft
    mode, axes = node.attribute("mode", "constant"), node.maybe(3)
    if mode not in ("constant", "reflect"):
        raise Refused(f"its pads are computed while the model runs, which TFLite has no mode {mode!r} for")
    count = node.value(1).size // 2
    pairs = steps.transpose(draft, steps.reshape(draft, _near(low, node.value(1)), [2, count]), [1, 0])
    if axes is not None:
        pairs = scattered(low, _wrapped(low, axes, value.rank), pairs, [value.rank, 2], 0)
    kind = "PADV2" if mode == "constant" else "MIRROR_PAD"
    x = low.get(value)
    own, x = x.dtype, _movable(low, x, kind)
    if mode == "constant":
        filling = _filling(low, node, x.dtype) or draft.scalar(0, x.dtype)
        made = draft.emit(kind, [x, pairs, steps.cast(draft, filling, x.dtype)], output.shape)
    else:
        made = draft.emit(kind, [x, pairs], output.shape, mode=0)
    low.put(output, steps.cast(draft, made, own))


def _filling(low: Lowering, node: Node, dtype: str) -> Tensor | None:
    value = node.maybe(2)
    if value is None:
        number = node.attribute("value", 0)
        return low.draft.scalar(number, dtype) if number else None
    if value.data is not None and not value.data.any():
        return None
    return steps.reshape(low.draft, low.get(value), ())


def padded(
    low: Lowering,
    tensor: Tensor,
    pads: Sequence[tuple[int, int]],
    mode: str = "constant",
    filling: Tensor | None = None,
) -> Tensor:
    """Add elements before and after each axis; negative numbers take them away."""
    draft = low.draft
    if any(before < 0 or after < 0 for before, after in pads):
        cuts = [slice(max(0, -a), size - max(0, -b)) for size, (a, b) in zip(tensor.shape, pads, strict=True)]
        tensor = cut_out(low, tensor, cuts)
        pads = [(max(0, a), max(0, b)) for a, b in pads]
    if not any(before or after for before, after in pads):
        return tensor
    shape = [size + a + b for size, (a, b) in zip(tensor.shape, pads, strict=True)]
    if mode == "constant":
        own = tensor.dtype
        tensor = _movable(low, tensor, "PAD")
        amounts = draft.constant(np.array(pads, np.int32))
        if filling is None or tensor.quant is not None:
            made = draft.emit("PAD", [tensor, amounts], shape, quant=tensor.quant)
        else:
            made = draft.emit("PADV2", [tensor, amounts, steps.cast(draft, filling, tensor.dtype)], shape)
        return steps.cast(draft, made, own)
    if mode == "reflect" and tensor.dtype in ("float32", "int32", "int64") and _mirrors(tensor.shape, pads):
        return draft.emit("MIRROR_PAD", [tensor, draft.constant(np.array(pads, np.int32))], shape, mode=0)
    for axis, (before, after) in enumerate(pads):
        if before or after:
            places = _picked(tensor.shape[axis], before, after, mode)
            own, moved = tensor.dtype, _movable(low, tensor, "GATHER")
            sizes = [*tensor.shape[:axis], len(places), *tensor.shape[axis + 1 :]]
            made = draft.emit("GATHER", [moved, draft.constant(places)], sizes, axis=axis, batchDims=0)
            tensor = steps.cast(draft, made, own)
    return tensor


def _mirrors(shape: Shape, pads: Sequence[tuple[int, int]]) -> bool:
    return all(max(pair) < size or pair == (0, 0) for size, pair in zip(shape, pads, strict=True))


def _picked(size: int, before: int, after: int, mode: str) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
    """Which elements stand along a padded axis."""
    modes = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}
    if mode not in modes:
        raise Refused(f"its mode {mode!r} is not known")
    return np.pad(np.arange(size, dtype=np.int32), (before, after), mode=modes[mode])  # type: ignore[call-overload,no-any-return]
