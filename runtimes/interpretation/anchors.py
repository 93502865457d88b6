"""The boxes that detectors start from: one set a feature map, repeated at every cell."""

from __future__ import annotations

import functools
import math

import numpy as np

from edgekit.runtimes.base import Array


def cells(size: tuple[int, int], stride: float) -> tuple[int, int]:
    """Rows and columns of a feature map over an input of (height, width) pixels."""
    return math.ceil(size[0] / stride - 1e-6), math.ceil(size[1] / stride - 1e-6)


@functools.lru_cache(maxsize=8)
def grid(size: tuple[int, int], strides: tuple[float, ...], repeats: tuple[int, ...]) -> tuple[Array, Array]:
    """Upper left corners of all cells (x, y) in cells, [N,2], and their strides [N,1]; each cell `repeats` times."""
    corners, steps = [], []
    for stride, repeat in zip(strides, repeats, strict=True):
        rows, columns = cells(size, stride)
        y, x = np.divmod(np.arange(rows * columns, dtype=np.float32), np.float32(columns))
        corners.append(np.repeat(np.stack([x, y], axis=1), repeat, axis=0))
        steps.append(np.full((rows * columns * repeat, 1), stride, np.float32))
    return np.concatenate(corners), np.concatenate(steps)


@functools.lru_cache(maxsize=8)
def priors(
    size: tuple[int, int],
    strides: tuple[float, ...],
    anchors: tuple[tuple[tuple[float, float], ...], ...],
    *,
    clip: bool,
) -> Array:
    """SSD's: center x, y, width, height, relative to the input: float32 [N,4]."""
    repeats = tuple(len(pairs) for pairs in anchors)
    corners, steps = grid(size, strides, repeats)
    extent = np.asarray([size[1], size[0]], np.float32)
    made = np.concatenate([(corners + 0.5) * steps / extent, anchor_sizes(size, strides, anchors) / extent], axis=1)
    return np.asarray(np.clip(made, 0, 1) if clip else made, np.float32)


@functools.lru_cache(maxsize=8)
def anchor_sizes(
    size: tuple[int, int], strides: tuple[float, ...], anchors: tuple[tuple[tuple[float, float], ...], ...]
) -> Array:
    """Width and height in pixels of every anchor at every cell: float32 [N,2]."""
    made = []
    for stride, pairs in zip(strides, anchors, strict=True):
        rows, columns = cells(size, stride)
        made.append(np.tile(np.asarray(pairs, np.float32), (rows * columns, 1)))
    return np.concatenate(made)
