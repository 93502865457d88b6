"""Boxes: decoded from the families of detectors, suppressed, and mapped back to the picture that was given.

Formulas: SSD (https://arxiv.org/abs/1512.02325, section 2.2; the variances are its authors' code's), YOLOv3
(https://arxiv.org/abs/1804.02767, figure 2), YOLOv5 (https://docs.ultralytics.com/yolov5/tutorials/architecture_description),
YOLOX (https://arxiv.org/abs/2107.08430). Anchors of raw heads come cell by cell, as these export them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgekit.errors import UsageError
from edgekit.reading import DetectionReading, Interpret
from edgekit.runtimes.base import Array
from edgekit.runtimes.interpretation import anchors as anchoring
from edgekit.runtimes.interpretation.classes import sigmoid, softmax
from edgekit.runtimes.interpretation.results import Detection, Detections, name
from edgekit.runtimes.interpretation.suppression import suppress, suppress_classes
from edgekit.runtimes.preparation.pictures import Placement

BOX_THRESHOLD = 0.25
Size = tuple[int, int]


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
        UsageError: `output-unknown`, `output-unreadable`.
    """
    about = how.detection or DetectionReading()
    least = BOX_THRESHOLD if how.threshold is None else how.threshold
    if about.family == "finished":
        boxes, scores, classes = _finished(outputs, about, sample)
        places = np.flatnonzero(scores >= least)[: about.limit]
    else:
        decoded = {"boxes": _boxes, "ssd": _ssd, "yolo": _yolo}[about.family](outputs, about, how, size, sample)
        boxes, scores, classes = _candidates(*decoded, least, about)
        if about.agnostic:
            places = suppress(boxes, scores, about.iou, about.limit)
        else:
            places = suppress_classes(boxes, scores, classes, about.iou, about.limit)
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


def _finished(outputs: Mapping[str, Array], about: DetectionReading, sample: int) -> tuple[Array, Array, Array]:
    taken = _named(outputs, (about.boxes, about.classes, about.scores, about.count))
    rows = taken[0][sample]
    if len(taken) == 1:
        if rows.ndim != 2 or rows.shape[1] != 6:
            raise _unreadable(taken[0], "rows of box, score and class")
        boxes, scores, classes = rows[:, :4], rows[:, 4], rows[:, 5]
    else:
        if len(taken) < 3:
            raise _unreadable(taken[0], "boxes, classes and scores")
        boxes, classes, scores = rows, taken[1][sample], taken[2][sample]
    count = int(np.ravel(taken[3])[min(sample, taken[3].size - 1)]) if len(taken) > 3 else len(boxes)
    boxes = _corners(np.asarray(boxes[:count], np.float32), about.corners)
    return boxes, np.asarray(scores[:count], np.float32), np.rint(classes[:count]).astype(np.int64)


def _boxes(
    outputs: Mapping[str, Array], about: DetectionReading, how: Interpret, size: Size | None, sample: int
) -> tuple[Array, Array]:
    del how, size
    boxes, scores = _pair(outputs, about, sample)
    return _corners(boxes, about.corners), _activated(scores, about)


def _ssd(
    outputs: Mapping[str, Array], about: DetectionReading, how: Interpret, size: Size | None, sample: int
) -> tuple[Array, Array]:
    del how
    offsets, scores = _pair(outputs, about, sample)
    prior = anchoring.priors(_known(size), about.strides, about.anchors, clip=about.clip)
    if len(prior) != len(offsets):
        raise UsageError(
            "output-unreadable", f"the model gives {len(offsets)} boxes, the strides and anchors make {len(prior)}"
        )
    if about.corners in ("yxyx", "yx-center"):
        offsets = offsets[:, [1, 0, 3, 2]]
    center = offsets[:, :2] * np.float32(about.variances[0]) * prior[:, 2:] + prior[:, :2]
    extent = np.exp(offsets[:, 2:] * np.float32(about.variances[1])) * prior[:, 2:]
    return np.concatenate([center - extent / 2, center + extent / 2], axis=1), _activated(scores, about)


def _yolo(
    outputs: Mapping[str, Array], about: DetectionReading, how: Interpret, size: Size | None, sample: int
) -> tuple[Array, Array]:
    """Boxes in corners, scores [N,C]."""
    head = 4 + about.objectness
    rows = _rows(outputs, about, how, sample)
    boxes, rest = rows[:, :4], rows[:, head:]
    raw = about.decode in ("v5", "v3")
    if raw:
        boxes, rest = boxes.copy(), sigmoid(rest)
    if about.decode != "none":
        boxes = _celled(boxes, about, _known(size))
    scores = _activated(rest, about)
    if about.objectness:
        there = rows[:, 4:5]
        scores = scores * (sigmoid(there) if raw or about.activation != "none" else there)
    corners = "center" if about.decode != "none" else about.corners
    boxes = _corners(boxes, corners)
    if about.decode != "none" and about.relative:  # decoded in pixels
        boxes = boxes / np.tile(np.asarray(_known(size)[::-1], np.float32), 2)
    return boxes, scores


