"""The rooflines that the latency model is compared with: few numbers, fitted to the same figures.

    simple     ms = a * 2 * MACs / peak + b * bytes / memcpy + c * kernels / GHz

`peak` sums the cores in use (dot products count for integers), `bytes` are weights and activations read and written;
a, b, c are not negative, one set a kernel library and precision. `refined` has a term for depthwise MACs, cores that
execute in order apart from those that do not, threads to the power of 0.8, and the slowest core in use ruling over
cores of several kinds. Both are those of devices.md beside the table of figures, fitted robustly to logarithms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from latency_solver import HUBER, Figure
from scipy.optimize import least_squares

POWER = 0.8
_FEWEST = 12
"""Figures that three or four prices need."""


def _terms(figure: Figure, *, refined: bool) -> list[float]:
    """Nanoseconds of each part at a price of one."""
    at, rough = figure.at, figure.rough
    flops = at.ghz * at.kind.macs * (at.kind.dots if at.kind.dots and at.precision == "int8" else 1.0)
    speed = flops * (at.slowest / at.threads * at.threads**POWER if refined else at.ideal)
    dense = rough.macs - (rough.depthwise if refined else 0.0)
    found = [dense / speed, rough.bytes / at.memcpy, rough.kernels / at.ghz]
    return [*found, rough.depthwise / speed] if refined else found


def left_out(figures: Sequence[Figure], groups: Sequence[Any], *, refined: bool) -> Any:
    """ln ns of each figure, predicted by a roofline fitted without its group: from figures of its own kind, or where
    there are too few of those, of its precision."""
    terms = np.array([_terms(figure, refined=refined) for figure in figures])
    truth = np.log([figure.ns for figure in figures])
    kinds = [(f.at.precision, f.at.library, refined and f.at.kind.ordered) for f in figures]
    numbers = {kind: number for number, kind in enumerate(sorted(set(kinds)))}
    own = np.array([numbers[kind] for kind in kinds])
    precisions, names = np.array([kind[0] for kind in kinds]), np.array(groups)
    found = np.zeros(len(figures))
    for name in sorted(set(groups)):
        for kind, number in numbers.items():
            asked = (names == name) & (own == number)
            if not asked.any():
                continue
            known = (names != name) & (own == number)
            if known.sum() < _FEWEST:
                known = (names != name) & (precisions == kind[0])
            found[asked] = np.log(terms[asked] @ _fit(terms[known], truth[known]))
    return found


def _fit(terms: Any, truth: Any) -> Any:
    """Prices, found by their logarithms so that none is negative."""
    start = np.log(np.exp(np.median(truth)) / np.maximum(np.median(terms, axis=0), 1e-9) / terms.shape[1])

    def off(at: Any) -> Any:
        return np.log(terms @ np.exp(np.clip(at, -40.0, 40.0))) - truth

    return np.exp(np.clip(least_squares(off, start, loss="soft_l1", f_scale=HUBER).x, -40.0, 40.0))
