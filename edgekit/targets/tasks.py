"""What people do with an artifact on a target: each function brings the files there, runs the job, brings results back.

The command line, the pytest plugin and Python programs all come through here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from edgekit import files
from edgekit.child import Limits, Progress
from edgekit.data_ref import DataRef
from edgekit.errors import ArtifactError, UsageError
from edgekit.measure import results
from edgekit.measure.compare import ComparePlan, Comparison
from edgekit.measure.results import Bench
from edgekit.measure.sampling import BenchPlan
from edgekit.targets import agent, open_target
from edgekit.targets.base import Target

UNTIMED = "times measured on {} mean nothing: it proves that answers are right, not that they come in time"


def run(
    opening: agent.Opening,
    data: DataRef,
    *,
    samples: int = 1,
    output: Path | None = None,
    target: str = "local",
    progress: Progress | None = None,
) -> agent.RunResult:
    """Answer the first samples of some data; the raw outputs go to `output` (.npz) when it is given.

    Raises:
        UsageError: `output-unwritable`, `output-is-source`.
    """
    files.check_outputs((output,), (opening.path, data.path))
    with open_target(target, progress) as place:
        there = None if output is None else place.new("outputs.npz")
        with _brought(place, data, opening, first=samples) as brought:
            request = agent.RunRequest(_opened(place, opening), brought, samples, there)
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
    with open_target(target) as place, _brought(place, data, opening) as brought:
        request = agent.EvaluateRequest(_opened(place, opening), brought, task)
        return place.perform(agent.evaluate, request, progress=_staged("evaluate", progress))


def verify(opening: agent.Opening, *, target: str = "local", progress: Progress | None = None) -> agent.Replayed:
    """Check the digest and replay the self-test vectors there."""
    with open_target(target, progress) as place:
        return replace(place.perform(agent.verify, _opened(place, opening)), target=place.name)


def bench(opening: agent.Opening, plan: BenchPlan, *, target: str = "local", progress: Progress | None = None) -> Bench:
    """Measure latency and memory there; on a target where times mean nothing, the result says so."""
    path = Path(opening.path)
    with open_target(target, progress) as place:
        request = agent.BenchRequest(_opened(place, opening), plan)
        limits = Limits(900 + 20 * plan.seconds)
        result = place.perform(agent.bench, request, limits=limits, progress=progress)
        measured = results.Measured(str(path.resolve()), files.sha256(path), files.size_of(path))
        now = datetime.now(UTC).isoformat(timespec="seconds")
        result = replace(result, target=place.name, artifact=measured, created=now)
        if place.timed:
            return result
        return replace(result, timed=False, valid=False, notes=(UNTIMED.format(place.name), *result.notes))


def compare(
    opening: agent.Opening,
    baseline: Path,
    plan: ComparePlan | None = None,
    *,
    result: Bench | None = None,
    target: str = "local",
    progress: Progress | None = None,
) -> Comparison:
    """Say whether an artifact is slower than a baseline.

    Both run side by side there when the baseline's model is at hand: another artifact, or the file that a stored result
    was measured on. Else a fresh result is compared with the stored one, which is weaker and says so.

    Args:
        opening: The artifact.
        baseline: Another one, or a result written by `bench -o`.
        plan: How sure to be, and how long to try.
        result: Of `bench` for `opening`; measured here when it is needed and missing.
        target: Where they run.
        progress: Told what goes on.

    Raises:
        UsageError: `target-untimed`: times mean nothing there.
        ArtifactError: `result-unknown`, `results-incomparable`.
    """
    from edgekit.measure.recorded import compare_results

    plan = plan or ComparePlan()
    model, stored = _baseline(baseline)
    with open_target(target, progress) as place:
        if not place.timed:
            raise UsageError("target-untimed", UNTIMED.format(place.name))
        if model is not None:
            other = _opened(place, replace(opening, path=str(model)))
            request = agent.CompareRequest(_opened(place, opening), other, plan)
            return place.perform(agent.compare, request, limits=Limits(900 + 2 * plan.seconds), progress=progress)
    assert stored is not None  # noqa: S101 - a baseline is one or the other
    result = result or bench(opening, BenchPlan(), target=target, progress=progress)
    return compare_results(result, stored, effect=plan.effect)


def _baseline(path: Path) -> tuple[Path | None, Bench | None]:
    """The model to measure against, or the stored result whose model is gone."""
    if path.suffix.lower() != results.SUFFIX:
        return path, None
    stored = results.read(path)
    if not stored.timed:
        raise ArtifactError("results-incomparable", f"{path}: {UNTIMED.format(stored.target)}")
    model = stored.artifact
    if model is not None and Path(model.path).is_file() and files.sha256(Path(model.path)) == model.sha256:
        return Path(model.path), None
    return None, stored


def _opened(place: Target, opening: agent.Opening) -> agent.Opening:
    return replace(opening, path=place.put(Path(opening.path)))


@contextmanager
def _brought(place: Target, data: DataRef, opening: agent.Opening, first: int | None = None) -> Iterator[DataRef]:
    if place.name == "local":
        yield data
        return
    from edgekit.targets.carried import carried

    with files.scratch() as folder:
        ready = carried(data, Path(opening.path), folder, first=first)
        yield replace(ready, path=place.put(Path(ready.path)))


def _staged(stage: str, progress: Progress | None) -> Progress | None:
    return None if progress is None else lambda event: progress({"stage": stage, **event})
