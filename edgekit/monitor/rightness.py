"""The estimate of the accuracy on the device: from the scan's means over a stretch to a share and an interval."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from edgekit.monitor.columns import Array
from edgekit.monitor.estimate import DEVIATE, Estimator
from edgekit.monitor.reference import CLIP, Reference, inverse, weighed
from edgekit.monitor.streams import Streams

VARIED = 0.9
"""A number that is the same in so many samples of the reference is left out: it says nothing of small drifts, and of
others only that there is one."""

_SOFT = 0.3
"""Deviations from which on a shift is told by its logarithm."""

_DISTANCES = (0.1, 8.0)

EXTRAS = 3

_LEAST_PART = 0.05
"""Of the correlations in one direction, what samples other than one made, at least."""

LEAST = 0.02
"""Variance of an answer's rightness, at least: no accuracy is known to be 1."""


class Signals:
    """What of the scan's means tells of the accuracy.

    Args:
        reference: Of the model; it has classes.
        made: Its streams.

    Attributes:
        size: Numbers that tell how the inputs have moved.
    """

    def __init__(self, reference: Reference, made: Streams) -> None:
        number = reference.header.inputs
        varied = np.asarray(reference.usual, np.float64) < VARIED
        self._columns = np.flatnonzero(varied)
        self._spreads = np.array(
            [
                stream for stream, (place, aspect) in enumerate(zip(made.column.tolist(), made.aspect, strict=True))
                if aspect == "spread" and place < number and varied[place]
            ],
            np.intp,
        )  # fmt: skip
        self._shares = np.array([stream for stream, aspect in enumerate(made.aspect) if aspect == "share"], np.intp)
        self._weights = 1 - np.array([made.mass[stream][heap] for heap, stream in enumerate(self._shares.tolist())])
        header = reference.header
        own = reference.correlation[np.ix_(self._columns, self._columns)]
        shrink = header.shrink if header.relations else 1.0
        self._precision = inverse(own, shrink)
        self._part = (1 - shrink) / header.samples  # of one sample in what is inverted
        self.size = self._columns.size + self._spreads.size

    @staticmethod
    def each(far: Array, sure: Array, lean: Array | float, about: Estimator) -> Array:
        """What is averaged besides, of each sample [n, EXTRAS]: the chance that its answer is right, chance (1 -
        chance), and the logarithm of its distance from the reference, by numbers that vary there.

        Args:
            far: The last [n].
            sure: Confidence, margin, entropy [n, 3].
            lean: Of the classes that were answered [n].
            about: The estimator.
        """
        chance = about.chances(sure, far, lean)
        made = np.empty((len(far), EXTRAS))
        made[:, 0], made[:, 1], made[:, 2] = chance, chance * (1 - chance), far
        return made

    def far(self, z: Array, whole: Array | None = None) -> Array:
        """[n]: logarithms of distances from the reference, by numbers [n, inputs] that vary there. Where all do, they
        are the `whole`'s [n], if somebody knows these.
        """
        if not self._columns.size:
            return np.zeros(len(z))
        if whole is None or self._columns.size < z.shape[1]:
            whole = weighed(z.take(self._columns, axis=1).clip(-CLIP, CLIP), self._precision)[1]
        return np.asarray(np.log(whole.clip(*_DISTANCES)))

    def apart(self, z: Array, own: Array) -> Array:
        """The same of the reference's own samples, or of copies of them: each is taken out of the correlations, for of
        what holds itself, no sample is as far as others of its kind are.

        Args:
            z: Numbers of the inputs [n, inputs] in deviations.
            own: Those of the samples that these are or are copies of.

        Source: J. Sherman, W. Morrison, Annals of Mathematical Statistics 21 (1950).
        """
        if not self._columns.size:
            return np.zeros(len(z))
        varied, sources = (part.take(self._columns, axis=1).clip(-CLIP, CLIP) for part in (z, own))
        weighted = sources @ self._precision
        rest = np.maximum(1 - self._part * (weighted * sources).sum(axis=1), _LEAST_PART)
        more = self._part * np.square((weighted * varied).sum(axis=1)) / rest
        far = np.sqrt(np.square(weighed(varied, self._precision)[1]) + more / varied.shape[1])
        return np.asarray(np.log(far.clip(*_DISTANCES)))

    def read(self, streams: Array, columns: Array, extras: Array) -> tuple[Array, Array]:
        """General means [..., GENERAL] and the inputs' moves [..., size].

        Args:
            streams: Mean scores [..., s] over stretches.
            columns: Mean numbers [..., k] in deviations, each cut at `CLIP`.
            extras: Means [..., EXTRAS] of what `each` gives.
        """
        # Of a share a, mean score (a - p) / sqrt(p (1 - p)): the sum is chi-square's, of (a - p)^2 / p.
        unlike = np.log1p(np.sqrt((np.square(streams[..., self._shares]) * self._weights).sum(axis=-1)))
        general = [extras[..., 0], 2 * extras[..., 1], *np.moveaxis(columns[..., -3:], -1, 0), unlike, extras[..., 2]]
        moves = np.concatenate([columns[..., self._columns], streams[..., self._spreads]], axis=-1)
        return np.stack(general, axis=-1), np.arcsinh(np.clip(moves, -CLIP, CLIP) / _SOFT)


