"""The search finds the front of trying everything, with a part of the evaluations, on worlds of several shapes."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from edgekit.tune import front as fronts
from edgekit.tune.front import Wanted
from edgekit.tune.search import Convert, Found, Measure, search
from edgekit.tune.space import Space
from edgekit.tune.trial import Cost, Made, Recipe, Refused, Setting, Trial

PRECISIONS = ("fp32", "fp16", "dynamic", "int8", "int16x8")
CALIBRATED = ("int8", "int16x8")
OBSERVERS = ("entropy", "minmax", "mse", "percentile")
THREADS = (1, 2, 4)


def grid(engines: dict[str, str] | None = None) -> Space:
    engines = engines or {"tflite": "litert", "onnx": "onnxruntime"}
    recipes = []
    for format, name in itertools.product(engines, PRECISIONS):
        recipes.append(Recipe(format, name))
        if name in CALIBRATED:
            recipes += [Recipe(format, name, {"observer": other}) for other in OBSERVERS]
    return Space(
        tuple(recipes), {format: tuple(Setting(engine, n) for n in THREADS) for format, engine in engines.items()}
    )


def noise(*parts: Any) -> float:
    """A number from 0 to 1 that depends on the parts only."""
    return int(hashlib.sha256(repr(parts).encode()).hexdigest()[:8], 16) / 0xFFFFFFFF


@dataclass
class World:
    """A deterministic machine: what conversions and measurements give there.

    Attributes:
        loss: Points that a precision loses with its plain observer.
        spread: Points by which observers differ.
        speed: Milliseconds of a precision on (tflite, onnx).
        parallel: Share of the time that threads divide.
        floor: Milliseconds that no thread takes away.
        grip: Milliseconds that each further thread costs.
        collapses: Families without an artifact, and whether another observer mends it.
    """

    loss: dict[str, float]
    speed: dict[str, tuple[float, float]]
    spread: float = 0.6
    parallel: float = 0.9
    grip: float = 0.02
    collapses: dict[tuple[str, str], bool] = field(default_factory=dict)
    counted: dict[str, int] = field(default_factory=lambda: {"convert": 0, "measure": 0})

    def convert(self, recipe: Recipe) -> Made | Refused:
        self.counted["convert"] += 1
        observer = recipe.variant.get("observer", "")
        family = (recipe.format, recipe.precision)
        if family in self.collapses and not (self.collapses[family] and observer == "mse"):
            return Refused("verify-accuracy", "it fell", mendable=self.collapses[family])
        shift = self.spread * (noise(observer, recipe.precision) - 0.5) if recipe.precision in CALIBRATED else 0.0
        loss = max(0.0, round(self.loss[recipe.precision] + shift, 2))
        size = {"fp32": 400, "fp16": 205, "dynamic": 108, "int8": 100, "int16x8": 101}[recipe.precision]
        size = size * 1000 + (3000 if recipe.format == "onnx" else 0)
        return Made(f"{recipe.label}", size, loss, "top1 points", f"{recipe.format} {recipe.precision}")

    def measure(self, job: Measure) -> Cost:
        self.counted["measure"] += 1
        format, precision = job.made.work.split()
        base = self.speed[precision][0 if format == "tflite" else 1]
        n = job.setting.threads
        latency = base * (1 - self.parallel + self.parallel / n) + self.grip * (n - 1)
        memory = (20 if format == "tflite" else 40) + job.made.bytes / 1e5 + 0.3 * n
        return Cost(latency, memory, "measured")


WORLDS: dict[str, Callable[[], World]] = {
    "int8 wins": lambda: World(
        {"fp32": 0, "fp16": 0, "dynamic": 0.4, "int8": 0.3, "int16x8": 0.1},
        {"fp32": (2.0, 3.0), "fp16": (2.0, 3.0), "dynamic": (1.6, 3.2), "int8": (0.8, 1.5), "int16x8": (9.0, 3.4)},
    ),
    "int8 loses nothing": lambda: World(
        {"fp32": 0, "fp16": 0, "dynamic": 0.2, "int8": 0.0, "int16x8": 0.0},
        {"fp32": (2.0, 3.0), "fp16": (2.1, 3.1), "dynamic": (1.6, 3.2), "int8": (0.8, 1.5), "int16x8": (9.0, 3.4)},
        spread=0.0,
    ),
    "a tiny model, threads cost": lambda: World(
        {"fp32": 0, "fp16": 0, "dynamic": 0.5, "int8": 0.9, "int16x8": 0.2},
        {"fp32": (0.02, 0.03), "fp16": (0.02, 0.03), "dynamic": (0.02, 0.04), "int8": (0.01, 0.02),
         "int16x8": (0.1, 0.04)},
        grip=0.05,
    ),
    "int8 is slower than float": lambda: World(
        {"fp32": 0, "fp16": 0.0, "dynamic": 0.7, "int8": 1.4, "int16x8": 0.6},
        {"fp32": (1.0, 0.9), "fp16": (1.0, 0.9), "dynamic": (1.4, 1.5), "int8": (1.2, 1.3), "int16x8": (6.0, 1.2)},
    ),
    "the second format is the faster one": lambda: World(
        {"fp32": 0, "fp16": 0, "dynamic": 0.3, "int8": 0.5, "int16x8": 0.0},
        {"fp32": (4.0, 1.1), "fp16": (4.0, 1.1), "dynamic": (3.0, 1.0), "int8": (2.5, 0.6), "int16x8": (20.0, 1.2)},
        parallel=0.97,
    ),
    "int8 collapses, one observer mends it": lambda: World(
        {"fp32": 0, "fp16": 0, "dynamic": 0.3, "int8": 0.8, "int16x8": 0.1},
        {"fp32": (2.0, 3.0), "fp16": (2.0, 3.0), "dynamic": (1.6, 3.2), "int8": (0.8, 1.5), "int16x8": (9.0, 3.4)},
        collapses={("tflite", "int8"): True, ("onnx", "int8"): True, ("onnx", "dynamic"): False},
    ),
    "a slow serial model": lambda: World(
        {"fp32": 0, "fp16": 0, "dynamic": 1.0, "int8": 2.0, "int16x8": 0.5},
        {"fp32": (900, 800), "fp16": (900, 800), "dynamic": (700, 850), "int8": (300, 500), "int16x8": (3000, 820)},
        parallel=0.1,
    ),
}  # fmt: skip


def drive(space: Space, world: World, wanted: Wanted | None = None) -> Found:
    found = Found()
    steps = search(space, wanted or Wanted(), found)
    results: Any = None
    while True:
        try:
            jobs = steps.send(results)
        except StopIteration:
            return found
        assert jobs
        results = [world.convert(job.recipe) if isinstance(job, Convert) else world.measure(job) for job in jobs]


def everything(space: Space, world: World) -> tuple[list[Trial], int]:
    trials, count = [], 0
    for recipe in space.recipes:
        made = world.convert(recipe)
        count += 1
        for setting in space.settings[recipe.format]:
            count += 1
            if isinstance(made, Made):
                trials.append(Trial(recipe, setting, made, world.measure(Measure(made, recipe.format, setting))))
    return fronts.front(trials), count


def places(trials: list[Trial]) -> set[fronts.Cells]:
    return {fronts.of(trial.made, trial.cost) for trial in trials}


def missing(found: list[Trial], whole: list[Trial]) -> set[fronts.Cells]:
    """Points of the whole front that nothing found comes near: as accurate, and within one cell on the other axes."""
    reached = places(found)
    return {
        place for place in places(whole)
        if not any(fronts.covers(one, (place[0], *(at + 1 for at in place[1:]))) for one in reached)
    }  # fmt: skip


@pytest.mark.parametrize("name", WORLDS)
def test_finds_the_front_of_trying_everything_with_few_evaluations(name):
    space = grid()
    whole, count = everything(space, WORLDS[name]())
    assert count == space.evaluations
    world = WORLDS[name]()
    found = drive(space, world)
    assert not missing(found.front(), whole)
    assert not missing(whole, found.front())
    spent = sum(world.counted.values())
    assert spent <= 0.4 * count, f"{world.counted} of {count}"


@settings(max_examples=15, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(
    losses=st.lists(st.floats(0, 2), min_size=5, max_size=5),
    factors=st.lists(st.tuples(st.floats(0.25, 4), st.floats(0.25, 4)), min_size=5, max_size=5),
    base=st.floats(0.02, 500),
    parallel=st.floats(0, 1),
    grip=st.floats(0, 0.03),
    spread=st.floats(0, 1),
)
def test_the_front_is_whole_on_any_such_world(losses, factors, base, parallel, grip, spread):
    """Of precisions whose speeds differ up to 16 times, with any part of the work divided by threads."""

    def world() -> World:
        speeds = [(one * base, other * base) for one, other in factors]
        loss, speed = dict(zip(PRECISIONS, losses, strict=True)), dict(zip(PRECISIONS, speeds, strict=True))
        return World(loss, speed, spread, parallel, grip * base)

    space, searched = grid(), world()
    whole, count = everything(space, world())
    found = drive(space, searched)
    assert not missing(found.front(), whole)
    assert sum(searched.counted.values()) < count


def test_two_searches_try_the_same_in_the_same_order():
    first, second = (drive(grid(), WORLDS["int8 wins"]()) for _ in range(2))
    assert list(first.made) == list(second.made)
    assert list(first.costs) == list(second.costs)


def test_what_cannot_hold_a_limit_is_not_measured_further():
    world = WORLDS["int8 wins"]()
    drive(grid(), world)
    limited = WORLDS["int8 wins"]()
    found = drive(grid(), limited, Wanted(size_mb=0.11))
    assert sum(limited.counted.values()) <= sum(world.counted.values())
    chosen = fronts.choose(found.trials(), Wanted(size_mb=0.11))
    assert chosen is not None
    assert chosen.made.bytes <= 0.11e6


def test_the_choice_serves_the_goal_within_the_limits():
    trials = drive(grid(), WORLDS["int8 wins"]()).trials()
    by = {goal: fronts.choose(trials, Wanted(goal)) for goal in fronts.GOALS}
    assert all(chosen is not None for chosen in by.values())
    assert fronts.of(by["latency"].made, by["latency"].cost)[1] == min(fronts.of(t.made, t.cost)[1] for t in trials)
    assert by["memory"].cost.memory_mb <= by["latency"].cost.memory_mb
    assert by["size"].made.bytes <= by["latency"].made.bytes * 1.02
    assert fronts.choose(trials, Wanted(latency_ms=1e-6)) is None


def test_a_collapse_that_no_variant_can_mend_is_tried_once():
    world = WORLDS["int8 collapses, one observer mends it"]()
    world.collapses = {("tflite", "int8"): False, ("onnx", "int8"): False}
    found = drive(grid(), world)
    assert sum(recipe.precision == "int8" for recipe in found.failed) == 2


@pytest.mark.parametrize(("loss", "tries"), [(0.0, 0), (0.8, 2)])
def test_mixed_precision_waits_for_int8_and_is_left_where_that_loses_nothing(loss, tries):
    space, world = grid(), WORLDS["int8 wins"]()
    space = Space(
        (*(Recipe(format, "mixed", after="int8") for format in space.settings), *space.recipes), space.settings
    )
    world.loss = {**world.loss, "int8": loss, "mixed": 0.0}
    world.speed["mixed"], world.spread = (0.9, 1.2), 0.0
    convert, order = world.convert, []

    def watched(recipe: Recipe) -> Made | Refused:
        order.append(recipe.precision)
        if recipe.precision != "mixed":
            return convert(recipe)
        return Made(recipe.label, 104_000, 0.0, "top1 points", f"{recipe.format} mixed")

    world.convert = watched  # type: ignore[method-assign]
    drive(space, world)
    assert order.count("mixed") <= tries
    assert (order.count("mixed") > 0) == (tries > 0)
    assert "mixed" not in order[:10]


def test_an_engine_that_fails_leaves_the_rest_alone():
    space, world = grid(), WORLDS["int8 wins"]()
    measure = world.measure
    world.measure = lambda job: (
        Refused("engine-crashed", "it died") if job.made.work.endswith(" int8") else measure(job)
    )  # type: ignore[method-assign]
    found = drive(space, world)
    assert {trial.recipe.precision for trial in found.front()} <= {"fp32", "fp16", "dynamic", "int16x8"}
    assert found.front()


def test_figures_that_cannot_be_told_apart_are_equal():
    assert fronts.cells(0, 1.0, 1000, 20) == fronts.cells(0, 1.01, 1003, 20.05)
    assert fronts.cells(0, 1.0, 1000, 20) != fronts.cells(0, 1.2, 1000, 20)
    assert fronts.covers((0, 0, 0, 0), (0, 0, 0, 0))
    assert not fronts.covers((1, 0, 0, 0), (0, 5, 5, 5))
