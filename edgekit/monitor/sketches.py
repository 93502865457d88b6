"""Whole distributions beside those of the reference: how many samples fell into each bin, over three spans of time.

Bins are the reference's, so that counts add and memory is fixed. What is measured on them:

    PSI   sum (q - p) ln(q / p), over groups of bins of at least `_GROUP` each; empty groups count half a sample
    JS    Jensen-Shannon distance over the same groups: the root of the divergence in nats, as scipy's
    KS    largest difference of the distribution functions at the edges: short of the true one by a bin's share
    W     Wasserstein's distance in deviations, of values cut at the outermost edges; values spread evenly in a bin

Their thresholds under no change, with 1/n + 1/m for n samples and m of the reference: KS by P(D > x) <= 2 exp(-2 x^2 /
(1/n + 1/m)) (A. Dvoretzky, J. Kiefer, J. Wolfowitz; P. Massart, Annals of Probability 18 (1990)); PSI as chi-square of
the groups less one (B. Yurdakul, "Statistical properties of population stability index", Western Michigan University
2018), JS divergence as an eighth of it; W, the norm of a Gaussian process, by its mean and the deviation of its largest
linear functional, which is that of the values (C. Borell; B. Tsirelson, I. Ibragimov, V. Sudakov, 1976).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from edgekit.monitor import normal
from edgekit.monitor.columns import Array

SPANS = (1024, 8192, 65_536)
"""Samples of each span."""

_PARTS = 4
_CALM = 0.6
_GROUP = 0.08
_GRANTED = {"psi": 0.05, "js": 0.08, "ks": 0.06, "w": 0.15}
"""What the field may differ by from the laboratory without being news; it adds to what chance explains. About what a
shift by a quarter of a deviation comes to."""


class Distances(NamedTuple):
    """Of each column [k]; `ratio` is the largest of them to its threshold."""

    psi: Array
    js: Array
    ks: Array
    w: Array
    ratio: Array


class Sketches:
    """Counts over the spans.

    Args:
        inner: [k, bins - 1], edges in deviations, padded with infinity.
        mass: [k, bins]: shares in the reference.
        sizes: [k]: samples of the reference.
        block: Samples that come together.
        rate: False alarms a sample, of all columns and spans together.
        least: Samples; shorter spans are measured, but are no news.
    """

    def __init__(self, inner: Array, mass: Array, sizes: Array, *, block: int, rate: float, least: int = 0) -> None:
        self._least = least
        self._mass, self._sizes = mass, sizes
        count, width = mass.shape
        edges = inner.astype(np.float64)
        there = np.isfinite(edges)
        last = np.where(there, edges, -np.inf).max(axis=1, initial=-np.inf, keepdims=True)
        self._steps = np.diff(np.where(there, edges, np.where(np.isfinite(last), last, 0.0)), axis=1)
        self._below = np.cumsum(mass, axis=1)[:, :-1]
        self._inside = np.isfinite(edges)
        self._groups, number = _grouped(mass)
        self._pooled = np.einsum("kb,kbg->kg", mass, self._groups)
        self._offsets = np.arange(count) * width
        self._open = np.zeros((len(SPANS), count, width), np.int64)
        self._closed = np.zeros((len(SPANS), _PARTS, count, width), np.uint32)
        self._filled = np.zeros(len(SPANS), np.int64)
        self._every = [span // _PARTS // block for span in SPANS]
        self.blocks = 0
        looks = sum(_PARTS / span for span in SPANS)
        chance = min(0.01, rate / looks / max(1, count) / 4)
        self._ks = math.sqrt(math.log(2 / chance) / 2)
        self._chi = np.array([normal.chi_square(chance, n - 1) if n > 1 else np.inf for n in number.tolist()])
        deviate = normal.upper(chance)
        middle = np.sqrt(2 / np.pi * np.maximum(self._below * (1 - self._below), 0))
        mean = ((middle[:, 1:] + middle[:, :-1]) / 2 * self._steps).sum(axis=1)
        self._w = mean + deviate  # values are in deviations, so theirs is 1
        self.last: dict[int, Distances] = {}
        self.span = SPANS[0]

    @property
    def ends(self) -> bool:
        """Whether the next block is the last of a part of a span."""
        return (self.blocks + 1) % self._every[0] == 0

    def calm(self, which: Array) -> bool:
        """Whether columns `which` were well below their thresholds over all spans that are long enough."""
        told = [found for span, found in self.last.items() if span >= self._least]
        return all(bool((found.ratio[which] < _CALM).all()) for found in told)

    def add(self, index: Array, tau: Array | None, pool: float = math.inf) -> Distances | None:
        """A block's bins [n, k].

        Args:
            index: The bins.
            tau: [k]: see `scan`; None for ones.
            pool: Different samples that the stream is drawn from.

        Returns:
            Distances over the longest span that ends with this block and is news, which is then `span`.
        """
        flat = (index + self._offsets).reshape(-1)
        self._open[0] += np.bincount(flat, minlength=self._open[0].size).reshape(self._open[0].shape)
        self.blocks += 1
        found = None
        for place, every in enumerate(self._every):
            if self.blocks % every:
                break
            self._closed[place, self._filled[place] % _PARTS] = self._open[place]
            self._filled[place] += 1
            if place + 1 < len(SPANS):
                self._open[place + 1] += self._open[place]
            self._open[place] = 0
            if self._filled[place] >= _PARTS:
                counts = self._closed[place].sum(axis=0, dtype=np.int64)
                self.last[SPANS[place]] = self.distances(counts, np.ones(len(counts)) if tau is None else tau, pool)
                if SPANS[place] >= self._least:
                    found, self.span = self.last[SPANS[place]], SPANS[place]
        return found

    def state(self) -> dict[str, Array]:
        """What must be kept."""
        return {"open": self._open, "closed": self._closed, "filled": np.array([*self._filled, self.blocks])}

    def restore(self, state: dict[str, Array]) -> None:
        """Go on from what `state` gave.

        Raises:
            KeyError: Something is missing. ValueError: It has another shape.
        """
        self._open[:], self._closed[:] = state["open"], state["closed"]
        self._filled[:], self.blocks = state["filled"][:-1], int(state["filled"][-1])

    def distances(self, counts: Array, tau: Array, pool: float = math.inf) -> Distances:
        """Of counts [k, bins]."""
        total = np.maximum(counts.sum(axis=1, keepdims=True), 1)
        now = counts / total
        psi, js = divergences(self._pooled, (now[:, None] @ self._groups)[:, 0], total)
        apart = np.cumsum(now, axis=1)[:, :-1] - self._below
        ks = (np.abs(apart) * self._inside).max(axis=1, initial=0)
        w = (_crossed(apart) * self._steps).sum(axis=1)
        error = tau / total[:, 0] + 1 / self._sizes + 1 / pool
        # Roots of divergences are distances: what chance explains and what is granted add.
        ratios = [
            np.square(np.sqrt(psi) / (np.sqrt(self._chi * error) + _GRANTED["psi"] ** 0.5)),
            js / (np.sqrt(self._chi * error / 8) + _GRANTED["js"]),
            ks / (self._ks * np.sqrt(error) + _GRANTED["ks"]),
            w / (self._w * np.sqrt(error) + _GRANTED["w"]),
        ]
        return Distances(psi, js, ks, w, np.asarray(np.max(ratios, axis=0)))


def divergences(p: Array, q: Array, total: Array) -> tuple[Array, Array]:
    """PSI and Jensen-Shannon distance of shares [k, g] of the reference and of `total` samples; groups that the
    reference has nothing of do not count.
    """
    there = p > 0
    least = 0.5 / total
    safe_p, safe_q = np.where(there, p, 1.0), np.where(there, np.maximum(q, least), 1.0)
    psi = ((safe_q - safe_p) * np.log(safe_q / safe_p)).sum(axis=1)
    middle = (safe_p + np.where(there, q, 1.0)) / 2
    plain = np.where(there, q, 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        right = np.where(plain > 0, plain * np.log(plain / middle), 0.0)
    left = safe_p * np.log(safe_p / middle)
    return psi, np.sqrt(np.maximum((left + right).sum(axis=1) / 2, 0.0))


def _crossed(apart: Array) -> Array:
    """Mean of |a line| between neighboring edges [k, e - 1], from values at the edges; exact where it changes sign."""
    a, b = apart[:, :-1], apart[:, 1:]
    size = np.abs(a) + np.abs(b)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(a * b < 0, (a * a + b * b) / (2 * size), size / 2))


def _grouped(mass: Array) -> tuple[Array, Array]:
    """[k, bins, groups]: which group each bin is in, neighbors together until they have `_GROUP`; how many groups."""
    count, width = mass.shape
    most = int(1 / _GROUP)
    groups, number = np.zeros((count, width, most)), np.ones(count, np.int64)
    for place, shares in enumerate(mass.tolist()):
        group, share = 0, 0.0
        member = []
        for part in shares:
            if share >= _GROUP and group < most - 1:
                group, share = group + 1, 0.0
            member.append(group)
            share += part
        if share < _GROUP and group > 0:  # the rest joins the last whole group
            member = [min(at, group - 1) for at in member]
        groups[place, np.arange(width), member] = 1
        number[place] = member[-1] + 1
    return groups, number
