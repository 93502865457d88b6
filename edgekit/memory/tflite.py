"""What a TFLite model takes in LiteRT: its arena as the interpreter plans it, and XNNPACK's share.

plan = arena_of(graph, delegate=True, threads=1)
plan.bytes            # as the interpreter reports it, to the byte
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from edgekit.formats import arena
from edgekit.formats.arena import Layout, Step
from edgekit.formats.graph import GraphFacts, Key, Node
from edgekit.formats.tflite_graph import ends
from edgekit.memory import kernels, xnnpack
from edgekit.memory.delegate import expands

_SIZES = frozenset({"RANK", "SHAPE"})
"""Ops whose result is computed once, outside the arena."""

_SIZED_BY = {
    "BROADCAST_TO": 1, "FILL": 0, "ONE_HOT": 1, "PAD": 1, "PADV2": 1, "RANDOM_UNIFORM": 0, "RANGE": 0, "RESHAPE": 1,
    "RESIZE_BILINEAR": 1, "RESIZE_NEAREST_NEIGHBOR": 1, "SLICE": 1, "SPARSE_TO_DENSE": 1, "STRIDED_SLICE": 1, "TILE": 1,
    "TOPK_V2": 1, "TRANSPOSE_CONV": 0,
}  # fmt: skip
"""Ops whose result is as large as this input says: when it is no constant, it is allocated while the model runs."""

_ARITHMETIC = frozenset({
    "ADD", "CAST", "CONCATENATION", "GATHER", "MAXIMUM", "MINIMUM", "MUL", "PACK", "REDUCE_PROD", "RESHAPE", "SLICE",
    "SQUEEZE", "STRIDED_SLICE", "SUB", "UNPACK",
})  # fmt: skip
"""Ops that exporters compute shapes with."""

_SIZED_BY_DATA = frozenset({"NON_MAX_SUPPRESSION_V4", "NON_MAX_SUPPRESSION_V5", "UNIQUE", "WHERE"})


@dataclass(frozen=True)
class TFLitePlan:
    """Where everything lies.

    Attributes:
        layout: The arena's, XNNPACK's own tensors not in it; None when a size is unknown or there are too many.
        parts: The graph's, in order.
        nodes: For each of the layout's steps its op; None for a part that XNNPACK runs.
        exact: All sizes are known before it runs.
        idle: Tensors that are never written, so that their place stays unused unless others share it.
    """

    layout: Layout | None
    parts: tuple[xnnpack.Part, ...]
    nodes: tuple[Node | None, ...]
    exact: bool
    idle: frozenset[Key] = frozenset()

    @property
    def bytes(self) -> int | None:
        """Of both arenas."""
        return self.layout.bytes if self.layout else None

    @property
    def touched(self) -> int:
        """Bytes of both arenas that are written."""
        if self.layout is None:
            return 0
        used, end = self.layout.kept_bytes, 0
        places = (place for key, place in self.layout.places.items() if key not in self.idle)
        for place in sorted(places, key=lambda place: place.offset):
            used += max(0, place.offset + place.bytes - max(end, place.offset))
            end = max(end, place.offset + place.bytes)
        return used


def arena_of(graph: GraphFacts, *, delegate: bool = True, threads: int | None = None) -> TFLitePlan:
    """Plan a graph.

    Args:
        graph: Of a TFLite model.
        delegate: Whether XNNPACK runs what it can, as it does by default.
        threads: Of the interpreter; None for its default.
    """
    graph = without_sizes_of_tensors(graph)
    found = xnnpack.parts(graph, delegate=delegate)
    graph = _with_kept(graph, found)
    sizes = graph.sizes()
    steps, nodes, kept = [], [], list(ends(graph)[2])
    idle: set[Key] = set()
    free = len(graph.tensors)  # the interpreter numbers scratch tensors from here on
    for node, step in xnnpack.delegated_steps(found):
        asked = kernels.scratch(node, graph, threads) if node else []
        added = {free + number: one for number, one in enumerate(asked) if one.used}
        if sizes is not None:
            sizes.update((key, one.bytes) for key, one in added.items() if one.bytes is not None)
        kept += [key for key, one in added.items() if one.lasting]
        idle.update(free + number for number in (kernels.idle(node, graph) if node else ()))
        free += len(asked)
        steps.append(Step(step.inputs, step.outputs, step.inplace, step.unmodified, tuple(added)))
        nodes.append(node)
    layout = None if sizes is None else arena.layout(sizes, steps, graph.inputs, graph.outputs, kept)
    late_ones = late(graph) or any(node is not None and _postponed(node, graph) for node in nodes)
    return TFLitePlan(layout, tuple(found), tuple(nodes), layout is not None and not late_ones, frozenset(idle))


def _with_kept(graph: GraphFacts, parts: Iterable[xnnpack.Part]) -> GraphFacts:
    """Constants that the interpreter itself expands are computed once, and stay (dequantize.cc)."""
    kept = {
        key: replace(graph.tensors[key], variable=True)
        for part in parts if not part.delegated
        for node in part.nodes if expands(node, graph)
        for key in node.outputs if key in graph.tensors
    }  # fmt: skip
    return replace(graph, tensors={**graph.tensors, **kept}) if kept else graph


def late(graph: GraphFacts) -> bool:
    """Whether some tensor gets its place only when the model runs: the plan before that is no more than a part.

    So does what loops and branches give.
    """
    return graph.calls or any(
        node.kind in _SIZED_BY_DATA or ((key := _sized_by(node)) is not None and not graph.tensors[key].constant)
        for node in graph.nodes
    )


def _postponed(node: Node, graph: GraphFacts) -> bool:
    """The interpreter's own SLICE of a tensor with free sizes gets its place when it runs (slice.cc, Prepare)."""
    source = graph.tensors.get(node.inputs[0]) if node.kind == "SLICE" else None
    return source is not None and source.free


def open_ended(graph: GraphFacts) -> bool:
    """Whether some tensor is as large as the data says, so that the sizes in the file are no more than a guess."""
    known = {key for key, tensor in graph.tensors.items() if tensor.constant}
    for node in graph.nodes:
        key = _sized_by(node)
        if node.kind in _SIZED_BY_DATA or (key is not None and key not in known):
            return True
        if node.kind in _SIZES or (node.kind in _ARITHMETIC and all(k is None or k in known for k in node.inputs)):
            known.update(k for k in node.outputs if k is not None)
    return False


def _sized_by(node: Node) -> Key | None:
    at = _SIZED_BY.get(node.kind)
    return node.inputs[at] if at is not None and at < len(node.inputs) else None


def without_sizes_of_tensors(graph: GraphFacts) -> GraphFacts:
    """The graph with the results of SHAPE and RANK as constants."""
    sized = [node for node in graph.nodes if node.kind in _SIZES]
    if not sized:
        return graph
    tensors = dict(graph.tensors)
    for node in sized:
        for key in node.outputs:
            if key is not None and key in tensors and key not in graph.outputs:
                tensors[key] = replace(tensors[key], constant=True)
    return GraphFacts(tensors, graph.nodes, graph.inputs, graph.outputs, graph.calls)
