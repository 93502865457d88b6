"""What may happen to pictures [n, h, w, c]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgekit.converters.perturbing.kinds import (
    DARK,
    Kind,
    Span,
    between,
    blurred,
    flatter,
    grainy,
    harsher,
    lowered,
    noise,
    raised,
    rising,
    signs,
    smoothed,
    speckled,
    uniform,
)
from edgekit.converters.stages import Array


def _darker(x: Array, s: Array, span: Span, _: Any) -> Array:
    return np.asarray(span.low + (x - span.low) * between(s, 0.95, 0.3))


def _brighter(x: Array, s: Array, span: Span, _: Any) -> Array:
    return np.asarray(span.low + (x - span.low) * between(s, 1.05, 2.0))


def _gamma(mild: float, hard: float) -> Callable[[Array, Array, Span, Any], Array]:
    def change(x: Array, s: Array, span: Span, _: Any) -> Array:
        part = np.clip((x - span.low) / max(span.high - span.low, DARK), 0, 1)
        return np.asarray(span.low + (span.high - span.low) * part ** rising(s, mild, hard))

    return change


def _smeared(x: Array, s: Array, _: Any, dice: np.random.Generator) -> Array:
    """Moved while it was taken, along one side."""
    return smoothed(x, 12 * s, (int(dice.integers(1, 3)),))


def _coarse(x: Array, s: Array, *_: Any) -> Array:
    """Of fewer pixels."""
    made = np.empty_like(x)
    for place, factor in enumerate(between(s, 1.2, 3.5).reshape(-1).tolist()):
        picture = x[place]
        for axis in (0, 1):
            size = picture.shape[axis]
            at = (np.floor(np.arange(size) / factor) * factor + factor / 2).astype(int)
            picture = picture.take(np.minimum(at, size - 1), axis)
        made[place] = picture
    return made


def _moved(x: Array, s: Array, span: Span, dice: np.random.Generator) -> Array:
    angle = uniform(0, 2 * np.pi, (len(x),), dice)
    far = between(s.reshape(-1), 0.02, 0.22)
    offset = np.stack([far * np.cos(angle) * x.shape[1], far * np.sin(angle) * x.shape[2]], axis=1)
    return _mapped(x, np.broadcast_to(np.eye(2), (len(x), 2, 2)), span.low, offset)


def _turned(x: Array, s: Array, span: Span, dice: np.random.Generator) -> Array:
    angle = np.deg2rad(between(s.reshape(-1), 3, 50)) * signs(len(x), dice)
    c, d = np.cos(angle), np.sin(angle)
    return _mapped(x, np.stack([np.stack([c, -d], 1), np.stack([d, c], 1)], 1), span.low)


def _nearer(x: Array, s: Array, span: Span, _: Any) -> Array:
    return _mapped(x, np.eye(2) / rising(s, 1.04, 1.6).reshape(-1, 1, 1), span.low)


def _farther(x: Array, s: Array, span: Span, _: Any) -> Array:
    return _mapped(x, np.eye(2) * rising(s, 1.04, 1.7).reshape(-1, 1, 1), span.low)


def _slanted(x: Array, s: Array, span: Span, dice: np.random.Generator) -> Array:
    lean = between(s.reshape(-1), 0.03, 0.6) * signs(len(x), dice)
    matrix = np.tile(np.eye(2), (len(x), 1, 1))
    matrix[:, 1, 0] = lean
    return _mapped(x, matrix, span.low)


def _stretched(x: Array, s: Array, span: Span, dice: np.random.Generator) -> Array:
    factor = np.exp(np.log(rising(s.reshape(-1), 1.04, 1.6)) * signs(len(x), dice) / 2)
    matrix = np.zeros((len(x), 2, 2))
    matrix[:, 0, 0], matrix[:, 1, 1] = factor, 1 / factor
    return _mapped(x, matrix, span.low)


def _mapped(x: Array, matrix: Array, fill: float, offset: Array | None = None) -> Array:
    """Pixel p of each picture, counted from its middle, is what was at `matrix` p + `offset`, between its four
    neighbors; `fill` where nothing was.
    """
    number, height, width, channels = x.shape
    middle = np.array([(height - 1) / 2, (width - 1) / 2], np.float32)
    grid = np.indices((height, width), np.float32).reshape(2, -1).T - middle
    at = grid @ np.broadcast_to(matrix, (number, 2, 2)).transpose(0, 2, 1).astype(np.float32) + middle
    if offset is not None:
        at = at + offset[:, None]
    rows, columns = at[..., 0], at[..., 1]
    there = (rows >= 0) & (rows <= height - 1) & (columns >= 0) & (columns <= width - 1)
    top, left = (np.clip(ends.astype(np.int32), 0, size - 2) for ends, size in ((rows, height), (columns, width)))
    down, across = (rows - top)[..., None], (columns - left)[..., None]
    pixels = x.reshape(-1, channels)
    place = (np.arange(number)[:, None] * height + top) * width + left
    upper, lower = (
        first + across * (pixels.take(corner + 1, 0) - first)
        for corner in (place, place + width)
        for first in (pixels.take(corner, 0),)
    )
    made = np.where(there[..., None], upper + down * (lower - upper), np.float32(fill))
    return made.reshape(x.shape)


def _covered(x: Array, s: Array, span: Span, dice: np.random.Generator) -> Array:
    made = x.copy()
    for place, part in enumerate(between(s, 0.15, 0.55).reshape(-1).tolist()):
        cuts = []
        for size in x.shape[1:3]:
            length = max(1, int(size * part))
            begin = int(dice.integers(0, size - length + 1))
            cuts.append(slice(begin, begin + length))
        made[place][tuple(cuts)] = span.low
    return made


def _shaded(x: Array, s: Array, span: Span, dice: np.random.Generator) -> Array:
    """Light from one side."""
    angle = uniform(0, 2 * np.pi, (len(x), 1, 1, 1), dice)
    down, across = (np.linspace(-1, 1, size, dtype=np.float32) for size in x.shape[1:3])
    ramp = (np.cos(angle) * down[:, None, None] + np.sin(angle) * across[:, None]) / 1.42
    return np.asarray(span.low + (x - span.low) * (1 + between(s, 0.1, 1.0) * ramp))


def _hazed(x: Array, s: Array, span: Span, _: Any) -> Array:
    return np.asarray(x + between(s, 0.05, 0.7) * (span.low + 0.8 * (span.high - span.low) - x))


def _tinted(x: Array, s: Array, span: Span, dice: np.random.Generator) -> Array:
    factor = 1 + between(s, 0.05, 0.6) * uniform(-1, 1, (len(x), 1, 1, x.shape[3]), dice)
    return np.asarray(span.low + (x - span.low) * factor)


KINDS = (
    Kind("noise", "noise", noise),
    Kind("grainy", "noise", grainy),
    Kind("speckled", "noise", speckled),
    Kind("raised", "light", raised),
    Kind("lowered", "light", lowered),
    Kind("darker", "light", _darker),
    Kind("brighter", "light", _brighter),
    Kind("gamma up", "light", _gamma(0.9, 0.35)),
    Kind("gamma down", "light", _gamma(1.1, 3.0)),
    Kind("flatter", "contrast", flatter),
    Kind("harsher", "contrast", harsher),
    Kind("hazed", "contrast", _hazed),
    Kind("blurred", "blur", blurred),
    Kind("smeared", "blur", _smeared),
    Kind("coarse", "blur", _coarse),
    Kind("moved", "place", _moved),
    Kind("turned", "turn", _turned),
    Kind("slanted", "turn", _slanted),
    Kind("nearer", "size", _nearer),
    Kind("farther", "size", _farther),
    Kind("stretched", "size", _stretched),
    Kind("covered", "cover", _covered),
    Kind("shaded", "shade", _shaded),
    Kind("tinted", "shade", _tinted),
)
