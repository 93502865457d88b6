"""Boxes of the YOLO family, and of others that tell them cell by cell: read, and decoded where they are sure enough.

Formulas: YOLOv3 (https://arxiv.org/abs/1804.02767, figure 2), YOLOv5
(https://docs.ultralytics.com/yolov5/tutorials/architecture_description), YOLOX (https://arxiv.org/abs/2107.08430).
Sides as distributions (YOLOv8, 9 and 11, NanoDet, PicoDet): Generalized Focal Loss, https://arxiv.org/abs/2006.04388,
section 3.2. Anchors of raw heads come cell by cell, as these export them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgekit.errors import UsageError
from edgekit.reading import DetectionReading, Interpret
from edgekit.runtimes.base import Array
from edgekit.runtimes.interpretation import anchors as anchoring
from edgekit.runtimes.interpretation.boxes import Size, activated, corners, known, one, unreadable
from edgekit.runtimes.interpretation.classes import check_greatest, sigmoid

_NEARLY = 1e-6
"""Rows are left aside by their best score, which is rounded otherwise than the one that is compared at last."""


def yolo(
    outputs: Mapping[str, Array], how: Interpret, about: DetectionReading, size: Size | None, sample: int, least: float
) -> tuple[Array, Array]:
    """Boxes [K,4] in corners and scores [K,C], of those rows at least whose best score reaches `least`.

    Raises:
        UsageError: `output-unknown`; `output-unreadable`: there are none, or the greatest score is not finite.
    """
    heads, there, scores = (_levels if about.decode == "dfl" else _joint)(outputs, how, about, size, sample)
    raw = about.decode in ("v5", "v3")
    likely = sigmoid if raw or about.activation == "sigmoid" else None
    scores = scores if likely is not None else activated(scores, about)
    if there is not None:
        there = sigmoid(there) if raw or about.activation != "none" else there
    best = scores[:, 1 if about.background and scores.shape[1] > 1 else 0 :].max(axis=1)
    check_greatest(best)
    best = best if likely is None else likely(best)
    sure = best if there is None else best * there[:, 0]
    check_greatest(sure)
    kept = np.flatnonzero(sure >= least - _NEARLY)
    scores = scores[kept] if likely is None else np.asarray(likely(scores[kept]), np.float32)
    if there is not None:
        scores = scores * there[kept]
    if about.decode == "none":
        return corners(heads[kept], about.corners), scores
    boxes = _decoded(heads, kept, about, known(size))
    return boxes / np.tile(np.asarray(known(size)[::-1], np.float32), 2) if about.relative else boxes, scores


def _decoded(heads: Array, kept: Array, about: DetectionReading, size: Size) -> Array:
    """Corners in pixels, of the rows that are kept, from what is said of cells and anchors."""
    repeats = tuple(len(pairs) for pairs in about.anchors) or (1,) * len(about.strides)
    cells, steps = anchoring.grid(size, about.strides, repeats)
    if len(cells) != len(heads):
        raise UsageError("output-unreadable", f"the model gives {len(heads)} boxes, the strides make {len(cells)}")
    heads, cells, steps = heads[kept], cells[kept], steps[kept]
    if about.decode == "dfl":
        middle, sides = (cells + np.float32(about.offset)) * steps, _sides(heads, about.bins) * steps
        return np.concatenate([middle - sides[:, :2], middle + sides[:, 2:]], axis=1)
    if about.decode == "grid":
        centers = np.concatenate([(heads[:, :2] + cells) * steps, np.exp(heads[:, 2:]) * steps], axis=1)
        return corners(centers, "center")
    extent = anchoring.anchor_sizes(size, about.strides, about.anchors)[kept]
    if about.decode == "v3":
        centers = np.concatenate([(sigmoid(heads[:, :2]) + cells) * steps, np.exp(heads[:, 2:]) * extent], axis=1)
    else:
        opened = 2 * sigmoid(heads)
        centers = np.concatenate([(opened[:, :2] - 0.5 + cells) * steps, opened[:, 2:] ** 2 * extent], axis=1)
    return corners(centers, "center")


def _sides(heads: Array, bins: int) -> Array:
    """Left, top, right and bottom, in cells: the means of their distributions, or the distances themselves."""
    if bins == 1:
        return heads
    spread = heads.reshape(len(heads), 4, bins)
    spread = np.exp(spread - spread.max(axis=2, keepdims=True))
    return np.asarray(spread @ np.arange(bins, dtype=np.float32) / spread.sum(axis=2), np.float32)


def _joint(
    outputs: Mapping[str, Array], how: Interpret, about: DetectionReading, size: Size | None, sample: int
) -> tuple[Array, Array | None, Array]:
    """Boxes, objectness and scores of rows [N, 4 (+ 1) + C], of one output or of one a stride."""
    del size
    head = 4 + about.objectness
    wanted = [how.output] if how.output else list(outputs)
    several = len(about.strides) if about.decode in ("v5", "v3") and len(wanted) >= len(about.strides) > 1 else 1
    fields = head + len(how.labels) if how.labels else None
    arrays = [np.asarray(one(outputs, key)[sample], np.float32) for key in wanted[:several]]
    if several > 1:  # the finest map has the most cells; anchors are as many everywhere
        placed = sorted(range(several), key=lambda place: about.strides[place])
        largest = sorted(arrays, key=lambda array: -array.size)
        arrays = [largest[placed.index(place)] for place in range(several)]
    parts = [
        _flat(array, fields, len(about.anchors[place]) if about.anchors and several > 1 else 1)
        for place, array in enumerate(arrays)
    ]
    rows = np.concatenate(parts)
    if rows.shape[1] <= head:
        raise unreadable(rows, f"rows of {head} numbers and scores")
    return rows[:, :4], rows[:, 4:5] if about.objectness else None, rows[:, head:]


def _flat(array: Array, fields: int | None, repeat: int) -> Array:
    """Rows of boxes, from [N,F], [F,N], [H,W,A*F], [A*F,H,W] or [A,H,W,F]."""
    if array.ndim == 4:  # [A,H,W,F]: cell by cell, like the others
        return array.transpose(1, 2, 0, 3).reshape(-1, array.shape[3])
    if array.ndim == 3:
        first = fields is not None and array.shape[0] == repeat * fields and array.shape[2] != repeat * fields
        last = array.transpose(1, 2, 0) if first else array
        return last.reshape(-1, last.shape[2] // repeat)
    if array.ndim != 2:
        raise unreadable(array, "rows of boxes")
    if fields is not None and fields not in array.shape:
        raise unreadable(array, f"rows of {fields} numbers")
    turned = array.shape[1] != fields if fields is not None else array.shape[0] < array.shape[1]
    return array.T if turned else array


def _levels(
    outputs: Mapping[str, Array], how: Interpret, about: DetectionReading, size: Size | None, sample: int
) -> tuple[Array, Array | None, Array]:
    """The same of heads whose boxes are four times so many bins: of all cells in one output or in two (boxes, scores),
    or of each stride in one or two. Which is which follows from how many rows and numbers there are.
    """
    grids = [anchoring.cells(known(size), stride) for stride in about.strides]
    counts = [rows * columns for rows, columns in grids]
    width, classes = 4 * about.bins, len(how.labels) or None
    wanted = [how.output] if how.output else list(outputs)
    tables: dict[int, list[Array]] = {}
    for key in wanted:
        array = np.asarray(one(outputs, key)[sample], np.float32)
        shapes = {*grids, *((count,) for count in (*counts, sum(counts)))}
        rows = _rows(array, shapes, {width, classes, width + (classes or 0) + about.objectness})
        tables.setdefault(len(rows), []).append(rows)
    levels = [sum(counts)] if sum(counts) in tables else counts
    parts = [_split(tables.get(count, []), width, classes, about) for count in levels]
    joined = [np.concatenate([part[place] for part in parts]) for place in range(3)]
    return joined[0], joined[1] if about.objectness else None, joined[2]


def _rows(array: Array, shapes: set[tuple[int, ...]], widths: set[int | None]) -> Array:
    """[cells, numbers] from numbers in the last or in the first axis, and cells of one of the shapes in the others."""
    fitting = [array.reshape(-1, array.shape[-1])] if array.shape[:-1] in shapes else []
    if array.shape[1:] in shapes:
        fitting.append(array.reshape(array.shape[0], -1).T)
    if not fitting:
        raise unreadable(array, f"cells as the strides make them: {', '.join(map(str, sorted(shapes)))}")
    return next((rows for rows in fitting if rows.shape[1] in widths), fitting[0])


def _split(tables: list[Array], width: int, classes: int | None, about: DetectionReading) -> tuple[Array, Array, Array]:
    """Boxes, objectness (or no column) and scores, from the tables of the same cells."""
    if not tables:
        raise UsageError("output-unreadable", "there is no output for one of the strides")
    if len(tables) == 1:
        (rows,) = tables
        scored = rows.shape[1] - width - about.objectness
        if scored < 1:
            raise unreadable(rows, f"boxes of {width} numbers, and scores")
        if about.scores_first:
            return rows[:, -width:], rows[:, scored:-width], rows[:, :scored]
        return rows[:, :width], rows[:, width : width + about.objectness], rows[:, width + about.objectness :]
    boxes = next((rows for rows in tables if rows.shape[1] == width), None)
    others = [rows for rows in tables if rows is not boxes]
    scores = next((rows for rows in others if classes in (None, rows.shape[1])), None)
    there = next((rows for rows in others if rows is not scores and rows.shape[1] == 1), None)
    if boxes is None or scores is None or (about.objectness and there is None):
        raise unreadable(tables[0], f"boxes of {width} numbers, and scores beside them")
    return boxes, there if about.objectness and there is not None else boxes[:, :0], scores
