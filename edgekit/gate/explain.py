"""Why a verdict is what it is: the ops that take the time, the parts that take the memory, the tensors at the peak."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.codec import encode
from edgekit.gate import latency, resources
from edgekit.gate.case import Case, choose
from edgekit.memory import Part
from edgekit.memory.timeline import Span, Timeline, timeline
from edgekit.predict import OpTime

if TYPE_CHECKING:
    from edgekit.device_profiles.schema import Profile
    from edgekit.formats.facts import ModelFacts
    from edgekit.manifest import Manifest

_TENSORS = 200
"""Tensors that the document lists, largest first."""


@dataclass(frozen=True)
class Explanation:
    """What `check --explain` shows.

    Attributes:
        engine: Which one would run it; None when none can be installed there.
        threads: How many.
        ops: Every kernel in order, with its predicted time.
        parts: What the memory consists of.
        timeline: None when sizes are unknown.
    """

    engine: str | None
    threads: int | None
    ops: tuple[OpTime, ...]
    parts: tuple[Part, ...]
    timeline: Timeline | None

    def slowest(self, count: int) -> tuple[OpTime, ...]:
        """The ops that take longest."""
        return tuple(sorted(self.ops, key=lambda op: -op.ms)[:count])

    def at_peak(self) -> tuple[Span, ...]:
        """The tensors alive at the peak, largest first."""
        return self.timeline.alive(self.timeline.peak) if self.timeline else ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON: `ops`, `memory` parts, and the `timeline` of bytes alive with its `peak` and largest `tensors`."""
        found: dict[str, Any] = {
            "engine": self.engine, "threads": self.threads, "ops": [encode(op) for op in self.ops],
            "memory": [encode(part) for part in self.parts], "timeline": None,
        }  # fmt: skip
        if self.timeline:
            found["timeline"] = {
                "moments": [encode(moment) for moment in self.timeline.moments],
                "peak": self.timeline.peak, "planned": self.timeline.planned,
                "tensors": [encode(span) for span in self.timeline.tensors[:_TENSORS]],
            }  # fmt: skip
        return found


def own_name(name: str) -> str:
    """An op's or a tensor's; TFLite's converter names one after all ops that were fused: the first is its own."""
    return name.partition(";")[0]


def explain(
    facts: ModelFacts,
    manifest: Manifest | None,
    profile: Profile,
    *,
    threads: int | None = None,
    engine: str | None = None,
) -> Explanation:
    """Take a prediction apart; arguments as of `edgekit.gate.check`.

    Raises:
        UsageError: `unknown-name`: no such engine.
    """
    case = Case(facts, manifest, profile, choose(facts.format, profile, engine), threads)
    memory, time = resources.memory(case), latency.prediction(case)
    return Explanation(
        engine=case.engine if case.installed else None,
        threads=time.threads if time else threads,
        ops=time.ops if time else (),
        parts=memory.parts if memory else (),
        timeline=timeline(facts),
    )
