"""What an ONNX graph keeps in memory while it runs, as steps for `edgekit.formats.arena`.

Follows what onnxruntime's graph optimizers do on a CPU: what depends on constants only is folded; an op between
DequantizeLinear and QuantizeLinear of 8-bit integers runs on the integers, so that the floats between do not exist.
Source: onnxruntime, docs/performance/model-optimizations/graph-optimizations and
core/optimizer/qdq_transformer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from edgekit.formats import onnx_model
from edgekit.formats.arena import Step
from edgekit.formats.facts import elements
from edgekit.formats.graph import GraphFacts, Key, Node, Tensor
from edgekit.formats.onnx_graph import DEQUANTIZE, QUANTIZE, Uses
from edgekit.formats.onnx_model import Graph
from edgekit.formats.onnx_proto import DATA_TYPES
from edgekit.formats.onnx_rules import ELEMENTWISE
from edgekit.formats.onnx_shapes import Shapes

_BITS = dict(DATA_TYPES)
_UNMODIFIED = frozenset({"Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
_BINARY = frozenset({"Add", "Div", "Mul", "Sub"})
_DEEPEST = 8
_SMALL_INTEGERS = ("int8", "uint8")


def folded(graph: Graph, at: Shapes) -> set[str]:
    """Tensors that are constants or follow from constants."""
    known = {*graph.constants, *at.numbers}
    for node in graph.nodes:
        if node.op == "Constant" or (node.inputs and all(not name or name in known for name in node.inputs)):
            known.update(node.outputs)
    return known


def executed(graph: Graph, uses: Uses, known: set[str], types: Mapping[str, str]) -> list[tuple[onnx_model.Node, Step]]:
    """The nodes that are left, each as a step whose tensors are those that really exist."""
    ends = {value.name for value in graph.outputs}
    alias = _aliases(graph, uses, ends, types)
    found = []
    for node in graph.nodes:
        outputs = tuple(alias.get(name, name) for name in node.outputs if name)
        if all(name in known for name in node.outputs) or (
            outputs and node.kind in DEQUANTIZE | QUANTIZE and (outputs[0] == alias.get(node.input(0), node.input(0)))
        ):
            continue
        inputs = tuple(_origin(name, uses) if name in known else alias.get(name, name) for name in node.inputs)
        found.append((node, Step(inputs, outputs, _in_place(node), node.op in _UNMODIFIED)))
    return found


def _origin(name: str, uses: Uses) -> str:
    """The constant that is stored: it may be read through an identity, or dequantized."""
    for _ in range(_DEEPEST):
        maker = uses.maker.get(name)
        if maker is None or not (maker.kind in DEQUANTIZE or maker.op == "Identity") or not maker.input(0):
            break
        name = maker.input(0)
    return name


def graph_facts(
    graph: Graph, known: set[str], types: Mapping[str, str], at: Shapes, nodes: list[tuple[onnx_model.Node, Step]]
) -> GraphFacts:
    """With the tensors that exist when it runs, and the constants that its nodes read."""
    tensors: dict[Key, Tensor] = {}
    inputs = tuple(value.name for value in graph.inputs if value.name not in graph.constants)
    names = [*inputs, *(name for _, step in nodes for name in (*step.inputs, *step.outputs))]
    for name in dict.fromkeys(str(name) for name in names if name):
        bits, shape = _BITS.get(types.get(name, ""), 0), at.shapes.get(name)
        size = None if shape is None or not bits else (elements(shape) * bits + 7) // 8
        constant = name in known or name in graph.constants
        tensors[name] = Tensor(name, shape, types.get(name, ""), size, constant)
    made = tuple(
        Node(
            node.kind, node.name or (node.outputs[0] if node.outputs else ""),
            tuple(name or None for name in step.inputs), step.outputs, _attributes(node),
        )
        for node, step in nodes
    )  # fmt: skip
    ends = tuple(value.name for value in graph.outputs)
    return GraphFacts(tensors, made, inputs, ends, any(node.graphs for node, _ in nodes))


def _attributes(node: onnx_model.Node) -> dict[str, int]:
    """Taps of a window, and groups."""
    window = node.lists.get("kernel_shape")
    found = {"taps": math.prod(window)} if window else {}
    return {**found, "group": node.ints["group"]} if "group" in node.ints else found


def _in_place(node: onnx_model.Node) -> tuple[int, ...]:
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
