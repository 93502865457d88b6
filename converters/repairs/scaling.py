"""Equalization: channels of very different size are brought to the sizes that lose least in 8 bits.

One scale holds for a whole activation, so a channel a hundred times smaller than another keeps two of 256 steps. Where
a group of tensors can be scaled channel by channel (see `channels`), channel c is multiplied by t[c] where it is made
and divided by it where it is read. That trades the rounding of activations against that of the reading kernels, whose
scale is one an *output* channel: t[c] = (w[c] ** (1 - a)) / (r[c] ** a), with the channel's range r and the largest
weight w that reads it, lies between leaving the kernels best (a = 0) and the activations best (a = 1). Nagel et al.
2019 (arXiv:1906.04721) solve it for one scale a kernel, where a = 0.5 is best, and Xiao et al. 2022 (SmoothQuant,
arXiv:2211.10438) for matrix products behind a normalization. Here `a` is whichever gives the least expected noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.converters.repairs import channels, view
from edgekit.converters.repairs.channels import Group
from edgekit.converters.repairs.importance import channel_axes, importances
from edgekit.converters.repairs.repair import Case, Change
from edgekit.converters.repairs.samples import Array, look
from edgekit.converters.repairs.view import Layer, View

Doubles = NDArray[np.float64]

_EXPONENTS = (1.0, 0.8, 0.65, 0.5, 0.35)
_WORTH = 0.9
"""Share of the expected noise that must remain at most; less is within the estimate's own error."""
_FURTHEST = 1e4
"""Largest ratio of factors of one group: dead channels have no range to speak of."""
_LIKELY = 2.0
"""Standard deviations above the mean of the runs' largest values: 2 to 5 % of runs pass that, of most shapes."""
_RARE = 1.5
"""A channel that hardly ever does anything is known by the largest it ever took, within this factor."""
_STEPS = {8: 255, 16: 65535}
_WEIGHT_STEPS = 127


@dataclass
class Seen:
    """A tensor's channels on data; arrays of one element a channel, low at most and high at least 0.

    Attributes:
        peaks: Sums over the runs of the largest magnitude, and of its square.
        count: Values of each channel.
    """

    low: Doubles
    high: Doubles
    squares: Doubles
    peaks: Doubles
    count: int = 0
    runs: int = 0

    @staticmethod
    def of(channels: int) -> Seen:
        return Seen(np.zeros(channels), np.zeros(channels), np.zeros(channels), np.zeros((2, channels)))

    def add(self, values: Array, axis: int) -> None:
        """A run's values."""
        others = tuple(place for place in range(values.ndim) if place != axis)
        low, high = values.min(axis=others).astype(np.float64), values.max(axis=others).astype(np.float64)
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
        self.squares += np.square(values).sum(axis=others, dtype=np.float64)
        self.count += values.size // len(self.low)
        peak = np.maximum(np.maximum(high, -low), 0)
        self.peaks += [peak, np.square(peak)]
        self.runs += 1

    def variance(self, factors: Doubles, bits: int) -> float:
        """Of the rounding of all channels by one scale."""
        span = (np.maximum(self.high, 0) * factors).max() - (np.minimum(self.low, 0) * factors).min()
        return float((span / _STEPS[bits]) ** 2 / 12)

    @property
    def power(self) -> Doubles:
        return self.squares / max(1, self.count)

    @property
    def bound(self) -> Doubles:
        """What a channel rarely passes: by how its largest values of the runs spread, not by the largest of all.

        That one is a matter of luck. Were all channels scaled to the largest that each happened to take, new samples
        would pass the common range in one channel or another, again and again.
        """
        mean, square = self.peaks / max(1, self.runs)
        likely = mean + _LIKELY * np.sqrt(np.maximum(square - np.square(mean), 0))
        return np.asarray(np.maximum(likely, np.maximum(self.high, -self.low) / _RARE))


@dataclass(frozen=True)
class _Reading:
    """A layer that reads a group: its kernel as [out, in, places], and which channel each of its inputs is."""

    kernel: Doubles
    channel: NDArray[np.intp]
    seen: Seen
    importance: Doubles

    def relative(self, channels: int) -> Doubles:
        """The largest weight that reads each channel, beside the largest of its output."""
        largest = np.abs(self.kernel).max(axis=2)
        rows = np.maximum(largest.max(axis=1, keepdims=True), 1e-30)
        found = np.zeros(channels)
        np.maximum.at(found, self.channel, largest / rows)
        return found

    def noise(self, factors: Doubles, spread: float) -> float:
        """Expected noise of the outputs as it counts for the answers, as if channels were independent.

        Args:
            factors: Of the channels.
            spread: Variance by which what it reads was rounded, there and before.
        """
        scaled = np.square(factors[self.channel])
        squares = np.square(self.kernel).sum(axis=2)
        rounded = (squares / scaled).sum(axis=1) * spread
        steps = (np.abs(self.kernel).max(axis=2) / np.sqrt(scaled)).max(axis=1) / _WEIGHT_STEPS
        touched = (self.kernel != 0).sum(axis=2) * (self.seen.power[self.channel] * scaled)
        return float(((rounded + touched.sum(axis=1) * np.square(steps) / 12) * self.importance).sum())


