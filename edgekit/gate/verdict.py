"""What the gate says: limits, and the verdict over them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

from edgekit.codec import encode
from edgekit.predict import Latency


class MemoryPart(TypedDict):
    """One reason for memory (`edgekit.memory.Part`)."""

    what: str
    mb: float
    when: str
    why: str


class MemoryUse(TypedDict):
    """Predicted peak of the whole process; 1 MB = 2**20 bytes, as `free -m` counts. None when no engine runs there.

    `load` is the peak until the model is open, `run` until it has run; `at_least`: something is not known, so that it
    may be more; `basis`: what the process's own part rests on; `parts`: what it consists of.
    """

    estimate: float | None
    load: float | None
    run: float | None
    at_least: bool
    basis: str
    parts: list[MemoryPart]


@dataclass(frozen=True)
class Choice:
    """Another way to run the same network there, and what it would take.

    Attributes:
        precision: "fp32", "int8", ...; the file's own, or that of a conversion.
        engine: "litert", "tflite-runtime" or "onnxruntime".
        threads: How many.
        latency_ms: Predicted.
        gain: Times as fast as what was asked for.
    """

    precision: str
    engine: str
    threads: int
    latency_ms: float
    gain: float


@dataclass(frozen=True)
class Limit:
    """One thing that the model needs and the board has, or has not.

    Attributes:
        resource: "engine", "python", "operators", "opset", "ir_version", "memory_load", "memory", "storage",
            "model_size", "latency" or "latency_sustained".
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
        return f"{self.resource}: needs {figure(self.required)}{unit}, has {figure(self.available)}{unit}"


@dataclass(frozen=True)
class Verdict:
    """What `check` found.

    Attributes:
        device: Name of the profile.
        fits: Whether all limits hold.
        limits: All that were checked, whether they hold or not.
        memory_mb, latency_ms: Predictions.
        advice: What to know although it breaks no limit.
        choices: Other precisions, engines and numbers of threads there, fastest first.
    """

    device: str
    fits: bool
    limits: tuple[Limit, ...]
    memory_mb: MemoryUse
    latency_ms: Latency
    advice: tuple[str, ...] = ()
    choices: tuple[Choice, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of `edgekit check --json`; what is not predicted stays visible as null."""
        return dict(encode(self))

    @property
    def broken(self) -> tuple[Limit, ...]:
        """The limits that do not hold."""
        return tuple(limit for limit in self.limits if not limit.ok)


def threads(count: int | None) -> str:
    """So many in words: "1 thread", "4 threads"; what is not known is the engine's choice."""
    return "threads of the engine's choice" if count is None else f"{count} thread{'' if count == 1 else 's'}"


def figure(value: float | str, digits: int = 4) -> str:
    """For people: so many digits, whole where large; names as they are."""
    if isinstance(value, str):
        return value
    return f"{value:.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"
