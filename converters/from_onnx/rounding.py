"""Where a source's own engine rounds more coarsely than float32 does, so that a right artifact differs from it."""

from __future__ import annotations

from typing import Any

_MOVING = frozenset({
    "Concat", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
})  # fmt: skip
"""Operators that leave numbers as they are."""

_FLOAT16 = 10
"""TensorProto's number of the element type."""


def half(graph: Any) -> bool:
    """Whether it computes in float16; weights that are stored so and cast before they are used are no reason.

    Args:
        graph: GraphProto.
    """
    held = {tensor.name for tensor in graph.initializer if tensor.data_type == _FLOAT16}
    held |= {value.name for value in graph.input if value.type.tensor_type.elem_type == _FLOAT16}
    for node in graph.node:
        if node.op_type != "Cast" and held & set(node.input):
            return True
        if any(entry.name == "to" and entry.i == _FLOAT16 for entry in node.attribute):
            held.update(node.output)
    return False


def squashed(graph: Any) -> tuple[str, ...]:
    """Names of outputs that hold what a Sigmoid answers: onnxruntime computes it by a fraction of polynomials.

    Args:
        graph: GraphProto.
    """
    found: set[str] = set()
    for node in graph.node:
        if node.op_type == "Sigmoid" or (node.op_type in _MOVING and found & set(node.input)):
            found.update(node.output)
    return tuple(value.name for value in graph.output if value.name in found)