def change(case: Case, opened: View, *, normalized: bool) -> Change:
    """Scale the channels of all groups where it pays, in place.

    Args:
        case: What is known of the graph.
        opened: Its view.
        normalized: Groups that a normalization makes, or those that only layers make.
    """
    found = [group for group in channels.groups(opened) if group.normalized == normalized]
    if not found:
        return Change()
    axes = channel_axes(opened)
    stored = [[name for name in group.tensors if name not in opened.fused] for group in found]
    axes |= {name: group.tensors[name] for group, names in zip(found, stored, strict=True) for name in names}
    seen = observe(case, opened, axes)
    counts = importances(opened, {name: one.power for name, one in seen.items()})
    gains, furthest = [], 1.0
    for group, names in zip(found, stored, strict=True):
        readings = [_reading(opened, layer, seen[layer.source], counts[layer.name]) for layer in group.readers]
        factors, gain = _factors(readings, [seen[name] for name in names], case.bits)
        if factors is not None:
            _scale(opened, group, factors)
            gains.append(gain)
            furthest = max(furthest, float(factors.max() / factors.min()))
    if not gains:
        return Change()
    detail = f"channels scaled by up to {furthest:.3g} against each other in {len(gains)} places"
    return Change(len(gains), f"{detail}: {np.mean(gains):.1f} dB less noise expected there")


def observe(case: Case, opened: View, axes: dict[str, int]) -> dict[str, Seen]:
    """Channels of tensors on the calibration data; `axes` tells the channels' axis of each."""
    sizes = {
        name: (opened.shape(name) or ())[axis] for name, axis in axes.items() if len(opened.shape(name) or ()) > axis
    }
    seen = {name: Seen.of(size) for name, size in sizes.items() if size > 0 and name not in opened.fused}
    show = lambda _, name, values: seen[name].add(values, axes[name])  # noqa: E731
    look(case.graph, case.samples, list(seen), show, case.threads)
    return seen


def _factors(readings: list[_Reading], stored: list[Seen], bits: int) -> tuple[Doubles | None, float]:
    """The factor of each channel, None where none pays, and the expected gain in dB."""
    bound = np.max([reading.seen.bound for reading in readings], axis=0)
    if not bound.max() > 0:
        return None, 0.0
    bound = np.maximum(bound, bound.max() / _FURTHEST)
    weights = np.max([reading.relative(len(bound)) for reading in readings], axis=0)
    weights = np.maximum(weights, max(weights.max() / _FURTHEST, 1e-30))
    candidates = [np.ones(len(bound)), *(_centered(weights ** (1 - a) / bound**a) for a in _EXPONENTS)]
    spreads = [sum(seen.variance(factors, bits) for seen in stored) for factors in candidates]
    noises = [
        sum(reading.noise(factors, spread) for reading in readings)
        for factors, spread in zip(candidates, spreads, strict=True)
    ]
    best = int(np.argmin(noises))
    if best == 0 or noises[best] > _WORTH * noises[0]:
        return None, 0.0
    return candidates[best], float(10 * np.log10(noises[0] / noises[best]))


def _centered(factors: Doubles) -> Doubles:
    """Around one, so that kernels keep their order of size."""
    root = np.sqrt(_FURTHEST)
    return np.asarray(np.clip(factors / np.exp(np.log(factors).mean()), 1 / root, root))


def _reading(opened: View, layer: Layer, seen: Seen, importance: Doubles) -> _Reading:
    kernel = opened.kernel(layer).astype(np.float64)
    outs, ins = kernel.shape[:2]
    first = np.arange(outs) // (outs // layer.groups) * ins
    return _Reading(kernel.reshape(outs, ins, -1), first[:, None] + np.arange(ins), seen, importance)


def _scale(opened: View, group: Group, factors: Doubles) -> None:
    """Multiply by the factors where channels are made and divide where they are read."""
    for layer in group.makers:
        kernel = opened.kernel(layer)
        opened.set_kernel(layer, (kernel * _rows(factors, kernel)).astype(np.float32))
        bias = opened.bias(layer)
        if bias is not None:
            opened.set_bias(layer, (bias * factors).astype(np.float32))
    for name in group.scales:
        opened.set_constant(name, (opened.constant(name) * factors).astype(np.float32))
    for name in group.inverse:
        opened.set_constant(name, (opened.constant(name) / factors).astype(np.float32))
    for layer in group.readers:
        kernel = opened.kernel(layer).astype(np.float64)
        outs, ins = kernel.shape[:2]
        shares = factors.reshape(layer.groups, ins)
        spread = np.repeat(shares, outs // layer.groups, axis=0).reshape(outs, ins, *[1] * (kernel.ndim - 2))
        opened.set_kernel(layer, (kernel / spread).astype(np.float32))


def _rows(factors: Doubles, kernel: view.Floats) -> Doubles:
    return factors.reshape(-1, *[1] * (kernel.ndim - 1))
