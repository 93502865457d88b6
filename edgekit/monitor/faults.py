"""Faults of the data: what stands still, is missing, empty, or beyond anything seen.

Each is an event that the reference calls rare. Runs of equal numbers are judged by how often the most frequent one
comes, other events by cumulative sums of their log likelihood ratio against a tenfold rate and threefold odds, whose
mean time to a false alarm is at least exp(threshold): G. Lorden, "Procedures for reacting to a change in distribution",
Annals of Mathematical Statistics 42 (1971).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from edgekit.monitor.columns import Array

_TIES = 0.1
"""Chance of a tie that is granted to every number: sensors are read faster than they measure now and then."""

_TENFOLD = 10.0
_FAR = 1 << 20
_OFTEN = 0.2
"""An event that happens in a fifth of the samples is found as fast as can be."""


_ALWAYS = 0.9
"""What happens more often than this cannot be told from what always does."""

_SLOWLY = 3.0
"""Odds that are found as well, if later."""

_CALM = 0.6
_SURE = 2.33
"""Deviations of a normal number that are passed once in a hundred times; what is less than 1.8 times as often as that
is no news by `_SLOWLY`, so that one reference in some thousands has a number that is.
"""


def at_most(seen: Array | float, samples: int) -> Array:
    """Share of what was seen so often in so many samples, as large as it may well be.

    That of a Poisson number (chi-square after E. B. Wilson, M. M. Hilferty, Proceedings of the National Academy of
    Sciences 17 (1931)), its width reduced to a binomial's.
    """
    most = np.asarray(seen, np.float64) + 1
    wide = most * (1 - 1 / (9 * most) + _SURE / (3 * np.sqrt(most))) ** 3
    share = np.minimum(1.0, np.asarray(seen) / samples)
    return np.asarray(np.minimum(1.0, share + (wide / samples - share) * np.sqrt(1 - share)))


class Fault(NamedTuple):
    """One fault.

    Attributes:
        place: Column or event.
        samples: How long a run is, or how often it happened since it began.
        since: First sample of it.
    """

    place: int
    samples: int
    since: int


class Often(NamedTuple):
    """Where the numbers are that come most often, of each column [k].

    Attributes:
        low, high: The bin with the most samples: from `low` on, below `high`.
        other: Share of the fullest of the other bins, as large as it may well be: no number there comes more often.
    """

    low: Array
    high: Array
    other: Array


class Runs:
    """Numbers that stand still. One that stands where it seldom is, is found sooner than one where it usually is: a
    pixel of the background may stay dark for long, but not half bright.

    Args:
        usual: [k]: share of the most frequent number in the reference; 1 for one that never changes.
        rate: False alarms a sample, of all columns together.
        often: Where it usually is; None: nobody knows.
        cycle: Samples in which the stream goes through all of its states: of a number that is often the same there may
            be one in which it always is.
    """

    def __init__(self, usual: Array, rate: float, often: Often | None = None, cycle: int = 0) -> None:
        size = usual.size
        self._longest = np.where(usual > _TIES, cycle, 0)
        self._ties = np.maximum(usual.astype(np.float64), _TIES)
        self._wanted = math.log(rate / max(1, size))
        self._low, self._high, other = often or Often(np.full(size, -np.inf), np.full(size, np.inf), np.ones(size))
        self._ties_off = np.minimum(self._ties, np.maximum(other, _TIES))
        self._before: Array | None = None
        self._run = np.zeros(size)
        self._equal, self._equal_off, self._off = np.zeros(size), np.zeros(size), np.zeros(size)
        self._seen = 0
        self._quick = True  # no run is open
        self._settled(self._ties, self._ties_off)

    def add(self, rows: Array) -> bool:
        """Samples [n, k], no more than `slack` told; whether anything stands still now, at the last of them."""
        equal, self._before = self._equals(rows), rows[-1].copy()
        self._seen += len(rows)
        if not np.count_nonzero(equal):
            if len(equal):
                self._run[:] = 0
                self._quick = True
            return False
        self._quick = False
        off = (rows < self._low) | (rows >= self._high)
        self._equal += equal.sum(axis=0)
        self._off += off.sum(axis=0)
        self._equal_off += (equal & off[-len(equal) :]).sum(axis=0)
        broken = equal[::-1].argmin(axis=0)  # how many of the last ones are equal, unless all are
        self._run = np.where(equal.all(axis=0), self._run + len(equal), broken)
        return bool(self._still().any())

    def moved(self, rows: Array) -> bool:
        """Whether no number of samples [n, k] is that of the sample before: of such any number may be added."""
        return not np.count_nonzero(self._equals(rows))

    def _equals(self, rows: Array) -> Array:
        """[n, k]: which numbers are those of the sample before; [n - 1, k] where nobody knows of the first."""
        if self._before is None:
            return np.asarray(rows[1:] == rows[:-1])
        return np.asarray(rows == np.concatenate([self._before[None], rows[:-1]]))

    @property
    def slack(self) -> int:
        """Samples that may come before anything new can stand still, one at least."""
        if self._quick:
            return max(1, self._least)
        left = np.where(self._run < self._limit_off, self._limit_off, self._limit) - self._run
        return max(1, int(min(_FAR, left[left > 0].min(initial=_FAR))))

    def settle(self) -> None:
        """What this stream repeats by nature is no fault: limits follow its own ties, those of the present runs aside.
        To be called now and then.
        """
        own = (self._equal - self._run + 1) / (self._seen - self._run + 20)
        here = self._run * self._outside()
        off = (self._equal_off - here + 1) / (self._off - here + 20)
        self._settled(
            np.maximum(self._ties, np.minimum(1.0, 1.5 * own)), np.maximum(self._ties_off, np.minimum(1.0, 1.5 * off))
        )

    def faults(self, sample: int) -> list[Fault]:
        """Those of now; `sample` is the last one's number."""
        return [
            Fault(int(place), int(self._run[place]) + 1, sample - int(self._run[place]))
            for place in np.flatnonzero(self._still())
        ]

    def _still(self) -> Array:
        """[k]: which stand still."""
        still = self._run >= self._limit_off
        if still.any():
            still &= (self._run >= self._limit) | self._outside()
        return np.asarray(still)

    def _outside(self) -> Array:
        """[k]: which are where they seldom are."""
        if self._before is None:
            return np.zeros(self._run.size, bool)
        return np.asarray((self._before < self._low) | (self._before >= self._high))

    def _settled(self, ties: Array, off: Array) -> None:
        self._limit = self._limits(ties)
        self._limit_off = np.minimum(self._limit, self._limits(off))
        self._least = int(min(_FAR, self._limit_off.min(initial=_FAR)))

    def _limits(self, ties: Array) -> Array:
        with np.errstate(divide="ignore"):
            found = np.where(ties < 1, np.ceil(self._wanted / np.log(np.minimum(ties, 1 - 1e-12))), np.inf)
        return np.maximum(found, self._longest)

    def state(self) -> dict[str, Array]:
        return {
            "run": self._run, "equal": self._equal, "equal_off": self._equal_off, "off": self._off,
            "seen": np.array(self._seen),
        }  # fmt: skip

    def restore(self, state: dict[str, Array]) -> None:
        """The last number is not kept: a run that goes on is first looked at as one where it usually is."""
        self._run, self._equal = state["run"].copy(), state["equal"].copy()
        self._equal_off, self._off = state["equal_off"].copy(), state["off"].copy()
        self._seen = int(state["seen"])
        self._quick = False
        self.settle()


