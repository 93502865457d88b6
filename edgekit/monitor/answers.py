"""What a model answered, as one number: enough to compare two models and to see how sure one was."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.tensors import unbatched

if TYPE_CHECKING:
    from edgekit.reading import Interpret
    from edgekit.runtimes.model import Model

_CLASSES = ("classification", "wake-word")
_VALUES = ("regression", "anomaly")


@dataclass(frozen=True)
class Answer:
    """One sample's.

    Attributes:
        value: Index of the class, or the value; None where the answer is neither (boxes, masks).
        score: Of the class, between 0 and 1 where the model gives probabilities; None otherwise.
        is_class: Whether `value` is a class.
        label: Name of the class.
    """

    value: float | None = None
    score: float | None = None
    is_class: bool = False
    label: str = ""

    @property
    def uncertainty(self) -> float | None:
        """1 less the score, where that is a probability."""
        return 1 - self.score if self.score is not None and 0 <= self.score <= 1 else None


class Answers:
    """Reads outputs; what the manifest says is looked up once a model."""

    def __init__(self) -> None:
        self._known: tuple[Model, str, Interpret, dict[str, int]] | None = None

    def framed(self, model: Model, outputs: Mapping[str, NDArray[Any]]) -> tuple[int, Mapping[str, NDArray[Any]]]:
        """How many samples were answered, and outputs with an axis for them each: some models answer one alone."""
        bare = self._how(model)[2]
        if bare or any(np.ndim(array) == 0 for array in outputs.values()):
            outputs = {
                name: np.asarray(array)[None] if np.ndim(array) == bare.get(name, 0) else array
                for name, array in outputs.items()
            }
        return min((len(array) for array in outputs.values()), default=0), outputs

    def read(self, model: Model, outputs: Mapping[str, NDArray[Any]], row: int) -> Answer:
        """The answer to one sample of a batch."""
        output, how, _ = self._how(model)
        array = outputs.get(output)
        if array is None:
            return Answer()
        values = np.asarray(array[row]).reshape(-1)
        if not values.size or values.dtype.kind not in "fiub":
            return Answer()
        if how.task in _VALUES:
            return Answer(float(values[0]))
        if how.task != "classification" and (how.task not in (*_CLASSES, "other") or array.ndim != 2):
            return Answer()
        if values.size == 1:
            if how.task == "classification" and values.dtype.kind in "iu":  # a model that ends in an arg max
                return Answer(float(values[0]), 1.0, True, _label(int(values[0]), how))
            return self._alone(float(values[0]), how)
        best = int(values.argmax())
        return Answer(float(best), _chance(values, best, how), True, _label(best, how))

    @staticmethod
    def _alone(value: float, how: Interpret) -> Answer:
        """One score for two classes."""
        if how.task not in _CLASSES:
            return Answer(value)
        value = value if how.scores == "probabilities" or 0 <= value <= 1 else 1 / (1 + math.exp(-max(value, -700.0)))
        best = int(value > 0.5)
        return Answer(float(best), value if best else 1 - value, True, _label(best, how))

    def _how(self, model: Model) -> tuple[str, Interpret, dict[str, int]]:
        """Which output is read, and how; the number of axes of those that have none for samples."""
        known = self._known
        if known is None or known[0] is not model:
            how, specs = model.interpret, {spec.name: len(spec.shape) for spec in model.outputs}
            bare = {name: specs[name] for name in unbatched(tuple(model.inputs), tuple(model.outputs))}
            known = self._known = (model, how.output or model.outputs[0].name, how, bare)
        return known[1:]


def _chance(values: NDArray[Any], best: int, how: Interpret) -> float:
    """The probability of the best class; what looks like probabilities is taken as such."""
    if how.scores == "probabilities":
        return float(values[best])
    real = values.astype(np.float64)
    if real.min() >= 0 and abs(real.sum() - 1) < 0.02:
        return float(real[best])
    return float(1 / np.exp(real - real[best]).sum())


def _label(number: int, how: Interpret) -> str:
    return how.labels[number] if 0 <= number < len(how.labels) else str(number)
