"""What an ONNX model takes in onnxruntime: copies of its weights while it is loaded, and its arena while it runs.

The arena is walked through as onnxruntime does: in the first run each result is taken from it and given back after
its last use; from the second run on all results lie in one block, planned from the first run ("memory pattern"), which
the arena must find room for as well. The arena grows by powers of two; only what is written becomes resident.

Source: onnxruntime, core/framework/bfc_arena.cc (Extend, FindChunkPtr, SplitFreeChunkFromBin), mem_pattern_planner.h,
allocation_planner.cc, core/providers/cpu/quantization/qlinearconv.cc.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from edgekit.formats import arena
from edgekit.formats.graph import GraphFacts, Key, Node, Tensor
from edgekit.formats.onnx_rules import ELEMENTWISE
from edgekit.memory.footprint import Machine, data

_ROUND = 256
_FIRST = 2**20
_DEAD = 128 * 2**20
_WHOLE = 4
_SUM = 4
_CONVOLUTIONS = frozenset({"Conv", "ConvInteger", "QLinearConv", "com.microsoft:FusedConv"})
_PRODUCTS = frozenset({"Gemm", "MatMul", "MatMulInteger", "QLinearMatMul", "com.microsoft:QGemm"})
_RECURRENT = frozenset({"GRU", "LSTM", "RNN"})
_UNMODIFIED = frozenset({"Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})


@dataclass
class Arena:
    """`BFCArena`: the bytes that it asks the system for, and those that are ever written.

    Attributes:
        reserved: Bytes of all regions.
        regions: Chunks of each region: [offset, size, in use].
        touched: Bytes from each region's start that were ever in use.
        left: Comparisons before the walk is given up: some ten thousand nodes.
    """

    reserved: int = 0
    regions: list[list[list[int]]] = field(default_factory=list)
    touched: list[int] = field(default_factory=list)
    left: int = 4_000_000
    _next: int = _FIRST

    def take(self, size: int) -> tuple[int, int]:
        """A chunk: the number of its region and its offset."""
        wanted = -(-max(size, 1) // _ROUND) * _ROUND
        best = self._best(wanted)
        if best is None:
            self._extend(wanted)
            best = self._best(wanted)
        assert best is not None  # noqa: S101
        region, chunk = best
        if chunk[1] >= 2 * wanted or chunk[1] - wanted >= _DEAD:
            place = self.regions[region].index(chunk)
            self.regions[region].insert(place + 1, [chunk[0] + wanted, chunk[1] - wanted, 0])
            chunk[1] = wanted
        chunk[2] = 1
        self.touched[region] = max(self.touched[region], chunk[0] + wanted)
        return region, chunk[0]

    def give(self, at: tuple[int, int]) -> None:
        """Back, joined with free neighbors."""
        chunks = self.regions[at[0]]
        place = next(i for i, chunk in enumerate(chunks) if chunk[0] == at[1])
        chunks[place][2] = 0
        for i in (place, place - 1):
            if 0 <= i < len(chunks) - 1 and not chunks[i][2] and not chunks[i + 1][2]:
                chunks[i][1] += chunks.pop(i + 1)[1]

    def _best(self, wanted: int) -> tuple[int, list[int]] | None:
        self.left -= sum(map(len, self.regions))
        free = [
            (chunk[1], number, chunk)
            for number, region in enumerate(self.regions)
            for chunk in region
            if not chunk[2] and chunk[1] >= wanted
        ]
        found = min(free, key=lambda entry: entry[:2], default=None)
        return None if found is None else (found[1], found[2])

    def _extend(self, wanted: int) -> None:
        grown = False
        while wanted > self._next:
            self._next *= 2
            grown = True
        self.regions.append([[0, self._next, 0]])
        self.touched.append(0)
        self.reserved += self._next
        if not grown:
            self._next *= 2


@dataclass(frozen=True)
class Running:
    """Bytes of activations: written in the end, reserved, and of the block that is planned."""

    touched: int
    reserved: int
    block: int


def running(graph: GraphFacts, machine: Machine) -> Running | None:
    """The arena after two runs; None when a size is unknown or the graph runs others."""
    sizes = graph.sizes()
    if sizes is None or graph.calls:
        return None
    plan = arena.layout(sizes, steps(graph), graph.inputs, graph.outputs)
    if plan is None:
        return None
    inputs = {*graph.inputs}
    moved = {key: place for key, place in plan.places.items() if key not in inputs}
    found = Arena()
    taken: dict[Key, tuple[int, int]] = {}
    starts, ends = _by_step(moved)
    for index, node in enumerate(graph.nodes):
        if found.left < 0:
            return None
        for key in starts.get(index, ()):
            taken[key] = found.take(sizes[key])
        scratch = [found.take(size) for size in _scratch(node, graph, machine)]
        for chunk in scratch:
            found.give(chunk)
        for key in ends.get(index, ()):
            found.give(taken.pop(key))
    for chunk in taken.values():
        found.give(chunk)
    block = max((place.offset + place.bytes for place in moved.values()), default=0)
    block -= min((place.offset for place in moved.values()), default=0)
    if block:
        held = found.take(block)
        for node in graph.nodes:
            for chunk in [found.take(size) for size in _scratch(node, graph, machine)]:
                found.give(chunk)
        found.give(held)
    return Running(sum(found.touched), found.reserved, block)


def steps(graph: GraphFacts) -> list[arena.Step]:
    """What each node reads and writes, and what it may write over."""
    return [
        arena.Step(_there(node.inputs), _there(node.outputs), _in_place(node), node.kind in _UNMODIFIED)
        for node in graph.nodes
    ]


def _by_step(places: Mapping[Key, arena.Place]) -> tuple[dict[int, list[Key]], dict[int, list[Key]]]:
    starts: dict[int, list[Key]] = {}
    ends: dict[int, list[Key]] = {}
    for key, place in places.items():
        starts.setdefault(place.first, []).append(key)
        ends.setdefault(place.last, []).append(key)
    return starts, ends


def _in_place(node: Node) -> tuple[int, ...]:
    if node.kind in ("Add", "Div", "Mul", "Sub"):
        return (0, 1)
    return (0,) if node.kind in _UNMODIFIED or node.kind in ELEMENTWISE else ()


def _scratch(node: Node, graph: GraphFacts, machine: Machine) -> Iterator[int]:
    """Integer convolutions: a table of pointers to pixels, or, of few channels, the pixels themselves and the sums."""
    taps = node.attributes.get("taps", 1)
    source, target = (graph.tensors.get(keys[0]) if keys and keys[0] else None for keys in (node.inputs, node.outputs))
    if node.kind not in _CONVOLUTIONS or taps == 1 or not (source and target and source.shape and target.shape):
        return
    if target.dtype in ("int8", "uint8"):
        pixels = math.prod(target.shape[2:])
        if len(source.shape) > 1 and source.shape[1] % _WHOLE:
            yield _SUM * math.prod(target.shape)
            yield taps * source.shape[1] // node.attributes.get("group", 1) * pixels
        else:
            yield machine.pointer * taps * pixels


# -- loading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Loading:
    """Bytes of copies of the weights: at the peak, and those that stay."""

    peak: int
    resident: int


def loading(graph: GraphFacts) -> Loading:
    """Copies beside the file's own bytes."""
    factors = data()["onnxruntime"]["copies"]
    peak = resident = largest = 0.0
    seen: set[Key] = set()
    for node in graph.nodes:
        for key in node.inputs:
            tensor = None if key is None else graph.tensors.get(key)
            if key is None or key in seen or tensor is None or not tensor.constant or not tensor.bytes:
                continue
            seen.add(key)
            factor = factors[_class(node, tensor)]
            peak += factor * tensor.bytes
            mapped = tensor.bytes > data()["onnxruntime"]["returned_above"]
            resident += (factor - 1 if mapped else factor) * tensor.bytes
            if _class(node, tensor) == "integer_product":
                largest = max(largest, tensor.bytes)
    return Loading(int(peak + largest), int(resident))


def _class(node: Node, tensor: Tensor) -> str:
    integer = tensor.dtype in ("int8", "uint8")
    if node.kind in _CONVOLUTIONS:
        return "integer_convolution" if integer else "convolution"
    if node.kind in _PRODUCTS:
        return "integer_product" if integer else "product"
    return "recurrent" if node.kind in _RECURRENT else "other"


def _there(keys: tuple[Key | None, ...]) -> tuple[Key, ...]:
    return tuple(key for key in keys if key is not None)
