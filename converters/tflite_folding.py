"""Scaling and shifting of columns goes into the matrix behind it: exact in real numbers, and one rounding less.

Pipelines of scikit-learn begin with (x - mean) / deviation. Quantized by itself it needs a division, which has no int8
kernel, and a common scale for columns that are apart; within FULLY_CONNECTED each row of weights takes its part.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.converters import tflite_graph as files
from edgekit.converters.tflite_graph import ModelT, OperatorT, SubGraphT

_KINDS = ("ADD", "SUB", "MUL", "DIV")


def columns_into_dense(model: ModelT) -> None:
    """Take every ADD, SUB, MUL and DIV by constants that only one FULLY_CONNECTED reads into its weights and bias."""
    for graph in model.subgraphs:
        for dense in [op for op in graph.operators or () if files.op_name(model, op) == "FULLY_CONNECTED"]:
            _fold(model, graph, dense)


def _fold(model: ModelT, graph: SubGraphT, dense: OperatorT) -> None:
    weights = _floats(model, graph, int(dense.inputs[1]))
    bias_at = int(dense.inputs[2]) if len(dense.inputs) > 2 else -1
    if weights is None:
        return
    bias = _floats(model, graph, bias_at) if bias_at >= 0 else np.zeros(len(weights))
    if bias is None:
        return
    source, taken, weights = int(dense.inputs[0]), False, weights.astype(np.float64)
    while (before := _only_maker(graph, source)) is not None:
        found = _column(model, graph, before, weights.shape[1])
        if found is None:
            break
        under, column, first = found
        with np.errstate(all="ignore"):
            made, added = _taken_in(files.op_name(model, before), weights, column, first=first)
        if made is None or not (np.isfinite(made).all() and np.isfinite(added).all()):
            break
        source, weights, bias, taken = under, made, bias + added, True
        graph.operators.remove(before)
        dense.inputs = np.array([source, *dense.inputs[1:]], np.int32)
    if taken:
        name = files.name_of(graph.tensors[int(dense.outputs[0])])
        constants = [(weights, f"{name}_folded"), (bias, f"{name}_folded_bias")]
        added = [files.add_constant(model, graph, values.astype(np.float32), named) for values, named in constants]
        dense.inputs = np.array([source, *added], np.int32)


def _only_maker(graph: SubGraphT, x: int) -> OperatorT | None:
    """What makes a tensor that is read once and is no output."""
    readers = sum([int(i) for i in op.inputs].count(x) for op in graph.operators)
    if readers != 1 or x in [int(i) for i in graph.outputs]:
        return None
    return next((op for op in graph.operators if x in [int(i) for i in op.outputs]), None)


def _taken_in(
    kind: str, weights: NDArray[Any], column: NDArray[Any], *, first: bool
) -> tuple[NDArray[Any] | None, Any]:
    """Weights and what the bias gains; None for a constant divided by x. `first`: the constant stands on the left."""
    match kind:
        case "ADD":
            return weights, weights @ column
        case "SUB":
            return (-weights, weights @ column) if first else (weights, -(weights @ column))
        case "MUL":
            return weights * column, 0.0
        case _:
            return (None, 0.0) if first else (weights / column, 0.0)


def _column(model: ModelT, graph: SubGraphT, op: OperatorT, width: int) -> tuple[int, NDArray[Any], bool] | None:
    """(the other input, [width] constants, whether they stand on the left) of arithmetic by one constant a column."""
    if files.op_name(model, op) not in _KINDS or op.builtinOptions.fusedActivationFunction:
        return None
    left, right = (int(i) for i in op.inputs)
    for source, constant in ((left, right), (right, left)):
        values = _floats(model, graph, constant)
        if values is None or files.is_constant(model, graph.tensors[source]):
            continue
        one_row = values.size in (1, width) and values.shape[-1:] in ((), (1,), (width,))
        same = list(graph.tensors[source].shape) == list(graph.tensors[int(op.outputs[0])].shape)
        if one_row and same and int(graph.tensors[source].shape[-1]) == width:
            return source, np.broadcast_to(values.reshape(-1).astype(np.float64), (width,)), constant == left
    return None


def _floats(model: ModelT, graph: SubGraphT, index: int) -> NDArray[Any] | None:
    tensor = graph.tensors[index]
    if not files.is_constant(model, tensor) or files.dtype_of(tensor) != "float32":
        return None
    return files.constant(model, tensor)
