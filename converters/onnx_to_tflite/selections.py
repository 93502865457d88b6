"""Operators that select by the data: NonMaxSuppression, NonZero, Compress, and the sizes that come of it.

What is selected has a size that only a run tells, see `measures`.
"""

from __future__ import annotations

import numpy as np

from edgekit.converters.onnx_to_tflite import steps
from edgekit.converters.onnx_to_tflite.activations import Maths
from edgekit.converters.onnx_to_tflite.draft import Array, Tensor
from edgekit.converters.onnx_to_tflite.lowering import Lowering
from edgekit.converters.onnx_to_tflite.nodes import Node, Value, axis_of, identity
from edgekit.converters.onnx_to_tflite.refusal import Refused
from edgekit.converters.onnx_to_tflite.registry import lowers
from edgekit.converters.onnx_to_tflite.stacks import packed, unpacked

_SEPARATE = 512
"""Most classes, over all images, of which each gets an operator of its own."""


@lowers("NonMaxSuppression")
def _suppression(low: Lowering, node: Node) -> None:
    """One NON_MAX_SUPPRESSION for each image and class; what they found, packed."""
    boxes, scores, draft = node.value(0), node.value(1), low.draft
    images, count = boxes.shape[:2]
    groups = images * scores.shape[1]
    if groups > _SEPARATE:
        raise Refused(f"it looks at {groups} classes, each with an operator of its own, and {_SEPARATE} is the most")
    most, room = _room(low, node, count)
    corners = unpacked(low, _corners(low, node, low.get(boxes)), 0)
    rated = unpacked(low, steps.reshape(draft, low.get(scores), [groups, count]), 0)
    limits = [draft.scalar(most, "int32"), _overlap(low, node), _least(low, node)]
    picked, counted = [], []
    for group, score in enumerate(rated):
        found = Tensor(f"{draft.origin}/{group}", (most,), "int32")
        number = Tensor(f"{draft.origin}/count_{group}", (), "int32")
        box = corners[group // scores.shape[1]]
        draft.emit_to("NON_MAX_SUPPRESSION_V4", [box, score, *limits], [found, number])
        picked.append(found)
        counted.append(number if room is None else steps.binary(draft, "MINIMUM", number, room))
    table = np.array([divmod(group, scores.shape[1]) for group in range(groups)], np.int32)
    low.put(node.output, _listed(low, packed(low, picked, 0), packed(low, counted, 0), table, node.output.shape[0]))


def _listed(low: Lowering, picked: Tensor, counted: Tensor, table: Array, rows: int) -> Tensor:
    """[image, class, box] of the first `counted` of each row of what was picked: [rows, 3], int64."""
    draft = low.draft
    places = draft.constant(np.arange(picked.shape[1], dtype=np.int32)[None])
    there = steps.binary(draft, "LESS", places, steps.reshape(draft, counted, [len(table), 1]), "bool")
    chosen = steps.cast(draft, draft.emit("WHERE", [there], [rows, 2], "int64"), "int32")
    box = steps.reshape(draft, draft.emit("GATHER_ND", [picked, chosen], [rows]), [rows, 1])
    group = steps.reshape(draft, draft.emit("SLICE", [chosen, draft.ints([0, 0]), draft.ints([rows, 1])], [rows, 1]),
                          [rows])  # fmt: skip
    about = draft.emit("GATHER", [draft.constant(table), group], [rows, 2], axis=0, batchDims=0)
    made = draft.emit("CONCATENATION", [about, box], [rows, 3], axis=1, fusedActivationFunction=0)
    return steps.cast(draft, made, "int64")


def _room(low: Lowering, node: Node, count: int) -> tuple[int, Tensor | None]:
    """Most boxes of a class; and, where the model is fed with that, the tensor that says it."""
    given = node.maybe(2)
    if given is None:
        raise Refused("it may select no boxes at all, since it lacks max_output_boxes_per_class")
    if given.data is None:
        return count, steps.cast(low.draft, steps.reshape(low.draft, low.get(given), ()), "int32")
    most = int(given.data.reshape(-1)[0])
    if most < 1:
        raise Refused(f"it selects {most} boxes")
    return min(most, count), None


def _overlap(low: Lowering, node: Node) -> Tensor:
    """The threshold of the overlap: ONNX drops what exceeds it, the kernel also what equals it."""
    given, draft = node.maybe(3), low.draft
    least = float(np.finfo(np.float32).tiny)
    if given is None or given.data is not None:
        number = np.float32(0 if given is None or given.data is None else given.data.reshape(-1)[0])
        if not 0 <= number < 1:
            raise Refused(f"its threshold of overlap is {number}, and the kernel takes 0 to 1")
        return draft.scalar(max(np.nextafter(number, np.float32(1)), least), "float32")
    do = Maths(low)
    raised = do("MUL", steps.reshape(draft, low.get(given), ()), 1 + float(np.finfo(np.float32).eps))
    return do("MINIMUM", do("MAXIMUM", raised, least), 1.0)


def _least(low: Lowering, node: Node) -> Tensor:
    """Scores at or below this one are dropped, as in ONNX."""
    given = node.maybe(4)
    if given is None:
        return low.draft.scalar(-np.inf, "float32")
    return steps.reshape(low.draft, low.get(given), ())


def _corners(low: Lowering, node: Node, boxes: Tensor) -> Tensor:
    """Two opposite corners of each box; ONNX also has boxes of a centre, a width and a height."""
    if not node.attribute("center_point_box", 0):
        return boxes
    draft, do = low.draft, Maths(low)
    shape = [*boxes.shape[:2], 2]
    centre, sides = (
        draft.emit("SLICE", [boxes, draft.ints([0, 0, start]), draft.ints(shape)], shape) for start in (0, 2)
    )
    half = do("MUL", sides, 0.5)
    ends = [do("SUB", centre, half), do("ADD", centre, half)]
    return draft.emit("CONCATENATION", ends, boxes.shape, axis=2, fusedActivationFunction=0)


@lowers("NonZero")
def _non_zero(low: Lowering, node: Node) -> None:
    value, output = node.value(), node.output
    if not value.rank:
        raise Refused("its input has no axes")
    made = low.draft.emit("WHERE", [_truth(low, value)], [output.shape[1], value.rank], "int64")
    low.put(output, made, (1, 0))


def _truth(low: Lowering, value: Value) -> Tensor:
    x = low.get(value)
    return x if x.dtype == "bool" else steps.binary(low.draft, "NOT_EQUAL", x, low.draft.scalar(0, x.dtype), "bool")


@lowers("Compress")
def _compress(low: Lowering, node: Node) -> None:
    value, condition, output, draft = node.value(0), node.value(1), node.output, low.draft
    if "axis" in node.attributes:
        axis = axis_of(int(node.attribute("axis")), value.rank)
        order = low.order([value])
        x = low.get(value, order)
    else:
        axis, order = 0, identity(1)
        x = steps.reshape(draft, low.get(value), [value.size])
    rows = output.shape[axis]
    where = draft.emit("WHERE", [low.get(condition)], [rows, 1], "int64")
    places = steps.reshape(draft, steps.cast(draft, where, "int32"), [rows])
    own = x.dtype
    x = steps.cast(draft, x, "int32" if own == "uint16" else own)
    shape = [output.shape[a] for a in order]
    made = draft.emit("GATHER", [x, places], shape, axis=order.index(axis), batchDims=0)
    low.put(output, steps.cast(draft, made, own), order)


@lowers("Shape")
def _shape(low: Lowering, node: Node) -> None:
    """Of what has a size that depends on the data; all others are constants."""
    value, draft = node.value(), low.draft
    whole = draft.emit("SHAPE", [low.get(value)], [value.rank], "int32", outType=2)
    begin, end = int(node.attribute("start", 0)), int(node.attribute("end", value.rank))
    first, stop, _ = slice(begin, end).indices(value.rank)
    if stop <= first:
        raise Refused("it asks for no sizes at all")
    if stop - first < value.rank:
        whole = draft.emit("SLICE", [whole, draft.ints([first]), draft.ints([stop - first])], [stop - first])
    low.put(node.output, steps.cast(draft, whole, "int64"))


@lowers("Range")
def _range(low: Lowering, node: Node) -> None:
    dtype = node.output.dtype
    if dtype not in ("int32", "int64"):
        raise Refused(f"numbers of {dtype} in a row whose ends are computed while the model runs add up their errors")
    ends = [steps.cast(low.draft, steps.reshape(low.draft, low.get(node.value(i)), ()), "int32") for i in range(3)]
    made = low.draft.emit("RANGE", ends, node.output.shape)
    low.put(node.output, steps.cast(low.draft, made, dtype))
