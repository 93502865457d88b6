"""What is counted about a tensor of an artifact beside the same tensor of the float graph, sample by sample."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgekit.converters.debugging.nets import Array, Tensor
from edgekit.tensors import INTEGER_RANGE

BINS = 96
"""Of the histograms: a third of the levels of 8 bits, so that values that took few of them show as gaps."""
NOTHING = -200.0
"""dB: noise that is infinite, or where there should be zeros only; a number, as JSON has no infinity."""
_ROOM = 0.05
"""What the histogram leaves on either side of the first sample's values; later ones beyond count at its ends."""
_MOST_CHANNELS = 8192
_LEVELS = 1 << 16


@dataclass(frozen=True)
class Figures:
    """How far one tensor is from another.

    Attributes:
        sqnr_db: 10 log10(sum f^2 / sum (f - a)^2); None where both are equal, -200 at least.
        cosine: Of all values.
        kl: Divergence of the artifact's distribution from the float one, in nats: sum p log(p / q) over a histogram,
            one count added to each bin.
        max_abs_error: In real units.
        shift: Mean of a - f, as a share of the root mean square of a - f: 1 when all values are off to one side.
    """

    sqnr_db: float | None
    cosine: float
    kl: float
    max_abs_error: float
    shift: float


@dataclass(frozen=True)
class Spread:
    """What the float graph's tensor is like, and how the artifact's integers cover it.

    Attributes:
        low, high: Of the float values.
        rms: Root mean square of the float values.
        zeros: Share of float values that are zero.
        saturation: Share of values that lie at an end of the integer range because the float value is beyond it.
        at_ends: Share of values at an end of the integer range, whatever the reason: zeros after a ReLU are.
        clipped: Share of the squared error that comes from float values beyond the range.
        levels: How many different integers were seen.
        axis: Of `peaks`; None where there are no channels.
        peaks: Largest magnitude a channel, float.
        columns: The same along the last axis, where that is another.
    """

    low: float
    high: float
    rms: float
    zeros: float
    saturation: float
    at_ends: float
    clipped: float
    levels: int | None
    axis: int | None
    peaks: tuple[float, ...] = ()
    columns: tuple[float, ...] = ()


@dataclass(frozen=True)
class Histogram:
    """Counts of float and artifact values in equal bins."""

    low: float
    high: float
    reference: tuple[int, ...]
    artifact: tuple[int, ...]


