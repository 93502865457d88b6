"""Pooling over windows and over whole planes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from edgekit.converters.onnx_to_tflite import steps
from edgekit.converters.onnx_to_tflite.activations import Maths
from edgekit.converters.onnx_to_tflite.convolutions import (
    SAME,
    VALID,
    Window,
    put_spatial,
    spatial_input,
    window,
)
from edgekit.converters.onnx_to_tflite.draft import Tensor
from edgekit.converters.onnx_to_tflite.lowering import Lowering
from edgekit.converters.onnx_to_tflite.nodes import Node, channels_last
from edgekit.converters.onnx_to_tflite.pads import padded
from edgekit.converters.onnx_to_tflite.reductions import reduce
from edgekit.converters.onnx_to_tflite.refusal import Refused
from edgekit.converters.onnx_to_tflite.registry import lowers
from edgekit.converters.onnx_to_tflite.slices import cut_out

_NEVER_NEGATIVE = frozenset({"RELU", "RELU6", "RELU_0_TO_1", "LOGISTIC"})

_TAPS = 64
"""Most positions of a dilated window, which is pooled position by position."""


@lowers("MaxPool", "AveragePool", "LpPool")
def _pool(low: Lowering, node: Node) -> None:
    value, output, draft = node.value(), node.output, low.draft
    if node.has_output(1) is not None:
        raise Refused("TFLite's pooling does not tell the places of its maxima")
    rank = value.rank - 2
    move = window(node, value.shape[2:], node.ints("kernel_shape") or [])
    if node.attribute("ceil_mode", 0):
        output.shape = (*output.shape[:2], *_begun(output.shape[2:], move, value.shape[2:]))
    x = spatial_input(low, value) if rank < 3 else low.get(value, channels_last(value.rank))
    if x.dtype != "float32" and x.quant is None:
        x = steps.cast(draft, x, "float32")
    do, power = Maths(low), float(node.attribute("p", 2))
    if node.op == "LpPool":
        x = do("SQUARE", x) if power == 2 else do("POW", do("ABS", x), power)
    # With ceil_mode the last window may reach beyond the padding.
    over = tuple(
        (first, max(last, (out - 1) * stride + reach - size - first))
        for out, stride, reach, size, (first, last) in zip(
            output.shape[2:], move.strides, move.reach, value.shape[2:], move.pads, strict=True
        )
    )
    wide = Window(move.size, move.strides, move.dilations, over)
    if rank == 3:
        made = _pool_3d(low, node, x, wide, move, output.shape[2:])
    elif rank in (1, 2):
        made = _pool_2d(low, node, x, wide.with_height(), move.with_height())
    else:
        raise Refused(f"TFLite's pooling has one to three dimensions, not {rank}")
    if node.op == "LpPool":
        made = do("SQRT", made) if power == 2 else do("POW", made, 1 / power)
    if rank < 3:
        put_spatial(low, output, steps.cast(draft, made, steps.carrier(output.dtype)) if made.quant is None else made)
    else:
        low.put(output, steps.cast(draft, made, steps.carrier(output.dtype)), channels_last(value.rank))


def _begun(counts: Sequence[int], move: Window, sizes: Sequence[int]) -> Iterator[int]:
    """Windows that begin before the border at the end, as onnxruntime and PyTorch count them with ceil_mode.

    What onnx infers counts one more where that one would lie in the border alone.
    """
    for count, stride, size, (first, _) in zip(counts, move.strides, sizes, move.pads, strict=True):
        yield count - ((count - 1) * stride >= size + first)


def _pool_2d(low: Lowering, node: Node, x: Tensor, wide: Window, asked: Window) -> Tensor:
    """A window over the second and third axis of [N, H, W, C]."""
    plain = all(d == 1 for d in wide.dilations)
    counts = _counts(x.shape[1:3], wide, asked, bool(node.attribute("count_include_pad", 0)))
    if node.op == "MaxPool":
        if plain and wide.is_same(x.shape[1:3]):
            return _window(low, "MAX_POOL_2D", x, wide, SAME)
        x = _bordered(low, x, wide)
        return _window(low, "MAX_POOL_2D", x, wide, VALID) if plain else _by_taps(low, "MAXIMUM", x, wide)
    if node.op == "AveragePool" and plain and wide.is_same(x.shape[1:3]):
        inside = _counts(x.shape[1:3], wide, asked, include=False)
        if np.array_equal(counts, inside):
            return _window(low, "AVERAGE_POOL_2D", x, wide, SAME)
    x = padded(low, x, [(0, 0), *wide.pads, (0, 0)])
    size = float(np.prod(wide.size))
    if plain:
        made = _window(low, "AVERAGE_POOL_2D", x, wide, VALID)
        factors = size / counts if node.op == "AveragePool" else np.full_like(counts, size)
    else:
        made = _by_taps(low, "ADD", x, wide)
        factors = 1 / counts if node.op == "AveragePool" else np.ones_like(counts)
    if np.all(factors == 1):
        return made
    factors = factors[:1, :1] if np.all(factors == factors[0, 0]) else factors
    return Maths(low)("MUL", made, low.draft.constant(factors[None, :, :, None].astype(np.float32)))


def _bordered(low: Lowering, x: Tensor, wide: Window) -> Tensor:
    """Padded for a maximum: by numbers that are never greater than all others of their window.

    The least float32 would be right as well, but as part of a range it leaves integers no step for anything else.
    Zeros will do behind what gives nothing below; else the edges, which every window that meets the border holds. A
    dilated window may step over them.
    """
    maker = low.draft.producers().get(x)
    if maker is not None and maker.kind in _NEVER_NEGATIVE:
        return padded(low, x, [(0, 0), *wide.pads, (0, 0)])
    if any(d != 1 for d in wide.dilations):
        lowest = low.draft.scalar(np.finfo(np.float32).min, "float32")
        return padded(low, x, [(0, 0), *wide.pads, (0, 0)], filling=lowest)
    for axis, (first, last) in enumerate(wide.pads, start=1):
        if first or last:
            ends = [
                cut_out(low, x, [slice(at, at + 1) if i == axis else slice(None) for i in range(x.rank)])
                for at, count in ((0, first), (x.shape[axis] - 1, last)) if count
            ]  # fmt: skip
            parts = [*(ends[:1] * first), x, *(ends[-1:] * last)]
            shape = [size + (first + last) * (i == axis) for i, size in enumerate(x.shape)]
            x = low.draft.emit("CONCATENATION", parts, shape, quant=x.quant, axis=axis, fusedActivationFunction=0)
    return x


def _window(low: Lowering, kind: str, x: Tensor, move: Window, padding: int) -> Tensor:
    sizes = [
        -(-size // stride) if padding == SAME else (size - reach) // stride + 1
        for size, reach, stride in zip(x.shape[1:3], move.reach, move.strides, strict=True)
    ]
    fields: dict[str, Any] = {
        "padding": padding, "strideH": move.strides[0], "strideW": move.strides[1], "filterHeight": move.size[0],
        "filterWidth": move.size[1], "fusedActivationFunction": 0,
    }  # fmt: skip
    return low.draft.emit(kind, [x], [x.shape[0], *sizes, x.shape[3]], quant=x.quant, **fields)


def _by_taps(low: Lowering, kind: str, x: Tensor, move: Window) -> Tensor:
    """Pool by the positions of the window, each a strided slice."""
    if np.prod(move.size) > _TAPS:
        raise Refused(f"its dilated window has {np.prod(move.size)} positions; {_TAPS} are taken one by one")
    made: Tensor | None = None
    ends = [
        (size - reach) // stride for size, reach, stride in zip(x.shape[1:3], move.reach, move.strides, strict=True)
    ]
    for offsets in itertools.product(*(range(k) for k in move.size)):
        cuts = [
            slice(o * d, o * d + end * s + 1, s)
            for o, d, s, end in zip(offsets, move.dilations, move.strides, ends, strict=True)
        ]
        part = cut_out(low, x, [slice(None), *cuts, slice(None)])
        made = part if made is None else steps.binary(low.draft, kind, made, part)
    if made is None:
        raise Refused("its window is empty")
    return made


def _counts(sizes: tuple[int, ...], wide: Window, asked: Window, include: bool) -> np.ndarray:
    """How many elements each window averages over: [H, W]."""
    axes = []
    for axis, size in enumerate(sizes):
        first, last = wide.pads[axis]
        real = np.zeros(size + first + last)
        held = slice(0, first + size + asked.pads[axis][1]) if include else slice(first, first + size)
        real[held] = 1
        places = range(0, len(real) - wide.reach[axis] + 1, wide.strides[axis])
        axes.append(np.array([real[p : p + wide.reach[axis] : wide.dilations[axis]].sum() for p in places]))
    return np.outer(axes[0], axes[1])


def _pool_3d(low: Lowering, node: Node, x: Tensor, wide: Window, asked: Window, outs: tuple[int, ...]) -> Tensor:
    """Height and width first, with the depth counted into the batch; then the depth."""
    draft = low.draft
    n, d, h, w, c = x.shape

    def part(move: Window, axes: slice) -> Window:
        return Window(move.size[axes], move.strides[axes], move.dilations[axes], move.pads[axes])

    planes = steps.reshape(draft, x, [n * d, h, w, c])
    planes = _pool_2d(low, node, planes, part(wide, slice(1, 3)), part(asked, slice(1, 3)))
    columns = steps.reshape(draft, planes, [n, d, outs[1] * outs[2], c])

    def along(move: Window) -> Window:
        return Window((move.size[0], 1), (move.strides[0], 1), (move.dilations[0], 1), (move.pads[0], (0, 0)))

    columns = _pool_2d(low, node, columns, along(wide), along(asked))
    return steps.reshape(draft, columns, [n, outs[0], outs[1], outs[2], c])


@lowers("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def _global(low: Lowering, node: Node) -> None:
    value = node.value()
    order = low.order([value])
    axes = sorted(order.index(axis) for axis in range(2, value.rank))
    x, do = low.get(value, order), Maths(low)
    if node.op != "GlobalLpPool":
        kind = "MEAN" if node.op == "GlobalAveragePool" else "REDUCE_MAX"
        low.put(node.output, reduce(low, kind, x, axes), order)
        return
    power = float(node.attribute("p", 2))
    powered = do("SQUARE", x) if power == 2 else do("POW", do("ABS", x), power)
    total = reduce(low, "SUM", powered, axes)
    low.put(node.output, do("SQRT", total) if power == 2 else do("POW", total, 1 / power), order)
