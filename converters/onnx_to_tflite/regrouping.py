"""Which axes become which in a reshape, and where they lie afterwards."""

from __future__ import annotations

from edgekit.converters.onnx_to_tflite.draft import Shape
from edgekit.converters.onnx_to_tflite.nodes import Order


def regrouped(before: Shape, after: Shape, order: Order) -> Order | None:
    """The order of axes after a reshape of a tensor that lies in `order`, if no element has to move.

    Both shapes are cut into groups of axes of the same number of elements. A group whose axes lie side by side and in
    turn stays where it is.
    """
    place = {axis: at for at, axis in enumerate(axis for axis in order if before[axis] != 1)}
    starts = []
    for old, new in _groups(before, after):
        places = [place[axis] for axis in old]
        if places != list(range(places[0], places[0] + len(places))):
            return None
        starts.append((places[0], new))
    kept = [axis for _, new in sorted(starts) for axis in new]
    for axis in range(len(after)):
        if after[axis] == 1:
            kept.insert(kept.index(axis - 1) + 1 if axis else 0, axis)
    return tuple(kept)


def ordered(before: Shape, after: Shape, order: Order) -> Order | None:
    """The order in which a tensor must lie, so that its reshape lies in `order` without moving an element.

    None where axes of the one shape make several of the other that lie apart then.
    """
    made = {}
    for old, new in _groups(before, after):
        places = sorted(order.index(axis) for axis in new)
        run = [order[at] for at in range(places[0], places[0] + len(new))]
        if run != new:
            return None
        made[new[0]] = old
    left = [axis for axis in range(len(before)) if before[axis] == 1]
    return (*left, *(axis for place in order for axis in made.get(place, ())))


def joined(before: Shape, after: Shape, axis: int) -> list[int]:
    """Axes before a reshape that become this one, perhaps with others."""
    return next((old for old, new in _groups(before, after) if axis in new), [])


def _groups(before: Shape, after: Shape) -> list[tuple[list[int], list[int]]]:
    left = [axis for axis in range(len(before)) if before[axis] != 1]
    right = [axis for axis in range(len(after)) if after[axis] != 1]
    groups = []
    while left:
        old, new = [left.pop(0)], [right.pop(0)]
        sizes = [before[old[0]], after[new[0]]]
        while sizes[0] != sizes[1]:
            if sizes[0] < sizes[1]:
                old.append(left.pop(0))
                sizes[0] *= before[old[-1]]
            else:
                new.append(right.pop(0))
                sizes[1] *= after[new[-1]]
        groups.append((old, new))
    return groups
