"""Pad in its modes; and padding for other operators."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.converters.onnx_to_tflite import steps
from edgekit.converters.onnx_to_tflite.draft import Shape, Tensor
from edgekit.converters.onnx_to_tflite.lowering import Lowering
from edgekit.converters.onnx_to_tflite.nodes import Node, axis_of
from edgekit.converters.onnx_to_tflite.refusal import Refused
from edgekit.converters.onnx_to_tflite.registry import lowers
from edgekit.converters.onnx_to_tflite.slices import cut_out, movable, near, scattered, wrapped


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
    pairs = steps.transpose(draft, steps.reshape(draft, near(low, node.value(1)), [2, count]), [1, 0])
    if axes is not None:
        pairs = scattered(low, wrapped(low, axes, value.rank), pairs, [value.rank, 2], 0)
    kind = "PADV2" if mode == "constant" else "MIRROR_PAD"
    x = low.get(value)
    own, x = x.dtype, movable(low, x, kind)
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
        tensor = movable(low, tensor, "PAD")
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
            own, moved = tensor.dtype, movable(low, tensor, "GATHER")
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
