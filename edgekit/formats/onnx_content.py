"""The content of small ONNX tensors that do not depend on the input: shapes that a graph computes for its own reshapes.

A rule returns the numbers in a node's first output or raises `UnknownError`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from edgekit.formats.onnx_model import Node
from edgekit.formats.onnx_shapes import Shapes, UnknownError, slice_parts


def _shape_content(node: Node, at: Shapes) -> list[float]:
    return list(at.shape(node.input(0))[node.ints.get("start", 0) : node.ints.get("end")])


def _gather_content(node: Node, at: Shapes) -> list[float]:
    data, indices = at.content(node.input(0)), at.ints(node.input(1))
    if len(at.shape(node.input(0))) != 1 or any(not -len(data) <= i < len(data) for i in indices):
        raise UnknownError("indices")
    return [data[i] for i in indices]


def _concat_content(node: Node, at: Shapes) -> list[float]:
    return [value for name in node.inputs for value in at.content(name)]


def _slice_content(node: Node, at: Shapes) -> list[float]:
    data = at.content(node.input(0))
    parts = slice_parts(node, at, 1)
    if len(parts) != 1 or len(at.shape(node.input(0))) != 1:
        raise UnknownError("rank")
    return data[parts[0][1]]


def _keep_content(node: Node, at: Shapes) -> list[float]:
    return at.content(node.input(0))


def _cast_content(node: Node, at: Shapes) -> list[float]:
    data = at.content(node.input(0))
    if node.ints.get("to") in (6, 7):
        if not all(map(math.isfinite, data)):
            raise UnknownError("no number")
        return [int(value) for value in data]
    return data


def _arithmetic(node: Node, at: Shapes) -> list[float]:
    left, right = at.content(node.input(0)), at.content(node.input(1))
    if len(left) != len(right):
        left, right = left * len(right) if len(left) == 1 else left, right * len(left) if len(right) == 1 else right
    if len(left) != len(right) or (node.op == "Div" and not all(right)):
        raise UnknownError("operands")
    return [_operate(node.op, a, b) for a, b in zip(left, right, strict=True)]


def _operate(op: str, a: float, b: float) -> float:
    if op == "Add":
        return a + b
    if op == "Sub":
        return a - b
    if op == "Mul":
        return a * b
    if isinstance(a, int) and isinstance(b, int):  # integers divide towards zero
        return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    return a / b


def _rounded(node: Node, at: Shapes) -> list[float]:
    data = at.content(node.input(0))
    if not all(map(math.isfinite, data)):
        raise UnknownError("no number")
    return [float(math.floor(v) if node.op == "Floor" else math.ceil(v)) for v in data]


CONTENT: dict[str, Callable[[Node, Shapes], list[float]]] = {
    **dict.fromkeys(("Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten"), _keep_content),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _arithmetic),
    **dict.fromkeys(("Floor", "Ceil"), _rounded),
    "Cast": _cast_content,
    "Concat": _concat_content,
    "Gather": _gather_content,
    "Shape": _shape_content,
    "Slice": _slice_content,
}
"""Op kind -> rule for the numbers in its first output."""
