"""Convolutions and transposed convolutions in one to three dimensions.

TFLite has them in two and three, with channels last. A convolution of one dimension is one of two whose height is 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.converters.onnx_to_tflite import steps
from edgekit.converters.onnx_to_tflite.draft import Tensor
from edgekit.converters.onnx_to_tflite.lowering import Lowering
from edgekit.converters.onnx_to_tflite.nodes import Node, Value, channels_last
from edgekit.converters.onnx_to_tflite.pads import padded
from edgekit.converters.onnx_to_tflite.refusal import Refused
from edgekit.converters.onnx_to_tflite.registry import lowers
from edgekit.converters.onnx_to_tflite.slices import cut_out

SAME, VALID = 0, 1


@dataclass(frozen=True)
class Window:
    """How a kernel moves over the spatial axes.

    Attributes:
        size: Of the kernel, undilated.
        strides, dilations: One a spatial axis.
        pads: (before, after) a spatial axis.
    """

    size: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]

    @property
    def reach(self) -> tuple[int, ...]:
        """Size of the dilated kernel."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.size, self.dilations, strict=True))

    def is_same(self, sizes: Sequence[int]) -> bool:
        """Whether the padding is what TFLite calls SAME, for an input of these sizes."""
        return all(
            pads == same_pads(size, reach, stride)
            for size, reach, stride, pads in zip(sizes, self.reach, self.strides, self.pads, strict=True)
        )

    def with_height(self) -> Window:
        """The same in two dimensions, for one that moves along a single axis."""
        if len(self.size) != 1:
            return self
        return Window((1, *self.size), (1, *self.strides), (1, *self.dilations), ((0, 0), *self.pads))


