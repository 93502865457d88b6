"""Sparse constants of ONNX, written out: engines read them, but nothing that quantizes or optimizes does."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edgekit.errors import SourceError

_BYTES = 1 << 31
"""More does not fit into the file that is to come."""


def write_out(graph: Any, name: str) -> int:
    """Turn the sparse constants of a graph and of its bodies into plain ones, in place; how many there were.

    Args:
        graph: A GraphProto.
        name: Of the file, for messages.

    Raises:
        SourceError: `source-too-large`; `source-unreadable`: positions outside the shape.
    """
    count = len(graph.sparse_initializer)
    for sparse in graph.sparse_initializer:
        graph.initializer.append(_plain(sparse, name))
    graph.ClearField("sparse_initializer")
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "sparse_value":
                plain = _plain(attribute.sparse_tensor, name)
                attribute.Clear()
                attribute.name, attribute.type = "value", attribute.TENSOR
                attribute.t.CopyFrom(plain)
                count += 1
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                count += write_out(body, name)
    return count


def _plain(sparse: Any, name: str) -> Any:
    from onnx import numpy_helper

    shape = tuple(sparse.dims)
    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    what = f"{name}: the sparse constant {sparse.values.name!r}"
    if min(shape, default=0) < 0 or math.prod(shape) * values.itemsize > _BYTES:
        raise SourceError("source-too-large", f"{what} has the shape {list(shape)}")
    if indices.ndim == 1:
        flat = indices
    elif indices.ndim == 2 and indices.shape[1] == len(shape):
        inside = ((indices >= 0) & (indices < shape)).all()
        flat = np.ravel_multi_index(tuple(indices.T), shape) if inside else np.array([-1])
    else:
        flat = np.array([-1])
    if len(flat) != values.size or (flat.size and not 0 <= flat.min() <= flat.max() < math.prod(shape)):
        raise SourceError("source-unreadable", f"{what} has values outside its shape {list(shape)}")
    dense = np.zeros(math.prod(shape), values.dtype)
    dense[flat] = values.reshape(-1)
    return numpy_helper.from_array(dense.reshape(shape), sparse.values.name)
