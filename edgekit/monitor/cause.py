"""What may be behind a shift of pictures or sounds: a guess to act on, from what all numbers did together.

What an app's preparation gets wrong does to the features what a formula tells, and can be undone: values that were not
divided by 255 make the brightness 255 times as large and the contrast, a logarithm, log 255 larger; of a picture upside
down the cells have another order. Each such mistake is undone on the stream's mean, and the one after which it lies
where the reference does is told. Of everything else the traits that a person sees are told: darker, less sharp.

How far a mean lies is z'Pz / k, with z [k] in deviations and P the inverse of the reference's correlations; of n
samples of the reference that is 1 / n on the average.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from edgekit.monitor.columns import Array
from edgekit.monitor.reference import Reference, inverse

_NOISE = 3.0
"""So many times the distance that luck makes may be left when the right mistake was undone."""

_GAIN, _TENTH = 0.45, 0.1
"""Part of the distance that may be left then; a tenth is enough where a stream is one scene, and has no such luck."""

_LEFT = 1.5
"""Distance that may be left then: that of a single scene."""

_RIVAL = 1.5
"""Others must leave so many times as much."""

_SHRINK = 0.1
"""Weight of the identity in the correlations, at least: what hardly varies in the reference is no measure."""

_CUT = 4.0
"""Deviations beyond which the mean of the last samples is taken, which was not cut."""

_SEEN = 0.7
"""Deviations from which on a trait can be seen."""

_RANGES = (("0 to 255", 255.0, 0.0), ("0 to 1", 1.0, 0.0), ("-1 to 1", 2.0, -1.0))
"""How values of pictures are written: as a u + b of u in 0..1."""

_ABOUT = 0.02
"""How far beyond the ends of a range values may lie."""

_PRETRAINED = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""ImageNet's means and deviations of red, green and blue, by which pretrained networks are normalized."""

_OVER = "pictures look upside down (how is the camera mounted?)"
_TURNED = "pictures look turned by 90 degrees, or their rows and columns exchanged (how is the camera mounted?)"
_SCRAMBLED = "pictures look scrambled: their axes or channels in another order than the model's, or noise alone"

_LIGHT = "other light, another exposure, something before the lens"
_BLUR = "the focus, a dirty or wet lens, motion, pictures enlarged from few pixels"
_GRAIN = "too little light, pictures shrunk without smoothing"
_COLOR = "light of another color, another white balance"

_RATES = (2.0, 3.0, 0.5, 1 / 3)
"""Sample rates that are mistaken for each other, as ratios."""


class Cause(NamedTuple):
    """A guess.

    Attributes:
        text: What it looks like; empty where nothing known fits.
        mistake: The app's preparation is to blame, not the field.
    """

    text: str
    mistake: bool = False


class Side(NamedTuple):
    """The columns of one input.

    Attributes:
        at: Name of a feature to its place.
        mean, deviation: [k], of the reference.
        low, high: [k]: the smallest and the largest numbers seen.
        precision: [k, k]: inverse of the correlations.
    """

    at: dict[str, int]
    mean: Array
    deviation: Array
    low: Array
    high: Array
    precision: Array

    def z(self, mean: Array) -> Array:
        """A mean [k] in deviations."""
        return np.asarray((mean - self.mean) / self.deviation)

    def apart(self, mean: Array) -> float:
        """How far a mean [k] lies."""
        z = self.z(mean)
        return float(z @ self.precision @ z) / len(z)


Undo = tuple[str, Array]
"""A mistake, and the mean [k] as it would be without."""


def guess(reference: Reference, source: str, mean: Array, last: Array, length: int) -> Cause:
    """What may be behind a shift.

    Args:
        reference: Of the model.
        source: The input that has moved.
        mean: [columns]: of the stream since it moved, in the features' own units, cut where they lie far away.
        last: [columns]: of the last samples, not cut.
        length: Samples behind `mean`.
    """
    header = reference.header
    places = [place for place, one in enumerate(header.columns) if one.source == source and one.role == "input"]
    names = [header.columns[place].name for place in places]
    kind = next((kind for kind in (Pictures, Sounds) if kind.first == tuple(names[:2])), None)
    if kind is None:
        return Cause("")
    own = np.array(places)
    center, deviation = reference.mean[own], np.maximum(reference.deviation[own], 1e-9)
    reach = reference.reach[own].astype(np.float64) * deviation[:, None] + center[:, None]
    shrink = max(header.shrink, _SHRINK) if header.relations else 1.0
    precision = inverse(reference.correlation[np.ix_(own, own)], shrink)
    at = {name: place for place, name in enumerate(names)}
    side = Side(at, center, deviation, reach[:, 0], reach[:, 1], precision)
    now = mean[own]
    if np.abs(side.z(now)).max() > _CUT:
        now, length = last[own], min(length, 32)
    apart = side.apart(now)
    if not np.isfinite(apart):
        return Cause("")
    found = kind(side)
    left = sorted((side.apart(undone), text) for text, undone in found.mistakes(now))
    if left:
        (least, text), rival = left[0], next((far for far, other in left if other != left[0][1]), np.inf)
        noise = 1 / length + 1 / header.samples
        small = least <= _GAIN * apart and least <= _NOISE * noise
        if (small or least <= min(_TENTH * apart, _LEFT)) and rival >= _RIVAL * least:
            return Cause(text, mistake=True)
    return found.traits(now)


