"""From a tensor to a few numbers that drift moves: values, pictures, bands over time, ids, texts.

A feature is cheap (a picture of any size takes some 30 microseconds) and tells something that a person can act on:
"brighter", "blurred", "band 3 is louder". What a tensor is taken for follows from its shape, its dtype and the
manifest, so that workstation and device make the same row of the same sample.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Protocol

import numpy as np

from edgekit.feeding import Preprocess
from edgekit.monitor.columns import Array
from edgekit.tensors import TensorSpec

VALUES = 64
"""A tensor of so many elements is watched value by value."""

SIDE = 32
"""Rows and columns of a picture that are looked at: evenly spread ones, and as many neighbors in its middle."""

BANDS = 16
"""A longer axis of bands is watched in groups."""

SPAN = 4096
"""Elements of a longer signal that are looked at: those in its middle."""

_TINY = 1e-12
_CORNERS = (0, 1, 2, 4, 5, 6, 8, 9, 10)
"""Cells of a 4 x 4 grid that have a neighbor to the right and below."""


CLIPPED = "clipped share"
"""Name of the feature of a wave that tells how much of it stands at its own extremes."""


class Extractor(Protocol):
    """Makes the features of one tensor.

    Attributes:
        names: Of the features.
        noun: What they are.
    """

    names: tuple[str, ...]
    noun: str

    def into(self, sample: Array, row: Array) -> None:
        """Features of one sample, whose batch axis is gone, into `row` [len(names)] (float64)."""
        ...


def extractor(spec: TensorSpec, how: Preprocess | None, room: int = VALUES) -> Extractor:
    """The one for a tensor.

    Args:
        spec: Of the tensor.
        how: How it is prepared, for inputs; None for others.
        room: Columns that are left.
    """
    shape = spec.shape[1:]
    sizes = tuple(1 if size is None else size for size in shape)
    size = elements(spec)
    kind = how.kind if how is not None else "array"
    if spec.dtype == "string":
        return Texts()
    if spec.dtype in ("int32", "int64", "uint32", "uint64") and spec.quant is None and size > BANDS:
        return Ids()
    if size <= min(VALUES, room) and kind != "image" and None not in shape:
        return Values(spec, _named(how, size))
    picture = _picture(sizes, spec, kind)
    if picture is not None:
        return Picture(spec, *picture)
    turned = how is not None and how.audio is not None and how.audio.axes == "bands-time"
    return Bands(spec, sizes, bands_first=turned)


def elements(spec: TensorSpec) -> int:
    """Of one sample; free sizes count as 1."""
    return math.prod(1 if size is None else size for size in spec.shape[1:])


def numbered(count: int) -> tuple[str, ...]:
    """Names of values that have none."""
    return tuple(f"value {place}" for place in range(count)) if count > 1 else ("value",)


def _named(how: Preprocess | None, size: int) -> tuple[str, ...]:
    """Names of the values: the columns of a table whose values are its columns."""
    table = how.table if how is not None else None
    if table is not None and table.width == size == len(table.columns):
        return table.columns
    return numbered(size)


def _picture(sizes: tuple[int, ...], spec: TensorSpec, kind: str) -> tuple[int, bool] | None:
    """Channels and whether they come first; None for what is no picture."""
    if len(sizes) == 2 and kind == "image":
        return 1, False
    if len(sizes) != 3:
        return (1, False) if len(sizes) == 2 and min(sizes) >= SIDE // 2 and max(sizes) <= 2 * min(sizes) else None
    first = spec.layout == "NCHW" or (spec.layout is None and sizes[0] in (1, 3, 4) and sizes[2] not in (1, 3, 4))
    channels, *sides = sizes if first else (sizes[2], *sizes[:2])
    square = min(sides) >= 8 and max(sides) <= 4 * min(sides)
    return (channels, first) if channels in (1, 3, 4) and (kind == "image" or square) and min(sides) >= 8 else None


class _Real:
    """Integers of a quantized tensor as reals."""

    def __init__(self, spec: TensorSpec) -> None:
        quant = spec.quant if spec.quant is not None and spec.quant.axis is None else None
        self.dtype = np.dtype(spec.dtype) if quant is not None else None
        self.scale = quant.scale[0] if quant is not None else 1.0
        self.zero = float(quant.zero_point[0]) if quant is not None else 0.0

    def __call__(self, array: Array) -> Array:
        if array.dtype == self.dtype:
            return (array.astype(np.float32) - np.float32(self.zero)) * np.float32(self.scale)
        return array if array.dtype == np.float32 else array.astype(np.float32)


class Values:
    """Each element by itself."""

    noun = "feature"

    def __init__(self, spec: TensorSpec, names: tuple[str, ...]) -> None:
        self.names = names
        self._real = _Real(spec)

    def into(self, sample: Array, row: Array) -> None:
        flat = sample.reshape(-1)
        row[:] = flat if flat.dtype != self._real.dtype else self._real(flat)


class Picture:
    """Brightness, contrast, where it is bright, edges and their direction, grain.

    Looked at are `SIDE` x `SIDE` evenly spread pixels, and of a larger picture as many neighbors in its middle, because
    blur and noise show between neighbors only. Energies are logarithms, ratios where one of them alone would only
    repeat the contrast.
    """

    noun = "picture"

    def __init__(self, spec: TensorSpec, channels: int, first: bool) -> None:
        self._real = _Real(spec)
        self.first = first
        self._channels = channels
        self._pools: dict[tuple[int, int], tuple[Array, Array]] = {}
        colors = ("red", "green", "blue", "alpha")[:channels] if channels > 1 else ()
        grid = tuple(f"brightness at {row + 1}, {column + 1} of 4" for row in range(4) for column in range(4))
        self.names = (
            "brightness", "contrast", *colors, *grid,
            "edges", "fine detail", "direction of edges", "slant of edges", "coarse detail",
        )  # fmt: skip

    def into(self, sample: Array, row: Array) -> None:
        if self.first and sample.ndim == 3:
            sample = sample.transpose(1, 2, 0)
        height, width = sample.shape[:2]
        down, across = -(-height // SIDE), -(-width // SIDE)
        real = self._real
        gray = sample if sample.ndim == 2 else sample[:, :, self._channels // 2 if self._channels == 3 else 0]
        wide = real(gray[::down, ::across])
        if down > 1 or across > 1:
            top, left = (height - min(height, SIDE)) // 2, (width - min(width, SIDE)) // 2
            near = real(gray[top : top + SIDE, left : left + SIDE])
        else:
            near = wide
        pools = self._pools.get(wide.shape)
        if pools is None:
            pools = self._pools[wide.shape] = (_pool(wide.shape[0]), _pool(wide.shape[1]).T.copy())
        grid = (pools[0] @ wide @ pools[1]).reshape(-1).tolist()
        corner = near[:-1, :-1]
        right, below = (near[:-1, 1:] - corner).reshape(-1), (near[1:, :-1] - corner).reshape(-1)
        square = wide.reshape(-1)
        mean = sum(grid) / 16
        across_2, below_2, both = float(right.dot(right)), float(below.dot(below)), float(right.dot(below))
        edges = across_2 + below_2
        # The difference of differences along a diagonal: none of a slope, all of grain.
        fine = (near[1:, 1:] - near[:-1, 1:]).reshape(-1) - below
        grain = float(fine.dot(fine))
        spread = float(square.dot(square)) / square.size - mean * mean
        rough = sum((grid[at + 1] - grid[at]) ** 2 + (grid[at + 4] - grid[at]) ** 2 for at in _CORNERS)
        tiny = _TINY * (mean * mean + 1)
        log = math.log
        numbers = [mean, log(max(spread, 0.0) + tiny) / 2]
        if self._channels > 1:
            colors = sample[::down, ::across].reshape(-1, self._channels)
            sums = _ones(colors.shape[0]) @ real(colors)
            numbers += (sums / colors.shape[0] - mean).tolist()
        numbers += grid
        numbers += [
            log(edges / right.size + tiny),
            log((grain + tiny) / (edges + tiny)),
            (across_2 - below_2) / (edges + tiny),
            both / (edges + tiny),
            log(rough + tiny),
        ]
        row[:] = numbers


def _pool(size: int) -> Array:
    """[4, size]: means of four stretches of an axis."""
    ends = np.linspace(0, size, 5).round().astype(int)
    pool = np.zeros((4, size), np.float32)
    for place in range(4):
        begin, end = ends[place], max(ends[place + 1], ends[place] + 1)
        pool[place, begin:end] = 1 / (end - begin)
    return pool


_ONES: dict[int, Array] = {}


def _ones(size: int) -> Array:
    found = _ONES.get(size)
    if found is None:
        found = _ONES[size] = np.ones(size, np.float32)
    return found


class Bands:
    """Means and spreads of bands over time, as of spectra, sensors and waves: the last axis is the bands'.

    Of a single band (a wave) also what it does at longer and longer steps, which tells low from high tones; and how
    much of it stands at its own extremes, as clipped sound does.
    """

    noun = "band"

    def __init__(self, spec: TensorSpec, sizes: tuple[int, ...], *, bands_first: bool) -> None:
        self._real = _Real(spec)
        squeezed = tuple(size for size in sizes if size > 1) or (1,)
        self._first = bands_first and len(squeezed) > 1
        bands = 1 if len(squeezed) == 1 else squeezed[0] if self._first else squeezed[-1]
        self._bands = bands
        count = min(bands, BANDS)
        ends = np.linspace(0, bands, count + 1).round().astype(int)
        groups = [f"{a}" if b - a == 1 else f"{a}-{b - 1}" for a, b in pairwise(ends.tolist())]
        self._group = np.zeros((bands, count), np.float32)
        for place in range(count):
            self._group[ends[place] : ends[place + 1], place] = 1 / (ends[place + 1] - ends[place])
        if bands == 1:
            steps = tuple(f"change over {1 << level} steps" for level in range(_LEVELS))
            self.names: tuple[str, ...] = ("mean", "loudness", *steps, CLIPPED)
        else:
            self.names = (
                *(f"mean of band {group}" for group in groups),
                *(f"spread of band {group}" for group in groups),
                "change over time",
            )

    def into(self, sample: Array, row: Array) -> None:
        if self._bands == 1:
            self._wave(sample.reshape(-1), row)
            return
        table = sample.reshape(self._bands, -1).T if self._first else sample.reshape(-1, self._bands)
        longest = max(2, SPAN // self._bands)
        if table.shape[0] > longest:
            table = table[:: -(-table.shape[0] // longest)]
        real = np.ascontiguousarray(self._real(table))
        size = real.shape[0]
        ones = _ones(size)
        means = ones @ real / size
        powers = ones @ np.square(real) / size
        count = self._group.shape[1]
        row[:count] = means @ self._group
        row[count : 2 * count] = np.sqrt(np.maximum(powers - np.square(means), 0)) @ self._group
        change = (real[1:] - real[:-1]).reshape(-1)
        row[-1] = math.log(float(change.dot(change)) / max(1, change.size) + _TINY)

    def _wave(self, wave: Array, row: Array) -> None:
        begin = max(0, (wave.size - SPAN) // 2)
        real = self._real(wave[begin : begin + SPAN])
        mean = float(_ones(real.size) @ real) / real.size
        power = float(real.dot(real)) / real.size
        tiny = _TINY
        numbers = [mean, math.log(max(power - mean * mean, 0.0) + tiny) / 2]
        level = real
        for _ in range(_LEVELS):
            half = level.size // 2
            if half < 2:
                numbers.append(math.log(tiny))
                continue
            even, odd = level[: 2 * half : 2], level[1 : 2 * half : 2]
            change = odd - even
            numbers.append(math.log(float(change.dot(change)) / half / (power + tiny) + tiny))
            level = even + odd
        most = float(max(real.max(), -real.min()))
        at_the_end = np.count_nonzero(np.abs(real) >= 0.999 * most) if most > 0 else 0
        row[:] = [*numbers, at_the_end / real.size if at_the_end > 2 else 0.0]


_LEVELS = 8


class Ids:
    """Numbers that name things: how many are not 0, and how they spread over sixteen heaps."""

    noun = "id"
    names: tuple[str, ...] = ("share that is not 0", *(f"share of ids in heap {heap} of 16" for heap in range(16)))

    def into(self, sample: Array, row: Array) -> None:
        flat = sample.reshape(-1)[:SPAN].astype(np.int64, copy=False)
        used = flat[flat != 0]
        row[0] = used.size / max(1, flat.size)
        row[1:] = np.bincount(used & 15, minlength=16) / max(1, used.size)


class Texts:
    """Length, and what its characters are."""

    noun = "text"
    names: tuple[str, ...] = (
        "length",
        "share of letters",
        "share of capitals",
        "share of digits",
        "share of spaces",
        "share beyond ASCII",
    )

    def into(self, sample: Array, row: Array) -> None:
        flat = np.asarray(sample, object).reshape(-1)[:64]
        texts = [item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item) for item in flat.tolist()]
        text = "".join(texts)[:SPAN]
        size = max(1, len(text))
        row[:] = [
            sum(map(len, texts)),
            sum(map(str.isalpha, text)) / size,
            sum(map(str.isupper, text)) / size,
            sum(map(str.isdigit, text)) / size,
            sum(map(str.isspace, text)) / size,
            sum(character > "\x7f" for character in text) / size,
        ]


class Summary:
    """Of an output too large to watch value by value: its middle, spread and extremes."""

    noun = "output"
    names: tuple[str, ...] = ("mean", "spread", "smallest", "largest")

    def __init__(self, spec: TensorSpec) -> None:
        self._real = _Real(spec)

    def into(self, sample: Array, row: Array) -> None:
        flat = sample.reshape(-1)
        if not flat.size:
            row[:] = 0
            return
        low, high = float(flat.min()), float(flat.max())
        some = self._real(flat[:: -(-flat.size // 1024)])
        mean = float(_ones(some.size) @ some) / some.size
        power = float(some.dot(some)) / some.size
        real = self._real
        if flat.dtype == real.dtype:
            low, high = (low - real.zero) * real.scale, (high - real.zero) * real.scale
        row[:] = [mean, math.sqrt(max(0.0, power - mean * mean)), low, high]
