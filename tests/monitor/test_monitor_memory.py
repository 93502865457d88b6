"""Streams that remember: samples of the reference's distribution that follow each other make no alarm."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.monitor.build import Builder
from edgekit.monitor.monitor import Monitor
from edgekit.reading import Interpret
from edgekit.tensors import TensorSpec

ROWS = (TensorSpec("x", (None, 12), "float32"),)
VALUE = (TensorSpec("y", (None, 1), "float32"),)
HOW = Interpret(task="regression")


@pytest.fixture(scope="module")
def reference():
    x = np.random.default_rng(0).normal(size=(1000, 12)).astype(np.float32)
    builder = Builder(ROWS, VALUE, None, HOW)
    builder.add({"x": x}, {"y": x[:, :1]})
    return builder.finish()


def following(likeness, seed, samples=3200):
    """AR(1) of variance 1."""
    x = np.random.default_rng(seed).normal(size=(samples, 12))
    for place in range(1, samples):
        x[place] = likeness * x[place - 1] + np.sqrt(1 - likeness**2) * x[place]
    return x.astype(np.float32)


def alarms(reference, x):
    monitor = Monitor(reference, ROWS, VALUE, None, HOW)
    return [alarm for at in range(0, len(x), 32) for alarm in monitor.observe(
        {"x": x[at : at + 32]}, {"y": x[at : at + 32, :1]}).alarms]  # fmt: skip


@pytest.mark.parametrize("likeness", [0.5, 0.8, 0.9, 0.95])
def test_samples_that_follow_each_other_are_no_drift_from_the_first_block_on(reference, likeness):
    for seed in range(3):
        assert alarms(reference, following(likeness, seed)) == []


def test_a_camera_that_sees_each_scene_for_a_while_has_not_drifted(reference):
    dice = np.random.default_rng(3)
    scenes = np.repeat(dice.normal(size=(160, 12)), 20, axis=0)
    assert alarms(reference, ((scenes + 0.1 * dice.normal(size=scenes.shape)) / 1.005).astype(np.float32)) == []


def test_all_numbers_that_moved_at_once_are_no_memory(reference):
    x = np.random.default_rng(7).normal(size=(96, 12)).astype(np.float32) + np.float32(3)
    assert alarms(reference, x)


@pytest.mark.parametrize("by", [3, 12])
@pytest.mark.parametrize("before", [0, 640])
def test_one_number_far_out_is_no_memory(reference, by, before):
    """In its outermost bin all scores are equal, as those of a number that remembers are; it was told after 800."""
    x = np.random.default_rng(8).normal(size=(before + 256, 12)).astype(np.float32)
    x[before:, 3] += by
    found = [alarm for alarm in alarms(reference, x) if alarm.kind == "input-shift"]
    assert "value 3" in found[0].message
    assert before <= found[0].raised < before + 128


def test_a_single_number_that_remembers_has_not_drifted():
    one = (TensorSpec("x", (None, 1), "float32"),)
    x = np.random.default_rng(0).normal(size=(1000, 1)).astype(np.float32)
    builder = Builder(one, VALUE, None, HOW)
    builder.add({"x": x}, {"y": x})
    made = builder.finish()
    for seed in range(3):
        monitor, slow = Monitor(made, one, VALUE, None, HOW), following(0.9, seed)[:, :1]
        for at in range(0, len(slow), 32):
            assert not monitor.observe({"x": slow[at : at + 32]}, {"y": slow[at : at + 32]}).alarms


def test_a_stream_that_remembers_is_still_seen_to_drift(reference):
    x = following(0.8, 5, 4800)
    x[1600:, 3] += 1.0
    found = alarms(reference, x)
    assert found[0].raised >= 1600
    assert "value 3" in found[0].message
    y = following(0.8, 6, 4800)
    y[1600:, 3] *= 2.5
    assert {alarm.kind for alarm in alarms(reference, y)} & {"input-spread", "input-relation"}


def test_answers_that_flicker_within_a_scene_are_no_other_shares_of_classes():
    """A class that is answered now and then changes with each flicker, and seems to remember nothing."""
    how = Interpret(task="classification", scores="probabilities")
    scores = (TensorSpec("p", (None, 8), "float32"),)

    def stream(scenes, length, seed):
        dice = np.random.default_rng(seed)
        x = np.repeat(dice.normal(size=(scenes, 12)), length, axis=0)
        classes = np.repeat(dice.integers(0, 8, scenes), length)
        flicker = dice.random(len(classes)) < 0.3
        classes = np.where(flicker, (classes + 1) % 8, classes)
        p = np.full((len(classes), 8), 0.02)
        p[np.arange(len(classes)), classes] = 0.86
        return ((x + 0.3 * dice.normal(size=x.shape)) / np.sqrt(1.09)).astype("f4"), p.astype("f4")

    builder = Builder(ROWS, scores, None, how)
    x, p = stream(1000, 1, 0)
    builder.add({"x": x}, {"p": p})
    known = builder.finish()
    for seed in range(1, 5):
        monitor = Monitor(known, ROWS, scores, None, how)
        x, p = stream(60, 30, seed)
        for at in range(0, len(x), 32):
            monitor.observe({"x": x[at : at + 32]}, {"p": p[at : at + 32]})
        told = [*monitor.status()["ended"], *monitor.status()["alarms"]]
        assert [alarm["message"] for alarm in told if alarm["kind"] == "class-shift"] == []
