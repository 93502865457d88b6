"""What may happen to series [n, time, ...]."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekit.converters.perturbing.kinds import (
    Kind,
    Span,
    between,
    blurred,
    flatter,
    harsher,
    lowered,
    noise,
    raised,
    rising,
    signs,
    speckled,
    uniform,
)
from edgekit.converters.stages import Array


def _quieter(x: Array, s: Array, *_: Any) -> Array:
    return np.asarray(x * rising(s, 0.95, 0.3))


def _louder(x: Array, s: Array, *_: Any) -> Array:
    return np.asarray(x * rising(s, 1.05, 3.0))


def _late(x: Array, s: Array, _: Any, dice: np.random.Generator) -> Array:
    steps = np.rint(between(s.reshape(-1), 0.01, 0.25) * x.shape[1] * signs(len(x), dice)).astype(int)
    return np.stack([np.roll(one, step, 0) for one, step in zip(x, steps.tolist(), strict=True)])


def _paced(x: Array, s: Array, _: Any, dice: np.random.Generator) -> Array:
    """Slower or faster around its middle."""
    factors = np.exp(np.log(rising(s.reshape(-1), 1.03, 2.0)) * signs(len(x), dice))
    middle = (x.shape[1] - 1) / 2
    made = np.empty_like(x)
    for place, factor in enumerate(factors.tolist()):
        at = np.clip((np.arange(x.shape[1], dtype=np.float32) - middle) * factor + middle, 0, x.shape[1] - 1)
        before = np.minimum(at.astype(int), max(0, x.shape[1] - 2))
        part = (at - before).reshape(-1, *[1] * (x.ndim - 2))
        after = np.minimum(before + 1, x.shape[1] - 1)
        made[place] = x[place, before] * (1 - part) + x[place, after] * part
    return made


def _dropped(x: Array, s: Array, span: Span, dice: np.random.Generator) -> Array:
    """A stretch of it is missing."""
    made = x.copy()
    for place, part in enumerate(between(s, 0.05, 0.5).reshape(-1).tolist()):
        length = max(1, int(x.shape[1] * part))
        begin = int(dice.integers(0, x.shape[1] - length + 1))
        made[place, begin : begin + length] = span.mean
    return made


def _tilted(x: Array, s: Array, span: Span, dice: np.random.Generator) -> Array:
    """Bands at one end are louder, those at the other quieter; of a single band, the beginning and the end."""
    axis = 2 if x.ndim > 2 and x.shape[2] > 1 else 1
    sizes = [1] * x.ndim
    sizes[axis] = x.shape[axis]
    ramp = np.linspace(-1, 1, x.shape[axis], dtype=np.float32).reshape(sizes)
    sign = signs(len(x), dice).reshape(s.shape)
    return np.asarray(span.mean + (x - span.mean) * (1 + sign * between(s, 0.1, 0.9) * ramp))


def _cut(x: Array, s: Array, *_: Any) -> Array:
    """The microphone's amplifier is at its end."""
    most = np.abs(x).max(axis=tuple(range(1, x.ndim)), keepdims=True) * between(s, 0.8, 0.1)
    return np.clip(x, -most, most)


def _mixed(x: Array, s: Array, span: Span, dice: np.random.Generator) -> Array:
    """Another sample is heard besides."""
    return np.asarray(x + between(s, 0.05, 0.7) * (x[dice.permutation(len(x))] - span.mean))


def _hummed(x: Array, s: Array, span: Span, dice: np.random.Generator) -> Array:
    period, phase = rising(uniform(0, 1, s.shape, dice), 4, x.shape[1]), uniform(0, 2 * np.pi, s.shape, dice)
    time = np.arange(x.shape[1], dtype=np.float32).reshape(1, -1, *[1] * (x.ndim - 2))
    wave = np.sin(2 * np.pi * time / period + phase)
    return np.asarray(x + rising(s, 0.1, 1.5) * span.deviation * wave)


KINDS = (
    Kind("noise", "noise", noise),
    Kind("speckled", "noise", speckled),
    Kind("hummed", "noise", _hummed),
    Kind("mixed", "noise", _mixed),
    Kind("raised", "offset", raised),
    Kind("lowered", "offset", lowered),
    Kind("quieter", "gain", _quieter),
    Kind("louder", "gain", _louder),
    Kind("flatter", "gain", flatter),
    Kind("harsher", "gain", harsher),
    Kind("cut", "gain", _cut),
    Kind("blurred", "blur", blurred),
    Kind("late", "time", _late),
    Kind("paced", "time", _paced),
    Kind("dropped", "cover", _dropped),
    Kind("tilted", "tilt", _tilted),
)
