"""Copies of samples as the field might spoil them: where labels are known, they tell how an estimate without labels is
to be read when data drift.

Numpy only, and the same for the same seed. Every kind is a few lines, because what matters is that there are many
kinds, each from hardly visible to hard, not that one of them is beautiful. Kinds that are alike belong to a family:
what an estimate is worth on a drift that nothing like it was fitted on is found by leaving whole families out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.converters.stages import Array

LEVELS = 4
"""Strengths of each kind."""

SOURCES = 500
"""Samples that copies are made of, at most."""

_DARK = 1e-9


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
        deviation = np.maximum(x.std(axis=axis, dtype=np.float64), _DARK)
        return cls(float(x.min()), float(x.max()), x.mean(axis=axis, dtype=np.float64), deviation, len(x))

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


@dataclass(frozen=True)
class Kind:
    """A way to spoil samples.

    Attributes:
        name: Of the kind. family: Of kinds that are alike.
        change: Samples [n, ...], strengths [n, 1, ...] between 0 and 1, the span, dice -> samples.
    """

    name: str
    family: str
    change: Callable[[Array, Array, Span, np.random.Generator], Array]


class Spoiler:
    """Spoils samples of one shape.

    Args:
        shape: "picture" [n, h, w, c], "channels first" [n, c, h, w], "series" [n, time, ...] or "table" [n, k].
        span: Of the samples.

    Attributes:
        kinds: That it knows.
    """

    def __init__(self, shape: str, span: Span) -> None:
        self._first = shape == "channels first"
        self._table = shape == "table"
        self._span = span
        self.kinds = _TABLE if self._table else _SERIES if shape == "series" else _PICTURE

    def spoil(self, x: Array, kind: int, level: int, dice: np.random.Generator) -> Array:
        """A copy of samples [n, ...] float32.

        Args:
            x: The samples.
            kind: Which of `kinds`.
            level: 0 (hardly visible) to LEVELS - 1 (hard); each sample's own strength is around it.
            dice: Of all draws.
        """
        strength = (level + dice.random((len(x), *[1] * (x.ndim - 1)))) / LEVELS
        source = np.moveaxis(x, 1, 3) if self._first else x
        made = self.kinds[kind].change(source.astype(np.float64), strength, self._span, dice)
        if not self._table:
            made = np.clip(made, self._span.low, self._span.high)
        return np.asarray(np.moveaxis(made, 3, 1) if self._first else made, np.float32)


def drawn(samples: int, groups: int, copies: int) -> list[Array]:
    """Of which samples each group has copies, ascending; each sample is taken as often as any other.

    Args:
        samples: That there are.
        groups: Kinds times levels.
        copies: That may be made of all together.
    """
    sources = np.random.default_rng(0).permutation(samples)[:SOURCES]
    each = min(len(sources), max(1, copies // groups))
    places = np.arange(groups)[:, None] * each + np.arange(each)
    return [np.sort(sources[own % len(sources)]) for own in places]


def copies(x: Array, shape: str, most: int) -> Iterator[tuple[Kind, int, Array, Array]]:
    """All kinds and levels of drift of samples [n, ...] that are at hand: kind, level, which samples, their copies.

    Args:
        x: The samples, float32.
        shape: As `Spoiler` takes it.
        most: Copies of all kinds together.
    """
    spoiler = Spoiler(shape, Span.of(x, shape))
    for number, places in enumerate(drawn(len(x), len(spoiler.kinds) * LEVELS, most)):
        kind, level = divmod(number, LEVELS)
        dice = np.random.default_rng([kind, level])
        yield spoiler.kinds[kind], level, places, spoiler.spoil(x[places], kind, level, dice)


def _between(strength: Array, mild: float, hard: float) -> Array:
    return mild + (hard - mild) * strength


def _rising(strength: Array, mild: float, hard: float) -> Array:
    """The same in equal ratios."""
    return np.asarray(mild * (hard / mild) ** strength)


# -- Pictures and series alike ----------------------------------------------------------------------------------------


def _noise(x: Array, s: Array, span: Span, dice: np.random.Generator) -> Array:
    return np.asarray(x + _rising(s, 0.05, 1.5) * span.deviation * dice.normal(size=x.shape))


def _grainy(x: Array, s: Array, span: Span, dice: np.random.Generator) -> Array:
    """Noise that grows with the value."""
    return np.asarray(span.low + (x - span.low) * (1 + _between(s, 0.05, 0.6) * dice.normal(size=x.shape)))


def _speckled(x: Array, s: Array, span: Span, dice: np.random.Generator) -> Array:
    hit = dice.random(x.shape) < _rising(s, 0.005, 0.15)
    return np.where(hit, np.where(dice.random(x.shape) < 0.5, span.low, span.high), x)


def _raised(x: Array, s: Array, span: Span, _: Any) -> Array:
    return np.asarray(x + _between(s, 0.1, 1.2) * span.deviation)


def _lowered(x: Array, s: Array, span: Span, _: Any) -> Array:
    return np.asarray(x - _between(s, 0.1, 1.2) * span.deviation)


def _flatter(x: Array, s: Array, *_: Any) -> Array:
    mean = _own_mean(x)
    return np.asarray(mean + (x - mean) * _between(s, 0.95, 0.25))


def _harsher(x: Array, s: Array, *_: Any) -> Array:
    mean = _own_mean(x)
    return np.asarray(mean + (x - mean) * _between(s, 1.1, 2.5))


def _own_mean(x: Array) -> Array:
    return np.asarray(x.mean(axis=(1, 2) if x.ndim > 3 else 1, keepdims=True))


def _blurred(x: Array, s: Array, *_: Any) -> Array:
    return _smoothed(x, 5 * s, (1, 2) if x.ndim > 3 else (1,))


def _smoothed(x: Array, passes: Array, axes: tuple[int, ...]) -> Array:
    """So many passes (a number a sample, broken ones in part) of (1, 2, 1) / 4: a Gaussian of variance 1/2 each."""
    made = x
    for step in range(int(np.ceil(passes.max(initial=0)))):
        after = made
        for axis in axes:
            after = (_beside(after, axis, 1) + 2 * after + _beside(after, axis, -1)) / 4
        made = made + np.clip(passes - step, 0, 1) * (after - made)
    return made


def _beside(x: Array, axis: int, by: int) -> Array:
    """Neighbors along an axis; at the edge each is its own."""
    places = np.clip(np.arange(x.shape[axis]) + by, 0, x.shape[axis] - 1)
    return np.asarray(x.take(places, axis))


# -- Pictures ---------------------------------------------------------------------------------------------------------


def _darker(x: Array, s: Array, span: Span, _: Any) -> Array:
    return np.asarray(span.low + (x - span.low) * _between(s, 0.95, 0.3))


def _brighter(x: Array, s: Array, span: Span, _: Any) -> Array:
    return np.asarray(span.low + (x - span.low) * _between(s, 1.05, 2.0))


def _gamma(mild: float, hard: float) -> Callable[[Array, Array, Span, Any], Array]:
    def change(x: Array, s: Array, span: Span, _: Any) -> Array:
        part = np.clip((x - span.low) / max(span.high - span.low, _DARK), 0, 1)
        return np.asarray(span.low + (span.high - span.low) * part ** _rising(s, mild, hard))

    return change


def _smeared(x: Array, s: Array, _: Any, dice: np.random.Generator) -> Array:
    """Moved while it was taken, along one side."""
    return _smoothed(x, 12 * s, (int(dice.integers(1, 3)),))


def _coarse(x: Array, s: Array, *_: Any) -> Array:
    """Of fewer pixels."""
    made = np.empty_like(x)
    for place, factor in enumerate(_between(s, 1.2, 3.5).reshape(-1).tolist()):
        picture = x[place]
        for axis in (0, 1):
            size = picture.shape[axis]
            at = (np.floor(np.arange(size) / factor) * factor + factor / 2).astype(int)
            picture = picture.take(np.minimum(at, size - 1), axis)
        made[place] = picture
    return made


def _moved(x: Array, s: Array, span: Span, dice: np.random.Generator) -> Array:
    angle = dice.uniform(0, 2 * np.pi, len(x))
    far = _between(s.reshape(-1), 0.02, 0.22)
    offset = np.stack([far * np.cos(angle) * x.shape[1], far * np.sin(angle) * x.shape[2]], axis=1)
    return _mapped(x, np.broadcast_to(np.eye(2), (len(x), 2, 2)), span.low, offset)


def _turned(x: Array, s: Array, span: Span, dice: np.random.Generator) -> Array:
    angle = np.deg2rad(_between(s.reshape(-1), 3, 50)) * _signs(len(x), dice)
    c, d = np.cos(angle), np.sin(angle)
    return _mapped(x, np.stack([np.stack([c, -d], 1), np.stack([d, c], 1)], 1), span.low)


def _nearer(x: Array, s: Array, span: Span, _: Any) -> Array:
    return _mapped(x, np.eye(2) / _rising(s, 1.04, 1.6).reshape(-1, 1, 1), span.low)


def _farther(x: Array, s: Array, span: Span, _: Any) -> Array:
    return _mapped(x, np.eye(2) * _rising(s, 1.04, 1.7).reshape(-1, 1, 1), span.low)


def _slanted(x: Array, s: Array, span: Span, dice: np.random.Generator) -> Array:
    lean = _between(s.reshape(-1), 0.03, 0.6) * _signs(len(x), dice)
    matrix = np.tile(np.eye(2), (len(x), 1, 1))
    matrix[:, 1, 0] = lean
    return _mapped(x, matrix, span.low)


def _stretched(x: Array, s: Array, span: Span, dice: np.random.Generator) -> Array:
    factor = np.exp(np.log(_rising(s.reshape(-1), 1.04, 1.6)) * _signs(len(x), dice) / 2)
    matrix = np.zeros((len(x), 2, 2))
    matrix[:, 0, 0], matrix[:, 1, 1] = factor, 1 / factor
    return _mapped(x, matrix, span.low)


def _signs(number: int, dice: np.random.Generator) -> Array:
    return np.where(dice.random(number) < 0.5, -1.0, 1.0)


def _mapped(x: Array, matrix: Array, fill: float, offset: Array | None = None) -> Array:
    """Pixel p of each picture, counted from its middle, is what was at `matrix` p + `offset`, between its four
    neighbors; `fill` where nothing was.
    """
    height, width = x.shape[1:3]
    middle = np.array([(height - 1) / 2, (width - 1) / 2])
    grid = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), axis=-1) - middle
    made = np.full_like(x, fill)
    for place in range(len(x)):
        at = grid @ matrix[place].T + middle
        if offset is not None:
            at = at + offset[place]
        rows, columns = at[..., 0], at[..., 1]
        there = (rows >= 0) & (rows <= height - 1) & (columns >= 0) & (columns <= width - 1)
        top, left = np.clip(rows.astype(int), 0, height - 2), np.clip(columns.astype(int), 0, width - 2)
        a, b = (rows - top)[..., None], (columns - left)[..., None]
        picture = x[place]
        upper = picture[top, left] * (1 - b) + picture[top, left + 1] * b
        lower = picture[top + 1, left] * (1 - b) + picture[top + 1, left + 1] * b
        made[place][there] = (upper * (1 - a) + lower * a)[there]
    return made


def _covered(x: Array, s: Array, span: Span, dice: np.random.Generator) -> Array:
    made = x.copy()
    for place, part in enumerate(_between(s, 0.15, 0.55).reshape(-1).tolist()):
        cuts = []
        for size in x.shape[1:3]:
            length = max(1, int(size * part))
            begin = int(dice.integers(0, size - length + 1))
            cuts.append(slice(begin, begin + length))
        made[place][tuple(cuts)] = span.low
    return made


def _shaded(x: Array, s: Array, span: Span, dice: np.random.Generator) -> Array:
    """Light from one side."""
    angle = dice.uniform(0, 2 * np.pi, (len(x), 1, 1, 1))
    down, across = np.linspace(-1, 1, x.shape[1])[:, None, None], np.linspace(-1, 1, x.shape[2])[None, :, None]
    ramp = (np.cos(angle) * down + np.sin(angle) * across) / 1.42
    return np.asarray(span.low + (x - span.low) * (1 + _between(s, 0.1, 1.0) * ramp))


def _hazed(x: Array, s: Array, span: Span, _: Any) -> Array:
    return np.asarray(x + _between(s, 0.05, 0.7) * (span.low + 0.8 * (span.high - span.low) - x))


def _tinted(x: Array, s: Array, span: Span, dice: np.random.Generator) -> Array:
    factor = 1 + _between(s, 0.05, 0.6) * dice.uniform(-1, 1, (len(x), 1, 1, x.shape[3]))
    return np.asarray(span.low + (x - span.low) * factor)


# -- Series -----------------------------------------------------------------------------------------------------------


def _quieter(x: Array, s: Array, *_: Any) -> Array:
    return np.asarray(x * _rising(s, 0.95, 0.3))


def _louder(x: Array, s: Array, *_: Any) -> Array:
    return np.asarray(x * _rising(s, 1.05, 3.0))


def _late(x: Array, s: Array, _: Any, dice: np.random.Generator) -> Array:
    steps = np.rint(_between(s.reshape(-1), 0.01, 0.25) * x.shape[1] * _signs(len(x), dice)).astype(int)
    return np.stack([np.roll(one, step, 0) for one, step in zip(x, steps.tolist(), strict=True)])


def _paced(x: Array, s: Array, _: Any, dice: np.random.Generator) -> Array:
    """Slower or faster around its middle."""
    factors = np.exp(np.log(_rising(s.reshape(-1), 1.03, 2.0)) * _signs(len(x), dice))
    middle = (x.shape[1] - 1) / 2
    made = np.empty_like(x)
    for place, factor in enumerate(factors.tolist()):
        at = np.clip((np.arange(x.shape[1]) - middle) * factor + middle, 0, x.shape[1] - 1)
        before = np.minimum(at.astype(int), max(0, x.shape[1] - 2))
        part = (at - before).reshape(-1, *[1] * (x.ndim - 2))
        after = np.minimum(before + 1, x.shape[1] - 1)
        made[place] = x[place, before] * (1 - part) + x[place, after] * part
    return made


def _dropped(x: Array, s: Array, span: Span, dice: np.random.Generator) -> Array:
    """A stretch of it is missing."""
    made = x.copy()
    for place, part in enumerate(_between(s, 0.05, 0.5).reshape(-1).tolist()):
        length = max(1, int(x.shape[1] * part))
        begin = int(dice.integers(0, x.shape[1] - length + 1))
        made[place, begin : begin + length] = span.mean
    return made


def _tilted(x: Array, s: Array, span: Span, dice: np.random.Generator) -> Array:
    """Bands at one end are louder, those at the other quieter; of a single band, the beginning and the end."""
    axis = 2 if x.ndim > 2 and x.shape[2] > 1 else 1
    sizes = [1] * x.ndim
    sizes[axis] = x.shape[axis]
    ramp = np.linspace(-1, 1, x.shape[axis]).reshape(sizes)
    sign = _signs(len(x), dice).reshape(s.shape)
    return np.asarray(span.mean + (x - span.mean) * (1 + sign * _between(s, 0.1, 0.9) * ramp))


def _cut(x: Array, s: Array, *_: Any) -> Array:
    """The microphone's amplifier is at its end."""
    most = np.abs(x).max(axis=tuple(range(1, x.ndim)), keepdims=True) * _between(s, 0.8, 0.1)
    return np.clip(x, -most, most)


