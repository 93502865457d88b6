"""The Pareto front of accuracy, latency, size and memory, and the choice on it.

Figures that differ by less than can be told apart count as equal: each axis is cut into cells, logarithmic ones where a
figure is a quantity. Cells, unlike tolerances, make an order: nothing can dominate in a circle.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from edgekit.tune.trial import Cost, Made, Trial

Goal = Literal["latency", "size", "memory"]
GOALS: tuple[Goal, ...] = ("latency", "size", "memory")
Cells = tuple[int, int, int, int]

LATENCY_STEP, MEMORY_STEP, SIZE_STEP = 0.05, 0.05, 0.02
"""Relative. Medians of a quiet board repeat to about 3 %, peaks of memory to 2 %; a manifest's text is 1 % of a small
file."""
LOSS_STEP = 0.05
"""Points; one sample of 2,000."""


def cells(loss: float, latency_ms: float, size: float, memory_mb: float) -> Cells:
    """Where figures lie: loss, latency, size, memory; smaller is better in each."""
    return (
        math.ceil(loss / LOSS_STEP - 1e-9),
        _cell(latency_ms, LATENCY_STEP),
        _cell(size, SIZE_STEP),
        _cell(memory_mb, MEMORY_STEP),
    )


def _cell(value: float, step: float) -> int:
    return round(math.log(max(value, 1e-9)) / math.log1p(step))


def of(made: Made, cost: Cost) -> Cells:
    """Of an artifact at a cost."""
    return cells(made.loss, cost.latency_ms, made.bytes, cost.memory_mb)


def covers(one: Cells, other: Cells) -> bool:
    """Whether nothing is gained by `other` over `one`."""
    return all(a <= b for a, b in zip(one, other, strict=True))


def front(trials: Iterable[Trial]) -> list[Trial]:
    """The trials that none other covers, fastest first; of equal ones the first by figures, then by name."""

    def exact(trial: Trial) -> tuple[float, float, int, float, int, str]:
        made, cost = trial.made, trial.cost
        return cost.latency_ms, made.loss, made.bytes, cost.memory_mb, trial.setting.threads, trial.recipe.label

    kept: list[tuple[Cells, Trial]] = []
    ordered = sorted(trials, key=exact)
    places = [of(trial.made, trial.cost) for trial in ordered]
    for number, (place, trial) in enumerate(zip(places, ordered, strict=True)):
        better = any(covers(other, place) and other != place for other in places)
        if not better and place not in places[:number]:
            kept.append((place, trial))
    return [trial for _, trial in kept]


@dataclass(frozen=True)
class Wanted:
    """What the user asks of the choice.

    Attributes:
        goal: What is made smallest among all that holds the limits.
        latency_ms, size_mb: Limits (1 MB = 10^6 bytes); None for none. The limit of the loss is the conversion's.
    """

    goal: Goal = "latency"
    latency_ms: float | None = None
    size_mb: float | None = None

    def holds(self, latency_ms: float, size: float) -> bool:
        return (self.latency_ms is None or latency_ms <= self.latency_ms) and (
            self.size_mb is None or size <= self.size_mb * 1e6
        )


def choose(trials: Sequence[Trial], wanted: Wanted) -> Trial | None:
    """The best for the goal among those within the limits; of equal ones the least loss, then the other goals."""

    def rank(trial: Trial) -> tuple[float, ...]:
        loss, latency, size, memory = of(trial.made, trial.cost)
        place = {"latency": latency, "size": size, "memory": memory}
        rest = [place[name] for name in GOALS if name != wanted.goal]
        return place[wanted.goal], loss, *rest, trial.setting.threads

    fitting = [trial for trial in trials if wanted.holds(trial.cost.latency_ms, trial.made.bytes)]
    return min(fitting, key=rank, default=None)
