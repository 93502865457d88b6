"""The row of numbers that a call becomes, for the reference on the workstation and the stream on the device alike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from edgekit.feeding import Preprocess
from edgekit.monitor.columns import Array, Column
from edgekit.monitor.features import Extractor, Summary, Values, elements, extractor, numbered
from edgekit.monitor.inner import Inner
from edgekit.reading import Interpret
from edgekit.tensors import TensorSpec, unbatched

MOST = 96
"""Columns of inputs, and of outputs, that are watched; what is left out is listed in the monitor's status."""

CLASSES = 4096
"""An output of more scores is no vector of classes."""

CONFIDENCE = ("confidence", "margin", "entropy")


class Rows:
    """Which numbers are taken of a model's inputs and outputs.

    Attributes:
        inputs, outputs: Columns of either side, in the order of the row: the inputs' and what the model makes of them
            inside; the outputs' without those of the classes.
        answer: Name of the output that holds scores of classes; None for a model without.
        classes: How many those are; two with a single score.
        left_out: Names of tensors that there was no room for.
    """

    def __init__(
        self,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        preprocess: Preprocess,
        interpret: Interpret,
    ) -> None:
        self.inputs: list[Column] = []
        self.outputs: list[Column] = []
        self.left_out: list[str] = []
        self._parts: list[tuple[str, Extractor, int, bool, int | None]] = []
        firsts = [spec.shape[0] for spec in inputs if spec.shape]
        self._batches = {spec.name: _batch(spec, firsts) for spec in outputs}
        inner = [(spec, Inner(spec)) for spec in outputs if spec.name == interpret.embedding]
        most = MOST - sum(len(made.names) for _, made in inner)
        for place, spec in enumerate(inputs):
            room = max(1, (most - len(self.inputs)) // (len(inputs) - place))
            self._watch(spec, extractor(spec, preprocess if len(inputs) == 1 else None, room), "input")
        for spec, within in inner:
            self._watch(spec, within, "embedding")
        answer = _answer(outputs, interpret, unbatched(tuple(inputs), tuple(outputs)))
        self.answer = answer.name if answer is not None else None
        size = 0 if answer is None else elements(answer)
        self.probable = interpret.scores == "probabilities"
        # A model that ends in an arg max gives the class itself.
        self.chosen = answer is not None and size == 1 and answer.quant is None and not answer.dtype.startswith("float")
        self.classes = 0 if answer is None else max(2, len(interpret.labels) if self.chosen else size)
        self._answer = answer
        for spec in outputs:
            if spec.name not in (self.answer, interpret.embedding) and spec.dtype not in ("string", "complex64"):
                small = elements(spec) <= 16 and None not in spec.shape[1:] and self._batches[spec.name] == 0
                made: Extractor = Values(spec, numbered(elements(spec))) if small else Summary(spec)
                self._watch(spec, made, "output")
        self.width = len(self.inputs)

    def _watch(self, spec: TensorSpec, made: Extractor, role: Literal["input", "embedding", "output"]) -> None:
        side = self.outputs if role == "output" else self.inputs
        if len(side) + len(made.names) > MOST:
            self.left_out.append(spec.name)
            return
        side += [Column(name, spec.name, role, made.noun) for name in made.names]
        axis = 0 if role == "input" else self._batches[spec.name]
        self._parts.append((spec.name, made, len(spec.shape), role == "input", axis))

    def views(
        self, inputs: Mapping[str, Array], outputs: Mapping[str, Array], first: int, count: int
    ) -> list[tuple[Array, ...]]:
        """What is looked at of samples [first, first + count) of a batch: parts of each tensor [count, ...], views
        where they can be; `features` makes rows of them. Scores of classes come last, as they are.

        Raises:
            KeyError: A tensor is missing.
        """
        found = [
            made.views(_samples((inputs if own else outputs)[name], rank, axis, first, count))
            for name, made, rank, own, axis in self._parts
        ]
        if self.answer is not None:
            scores = outputs[self.answer]
            found.append((scores[first : first + count].reshape(count, -1),))
        return found

    def features(self, views: Sequence[Sequence[Array]], table: Array) -> None:
        """Numbers of the inputs, then of the outputs, into `table` [n, len(inputs) + len(outputs)]."""
        at = 0
        for (_, made, *_), parts in zip(self._parts, views, strict=False):
            width = len(made.names)
            made_rows = made.rows(*parts)
            table[:, at : at + width] = made_rows if made_rows.shape[1] == width else 0
            at += width

    def read(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> tuple[Array, Array]:
        """Numbers [n, len(inputs) + len(outputs)] and probabilities [n, classes] of a whole batch."""
        number = samples_of(inputs)
        views = self.views(inputs, outputs, 0, number)
        table = np.empty((number, len(self.inputs) + len(self.outputs)))
        self.features(views, table)
        return table, self.probabilities(views[-1][0]) if self.classes else np.zeros((number, 0))

    def probabilities(self, scores: Array) -> Array:
        """Of the classes [n, classes], float64, from the last of `views`; all alike where scores are no numbers."""
        spec = self._answer
        if spec is not None and spec.quant is not None and scores.dtype == spec.dtype:
            scores = (scores.astype(np.float64) - spec.quant.zero_point[0]) * spec.quant.scale[0]
        if self.chosen:
            made: Array = np.zeros((len(scores), self.classes))
            made[np.arange(len(scores)), np.clip(scores[:, 0].astype(np.intp), 0, self.classes - 1)] = 1.0
            return made
        scores = scores.astype(np.float64)
        if scores.shape[1] == 1 and not self.probable:
            scores = 1 / (1 + np.exp(-np.clip(scores, -60, 60)))
        if not math.isfinite(scores.sum()):
            scores = _known(scores, 1 / self.classes)
        if scores.shape[1] == 1:
            one = scores
            return np.concatenate([1 - one, one], axis=1)
        if self.probable:
            return np.asarray(scores)
        raised = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def _known(scores: Array, nothing: float) -> Array:
    """Scores [n, classes] with `nothing` for those of samples of which the model can have meant nothing: NaN, or
    infinite; minus infinity says that it is not this class.
    """
    with np.errstate(invalid="ignore"):
        bad = np.isnan(scores).any(axis=1) | ~np.isfinite(scores.max(axis=1))
    return np.where(bad[:, None], nothing, scores)


def samples_of(inputs: Mapping[str, Array]) -> int:
    """How many samples a batch has."""
    first = next(iter(inputs.values()))
    return first.shape[0] if first.ndim else 1


def _samples(array: Array, rank: int, axis: int | None, first: int, count: int) -> Array:
    """Some samples [count, ...] of a tensor that has them along `axis`; None: several answers of this kind come
    stacked. What has no such samples is read whole for each.
    """
    if axis is None:
        if array.ndim > rank:
            return array[first : first + count]
    elif array.ndim == rank and rank and first + count <= array.shape[axis]:
        return (array if axis == 0 else np.moveaxis(array, axis, 0))[first : first + count]
    return np.broadcast_to(array, (count, *array.shape))


def _batch(spec: TensorSpec, firsts: Sequence[int | None]) -> int | None:
    """Which axis of an output counts samples: the free one where the batch is free, wherever it stands; else the first
    if it is as long as the inputs'. None where there is none.
    """
    if None in firsts and spec.shape.count(None) == 1:
        return spec.shape.index(None)
    return 0 if not spec.shape or not firsts or spec.shape[0] in (None, *firsts) else None


def _answer(outputs: Sequence[TensorSpec], how: Interpret, bare: frozenset[str]) -> TensorSpec | None:
    """The output with the scores of classes; None of one that has no row a sample (`bare`)."""
    if how.task != "classification" or not outputs:
        return None
    for spec in outputs:
        if how.output in (None, spec.name):
            if spec.name in bare:
                return None
            sized = None not in spec.shape[1:] and elements(spec) <= CLASSES
            return spec if sized and spec.dtype not in ("string", "complex64") else None
    return None


def confidence(scores: Array) -> Array:
    """[n, 3]: probability of the best class, its margin to the second, entropy as a share of the greatest; of
    probabilities [n, classes].
    """
    best = np.partition(scores, -2, axis=1)
    safe = np.maximum(scores, 1e-12)
    made = np.empty((len(scores), 3))
    made[:, 0] = best[:, -1]
    made[:, 1] = best[:, -1] - best[:, -2]
    made[:, 2] = np.einsum("nc,nc->n", safe, np.log(safe)) / -math.log(scores.shape[1])
    return made
