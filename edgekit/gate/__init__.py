"""Whether a model fits a board: engine, ops, memory, size and time against a device profile.

    verdict = check(facts, manifest, load_profile("raspberry-pi-zero-2w"))
    enforce(verdict)            # LimitError that names the resource, what it needs and what there is

A limit is a statement that can be wrong for a known reason: each carries its source. What is not known (activations
of a model with free sizes, a board's storage, a latency without published figures) is said as advice, or left out; it
is never taken for enough. Which op versions an engine has kernels for is data in `device_profiles/_gate.toml`, with how
it was found; memory is predicted by `edgekit.memory`, time by `edgekit.predict`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekit.codec import encode
from edgekit.errors import LimitError
from edgekit.gate import latency, resources
from edgekit.gate.advice import advice
from edgekit.gate.case import Case, choose
from edgekit.gate.choices import choices
from edgekit.gate.engines import engine_limits, op_limits
from edgekit.gate.verdict import Choice, Limit, Verdict, figure

if TYPE_CHECKING:
    from edgekit.device_profiles.schema import Profile
    from edgekit.formats.facts import ModelFacts
    from edgekit.manifest import Manifest
    from edgekit.memory import Memory

__all__ = ["Choice", "Limit", "Verdict", "check", "enforce", "limiting", "limiting_briefly", "matrix"]


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
    case = Case(facts, manifest, profile, choose(facts.format, profile, engine), threads)
    return _verdict(case, engine, compare=True)


def matrix(
    facts: ModelFacts,
    manifest: Manifest | None,
    profiles: Sequence[Profile],
    *,
    threads: int | None = None,
    engine: str | None = None,
) -> list[Verdict]:
    """The same for many boards, without comparing other settings on each.

    Raises:
        UsageError: `unknown-name`: no such engine.
    """
    known: dict[tuple[str, str, int | None], Memory] = {}
    cases = [Case(facts, manifest, p, choose(facts.format, p, engine), threads, known) for p in profiles]
    return [_verdict(case, engine, compare=False) for case in cases]


def _verdict(case: Case, engine: str | None, *, compare: bool) -> Verdict:
    memory, time = resources.memory(case), latency.prediction(case)
    limits = (
        *engine_limits(case, engine),
        *op_limits(case),
        *resources.memory_limits(case, memory),
        *resources.size_limits(case),
        *latency.latency_limits(case, time),
    )
    others = choices(case, time) if compare else ()
    return Verdict(
        device=case.profile.name,
        fits=all(limit.ok for limit in limits),
        limits=limits,
        memory_mb=resources.figures(memory, case),
        latency_ms=latency.figures(time, case),
        advice=tuple(advice(case, memory, time, others)),
        choices=others,
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
    return str(_closest(verdict) or "")


def limiting_briefly(verdict: Verdict) -> str:
    """The same for a column: "memory 8 %" of what there is, "memory 612 of 246 MiB" when it does not hold."""
    limit = _closest(verdict)
    if limit is None:
        return ""
    required, available = limit.required, limit.available
    if isinstance(required, str) or isinstance(available, str) or not limit.unit:
        return f"{limit.resource}: {figure(available)}"
    if not limit.ok:
        return f"{limit.resource} {figure(required, 3)} of {figure(available, 3)} {limit.unit}"
    return f"{limit.resource} {100 * required / available:.0f} %"


def _closest(verdict: Verdict) -> Limit | None:
    if verdict.broken:
        return verdict.broken[0]
    shares = [
        (limit.required / limit.available, limit)
        for limit in verdict.limits
        if isinstance(limit.required, (int, float))
        and isinstance(limit.available, (int, float))
        and limit.unit == "MiB"
    ]
    return max(shares, key=lambda share: share[0])[1] if shares else None


_REMEDIES = {
    "engine": "convert to a format that has an engine there (`edgekit devices show`), or use the board's 64-bit system",
    "python": "install one of the Python versions with a wheel beside the system's own, and say so in `os.use_python`",
    "operators": "convert for this device again without those ops, or use an engine that has them",
    "opset": "export the model with a lower opset, or raise onnxruntime on the device",
    "ir_version": "export the model with a lower IR version, or raise onnxruntime on the device",
    "memory_load": "use a smaller precision, or weights in a file beside the model (ONNX external data)",
    "memory": "use a smaller precision (--precision int8), a smaller model or input, or a board with more memory",
    "storage": "use a smaller precision, or a larger card, stated in your own profile's storage.usable_mib",
    "latency": "use a smaller model or input, int8 or more threads (`edgekit check` says what each would gain)",
    "latency_sustained": "cool the board, or leave room for its lower clock: a smaller model or input, int8",
    "model_size": "use a smaller precision, or raise budget.model_mib in your own profile",
}
