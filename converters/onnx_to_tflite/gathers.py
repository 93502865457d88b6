"""Operators that take elements at places out, or put them there: Gather and Scatter in all forms."""

from __future__ import annotations

import numpy as np

from edgekit.converters.onnx_to_tflite import steps
from edgekit.converters.onnx_to_tflite.draft import Shape, Tensor
from edgekit.converters.onnx_to_tflite.lowering import Lowering
from edgekit.converters.onnx_to_tflite.nodes import Node, Value, axis_of
from edgekit.converters.onnx_to_tflite.refusal import Refused
from edgekit.converters.onnx_to_tflite.registry import lowers
from edgekit.converters.onnx_to_tflite.slices import cut_out, movable, wrapped


@lowers("Gather")
def _gather(low: Lowering, node: Node) -> None:
    value, indices, output, draft = node.value(0), node.value(1), node.output, low.draft
    axis = axis_of(node.attribute("axis", 0), value.rank)
    order = low.order([value])
    if indices.rank > 1 or (indices.rank == 1 and order[0] != 0 and indices.data is None):
        order = tuple(range(value.rank))
    tensor, place = low.get(value, order), order.index(axis)
    places = wrapped(low, indices, value.shape[axis])
    if indices.rank == 0 and places.data is not None:
        start = int(places.data)
        cuts = [slice(start, start + 1) if a == place else slice(None) for a in range(value.rank)]
        rest = tuple(a - (a > axis) for a in order if a != axis)
        part = cut_out(low, tensor, cuts)
        low.put(output, steps.reshape(draft, part, [output.shape[a] for a in rest]), rest)
        return
    own, tensor = tensor.dtype, movable(low, tensor, "GATHER")
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
    places = wrapped(low, indices, shape[axis])
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
    own, tensor = tensor.dtype, movable(low, tensor, "GATHER")
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
    own, tensor = tensor.dtype, movable(low, tensor, "GATHER")
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
