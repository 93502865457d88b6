"""Is it slower? Two models measured side by side, until the answer is as narrow as was asked.

Two results of different days differ by whatever the machine did on these days. So both models are opened in one
process and run in short blocks, in random order, and what is looked at is the ratio of neighboring blocks, which a
disturbance hits alike. Where a model's buffers happen to lie also makes it faster or slower, for as long as it is
open: so both are opened anew in every round, and it is the rounds whose spread gives the interval (repetition at the
level where the variation enters: Kalibera and Jones, Rigorous Benchmarking in Reasonable Time, ISMM 2013,
https://doi.org/10.1145/2464157.2464160). Rounds are added until the interval is narrow enough; the rule looks at its
width alone and never at the verdict, so that looking often favors none.
"""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from edgekit.measure.statistics import mean_interval
from edgekit.measure.subject import Call, Clock

Verdict = Literal["faster", "slower", "no difference"]
CONFIDENCE = 0.99
LEAST_ROUNDS = 5
ROUND_SECONDS = 0.25
LEAST_PAIRS = 3
BLOCK_SECONDS = 0.003
"""Shorter than what a scheduler gives to another process at a time: most pairs are disturbed alike, or not at all."""
MOST_RUNS = 500
WARM_SECONDS = 0.02


@dataclass(frozen=True)
class ComparePlan:
    """When the answer is good enough.

    Attributes:
        effect: The smallest relative difference that counts: 0.03 for 3 %.
        seconds: Give up narrowing after this long.
        seed: Of the order of blocks.
    """

    effect: float = 0.03
    seconds: float = 10.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.effect < 1 or self.seconds < 0:
            raise ValueError("an effect that counts lies between 0 and 1, and no time is negative")


@dataclass(frozen=True)
class Comparison:
    """How much longer the new one takes, as a ratio: 1.10 is 10 % slower.

    Attributes:
        verdict: Side by side, "slower" and "faster" when the whole interval lies beyond the effect that counts; against
            stored times, when it leaves out "no difference" and the estimate lies beyond the effect.
        ratio, low, high: Estimate and interval of new time over baseline time.
        confidence: Of the interval.
        effect: The smallest relative difference that counts.
        narrow: Whether the interval reaches no further from the estimate than half that effect, or a tenth of the
            estimate; if not, "no difference" only means that none was shown.
        method: "interleaved" or "recorded".
        rounds, pairs: How much it rests on.
        new_ms, baseline_ms: Medians of each.
        seconds: How long it took.
        notes: What to know about it.
    """

    verdict: Verdict
    ratio: float
    low: float
    high: float
    confidence: float
    effect: float
    narrow: bool
    method: Literal["interleaved", "recorded"]
    rounds: int
    pairs: int
    new_ms: float
    baseline_ms: float
    seconds: float
    notes: tuple[str, ...] = ()

    def sentence(self) -> str:
        """For people: `slower: 10.2 % (9.8 to 10.7 %)`."""
        low, high = (f"{100 * (edge - 1):+.1f}" for edge in (self.low, self.high))
        said = f"{self.verdict}: {100 * (self.ratio - 1):+.1f} % ({low} to {high} %, {self.confidence:.0%} interval)"
        return said if self.narrow else f"{said}; too disturbed to tell differences of {self.effect:.0%}"


@dataclass(frozen=True)
class Contender:
    """One of the two: `open` gives a call that is ready to be timed, for as long as its context lasts."""

    name: str
    open: Callable[[], AbstractContextManager[Call]]


