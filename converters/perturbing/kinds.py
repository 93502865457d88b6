"""Ways to spoil samples: what a kind is and has to know of the samples, and the kinds pictures and series share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgekit.converters.stages import Array

DARK = 1e-9


@dataclass(frozen=True)
class Span:
    """What values the samples have, all of them together.

    Attributes:
        low, high: The smallest and the largest.
        mean, deviation: Of all values; of a table [k], those of each column.
        samples: How many they are.
    """

    low: float
    high: float
    mean: Array
    deviation: Array
    samples: int

    @classmethod
    def of(cls, x: Array, shape: str) -> Span:
        """That of samples [n, ...] of a `shape` as `Spoiler` takes it."""
        axis = 0 if shape == "table" else None
        if np.isnan(x).any():
            return cls._of_gaps(x, axis)
        deviation = np.maximum(x.std(axis=axis, dtype=np.float64), DARK)
        return cls(float(x.min()), float(x.max()), x.mean(axis=axis, dtype=np.float64), deviation, len(x))

    @classmethod
    def _of_gaps(cls, x: Array, axis: int | None) -> Span:
        """That of samples of which values are missing, which tell nothing."""
        there = ~np.isnan(x)
        known, count = np.where(there, x, 0.0), np.maximum(there.sum(axis=axis), 1)
        mean = known.sum(axis=axis, dtype=np.float64) / count
        square = np.where(there, np.square(known - mean), 0.0).sum(axis=axis) / count
        low, high = (float(x[there].min()), float(x[there].max())) if there.any() else (0.0, 0.0)
        return cls(low, high, mean, np.maximum(np.sqrt(square), DARK), len(x))

    @classmethod
    def joined(cls, parts: Sequence[Span]) -> Span:
        """That of the samples of several ones."""
        weights = np.array([part.samples for part in parts], np.float64)
        weights /= weights.sum()
        mean = np.tensordot(weights, np.stack([part.mean for part in parts]), 1)
        square = np.stack([np.square(part.deviation) + np.square(part.mean - mean) for part in parts])
        deviation = np.sqrt(np.tensordot(weights, square, 1))
        low, high = min(part.low for part in parts), max(part.high for part in parts)
        return cls(low, high, mean, deviation, sum(part.samples for part in parts))

    @property
    def single(self) -> Span:
        """In single precision, as the samples are: doubles would make all of a copy doubles."""
        return replace(self, mean=np.asarray(self.mean, np.float32), deviation=np.asarray(self.deviation, np.float32))


@dataclass(frozen=True)
class Kind:
    """A way to spoil samples.

    Attributes:
        name: Of the kind. family: Of kinds that are alike.
        change: Samples [n, ...], strengths [n, 1, ...] between 0 and 1, the span, dice -> samples; all float32.
    """

    name: str
    family: str
    change: Callable[[Array, Array, Span, np.random.Generator], Array]


def between(strength: Array, mild: float, hard: float) -> Array:
    return mild + (hard - mild) * strength


def rising(strength: Array, mild: float, hard: float) -> Array:
    """The same in equal ratios."""
    return np.asarray(mild * (hard / mild) ** strength)


def uniform(low: float, high: float, shape: tuple[int, ...], dice: np.random.Generator) -> Array:
    return low + (high - low) * dice.random(shape, np.float32)


def normal(shape: tuple[int, ...], dice: np.random.Generator) -> Array:
    return dice.standard_normal(shape, np.float32)


def signs(number: int, dice: np.random.Generator) -> Array:
    return np.where(dice.random(number) < 0.5, np.float32(-1), np.float32(1))


def noise(x: Array, s: Array, span: Span, dice: np.random.Generator) -> Array:
    return np.asarray(x + rising(s, 0.05, 1.5) * span.deviation * normal(x.shape, dice))


def grainy(x: Array, s: Array, span: Span, dice: np.random.Generator) -> Array:
    """Noise that grows with the value."""
    return np.asarray(span.low + (x - span.low) * (1 + between(s, 0.05, 0.6) * normal(x.shape, dice)))


def speckled(x: Array, s: Array, span: Span, dice: np.random.Generator) -> Array:
    drawn, half = dice.random(x.shape, np.float32), rising(s, 0.005, 0.15) / 2
    low, high = np.float32(span.low), np.float32(span.high)
    return np.where(drawn < half, low, np.where(drawn < 2 * half, high, x))


def raised(x: Array, s: Array, span: Span, _: Any) -> Array:
    return np.asarray(x + between(s, 0.1, 1.2) * span.deviation)


def lowered(x: Array, s: Array, span: Span, _: Any) -> Array:
    return np.asarray(x - between(s, 0.1, 1.2) * span.deviation)


def flatter(x: Array, s: Array, *_: Any) -> Array:
    mean = _own_mean(x)
    return np.asarray(mean + (x - mean) * between(s, 0.95, 0.25))


def harsher(x: Array, s: Array, *_: Any) -> Array:
    mean = _own_mean(x)
    return np.asarray(mean + (x - mean) * between(s, 1.1, 2.5))


def _own_mean(x: Array) -> Array:
    return np.asarray(x.mean(axis=(1, 2) if x.ndim > 3 else 1, keepdims=True))


def blurred(x: Array, s: Array, *_: Any) -> Array:
    return smoothed(x, 5 * s, (1, 2) if x.ndim > 3 else (1,))


def smoothed(x: Array, passes: Array, axes: tuple[int, ...]) -> Array:
    """So many passes (a number a sample, broken ones in part) of (1, 2, 1) / 4: a Gaussian of variance 1/2 each."""
    made = x
    for step in range(int(np.ceil(passes.max(initial=0)))):
        after = made
        for axis in axes:
            after = _softened(after, axis)
        made = made + np.clip(passes - step, 0, 1) * (after - made)
    return made


def _softened(x: Array, axis: int) -> Array:
    """One pass along an axis; at the edge each is its own neighbor."""
    made = 2 * x
    inner, source = np.moveaxis(made, axis, 0), np.moveaxis(x, axis, 0)
    inner[1:] += source[:-1]
    inner[:-1] += source[1:]
    inner[0] += source[0]
    inner[-1] += source[-1]
    made /= 4
    return made
