"""From a tensor to a few numbers that drift moves: values, pictures, bands over time, ids, texts.

A feature is cheap and tells something that a person can act on: "brighter", "blurred", "band 3 is louder". What a
tensor is taken for follows from its shape, its dtype and the manifest, so that workstation and device make the same
row of the same sample.

A call only copies what is looked at (`Extractor.views`); features are made of several samples at once, which is what
makes them cheap. Those of a sample do not depend on its neighbors, bit for bit: what stands still is equal.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from edgekit.feeding import Preprocess
from edgekit.monitor.columns import Array
from edgekit.monitor.picture import SIDE, TINY, Picture, Real, dots
from edgekit.tensors import TensorSpec

VALUES = 64
"""A tensor of so many elements is watched value by value."""

BANDS = 16
"""A longer axis of bands is watched in groups."""

SPAN = 4096
"""Elements of a longer signal that are looked at: those in its middle."""


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

    def views(self, batch: Array) -> tuple[Array, ...]:
        """Of samples [n, ...] the parts that are looked at, each [n, ...]."""
        ...

    def rows(self, *views: Array) -> Array:
        """[n, len(names)]: features of those parts."""
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
        return Values(spec, _named(spec, how, size))
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


def _named(spec: TensorSpec, how: Preprocess | None, size: int) -> tuple[str, ...]:
    """Names of the values: the columns of a table whose values are its columns, or those that the source knew."""
    table = how.table if how is not None else None
    if table is not None:
        return table.columns if table.width == size == len(table.columns) else numbered(size)
    return spec.columns if spec.columns is not None and len(spec.columns) == size else numbered(size)


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


class Values:
    """Each element by itself."""

    noun = "feature"

    def __init__(self, spec: TensorSpec, names: tuple[str, ...]) -> None:
        self.names = names
        self._real = Real(spec)

    def views(self, batch: Array) -> tuple[Array, ...]:
        return (batch if batch.ndim == 2 else batch.reshape(len(batch), -1),)

    def rows(self, *views: Array) -> Array:
        (flat,) = views
        return flat if flat.dtype != self._real.dtype else self._real(flat)


class Bands:
    """Means and spreads of bands over time, as of spectra, sensors and waves: the last axis is the bands'.

    Of a single band (a wave) also what it does at longer and longer steps, which tells low from high tones; and how
    much of it stands at its own extremes, as clipped sound does.
    """

    noun = "band"

    def __init__(self, spec: TensorSpec, sizes: tuple[int, ...], *, bands_first: bool) -> None:
        self._real = Real(spec)
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

    def views(self, batch: Array) -> tuple[Array, ...]:
        number = len(batch)
        if self._bands == 1:
            wave = batch.reshape(number, -1)
            begin = max(0, (wave.shape[1] - SPAN) // 2)
            return (wave[:, begin : begin + SPAN],)
        if self._first:
            table = batch.reshape(number, self._bands, -1).transpose(0, 2, 1)
        else:
            table = batch.reshape(number, -1, self._bands)
        longest = max(2, SPAN // self._bands)
        return (table[:, :: -(-table.shape[1] // longest)] if table.shape[1] > longest else table,)

    def rows(self, *views: Array) -> Array:
        real = np.ascontiguousarray(self._real(views[0]))
        if self._bands == 1:
            return self._waves(real)
        number, size, _ = real.shape
        ones = np.ones((1, size), np.float32)
        means = ones @ real / size
        powers = ones @ np.square(real) / size
        spread = np.sqrt(np.maximum(powers - np.square(means), 0))
        change = (real[:, 1:] - real[:, :-1]).reshape(number, -1)
        count = self._group.shape[1]
        made = np.empty((number, 2 * count + 1))
        made[:, :count] = (means @ self._group)[:, 0]
        made[:, count:-1] = (spread @ self._group)[:, 0]
        made[:, -1] = np.log(dots(change, change) / max(1, change.shape[1]) + TINY)
        return made

    def _waves(self, wave: Array) -> Array:
        number, size = wave.shape
        made = np.zeros((number, len(self.names)))
        if not size:
            return made
        mean = wave.sum(axis=1).astype(np.float64) / size
        power = dots(wave, wave) / size
        made[:, 0] = mean
        made[:, 1] = np.log(np.maximum(power - mean * mean, 0.0) + TINY) / 2
        changes = np.zeros((number, _LEVELS))
        level = wave
        for place in range(_LEVELS):
            half = level.shape[1] // 2
            if half < 2:
                break
            even, odd = level[:, : 2 * half : 2], level[:, 1 : 2 * half : 2]
            change = odd - even
            changes[:, place] = dots(change, change) / half
            level = even + odd
        made[:, 2 : 2 + _LEVELS] = np.log(changes / (power[:, None] + TINY) + TINY)
        size_of = np.abs(wave)
        most = size_of.max(axis=1)
        ends = np.count_nonzero(size_of >= np.float32(0.999) * most[:, None], axis=1)
        made[:, -1] = np.where((ends > 2) & (most > 0), ends / size, 0.0)
        return made


_LEVELS = 8


class Ids:
    """Numbers that name things: how many are not 0, and how they spread over sixteen heaps."""

    noun = "id"
    names: tuple[str, ...] = ("share that is not 0", *(f"share of ids in heap {heap} of 16" for heap in range(16)))

    def views(self, batch: Array) -> tuple[Array, ...]:
        return (batch.reshape(len(batch), -1)[:, :SPAN],)

    def rows(self, *views: Array) -> Array:
        flat = views[0].astype(np.int64, copy=False)
        number, size = flat.shape
        heaps = np.where(flat != 0, flat & 15, 16) + 17 * np.arange(number)[:, None]
        counts = np.bincount(heaps.reshape(-1), minlength=17 * number).reshape(number, 17)
        used = size - counts[:, 16]
        made = np.empty((number, 17))
        made[:, 0] = used / max(1, size)
        made[:, 1:] = counts[:, :16] / np.maximum(1, used)[:, None]
        return made


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

    def views(self, batch: Array) -> tuple[Array, ...]:
        return (np.asarray(batch, object).reshape(len(batch), -1)[:, :64],)

    def rows(self, *views: Array) -> Array:
        return np.array([self._row(texts) for texts in views[0].tolist()]).reshape(-1, len(self.names))

    @staticmethod
    def _row(given: list[Any]) -> list[float]:
        texts = [item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item) for item in given]
        text = "".join(texts)[:SPAN]
        size = max(1, len(text))
        return [
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
        self._real = Real(spec)

    def views(self, batch: Array) -> tuple[Array, ...]:
        """Some of it, and its extremes [n, 2]."""
        flat = batch.reshape(len(batch), -1)
        if not flat.size:
            return flat[:, :0], np.zeros((len(batch), 2), flat.dtype)
        ends = np.stack([flat.min(axis=1), flat.max(axis=1)], axis=1)
        return flat[:, :: -(-flat.shape[1] // 1024)], ends

    def rows(self, *views: Array) -> Array:
        some, ends = (np.ascontiguousarray(self._real(view)) for view in views)
        number, size = some.shape
        made = np.zeros((number, 4))
        if size:
            mean = some.sum(axis=1).astype(np.float64) / size
            made[:, 0] = mean
            made[:, 1] = np.sqrt(np.maximum(0.0, dots(some, some) / size - mean * mean))
            made[:, 2:] = ends
        return made
