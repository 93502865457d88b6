"""`tune`: the search from its question to its answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgekit import artifact as artifacts
from edgekit import files
from edgekit.artifact import Artifact
from edgekit.converters import sources
from edgekit.device_profiles import load_profile
from edgekit.errors import LimitError, MissingFileError, UsageError
from edgekit.options import Options
from edgekit.tune import cache as caches
from edgekit.tune import execute, front, space
from edgekit.tune.evaluate import Place
from edgekit.tune.front import Wanted
from edgekit.tune.search import Found, search
from edgekit.tune.trial import Made, Refused, Trial

Progress = Callable[[dict[str, Any]], None]

_THREADS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Plan:
    """What is asked.

    Attributes:
        wanted: Goal and limits.
        target: Where to measure; None to predict by the profile of `Options.device`.
        formats, precisions, observers, threads: What to try; None for all there are (of threads, up to the cores).
        seconds: How long one measurement lasts.
        budget: Evaluations at most; None for as many as it takes.
        budget_seconds: No evaluation begins after so long.
        cache: Folder; None for the user's.
        scheduler: Address of a Dask scheduler; None to work here.
    """

    wanted: Wanted = field(default_factory=Wanted)
    target: str | None = None
    formats: Sequence[str] | None = None
    precisions: Sequence[str] | None = None
    observers: Sequence[str] | None = None
    threads: Sequence[int] | None = None
    seconds: float = 1.0
    budget: int | None = None
    budget_seconds: float | None = None
    cache: Path | None = None
    scheduler: str | None = None


@dataclass(frozen=True)
class Tuned:
    """What was found.

    Attributes:
        artifact: The chosen one, in memory; written where `Options.output` says.
        chosen: Its trial.
        front: Fastest first.
        trials: All that have figures.
        failed: Recipe -> code and message.
        evaluations: Done now, remembered, and what trying everything would take.
        complete: The front is known; else the budget ended first.
        said: Source, device, target, goal and limits, for the document.
    """

    artifact: Artifact
    chosen: Trial
    front: tuple[Trial, ...]
    trials: tuple[Trial, ...]
    failed: dict[str, tuple[str, str]]
    evaluations: dict[str, int]
    complete: bool
    said: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of `edgekit tune --json`."""
        return {
            **self.said,
            "chosen": {**self.chosen.to_dict(), "path": str(self.artifact.path) if self.artifact.path else None},
            "front": [trial.to_dict() for trial in self.front],
            "trials": [trial.to_dict() for trial in self.trials],
            "failed": [{"recipe": name, "code": code, "message": said} for name, (code, said) in self.failed.items()],
            "evaluations": self.evaluations,
            "complete": self.complete,
        }


def tune(source: str | Path, options: Options, plan: Plan, progress: Progress | None = None) -> Tuned:
    """Search for the best artifact of a model on a board.

    Args:
        source: Path of the model.
        options: Of every conversion: `device`, `evaluation`, `calibration`, `max_drop`, ...; `output` is where the
            chosen artifact goes. Format, precision and observer are the search's.
        plan: What is asked, and how much may be spent.
        progress: Told what goes on.

    Raises:
        UsageError: `tune-nothing`, `tune-place`, `latency-unpredicted`, `target-untimed`; `embedding-unknown` and
            others of `options.embedding`, before anything is tried.
        LimitError: `tune-no-fit`: nothing holds the limits; says what came nearest.
        EdgeKitError: What is wrong with the source, the data or the target.
    """
    tell = progress or (lambda _: None)
    path = Path(source)
    if not path.exists():
        raise MissingFileError("file-missing", f"there is no {path}")
    if plan.target is None and options.device is None:
        raise UsageError("tune-place", "neither a device to predict for nor a target to measure on was named")
    files.check_outputs((options.output,), (path, *options.inputs))
    tell({"stage": "look"})
    seen = sources.identify(path, signature=options.signature, shapes=dict(options.shapes),
                            trusted=bool(options.trust), dtypes=options.dtypes, model=options.model)  # fmt: skip
    tried = _space(seen.kind, options, plan)
    place = Place(plan.target, options.device, plan.seconds)
    work = execute.work(path, seen.sha256, options, place)
    cache = caches.Cache(plan.cache or files.cache("tune"))
    executor = _executor(plan, work, cache, tell)
    try:
        evaluator = execute.Evaluator(work, cache, executor, _budget(plan))
        if options.embedding is not None:
            evaluator.described(tried.recipes[0])  # a layer that is not there ends it now, not after the search
        found = _searched(tried, plan.wanted, evaluator)
        chosen = front.choose(found.trials(), plan.wanted)
        described = _described(chosen, plan.wanted, evaluator)
    finally:
        executor.close()
    return _finished(chosen, described, found, evaluator, tried, options, plan, cache, {
        "source": {"path": str(path), "framework": seen.kind, "sha256": seen.sha256},
        "device": options.device,
        "target": plan.target,
        "goal": plan.wanted.goal,
        "limits": {"max_drop": options.max_drop, "latency_ms": plan.wanted.latency_ms, "size_mb": plan.wanted.size_mb},
    })  # fmt: skip


