"""Ranges that lose least, decided from how often each value was seen.

Both ways try ranges that cut the observed one at either end and measure what the target's grid of numbers would do to
the values counted: round those inside to a step, move those outside to an end.

`least_squares` is the mean squared error (as in Nagel et al. 2021, "A White Paper on Neural Network Quantization",
section 3.1); `least_expected` the same of samples yet to come, whose largest values are guessed from those seen
(`tails`); `least_divergence` is the Kullback-Leibler divergence of TensorRT's calibrator (Migacz, GTC 2017), over both
signs because the grid is asymmetric.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.converters.calibration.tails import Tail, tail
from edgekit.converters.stages import Range

Floats = NDArray[np.float64]

_NOTHING = 1e-37
"""Magnitude below which a bucket holds zeros (and numbers that no grid tells from zero), which cost nothing."""

CUTS = np.concatenate([[1.0], np.geomspace(0.995, 0.1, 80)])
"""Parts of the observed end that are tried as the new end, about 3 % apart."""

_WIDER = np.geomspace(2.5, 1.01, 50)
"""The same beyond what was seen, about 2 % apart."""

_BINS = 4096
"""Equal bins that the divergence is measured on: 16 a step of the whole range, as TensorRT's 2048 for 128 steps."""

_SHARES = np.geomspace(1.0, 1 / 16, 60)
"""Thresholds tried for the divergence, as shares of the largest magnitude, about 5 % apart."""


@dataclass(frozen=True)
class Grid:
    """The numbers that a quantized activation can be.

    Attributes:
        steps: From the least to the largest.
        symmetric: Zero lies in the middle.
    """

    steps: int
    symmetric: bool

    def widened(self, low: float, high: float) -> tuple[float, float]:
        """Least and largest real value of the grid that is laid over a range; zero is always among them."""
        low, high = min(low, 0.0), max(high, 0.0)
        return (-max(-low, high), max(-low, high)) if self.symmetric else (low, high)


GRIDS = {"int8": Grid(255, symmetric=False), "int16": Grid(65534, symmetric=True)}
"""By the element type of a precision's activations. Eight bits are asymmetric in both formats, sixteen symmetric."""


@dataclass(frozen=True)
class Counted:
    """How often values were seen.

    Attributes:
        low, high: Least and largest, exactly.
        lower, upper: Edges of buckets, ascending.
        counts: Values in each.
    """

    low: float
    high: float
    lower: Floats
    upper: Floats
    counts: NDArray[np.int64]

    @property
    def middles(self) -> Floats:
        """A value to stand for each bucket."""
        return np.clip((self.lower + self.upper) / 2, self.low, self.high)


def least_squares(seen: Counted, grid: Grid) -> Range:
    """The range whose grid gives the least mean squared error."""
    lows, highs = _ends(seen)
    values, counts = _signal(seen)
    if not values.size:
        return Range(seen.low, seen.high)
    below, above = _lost_below(-values[::-1], counts[::-1], -lows), _lost_below(values, counts, highs)
    return _cheapest(lows, highs, below, above, seen, grid)


def least_expected(seen: Counted, grid: Grid) -> Range:
    """The range whose grid gives the least mean squared error expected on samples that were not seen.

    The largest of a hundred samples is passed by one in a hundred others, and by more of them where a tensor has few
    values, such as pooled channels or logits. What that costs on average follows from how the largest values fall off;
    it is weighed against the coarser steps of a wider range. So a tensor with many values loses a few of them, and one
    with few gets room.
    """
    if not _signal(seen)[0].size:
        return Range(seen.low, seen.high)
    lows, below = _prospects(-seen.middles[::-1], seen.counts[::-1], -seen.low)
    highs, above = _prospects(seen.middles, seen.counts, seen.high)
    return _cheapest(-lows, highs, below, above, seen, grid)


def _prospects(values: Floats, counts: NDArray[np.int64], last: float) -> tuple[Floats, Floats]:
    """Upper ends to try, and the summed squares expected beyond each, for as many values as were seen."""
    if not last > 0:
        return np.array([last]), np.zeros(1)
    found: Tail | None = tail(values, counts)
    weights = counts.astype(np.float64)
    if found is None:
        return last * CUTS, _lost_below(values, weights, last * CUTS)
    ends = last * np.concatenate([_WIDER, CUTS])
    return ends, np.where(ends >= found.start, found.squares(ends), _lost_below(values, weights, ends))


def _cheapest(lows: Floats, highs: Floats, below: Floats, above: Floats, seen: Counted, grid: Grid) -> Range:
    """The ends whose losses, and the rounding between them, are least together."""
    low, high = np.minimum(lows, 0)[:, None], np.maximum(highs, 0)[None, :]
    span = 2 * np.maximum(-low, high) if grid.symmetric else high - low
    costs = below[:, None] + above[None, :] + _rounded(*_signal(seen), span / grid.steps)
    row, column = np.unravel_index(int(np.argmin(costs)), costs.shape)
    return Range(float(lows[row]), float(highs[column]))