def _mixed(x: Array, s: Array, span: Span, dice: np.random.Generator) -> Array:
    """Another sample is heard besides."""
    return np.asarray(x + _between(s, 0.05, 0.7) * (x[dice.permutation(len(x))] - span.mean))


def _hummed(x: Array, s: Array, span: Span, dice: np.random.Generator) -> Array:
    period, phase = _rising(dice.random(s.shape), 4, x.shape[1]), dice.uniform(0, 2 * np.pi, s.shape)
    time = np.arange(x.shape[1]).reshape(1, -1, *[1] * (x.ndim - 2))
    wave = np.sin(2 * np.pi * time / period + phase)
    return np.asarray(x + _rising(s, 0.1, 1.5) * span.deviation * wave)


# -- Tables -----------------------------------------------------------------------------------------------------------


def _some(x: Array, s: Array, dice: np.random.Generator) -> Array:
    """Which columns [k]: more of them the harder."""
    share = dice.uniform(0.05, 0.2 + 0.4 * float(s.mean()))
    which: Array = np.asarray(dice.random(x.shape[1]) < share)
    which[int(dice.integers(x.shape[1]))] = True
    return which


def _jittery(x: Array, s: Array, span: Span, dice: np.random.Generator) -> Array:
    which = _some(x, s, dice)
    return np.asarray(x + which * _rising(s, 0.2, 4.0) * span.deviation * dice.normal(size=x.shape))


