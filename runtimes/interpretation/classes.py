"""Scores of classes: one of them, or any number."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgekit.errors import UsageError
from edgekit.reading import Interpret
from edgekit.runtimes.base import Array
from edgekit.runtimes.interpretation.results import Classification, MultiLabel, Score

LABEL_THRESHOLD = 0.5

FEW = 16
"""Up to so many classes, Python sorts them before numpy has begun."""


def classification(sample: Array, how: Interpret) -> Classification:
    """The best `top_k` of scores [C]; ties go to the first.

    Raises:
        UsageError: `output-unreadable`: the greatest score is no finite number.
    """
    check_greatest(sample)
    scores = probabilities(sample, how)
    count = min(max(how.top_k, 0), scores.size)
    order = best(scores, count)
    return Classification(_scores(scores, order, how, how.threshold or 0.0))


def best(scores: Array, count: int) -> list[int]:
    """Where the greatest of [C] stand, greatest first; ties go to the first, what is no number to the end."""
    found: list[int] = []
    left = scores.copy() if count <= FEW else scores[:0]
    while len(found) < min(count, left.size):  # a search for each is far cheaper than an order of all
        index = int(left.argmax())
        if not left[index] > -np.inf:  # no number, or nothing left
            break
        found.append(index)
        left[index] = -np.inf
    return found if len(found) == count else np.argsort(-scores, kind="stable")[:count].tolist()


def few(how: Interpret) -> Callable[[list[float]], Classification | None]:
    """`classification` of one manifest, for a list of few probabilities; None for what it must look at itself."""
    least, labels, count = how.threshold or 0.0, how.labels, max(how.top_k, 0)
    most = FEW if how.scores == "probabilities" else 0
    new = tuple.__new__  # half of what the call of a named tuple takes

    def read(scores: list[float]) -> Classification | None:
        total = sum(scores)
        if not 1 < len(scores) <= most or total - total != 0.0:  # what is not a number has no order
            return None
        made = []
        # Ties keep their order.
        for index in sorted(range(len(scores)), key=scores.__getitem__, reverse=True)[:count]:
            score = scores[index]
            if score >= least:
                made.append(new(Score, (index, labels[index] if index < len(labels) else str(index), score)))
        return Classification(tuple(made))

    return read


def check_greatest(scores: Array) -> None:
    """Of scores [n], which must be a finite number: NaN anywhere is the greatest, and -inf is a class that cannot be.

    Raises:
        UsageError: `output-unreadable`.
    """
    if not scores.size:
        return
    found = float(scores[scores.argmax()])  # half of what max() takes
    if found - found != 0.0:
        raise no_number(found)


def check_numbers(values: Array) -> None:
    """All must be finite numbers.

    Raises:
        UsageError: `output-unreadable`.
    """
    finite = np.isfinite(values)
    if not finite.all():
        raise no_number(float(np.asarray(values)[~finite][0]))


def no_number(found: float) -> UsageError:
    """What is raised for an answer that is not finite: compared with anything it would read as "nothing there"."""
    return UsageError(
        "output-unreadable",
        f"the model answers {found}, which is no answer",
        cause="Its arithmetic overflowed, or its weights hold what is no number.",
        next_step="Ask the source the same: if it answers a number, `edgekit debug` names the layer that does not.",
    )


def multi_label(sample: Array, how: Interpret) -> MultiLabel:
    """All at or above the threshold.

    Raises:
        UsageError: `output-unreadable`: the greatest score is no finite number.
    """
    check_greatest(sample)
    scores = sample if how.scores == "probabilities" else sigmoid(sample)
    order = np.argsort(-scores, kind="stable")
    return MultiLabel(_scores(scores, order.tolist(), how, LABEL_THRESHOLD if how.threshold is None else how.threshold))


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


def _scores(scores: Array, order: list[int], how: Interpret, least: float) -> tuple[Score, ...]:
    labels, made = how.labels, []
    for index, score in zip(order, scores[order].tolist(), strict=True):
        if score >= least:
            made.append(Score(index, labels[index] if index < len(labels) else str(index), score))
    return tuple(made)