class Pictures:
    """What happens to pictures."""

    first = ("brightness", "contrast")

    def __init__(self, side: Side) -> None:
        self._side = side
        at = side.at
        self._cells = [place for name, place in at.items() if name.startswith("brightness at ")]
        self._colors = [at[name] for name in ("red", "blue") if name in at]

    def mistakes(self, now: Array) -> Iterator[Undo]:
        yield from self._scaled(now)
        if self._colors:
            swapped = now.copy()
            swapped[self._colors] = now[self._colors[::-1]]
            yield "the colors look like BGR where RGB was expected, or the other way round", swapped
        grid: list[tuple[str, Callable[[Array], Array], float]] = [
            (_OVER, lambda cells: cells[::-1], 1.0),
            (_OVER, lambda cells: cells[::-1, ::-1], 1.0),
            (_TURNED, np.transpose, -1.0),
            (_TURNED, np.rot90, -1.0),
            (_TURNED, lambda cells: np.rot90(cells, -1), -1.0),
        ]
        for text, turned, edges in grid:
            undone = now.copy()
            undone[self._cells] = turned(now[self._cells].reshape(4, 4)).reshape(-1)
            undone[self._side.at["direction of edges"]] *= edges
            yield text, undone

    def _scaled(self, now: Array) -> Iterator[Undo]:
        """Other ranges of values than those of the reference, as far as these are known."""
        low, high = self._side.low[self._cells].min(), self._side.high[self._cells].max()
        usual = None
        if low >= -_ABOUT:
            usual = _RANGES[1] if high <= 1 + _ABOUT else _RANGES[0] if 2 < high <= 256 else None
        elif low >= -1 - _ABOUT and high <= 1 + _ABOUT:
            usual = _RANGES[2]
        size = len(self._colors) + 1
        means, spreads = (np.array(part)[[1, 0, 2][:size]] for part in _PRETRAINED)  # green first: it stands for gray
        normal = ("normalized by mean and deviation", 1 / spreads, -means / spreads)
        ranges = [(name, np.full(size, a), np.full(size, b)) for name, a, b in _RANGES]
        if usual is None and -3.5 <= low < 0 and high <= 3.5:
            wanted = normal
        elif usual is None:
            return
        else:
            wanted = (usual[0], np.full(size, usual[1]), np.full(size, usual[2]))
        _, to, plus = wanted
        for name, a, b in (*ranges, normal):
            if name != wanted[0]:
                text = f"values look like {name} where {wanted[0]} was expected"
                yield text, self._affine(now, to / a, plus - b * to / a)
        once = "values look divided by 255 once more than they should be"
        if usual is not _RANGES[0]:
            yield once, self._affine(now, np.full(size, 255.0), np.zeros(size))
        if usual is not None:
            ends = 2 * usual[2] + usual[1]
            yield (
                "dark and bright look exchanged (a negative)",
                self._affine(now, np.full(size, -1.0), np.full(size, ends)),
            )

    def _affine(self, now: Array, a: Array, b: Array) -> Array:
        """Features of pictures whose gray, red and blue are a x + b [1 or 3]."""
        at, undone = self._side.at, now.copy()
        gray = [at["brightness"], *self._cells]
        undone[gray] = a[0] * now[gray] + b[0]
        for place, of, plus in zip(self._colors, a[1:], b[1:], strict=True):
            undone[place] = of * (now[place] + now[at["brightness"]]) + plus - undone[at["brightness"]]
        size = math.log(abs(a[0]))
        undone[at["contrast"]] += size
        undone[[at["edges"], at["coarse detail"]]] += 2 * size
        return undone

    def traits(self, now: Array) -> Cause:
        """What a person sees."""
        at, z = self._side.at, self._side.z(now)
        light, grain = float(z[at["brightness"]]), float(z[at["fine detail"]])
        if now[at["contrast"]] < self._side.low[at["contrast"]] - math.log(4):
            return Cause("there is hardly anything in the pictures: a covered lens, no light, or far too much")
        if grain > 1 > -light and self._structure(now) < -2:
            return Cause(_SCRAMBLED, mistake=True)
        lit = self._light(now)
        flat = float(now[at["contrast"]] - self._side.mean[at["contrast"]] - math.log(lit))
        flat /= float(self._side.deviation[at["contrast"]])
        tint, color = self._tint(now, lit)
        seen = (
            (light, _LIGHT, _LIGHT, "darker", "brighter"),
            (grain, _BLUR, _GRAIN, "less sharp", "noisier or more detailed"),
            (color, _COLOR, _COLOR, f"of another color ({tint})", f"of another color ({tint})"),
            (flat, "haze, glare, a dirty lens", "harder light, another exposure", "flatter", "of more contrast"),
        )
        found = sorted((trait for trait in seen if abs(trait[0]) >= _SEEN), key=lambda trait: -abs(trait[0]))
        if not found:
            return Cause("")
        words = [more if size > 0 else less for size, _, _, less, more in found]
        listed = " and ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)
        size, below, above, *_ = found[0]
        return Cause(f"pictures are {listed}: look for {above if size > 0 else below}")

    def _light(self, now: Array) -> float:
        """How many times as much there is; contrast and colors follow it."""
        at, side = self._side.at, self._side
        low = float(side.low[self._cells].min())
        black = 0.0 if low >= -_ABOUT else -1.0 if low >= -1 - _ABOUT else low
        share = (now[at["brightness"]] - black) / max(side.mean[at["brightness"]] - black, 1e-9)
        return float(share) if share > 0 else 1.0

    def _tint(self, now: Array, lit: float) -> tuple[str, float]:
        """Of which color there is more or less, and the shift of the one that moved most, in deviations."""
        side, told, most = self._side, [], 0.0
        for place, name in zip(self._colors, ("red", "blue"), strict=False):
            size = float((now[place] / lit - side.mean[place]) / side.deviation[place])
            if abs(size) >= _SEEN:
                told.append(f"{'more' if size > 0 else 'less'} {name}")
            most = max(most, size, key=abs)
        return " and ".join(told), most

    def _structure(self, now: Array) -> float:
        """How much coarse detail there is beside the contrast, in deviations."""
        at, side = self._side.at, self._side
        weights = np.zeros(len(now))
        weights[at["coarse detail"]], weights[at["contrast"]] = 1.0, -2.0
        usual = weights * side.deviation
        return float(weights @ (now - side.mean)) / math.sqrt(float(usual @ np.linalg.solve(side.precision, usual)))


