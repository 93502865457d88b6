"""Normalizations by stored statistics and by those of the input."""

from __future__ import annotations

import numpy as np

from edgekit.converters.onnx_to_tflite import steps
from edgekit.converters.onnx_to_tflite.activations import Maths
from edgekit.converters.onnx_to_tflite.draft import Tensor
from edgekit.converters.onnx_to_tflite.lowering import Lowering
from edgekit.converters.onnx_to_tflite.nodes import Node, Value, axis_of
from edgekit.converters.onnx_to_tflite.reductions import reduce
from edgekit.converters.onnx_to_tflite.refusal import Refused
from edgekit.converters.onnx_to_tflite.registry import lowers


def along(low: Lowering, value: Value, axis: int, order: tuple[int, ...]) -> Tensor:
    """A vector as a tensor that broadcasts along one axis of a value that lies in an order."""
    tensor = low.get(value)
    shape = [1] * len(order)
    shape[order.index(axis)] = value.size
    return steps.reshape(low.draft, tensor, shape)


@lowers("BatchNormalization")
def _batch_norm(low: Lowering, node: Node) -> None:
    value = node.value()
    if node.attribute("training_mode", 0) or any(output is not None for output in node.outputs[1:]):
        raise Refused("it is in training mode", "Export the model in its mode for inference (model.eval())")
    if any(node.value(index).data is None for index in range(1, 5)):
        _batch_norm_fed(low, node)
        return
    parts = [node.constant(index, what) for index, what in ((1, "scale"), (2, "offset"), (3, "mean"), (4, "variance"))]
    scale, offset, mean, variance = (np.asarray(part, np.float64) for part in parts)
    factor = scale / np.sqrt(variance + float(node.attribute("epsilon", 1e-5)))
    order = low.order([value])
    shape = [1] * value.rank
    shape[order.index(1) if value.rank > 1 else 0] = -1
    do = Maths(low)
    factors, offsets = (
        low.draft.constant(part.astype(np.float32).reshape(shape)) for part in (factor, offset - mean * factor)
    )
    low.put(node.output, do("ADD", do("MUL", low.get(value, order), factors), offsets), order)


def _batch_norm_fed(low: Lowering, node: Node) -> None:
    """With statistics that are computed while the model runs."""
    value, do = node.value(), Maths(low)
    order = low.order([value])
    scale, offset, mean, variance = (along(low, node.value(index), 1, order) for index in range(1, 5))
    factor = do("MUL", scale, do("RSQRT", do("ADD", variance, float(node.attribute("epsilon", 1e-5)))))
    less = do("SUB", low.get(value, order), mean)
    low.put(node.output, do("ADD", do("MUL", less, factor), offset), order)


