"""Observers: the same values give the same range, however they arrive; percentiles are near the exact ones."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgekit.cli import cmd_convert
from edgekit.converters.calibration import observers
from edgekit.converters.calibration.observers import Histogram
from edgekit.converters.stages import CalibrationOptions, Range
from edgekit.errors import InternalError, UsageError
from edgekit.precision import precisions

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
VALUES = hnp.arrays(np.float32, st.integers(1, 400), elements=FINITE)
KINDS = [
    CalibrationOptions("minmax"),
    CalibrationOptions("percentile", 99.0),
    CalibrationOptions("percentile", 60.0),
    *(CalibrationOptions(name, activations=kind)
      for name in ("mse", "entropy", "room", "auto") for kind in ("int8", "int16")),
]  # fmt: skip


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
@settings(max_examples=25, deadline=None)
def test_range_depends_on_values_only(options, values, cut, seed):
    whole = seen(options, values)
    shuffled = np.random.default_rng(seed).permutation(values)
    assert seen(options, shuffled[:cut], shuffled[cut:]) == whole


@pytest.mark.parametrize("options", KINDS, ids=str)
@given(values=VALUES, cut=st.integers(1, 399))
@settings(max_examples=25, deadline=None)
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


@pytest.mark.parametrize("options", KINDS, ids=str)
@given(values=VALUES, power=st.integers(-6, 6))
@settings(max_examples=20, deadline=None)
def test_ranges_scale_with_the_values(options, values, power):
    """By powers of two, which move values between buckets of equal width."""
    limit = np.float32(1e30)
    values = np.where(np.abs(values) < 1e-30, np.float32(0), np.clip(values, -limit, limit))
    found, scaled = seen(options, values), seen(options, values * np.float32(2.0**power))
    assert (scaled.min, scaled.max) == pytest.approx((found.min * 2.0**power, found.max * 2.0**power), rel=1e-9)


@pytest.mark.parametrize("options", [kind for kind in KINDS if kind.observer not in observers.ROOMY], ids=str)
@given(values=VALUES)
@settings(max_examples=25, deadline=None)
def test_ranges_lie_within_the_values_seen(options, values):
    found = seen(options, values)
    assert float(values.min()) <= found.min <= found.max <= float(values.max())


def spiky(seed: int, outlier: float) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=100_000).astype(np.float32)
    values[:3] = outlier
    return values


def error(values: np.ndarray, found: Range, *, symmetric: bool = False, steps: int = 255) -> float:
    """Mean squared error of rounding to the grid of a range."""
    low, high = min(found.min, 0.0), max(found.max, 0.0)
    if symmetric:
        low, high = -max(-low, high), max(-low, high)
    step = (high - low) / steps
    rounded = np.clip(np.round(values.astype(np.float64) / step), round(low / step), round(high / step)) * step
    return float(np.mean((rounded - values) ** 2))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("shape", ["normal", "relu", "exponential", "few-outliers", "uniform"])
def test_least_squares_is_near_the_best_of_many_ranges(shape, seed):
    random = np.random.default_rng(seed)
    values = {
        "normal": random.normal(size=20_000),
        "relu": np.maximum(random.normal(size=20_000), 0),
        "exponential": random.exponential(size=20_000),
        "few-outliers": spiky(seed, 40.0),
        "uniform": random.uniform(-3, 1, 20_000),
    }[shape].astype(np.float32)
    found = seen(CalibrationOptions("mse"), values)
    low, high = float(values.min()), float(values.max())
    tried = [
        error(values, Range(low * a, high * b)) for a in np.geomspace(1, 0.05, 25) for b in np.geomspace(1, 0.05, 25)
    ]
    assert error(values, found) <= min(tried) * 1.05
    assert error(values, found) <= error(values, Range(low, high)) * 1.02


def test_the_grid_decides_how_much_is_cut():
    """Steps of sixteen bits are so fine that nothing is gained by losing a value."""
    values = spiky(0, 8.0)
    assert seen(CalibrationOptions("mse", activations="int16"), values).max == 8.0
    assert seen(CalibrationOptions("mse", activations="int8"), values).max < 7.9


def test_entropy_cuts_outliers_and_keeps_what_is_even():
    found = seen(CalibrationOptions("entropy"), spiky(0, 60.0))
    assert 2.5 < found.max < 12
    even = np.random.default_rng(0).uniform(0, 6, 100_000).astype(np.float32)
    assert seen(CalibrationOptions("entropy"), even).max == pytest.approx(6, rel=0.06)


def test_moving_average_fades_and_merges_to_one_after_the_other():
    options = CalibrationOptions("moving-average")
    parts = [np.array([-number, 2.0 * number], np.float32) for number in range(1, 41)]
    whole = seen(options, *parts)
    first, second = make(options), make(options)
    for watching, half in ((first, parts[:15]), (second, parts[15:])):
        for part in half:
            watching.update(part, float(part.min()), float(part.max()))
    first.merge(second)
    assert (first.range().min, first.range().max) == pytest.approx((whole.min, whole.max), rel=1e-12)
    plain = np.mean([2.0 * number for number in range(1, 41)])
    assert plain < whole.max < 80  # later runs weigh more
    assert whole.max == pytest.approx(-2 * whole.min)
    assert seen(options, parts[3]) == Range(-4.0, 8.0)


def test_auto_offers_what_it_compares_and_keeps_numbers_that_are_on_a_grid():
    watching = make(CalibrationOptions("auto"))
    values = spiky(0, 40.0)
    watching.update(values, float(values.min()), float(values.max()))
    found = watching.candidates()
    assert tuple(found) == observers.CANDIDATES
    assert found["minmax"].max == 40.0
    assert found["percentile 99.99"].max < 5
    assert watching.range() == found["room"] == seen(CalibrationOptions("room"), values)
    picture = np.repeat(np.arange(256, dtype=np.float32), 5_000)
    picture = np.concatenate([picture, np.zeros(10_000_000 - picture.size, np.float32)])
    whole = make(CalibrationOptions("auto"))
    whole.update(picture, 0.0, 255.0)
    assert set(whole.candidates().values()) == {Range(0.0, 255.0)}


@pytest.mark.parametrize("options", KINDS, ids=str)
@given(values=VALUES, cut=st.integers(0, 400))
@settings(max_examples=25, deadline=None)
def test_what_a_relu_makes_is_told_without_watching(options, values, cut):
    before = make(options)
    parts = [part for part in (values[:cut], values[cut:]) if part.size]
    for part in parts:
        before.update(part, float(part.min()), float(part.max()))
    untouched = before.range()
    told = before.positive()
    assert told.range() == seen(options, *(np.maximum(part, 0) for part in parts))
    assert before.range() == untouched


def test_one_outlier_does_not_blur_the_rest():
    values = np.random.default_rng(0).uniform(-1, 1, 300_000).astype(np.float32)
    values[77] = 1e30
    found = seen(CalibrationOptions("percentile", 99.99), values)
    low, high = np.quantile(values, [0.00005, 0.99995])
    assert found.max == pytest.approx(high, rel=0.01)
    assert found.min == pytest.approx(low, rel=0.01)


def test_percentile_100_is_minmax():
    values = np.random.default_rng(1).standard_normal(20_000).astype(np.float32)
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
    ones = np.ones(40_000, np.float32)
    histogram.add(ones, 1.0, 1.0)
    histogram._total = 2**32 - 20_000
    histogram._counts[0][-1] = 2**32 - 20_000
    histogram.add(ones, 1.0, 1.0)
    assert histogram.buckets()[2].tolist() == [2**32 + 20_000]


def test_unknown_observer_lists_the_known_ones():
    with pytest.raises(UsageError, match="auto, entropy, minmax, moving-average, mse, percentile") as caught:
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


@pytest.mark.parametrize("precision", ["int8", "int16x8"])
def test_by_default_there_is_room_for_values_that_were_not_seen(precision):
    known = precisions.get(precision)
    options = CalibrationOptions(known.observer, activations="int16" if known.activations == "int16" else "int8")
    drawn = np.random.default_rng(3).normal(size=(1100, 16)).astype(np.float32)
    given, unseen = drawn[:100], drawn[100:]
    found = seen(options, *given)
    assert unseen.max() > given.max()
    assert found.max > given.max()
    assert np.clip(unseen, found.min, found.max).max() > given.max() + 0.5 * (unseen.max() - given.max())


def test_the_option_names_every_observer_and_the_defaults():
    option = next(one for one in cmd_convert.command.params if one.name == "observer")
    said = re.findall(r"[a-z-]+", option.help)
    assert set(observers.names()) <= set(said)
    for name in ("int8", "int16x8"):
        assert f"{precisions.get(name).observer} for {name}" in option.help
