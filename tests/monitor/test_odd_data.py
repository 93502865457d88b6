"""References of odd data: few samples, rare numbers, categories; small, and of no single sample."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.errors import DataError
from edgekit.monitor.build import Builder
from edgekit.monitor.monitor import Monitor
from edgekit.monitor.reference import LIMIT, Reference
from edgekit.reading import Interpret
from edgekit.tensors import TensorSpec

HOW = Interpret(task="regression")
VALUE = (TensorSpec("y", (None, 1), "float32"),)


def spec(x):
    return (TensorSpec("x", (None, *x.shape[1:]), "float32"),)


def answers(x):
    return {"y": x.reshape(len(x), -1)[:, :1]}


def referenced(*sets):
    builder = Builder(spec(sets[0]), VALUE, None, HOW)
    for place, x in enumerate(sets):
        builder.add({"x": x}, answers(x), proven=place == 0)
    return Reference.from_bytes(builder.finish().to_bytes())


def alarms(reference, x, number, seed=5):
    """Of a stream that is drawn from samples."""
    monitor = Monitor(reference, spec(x), VALUE, None, HOW, clock=lambda: 1e9, degrees=lambda: None)
    dice = np.random.default_rng(seed)
    found = []
    for _ in range(number // 32):
        some = x[dice.integers(0, len(x), 32)]
        found += monitor.observe({"x": some}, answers(some)).alarms
    return found


@pytest.mark.parametrize("number", [1, 10, 19])
def test_a_handful_of_samples_gives_none(number):
    with pytest.raises(DataError) as caught:
        referenced(np.random.default_rng(0).normal(size=(number, 5)).astype(np.float32))
    assert caught.value.code == "reference-samples"


@pytest.mark.parametrize("values", [(1e6, 3e9), (-1e6, -3e9), (1e5, 1e7, 4e8)])
def test_how_far_one_sample_lies_beyond_the_others_leaves_no_trace(values):
    """Two owners of references that differ in one sample alone cannot tell its numbers from them."""
    made = set()
    for scale in (1.0, 7.3):
        x = np.random.default_rng(3).normal(size=(300, 5)).astype(np.float32)
        x[17, : len(values)] = np.multiply(values, scale)
        made.add(referenced(x).to_bytes())
    assert len(made) == 1


@pytest.mark.parametrize("shape", [(20, 60), (600, 1000), (60, 5), (300, 64, 64)])
def test_it_is_small_and_keeps_no_relations_of_too_few(shape):
    made = referenced(np.random.default_rng(0).normal(size=shape).astype(np.float32))
    assert len(made.to_bytes()) < LIMIT
    if not made.header.relations:
        assert not made.partials.any()
    assert made.counts[made.counts > 0].min() >= 3


def test_a_number_that_one_or_two_samples_alone_have_cannot_be_read_back():
    def known(one, other):
        x = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
        x[:, 1], x[5, 1] = 0, one  # all others are 0
        x[:, 2], x[[5, 9], 2] = np.nan, (one, other)  # nobody else has it
        x[7, 3] = other  # an outlier
        return referenced(x).to_bytes()

    assert known(1234.5, 77.0) == known(9876.5, 55.0)


def test_categories_are_counted_as_often_as_they_come():
    dice = np.random.default_rng(1)
    x = np.stack([dice.choice(3, 1000, p=[0.7, 0.2, 0.1]), dice.choice(2, 1000, p=[0.95, 0.05])], 1).astype(np.float32)
    made = referenced(x, x[:300])  # of the other set all were there already
    assert made.header.samples == 1000
    assert abs(made.mean[0] - x[:, 0].mean()) < 0.01
    assert alarms(made, x, 20_000) == []
    rare = np.where(dice.random((1000, 1)) < 0.5, 2, x[:, :1])
    moved = alarms(made, np.concatenate([rare, x[:, 1:]], axis=1).astype(np.float32), 640)
    assert "input-shift" in {alarm.kind for alarm in moved}


def test_copies_of_numbers_count_once():
    x = np.random.default_rng(2).normal(size=(100, 3)).astype(np.float32)
    assert referenced(np.concatenate([x, x, x]), x).header.samples == 100


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_what_never_changed_is_quiet_until_it_does(value):
    x = np.random.default_rng(3).normal(size=(300, 3)).astype(np.float32)
    x[:, 1] = value
    made = referenced(x)
    assert alarms(made, x, 3200) == []
    x[:, 1] = value + 1
    assert "constant" in {alarm.kind for alarm in alarms(made, x, 320)}


def test_all_alike_is_a_reference_as_well():
    made = referenced(np.full((100, 3), 3.0, np.float32))
    assert made.header.samples == 100


def background(number, seed):
    """A pixel that is dark in four of five samples, and any of many grays in the others; beside a number."""
    dice = np.random.default_rng(seed)
    dark = dice.random(number) < 0.8
    return np.stack([np.where(dark, 0.0, dice.uniform(50, 200, number)), dice.normal(size=number)], 1).astype("f4")


@pytest.mark.parametrize(("value", "found"), [(120.0, True), (0.0, False)])
def test_a_number_that_stands_still_where_it_seldom_is(value, found):
    made = referenced(background(1000, 0))
    assert alarms(made, background(3000, 1), 6400) == []
    stuck = background(32, 2)
    stuck[4:, 0] = value
    monitor = Monitor(made, spec(stuck), VALUE, None, HOW, clock=lambda: 1e9, degrees=lambda: None)
    delay = None
    for place in range(4, 24):
        some = stuck[place : place + 1]
        if any(alarm.kind == "stuck" for alarm in monitor.observe({"x": some}, answers(some)).alarms):
            delay = place - 3
            break
    assert (delay is not None) is found


def test_categories_that_both_data_sets_hold_count_once():
    x = np.random.default_rng(0).integers(0, 3, (240, 2)).astype(np.float32)
    assert referenced(x, x).header.samples == referenced(x).header.samples == 240
    assert referenced(x, np.concatenate([x, x[:60]])).header.samples == 300


def sensors(number, seed, last):
    """Four numbers, and one that is drawn by `last`."""
    dice = np.random.default_rng(seed)
    return np.column_stack([dice.normal(size=(number, 4)), last(dice, number)]).astype(np.float32)


def seldom(share, value=3.0, usually=0.0):
    return lambda dice, number: np.where(dice.random(number) < share, value, usually)


def exactly(count, value, usually=0.0):
    return lambda _, number: np.where(np.arange(number) < count, value, usually)


@pytest.mark.parametrize("number", [60, 120])
def test_what_few_samples_of_a_small_reference_have_is_no_fault(number):
    """Two of 120 had it, which may well be as many as one in twenty."""
    made = referenced(sensors(number, 0, exactly(2, 3.0)))
    assert alarms(made, sensors(20_000, 1, seldom(0.05)), 20_000) == []


def test_a_number_that_most_lack_may_come_now_and_then():
    made = referenced(sensors(120, 0, exactly(5, 1.0, np.nan)))
    assert alarms(made, sensors(20_000, 1, seldom(0.04, 1.0, np.nan)), 20_000) == []
    (found,) = (a for a in alarms(made, sensors(3000, 1, seldom(1.0)), 320) if a.kind == "constant")
    assert "as good as always missing and no longer is" in found.message


@pytest.mark.parametrize("usually", [0.0, 13.0, 1000.0])
def test_a_step_beyond_what_was_seen_is_not_far_beyond(usually):
    """Ends are kept roughly: a count one step beyond the largest lies where "far beyond" begins."""
    made = referenced(sensors(400, 0, seldom(0.1, usually + 1, usually)))
    moved = alarms(made, sensors(3000, 1, seldom(0.4, usually + 2, usually)), 640)
    assert "out-of-range" not in {alarm.kind for alarm in moved}
    assert moved


@pytest.mark.parametrize(("before", "now"), [(0.1, 0.3), (0.3, 0.5), (0.0, 0.03)])
def test_what_is_missing_more_often_than_it_was_is_told(before, now):
    made = referenced(sensors(2000, 0, seldom(before, np.nan)))
    assert alarms(made, sensors(20_000, 1, seldom(before, np.nan)), 20_000) == []
    found = [a for a in alarms(made, sensors(20_000, 2, seldom(now, np.nan)), 1600) if a.kind == "missing"]
    assert found


def test_what_was_always_the_same_and_changes_in_one_sample_of_twenty_is_told():
    made = referenced(sensors(2000, 0, seldom(0.0)))
    assert "constant" in {a.kind for a in alarms(made, sensors(20_000, 1, seldom(0.05)), 1600)}


def test_a_fault_that_is_over_ends_and_the_next_begins_anew():
    made = referenced(sensors(1000, 0, seldom(0.0)))
    x = sensors(6400, 1, seldom(0.0))
    x[640:960:2, 4] = 3
    x[3200:3520:2, 4] = 3
    monitor = Monitor(made, spec(x), VALUE, None, HOW, clock=lambda: 1e9, degrees=lambda: None)
    found = []
    for place in range(0, len(x), 32):
        found += monitor.observe({"x": x[place : place + 32]}, answers(x[place : place + 32])).alarms
        assert monitor.alarms or not 992 <= place < 1408
    faults = [alarm for alarm in found if alarm.kind == "constant"]
    assert [alarm.since for alarm in faults] == [640, 3200]
    assert not monitor.alarms
    lasted = [end["ended"] - end["since"] for end in monitor.status()["ended"] if end["kind"] == "constant"]
    assert len(lasted) == 2
    assert max(lasted) <= 1500


def test_a_status_tells_the_numbers_themselves_beside_what_is_left_of_them():
    """Relations had overwritten them: distances were those of residuals."""
    stats = pytest.importorskip("scipy.stats")
    dice = np.random.default_rng(7)
    mixing = np.random.default_rng(8).normal(size=(5, 5))
    known, now = ((dice.normal(size=(number, 5)) @ mixing).astype(np.float32) for number in (2000, 1024))
    now[:, 2] += 2
    made = referenced(known)
    monitor = Monitor(made, spec(now), VALUE, None, HOW, clock=lambda: 1e9, degrees=lambda: None)
    for place in range(0, 1024, 32):
        monitor.observe({"x": now[place : place + 32]}, answers(now[place : place + 32]))
    status = monitor.status()
    for column in range(5):
        name, size = f"input x: value {column}", made.deviation[column]
        told = status["distances"]["1024"][name]
        assert told["ks"] == pytest.approx(stats.ks_2samp(known[:, column], now[:, column]).statistic, abs=1 / 32)
        apart = stats.wasserstein_distance(known[:, column], now[:, column]) / size
        assert told["w"] == pytest.approx(apart, abs=0.1 + apart / 10)
        shift = (now[-256:, column].mean() - made.mean[column]) / size
        assert status["scales"]["256"]["shifts"][name] == pytest.approx(shift, abs=0.01)
        assert f"{name}, given the others" in status["distances"]["1024"]
