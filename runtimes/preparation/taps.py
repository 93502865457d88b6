"""Which source pixels make a pixel of a resized picture, and with which weights, along one axis.

By the formulas of Pillow (https://github.com/python-pillow/Pillow/blob/main/src/libImaging/Resample.c) and OpenCV
(https://github.com/opencv/opencv/blob/4.x/modules/imgproc/src/resize.cpp).
"""

from __future__ import annotations

import functools
import math

import numpy as np

from edgekit.runtimes.base import Array

WHOLE = 257
"""The most that integer weights may add up to, so that weighted bytes fit 16 bits: 255 * 257."""
EXACT = 1e-3
"""Steps of 255: float32 rounds the weights."""


def used(table: tuple[Array, Array]) -> tuple[Array, Array]:
    """Without taps that weigh nothing anywhere."""
    places, weights = table
    some = weights.any(axis=1)
    return places[some], weights[some]


def integers(weights: Array, size: int) -> tuple[Array, int, float]:
    """Weights as whole numbers, which sizes of small fractions (640 to 224: 20 to 7) give exactly.

    Args:
        weights: float32 [taps, wanted], each column adds up to 1.
        size: Of the source.

    Returns:
        uint16 [taps, wanted]; what each column of it adds up to, the least that is exact; and by how many steps of
        255 a weighted byte may be off.
    """
    wanted = weights.shape[1]
    whole = math.gcd(size, wanted)
    over, under = size // whole, wanted // whole
    units = sorted({unit for unit in (1, under, 2 * under, over, over * over, 2 * over * over) if unit <= WHOLE})
    for unit in units:
        if (made := _rounded(weights, unit))[2] < EXACT:
            return made
    nearly = [_rounded(weights, WHOLE // unit * unit if unit > 1 else WHOLE - 1) for unit in units]
    return min(nearly, key=lambda each: each[2])


def _rounded(weights: Array, total: int) -> tuple[Array, int, float]:
    """By largest remainders, so that nothing gets lighter or darker."""
    scaled = weights.astype(np.float64) * total
    made = np.floor(scaled + 1e-3)
    left = scaled - made
    rank = np.argsort(np.argsort(-left, axis=0, kind="stable"), axis=0)
    made += rank < np.rint(total - made.sum(axis=0))
    off = 255 / total * np.abs(made - scaled).sum(axis=0).max() / 2
    return made.astype(np.uint16), total, float(off)


@functools.lru_cache(maxsize=32)
def taps(size: int, wanted: int, how: str, convention: str) -> tuple[Array, Array]:
    """Source positions and weights, both [taps, wanted]; positions of weight 0 lie anywhere inside.

    Positions are of the platform's own width: 32-bit boards refuse to `take` by others.
    """
    ratio = size / wanted
    twice = 1 / (wanted / size)  # as OpenCV divides; where a pixel falls on an edge, its rounding decides
    if how == "nearest":
        # Pillow adds up from pixel to pixel, and rounds as sums do.
        steps = np.full(wanted, ratio)
        steps[0] = 0.5 * ratio
        at = np.add.accumulate(steps) if convention == "pillow" else np.arange(wanted) * twice
        return np.minimum(at.astype(np.intp), size - 1)[None], np.ones((1, wanted), np.float32)
    if convention == "pillow":
        taps = _filtered(size, wanted, ratio, how)
    elif how == "bicubic":
        taps = [_sixteen(place, ratio) for place in range(wanted)]
    elif how == "area":
        taps = [_covered(place, ratio, size) for place in range(wanted)]
    elif how == "spread":
        taps = [_spread(place, twice, wanted / size, size) for place in range(wanted)]
    else:
        taps = [_between(place, ratio, size) for place in range(wanted)]
    most = max(len(weights) for _, weights in taps)
    places, weights = np.zeros((most, wanted), np.intp), np.zeros((most, wanted), np.float32)
    for place, (first, values) in enumerate(taps):
        total = sum(values)
        for tap in range(most):
            places[tap, place] = min(max(first + min(tap, len(values) - 1), 0), size - 1)
            weights[tap, place] = values[tap] / total if tap < len(values) else 0.0
    return places, weights


def _filtered(size: int, wanted: int, ratio: float, how: str) -> list[tuple[int, list[float]]]:
    """Pillow's: a triangle, a cubic or a box as wide as what a pixel covers, at least one source pixel."""
    stretch = max(ratio, 1.0)
    support = stretch * {"bilinear": 1.0, "bicubic": 2.0, "area": 0.5}[how]
    taps = []
    for place in range(wanted):
        center = (place + 0.5) * ratio
        first, last = max(int(center - support + 0.5), 0), min(int(center + support + 0.5), size)
        offsets = [(x - center + 0.5) / stretch for x in range(first, last)]
        if how == "bilinear":
            taps.append((first, [max(1.0 - abs(x), 0.0) for x in offsets]))
        elif how == "bicubic":
            taps.append((first, [_cubic(abs(x), -0.5) for x in offsets]))
        else:
            taps.append((first, [1.0 if -0.5 < x <= 0.5 else 0.0 for x in offsets]))
    return taps


def _covered(place: int, ratio: float, size: int) -> tuple[int, list[float]]:
    """OpenCV's area of a smaller picture: how much of each source pixel lies under this one."""
    begin, end = place * ratio, min((place + 1) * ratio, size)
    first, last = math.floor(begin + 1e-9), min(math.ceil(end - 1e-9), size)
    return first, [max(min(x + 1, end) - max(x, begin), 0.0) for x in range(first, max(last, first + 1))]


def _between(place: int, ratio: float, size: int) -> tuple[int, list[float]]:
    """OpenCV's linear: two neighbors."""
    at = (place + 0.5) * ratio - 0.5
    first = math.floor(at)
    return _neighbors(first, at - first, size)


def _sixteen(place: int, ratio: float) -> tuple[int, list[float]]:
    """OpenCV's cubic: four neighbors along an axis; those outside are the picture's edge."""
    at = (place + 0.5) * ratio - 0.5
    first = math.floor(at)
    return first - 1, [_cubic(abs(at - first - tap), -0.75) for tap in (-1, 0, 1, 2)]


def _cubic(distance: float, slope: float) -> float:
    """Keys' convolution kernel (https://doi.org/10.1109/TASSP.1981.1163711), of the slope at 1 that is given."""
    if distance < 1:
        return ((slope + 2) * distance - (slope + 3)) * distance * distance + 1
    return slope * (((distance - 5) * distance + 8) * distance - 4) if distance < 2 else 0.0


def _spread(place: int, ratio: float, inverse: float, size: int) -> tuple[int, list[float]]:
    """OpenCV's area of a larger picture; its `fx` is a float, which makes a whole of what is nearly one."""
    first = math.floor(place * ratio)
    part = float(np.float32((place + 1) - (first + 1) * inverse))
    return _neighbors(first, part - math.floor(part) if part > 0 else 0.0, size)


def _neighbors(first: int, part: float, size: int) -> tuple[int, list[float]]:
    """The pixel at `first` and, by that part, the next one; inside the picture."""
    if first < 0:
        return 0, [1.0]
    if first >= size - 1:
        return size - 1, [1.0]
    return first, [1.0 - part, part]
