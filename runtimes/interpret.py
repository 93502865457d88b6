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
        UsageError: `output-unknown`: `how` names an output that is not there; `output-unreadable`: there is none, or it
            holds no numbers.
    """
    if how.output is not None and how.output not in outputs:
        raise UsageError("output-unknown", f"there is no output {how.output}; known: {', '.join(outputs)}")
    if how.task not in ("classification", "multi-label", "regression"):
        return Raw(outputs)
    values = _values(outputs, how)
    sample = values.reshape(values.shape[0], -1)[0] if values.ndim else values.reshape(1)
    if how.task == "classification":
        index = _index(outputs, how)
        if index is not None:
            return Classification((Score(index, _label(index, how), 1.0),))
        return Classification(_best(_probabilities(sample, how), how)[: how.top_k])
    if how.task == "multi-label":
        scores = sample if how.scores == "probabilities" else _sigmoid(sample)
        return MultiLabel(tuple(score for score in _best(scores, how) if score.score >= 0.5))
    return Regression(tuple(float(value) for value in sample))


def _index(outputs: Mapping[str, Array], how: Interpret) -> int | None:
    """The class itself, where the model ends in an arg max: one integer a sample."""
    answer = np.asarray(outputs[how.output or next(iter(outputs))])
    samples = answer.shape[0] if answer.ndim else 1
    return int(answer.reshape(-1)[0]) if answer.dtype.kind in "iu" and answer.size == samples else None


def _label(index: int, how: Interpret) -> str:
    return how.labels[index] if 0 <= index < len(how.labels) else str(index)


def _values(outputs: Mapping[str, Array], how: Interpret) -> Array:
    if not outputs:
        raise UsageError("output-unreadable", f"the model gives no output to read a {how.task} from")
    name = how.output or next(iter(outputs))
    values = np.asarray(outputs[name])
    if values.dtype.kind not in "fiub" or not values.size:
        raise UsageError(
            "output-unreadable",
            f"{name} gives {values.dtype} {list(values.shape)}, from which no {how.task} can be read",
        )
    return values.astype(np.float64)


def _probabilities(sample: Array, how: Interpret) -> Array:
    if sample.size == 1:  # one output of a binary classifier: the probability of class 1
        one = sample if how.scores == "probabilities" else _sigmoid(sample)
        return np.concatenate([1 - one, one])
    if how.scores == "probabilities":
        return sample
    raised = np.exp(sample - sample.max())
    return np.asarray(raised / raised.sum())


def _sigmoid(logits: Array) -> Array:
    small = np.exp(-np.abs(logits))  # never overflows
    return np.asarray(np.where(logits < 0, small, 1.0) / (1 + small))


def _best(scores: Array, how: Interpret) -> tuple[Score, ...]:
    order = np.argsort(-scores, kind="stable")
    return tuple(Score(int(i), _label(int(i), how), float(scores[i])) for i in order)
