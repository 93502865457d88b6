"""How often the model is right, estimated without labels, with an interval.

For each answer the chance that it is right follows from how sure the model is, how far the sample lies from the
reference and in which of its numbers, by a logistic curve. The curve was fitted where labels were known, on the
evaluation data and on copies of them that were made darker, noisier, turned, shifted: fitted on clean data alone, a
model that is sure of nonsense is believed. Their mean is the accuracy (confidence-based estimation; D. Guillory et al.,
"Predicting with confidence on unseen distributions", ICCV 2021; W. Deng, L. Zheng, "Are labels always necessary for
classifier accuracy evaluation?", CVPR 2021). The interval holds the chance of the samples, and how far the curve was
off on kinds of drift that it was not fitted on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgekit.monitor.columns import Array

LEVEL = 0.9
"""Share of the intervals that are to hold the truth."""

_DEVIATE = 1.6449
"""Of a normal variable, for 0.9 on both sides."""

_HARDER = 0.8
"""Part of the kinds that were left out whose error the interval holds: a kind that nothing like it was fitted on is
harder than most of the field's, of which the interval then holds nine in ten."""

_NEAR = 4.0
_RIDGE = 1.0
_ALWAYS = 0.02
"""Error that even an estimate of no drop is granted."""


@dataclass(frozen=True)
class Estimator:
    """The curve.

    Attributes:
        center, scale: Of its terms.
        weights: The constant first.
        accuracy: Measured on the evaluation data, 0..1.
        spread: The interval's half width is `spread` times (0.02 + the estimated drop), besides the samples' chance.
        samples: Labelled answers that it was fitted on, copies aside.
    """

    center: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    accuracy: float
    spread: float
    samples: int

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError("a curve is fitted on something")
        if not len(self.center) == len(self.scale) == len(self.weights) - 1:
            raise ValueError("a curve has a weight for each of its terms, and a constant")

    def chances(self, sure: Array, far: Array, z: Array) -> Array:
        """[n]: that each answer is right.

        Args:
            sure: [n, 3]: confidence, margin, entropy.
            far: [n]: distance over that of the reference's middle sample.
            z: [n, k]: the inputs' numbers in deviations.
        """
        terms = (_terms(sure, far, z) - self.center) / self.scale
        raised = np.clip(terms @ np.array(self.weights[1:]) + self.weights[0], -30, 30)
        return np.asarray(1 / (1 + np.exp(-raised)))

    def interval(self, mean: float, noise: float, samples: int) -> tuple[float, float]:
        """Where the accuracy lies, from the mean chance, the mean of chance (1 - chance), and how many samples."""
        drop = max(0.0, self.accuracy - mean)
        # The samples' own chance, that of the ones it was fitted on, and the curve's error.
        chance = max(noise, 1e-4) / max(1, samples) + max(self.accuracy * (1 - self.accuracy), 1e-4) / self.samples
        half = math.hypot(_DEVIATE * math.sqrt(chance), self.spread * (_ALWAYS + drop))
        return max(0.0, mean - half), min(1.0, mean + half)


def _terms(sure: Array, far: Array, z: Array) -> Array:
    """What the chance depends on [n, 6 + 2 k]."""
    best = np.clip(sure[:, 0], 1e-4, 1 - 1e-4)
    odds = np.log(best / (1 - best))
    beyond = np.log(np.clip(far, 0.1, 20))
    told = np.stack([odds, sure[:, 1], sure[:, 2], beyond, np.square(beyond), odds * beyond], axis=1)
    near = np.minimum(np.maximum(z, -_NEAR), _NEAR)
    return np.concatenate([told, near, np.abs(near)], axis=1)


def fit(sure: Array, far: Array, z: Array, right: Array, kind: Array) -> Estimator:
    """Fit the curve.

    Args:
        sure: [n, 3]: as `Estimator.chances` takes it.
        far: [n]: likewise.
        z: [n, k]: likewise.
        right: [n]: whether each answer was right.
        kind: [n]: which kind of drift it came from; 0 is none.
    """
    terms = _terms(sure, far, z)
    center, scale = terms.mean(axis=0), np.maximum(terms.std(axis=0), 1e-3)
    table = np.concatenate([np.ones((len(terms), 1)), (terms - center) / scale], axis=1)
    # Clean samples count as much as all drifts together: that is where a model is most of the time.
    weight = np.where(kind == 0, max(1, int(kind.max(initial=0))), 1.0)
    weight /= weight.mean()
    weights = _logistic(table, right, weight)
    accuracy = float(right[kind == 0].mean())
    errors = []
    for left_out in range(1, int(kind.max(initial=0)) + 1):
        inside = kind == left_out
        if not inside.any():
            continue
        kept = _logistic(table[~inside], right[~inside], weight[~inside])
        raised = np.clip(table[inside] @ kept, -30, 30)
        chance = 1 / (1 + np.exp(-raised))
        drop = max(0.0, accuracy - float(chance.mean()))
        # What the samples' own chance explains is no error of the curve.
        noise = float((chance * (1 - chance)).mean()) / int(inside.sum())
        error = abs(float(chance.mean()) - float(right[inside].mean()))
        errors.append(math.sqrt(max(0.0, error * error - noise)) / (_ALWAYS + drop))
    spread = float(np.quantile(errors, _HARDER, method="higher")) if len(errors) >= 3 else 1.0
    return Estimator(
        center=_rounded_all(center),
        scale=_rounded_all(scale),
        weights=_rounded_all(weights),
        accuracy=_rounded(accuracy),
        spread=_rounded(min(max(spread, 0.5), 5.0)),
        samples=int((kind == 0).sum()),
    )


def _rounded_all(values: Array) -> tuple[float, ...]:
    return tuple(_rounded(value) for value in values.tolist())


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _logistic(table: Array, right: Array, weight: Array) -> Array:
    """Weights of a logistic regression, drawn a little towards 0, by Newton's steps."""
    weights = np.zeros(table.shape[1])
    ridge = np.full(table.shape[1], _RIDGE)
    ridge[0] = 1e-3
    for _ in range(30):
        chance = 1 / (1 + np.exp(-np.clip(table @ weights, -30, 30)))
        slope = table.T @ (weight * (right - chance)) - ridge * weights
        bend = (table * (weight * chance * (1 - chance))[:, None]).T @ table + np.diag(ridge)
        step = np.linalg.solve(bend, slope)
        size = float(np.abs(step).max())
        weights = weights + step * min(1.0, 2.0 / max(size, 1e-12))
        if size < 1e-8:
            break
    return np.asarray(weights)
