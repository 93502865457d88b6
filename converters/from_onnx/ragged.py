"""Outputs of an ONNX graph that have another size for each sample: what a detector found, what is not zero.

Their answers cannot be stacked, so such a model is asked one sample at a time.
"""

from __future__ import annotations

from typing import Any

_SELECTING = frozenset({"NonMaxSuppression", "NonZero", "Compress", "Unique"})
"""Operators that say how much there is by the values of their input."""
_SIZING = frozenset({"Shape", "Size"})
"""Operators that do not look at values."""


def ragged(graph: Any) -> tuple[str, ...]:
    """Names of outputs whose size depends on the values of the inputs, as far as the graph's free sizes let it.

    Args:
        graph: GraphProto with shapes inferred: an output of fixed sizes is none, whatever it comes from.
    """
    valued = {value.name for value in graph.input}
    selected: set[str] = set()
    for node in graph.node:
        given = set(node.input)
        if given & selected or (node.op_type in _SELECTING and given & valued):
            selected.update(node.output)
        if given & valued and node.op_type not in _SIZING:
            valued.update(node.output)
    return tuple(value.name for value in graph.output if value.name in selected and _free(value))


def _free(value: Any) -> bool:
    return any(axis.dim_value <= 0 for axis in value.type.tensor_type.shape.dim)