def _celled(boxes: Array, about: DetectionReading, size: Size) -> Array:
    """Center and size in pixels, from what YOLO says of cells and anchors."""
    repeats = tuple(len(pairs) for pairs in about.anchors) or (1,) * len(about.strides)
    corners, steps = anchoring.grid(size, about.strides, repeats)
    if len(corners) != len(boxes):
        raise UsageError("output-unreadable", f"the model gives {len(boxes)} boxes, the strides make {len(corners)}")
    if about.decode == "grid":
        return np.concatenate([(boxes[:, :2] + corners) * steps, np.exp(boxes[:, 2:]) * steps], axis=1)
    extent = anchoring.anchor_sizes(size, about.strides, about.anchors)
    if about.decode == "v3":
        return np.concatenate([(sigmoid(boxes[:, :2]) + corners) * steps, np.exp(boxes[:, 2:]) * extent], axis=1)
    opened = 2 * sigmoid(boxes)
    return np.concatenate([(opened[:, :2] - 0.5 + corners) * steps, opened[:, 2:] ** 2 * extent], axis=1)


def _rows(outputs: Mapping[str, Array], about: DetectionReading, how: Interpret, sample: int) -> Array:
    """float32 [N, 4 (+ 1) + C], of one output or of one a stride."""
    wanted = [how.output] if how.output else list(outputs)
    several = len(about.strides) if about.decode in ("v5", "v3") and len(wanted) >= len(about.strides) > 1 else 1
    fields = 4 + about.objectness + len(how.labels) if how.labels else None
    parts = []
    for place, key in enumerate(wanted[:several]):
        array = np.asarray(_one(outputs, key)[sample], np.float32)
        repeat = len(about.anchors[place]) if about.anchors and several > 1 else 1
        parts.append(_flat(array, fields, repeat))
    return np.concatenate(parts)


def _flat(array: Array, fields: int | None, repeat: int) -> Array:
    """Rows of boxes, from [N,F], [F,N], [H,W,A*F], [A*F,H,W] or [A,H,W,F]."""
    if array.ndim == 4:  # [A,H,W,F]: cell by cell, like the others
        return array.transpose(1, 2, 0, 3).reshape(-1, array.shape[3])
    if array.ndim == 3:
        first = fields is not None and array.shape[0] == repeat * fields and array.shape[2] != repeat * fields
        last = array.transpose(1, 2, 0) if first else array
        return last.reshape(-1, last.shape[2] // repeat)
    if array.ndim != 2:
        raise _unreadable(array, "rows of boxes")
    if fields is not None and fields not in array.shape:
        raise _unreadable(array, f"rows of {fields} numbers")
    turned = array.shape[1] != fields if fields is not None else array.shape[0] < array.shape[1]
    return array.T if turned else array


def _pair(outputs: Mapping[str, Array], about: DetectionReading, sample: int) -> tuple[Array, Array]:
    """Boxes [N,4] and scores [N,C], as float32; by name, else by their shapes, else by their places."""
    taken = _named(outputs, (about.boxes, about.scores))
    if len(taken) < 2:
        raise _unreadable(taken[0], "boxes, and an output of scores beside them")
    boxes, scores = (np.asarray(array[sample], np.float32) for array in taken[:2])
    if about.boxes is None and boxes.shape[-1] != 4 and scores.shape[-1] == 4:
        boxes, scores = scores, boxes
    boxes = boxes.reshape(-1, boxes.shape[-1])
    if boxes.shape[1] != 4:
        raise _unreadable(boxes, "boxes of four numbers")
    if scores.size % max(len(boxes), 1):
        raise _unreadable(scores, f"scores of {len(boxes)} boxes")
    return boxes, scores.reshape(len(boxes), -1)


def _named(outputs: Mapping[str, Array], names: tuple[str | None, ...]) -> list[Array]:
    """The outputs that are named; without names, all by their places."""
    if not any(names):
        if not outputs:
            raise UsageError("output-unreadable", "the model gives no output to read a detection from")
        return [np.asarray(array) for array in outputs.values()]
    return [_one(outputs, key) for key in names if key is not None]


def _one(outputs: Mapping[str, Array], key: str) -> Array:
    if key not in outputs:
        raise UsageError("output-unknown", f"there is no output {key}; known: {', '.join(outputs)}")
    return np.asarray(outputs[key])


def _activated(scores: Array, about: DetectionReading) -> Array:
    if about.activation == "none":
        return scores
    return np.asarray(sigmoid(scores) if about.activation == "sigmoid" else softmax(scores), np.float32)


def _corners(boxes: Array, order: str) -> Array:
    """Left, top, right, bottom."""
    if order == "xyxy":
        return boxes
    if order in ("yxyx", "yx-center"):
        boxes = boxes[:, [1, 0, 3, 2]]
    if order in ("xyxy", "yxyx"):
        return boxes
    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def _placed(boxes: Array, about: DetectionReading, size: Size | None, placement: Placement | None) -> Array:
    size = placement.target if placement is not None else size
    if size is None:
        return boxes
    if about.relative:
        boxes = boxes * np.tile(np.asarray(size[::-1], np.float32), 2)
    if placement is None:
        return boxes
    return np.asarray(placement.back(boxes.reshape(-1, 2, 2)).reshape(-1, 4))


def _known(size: Size | None) -> Size:
    if size is None:
        raise UsageError("output-unreadable", "anchors need the size of the input, which is no picture of fixed size")
    return size


def _unreadable(array: Array, wanted: str) -> UsageError:
    return UsageError("output-unreadable", f"the output {list(array.shape)} does not hold {wanted}")
