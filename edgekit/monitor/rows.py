"""The row of numbers that a call becomes, for the reference on the workstation and the stream on the device alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgekit.feeding import Preprocess
from edgekit.monitor.columns import Array, Column
from edgekit.monitor.features import Extractor, Summary, Values, elements, extractor, numbered
from edgekit.reading import Interpret
from edgekit.tensors import TensorSpec

MOST = 96
"""Columns of inputs, and of outputs, that are watched; what is left out is listed in the monitor's status."""

CLASSES = 4096
"""An output of more scores is no vector of classes."""

CONFIDENCE = ("confidence", "margin", "entropy")


class Rows:
    """Which numbers are taken of a model's inputs and outputs.

    Attributes:
        inputs, outputs: Columns of either side, in the order of the row. Of outputs without those of the classes.
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
        self._input_parts: list[tuple[str, Extractor, int, int, int]] = []
        self._output_parts: list[tuple[str, Extractor, int, int, int]] = []
        for place, spec in enumerate(inputs):
            room = max(1, (MOST - len(self.inputs)) // (len(inputs) - place))
            self._watch(spec, extractor(spec, preprocess if len(inputs) == 1 else None, room), "input")
        answer = _answer(outputs, interpret)
        self.answer = answer.name if answer is not None else None
        size = 0 if answer is None else elements(answer)
        self.probabilities = interpret.scores == "probabilities"
        # A model that ends in an arg max gives the class itself.
        self.chosen = answer is not None and size == 1 and answer.quant is None and not answer.dtype.startswith("float")
        self.classes = 0 if answer is None else max(2, len(interpret.labels) if self.chosen else size)
        self._answer = answer
        firsts = [spec.shape[0] for spec in inputs if spec.shape]
        self._batches = {spec.name: _batch(spec, firsts) for spec in outputs}
        for spec in outputs:
            if spec.name != self.answer and spec.dtype not in ("string", "complex64"):
                small = elements(spec) <= 16 and None not in spec.shape[1:] and self._batches[spec.name] == 0
                made: Extractor = Values(spec, numbered(elements(spec))) if small else Summary(spec)
                self._watch(spec, made, "output")
        self.width = len(self.inputs)

    def _watch(self, spec: TensorSpec, made: Extractor, role: str) -> None:
        side, parts = (self.inputs, self._input_parts) if role == "input" else (self.outputs, self._output_parts)
        if len(side) + len(made.names) > MOST:
            self.left_out.append(spec.name)
            return
        begin = len(side)
        side += [Column(name, spec.name, "input" if role == "input" else "output", made.noun) for name in made.names]
        parts.append((spec.name, made, begin, len(side), len(spec.shape)))

    def read_inputs(self, arrays: Mapping[str, Array], sample: int, row: Array) -> None:
        """Numbers of one sample of a batch into `row` [len(inputs)]."""
        for name, made, begin, end, rank in self._input_parts:
            array = arrays[name]
            made.into(array[sample] if array.ndim == rank and rank else array, row[begin:end])

    def read_outputs(self, arrays: Mapping[str, Array], sample: int, row: Array) -> None:
        """The same of the outputs, into `row` [len(outputs)]. An output that has no such sample is read whole."""
        for name, made, begin, end, rank in self._output_parts:
            array = arrays[name]
            axis = self._batches[name]
            if axis is None:  # several answers of this kind come stacked
                one = array[sample] if array.ndim > rank else array
            else:
                one = array.take(sample, axis) if array.ndim == rank and rank and sample < array.shape[axis] else array
            if one.size or not isinstance(made, Values):
                made.into(one, row[begin:end])
            else:
                row[begin:end] = 0

    def scores(self, arrays: Mapping[str, Array], sample: int) -> Array:
        """Probabilities of the classes [classes] of one sample, float64."""
        spec = self._answer
        assert spec is not None  # noqa: S101  only asked of models with classes
        values = arrays[spec.name][sample].reshape(-1)
        if spec.quant is not None and values.dtype == spec.dtype:
            values = (values.astype(np.float64) - spec.quant.zero_point[0]) * spec.quant.scale[0]
        if self.chosen:
            made: Array = np.zeros(self.classes)
            made[min(max(int(values[0]), 0), self.classes - 1)] = 1.0
            return made
        values = values.astype(np.float64)
        if values.size == 1:
            one = float(values[0]) if self.probabilities else 1 / (1 + float(np.exp(-np.clip(values[0], -60, 60))))
            return np.array([1 - one, one])
        if self.probabilities:
            return np.asarray(values)
        raised = np.exp(values - values.max())
        return np.asarray(raised / raised.sum())


def _batch(spec: TensorSpec, firsts: Sequence[int | None]) -> int | None:
    """Which axis of an output counts samples: the free one where the batch is free, wherever it stands; else the first
    if it is as long as the inputs'. None where there is none.
    """
    if None in firsts and spec.shape.count(None) == 1:
        return spec.shape.index(None)
    return 0 if not spec.shape or not firsts or spec.shape[0] in (None, *firsts) else None


def _answer(outputs: Sequence[TensorSpec], how: Interpret) -> TensorSpec | None:
    """The output with the scores of classes."""
    if how.task != "classification" or not outputs:
        return None
    for spec in outputs:
        if how.output in (None, spec.name):
            sized = None not in spec.shape[1:] and elements(spec) <= CLASSES
            return spec if sized and spec.dtype not in ("string", "complex64") else None
    return None


def confidence(scores: Array) -> Array:
    """[n, 3]: probability of the best class, its margin to the second, entropy as a share of the greatest; of
    probabilities [n, classes].
    """
    best = np.partition(scores, -2, axis=1)[:, -2:]
    safe = np.maximum(scores, 1e-12)
    entropy = -(safe * np.log(safe)).sum(axis=1) / np.log(scores.shape[1])
    return np.stack([best[:, 1], best[:, 1] - best[:, 0], entropy], axis=1)
