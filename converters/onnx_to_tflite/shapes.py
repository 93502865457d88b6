"""Operators that move or join elements: Reshape, Transpose, Concat, Split, Expand, Tile, DepthToSpace and their kin.

Transpose emits nothing: the same tensor holds the result with its axes in another order. Reshape keeps the order of
the tensor where it can, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.converters.onnx_to_tflite import steps
from edgekit.converters.onnx_to_tflite.draft import Shape, Tensor, kernels
from edgekit.converters.onnx_to_tflite.lowering import Lowering
from edgekit.converters.onnx_to_tflite.nodes import Node, Order, Value, axis_of
from edgekit.converters.onnx_to_tflite.refusal import Refused
from edgekit.converters.onnx_to_tflite.registry import lowers
from edgekit.converters.onnx_to_tflite.regrouping import regrouped


@lowers("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _reshape(low: Lowering, node: Node) -> None:
    reshaped(low, node.value(), node.output)


def reshaped(low: Lowering, value: Value, output: Value) -> None:
    """Let `output` hold the elements of `value` under its own shape."""
    if value.shape == output.shape:
        low.alias(output, value)
        return
    if value.size != output.size:
        raise Refused(f"it makes {list(output.shape)} of {list(value.shape)}")
    if value.flat is not None and not value.forms:
        value = value.flat
    for order in value.forms:
        kept = regrouped(value.shape, output.shape, order)
        if kept is not None:
            shape = [output.shape[axis] for axis in kept]
            low.put(output, steps.reshape(low.draft, value.forms[order], shape), kept)
            return
    if value.data is not None:
        low.put(output, steps.reshape(low.draft, low.get(value), output.shape))
        return
    output.flat = value


@lowers("Transpose")
def _transpose(low: Lowering, node: Node) -> None:
    value, output = node.value(), node.output
    permutation = node.ints("perm") or list(reversed(range(value.rank)))
    if not value.forms:
        low.get(value)
    for order, tensor in value.forms.items():
        low.put(output, tensor, [permutation.index(axis) for axis in order])


@lowers("Concat")
def _concat(low: Lowering, node: Node) -> None:
    values = [value for value in node.inputs if value is not None and value.size]
    output = node.output
    if len(values) == 1:
        low.alias(output, values[0])
        return
    order = low.order(values, output.rank)
    axis = order.index(axis_of(node.attribute("axis"), output.rank))
    sizes = [output.shape[a] for a in order]
    parts, shape, axis = _few_axes(low, "CONCATENATION", [low.get(value, order) for value in values], sizes, axis)
    made = low.draft.emit("CONCATENATION", parts, shape, parts[0].dtype, axis=axis, fusedActivationFunction=0)
    low.put(output, steps.reshape(low.draft, made, sizes), order)


def _few_axes(
    low: Lowering, kind: str, parts: list[Tensor], shape: Sequence[int], axis: int
) -> tuple[list[Tensor], Sequence[int], int]:
    """Tensors that only differ along one axis, and the shape of all: joined to three where no kernel takes as many."""
    if len(shape) <= kernels()[kind].rank:
        return parts, shape, axis

    def joined(sizes: Sequence[int]) -> list[int]:
        return [int(np.prod(sizes[:axis])), sizes[axis], int(np.prod(sizes[axis + 1 :]))]

    return [steps.reshape(low.draft, part, joined(part.shape)) for part in parts], joined(shape), 1


@lowers("Split")
def _split(low: Lowering, node: Node) -> None:
    value = node.value()
    outputs = [output for output in node.outputs if output is not None]
    axis = axis_of(node.attribute("axis", 0), value.rank)
    if len(outputs) < len(node.outputs):
        raise Refused("one of its parts is left out")
    for empty in (output for output in outputs if not output.size):
        empty.data = np.zeros(empty.shape, steps.carrier(empty.dtype))
    outputs = [output for output in outputs if output.size]
    if len(outputs) == 1:
        low.alias(outputs[0], value)
        return
    order = low.order([value])
    split_to(low, value, outputs, axis, order)


def split_to(low: Lowering, value: Value, outputs: Sequence[Value], axis: int, order: Order) -> None:
    """Cut a value along one of its axes."""
    draft, tensor = low.draft, low.get(value, order)
    sizes = [output.shape[axis] for output in outputs]
    own = tensor.dtype
    if own in ("bool", "uint16", "int64"):
        tensor = steps.cast(draft, tensor, {"bool": "uint8", "uint16": "int32", "int64": "int64"}[own])
    (tensor,), before, at = _few_axes(low, "SPLIT", [tensor], tensor.shape, order.index(axis))
    shapes = [(*before[:at], size, *before[at + 1 :]) for size in sizes]
    made = [Tensor(o.name, s, tensor.dtype, quant=tensor.quant) for o, s in zip(outputs, shapes, strict=True)]
    place = draft.scalar(at, "int32")
    if len(set(sizes)) == 1 and tensor.dtype != "int64":
        draft.emit_to("SPLIT", [place, tensor], made, numSplits=len(made))
    else:
        draft.emit_to("SPLIT_V", [tensor, draft.ints(sizes), place], made, numSplits=len(made))
    for output, part in zip(outputs, made, strict=True):
        part = steps.reshape(draft, part, [output.shape[a] for a in order])  # noqa: PLW2901
        low.put(output, steps.cast(draft, part, own), order)


@lowers("Expand")
def _expand(low: Lowering, node: Node) -> None:
    value, output, sizes = node.value(), node.output, node.value(1)
    if sizes.data is None:
        low.put(output, _spread(low, low.get(value), low.get(sizes), output.shape))
        return
    if value.rank == output.rank:
        order = low.order([value])
        low.put(output, steps.expand(low.draft, low.get(value, order), [output.shape[a] for a in order]), order)
        return
    low.put(output, steps.expand(low.draft, low.get(value), output.shape))


def _spread(low: Lowering, x: Tensor, sizes: Tensor, shape: Shape) -> Tensor:
    """Broadcast to sizes that are computed while the model runs; a size of 1 leaves an axis as it is."""
    draft, own = low.draft, x.dtype
    own_sizes = draft.ints((1,) * (len(shape) - x.rank) + x.shape)
    wide = steps.binary(draft, "MAXIMUM", steps.cast(draft, sizes, "int32"), own_sizes)
    x = steps.cast(draft, x, "int32" if own == "uint16" else own)
    return steps.cast(draft, draft.emit("BROADCAST_TO", [x, wide], shape), own)


@lowers("Tile")
def _tile(low: Lowering, node: Node) -> None:
    value, output = node.value(), node.output
    if node.value(1).data is None:
        _tile_fed(low, node)
        return
    order = low.order([value])
    tensor = low.get(value, order)
    repeats = [output.shape[axis] // value.shape[axis] for axis in order]
    own = tensor.dtype
    tensor = steps.cast(low.draft, tensor, "int32" if own == "uint16" else own)
    made = low.draft.emit("TILE", [tensor, low.draft.ints(repeats)], [output.shape[axis] for axis in order])
    low.put(output, steps.cast(low.draft, made, own), order)


def _tile_fed(low: Lowering, node: Node) -> None:
    """With repeats that are computed while the model runs."""
    draft, x = low.draft, low.get(node.value())
    own, repeats = x.dtype, steps.cast(draft, low.get(node.value(1)), "int32")
    x = steps.cast(draft, x, "int32" if own == "uint16" else own)
    low.put(node.output, steps.cast(draft, draft.emit("TILE", [x, repeats], node.output.shape), own))


@lowers("DepthToSpace")
def _depth_to_space(low: Lowering, node: Node) -> None:
    value, output, block = node.value(), node.output, int(node.attribute("blocksize"))
    order = (0, 2, 3, 1)
    tensor = low.get(value, order)
    if node.attribute("mode", "DCR") == "CRD":
        channels = value.shape[1] // (block * block)
        places = np.arange(value.shape[1], dtype=np.int32).reshape(channels, block * block).T.reshape(-1)
        tensor = low.draft.emit("GATHER", [tensor, low.draft.constant(places)], tensor.shape, axis=3, batchDims=0)
    made = low.draft.emit("DEPTH_TO_SPACE", [tensor], [output.shape[a] for a in order], blockSize=block)
    low.put(output, made, order)


@lowers("SpaceToDepth")
def _space_to_depth(low: Lowering, node: Node) -> None:
    value, output, block = node.value(), node.output, int(node.attribute("blocksize"))
    order = (0, 2, 3, 1)
    made = low.draft.emit(
        "SPACE_TO_DEPTH", [low.get(value, order)], [output.shape[a] for a in order], blockSize=block
    )  # fmt: skip
    if node.attribute("mode", "DCR") == "CRD":
        channels = value.shape[1]
        places = np.arange(made.shape[3], dtype=np.int32).reshape(block * block, channels).T.reshape(-1)
        made = low.draft.emit("GATHER", [made, low.draft.constant(places)], made.shape, axis=3, batchDims=0)
    low.put(output, made, order)


@lowers("ConstantOfShape")
def _fill(low: Lowering, node: Node) -> None:
    given = node.attribute("value")
    number = np.zeros(1, np.float32) if given is None else np.asarray(given)
    sizes, draft = node.value(), low.draft
    if sizes.data is None:
        filling = draft.constant(number.reshape(()).astype(steps.carrier(node.output.dtype)))
        dims = steps.cast(draft, low.get(sizes), "int32")
        low.put(node.output, draft.emit("FILL", [dims, filling], node.output.shape))
        return
    low.put(node.output, steps.expand(low.draft, low.draft.constant(number.reshape(())), node.output.shape))


@lowers("Trilu")
def _trilu(low: Lowering, node: Node) -> None:
    value, output = node.value(), node.output
    rows, columns = value.shape[-2:]
    shift = node.maybe(1)
    if shift is not None and shift.data is None:
        low.put(output, _triangle(low, node, low.get(value), low.get(shift)))
        return
    k = 0 if shift is None or shift.data is None else int(shift.data.reshape(-1)[0])
    kept = np.tri(rows, columns, k, dtype=bool) if not node.attribute("upper", 1) else ~np.tri(
        rows, columns, k - 1, dtype=bool)  # fmt: skip
    tensor = low.get(value)
    mask = low.draft.constant(kept.reshape((1,) * (value.rank - 2) + kept.shape))
    low.put(output, steps.select(low.draft, mask, tensor, low.draft.scalar(0, tensor.dtype)))


def _triangle(low: Lowering, node: Node, tensor: Tensor, shift: Tensor) -> Tensor:
    """With a diagonal that is computed while the model runs."""
    draft = low.draft
    rows, columns = tensor.shape[-2:]
    distance = np.arange(columns, dtype=np.int32)[None, :] - np.arange(rows, dtype=np.int32)[:, None]
    k = steps.reshape(draft, steps.cast(draft, shift, "int32"), [1, 1])
    kind = "GREATER_EQUAL" if node.attribute("upper", 1) else "LESS_EQUAL"
    mask = steps.binary(draft, kind, draft.constant(distance), k, "bool")
    return steps.select(draft, mask, tensor, draft.scalar(0, tensor.dtype))


@lowers("EyeLike")
def _eye(low: Lowering, node: Node) -> None:
    output = node.output
    eye = np.eye(output.shape[0], output.shape[1], int(node.attribute("k", 0)))
    low.put(output, low.draft.constant(eye.astype(steps.carrier(output.dtype))))


@lowers("OneHot")
def _one_hot(low: Lowering, node: Node) -> None:
    indices, output, draft = node.value(0), node.output, low.draft
    axis = axis_of(node.attribute("axis", -1), output.rank)
    size = output.shape[axis]
    places = low.get(indices)
    if places.dtype != "int32":
        places = steps.cast(draft, places, "int32")
    # Negative indices count from the end.
    negative = steps.binary(draft, "LESS", places, draft.scalar(0, "int32"), "bool")
    places = steps.select(draft, negative, steps.binary(draft, "ADD", places, draft.scalar(size, "int32")), places)
    values = low.get(node.value(2))
    off, on = (
        steps.reshape(draft, draft.emit("SLICE", [values, draft.ints([i]), draft.ints([1])], [1])
                      if values.data is None else draft.constant(values.data.reshape(-1)[i : i + 1]), ())
        for i in (0, 1)
    )  # fmt: skip
    made = draft.emit("ONE_HOT", [places, draft.scalar(size, "int32"), on, off], output.shape, axis=axis)
    low.put(output, made)


@lowers("CumSum")
def _cum_sum(low: Lowering, node: Node) -> None:
    value, output, draft = node.value(0), node.output, low.draft
    axis, order = node.value(1), low.order([value])
    if axis.data is None:
        order = tuple(range(value.rank))
        place = steps.cast(draft, steps.reshape(draft, low.get(axis), ()), "int32")
    else:
        place = draft.scalar(order.index(axis_of(int(axis.data.reshape(-1)[0]), value.rank)), "int32")
    tensor = low.get(value, order)
    made = draft.emit(
        "CUMSUM", [tensor, place], tensor.shape,
        exclusive=bool(node.attribute("exclusive", 0)), reverse=bool(node.attribute("reverse", 0)),
    )  # fmt: skip
    low.put(output, made, order)


@lowers("Einsum")
def _einsum(low: Lowering, node: Node) -> None:
    from edgekit.converters.onnx_to_tflite.einsum import contract

    values = [value for value in node.inputs if value is not None]
    low.put(node.output, contract(low, node.attribute("equation"), values, node.output.shape))
