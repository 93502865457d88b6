"""The scan: has a number's mean moved, over any stretch of the past, since any moment?

Every `BLOCK` samples the mean score of the last n samples is held against the reference, for thirty lengths n from
32 to 131,072 (the window-limited generalized likelihood ratio test: T. L. Lai, "Information bounds and quick detection
of parameter changes", IEEE Transactions on Information Theory 44 (1998)). Scores are those of `bins.scores`, bounded
and of a known distribution, so that the threshold of each length follows from large deviations and not from a normal
approximation: a mean t of n scores has probability about exp(-n I(t)), I the Legendre transform of the logarithm of
their moment generating function (Cramer). The reference's own error adds as it does in a test of two samples.

Where a stream remembers (frames of a video), n samples tell as much as n / tau of independent ones: see `memory`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from edgekit.monitor import normal
from edgekit.monitor.columns import Array
from edgekit.monitor.memory import Memory

BLOCK = 32
"""Samples that are looked at together."""

_RING = 64
_STEP = 8
_COARSE = (12, 16, 24, 32, 48, 64)
_LENGTHS = ((1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64), _COARSE, _COARSE, _COARSE)
"""Lengths in blocks of each ring: of 32, 256, 2048 and 16,384 samples."""

_USUAL = 3
"""Rings, unless a stream takes long to go through its states."""

LONGEST = BLOCK * _STEP ** (len(_LENGTHS) - 1) * _COARSE[-1]
"""Samples that can be looked at together."""

ROUNDS = 2
"""Cycles that a stretch must have to be news, at least."""

_TELLING = 2
"""Rings whose sums tell what the streams remember."""

_POOLS = 0.01
"""Of the few samples that a stream is drawn from again and again, how often are they by chance too far off?"""


class Excess(NamedTuple):
    """How far the scan is beyond its thresholds.

    Attributes:
        ratio: [s]: of the mean score to its threshold, the largest over lengths; above 1 is news. 0 for what no length
            makes news of.
        length: [s]: samples of that length.
    """

    ratio: Array
    length: Array


class Scan:
    """Scans streams of scores; see the module header.

    Args:
        tables: [s, bins]: score of each bin, mean 0 and variance 1 under `mass`.
        mass: [s, bins]: shares in the reference.
        sizes: [s]: samples of the reference.
        floors: [s]: mean scores below which nothing is news.
        extras: Further numbers a sample, whose means over the same stretches are kept.
        rate: False alarms a sample, of all streams together.
        of: [s]: the stream whose squares each one's scores are, or itself.
        numbers: [s]: which of the further numbers each stream's scores are made of; -1 for none.
        shares: bool [s]: which are those of a class; none.
        cycle: Samples in which the stream goes through all of its states: stretches of less than `ROUNDS` cycles are no
            news. At most `LONGEST / ROUNDS`; 0: any stretch has them all.
    """

    def __init__(
        self, tables: Array, mass: Array, sizes: Array, floors: Array, *, extras: int, rate: float,
        of: Array | None = None, numbers: Array | None = None, shares: Array | None = None, cycle: int = 0,
    ) -> None:  # fmt: skip
        self.streams = len(tables)
        self._tables = tables
        usual = BLOCK * _STEP ** (_USUAL - 1) * _LENGTHS[_USUAL - 1][-1]
        self._of_rings = _LENGTHS[: _USUAL if 2 * ROUNDS * cycle <= usual else None]
        self._rings = [np.zeros((_RING + 1, self.streams + extras)) for _ in self._of_rings]
        self._total = np.zeros(self.streams + extras)
        self.blocks = 0
        self.begun = np.zeros(self.streams, np.int64)
        self._back = [np.array(lengths) for lengths in self._of_rings]
        self._lengths = [back * BLOCK * _STEP**level for level, back in enumerate(self._back)]
        whole = [lengths >= ROUNDS * cycle for lengths in self._lengths]
        looks = sum(np.count_nonzero(these) / (BLOCK * _STEP**level) for level, these in enumerate(whole))
        varying = max(1, int(np.any(tables, axis=1).sum()))
        self.deviate = normal.upper(min(0.01, rate / looks / varying / 2))
        # A pool is drawn once and not at every look. Squares are ruled by few of its samples, beyond any normal tail.
        once = normal.upper(_POOLS / varying / 2)
        squares = np.zeros(self.streams, bool) if of is None else of != np.arange(self.streams)
        self._pooled = np.where(squares, self.deviate, min(once, self.deviate))
        # What a sum of scores is multiplied by to be the ratio to its threshold, above and (negative) below.
        self._limits = [
            _inverses(tables, mass, sizes, floors, lengths, self.deviate, cycle) * these[:, None]
            for lengths, these in zip(self._lengths, whole, strict=True)
        ]
        self._skew = skewness(tables, mass)
        self._memory = Memory(tables, mass, of=of, numbers=numbers, shares=shares)

    def add(self, scores: Array, extras: Array) -> None:
        """One block: scores [BLOCK, s] and further numbers [BLOCK, extras]."""
        self._total[: self.streams] += scores.sum(axis=0)
        self._total[self.streams :] += extras.sum(axis=0)
        self._memory.add(scores, extras)
        self.blocks += 1
        for level, ring in enumerate(self._rings):
            every = _STEP**level
            if self.blocks % every == 0:
                ring[self.blocks // every % (_RING + 1)] = self._total

    def look(self, pool: Callable[[], float] = lambda: np.inf) -> Excess | None:
        """Over all lengths that lie after the beginning; None where nothing is news.

        Args:
            pool: Tells how many different samples the stream is drawn from: however long it is, it tells no more than
                these.
        """
        ratio, length = np.zeros(self.streams), np.zeros(self.streams, np.int64)
        root = None
        for level, lengths in enumerate(self._of_rings):
            every = _STEP**level
            if self.blocks % every:
                break
            number = bisect_right(lengths, self.blocks // every)
            if not number:
                continue
            ratios = self._ratios(level, number)
            if ratios.max(initial=0) > 1 and np.isfinite(different := pool()):
                ratios = self._ratios(level, number, luck(self._skew, different, self._pooled))
            if ratios.max(initial=0) <= 1:
                continue
            if self.begun.any():
                spans = self._lengths[level][:number]
                ratios[spans[:, None] > BLOCK * (self.blocks - self.begun)] = 0
            root = np.sqrt(self.memory()) if root is None else root
            best = ratios.argmax(axis=0)
            there = ratios[best, np.arange(self.streams)] / root
            better = (there > ratio) & (there > 1)
            ratio[better] = there[better]
            length[better] = self._lengths[level][best[better]]
        return Excess(ratio, length) if length.any() else None

    def mean(self, length: int) -> Array:
        """Means [s + extras] over the last `length` samples, one of the scanned lengths."""
        for level, lengths in enumerate(self._of_rings):
            every = BLOCK * _STEP**level
            if length % every == 0 and length // every in lengths:
                ring, now = self._rings[level], self.blocks // _STEP**level
                then = ring[(now - length // every) % (_RING + 1)]
                return np.asarray((ring[now % (_RING + 1)] - then) / length)
        raise ValueError(f"{length} is none of the lengths")

    def memory(self) -> Array:
        """[s]: what a sample of an independent stream is worth in samples of each, 1 at least."""
        return self._memory.tau(lambda: [(self._sums(level), BLOCK * _STEP**level) for level in range(_TELLING)])

    def _sums(self, level: int) -> Array:
        """[m, s]: of the scores, over the latest stretches of a ring."""
        ring, now = self._rings[level], self.blocks // _STEP**level
        places = np.arange(max(0, now - _RING), now + 1) % (_RING + 1)
        return np.diff(ring[places, : self.streams], axis=0)

    def begin(self, which: Array) -> None:
        """Forget what was of streams [n]: none of their lengths reaches back before now."""
        self.begun[which] = self.blocks

    def recent(self, length: int) -> Array:
        """[s]: ratio over about the last `length` samples, or the next length that is looked at; infinite before there
        are as many.
        """
        for level, lengths in enumerate(self._lengths):
            place = int(np.searchsorted(lengths, length))
            if place < lengths.size:
                many = lengths[place] <= self.blocks * BLOCK
                return np.asarray(self._ratios(level, place + 1)[place]) if many else np.full(self.streams, np.inf)
        raise ValueError(f"{length} samples are not looked at together")

    def _ratios(self, level: int, number: int, more: Array | None = None) -> Array:
        """[number, s]: see `Excess`. `more` [2, s] adds to the thresholds above and below, as errors add."""
        ring, now = self._rings[level], self.blocks // _STEP**level
        places = (now - self._back[level][:number]) % (_RING + 1)
        sums = (ring[now % (_RING + 1)] - ring.take(places, axis=0))[:, : self.streams]
        above, below = (limits[:number] for limits in self._limits[level])
        if more is not None:
            far = self._lengths[level][:number, None] * more[:, None]
            above, below = (
                above / np.sqrt(1 + np.square(far[0] * above)),
                below / np.sqrt(1 + np.square(far[1] * below)),
            )
        return np.asarray(np.maximum(sums * above, sums * below))

    def state(self) -> dict[str, Array]:
        """What must be kept: sums of each ring's blocks in half precision, a thousandth of their noise."""
        found: dict[str, Array] = {}
        for level, ring in enumerate(self._rings):
            now = self.blocks // _STEP**level
            ordered = ring[np.arange(now - _RING, now + 1) % (_RING + 1)]
            behind = self._total - ordered[-1]
            found[f"ring{level}"] = np.concatenate([np.diff(ordered, axis=0), behind[None]]).astype(np.float16)
        memory = self._memory.state()
        counts = np.array([self.blocks, memory.pop("stepped")])
        return {**found, **memory, "counts": counts, "begun": self.begun}

    def restore(self, state: dict[str, Array]) -> None:
        """Go on from what `state` gave.

        Raises:
            KeyError: Something is missing. ValueError: It has another shape.
        """
        self.blocks, self.begun[:] = int(state["counts"][0]), state["begun"]
        self._memory.restore({**state, "stepped": state["counts"][1]})
        self._total[:] = 0
        for level, ring in enumerate(self._rings):
            now = self.blocks // _STEP**level
            parts = np.nan_to_num(state[f"ring{level}"].astype(np.float64))  # of a version before
            # The total is 0 now; what came before is told backwards from it.
            after = np.cumsum(parts[::-1], axis=0)[::-1]
            ring[np.arange(now - _RING, now + 1) % (_RING + 1)] = -after


