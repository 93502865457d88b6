"""From output arrays to answers, as the manifest says: typed, frozen, with `to_dict()`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgekit.errors import UsageError
from edgekit.manifest import Interpret
from edgekit.runtimes.base import Array

SHOWN = 8


@dataclass(frozen=True)
class Score:
    """One class and its probability (0..1)."""

    index: int
    label: str
    score: float


@dataclass(frozen=True)
class Classification:
    """The best classes of one sample, best first."""

    classes: tuple[Score, ...]

    @property
    def label(self) -> str:
        return self.classes[0].label

    def to_dict(self) -> dict[str, Any]:
        return {"task": "classification", "classes": [asdict(score) for score in self.classes]}


@dataclass(frozen=True)
class MultiLabel:
    """All classes of one sample at or above 0.5, best first."""

    classes: tuple[Score, ...]

    def to_dict(self) -> dict[str, Any]:
        return {"task": "multi-label", "classes": [asdict(score) for score in self.classes]}


@dataclass(frozen=True)
class Regression:
    """The values of one sample."""

    values: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        return {"task": "regression", "values": list(self.values)}


@dataclass(frozen=True)
class Raw:
    """Outputs without a reading: shape and the first values of each."""

    outputs: Mapping[str, Array]

    def to_dict(self) -> dict[str, Any]:
        return {
            name: {"shape": list(array.shape), "first": array.reshape(-1)[:SHOWN].tolist()}
            for name, array in self.outputs.items()
        }


Answer = Classification | MultiLabel | Regression | Raw


def interpret(outputs: Mapping[str, Array], how: Interpret) -> Answer:
    """Read the first sample of a batch.

    Args:
        outputs: Array by name, real values, with a batch axis.
        how: The manifest's.

    Raises:
        UsageError: `output-unknown`: `how` names an output that is not there.
    """
    if how.output is not None and how.output not in outputs:
        raise UsageError("output-unknown", f"there is no output {how.output}; known: {', '.join(outputs)}")
    values = np.asarray(outputs[how.output or next(iter(outputs))], np.float64)
    sample = values.reshape(values.shape[0], -1)[0] if values.ndim else values.reshape(1)
    if how.task == "classification":
        return Classification(_best(_probabilities(sample, how), how)[: how.top_k])
    if how.task == "multi-label":
        scores = sample if how.scores == "probabilities" else 1 / (1 + np.exp(-sample))
        return MultiLabel(tuple(score for score in _best(scores, how) if score.score >= 0.5))
    if how.task == "regression":
        return Regression(tuple(float(value) for value in sample))
    return Raw(outputs)


def _probabilities(sample: Array, how: Interpret) -> Array:
    if sample.size == 1:  # one output of a binary classifier: the probability of class 1
        one = sample if how.scores == "probabilities" else 1 / (1 + np.exp(-sample))
        return np.concatenate([1 - one, one])
    if how.scores == "probabilities":
        return sample
    raised = np.exp(sample - sample.max())
    return np.asarray(raised / raised.sum())


def _best(scores: Array, how: Interpret) -> tuple[Score, ...]:
    order = np.argsort(-scores, kind="stable")
    return tuple(Score(int(i), how.labels[i] if i < len(how.labels) else str(i), float(scores[i])) for i in order)
