"""Pictures of another size, in numpy, as Pillow and OpenCV make them.

Each axis is resampled by itself, by a table of source positions and weights (`taps`). The vertical one goes first,
because it gathers whole rows, and adds up in 16 bits where its weights are whole numbers, or near enough; the other one
in float32. Rows are worked on in bands that stay in the caches, in arrays that are kept (`scratch`). Where the app has
imported the library whose convention is asked for, that does it.

Within one step of 255 of the reference: Pillow's `resize` with BILINEAR, BICUBIC, NEAREST and BOX, OpenCV's with
INTER_LINEAR, INTER_CUBIC, INTER_NEAREST and INTER_AREA.
"""

from __future__ import annotations

import functools
import sys
from typing import Any, NamedTuple

import numpy as np

from edgekit.runtimes.base import Array
from edgekit.runtimes.preparation.scratch import Bench, Spare
from edgekit.runtimes.preparation.taps import EXACT, WHOLE, integers, taps, used

_PILLOW = {"nearest": 0, "bilinear": 2, "bicubic": 3, "area": 4}
_OPENCV = {"nearest": 0, "bilinear": 1, "bicubic": 2, "area": 3}
_BAND = 400_000
"""Bytes that are worked on at once: what the second-level caches of small boards hold."""
_NEAR = 0.5
"""Steps of 255 by which whole weights may be off. The reference's own roundings take less than the other half."""
_CLOSE = 6
"""Times a picture may become narrower until it is cheaper to take each neighbor by itself."""
_benches: Spare[Bench] = Spare(Bench)
_HALF = np.float32(0.5)


class Window(NamedTuple):
    """Where a part of a resized picture begins, and what that picture's size would be. Only the part is computed."""

    height: int
    width: int
    top: int
    left: int


class _Plan(NamedTuple):
    """All that follows from the sizes.

    Attributes:
        rows: intp [taps, height].
        heavy: uint16 or float32 [taps, height, 1]; None: all rows alike, or one alone.
        columns: intp [taps, width * channels], places in a row of bytes.
        light: float32 [taps, width * channels], over what `heavy` adds up to.
        even: Where every pixel has the same whole weights: those of its neighbors, by their distance in bytes.
        total: What all weights of a pixel add up to, where they are even.
    """

    rows: Array
    heavy: Array | None
    columns: Array
    light: Array
    even: tuple[tuple[int, int], ...] = ()
    total: int = 1

    def part(self, window: Window, height: int, width: int, channels: int) -> _Plan:
        """Of so many pixels only."""
        down = slice(window.top, window.top + height)
        across = slice(window.left * channels, (window.left + width) * channels)
        return self._replace(
            rows=self.rows[:, down],
            heavy=None if self.heavy is None else self.heavy[:, down],
            columns=self.columns[:, across],
            light=self.light[:, across],
        )