def centred(low: Lowering, x: Tensor, axes: list[int], epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """X less its mean over axes, divided by its deviation; the mean, and the reciprocal of the deviation."""
    do = Maths(low)
    mean = reduce(low, "MEAN", x, axes)
    less = do("SUB", x, mean)
    spread = reduce(low, "MEAN", do("SQUARE", less), axes)
    scale = do("RSQRT", do("ADD", spread, float(epsilon)))
    return do("MUL", less, scale), mean, scale


@lowers("InstanceNormalization")
def _instance_norm(low: Lowering, node: Node) -> None:
    value = node.value()
    if _norm_of_groups(low, node, value):
        return
    order = low.order([value])
    axes = sorted(order.index(axis) for axis in range(2, value.rank))
    do = Maths(low)
    made, _, _ = centred(low, low.get(value, order), axes, node.attribute("epsilon", 1e-5))
    made = do("MUL", made, along(low, node.value(1), 1, order))
    low.put(node.output, do("ADD", made, along(low, node.value(2), 1, order)), order)


@lowers("LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization")
def _layer_norm(low: Lowering, node: Node) -> None:
    value, do = node.value(), Maths(low)
    first = axis_of(node.attribute("axis", -1), value.rank)
    order = low.order([value])
    places = sorted(order.index(axis) for axis in range(first, value.rank))
    if [order[place] for place in places] != list(range(first, value.rank)):
        order = tuple(range(value.rank))
        places = list(range(first, value.rank))
    x, epsilon = low.get(value, order), float(node.attribute("epsilon", 1e-5))
    if node.op == "LayerNormalization":
        made, mean, scale = centred(low, x, places, epsilon)
        for index, statistic in ((1, mean), (2, scale)):
            output = node.has_output(index)
            if output is not None:
                low.put(output, statistic, order)
    else:
        spread = reduce(low, "MEAN", do("SQUARE", x), places)
        made = do("MUL", x, do("RSQRT", do("ADD", spread, epsilon)))
    for index, kind in ((1, "MUL"), (2, "ADD")):
        part = node.maybe(index)
        if part is not None:
            whole = steps.reshape(low.draft, low.get(part), (1,) * (value.rank - part.rank) + part.shape)
            made = do(kind, made, steps.transpose(low.draft, whole, order))
    low.put(node.output, made, order)


def _norm_of_groups(low: Lowering, node: Node, value: Value) -> bool:
    """InstanceNormalization of channels that were joined to groups, as exporters write GroupNormalization; whether it
    was one: the channels of what was joined need not come first for it.
    """
    whole = value.flat
    if whole is None or value.forms or value.rank < 3 or whole.rank < 3 or whole.shape[0] != value.shape[0]:
        return False
    groups, scale, offset = value.shape[1], node.value(1).data, node.value(2).data
    if whole.shape[1] % groups or scale is None or offset is None:
        return False
    order, do, width = low.order([whole]), Maths(low), whole.shape[1] // groups
    made = _grouped(low, whole, order, groups, node.attribute("epsilon", 1e-5))
    for kind, what, numbers in (("MUL", "scale", scale), ("ADD", "offset", offset)):
        each = low.fresh(Value(what, (whole.shape[1],), "float32", np.repeat(numbers, width)))
        made = do(kind, made, along(low, each, 1, order))
    output = low.fresh(Value(f"{node.output.name}/whole", whole.shape, whole.dtype))
    low.put(output, made, order)
    node.output.flat = output
    return True


def _grouped(low: Lowering, value: Value, order: tuple[int, ...], groups: int, epsilon: float) -> Tensor:
    """Each group of channels less its mean, divided by its deviation; as the value lies in an order."""
    at, x = order.index(1), low.get(value, order)
    shape = [*x.shape[:at], groups, value.shape[1] // groups, *x.shape[at + 1 :]]
    axes = [axis for axis in range(len(shape)) if axis not in (order.index(0) + (order.index(0) > at), at)]
    made, _, _ = centred(low, steps.reshape(low.draft, x, shape), axes, epsilon)
    return steps.reshape(low.draft, made, x.shape)


@lowers("GroupNormalization", since=21)
def _group_norm(low: Lowering, node: Node) -> None:
    value, do = node.value(), Maths(low)
    order = low.order([value])
    made = _grouped(low, value, order, int(node.attribute("num_groups")), node.attribute("epsilon", 1e-5))
    made = do("MUL", made, along(low, node.value(1), 1, order))
    low.put(node.output, do("ADD", made, along(low, node.value(2), 1, order)), order)


@lowers("LRN")
def _local_response(low: Lowering, node: Node) -> None:
    value, draft = node.value(), low.draft
    size, alpha = int(node.attribute("size")), float(node.attribute("alpha", 1e-4))
    beta, bias = float(node.attribute("beta", 0.75)), float(node.attribute("bias", 1.0))
    order = (0, *range(2, value.rank), 1)
    x = low.get(value, order)
    if size % 2 and value.rank == 4:
        made = draft.emit(
            "LOCAL_RESPONSE_NORMALIZATION", [x], x.shape, radius=size // 2, bias=bias, alpha=alpha / size, beta=beta
        )  # fmt: skip
        low.put(node.output, made, order)
        return
    raise Refused("TFLite normalizes over an odd number of channels of images only")


@lowers("LpNormalization")
def _lp(low: Lowering, node: Node) -> None:
    value, do = node.value(), Maths(low)
    order = low.order([value])
    x = low.get(value, order)
    axes = [order.index(axis_of(node.attribute("axis", -1), value.rank))]
    if int(node.attribute("p", 2)) == 1:
        norm = reduce(low, "SUM", do("ABS", x), axes)
    else:
        norm = do("SQRT", reduce(low, "SUM", do("SQUARE", x), axes))
    # ONNX: what has no length stays zero.
    empty = do.test("EQUAL", norm, 0.0)
    low.put(node.output, do("DIV", x, do.pick(empty, 1.0, norm)), order)


@lowers("MeanVarianceNormalization")
def _mvn(low: Lowering, node: Node) -> None:
    value, do = node.value(), Maths(low)
    order = low.order([value])
    axes = sorted(order.index(axis_of(axis, value.rank)) for axis in node.ints("axes", default=[0, 2, 3]) or [])
    x = low.get(value, order)
    less = do("SUB", x, reduce(low, "MEAN", x, axes))
    deviation = do("SQRT", reduce(low, "MEAN", do("SQUARE", less), axes))
    low.put(node.output, do("DIV", less, do("ADD", deviation, 1e-9)), order)
