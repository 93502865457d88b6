"""What TFLite makes of its ops: which of them XNNPACK takes, merges and leaves alone, and what those cost.

Paddings become part of convolutions. Elementwise ops of 8-bit integers that all follow from one tensor become a table
of 256 answers, which the last of them looks up. What XNNPACK leaves is computed by TFLite's own kernels, in integers
number by number. Source: XNNPACK, src/subgraph; LiteRT; such chains were measured (ai-edge-litert 2.3.0, x86-64).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgekit.formats.facts import ModelFacts, OpFacts
from edgekit.formats.graph import GraphFacts, Key, Node
from edgekit.predict.plan import BYTES, FREE, count_of, size_of
from edgekit.predict.work import Kernel


def padded(ops: Sequence[OpFacts]) -> list[OpFacts]:
    """Without paddings that a convolution takes in: XNNPACK makes them part of it (xnn_subgraph_fusion)."""
    readers: dict[str, list[str]] = {}
    for op in ops:
        for name in op.inputs:
            readers.setdefault(name, []).append(op.kind)
    taken = (["CONV_2D"], ["DEPTHWISE_CONV_2D"])
    return [op for op in ops if not (op.kind == "PAD" and op.outputs and readers.get(op.outputs[0]) in taken)]


@dataclass(frozen=True)
class _Mark:
    """What the graph decides of an op.

    Attributes:
        outside: XNNPACK does not take it.
        steps: A slice has steps.
        table: It looks up what several ops come to, or one.
        merged: Another op's table holds it.
    """

    outside: bool
    steps: bool
    table: bool
    merged: bool


def marked(facts: ModelFacts, ops: Sequence[OpFacts], found: Sequence[Kernel | None]) -> list[Kernel | None]:
    """The ops' kernels as XNNPACK and TFLite run them."""
    seen = _seen(facts)
    made = [_marked(op, entry, seen.get(id(op))) for op, entry in zip(ops, found, strict=True)]
    return [entry and entry.counting({**entry.units, "state": _state(entry)}) for entry in made]


_STATE = 768.0
_PACKED = 1792.0
"""Bytes of what XNNPACK and TFLite keep of an op, and of one with weights beside these: chains of additions became
slower from 700 on, of small products from 200 on, where half of the second level of cache was 512 KiB."""


def _state(entry: Kernel) -> float:
    return _STATE + _PACKED * entry.units.get("launch", 0.0)


def _seen(facts: ModelFacts) -> dict[int, _Mark]:
    """Marks by the op's identity; none where the ops are not those of one graph."""
    from edgekit.memory.delegate import taken

    graph = facts.graphs[0] if len(facts.graphs) == 1 else None
    if graph is None or [node.kind for node in graph.nodes] != [op.kind for op in facts.ops]:
        return {}
    inside = taken(graph)
    ends, merged = _tables(graph, inside)
    return {
        id(op): _Mark(
            outside=op.kind not in FREE and not inside[number],
            steps=op.kind == "STRIDED_SLICE" and node.attributes.get("most", 1) not in (1, None),
            table=number in ends, merged=number in merged,
        )
        for number, (op, node) in enumerate(zip(facts.ops, graph.nodes, strict=True))
    }  # fmt: skip


_UNARY = frozenset({"ELU", "LEAKY_RELU", "LOGISTIC", "QUANTIZE", "TANH"})
_BINARY = frozenset({"ADD", "MUL", "SUB"})


@dataclass(frozen=True)
class _Chain:
    """Ops that follow, number by number, from one tensor.

    Attributes:
        source: That tensor.
        nodes: The ops, by number.
        table: XNNPACK makes a table of them, which one op with a kernel of its own is not worth.
    """

    source: Key
    nodes: tuple[int, ...]
    table: bool


def _tables(graph: GraphFacts, inside: Sequence[bool]) -> tuple[set[int], set[int]]:
    """Ops that look up a table, and those that are in another's, by number."""
    reads = Counter(key for node in graph.nodes for key in set(node.inputs) if key is not None) + Counter(graph.outputs)
    chains: dict[Key, _Chain] = {}
    for number, node in enumerate(graph.nodes):
        if inside[number] and (chain := _chain(number, node, graph, chains, reads)) is not None:
            chains[node.outputs[0]] = chain
    longest: dict[int, _Chain] = {}
    for chain in chains.values():  # those that begin with another come after it
        longest |= dict.fromkeys(chain.nodes, chain)
    tables = [chain for chain in longest.values() if chain.table]
    return {chain.nodes[-1] for chain in tables}, {number for chain in tables for number in chain.nodes[:-1]}


