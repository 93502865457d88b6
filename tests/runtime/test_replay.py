"""The self-test inside an artifact: it passes where nothing changed, and notices what did."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import edgekit
from edgekit.errors import ArtifactError
from edgekit.runtimes import replay as module
from edgekit.runtimes.replay import replay
from edgekit.selftest import restore, store


def test_it_replays_here(model):
    found = replay(model)
    assert found.passed
    assert found.vectors >= 4
    assert (found.worst_steps, found.worst_relative) == (0, 0)


def with_test(model, test):
    """The model with another self-test in its artifact."""
    model.artifact.__dict__["selftest"] = test
    return model


def shifted(model, by):
    """The recorded answers, each off by `by`: steps of integers, or a part of the largest magnitude."""
    test = model.artifact.selftest
    spec = model.outputs[0]
    vectors = []
    for vector in test.vectors:
        values = restore(vector.outputs["probs"], spec.dtype).copy()
        if spec.dtype == "float32":
            values[0] += np.float32(by * np.abs(values).max())
        else:
            values[0] += by if values[0] < 100 else -by
        vectors.append(replace(vector, outputs={"probs": store(values)}))
    return replace(test, vectors=tuple(vectors))


@pytest.mark.parametrize("model", ["int8.tflite"], indirect=True)
def test_integers_may_be_one_step_off(model):
    found = replay(with_test(model, shifted(model, 1)))
    assert (found.passed, found.worst_steps) == (True, 1)
    model.artifact.__dict__.pop("selftest")
    found = replay(with_test(model, shifted(model, 2)))
    assert not found.passed
    assert found.worst_steps == 2
    assert "output probs: off by 2 steps" in found.failures[0]


@pytest.mark.parametrize("model", ["fp32.tflite", "fp32.onnx"], indirect=True)
def test_floats_may_be_off_by_the_tolerance(model):
    assert replay(with_test(model, shifted(model, 5e-6))).passed
    model.artifact.__dict__.pop("selftest")
    found = replay(with_test(model, shifted(model, 5e-5)))
    assert not found.passed
    assert found.worst_relative == pytest.approx(5e-5, rel=0.1)
    assert "relative" in found.failures[0]


def test_an_answer_that_is_not_a_number_fails():
    one = np.array([1.0, np.nan], np.float32)
    assert module._relative(one, one) == 0
    assert module._relative(one, np.array([1.0, 2.0], np.float32)) == float("inf")
    assert module._relative(np.array([1.0, 2.0], np.float32), one) == float("inf")


def test_a_foreign_file_has_none(tiny_files):
    with edgekit.load(tiny_files["onnx"]) as model, pytest.raises(ArtifactError) as caught:
        replay(model)
    assert caught.value.code == "selftest-missing"
