"""What XNNPACK takes for the ops that LiteRT hands to it: packed weights, tables of pointers, a workspace.

Source: XNNPACK, src/operators/convolution-nhwc.c, max-pooling-nhwc.c, resize-bilinear-nhwc.c (sizes of indirection
buffers), src/packing.c and src/configs (how weights are packed), src/memory-planner.c (the workspace: greedy by size,
shared by all parts); LiteRT, tflite/graph_info.cc (how ops are grouped).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from edgekit.formats import arena
from edgekit.formats.graph import GraphFacts, Key, Node, Tensor
from edgekit.memory.delegate import INTEGERS, expands, taken
from edgekit.memory.footprint import Machine, data

_CONVOLUTIONS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D"})
_MATRICES = frozenset({*_CONVOLUTIONS, "FULLY_CONNECTED", "TRANSPOSE_CONV"})
_POOLS = frozenset({"AVERAGE_POOL_2D", "MAX_POOL_2D"})
_TAIL = 16
"""XNN_EXTRA_BYTES: kernels may read beyond an array's end."""


@dataclass(frozen=True)
class Part:
    """Nodes that run one after the other: in XNNPACK, or by LiteRT's own kernels."""

    delegated: bool
    nodes: tuple[Node, ...]
    inputs: tuple[Key, ...]
    outputs: tuple[Key, ...]


def parts(graph: GraphFacts, *, delegate: bool = True) -> list[Part]:
    """The graph in the order of execution, cut where XNNPACK begins and ends.

    As tflite/graph_info.cc: a part takes every node of its kind whose inputs are there, until none is left.
    """
    mine = taken(graph) if delegate else [False] * len(graph.nodes)
    maker = {key: number for number, node in enumerate(graph.nodes) for key in node.outputs if key is not None}
    waits = [
        len({maker[key] for key in node.inputs if key in maker} - {number}) for number, node in enumerate(graph.nodes)
    ]
    readers: dict[int, set[int]] = {}
    for number, node in enumerate(graph.nodes):
        for key in node.inputs:
            if key in maker and maker[key] != number:
                readers.setdefault(maker[key], set()).add(number)
    ready: dict[bool, list[int]] = {False: [], True: []}
    for number, count in enumerate(waits):
        if not count:
            ready[mine[number]].append(number)
    order: list[tuple[bool, list[int]]] = []
    while ready[False] or ready[True]:
        kind = min((kind for kind in ready if ready[kind]), key=lambda kind: ready[kind][0])
        order.append((kind, _part(kind, ready, waits, readers, mine)))
    placed = {number for _, numbers in order for number in numbers}
    if len(placed) < len(graph.nodes):  # a cycle, which no engine would run
        order.append((False, [number for number in range(len(graph.nodes)) if number not in placed]))
    return _with_ends(graph, order)


def _part(
    kind: bool, ready: dict[bool, list[int]], waits: list[int], readers: Mapping[int, set[int]], mine: list[bool]
) -> list[int]:
    found = []
    heap = ready[kind]
    while heap:
        number = heapq.heappop(heap)
        found.append(number)
        for reader in readers.get(number, ()):
            waits[reader] -= 1
            if not waits[reader]:
                heapq.heappush(ready[mine[reader]], reader)
    return found


def _with_ends(graph: GraphFacts, order: list[tuple[bool, list[int]]]) -> list[Part]:
    made: dict[Key, int] = {}
    wanted = {*graph.outputs}
    for part, (_, numbers) in enumerate(order):
        made.update((key, part) for number in numbers for key in graph.nodes[number].outputs if key is not None)
    for part, (_, numbers) in enumerate(order):
        wanted.update(
            key
            for number in numbers
            for key in graph.nodes[number].inputs
            if key is not None and made.get(key, part) != part
        )
    found = []
    for part, (kind, numbers) in enumerate(order):
        nodes = tuple(graph.nodes[number] for number in numbers)
        read = dict.fromkeys(key for node in nodes for key in node.inputs if key is not None and made.get(key) != part)
        given = {key for node in nodes for key in node.outputs if key is not None and key in wanted}
        found.append(Part(kind, nodes, tuple(read), tuple(sorted(given, key=_number))))
    return found


# -- bytes ------------------------------------------------------------------------------------------------------------


