"""Is it slower than a stored result? A weaker test than `compare`: the baseline's machine state is gone.

Both results carry, block by block, the time of a fixed reference workload. Each block's median is divided by it, so
that a machine that is slower as a whole today drops out; the ratio of the two results' medians is then bootstrapped
over blocks (not over single runs, which are alike within a block). What stays is how the two processes happened to lie
in memory, which no result of one process tells: `BETWEEN_RUNS` is added to both sides of the interval for it.
"""

from __future__ import annotations

import math
from statistics import median

from edgekit.errors import ArtifactError, UsageError
from edgekit.measure.compare import CONFIDENCE, Comparison, decide
from edgekit.measure.environment import identity
from edgekit.measure.results import Bench

BETWEEN_RUNS = 0.02
"""What medians of two processes of one model differed by after the correction, at most."""
RESAMPLES = 2000
LEAST_BLOCKS = 10
WEAKER = (
    "compared with stored times, corrected by a reference workload: weaker than measuring both side by side, which "
    "needs the baseline's model file"
)


def compare_results(new: Bench, baseline: Bench, *, effect: float = 0.03, seed: int = 0) -> Comparison:
    """Compare two results of `bench`.

    Raises:
        ArtifactError: `results-incomparable`: other machines, engines, threads or scenarios, or one of them was
            measured where times mean nothing.
        UsageError: `option-value`: no effect.
    """
    import numpy as np

    if not 0 < effect < 1:
        raise UsageError("option-value", f"the effect that counts is {effect}; it lies between 0 and 1")
    comparable(new, baseline)
    dice = np.random.default_rng(seed)
    mine, theirs = (np.asarray(_corrected(result)) for result in (new, baseline))
    center = float(np.median(mine) - np.median(theirs))
    drawn = np.median(dice.choice(mine, (RESAMPLES, len(mine))), axis=1)
    drawn = drawn - np.median(dice.choice(theirs, (RESAMPLES, len(theirs))), axis=1)
    tail = 50 * (1 - CONFIDENCE)
    low, high = (float(edge) for edge in np.percentile(drawn, (tail, 100 - tail)))
    low, high = low - math.log1p(BETWEEN_RUNS), high + math.log1p(BETWEEN_RUNS)
    notes = [WEAKER]
    notes += [f"the {name} result is marked invalid: {result.notes[0]}" for name, result in
              (("new", new), ("baseline", baseline)) if not result.valid and result.notes]  # fmt: skip
    if new.engine != baseline.engine:
        notes.append(f"the engine changed from {baseline.engine} to {new.engine}")
    return Comparison(
        decide(low, high, effect), math.exp(center), math.exp(low), math.exp(high), CONFIDENCE, effect,
        high - low <= 2 * math.log1p(effect), "recorded", 1, min(len(mine), len(theirs)), new.latency_ms.p50,
        baseline.latency_ms.p50, 0.0, tuple(notes),
    )  # fmt: skip


def comparable(new: Bench, baseline: Bench) -> None:
    """Refuse results between which no difference would mean anything.

    Raises:
        ArtifactError: `results-incomparable`.
    """
    problems = []
    for name, result in (("new", new), ("baseline", baseline)):
        if not result.timed:
            problems.append(f"the {name} result was measured on {result.target}, where times mean nothing")
        if result.scenario.name != "single-stream":
            problems.append(f"the {name} result is of the scenario {result.scenario.name}, not single-stream")
        if len(result.series) < LEAST_BLOCKS:
            problems.append(f"the {name} result has {len(result.series)} blocks of times; {LEAST_BLOCKS} are needed")
    mine, theirs = identity(new.environment), identity(baseline.environment)
    problems += [f"{key}: {theirs[key]} then, {mine[key]} now" for key in mine if mine[key] != theirs[key]]
    engines = [result.engine.partition(" ")[0] for result in (baseline, new)]
    problems += [f"engine: {engines[0]} then, {engines[1]} now"] if engines[0] != engines[1] else []
    if new.threads != baseline.threads:
        problems.append(f"threads: {baseline.threads} then, {new.threads} now")
    if problems:
        raise ArtifactError("results-incomparable", f"the results cannot be compared: {'; '.join(problems)}")


def _corrected(result: Bench) -> list[float]:
    """Logarithms of the blocks' medians over the reference's.

    The reference is smoothed over three blocks, because one sample of it is noisier than a block's median.
    """
    marks = [block.reference_ms for block in result.series]
    smooth = [median(marks[max(0, i - 1) : i + 2]) for i in range(len(marks))]
    pairs = zip(result.series, smooth, strict=True)
    return [math.log(block.p50_ms / mark) for block, mark in pairs if block.p50_ms > 0 and mark > 0]
