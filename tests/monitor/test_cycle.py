"""Streams that go slowly through states that are known: what each state does is no drift, what comes on top is."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

import edgekit
from edgekit.errors import UsageError
from edgekit.monitor.build import Builder
from edgekit.monitor.monitor import Monitor
from edgekit.monitor.scan import LONGEST, ROUNDS, Scan
from edgekit.reading import Interpret
from edgekit.tensors import TensorSpec

ROWS = (TensorSpec("x", (None, 6), "float32"),)
SCORES = (TensorSpec("y", (None, 2), "float32"),)
HOW = Interpret(task="classification", scores="probabilities")
CYCLE = 2000


def wave(place):
    return 0.5 + 0.5 * np.sin(2 * np.pi * place)


def shifts(place):
    """Day and night."""
    return np.where(place % 1 < 0.5, 0.9, 0.1)


def feeds(load, seed):
    """A machine under load: temperature, current, vibration, a sensor of its own, a count, a flag."""
    dice = np.random.default_rng(seed)
    noise = dice.normal(size=(4, len(load)))
    x = np.stack(
        [20 + 60 * load**2 + 2 * noise[0], 5 * load + 0.3 * noise[1], np.exp(1.5 * load + 0.2 * noise[2]), noise[3],
         dice.poisson(20 * (1 + load)), dice.random(len(load)) < load / 2], 1,
    ).astype(np.float32)  # fmt: skip
    p = 1 / (1 + np.exp(x[:, 1] - 2.5))
    return {"x": x}, {"y": np.stack([p, 1 - p], 1).astype(np.float32)}


@pytest.fixture(scope="module", params=[wave, shifts])
def stream(request):
    """The reference of 2,000 samples at any time of the cycle, and the stream's function."""
    builder = Builder(ROWS, SCORES, None, HOW)
    builder.add(*feeds(request.param(np.random.default_rng(0).random(2000)), 0))
    return builder.finish(), request.param


def raised(stream, cycles, *, drift=None, begin=0, **options):
    """Alarms of so many cycles; `drift` changes samples from cycle `begin` on."""
    reference, load = stream
    monitor = Monitor(reference, ROWS, SCORES, None, HOW, **options)
    found = []
    for first in range(0, cycles * CYCLE, 32):
        inputs, outputs = feeds(load((np.arange(32) + first) / CYCLE), first + 1)
        if drift is not None and first >= begin * CYCLE:
            drift(inputs["x"])
        found += monitor.observe(inputs, outputs).alarms
    return found


def test_states_that_are_known_are_drift_unless_somebody_says_how_long_a_cycle_is(stream):
    assert len(raised(stream, 3)) >= 5
    assert raised(stream, 12, cycle=CYCLE) == []


@pytest.mark.parametrize("column", [0, 3])
def test_a_shift_on_top_of_the_cycle_is_found_within_four(stream, column):
    def drift(x):
        x[:, column] += {0: 15, 3: 0.6}[column]  # about 0.6 deviations

    found = raised(stream, 10, drift=drift, begin=6, cycle=CYCLE)
    assert found
    assert found[0].raised >= 6 * CYCLE
    assert any(f"value {column}" in alarm.message for alarm in found)
    assert found[0].raised < 10 * CYCLE


def test_faults_are_told_at_once(stream):
    def drift(x):
        x[:, 3] = 0.25

    found = raised(stream, 3, drift=drift, begin=2, cycle=CYCLE)
    assert found[0].kind == "stuck"
    assert found[0].raised < 2 * CYCLE + 32


def test_a_flag_that_a_state_never_has_is_not_stuck_in_it(stream):
    """Under no load it is 0 for half a cycle."""
    assert not [alarm for alarm in raised(stream, 3, cycle=CYCLE) if alarm.kind == "stuck"]


def test_an_alarm_lasts_for_the_cycle_s_quiet_states_as_well(stream):
    def drift(x):
        x[:, 3] += 1

    found = raised(stream, 12, drift=drift, begin=4, cycle=CYCLE)
    kinds = [alarm.kind for alarm in found]
    assert kinds
    assert len(kinds) == len(set(kinds)), "none was ended and raised again"


@pytest.mark.parametrize("cycle", [-1, LONGEST // ROUNDS + 1])
def test_a_cycle_that_cannot_be_watched_is_refused(stream, cycle):
    with pytest.raises(UsageError) as caught:
        Monitor(stream[0], ROWS, SCORES, None, HOW, cycle=cycle)
    assert caught.value.code == "option-value"


def test_the_longest_cycle_has_lengths_left_to_look_at():
    tables, mass = np.array([[-1.0, 1.0]]), np.array([[0.5, 0.5]])
    for cycle in (0, 1, 512, 65_536, 86_400, LONGEST // ROUNDS):
        scan = Scan(tables, mass, np.array([1000.0]), np.array([0.3]), extras=0, rate=1e-6, cycle=cycle)
        assert np.isfinite(scan.deviate)
        assert any(np.abs(limits).any() for limits in scan._limits)
        assert all(np.isfinite(limits).all() for limits in scan._limits)


def test_thresholds_contain_the_part_of_a_cycle_that_a_stretch_has_too_much():
    tables, mass = np.array([[-1.0, 1.0]]), np.array([[0.5, 0.5]])
    plain, cycled = (
        Scan(tables, mass, np.array([1e6]), np.array([0.3]), extras=0, rate=1e-6, cycle=cycle) for cycle in (0, 4096)
    )
    lengths = cycled._lengths[2]
    above = 1 / (cycled._limits[2][0, :, 0] * lengths)
    assert above == pytest.approx(1 / (plain._limits[2][0, :, 0] * lengths) + 2048 / lengths, rel=0.02)
    assert all(a > b for a, b in pairwise(above))


def test_an_app_names_the_cycle_where_it_asks_for_a_monitor(tiny_files, tmp_path):
    images = np.random.default_rng(1).random((60, 8, 8, 2), np.float32)
    path = tmp_path / "model.tflite"
    edgekit.convert(tiny_files["tflite"], output=path, evaluation=images, task="classification")
    with edgekit.load(path) as model:
        assert model.monitor(cycle=300).cycle == 300
    with edgekit.Pool(path, sessions=2, monitor=tmp_path / "state", cycle=300) as pool:
        assert pool.monitor.cycle == 300
