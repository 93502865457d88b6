"""Observers: what a range is decided from, value by value, in memory that does not grow with the samples.

An observer watches one tensor. Its state depends only on the multiset of values seen, never on their order or on how
they were batched, so that two halves of the data merge to the whole and the same data gives the same artifact. The one
exception is the moving average, which is about order: it merges to what the halves give one after the other.

A new observer is a class with the five methods of `Observer` under `@observer("name")`. One that also has
`candidates()` leaves the decision to whoever can measure what each range does to the answers (`range_choice`); one with
`positive()` need not watch what a Relu makes of its tensor.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy as np

from edgekit.converters.calibration.bends import Function, cut, told_apart
from edgekit.converters.calibration.clipping import GRIDS, least_divergence, least_expected, least_squares
from edgekit.converters.calibration.histogram import Histogram, State, Values
from edgekit.converters.stages import CalibrationOptions, Range
from edgekit.errors import InternalError, UsageError


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


@observer("room")
class Room(_Counting):
    """The range of least squared error expected on samples that were not seen, and at least the 99.999 percentile.

    What is clipped at the top of a layer counts for more in the answers than what is rounded, so that the error of the
    tensor alone cuts too much; where it asks for more than was seen, it knows best.
    """

    def range(self) -> Range:
        fine = Range(*self._histogram.central(_FINE))
        return _hull(fine, least_expected(self._histogram.counted(), self._grid))


@observer("entropy")
class Entropy(_Counting):
    """The range whose grid keeps the distribution of this tensor's values best."""

    def range(self) -> Range:
        return least_divergence(self._histogram.counted(), self._grid)


class Answers(_Counting):
    """Of a model's outputs, for `auto` and `room`: nothing that was seen is cut, and more has room.

    `auto` cuts what alone a function reads whose answers are the outputs, as far as these do not tell it apart.
    """

    def __init__(self, options: CalibrationOptions) -> None:
        super().__init__(options)
        self._function: Function | None = None

    def read_by(self, function: Function) -> None:
        """All that reads the tensor is this function, a rising one."""
        self._function = function

    def range(self) -> Range:
        seen = self._histogram.counted()
        whole = Range(seen.low, seen.high)
        found = _hull(whole, least_expected(seen, self._grid))
        if self._function is None:
            return found
        return cut(found, seen, self._grid, self._function, least=told_apart(self._function, whole, self._grid.steps))


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
        fine, coarse = (Range(*self._histogram.central(percent)) for percent in (_FINE, 99.99))
        likely = least_expected(seen, self._grid)
        found = [_hull(fine, likely), whole, coarse, likely]
        if self._function is not None:
            found = [cut(one, seen, self._grid, self._function) for one in found]
        return dict(zip(CANDIDATES, found, strict=True))


CANDIDATES = ("room", "minmax", "percentile 99.99", "expected")
"""The ways that `auto` compares. The first lost least over all networks measured, on samples that it had not seen."""
_FINE = 99.999
ROOMY = ("auto", "room")
"""Observers that leave room for what was not seen, in a model's outputs as well."""


def _hull(one: Range, other: Range) -> Range:
    return Range(min(one.min, other.min), max(one.max, other.max))