def resize(
    picture: Array,
    height: int,
    width: int,
    how: str,
    convention: str,
    out: Array | None = None,
    window: Window | None = None,
) -> Array:
    """A picture in another size.

    Args:
        picture: uint8 [H,W] or [H,W,C].
        height: Wanted.
        width: Wanted.
        how: "bilinear", "bicubic", "nearest" or "area".
        convention: "pillow" or "opencv".
        out: Of the result's shape, for it to be written to where that costs no copy.
        window: Height and width are those of a part of a larger one, which begins there.

    Returns:
        uint8 [height,width] or [height,width,C]: `out`, another array, or the picture itself where it has the size.
    """
    size = (height, width) if window is None else window[:2]
    if picture.shape[:2] == size:
        return picture if window is None else _cut(picture, window, height, width)
    if picture.ndim == 3 and picture.strides[2] < 0:  # colors turned: cheaper when it is small
        return resize(picture[..., ::-1], height, width, how, convention, window=window)[..., ::-1]
    compiled = _compiled(picture, *size, how, convention, out if window is None else None)
    if compiled is not None:
        return compiled if window is None else _cut(compiled, window, height, width)
    if how == "area" and convention == "opencv" and (picture.shape[0] < size[0] or picture.shape[1] < size[1]):
        how = "spread"  # its area of a picture that grows, along either axis
    flat = picture.reshape(picture.shape[0], -1)
    channels = flat.shape[1] // picture.shape[1]
    plan = _plan(picture.shape[:2], size, channels, how, convention)
    if window is not None:
        plan = plan.part(window, height, width, channels)
    whole = (
        np.empty((height, width, *picture.shape[2:]), np.uint8) if out is None or not out.flags.c_contiguous else out
    )
    made = whole.reshape(height, -1)
    if how == "bicubic" and plan.heavy is not None:
        _overshooting(flat, plan, plan.heavy, made, between=convention == "pillow")
        return whole
    bench = _benches.take()
    step = max(_BAND // ((5 if len(plan.rows) > 1 else 2) * flat.shape[1]), 1)
    for start in range(0, height, step):
        part = slice(start, start + step)
        _across(_down(flat, plan, part, bench), plan, bench, made[part])
    _benches.give(bench)
    return whole


def _overshooting(flat: Array, plan: _Plan, heavy: Array, made: Array, *, between: bool) -> None:
    """Into uint8 [height, width*C], with weights that may be negative: along rows first, because Pillow makes bytes of
    what lies between its passes. (Pillow 13 goes the other way where a picture loses much more height than width, and
    is then a few steps off what it was.)
    """
    top = plan.rows.min()
    rows = flat[top : plan.rows.max() + 1]
    across = np.zeros((len(rows), made.shape[1]), np.float32)
    for place, weight in zip(plan.columns, plan.light, strict=True):
        across += rows.take(place, 1) * weight
    if between:
        np.floor(np.clip(across + _HALF, 0, 255), out=across)
    total = np.full(made.shape, _HALF, np.float32)
    for place, weight in zip(plan.rows - top, heavy, strict=True):
        total += across[place] * weight
    np.copyto(made, np.clip(total, 0, 255), casting="unsafe")


def _cut(picture: Array, window: Window, height: int, width: int) -> Array:
    return picture[window.top : window.top + height, window.left : window.left + width]


def _down(flat: Array, plan: _Plan, part: slice, bench: Bench) -> Array:
    """[rows, W*C]: weighted sums of whole rows of bytes, or the rows themselves."""
    rows, heavy = plan.rows[:, part], plan.heavy
    shape = (rows.shape[1], flat.shape[1])
    taken = _taken(flat, rows[0], bench.array("row", shape, np.uint8))
    if len(rows) == 1:
        return taken
    if heavy is None:
        other, made = bench.array("other", shape, np.uint8), bench.array("sum", shape, np.uint16)
        np.add(taken, _taken(flat, rows[1], other), out=made, dtype=np.uint16)
        for place in rows[2:]:
            np.add(made, _taken(flat, place, taken), out=made)
        return made
    made = np.multiply(taken, heavy[0, part], out=bench.array("sum", shape, heavy.dtype))
    more = bench.array("more", shape, heavy.dtype)
    for place, weight in zip(rows[1:], heavy[1:, part], strict=True):
        taken = _taken(flat, place, taken)
        np.add(made, np.multiply(taken, weight, out=more), out=made)
    return made


def _taken(flat: Array, rows: Array, out: Array) -> Array:
    """Whole rows; `take` would first copy all of a picture that was cut out of another."""
    return flat.take(rows, 0, out, "clip") if flat.flags.c_contiguous else np.asarray(flat[rows])


def _across(rows: Array, plan: _Plan, bench: Bench, made: Array) -> None:
    """Into uint8 [rows, width*C]."""
    if plan.even:
        _evenly(rows, plan, bench, made)
        return
    taps, width = plan.columns.shape
    if taps == 2 and rows.itemsize == 1:  # both by one call
        shape = (len(rows), 2 * width)
        taken = rows.take(plan.columns.reshape(-1), 1, bench.array("taken", shape, rows.dtype), "clip")
        both = np.multiply(taken, plan.light.reshape(-1), out=bench.array("less", shape, np.float32))
        total = np.add(both[:, :width], both[:, width:], out=bench.array("total", made.shape, np.float32))
    else:
        taken = bench.array("taken", made.shape, rows.dtype)
        total, more = (bench.array(name, made.shape, np.float32) for name in ("total", "less"))
        for number, (place, weight) in enumerate(zip(plan.columns, plan.light, strict=True)):
            np.multiply(rows.take(place, 1, taken, "clip"), weight, out=more if number else total)
            if number:
                np.add(total, more, out=total)
    np.add(total, _HALF, out=made, casting="unsafe")  # weights add up to 1: it cannot leave the bytes


def _evenly(rows: Array, plan: _Plan, bench: Bench, made: Array) -> None:
    """The same in whole numbers: neighbors are added up before those are taken that are wanted."""
    places, total = plan.columns[0], plan.total
    if total == 1:
        rows.take(places, 1, made, "clip")
        return
    shape = (rows.shape[0], int(places[-1]) + 1)
    added, more = (bench.array(name, shape, np.uint16) for name in ("added", "less"))
    for number, (distance, weight) in enumerate(plan.even):
        near = rows[:, distance : distance + shape[1]]
        if number == 0 or weight > 1:
            np.multiply(near, np.uint16(weight), out=more if number else added, dtype=np.uint16)
        if number:
            np.add(added, more if weight > 1 else near, out=added)
    taken = added.take(places, 1, bench.array("taken", made.shape, np.uint16), "clip")
    np.add(taken, np.uint16(total // 2), out=taken)
    np.floor_divide(taken, np.uint16(total), out=made, casting="unsafe")


@functools.lru_cache(maxsize=32)
def _plan(given: tuple[int, int], wanted: tuple[int, int], channels: int, how: str, convention: str) -> _Plan:
    rows, down = used(taps(given[0], wanted[0], how, convention))
    columns, across = used(taps(given[1], wanted[1], how, convention))
    places = (columns[:, :, None] * channels + np.arange(channels)).reshape(len(columns), -1)
    if how == "bicubic":
        return _Plan(rows, down[..., None], places.astype(np.intp), np.repeat(across, channels, axis=1))
    whole, total, off = integers(down, given[0])
    heavy, total = (whole[..., None], total) if off <= _NEAR else (down[..., None], 1)
    light = np.repeat(across / np.float32(total), channels, axis=1)
    made = _Plan(rows, None if (heavy == 1).all() else heavy, places.astype(np.intp), light)
    if heavy.dtype != np.uint16:
        return made
    whole, more, off = integers(across, given[1])
    apart = columns - columns[0]
    same = off < EXACT and (whole == whole[:, :1]).all() and (apart == apart[:, :1]).all()
    if not same or total * more > WHOLE - 1 or (more > 1 and given[1] > _CLOSE * wanted[1]):
        return made
    even = tuple(
        (int(distance) * channels, int(weight))
        for distance, weight in zip(apart[:, 0], whole[:, 0], strict=True)
        if weight
    )
    return made._replace(even=even, total=total * more)


def _compiled(picture: Array, height: int, width: int, how: str, convention: str, out: Array | None) -> Array | None:
    """By the library of that convention, where the app has it in memory already."""
    if convention == "opencv":
        library: Any = sys.modules.get("cv2")
        if library is None or not hasattr(library, "resize"):
            return None
        times = picture.shape[0] // height
        if how == "bilinear" and times % 2 and times * height == picture.shape[0]:
            picture = picture[
                times // 2 :: times
            ]  # every center is a row: the others, which count nothing, are not read
        made = library.resize(picture, (width, height), out, interpolation=_OPENCV[how])
        return made if made is out else np.asarray(made).reshape(height, width, *picture.shape[2:])
    library = sys.modules.get("PIL.Image")
    if library is None or picture.shape[2:] not in ((), (1,), (3,)):
        return None
    plane = picture[..., 0] if picture.shape[2:] == (1,) else picture
    made = library.fromarray(np.ascontiguousarray(plane)).resize((width, height), _PILLOW[how])
    return np.asarray(made).reshape(height, width, *picture.shape[2:])
