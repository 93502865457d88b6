"""A detector, then a model on what it found: faces and whose they are, signs and what they say.

cascade = edgekit.Cascade(detector, classifier, labels=("face",), margin=0.1)
for found in cascade.predict(frame):
print(found.detection.box, found.answer.label)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import FeedError, UsageError
from edgekit.feeding import Preprocess
from edgekit.runtimes.base import Array
from edgekit.runtimes.interpretation.results import Detection, Detections
from edgekit.runtimes.preparation import pictures

if TYPE_CHECKING:
    from edgekit.runtimes.model import Model


@dataclass(frozen=True)
class Found:
    """A thing, and what the second model says of it."""

    detection: Detection
    answer: Any

    def to_dict(self) -> dict[str, Any]:
        return {"label": self.detection.label, "score": self.detection.score, "box": list(self.detection.box),
                "answer": self.answer.to_dict()}  # fmt: skip


class Cascade:
    """Two models, one after the other. They stay yours: close them yourself.

    Args:
        detector: Its task is detection.
        classifier: Gets the crops, all of a picture at once where its engine takes batches.
        labels: Only things of these labels; empty for all.
        margin: Share of a box's size that is added on each side, as far as the picture goes.
        limit: At most so many things, the surest.

    Raises:
        UsageError: `cascade-task`: the first model detects nothing.
    """

    def __init__(
        self, detector: Model, classifier: Model, *, labels: tuple[str, ...] = (), margin: float = 0.0, limit: int = 20
    ) -> None:
        if detector.interpret.task != "detection":
            raise UsageError(
                "cascade-task", f"the first model of a cascade detects; this one: {detector.interpret.task}"
            )
        self._detector, self._classifier = detector, classifier
        self._labels, self._margin, self._limit = labels, margin, limit

    def predict(self, picture: Any, *, colors: str | None = None) -> tuple[Found, ...]:
        """What is in a picture: a path, the bytes of a file, an open file, a Pillow image, or uint8 [H,W,3] (in
        `colors`, as `Model.predict` has it).

        Raises:
            FeedError: `feed-dtype`, `feed-shape`: it is none of these. And what `Model.predict` raises.
        """
        if not isinstance(picture, np.ndarray):
            picture, colors = _pixels(picture), "RGB"
        if picture.ndim not in (2, 3):
            sizes = ",".join(map(str, picture.shape))
            raise FeedError("feed-shape", f"a cascade takes one picture [H,W,C], not [{sizes}]")
        seen = self._detector.predict(picture, colors=colors)
        if not isinstance(seen, Detections):
            raise UsageError("cascade-task", "the first model's manifest does not say how its boxes are read")
        chosen = [item for item in seen if not self._labels or item.label in self._labels][: self._limit]
        pairs = [(item, crop) for item in chosen if (crop := self._crop(picture, item)).size]
        answers = self._classifier.predict_batch([crop for _, crop in pairs], colors=colors)
        return tuple(Found(item, answer) for (item, _), answer in zip(pairs, answers, strict=True))

    def _crop(self, picture: Array, item: Detection) -> Array:
        left, top, right, bottom = item.box
        across, down = self._margin * (right - left), self._margin * (bottom - top)
        height, width = picture.shape[:2]
        x = max(int(left - across), 0), min(round(right + across), width)
        y = max(int(top - down), 0), min(round(bottom + down), height)
        return picture[y[0] : y[1], x[0] : x[1]]


def _pixels(picture: Any) -> Array:
    """uint8 [H,W,3], RGB, of a picture that is no array."""
    if isinstance(picture, (str, Path)):
        picture = pictures.open_image(Path(picture))
    elif pictures.holds_a_file(picture):
        picture = pictures.read_image(picture, "a cascade")
    if not hasattr(picture, "convert"):
        raise FeedError("feed-dtype", f"a cascade takes a picture, not {type(picture).__name__}")
    return pictures.pixels(picture, Preprocess("image"), 3)
