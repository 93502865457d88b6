"""Limits of the engine: a wheel for this userland and Python, kernels for the ops, versions of the format."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgekit.device_profiles import support
from edgekit.device_profiles.faults import known_fault
from edgekit.device_profiles.software import ENGINES, version_key
from edgekit.gate.case import Case
from edgekit.gate.verdict import Limit

if TYPE_CHECKING:
    from edgekit.device_profiles.software import Engine


def engine_limits(case: Case, wanted: str | None) -> Iterator[Limit]:
    format, os, found = case.facts.format, case.profile.os, case.profile.engines.get(case.engine or "")
    required = wanted or next((name for name, runs in ENGINES.items() if runs == format), format)
    if found is None or found.version is None:
        if wanted is not None and ENGINES[wanted] != format:
            why = f"{wanted} does not run .{format} files"
        else:
            why = (found.reason if found else None) or f"the profile names no engine for .{format} files"
        yield Limit("engine", required, "none", "", ok=False, why=why, source=case.source("engines"))
        return
    available = f"{found.distribution} {found.version}"
    core = case.profile.cpu.clusters[0].core
    fault = known_fault(found.distribution, found.version, core=core, precision=case.precision)
    why = f"it has a wheel for {os.machine}" + (f": {found.wheel}" if found.wheel else "")
    said = fault.sentence(found.version) if fault else why
    yield Limit("engine", required, available, "", ok=not fault, why=said, source=case.source("engines"))
    yield Limit(
        "python",
        f"Python {_span(found.pythons)}",
        f"Python {os.running_python}",
        "",
        ok=os.running_python in found.pythons,
        why=f"{available} has wheels for Python {', '.join(found.pythons)}; {os.name} runs {os.running_python}",
        source=case.source("engines"),
    )


def op_limits(case: Case) -> Iterator[Limit]:
    if case.installed is None:
        return
    if case.facts.format == "tflite":
        yield _tflite_ops(case, case.installed)
    else:
        yield from _onnx_versions(case, case.installed)


def _tflite_ops(case: Case, engine: Engine) -> Limit:
    """Builtin ops by the engine's register of kernels; any other op would need code that no wheel has."""
    known = support.kernels(case.engine or "", engine.version or "")
    stops = support.untyped(case.engine or "", engine.version or "")
    lacking = [problem for op in case.facts.ops if (problem := support.lacking(op.kind, op.version, known))]
    lacking += [f"{op.kind} of {op.dtype}" for op in case.facts.ops if op.dtype in stops.get(op.kind, ())]
    lacking += _misread(case)
    name = f"{engine.distribution} {engine.version}"
    return Limit(
        "operators",
        len(case.facts.ops),
        len(case.facts.ops) - len(lacking),
        "ops",
        ok=not lacking,
        why=f"{name} has "
        + (f"no kernel for {'; '.join(sorted(set(lacking)))}" if lacking else "a kernel for every op"),
        source=support.SOURCE,
    )


def _misread(case: Case) -> Iterator[str]:
    wrong = support.misread(case.engine or "")
    for op in case.facts.ops:
        kinds = {read.dtype for read in op.reads if read is not None and read.constant} & {*wrong.get(op.kind, ())}
        yield from (f"{op.kind} with weights of {kind} that answers right" for kind in sorted(kinds))


def _onnx_versions(case: Case, engine: Engine) -> Iterator[Limit]:
    known, name = support.onnx_versions(engine.version or "0"), f"onnxruntime {engine.version}"
    source = f"{support.SOURCE}, and onnxruntime.ai/docs/reference/compatibility.html"
    foreign = [op.kind for op in case.facts.ops if ":" in op.kind and op.kind.split(":")[0] not in support.ONNX_DOMAINS]
    why = f"{name} has " + (f"no kernel for {', '.join(sorted(set(foreign)))}" if foreign else "the domains of all ops")
    ops = len(case.facts.ops)
    yield Limit("operators", ops, ops - len(foreign), "ops", ok=not foreign, why=why, source=source)
    for domain, key in (("", "opset"), ("ai.onnx", "opset"), ("ai.onnx.ml", "ml")):
        if (required := case.facts.opsets.get(domain)) is not None:
            why = f"{name} loads opsets of {domain or 'ai.onnx'} up to {known[key]}"
            yield Limit("opset", required, known[key], "", ok=required <= known[key], why=why, source=source)
    if (written := case.facts.metadata.get("ir_version", "")).isdecimal():
        why = f"{name} reads IR versions up to {known['ir']}"
        yield Limit("ir_version", int(written), known["ir"], "", ok=int(written) <= known["ir"], why=why, source=source)


def _span(pythons: tuple[str, ...]) -> str:
    ordered = sorted(pythons, key=version_key)
    return ordered[0] if len(ordered) == 1 else f"{ordered[0]} to {ordered[-1]}"
