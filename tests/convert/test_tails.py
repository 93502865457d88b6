"""Values that were not seen: how the largest ones fall off, and the room that ranges leave for them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.converters.calibration.clipping import GRIDS, least_expected, least_squares
from edgekit.converters.calibration.histogram import Histogram
from edgekit.converters.calibration.observers import factory
from edgekit.converters.calibration.tails import tail
from edgekit.converters.repairs.scaling import Seen
from edgekit.converters.stages import CalibrationOptions, Range

GRID = GRIDS["int8"]


def counted(values):
    values = np.asarray(values, np.float32).reshape(-1)
    histogram = Histogram()
    histogram.add(values, float(values.min()), float(values.max()))
    return histogram.counted()


def error(found: Range, values) -> float:
    """Mean squared error of values on the 256 numbers of a range."""
    low, high = min(found.min, 0.0), max(found.max, 0.0)
    step = (high - low) / GRID.steps
    zero = np.rint(low / step)
    kept = np.clip(np.rint(np.asarray(values) / step), zero, zero + GRID.steps) * step
    return float(np.square(kept - values).mean())


DRAWS = {
    "normal": lambda random, size: random.normal(0, 2, size),
    "exponential": lambda random, size: random.exponential(1, size),
    "rectified": lambda random, size: np.maximum(random.normal(-1, 1, size), 0),
    "logistic": lambda random, size: random.logistic(0.5, 1, size),
}


@pytest.mark.parametrize("shape", DRAWS)
@pytest.mark.parametrize("size", [1000, 20_000])
def test_other_samples_lose_less_than_by_what_was_seen(shape, size):
    random = np.random.default_rng(7)
    others = DRAWS[shape](random, 200_000)
    lost: dict[str, list[float]] = {"expected": [], "squares": [], "minmax": []}
    for _ in range(8):
        seen = counted(DRAWS[shape](random, size))
        lost["expected"].append(error(least_expected(seen, GRID), others))
        lost["squares"].append(error(least_squares(seen, GRID), others))
        lost["minmax"].append(error(Range(seen.low, seen.high), others))
    mean = {way: float(np.mean(found)) for way, found in lost.items()}
    assert mean["expected"] < mean["squares"]
    assert mean["expected"] < 1.1 * mean["minmax"]  # where many were seen there is little left to gain
    if size == 1000:
        assert mean["expected"] < 0.9 * mean["minmax"]


def test_the_squares_beyond_an_end_are_those_that_come():
    """Of the distribution that activations are taken for: of shape -0.1 beyond the threshold."""
    random = np.random.default_rng(3)
    draw = lambda size: 10 * (1 - random.random(size) ** 0.1)  # noqa: E731
    seen = counted(draw(20_000))
    found = tail(seen.middles, seen.counts)
    assert found is not None
    others = draw(1_000_000)
    for end in (5.5, 6.0, 6.5):
        really = np.square(np.maximum(others - end, 0)).sum() / 50
        assert 0.5 * really < float(found.squares(np.array([end]))[0]) < 2 * really


@pytest.mark.parametrize("values", [
    np.clip(np.random.default_rng(0).normal(3, 3, 5000), 0, 6),  # a Relu6
    1 / (1 + np.exp(-np.random.default_rng(1).normal(0, 12, 5000))),  # decided answers
    np.full(1000, 2.5), np.zeros(1000), np.array([0.1, 0.5, 0.9]),
])  # fmt: skip
def test_bounds_that_are_reached_stay(values):
    seen = counted(values)
    found = least_expected(seen, GRID)
    assert tail(seen.middles, seen.counts) is None
    assert found.max <= seen.high
    assert found.min >= seen.low


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=200), st.sampled_from(["int8", "int16"]))
@settings(max_examples=150, deadline=None)
def test_any_values_have_a_range(values, activations):
    seen = counted(values)
    found = least_expected(seen, GRIDS[activations])
    assert np.isfinite([found.min, found.max]).all()
    assert found.min <= max(0.0, seen.low)
    assert found.max >= min(0.0, seen.high)
    assert found.max - found.min <= 2.5 * (max(seen.high, 0) - min(seen.low, 0)) + abs(seen.low) + abs(seen.high)


@pytest.mark.parametrize("name", ["room", "auto"])
def test_what_many_have_seen_is_hardly_cut_and_little_has_room(name):
    random = np.random.default_rng(5)
    options = CalibrationOptions(name)
    for size, more in ((1000, True), (400_000, False)):
        observer = factory(name)(options)
        values = random.normal(0, 1, size).astype(np.float32)
        observer.update(values, float(values.min()), float(values.max()))
        found = observer.range()
        assert (found.max > values.max() * 1.01) == more
        assert np.mean((values > found.max) | (values < found.min)) <= 1e-5


def test_channels_are_measured_by_how_their_peaks_spread():
    """Scaled by the largest of a hundred, all channels would be at their limit, and others pass it again and again."""
    random = np.random.default_rng(2)
    sizes = np.geomspace(0.01, 1, 24)
    draw = lambda: random.gamma(4, 1, (1, 24, 3, 3)) * sizes[:, None, None]  # noqa: E731
    seen = Seen.of(24)
    for _ in range(96):
        seen.add(draw(), 1)
    relative = seen.bound / sizes
    assert relative.std() / relative.mean() < 0.5 * (seen.high / sizes).std() / (seen.high / sizes).mean()
    assert np.all(seen.bound <= 1.3 * seen.high)
    rare = Seen.of(2)
    for number in range(96):
        rare.add(np.array([[[1.0]], [[30.0 * (number == 50)]]])[None, :, :, 0], 1)
    assert rare.bound[1] == pytest.approx(20.0)
