"""How the largest values of a tensor fall off, and what that says of values that were not seen.

Values beyond a high threshold follow a generalized Pareto distribution, whatever the distribution below (Pickands 1975,
Balkema and de Haan 1974). Its scale is estimated from the mean excess; its shape, which a few dozen values do not tell,
leans on what activations are like: between the exponential (0) and a bounded tail (below 0).

The figures below were chosen by the squared error of other samples' activations, tensor by tensor, on twelve networks,
beside that of the best range in hindsight: 0.6 dB more, where min-max has 1.4, the 99.999 percentile 1.2, and the least
squared error on the samples seen 1.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_SHARE, _FEWEST, _MOST = 0.0003, 50, 0.1
"""Values in the tail: so many of all, but at least so many, and at most such a share."""
_LEAST = 5
"""Fewer values tell nothing."""
_SHAPE, _FAITH = -0.1, 150
"""Of activations, and how many values it takes to outweigh that. Shapes above 0 have no room in 8 bits."""
_BOUNDED = 0.2
"""Share of a tail that lies at its very end, from which that is a bound: what a Relu6, a softmax or a picture reach."""
_END = 0.01
"""Of the largest value: what is as near as that lies at the end. Buckets are 1/128 wide."""


@dataclass(frozen=True)
class Tail:
    """Values beyond a threshold.

    Attributes:
        start: The threshold.
        count: Values beyond it.
        scale, shape: Of the generalized Pareto distribution of what they exceed it by; shape in [-2, 0].
    """

    start: float
    count: float
    scale: float
    shape: float

    def squares(self, ends: Floats) -> Floats:
        """Expected summed squares by which as many values pass each end; ends below the threshold count as it."""
        passed = np.maximum(ends - self.start, 0.0)
        left = np.maximum(1 + self.shape * passed / self.scale, 0.0)
        share = left ** (-1 / self.shape) if self.shape < 0 else np.exp(-passed / self.scale)
        # Beyond a higher threshold the shape is the same, and the scale changes linearly.
        scale = self.scale * left
        return np.asarray(self.count * share * 2 * np.square(scale) / ((1 - self.shape) * (1 - 2 * self.shape)))


def tail(values: Floats, counts: NDArray[np.int64]) -> Tail | None:
    """The upper tail of counted values.

    Args:
        values: Ascending.
        counts: How often each was seen.

    Returns:
        None where there is none to speak of: too few values, or a bound that many of them reach.
    """
    beyond = np.cumsum(counts[::-1])[::-1]
    total = int(beyond[0]) if beyond.size else 0
    wanted = max(_SHARE * total, min(_MOST * total, _FEWEST))
    places = np.flatnonzero(beyond >= wanted)
    if not places.size:
        return None
    start = max(0.0, float(values[places[-1]]))
    here = values > start
    weights, excess = counts[here].astype(np.float64), values[here] - start
    count = float(weights.sum())
    if count < _LEAST or weights[excess >= excess[-1] - _END * values[-1]].sum() > _BOUNDED * count:
        return None
    mean = float((weights * excess).sum()) / count
    square = float((weights * np.square(excess - mean)).sum()) / count
    shape = 0.5 * (1 - mean**2 / max(square, 1e-30 * mean**2))  # by its first two moments (Hosking and Wallis 1987)
    shape = float(np.clip((count * shape + _FAITH * _SHAPE) / (count + _FAITH), -2.0, 0.0))
    return Tail(start, count, mean * (1 - shape), shape)
