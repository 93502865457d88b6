"""Whether a model fits a board: its engine, its ops, its memory and its size against a device profile.

    verdict = check(facts, manifest, load_profile("raspberry-pi-zero-2w"))
    enforce(verdict)            # LimitError that names the resource, what it needs and what there is

A limit is a statement that can be wrong for a known reason: each carries its source. What is not known (activations
of a model with free sizes, a board's storage) is said as advice, or left out; it is never taken for enough.
The figures that do not belong to a board, such as what an engine's process takes and which op versions it has
kernels for, are data in `device_profiles/_gate.toml`, with how they were found.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from edgekit.codec import encode
from edgekit.device_profiles import support
from edgekit.device_profiles.faults import known_fault
from edgekit.device_profiles.schema import ENGINES, version_key
from edgekit.errors import LimitError, UsageError

if TYPE_CHECKING:
    from edgekit.device_profiles.schema import Engine, Profile
    from edgekit.formats.facts import ModelFacts
    from edgekit.manifest import Manifest


class Latency(TypedDict):
    """Predicted milliseconds a sample, the interval around it, and what it rests on."""

    estimate: float | None
    low: float | None
    high: float | None
    basis: str


class MemoryUse(TypedDict):
    """Predicted peak of the whole process; 1 MB = 2**20 bytes, as `free -m` counts. None when no engine runs there."""

    estimate: float | None


@dataclass(frozen=True)
class Limit:
    """One thing that the model needs and the board has, or has not.

    Attributes:
        resource: "engine", "python", "operators", "opset", "ir_version", "memory", "storage" or "model_size".
        required, available: Figures in `unit`; names where there is nothing to count (`unit` is then empty).
        ok: Whether what is available is enough.
        why: How both came about.
        source: Where `available` comes from.
    """

    resource: str
    required: float | str
    available: float | str
    unit: str
    ok: bool
    why: str
    source: str

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.resource}: needs {_figure(self.required)}{unit}, has {_figure(self.available)}{unit}"


@dataclass(frozen=True)
class Verdict:
    """What `check` found.

    Attributes:
        device: Name of the profile.
        fits: Whether all limits hold.
        limits: All that were checked, whether they hold or not.
        memory_mb, latency_ms: Predictions.
        advice: What to know although it breaks no limit.
    """

    device: str
    fits: bool
    limits: tuple[Limit, ...]
    memory_mb: MemoryUse
    latency_ms: Latency
    advice: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of `edgekit check --json`; what is not predicted stays visible as null."""
        return dict(encode(self))

    @property
    def broken(self) -> tuple[Limit, ...]:
        """The limits that do not hold."""
        return tuple(limit for limit in self.limits if not limit.ok)


@dataclass(frozen=True)
class _Case:
    """What every limit looks at."""

    facts: ModelFacts
    manifest: Manifest | None
    profile: Profile
    engine: str | None
    threads: int | None

    @property
    def installed(self) -> Engine | None:
        """The engine there, when it can be installed."""
        found = self.profile.engines.get(self.engine or "")
        return found if found and found.version else None


def check(
    facts: ModelFacts,
    manifest: Manifest | None,
    profile: Profile,
    *,
    threads: int | None = None,
    engine: str | None = None,
) -> Verdict:
    """Compare a model with a board.

    Args:
        facts: What the file holds.
        manifest: Ours, when the file has one.
        profile: The board.
        threads: How many the engine will use; None for its default.
        engine: "litert" (which stands for tflite-runtime where that is the only one), "tflite-runtime" or
            "onnxruntime"; None for the format's own.

    Raises:
        UsageError: `unknown-name`: no such engine.
    """
    case = _Case(facts, manifest, profile, _choose(facts.format, profile, engine), threads)
    estimate = _memory(case)
    limits = (
        *_engine_limits(case, engine),
        *_op_limits(case),
        *_memory_limits(case, estimate),
        *_size_limits(case),
    )
    return Verdict(
        device=profile.name,
        fits=all(limit.ok for limit in limits),
        limits=limits,
        memory_mb={"estimate": estimate},
        latency_ms={"estimate": None, "low": None, "high": None, "basis": "not predicted"},
        advice=tuple(_advice(case)),
    )