class Told(NamedTuple):
    """Of the accuracy of a stretch, 0..1.

    Attributes:
        estimate, low, high: Its interval's middle and ends.
        tried: The stretch drifted like copies that were made at the desk, or not at all.
    """

    estimate: float
    low: float
    high: float
    tried: bool


class Rightness:
    """The estimate, ready for use.

    Args:
        reference: With an estimator.
        made: Its streams.
    """

    def __init__(self, reference: Reference, made: Streams) -> None:
        about = reference.header.estimator
        assert about is not None  # noqa: S101  only made of references with labels
        self._about = about
        self._signals = Signals(reference, made)
        number = reference.header.inputs
        self._number = number
        arrays = reference.anchors
        self._axes = arrays["axes"].astype(np.float64) * about.steps[0]
        self._places = arrays["places"].astype(np.float64) * about.steps[1]
        self._leans = arrays["leans"].astype(np.float64) * about.lean if about.leans else None
        errors, noise = (arrays[name].astype(np.float64) for name in ("errors", "noise"))
        self._inverse = np.linalg.inv(about.kernel(self._places, self._places) + np.diag(noise))
        self._weights = self._inverse @ errors

    def each(self, z: Array, rows: Array, answered: Array) -> Array:
        """See `Signals.each`.

        Args:
            z: Numbers in deviations [n, columns]; those of the inputs come first.
            rows: Numbers as the reference has them [n, columns]; the distance and the confidence come last.
            answered: Classes [n].
        """
        lean = 0.0 if self._leans is None else self._leans.take(answered)
        far = self._signals.far(z[:, : self._number], rows[:, -4])
        return self._signals.each(far, rows[:, -3:], lean, self._about)

    def place(self, streams: Array, columns: Array, extras: Array) -> Array:
        """Of stretches [n, ...], as `Signals.read` takes them: [n, GENERAL + axes]."""
        general, moves = self._signals.read(streams, columns, extras)
        return np.concatenate([(general - self._about.middle) / self._about.spread, moves @ self._axes.T], axis=1)

    def interval(self, streams: Array, columns: Array, extras: Array, samples: int) -> Told:
        """What is known of the accuracy, from the means over a stretch of so many samples."""
        about = self._about
        here = self.place(streams[None], columns[None], extras[None])
        beside = about.kernel(here, self._places)
        error = float((beside @ self._weights)[0])
        before = float(about.kernel(here, here)[0, 0])
        unsure = max(0.0, before - float((beside @ self._inverse @ beside.T)[0, 0]))
        tried = unsure <= about.edge * before
        mean = min(1.0, max(0.0, float(extras[0]) + error))
        # The samples' own chance, and that of those which it was fitted on.
        chance = max(mean * (1 - mean), LEAST) / max(1, samples)
        chance += max(about.accuracy * (1 - about.accuracy), mean * (1 - mean), LEAST) / about.samples
        half = math.hypot(about.deviates(unsure / before) * math.sqrt(unsure), DEVIATE * math.sqrt(chance))
        return Told(mean, max(0.0, mean - half), min(1.0, mean + half), tried)
