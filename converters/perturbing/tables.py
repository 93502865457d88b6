"""What may happen to tables [n, k]."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekit.converters.perturbing.kinds import Kind, Span, between, noise, normal, rising, signs
from edgekit.converters.stages import Array


def _some(x: Array, s: Array, dice: np.random.Generator) -> Array:
    """Which columns [k]: more of them the harder."""
    share = dice.uniform(0.05, 0.2 + 0.4 * float(s.mean()))
    which: Array = np.asarray(dice.random(x.shape[1]) < share)
    which[int(dice.integers(x.shape[1]))] = True
    return which


def _jittery(x: Array, s: Array, span: Span, dice: np.random.Generator) -> Array:
    which = _some(x, s, dice)
    return np.asarray(x + which * rising(s, 0.2, 4.0) * span.deviation * normal(x.shape, dice))


def _offset(x: Array, s: Array, span: Span, dice: np.random.Generator) -> Array:
    which = _some(x, s, dice) * signs(x.shape[1], dice)
    return np.asarray(x + which * rising(s, 0.2, 2.0) * span.deviation)


def _all_offset(x: Array, s: Array, span: Span, dice: np.random.Generator) -> Array:
    return np.asarray(x + signs(1, dice) * between(s, 0.05, 1.0) * span.deviation)


def _rescaled(x: Array, s: Array, span: Span, dice: np.random.Generator) -> Array:
    which, up = _some(x, s, dice), signs(1, dice)
    return np.where(which, span.mean + (x - span.mean) * rising(s, 1.1, 3.0) ** up, x)


def _gained(x: Array, s: Array, _: Any, dice: np.random.Generator) -> Array:
    return np.asarray(x * rising(s, 1.01, 1.35) ** signs(1, dice))


def _converted(x: Array, s: Array, _: Any, dice: np.random.Generator) -> Array:
    """Some are in another unit."""
    return np.where(_some(x, s, dice), x * rising(s, 1.05, 2.5) ** signs(1, dice), x)


def _shuffled(x: Array, s: Array, _: Any, dice: np.random.Generator) -> Array:
    """Some are another sample's."""
    made = x.copy()
    for column in np.flatnonzero(_some(x, s, dice)):
        made[:, column] = x[dice.permutation(len(x)), column]
    return made


def _constant(x: Array, s: Array, span: Span, dice: np.random.Generator) -> Array:
    return np.where(_some(x, s, dice), span.mean, x)


def _zeroed(x: Array, s: Array, _: Any, dice: np.random.Generator) -> Array:
    return np.where(_some(x, s, dice), 0.0, x)


def _thrown(x: Array, s: Array, span: Span, dice: np.random.Generator) -> Array:
    """Single numbers are far off."""
    hit = dice.random(x.shape, np.float32) < rising(s, 0.005, 0.15)
    return np.where(hit, span.mean + 4 * span.deviation * normal(x.shape, dice), x)


KINDS = (
    Kind("noise", "noise", noise),
    Kind("jittery", "noise", _jittery),
    Kind("thrown", "noise", _thrown),
    Kind("offset", "offset", _offset),
    Kind("all offset", "offset", _all_offset),
    Kind("gained", "gain", _gained),
    Kind("converted", "gain", _converted),
    Kind("rescaled", "gain", _rescaled),
    Kind("shuffled", "missing", _shuffled),
    Kind("constant", "missing", _constant),
    Kind("zeroed", "missing", _zeroed),
)
