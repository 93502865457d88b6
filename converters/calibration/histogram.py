"""Counts of a tensor's values, in memory that does not grow with them.

The buckets are those of the number format itself: the upper 16 bits of a float32 (sign, exponent, 7 bits of mantissa).
They need no range in advance, are never re-binned (hence merge exactly), and are at most 1/128 of their value wide
whatever the outliers; a histogram with equal bins loses the bulk of the values as soon as one outlier stretches it.
Counting by them costs about as much as counting by equal bins.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.converters.calibration.clipping import Counted

Values = NDArray[np.float32]
State = dict[str, NDArray[Any]]

_CHUNK = 1 << 18
"""Values counted at once: bincount widens them to 8 bytes, so that this bounds its scratch memory to 2 MB."""

_BATCH = 1 << 15
"""Values of small tensors are kept until there are this many: bincount clears half a megabyte each time."""

_UINT32_MAX = 2**32 - 1
_UPPER = 1 if sys.byteorder == "little" else 0
_NEGATIVE = 1 << 15
"""Buckets from here on hold negative values, in order of their magnitude."""


class Histogram:
    """Counts of values by the upper 16 bits of their float32 form.

    Attributes:
        low, high: Smallest and largest value, exactly.
    """

    def __init__(self) -> None:
        self.low = float("inf")
        self.high = float("-inf")
        # Buckets of magnitude from zero up to the largest seen, one array a sign.
        self._counts = [np.zeros(0, np.uint32), np.zeros(0, np.uint32)]
        self._total = 0
        self._waiting: list[NDArray[np.uint16]] = []
        self._waiting_size = 0

    def add(self, values: Values, low: float, high: float) -> None:
        """Count a flat array of finite values, whose smallest and largest the caller knows."""
        self.low = min(self.low, low)
        self.high = max(self.high, high)
        upper = np.ascontiguousarray(values).view(np.uint16)[_UPPER::2]
        if upper.size < _BATCH:
            self._waiting.append(upper.copy())
            self._waiting_size += upper.size
            if self._waiting_size >= _BATCH:
                self._settle()
            return
        for start in range(0, upper.size, _CHUNK):
            self._count(upper[start : start + _CHUNK])

    def merge(self, other: Histogram) -> None:
        """Add the counts of another one."""
        self.low = min(self.low, other.low)
        self.high = max(self.high, other.high)
        other._settle()
        self._include(other._total, other._counts)

    def state(self) -> State:
        """What was counted; of the buckets only those that were touched."""
        self._settle()
        found: State = {"ends": np.array([self.low, self.high])}
        for sign, counts in enumerate(self._counts):
            touched = np.flatnonzero(counts).astype(np.uint16)
            found |= {f"at{sign}": touched, f"counts{sign}": counts[touched]}
        return found

    def positive(self) -> State:
        """The state after the same values, had those below zero been zero."""
        state = self.state()
        at, counts = state["at0"], state["counts0"].astype(np.int64)
        zeros = int(state["counts1"].sum())
        if zeros and not (at.size and at[0] == 0):
            at, counts = np.concatenate([[0], at]).astype(np.uint16), np.concatenate([[0], counts])
        if zeros:
            counts[0] += zeros
        none = state["at1"][:0]
        return {"ends": np.maximum(state["ends"], 0.0), "at0": at, "counts0": counts, "at1": none, "counts1": none}

    @classmethod
    def of(cls, state: State) -> Histogram:
        """The inverse of `state`."""
        made = cls()
        made.low, made.high = (float(end) for end in state["ends"])
        added = []
        for sign in ("0", "1"):
            at, counts = state[f"at{sign}"], state[f"counts{sign}"]
            whole = np.zeros(int(at[-1]) + 1 if at.size else 0, np.int64)
            whole[at] = counts
            added.append(whole)
        made._include(int(sum(counts.sum() for counts in added)), added)
        return made

    def counted(self) -> Counted:
        """What was seen, for those who decide on ranges."""
        return Counted(self.low, self.high, *self.buckets())

    def total(self) -> int:
        """How many values were counted."""
        self._settle()
        return self._total

    def buckets(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        """Lower edge, upper edge and count of every touched bucket, in ascending order of value."""
        self._settle()
        positive, negative = (_edges(counts.size + 1) for counts in self._counts)
        lower = np.concatenate([-negative[:0:-1], positive[:-1]])
        upper = np.concatenate([-negative[-2::-1], positive[1:]])
        counts = np.concatenate([self._counts[1][::-1], self._counts[0]]).astype(np.int64)
        touched = counts > 0
        return lower[touched], upper[touched], counts[touched]

    def central(self, percent: float) -> tuple[float, float]:
        """The range that is left when half of the other values are cut off at either end.

        Its ends are the outer edges of the buckets in which those order statistics lie: at least `percent` percent
        of the values are inside, and each end is within 1/128 of the exact one.

        Args:
            percent: In (0, 100].
        """
        lower, upper, counts = self.buckets()
        seen = np.cumsum(counts)
        cut = int((100 - percent) / 200 * seen[-1])
        low = lower[np.searchsorted(seen, cut, side="right")]
        high = upper[counts.size - 1 - np.searchsorted(np.cumsum(counts[::-1]), cut, side="right")]
        return max(float(low), self.low), min(float(high), self.high)

    def _settle(self) -> None:
        if self._waiting:
            self._count(np.concatenate(self._waiting))
            self._waiting, self._waiting_size = [], 0

    def _count(self, upper: NDArray[np.uint16]) -> None:
        counts = np.bincount(upper)
        last = int(np.float32(self.high if self.high > 0 else 0.0).view(np.uint32)) >> 16
        self._include(upper.size, [counts[: min(last + 1, _NEGATIVE)], counts[_NEGATIVE:]])

    def _include(self, total: int, counts: Sequence[NDArray[Any]]) -> None:
        self._total += total
        for sign, added in enumerate(counts):
            mine = self._counts[sign]
            if self._total > _UINT32_MAX and mine.dtype == np.uint32:
                mine = mine.astype(np.int64)
            if added.size > mine.size:
                mine = np.concatenate([mine, np.zeros(added.size - mine.size, mine.dtype)])
            np.add(mine[: added.size], added, out=mine[: added.size], casting="unsafe")
            self._counts[sign] = mine


def _edges(count: int) -> NDArray[np.float64]:
    """Smallest magnitude in each of the first buckets; infinity stands for the upper edge of the last finite one."""
    return (np.arange(count, dtype=np.uint32) << 16).view(np.float32).astype(np.float64)