def _chain(number: int, node: Node, graph: GraphFacts, chains: dict[Key, _Chain], reads: Counter[Key]) -> _Chain | None:
    """What ends in an op; None unless it gives 8-bit integers that follow from one tensor alone."""
    target = graph.tensors.get(node.outputs[0]) if node.outputs else None
    if node.kind not in _UNARY | _BINARY or target is None or target.dtype not in ("int8", "uint8"):
        return None
    varying = []
    for key in node.inputs:
        tensor = graph.tensors.get(key)
        if tensor is None or tensor.dtype != target.dtype:
            return None
        if not tensor.constant:
            varying.append(key)
        elif tensor.bytes != 1:
            return None
    before = [chains[key] if key in chains and reads[key] == 1 else _Chain(key, (), table=False) for key in varying]
    nodes = sorted({*(number for chain in before for number in chain.nodes), number})
    if len({chain.source for chain in before}) != 1 or (len(varying) > 1 and len(nodes) == 1):
        return None
    alone = len(nodes) == 1 and (node.kind in _BINARY or node.kind == "QUANTIZE")  # these have kernels of their own
    return _Chain(before[0].source, tuple(nodes), table=not alone)


_SCALED = {
    "RELU": 1.0, "RELU6": 1.0, "RELU_N1_TO_1": 1.0, "ABS": 0.9, "SQRT": 0.75, "PRELU": 1.2, "LEAKY_RELU": 1.1,
    "SQUARED_DIFFERENCE": 2.4, "RSQRT": 19.6, "QUANTIZE": 0.26, "EXP": 0.1, "LOG": 0.1, "GELU": 0.1, "DIV": 9.6,
    "ADD": 0.6, "SUB": 0.6, "EQUAL": 0.6, "GREATER": 0.6, "GREATER_EQUAL": 0.6, "LESS": 0.6, "LESS_EQUAL": 0.6,
    "NOT_EQUAL": 0.6,
}  # fmt: skip
"""Ops that TFLite's own kernels compute in integers number by number: how long beside a ReLU.

Measured: ai-edge-litert 2.3.0 on x86-64, 65,536 elements more; DIV and comparisons 7,680."""


_VOLUME = {"gemm": 2.0, "strips": 1.5, "move": 6.0}
"""Convolutions of volumes, which write their windows out and multiply them without XNNPACK: multiply-adds beside
XNNPACK's, runs of channels, bytes an input of a window. Measured as above, three layers of 1 to 16 channels."""


def _own(op: OpFacts, found: Kernel) -> dict[str, float]:
    """Units of an op that XNNPACK leaves to TFLite's own kernels."""
    rest = {unit: found.units[unit] for unit in ("mid", "far", "kernel") if unit in found.units} | {"builtin": 1.0}
    if op.kind == "CONV_3D" and "rows" in found.units:
        counts = {"gemm": found.macs, "strips": found.units.get("taps", 0.0), "move": found.units["rows"]}
        return {**rest, "outputs": found.units["outputs"], **{u: _VOLUME[u] * n for u, n in counts.items()}}
    if found.precision != "int8":
        return {**found.units, **rest}
    elements = float(count_of([entry for entry in op.writes[:1] if entry is not None]))
    if op.kind in _SCALED:
        return {**rest, "scaled": _SCALED[op.kind] * elements}
    if op.kind in ("SOFTMAX", "LOG_SOFTMAX"):
        return {**rest, "soft": elements}
    if op.kind == "AVERAGE_POOL_2D" and (target := op.writes[0]) is not None and target.shape:
        # Sums over channels take their vectors, the division goes number by number.
        return {**rest, "scaled": elements, "average": found.units.get("average", 0.0) / target.shape[-1]}
    if op.kind == "BATCH_MATMUL":
        moved = sum(size_of(entry) for entry in op.reads if entry is not None)
        batch = found.units.get("batch", 1.0)
        return {**rest, "matrix": found.macs, "move": moved, "outputs": elements, "batch": batch}
    return {**found.units, **rest}


_MOST_TAPS = 25
"""XNNPACK has kernels for depthwise windows up to this many (src/configs/dwconv-config.c); the rest are convolutions in
as many groups as there are channels."""


_MERGED = 0.25
"""An op that is in another's table is still gone through: in chains of them 6 ns beside the 22 of an addition."""


def _marked(op: OpFacts, found: Kernel | None, mark: _Mark | None) -> Kernel | None:
    if found is not None and found.precision == "dynamic" and op.reads[0] is not None:
        # Activations are rounded, at every run, by a kernel before it.
        more = {"kernel": found.units.get("kernel", 0.0) + 1.0, "convert": float(op.reads[0].elements)}
        found = found.counting({**found.units, **more})
    if found is not None and found.macs > _MOST_TAPS * found.units.get("outputs", 0.0) and "depthwise" in found.units:
        units = {unit: count for unit, count in found.units.items() if unit not in ("depthwise", "places")}
        found = found.counting({**units, "grouped": found.macs})
    if found is None or mark is None:
        return found
    if mark.merged:
        return replace(found, units={"kernel": _MERGED}, bytes=0.0, pieces=1)
    if mark.table:
        rest = {unit: found.units[unit] for unit in ("mid", "far", "kernel") if unit in found.units}
        return found.counting({**rest, "math": float(count_of([e for e in op.writes[:1] if e is not None]))})
    if not (mark.outside or mark.steps):
        return found
    units = _own(op, found) if mark.outside else dict(found.units)
    if mark.steps and "move" in units:
        units["stride"] = units.pop("move") / BYTES.get("float32" if found.precision == "fp32" else "int8", 4)
    return found.counting(units, 1 if mark.outside else None)
