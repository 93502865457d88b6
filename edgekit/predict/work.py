"""What a kernel has to do, counted: the units that the cost model puts a price on.

A kernel's time is the sum of its units, each times a price in nanoseconds (`edgekit.predict.prices`). Because the sum
is linear, a whole model's counts may be summed first, which is how figures published for named models are fitted.

    gemm        MACs of 1x1 convolutions and products of matrices, channels rounded up to whole vectors
    conv        MACs of convolutions over several taps, the same
    idle        MACs more if channels are rounded up to twice as many, and rows to whole tiles: wide vectors and few
                rows pay for them
    depthwise   MACs of depthwise convolutions
    places      taps of depthwise convolutions for each place, however few channels there are; inputs of transposed
                ones of XNNPACK for each place that they write
    grouped     MACs of depthwise convolutions with more taps than XNNPACK has kernels for
    taps        taps of dense convolutions for each place, however few channels there are
    passes      taps of dense convolutions for each output
    rows        inputs that matrix kernels gather for each row of outputs, however few channels those have
    gemv        MACs of products with one row, which read each weight once
    outputs     elements that matrix kernels write: a tile is filled, scaled and stored whatever the depth of its sum
    traffic     bytes of activations that matrix kernels read and write
    mid         bytes of a kernel whose activations and weights fill more than half of the second level of cache, and
                are not far
    far         bytes of a kernel whose activations and weights do not fit into the caches
    map         bytes that cheap elementwise kernels read and write
    math        elements of exp, tanh, logistic, division, square roots
    swish       elements of hard swish, which TFLite computes apart, and in integers slowly; of onnxruntime's kernels
                for a bias or a gate together with its activation
    norm        elements of softmax and normalizations, which pass over them several times
    window      taps of maximum pooling
    pick        taps of maximum pooling that onnxruntime does channels-last, between integer convolutions
    average     taps of average pooling
    reduce      elements that means, sums and arg-maxima read
    move        bytes that concatenations, slices and transpositions write
    stride      elements that slices with steps pick one by one
    pad         runs of the innermost axis that paddings write
    strips      runs that are copied where the innermost axis is cut or joined
    shuffle     bytes that resizings and gathers write
    turn        elements that onnxruntime turns to channels-last for its integer convolutions, and back
    plane       matrices that a transposition turns one by one, rows that are normalized
    block       elements that onnxruntime brings into blocks of channels for its float convolutions, and back
    apart       results of integer products that onnxruntime scales after, not while, they are multiplied
    convert     elements that change between integers and floats
    select      anchors times classes of detection post-processing, elements of sorts
    scaled      elements that TFLite's own kernels scale from one grid of integers to another, by what each takes
    soft        elements of softmax in integers, by TFLite's own kernel
    matrix      MACs of products of two activations in integers, by TFLite's own kernel
    spread      MACs of transposed convolutions
    blend       elements that bilinear resizings write
    recurrent   MACs of recurrent steps
    step        recurrent steps
    launch      one a matrix kernel
    batch       matrices that are multiplied one after the other, both of them activations
    builtin     one a kernel of TFLite's own, which XNNPACK does not take, one a recurrent kernel, and one a kernel of
                onnxruntime that reads its settings at every run
    kernel      one a kernel
    cold        one a kernel, the more of it the more kernels a run has
    state       bytes that an engine keeps of each kernel, as far as those of a whole run do not fit into half of the
                second level of cache
    asking      one a kernel that several threads share
    fed         bytes of the model's inputs that threads other than the caller's read too
    run         one a run
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgekit.formats.facts import Shape

UNITS = (
    "gemm", "conv", "idle", "depthwise", "places", "grouped", "taps", "passes", "rows", "gemv", "outputs", "traffic",
    "mid", "far", "map",
    "math", "swish", "norm", "window", "pick", "average",
    "reduce", "move", "stride", "pad", "strips", "shuffle", "turn", "plane", "block", "apart", "convert", "select",
    "scaled", "soft",
    "matrix", "spread", "blend", "recurrent", "step", "launch", "batch", "builtin", "kernel", "cold", "state",
    "asking", "fed", "run",
)  # fmt: skip

STORED = "stored"
"""Bytes of weights, which every run reads once: where those of a whole run do not fit into half of the second level of
cache, they count as "mid" even of small kernels, as far as they do not fit."""

SHARED_ONLY = ("asking", "fed")
"""Units that cost only where several threads share a kernel."""

MANY = 1 << 20
"""Pieces of a kernel of which nothing else is known."""
LANES = 8
"""Output channels are computed this many at a time: narrower layers leave lanes idle."""
_GATHERED = 1.5
"""An input of a transposed convolution beside a tap of a depthwise one: 0.7 to 1.3 ns in float beside 0.64, seven
layers of 3 to 64 channels (ai-edge-litert 2.3.0, x86-64)."""
ROWS = 6
"""Rows of a tile, about: four to eight in XNNPACK and MLAS."""


@dataclass(frozen=True, slots=True)
class Chip:
    """What a processor's instructions decide on the kernels that run.

    Attributes:
        signed: onnxruntime has kernels for signed activations there (`edgekit.predict.plan_onnx.fused`).
        wide: XNNPACK's float convolutions compute 32 channels at a time, unless there are 16 or fewer (AVX-512;
            src/configs/gemm-config.c, nr and nr2): three by three, 40 channels took as long as 64.
    """

    signed: bool = True
    wide: bool = False


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
        pieces: Into how many it can be divided: more threads than that do not help.
    """

    name: str
    kind: str
    precision: str
    units: Mapping[str, float]
    bytes: float = 0.0
    macs: float = 0.0
    pieces: int = MANY

    def counting(self, units: Mapping[str, float], pieces: int | None = None) -> Kernel:
        """The same, counted in other units; `dataclasses.replace` takes five times as long, for each of thousands."""
        return Kernel(self.name, self.kind, self.precision, units, self.bytes, self.macs, pieces or self.pieces)


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
        scattered: A transposed convolution, whose windows are added up.
        matrices: How many are multiplied one after the other.
        deep: Inputs of each tap are rounded up to a multiple of this.
        tile: Channels that are computed together, whether there are so many or not.
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
    scattered: bool = False
    matrices: int = 1
    deep: int = 1
    tile: int = 2 * LANES

    def units(self) -> dict[str, float]:
        traffic = self.size * (self.inputs + self.outputs)
        stored = self.weight_size * self.weights
        moved = traffic + stored
        found = {"outputs": float(self.outputs), "traffic": traffic, "mid": moved, "far": moved}
        found |= {"launch": 1.0, "kernel": 1.0, STORED: 0.0 if self.packed or self.gathered else stored}
        if self.packed:
            found["move"] = stored
            found["batch"] = float(self.matrices)
        if self.gathered and self.taps > 1:
            windows = float(self.rows * self.groups * self.depth)
            found |= {"gemm": windows * whole(self.columns), "rows": windows, "move": self.size * windows}
            return found
        if self.depth == self.taps and self.taps > 1 and self.groups > 1:
            found["depthwise"] = float(self.rows * self.columns * self.groups * self.taps)
            found["places"] = float(self.rows * self.taps)
            return found
        if self.scattered:
            found["spread"] = float(self.macs // self.columns * whole(self.columns, self.tile))
            if self.tile > 1:
                found["places"] = _GATHERED * (self.outputs // self.columns) * (self.inputs // self.rows)
            return found
        kind = "conv" if self.taps > 1 else "gemv" if self.rows == 1 else "gemm"
        found["rows"] = float(self.rows * self.groups * self.depth)
        if kind == "conv":
            found["taps"] = float(self.rows * self.groups * self.taps)
            found["passes"] = float(self.outputs * self.taps)
        each = float(self.rows * self.groups * self.depth)
        found[kind] = each * whole(self.columns)
        if kind != "gemv":
            depth = self.taps * whole(self.depth // self.taps, self.deep)
            tiled = float(whole(self.rows, ROWS) * self.groups * depth)
            found["idle"] = tiled * whole(self.columns, self.tile) - each * whole(self.columns)
        return found

    @property
    def macs(self) -> int:
        return self.rows * self.columns * self.groups * self.depth

    @property
    def tiles(self) -> int:
        """Pieces of the result that XNNPACK computes apart; of depthwise convolutions rows of pixels, as if square."""
        if self.depth == self.taps and self.taps > 1 and self.groups > 1:
            return max(1, math.isqrt(self.rows))
        return -(-self.rows // ROWS) * self.groups * -(-self.columns // (2 * LANES))

    @property
    def bytes(self) -> float:
        return self.size * (self.inputs + self.outputs) + self.weight_size * self.weights

    def kernel(self, name: str, kind: str, precision: str) -> Kernel:
        return Kernel(name, kind, precision, self.units(), self.bytes, self.macs, self.tiles)


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
    return Kernel(name, kind, precision, {unit: count, "mid": moved, "far": moved, "kernel": 1.0}, moved)


def total(
    kernels: Sequence[Kernel], cache: float = 0.0, near: float = math.inf, share: float | None = None
) -> dict[str, float]:
    """Counts of a whole run; `cache` and `near` in bytes decide which kernels reach out to memory, and to the caches
    behind the first; `share` as `away` says, where these kernels are not the whole run.
    """
    found: dict[str, float] = {"run": 1.0}
    far = away(kernels, near) if share is None else share
    for kernel in kernels:
        for unit, count in kernel.units.items():
            if amount := counted(unit, count, kernel.bytes, cache, near, far):
                unit = "mid" if unit == STORED else unit  # noqa: PLW2901 - priced as such
                found[unit] = found.get(unit, 0.0) + amount
    return found


def away(kernels: Sequence[Kernel], near: float) -> float:
    """Share of what belongs to the kernels of a run that is no longer near when its turn comes again."""
    whole_run = held(kernels)
    return max(0.0, 1.0 - near / whole_run) if whole_run else 0.0


def held(kernels: Sequence[Kernel]) -> float:
    """Bytes of everything that the kernels of a run touch."""
    return sum(kernel.bytes + kernel.units.get("state", 0.0) for kernel in kernels)


def merged(kernels: Sequence[Kernel], cache: float, near: float, threads: int) -> tuple[Kernel, ...]:
    """Few kernels that cost together what these do: those of one arithmetic, as large beside the levels of memory,
    and divided into as many pieces, as far as so many threads tell the difference.
    """
    sums: dict[tuple[str, float, int], dict[str, float]] = {}
    for kernel in kernels:
        size = math.inf if kernel.bytes > cache else cache if kernel.bytes > near else 0.0
        units = sums.setdefault((kernel.precision, size, min(kernel.pieces, threads)), {})
        for unit, count in kernel.units.items():
            units[unit] = units.get(unit, 0.0) + count
    return tuple(
        Kernel("", "", precision, units, size, pieces=pieces) for (precision, size, pieces), units in sums.items()
    )


def counted(unit: str, count: float, size: float, cache: float, near: float, share: float) -> float:
    """How much of a unit counts for a kernel of this many bytes: those of the levels of memory do not always."""
    if unit == "state":
        return count * share
    if unit == "fed":
        return 0.0
    if unit == STORED:
        return count * share if size <= near else 0.0
    reached = size > cache if unit == "far" else near < size <= cache if unit == "mid" else True
    return count if reached else 0.0


def shared(kernel: Kernel) -> dict[str, float]:
    """Units of a kernel that count only where several threads work it off."""
    return {"asking": kernel.units.get("kernel", 0.0), "fed": kernel.units.get("fed", 0.0)}
