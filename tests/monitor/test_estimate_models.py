"""The accuracy without labels on a real model: digits that drift in ways the estimate was and was not fitted on."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

import edgekit
from edgekit.converters.perturbing import copies
from edgekit.monitor.build import Builder, Drift
from edgekit.monitor.monitor import Monitor
from edgekit.reading import Interpret
from edgekit.tensors import TensorSpec

PICTURE = (TensorSpec("image", (None, 28, 28, 1), "float32", layout="NHWC"),)
SCORES = (TensorSpec("scores", (None, 10), "float32"),)
HOW = Interpret(task="classification", scores="probabilities")


@pytest.fixture(scope="module")
def digits(shared):
    """Samples with labels, what answers them, and the copies of the first 500 with their answers."""
    folder = shared / "data/mnist_t10k"
    images, labels = (gzip.decompress(next(folder.glob(f"*{kind}*.gz")).read_bytes()) for kind in ("idx3", "idx1"))
    x = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28, 1)[:1524].astype(np.float32) / 255
    y = np.frombuffer(labels, np.uint8, offset=8)[:1524].astype(np.int64)
    with edgekit.load(shared / "models/mnist_conv_tflite/conv_fc_mnist.tflite", threads=1) as model:
        name, out = model.inputs[0].name, model.outputs[0].name

        def answer(pictures):
            return model.run({name: np.ascontiguousarray(pictures, np.float32)})[out].reshape(-1, 10)

        spoilt = [
            (kind, level, answer(copy), copy, y[at], at) for kind, level, at, copy in copies(x[:500], "picture", 9600)
        ]
        yield x, y, answer, spoilt


def watching(digits, without=()):
    x, y, answer, spoilt = digits
    builder = Builder(PICTURE, SCORES, None, HOW)
    builder.add({"image": x[:500]}, {"scores": answer(x[:500])})
    builder.judge({"image": x[:500]}, {"scores": answer(x[:500])}, y[:500])
    for kind, level, answers, copy, labels, places in spoilt:
        if kind.family not in without:
            drift = Drift(kind.name, kind.family, level)
            builder.judge({"image": copy}, {"scores": answers}, labels, drift, places)
    return builder.finish()


def told(reference, digits, change):
    """The estimate over 1,024 fresh samples, twice each, and the truth."""
    x, y, answer, _ = digits
    moved = np.clip(change(x[500:].copy()), 0, 1).astype(np.float32)
    answers = answer(moved)
    monitor = Monitor(reference, PICTURE, SCORES, None, HOW)
    for _ in range(2):
        monitor.observe({"image": moved}, {"scores": answers})
    return monitor.accuracy(2048), float((answers.argmax(1) == y[500:]).mean())


def rotated(degrees):
    from scipy import ndimage

    return lambda x: ndimage.rotate(x, degrees, (1, 2), reshape=False, order=1)


def noisy(part):
    return lambda x: x + np.random.default_rng(4).normal(0, part, x.shape)


def blurred(sigma):
    from scipy import ndimage

    return lambda x: ndimage.gaussian_filter(x, (0, sigma, sigma, 0))


def test_drifts_like_those_it_was_fitted_on_are_told_to_a_few_points(digits):
    reference = watching(digits)
    errors, held, sure = [], [], []
    changes = [lambda x: x, lambda x: 0.6 * x, lambda x: x**2, rotated(20), rotated(30), noisy(0.1), blurred(1.2)]
    for change in changes:
        found, truth = told(reference, digits, change)
        errors.append(found["estimate"] - truth)
        held.append(found["low"] <= truth <= found["high"])
        sure.append(found["high"] - found["low"])
    assert np.abs(errors).max() < 0.06, errors
    assert np.mean(np.abs(errors)) < 0.03, errors
    assert sum(held) >= len(held) - 1
    assert max(sure) < 0.4  # an interval that holds because it holds everything tells nothing


def test_a_drift_that_nothing_like_it_was_fitted_on_has_a_wider_interval(digits):
    known, foreign = watching(digits), watching(digits, without=("turn",))
    held = []
    for degrees in (10, 20, 30, 45):
        near, truth = told(known, digits, rotated(degrees))
        far, _ = told(foreign, digits, rotated(degrees))
        assert far["high"] - far["low"] > near["high"] - near["low"]
        held.append(far["low"] <= truth <= far["high"])
    assert sum(held) >= 3  # of nine in ten


def test_the_estimate_is_a_small_part_of_the_reference_and_travels(digits):
    from edgekit.monitor.reference import Reference

    made = watching(digits)
    data = made.to_bytes()
    again = Reference.from_bytes(data)
    assert again.header.estimator == made.header.estimator
    assert again.to_bytes() == data == watching(digits).to_bytes()
    assert sum(array.nbytes for array in made.anchors.values()) < 4096
    for cut in (len(data) - 1, len(data) // 2):
        with pytest.raises(edgekit.errors.ArtifactError, match="cannot be read"):
            Reference.from_bytes(data[:cut])
