"""The parts of a TFLite file as `tflite` reads them, and what follows from all graphs together.

A free size counts as 1 in every figure.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.formats import tflite_macs
from edgekit.formats.facts import Operand, OpFacts, Shape, arithmetic, derive_precision, elements, total
from edgekit.formats.flatbuffer import Table

_CALL_DEPTH = 32


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor; `shape` has 1 for free sizes, `free` says which those are."""

    name: str
    shape: Shape
    free: tuple[bool, ...]
    dtype: str
    bits: int
    buffer: int
    constant: bool
    variable: bool
    scaled: bool
    table: Table
    operand: Operand

    @property
    def bytes(self) -> int:
        return (elements(self.shape) * self.bits + 7) // 8


@dataclass(frozen=True, slots=True)
class Step:
    """One op."""

    facts: OpFacts
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    calls: tuple[int, ...]
    table: Table

    @property
    def wired(self) -> bool:
        """First input and first output are there."""
        return bool(self.inputs and self.outputs) and self.inputs[0] >= 0 and self.outputs[0] >= 0


@dataclass(frozen=True, slots=True)
class Subgraph:
    """Tensors and ops of one graph, in the file's order."""

    tensors: list[Part]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    ops: list[Step]


def reachable(graphs: list[Subgraph], main: int) -> list[int]:
    """The main subgraph and those that its ops call, directly or not."""
    reached, seen = [main], {main}
    for index in reached:
        for op in graphs[index].ops:
            reached += dict.fromkeys(called for called in op.calls if called not in seen)
            seen.update(op.calls)
    return reached


def constants(graphs: list[Subgraph], weights: list[int]) -> tuple[int, int]:
    """Parameters and bytes of the constants, each buffer once."""
    parameters, used = 0, set()
    for graph in graphs:
        for tensor in graph.tensors:
            if not tensor.constant or tensor.buffer in used:
                continue
            if tensor.buffer:
                used.add(tensor.buffer)
            index = tensor.dtype in ("int32", "int64", "uint32", "uint64")
            if tensor.bits and tensor.dtype != "bool" and (tensor.scaled or not index):
                parameters += elements(tensor.shape)
    return parameters, sum(weights[i] for i in used)


def macs(graphs: list[Subgraph], main: int) -> int | None:
    """Of one run: calls add their subgraph's; what a loop or a branch multiplies depends on the data."""
    known: dict[int, int | None] = {}

    def of(index: int, depth: int) -> int | None:
        if index not in known:
            known[index] = None  # while it is being counted: a subgraph that calls itself has no count
            if depth < _CALL_DEPTH:
                known[index] = total(of_op(op, depth + 1) for op in graphs[index].ops)
        return known[index]

    def of_op(op: Step, depth: int) -> int | None:
        called = total([of(index, depth) for index in op.calls])
        if called and op.facts.kind not in ("CALL", "STABLEHLO_COMPOSITE"):
            return None
        return total((op.facts.macs, called))

    return of(main, 0)


def precision(graphs: list[Subgraph]) -> str:
    kinds: set[str] = set()
    for graph in graphs:
        # Weights that are stored smaller than they are used pass through DEQUANTIZE first.
        stored = {op.outputs[0]: op.inputs[0] for op in graph.ops if op.facts.kind == "DEQUANTIZE" and op.wired}
        for op in graph.ops:
            position = tflite_macs.WEIGHTED.get(op.facts.kind)
            if position is None or not op.wired or len(op.inputs) <= position or op.inputs[position] < 0:
                continue
            data = op.inputs[2] if op.facts.kind in tflite_macs.TRANSPOSED and len(op.inputs) > 2 else op.inputs[0]
            weight = stored.get(op.inputs[position], op.inputs[position])
            kinds.add(arithmetic(graph.tensors[data].dtype, graph.tensors[weight].dtype))
    return derive_precision(kinds, {t.dtype for graph in graphs for t in graph.tensors})
