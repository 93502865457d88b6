"""What a model can answer: frozen, typed, with `to_dict()` for JSON. Coordinates are (x, y) from the upper left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

from edgekit.runtimes.base import Array

SHOWN = 8


class Score(NamedTuple):
    """One class and its probability (0..1). A tuple, because lists of them are made at every answer."""

    index: int  # type: ignore[assignment]  # a method of tuples, which nobody asks for here
    label: str
    score: float


@dataclass(frozen=True)
class Classification:
    """The best classes of one sample, best first; none where none reaches the threshold."""

    classes: tuple[Score, ...]

    @property
    def label(self) -> str | None:
        """Of the best class."""
        return self.classes[0].label if self.classes else None

    def to_dict(self) -> dict[str, Any]:
        return {"task": "classification", "classes": [score._asdict() for score in self.classes]}


@dataclass(frozen=True)
class MultiLabel:
    """All classes of one sample at or above the threshold, best first."""

    classes: tuple[Score, ...]

    def to_dict(self) -> dict[str, Any]:
        return {"task": "multi-label", "classes": [score._asdict() for score in self.classes]}


@dataclass(frozen=True)
class Regression:
    """The values of one sample."""

    values: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        return {"task": "regression", "values": list(self.values)}


@dataclass(frozen=True)
class Detection:
    """One thing and where it is.

    Attributes:
        box: Left, top, right, bottom: in pixels of the picture that was given; where none was (arrays by input name),
            in pixels of the input.
    """

    index: int
    label: str
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Detections:
    """All things in a picture, surest first."""

    items: tuple[Detection, ...]

    def __iter__(self) -> Iterator[Detection]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def count(self, label: str) -> int:
        """How many things of that label."""
        return sum(item.label == label for item in self.items)

    def to_dict(self) -> dict[str, Any]:
        return {"task": "detection", "items": [asdict(item) | {"box": list(item.box)} for item in self.items]}


@dataclass(frozen=True)
class Segmentation:
    """A class for each pixel.

    Attributes:
        classes: uint8 or int32 [H,W], of the picture that was given, else of the output.
        labels: Of the model.
    """

    classes: Array
    labels: tuple[str, ...]

    def shares(self) -> dict[str, float]:
        """Label -> share of the picture (0..1), of the classes that are there."""
        found, counts = np.unique(self.classes, return_counts=True)
        pixels: dict[str, int] = {}
        for index, count in zip(found.tolist(), counts.tolist(), strict=True):
            label = name(index, self.labels)
            pixels[label] = pixels.get(label, 0) + count  # several classes may have one name
        return {label: count / self.classes.size for label, count in pixels.items()}

    def to_dict(self) -> dict[str, Any]:
        return {"task": "segmentation", "size": list(self.classes.shape), "shares": self.shares()}


@dataclass(frozen=True)
class Keypoint:
    """One point, in pixels like `Detection.box`; the score is 1 where the model gives none."""

    label: str
    x: float
    y: float
    score: float


@dataclass(frozen=True)
class Keypoints:
    """All points of one thing, in the model's order, those below the threshold as well."""

    points: tuple[Keypoint, ...]

    def to_dict(self) -> dict[str, Any]:
        return {"task": "keypoints", "points": [asdict(point) for point in self.points]}


@dataclass(frozen=True)
class Anomaly:
    """How unusual a sample is, and whether that is too much."""

    score: float
    threshold: float
    anomalous: bool

    def to_dict(self) -> dict[str, Any]:
        return {"task": "anomaly", **asdict(self)}


@dataclass(frozen=True)
class Embedding:
    """A direction: float32 [n] of length 1; all zeros where the model gave zeros."""

    vector: Array

    def cosine(self, other: Embedding) -> float:
        """1 for the same direction, 0 for unrelated ones, -1 for opposite ones."""
        return float(np.dot(self.vector, other.vector))

    def to_dict(self) -> dict[str, Any]:
        return {"task": "embedding", "vector": self.vector.tolist()}


@dataclass(frozen=True)
class Tag:
    """A label over the steps from `start` to before `end`, with its mean probability."""

    index: int
    label: str
    score: float
    start: int
    end: int


@dataclass(frozen=True)
class Sequence:
    """The labels along a sequence."""

    tags: tuple[Tag, ...]

    def to_dict(self) -> dict[str, Any]:
        return {"task": "sequence", "tags": [asdict(tag) for tag in self.tags]}


@dataclass(frozen=True)
class WakeWord:
    """The likeliest word of one window, and whether it counts as heard.

    Attributes:
        label: None where all words lie below the threshold.
        score: Of the likeliest word, smoothed where windows follow each other.
        heard: At the threshold, and no word was heard shortly before.
        scores: Of all words, by label.
    """

    label: str | None
    score: float
    heard: bool
    scores: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {"task": "wake-word", "label": self.label, "score": self.score, "heard": self.heard}


@dataclass(frozen=True)
class Raw:
    """Outputs without a reading: shape and the first values of each."""

    outputs: Mapping[str, Array]

    def to_dict(self) -> dict[str, Any]:
        return {
            name: {"shape": list(array.shape), "first": array.reshape(-1)[:SHOWN].tolist()}
            for name, array in self.outputs.items()
        }


Answer = (
    Classification | MultiLabel | Regression | Detections | Segmentation | Keypoints | Anomaly | Embedding | Sequence
    | WakeWord | Raw
)  # fmt: skip


def name(index: int, labels: tuple[str, ...]) -> str:
    """The label of a class; its index where there are no labels."""
    return labels[index] if 0 <= index < len(labels) else str(index)
