"""The monitor on streams whose truth is known."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

from edgekit.errors import ArtifactError, DataError, UsageError
from edgekit.monitor.alarm import Verdict
from edgekit.monitor.build import Builder
from edgekit.monitor.monitor import Monitor
from edgekit.monitor.reference import Reference, distances
from edgekit.reading import Interpret
from edgekit.tensors import TensorSpec

ROWS = (TensorSpec("x", (None, 6), "float32"),)
SCORES = (TensorSpec("scores", (None, 3), "float32"),)
HOW = Interpret(task="classification", scores="probabilities", labels=("a", "b", "c"))


def stream(number: int, seed: int, mix: tuple[float, float, float] = (0.5, 0.3, 0.2)):
    """Six numbers, two of which follow others, and scores of three classes."""
    dice = np.random.default_rng(seed)
    x = dice.normal(size=(number, 6))
    x[:, 4] = x[:, 0] + 0.2 * x[:, 4]
    x[:, 5] = np.exp(x[:, 5])  # skewed
    classes = dice.choice(3, number, p=mix)
    scores = np.full((number, 3), 0.05)
    scores[np.arange(number), classes] = 0.9
    return x.astype(np.float32), scores.astype(np.float32)


@pytest.fixture(scope="module")
def reference():
    builder = Builder(ROWS, SCORES, None, HOW)
    x, scores = stream(500, 1)
    builder.add({"x": x}, {"scores": scores})
    return builder.finish()


def watched(reference, x, scores, **options):
    """Alarms over a stream, and the monitor."""
    monitor = Monitor(reference, ROWS, SCORES, None, HOW, clock=lambda: 1e9, **options)
    alarms = []
    for at in range(len(x)):
        alarms += monitor.observe({"x": x[at : at + 1]}, {"scores": scores[at : at + 1]}).alarms
    return alarms, monitor


def test_a_reference_as_bytes(reference):
    data = reference.to_bytes()
    again = Reference.from_bytes(data)
    assert again.to_bytes() == data
    assert len(data) < 8_000
    assert again.columns == reference.columns
    np.testing.assert_array_equal(again.counts, reference.counts)
    np.testing.assert_allclose(again.precision, reference.precision, rtol=1e-6)


def test_where_there_is_little_room_bins_are_fewer_and_a_shift_is_still_found():
    builder = Builder(ROWS, SCORES, None, HOW)
    x, scores = stream(500, 1)
    builder.add({"x": x}, {"scores": scores})
    fine, coarse = builder.finish(), builder.finish(room=1)
    middle = builder.finish(room=len(fine.to_bytes()) - 1)
    assert fine.header.bins > middle.header.bins > coarse.header.bins > 4
    assert len(coarse.to_bytes()) < 0.6 * len(fine.to_bytes())
    x, scores = stream(600, 7)
    x[:, 1] += 0.5
    assert any("x" in alarm.where or "x" in alarm.message for alarm in watched(coarse, x, scores)[0])
    assert watched(coarse, *stream(3000, 8))[0] == []


@pytest.mark.parametrize("cut", [0, 3, 40, -1])
def test_a_damaged_reference_is_refused(reference, cut):
    with pytest.raises(ArtifactError, match="cannot be read"):
        Reference.from_bytes(reference.to_bytes()[:cut])


def test_too_few_samples_make_no_reference():
    builder = Builder(ROWS, SCORES, None, HOW)
    x, scores = stream(19, 1)
    for _ in range(3):  # the same again tells nothing
        builder.add({"x": x}, {"scores": scores})
    with pytest.raises(DataError, match="19 different samples"):
        builder.finish()


def test_no_number_of_a_sample_stands_in_the_reference():
    x, scores = stream(500, 1)
    builder = Builder(ROWS, SCORES, None, HOW)
    builder.add({"x": x}, {"scores": scores})
    made = builder.finish()
    for place in range(6):
        edges = made.mean[place] + made.inner[place].astype(np.float64) * made.deviation[place]
        assert x[:, place].min() < edges[0]
        assert edges[np.isfinite(edges)][-1] < x[:, place].max()
        assert made.counts[place][made.counts[place] > 0].min() >= 3


def test_the_same_distribution_makes_no_alarm(reference):
    alarms, monitor = watched(reference, *stream(20_000, 2))
    assert alarms == []
    assert monitor.status()["samples"] == 20_000
    json.dumps(monitor.status())


def test_a_shift_is_named_with_its_beginning(reference):
    x, scores = stream(2500, 3)
    x[2000:, 2] += 1.0
    alarms, monitor = watched(reference, x, scores)
    (alarm,) = [alarm for alarm in alarms if alarm.kind == "input-shift"]
    assert alarm.where == "input x: value 2"
    assert 2000 < alarm.raised < 2200
    assert abs(alarm.since - 2000) <= 64
    assert 0.6 < alarm.amount < 1.8  # the moment of the alarm is one of a large shift
    assert "value 2" in alarm.message
    assert alarm in monitor.alarms


def test_a_sensor_that_no_longer_follows_another_is_noticed_at_once(reference):
    x, scores = stream(1200, 4)
    x[1000:, 4] += 0.5  # half a deviation of itself, more than two of what the first number leaves open
    alarms, _ = watched(reference, x, scores)
    first = next(alarm for alarm in alarms if alarm.raised >= 1000)
    assert first.kind == "input-relation"
    assert first.raised < 1060


@pytest.mark.parametrize("seed", range(3))
def test_what_is_left_of_a_sum_given_its_parts_spreads_as_the_reference_says(seed):
    """A picture's brightness is the mean of its parts': nothing but rounding is left of it, the device's own."""
    inputs, outputs = (TensorSpec("x", (None, 17), "float32"),), (TensorSpec("y", (None, 1), "float32"),)
    builder = Builder(inputs, outputs, None, Interpret(task="regression"))
    dice = np.random.default_rng(seed)

    def drawn(number: int):
        parts = dice.random((number, 16)) + 1.5 * (dice.random((number, 1)) < 0.5)
        return np.concatenate([parts, parts.mean(axis=1, keepdims=True)], axis=1).astype(np.float32)

    x = drawn(2000)
    builder.add({"x": x}, {"y": x[:, :1]})
    made = builder.finish()
    z = (drawn(8000) - made.mean[:17]) / made.deviation[:17]
    residuals, _ = distances(z, made.precision)
    relations = [place for place, column in enumerate(made.columns) if column.role == "relation"][:17]
    apart = (residuals - made.mean[relations]) / made.deviation[relations]
    assert apart.std(axis=0).max() < 1.08
    assert np.abs(apart.mean(axis=0)).max() < 0.15


