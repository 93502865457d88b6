"""What a repair is given, what it must offer, and what is reported of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

from edgekit.converters.repairs import moments
from edgekit.converters.repairs.moments import Moments
from edgekit.converters.repairs.samples import Samples
from edgekit.converters.repairs.view import Floats, View, layers, open_view
from edgekit.converters.stages import Graph, Ranges
from edgekit.rules import Rule

Kind = Literal["floats", "weights", "plan", "engine"]

_SHOWN = 3
"""Names of tensors in what a repair says of itself."""


@dataclass(frozen=True)
class Case:
    """One float graph under repair.

    Attributes:
        graph: The file.
        samples: Calibration data, some of it.
        ranges: Of the activations, on these samples.
        bits: Of activations.
        levels: The largest integer of a weight.
        threads: Of the engine.
        lifted: Tensors that layers make which rules take to another precision: they keep their weights.
    """

    graph: Graph
    samples: Samples
    ranges: Ranges
    bits: int
    levels: int = 127
    threads: int = 2
    lifted: frozenset[str] = frozenset()

    @cached_property
    def memory(self) -> dict[object, Any]:
        """What repairs worked out for this graph and would work out again."""
        return {}

    @cached_property
    def kernels(self) -> dict[str, Floats]:
        """The kernels before any repair, by layer."""
        opened = open_view(self.graph)
        return {layer.name: opened.kernel(layer) for layer in layers(opened)}

    @cached_property
    def moments(self) -> dict[str, Moments]:
        """What the inputs of the layers are like, by layer."""
        opened = open_view(self.graph)
        found = moments.collect(self.graph, opened, self.samples, self.ranges.tensors, self.bits, self.threads)
        return {name: one for name, one in found.items() if name not in self.lifted}


@dataclass(frozen=True, kw_only=True)
class EngineCase(Case):
    """One whose ranges are chosen: what its integers answer can be measured.

    Attributes:
        quantized: Makes the quantized graph of a float one.
        written: Makes a file of a changed view of a graph.
        reference: What the integers shall answer: the float graph before repairs of weights.
        macs: Multiply-accumulates of a run.
    """

    quantized: Callable[[Graph], Graph]
    written: Callable[[Graph, View], Graph]
    reference: Graph
    macs: int


@dataclass(frozen=True)
class Change:
    """What a repair did.

    Attributes:
        changed: How many layers or tensors; 0 where there was nothing to repair.
        detail: In words.
        rules: Of mixed precision, for repairs of the kind "plan".
        rewrites: One of the kind "plan" changed the graph as well, and not its answers.
    """

    changed: int = 0
    detail: str = ""
    rules: tuple[Rule, ...] = ()
    rewrites: bool = False


@dataclass(frozen=True)
class Report:
    """What became of a repair; the `repairs` of `edgekit convert --json`.

    Attributes:
        name: Of the repair.
        changed: How many layers or tensors it changed.
        kept: Whether the artifact has it.
        gain_db: What it gained in SQNR of the outputs on calibration data, or would have lost; None where that is no
            measure of it.
        detail: In words.
    """

    name: str
    changed: int
    kept: bool
    gain_db: float | None
    detail: str


class Repair(Protocol):
    """What a module `repair_NAME.py` offers. It must import with numpy alone installed.

    TITLE is one line for lists. KIND: "floats" leave the float answers as they are, which is checked; "weights" change
    weights and biases so that their integers serve better, which is measured; "plan" says which operators should
    compute in another precision, and may rewrite the graph for that as "floats" do; "engine" go by what the integer
    kernels answer, when all else is decided (`settle`), and get an `EngineCase`. ORDER: of those of a kind, the smaller
    first.
    """

    TITLE: str
    KIND: Kind
    ORDER: int

    def apply(self, case: Case, opened: View) -> Change:
        """Change the graph `opened` in place."""
        ...


def short(name: str) -> str:
    """A tensor's name for people: the first of those that converters join by semicolons."""
    return name.split(";", 1)[0]


def some(names: Sequence[str]) -> str:
    """The first few for people: "a, b, c and 4 more"."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(short, names[:_SHOWN])) + more
