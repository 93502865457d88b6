"""What is tried, and what comes of it.

A trial is a recipe (what a conversion makes) under a setting (how it is run). One conversion serves all settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from edgekit.rules import Rule


@dataclass(frozen=True)
class Recipe:
    """One way to convert the source.

    Attributes:
        format: "tflite" or "onnx".
        precision: Name of a precision.
        variant: Further options of a conversion: name -> value; they change the answers and hardly the cost.
        rules: Layers in another precision.
        after: A precision that comes first: only where it loses something is this one worth a try.
    """

    format: str
    precision: str
    variant: Mapping[str, Any] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    after: str | None = None

    @property
    def family(self) -> tuple[str, str, int]:
        """Recipes whose artifacts compute alike and differ in their numbers."""
        return self.format, self.precision, len(self.rules)

    @property
    def label(self) -> str:
        """For people: "tflite int8, observer percentile"."""
        more = [f"{name} {_plain(value)}" for name, value in sorted(self.variant.items())]
        return ", ".join([f"{self.format} {self.precision}{' by rules' if self.rules else ''}", *more])

    def __hash__(self) -> int:
        return hash(self.label)


def _plain(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


@dataclass(frozen=True)
class Setting:
    """How an artifact is run."""

    engine: str
    threads: int

    @property
    def label(self) -> str:
        return f"{self.engine}, {self.threads} thread{'s' if self.threads > 1 else ''}"


@dataclass(frozen=True)
class Refused:
    """A conversion that gave no artifact: its error.

    Attributes:
        code, message: The error's.
        mendable: Other ranges or repairs might pass: it was judged, not impossible.
        passing: It may go otherwise another time (a process died or hung), so that it is not kept.
    """

    code: str
    message: str
    mendable: bool = False
    passing: bool = False


@dataclass(frozen=True)
class Made:
    """An artifact.

    Attributes:
        sha256: Of the file; what measurements go by.
        bytes: Its size.
        loss: What it lost against the source, from 0 on, in `unit`. What it seems to have gained is luck, and counts 0.
        unit: "top1 points", "agreement points" or "dB".
        work: Digest of all that decides its speed: kinds, element types and sizes of its operators. Artifacts of one
            work take the same time.
        metric: Of the artifact, as verification names it.
        lifted: Layers in another precision.
    """

    sha256: str
    bytes: int
    loss: float
    unit: str
    work: str
    metric: dict[str, float] = field(default_factory=dict)
    lifted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cost:
    """What running takes.

    Attributes:
        latency_ms: Median of one inference.
        memory_mb: Peak of the process.
        basis: "measured", or "predicted" by the device's profile.
        low_ms, high_ms: Interval of the latency, where known.
        notes: Why a figure should not be trusted.
    """

    latency_ms: float
    memory_mb: float
    basis: Literal["measured", "predicted"]
    low_ms: float | None = None
    high_ms: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trial:
    """An artifact under a setting, with all its figures."""

    recipe: Recipe
    setting: Setting
    made: Made
    cost: Cost

    def to_dict(self) -> dict[str, Any]:
        """As in `edgekit tune --json`."""
        return {
            "recipe": self.recipe.label,
            "format": self.recipe.format,
            "precision": self.recipe.precision,
            "options": dict(self.recipe.variant),
            "engine": self.setting.engine,
            "threads": self.setting.threads,
            "loss": self.made.loss,
            "unit": self.made.unit,
            "metric": self.made.metric,
            "latency_ms": self.cost.latency_ms,
            "latency_interval_ms": [self.cost.low_ms, self.cost.high_ms],
            "memory_mb": self.cost.memory_mb,
            "bytes": self.made.bytes,
            "basis": self.cost.basis,
            "notes": list(self.cost.notes),
            "sha256": self.made.sha256,
            "lifted": list(self.made.lifted),
        }
