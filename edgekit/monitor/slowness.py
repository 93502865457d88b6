"""How much a stream remembers beyond its neighbors: sensors whose own noise hides how slowly what they measure moves.

Neighbors of such a stream are hardly alike, and yet the mean of a thousand samples is worth few. What sums of many
samples do from one to the next tells it: of independent ones the mean square of that, halved, is the number of samples;
of a stream that remembers, tau times as much, as far as it forgets within a sum (batch means: A. Law, J. Carson, "A
sequential procedure for determining the length of a steady-state simulation", Operations Research 27 (1979), with the
differences of von Neumann). Two of the differences, the largest, are left out: a shift makes no more than two.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgekit.monitor import normal
from edgekit.monitor.columns import Array

_LEFT_OUT = 2
_FEWEST = 14
"""Differences from which on each stream is known by itself."""

_FIRST = 3
"""Differences from which on all of them together are."""

_SURE, _TOGETHER = 3.0, 2.0
"""Deviations of the estimate beyond 1 that are luck."""

_STILL = 2.0
"""Few and short sums still follow each other themselves: what they tell early is so many times too little."""

_SCALES = (1, 2, 4)


def by_sums(sums: Array, length: int) -> Array:
    """Tau [s] of streams, as far as sums of `length` samples each [m, s] tell; 1 where they do not."""
    found = np.ones(sums.shape[1])
    for steps, per in _steps(sums, length):
        number = len(steps)
        if number >= _FEWEST:
            kept = np.partition(steps, number - _LEFT_OUT - 1, axis=0)[: number - _LEFT_OUT].mean(axis=0)
            # After a shift what was left out is not the largest of the rest, which must not pass for memory.
            sure = kept / per > 1 + _SURE * np.sqrt(3 / number)
            found = np.where(sure, np.maximum(found, kept / per / _share(number)), found)
    return found


def together(sums: Array, length: int) -> float:
    """The same of most of the streams, which is known sooner."""
    found = 1.0
    for steps, per in _steps(sums, length):
        if len(steps) >= _FIRST:
            tau = float(np.median(steps.mean(axis=0))) / per
            if tau > 1 + _TOGETHER * np.sqrt(3 / len(steps)):
                found = max(found, _STILL * tau)
    return found


def _steps(sums: Array, length: int) -> Iterator[tuple[Array, int]]:
    """Squares of the differences between neighboring sums of 1, 2 and 4, halved, [m, s]; and samples of each."""
    for scale in _SCALES:
        whole = len(sums) // scale * scale
        parts = sums[len(sums) - whole :].reshape(-1, scale, sums.shape[1]).sum(axis=1)
        yield np.square(np.diff(parts, axis=0)) / 2, length * scale


def _share(number: int) -> float:
    """The mean of so many squares of normal numbers without the largest ones."""
    out = _LEFT_OUT / number
    z = normal.upper(out / 2)
    return float((1 - out - 2 * z * normal.density(np.array(z))) / (1 - out))
