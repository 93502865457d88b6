"""Shapes that are computed at run time though the file knows them.

A converter that keeps the batch free writes SHAPE, STRIDED_SLICE and PACK before each RESHAPE. One free size needs
none of it: RESHAPE takes -1. Without them the graph is smaller and faster, and nothing reads the shape of a tensor
that will be quantized.
"""

from __future__ import annotations

import numpy as np

from edgekit.converters.tflite_graphs import graph as files
from edgekit.converters.tflite_graphs.graph import ModelT, OperatorT, SubGraphT

_ACT = (
    "CALL_ONCE",
    "ASSIGN_VARIABLE",
    "VAR_HANDLE",
    "HASHTABLE_IMPORT",
    "WHILE",
    "IF",
    "CUSTOM",
    "STABLEHLO_CUSTOM_CALL",
)
"""Operators that may do more than give a result."""


def settle(model: ModelT) -> None:
    """Give each RESHAPE a constant shape where at most one size is free, and drop what computed it.

    Then drop what nobody reads: the quantizer and kernels take every result for one that somebody wants.
    """
    for graph in model.subgraphs:
        for op in graph.operators or ():
            if files.op_name(model, op) != "RESHAPE" or len(op.inputs) < 2:
                continue
            asked = graph.tensors[int(op.inputs[1])]
            made = graph.tensors[int(op.outputs[0])]
            sizes = made.shape if made.shapeSignature is None else made.shapeSignature
            if files.is_constant(model, asked) or sizes is None or sum(int(size) < 0 for size in sizes) > 1:
                continue
            wanted = np.asarray(sizes, np.int32)
            inputs = np.array(op.inputs, np.int32)
            inputs[1] = files.add_constant(model, graph, wanted, f"{files.name_of(made)}_shape")
            op.inputs = inputs
            if op.builtinOptions is not None:
                op.builtinOptions.newShape = wanted
        _drop_idle(model, graph)


def _drop_idle(model: ModelT, graph: SubGraphT) -> None:
    """Remove operators whose results nobody reads, the last first."""
    outputs = {int(index) for index in graph.outputs}
    read: dict[int, int] = {}
    for op in graph.operators or ():
        for index in op.inputs:
            read[int(index)] = read.get(int(index), 0) + 1
    kept = []
    for op in reversed(graph.operators or ()):
        made = [int(index) for index in op.outputs]
        idle = not any(index in outputs or read.get(index, 0) for index in made)
        keeps_state = any(graph.tensors[int(index)].isVariable for index in op.inputs if int(index) >= 0)
        if idle and made and not keeps_state and _computes_only(model, op):
            for index in op.inputs:
                read[int(index)] -= 1
        else:
            kept.append(op)
    graph.operators = kept[::-1]


def _computes_only(model: ModelT, op: OperatorT) -> bool:
    custom = files.op_code(model, op) == files.schema().BuiltinOperator.CUSTOM
    return not custom and files.op_name(model, op) not in _ACT
