"""Boxes: decoded from the families of detectors, suppressed, and mapped back to the picture that was given.

SSD: https://arxiv.org/abs/1512.02325, section 2.2; the variances are its authors' code's.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgekit.errors import UsageError
from edgekit.reading import DetectionReading, Interpret
from edgekit.runtimes.base import Array
from edgekit.runtimes.interpretation import anchors as anchoring
from edgekit.runtimes.interpretation.boxes import Size, activated, corners, known, one, unreadable
from edgekit.runtimes.interpretation.classes import check_greatest, check_numbers
from edgekit.runtimes.interpretation.results import Detection, Detections, name
from edgekit.runtimes.interpretation.suppression import suppress, suppress_classes
from edgekit.runtimes.interpretation.yolo import yolo
from edgekit.runtimes.preparation.pictures import Placement

BOX_THRESHOLD = 0.25


def detections(
    outputs: Mapping[str, Array], how: Interpret, size: Size | None, placement: Placement | None, sample: int = 0
) -> Detections:
    """All things of one sample.

    Args:
        outputs: By name, with a batch axis.
        how: The manifest's.
        size: Height and width of the input; None where it is not known, and boxes stay relative.
        placement: Where the picture lies in the input; None to answer in pixels of the input.
        sample: Which of the batch.

    Raises:
        UsageError: `output-unknown`; `output-unreadable`: there are none, or a box or the greatest score is not finite.
    """
    about = how.detection or DetectionReading()
    least = BOX_THRESHOLD if how.threshold is None else how.threshold
    if about.family == "finished":
        boxes, scores, classes = _finished(outputs, about, sample, least)
        places = np.argsort(-scores, kind="stable")[: about.limit]
    else:
        if about.family == "yolo":
            decoded = yolo(outputs, how, about, size, sample, least)
        else:
            decoded = {"boxes": _boxes, "ssd": _ssd}[about.family](outputs, about, size, sample)
        boxes, scores, classes = _candidates(*decoded, least, about)
        if about.agnostic:
            places = suppress(boxes, scores, about.iou, about.limit)
        else:
            places = suppress_classes(boxes, scores, classes, about.iou, about.limit)
    check_numbers(boxes[places])
    found = _placed(boxes[places], about, size, placement)
    listed = zip(classes[places].tolist(), scores[places].tolist(), found.tolist(), strict=True)
    return Detections(
        tuple(Detection(index, name(index, how.labels), score, tuple(box)) for index, score, box in listed)
    )


def _candidates(boxes: Array, scores: Array, least: float, about: DetectionReading) -> tuple[Array, Array, Array]:
    """Boxes [K,4] in corners, scores [K], classes [K], of all pairs of box and class that reach the threshold."""
    if about.background:
        scores = scores[:, 1:]
    if scores.shape[1] == 1:
        rows = np.flatnonzero(scores[:, 0] >= least)
        columns = np.zeros(rows.size, np.int64)
    elif about.agnostic:  # of a box, only its likeliest class counts
        best = scores.argmax(axis=1)
        rows = np.flatnonzero(scores[np.arange(len(scores)), best] >= least)
        columns = best[rows]
    else:
        rows, columns = np.nonzero(scores >= least)
    return boxes[rows], np.asarray(scores[rows, columns], np.float32), columns


def _finished(
    outputs: Mapping[str, Array], about: DetectionReading, sample: int, least: float
) -> tuple[Array, Array, Array]:
    """Boxes [K,4] in corners, scores [K], classes [K], of those that reach the threshold."""
    taken = _named(outputs, (about.boxes, about.classes, about.scores, about.count))
    rows = taken[0][sample]
    if len(taken) == 1:
        if rows.ndim != 2 or rows.shape[1] != 6:
            raise unreadable(taken[0], "rows of box, score and class")
        boxes, scores, classes = rows[:, :4], rows[:, 4], rows[:, 5]
    else:
        if len(taken) < 3:
            raise unreadable(taken[0], "boxes, classes and scores")
        boxes, classes, scores = rows, taken[1][sample], taken[2][sample]
    if len(taken) > 3:
        check_numbers(told := np.ravel(taken[3])[min(sample, taken[3].size - 1)])
        boxes, scores, classes = (array[: int(told)] for array in (boxes, scores, classes))
    scores = np.asarray(scores, np.float32)
    check_greatest(scores)
    kept = np.flatnonzero(scores >= least)
    check_numbers(classes[kept])
    numbers = np.rint(classes[kept]).astype(np.int64)
    if about.background:
        kept, numbers = kept[numbers != 0], numbers[numbers != 0] - 1
    return corners(np.asarray(boxes[kept], np.float32), about.corners), scores[kept], numbers


def _boxes(
    outputs: Mapping[str, Array], about: DetectionReading, size: Size | None, sample: int
) -> tuple[Array, Array]:
    del size
    boxes, scores = _pair(outputs, about, sample)
    return corners(boxes, about.corners), activated(scores, about)


def _ssd(outputs: Mapping[str, Array], about: DetectionReading, size: Size | None, sample: int) -> tuple[Array, Array]:
    offsets, scores = _pair(outputs, about, sample)
    prior = anchoring.priors(known(size), about.strides, about.anchors, clip=about.clip)
    if len(prior) != len(offsets):
        raise UsageError(
            "output-unreadable", f"the model gives {len(offsets)} boxes, the strides and anchors make {len(prior)}"
        )
    if about.corners in ("yxyx", "yx-center"):
        offsets = offsets[:, [1, 0, 3, 2]]
    center = offsets[:, :2] * np.float32(about.variances[0]) * prior[:, 2:] + prior[:, :2]
    extent = np.exp(offsets[:, 2:] * np.float32(about.variances[1])) * prior[:, 2:]
    return np.concatenate([center - extent / 2, center + extent / 2], axis=1), activated(scores, about)


def _pair(outputs: Mapping[str, Array], about: DetectionReading, sample: int) -> tuple[Array, Array]:
    """Boxes [N,4] and scores [N,C], as float32; by name, else by their shapes, else by their places."""
    taken = _named(outputs, (about.boxes, about.scores))
    if len(taken) < 2:
        raise unreadable(taken[0], "boxes, and an output of scores beside them")
    boxes, scores = (np.asarray(array[sample], np.float32) for array in taken[:2])
    if about.boxes is None and boxes.shape[-1] != 4 and scores.shape[-1] == 4:
        boxes, scores = scores, boxes
    boxes = boxes.reshape(-1, boxes.shape[-1])
    if boxes.shape[1] != 4:
        raise unreadable(boxes, "boxes of four numbers")
    if scores.size % max(len(boxes), 1):
        raise unreadable(scores, f"scores of {len(boxes)} boxes")
    check_greatest(scores.reshape(-1))
    return boxes, scores.reshape(len(boxes), -1)


def _named(outputs: Mapping[str, Array], names: tuple[str | None, ...]) -> list[Array]:
    """The outputs that are named; without names, all by their places."""
    if not any(names):
        if not outputs:
            raise UsageError("output-unreadable", "the model gives no output to read a detection from")
        return [np.asarray(array) for array in outputs.values()]
    return [one(outputs, key) for key in names if key is not None]


def _placed(boxes: Array, about: DetectionReading, size: Size | None, placement: Placement | None) -> Array:
    size = placement.target if placement is not None else size
    if size is None:
        return boxes
    if about.relative:
        boxes = boxes * np.asarray([size[1], size[0], size[1], size[0]], np.float32)
    if placement is None:
        return boxes
    return np.asarray(placement.back(boxes.reshape(-1, 2, 2)).reshape(-1, 4))