def test_classes_that_are_answered_more_often(reference):
    x, scores = stream(1000, 5)
    later = stream(1000, 6, (0.2, 0.3, 0.5))
    alarms, _ = watched(reference, np.concatenate([x, later[0]]), np.concatenate([scores, later[1]]))
    (alarm,) = alarms
    assert alarm.kind == "class-shift"
    assert alarm.unit == "share"
    assert (alarm.where, alarm.amount > 0) in [("class a", False), ("class c", True)]


def test_a_number_that_stands_still(reference):
    x, scores = stream(600, 7)
    x[500:, 3] = x[500, 3]
    alarms, _ = watched(reference, x, scores)
    first = alarms[0]
    assert (first.kind, first.where, first.since) == ("stuck", "input x: value 3", 500)
    assert first.raised <= 520


@pytest.mark.parametrize("size", [3, 20, 32, 50, 300])
def test_what_stood_still_within_a_call_is_told_with_the_sample_that_told_it(reference, size):
    x, scores = stream(1600, 7)
    x[500:530, 3] = x[500, 3]
    x[1200:1230, 1] = x[1200, 1]
    (first, *_), _ = watched(reference, x, scores)
    monitor, alarms = Monitor(reference, ROWS, SCORES, None, HOW, clock=lambda: 1e9), []
    for at in range(0, len(x), size):
        alarms += monitor.observe({"x": x[at : at + size]}, {"scores": scores[at : at + size]}).alarms
    assert first.kind == "stuck"
    assert alarms[0] == first


def test_missing_numbers(reference):
    x, scores = stream(600, 8)
    x[500::2, 1] = np.nan
    alarms, _ = watched(reference, x, scores)
    assert alarms[0].kind == "missing"
    assert alarms[0].where == "input x: value 1"
    assert 500 <= alarms[0].since < alarms[0].raised <= 540


