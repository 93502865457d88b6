"""A TFLite graph as the interpreter's planner looks at it: steps, ends, and the options that decide on memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgekit.formats import arena
from edgekit.formats.arena import Step
from edgekit.formats.facts import OpFacts
from edgekit.formats.flatbuffer import Table
from edgekit.formats.graph import GraphFacts, Key, Node
from edgekit.formats.tflite_schema import IN_PLACE, OPTIONS, UNMODIFIED, Slot

_NONE: Mapping[str, int] = {}


SETTINGS = {"SLICE": 2, "STRIDED_SLICE": 3}
"""Ops of which XNNPACK takes only some, by the content of this input: sizes, steps."""


def node(
    facts: OpFacts, inputs: Sequence[int], outputs: Sequence[int], table: Table, scales: int,
    setting: Sequence[int] = (),
) -> Node:  # fmt: skip
    """One op, with those of its options that decide on memory (see `OPTIONS`).

    Args:
        facts: What else is known of it.
        inputs: Tensor numbers; -1 for one that is absent.
        outputs: The same.
        table: Its record in the file.
        scales: How many its weights have.
        setting: Content of the input that `SETTINGS` names.
    """
    slots = OPTIONS.get(facts.kind)
    options = table.table(Slot.OP_OPTIONS) if slots else None
    found = {"per_channel": 1} if scales > 1 else {}
    if slots and options is not None:
        found |= {name: options.scalar(slot, letter, default) for name, (slot, letter, default) in slots.items()}
    if setting:
        found["least"], found["most"] = min(setting), max(setting)
    return Node(facts.kind, facts.name, _keys(inputs), _keys(outputs), found or _NONE)


def planned(graph: GraphFacts) -> int | None:
    """Bytes of the arena without kernels' scratch memory and without a delegate; None when a size is unknown."""
    sizes = graph.sizes()
    return None if sizes is None else arena.plan(sizes, steps(graph), *ends(graph))


def step(op: Node) -> Step:
    """What an op reads and writes; its kernel's scratch memory is not in it."""
    return Step(_named(op.inputs), _named(op.outputs), IN_PLACE.get(op.kind, ()), op.kind in UNMODIFIED)


def steps(graph: GraphFacts) -> list[Step]:
    """One an op."""
    return [step(op) for op in graph.nodes]


def ends(graph: GraphFacts) -> tuple[tuple[Key, ...], tuple[Key, ...], list[Key]]:
    """Inputs, outputs and variables."""
    return graph.inputs, graph.outputs, [key for key, tensor in graph.tensors.items() if tensor.variable]


def _keys(indices: Sequence[int]) -> tuple[Key | None, ...]:
    return tuple(i if i >= 0 else None for i in indices)


def _named(keys: tuple[Key | None, ...]) -> tuple[Key, ...]:
    return tuple(-1 if key is None else key for key in keys)
