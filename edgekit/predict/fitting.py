"""Prices of one machine, from how long tiny networks take on it. numpy only.

Each network's time is the sum of its units times their prices. The prices' logarithms are found by damped Gauss-Newton
on relative errors, large errors counting linearly, and are held near a prior as loosely as `WIDTH` says: a unit that
the networks tell little about stays where it was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from edgekit.predict.work import UNITS

NOISE = 0.05
"""Relative error of one measured time that says nothing about prices."""
HUBER = 2 * NOISE
WIDTH = 1.5
STEPS = 60
_LEAST = 1e-9


def prices(
    counts: Sequence[Mapping[str, float]], ns: Sequence[float], prior: Mapping[str, float],
    width: float = WIDTH, fixed: Sequence[float] | None = None, widths: Mapping[str, float] | None = None,
) -> dict[str, float]:  # fmt: skip
    """Nanoseconds a unit.

    Args:
        counts: Units of each network's run.
        ns: Its time.
        prior: Nanoseconds a unit as far as they are known beforehand.
        width: Standard deviation of the logarithm of a price around its prior.
        fixed: Nanoseconds of each time that are known already.
        widths: Of units that have one of their own.
    """
    units = [unit for unit in UNITS if any(count.get(unit) for count in counts)]
    amounts = np.array([[count.get(unit, 0.0) for unit in units] for count in counts])
    truth, known = np.log(np.asarray(ns)), np.zeros(len(ns)) if fixed is None else np.asarray(fixed)
    center = np.log([max(_LEAST, prior[unit]) for unit in units])
    spread = np.array([(widths or {}).get(unit, width) for unit in units])
    found, damping = center.copy(), 1e-2

    def cost(at: np.ndarray) -> float:
        off = np.abs(truth - np.log(amounts @ np.exp(at) + known))
        huber = np.where(off < HUBER, off**2, 2 * HUBER * off - HUBER**2)
        return float(huber.sum() / NOISE**2 + (((at - center) / spread) ** 2).sum())

    best = cost(found)
    for _ in range(STEPS):
        parts = amounts * np.exp(found)
        total = parts.sum(1) + known
        slope, off = parts / total[:, None], truth - np.log(total)
        trust = np.minimum(1, HUBER / np.maximum(np.abs(off), 1e-12)) / NOISE**2
        curve = slope.T @ (slope * trust[:, None]) + np.diag(spread**-2)
        pull = slope.T @ (trust * off) - (found - center) / spread**2
        while damping < 1e8:
            step = np.linalg.solve(curve + damping * np.diag(np.diag(curve)), pull)
            tried = cost(found + step)
            if tried <= best:
                break
            damping *= 5
        else:
            break
        found, gained, best = found + step, best - tried, tried
        damping = max(damping / 5, 1e-9)
        if gained < 1e-6 * best:
            break
    return {unit: math.exp(value) for unit, value in zip(units, found, strict=True)}
