"""How often the model is right, estimated without labels, with an interval.

Two steps. For each answer, the chance that it is right follows from how sure the model is, by a logistic curve. Their
mean over a stretch of the stream is a first estimate; fitted on clean data alone it believes a model that is sure of
nonsense (D. Guillory et al., "Predicting with confidence on unseen distributions", ICCV 2021). What it is off by
follows from how the stretch as a whole has drifted: at the desk, labelled samples were spoilt in many ways and
strengths, and for each of these *anchors* the error is known (W. Deng, L. Zheng, "Are labels always necessary for
classifier accuracy evaluation?", CVPR 2021). Between anchors it is interpolated by a Gaussian process (C. Rasmussen,
C. Williams, "Gaussian Processes for Machine Learning", 2006, chapter 2), whose deviation grows with the distance from
all of them: a drift like one that was tried has a narrow interval, one like nothing that was tried a wide one.

A stretch is described by means that the monitor keeps anyway: *general* ones (the chance, confidence, distance, how
unlike the classes' shares are), which tell something of any drift, and its place along a few *axes* of all that the
numbers of the inputs did under the drifts that were tried.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from edgekit.monitor.columns import Array

LEVEL = 0.9
"""Share of the intervals that are to hold the truth."""

NARROW = 0.035
"""Half an interval up to which its middle counts as an answer: nine of ten such estimates are within 3 points of the
truth, also where nothing like the drift was tried (benchmarks/monitor_accuracy.py).
"""

NEAR = 0.03
"""What an answer is to be within."""

DEVIATE = 1.6449
"""Of a normal variable, for `LEVEL` on both sides."""

GENERAL = 7
"""General means: chance, its spread, confidence, margin, entropy, unlikeness of classes, distance."""

LEANING = 64
"""Classes up to which each has its own lean in the curve: a model that is lost answers some classes, and is wrong."""

_STILL = 0.3
"""Part of the process's deviation that is left without any drift."""

_SAME = 0.1
"""Deviation of what all errors have in common."""

_NEAR = 0.5
"""Weight of the general means in the distance along the axes."""


@dataclass(frozen=True)
class Kernel:
    """Covariance of the error of two stretches, in shares of right answers. Places are counted from the clean anchor,
    whose error is known best: near it, errors are alike, and they may differ the more the further a drift goes.

    Attributes:
        linear: Deviation of what is linear in the general means.
        general, reach: Deviation of what depends on them smoothly, and how far it reaches.
        axes, span: The same along the axes.
    """

    linear: float = 0.08
    general: float = 0.2
    reach: float = 1.5
    axes: float = 0.2
    span: float = 0.6

    def __call__(self, first: Array, second: Array) -> Array:
        """[a, b] of stretches [a, GENERAL + r] and [b, GENERAL + r]."""
        one, two = first[:, :GENERAL], second[:, :GENERAL]
        general = _squares(one, two)
        along = _squares(first[:, GENERAL:], second[:, GENERAL:]) + _NEAR**2 * general
        count = max(1, first.shape[1] - GENERAL)
        smooth = self.general**2 * np.exp(-general / (2 * GENERAL * self.reach**2))
        smooth += self.axes**2 * np.exp(-along / (2 * count * self.span**2))
        size = _drifted(first)[:, None] * _drifted(second)[None]
        return np.asarray(_SAME**2 + self.linear**2 * (one @ two.T) / GENERAL + size * smooth)


def labels_for(low: float, high: float) -> int:
    """Samples drawn at random whose labels tell an accuracy to `NEAR` with `LEVEL`, if it lies between these: by the
    normal approximation, of the accuracy there that takes most; in tens.
    """
    share = max(0.0, min(max(0.5, low), high, 1.0))
    return 10 * max(3, math.ceil((DEVIATE / NEAR) ** 2 * share * (1 - share) / 10))


def _drifted(places: Array) -> Array:
    """[n]: how far stretches have drifted, from `_STILL` at the clean anchor towards 1."""
    square = np.square(places).mean(axis=1)
    return np.asarray(np.sqrt((_STILL**2 + square) / (1 + square)))


