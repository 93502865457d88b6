"""Self-test vectors: the generator gives the same values everywhere, and hostile vectors are refused."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.errors import ArtifactError
from edgekit.selftest import STORED_ELEMENTS, SelfTest, Vector, generate, parse, restore, store, thin
from edgekit.tensors import QuantParams, TensorSpec

MASK = (1 << 64) - 1


def mix(z: int) -> int:
    """The published output function in plain integers."""
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & MASK
    return z ^ z >> 31


def splitmix(seed: int, stream: int, count: int) -> list[float]:
    """Uniform numbers of 24 bits in [0, 1)."""
    start = mix((mix(seed) + stream) & MASK)
    return [(mix((start + (i + 1) * 0x9E3779B97F4A7C15) & MASK) >> 40) / (1 << 24) for i in range(count)]


def spec(dtype: str, quant: QuantParams | None = None) -> TensorSpec:
    return TensorSpec("x", (None, 3), dtype, quant=quant)


def test_golden_values():
    """Written into every artifact that exists: these may never change."""
    values = generate(spec("float32"), (1, 4), (0.0, 1.0), seed=1234, stream=0)
    assert values.tolist() == [[0.5547120571136475, 0.3646544814109802, 0.032988905906677246, 0.6681826710700989]]
    digest = hashlib.sha256(generate(spec("float32"), (8, 1000), (-3.0, 5.0), seed=42, stream=7).tobytes()).hexdigest()
    assert digest[:16] == "e3285f716b07b508"


@settings(max_examples=50)
@given(st.integers(0, MASK), st.integers(0, 1 << 20))
def test_it_is_splitmix64(seed, stream):
    values = generate(spec("float64"), (5,), (0.0, 1.0), seed, stream)
    assert values.tolist() == splitmix(seed, stream, 5)


def test_the_output_function_is_the_published_one():
    """First output for the state 1234567, as the reference implementation prints it."""
    assert mix((1234567 + 0x9E3779B97F4A7C15) & MASK) == 6457827717110365317


@settings(max_examples=60)
@given(
    st.sampled_from(["float16", "float32", "float64", "int8", "uint8", "int16", "int32", "int64", "bool"]),
    st.floats(-100, 100),
    st.floats(0, 100),
    st.integers(0, 1000),
)
def test_values_have_the_dtype_and_stay_in_range(dtype, low, width, seed):
    values = generate(spec(dtype), (4, 3), (low, low + width), seed, 0)
    assert (values.dtype, values.shape) == (np.dtype(dtype), (4, 3))
    if values.dtype.kind == "f":
        slack = 0.1 if dtype == "float16" else 1e-5 * (abs(low) + width)
        assert low - slack <= values.min() <= values.max() <= low + width + slack


def test_integers_cover_their_range_evenly():
    values = generate(spec("int32"), (10_000,), (3.0, 6.0), 5, 0)
    counts = np.bincount(values)
    assert counts[:3].sum() == 0
    assert len(counts) == 7
    assert counts[3:].min() > 2300


def test_quantized_inputs_are_quantized_from_reals():
    quant = QuantParams((0.5,), (-10,))
    reals = generate(spec("float64"), (100,), (-30.0, 80.0), 9, 4)
    values = generate(spec("int8", quant), (100,), (-30.0, 80.0), 9, 4)
    np.testing.assert_array_equal(values, np.clip(np.rint(reals / 0.5 - 10), -128, 127).astype(np.int8))
    assert values.max() == 127


def test_streams_are_independent():
    streams = [generate(spec("float64"), (4000,), (0.0, 1.0), 1, stream) for stream in range(6)]
    streams += [generate(spec("float64"), (4000,), (0.0, 1.0), seed, 0) for seed in (2, 3)]
    correlation = np.corrcoef(streams) - np.eye(len(streams))
    assert np.abs(correlation).max() < 0.07
    assert all(abs(s.mean() - 0.5) < 0.02 and abs(s.std() - 1 / 12**0.5) < 0.01 for s in streams)
    joined = np.concatenate(streams)
    assert len(np.unique(joined)) > 0.99 * len(joined)


def test_feeds_regenerate_each_input_from_its_own_stream():
    inputs = (TensorSpec("a", (None, 2), "float32"), TensorSpec("b", (None, 2), "float32"))
    test = SelfTest(
        3,
        {"a": (0.0, 1.0), "b": (0.0, 1.0)},
        {"a": (1, 2), "b": (1, 2)},
        (
            Vector({}, 0),
            Vector({}, 1),
            Vector({}, None, {"a": store(np.ones(2, np.float32)), "b": store(np.zeros(2, np.float32))}),
        ),
    )
    feeds = [test.feeds(vector, inputs) for vector in test.vectors]
    assert len({feeds[i][name].tobytes() for i in (0, 1) for name in "ab"}) == 4
    np.testing.assert_array_equal(feeds[1]["b"], generate(inputs[1], (1, 2), (0.0, 1.0), 3, 65))
    np.testing.assert_array_equal(feeds[2]["a"], np.ones((1, 2), np.float32))
    assert parse(test.to_json()) == test
    assert test.to_json() == parse(test.to_json()).to_json()


@pytest.mark.parametrize("dtype", ["float32", "int8", "int64", "float16", "bool"])
def test_store_and_restore(dtype):
    values = np.arange(6).reshape(2, 3).astype(dtype)
    np.testing.assert_array_equal(restore(store(values), dtype), values.reshape(-1))
    swapped = values.astype(values.dtype.newbyteorder(">"))
    assert restore(store(swapped), dtype).tolist() == values.reshape(-1).tolist()


@given(st.integers(0, 500))
def test_thinning_keeps_first_last_and_order(count):
    kept = thin(np.arange(count))
    assert len(kept) == min(count, STORED_ELEMENTS)
    assert len(set(kept.tolist())) == len(kept)
    if count:
        assert (kept[0], kept[-1]) == (0, count - 1)
    assert sorted(kept.tolist()) == kept.tolist()


GOOD = {"seed": 1, "ranges": {"x": [0, 1]}, "shapes": {"x": [1, 3]}, "vectors": [{"outputs": {}, "index": 0}]}


@pytest.mark.parametrize(
    "change",
    [
        {"shapes": {"x": [1 << 20, 1 << 20]}},
        {"shapes": {"x": [-1, 3]}},
        {"shapes": {"x": [2] * 10_000}},
        {"ranges": {"x": [1, 0]}},
        {"ranges": {"x": [0, float("inf")]}},
        {"ranges": {"x": [float("nan"), 1]}},
        {"ranges": {"x": [0]}},
        {"vectors": None},
        {"seed": "1"},
    ],
)
def test_hostile_vectors_are_refused(change):
    with pytest.raises(ArtifactError) as caught:
        parse(json.dumps({**GOOD, **change}))
    assert caught.value.code == "selftest-invalid"


def test_vectors_that_do_not_fit_the_inputs_are_refused():
    test = parse(json.dumps(GOOD))
    stored = Vector({}, None, {"x": "!!!"})
    for inputs, vector in [((TensorSpec("y", (1,), "int8"),), test.vectors[0]), ((spec("float32"),), stored)]:
        with pytest.raises(ArtifactError) as caught:
            test.feeds(vector, inputs)
        assert caught.value.code == "selftest-invalid"
