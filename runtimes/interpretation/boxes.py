"""What the families of detectors share: outputs by name, scores activated, boxes by their corners."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgekit.errors import UsageError
from edgekit.reading import DetectionReading
from edgekit.runtimes.base import Array
from edgekit.runtimes.interpretation.classes import check_greatest, sigmoid, softmax

Size = tuple[int, int]


def one(outputs: Mapping[str, Array], key: str) -> Array:
    """The output of a name.

    Raises:
        UsageError: `output-unknown`.
    """
    if key not in outputs:
        raise UsageError("output-unknown", f"there is no output {key}; known: {', '.join(outputs)}")
    return np.asarray(outputs[key])


def activated(scores: Array, about: DetectionReading) -> Array:
    """Probabilities, float32.

    Raises:
        UsageError: `output-unreadable`: a softmax of what is not finite.
    """
    if about.activation == "none":
        return scores
    if about.activation == "sigmoid":
        return np.asarray(sigmoid(scores), np.float32)
    check_greatest(scores.reshape(-1))
    return np.asarray(softmax(scores), np.float32)


def corners(boxes: Array, order: str) -> Array:
    """Left, top, right, bottom, from boxes [N,4] in the order of `DetectionReading.corners`."""
    if order == "xyxy":
        return boxes
    if order in ("yxyx", "yx-center"):
        boxes = boxes[:, [1, 0, 3, 2]]
    if order == "yxyx":
        return boxes
    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def known(size: Size | None) -> Size:
    """Height and width of the input.

    Raises:
        UsageError: `output-unreadable`: there are none.
    """
    if size is None:
        raise UsageError("output-unreadable", "anchors need the size of the input, which is no picture of fixed size")
    return size


def unreadable(array: Array, wanted: str) -> UsageError:
    """What is raised for an output that holds something else."""
    return UsageError("output-unreadable", f"the output {list(array.shape)} does not hold {wanted}")
