"""What people do with an artifact on a target: each function brings the files there, runs the job, brings results back.

The command line, the pytest plugin and Python programs all come through here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit.data_ref import DataRef
from edgekit.measure.latency import Bench, BenchPlan
from edgekit.targets import agent, open_target
from edgekit.targets.base import Target

Progress = Callable[[dict[str, Any]], None]


def run(
    opening: agent.Opening, data: DataRef, *, samples: int = 1, output: Path | None = None, target: str = "local"
) -> agent.RunResult:
    """Answer the first samples of some data; the raw outputs go to `output` (.npz) when it is given."""
    with open_target(target) as place:
        there = None if output is None else place.new("outputs.npz")
        request = agent.RunRequest(_opened(place, opening), _brought(place, data), samples, there)
        result = place.perform(agent.run, request)
        if output is not None and there is not None:
            place.get(there, output)
        return replace(result, output=str(output) if output else None)


def evaluate(
    opening: agent.Opening,
    data: DataRef,
    *,
    task: str | None = None,
    target: str = "local",
    progress: Progress | None = None,
) -> agent.Evaluation:
    """Measure accuracy on labelled data."""
    with open_target(target) as place:
        request = agent.EvaluateRequest(_opened(place, opening), _brought(place, data), task)
        return place.perform(agent.evaluate, request, progress=_staged("evaluate", progress))


def verify(opening: agent.Opening, *, target: str = "local") -> agent.Replayed:
    """Check the digest and replay the self-test vectors there."""
    with open_target(target) as place:
        return place.perform(agent.verify, _opened(place, opening))


def bench(opening: agent.Opening, plan: BenchPlan, *, target: str = "local", progress: Progress | None = None) -> Bench:
    """Measure latency and memory there."""
    with open_target(target) as place:
        result = place.perform(agent.bench, agent.BenchRequest(_opened(place, opening), plan), progress=progress)
        return replace(result, target=place.name)


def _opened(place: Target, opening: agent.Opening) -> agent.Opening:
    return replace(opening, path=place.put(Path(opening.path)))


def _brought(place: Target, data: DataRef) -> DataRef:
    return replace(data, path=place.put(Path(data.path)))


def _staged(stage: str, progress: Progress | None) -> Progress | None:
    return None if progress is None else lambda event: progress({"stage": stage, **event})
