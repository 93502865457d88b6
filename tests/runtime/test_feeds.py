"""What a model takes, what it refuses before the engine sees it, and that every way in gives the same answer."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import edgekit
from edgekit.errors import FeedError


def refused(model, feeds, code, match=None, **options):
    with pytest.raises(FeedError, match=match) as caught:
        model.run(feeds, **options)
    assert caught.value.code == code


def only(outputs):
    (answer,) = outputs.values()
    return answer


def test_the_answer_is_the_engines_own(model, samples, bare):
    sample = samples(model)
    answer = model.run({"image": sample})
    assert list(answer) == ["probs"]
    np.testing.assert_array_equal(answer["probs"], bare(model, sample))


def test_a_batch_is_answered_sample_by_sample(model, samples):
    batch = samples(model, 7)
    together = only(model.run({"image": batch}))
    assert together.shape == (7, 5)
    for number, sample in enumerate(batch):
        np.testing.assert_allclose(together[number], only(model.run({"image": sample[None]}))[0], rtol=1e-5, atol=1e-6)


def test_ways_to_say_the_same(model, samples):
    batch = samples(model, 3)
    expected = only(model.run({"image": batch}))
    readonly = batch.copy()
    readonly.flags.writeable = False
    spaced = np.repeat(batch, 2, axis=-1)[..., ::2]
    assert not spaced.flags.c_contiguous
    ways = {
        "bare array": batch,
        "float64": {"image": batch.astype(np.float64)},
        "read-only": {"image": readonly},
        "strided": {"image": spaced},
        "Fortran order": {"image": np.asfortranarray(batch)},
        "big-endian": {"image": batch.astype(">f4")},
        "list": {"image": batch.tolist()},
    }
    for way, feeds in ways.items():
        np.testing.assert_allclose(only(model.run(feeds)), expected, rtol=1e-6, atol=1e-7, err_msg=way)


def test_a_single_sample_needs_no_batch_axis(model, samples):
    sample = samples(model)
    np.testing.assert_array_equal(only(model.run({"image": sample[0]})), only(model.run({"image": sample})))


def test_answers_belong_to_the_caller(model, samples):
    first = only(model.run({"image": samples(model)}))
    kept = first.copy()
    model.run({"image": samples(model, seed=9)})
    np.testing.assert_array_equal(first, kept)
    first[:] = 0


def test_integers_are_real_values_too(model, samples):
    ones = np.ones_like(samples(model))
    expected = only(model.run({"image": ones}))
    for dtype in ("uint8", "int64", "bool"):
        np.testing.assert_array_equal(only(model.run({"image": ones.astype(dtype)})), expected)


def test_wrong_names(model, samples):
    sample = samples(model)
    refused(model, {}, "feed-name", "lacks image")
    refused(model, {"picture": sample}, "feed-name", "lacks image and has picture")
    refused(model, {"image": sample, "mask": sample}, "feed-name", "has mask")


def test_wrong_shapes(model, samples):
    sample = samples(model)
    refused(model, {"image": sample[:, :, :4]}, "feed-shape")
    refused(model, {"image": sample.reshape(1, -1)}, "feed-shape")
    refused(model, {"image": sample[:0]}, "feed-shape")
    refused(model, {"image": np.float32(1)}, "feed-shape")


@pytest.mark.parametrize("dtype", ["U1", "S1", "object", "complex64", "datetime64[s]"])
def test_wrong_types(model, dtype, samples):
    refused(model, {"image": np.zeros(samples(model).shape, dtype)}, "feed-dtype")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float64"])  # the straight way and the general one
def test_values_that_are_not_finite(model, samples, value, dtype):
    batch = samples(model, 2).astype(dtype)
    batch[1, 1, 1, 1] = value
    refused(model, {"image": batch[1:]}, "feed-nan", r"image holds -?(nan|inf) at \(0, 1, 1, 1\)")
    refused(model, {"image": batch}, "feed-nan", r"\(1, 1, 1, 1\)")
    assert np.isfinite(only(model.run({"image": batch[:1]}))).all()


def test_what_lies_under_a_mask_is_no_value(model, samples):
    """numpy would give it away: a sensor's gap would be answered as if it were a measurement."""
    batch = samples(model)
    masked = np.ma.masked_array(batch, mask=False)
    np.testing.assert_array_equal(only(model.run({"image": masked})), only(model.run({"image": batch})))
    masked[0, 1, 1, 1] = np.ma.masked
    refused(model, {"image": masked}, "feed-nan", r"image holds nan at \(0, 1, 1, 1\)")
    with pytest.raises(FeedError):
        model.predict(masked)
    refused(model, {"image": np.ma.masked_array(batch.astype(np.int16), mask=masked.mask)}, "feed-nan")


@pytest.mark.parametrize("value", [1e30, -1e30, 3.4e38, -3.4e38])
def test_huge_values_saturate_without_a_word(artifacts, samples, value):
    with edgekit.load(artifacts["int8.tflite"]) as model, warnings.catch_warnings():
        warnings.simplefilter("error")
        spec = model.inputs[0]
        sample = np.full_like(samples(model), value)
        end = 127 if value > 0 else -128
        expected = model.run({"image": np.full(sample.shape, end, spec.dtype)}, raw=True)["probs"]
        scale, zero = model.outputs[0].quant.scale[0], model.outputs[0].quant.zero_point[0]
        expected = (expected.astype(np.float32) - zero) * np.float32(scale)
        np.testing.assert_array_equal(only(model.run({"image": sample})), expected)
        np.testing.assert_array_equal(only(model.run({"image": sample.astype(np.float64)})), expected)


def test_raw_takes_the_tensors_own_type_only(model, samples):
    spec = model.inputs[0]
    sample = samples(model)
    raw = sample if spec.quant is None else np.zeros(sample.shape, spec.dtype)
    answer = only(model.run({"image": raw}, raw=True))
    assert answer.dtype == model.outputs[0].dtype
    wrong = np.zeros(sample.shape, np.int32 if spec.quant is None else np.float32)
    refused(model, {"image": wrong}, "feed-dtype", "raw=True", raw=True)


def test_layouts_turn_when_the_manifest_says_which(model, samples):
    spec = model.inputs[0]
    meant = "NHWC" if model.artifact.format == "tflite" else "NCHW"
    batch = samples(model, 2)
    turned = np.moveaxis(batch, 3, 1) if meant == "NHWC" else np.moveaxis(batch, 1, 3)
    expected = only(model.run({"image": batch}))
    told = edgekit.Model.from_artifact(model.artifact, inputs=(replace(spec, layout=meant),), threads=1)
    np.testing.assert_array_equal(only(told.run({"image": turned})), expected)
    np.testing.assert_array_equal(only(told.run({"image": turned[0]})), expected[:1])
    untold = edgekit.Model.from_artifact(model.artifact, inputs=(replace(spec, layout=None),), threads=1)
    refused(untold, {"image": turned}, "feed-shape", "look transposed")


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_the_straight_way_equals_the_general_one(artifacts, data):
    """float32 arrays of one sample go straight, float64 ones are converted, checked and quantized in general."""
    kind = data.draw(st.sampled_from(sorted(artifacts)))
    model = opened(artifacts[kind])
    shape = (1, *model.inputs[0].shape[1:])
    values = data.draw(hnp.arrays(np.float32, shape, elements=st.floats(-4, 4, width=32)))
    straight = only(model.run({"image": values}))
    np.testing.assert_array_equal(straight, only(model.run({"image": values.astype(np.float64)})))


_opened = {}


def opened(path):
    if path not in _opened:
        _opened[path] = edgekit.load(path, threads=1)
    return _opened[path]
