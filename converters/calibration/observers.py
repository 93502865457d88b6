"""Observers: what a range is decided from, value by value, in memory that does not grow with the samples.

An observer watches one tensor. Its state depends only on the multiset of values seen, never on their order or on how
they were batched, so that two halves of the data merge to the whole and the same data gives the same artifact. The one
exception is the moving average, which is about order: it merges to what the halves give one after the other.

The histogram's buckets are those of the number format itself: the upper 16 bits of a float32 (sign, exponent, 7 bits
of mantissa). They need no range in advance, are never re-binned (hence merge exactly), and are at most 1/128 of
their value wide whatever the outliers; a histogram with equal bins loses the bulk of the values as soon as
one outlier stretches it. Counting by them costs about as much as counting by equal bins.

A new observer is a class with the five methods of `Observer` under `@observer("name")`. One that also has
`candidates()` leaves the decision to whoever can measure what each range does to the answers (`range_choice`); one with
`positive()` need not watch what a Relu makes of its tensor.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgekit.converters.calibration.bends import Function, cut
from edgekit.converters.calibration.clipping import GRIDS, Counted, least_divergence, least_squares
from edgekit.converters.stages import CalibrationOptions, Range
from edgekit.errors import InternalError, UsageError

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


class Observer(Protocol):
    """Watches one tensor."""

    def update(self, values: Values, low: float, high: float) -> None:
        """Take in values: a flat, non-empty, finite float32 array, with its smallest and largest."""
        ...

    def merge(self, other: Any) -> None:
        """Take in all that another observer of the same kind has seen."""
        ...

    def range(self) -> Range:
        """The range for what was seen so far; at least one value must have been."""
        ...

    def state(self) -> State:
        """All that it remembers, as arrays without objects."""
        ...

    def restore(self, state: State) -> None:
        """Remember what an observer of the same options had seen, in place of what this one has."""
        ...


Factory = Callable[[CalibrationOptions], Observer]
C = TypeVar("C", bound=Factory)

_observers: dict[str, Factory] = {}


def observer(name: str) -> Callable[[C], C]:
    """Register a class (or function) that makes an observer from the options."""

    def register(factory: C) -> C:
        if name in _observers:
            raise InternalError("observer-duplicate", f"two observers are called {name!r}")
        _observers[name] = factory
        return factory

    return register


def names() -> list[str]:
    """All known observers."""
    return sorted(_observers)


def factory(name: str) -> Factory:
    """What makes observers called `name`.

    Raises:
        UsageError: `observer-unknown`: lists the known ones.
    """
    if name not in _observers:
        raise UsageError("observer-unknown", f"no observer is called {name!r}; known: {', '.join(names())}")
    return _observers[name]


@observer("minmax")
class MinMax:
    """The smallest and the largest value of all."""

    def __init__(self, options: CalibrationOptions) -> None:
        del options
        self._low = float("inf")
        self._high = float("-inf")

    def update(self, values: Values, low: float, high: float) -> None:
        del values
        self._low = min(self._low, low)
        self._high = max(self._high, high)

    def merge(self, other: MinMax) -> None:
        self._low = min(self._low, other._low)
        self._high = max(self._high, other._high)

    def range(self) -> Range:
        return Range(self._low, self._high)

    def positive(self) -> MinMax:
        """What an observer of the values would have seen, had those below zero been zero."""
        made = copy.copy(self)
        made.restore({"ends": np.maximum(self.state()["ends"], 0.0)})
        return made

    def state(self) -> State:
        return {"ends": np.array([self._low, self._high])}

    def restore(self, state: State) -> None:
        self._low, self._high = (float(end) for end in state["ends"])


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


class _Counting:
    """What observers that decide by a histogram and the target's grid have in common."""

    def __init__(self, options: CalibrationOptions) -> None:
        self._grid = GRIDS[options.activations]
        self._histogram = Histogram()

    def update(self, values: Values, low: float, high: float) -> None:
        self._histogram.add(values, low, high)

    def merge(self, other: _Counting) -> None:
        self._histogram.merge(other._histogram)

    def positive(self) -> _Counting:
        """What an observer of the values would have seen, had those below zero been zero."""
        made = copy.copy(self)
        made.restore(self._histogram.positive())
        return made

    def state(self) -> State:
        return self._histogram.state()

    def restore(self, state: State) -> None:
        self._histogram = Histogram.of(state)


