"""Correlations as partial correlations, which any rounding leaves a set of correlations.

The correlation of numbers i and j given those before j is free between -1 and 1 whatever the others are (H. Joe,
"Generating random correlation matrices based on partial correlations", Journal of Multivariate Analysis 97 (2006)); it
is as exact as 1 / sqrt(samples) on the scale of its area tangent (R. A. Fisher 1915), which says how finely it is worth
keeping. Rounded correlations themselves would have negative eigenvalues where sensors say nearly the same.
"""

from __future__ import annotations

import math

import numpy as np

from edgekit.monitor.columns import Array

_PART = 0.25
"""Of the standard error, a step: rounding is then half a percent of the sampling variance."""

_MOST = 0.99999
"""Beyond which numbers say the same."""

_OWN = 1e-3
"""A number with less deviation of its own has no relations that are not the others'."""


def partials(correlation: Array, samples: int) -> Array:
    """Steps [k (k - 1) / 2] int16 of the lower triangle, column by column, of correlations [k, k]."""
    size = len(correlation)
    lower = np.zeros((size, size))
    rest = np.ones(size)
    found = []
    for column in range(size):
        own = max(rest[column], 0.0) ** 0.5
        lower[column, column] = own
        below = slice(column + 1, size)
        if own < _OWN:
            part = np.zeros(size - column - 1)
        else:
            left = (correlation[below, column] - lower[below, :column] @ lower[column, :column]) / own
            part = left / np.sqrt(np.maximum(rest[below], _OWN * _OWN))
        part = np.clip(part, -_MOST, _MOST)
        lower[below, column] = part * np.sqrt(rest[below])
        rest[below] *= 1 - part * part
        found.append(np.rint(np.arctanh(part) / _step(samples)))
    return np.concatenate(found).astype(np.int16) if found else np.zeros(0, np.int16)


def correlations(steps: Array, size: int, samples: int) -> Array:
    """Correlations [k, k] of what `partials` gave."""
    lower = np.zeros((size, size))
    rest = np.ones(size)
    at = 0
    for column in range(size):
        lower[column, column] = rest[column] ** 0.5
        count = size - column - 1
        part = np.tanh(steps[at : at + count].astype(np.float64) * _step(samples))
        at += count
        lower[column + 1 :, column] = part * np.sqrt(rest[column + 1 :])
        rest[column + 1 :] *= 1 - part * part
    return np.asarray(lower @ lower.T)


def _step(samples: int) -> float:
    return max(_PART / math.sqrt(max(samples, 1)), 2e-4)
