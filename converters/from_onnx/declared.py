"""What an ONNX file says of the sizes of its inputs and outputs, where exporters write what they do not mean."""

from __future__ import annotations

from typing import Any


def free_odd_sizes(graph: Any) -> None:
    """Some exporters write 0 or -1 for a free size."""
    for value in (*graph.input, *graph.output):
        for axis, size in enumerate(value.type.tensor_type.shape.dim):
            if size.HasField("dim_value") and size.dim_value <= 0:
                size.dim_param = f"{value.name}_{axis}"


def doubt_scalars(graph: Any) -> set[str]:
    """Forget that outputs have no axes, and say whose: converters write that of any shape that they do not know."""
    doubted = set()
    for value in graph.output:
        kind = value.type.tensor_type
        if value.type.WhichOneof("value") == "tensor_type" and kind.HasField("shape") and not kind.shape.dim:
            kind.ClearField("shape")
            doubted.add(value.name)
    return doubted


def settle_scalars(graph: Any, doubted: set[str]) -> None:
    """What inference found no axes of has none after all."""
    for value in graph.output:
        if value.name in doubted and not value.type.tensor_type.HasField("shape"):
            value.type.tensor_type.shape.SetInParent()