class Sounds:
    """What happens to waves."""

    first = ("mean", "loudness")

    def __init__(self, side: Side) -> None:
        self._side = side
        self._steps = [place for name, place in side.at.items() if name.startswith("change over ")]

    def mistakes(self, now: Array) -> Iterator[Undo]:
        loud, offset = self._side.at["loudness"], self._side.at["mean"]
        for text, factor in (
            ("samples look like 16-bit integers where -1 to 1 was expected", 1 / 32768),
            ("samples look like -1 to 1 where 16-bit integers were expected", 32768.0),
        ):
            undone = now.copy()
            undone[offset] *= factor
            undone[loud] += math.log(factor)
            yield text, undone
        levels = np.arange(len(self._steps))
        for ratio in _RATES:
            undone = now.copy()
            places = levels + math.log2(ratio)  # sums of twice as many samples are twice as large
            moved = np.interp(places, levels, now[self._steps]) - 2 * math.log(ratio)
            known = (places >= 0) & (places <= levels[-1])
            undone[self._steps] = np.where(known, moved, self._side.mean[self._steps])
            more = "higher" if ratio > 1 else "lower"
            yield f"the sample rate looks {max(ratio, 1 / ratio):.0f} times {more} than expected", undone

    def traits(self, now: Array) -> Cause:
        """What a person hears."""
        loud, side = self._side.at["loudness"], self._side
        if now[loud] < side.low[loud] - math.log(20):
            return Cause("there is hardly any sound: a microphone that is off, muted or not connected")
        change = float(now[loud] - side.mean[loud])
        if abs(change) < _SEEN * side.deviation[loud]:
            return Cause("")
        decibels = 20 * abs(change) / math.log(10)
        way = "louder" if change > 0 else "quieter"
        return Cause(f"sounds are {decibels:.0f} dB {way}: look for another gain, another distance, other noise")
