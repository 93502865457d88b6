"""What is taken of a picture: a few pixels of it, and of these some twenty numbers."""

from __future__ import annotations

import numpy as np

from edgekit.monitor.columns import Array
from edgekit.tensors import TensorSpec

SIDE = 32
"""Rows and columns of a picture that are looked at: evenly spread ones, and as many neighbors in its middle."""

TINY = 1e-12
_CORNERS = np.array([0, 1, 2, 4, 5, 6, 8, 9, 10])
"""Cells of a 4 x 4 grid that have a neighbor to the right and below."""

_RIGHT, _BELOW = _CORNERS + 1, _CORNERS + 4


class Real:
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


def dots(a: Array, b: Array) -> Array:
    """[n] float64: products of rows [n, m], each summed by itself."""
    return np.asarray(np.einsum("nm,nm->n", a, b), np.float64)


class Picture:
    """Brightness, contrast, where it is bright, edges and their direction, grain.

    Looked at are `SIDE` x `SIDE` evenly spread pixels, and of a larger picture as many neighbors in its middle, because
    blur and noise show between neighbors only. Energies are logarithms, ratios where one of them alone would only
    repeat the contrast. Of colors one (green, where there are three) stands for gray; the others are told beside it.
    """

    noun = "picture"

    def __init__(self, spec: TensorSpec, channels: int, first: bool) -> None:
        self._real = Real(spec)
        self.first = first
        self._channels = channels
        self._pools: dict[tuple[int, int], tuple[Array, Array]] = {}
        self._gray = 1 if channels == 3 else 0
        colors = [
            name for place, name in enumerate(("red", "green", "blue", "alpha")[:channels]) if place != self._gray
        ]
        grid = tuple(f"brightness at {row + 1}, {column + 1} of 4" for row in range(4) for column in range(4))
        self.names = (
            "brightness", "contrast", *colors, *grid,
            "edges", "fine detail", "direction of edges", "slant of edges", "coarse detail",
        )  # fmt: skip

    def views(self, batch: Array) -> tuple[Array, ...]:
        """Its channels, and of a larger picture what lies in the middle of the gray one."""
        channels = batch[:, None] if batch.ndim == 3 else batch if self.first else batch.transpose(0, 3, 1, 2)
        height, width = channels.shape[2:]
        down, across = -(-height // SIDE), -(-width // SIDE)
        if down == across == 1:
            return (channels,)
        top, left = (height - min(height, SIDE)) // 2, (width - min(width, SIDE)) // 2
        near = channels[:, self._gray, top : top + SIDE, left : left + SIDE]
        return channels[:, :, ::down, ::across], near

    def rows(self, *views: Array) -> Array:
        real = self._real(views[0])
        planes = [np.ascontiguousarray(real[:, channel]) for channel in range(self._channels)]
        wide = planes.pop(self._gray)
        near = np.ascontiguousarray(self._real(views[1])) if len(views) > 1 else wide
        number, height, width = wide.shape
        pools = self._pools.get((height, width))
        if pools is None:
            pools = self._pools[height, width] = (_pool(height), _pool(width).T.copy())
        grid = (pools[0] @ wide @ pools[1]).reshape(number, 16).astype(np.float64)
        flat = wide.reshape(number, -1)
        mean = grid.sum(axis=1) / 16
        across_2, below_2, both, grain, size = _edges(near)
        edges = across_2 + below_2
        spread = dots(flat, flat) / flat.shape[1] - mean * mean
        cells = grid.take(_CORNERS, axis=1)
        rough = (np.square(grid.take(_RIGHT, axis=1) - cells) + np.square(grid.take(_BELOW, axis=1) - cells)).sum(
            axis=1
        )
        tiny = TINY * (mean * mean + 1)
        some = edges + tiny
        made = np.empty((number, len(self.names)))
        made[:, 0] = mean
        made[:, 1] = np.log(np.maximum(spread, 0.0) + tiny) / 2
        at = 2
        for plane in planes:  # of a gray picture exactly 0
            made[:, at] = (plane.reshape(number, -1) - flat).sum(axis=1) / flat.shape[1]
            at += 1
        made[:, at : at + 16] = grid
        made[:, at + 16] = np.log(edges / size + tiny)
        made[:, at + 17] = np.log((grain + tiny) / some)
        made[:, at + 18] = (across_2 - below_2) / some
        made[:, at + 19] = both / some
        made[:, at + 20] = np.log(rough + tiny)
        return made


def _edges(near: Array) -> tuple[Array, Array, Array, Array, int]:
    """Of pictures [n, h, w]: sums [n] of squared differences to the right, of those downwards, of both multiplied, and
    of differences of differences along a diagonal (none of a slope, all of grain); of how many pixels.

    Rows are taken end to end, which is one long subtraction; what reaches around an end is made 0.
    """
    number, height, width = near.shape
    flat = near.reshape(number, -1)
    count = (height - 1) * width
    right = flat[:, 1 : count + 1] - flat[:, :count]
    below = flat[:, width:] - flat[:, :count]
    fine = below[:, 1:] - below[:, :-1]
    for differences in (right, below, fine):
        differences[:, width - 1 :: width] = 0
    size = max(1, (height - 1) * (width - 1))
    return dots(right, right), dots(below, below), dots(right, below), dots(fine, fine), size


def _pool(size: int) -> Array:
    """[4, size]: means of four stretches of an axis."""
    ends = np.linspace(0, size, 5).round().astype(int)
    pool = np.zeros((4, size), np.float32)
    for place in range(4):
        begin, end = ends[place], max(ends[place + 1], ends[place] + 1)
        pool[place, begin:end] = 1 / (end - begin)
    return pool
