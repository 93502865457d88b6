"""Reciprocal roots that are bounded where nothing is left to take a root of.

Keras' UnitNormalization takes the least of 1 / sqrt(sum of squares) and 1 / epsilon. XNNPACK's kernel, which goes on by
Newton's steps from an approximation, answers NaN for 1 / sqrt(0), and the bound behind it keeps that.
"""

from __future__ import annotations

import numpy as np

from edgekit.converters.tflite_graphs import graph as files
from edgekit.converters.tflite_graphs.graph import ModelT, OperatorT, SubGraphT
from edgekit.converters.tflite_graphs.write import write

_TINY = float(np.finfo(np.float32).tiny)


def bounded(data: bytes) -> bytes:
    """The file with min(rsqrt(x), c) written as rsqrt(max(x, 1 / c**2)), c a constant.

    What it computes stays, but for a rounding of what lies beyond the bound, and that zero gives c. A file without it
    is returned as it is.
    """
    model = files.read(data)
    swapped = [_swap(model, graph, op) for graph in model.subgraphs for op in graph.operators]
    return write(model) if any(swapped) else data


def _swap(model: ModelT, graph: SubGraphT, root: OperatorT) -> bool:
    """Put the bound of what this RSQRT makes before it."""
    if files.op_name(model, root) != "RSQRT":
        return False
    made = int(root.outputs[0])
    readers = [op for op in graph.operators if made in [int(i) for i in op.inputs]]
    if len(readers) != 1 or made in [int(i) for i in graph.outputs] or files.op_name(model, readers[0]) != "MINIMUM":
        return False
    bound = readers[0]
    least = _under_root(model, graph, next((int(i) for i in bound.inputs if int(i) != made), made))
    if least is None or _rank(graph, made) != _rank(graph, int(bound.outputs[0])):
        return False
    schema = files.schema()
    limit = files.add_constant(model, graph, least, f"{files.name_of(graph.tensors[made])}_least")
    first, last = graph.operators.index(root), graph.operators.index(bound)
    root.inputs, root.outputs, bound.inputs, bound.outputs = (
        np.array([made], np.int32),
        bound.outputs,
        np.array([int(root.inputs[0]), limit], np.int32),
        root.outputs,
    )
    bound.opcodeIndex = files.use_op_code(model, schema.BuiltinOperator.MAXIMUM, 1)
    graph.operators[first], graph.operators[last] = bound, root
    return True


def _under_root(model: ModelT, graph: SubGraphT, index: int) -> np.ndarray | None:
    """1 / c**2 of a constant of one element, where float32 holds it."""
    tensor = graph.tensors[index]
    if not files.is_constant(model, tensor) or files.dtype_of(tensor) != "float32":
        return None
    values = files.constant(model, tensor)
    if values.size != 1 or not (np.isfinite(values).all() and values.item() > 0):
        return None
    with np.errstate(over="ignore"):
        least = np.asarray(values.astype(np.float64) ** -2, np.float32)
    return least if np.isfinite(least).all() and least.item() >= _TINY else None


def _rank(graph: SubGraphT, index: int) -> int:
    shape = graph.tensors[index].shape
    return 0 if shape is None else len(shape)
