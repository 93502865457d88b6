"""A float graph as the repairs see it, the same for both formats: layers with weights, and what lies between them.

Each format has one module that reads a file into a `View` and writes it back (`view_tflite`, `view_onnx`); the repairs
know neither. Tensors go by the names that calibration uses. Kernels are brought into one form, [out, in / groups,
*window], which is ONNX's own; activations into [samples, channels, *places].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.converters.stages import Graph
from edgekit.rules import Rule

Floats = NDArray[np.float32]
Kind = Literal["layer", "same", "shift", "scale", "concat", "opaque"]


@dataclass(frozen=True)
class Window:
    """How a convolution walks over its input; one entry a spatial axis."""

    size: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """An operator with a constant kernel that no other operator reads.

    Attributes:
        name: Of the tensor it makes.
        source: The tensor it reads.
        groups: Of channels that do not see each other; as many as channels when it is depthwise.
        window: None where it is a matrix product, or goes backwards (`transposed`).
        axis: The channel axis of `source`. made_axis: Of the result.
        homogeneous: Scaling a channel before its fused activation scales it behind: there is none, or a Relu.
        per_channel: Integer kernels take a scale an output channel.
        transposed: A transposed convolution.
        biased: It may have a bias of its own. addend: Where it may not, the constant of the "shift" behind it.
    """

    name: str
    source: str
    groups: int
    window: Window | None
    axis: int
    made_axis: int
    homogeneous: bool = True
    per_channel: bool = True
    transposed: bool = False
    biased: bool = True
    addend: str | None = None


@dataclass(frozen=True)
class Op:
    """An operator, by what it does to channels.

    "same" ones do one thing to all channels, and twice as much to a channel twice as large; "shift" adds and "scale"
    multiplies by a constant a channel; "concat" puts tensors beside each other; "opaque" is everything else.

    Attributes:
        title: The operator's name in its format.
        inputs, outputs: Names of tensors that are no constants.
        layer: Of the kind "layer".
        constants: What "shift" and "scale" add or multiply by, flat: an element a channel.
        turn: Where an axis of the input is in the output; None when it is nowhere.
        axis: Of the kind "shift", "scale" and "concat".
        moves: It only moves values.
    """

    kind: Kind
    title: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layer: Layer | None = None
    constants: tuple[str, ...] = ()
    turn: Callable[[int], int | None] = lambda axis: axis
    axis: int = -1
    moves: bool = False


class View(Protocol):
    """A graph in memory that repairs look at and change.

    Attributes:
        ops: In the order of the file.
        inputs, outputs: Names of the graph's tensors.
        fused: Tensors that integer kernels never store, because the Relu behind them is part of their maker.
    """

    ops: tuple[Op, ...]
    inputs: frozenset[str]
    outputs: frozenset[str]
    fused: frozenset[str]

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Sizes of a tensor, -1 where free; None when not even their number is known."""
        ...

    def kernel(self, layer: Layer) -> Floats:
        """A copy: [out, in / groups, *window]."""
        ...

    def set_kernel(self, layer: Layer, kernel: Floats) -> None: ...

    def bias(self, layer: Layer) -> Floats | None:
        """A copy, [out]; None where there is none."""
        ...

    def set_bias(self, layer: Layer, bias: Floats) -> None:
        """Give a layer a bias, also one that had none; what else reads the old one keeps it."""
        ...

    def constant(self, name: str) -> Floats:
        """A constant of a "shift" or "scale", flat."""
        ...

    def set_constant(self, name: str, values: Floats) -> None:
        """New values, flat."""
        ...

    def divide(self, name: str, divisors: Floats, axis: int) -> str:
        """Divide a tensor by powers of two, one a channel: `name` is the quotient from now on, for all that read it.

        Args:
            name: Of what an operator makes.
            divisors: An element a channel.
            axis: Of the channels; the last one in TFLite.

        Returns:
            The title of the operator that does it.
        """
        ...

    def lifted(self, rules: Sequence[Rule]) -> frozenset[str]:
        """Tensors that layers make which rules take to another precision.

        Raises:
            UsageError: `rule-unmatched`.
        """
        ...

    def write(self, path: Path) -> None: ...


def open_view(graph: Graph) -> View:
    """The view of a float graph.

    Raises:
        SourceError: `tflite-unreadable`. ConversionError: `onnx-unreadable`.
    """
    if graph.format == "tflite":
        from edgekit.converters.repairs.view_tflite import TFLiteView

        return TFLiteView(Path(graph.path))
    from edgekit.converters.repairs.view_onnx import OnnxView

    return OnnxView(Path(graph.path))


def add_bias(opened: View, layer: Layer, more: NDArray[np.float64]) -> None:
    """Let a layer answer so much more, [out]: by its bias, or by the constant that is added behind it."""
    if layer.biased:
        bias = opened.bias(layer)
        opened.set_bias(layer, ((0 if bias is None else bias) + more).astype(np.float32))
    elif layer.addend:
        opened.set_constant(layer.addend, (opened.constant(layer.addend) + more).astype(np.float32))


def layers(view: View) -> list[Layer]:
    """All layers, in order."""
    return [op.layer for op in view.ops if op.layer is not None]


def reshaped(before: Sequence[int] | None, after: Sequence[int] | None) -> Callable[[int], int | None]:
    """`turn` of an operator that keeps the order of values: an axis stays itself if the sizes before it do."""

    def turn(axis: int) -> int | None:
        if before is None or after is None or axis >= len(before) or before[axis] < 2:
            return None
        # All other axes but the first (samples) must have one element, or the same lie before and behind.
        head, size, tail = list(before[:axis]), before[axis], list(before[axis + 1 :])
        for place, other in enumerate(after):
            if other == size and _bare(after[:place]) == _bare(head) and _bare(after[place + 1 :]) == _bare(tail):
                return place
        return None

    return turn


def _bare(sizes: Sequence[int]) -> list[int]:
    return [size for size in sizes if size != 1]


def transposed(order: Sequence[int]) -> Callable[[int], int | None]:
    """`turn` of a transposition."""
    return lambda axis: list(order).index(axis) if axis in order else None


def reduced(axes: Sequence[int], *, keeps: bool) -> Callable[[int], int | None]:
    """`turn` of a mean over other axes."""

    def turn(axis: int) -> int | None:
        if axis in axes:
            return None
        return axis if keeps else axis - sum(1 for gone in axes if gone < axis)

    return turn
