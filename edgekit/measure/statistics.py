"""Statistics of latencies: percentiles, and the test that says a series is steady."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

STEADY_WINDOW = 8
STEADY_SPREAD = 0.05


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


def steady(values: Sequence[float]) -> bool:
    """Whether warm-up is over: the medians of the last three windows lie within 5 % of each other.

    Medians, because single runs are disturbed at any time; three windows, because two agree by chance.
    """
    if len(values) < 3 * STEADY_WINDOW:
        return False
    last = values[-3 * STEADY_WINDOW :]
    medians = [median(last[i : i + STEADY_WINDOW]) for i in range(0, len(last), STEADY_WINDOW)]
    return max(medians) <= min(medians) * (1 + STEADY_SPREAD)
