"""Where a float graph decides: comparisons whose answers become places in tables, as trees have them.

Integers would move a value across a threshold, and the row to another leaf: no precision of activations is fine enough.
What is compared may hold NaN and infinity, which mean something there, and is not observed.
"""

from __future__ import annotations

from edgekit.converters.tflite_graphs import graph as files
from edgekit.converters.tflite_graphs.graph import ModelT, OperatorT

_COMPARISONS = ("GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL")
_ARITHMETIC = ("CAST", "ADD", "MUL", "SUB", "RESHAPE")


def decisions(model: ModelT) -> list[OperatorT]:
    """Comparisons of floats that lead, by integer arithmetic alone, to a place that GATHER looks up."""
    graph = model.subgraphs[0]
    places = {int(op.inputs[1]) for op in graph.operators or () if files.op_name(model, op) == "GATHER"}
    for op in reversed(graph.operators or ()):
        if files.op_name(model, op) in _ARITHMETIC and places & {int(i) for i in op.outputs}:
            places |= {int(i) for i in op.inputs}
    return [
        op
        for op in graph.operators or ()
        if files.op_name(model, op) in _COMPARISONS
        if files.dtype_of(graph.tensors[int(op.inputs[0])]) == "float32"
        if places & {int(i) for i in op.outputs}
    ]


def compared(model: ModelT) -> set[int]:
    """Places of the tensors that only decisions read."""
    graph = model.subgraphs[0]
    made = decisions(model)
    found = {int(i) for op in made for i in op.inputs}
    others = {int(i) for op in graph.operators or () if op not in made for i in op.inputs}
    return found - others - {int(i) for i in graph.outputs}
