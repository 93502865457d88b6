"""Copies of samples as the field might spoil them: for fitting how surely an answer is right when data drift.

Numpy only, and the same for the same seed: every kind is a few lines, because what matters is that a curve sees drifts
of many kinds, not that one of them is beautiful.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from edgekit.converters.stages import Array

Change = Callable[[Array, "np.random.Generator", float], Array]


def copies(x: Array, shape: str, seed: int) -> Iterator[Array]:
    """Kinds of drift, one after the other, of samples [n, ...] float32, each at a strength of its own for every sample.

    Args:
        x: The samples.
        shape: "picture" [n, h, w, c], "channels first" [n, c, h, w], "series" [n, ...] or "table" [n, k].
        seed: Of all draws.
    """
    axes = {"picture": (1, 2), "channels first": (2, 3)}.get(shape)
    kinds = _TABLE if shape == "table" else _SERIES if axes is None else _PICTURE
    deviation = x.std(axis=0, keepdims=True) if shape == "table" else x.std()
    low, high = float(x.min()), float(x.max())
    for place, kind in enumerate(kinds):
        dice = np.random.default_rng([seed, place])
        made = kind(x, dice, axes or (1, 2), np.maximum(deviation, 1e-9))
        yield np.asarray(made if shape == "table" else np.clip(made, low, high), np.float32)


def _strength(x: Array, dice: np.random.Generator, low: float, high: float) -> Array:
    """One number a sample, in [n, 1, ...]."""
    return dice.uniform(low, high, (len(x), *[1] * (x.ndim - 1)))


def _noise(x: Array, dice: np.random.Generator, _: Any, deviation: Array) -> Array:
    return np.asarray(x + np.exp(_strength(x, dice, -3.0, 0.7)) * deviation * dice.normal(size=x.shape))


def _brighter(x: Array, dice: np.random.Generator, _: Any, deviation: Array) -> Array:
    return np.asarray(x + _strength(x, dice, 0.2, 1.5) * deviation)


def _darker(x: Array, dice: np.random.Generator, _: Any, __: Array) -> Array:
    low = x.min()
    return np.asarray(low + (x - low) * _strength(x, dice, 0.25, 0.9))


def _flatter(x: Array, dice: np.random.Generator, axes: tuple[int, int], _: Array) -> Array:
    mean = x.mean(axis=axes if x.ndim > 2 else 1, keepdims=True)
    return np.asarray(mean + (x - mean) * _strength(x, dice, 0.2, 0.8))


def _louder(x: Array, dice: np.random.Generator, _: Any, __: Array) -> Array:
    return np.asarray(x * _strength(x, dice, 1.2, 3.0))


def _blurred(x: Array, dice: np.random.Generator, axes: tuple[int, int], _: Array) -> Array:
    made = x.astype(np.float64)
    share = _strength(x, dice, 0.3, 1.0)
    for _step in range(3):
        for axis in axes if x.ndim > 2 else (1,):
            made = (np.roll(made, 1, axis) + 2 * made + np.roll(made, -1, axis)) / 4
    return np.asarray(x + share * (made - x))


def _moved(x: Array, dice: np.random.Generator, axes: tuple[int, int], _: Array) -> Array:
    made = x.copy()
    for place in range(len(x)):
        for axis in axes if x.ndim > 2 else (1,):
            most = max(1, x.shape[axis] // 6)
            made[place] = np.roll(made[place], int(dice.integers(-most, most + 1)), axis - 1)
    return made


def _turned(x: Array, dice: np.random.Generator, axes: tuple[int, int], _: Array) -> Array:
    """By up to 50 degrees around the middle."""
    angles = dice.uniform(-0.87, 0.87, len(x))
    return _mapped(x, axes, np.cos(angles), np.sin(angles))


def _nearer(x: Array, dice: np.random.Generator, axes: tuple[int, int], _: Array) -> Array:
    """Larger or smaller, by up to a half."""
    factors = np.exp(dice.uniform(-0.4, 0.4, len(x)))
    return _mapped(x, axes, factors, np.zeros(len(x)))


def _mapped(x: Array, axes: tuple[int, int], cosine: Array, sine: Array) -> Array:
    """Pixels (i, j) around the middle from (c i - s j, s i + c j), between their four neighbors."""
    source = np.moveaxis(x, axes, (1, 2))
    height, width = source.shape[1:3]
    down, across = np.meshgrid(np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2, indexing="ij")
    made = np.full_like(source, x.min())
    for place, (c, s) in enumerate(zip(cosine.tolist(), sine.tolist(), strict=True)):
        rows, columns = down * c - across * s + (height - 1) / 2, down * s + across * c + (width - 1) / 2
        there = (rows >= 0) & (rows <= height - 1) & (columns >= 0) & (columns <= width - 1)
        top, left = np.clip(rows.astype(int), 0, height - 2), np.clip(columns.astype(int), 0, width - 2)
        a, b = (rows - top)[..., None], (columns - left)[..., None]
        picture = source[place].reshape(height, width, -1)
        upper = picture[top, left] * (1 - b) + picture[top, left + 1] * b
        lower = picture[top + 1, left] * (1 - b) + picture[top + 1, left + 1] * b
        mixed = (upper * (1 - a) + lower * a).reshape(source[place].shape)
        made[place][there] = mixed[there]
    return np.moveaxis(made, (1, 2), axes)


def _covered(x: Array, dice: np.random.Generator, axes: tuple[int, int], _: Array) -> Array:
    made = np.moveaxis(x, axes, (1, 2)).copy() if x.ndim > 2 else x.copy()
    for place in range(len(x)):
        cuts: list[slice] = []
        for axis in (1, 2) if x.ndim > 2 else (1,):
            size = made.shape[axis]
            part = max(1, int(size * dice.uniform(0.2, 0.5)))
            begin = int(dice.integers(0, size - part + 1))
            cuts.append(slice(begin, begin + part))
        made[place][tuple(cuts)] = x.min()
    return np.moveaxis(made, (1, 2), axes) if x.ndim > 2 else made


def _speckled(x: Array, dice: np.random.Generator, _: Any, __: Array) -> Array:
    hit = dice.random(x.shape) < _strength(x, dice, 0.01, 0.15)
    return np.asarray(np.where(hit, np.where(dice.random(x.shape) < 0.5, x.min(), x.max()), x))


def _offset(x: Array, dice: np.random.Generator, _: Any, deviation: Array) -> Array:
    """Some numbers have moved."""
    some = dice.random((1, x.shape[1])) < 0.3
    sign = np.where(dice.random((1, x.shape[1])) < 0.5, -1.0, 1.0)
    return np.asarray(x + some * sign * deviation * _strength(x, dice, 0.3, 1.5))


def _rescaled(x: Array, dice: np.random.Generator, _: Any, deviation: Array) -> Array:
    some = dice.random((1, x.shape[1])) < 0.5
    mean = x.mean(axis=0, keepdims=True)
    return np.asarray(np.where(some, mean + (x - mean) * _strength(x, dice, 0.4, 2.0), x) + 0 * deviation)


def _shuffled(x: Array, dice: np.random.Generator, _: Any, __: Array) -> Array:
    """Some numbers are another sample's."""
    made = x.copy()
    for column in np.flatnonzero(dice.random(x.shape[1]) < 0.25):
        made[:, column] = x[dice.permutation(len(x)), column]
    return made


def _constant(x: Array, dice: np.random.Generator, _: Any, __: Array) -> Array:
    some = dice.random((1, x.shape[1])) < 0.25
    return np.asarray(np.where(some, x.mean(axis=0, keepdims=True), x))


def _all_up(x: Array, dice: np.random.Generator, _: Any, deviation: Array) -> Array:
    return np.asarray(x + deviation * _strength(x, dice, -1.0, 1.0))


_PICTURE: tuple[Any, ...] = (
    _noise, _brighter, _darker, _flatter, _blurred, _moved, _turned, _nearer, _covered, _speckled,
)  # fmt: skip
_SERIES: tuple[Any, ...] = (_noise, _brighter, _darker, _flatter, _louder, _blurred, _moved, _covered, _speckled)
_TABLE: tuple[Any, ...] = (_noise, _offset, _rescaled, _shuffled, _constant, _all_up)
