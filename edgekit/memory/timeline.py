"""Which activations are alive at each op, and where the peak is: what `check --explain` draws.

Op by op, as if no op were handed to a delegate: the plan of the parts that XNNPACK runs is its own, but what must be
alive at a time is not up to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.formats import arena
from edgekit.formats.arena import Layout
from edgekit.formats.graph import GraphFacts, Key

if TYPE_CHECKING:
    from edgekit.formats.facts import ModelFacts


@dataclass(frozen=True)
class Moment:
    """One op: its name and kind, and the bytes of all tensors that are alive while it runs."""

    name: str
    kind: str
    bytes: int


@dataclass(frozen=True)
class Span:
    """A tensor.

    Attributes:
        name: Its name; of tensors that share a place, the first one's.
        bytes: How many.
        first, last: Numbers of the ops during which it is alive.
        offset: Where it lies in the arena.
    """

    name: str
    bytes: int
    first: int
    last: int
    offset: int


@dataclass(frozen=True)
class Timeline:
    """The main graph's.

    Attributes:
        moments: One an op, in order.
        peak: Number of the op with the most bytes alive.
        tensors: All of them, largest first.
        planned: Bytes that the plan needs: gaps between tensors come on top of what is alive.
    """

    moments: tuple[Moment, ...]
    peak: int
    tensors: tuple[Span, ...]
    planned: int

    def alive(self, number: int) -> tuple[Span, ...]:
        """The tensors that are alive while this op runs, largest first."""
        return tuple(span for span in self.tensors if span.first <= number <= span.last)


def timeline(facts: ModelFacts) -> Timeline | None:
    """Of a model; None when a size is unknown, or there is nothing to run."""
    graph = facts.graphs[0] if facts.graphs else None
    layout = None if graph is None or not graph.nodes else _layout(facts.format, graph)
    if graph is None or layout is None:
        return None
    count = len(graph.nodes)
    change = [0] * (count + 1)
    for place in layout.places.values():
        change[place.first] += place.bytes
        change[min(place.last, count - 1) + 1] -= place.bytes
    alive, moments = layout.kept_bytes, []
    for number, node in enumerate(graph.nodes):
        alive += change[number]
        moments.append(Moment(node.name, node.kind, alive))
    spans = [
        Span(_name(graph, key), place.bytes, place.first, place.last, place.offset)
        for key, place in layout.places.items()
    ]
    spans.sort(key=lambda span: (-span.bytes, span.first, span.name))
    peak = max(range(count), key=lambda number: moments[number].bytes)
    return Timeline(tuple(moments), peak, tuple(spans), layout.bytes)


def _layout(format: str, graph: GraphFacts) -> Layout | None:
    sizes = graph.sizes()
    if sizes is None:
        return None
    if format == "tflite":
        from edgekit.formats.tflite_graph import ends, steps

        return arena.layout(sizes, steps(graph), *ends(graph))
    from edgekit.memory.onnx import steps as onnx_steps

    return arena.layout(sizes, onnx_steps(graph), graph.inputs, graph.outputs)


def _name(graph: GraphFacts, key: Key) -> str:
    tensor = graph.tensors.get(key)
    return tensor.name if tensor else str(key)
