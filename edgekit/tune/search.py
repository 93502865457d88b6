"""What to try next, so that the front is found with few evaluations.

An evaluation is a conversion or a measurement. These facts save most of them:

1. One conversion serves every number of threads and every engine.
2. Artifacts whose operators, element types and sizes are the same take the same time, whatever their numbers are: other
   observers and repairs are converted, not measured again.
3. Accuracy above the source's is luck and counts as the source's. As soon as one variant of a family loses nothing, no
   other of the same work can be better.
4. How time and memory go with threads is learned from one artifact of each engine (`scaling`). The others are measured
   once, with the number of threads that was best there, and again only where the prediction, less a margin, adds to the
   front.
5. What a family could at best reach is known: its size and its costs, and no loss. Where that is covered, it is left.
6. Observers see the same tensors in both formats: once all variants of a precision were tried in one, the other format
   tries the best of them.

The search is a generator: it yields batches of jobs that do not depend on each other, and is sent their results in
order. So it runs as well on one machine as on many, and two runs over the same results try the same.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field

from edgekit.tune import front as fronts
from edgekit.tune.front import Wanted
from edgekit.tune.scaling import fit
from edgekit.tune.space import Space
from edgekit.tune.trial import Cost, Made, Recipe, Refused, Setting, Trial

MARGIN = 1.08
"""On predicted latencies."""
STILL = 1.05
"""A gain by more threads below this is none."""


@dataclass(frozen=True)
class Convert:
    """Make an artifact; the result is `Made` or `Refused`.

    Attributes:
        described: With the reference of its data: for the one that is kept, not for trials.
    """

    recipe: Recipe
    described: bool = False


@dataclass(frozen=True)
class Measure:
    """Run an artifact; the result is `Cost` or `Refused`."""

    made: Made
    format: str
    setting: Setting


Job = Convert | Measure
Result = Made | Cost | Refused
Family = tuple[str, str, int]
Steps = Generator[list[Job], Sequence[Result], None]


@dataclass
class Found:
    """What is known so far; filled while searching.

    Attributes:
        made: Artifacts, in the order in which they were made.
        failed: Conversions without one.
        costs: By work and setting; a Refused where it does not run.
    """

    made: dict[Recipe, Made] = field(default_factory=dict)
    failed: dict[Recipe, Refused] = field(default_factory=dict)
    costs: dict[tuple[str, Setting], Cost | Refused] = field(default_factory=dict)

    def trials(self) -> list[Trial]:
        """Every artifact under every setting that its work was measured in."""
        return [
            Trial(recipe, setting, made, cost)
            for recipe, made in self.made.items()
            for (work, setting), cost in self.costs.items()
            if work == made.work and isinstance(cost, Cost)
        ]

    def front(self) -> list[Trial]:
        return fronts.front(self.trials())

    def cost(self, work: str, setting: Setting) -> Cost | None:
        """Where it was measured and ran."""
        found = self.costs.get((work, setting))
        return found if isinstance(found, Cost) else None


def search(space: Space, wanted: Wanted, found: Found) -> Steps:
    """Yield batches until the front of `space` is known; see the module header.

    Args:
        space: All that may be tried.
        wanted: Limits; what cannot hold them is not looked at further.
        found: Gains all results.
    """
    search = _Search(space, wanted, found)
    yield from search.first_of_each_family()
    while search.progressed:
        search.progressed = False
        yield from search.references()
        yield from search.works()
        yield from search.settings()
        yield from search.variants()


class _Search:
    def __init__(self, space: Space, wanted: Wanted, found: Found) -> None:
        self.space, self.wanted, self.found = space, wanted, found
        self.progressed = True
        self._left = {family: list(recipes) for family, recipes in space.families().items()}

    # -- Conversions ---------------------------------------------------------------------------------------------------

    def first_of_each_family(self) -> Steps:
        now = [recipes for recipes in self._left.values() if recipes[0].after is None]
        yield from self._convert([recipes.pop(0) for recipes in now])

    def variants(self) -> Steps:
        """One more variant of each family that could still add to the front."""
        chosen = [recipe for family in self._left if (recipe := self._next(family)) is not None]
        for recipe in chosen:
            self._left[recipe.family].remove(recipe)
        yield from self._convert(chosen)

    def _next(self, family: Family) -> Recipe | None:
        left = self._left[family]
        if not left or not self._open(family):
            return None
        for other, rest in self._left.items():
            if other != family and other[1:] == family[1:] and not rest and len(self._tried(other)) > 1:
                best = min(self._tried(other), key=lambda pair: pair[1].loss, default=None)
                same = [recipe for recipe in left if best is not None and recipe.variant == best[0].variant]
                self._left[family] = same  # the others are behind it there
                return same[0] if same else None
            if other[1:] == family[1:] and rest and self._open(other) and self._sooner(other, family):
                return None  # it shows first which variant is the best
        return left[0]

    def _sooner(self, one: Family, other: Family) -> bool:
        return list(self._left).index(one) < list(self._left).index(other)

    def _tried(self, family: Family) -> list[tuple[Recipe, Made]]:
        return [(recipe, made) for recipe, made in self.found.made.items() if recipe.family == family]

    def _convert(self, recipes: list[Recipe]) -> Steps:
        if not recipes:
            return
        self.progressed = True
        results = yield [Convert(recipe) for recipe in recipes]
        for recipe, result in zip(recipes, results, strict=True):
            if isinstance(result, Refused):
                self.found.failed[recipe] = result
            elif isinstance(result, Made):
                self.found.made[recipe] = result

    def _open(self, family: Family) -> bool:
        """Whether another variant of a family may give a point that is not covered."""
        if not self._left[family]:
            return False
        made = [made for _, made in self._tried(family)]
        failures = [failure for recipe, failure in self.found.failed.items() if recipe.family == family]
        first = self._left[family][0].after
        if not made and not failures and first is not None:
            plain = (family[0], first, 0)
            if plain in self._left and self._open(plain):
                return False  # another variant may do
            made = [made for _, made in self._tried(plain)]
            if not made:
                return True
        if not made:
            return all(failure.mendable for failure in failures)
        if min(one.loss for one in made) <= 0:
            return False
        return any(self._adds(0.0, made[0], setting) for setting in self.space.settings[family[0]])

    # -- Measurements --------------------------------------------------------------------------------------------------

    def references(self) -> Steps:
        """One artifact of each engine with more and more threads, as long as they gain something."""
        while jobs := [job for engine in self._engines() for job in self._next_reference(engine)]:
            yield from self._measure(jobs)

    def works(self) -> Steps:
        """Every other work once, with the threads that were best for the reference."""
        jobs = [
            Measure(made, recipe.format, best)
            for recipe, made in self._works()
            for engine, best in self._best().items()
            if best in self.space.settings[recipe.format] and not self._costs(made.work, engine)
        ]
        yield from self._measure(jobs)

    def settings(self) -> Steps:
        """What could still add to the front, the most promising first: it covers others."""
        while jobs := sorted(self._candidates(), key=lambda job: (self._latency(job.made, job.setting), job.made.loss)):
            yield from self._measure(jobs[:1])

    def _measure(self, jobs: list[Measure]) -> Steps:
        jobs = [job for job in jobs if (job.made.work, job.setting) not in self.found.costs]
        if not jobs:
            return
        self.progressed = True
        results = yield list(jobs)
        for job, result in zip(jobs, results, strict=True):
            if isinstance(result, (Cost, Refused)):
                self.found.costs[job.made.work, job.setting] = result

    def _works(self) -> Iterator[tuple[Recipe, Made]]:
        """One artifact of each work."""
        seen: set[str] = set()
        for recipe, made in self.found.made.items():
            if made.work not in seen:
                seen.add(made.work)
                yield recipe, made

    def _engines(self) -> list[str]:
        return list(dict.fromkeys(setting.engine for settings in self.space.settings.values() for setting in settings))

    def _settings_of(self, engine: str) -> list[tuple[str, Setting]]:
        return [(f, s) for f, settings in self.space.settings.items() for s in settings if s.engine == engine]

    def _reference(self, engine: str) -> tuple[str, Made] | None:
        """Format and artifact: the largest file that runs there, mostly the float one."""
        formats = {format for format, _ in self._settings_of(engine)}
        broken = {
            work for (work, s), cost in self.found.costs.items() if s.engine == engine and isinstance(cost, Refused)
        }
        known = [
            (made.bytes, -n, r.format, made)
            for n, (r, made) in enumerate(self._works())
            if r.format in formats and made.work not in broken
        ]
        return max(known)[2:] if known else None

    def _next_reference(self, engine: str) -> list[Measure]:
        reference = self._reference(engine)
        if reference is None:
            return []
        format, made = reference
        settings = [setting for other, setting in self._settings_of(engine) if other == format]
        best = 0.0
        for setting in settings:
            cost = self.found.cost(made.work, setting)
            if cost is None:
                return [Measure(made, format, setting)]
            if best and best < STILL * cost.latency_ms:
                return []
            best = cost.latency_ms
        return []

    def _costs(self, work: str, engine: str) -> dict[Setting, Cost | Refused]:
        return {s: cost for (known, s), cost in self.found.costs.items() if known == work and s.engine == engine}

    def _best(self) -> dict[str, Setting]:
        """By engine, the setting that was fastest for its reference."""
        found = {}
        for engine in self._engines():
            reference = self._reference(engine)
            ran = {} if reference is None else self._costs(reference[1].work, engine)
            times = [(cost.latency_ms, s.threads, s) for s, cost in ran.items() if isinstance(cost, Cost)]
            if times:
                found[engine] = min(times, key=lambda one: one[:2])[2]
        return found

    def _candidates(self) -> Iterator[Measure]:
        for recipe, made in self.found.made.items():
            for setting in self.space.settings[recipe.format]:
                if (made.work, setting) not in self.found.costs and self._adds(made.loss, made, setting):
                    yield Measure(made, recipe.format, setting)

    # -- Bounds --------------------------------------------------------------------------------------------------------

    def _adds(self, loss: float, made: Made, setting: Setting) -> bool:
        """Whether an artifact of that loss, of the size and work of `made`, could add to the front in this setting."""
        latency, memory = self._latency(made, setting), self._memory(made, setting)
        if math.isinf(latency) or not self.wanted.holds(latency, made.bytes):
            return False
        best = fronts.cells(loss, latency, made.bytes, memory)
        return not any(fronts.covers(fronts.of(one.made, one.cost), best) for one in self.found.trials())

    def _latency(self, made: Made, setting: Setting) -> float:
        """Latency (ms) that it has, or could at best have; infinite where that is unknown or not worth a look."""
        known = self.found.cost(made.work, setting)
        if known is not None:
            return known.latency_ms
        measured = self._measured(made, setting.engine)
        learned = self._learned(setting.engine)
        if measured is None or setting.threads > max(learned, default=1):
            return math.inf
        scaling = fit({threads: cost.latency_ms for threads, cost in learned.items()})
        return scaling.predict(measured[1].latency_ms, measured[0].threads, setting.threads) / MARGIN

    def _memory(self, made: Made, setting: Setting) -> float:
        known = self.found.cost(made.work, setting)
        measured = self._measured(made, setting.engine)
        if known is not None or measured is None:
            return 0.0 if known is None else known.memory_mb
        learned = self._learned(setting.engine)
        if not {setting.threads, measured[0].threads} <= learned.keys():
            return measured[1].memory_mb
        return measured[1].memory_mb + learned[setting.threads].memory_mb - learned[measured[0].threads].memory_mb

    def _measured(self, made: Made, engine: str) -> tuple[Setting, Cost] | None:
        ran = [(s, cost) for s, cost in self._costs(made.work, engine).items() if isinstance(cost, Cost)]
        return min(ran, key=lambda one: one[1].latency_ms, default=None)

    def _learned(self, engine: str) -> dict[int, Cost]:
        """Costs of the engine's reference by threads."""
        reference = self._reference(engine)
        ran = {} if reference is None else self._costs(reference[1].work, engine)
        return {setting.threads: cost for setting, cost in ran.items() if isinstance(cost, Cost)}
