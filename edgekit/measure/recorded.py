"""Is it slower than a stored result? A weaker test than `compare`: the baseline's machine state is gone.

Both results carry, block by block, the time of a fixed reference workload. It tells which blocks were quiet: only the
quarter with its smallest times is looked at, since a neighbor on the same core slows a model down by another factor
than it does the reference. What is slower even then, as a cooler or older machine is, drops out by dividing by the
reference's time. The ratio is bootstrapped over blocks (not over single runs, which are alike within a block; Efron and
Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13). What stays is how the two processes happened to lie in
memory, which no result of one process tells: `BETWEEN_RUNS` is added to both sides of the interval for it.
"""

from __future__ import annotations

import math
from typing import Any

from edgekit.errors import ArtifactError, UsageError
from edgekit.measure.compare import CONFIDENCE, Comparison, Verdict
from edgekit.measure.environment import identity
from edgekit.measure.results import Bench

BETWEEN_RUNS = 0.04
"""The most by which results of one model differed after the correction: 19 processes on a shared two-core machine,
from quiet to fully loaded, all 171 pairs."""
QUIET = 0.25
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
    center = _speed(new) - _speed(baseline)
    drawn = _resampled(new, dice) - _resampled(baseline, dice)
    tail = 50 * (1 - CONFIDENCE)
    low, high = (float(edge) for edge in np.percentile(drawn, (tail, 100 - tail)))
    low, high = low - math.log1p(BETWEEN_RUNS), high + math.log1p(BETWEEN_RUNS)
    notes = [WEAKER]
    notes += [f"the {name} result is marked invalid: {result.notes[0]}" for name, result in
              (("new", new), ("baseline", baseline)) if not result.valid and result.notes]  # fmt: skip
    if new.engine != baseline.engine:
        notes.append(f"the engine changed from {baseline.engine} to {new.engine}")
    return Comparison(
        _decide(low, center, high, effect), math.exp(center), math.exp(low), math.exp(high), CONFIDENCE, effect,
        high - low <= 2 * (math.log1p(effect) + math.log1p(BETWEEN_RUNS)), "recorded", 1, len(new.series),
        new.latency_ms.p50, baseline.latency_ms.p50, 0.0, tuple(notes),
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


def _decide(low: float, center: float, high: float, effect: float) -> Verdict:
    """A difference when the interval, which is wide, leaves out none, and the estimate is of a size that counts."""
    if low > 0 and center > math.log1p(effect):
        return "slower"
    if high < 0 and center < -math.log1p(effect):
        return "faster"
    return "no difference"


def _times(result: Bench) -> Any:
    """Array [2, blocks]: the reference's times and the model's medians, in ms."""
    import numpy as np

    pairs = [(block.reference_ms, block.p50_ms) for block in result.series]
    return np.maximum(np.asarray(pairs, np.float64).T, 1e-9)


def _speed(result: Bench) -> float:
    """Logarithm of the model's time over the reference's, in the quiet blocks."""
    return float(_quiet_ratio(_times(result)[:, None, :])[0])


def _resampled(result: Bench, dice: Any) -> Any:
    """The same for `RESAMPLES` draws of as many blocks with replacement."""
    times = _times(result)
    blocks = times.shape[1]
    return _quiet_ratio(times[:, dice.integers(0, blocks, (RESAMPLES, blocks))])


def _quiet_ratio(times: Any) -> Any:
    """From [2, draws, blocks] to [draws]."""
    import numpy as np

    marks, medians = times
    quiet = max(1, round(QUIET * marks.shape[1]))
    order = np.argsort(marks, axis=1, kind="stable")[:, :quiet]
    chosen = (np.median(np.take_along_axis(values, order, 1), axis=1) for values in (medians, marks))
    return np.subtract(*(np.log(value) for value in chosen))
