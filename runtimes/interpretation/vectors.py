"""Vectors that mean something as a whole: embeddings, and how far a reconstruction lies from what was shown."""

from __future__ import annotations

import numpy as np

from edgekit.errors import UsageError
from edgekit.reading import AnomalyReading, Interpret
from edgekit.runtimes.base import Array
from edgekit.runtimes.interpretation.classes import check_numbers, no_number
from edgekit.runtimes.interpretation.results import Anomaly, Embedding, Regression


def regression(values: Array) -> Regression:
    """Of values [n].

    Raises:
        UsageError: `output-unreadable`: they are not finite.
    """
    listed = values.tolist()
    total = sum(listed)
    if total - total != 0.0:  # or only their sum is not
        check_numbers(values)
    return Regression(tuple(listed))


def embedding(sample: Array) -> Embedding:
    """Of values of any shape, taken as one vector.

    Raises:
        UsageError: `output-unreadable`: they are not finite.
    """
    flat = np.asarray(sample, np.float64).reshape(-1)
    length = float(np.sqrt(np.dot(flat, flat)))
    if length - length != 0.0:
        raise no_number(length)
    return Embedding(np.asarray(flat / length if length else flat, np.float32))


def anomaly(sample: Array, how: Interpret, given: Array | None) -> Anomaly:
    """Of the model's score, or of its reconstruction of `given`, the input in real values, of the same size.

    Raises:
        UsageError: `output-unreadable`: there is nothing to compare a reconstruction with; the score is not finite.
    """
    about = how.anomaly or AnomalyReading()
    threshold = 0.0 if how.threshold is None else how.threshold
    flat = np.asarray(sample, np.float64).reshape(-1)
    if about.score == "output":
        score = float(flat[0])
    elif given is None or given.size != flat.size:
        raise UsageError("output-unreadable", f"the output of {flat.size} values is no reconstruction of the input")
    else:
        off = flat - np.asarray(given, np.float64).reshape(-1)
        score = float(np.dot(off, off) / off.size)
    if score - score != 0.0:
        raise no_number(score)
    return Anomaly(score, threshold, score < threshold if about.below else score > threshold)
