"""Limits of what the board has so much of: memory, storage, and budgets for the file."""

from __future__ import annotations

from collections.abc import Iterator

from edgekit.device_profiles import support
from edgekit.gate.case import Case
from edgekit.gate.verdict import Limit


def memory(case: Case) -> float | None:
    if case.installed is None or case.engine is None:
        return None
    return support.process_mib(
        case.engine,
        case.facts.format,
        integer=case.precision in ("int8", "int16x8", "mixed"),
        file_bytes=case.size,
        arena_bytes=case.facts.arena_bytes or 0,
    )


def memory_limits(case: Case, estimate: float | None) -> Iterator[Limit]:
    if estimate is None or case.engine is None:
        return
    imported, usable = support.imported_mib(case.engine), case.profile.memory.usable_mib
    arena = case.facts.arena_bytes
    size = f"{arena / support.MIB:.2f} MiB" if arena is not None else "unknown size (not counted)"
    yield Limit(
        "memory",
        estimate,
        usable,
        "MiB",
        ok=estimate <= usable,
        why=f"{imported} MiB for Python, numpy and {case.engine}, the rest for a file of"
        f" {case.size / support.MIB:.2f} MiB with activations of {size}",
        source=case.profile.source("memory.usable_mib"),
    )


def size_limits(case: Case) -> Iterator[Limit]:
    size = round(case.size / support.MIB, 3)
    storage, budget = case.profile.storage.usable_mib, case.profile.budget.model_mib
    if storage is not None:
        why = "twice the file: a new version is written before the old one goes"
        source = case.profile.source("storage.usable_mib")
        yield Limit("storage", 2 * size, storage, "MiB", ok=2 * size <= storage, why=why, source=source)
    if budget is not None:
        source = case.profile.source("budget.model_mib")
        why = "the file against the profile's budget"
        yield Limit("model_size", size, budget, "MiB", ok=size <= budget, why=why, source=source)