def _squares(first: Array, second: Array) -> Array:
    apart = (first * first).sum(1)[:, None] + (second * second).sum(1)[None] - 2 * first @ second.T
    return np.asarray(np.maximum(apart, 0.0))


@dataclass(frozen=True)
class Estimator:
    """What is known of how the model errs; the arrays beside it are a reference's (`anchors`).

    Attributes:
        center, scale: Of the curve's terms.
        weights: Of the curve, the constant first.
        accuracy: Measured on the evaluation data, 0..1.
        samples: Labelled answers behind it.
        kernel: Of the errors.
        factor, near: Half the interval over the process's deviation: where nothing like the drift was tried, and at the
            anchors; between, in proportion to the deviation that they leave open. 0: the same as `factor`.
        edge: Part of the process's variance that the anchors leave open, from which on a drift is unlike all of them.
        middle, spread: Of the general means [GENERAL].
        steps: Of the axes' and of the anchors' places, which are stored as integers.
        anchors, axes, size: Sizes of the arrays.
        leans, lean: Classes whose answers are right more or less often than they seem, and the step of by how much.
    """

    center: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    accuracy: float
    samples: int
    kernel: Kernel
    factor: float
    middle: tuple[float, ...]
    spread: tuple[float, ...]
    steps: tuple[float, float]
    anchors: int
    axes: int
    size: int
    leans: int = 0
    lean: float = 0.0
    edge: float = 1.0
    near: float = 0.0

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError("a curve is fitted on something")
        if not len(self.center) == len(self.scale) == len(self.weights) - 1 or len(self.center) not in (_FIRST, TERMS):
            raise ValueError("a curve has a weight for each of its terms, and a constant")
        if not len(self.middle) == len(self.spread) == GENERAL:
            raise ValueError("each general mean has a middle and a spread")
        sizes = 0 < self.anchors <= 1024 and 0 <= self.axes <= 64 and 0 <= self.size <= 2048
        if not (sizes and 0 <= self.leans <= LEANING):
            raise ValueError("so many anchors are not kept")

    def chances(self, sure: Array, far: Array, lean: Array | float = 0.0) -> Array:
        """[n]: that each answer is right.

        Args:
            sure: Confidence, margin and entropy [n, 3].
            far: Logarithms of the samples' distances from the reference [n].
            lean: Of the class that was answered [n].
        """
        weights, constant = self._curve
        raised = curve_terms(sure, far)[:, : weights.size] @ weights + (constant + lean)
        return np.asarray(1 / (1 + np.exp(-raised.clip(-30, 30))))

    @cached_property
    def _curve(self) -> tuple[Array, float]:
        """Weights of the terms as they come, and the constant."""
        weights = np.array(self.weights[1:]) / self.scale
        return weights, self.weights[0] - float(weights @ self.center)

    def deviates(self, left: float) -> float:
        """Half the interval over the process's deviation, where anchors leave this part of its variance open."""
        near = self.near or self.factor
        return near + (self.factor - near) * min(1.0, math.sqrt(left / max(self.edge, 1e-9)))

    @property
    def shapes(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Array -> dtype and shape, as they are stored."""
        return {
            "axes": ("<i1", (self.axes, self.size)),
            "places": ("<i1", (self.anchors, GENERAL + self.axes)),
            "errors": ("<f2", (self.anchors,)),
            "noise": ("<f2", (self.anchors,)),
            **({"leans": ("<i1", (self.leans,))} if self.leans else {}),
        }


TERMS = 8
_FIRST = 5
"""Terms of references that were made before distances were among them."""


def curve_terms(sure: Array, far: Array) -> Array:
    """What the chance depends on [n, TERMS]: confidence, margin and entropy [n, 3], logarithms of distances [n].

    Far from what it knows, a model is sure of nonsense.
    """
    best = sure[:, 0].clip(1e-6, 1 - 1e-6)
    odds = np.log(best / (1 - best))
    terms = np.empty((len(sure), TERMS))
    terms[:, 0], terms[:, 1] = odds, odds * odds
    terms[:, 2:4] = sure[:, 1:]
    terms[:, 4] = np.log(sure[:, 2].clip(1e-6, 1))
    terms[:, 5], terms[:, 6], terms[:, 7] = far, far * far, far * odds
    return terms