def _inverses(
    tables: Array, mass: Array, sizes: Array, floors: Array, lengths: Array, deviate: float, cycle: int
) -> Array:
    """[2, lengths, s]."""
    # A stretch may have half a cycle more of one state than of the others, whose scores are a deviation apart.
    more = cycle / 2 / lengths[:, None]
    above, below = (side + more for side in thresholds(tables, mass, sizes, floors, lengths, deviate))
    return np.stack([1 / (above * lengths[:, None]), -1 / (below * lengths[:, None])])


def thresholds(
    tables: Array, mass: Array, sizes: Array, floors: Array, lengths: Array, deviate: float
) -> tuple[Array, Array]:
    """Mean scores [lengths, s] that are news above, and below (both positive).

    Args:
        tables: As `Scan`'s, like the three that follow.
        mass: [s, bins].
        sizes: [s].
        floors: [s].
        lengths: [l].
        deviate: A standard normal deviate of the wanted probability: a mean is as rare as that where
            n I(t) = deviate^2 / 2.
    """
    wanted = deviate * deviate / (2 * lengths)
    above, below = (_crossings(sign * tables, mass, wanted) for sign in (1.0, -1.0))
    errors = luck(skewness(tables, mass), sizes, deviate)
    high, low = (np.maximum(np.sqrt(np.square(side) + np.square(error)), floors)
                 for side, error in zip((above, below), errors, strict=True))  # fmt: skip
    return high, low