def test_an_alarm_ends_when_the_stream_is_as_before(reference):
    x, scores = stream(6000, 9)
    x[1000:2000, 2] += 1.0
    alarms, monitor = watched(reference, x, scores)
    assert "input-shift" in [alarm.kind for alarm in alarms]
    assert all(1000 <= alarm.raised < 2000 for alarm in alarms)
    assert monitor.alarms == ()
    ended = monitor.status()["ended"]
    assert len(ended) == len(alarms)
    assert all(2000 < alarm["ended"] < 4000 for alarm in ended)


def test_a_sample_far_from_all_others(reference):
    x, scores = stream(2, 10)
    x[1] = 6.0
    monitor = Monitor(reference, ROWS, SCORES, None, HOW)
    usual = monitor.observe({"x": x[:1]}, {"scores": scores[:1]})
    strange = monitor.observe({"x": x[1:]}, {"scores": np.full((1, 3), 1 / 3, np.float32)})
    assert usual.ood_score < 1.5
    assert strange.ood_score > 3
    assert usual.uncertainty == pytest.approx(0.1)
    assert strange.uncertainty == pytest.approx(2 / 3)


def test_answers_that_are_all_but_certain_are_not_all_as_certain(reference):
    """Logits in the thousands: one minus the top probability is 0 for nearly all of them."""
    how = Interpret(task="classification", scores="logits")
    x, _ = stream(60, 13)
    gaps = np.linspace(20, 300, 60)
    scores = np.zeros((60, 3), np.float32)
    scores[:, 0] = gaps
    monitor = Monitor(reference, ROWS, SCORES, None, how)
    seen = [monitor.observe({"x": x[n : n + 1]}, {"scores": scores[n : n + 1]}).uncertainty for n in range(60)]
    np.testing.assert_allclose(seen, 2 * np.exp(-scores[:, 0].astype(float)), rtol=1e-6)
    assert (np.diff(seen) < 0).all()


def test_batches_are_the_same_as_single_calls(reference):
    x, scores = stream(700, 11)
    x[300:, 0] += 1.5
    alarms, single = watched(reference, x, scores)
    monitor = Monitor(reference, ROWS, SCORES, None, HOW, clock=lambda: 1e9)
    together = [
        a
        for at in range(0, 700, 7)
        for a in monitor.observe({"x": x[at : at + 7]}, {"scores": scores[at : at + 7]}).alarms
    ]
    assert together == alarms
    assert monitor.status()["samples"] == single.status()["samples"]


def test_a_verdict_is_the_same_whenever_it_is_asked_for(reference):
    x, scores = stream(200, 12)
    at_once, late = (Monitor(reference, ROWS, SCORES, None, HOW) for _ in range(2))
    expected, waiting = [], []
    for at in range(200):
        feeds = {"x": x[at : at + 1]}, {"scores": scores[at : at + 1]}
        verdict = at_once.observe(*feeds)
        expected.append((verdict.ood_score, verdict.uncertainty))
        waiting.append(late.observe(*feeds))
        if at % 7 == 0:  # the features of some samples before their block is full
            assert waiting[-1].ood_score == pytest.approx(expected[-1][0])
    found = [(verdict.ood_score, verdict.uncertainty) for verdict in waiting]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert pickle.loads(pickle.dumps(waiting[3])) == Verdict(*found[3])
    together = Monitor(reference, ROWS, SCORES, None, HOW).observe({"x": x}, {"scores": scores})
    assert together.ood_score == pytest.approx(max(score for score, _ in expected))
    with pytest.raises(AttributeError):
        _ = together.other


def test_asking_for_verdicts_changes_no_alarm(reference):
    x, scores = stream(900, 13)
    x[300:330, 3] = x[300, 3]
    x[500::3, 1] = np.nan
    x[600:, 0] += 1.5
    asked = Monitor(reference, ROWS, SCORES, None, HOW, clock=lambda: 1e9)
    alarms = []
    for at in range(900):
        verdict = asked.observe({"x": x[at : at + 1]}, {"scores": scores[at : at + 1]})
        assert np.isfinite(verdict.ood_score)
        alarms += verdict.alarms
    assert alarms == watched(reference, x, scores)[0]
    assert {alarm.kind for alarm in alarms} >= {"stuck", "missing", "input-shift"}
    assert next(alarm for alarm in alarms if alarm.kind == "stuck").raised <= 320


