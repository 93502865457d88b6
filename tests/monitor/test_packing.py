"""References as few bytes: what is rounded stays what it was made with, and strange bytes are refused."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.monitor import bins, packing, partial

SHAPES = {"a": (3, 4), "b": (5,), "c": (0, 2)}
DTYPES = {"a": "<f8", "b": "<i2", "c": "<f2"}


def made(seed=0):
    dice = np.random.default_rng(seed)
    return {
        "a": packing.trimmed(dice.normal(size=(3, 4)) * 1e6, 9),
        "b": dice.integers(-300, 300, 5).astype("<i2"),
        "c": np.zeros((0, 2), "<f2"),
    }


def test_what_was_packed_comes_back():
    header = {"names": ["brightness", "a name that nobody expects: \u00e4"], "size": 0.1}
    data = packing.packed(header, made().values())
    again, rest = packing.header_of(data)
    assert again == header
    for name, array in packing.arrays_of(rest, DTYPES, SHAPES).items():
        np.testing.assert_array_equal(array, made()[name])


@pytest.mark.parametrize("change", ["cut", "longer", "sizes", "nan", "noise", "bomb", "nothing"])
def test_other_bytes_are_refused(change):
    arrays = made()
    if change == "nan":
        arrays["a"][0, 0] = np.nan
    data = packing.packed({"x": 1}, arrays.values())
    rest = packing.header_of(data)[1]
    shapes = {**SHAPES, "b": (6,)} if change == "sizes" else SHAPES
    if change == "bomb":
        press = zlib.compressobj(9, zlib.DEFLATED, -15)
        rest = press.compress(bytes(50_000_000)) + press.flush()
    rest = {"cut": rest[:-3], "longer": rest + b"more", "noise": b"\xff" * 40, "nothing": b""}.get(change, rest)
    with pytest.raises(ValueError, match=r"bytes|number|inflated|ends"):
        packing.arrays_of(rest, DTYPES, shapes)


@pytest.mark.parametrize("bits", [4, 9, 20])
def test_trimmed_numbers_are_near_and_stay(bits):
    values = np.random.default_rng(1).normal(size=500) * 10.0 ** np.random.default_rng(2).integers(-9, 9, 500)
    found = packing.trimmed(values, bits)
    assert (np.abs(found - values) <= np.abs(values) * 2.0**-bits).all()
    np.testing.assert_array_equal(packing.trimmed(found, bits), found)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 24), st.integers(30, 3000), st.integers(0, 10**6), st.sampled_from([0.0, 0.5, 0.99, 1.0]))
def test_rounded_correlations_are_correlations_and_nearer_than_chance(size, samples, seed, alike):
    """Whatever goes together, also numbers that are the same."""
    dice = np.random.default_rng(seed)
    x = dice.normal(size=(samples, size))
    x = (1 - alike) * x + alike * x[:, :1] * dice.choice([-1, 1], size)
    with np.errstate(invalid="ignore"):
        correlation = np.nan_to_num(np.atleast_2d(np.corrcoef(x.T)))  # what is constant goes with nothing
    np.fill_diagonal(correlation, 1.0)
    steps = partial.partials(correlation, samples)
    found = partial.correlations(steps, size, samples)
    np.testing.assert_allclose(np.diag(found), 1.0, atol=1e-12)
    assert np.linalg.eigvalsh(found)[0] > -1e-12
    assert np.abs(found - correlation).max() < max(1.0 / samples**0.5, 0.005)


def test_relations_are_kept_where_sensors_say_nearly_the_same():
    """Residuals need the inverse, in which the smallest differences are the largest numbers."""
    dice = np.random.default_rng(5)
    x = dice.normal(size=(400, 8))
    x[:, 1:4] = x[:, :1] + 0.03 * x[:, 1:4]

    def inverse(correlation):
        return np.linalg.inv(0.998 * correlation + 0.002 * np.eye(8))

    exact = inverse(np.corrcoef(x.T))
    kept = inverse(partial.correlations(partial.partials(np.corrcoef(x.T), 400), 8, 400))
    drawn = [inverse(np.corrcoef(x[dice.integers(0, 400, 400)].T)) for _ in range(9)]
    chance = np.median([np.abs(other - exact).max() for other in drawn])
    assert np.abs(kept - exact).max() < 0.3 * chance


@pytest.mark.parametrize("shape", ["normal", "skewed", "few", "heavy"])
def test_edges_of_few_digits_part_samples_as_well(shape):
    dice = np.random.default_rng(6)
    values = {
        "normal": dice.normal(size=2000),
        "skewed": np.exp(2 * dice.normal(size=2000)) / 50,
        "few": dice.choice([0.0, 0.001, 0.5, 3.0], 2000),
        "heavy": np.where(dice.random(2000) < 0.6, 0.0, dice.exponential(size=2000)),
    }[shape]
    cuts = bins.edges(values)
    shares = np.bincount(bins.index(values[:, None], cuts[None])[:, 0], minlength=cuts.size + 1) / 2000
    assert shares.min() > 0
    if shape in ("normal", "skewed"):
        assert cuts.size >= 28
        assert shares.max() < 2 / 32
    if shape == "few":
        np.testing.assert_allclose(np.sort(shares), np.sort(np.unique(values, return_counts=True)[1] / 2000))
    if shape == "heavy":
        assert shares.max() == pytest.approx((values == 0).mean())
