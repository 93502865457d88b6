"""Limits of what the board has so much of: memory, storage, and budgets for the file."""

from __future__ import annotations

from collections.abc import Iterator

from edgekit.gate.case import Case
from edgekit.gate.verdict import Limit, MemoryPart, MemoryUse
from edgekit.memory import Memory, predict
from edgekit.memory.footprint import MIB


def memory(case: Case) -> Memory | None:
    """Of the case's engine; None when it cannot be installed there."""
    if case.installed is None or case.engine is None:
        return None
    key = (case.engine, case.profile.os.machine, case.threads)
    if key not in case.known:
        case.known[key] = predict(case.facts, engine=key[0], machine=key[1], threads=key[2])
    return case.known[key]


def figures(found: Memory | None, case: Case) -> MemoryUse:
    """The contract's field."""
    if found is None:
        said = f"not predicted: {case.profile.name} has no engine that would run it"
        return MemoryUse(estimate=None, load=None, run=None, at_least=False, basis=said, parts=[])
    parts = [MemoryPart(what=p.what, mb=round(p.mib, 3), when=p.when, why=p.why) for p in found.parts]
    return MemoryUse(
        estimate=found.peak_mib, load=found.load_mib, run=found.run_mib, at_least=found.lower_bound, basis=found.basis,
        parts=parts,
    )  # fmt: skip


def memory_limits(case: Case, found: Memory | None) -> Iterator[Limit]:
    if found is None:
        return
    usable, source = case.profile.memory.usable_mib, case.profile.source("memory.usable_mib")
    process = sum(part.mib for part in found.parts if part.when == "import")
    largest = sorted((part for part in found.parts if part.when != "import"), key=lambda part: -part.mib)[:3]
    why = f"{process:.1f} MiB for Python, numpy and {case.engine}; " + ", ".join(
        f"{part.mib:.1f} for {part.why}" for part in largest
    )
    if found.lower_bound:
        why += "; not counted: tensors whose size only a run tells"
    opening = f"of {found.peak_mib:.1f} MiB in all, what is taken until the model is open"
    for resource, required, said in (("memory_load", found.load_mib, opening), ("memory", found.peak_mib, why)):
        yield Limit(resource, required, usable, "MiB", ok=required <= usable, why=said, source=source)


def size_limits(case: Case) -> Iterator[Limit]:
    size = round(case.size / MIB, 3)
    storage, budget = case.profile.storage.usable_mib, case.profile.budget.model_mib
    if storage is not None:
        why = "twice the file: a new version is written before the old one goes"
        source = case.profile.source("storage.usable_mib")
        yield Limit("storage", 2 * size, storage, "MiB", ok=2 * size <= storage, why=why, source=source)
    if budget is not None:
        source = case.profile.source("budget.model_mib")
        why = "the file against the profile's budget"
        yield Limit("model_size", size, budget, "MiB", ok=size <= budget, why=why, source=source)
