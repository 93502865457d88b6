"""Classes: do source and artifact answer the same one, and does the calibration data hold more than one of them?

Data that is sorted by class and of which only the head was taken calibrates for that class alone. The labels would
tell; without labels the model's own answers do.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgekit.converters.stages import Array

ENOUGH = 20
"""Fewer samples say nothing of how classes are spread."""

ONE_SIDED = 0.4
"""A class is answered on a larger share of the calibration samples than of the evaluation's, by this much: ResNet-8
answers 54 to 94 % of a hundred CIFAR images of one class with that class, and 7 to 14 % of the mixture."""

UNKNOWN = 0.2
"""Without evaluation data a class may make up this share, and `ONE_SIDED` more, before it is remarkable."""


@dataclass
class Classes:
    """Agreement on the class, as far as the output is a class vector.

    Attributes:
        said: How often the source answers each class.
        width: How many there are.
    """

    samples: int = 0
    same: int = 0
    tied: int = 0
    decided: int = 0
    decided_same: int = 0
    probabilities: bool = True
    vector: bool = True
    width: int = 0
    said: Counter[int] = field(default_factory=Counter)

    def add(self, reference: Array, found: Array, tolerance: float, margin: float) -> None:
        """`tolerance` is relative to the range of a sample's own scores."""
        s, a = reference.astype(np.float64), found.astype(np.float64)
        if s.ndim > 2:
            s, a = (x.reshape(len(x), -1) if x.size == len(x) * x.shape[-1] else x for x in (s, a))
        if s.ndim != 2 or s.shape[1] < 2 or reference.dtype.kind != "f":
            self.vector = False
            return
        told = ~np.isnan(s).any(axis=1) & np.isfinite(s).any(axis=1)  # of others there is no class
        s, a = s[told], a[told]
        sums = s.sum(axis=1)
        self.probabilities &= bool((s >= -1e-6).all() and (np.abs(sums - 1) < 1e-3).all())
        scores = s if self.probabilities else _softmax(s)
        rows = np.arange(len(s))
        said = a.argmax(axis=1)
        same = s.argmax(axis=1) == said
        lead = s.max(axis=1) - s[rows, said]
        top = np.sort(scores, axis=1)
        decided = top[:, -1] - top[:, -2] >= margin
        self.samples += len(s)
        self.width = s.shape[1]
        self.said.update(s.argmax(axis=1).tolist())
        self.same += int(same.sum())
        known = np.isfinite(s)  # a class that is masked scores -inf
        width = s.max(axis=1, where=known, initial=-np.inf) - s.min(axis=1, where=known, initial=np.inf)
        self.tied += int((~same & (lead <= tolerance * width)).sum())
        self.decided += int(decided.sum())
        self.decided_same += int((decided & same).sum())


def one_sided(calibration: Counter[int], evaluation: Counter[int], classes: int) -> str | None:
    """A warning when one class makes up the calibration data and not the evaluation data.

    Args:
        calibration: How often each class is answered.
        evaluation: The same; empty without evaluation data.
        classes: How many the model tells apart; of two, one may well be rare.
    """
    total = calibration.total()
    if total < ENOUGH or classes < 3:
        return None
    index, count = calibration.most_common(1)[0]
    usual = evaluation[index] / evaluation.total() if evaluation else UNKNOWN
    if count / total - usual <= ONE_SIDED:
        return None
    other = f", {100 * usual:.0f} % of the evaluation's" if evaluation else ""
    return (
        f"{100 * count / total:.0f} % of the calibration samples are answered with class {index} of {classes}{other}: "
        "if the data is sorted by class, shuffle before you split"
    )


def _softmax(scores: Array) -> Array:
    with np.errstate(invalid="ignore"):  # NaN where a score is infinite: then nothing is decided
        raised: Any = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=1, keepdims=True))
