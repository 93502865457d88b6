"""What a kernel has to do, counted: the units that the cost model puts a price on.

A kernel's time is the sum of its units, each times a price in nanoseconds (`edgekit.predict.prices`). Because the sum
is linear, a whole model's counts may be summed first, which is how figures published for named models are fitted.

    gemm        MACs of 1x1 convolutions and products of matrices, channels rounded up to whole vectors
    conv        MACs of convolutions over several taps, the same
    depthwise   MACs of depthwise convolutions
    gemv        MACs of products with one row, which read each weight once
    outputs     elements that matrix kernels write: a tile is filled, scaled and stored whatever the depth of its sum
    traffic     bytes of activations that matrix kernels read and write
    far         bytes of activations and weights of a kernel that does not fit into the last cache of a core
    map         bytes that cheap elementwise kernels read and write
    math        elements of exp, tanh, logistic, softmax, division, square roots
    window      taps of pooling
    reduce      elements that means, sums and arg-maxima read
    move        bytes that copies, transpositions, paddings, resizings write
    convert     elements that change between integers and floats
    select      anchors times classes of detection post-processing, elements of sorts
    recurrent   MACs of recurrent steps
    step        recurrent steps
    kernel      one a kernel
    run         one a run
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgekit.formats.facts import Shape

UNITS = (
    "gemm", "conv", "depthwise", "gemv", "outputs", "traffic", "far", "map", "math", "window", "reduce", "move",
    "convert", "select", "recurrent", "step", "kernel", "run",
)  # fmt: skip

LANES = 8
"""Output channels are computed this many at a time: narrower layers leave lanes idle."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One call of a kernel.

    Attributes:
        name: Of the op, as `OpFacts.name`.
        kind: As `OpFacts.kind`; with what is fused into it: "Conv+Relu".
        precision: What it computes in: "fp32", "int8", "dynamic", "int16x8".
        units: Unit -> how many.
        bytes: All that it reads and writes, weights included.
        macs: Multiply-accumulates.
    """

    name: str
    kind: str
    precision: str
    units: Mapping[str, float]
    bytes: float = 0.0
    macs: float = 0.0


@dataclass(frozen=True, slots=True)
class Product:
    """A matrix kernel: `rows` outputs of `columns` channels a group, each a sum over `depth` inputs.

    Attributes:
        taps: Positions of the convolution's window; 1 for products of matrices.
        inputs, outputs, weights: Elements.
        size: Bytes an activation.
        weight_size: Bytes a weight.
    """

    rows: int
    columns: int
    depth: int
    groups: int
    taps: int
    inputs: int
    outputs: int
    weights: int
    size: float
    weight_size: float

    def units(self) -> dict[str, float]:
        traffic = self.size * (self.inputs + self.outputs)
        stored = self.weight_size * self.weights
        found = {"outputs": float(self.outputs), "traffic": traffic, "far": traffic + stored, "kernel": 1.0}
        if self.depth == self.taps and self.taps > 1 and self.groups > 1:
            found["depthwise"] = float(self.rows * self.columns * self.groups * self.taps)
            return found
        kind = "conv" if self.taps > 1 else "gemv" if self.rows == 1 else "gemm"
        found[kind] = float(self.rows * whole(self.columns) * self.groups * self.depth)
        return found

    @property
    def macs(self) -> int:
        return self.rows * self.columns * self.groups * self.depth

    @property
    def bytes(self) -> float:
        return self.size * (self.inputs + self.outputs) + self.weight_size * self.weights

    def kernel(self, name: str, kind: str, precision: str) -> Kernel:
        return Kernel(name, kind, precision, self.units(), self.bytes, self.macs)


def whole(channels: int) -> int:
    """Channels as they are computed: a multiple of `LANES`."""
    return -(-channels // LANES) * LANES


def convolution(
    source: Shape, target: Shape, window: Sequence[int], groups: int, size: float, weight_size: float
) -> Product:
    """A convolution; shapes are channels-last, `window` its spatial sizes."""
    taps = math.prod(window)
    inner = source[-1] // groups
    return Product(
        rows=math.prod(target[:-1]), columns=target[-1] // groups, depth=taps * inner, groups=groups, taps=taps,
        inputs=math.prod(source), outputs=math.prod(target), weights=taps * inner * target[-1], size=size,
        weight_size=weight_size,
    )  # fmt: skip


def product(rows: int, depth: int, columns: int, size: float, weight_size: float) -> Product:
    """A product of matrices."""
    return Product(rows, columns, depth, 1, 1, rows * depth, rows * columns, depth * columns, size, weight_size)


def simple(name: str, kind: str, precision: str, unit: str, count: float, moved: float) -> Kernel:
    """A kernel of one unit."""
    return Kernel(name, kind, precision, {unit: count, "kernel": 1.0}, moved)


def total(kernels: Sequence[Kernel]) -> dict[str, float]:
    """Counts of a whole run."""
    found: dict[str, float] = {"run": 1.0}
    for kernel in kernels:
        for unit, count in kernel.units.items():
            found[unit] = found.get(unit, 0.0) + count
    return found
