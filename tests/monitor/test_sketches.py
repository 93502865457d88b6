"""Distances on sketches beside scipy's on the samples themselves."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.spatial import distance

from edgekit.monitor import bins, normal
from edgekit.monitor.sketches import Sketches, _crossed, divergences

SHAPES = {
    "normal": lambda dice, n: dice.normal(size=n),
    "skewed": lambda dice, n: dice.exponential(size=n) - 1,
    "counts": lambda dice, n: (dice.poisson(3, n) - 3.0) / 3**0.5,
    "two humps": lambda dice, n: dice.normal(size=n) * 0.3 + np.where(dice.random(n) < 0.4, -1.0, 0.8),
    "heavy tails": lambda dice, n: dice.standard_cauchy(n),
    "mostly zeros": lambda dice, n: np.where(dice.random(n) < 0.7, 0.0, dice.gamma(2, 1, n)),
    "rounded": lambda dice, n: np.round(dice.normal(size=n) * 2) / 2,
    "far apart": lambda dice, n: np.where(dice.random(n) < 0.03, 50.0, dice.normal(size=n) * 1e-3),
    "three values": lambda dice, n: dice.choice([-3.0, 0.0, 1e-4], n),
}
CHANGES = {
    "none": lambda x: x,
    "moved": lambda x: x + 0.5,
    "wider": lambda x: x * 1.6,
    "cut": lambda x: np.minimum(x, 0.2),
    "turned": lambda x: -x,
}


def sketched(known, seen):
    """The sketch of both, its distances, and what stands in it."""
    cut = bins.edges(known)
    inner = cut[None]
    counts = [np.bincount(bins.index(x[:, None], inner)[:, 0], minlength=cut.size + 1)[None] for x in (known, seen)]
    mass = counts[0] / counts[0].sum()
    sketch = Sketches(inner, mass, np.array([known.size]), block=32, rate=1e-7)
    return sketch, sketch.distances(counts[1], np.ones(1)), cut.astype(np.float64), mass[0]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("shape", SHAPES)
def test_distances_are_scipys_within_the_stated_error(shape, change):
    dice = np.random.default_rng(3)
    known = SHAPES[shape](dice, 2000)
    seen = CHANGES[change](SHAPES[shape](dice, 3000))
    sketch, found, cut, mass = sketched(known, seen)
    now = np.bincount(bins.index(seen[:, None], cut[None])[:, 0], minlength=mass.size) / seen.size

    ks = stats.ks_2samp(known, seen).statistic
    assert found.ks[0] <= ks + 1e-12
    assert found.ks[0] >= ks - max(mass.max(), now.max())

    low, high = cut[0], cut[-1]
    w = stats.wasserstein_distance(np.clip(known, low, high), np.clip(seen, low, high))
    error = (np.maximum(mass, now)[1:-1] * np.diff(cut)).sum() / 2
    assert abs(found.w[0] - w) <= error + 1e-9

    pooled = sketch._groups[0].T @ np.stack([mass, now], axis=1)
    p, q = pooled[pooled[:, 0] > 0].T
    assert found.js[0] == pytest.approx(distance.jensenshannon(p, q), abs=1e-9)
    q = np.maximum(q, 0.5 / seen.size)
    assert found.psi[0] == pytest.approx(((q - p) * np.log(q / p)).sum(), abs=1e-9)
    assert (p >= 0.08).all() or p.size == 1


def test_an_empty_group_counts_half_a_sample():
    psi, js = divergences(np.array([[0.5, 0.5]]), np.array([[1.0, 0.0]]), np.array([[100]]))
    assert psi[0] == pytest.approx(0.5 * np.log(2) + (0.005 - 0.5) * np.log(0.01))
    assert js[0] == pytest.approx(distance.jensenshannon([0.5, 0.5], [1, 0]))


def test_thresholds_hold_what_they_promise():
    """At one in two hundred for each of four statistics, about that many samples of no change pass one."""
    dice = np.random.default_rng(5)
    passed = 0
    for _ in range(300):
        known, seen = dice.normal(size=400), dice.normal(size=1024)
        known, seen = ((x - known.mean()) / known.std() for x in (known, seen))
        cut = bins.edges(known)[None]
        mass = np.bincount(bins.index(known[:, None], cut)[:, 0], minlength=cut.size + 1)[None] / 400
        sketch = Sketches(cut, mass, np.array([400]), block=32, rate=0.005 * 4 * (4 / 1024 + 4 / 8192 + 4 / 65536))
        counts = np.bincount(bins.index(seen[:, None], cut)[:, 0], minlength=cut.size + 1)[None]
        found = sketch.distances(counts, np.ones(1))
        error = np.sqrt(1 / 1024 + 1 / 400)
        limits = (sketch._ks * error, sketch._w[0] * error, sketch._chi[0] * error**2)
        passed += found.ks[0] > limits[0] or found.w[0] > limits[1] or found.psi[0] > limits[2]
    assert passed <= 12  # 6 were expected of four independent ones


def test_spans_fill_one_after_the_other():
    dice = np.random.default_rng(6)
    known = dice.normal(size=500)
    cut = bins.edges(known)[None]
    mass = np.bincount(bins.index(known[:, None], cut)[:, 0], minlength=cut.size + 1)[None] / 500
    sketch = Sketches(cut, mass, np.array([500]), block=32, rate=1e-7)
    for block in range(256):
        sketch.add(bins.index(dice.normal(size=(32, 1)), cut), np.ones(1))
        assert set(sketch.last) == ({1024, 8192} if block == 255 else {1024} if block >= 31 else set())
    assert sketch._closed[1].sum() == 8192


@pytest.mark.parametrize("p", [0.3, 1e-3, 1e-8, 1e-15])
def test_quantiles_are_scipys(p):
    assert normal.upper(p) == pytest.approx(stats.norm.isf(p), rel=1e-9)
    assert normal.upper(1 - p) == pytest.approx(-stats.norm.isf(p), rel=1e-3)
    for freedom in (5, 11):
        exact = stats.chi2.isf(p, freedom)
        assert 0.999 * exact < normal.chi_square(p, freedom) < exact * (1.02 if p > 1e-4 else 1.15)


@pytest.mark.parametrize("values", [[0] * 50 + [1] * 50 + [2], [-9] + [0] * 60 + [1] * 40, [0] * 90 + [5] * 2])
def test_what_fewer_than_three_samples_have_has_no_bin(values):
    known = np.array(values, float)
    cut = bins.edges(known)
    counts = np.bincount(bins.index(known[:, None], cut[None])[:, 0], minlength=cut.size + 1)
    assert counts.min() >= bins.LEAST


def test_the_area_between_lines_that_cross_is_exact():
    # From 1 above to 3 below over one step: triangles of 1 x 1/4 and 3 x 3/4, halved.
    assert _crossed(np.array([[1.0, -3.0]])) == pytest.approx(1.25)
    assert _crossed(np.array([[1.0, 3.0]])) == pytest.approx(2.0)
