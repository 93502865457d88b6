"""Streams whose own noise hides how slowly they move: what a thousand of their samples are worth."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.monitor import slowness
from edgekit.monitor.build import Builder
from edgekit.monitor.monitor import Monitor
from edgekit.reading import Interpret
from edgekit.tensors import TensorSpec

ROWS = (TensorSpec("x", (None, 10), "float32"),)
SCORES = (TensorSpec("y", (None, 4), "float32"),)
HOW = Interpret(task="classification", scores="probabilities")


def following(dice, samples, likeness, streams=10):
    """AR(1) of variance 1."""
    x = dice.normal(size=(samples + 200, streams))
    for place in range(1, len(x)):
        x[place] = likeness * x[place - 1] + np.sqrt(1 - likeness**2) * x[place]
    return x[200:]


def noisy(dice, samples, likeness, streams=10):
    """As much noise as signal: tau is 1 + likeness / (1 - likeness)."""
    return (following(dice, samples, likeness, streams) + dice.normal(size=(samples, streams))) / np.sqrt(2)


def sums(x, length):
    return x.reshape(-1, length, x.shape[1]).sum(axis=1)


def test_what_does_not_remember_is_worth_its_samples():
    dice = np.random.default_rng(0)
    for blocks in (1, 3, 10, 20, 64):
        tau = slowness.by_sums(sums(dice.normal(size=(32 * blocks, 400)), 32), 32)
        assert (tau == 1).mean() > 0.97
        assert slowness.together(sums(dice.normal(size=(32 * blocks, 40)), 32), 32) == 1


@pytest.mark.parametrize(("likeness", "tau"), [(0.8, 5.0), (0.9, 10.0), (0.95, 20.0)])
def test_noise_does_not_hide_what_a_stream_remembers(likeness, tau):
    """Of 2,048 samples; what is not forgotten within 128 is missing."""
    x = noisy(np.random.default_rng(1), 2048, likeness, 300)
    found = slowness.by_sums(sums(x, 32), 32)
    assert 0.6 * tau < np.median(found) < 1.2 * tau
    assert slowness.together(sums(x[:256], 32), 32) > 0.4 * tau


@pytest.mark.parametrize("at", [700, 1024, 1500])
def test_a_shift_is_no_memory(at):
    x = np.random.default_rng(2).normal(size=(2048, 400))
    x[at:] += 2
    assert (slowness.by_sums(sums(x, 32), 32) == 1).mean() > 0.97


def watched(make, seed, drift=None):
    dice = np.random.default_rng(seed)
    weights = np.random.default_rng(5).normal(size=(10, 4))

    def feeds(x):
        z = np.exp(x @ weights)
        return {"x": x.astype(np.float32)}, {"y": (z / z.sum(axis=1, keepdims=True)).astype(np.float32)}

    builder = Builder(ROWS, SCORES, None, HOW)
    builder.add(*feeds(make(dice, 20_000)[::20]))
    monitor = Monitor(builder.finish(), ROWS, SCORES, None, HOW)
    x = make(dice, 6400)
    if drift is not None:
        drift(x)
    return [alarm for at in range(0, len(x), 32) for alarm in monitor.observe(*feeds(x[at : at + 32])).alarms]


@pytest.mark.parametrize("make", [
    lambda dice, samples: noisy(dice, samples, 0.95),
    lambda dice, samples: np.rint(following(dice, samples, 0.95) / 2),
    lambda dice, samples: following(dice, samples, 0.95),
], ids=["noise", "rounded", "classes"])  # fmt: skip
def test_sensors_and_classes_that_move_slowly_raise_no_alarm_once_they_are_known(make):
    """Each raised from 2 to 80 on such a stream. Of the first 256 samples nobody knows yet."""
    for seed in range(3):
        assert [alarm for alarm in watched(make, seed) if alarm.raised > 256 and alarm.kind != "stuck"] == []


def test_a_shift_of_a_slow_sensor_is_found_all_the_same():
    def drift(x):
        x[3200:, 4] += 1.5

    found = [
        alarm for alarm in watched(lambda dice, samples: noisy(dice, samples, 0.9), 1, drift) if alarm.raised > 256
    ]
    assert found[0].raised > 3200
    assert "value 4" in found[0].message
    assert found[0].raised < 3200 + 1024
