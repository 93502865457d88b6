"""From how many different samples is a stream drawn? In a kilobyte.

A camera never sees the same picture twice. A recording that plays in a loop, or a test that draws from a few files
again and again, tells however long it runs no more than its different samples do, and their own luck stays: thresholds
contain it as they contain the reference's.

Counted are marks in a table (linear counting: K.-Y. Whang, B. Vander-Zanden, H. Taylor, "A linear-time probabilistic
counting algorithm for database applications", ACM Transactions on Database Systems 15 (1990)). What n draws leave of d
different ones tells the size D of the pool: d = D (1 - exp(-n / D)).
"""

from __future__ import annotations

import math

import numpy as np

from edgekit.monitor.columns import Array

_BITS = 13
_MARKS = 1 << _BITS
_FULL = 0.95
"""Share of marks from which on no more are counted."""

_SURE = 6.0
"""Deviations of the counting by which samples must be fewer than draws, or none is taken to have come again."""

_STEPS = 40


class Pool:
    """Counts the different ones among a stream's samples.

    Args:
        columns: Numbers a sample.

    Attributes:
        draws: Samples that were counted; one that is the same as the one before is not (a video that stands still).
    """

    def __init__(self, columns: int) -> None:
        self._keys = np.random.default_rng(20).integers(1, 1 << 63, columns, np.uint64) * np.uint64(2) + np.uint64(1)
        self._marks = np.zeros(_MARKS, bool)
        self._last = np.uint64(0)
        self._taken = 0
        self.draws = 0

    def add(self, rows: Array) -> None:
        """Samples [n, columns], float64."""
        if self._taken > _FULL * _MARKS:
            return  # what was found by now holds
        mixed = np.ascontiguousarray(rows).view(np.uint64) @ self._keys
        mixed ^= mixed >> np.uint64(29)
        mixed *= np.uint64(0x9E3779B97F4A7C15)
        self.draws += int(np.count_nonzero(mixed[1:] != mixed[:-1])) + int(mixed[0] != self._last)
        self._last = mixed[-1]
        self._marks[mixed >> np.uint64(64 - _BITS)] = True
        self._taken = int(np.count_nonzero(self._marks))

    @property
    def size(self) -> float:
        """Samples in the pool; infinite while none is known to have come again."""
        load = -math.log1p(-self._taken / _MARKS)
        different = _MARKS * load
        noise = math.sqrt(_MARKS * (math.exp(load) - load - 1))
        if self.draws - different <= _SURE * noise + 1:
            return math.inf
        # d / n = (1 - exp(-r)) / r falls with r = n / D: halve the range that r lies in.
        low, high = 0.0, self.draws / different
        for _ in range(_STEPS):
            r = (low + high) / 2
            low, high = (r, high) if -math.expm1(-r) / r > different / self.draws else (low, r)
        return self.draws / high

    def state(self) -> dict[str, Array]:
        """What must be kept."""
        return {"marks": np.packbits(self._marks), "draws": np.array(self.draws)}

    def restore(self, state: dict[str, Array]) -> None:
        """Go on from what `state` gave; from nothing, as versions before kept, anew.

        Raises:
            ValueError: It has another shape.
        """
        if state:
            self._marks[:] = np.unpackbits(state["marks"])
            self.draws, self._taken = int(state["draws"]), int(np.count_nonzero(self._marks))
