"""Whether a model fits a board: its engine, its ops, its memory and its size against a device profile.

    verdict = check(facts, manifest, load_profile("raspberry-pi-zero-2w"))
    enforce(verdict)            # LimitError that names the resource, what it needs and what there is

A limit is a statement that can be wrong for a known reason: each carries its source. What is not known (activations
of a model with free sizes, a board's storage) is said as advice, or left out; it is never taken for enough.
The figures that do not belong to a board, such as what an engine's process takes and which op versions it has
kernels for, are data in `device_profiles/_gate.toml`, with how they were found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.codec import encode
from edgekit.errors import LimitError
from edgekit.gate.advice import advice
from edgekit.gate.case import Case, choose
from edgekit.gate.engines import engine_limits, op_limits
from edgekit.gate.latency import figures, prediction
from edgekit.gate.resources import memory, memory_limits, size_limits
from edgekit.gate.verdict import Limit, Verdict

if TYPE_CHECKING:
    from edgekit.device_profiles.schema import Profile
    from edgekit.formats.facts import ModelFacts
    from edgekit.manifest import Manifest

__all__ = ["Limit", "Verdict", "check", "enforce", "limiting"]


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
    estimate = memory(case)
    limits = (
        *engine_limits(case, engine),
        *op_limits(case),
        *memory_limits(case, estimate),
        *size_limits(case),
    )
    return Verdict(
        device=profile.name,
        fits=all(limit.ok for limit in limits),
        limits=limits,
        memory_mb={"estimate": estimate},
        latency_ms=figures(prediction(case), case),
        advice=tuple(advice(case)),
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