class Events:
    """Rare events, many kinds of them, each beside two rates: one that is found as fast as can be, and a threefold one,
    to which the first is blind.

    Args:
        chance: [e]: of each, in a sample of the reference. One that nearly always happens is no event.
        rate: False alarms a sample, of all of them together.
    """

    def __init__(self, chance: Array, rate: float) -> None:
        self._size = chance.size
        usual = np.minimum(np.maximum(chance.astype(np.float64), 1e-9), _ALWAYS)
        quick = np.maximum(np.minimum(usual * _TENFOLD, (1 + usual) / 2), _OFTEN)
        quick = np.where(quick <= usual, (1 + usual) / 2, quick)
        often = np.concatenate([quick, _SLOWLY * usual / (1 + (_SLOWLY - 1) * usual)])  # of odds
        usual = np.tile(usual, 2)
        self._hit = np.where(usual < _ALWAYS, np.log(often / usual), 0.0)
        self._miss = np.log((1 - often) / (1 - usual))
        self._limit = math.log(max(1, often.size) / rate)
        # No higher than this, or what is over would stand for long.
        self._cap = self._limit * np.repeat([1.5, 1.1], self._size)
        self._sum = np.zeros(often.size)
        self._at = np.zeros(often.size, np.int64)
        self._since = np.zeros(often.size, np.int64)
        self._count = np.zeros(often.size, np.int64)
        self._most = 0.0  # of the sums: between events they only fall

    def hit(self, which: Array, sample: int) -> bool:
        """Events `which` (bool [e]) happened at this sample; whether one of them happens too often from now on."""
        places = np.flatnonzero(np.tile(which, 2))
        waited = sample - self._at[places] - 1
        left = np.maximum(0.0, self._sum[places] + self._miss[places] * np.maximum(waited, 0))
        fresh = left <= 0
        self._since[places[fresh]] = sample
        self._count[places[fresh]] = 0
        self._sum[places] = np.minimum(left + self._hit[places], self._cap[places])
        self._count[places] += 1
        self._at[places] = sample
        self._most = float(self._sum.max(initial=0))
        return bool(((left <= self._limit) & (self._sum[places] > self._limit)).any())

    def faults(self, sample: int) -> list[Fault]:
        """Those that happen too often by now."""
        if self._most <= self._limit:
            return []
        over = (self._now(sample) > self._limit).reshape(2, -1)
        found = np.flatnonzero(over.any(axis=0))
        return [
            Fault(int(place), int(self._count[told]), int(self._since[told]))
            for place, told in zip(found, np.where(over[0, found], found, found + self._size), strict=True)
        ]

    def calm(self, sample: int, recent: int) -> Array:
        """[e]: which are well below, or did not happen in the last `recent` samples."""
        return np.asarray(
            (self._now(sample) < _CALM * self._limit).reshape(2, -1).all(axis=0)
            | (sample - self._at[: self._size] >= recent)
        )

    def forget(self, which: Array) -> None:
        """What was of events `which` (bool [e]) is over."""
        self._sum[np.tile(which, 2)] = 0.0
        self._most = float(self._sum.max(initial=0))

    def _now(self, sample: int) -> Array:
        return np.asarray(self._sum + self._miss * np.maximum(0, sample - self._at))

    def state(self) -> dict[str, Array]:
        return {"sum": self._sum, "at": self._at, "since": self._since, "count": self._count}

    def restore(self, state: dict[str, Array]) -> None:
        """Raises:
        ValueError: It has another shape.
        """
        if state["sum"].shape != self._sum.shape:
            raise ValueError(f"{state['sum'].size} counts of events; there are {self._sum.size}")
        self._sum, self._at, self._since, self._count = (state[name].copy() for name in self.state())
        self._most = float(self._sum.max(initial=0))
