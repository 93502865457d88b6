"""What an ONNX graph keeps in memory while it runs, as steps for `edgekit.formats.arena`.

Follows what onnxruntime's graph optimizers do on a CPU: what depends on constants only is folded; an op between
DequantizeLinear and QuantizeLinear of 8-bit integers runs on the integers, so that the floats between do not exist.
Source: onnxruntime, docs/performance/model-optimizations/graph-optimizations and
core/optimizer/qdq_transformer.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgekit.formats.arena import Step
from edgekit.formats.onnx_graph import DEQUANTIZE, QUANTIZE, Uses
from edgekit.formats.onnx_model import Graph, Node
from edgekit.formats.onnx_rules import ELEMENTWISE
from edgekit.formats.onnx_shapes import Shapes

_UNMODIFIED = frozenset({"Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
_BINARY = frozenset({"Add", "Div", "Mul", "Sub"})
_SMALL_INTEGERS = ("int8", "uint8")


def folded(graph: Graph, at: Shapes) -> set[str]:
    """Tensors that are constants or follow from constants."""
    known = {*graph.constants, *at.numbers}
    for node in graph.nodes:
        if node.op == "Constant" or (node.inputs and all(not name or name in known for name in node.inputs)):
            known.update(node.outputs)
    return known


def steps(graph: Graph, uses: Uses, known: set[str], types: Mapping[str, str]) -> list[Step]:
    """One step a node that is left, its tensors replaced by those that really exist."""
    ends = {value.name for value in graph.outputs}
    alias = _aliases(graph, uses, ends, types)
    found = []
    for node in graph.nodes:
        outputs = tuple(alias.get(name, name) for name in node.outputs if name)
        if all(name in known for name in node.outputs) or (
            outputs and node.kind in DEQUANTIZE | QUANTIZE and (outputs[0] == alias.get(node.input(0), node.input(0)))
        ):
            continue
        inputs = tuple("" if name in known else alias.get(name, name) for name in node.inputs)
        found.append(Step(inputs, outputs, _in_place(node), node.op in _UNMODIFIED))
    return found


def _in_place(node: Node) -> tuple[int, ...]:
    if node.op in _BINARY:
        return (0, 1)
    return (0,) if node.op in _UNMODIFIED or (node.kind in ELEMENTWISE and "QuantizeLinear" not in node.op) else ()


def _aliases(graph: Graph, uses: Uses, ends: set[str], types: Mapping[str, str]) -> dict[str, str]:
    """Float tensor -> the 8-bit tensor that stands for it."""
    alias: dict[str, str] = {}
    for node in graph.nodes:
        source, output = node.input(0), node.outputs[0] if node.outputs else ""
        if node.kind in DEQUANTIZE and output not in ends and types.get(source) in _SMALL_INTEGERS:
            alias[output] = alias.get(source, source)
        elif (
            node.kind in QUANTIZE
            and types.get(output) in _SMALL_INTEGERS
            and source in uses.maker
            and source not in ends
            and len(uses.readers.get(source, ())) == 1
        ):
            alias[source] = output
    return alias
