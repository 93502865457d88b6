"""What is known of an ONNX graph's tensors, for a batch of one.

Exporters rarely write all shapes down, and those of a free batch are not numbers. Free sizes of the inputs count as 1,
and shapes follow from there op by op, for the ops that models for small boards are made of (`onnx_rules`). Small
tensors that do not depend on the input, shapes that are computed in the graph, are followed as numbers
(`onnx_content`). Whatever is not certain stays unknown: a rule that lacks an operand raises `UnknownError`, and the
file's own `value_info` is asked instead.

Source: the operators' specification, https://onnx.ai/onnx/operators.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from edgekit.formats.facts import MAX_ELEMENTS, MAX_RANK, Shape
from edgekit.formats.onnx_model import Const, Node
from edgekit.formats.onnx_proto import Reader

NUMBERS = 64
"""Longest tensor that is followed as numbers: longer than any shape."""


class UnknownError(LookupError):
    """An operand is not known."""


class Shapes:
    """What is known of each tensor by its name.

    Attributes:
        shapes: Sizes, free ones counted as 1.
        numbers: Content of small tensors that do not depend on the input.
    """

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self._constants: dict[str, Const] = {}
        self.shapes: dict[str, Shape] = {}
        self.numbers: dict[str, list[float]] = {}

    def constant(self, const: Const, name: str) -> None:
        self._constants[name] = const
        self.shapes[name] = const.dims

    def shape(self, name: str, rank: int | None = None) -> Shape:
        found = self.shapes.get(name)
        if found is None or (rank is not None and len(found) != rank):
            raise UnknownError(name)
        return found

    def content(self, name: str) -> list[float]:
        """Numbers of a small constant or computed tensor."""
        if name not in self.numbers:
            const = self._constants.get(name)
            if const is None or math.prod(const.dims) > NUMBERS:
                raise UnknownError(name)
            found = self.reader.values(const)
            if len(found) != math.prod(const.dims):
                raise UnknownError(name)
            self.numbers[name] = found
        return self.numbers[name]

    def ints(self, name: str) -> list[int]:
        return [_int(value) for value in self.content(name)]


Rule = Callable[[Node, Shapes], Sequence[Shape | None]]


def _int(value: float) -> int:
    if not math.isfinite(value) or value != int(value):
        raise UnknownError(f"{value} is no size")
    return int(value)


def checked(shape: Shape) -> Shape:
    if len(shape) > MAX_RANK or any(size < 0 for size in shape) or math.prod(shape) > MAX_ELEMENTS:
        raise UnknownError(f"impossible shape of {len(shape)} axes")
    return shape


def axis_of(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise UnknownError(f"axis {axis} of {rank}")
    return axis % rank


def axes_of(node: Node, at: Shapes, position: int) -> list[int] | None:
    """From the attribute (older opsets) or from an input; None when neither is there."""
    if "axes" in node.lists:
        return list(node.lists["axes"])
    return at.ints(node.input(position)) if node.input(position) else None


def broadcast(*shapes: Shape) -> Shape:
    """Numpy's rule."""
    rank = max(map(len, shapes), default=0)
    result = []
    for sizes in zip(*((1,) * (rank - len(shape)) + shape for shape in shapes), strict=True):
        size = next((s for s in sizes if s != 1), 1)
        if any(s not in (1, size) for s in sizes):
            raise UnknownError("shapes do not broadcast")
        result.append(size)
    return tuple(result)


def slice_parts(node: Node, at: Shapes, rank: int) -> list[tuple[int, slice]]:
    """(axis, slice) for each sliced axis."""
    if "starts" in node.lists:
        starts, ends = list(node.lists["starts"]), list(node.lists.get("ends", ()))
        axes, steps = list(node.lists.get("axes", range(len(starts)))), [1] * len(starts)
    else:
        starts, ends = at.ints(node.input(1)), at.ints(node.input(2))
        axes = at.ints(node.input(3)) if node.input(3) else list(range(len(starts)))
        steps = at.ints(node.input(4)) if node.input(4) else [1] * len(starts)
    if len({len(starts), len(ends), len(axes), len(steps)}) != 1 or 0 in steps:
        raise UnknownError("slice operands")
    found = []
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        # Backwards, an end before the first element means "all of them", which Python spells None.
        stop = None if step < 0 and end < -(1 << 30) else end
        found.append((axis_of(axis, rank), slice(start, stop, step)))
    return found