class Comparison:
    """Streams pairs of arrays; the figures stand at the end."""

    def __init__(self, tensor: Tensor, channels: int | None) -> None:
        self._tensor = tensor
        self._channels = channels
        self._count = self._zeros = self._ends = self._beyond = 0
        self._signal = self._noise = self._made = self._dot = self._shift = self._lost = 0.0
        self._worst = 0.0
        self._low, self._high = math.inf, -math.inf
        self._peaks: list[Array | None] = [None, None]
        self._edges: tuple[float, float] | None = None
        self._bins = np.zeros((2, BINS), np.int64)
        known = INTEGER_RANGE.get(tensor.dtype) if tensor.quant is not None else None
        self._limits = known
        self._levels = np.zeros(_LEVELS, bool) if known else None

    def add(self, reference: Array, stored: Array) -> None:
        """Take in one run.

        Args:
            reference: Float values.
            stored: The artifact's, of the same shape, as it stores them.
        """
        if not reference.size:
            return
        f, a, error = differences(reference, self._tensor.reals(stored))
        self._count += f.size
        self._signal += float(np.dot(f, f))
        self._made += float(np.dot(a, a))
        self._dot += float(np.dot(a, f))
        self._noise += float(np.dot(error, error))
        self._shift += float(error.sum())
        self._zeros += int(f.size - np.count_nonzero(f))
        self._worst = max(self._worst, float(np.abs(error).max()))
        self._low, self._high = min(self._low, float(f.min())), max(self._high, float(f.max()))
        self._count_integers(f, error, stored)
        self._take_peaks(reference)
        self._take_bins(f, a)

    @property
    def empty(self) -> bool:
        return self._count == 0

    @property
    def noise(self) -> float:
        """Mean squared error."""
        return self._noise / max(1, self._count)

    @property
    def relative(self) -> float:
        """Largest error as a share of the float values' range; zero belongs to it, as rounding grows with magnitude."""
        span = max(self._high, 0.0) - min(self._low, 0.0)
        return self._worst / span if span > 0 else (0.0 if self._worst == 0 else math.inf)

    def figures(self) -> Figures:
        rms = math.sqrt(self.noise)
        size = math.sqrt(self._signal * self._made)
        return Figures(
            sqnr_db=decibels(self._signal, self._noise),
            cosine=self._dot / size if size else float(self._noise == 0),
            kl=self._divergence(),
            max_abs_error=self._worst,
            shift=self._shift / max(1, self._count) / rms if rms else 0.0,
        )

    def spread(self) -> Spread:
        share = 1 / max(1, self._count)
        rows, columns = self._peaks
        return Spread(
            low=self._low,
            high=self._high,
            rms=math.sqrt(self._signal * share),
            zeros=self._zeros * share,
            saturation=self._beyond * share,
            at_ends=self._ends * share,
            clipped=min(1.0, self._lost / self._noise) if self._noise else 0.0,
            levels=None if self._levels is None else int(self._levels.sum()),
            axis=None if rows is None else self._channels,
            peaks=() if rows is None else tuple(map(float, rows)),
            columns=() if columns is None else tuple(map(float, columns)),
        )

    def histogram(self) -> Histogram:
        low, high = self._edges or (0.0, 1.0)
        return Histogram(low, high, tuple(map(int, self._bins[0])), tuple(map(int, self._bins[1])))

    def _count_integers(self, f: Array, error: Array, stored: Array) -> None:
        if self._limits is None or self._levels is None:
            return
        low, high = self._limits
        integers = stored.reshape(-1)
        self._levels[np.asarray(integers, np.int64) - low] = True
        ends = (integers == low) | (integers == high)
        self._ends += int(np.count_nonzero(ends))
        reach = self._tensor.representable
        if reach is None or self._tensor.quant is None or self._tensor.quant.per_channel:
            return
        half = self._tensor.quant.scale[0] / 2
        beyond = (f < reach[0] - half) | (f > reach[1] + half)
        self._beyond += int(np.count_nonzero(beyond & ends))
        self._lost += float(np.square(error[beyond]).sum())

    def _take_peaks(self, reference: Array) -> None:
        if self._channels is None or reference.ndim < 2:
            return
        axes = [self._channels % reference.ndim, reference.ndim - 1]
        for place, axis in enumerate(axes[: 1 if axes[0] == axes[1] else 2]):
            if reference.shape[axis] > _MOST_CHANNELS:
                continue
            peaks = np.abs(reference).max(axis=tuple(other for other in range(reference.ndim) if other != axis))
            before = self._peaks[place]
            self._peaks[place] = peaks if before is None or before.shape != peaks.shape else np.maximum(before, peaks)

    def _take_bins(self, f: Array, a: Array) -> None:
        if self._edges is None:
            low, high = float(min(f.min(), a.min())), float(max(f.max(), a.max()))
            room = _ROOM * (high - low) or max(abs(low), 1.0) * _ROOM
            self._edges = (low - room, high + room)
        low, high = self._edges
        for row, values in enumerate((f, a)):
            places = ((values - low) * (BINS / (high - low))).clip(0, BINS - 1).astype(np.int64)
            self._bins[row] += np.bincount(places, minlength=BINS)

    def _divergence(self) -> float:
        p, q = (self._bins + 1) / (self._bins.sum(axis=1, keepdims=True) + BINS)
        return float(np.sum(p * np.log(p / q)))


def differences(reference: Array, real: Array) -> tuple[Array, Array, Array]:
    """Both as flat float64, and their difference: none where both are the same infinity or NaN, else infinite there.

    What is not finite counts as zero in the values, so that sums over them stay numbers.
    """
    f = np.asarray(reference, np.float64).reshape(-1)
    a = np.asarray(real, np.float64).reshape(-1)
    if np.isfinite(f.sum()) and np.isfinite(a.sum()):
        return f, a, a - f
    odd = ~(np.isfinite(f) & np.isfinite(a))
    same = (f == a) | (np.isnan(f) & np.isnan(a))
    f, a = np.where(np.isfinite(f), f, 0.0), np.where(np.isfinite(a), a, 0.0)
    return f, a, np.where(odd, np.where(same, 0.0, np.inf), a - f)


def decibels(signal: float, noise: float) -> float | None:
    """SQNR of two sums of squares; None when there is no noise, `NOTHING` at least."""
    if noise == 0:
        return None
    if math.isinf(noise) or not signal:
        return NOTHING
    return max(NOTHING, 10 * math.log10(signal / noise))