def _offset(x: Array, s: Array, span: Span, dice: np.random.Generator) -> Array:
    which = _some(x, s, dice) * _signs(x.shape[1], dice)
    return np.asarray(x + which * _rising(s, 0.2, 2.0) * span.deviation)


def _all_offset(x: Array, s: Array, span: Span, dice: np.random.Generator) -> Array:
    return np.asarray(x + _signs(1, dice) * _between(s, 0.05, 1.0) * span.deviation)


def _rescaled(x: Array, s: Array, span: Span, dice: np.random.Generator) -> Array:
    which, up = _some(x, s, dice), _signs(1, dice)
    return np.where(which, span.mean + (x - span.mean) * _rising(s, 1.1, 3.0) ** up, x)


def _gained(x: Array, s: Array, _: Any, dice: np.random.Generator) -> Array:
    return np.asarray(x * _rising(s, 1.01, 1.35) ** _signs(1, dice))


def _converted(x: Array, s: Array, _: Any, dice: np.random.Generator) -> Array:
    """Some are in another unit."""
    return np.where(_some(x, s, dice), x * _rising(s, 1.05, 2.5) ** _signs(1, dice), x)


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
    hit = dice.random(x.shape) < _rising(s, 0.005, 0.15)
    return np.where(hit, span.mean + 4 * span.deviation * dice.normal(size=x.shape), x)