def test_the_same_values_in_another_dtype_are_the_same_samples(reference):
    x, scores = stream(160, 14)
    plain, mixed = (Monitor(reference, ROWS, SCORES, None, HOW) for _ in range(2))
    for at in range(160):
        one = {"x": x[at : at + 1]}, {"scores": scores[at : at + 1]}
        dtype = (np.float32, np.float64)[at // 3 % 2]
        other = {"x": one[0]["x"].astype(dtype)}, {"scores": one[1]["scores"].astype(dtype)}
        assert plain.observe(*one).alarms == mixed.observe(*other).alarms == ()
    assert mixed.status()["scales"] == plain.status()["scales"]


def test_the_reference_of_another_model_is_refused(reference):
    with pytest.raises(ArtifactError, match="other inputs or outputs"):
        Monitor(reference, (TensorSpec("x", (None, 5), "float32"),), SCORES, None, HOW)
    with pytest.raises(UsageError, match="between 0 and"):
        Monitor(reference, ROWS, SCORES, None, HOW, rate=0.0)


def test_sound_that_is_cut_off_and_silence():
    spec = (TensorSpec("wave", (None, 2000), "float32"),)
    out = (TensorSpec("value", (None, 1), "float32"),)
    dice = np.random.default_rng(1)
    waves = (dice.normal(size=(600, 2000)) * dice.uniform(0.05, 0.2, (600, 1))).astype(np.float32)
    value = np.zeros((600, 1), np.float32)
    builder = Builder(spec, out)
    builder.add({"wave": waves[:300]}, {"value": value[:300]})
    made = builder.finish()
    for change, kind in [(lambda x: np.clip(4 * x, -0.3, 0.3), "clipped"), (lambda x: x * 1e-3, "blank")]:
        monitor = Monitor(made, spec, out)
        assert monitor.observe({"wave": waves[300:]}, {"value": value[300:]}).alarms == ()
        kinds = {alarm.kind for alarm in monitor.observe({"wave": change(waves[:96])}, {"value": value[:96]}).alarms}
        assert kind in kinds


def settled(reference, x, scores):
    """Alarms of the last of three stretches of a thousand samples, by kind, when those before had settled."""
    found = watched(reference, x, scores)[0]
    return {alarm.kind: alarm for alarm in found if alarm.since >= 1950}


@pytest.mark.parametrize(
    ("kind", "delay", "change"),
    [
        ("input-shift", 100, lambda part: part + 1.0),
        ("input-spread", 200, lambda part: part * 3.0),
        ("stuck", 20, lambda part: part[:1]),
        ("missing", 10, lambda _: np.nan),
        ("out-of-range", 40, lambda part: part + 1000.0),
    ],
)
def test_a_second_column_is_told_while_the_first_stands(reference, kind, delay, change):
    x, scores = stream(3000, 21)
    x[1000:, 3] = change(x[1000:, 3])
    x[2000:, 0] = change(x[2000:, 0])
    found = settled(reference, x, scores)
    assert found[kind].where == "input x: value 0"
    assert found[kind].raised <= 2000 + delay


def test_columns_that_move_at_once_are_one_alarm_and_end_one_by_one(reference):
    x, scores = stream(6000, 22)
    x[1000:3000, 3] += 1.5
    x[1000:3000, 5] += 1.5
    x[2000:4500, 1] += 1.5
    monitor = Monitor(reference, ROWS, SCORES, None, HOW, clock=lambda: 1e9)
    monitor.observe({"x": x}, {"scores": scores})
    ended = [alarm for alarm in monitor.status()["ended"] if alarm["kind"] == "input-shift"]
    assert len(ended) == 2
    assert "value 3" in ended[0]["message"]
    assert "value 5" in ended[0]["message"]
    assert 3512 <= ended[0]["ended"] <= 4100
    assert ended[1]["where"] == "input x: value 1"
    assert 5012 <= ended[1]["ended"] <= 5600


def test_what_fails_together_is_one_alarm(reference):
    x, scores = stream(3000, 23)
    x[1000:, 2:5] = np.nan
    alarms, _ = watched(reference, x, scores)
    (found,) = (alarm for alarm in alarms if alarm.kind == "missing")
    assert found.message.startswith("input x: value 2 is missing: ")
    assert found.message.endswith(" times no number. So it is with 2 more of its numbers. Since sample 1000.")
