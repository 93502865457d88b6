"""Store an ONNX graph's weights as float16, computed in float32.

onnxruntime's CPU provider has few float16 kernels, and would cast back and forth around each op. A Cast behind each
stored weight instead is folded when the model is opened: half the file, the speed and nearly the answers of float32.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import numpy as np

from edgekit.converters.onnx_graphs import graph as onnx_graph
from edgekit.converters.onnx_graphs.graph import View

SMALLEST = 64
"""Elements from which on two bytes saved an element outweigh a Cast node of about 40 bytes."""

TOLERANCE = 1e-3
"""Largest relative error (L2) of a stored weight. Rounding alone makes at most 2**-11 = 4.9e-4 (IEEE 754 binary16);
values under 6.1e-5 are subnormal there and lose more."""


def quantize(model: Any, only: Container[str] | None = None) -> tuple[bool, tuple[str, ...]]:
    """Store the weights as float16; the model is changed in place.

    Args:
        model: Float, or with float parts.
        only: Names of the weights that are meant; None for all.

    Returns:
        Whether any was, and for the user: which weights stayed in float32 because float16 cannot hold them.
    """
    from onnx import TensorProto, helper

    view = View(model)
    constants, casts, kept = [], [], []
    for tensor in model.graph.initializer:
        value = view.array(tensor.name)
        if (
            tensor.data_type != TensorProto.FLOAT
            or value is None
            or value.size < SMALLEST
            or tensor.name in view.outputs
            or (only is not None and tensor.name not in only)
        ):
            constants.append(tensor)
        elif (half := _half(value)) is None:
            constants.append(tensor)
            kept.append(tensor.name)
        else:
            name = f"{tensor.name}_half"
            constants.append(onnx_graph.constant(name, half))
            casts.append(helper.make_node("Cast", [name], [tensor.name], to=TensorProto.FLOAT))
    onnx_graph.replace_constants(model, constants)
    onnx_graph.prepend(model, casts)
    notes = []
    if kept:
        notes.append(f"{len(kept)} weights stay in float32 because float16 cannot hold their values: {', '.join(kept)}")
    elif not casts:
        notes.append(f"no weight has {SMALLEST} elements or more: all stay in float32")
    return bool(casts), tuple(notes)


def _half(value: Any) -> Any | None:
    """The value as float16; None if a number overflows or the whole loses more than `TOLERANCE`."""
    with np.errstate(over="ignore"):
        half = value.astype(np.float16)
    if not np.array_equal(np.isfinite(half), np.isfinite(value)):
        return None
    finite = value[np.isfinite(value)].astype(np.float64)
    error = np.linalg.norm(finite - half[np.isfinite(value)].astype(np.float64))
    return half if error <= TOLERANCE * np.linalg.norm(finite) else None
