"""Shapes that are computed at run time though the file knows them.

A converter that keeps the batch free writes SHAPE, STRIDED_SLICE and PACK before each RESHAPE. One free size needs
none of it: RESHAPE takes -1. Without them the graph is smaller and faster, and nothing reads the shape of a tensor
that will be quantized.
"""

from __future__ import annotations

import numpy as np

from edgekit.converters import tflite_graph as files
from edgekit.converters.tflite_graph import ModelT, SubGraphT

_COMPUTE_SHAPES = ("SHAPE", "STRIDED_SLICE", "PACK", "CONCATENATION", "GATHER", "CAST")


def settle(model: ModelT) -> None:
    """Give each RESHAPE a constant shape where at most one size is free, and drop what computed it."""
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
    """Remove shape arithmetic that nobody reads any more, the last first."""
    outputs = {int(index) for index in graph.outputs}
    read: dict[int, int] = {}
    for op in graph.operators or ():
        for index in op.inputs:
            read[int(index)] = read.get(int(index), 0) + 1
    kept = []
    for op in reversed(graph.operators or ()):
        made = [int(index) for index in op.outputs]
        idle = not any(index in outputs or read.get(index, 0) for index in made)
        if idle and files.op_name(model, op) in _COMPUTE_SHAPES:
            for index in op.inputs:
                read[int(index)] -= 1
        else:
            kept.append(op)
    graph.operators = kept[::-1]