def least_divergence(seen: Counted, grid: Grid) -> Range:
    """The range whose grid keeps the distribution of the values best; all, when the grid is as fine as the bins."""
    if grid.steps >= _BINS:
        return Range(seen.low, seen.high)
    largest = max(-seen.low, seen.high)
    bins = _even(seen, *grid.widened(seen.low, seen.high))
    if not largest > _NOTHING or not bins.sum():
        return Range(seen.low, seen.high)
    low, high = grid.widened(seen.low, seen.high)
    edges = np.linspace(low, high, _BINS + 1)
    best, found = np.inf, (seen.low, seen.high)
    for share in _SHARES:
        ends = (max(seen.low, -largest * share), min(seen.high, largest * share))
        if ends[0] > ends[1]:
            continue
        cut = grid.widened(*ends)
        first = int(np.clip(np.searchsorted(edges, cut[0], side="right") - 1, 0, _BINS - 1))
        last = int(np.clip(np.searchsorted(edges, cut[1], side="left"), first + 1, _BINS))
        divergence = _divergence(bins, first, last, grid.steps + 1)
        if divergence < best:
            best, found = divergence, ends
    return Range(*found)


def _ends(seen: Counted) -> tuple[Floats, Floats]:
    """Ends to try; an end on zero's other side stays, as the grid reaches to zero anyhow."""
    lows = seen.low * CUTS if seen.low < 0 else np.array([seen.low])
    highs = seen.high * CUTS if seen.high > 0 else np.array([seen.high])
    return lows, highs


def _signal(seen: Counted) -> tuple[Floats, Floats]:
    """Values and counts without the zeros."""
    values = seen.middles
    kept = np.abs(values) > _NOTHING
    return values[kept], seen.counts[kept].astype(np.float64)


def _lost_below(values: Floats, counts: Floats, ends: Floats) -> Floats:
    """Summed squares by which values pass each end upwards; `values` ascend, an end below zero cuts nothing."""
    sums = [np.concatenate([[0.0], np.cumsum(counts * values**power)]) for power in range(3)]
    at = np.searchsorted(values, ends, side="right")
    number, first, second = (total[-1] - total[at] for total in sums)
    lost = second - 2 * ends * first + ends**2 * number
    return np.where(ends > 0, np.maximum(lost, 0.0), 0.0)


def _rounded(values: Floats, counts: Floats, steps: Floats) -> Floats:
    """Summed squares of rounding: a twelfth of the step squared, or the value's own square where that is less."""
    order = np.argsort(np.abs(values), kind="stable")
    sizes, weights = np.abs(values)[order], counts[order]
    number, squares = (np.concatenate([[0.0], np.cumsum(part)]) for part in (weights, weights * sizes**2))
    at = np.searchsorted(sizes, steps / np.sqrt(12))
    rounded: Floats = squares[at] + (number[-1] - number[at]) * steps**2 / 12
    return rounded


def _even(seen: Counted, low: float, high: float) -> Floats:
    """Counts in equal bins over a range, those of each bucket spread evenly over its width."""
    edges = np.linspace(low, high, _BINS + 1)
    lower, upper = np.maximum(seen.lower, seen.low), np.minimum(seen.upper, seen.high)
    values = np.abs(seen.middles) > _NOTHING
    if not values.any() or not high > low:
        return np.zeros(_BINS)
    # Buckets are neighbors or have gaps between them; through a gap the sum stays level.
    grown = np.concatenate([[0.0], np.cumsum(seen.counts[values].astype(np.float64))])
    xs = np.stack([lower[values], np.maximum(upper[values], lower[values])], 1).reshape(-1)
    ys = np.stack([grown[:-1], grown[1:]], 1).reshape(-1)
    bins: Floats = np.diff(np.interp(edges, xs, ys, left=0.0, right=grown[-1]))
    bins[-1] += grown[-1] - np.interp(edges[-1], xs, ys, right=grown[-1])
    return bins


def _divergence(bins: Floats, first: int, last: int, levels: int) -> float:
    """Of the values cut to bins `first` to `last`, from the same put on a grid of `levels`."""
    inside = bins[first:last]
    clipped = inside.copy()
    clipped[0] += bins[:first].sum()
    clipped[-1] += bins[last:].sum()
    level = np.minimum(np.arange(inside.size) * levels // max(inside.size, 1), levels - 1)
    filled = inside > 0
    sums = np.bincount(level, inside, levels)
    widths = np.maximum(np.bincount(level, filled, levels), 1)
    spread = np.where(filled, (sums / widths)[level], 0.0)
    total, kept = clipped.sum(), spread.sum()
    if not kept:
        return float("inf")
    wanted, had = clipped / total, np.maximum(spread / kept, 1e-12)
    here = wanted > 0
    return float(np.sum(wanted[here] * np.log(wanted[here] / had[here])))