def enforce(verdict: Verdict) -> None:
    """Refuse a model that does not fit.

    Raises:
        LimitError: `device-limit`: names the limiting resource, what is required and what is available.
    """
    broken = verdict.broken
    if broken:
        more = f" ({len(broken) - 1} more: {', '.join(limit.resource for limit in broken[1:])})" if broken[1:] else ""
        raise LimitError(
            "device-limit",
            f"the model does not fit {verdict.device}: {broken[0]}{more}",
            cause=broken[0].why,
            next_step=_REMEDIES[broken[0].resource],
            device=verdict.device,
            limits=[encode(limit) for limit in broken],
        )


def limiting(verdict: Verdict) -> str:
    """One phrase: the first limit that does not hold, or else the one that is closest."""
    if verdict.broken:
        return str(verdict.broken[0])
    shares = [
        (limit.required / limit.available, limit)
        for limit in verdict.limits
        if isinstance(limit.required, (int, float))
        and isinstance(limit.available, (int, float))
        and limit.unit == "MiB"
    ]
    return str(max(shares, key=lambda share: share[0])[1]) if shares else ""


_REMEDIES = {
    "engine": "convert to a format that has an engine there (`edgekit devices show`), or use the board's 64-bit system",
    "python": "install one of the Python versions with a wheel beside the system's own, and say so in `os.use_python`",
    "operators": "convert for this device again without those ops, or use an engine that has them",
    "opset": "export the model with a lower opset, or raise onnxruntime on the device",
    "ir_version": "export the model with a lower IR version, or raise onnxruntime on the device",
    "memory": "use a smaller precision (--precision int8), a smaller model or input, or a board with more memory",
    "storage": "use a smaller precision, or a larger card, stated in your own profile's storage.usable_mib",
    "model_size": "use a smaller precision, or raise budget.model_mib in your own profile",
}


# -- engine -----------------------------------------------------------------------------------------------------------


def _choose(format: str, profile: Profile, wanted: str | None) -> str | None:
    """Which of the profile's engines runs the model: the wanted one, else the first that can be installed."""
    if wanted is not None and wanted not in ENGINES:
        raise UsageError("unknown-name", f"no engine is called {wanted!r}; a device may have {', '.join(ENGINES)}")
    # Our own engine "litert" takes tflite-runtime where there is no LiteRT: 32-bit Arm.
    fallback = {"litert": ("litert", "tflite-runtime"), None: tuple(ENGINES)}
    names = [name for name in fallback.get(wanted, (wanted or "",)) if ENGINES[name] == format]
    usable = [name for name in names if name in profile.engines and profile.engines[name].version]
    return next(iter(usable or names), None)


def _engine_limits(case: _Case, wanted: str | None) -> Iterator[Limit]:
    format, os, found = case.facts.format, case.profile.os, case.profile.engines.get(case.engine or "")
    required = wanted or next((name for name, runs in ENGINES.items() if runs == format), format)
    if found is None or found.version is None:
        if wanted is not None and ENGINES[wanted] != format:
            why = f"{wanted} does not run .{format} files"
        else:
            why = (found.reason if found else None) or f"the profile names no engine for .{format} files"
        yield Limit("engine", required, "none", "", ok=False, why=why, source=_source(case, "engines"))
        return
    available = f"{found.distribution} {found.version}"
    core = case.profile.cpu.clusters[0].core
    fault = known_fault(found.distribution, found.version, core=core, precision=_precision(case))
    why = f"it has a wheel for {os.machine}" + (f": {found.wheel}" if found.wheel else "")
    said = fault.sentence(found.version) if fault else why
    yield Limit("engine", required, available, "", ok=not fault, why=said, source=_source(case, "engines"))
    yield Limit(
        "python",
        f"Python {_span(found.pythons)}",
        f"Python {os.running_python}",
        "",
        ok=os.running_python in found.pythons,
        why=f"{available} has wheels for Python {', '.join(found.pythons)}; {os.name} runs {os.running_python}",
        source=_source(case, "engines"),
    )


def _source(case: _Case, table: str) -> str:
    return case.profile.source(f"{table}.{case.engine}")


# -- ops --------------------------------------------------------------------------------------------------------------


def _op_limits(case: _Case) -> Iterator[Limit]:
    if case.installed is None:
        return
    if case.facts.format == "tflite":
        yield _tflite_ops(case, case.installed)
    else:
        yield from _onnx_versions(case, case.installed)


def _tflite_ops(case: _Case, engine: Engine) -> Limit:
    """Builtin ops by the engine's register of kernels; any other op would need code that no wheel has."""
    known = support.kernels(case.engine or "", engine.version or "")
    lacking = [problem for op in case.facts.ops if (problem := support.lacking(op.kind, op.version, known))]
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


