"""Statistics of latencies: percentiles, intervals that assume no distribution, the test of a steady series.

Pure Python, because they run on the board, and because what decides over a build must be readable in one sitting.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

STEADY_WINDOW = 8
STEADY_SPREAD = 0.05
EARLY_CONFIDENCE = 0.99
"""Of LoadGen's early stopping (`confidence` in loadgen/results.cc)."""


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Linear interpolation between closest ranks (Hyndman and Fan 1996, type 7, numpy's default).

    Args:
        ordered: Ascending values, at least one.
        percent: 0..100.
    """
    at = (len(ordered) - 1) * percent / 100
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def percentile_interval(
    ordered: Sequence[float], percent: float, confidence: float = 0.95
) -> tuple[float | None, float | None]:
    """Interval of a percentile by order statistics, whatever the distribution.

    The number of values below the true percentile is binomial, so that two ranks enclose it with at least the
    confidence that is asked, for independent runs. Source: David and Nagaraja, Order Statistics, 3rd ed., section 7.1.

    Args:
        ordered: Ascending values.
        percent: 0..100, both excluded.
        confidence: 0..1, split evenly over both ends.

    Returns:
        Low and high; None where there are too few values to bound that end.
    """
    count, tail = len(ordered), (1 - confidence) / 2
    below = binomial_quantile(tail, count, percent / 100)
    above = binomial_quantile(1 - tail, count, percent / 100)
    low = ordered[below - 1] if below >= 1 else None
    high = ordered[above] if above < count else None
    return low, high


def binomial_quantile(level: float, count: int, chance: float) -> int:
    """Smallest k with P(X <= k) >= level, for X binomial (`count` trials, `chance` each)."""
    total = 0.0
    start = _negligible(count, chance)
    for k in range(start, count + 1):
        total += math.exp(_log_binomial(k, count, chance))
        if total >= level:
            return k
    return count


def binomial_below(k: int, count: int, chance: float) -> float:
    """P(X <= k) for X binomial."""
    start = _negligible(count, chance)
    return min(1.0, sum(math.exp(_log_binomial(i, count, chance)) for i in range(start, k + 1)))


def early_stopping_rank(count: int, percent: float) -> int | None:
    """How many of the slowest queries LoadGen lets count as above its latency estimate, which is the slowest of them.

    The largest t such that t or fewer of `count` queries above the true percentile has a chance of at most 1 %; the
    estimate is the t-th largest latency. Source: `PerformanceSummary::EarlyStopping` in loadgen/results.cc and
    `odds` in loadgen/early_stopping.cc of mlcommons/inference, and the appendix on early stopping of its rules.

    Returns:
        t, or None: too few queries even for t = 1.
    """
    excess, total, rank = 1 - percent / 100, 0.0, -1
    for t in range(count):
        total += math.exp(_log_binomial(t, count, excess))
        if total > 1 - EARLY_CONFIDENCE:
            break
        rank = t
    return rank if rank >= 1 else None


def bound_holds(count: int, over: int, percent: float) -> bool:
    """LoadGen's test of a server run: that `over` of `count` queries were late still proves the percentile.

    Source: as in `early_stopping_rank`; there with percent = 99.
    """
    return binomial_below(over, count, 1 - percent / 100) <= 1 - EARLY_CONFIDENCE


def student_quantile(level: float, freedom: int) -> float:
    """Quantile of Student's t, for level > 0.5, by bisection of its distribution function for integer degrees.

    Source: Abramowitz and Stegun, 26.7.3 and 26.7.4.
    """
    low, high = 0.0, 1000.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_below(middle, freedom) < level else (low, middle)
    return (low + high) / 2


def steady(medians: Sequence[float]) -> bool:
    """Whether warm-up is over: the medians of the last three windows lie within 5 % of each other.

    Medians, because single runs are disturbed at any time; three windows, because two agree by chance.
    """
    last = medians[-3:]
    return len(last) == 3 and max(last) <= min(last) * (1 + STEADY_SPREAD)


def mean_interval(values: Sequence[float], confidence: float) -> tuple[float, float]:
    """Mean and half the width of Student's interval; infinite for fewer than two values."""
    count = len(values)
    mean = sum(values) / count
    if count < 2:
        return mean, math.inf
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    return mean, student_quantile((1 + confidence) / 2, count - 1) * spread / math.sqrt(count)


def spread(values: Sequence[float]) -> float:
    """Median absolute deviation, scaled to a normal distribution's standard deviation (factor 1.4826)."""
    middle = median(values)
    return 1.4826 * median(abs(value - middle) for value in values)


def _student_below(t: float, freedom: int) -> float:
    angle = math.atan(t / math.sqrt(freedom))
    cos2 = math.cos(angle) ** 2
    term = total = 1.0
    if freedom % 2:
        if freedom > 1:
            for k in range(2, freedom - 1, 2):
                term *= cos2 * k / (k + 1)
                total += term
            inside = 2 / math.pi * (angle + math.sin(angle) * math.cos(angle) * total)
        else:
            inside = 2 / math.pi * angle
    else:
        for k in range(1, freedom - 2, 2):
            term *= cos2 * k / (k + 1)
            total += term
        inside = math.sin(angle) * total
    return 0.5 + inside / 2


def _log_binomial(k: int, count: int, chance: float) -> float:
    if chance <= 0 or chance >= 1:
        return 0.0 if k == (count if chance >= 1 else 0) else -math.inf
    ways = math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
    return ways + k * math.log(chance) + (count - k) * math.log1p(-chance)


def _negligible(count: int, chance: float) -> int:
    """Below this, the binomial's whole mass is under 1e-20: ten standard deviations and a margin."""
    return max(0, int(count * chance - 10 * math.sqrt(count * chance * (1 - chance)) - 30))