_PICTURE = (
    Kind("noise", "noise", _noise),
    Kind("grainy", "noise", _grainy),
    Kind("speckled", "noise", _speckled),
    Kind("raised", "light", _raised),
    Kind("lowered", "light", _lowered),
    Kind("darker", "light", _darker),
    Kind("brighter", "light", _brighter),
    Kind("gamma up", "light", _gamma(0.9, 0.35)),
    Kind("gamma down", "light", _gamma(1.1, 3.0)),
    Kind("flatter", "contrast", _flatter),
    Kind("harsher", "contrast", _harsher),
    Kind("hazed", "contrast", _hazed),
    Kind("blurred", "blur", _blurred),
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
_SERIES = (
    Kind("noise", "noise", _noise),
    Kind("speckled", "noise", _speckled),
    Kind("hummed", "noise", _hummed),
    Kind("mixed", "noise", _mixed),
    Kind("raised", "offset", _raised),
    Kind("lowered", "offset", _lowered),
    Kind("quieter", "gain", _quieter),
    Kind("louder", "gain", _louder),
    Kind("flatter", "gain", _flatter),
    Kind("harsher", "gain", _harsher),
    Kind("cut", "gain", _cut),
    Kind("blurred", "blur", _blurred),
    Kind("late", "time", _late),
    Kind("paced", "time", _paced),
    Kind("dropped", "cover", _dropped),
    Kind("tilted", "tilt", _tilted),
)
_TABLE = (
    Kind("noise", "noise", _noise),
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
