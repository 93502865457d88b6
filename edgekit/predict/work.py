"""What a kernel has to do, counted: the units that the cost model puts a price on.

A kernel's time is the sum of its units, each times a price in nanoseconds (`edgekit.predict.prices`). Because the sum
is linear, a whole model's counts may be summed first, which is how figures published for named models are fitted.

    gemm        MACs of 1x1 convolutions and products of matrices, channels rounded up to whole vectors
    conv        MACs of convolutions over several taps, the same
    idle        MACs more if channels are rounded up to twice as many, and rows to whole tiles: wide vectors and few
                rows pay for them
    depthwise   MACs of depthwise convolutions
    places      taps of depthwise convolutions for each place, however few channels there are
    taps        taps of dense convolutions for each place, however few channels there are
    passes      taps of dense convolutions for each output
    rows        inputs that matrix kernels gather for each row of outputs, however few channels those have
    gemv        MACs of products with one row, which read each weight once
    outputs     elements that matrix kernels write: a tile is filled, scaled and stored whatever the depth of its sum
    traffic     bytes of activations that matrix kernels read and write
    far         bytes of a kernel whose activations and weights do not fit into the caches
    map         bytes that cheap elementwise kernels read and write
    math        elements of exp, tanh, logistic, division, square roots
    swish       elements of hard swish, which TFLite computes apart, and in integers slowly
    norm        elements of softmax and normalizations, which pass over them several times
    window      taps of maximum pooling
    average     taps of average pooling
    reduce      elements that means, sums and arg-maxima read
    move        bytes that concatenations, slices and transpositions write
    stride      elements that slices with steps pick one by one
    pad         runs of the innermost axis that paddings write
    shuffle     bytes that resizings and gathers write
    turn        elements that onnxruntime turns to channels-last for its integer convolutions, and back
    convert     elements that change between integers and floats
    select      anchors times classes of detection post-processing, elements of sorts
    recurrent   MACs of recurrent steps
    step        recurrent steps
    launch      one a matrix kernel
    builtin     one a kernel of TFLite's own, which XNNPACK does not take, and one a recurrent kernel
    kernel      one a kernel
    run         one a run
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgekit.formats.facts import Shape

UNITS = (
    "gemm", "conv", "idle", "depthwise", "places", "taps", "passes", "rows", "gemv", "outputs", "traffic", "far", "map",
    "math", "swish", "norm", "window", "average",
    "reduce", "move", "stride", "pad", "shuffle", "turn", "convert", "select", "recurrent", "step", "launch", "builtin",
    "kernel", "run",
)  # fmt: skip

LANES = 8
"""Output channels are computed this many at a time: narrower layers leave lanes idle."""
ROWS = 6
"""Rows of a tile, about: four to eight in XNNPACK and MLAS."""


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
        gathered: Weights are not known beforehand, so that no kernel was made for them: the windows are written out
            and multiplied as matrices, group by group.
        packed: Weights that are not known beforehand are brought into the kernel's order at every run.
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
    gathered: bool = False
    packed: bool = False

    def units(self) -> dict[str, float]:
        traffic = self.size * (self.inputs + self.outputs)
        stored = self.weight_size * self.weights
        found = {"outputs": float(self.outputs), "traffic": traffic, "far": traffic + stored}
        found |= {"launch": 1.0, "kernel": 1.0}
        if self.packed:
            found["move"] = stored
        if self.gathered and self.taps > 1:
            windows = float(self.rows * self.groups * self.depth)
            found |= {"gemm": windows * whole(self.columns), "rows": windows, "move": self.size * windows}
            return found
        if self.depth == self.taps and self.taps > 1 and self.groups > 1:
            found["depthwise"] = float(self.rows * self.columns * self.groups * self.taps)
            found["places"] = float(self.rows * self.taps)
            return found
        kind = "conv" if self.taps > 1 else "gemv" if self.rows == 1 else "gemm"
        found["rows"] = float(self.rows * self.groups * self.depth)
        if kind == "conv":
            found["taps"] = float(self.rows * self.groups * self.taps)
            found["passes"] = float(self.outputs * self.taps)
        each = float(self.rows * self.groups * self.depth)
        found[kind] = each * whole(self.columns)
        if kind != "gemv":
            tiled = float(whole(self.rows, ROWS) * self.groups * self.depth)
            found["idle"] = tiled * whole(self.columns, 2 * LANES) - each * whole(self.columns)
        return found

    @property
    def macs(self) -> int:
        return self.rows * self.columns * self.groups * self.depth

    @property
    def bytes(self) -> float:
        return self.size * (self.inputs + self.outputs) + self.weight_size * self.weights

    def kernel(self, name: str, kind: str, precision: str) -> Kernel:
        return Kernel(name, kind, precision, self.units(), self.bytes, self.macs)


def whole(channels: int, lanes: int = LANES) -> int:
    """Channels as they are computed: a multiple of the lanes."""
    return -(-channels // lanes) * lanes


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
    return Kernel(name, kind, precision, {unit: count, "far": moved, "kernel": 1.0}, moved)


def total(kernels: Sequence[Kernel], cache: float = 0.0) -> dict[str, float]:
    """Counts of a whole run; `cache` in bytes decides which kernels reach out to memory."""
    found: dict[str, float] = {"run": 1.0}
    for kernel in kernels:
        for unit, count in kernel.units.items():
            if unit != "far" or kernel.bytes > cache:
                found[unit] = found.get(unit, 0.0) + count
    return found
