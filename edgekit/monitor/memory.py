"""What streams remember: frames of a video, sensors that are read faster than they change.

n samples of such a stream tell as much as n / tau of independent ones. Neighbors tell it where a stream is like what it
was by r from sample to sample: tau = (1 + r) / (1 - r), with r after J. von Neumann, "Distribution of the ratio of the
mean square successive difference to the variance", Annals of Mathematical Statistics 12 (1941): successive differences
do not see a shift. Where noise hides how slowly a stream moves, sums of many samples tell more (`slowness`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from edgekit.monitor import slowness
from edgekit.monitor.columns import Array
from edgekit.monitor.reference import CLIP

_MEMORY = 4096
_EARLY = 1024
"""Samples before which a stream is taken to remember at least as much as all of them do on the average."""

_FEW = 4
"""Different scores up to which the outermost ones are no sign of saturation."""

_FEWEST = 6
"""Streams that must be at their ends at once, at least: fewer are there by memory alone."""

_FARTHEST = 3.0
"""Deviations that a step within an outermost bin counts at most: one outlier must not make all of them forget."""

_NORMAL = 3**0.5
"""Of a normal variable: deviation of its squared successive differences, halved."""

_EVERY = 4
"""Blocks after which sums are looked at again."""

_SLOWEST = 64.0
"""Tau at most: a stream that remembers more is to be watched at fewer of its samples."""


class Memory:
    """Of streams of scores, see `scan`.

    Args:
        tables: [s, bins]: score of each bin, mean 0 and variance 1 under `mass`.
        mass: [s, bins]: shares in the reference.
        of: [s]: the stream whose squares each one's scores are, or itself.
        numbers: [s]: which of the further numbers each stream's scores are made of; -1 for none.
        shares: bool [s]: which streams are shares of classes; none.
    """

    def __init__(
        self, tables: Array, mass: Array, *, of: Array | None = None, numbers: Array | None = None,
        shares: Array | None = None,
    ) -> None:  # fmt: skip
        self._streams = size = len(tables)
        self._of = np.arange(size) if of is None else of
        self._shares = np.zeros(size, bool) if shares is None else shares
        self._varying = np.any(tables, axis=1)
        self._ends = _ends(tables)
        self._everywhere = max(_FEWEST, np.isfinite(self._ends[0]).sum() / 2)
        # In an outermost bin all scores are the same: what a number does there, it tells itself.
        self._numbers = np.where(np.isfinite(self._ends[0]), -1 if numbers is None else numbers, -1)
        kurtosis = (np.power(tables, 4) * mass).sum(axis=1)
        self._noise = np.sqrt(0.75 * (kurtosis + 1))
        self._steps, self._told = np.zeros(size), np.zeros(size)
        self._stepped = 0.0
        self._slowly, self._age = np.ones(size), _EVERY
        self._last: Array | None = None
        self._beyond: Array | None = None

    def add(self, scores: Array, extras: Array) -> None:
        """One block: scores [n, s] and further numbers [n, extras]."""
        if self._last is not None:
            scores = np.concatenate([self._last[None], scores])
            extras = np.concatenate([extras[:1] if self._beyond is None else self._beyond[None], extras])
        self._last, self._beyond = scores[-1].copy(), extras[-1].copy()
        steps, now = scores[1:] - scores[:-1], scores[1:]
        number = len(steps)
        sums = np.einsum("nk,nk->k", steps, steps)
        told = np.full(self._streams, number)
        rows, streams = np.nonzero(((now == self._ends[0]) | (now == self._ends[1])) & (steps == 0))
        if rows.size:
            squares, nothing = self._beyond_ends(rows, streams, extras)
            sums += np.bincount(streams, squares, minlength=self._streams)
            if np.count_nonzero(nothing):
                told -= np.bincount(streams[nothing], minlength=self._streams)
        fade = 1 - number / _MEMORY if self._stepped >= _MEMORY else 1.0
        self._steps = self._steps * fade + sums / 2
        self._stepped = self._stepped * fade + number
        self._age += 1
        self._told = self._told * fade + told

    def tau(self, sums: Callable[[], Sequence[tuple[Array, int]]]) -> Array:
        """[s]: tau of each stream.

        Args:
            sums: Gives those of the scores over the latest stretches [m, s], and how many samples each of them has.
        """
        if self._stepped < 2:
            return np.ones(self._streams)
        likeness = np.where(self._told < 2, 0.0, 1 - self._steps / np.maximum(self._told, 1))
        together = float(likeness[self._varying].mean()) if self._varying.any() else 0.0
        follows = together > 2 * _NORMAL / np.sqrt(self._stepped)
        if follows and self._stepped < _EARLY:
            # Scenes follow each other in all numbers at once, and few changes of them tell little of each.
            likeness = np.maximum(likeness, together)
        sure = likeness > 2 * self._noise / np.sqrt(np.maximum(self._told, 1))
        most = (_SLOWEST - 1) / (_SLOWEST + 1)
        likeness = np.where(sure, np.minimum(likeness, most), 0.0)
        if follows:
            # An answer that flickers within a scene seems to remember nothing, and lasts as long as the scene.
            likeness[self._shares] = np.maximum(likeness[self._shares], min(together, most))
        # A spread's own is known late, for its noise is larger. Squares of what has correlation r have r^2 on the
        # average, but the tail of their sum is that of the covariance's largest eigenvalue, as the sum's of the numbers
        # (V. Zolotarev, "Concerning a certain probability problem", Theory of Probability 6 (1961)).
        likeness = np.maximum(likeness, likeness[self._of])
        tau = (1 + likeness) / (1 - likeness)
        early = self._stepped < _EARLY and bool(self._varying.any())
        if early or self._age >= _EVERY:
            self._slowly, self._age = self._by_sums(sums(), early=early), 0
        tau = np.maximum(tau, self._slowly)
        return np.asarray(np.minimum(np.maximum(tau, tau[self._of]), _SLOWEST))

    def _by_sums(self, sums: Sequence[tuple[Array, int]], *, early: bool) -> Array:
        """[s]: what sums tell of each stream; early also what they tell of most."""
        found = np.ones(self._streams)
        for of_stretches, length in sums:
            found = np.maximum(found, slowness.by_sums(of_stretches, length))
            if early:
                found = np.maximum(found, slowness.together(of_stretches[:, self._varying], length))
        return found

    def state(self) -> dict[str, Array]:
        """What must be kept."""
        last = np.zeros(0) if self._last is None else self._last
        return {"stepped": np.array(self._stepped), "steps": self._steps, "told": self._told, "last": last}

    def restore(self, state: Mapping[str, Array]) -> None:
        """Go on from what `state` gave.

        Raises:
            KeyError: Something is missing. ValueError: It has another shape.
        """
        self._stepped = float(state["stepped"])
        self._steps[:], self._told[:] = state["steps"], state["told"]
        self._last = state["last"].copy() if state["last"].size else None

    def _beyond_ends(self, rows: Array, streams: Array, numbers: Array) -> tuple[Array, Array]:
        """Two samples in the same outermost bin do not tell by their scores how far they lie apart, and would pass for
        data that remember.

        Args:
            rows: [m]: the pairs that lie there, by the first one.
            streams: [m]: theirs.
            numbers: [n + 1, extras], of the samples.

        Returns:
            Squares [m] of what the numbers did there, in deviations, 0 where that is not known. Which pairs [m] tell
            nothing: numbers cut at the same value; and where most streams are there at once, the data have moved.
        """
        places = self._numbers.take(streams)
        known = places >= 0
        before = numbers[rows, places]
        own = (numbers[rows + 1, places] - before) * known
        nothing = own == 0
        moved = np.bincount(rows[nothing], minlength=len(numbers)) > self._everywhere
        nothing &= moved.take(rows) | known & (np.abs(before) >= CLIP)
        return np.minimum(own * own, _FARTHEST**2), nothing


def _ends(tables: Array) -> Array:
    """[2, s]: the lowest and the highest score of each stream; none of streams with few different ones (classes)."""
    many = np.array([len(np.unique(table)) > _FEW for table in tables], bool)
    return np.where(many, np.stack([tables.min(axis=1, initial=0), tables.max(axis=1, initial=0)]), np.nan)