def _onnx_versions(case: _Case, engine: Engine) -> Iterator[Limit]:
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


# -- memory and size --------------------------------------------------------------------------------------------------


def _memory(case: _Case) -> float | None:
    if case.installed is None or case.engine is None:
        return None
    return support.process_mib(
        case.engine,
        case.facts.format,
        integer=_precision(case) in ("int8", "int16x8", "mixed"),
        file_bytes=_size(case.facts),
        arena_bytes=case.facts.arena_bytes or 0,
    )


def _memory_limits(case: _Case, estimate: float | None) -> Iterator[Limit]:
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
        f" {_size(case.facts) / support.MIB:.2f} MiB with activations of {size}",
        source=case.profile.source("memory.usable_mib"),
    )


def _size_limits(case: _Case) -> Iterator[Limit]:
    size = round(_size(case.facts) / support.MIB, 3)
    storage, budget = case.profile.storage.usable_mib, case.profile.budget.model_mib
    if storage is not None:
        why = "twice the file: a new version is written before the old one goes"
        source = case.profile.source("storage.usable_mib")
        yield Limit("storage", 2 * size, storage, "MiB", ok=2 * size <= storage, why=why, source=source)
    if budget is not None:
        source = case.profile.source("budget.model_mib")
        why = "the file against the profile's budget"
        yield Limit("model_size", size, budget, "MiB", ok=size <= budget, why=why, source=source)


# -- advice -----------------------------------------------------------------------------------------------------------


def _advice(case: _Case) -> Iterator[str]:
    profile, facts = case.profile, case.facts
    if case.installed is None:
        return
    if profile.os.use_python:
        yield (
            f"{profile.os.name} ships Python {profile.os.python}; EdgeKit and the engine need"
            f" {profile.os.use_python}, installed beside it"
        )
    if case.installed.numpy and "<2" in case.installed.numpy:
        yield f"{case.installed.distribution} needs numpy {case.installed.numpy}: with numpy 2 it fails inside"
    if facts.arena_bytes is None:
        yield "the model has free sizes, so that its activations are not counted: the memory estimate is a lower bound"
    needs = case.manifest.needs if case.manifest else None
    if needs and (needs.engine, needs.engine_version) != (case.engine, case.installed.version):
        yield (
            f"verified with {needs.engine} {needs.engine_version}, there it is {case.engine} {case.installed.version}:"
            " run `edgekit verify` on the device once"
        )
    yield from _precision_advice(case)
    if case.threads and case.threads > profile.cpu.cores:
        yield f"{case.threads} threads on {profile.cpu.cores} cores: more threads than cores only wait for each other"
    elif case.threads and case.threads > profile.cpu.clusters[0].count:
        first = profile.cpu.clusters[0]
        yield f"more than {first.count} threads use slower cores than the {first.core}, which then set the pace"


def _precision_advice(case: _Case) -> Iterator[str]:
    profile, precision, tflite = case.profile, _precision(case), case.facts.format == "tflite"
    core = profile.cpu.clusters[0].core
    if precision == "int16x8":
        yield "int16 activations: " + (
            "TFLite runs them on reference kernels, several times slower than int8"
            if tflite
            else "onnxruntime has no such kernels and computes in float: the gain is size, not speed"
        )
    elif precision in ("int8", "dynamic") and not any(map(profile.has, ("dotprod", "i8mm", "avx_vnni"))):
        yield f"the {core} has no int8 dot products: " + (
            "expect at most 2.5 times the speed of float (MLPerf logs of Raspberry Pi 4), not four times"
            if tflite
            else "on onnxruntime int8 may be no faster than float; measure both, or convert to .tflite"
        )
    elif precision == "fp16":
        yield "fp16 halves the file only: the weights are expanded to 32-bit floats on loading" + (
            "" if profile.has("fp16") or profile.has("f16c") else f" (the {core} computes no half floats anyway)"
        )


def _precision(case: _Case) -> str:
    """What the model computes in: our manifest's word, else what the file's element types say."""
    return case.manifest.precision if case.manifest else case.facts.precision


def _size(facts: ModelFacts) -> int:
    """Bytes of the file and of what an ONNX file keeps beside it."""
    return max(facts.bytes, facts.weight_bytes if facts.external else 0)


def _span(pythons: tuple[str, ...]) -> str:
    ordered = sorted(pythons, key=version_key)
    return ordered[0] if len(ordered) == 1 else f"{ordered[0]} to {ordered[-1]}"


def _figure(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
