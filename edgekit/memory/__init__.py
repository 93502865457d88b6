"""What a process takes that opens and runs a model, from the file alone.

    found = predict(facts, engine="litert", machine="aarch64")
    found.load_mib, found.run_mib, found.parts

The sum of parts that are each derived, planned or measured: Python with numpy and the engine, the file, packed copies
of its weights, the arena as the engine plans it, and what kernels need besides. `footprint` holds the figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgekit.memory import footprint
from edgekit.memory.footprint import MIB, Machine

if TYPE_CHECKING:
    from edgekit.formats.facts import ModelFacts
    from edgekit.formats.graph import GraphFacts

__all__ = ["Memory", "Part", "predict"]

When = Literal["import", "load", "run"]


@dataclass(frozen=True)
class Part:
    """One reason for memory.

    Attributes:
        what: "process", "session", "first run", "file", "weights", "arena", "workspace", "pointers", "nodes",
            "kernels", "data" or "margin".
        mib: How much; it stays.
        when: From when on.
        why: In words.
    """

    what: str
    mib: float
    when: When
    why: str


@dataclass(frozen=True)
class Memory:
    """The estimate.

    Attributes:
        load_mib: Highest resident memory of the process until the model is open.
        run_mib: The same until it has run twice.
        parts: What it consists of.
        lower_bound: Something is not known, so that it may well be more.
        basis: What the estimate rests on, in words.
    """

    load_mib: float
    run_mib: float
    parts: tuple[Part, ...]
    lower_bound: bool
    basis: str

    @property
    def peak_mib(self) -> float:
        return max(self.load_mib, self.run_mib)


def predict(facts: ModelFacts, *, engine: str, machine: str, threads: int | None = None, python: bool = True) -> Memory:
    """Estimate a process.

    Args:
        facts: What the file holds, its graphs included.
        engine: "litert", "tflite-runtime" or "onnxruntime".
        machine: Userland, as wheels call it: "x86_64", "aarch64", "armv7l", "armv6l".
        threads: Of the engine; None for its default.
        python: Whether the process is Python's; without, it is the engine's own benchmark program, which maps the file.
    """
    userland = footprint.machine(machine)
    base = footprint.process(engine if python else "benchmark_model", userland)
    parts = [
        Part("process", base["import"], "import", f"Python, numpy and {engine}" if python else "the program"),
        Part("session", base["session"], "load", "threads, registers of kernels, the library's pages"),
    ]
    model = [Part("file", _file(facts) / MIB, "load", "the file's own bytes")]
    spike, known = 0.0, facts.arena_bytes is not None
    if not facts.graphs:
        model.append(Part("weights", _file(facts) / MIB, "load", "the weights, packed"))
        model.append(Part("arena", (facts.arena_bytes or 0) / MIB, "load", "activations"))
    elif facts.format == "tflite":
        more, known = _tflite(facts, userland, threads, delegate=bool(base["xnnpack"]))
        model += more
    else:
        more, spike, known = _onnx(facts, userland)
        model += more
    if python:
        model.append(Part("data", _ends(facts) / MIB, "run", "inputs and outputs as arrays"))
    known = known and not facts.unsized
    margin = float(footprint.data()["margin"]) - 1
    loading = sum(part.mib for part in model if part.when == "load") + spike
    running = sum(part.mib for part in model if part.when == "run")
    why = "what the estimate may lack, by measured files"
    parts += [Part("margin", margin * loading, "load", why), Part("margin", margin * running, "run", why)]
    parts += [Part("first run", base["first"], "run", "the library's pages of the first run"), *model]
    load = sum(part.mib for part in parts if part.when != "run") + spike
    run = sum(part.mib for part in parts)
    return Memory(round(load, 2), round(max(run, load), 2), tuple(parts), not known, str(base["basis"]))


def _file(facts: ModelFacts) -> int:
    return max(facts.bytes, facts.weight_bytes if facts.external else 0)


def _ends(facts: ModelFacts) -> int:
    if not facts.graphs:
        return 0
    graph = facts.graphs[0]
    return sum(graph.tensors[key].bytes or 0 for key in (*graph.inputs, *graph.outputs) if key in graph.tensors)


def _tflite(facts: ModelFacts, machine: Machine, threads: int | None, *, delegate: bool) -> tuple[list[Part], bool]:
    """The parts, and whether nothing is missing."""
    from edgekit.memory import kernels, tflite, xnnpack

    known = True
    arena = weights = pointers = space = heap = 0
    for graph in facts.graphs:
        plan = tflite.arena_of(graph, delegate=delegate, threads=threads)
        known = known and plan.layout is not None and not graph.calls and not tflite.open_ended(graph)
        arena += plan.touched
        heap = max(heap, *(kernels.heap(node, graph) for node in graph.nodes), 0)
        for part in plan.parts:
            if part.delegated:
                inside = xnnpack.workspace(graph, part)
                known = known and inside is not None
                space = max(space, inside or 0)
                weights += xnnpack.unpacked(graph, part)
                weights += sum(xnnpack.packed(node, graph, machine) for node in part.nodes)
                pointers += sum(xnnpack.indirection(node, graph, machine) for node in part.nodes)
    found = [
        ("arena", arena, "the interpreter's arena, planned as it does"),
        ("weights", weights, "XNNPACK's packed copies of the weights"),
        ("pointers", pointers, "XNNPACK's tables of the pixels that each output takes"),
        ("workspace", space, "XNNPACK's activations"),
    ]
    parts = [Part(what, size / MIB, "load", why) for what, size, why in found if delegate or what == "arena"]
    if heap:
        parts.append(Part("kernels", heap / MIB, "run", "lists that kernels sort"))
    return parts, known


def _onnx(facts: ModelFacts, machine: Machine) -> tuple[list[Part], float, bool]:
    """The parts, how much more it is for a moment while loading, and whether nothing is missing."""
    from edgekit.memory import onnx

    graph: GraphFacts | None = facts.graphs[0] if facts.graphs else None
    if graph is None:
        return [], 0.0, False
    copies = onnx.loading(graph)
    nodes = len(facts.ops) * footprint.data()["onnxruntime"]["node"]
    parts = [
        Part("weights", copies.resident / MIB, "load", "copies of the weights: in the message, as values, packed"),
        Part("nodes", nodes / MIB, "load", f"{len(facts.ops)} nodes"),
    ]
    attributes = facts.weight_bytes - sum(t.bytes or 0 for t in graph.tensors.values() if t.constant)
    if attributes > 0 and any(node.kind.startswith("ai.onnx.ml:") for node in graph.nodes):
        grown = footprint.data()["onnxruntime"]["copies"]["estimator"] * attributes / MIB
        parts.append(Part("weights", grown, "load", "trees and tables of estimators as the engine holds them"))
    found = onnx.running(graph, machine)
    spike = (copies.peak - copies.resident) / MIB
    if found is not None:
        why = f"the arena, {found.reserved / MIB:.1f} MiB reserved in powers of two"
        parts.append(Part("arena", found.touched / MIB, "run", why))
    return parts, spike, found is not None
