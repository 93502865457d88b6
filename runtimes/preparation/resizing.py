"""Pictures of another size, in numpy, as Pillow and OpenCV make them.

Each axis is resampled by itself, by a table of source positions and weights. The vertical one goes first, because it
gathers whole rows. Where the app has imported the library whose convention is asked for, that does it.

Within one step of 255 of the reference: Pillow's `resize` with BILINEAR, NEAREST and BOX
(https://github.com/python-pillow/Pillow/blob/main/src/libImaging/Resample.c), OpenCV's with INTER_LINEAR, INTER_NEAREST
and INTER_AREA (https://github.com/opencv/opencv/blob/4.x/modules/imgproc/src/resize.cpp).
"""

from __future__ import annotations

import functools
import math
import sys
from typing import Any

import numpy as np

from edgekit.runtimes.base import Array

_PILLOW = {"nearest": 0, "bilinear": 2, "area": 4}
_BAND = 100_000
"""Bytes of rows that are worked on at once: larger arrays are new pages of the system every time (see `scratch`)."""
_OPENCV = {"nearest": 0, "bilinear": 1, "area": 3}


def resize(picture: Array, height: int, width: int, how: str, convention: str) -> Array:
    """A picture in another size.

    Args:
        picture: uint8 [H,W] or [H,W,C].
        height: Wanted.
        width: Wanted.
        how: "bilinear", "nearest" or "area".
        convention: "pillow" or "opencv".

    Returns:
        uint8 [height,width] or [height,width,C]; the picture itself where it has the size.
    """
    if picture.shape[:2] == (height, width):
        return picture
    compiled = _compiled(picture, height, width, how, convention)
    if compiled is not None:
        return compiled
    if how == "area" and convention == "opencv" and (picture.shape[0] < height or picture.shape[1] < width):
        how = "spread"  # its area of a picture that grows, along either axis
    rows = _axis(picture.shape[0], height, how, convention)
    columns = _axis(picture.shape[1], width, how, convention)
    if how == "nearest":
        return np.asarray(picture[rows[0][0][:, None], columns[0][0]])
    flat = picture.reshape(*picture.shape[:2], -1)
    made = np.empty((height, width, flat.shape[2]), np.uint8)
    step = max(_BAND // (4 * flat.shape[1] * flat.shape[2]), 1)
    for start in range(0, height, step):
        part = slice(start, start + step)
        band = _across(_down(flat, (rows[0][:, part], rows[1][:, part])), columns)
        np.rint(band, out=band)
        made[part] = np.clip(band, 0, 255, out=band)
    return made.reshape(height, width, *picture.shape[2:])


def _down(picture: Array, table: tuple[Array, Array]) -> Array:
    """float32 [rows, W, C]: weighted sums of whole rows."""
    places, weights = table
    made = picture[places[0]] * weights[0][:, None, None]
    for place, weight in zip(places[1:], weights[1:], strict=True):
        made += picture[place] * weight[:, None, None]
    return np.asarray(made)


def _across(rows: Array, table: tuple[Array, Array]) -> Array:
    """float32 [rows, columns, C]."""
    places, weights = table
    made = rows.take(places[0], axis=1) * weights[0][:, None]
    for place, weight in zip(places[1:], weights[1:], strict=True):
        made += rows.take(place, axis=1) * weight[:, None]
    return np.asarray(made)


@functools.lru_cache(maxsize=32)
def _axis(size: int, wanted: int, how: str, convention: str) -> tuple[Array, Array]:
    """Source positions and weights, both [taps, wanted]; positions of weight 0 lie anywhere inside.

    Positions are of the platform's own width: 32-bit boards refuse to `take` by others.
    """
    ratio = size / wanted
    if how == "nearest":
        # Pillow adds up from pixel to pixel, and rounds as sums do.
        steps = np.full(wanted, ratio)
        steps[0] = 0.5 * ratio
        at = np.add.accumulate(steps) if convention == "pillow" else np.arange(wanted) * ratio
        return np.minimum(at.astype(np.intp), size - 1)[None], np.ones((1, wanted), np.float32)
    if convention == "pillow":
        taps = _filtered(size, wanted, ratio, how)
    elif how == "area":
        taps = [_covered(place, ratio, size) for place in range(wanted)]
    else:
        taps = [_between(place, ratio, size, spread=how == "spread") for place in range(wanted)]
    most = max(len(weights) for _, weights in taps)
    places, weights = np.zeros((most, wanted), np.intp), np.zeros((most, wanted), np.float32)
    for place, (first, values) in enumerate(taps):
        total = sum(values)
        for tap in range(most):
            places[tap, place] = min(first + min(tap, len(values) - 1), size - 1)
            weights[tap, place] = values[tap] / total if tap < len(values) else 0.0
    return places, weights


def _filtered(size: int, wanted: int, ratio: float, how: str) -> list[tuple[int, list[float]]]:
    """Pillow's: a triangle or a box as wide as what a pixel covers, at least one source pixel."""
    stretch = max(ratio, 1.0)
    support = stretch * (1.0 if how == "bilinear" else 0.5)
    taps = []
    for place in range(wanted):
        center = (place + 0.5) * ratio
        first, last = max(int(center - support + 0.5), 0), min(int(center + support + 0.5), size)
        offsets = [(x - center + 0.5) / stretch for x in range(first, last)]
        if how == "bilinear":
            taps.append((first, [max(1.0 - abs(x), 0.0) for x in offsets]))
        else:
            taps.append((first, [1.0 if -0.5 < x <= 0.5 else 0.0 for x in offsets]))
    return taps


def _covered(place: int, ratio: float, size: int) -> tuple[int, list[float]]:
    """OpenCV's area of a smaller picture: how much of each source pixel lies under this one."""
    begin, end = place * ratio, min((place + 1) * ratio, size)
    first, last = math.floor(begin + 1e-9), min(math.ceil(end - 1e-9), size)
    return first, [max(min(x + 1, end) - max(x, begin), 0.0) for x in range(first, max(last, first + 1))]


def _between(place: int, ratio: float, size: int, *, spread: bool) -> tuple[int, list[float]]:
    """OpenCV's linear, and its area of a larger picture: two neighbors."""
    if spread:
        first = math.floor(place * ratio)
        part = max((place + 1) - (first + 1) / ratio, 0.0)
        part -= math.floor(part)
    else:
        at = (place + 0.5) * ratio - 0.5
        first = math.floor(at)
        part = at - first
    if first < 0:
        return 0, [1.0]
    if first >= size - 1:
        return size - 1, [1.0]
    return first, [1.0 - part, part]


def _compiled(picture: Array, height: int, width: int, how: str, convention: str) -> Array | None:
    """By the library of that convention, where the app has it in memory already."""
    if convention == "opencv":
        library: Any = sys.modules.get("cv2")
        if library is None or not hasattr(library, "resize"):
            return None
        made = library.resize(picture, (width, height), interpolation=_OPENCV[how])
        return np.asarray(made).reshape(height, width, *picture.shape[2:])
    library = sys.modules.get("PIL.Image")
    if library is None or picture.shape[2:] not in ((), (1,), (3,)):
        return None
    plane = picture[..., 0] if picture.shape[2:] == (1,) else picture
    made = library.fromarray(np.ascontiguousarray(plane)).resize((width, height), _PILLOW[how])
    return np.asarray(made).reshape(height, width, *picture.shape[2:])