def packed(node: Node, graph: GraphFacts, machine: Machine) -> int:
    """Bytes of an op's weights as they are packed for its kernel."""
    weights = _tensor(graph, node.inputs, 1) if node.kind in _MATRICES else None
    if weights is None or not weights.shape or weights.bytes is None or not weights.constant:
        return 0
    tile = data()["xnnpack"]["tiles"][machine.name]
    half = weights.dtype == "int4"  # two share a byte
    size = 1 if half or weights.dtype in INTEGERS else 4
    extra = 4 if size == 4 else 8  # bias; of integers also a scale
    shape = weights.shape
    if node.kind == "DEPTHWISE_CONV_2D":
        taps = math.prod(shape[:-1])
        primary = next((n for n in tile["taps"] if n >= taps), taps)
        return _up(shape[-1], tile["channels"]) * (primary * size + extra)
    columns, depth = shape[0], math.prod(shape[1:])
    if size == 1:
        depth = _up(depth, tile["depth"])
    source = _tensor(graph, node.inputs, 0)
    groups = 1
    if node.kind == "CONV_2D" and source and source.shape and shape[-1] and source.shape[-1] % shape[-1] == 0:
        groups = source.shape[-1] // shape[-1]
    return groups * _up(-(-columns // groups), tile["columns"]) * (depth * size // (2 if half else 1) + extra)


def indirection(node: Node, graph: GraphFacts, machine: Machine) -> int:
    """Bytes of an op's table of pointers to the pixels that each output takes."""
    source, target = _tensor(graph, node.inputs, 0), _tensor(graph, node.outputs, 0)
    if source is None or target is None or len(target.shape or ()) != 4 or len(source.shape or ()) != 4:
        return 0
    assert target.shape is not None and source.shape is not None  # noqa: S101, PT018
    height, width = target.shape[1:3]
    if node.kind == "RESIZE_BILINEAR":
        return height * width * (4 * machine.pointer + 2 * (4 if target.dtype == "float32" else 2))
    window = _window(node, graph)
    if window is None:
        return 0
    stride = (node.attributes.get("stride_h", 1), node.attributes.get("stride_w", 1))
    if node.kind == "CONV_2D":
        return machine.pointer * math.prod(window) * height * width if window != (1, 1) or stride != (1, 1) else 0
    step = window[1] if node.attributes.get("dilation_w", 1) > 1 else min(stride[1], window[1])
    return machine.pointer * height * (math.prod(window) + (width - 1) * step * window[0])


def _window(node: Node, graph: GraphFacts) -> tuple[int, int] | None:
    if node.kind in _POOLS:
        return node.attributes.get("window_h", 1), node.attributes.get("window_w", 1)
    weights = _tensor(graph, node.inputs, 1) if node.kind in _CONVOLUTIONS else None
    return (weights.shape[1], weights.shape[2]) if weights and weights.shape and len(weights.shape) == 4 else None


def unpacked(graph: GraphFacts, part: Part) -> int:
    """Bytes of halves and the like that are expanded to floats before they are packed."""
    return sum(
        target.bytes or 0
        for node in part.nodes
        if node.kind in ("DEQUANTIZE", "DENSIFY")
        and (source := _tensor(graph, node.inputs, 0))
        and source.constant
        and (target := _tensor(graph, node.outputs, 0))
    )


def workspace(graph: GraphFacts, part: Part) -> int | None:
    """Bytes of the activations that no one outside a part sees; None when one is of unknown size."""
    outside = {*part.inputs, *part.outputs}
    nodes = _unpadded(graph, part)
    sizes: dict[Key, int] = {}
    for node in nodes:
        for key in node.outputs:
            if key is None or key in outside or (tensor := graph.tensors.get(key)) is None or tensor.constant:
                continue
            if tensor.bytes is None:
                return None
            if not expands(node, graph):
                sizes[key] = tensor.bytes + _TAIL
    steps = [arena.Step(_there(n.inputs), _there(n.outputs), (0,) if n.kind == "RESHAPE" else (), unmodified=True)
             for n in nodes]  # fmt: skip
    return arena.plan(sizes, steps, (), ())


def _unpadded(graph: GraphFacts, part: Part) -> list[Node]:
    """The nodes without paddings that a convolution takes in, whose result is never written (xnn_subgraph_fusion)."""
    convolved = {node.inputs[0] for node in part.nodes if node.kind in _CONVOLUTIONS}
    taken: dict[Key | None, Key | None] = {}
    for node in part.nodes:
        source, target = _tensor(graph, node.inputs, 0), _tensor(graph, node.outputs, 0)
        if node.kind != "PAD" or source is None or target is None or not source.shape or not target.shape:
            continue
        spatial = len(target.shape) == 4 and source.shape[0] == target.shape[0] and source.shape[3] == target.shape[3]
        key = node.outputs[0]
        if spatial and key in convolved and graph.readings[key] == 1 and key not in part.outputs:
            taken[key] = node.inputs[0]
    if not taken:
        return list(part.nodes)
    return [
        replace(node, inputs=tuple(taken.get(key, key) for key in node.inputs))
        for node in part.nodes if not (node.outputs and node.outputs[0] in taken)
    ]  # fmt: skip


def delegated_steps(found: list[Part]) -> Iterator[tuple[Node | None, arena.Step]]:
    """What is left for LiteRT's planner: its own nodes, and each part of XNNPACK's as one step."""
    from edgekit.formats.tflite_graph import step

    for part in found:
        if part.delegated:
            yield None, arena.Step(part.inputs, part.outputs)
        else:
            yield from ((node, step(node)) for node in part.nodes)


def _number(key: Key) -> int:
    return key if isinstance(key, int) else 0


def _tensor(graph: GraphFacts, keys: tuple[Key | None, ...], at: int) -> Tensor | None:
    key = keys[at] if at < len(keys) else None
    return None if key is None else graph.tensors.get(key)


def _there(keys: tuple[Key | None, ...]) -> tuple[Key, ...]:
    return tuple(key for key in keys if key is not None)


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
