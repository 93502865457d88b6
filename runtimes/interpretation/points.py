"""Masks and key points: a class a pixel, a place a point."""

from __future__ import annotations

import numpy as np

from edgekit.errors import UsageError
from edgekit.reading import Interpret, KeypointReading
from edgekit.runtimes.base import Array
from edgekit.runtimes.interpretation.classes import LABEL_THRESHOLD, check_greatest, check_numbers, sigmoid
from edgekit.runtimes.interpretation.results import Keypoint, Keypoints, Segmentation, name
from edgekit.runtimes.preparation.pictures import Placement


def segmentation(
    sample: Array, how: Interpret, size: tuple[int, int] | None, placement: Placement | None
) -> Segmentation:
    """Of scores [H,W,C] or [C,H,W], or classes (integers) [H,W], [H,W,1] or [1,H,W]; in the size of the picture that
    was given.

    Args:
        sample: Of one picture.
        how: The manifest's.
        size: Height and width of the input; None where it is not known.
        placement: Where the picture lies in the input; None for the output's own size.

    Raises:
        UsageError: `output-unreadable`: it holds no such thing, or what is no number, or nothing says which axis
            counts the classes.
    """
    if sample.ndim == 3:
        axis = _class_axis(sample.shape, len(how.labels), size)
        if sample.shape[axis] == 1:
            sample = sample.squeeze(axis)
    if sample.ndim == 2:
        classes = sample if sample.dtype.kind in "iub" else _one(sample, how)
    elif sample.ndim == 3:
        classes = sample.argmax(axis=axis)
        check_numbers(np.take_along_axis(sample, np.expand_dims(classes, axis), axis))  # what is none is the greatest
    else:
        raise UsageError("output-unreadable", f"{list(sample.shape)} holds no picture of scores or classes")
    made = np.asarray(classes, np.uint8 if int(classes.max(initial=0)) < 256 else np.int32)
    return Segmentation(made if placement is None else _back(made, placement), how.labels)


def _class_axis(shape: tuple[int, ...], labels: int, size: tuple[int, int] | None) -> int:
    """Where the classes are counted: where there is a single score, or one a label; else beside the two axes that have
    the input's proportions, or that are as long as each other, or twice as long as the third at least.

    Raises:
        UsageError: `output-unreadable`: none of it tells the one end from the other.
    """
    for wanted in (1, labels):
        for axis in (2, 0):
            if shape[axis] == wanted:
                return axis
    planes = {2: shape[:2], 0: shape[1:]}
    alike = [axis for axis, plane in planes.items() if size is not None and _alike(plane, size)]
    square = [axis for axis, (height, width) in planes.items() if height == width]
    short = [axis for axis, plane in planes.items() if 2 * shape[axis] <= min(plane)]
    for found in (alike, square, short):
        if len(found) == 1:
            return found[0]
    raise UsageError(
        "output-unreadable", f"nothing says which axis of {list(shape)} counts the classes",
        next_step="Convert with as many --labels as there are classes.",
    )  # fmt: skip


def _alike(plane: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Whether a picture was made smaller or larger to this, within a pixel."""
    return abs(plane[0] * size[1] - plane[1] * size[0]) < max(size)


def _one(sample: Array, how: Interpret) -> Array:
    """A single score a pixel: class 1 at the threshold, else class 0."""
    check_greatest(sample.reshape(-1))
    scores = sample if how.scores == "probabilities" else sigmoid(sample)
    return scores >= (LABEL_THRESHOLD if how.threshold is None else how.threshold)


def _back(classes: Array, placement: Placement) -> Array:
    """[H,W] of the source: what lies on the border is left out, what was cut off is class 0."""
    height, width = placement.source
    # Where the middle of each source pixel lies in the output, which may be coarser than the input.
    ratio = [size / target for size, target in zip(classes.shape, placement.target, strict=True)]
    rows = ((np.arange(height) + 0.5) * placement.scale[1] + placement.offset[1]) * ratio[0]
    columns = ((np.arange(width) + 0.5) * placement.scale[0] + placement.offset[0]) * ratio[1]
    inside = ((rows >= 0) & (rows < classes.shape[0]))[:, None] & ((columns >= 0) & (columns < classes.shape[1]))
    y, x = (np.clip(at.astype(np.int64), 0, size - 1) for at, size in zip((rows, columns), classes.shape, strict=True))
    return np.asarray(np.where(inside, classes[y[:, None], x], 0), classes.dtype)


def keypoints(sample: Array, how: Interpret, size: tuple[int, int] | None, placement: Placement | None) -> Keypoints:
    """Of coordinates [...,K,2 or 3] or heatmaps.

    Raises:
        UsageError: `output-unreadable`: it holds none, or what is no finite number.
    """
    about = how.keypoints or KeypointReading()
    size = placement.target if placement is not None else size
    if about.form == "heatmaps":
        places, scores = _peaks(sample, about)
        relative = True
    else:
        rows = np.asarray(sample, np.float64).reshape(-1, sample.shape[-1])
        if rows.shape[1] not in (2, 3):
            raise UsageError("output-unreadable", f"{list(sample.shape)} holds no points of two coordinates")
        check_numbers(rows)
        places = rows[:, :2] if about.order == "xy" else rows[:, 1::-1]
        scores = rows[:, 2] if rows.shape[1] == 3 else np.ones(len(rows))
        relative = about.relative
    if relative and size is not None:
        places = places * [size[1], size[0]]
    if placement is not None:
        places = placement.back(places)
    listed = zip(places.tolist(), scores.tolist(), strict=True)
    return Keypoints(tuple(Keypoint(name(i, how.labels), x, y, score) for i, ((x, y), score) in enumerate(listed)))


def _peaks(sample: Array, about: KeypointReading) -> tuple[Array, Array]:
    """Relative places [K,2] and heights [K] of the maxima, moved a quarter of a cell towards the higher neighbor
    (https://arxiv.org/abs/1603.06937, section 3.2).
    """
    if sample.ndim != 3:
        raise UsageError("output-unreadable", f"{list(sample.shape)} holds no heatmaps")
    maps = np.asarray(sample if about.channels == "first" else sample.transpose(2, 0, 1), np.float64)
    count, height, width = maps.shape
    flat = maps.reshape(count, -1).argmax(axis=1)
    y, x = np.divmod(flat, width)
    every = np.arange(count)
    check_numbers(heights := maps[every, y, x])
    across = maps[every, y, np.minimum(x + 1, width - 1)] - maps[every, y, np.maximum(x - 1, 0)]
    down = maps[every, np.minimum(y + 1, height - 1), x] - maps[every, np.maximum(y - 1, 0), x]
    across = np.where((x > 0) & (x < width - 1), np.sign(across) / 4, 0.0)
    down = np.where((y > 0) & (y < height - 1), np.sign(down) / 4, 0.0)
    places = np.stack([(x + 0.5 + across) / width, (y + 0.5 + down) / height], axis=1)
    return places, heights
