"""What the source calls the layer that made a tensor: Keras layers, ONNX nodes, modules of a PyTorch network."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.converters import jobs
from edgekit.converters.debugging.nets import Net, Op
from edgekit.converters.debugging.readers import OnnxNet
from edgekit.converters.stages import Graph

WEIGHTED = frozenset({
    "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "CONV_3D", "CONV_3D_TRANSPOSE",
    "BATCH_MATMUL", "Conv", "Gemm", "MatMul", "ConvTranspose", "ConvInteger", "MatMulInteger", "DynamicQuantizeMatMul",
})  # fmt: skip
"""Ops that stand for a whole layer, whatever was fused into them."""
_BACK = 6
"""Nodes that are fused into one at most: bias, normalization, activation, and what casts between them."""
_NUMBER = re.compile(r"(_\d+|\d+|:\d+)$")


@dataclass(frozen=True)
class Node:
    """A node of the source's ONNX graph: what it is called, its op, and its first input."""

    name: str
    op: str
    reads: str


@dataclass(frozen=True)
class Names:
    """What the source knows.

    Attributes:
        nodes: Tensor of the source's ONNX graph -> the node that makes it.
        layers: Names of Keras layers.
    """

    nodes: dict[str, Node] = field(default_factory=dict)
    layers: tuple[str, ...] = ()


def collect(model: Any) -> Names:
    """The names in a LoadedModel; none where its framework has none."""
    graph = getattr(model.handle, "graph", None)
    if graph is not None and hasattr(graph, "node"):
        modules = model.facts.modules
        return Names(
            {
                name: Node(modules.get(name) or node.name or name, node.op_type, next(iter(node.input), ""))
                for node in graph.node
                for name in node.output
                if name
            }
        )
    kept = getattr(model.handle, "keep", ())
    return Names(layers=tuple(dict.fromkeys(name for thing in kept for name in _layers(thing))))


def _layers(thing: Any) -> Iterator[str]:
    for layer in getattr(thing, "layers", None) or ():
        yield str(layer.name)
        yield from _layers(layer)


def source_layer(names: Names, net: Net, op: Op | None, reference: str) -> str | None:
    """The source's name for what made a tensor of the float graph.

    Args:
        names: Of the source.
        net: The float graph.
        op: The artifact's op; None for an input.
        reference: The tensor in the float graph.
    """
    if op is None:
        return reference if reference in names.nodes else None
    if names.nodes:
        return _node(names, op, reference)
    steps = _steps(net, op, reference)
    known = set(names.layers)
    for step in reversed(steps):
        *scopes, operator = step.split("/")
        # The operator in a layer may be called as another layer is: "add_1/add".
        inside = [part for part in (*reversed(scopes), operator) if part in known or _NUMBER.sub("", part) in known]
        if inside:
            return inside[0] if inside[0] in known else _NUMBER.sub("", inside[0])
    return next((scope for scope in map(_scope, reversed(steps)) if scope), None) or _scope(reference) or None


def _scope(step: str) -> str:
    """Of a TensorFlow op: "net/conv2d" of "net/conv2d/BiasAdd/ReadVariableOp"; ops begin with a capital letter."""
    scope = step.replace("StatefulPartitionedCall/", "").rpartition("/")[0]
    while scope and scope.rpartition("/")[2][:1].isupper():
        scope = scope.rpartition("/")[0]
    return scope


def _node(names: Names, op: Op, reference: str) -> str | None:
    found = names.nodes.get(reference) or names.nodes.get(_NUMBER.sub("", reference)) or _around(names, reference)
    if found is None:
        return None
    at = found
    for _ in range(_BACK):
        if op.kind not in WEIGHTED or at.op in WEIGHTED:
            return at.name
        back = names.nodes.get(at.reads)
        if back is None:
            break
        at = back
    return found.name


def _around(names: Names, reference: str) -> Node | None:
    """The node that was lowered to several operators, of which this is one: "norm/mean" is a part of "norm"."""
    while "/" in reference:
        reference = reference.rpartition("/")[0]
        if reference in names.nodes:
            return names.nodes[reference]
    return None


def _same(kind: str, wanted: str) -> bool:
    return kind == wanted or (kind in WEIGHTED and wanted in WEIGHTED)


def _steps(net: Net, op: Op, reference: str) -> list[str]:
    """Names in the float graph of what the artifact's op does, the innermost last."""
    if not isinstance(net, OnnxNet):
        return reference.split(";")
    name, made = reference, net.producer.get(reference)
    for _ in range(_BACK):
        if made is None or _same(made.kind, op.kind) or not made.inputs:
            break
        name = net.origin(made.inputs[0])
        made = net.producer.get(name)
    if made is None or not _same(made.kind, op.kind):
        name = reference
    return net.nodes.get(name, name).split(";")


@dataclass(frozen=True)
class DescribeRequest:
    """Where the source's own graph goes, for sources that are ONNX or become it."""

    path: str


@dataclass(frozen=True)
class Described:
    """Names of the source's layers, and its own ONNX graph where it has one."""

    names: Names
    graph: Graph | None


def describe(request: DescribeRequest) -> Described:
    """The loaded source's names and graph."""
    model = jobs.loaded()
    graph = None
    if hasattr(model.handle, "graph") and hasattr(model.handle, "SerializeToString"):
        Path(request.path).write_bytes(model.handle.SerializeToString(deterministic=True))
        graph = Graph("onnx", request.path, model.facts.inputs, model.facts.outputs)
    return Described(collect(model), graph)
