"""The factors of `edgekit.predict.prices` that explain measured times best: a robust, shrunk fit.

Minimizes, over the factors f: sum of huber(ln measured - ln predicted) / noise^2 + sum((f - prior) / width)^2. The
logarithm of a price is linear in the factors, so that the derivative of ln predicted is the time-weighted mean of the
units' terms: Gauss-Newton with damping needs a dozen steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from edgekit.predict.prices import Setting, terms

NOISE = 0.1
"""Spread of figures of one board, model and release across reports: devices.md, noise floor."""
HUBER = 2 * NOISE
STEPS = 25


@dataclass(frozen=True)
class Rough:
    """What a roofline sees of a network: multiply-adds, those of depthwise convolutions, bytes moved, kernels."""

    macs: float
    depthwise: float
    bytes: float
    kernels: int


@dataclass(frozen=True)
class Figure:
    """One measured time.

    Attributes:
        key: What it belongs to, for splitting: (processor, model).
        at: Where it was measured.
        counts: Units of the whole run.
        ns: The time.
        rough: The network for rooflines.
        weight: How far to trust it.
    """

    key: tuple[str, str]
    at: Setting
    counts: Mapping[str, float]
    ns: float
    rough: Rough
    weight: float = 1.0


class Problem:
    """Figures as one sparse matrix: a row a unit of a figure, a column a factor."""

    def __init__(self, figures: Sequence[Figure], priors: Mapping[str, tuple[float, float]]) -> None:
        self.figures = figures
        self.names: dict[str, int] = {}
        owner, offset, rows, columns, values = [], [], [], [], []
        for number, figure in enumerate(figures):
            for unit, count in figure.counts.items():
                if count <= 0:
                    continue
                fact, named = terms(unit, figure.at)
                for name, times in named:
                    if times:
                        rows.append(len(owner))
                        columns.append(self.names.setdefault(name, len(self.names)))
                        values.append(times)
                owner.append(number)
                offset.append(math.log(count) + fact)
        shape = (len(owner), len(self.names))
        self.matrix = sparse.csr_matrix((values, (rows, columns)), shape=shape)
        self.owner, self.offset = np.array(owner), np.array(offset)
        self.count = len(figures)
        ones = np.ones(len(owner))
        self.sums = sparse.csr_matrix((ones, (self.owner, np.arange(len(owner)))), shape=(self.count, len(owner)))
        self.truth = np.log([figure.ns for figure in figures])
        self.weight = np.array([figure.weight for figure in figures])
        chosen = [_prior(name, priors) for name in self.names]
        self.center, self.width = np.array([c for c, _ in chosen]), np.array([w for _, w in chosen])

    def predict(self, factors: Any) -> tuple[Any, Any]:
        """ln ns of each figure, and the share of each unit in it."""
        parts = np.exp(self.offset + self.matrix @ factors)
        total = self.sums @ parts
        return np.log(total), parts / total[self.owner]

    def solve(self, used: Any = None, steps: int = STEPS) -> Any:
        """The factors; `used` masks the figures that count."""
        weight = self.weight * (np.ones(self.count) if used is None else used)
        factors, damping = self.center.copy(), 1e-3
        best = self._cost(factors, weight)
        for _ in range(steps):
            predicted, share = self.predict(factors)
            slope = (self.sums @ sparse.diags(share) @ self.matrix).toarray()
            off = self.truth - predicted
            trust = weight * np.minimum(1, HUBER / np.maximum(np.abs(off), 1e-9)) / NOISE**2
            curve = slope.T @ (slope * trust[:, None]) + np.diag(self.width**-2)
            pull = slope.T @ (trust * off) - (factors - self.center) / self.width**2
            while damping < 1e6:
                step = np.linalg.solve(curve + damping * np.diag(np.diag(curve)), pull)
                cost = self._cost(factors + step, weight)
                if cost <= best:
                    break
                damping *= 5
            else:
                return factors
            factors, gained, best = factors + step, best - cost, cost
            damping = max(damping / 5, 1e-9)
            if gained < 1e-4 * best:
                break
        return factors

    def _cost(self, factors: Any, weight: Any) -> float:
        off = np.abs(self.truth - self.predict(factors)[0])
        huber = np.where(off < HUBER, off**2, 2 * HUBER * off - HUBER**2)
        return float((weight * huber).sum() / NOISE**2 + (((factors - self.center) / self.width) ** 2).sum())


def _prior(name: str, priors: Mapping[str, tuple[float, float]]) -> tuple[float, float]:
    """Of the longest name that the factor's starts with, part by part."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        found = priors.get(".".join(parts[:length]))
        if found is not None:
            return found
    raise KeyError(name)


def scores(truth: Any, predicted: Any) -> dict[str, float]:
    """The figures of devices.md, from logarithms of times."""
    off = np.abs(np.exp(predicted - truth) - 1)
    times = np.exp(np.abs(predicted - truth))
    return {
        "n": len(truth), "mape": 100 * float(off.mean()), "median": 100 * float(np.median(off)),
        **{f"within_{limit}": 100 * float((times <= limit).mean()) for limit in (1.25, 1.5, 2.0)},
    }  # fmt: skip
