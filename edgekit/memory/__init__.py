"""What a process takes that opens and runs a model, from the file alone.

    found = predict(facts, engine="litert", machine="aarch64")
    found.load_mib, found.run_mib, found.parts

The sum of parts that are each derived, planned or measured: Python with numpy and the engine, the file, packed copies
of its weights, the arena as the engine plans it, and what kernels need besides. `footprint` holds the figures.
"""

from __future__ import annotations

from collections.abc import Iterator
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
        what: "process", "session", "file", "weights", "arena", "workspace", "pointers", "data".
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
    spike = 0.0
    if facts.format == "tflite":
        model += _tflite(facts, userland, threads, delegate=bool(base["xnnpack"]))
    else:
        more, spike = _onnx(facts, userland)
        model += more
    if python:
        model.append(Part("data", _ends(facts) / MIB, "run", "inputs and outputs as arrays"))
    margin = float(footprint.data()["margin"]) - 1
    for when in ("load", "run"):
        share = sum(part.mib for part in model if part.when == when) + (spike if when == "load" else 0.0)
        parts.append(Part("margin", margin * share, when, "what the estimate may lack, by measured files"))  # type: ignore[arg-type]
    parts += [Part("session", base["first"], "run", "the library's pages of the first run"), *model]
    load = sum(part.mib for part in parts if part.when != "run") + spike
    run = sum(part.mib for part in parts)
    unknown = not facts.graphs or any(g.sizes() is None or g.calls for g in facts.graphs) or _late(facts)
    return Memory(round(load, 2), round(max(run, load), 2), tuple(parts), unknown, str(base["basis"]))


def _file(facts: ModelFacts) -> int:
    return max(facts.bytes, facts.weight_bytes if facts.external else 0)


def _ends(facts: ModelFacts) -> int:
    if not facts.graphs:
        return 0
    graph = facts.graphs[0]
    return sum(graph.tensors[key].bytes or 0 for key in (*graph.inputs, *graph.outputs) if key in graph.tensors)


def _late(facts: ModelFacts) -> bool:
    from edgekit.memory import tflite

    return facts.format == "tflite" and any(
        tflite.late(tflite.without_sizes_of_tensors(graph)) for graph in facts.graphs
    )


def _tflite(facts: ModelFacts, machine: Machine, threads: int | None, *, delegate: bool) -> Iterator[Part]:
    from edgekit.memory import kernels, tflite, xnnpack

    arena = weights = pointers = space = heap = 0
    for graph in facts.graphs:
        plan = tflite.arena_of(graph, delegate=delegate, threads=threads)
        arena += plan.touched
        heap = max(heap, *(kernels.heap(node, graph) for node in graph.nodes), 0)
        for part in plan.parts:
            if part.delegated:
                weights += xnnpack.unpacked(graph, part)
                weights += sum(xnnpack.packed(node, graph, machine) for node in part.nodes)
                pointers += sum(xnnpack.indirection(node, graph, machine) for node in part.nodes)
                space = max(space, xnnpack.workspace(graph, part) or 0)
    yield Part("arena", arena / MIB, "load", "the interpreter's arena, planned as it does")
    if heap:
        yield Part("kernels", heap / MIB, "run", "lists that kernels sort")
    if delegate:
        yield Part("weights", weights / MIB, "load", "XNNPACK's packed copies of the weights")
        yield Part("pointers", pointers / MIB, "load", "XNNPACK's tables of the pixels that each output takes")
        yield Part("workspace", space / MIB, "load", "XNNPACK's activations")


def _onnx(facts: ModelFacts, machine: Machine) -> tuple[list[Part], float]:
    """The parts, and how much more it is for a moment while loading."""
    from edgekit.memory import onnx

    graph: GraphFacts | None = facts.graphs[0] if facts.graphs else None
    if graph is None:
        return [], 0.0
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
    return parts, spike
