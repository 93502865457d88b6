"""Reductions, ArgMax and ArgMin, the softmax family, TopK."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import numpy as np

from edgekit.converters.onnx_to_tflite import steps
from edgekit.converters.onnx_to_tflite.activations import Maths
from edgekit.converters.onnx_to_tflite.draft import Tensor, kernels
from edgekit.converters.onnx_to_tflite.lowering import Lowering
from edgekit.converters.onnx_to_tflite.nodes import Node, Order, Value, axis_of, identity
from edgekit.converters.onnx_to_tflite.refusal import Refused
from edgekit.converters.onnx_to_tflite.registry import lowers

_KINDS = {"ReduceSum": "SUM", "ReduceMean": "MEAN", "ReduceMax": "REDUCE_MAX", "ReduceMin": "REDUCE_MIN",
          "ReduceProd": "REDUCE_PROD"}  # fmt: skip


def reduce(low: Lowering, kind: str, x: Tensor, axes: list[int] | _Fed, keep: bool = True) -> Tensor:
    """A reduction over axes of a tensor."""
    if x.rank > kernels()[kind].rank and not isinstance(axes, _Fed):
        shape = [1 if axis in axes else size for axis, size in enumerate(x.shape) if keep or axis not in axes]
        return steps.reshape(low.draft, _joined(low, kind, x, axes), shape)
    if isinstance(axes, _Fed):
        shape, places = list(axes.shape), axes.axes
    else:
        shape = [1 if axis in axes else size for axis, size in enumerate(x.shape) if keep or axis not in axes]
        places = low.draft.ints(axes)
    own = x.dtype
    inner = own
    if kind.startswith("REDUCE_A"):
        inner = "bool"
    elif own not in ("float32", "int32", "int64"):
        inner = "int32"
    made = low.draft.emit(kind, [steps.cast(low.draft, x, inner), places], shape, keepDims=keep)
    return steps.cast(low.draft, made, own)


def _joined(low: Lowering, kind: str, x: Tensor, axes: list[int]) -> Tensor:
    """The same with neighbours that go, or stay, together as one axis; what stays has its axes left."""
    runs = [list(run) for _, run in groupby(range(x.rank), key=lambda axis: axis in axes)]
    sizes = [int(np.prod([x.shape[axis] for axis in run])) for run in runs]
    if len(runs) > kernels()[kind].rank:
        raise Refused(f"TFLite's {kind} takes tensors of up to {kernels()[kind].rank} axes, not {len(runs)}")
    gone = [at for at, run in enumerate(runs) if run[0] in axes]
    return reduce(low, kind, steps.reshape(low.draft, x, sizes), gone, keep=False)


@dataclass(frozen=True)
class _Fed:
    """Axes that are only known when the model runs, and the shape that the file promises for the result."""

    axes: Tensor
    shape: tuple[int, ...]


def _plan(low: Lowering, node: Node, value: Value) -> tuple[Order, list[int] | _Fed, bool, Order] | None:
    """Order of the input, axes in it, whether they are kept, order of the output; None where nothing is reduced."""
    given = node.maybe(1)
    if given is not None and given.data is None and given.size:
        fed = _Fed(steps.cast(low.draft, low.get(given), "int32"), node.output.shape)
        return identity(value.rank), fed, bool(node.attribute("keepdims", 1)), identity(node.output.rank)
    axes = [] if given is not None and not given.size else node.ints("axes", 1)
    if not axes:
        if node.attribute("noop_with_empty_axes", 0):
            return None
        axes = list(range(value.rank))
    gone = {axis_of(axis, value.rank) for axis in axes}
    keep = bool(node.attribute("keepdims", 1))
    order = low.order([value])
    left = sorted(set(range(value.rank)) - gone)
    out = order if keep else tuple(left.index(axis) for axis in order if axis not in gone)
    return order, sorted(order.index(axis) for axis in gone), keep, out


@lowers("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSum",
        "ReduceLogSumExp", "ReduceSumSquare")  # fmt: skip
def _reduce(low: Lowering, node: Node) -> None:
    value, output = node.value(), node.output
    plan = _plan(low, node, value)
    if plan is None or not value.rank:
        _none(low, node, value)
        return
    order, axes, keep, out = plan
    x = low.get(value, order)
    if output.dtype == "bool":
        kind = {"ReduceMax": "REDUCE_ANY", "ReduceMin": "REDUCE_ALL"}.get(node.op)
        if kind is None:
            raise Refused("it has no meaning for truth values")
        low.put(output, reduce(low, kind, x, axes, keep), out)
        return
    low.put(output, _reduced(low, node, x, axes, keep), out)


def _reduced(low: Lowering, node: Node, x: Tensor, axes: list[int] | _Fed, keep: bool) -> Tensor:
    do = Maths(low)
    if node.op == "ReduceMean" and x.dtype != "float32":
        raise Refused(f"a mean of {x.dtype} is not the one of TFLite")
    if node.op in _KINDS:
        return reduce(low, _KINDS[node.op], x, axes, keep)
    if node.op == "ReduceL1":
        positive = do("ABS", x) if x.dtype == "float32" else do("MAXIMUM", x, do("SUB", 0, x))
        return reduce(low, "SUM", positive, axes, keep)
    if node.op == "ReduceSumSquare":
        return reduce(low, "SUM", do("MUL", x, x), axes, keep)
    if x.dtype != "float32":
        raise Refused(f"TFLite has no roots and logarithms of {x.dtype}")
    if node.op == "ReduceL2":
        return do("SQRT", reduce(low, "SUM", do("SQUARE", x), axes, keep))
    if node.op == "ReduceLogSum":
        return do("LOG", reduce(low, "SUM", x, axes, keep))
    if isinstance(axes, _Fed) and not keep:
        raise Refused("its axes are computed while the model runs")
    largest = reduce(low, "REDUCE_MAX", x, axes)
    total = do("LOG", reduce(low, "SUM", do("EXP", do("SUB", x, largest)), axes, keep))
    return do("ADD", total, steps.reshape(low.draft, largest, total.shape))


def _none(low: Lowering, node: Node, value: Value) -> None:
    """No axis is reduced, but the elementwise part is done."""
    do, order = Maths(low), low.order([value])
    x = low.get(value, order)
    if node.op in ("ReduceL1", "ReduceL2"):
        low.put(node.output, do("ABS", x) if x.dtype == "float32" else do("MAXIMUM", x, do("SUB", 0, x)), order)
    elif node.op == "ReduceSumSquare":
        low.put(node.output, do("MUL", x, x), order)
    elif node.op == "ReduceLogSum":
        low.put(node.output, do("LOG", x), order)
    else:
        low.alias(node.output, value)


@lowers("ArgMax", "ArgMin")
def _arg(low: Lowering, node: Node) -> None:
    value, output, draft = node.value(), node.output, low.draft
    axis = axis_of(node.attribute("axis", 0), value.rank)
    order = low.order([value])
    x = low.get(value, order)
    place = order.index(axis)
    last = bool(node.attribute("select_last_index", 0))
    if x.dtype not in ("float32", "int8", "uint8", "int32"):
        x = steps.cast(draft, x, "int32")
    if last:
        x = draft.emit("REVERSE_V2", [x, draft.ints([place])], x.shape)
    shape = [size for at, size in enumerate(x.shape) if at != place]
    kind = "ARG_MAX" if node.op == "ArgMax" else "ARG_MIN"
    made = draft.emit(kind, [x, draft.scalar(place, "int32")], shape, "int64", outputType=4)
    if last:
        made = steps.binary(draft, "SUB", draft.scalar(value.shape[axis] - 1, "int64"), made)
    if node.attribute("keepdims", 1):
        low.put(output, steps.reshape(draft, made, [output.shape[a] for a in order]), order)
    else:
        low.put(output, made, tuple(a - (a > axis) for a in order if a != axis))


def last(low: Lowering, value: Value, axis: int) -> tuple[Order, Tensor]:
    """The value with one axis last."""
    order = low.order([value])
    if order[-1] != axis:
        order = (*(a for a in order if a != axis), axis)
    return order, low.get(value, order)


@lowers("Softmax", "LogSoftmax")
def _softmax(low: Lowering, node: Node) -> None:
    value = node.value()
    if node.version < 13:
        raise Refused("its meaning in this opset is another one")
    order, x = last(low, value, axis_of(node.attribute("axis", -1), value.rank))
    shape = x.shape
    flat = x if x.rank in (2, 3, 4) else steps.reshape(low.draft, x, [value.size // shape[-1], shape[-1]])
    if node.op == "Softmax":
        made = low.draft.emit("SOFTMAX", [flat], flat.shape, beta=1.0)
    else:
        made = low.draft.emit("LOG_SOFTMAX", [flat], flat.shape)
    low.put(node.output, steps.reshape(low.draft, made, shape), order)


@lowers("Hardmax")
def _hardmax(low: Lowering, node: Node) -> None:
    value, draft = node.value(), low.draft
    order, x = last(low, value, axis_of(node.attribute("axis", -1), value.rank))
    size = x.shape[-1]
    place = draft.emit("ARG_MAX", [x, draft.scalar(x.rank - 1, "int32")], x.shape[:-1], "int32", outputType=2)
    made = draft.emit(
        "ONE_HOT", [place, draft.scalar(size, "int32"), draft.scalar(1, "float32"), draft.scalar(0, "float32")],
        x.shape, axis=-1,
    )  # fmt: skip
    low.put(node.output, made, order)


@lowers("TopK")
def _top_k(low: Lowering, node: Node) -> None:
    value, draft = node.value(0), low.draft
    axis = axis_of(node.attribute("axis", -1), value.rank)
    some = next(output for output in node.outputs if output is not None)
    count = some.shape[axis]
    given = node.value(1)
    number = draft.scalar(count, "int32")
    if given.data is None:
        number = steps.cast(draft, steps.reshape(draft, low.get(given), ()), "int32")
    order, x = last(low, value, axis)
    largest = bool(node.attribute("largest", 1))
    own = x.dtype
    if own in ("uint8", "uint16", "int64"):
        x = steps.cast(draft, x, "int32")
    do = Maths(low)
    if not largest:
        x = do("NEG", x) if x.dtype == "float32" else do("SUB", 0, x)
    shape = (*x.shape[:-1], count)
    found, places = Tensor(node.name, shape, x.dtype), Tensor(f"{node.name}/places", shape, "int32")
    draft.emit_to("TOPK_V2", [x, number], [found, places])
    if not largest:
        found = do("NEG", found) if found.dtype == "float32" else do("SUB", 0, found)
    if node.outputs[0] is not None:
        low.put(node.outputs[0], steps.cast(draft, found, own), order)
    positions = node.has_output(1)
    if positions is not None:
        low.put(positions, steps.cast(draft, places, "int64"), order)
