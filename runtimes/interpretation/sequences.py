"""Labels along a sequence: step by step, joined by CTC, or spans of B- and I- tags."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from edgekit.errors import UsageError
from edgekit.reading import Interpret, SequenceReading
from edgekit.runtimes.base import Array
from edgekit.runtimes.interpretation.classes import check_numbers, probabilities
from edgekit.runtimes.interpretation.results import Sequence, Tag, name


def sequence(sample: Array, how: Interpret) -> Sequence:
    """Of scores [T,C].

    Raises:
        UsageError: `output-unreadable`: it holds none, or the greatest of a step is no finite number.
    """
    if sample.ndim != 2 or not sample.shape[1]:
        raise UsageError("output-unreadable", f"{list(sample.shape)} holds no scores of classes along a sequence")
    check_numbers(sample.max(axis=1))
    about = how.sequence or SequenceReading()
    scores = probabilities(sample, how)
    classes = scores.argmax(axis=1)
    likely = scores[np.arange(len(scores)), classes]
    runs = {"none": _single, "ctc": _runs, "bio": _runs}[about.join](classes)
    tags = (Tag(index, name(index, how.labels), float(likely[a:b].mean()), a, b) for index, a, b in runs)
    if about.join == "ctc":
        return Sequence(tuple(tag for tag in tags if tag.index != about.blank))
    if about.join == "bio":
        return Sequence(tuple(_spans([int(index) for index in classes], likely, how)))
    return Sequence(tuple(tags))


def _single(classes: Array) -> Iterator[tuple[int, int, int]]:
    for place, index in enumerate(classes.tolist()):
        yield index, place, place + 1


def _runs(classes: Array) -> Iterator[tuple[int, int, int]]:
    """Class, start and end of equal neighbors."""
    edges = [0, *(np.flatnonzero(np.diff(classes)) + 1).tolist(), len(classes)]
    for start, end in pairwise(edges):
        if end > start:
            yield int(classes[start]), start, end


def _spans(classes: list[int], likely: Array, how: Interpret) -> Iterator[Tag]:
    """B-X begins a span, I-X carries it on (or begins one, where no X came before), anything else ends it."""
    start, kind, first = 0, "", 0
    for place, index in enumerate([*classes, -1]):
        mark, _, what = name(index, how.labels).partition("-") if index >= 0 else ("", "", "")
        goes_on = mark == "I" and what == kind
        if kind and not goes_on:
            yield Tag(first, kind, float(likely[start:place].mean()), start, place)
            kind = ""
        if mark in ("B", "I") and what and not goes_on:
            start, kind, first = place, what, index
