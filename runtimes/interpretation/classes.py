"""Scores of classes: one of them, or any number."""

from __future__ import annotations

import numpy as np

from edgekit.reading import Interpret
from edgekit.runtimes.base import Array
from edgekit.runtimes.interpretation.results import Classification, MultiLabel, Score

LABEL_THRESHOLD = 0.5


def classification(sample: Array, how: Interpret) -> Classification:
    """The best `top_k` of scores [C]; ties go to the first."""
    scores = probabilities(sample, how)
    count = min(max(how.top_k, 0), scores.size)
    if scores.size > 64 and count:  # most would be sorted for nothing
        kept = np.flatnonzero(scores >= np.partition(scores, -count)[-count])
        order = kept[np.argsort(-scores[kept], kind="stable")][:count]
    else:
        order = np.argsort(-scores, kind="stable")[:count]
    return Classification(_scores(scores, order, how, how.threshold or 0.0))


def multi_label(sample: Array, how: Interpret) -> MultiLabel:
    """All at or above the threshold."""
    scores = sample if how.scores == "probabilities" else sigmoid(sample)
    order = np.argsort(-scores, kind="stable")
    return MultiLabel(_scores(scores, order, how, LABEL_THRESHOLD if how.threshold is None else how.threshold))


def probabilities(sample: Array, how: Interpret) -> Array:
    """Of classes [C] (one score is that of class 1, of two), or of steps [T,C]."""
    if sample.ndim == 1 and sample.size == 1:
        one = sample if how.scores == "probabilities" else sigmoid(sample)
        return np.concatenate([1 - one, one])
    return sample if how.scores == "probabilities" else softmax(sample)


def softmax(logits: Array) -> Array:
    """Along the last axis."""
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))


def sigmoid(logits: Array) -> Array:
    small = np.exp(-np.abs(logits))  # never overflows
    return np.asarray(np.where(logits < 0, small, 1.0) / (1 + small))


def _scores(scores: Array, order: Array, how: Interpret, least: float) -> tuple[Score, ...]:
    labels, made = how.labels, []
    for index, score in zip(order.tolist(), scores[order].tolist(), strict=True):
        if score >= least:
            made.append(Score(index, labels[index] if index < len(labels) else str(index), score))
    return tuple(made)