@observer("percentile")
class Percentile(_Counting):
    """The range that holds `options.percentile` percent of the values, cut evenly at both ends."""

    def __init__(self, options: CalibrationOptions) -> None:
        super().__init__(options)
        if not 0 < options.percentile <= 100:
            raise UsageError("percentile-invalid", f"the percentile must lie in (0, 100], not at {options.percentile}")
        self._percent = options.percentile

    def range(self) -> Range:
        low, high = self._histogram.central(self._percent)
        return Range(low, high)


@observer("moving-average")
class MovingAverage:
    """The mean of each run's smallest and largest value, later runs weighing more: each fades by 1 % with the next.

    As PyTorch's `MovingAverageMinMaxObserver`, corrected for its start. Order matters: merging means "afterwards".
    """

    _KEPT = 0.99

    def __init__(self, options: CalibrationOptions) -> None:
        del options
        self._sums = [0.0, 0.0]
        self._runs = 0

    def update(self, values: Values, low: float, high: float) -> None:
        del values
        self._sums = [
            self._KEPT * had + (1 - self._KEPT) * new for had, new in zip(self._sums, (low, high), strict=True)
        ]
        self._runs += 1

    def merge(self, other: MovingAverage) -> None:
        faded = self._KEPT**other._runs
        self._sums = [faded * had + new for had, new in zip(self._sums, other._sums, strict=True)]
        self._runs += other._runs

    def range(self) -> Range:
        low, high = (total / (1 - self._KEPT**self._runs) for total in self._sums)
        return Range(low, max(low, high))

    def state(self) -> State:
        return {"sums": np.array(self._sums), "runs": np.array(self._runs)}

    def restore(self, state: State) -> None:
        self._sums = [float(total) for total in state["sums"]]
        self._runs = int(state["runs"])


@observer("mse")
class LeastSquares(_Counting):
    """The range whose grid gives the least mean squared error of this tensor."""

    def range(self) -> Range:
        return least_squares(self._histogram.counted(), self._grid)


@observer("entropy")
class Entropy(_Counting):
    """The range whose grid keeps the distribution of this tensor's values best."""

    def range(self) -> Range:
        return least_divergence(self._histogram.counted(), self._grid)


@observer("auto")
class Auto(_Counting):
    """Several ways to choose from; the first is what is taken where nothing can be measured.

    A tensor of at most 256 different values lies on a grid already, such as the numbers of a picture: it keeps all. One
    that only an activation function reads loses what that does not tell apart, see `bends`.
    """

    _GRID = 256

    def __init__(self, options: CalibrationOptions) -> None:
        super().__init__(options)
        self._function: Function | None = None

    def read_by(self, function: Function) -> None:
        """All that reads the tensor is this function."""
        self._function = function

    def range(self) -> Range:
        return next(iter(self.candidates().values()))

    def candidates(self) -> dict[str, Range]:
        """By how they came about."""
        seen = self._histogram.counted()
        whole = Range(seen.low, seen.high)
        if np.count_nonzero(seen.counts) <= self._GRID:
            return dict.fromkeys(CANDIDATES, whole)
        fine, coarse = (Range(*self._histogram.central(percent)) for percent in (99.999, 99.99))
        found = [fine, whole, coarse, least_squares(seen, self._grid)]
        if self._function is not None:
            found = [cut(one, seen, self._grid, self._function) for one in found]
        return dict(zip(CANDIDATES, found, strict=True))


CANDIDATES = ("percentile 99.999", "minmax", "percentile 99.99", "mse")
"""The ways that `auto` compares. The first lost least over all networks measured; each other wins on some by 1 to 3 dB.
"""


def _edges(count: int) -> NDArray[np.float64]:
    """Smallest magnitude in each of the first buckets; infinity stands for the upper edge of the last finite one."""
    return (np.arange(count, dtype=np.uint32) << 16).view(np.float32).astype(np.float64)