def _space(kind: str, options: Options, plan: Plan) -> space.Space:
    formats = plan.formats or sources.routes().get(kind, ())
    for format in formats:
        sources.lowering_for(kind, format)
    cores = _cores(options.device if plan.target is None or options.device else None)
    threads = plan.threads or [count for count in _THREADS if count <= cores]
    return space.build(
        formats,
        calibrated=options.calibration is not None,
        threads=threads,
        names=plan.precisions,
        observers=plan.observers,
    )


def _cores(device: str | None) -> int:
    import os

    return load_profile(device).cpu.cores if device else os.cpu_count() or 1


def _executor(plan: Plan, work: execute.Work, cache: caches.Cache, tell: Progress) -> execute.Executor:
    if plan.scheduler is None:
        return execute.Local(work, cache, tell)
    from edgekit.tune.cluster import Cluster

    return Cluster(plan.scheduler, work, cache, tell)


def _budget(plan: Plan) -> Callable[[execute.Counts, int], int]:
    started = time.monotonic()

    def allowed(counts: execute.Counts, wanted: int) -> int:
        if plan.budget_seconds is not None and time.monotonic() - started > plan.budget_seconds:
            return 0
        return wanted if plan.budget is None else min(wanted, max(0, plan.budget - counts.done))

    return allowed


def _searched(tried: space.Space, wanted: Wanted, evaluator: execute.Evaluator) -> Found:
    found = Found()
    steps = search(tried, wanted, found)
    batch = next(steps, None)
    while batch is not None:
        results = evaluator.answer(batch)
        if results is None:
            break
        try:
            batch = steps.send(results)
        except StopIteration:
            break
    return found


def _described(chosen: Trial | None, wanted: Wanted, evaluator: execute.Evaluator) -> Made | None:
    """The chosen artifact with the reference of its data, which no trial needs; its figures are the same but for the
    bytes. None where it has none.

    Raises:
        LimitError: `tune-no-fit`: with the reference it is larger than allowed.
    """
    made = None if chosen is None else evaluator.described(chosen.recipe)
    if chosen is None or made is None:
        return None
    if not isinstance(made, Made):
        why = made.message if isinstance(made, Refused) else "nothing came of it"
        raise LimitError(
            "tune-no-fit", f"{chosen.recipe.label} cannot be made again with its reference: {why}", failed={}
        )
    if not wanted.holds(chosen.cost.latency_ms, made.bytes):
        sizes = f"{chosen.made.bytes / 1e6:.3g} MB, {made.bytes / 1e6:.3g} with the reference of its data"
        raise LimitError(
            "tune-no-fit",
            f"nothing holds the limits; the nearest is {chosen.recipe.label}: {sizes}",
            next_step="Leave the reference out: --no-reference.",
            failed={},
        )
    return made


def _finished(
    chosen: Trial | None,
    described: Made | None,
    found: Found,
    evaluator: execute.Evaluator,
    tried: space.Space,
    options: Options,
    plan: Plan,
    cache: caches.Cache,
    said: dict[str, Any],
) -> Tuned:
    trials = found.trials()
    if chosen is None:
        raise _nothing(found, trials, plan.wanted, complete=evaluator.complete)
    own, best = chosen.made.sha256, found.front()
    if described is not None:
        trials, best = (
            [replace(one, made=described) if one.made.sha256 == own else one for one in some] for some in (trials, best)
        )
        chosen = replace(chosen, made=described)
    artifact = artifacts.read(cache.artifact(chosen.made.sha256))
    artifact = artifact.write(options.output) if options.output is not None else replace(artifact, path=None)
    counts = evaluator.counts
    return Tuned(
        artifact=artifact,
        chosen=chosen,
        front=tuple(best),
        trials=tuple(trials),
        failed={recipe.label: (failure.code, failure.message) for recipe, failure in found.failed.items()},
        evaluations={
            "conversions": counts.conversions,
            "measurements": counts.measurements,
            "remembered": counts.remembered,
            "of_everything": tried.evaluations,
        },
        complete=evaluator.complete,
        said=said,
    )


def _nothing(found: Found, trials: Sequence[Trial], wanted: Wanted, *, complete: bool) -> LimitError:
    if trials:
        near = front.choose(trials, Wanted(wanted.goal))
        assert near is not None  # noqa: S101 - without limits any trial will do
        message = (
            f"nothing holds the limits; the nearest is {near.recipe.label} on {near.setting.label}: "
            f"{near.cost.latency_ms:.3g} ms, {near.made.bytes / 1e6:.3g} MB"
        )
    elif found.failed:
        recipe, failure = next(iter(found.failed.items()))
        message = f"no conversion passed; the first was {recipe.label}: {failure.message}"
    elif not complete:
        message = "the budget ended before anything was measured"
    else:
        failures = [cost for cost in found.costs.values() if not hasattr(cost, "latency_ms")]
        message = f"no artifact runs there: {getattr(failures[0], 'message', '')}" if failures else "nothing was tried"
    failed = {recipe.label: failure.message for recipe, failure in found.failed.items()}
    return LimitError("tune-no-fit", message, failed=failed)
