"""Alarms stand as long as what raised them, once each."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.feeding import Preprocess
from edgekit.monitor.build import Builder
from edgekit.monitor.monitor import Monitor
from edgekit.monitor.rows import Rows
from edgekit.reading import Interpret
from edgekit.tensors import TensorSpec

HOW = Interpret(task="regression")
ROWS, VALUE = (TensorSpec("x", (None, 4), "float32"),), (TensorSpec("y", (None, 1), "float32"),)


def stream(number, seed):
    return np.random.default_rng(seed).normal(size=(number, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def reference():
    builder = Builder(ROWS, VALUE, None, HOW)
    x = stream(1000, 1)
    builder.add({"x": x}, {"y": x[:, :1]})
    return builder.finish()


def watched(reference, x):
    """Alarms in the order in which they were raised, and the monitor behind the last sample."""
    monitor = Monitor(reference, ROWS, VALUE, None, HOW, clock=lambda: 1e9, degrees=lambda: None)
    found = []
    for at in range(0, len(x), 8):
        found += monitor.observe({"x": x[at : at + 8]}, {"y": x[at : at + 8, :1]}).alarms
    return found, monitor


@pytest.mark.parametrize("where", ["where it usually is", "elsewhere"])
def test_a_sensor_that_stands_still_for_long_is_not_taken_for_its_nature(reference, where):
    x = stream(6000, 2)
    low, high = _fullest(reference, 2)
    x[600:, 2] = (low + high) / 2 if where == "where it usually is" else high + 0.5
    found, monitor = watched(reference, x)
    assert [alarm.where for alarm in found if alarm.kind == "stuck"] == ["input x: value 2"]
    assert "stuck" in {alarm.kind for alarm in monitor.alarms}


def _fullest(reference, place):
    """Ends of the bin that most of a number's samples are in."""
    fullest = int(reference.mass[place, 1:-1].argmax()) + 1
    ends = reference.inner[place, fullest - 1 : fullest + 1].astype(np.float64)
    return reference.mean[place] + reference.deviation[place] * ends


def test_a_fault_that_is_gone_is_told_for_a_while(reference):
    x = stream(1800, 6)
    x[600:640, 2] = 0.123
    found, monitor = watched(reference, x[:1000])
    assert "stuck" in {alarm.kind for alarm in found}
    assert "stuck" in {alarm.kind for alarm in monitor.alarms}
    _, monitor = watched(reference, x)
    assert monitor.alarms == ()
    (ended,) = (one for one in monitor.status()["ended"] if one["kind"] == "stuck")
    assert ended["ended"] - ended["raised"] >= 512


def test_a_number_that_is_missing_does_not_stand_still(reference):
    x = stream(1200, 3)
    x[600:, 1] = np.nan
    found, _ = watched(reference, x)
    assert "missing" in {alarm.kind for alarm in found}
    assert "stuck" not in {alarm.kind for alarm in found}


@pytest.mark.parametrize("lacking", [slice(1, 2), slice(0, 4)])
def test_a_sample_that_lacks_what_none_lacked_is_no_usual_one(reference, lacking):
    """What is missing counts as the reference's mean, so that a picture of NaN was more usual than any other."""
    monitor = Monitor(reference, ROWS, VALUE, None, HOW, degrees=lambda: None)
    x = stream(40, 8)
    x[5, lacking] = np.nan
    scores = [monitor.observe({"x": one[None]}, {"y": one[None, :1]}).ood_score for one in x]
    assert scores[5] >= 1
    assert np.median(scores) < 0.5
    x[:] = stream(40, 9)
    assert monitor.observe({"x": x}, {"y": x[:, :1]}).ood_score < 3


def test_what_the_reference_lacked_as_well_may_be_missing():
    x = stream(1000, 1)
    x[::5, 1] = np.nan
    builder = Builder(ROWS, VALUE, None, HOW)
    builder.add({"x": x}, {"y": np.zeros((1000, 1), np.float32)})
    monitor = Monitor(builder.finish(), ROWS, VALUE, None, HOW, degrees=lambda: None)
    usual = np.array([[0.1, np.nan, 0.1, 0.1]], np.float32)
    assert monitor.observe({"x": usual}, {"y": np.zeros((1, 1), np.float32)}).ood_score < 0.5


def test_another_shape_of_the_same_middle_and_spread_is_told_once(reference):
    x = stream(24_000, 4)
    x[2000:, 3] = np.sign(x[2000:, 3]) * np.abs(1 + 0.2 * stream(22_000, 5)[:, 0]) / np.sqrt(1.04)
    found, monitor = watched(reference, x)
    shapes = [alarm for alarm in found if alarm.kind == "input-shape"]
    assert [alarm.where for alarm in shapes] == ["input x: value 3"]
    assert shapes[0] in monitor.alarms


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("scores", ["probabilities", "logits"])
def test_an_answer_that_is_no_number_is_forgotten_again(bad, scores):
    """One alone made the accuracy 0 for ever, across restarts, and shifts no numbers."""
    how = Interpret("classification", scores=scores, output="p")
    outputs = (TensorSpec("p", (None, 3), "float32"), TensorSpec("v", (None, 1), "float32"))
    dice = np.random.default_rng(7)

    def batch(number):
        x = stream(number, int(dice.integers(1 << 30)))
        sure = dice.dirichlet(np.full(3, 0.3), number).astype(np.float32)
        p = sure if scores == "probabilities" else np.log(np.maximum(sure, 1e-6))
        return {"x": x}, {"p": p, "v": dice.normal(size=(number, 1)).astype(np.float32)}

    builder = Builder(ROWS, outputs, None, how)
    x, y = batch(600)
    builder.add(x, y)
    builder.judge(x, y, np.where(dice.random(600) < 0.9, y["p"].argmax(axis=1), 0))
    monitor = Monitor(builder.finish(), ROWS, outputs, None, how, clock=lambda: 1e9, degrees=lambda: None)
    for number in range(60):
        x, y = batch(32)
        if number == 3:
            y["p"][5], y["v"][5] = bad, bad
        verdict = monitor.observe(x, y)
        assert np.isfinite([verdict.ood_score, verdict.uncertainty, verdict.doubt]).all()
    told = monitor.status()["scales"]["256"]
    assert np.isfinite(list(told["shifts"].values())).all()
    assert told["accuracy"]["estimate"] == pytest.approx(0.9, abs=0.08)
    assert monitor.alarms == ()


def test_a_single_logit_may_be_infinite():
    how = Interpret("classification", scores="logits")
    rows = Rows(ROWS, (TensorSpec("p", (None, 1), "float32"),), Preprocess(), how)
    made = rows.probabilities(np.array([[np.inf], [-np.inf], [np.nan], [0.0]], np.float32))
    np.testing.assert_allclose(made[:, 1], [1, 0, 0.5, 0.5], atol=1e-12)
