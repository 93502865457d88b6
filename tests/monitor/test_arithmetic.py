"""What the monitor works out of many samples in few steps, beside the plain definition of each."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgekit.monitor import bins
from edgekit.monitor.block import _unsure
from edgekit.monitor.estimate import GENERAL, Estimator, Kernel
from edgekit.monitor.faults import Events
from edgekit.monitor.reference import CLIP, distances, weighed
from edgekit.monitor.rows import confidence
from edgekit.monitor.scan import Scan

seeds = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def probabilities(dice, number, classes):
    raised = np.exp(dice.normal(scale=dice.choice([0.1, 3, 30]), size=(number, classes)))
    return raised / raised.sum(axis=1, keepdims=True)


@given(seeds, st.integers(1, 32), st.integers(2, 12))
def test_confidence_is_the_best_its_margin_and_the_entropy(dice, number, classes):
    scores = probabilities(dice, number, classes)
    for row, (best, margin, entropy) in zip(scores.tolist(), confidence(scores), strict=True):
        first, second, *_ = sorted(row, reverse=True)
        assert best == first
        assert margin == first - second
        plain = -sum(max(p, 1e-12) * math.log(max(p, 1e-12)) for p in row) / math.log(classes)
        assert math.isclose(entropy, plain, rel_tol=1e-9, abs_tol=1e-12)


@given(seeds, st.integers(1, 32))
def test_the_chance_follows_from_each_term_of_the_curve(dice, number):
    estimator = Estimator(
        tuple(dice.normal(size=8)), tuple(dice.uniform(0.5, 2, 8)), tuple(dice.normal(size=9)), 0.9, 100, Kernel(), 1.0,
        (0.0,) * GENERAL, (1.0,) * GENERAL, (1.0, 1.0), 1, 0, 0,
    )  # fmt: skip
    sure, far, lean = confidence(probabilities(dice, number, 3)), dice.normal(size=number), dice.normal(size=number)
    for place, chance in enumerate(estimator.chances(sure, far, lean).tolist()):
        best, margin, entropy = sure[place]
        best = min(max(best, 1e-6), 1 - 1e-6)
        odds = math.log(best / (1 - best))
        unsure = math.log(min(max(entropy, 1e-6), 1))
        away = far[place]
        terms = [odds, odds**2, margin, entropy, unsure, away, away**2, away * odds]
        made = zip(terms, estimator.center, estimator.scale, estimator.weights[1:], strict=True)
        raised = estimator.weights[0] + lean[place] + sum((t - c) / s * w for t, c, s, w in made)
        assert math.isclose(chance, 1 / (1 + math.exp(-min(max(raised, -30), 30))), rel_tol=1e-7, abs_tol=1e-12)


@given(seeds, st.integers(1, 32), st.integers(1, 9))
def test_a_distance_is_that_of_mahalanobis(dice, number, size):
    z, known = dice.normal(scale=4, size=(number, size)), dice.normal(size=(40, size))
    precision = np.linalg.inv(known.T @ known / 40 + 0.1)
    cut = np.clip(z, -CLIP, CLIP)
    residuals, far = distances(z, precision)
    assert np.array_equal(weighed(cut, precision)[1], far)
    for row, plain in enumerate(cut):
        assert math.isclose(far[row], math.sqrt(max(plain @ precision @ plain, 0) / size), rel_tol=1e-9)
        assert np.allclose(residuals[row], precision @ plain / np.sqrt(np.diag(precision)))


@given(seeds, st.integers(1, 32), st.integers(1, 6))
def test_a_bin_is_how_many_edges_are_reached(dice, number, columns):
    inner = np.sort(dice.normal(size=(columns, 7)).astype(np.float16), axis=1)
    inner[0, 4:] = np.inf
    values = dice.normal(size=(number, columns)).astype(np.float32)
    values[0, 0] = inner[0, 2]  # on an edge: in the upper bin
    plain = [np.searchsorted(inner[at].astype(np.float32), values[:, at], "right") for at in range(columns)]
    assert np.array_equal(bins.index(values, inner), np.stack(plain, axis=1))


@given(seeds, st.integers(1, 32))
def test_who_is_all_but_sure_is_as_unsure_as_the_others_add_up_to(dice, number):
    scores = probabilities(dice, number, 4)
    for row, found in zip(scores, _unsure(scores.max(axis=1), scores), strict=True):
        others = np.delete(row, row.argmax()).sum()
        assert math.isclose(found, others, rel_tol=1e-9 if others < 1e-7 else 1e-6)


@given(seeds)
def test_events_are_told_as_long_as_their_sum_is_beyond_the_limit(dice):
    events, restored = Events(np.full(3, 0.01), 1e-3), Events(np.full(3, 0.01), 1e-3)
    for sample in np.cumsum(dice.integers(1, 40, 60)).tolist():
        which = dice.random(3) < (0.2, 0.5, 0.0)
        if which.any():
            events.hit(which, sample)
        state = events.state()
        restored.restore(state)
        now = state["sum"] + events._miss * (sample + 3 - state["at"])
        beyond = np.unique(np.flatnonzero(now > events._limit) % 3).tolist()  # by either rate
        assert [fault.place for fault in events.faults(sample + 3)] == beyond
        assert [fault.place for fault in restored.faults(sample + 3)] == beyond


def remembered(tables, numbers, bins_of, extras):
    """Steps and pairs of each stream, pair by pair and stream by stream; all samples [n, s], as the scan has them."""
    count = len(tables)
    steps, told = np.zeros(count), np.zeros(count)
    ends = [(min(table), max(table)) if len(set(table)) > 4 else (None, None) for table in tables.tolist()]
    everywhere = max(6, sum(low is not None for low, _ in ends) / 2)
    for first, second in pairwise(range(len(bins_of))):
        silent = []
        for stream, (low, high) in enumerate(ends):
            before, now = (float(tables[stream, bins_of[row, stream]]) for row in (first, second))
            told[stream] += 1
            if before != now or now not in (low, high):
                steps[stream] += (now - before) ** 2 / 2
                continue
            own = extras[second, numbers[stream]] - extras[first, numbers[stream]] if numbers[stream] >= 0 else 0.0
            steps[stream] += min(own**2, 9.0) / 2
            if own == 0:
                silent.append((stream, numbers[stream] >= 0 and abs(extras[first, numbers[stream]]) >= CLIP))
        for stream, cut in silent:
            told[stream] -= len(silent) > everywhere or cut
    return steps, told


@given(seeds, st.integers(1, 4), st.booleans())
def test_a_stream_s_memory_is_that_of_its_pairs(dice, blocks, moved):
    """Streams of eight numbers, of their squares and of a class; many of them lie at an end, some at the same place."""
    middle = np.linspace(-1.5, 1.5, 6)
    tables = np.stack([*[middle] * 8, *[np.square(middle)[[0, 1, 2, 2, 4, 5]] + np.arange(6) / 10] * 8, [0, 1] * 3])
    numbers = np.array([*range(8), *[-1] * 8, -1])
    shares = np.full(tables.shape, 1 / 6)
    scan = Scan(tables, shares, np.full(17, 500.0), np.full(17, 0.3), extras=8, rate=1e-6, numbers=numbers)
    extras = np.clip(np.round(dice.normal(scale=6, size=(32 * blocks, 8))), -CLIP, CLIP)
    bins_of = np.concatenate([*[np.digitize(extras, [-5, -2, 0, 2, 5])] * 2, dice.integers(0, 6, (32 * blocks, 1))], 1)
    if moved:
        bins_of[20:, :16] = 5  # all of them are beyond the reference
    scores = np.take_along_axis(tables, bins_of.T, axis=1).T
    for at in range(0, len(scores), 32):
        scan.add(scores[at : at + 32], extras[at : at + 32])
    steps, told = remembered(tables, numbers, bins_of, extras)
    np.testing.assert_allclose(scan.state()["steps"], steps, rtol=1e-9)
    np.testing.assert_array_equal(scan.state()["told"], told)
