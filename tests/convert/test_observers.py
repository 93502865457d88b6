"""Observers: the same values give the same range, however they arrive; percentiles are near the exact ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgekit.converters import observers
from edgekit.converters.observers import Histogram
from edgekit.converters.stages import CalibrationOptions, Range
from edgekit.errors import InternalError, UsageError

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
VALUES = hnp.arrays(np.float32, st.integers(1, 400), elements=FINITE)
KINDS = [CalibrationOptions("minmax"), CalibrationOptions("percentile", 99.0), CalibrationOptions("percentile", 60.0)]


def make(options: CalibrationOptions):
    return observers.factory(options.observer)(options)


def seen(options: CalibrationOptions, *parts: np.ndarray) -> Range:
    watching = make(options)
    for part in parts:
        if part.size:
            watching.update(part, float(part.min()), float(part.max()))
    return watching.range()


@pytest.mark.parametrize("options", KINDS, ids=str)
@given(values=VALUES, cut=st.integers(0, 400), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_range_depends_on_values_only(options, values, cut, seed):
    whole = seen(options, values)
    shuffled = np.random.default_rng(seed).permutation(values)
    assert seen(options, shuffled[:cut], shuffled[cut:]) == whole


@pytest.mark.parametrize("options", KINDS, ids=str)
@given(values=VALUES, cut=st.integers(1, 399))
@settings(max_examples=60, deadline=None)
def test_merged_halves_are_the_whole(options, values, cut):
    first, second = values[:cut], values[cut:]
    left, right = make(options), make(options)
    for watching, part in ((left, first), (right, second)):
        if part.size:
            watching.update(part, float(part.min()), float(part.max()))
    left.merge(right)
    assert left.range() == seen(options, values)


@given(values=VALUES, percentile=st.floats(50.5, 100))
@settings(max_examples=200, deadline=None)
def test_percentile_is_within_one_percent_of_exact(values, percentile):
    found = seen(CalibrationOptions("percentile", percentile), values)
    ordered = np.sort(values.astype(np.float64))
    cut = int((100 - percentile) / 200 * values.size)
    low, high = ordered[cut], ordered[values.size - 1 - cut]
    tiny = float(np.finfo(np.float32).tiny)  # below it floats have fewer digits
    assert math.isclose(found.min, low, rel_tol=0.01, abs_tol=tiny)
    assert math.isclose(found.max, high, rel_tol=0.01, abs_tol=tiny)
    inside = np.count_nonzero((ordered >= found.min) & (ordered <= found.max))
    assert inside >= percentile / 100 * values.size - 1e-6


def test_one_outlier_does_not_blur_the_rest():
    values = np.random.default_rng(0).uniform(-1, 1, 300_000).astype(np.float32)
    values[77] = 1e30
    found = seen(CalibrationOptions("percentile", 99.99), values)
    low, high = np.quantile(values, [0.00005, 0.99995])
    assert found.max == pytest.approx(high, rel=0.01)
    assert found.min == pytest.approx(low, rel=0.01)


def test_percentile_100_is_minmax():
    values = np.random.default_rng(1).standard_normal(50_000).astype(np.float32)
    assert seen(CalibrationOptions("percentile", 100.0), values) == seen(CalibrationOptions("minmax"), values)


@pytest.mark.parametrize(
    "values",
    [[0.0], [-0.0], [0.0, -0.0, 0.0], [1e-42, -1e-42], [3.4e38, -3.4e38], [5.0] * 9],
    ids=["zero", "minus-zero", "zeros", "subnormal", "largest", "equal"],
)
def test_edges_of_the_number_format(values):
    array = np.array(values, np.float32)
    assert seen(CalibrationOptions("percentile", 99.9), array) == Range(float(array.min()), float(array.max()))


def test_large_and_small_arrays_are_counted_alike():
    values = np.random.default_rng(2).standard_normal(600_001).astype(np.float32)
    whole, pieces = Histogram(), Histogram()
    whole.add(values, float(values.min()), float(values.max()))
    for part in np.array_split(values, 997):
        pieces.add(part, float(part.min()), float(part.max()))
    assert whole.total() == pieces.total() == values.size
    for one, other in zip(whole.buckets(), pieces.buckets(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_buckets_hold_what_was_counted():
    values = np.array([-2.5, -1.0, 0.0, 0.3, 0.3, 7.0], np.float32)
    histogram = Histogram()
    histogram.add(values, -2.5, 7.0)
    lower, upper, counts = histogram.buckets()
    assert (lower < upper).all()
    assert (np.diff(lower) > 0).all()
    assert counts.tolist() == [1, 1, 1, 2, 1]
    for value in values:
        assert counts[(lower <= value) & (value <= upper)].sum() >= 1


def test_counters_widen_before_they_overflow():
    histogram = Histogram()
    ones = np.ones(10_000, np.float32)
    histogram.add(ones, 1.0, 1.0)
    histogram._total = 2**32 - 5_000
    histogram._counts[0][-1] = 2**32 - 5_000
    histogram.add(ones, 1.0, 1.0)
    assert histogram.buckets()[2].tolist() == [2**32 + 5_000]


def test_unknown_observer_lists_the_known_ones():
    with pytest.raises(UsageError, match="minmax, percentile") as caught:
        observers.factory("quantile")
    assert caught.value.code == "observer-unknown"


def test_a_name_is_registered_once():
    with pytest.raises(InternalError) as caught:
        observers.observer("minmax")(lambda options: make(CalibrationOptions()))
    assert caught.value.code == "observer-duplicate"


@pytest.mark.parametrize("percentile", [0.0, -1.0, 100.5])
def test_impossible_percentiles_are_refused(percentile):
    with pytest.raises(UsageError) as caught:
        make(CalibrationOptions("percentile", percentile))
    assert caught.value.code == "percentile-invalid"
