"""Probes: seeded inputs and edge cases lie in the range, are what data would be, and are the same every time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.converters.verification import probes
from edgekit.data import open_data
from edgekit.tensors import QuantParams, TensorSpec

IMAGE = TensorSpec("image", (None, 3, None, 2), "float32")
TOKENS = TensorSpec("tokens", (None, 5), "int32")
PIXELS = TensorSpec("pixels", (None, 4), "uint8")
CODES = TensorSpec("codes", (None, 4), "int8", quant=QuantParams((0.5,), (-128,)))
FLAGS = TensorSpec("flags", (None, 4), "bool")
ALL = (IMAGE, TOKENS, PIXELS, CODES, FLAGS)


def test_ranges_without_data_are_those_of_the_type():
    ranges = probes.input_ranges(ALL, {})
    assert ranges == {"image": (-1, 1), "tokens": (0, 1), "pixels": (0, 255), "codes": (0, 127.5), "flags": (0, 1)}
    assert probes.input_ranges(ALL, {"tokens": (3, 90)})["tokens"] == (3, 90)


def test_edges_are_zeros_lowest_highest_and_turns_as_data_is_fed(tmp_path):
    ranges = probes.input_ranges(ALL, {"tokens": (3, 90)})
    probes.write_edges(ALL, ranges, tmp_path / "edges.npz")
    with np.load(tmp_path / "edges.npz") as edges:
        types = {spec.name: edges[spec.name].dtype.name for spec in ALL}
        assert types == {**{spec.name: spec.dtype for spec in ALL}, "codes": "float32"}
        assert edges["image"].shape == (4, 3, 1, 2)
        assert edges["tokens"][:, 0].tolist() == [3, 3, 90, 3]  # zero is no token that was seen
        assert edges["tokens"][3].tolist() == [3, 90, 3, 90, 3]
        assert edges["codes"][:3, 0].tolist() == [0, 0, 127.5]  # data is real, whatever the input is made of


@pytest.mark.parametrize("seed", [0, 7])
def test_random_samples_stay_in_the_ranges_and_repeat(tmp_path, seed):
    ranges = probes.input_ranges(ALL, {"tokens": (3, 90)})
    refs = [probes.write_random(ALL, ranges, seed, tmp_path / f"{i}.npz") for i in range(2)]
    first, second = (next(iter(open_data(ref, ALL).batches(99))).feeds for ref in refs)
    for spec in ALL:
        np.testing.assert_array_equal(first[spec.name], second[spec.name])
        low, high = ranges[spec.name]
        assert len(first[spec.name]) == probes.RANDOM_SAMPLES
        assert first[spec.name].min() >= low
        assert first[spec.name].max() <= high
        assert len(np.unique(first[spec.name])) > 1


@given(low=st.floats(-1e6, 1e6), width=st.floats(0, 1e6))
def test_edges_hold_for_any_range(tmp_path_factory, low, width):
    path = tmp_path_factory.mktemp("edges") / "e.npz"
    probes.write_edges((IMAGE,), {"image": (low, low + width)}, path)
    with np.load(path) as edges:
        assert np.isfinite(edges["image"]).all()
        assert edges["image"].min() >= np.float32(low)
        assert edges["image"].max() <= np.float32(low + width)
