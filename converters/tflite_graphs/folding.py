"""Scaling and shifting of columns goes into the matrix behind it, for integers.

Pipelines of scikit-learn begin with (x - mean) / deviation. Quantized by itself it needs a division, which has no int8
kernel, and a common scale for columns that are apart; within FULLY_CONNECTED it costs nothing. Columns that hardly vary
get weights there that dwarf all others of their row, and would take all its steps: they are clipped where that makes
the answer better, taking scaled columns to vary alike, which is what they were scaled for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.converters.tflite_graphs import graph as files
from edgekit.converters.tflite_graphs.graph import ModelT, OperatorT, SubGraphT

_KINDS = ("ADD", "SUB", "MUL", "DIV")


def columns_into_dense(model: ModelT, width: Callable[[str], int]) -> None:
    """Take every ADD, SUB, MUL and DIV by constants that only one FULLY_CONNECTED reads into its weights and bias.

    Args:
        model: Float; changed in place.
        width: Bits of what makes a tensor, 0 for float. Operators of another width than the matrix stay apart from it.
    """
    for graph in model.subgraphs:
        for dense in [op for op in graph.operators or () if files.op_name(model, op) == "FULLY_CONNECTED"]:
            _fold(model, graph, dense, width)


def _fold(model: ModelT, graph: SubGraphT, dense: OperatorT, width: Callable[[str], int]) -> None:
    weights = _floats(model, graph, int(dense.inputs[1]))
    bias_at = int(dense.inputs[2]) if len(dense.inputs) > 2 else -1
    if weights is None:
        return
    bias = _floats(model, graph, bias_at) if bias_at >= 0 else np.zeros(len(weights))
    if bias is None:
        return
    source, taken, weights = int(dense.inputs[0]), False, weights.astype(np.float64)
    name = files.name_of(graph.tensors[int(dense.outputs[0])])
    deviation: NDArray[Any] = np.ones(weights.shape[1])
    while (before := _only_maker(graph, source)) is not None:
        if width(files.name_of(graph.tensors[source])) != width(name):
            break
        found = _column(model, graph, before, weights.shape[1])
        if found is None:
            break
        under, column, first = found
        with np.errstate(all="ignore"):
            made, added = _taken_in(files.op_name(model, before), weights, column, first=first)
        if made is None or not (np.isfinite(made).all() and np.isfinite(added).all()):
            break
        source, weights, bias, taken = under, made, bias + added, True
        if files.op_name(model, before) in ("MUL", "DIV"):
            deviation = deviation * np.abs(column) ** (1 if files.op_name(model, before) == "DIV" else -1)
        graph.operators.remove(before)
        dense.inputs = np.array([source, *dense.inputs[1:]], np.int32)
    if taken:
        stored = _clipped(weights, deviation) if width(name) else weights
        constants = [(stored, f"{name}_folded"), (bias, f"{name}_folded_bias")]
        added = [files.add_constant(model, graph, values.astype(np.float32), named) for values, named in constants]
        dense.inputs = np.array([source, *added], np.int32)


def _clipped(weights: NDArray[Any], deviation: NDArray[Any]) -> NDArray[Any]:
    """Each row clipped where the error of its int8 form, weighed by how much each column varies, is least."""
    largest = np.abs(weights).max(axis=1, keepdims=True)
    best, least = largest, np.full_like(largest, np.inf)
    for share in np.linspace(1.0, 0.02, 50):
        end = largest * share
        step = np.maximum(end, np.finfo(np.float32).tiny) / 127
        stored = np.clip(np.rint(weights / step), -127, 127) * step
        error = np.square((weights - stored) * deviation).sum(axis=1, keepdims=True)
        best, least = np.where(error < least, end, best), np.minimum(error, least)
    clipped: NDArray[Any] = np.clip(weights, -best, best)
    return clipped


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