def skewness(tables: Array, mass: Array) -> Array:
    """[s]: of scores under `mass` [s, bins]."""
    return np.asarray((np.power(tables, 3) * mass).sum(axis=1))


def luck(skew: Array, samples: Array | float, deviate: Array | float) -> Array:
    """[2, s]: by how much the mean of so many samples is off, above and below, for a standard normal deviate of the
    wanted probability: larger where a rare bin weighs much, as the upper confidence limit of a Poisson number is.
    """
    lean = np.maximum(np.stack([skew, -skew]), 0)
    return np.asarray(deviate / np.sqrt(samples) + lean * deviate * deviate / (2 * samples))


def _crossings(tables: Array, mass: Array, wanted: Array) -> Array:
    """[l, s]: the t with I(t) = wanted; where no mean is as rare, more than any."""
    slopes = np.geomspace(1e-3, 60, 160)
    found = np.full((len(wanted), len(tables)), np.inf)
    for place, (scores, shares) in enumerate(zip(tables, mass, strict=True)):
        kept = shares > 0
        if not np.any(scores[kept]):
            continue
        raised = slopes[:, None] * scores[kept]
        top = raised.max(axis=1)
        weights = shares[kept] * np.exp(raised - top[:, None])
        total = weights.sum(axis=1)
        mean = weights @ scores[kept] / total
        rate = slopes * mean - (np.log(total) + top)
        reached = np.interp(wanted, rate, mean)
        found[:, place] = np.where(wanted > rate[-1], np.inf, reached)
    return found
