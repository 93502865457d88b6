"""Doing what a search asks for: from the cache where it is known, else one after the other on this machine."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from edgekit import files
from edgekit.codec import encode
from edgekit.options import Options
from edgekit.tune import cache as caches
from edgekit.tune import code, evaluate
from edgekit.tune.cache import Cache
from edgekit.tune.evaluate import Converted, Order, Place
from edgekit.tune.search import Convert, Job, Measure, Result
from edgekit.tune.trial import Cost, Recipe, Refused

Progress = Callable[[dict[str, Any]], None]

_IRRELEVANT = ("output", "device", "target", "calibration", "evaluation", "metadata", "labels", "rules", "trust",
               "time_limit", "lift_cache", "reference", "threads")  # fmt: skip
"""Options that change no byte of an artifact, or that stand in a key by their content."""


@dataclass(frozen=True)
class Work:
    """What a whole search is about.

    Attributes:
        source: Path, and `sha256` its digest.
        options: Of every conversion, but for what recipes say.
        contents: Digests of what the options name by path, and of the code behind `model`.
        place: Where measurements are made.
    """

    source: str
    sha256: str
    options: Options
    contents: dict[str, str | None]
    place: Place

    def order(self, job: Convert) -> Order:
        return Order(self.source, self.sha256, job.recipe, self.options, job.described)

    def key(self, job: Job) -> str:
        """Digest of all that decides the result of a job."""
        if isinstance(job, Measure):
            setting = encode(job.setting)
            return caches.key(kind="measure", work=job.made.work, sha256=job.made.sha256, setting=setting,
                              where=evaluate.machine(self.place), tools=caches.tools())  # fmt: skip
        fields = {name: value for name, value in vars(self.options).items() if name not in _IRRELEVANT}
        if not job.described:
            del fields["embedding"]  # what is inside is watched in the one that is kept
        # The gate of a device refuses; the artifact is the same for all.
        device = evaluate.machine(Place(None, self.options.device))
        return caches.key(kind="convert", source=self.sha256, options=fields, contents=self.contents, device=device,
                          recipe=encode(job.recipe), described=job.described, tools=caches.tools())  # fmt: skip


class Executor(Protocol):
    """Does evaluations that the cache does not have. Results come as they are ready: number of the job, result."""

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Converted | Cost | Refused]]: ...
    def close(self) -> None: ...


class Local:
    """One after the other, here."""

    def __init__(self, work: Work, cache: Cache, progress: Progress) -> None:
        self._work, self._cache, self._progress = work, cache, progress

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Converted | Cost | Refused]]:
        for number, job in enumerate(jobs):
            yield number, self._one(job)

    def _one(self, job: Job) -> Converted | Cost | Refused:
        name = label(job)

        def told(event: dict[str, Any]) -> None:
            self._progress({**event, "stage": f"{name}: {event.get('stage', '')}"})

        if isinstance(job, Convert):
            return evaluate.convert(self._work.order(job), told)
        return evaluate.measure(self._cache.artifact(job.made.sha256), job.setting, self._work.place, told)

    def close(self) -> None:
        evaluate.rest()


def label(job: Job) -> str:
    """For progress and logs."""
    if isinstance(job, Convert):
        return f"{'describe' if job.described else 'convert'} {job.recipe.label}"
    return f"measure {job.format} on {job.setting.label}"


@dataclass
class Counts:
    """Evaluations of a search.

    Attributes:
        conversions, measurements: Done now.
        remembered: Taken from the cache.
    """

    conversions: int = 0
    measurements: int = 0
    remembered: int = 0

    @property
    def done(self) -> int:
        return self.conversions + self.measurements


class Evaluator:
    """Answers batches of jobs; every result that is new is kept before the next one is waited for."""

    def __init__(self, work: Work, cache: Cache, executor: Executor, allowed: Callable[[Counts, int], int]) -> None:
        """Args:
        work: What it is about.
        cache: What is known.
        executor: Does the rest.
        allowed: How many of so many new evaluations the budget has left.
        """
        self._work, self._cache, self._executor, self._allowed = work, cache, executor, allowed
        self.counts = Counts()
        self.complete = True
        self.predicted = False

    def answer(self, jobs: Sequence[Job]) -> list[Result] | None:
        """Results in order; None when the budget ended before all of them."""
        keys = [self._work.key(job) for job in jobs]
        results: dict[int, Result] = {}
        for number, key in enumerate(keys):
            known = self._cache.get(key)
            if known is not None:
                results[number] = known
                self.counts.remembered += 1
        missing = [number for number in range(len(jobs)) if number not in results]
        some = missing[: self._allowed(self.counts, len(missing))]
        for place, outcome in self._executor.run([jobs[number] for number in some]):
            number = some[place]
            results[number] = self._keep(keys[number], jobs[number], outcome)
        if len(results) < len(jobs):
            self.complete = False
            return None
        return [results[number] for number in range(len(jobs))]

    def described(self, recipe: Recipe) -> Result | None:
        """The artifact that is kept, with the reference of its data; no evaluation, and no budget ends it. None where
        there is nothing to describe, or nobody wants it.
        """
        options = self._work.options
        if not options.reference or (options.calibration, options.evaluation) == (None, None):
            return None
        job = Convert(recipe, described=True)
        key = self._work.key(job)
        known = self._cache.get(key)
        if known is not None:
            return known
        ((_, outcome),) = self._executor.run([job])
        return self._stored(key, job, outcome)

    def _keep(self, key: str, job: Job, outcome: Converted | Cost | Refused) -> Result:
        if isinstance(job, Convert):
            self.counts.conversions += 1
        else:
            self.counts.measurements += 1
        return self._stored(key, job, outcome)

    def _stored(self, key: str, job: Job, outcome: Converted | Cost | Refused) -> Result:
        result = outcome.result if isinstance(outcome, Converted) else outcome
        if isinstance(outcome, Converted) and outcome.data and isinstance(job, Convert):
            self._cache.keep(outcome.data, job.recipe.format)
        if not (isinstance(result, Refused) and result.passing):
            self._cache.put(key, result)
        return result


def work(source: Path, sha256: str, options: Options, place: Place) -> Work:
    """With the digests of what is named by path, or given in its place."""
    contents = {name: _content(getattr(options, name)) for name in ("metadata", "labels", "rules")}
    contents |= {name: _data(getattr(options, name)) for name in ("calibration", "evaluation")}
    contents["model"] = None if options.model is None else code.sha256(options.model.partition(":")[0])
    return Work(str(source), sha256, replace(options, output=None, target=None), contents, place)


def _content(said: Any) -> str | None:
    if isinstance(said, (str, Path)):
        return files.sha256(Path(said)) if Path(said).exists() else None
    return None if said is None else caches.key(said=said)


def _data(given: Any) -> str | None:
    """Arrays and loaders have no digest before they are read: what was found with them serves this search alone."""
    return _content(given) if given is None or isinstance(given, (str, Path)) else secrets.token_hex(16)