def interleaved(
    new: Contender, baseline: Contender, plan: ComparePlan | None = None, clock: Clock = time.perf_counter_ns
) -> Generator[dict[str, Any], None, Comparison]:
    """Measure two side by side.

    Yields:
        Progress events.

    Returns:
        The comparison, through `yield from`; `edgekit.measure.compare.run` drives it.
    """
    plan = plan or ComparePlan()
    dice = random.Random(plan.seed)  # noqa: S311 - an order of blocks, no secret
    start = clock()
    rounds: list[float] = []
    medians: tuple[list[float], list[float]] = ([], [])
    pairs = 0
    while True:
        seen = _round((new, baseline), dice, clock)
        pairs += len(seen)
        rounds.append(median(math.log(mine / theirs) for mine, theirs in seen))
        for side in (0, 1):
            medians[side].append(median(pair[side] for pair in seen))
        center, half = mean_interval(rounds, CONFIDENCE)
        spent = (clock() - start) / 1e9
        yield {"stage": "compare", "done": len(rounds), "total": max(LEAST_ROUNDS, len(rounds) + 1)}
        narrow = half <= max(math.log1p(plan.effect) / 2, abs(center) / 10)
        if len(rounds) >= LEAST_ROUNDS and (narrow or spent > plan.seconds):
            break
    return Comparison(
        decide(center - half, center + half, plan.effect), math.exp(center), math.exp(center - half),
        math.exp(center + half), CONFIDENCE, plan.effect, narrow, "interleaved", len(rounds), pairs,
        median(medians[0]) / 1e6, median(medians[1]) / 1e6, spent,
    )  # fmt: skip


def run(new: Contender, baseline: Contender, plan: ComparePlan | None = None) -> Comparison:
    """`interleaved` without its progress."""
    steps = interleaved(new, baseline, plan)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Comparison = end.value
            return result


def decide(low: float, high: float, effect: float) -> Verdict:
    """The verdict of an interval of log(new / baseline): beyond the effect with all of it, or no difference."""
    if low > math.log1p(effect):
        return "slower"
    if high < -math.log1p(effect):
        return "faster"
    return "no difference"


def _round(contenders: tuple[Contender, Contender], dice: random.Random, clock: Clock) -> list[tuple[float, float]]:
    """Open both, in random order, and time pairs of blocks: medians in nanoseconds."""
    with ExitStack() as stack:
        calls: dict[int, Call] = {}
        opening = clock()
        for which in _shuffled(dice):
            calls[which] = stack.enter_context(contenders[which].open())
        opened = (clock() - opening) / 1e9
        typical = {which: _warmed(calls[which], clock) for which in _shuffled(dice)}
        runs = [max(1, min(MOST_RUNS, round(1e9 * BLOCK_SECONDS / max(1.0, typical[which])))) for which in (0, 1)]
        collecting = gc.isenabled()
        gc.disable()  # a collection falls on one side of a pair
        try:
            return _pairs(calls, runs, max(ROUND_SECONDS, opened), dice, clock)
        finally:
            if collecting:
                gc.enable()


def _pairs(
    calls: dict[int, Call], runs: list[int], seconds: float, dice: random.Random, clock: Clock
) -> list[tuple[float, float]]:
    seen: list[tuple[float, float]] = []
    start = clock()
    while len(seen) < LEAST_PAIRS or (clock() - start) / 1e9 < seconds:
        pair = [0.0, 0.0]
        for which in _shuffled(dice):
            pair[which] = _block(calls[which], runs[which], clock)
        seen.append((max(1.0, pair[0]), max(1.0, pair[1])))
    return seen


def _block(call: Call, runs: int, clock: Clock) -> float:
    # What the other one threw out of the caches comes back, and its threads, which spin for a while, go to sleep.
    for _ in range(runs // 4):
        call()
    times = []
    for _ in range(runs):
        start = clock()
        call()
        times.append(clock() - start)
    return median(times)


def _warmed(call: Call, clock: Clock) -> float:
    """Run at least three times and 20 ms; the median of the second half, in nanoseconds."""
    times: list[int] = []
    begin = now = clock()
    while len(times) < 3 or ((now - begin) / 1e9 < WARM_SECONDS and len(times) < MOST_RUNS):
        start = clock()
        call()
        now = clock()
        times.append(now - start)
    return median(times[len(times) // 2 :])


def _shuffled(dice: random.Random) -> tuple[int, int]:
    return (0, 1) if dice.random() < 0.5 else (1, 0)