def same_pads(size: int, reach: int, stride: int) -> tuple[int, int]:
    """TFLite's SAME padding of one axis."""
    total = max((-(-size // stride) - 1) * stride + reach - size, 0)
    return total // 2, total - total // 2


def window(node: Node, spatial: Sequence[int], size: Sequence[int]) -> Window:
    """Of a convolution or pooling over axes of these sizes."""
    rank = len(spatial)
    strides = node.ints("strides", default=[1] * rank) or []
    dilations = node.ints("dilations", default=[1] * rank) or []
    auto = node.attribute("auto_pad", "NOTSET")
    pairs: list[tuple[int, int]]
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        pairs = [
            same_pads(n, (k - 1) * d + 1, s) for n, k, s, d in zip(spatial, size, strides, dilations, strict=True)
        ]  # fmt: skip
        pairs = [(b, a) for a, b in pairs] if auto == "SAME_LOWER" else pairs
    else:
        pads = [0] * 2 * rank if auto == "VALID" else node.ints("pads", default=[0] * 2 * rank) or []
        pairs = list(zip(pads[:rank], pads[rank:], strict=True))
    return Window(tuple(size), tuple(strides), tuple(dilations), tuple(pairs))


def spatial_input(low: Lowering, value: Value) -> Tensor:
    """Channels last; with a height of 1 where there is one spatial axis."""
    tensor = low.get(value, channels_last(value.rank))
    return steps.reshape(low.draft, tensor, with_height(tensor.shape))


def with_height(shape: Sequence[int]) -> list[int]:
    """[N, W, C] as [N, 1, W, C]; others as they are."""
    return [shape[0], 1, *shape[1:]] if len(shape) == 3 else list(shape)


def put_spatial(low: Lowering, output: Value, made: Tensor) -> None:
    """The result of an operator on `spatial_input`."""
    order = channels_last(output.rank)
    low.put(output, steps.reshape(low.draft, made, [output.shape[axis] for axis in order]), order)


def bias_of(low: Lowering, node: Node, channels: int) -> Tensor:
    """The third input, or zeros."""
    value = node.maybe(2)
    return low.draft.constant(np.zeros(channels, np.float32)) if value is None else low.get(value)


@lowers("Conv")
def _conv(low: Lowering, node: Node) -> None:
    value, weights, output = node.value(0), node.value(1), node.output
    if not 3 <= value.rank <= 5:
        raise Refused(f"TFLite's convolutions have one to three dimensions, not {value.rank - 2}")
    move = window(node, value.shape[2:], weights.shape[2:])
    bias = bias_of(low, node, weights.shape[0])
    groups = int(node.attribute("group", 1))
    if value.rank == 5:
        _conv_3d(low, node, move, bias, groups)
        return
    x, flat = spatial_input(low, value), move.with_height()
    depthwise = groups == value.shape[1] and weights.shape[1] == 1 and groups > 1
    order = ((1, 2, 3, 0) if depthwise else (0, 2, 3, 1)) if value.rank == 4 else (
        (1, 2, 0) if depthwise else (0, 2, 1))  # fmt: skip
    kernel = low.get(weights, order)
    kernel = steps.reshape(low.draft, kernel, with_height(kernel.shape))
    put_spatial(
        low, output, conv_2d(low, x, kernel, bias, flat, multiplier=kernel.shape[3] // groups if depthwise else 0)
    )


def conv_2d(low: Lowering, x: Tensor, kernel: Tensor, bias: Tensor, move: Window, multiplier: int = 0) -> Tensor:
    """CONV_2D, or DEPTHWISE_CONV_2D where a multiplier is given; padding that has no name in TFLite becomes a PAD."""
    padding = VALID
    if any(pair != (0, 0) for pair in move.pads):
        if move.is_same(x.shape[1:3]):
            padding = SAME
        else:
            x = padded(low, x, [(0, 0), *move.pads, (0, 0)])
    sizes = [
        -(-size // stride) if padding == SAME else (size - reach) // stride + 1
        for size, reach, stride in zip(x.shape[1:3], move.reach, move.strides, strict=True)
    ]
    channels = kernel.shape[3] if multiplier else kernel.shape[0]
    fields: dict[str, Any] = {
        "padding": padding, "strideH": move.strides[0], "strideW": move.strides[1],
        "dilationHFactor": move.dilations[0], "dilationWFactor": move.dilations[1], "fusedActivationFunction": 0,
    }  # fmt: skip
    if multiplier:
        fields["depthMultiplier"] = multiplier
    kind = "DEPTHWISE_CONV_2D" if multiplier else "CONV_2D"
    return low.draft.emit(kind, [x, kernel, bias], [x.shape[0], *sizes, channels], **fields)


def _conv_3d(low: Lowering, node: Node, move: Window, bias: Tensor, groups: int) -> None:
    value, weights, output, draft = node.value(0), node.value(1), node.output, low.draft
    x = low.get(value, channels_last(5))
    kernel = low.get(weights, (2, 3, 4, 1, 0))
    if any(pair != (0, 0) for pair in move.pads):
        x = padded(low, x, [(0, 0), *move.pads, (0, 0)])
    if any(d != 1 for d in move.dilations):
        kernel = dilated(kernel, move.dilations)
    fields: dict[str, Any] = {
        "padding": VALID, "strideD": move.strides[0], "strideH": move.strides[1], "strideW": move.strides[2],
        "fusedActivationFunction": 0,
    }  # fmt: skip
    shape = [output.shape[axis] for axis in channels_last(5)]
    parts = []
    for part, weight, offset in _by_group(low, x, kernel, 4, bias, groups):
        parts.append(draft.emit("CONV_3D", [part, weight, offset], [*shape[:4], weight.shape[4]], **fields))
    low.put(output, joined(low, parts), channels_last(5))


def dilated(kernel: Tensor, dilations: Sequence[int]) -> Tensor:
    """A kernel [sizes..., in, out] with zeros in between."""
    if kernel.data is None:
        raise Refused("its dilated kernel is computed while the model runs")
    rank = len(dilations)
    sizes = [(k - 1) * d + 1 for k, d in zip(kernel.shape[:rank], dilations, strict=True)]
    data = np.zeros((*sizes, *kernel.shape[rank:]), kernel.data.dtype)
    data[tuple(slice(None, None, d) for d in dilations)] = kernel.data
    return Tensor(kernel.name, tuple(data.shape), kernel.dtype, data)


def _by_group(
    low: Lowering, x: Tensor, kernel: Tensor, out: int, bias: Tensor, groups: int
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Inputs, weights and biases of each group."""
    if groups == 1:
        return [(x, kernel, bias)]
    width, count = x.shape[-1] // groups, kernel.shape[out] // groups
    found = []
    for group in range(groups):
        span, places = slice(group * width, (group + 1) * width), slice(group * count, (group + 1) * count)
        cuts = [slice(None)] * kernel.rank
        cuts[out] = places
        found.append((
            cut_out(low, x, [*[slice(None)] * (x.rank - 1), span]), cut_out(low, kernel, cuts),
            cut_out(low, bias, [places]),
        ))  # fmt: skip
    return found


def joined(low: Lowering, parts: Sequence[Tensor]) -> Tensor:
    """Parts side by side along their last axis."""
    if len(parts) == 1:
        return parts[0]
    rank = parts[0].rank
    shape = [*parts[0].shape[:-1], sum(part.shape[-1] for part in parts)]
    return low.draft.emit("CONCATENATION", list(parts), shape, axis=rank - 1, fusedActivationFunction=0)


@lowers("ConvTranspose")
def _conv_transpose(low: Lowering, node: Node) -> None:
    value, weights, output = node.value(0), node.value(1), node.output
    rank = value.rank - 2
    if not 1 <= rank <= 3:
        raise Refused(f"TFLite's transposed convolutions have one to three dimensions, not {rank}")
    strides = node.ints("strides", default=[1] * rank) or []
    dilations = node.ints("dilations", default=[1] * rank) or []
    groups = int(node.attribute("group", 1))
    before = _cut_before(node, value, weights, output, strides, dilations)
    # Weights [in, out / groups, ...] to [..., out / groups, in], the groups one after another along the last axis.
    kernel = low.get(weights, (*range(2, rank + 2), 1, 0))
    if any(d != 1 for d in dilations):
        kernel = dilated(kernel, dilations)
    x = low.get(value, channels_last(value.rank))
    bias, sizes = bias_of(low, node, output.shape[1]), list(output.shape[2:])
    if rank == 1:
        x, kernel = (steps.reshape(low.draft, t, shape) for t, shape in (
            (x, with_height(x.shape)), (kernel, [1, *kernel.shape])))  # fmt: skip
        strides, sizes, before = [1, *strides], [1, *sizes], [0, *before]
    width, count = x.shape[-1] // groups, output.shape[1] // groups
    parts = []
    for group in range(groups):
        span, places = slice(group * width, (group + 1) * width), slice(group * count, (group + 1) * count)
        every = [slice(None)] * (x.rank - 1)
        parts.append(_spread(
            low, cut_out(low, x, [*every, span]), cut_out(low, kernel, [*every, span]), cut_out(low, bias, [places]),
            strides, before, sizes,
        ))  # fmt: skip
    put_spatial(low, output, joined(low, parts))


@lowers("Col2Im", since=18)
def _col_to_image(low: Lowering, node: Node) -> None:
    """Blocks added up where they overlap: a transposed convolution whose kernel puts each channel at its place."""
    value, output = node.value(0), node.output
    sizes, block = (node.ints(name, at) or [] for at, name in ((1, "image_shape"), (2, "block_shape")))
    rank = len(block)
    if rank != 2:
        raise Refused(f"it puts blocks of {rank} axes together, and only images are written")
    strides, dilations = (node.ints(name, default=[1] * rank) or [] for name in ("strides", "dilations"))
    pads = node.ints("pads", default=[0] * 2 * rank) or []
    moves = zip(sizes, block, dilations, pads[:rank], pads[rank:], strides, strict=True)
    counts = [(size + before + after - (k - 1) * d - 1) // s + 1 for size, k, d, before, after, s in moves]
    places, images = int(np.prod(block)), value.shape[0] * output.shape[1]
    x = steps.reshape(low.draft, low.get(value), (images, places, *counts))
    kernel = low.draft.constant(np.eye(places, dtype=np.float32).reshape(*block, 1, places))
    if any(d != 1 for d in dilations):
        kernel = dilated(kernel, dilations)
    bias = low.draft.constant(np.zeros(1, np.float32))
    made = _spread(low, steps.transpose(low.draft, x, (0, 2, 3, 1)), kernel, bias, strides, pads[:rank], sizes)
    low.put(output, steps.reshape(low.draft, made, output.shape))


def _cut_before(
    node: Node, value: Value, weights: Value, output: Value, strides: Sequence[int], dilations: Sequence[int]
) -> list[int]:
    """How many elements are cut off before each spatial axis of the full result."""
    rank = value.rank - 2
    auto = node.attribute("auto_pad", "NOTSET")
    if auto not in ("SAME_UPPER", "SAME_LOWER") and "output_shape" not in node.attributes:
        return (node.ints("pads", default=[0] * 2 * rank) or [])[:rank]
    extra = node.ints("output_padding", default=[0] * rank) or []
    before = []
    for axis in range(rank):
        reach = (weights.shape[axis + 2] - 1) * dilations[axis] + 1
        full = (value.shape[axis + 2] - 1) * strides[axis] + reach + extra[axis]
        total = max(full - output.shape[axis + 2], 0)
        before.append(total // 2 if auto != "SAME_LOWER" else total - total // 2)
    return before


def _spread(
    low: Lowering, x: Tensor, kernel: Tensor, bias: Tensor, strides: Sequence[int], before: Sequence[int],
    sizes: Sequence[int],
) -> Tensor:  # fmt: skip
    """One transposed convolution: x [N, ..., in], kernel [..., out, in]."""
    draft, spatial = low.draft, x.shape[1:-1]
    reaches = kernel.shape[:-2]
    full = [(n - 1) * s + k for n, s, k in zip(spatial, strides, reaches, strict=True)]
    same = all(
        size == n * s and b == max((n - 1) * s + k - size, 0) // 2 and k >= s
        for size, n, s, b, k in zip(sizes, spatial, strides, before, reaches, strict=True)
    )
    shape = list(sizes) if same else full
    ends = [x.shape[0], *shape, kernel.shape[-2]]
    if len(strides) == 2:
        weights = steps.transpose(draft, kernel, (2, 0, 1, 3))
        fields: dict[str, Any] = {"padding": SAME if same else VALID, "strideH": strides[0], "strideW": strides[1],
                  "fusedActivationFunction": 0}  # fmt: skip
        made = draft.emit("TRANSPOSE_CONV", [draft.ints(ends), weights, x, bias], ends, **fields)
    else:
        fields = {"padding": SAME if same else VALID, "strideD": strides[0], "strideH": strides[1],
                  "strideW": strides[2], "fusedActivationFunction": 0}  # fmt: skip
        made = draft.emit("CONV_3D_TRANSPOSE", [draft.ints(ends), kernel, x, bias], ends, **fields)
    if same:
        return made
    after = [size - first - whole for size, first, whole in zip(sizes, (-b for b in before), full, strict=True)]
    pads = [(0, 0), *((-b, a) for b, a in zip(before, after, strict=True)), (0, 0)]
    cropped = padded(low, made, [(first, min(last, 0)) for first, last in pads])
    if all(last <= 0 for _, last in pads):
        return cropped
    # Behind the full result lies nothing but the bias.
    grown = padded(low, steps.binary(draft, "SUB", cropped, bias), [(0, max(last, 0)) for _, last in pads])
    return steps.binary(draft, "ADD", grown, bias)
