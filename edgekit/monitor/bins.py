"""A distribution as bins of about equal share: what a reference keeps of a column.

No edge is a value of a sample: each is the mean of the neighbors around its quantile, or lies half way between two
values, and no bin holds fewer than `LEAST` samples, so that neither the largest nor the rarest value can be read back.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekit.monitor import normal
from edgekit.monitor.columns import Array

BINS = 32
"""At most; edges are off by half a share of 1/32 at worst, and statistics on them by one share."""

LEAST = 3
"""Samples that a bin holds at least."""

_EACH = 10
"""Samples that a bin should hold, where there are few."""


def edges(values: Array, limit: int = BINS) -> Array:
    """Inner edges [b - 1], ascending float16, of values [m]; a value on an edge belongs to the upper bin.

    Few distinct values have a bin each; values that cannot be told apart in float16 are one.
    """
    ordered = np.sort(values.astype(np.float64))
    number = int(max(4, min(limit, ordered.size // _EACH)))
    distinct, first = np.unique(ordered, return_index=True)
    if distinct.size <= number:
        found = (distinct[1:] + distinct[:-1]) / 2
    else:
        places = np.arange(1, number) * ordered.size // number
        reach = max(1, min(LEAST, ordered.size // (4 * number)))
        # Ties: the cut goes between values, not through those that are equal.
        around = np.stack([ordered[np.clip(places + by, 0, ordered.size - 1)] for by in range(-reach, reach)])
        found = around.mean(axis=0)
        repeated = np.r_[first[1:], ordered.size] - first > ordered.size // (2 * number)
        heavy = distinct[repeated]
        if heavy.size:
            found = np.concatenate([found, *_sides(heavy, distinct)])
    with np.errstate(over="ignore"):
        kept = np.unique(found.astype(np.float16))
    kept = _coarse(kept[np.isfinite(kept)].astype(np.float64), ordered, number)
    return _merged(ordered, kept, number)


def _coarse(kept: Array, ordered: Array, number: int) -> Array:
    """Edges of no more digits than a quarter of the way to the next needs: they take half the bytes. One that would
    take more than an eighth of a bin's samples to its other side stays.
    """
    gaps = np.diff(kept)
    near = np.minimum(np.append(gaps, np.inf), np.insert(gaps, 0, np.inf))
    step = np.exp2(np.floor(np.log2(np.where(np.isfinite(near), near, 1.0) / 4)))
    moved = np.rint(kept / step) * step
    crossed = np.abs(np.searchsorted(ordered, kept) - np.searchsorted(ordered, moved))
    return np.unique(np.where(8 * number * crossed <= ordered.size, moved, kept).astype(np.float16))


def _sides(heavy: Array, distinct: Array) -> tuple[Array, Array]:
    """Edges on both sides of values that many samples have."""
    at = np.searchsorted(distinct, heavy)
    below, above = at[at > 0], at[at < distinct.size - 1]
    return (distinct[below] + distinct[below - 1]) / 2, (distinct[above] + distinct[above + 1]) / 2


def _merged(ordered: Array, found: Array, number: int) -> Array:
    """Edges less those that would leave a bin of fewer than `LEAST`, or more than `number` bins."""
    kept: list[np.float16] = []
    begin = 0
    least = max(LEAST, ordered.size // (4 * number))
    for edge in found:
        at = int(np.searchsorted(ordered, float(edge), "left"))
        if at - begin >= least and ordered.size - at >= least:
            kept.append(edge)
            begin = at
    return np.array(kept, np.float16)


def index(values: Array, inner: Array) -> Array:
    """Bin of each value: [n, k] of values [n, k] and edges [k, b - 1] (at most 255), padded with infinity; NaN is in
    bin 0. Compared as what the values are: float32 takes half the time.
    """
    return np.asarray(passed(values, upright(inner, values.dtype)), np.intp)


def upright(inner: Array, dtype: Any) -> Array:
    """Edges [k, b - 1] as `passed` takes them: [b - 1, 1, k]."""
    return np.ascontiguousarray(inner.T.astype(dtype))[:, None, :]


def passed(values: Array, edges: Array) -> Array:
    """How many edges [b - 1, 1, k] each of the values [n, k] has reached: [n, k] uint8."""
    return np.asarray((values >= edges).view(np.uint8).sum(axis=0, dtype=np.uint8))


def scores(mass: Array) -> Array:
    """Normal scores of bins [b] of shares `mass`: the mean of a standard normal variable between its quantiles there,
    scaled to variance 1; 0 where there is but one bin.

    Sums of such scores lose nothing against Student's test for shifts, whatever the distribution, and no outlier can
    move them far: H. Chernoff, I. R. Savage, "Asymptotic normality and efficiency of certain nonparametric test
    statistics", Annals of Mathematical Statistics 29 (1958).
    """
    ends = np.concatenate([[0.0], np.cumsum(mass)])
    ends[-1] = 1.0
    height = normal.density(normal.quantiles(ends))
    with np.errstate(divide="ignore", invalid="ignore"):
        raw = np.where(mass > 0, (height[:-1] - height[1:]) / mass, 0.0)
    return standardized(raw, mass)


def standardized(raw: Array, mass: Array) -> Array:
    """Scores of mean 0 and variance 1 under `mass`; zeros if they do not vary."""
    centered = np.where(mass > 0, raw - (raw * mass).sum(), 0.0)
    size = float(np.sqrt((np.square(centered) * mass).sum()))
    return np.asarray(centered / size if size > 1e-9 else np.zeros_like(raw))
