"""Non-maximum suppression: of boxes that lie on each other, the surest stays.

Equal to onnxruntime's NonMaxSuppression, box by box: in float32, a box goes when its overlap is above the bound, boxes
without an area overlap nothing, and ties go to the first
(https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/providers/cpu/object_detection/non_max_suppression.cc).
"""

from __future__ import annotations

import numpy as np

from edgekit.runtimes.base import Array


def suppress(boxes: Array, scores: Array, iou: float, limit: int) -> Array:
    """Places of the boxes that stay, surest first.

    Args:
        boxes: float32 [N,4], two opposite corners in either order.
        scores: float32 [N].
        iou: Intersection over union above which the less sure goes.
        limit: How many at most.
    """
    first, second = boxes[:, :2].astype(np.float32), boxes[:, 2:].astype(np.float32)
    low, high = np.minimum(first, second), np.maximum(first, second)
    areas = (high[:, 0] - low[:, 0]) * (high[:, 1] - low[:, 1])
    left = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    bound = np.float32(iou)
    proper = bool((areas > 0).all())
    while left.size and len(kept) < limit:
        best, left = int(left[0]), left[1:]
        kept.append(best)
        if not left.size or not areas[best] > 0:
            continue
        shared = np.minimum(high[left], high[best]) - np.maximum(low[left], low[best])
        shared = np.maximum(shared, 0)
        common = shared[:, 0] * shared[:, 1]
        union = areas[best] + areas[left] - common
        if proper:
            left = left[~(common / union > bound)]
            continue
        touching = (common > 0) & (areas[left] > 0) & (union > 0)
        ratio = np.divide(common, union, out=np.zeros_like(common), where=touching)
        left = left[~(ratio > bound)]
    return np.asarray(kept, np.int64)


def suppress_classes(boxes: Array, scores: Array, classes: Array, iou: float, limit: int) -> Array:
    """The same class by class; places of those that stay, surest first over all classes, `limit` of them."""
    if not classes.size or (classes == classes[0]).all():
        return suppress(boxes, scores, iou, limit)
    kept = []
    for one in np.unique(classes):
        places = np.flatnonzero(classes == one)
        kept.append(places[suppress(boxes[places], scores[places], iou, limit)])
    together = np.sort(np.concatenate(kept))
    return np.asarray(together[np.argsort(-scores[together], kind="stable")][:limit])
