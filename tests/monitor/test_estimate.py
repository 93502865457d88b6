"""The accuracy without labels, where the truth is known."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from edgekit.converters.judging import copies_of
from edgekit.converters.perturbing import copies
from edgekit.errors import UsageError
from edgekit.monitor import fitting
from edgekit.monitor.build import JUDGED, Builder, Drift
from edgekit.monitor.estimate import labels_for
from edgekit.monitor.fitting import _hierarchical
from edgekit.monitor.monitor import Monitor
from edgekit.monitor.reference import Reference
from edgekit.monitor.rightness import Signals
from edgekit.monitor.streams import streams
from edgekit.reading import Interpret
from edgekit.tensors import TensorSpec

ROWS = (TensorSpec("x", (None, 8), "float32"),)
SCORES = (TensorSpec("scores", (None, 3), "float32"),)
HOW = Interpret(task="classification", scores="probabilities")
CENTERS = np.random.default_rng(0).normal(size=(3, 8)) * 1.2


def samples(number: int, seed: int):
    dice = np.random.default_rng(seed)
    y = dice.integers(0, 3, number)
    return (CENTERS[y] + dice.normal(size=(number, 8))).astype(np.float32), y


def answer(x):
    """A model that is too sure: the right log odds, doubled."""
    odds = -np.square(x[:, None] - CENTERS).sum(2)
    raised = np.exp(odds - odds.max(1, keepdims=True))
    return (raised / raised.sum(1, keepdims=True)).astype(np.float32)


def fitted(x, y, number):
    """A reference of labelled samples and so many copies of them."""
    builder = Builder(ROWS, SCORES, None, HOW)
    builder.add({"x": x}, {"scores": answer(x)})
    builder.judge({"x": x}, {"scores": answer(x)}, y)
    for kind, level, places, copy in copies(x, "table", number):
        drift = Drift(kind.name, kind.family, level)
        builder.judge({"x": copy}, {"scores": answer(copy)}, y[places], drift, places)
    return builder.finish()


@pytest.fixture(scope="module")
def reference():
    return fitted(*samples(500, 1), 16_000)


def estimated(reference, x):
    monitor = Monitor(reference, ROWS, SCORES, None, HOW)
    monitor.observe({"x": x}, {"scores": answer(x)})
    return monitor.accuracy(2048)


@pytest.mark.parametrize("noise", [0.0, 0.5, 1.0])
def test_the_estimate_is_near_and_its_interval_holds_the_truth(reference, noise):
    x, y = samples(2048, 2)
    x = x + noise * np.random.default_rng(3).normal(size=x.shape).astype(np.float32)
    truth = float((answer(x).argmax(1) == y).mean())
    found = estimated(reference, x)
    assert found["low"] <= truth <= found["high"]
    assert abs(found["estimate"] - truth) < 0.03
    if noise == 1.0:  # what the model itself believes is far off
        assert answer(x).max(1).mean() - truth > 0.05


def test_samples_are_no_nearer_to_a_reference_because_they_are_in_it():
    """The curve is fitted on samples of the reference and read for others: those would seem strange without drift."""
    dice = np.random.default_rng(3)
    many = (TensorSpec("x", (None, 24), "float32"),)
    mix = dice.normal(size=(24, 24))
    x, others = ((dice.normal(size=(number, 24)) @ mix).astype(np.float32) for number in (120, 4000))
    builder = Builder(many, SCORES, None, HOW)
    builder.add({"x": x}, {"scores": dice.dirichlet(np.ones(3), 120)})
    reference = builder.finish()
    signals = Signals(reference, streams(reference))
    z, fresh = ((part - reference.mean[:24]) / reference.deviation[:24] for part in (x, others))
    assert signals.far(fresh).mean() - signals.far(z).mean() > 0.05
    assert abs(signals.far(fresh).mean() - signals.apart(z, z).mean()) < 0.03
    spoilt, noisy = (part + 0.3 * dice.normal(size=part.shape) for part in (np.repeat(z, 30, axis=0), fresh))
    assert abs(signals.far(noisy).mean() - signals.apart(spoilt, np.repeat(z, 30, axis=0)).mean()) < 0.03


def test_a_stream_without_drift_is_as_well_known_as_the_labelled_samples():
    """Its luck is other than theirs: intervals were an eighth wider for it alone."""
    ratios = []
    for seed in range(3):
        x, y = samples(200, 100 + seed)
        made = fitted(x, y, 4000)
        found = (estimated(made, part) for part in (samples(2048, 500 + seed)[0], np.resize(x, (2048, 8))))
        fresh, same = (one["high"] - one["low"] for one in found)
        ratios.append(fresh / same)
    assert np.mean(ratios) < 1.06


def test_the_curve_travels_with_the_reference(reference):
    again = Reference.from_bytes(reference.to_bytes())
    assert again.header.estimator == reference.header.estimator
    assert len(reference.to_bytes()) < 64 * 1024


def test_a_group_like_none_of_those_known_is_held_in_nine_of_ten_cases():
    """Families of drifts differ from each other, and one that was not tried is one more of them: quantiles of all sizes
    together held four in five.
    """
    dice, together, held = np.random.default_rng(4), [], []
    for _ in range(400):
        spreads = np.exp(dice.normal(size=16) * 0.7)
        *known, new = (np.abs(dice.normal(size=20)) * spread for spread in spreads)
        together.append(np.mean(new <= np.quantile(np.concatenate(known), 0.9)))
        held.append(np.mean(new <= _hierarchical(known)))
    assert np.mean(held) >= 0.9 > np.mean(together)
    assert _hierarchical([np.array([1.0, 3.0]), np.array([2.0])]) == 3.0  # too few groups: the largest


def test_a_drift_like_nothing_that_was_tried_is_said_to_be(reference):
    x, _ = samples(2048, 2)
    found = estimated(reference, x)
    assert found["answered"]
    assert found["note"] is None
    strange = x.copy()
    strange[:, ::2] = 40 * np.sign(strange[:, ::2])
    found = estimated(reference, strange)
    assert not found["answered"]
    assert "like no copy" in found["note"]


def test_a_wide_interval_has_no_middle_that_answers(reference):
    """Few samples that the model is unsure of: luck alone is more than a few points."""
    x, _ = samples(2048, 2)
    x = (x + 1.5 * np.random.default_rng(3).normal(size=x.shape)).astype(np.float32)
    monitor = Monitor(reference, ROWS, SCORES, None, HOW)
    monitor.observe({"x": x}, {"scores": answer(x)})
    few = monitor.accuracy(32)
    assert few["high"] - few["low"] > 0.12
    assert not few["answered"]
    assert "cannot be told" in few["note"]
    assert f"label about {labels_for(few['low'], few['high'])} samples of the random stratum" in few["note"]


def test_as_many_labels_as_are_asked_for_tell_the_accuracy_to_three_points():
    dice = np.random.default_rng(6)
    for share, low, high in ((0.85, 0.85, 0.9), (0.7, 0.7, 0.99), (0.5, 0.2, 0.8), (0.2, 0.05, 0.2)):
        number = labels_for(low, high)
        assert abs(np.mean(np.abs(dice.binomial(number, share, 4000) / number - share) <= 0.03) - 0.9) < 0.03
    assert labels_for(0.99, 1.0) == 30


def test_few_copies_tell_as_much_where_it_is_known_of_what(reference):
    """What is known of all labelled samples undoes the luck of which ones were spoilt."""
    x, y = samples(500, 1)
    kinds = [(kind, level, places, copy) for kind, level, places, copy in copies(x, "table", 1000)]
    some = []
    for known in (True, False):
        builder = Builder(ROWS, SCORES, None, HOW)
        builder.add({"x": x}, {"scores": answer(x)})
        builder.judge({"x": x}, {"scores": answer(x)}, y)
        for kind, level, places, copy in kinds:
            drift = Drift(kind.name, kind.family, level)
            builder.judge({"x": copy}, {"scores": answer(copy)}, y[places], drift, places if known else None)
        anchors = builder.finish().anchors
        some.append((anchors["errors"].astype(float), anchors["noise"].astype(float)))
    levels = 1 + max(level for _, level, *_ in kinds)
    mild = np.arange(1, 1 + len(kinds), levels)
    (errors, noise), (bare, more) = some
    assert noise[mild].mean() < 0.7 * more[mild].mean()
    assert errors[mild].std() < 0.8 * bare[mild].std()


def test_a_class_that_is_answered_when_the_model_is_lost_counts_less():
    """Sure of class 0 wherever the inputs are nonsense: its answers are worth less than its confidence says."""
    dice = np.random.default_rng(0)
    x, y = samples(500, 1)

    def lost(x):
        made = answer(x)
        made[np.abs(x).max(axis=1) > 6] = (0.9, 0.05, 0.05)
        return made

    builder = Builder(ROWS, SCORES, None, HOW)
    builder.add({"x": x}, {"scores": lost(x)})
    builder.judge({"x": x}, {"scores": lost(x)}, y)
    for level in range(4):
        moved = (x + (1 + level) * dice.normal(size=x.shape)).astype(np.float32)
        builder.judge({"x": moved}, {"scores": lost(moved)}, y, Drift("noise", "noise", level), np.arange(500))
    made = builder.finish()
    assert made.anchors["leans"].argmin() == 0
    again = Reference.from_bytes(made.to_bytes())
    np.testing.assert_array_equal(again.anchors["leans"], made.anchors["leans"])
    moved, labels = samples(2048, 9)
    moved = (moved + 3 * dice.normal(size=moved.shape)).astype(np.float32)
    monitor = Monitor(made, ROWS, SCORES, None, HOW)
    monitor.observe({"x": moved}, {"scores": lost(moved)})
    assert abs(monitor.accuracy(2048)["estimate"] - (lost(moved).argmax(1) == labels).mean()) < 0.05


def test_the_doubt_of_an_answer_is_the_same_whenever_it_is_asked_for(reference):
    x, y = samples(600, 5)
    x = (x * np.linspace(0.5, 4, 600)[:, None]).astype(np.float32)
    scores = answer(x)
    at_once, late = (Monitor(reference, ROWS, SCORES, None, HOW) for _ in range(2))
    expected, waiting = [], []
    for at in range(len(x)):
        feeds = {"x": x[at : at + 1]}, {"scores": scores[at : at + 1]}
        expected.append(at_once.observe(*feeds).doubt)
        waiting.append(late.observe(*feeds))
    np.testing.assert_allclose([verdict.doubt for verdict in waiting], expected, rtol=1e-9)
    assert pickle.loads(pickle.dumps(waiting[3])).doubt == waiting[3].doubt
    whole = Monitor(reference, ROWS, SCORES, None, HOW).observe({"x": x}, {"scores": scores})
    assert whole.doubt == pytest.approx(max(expected))
    wrong, doubts = scores.argmax(1) != y, np.array(expected)
    assert doubts[wrong].mean() > doubts[~wrong].mean() + 0.15


def test_without_labels_nothing_is_claimed():
    x, y = samples(500, 1)
    builder = Builder(ROWS, SCORES, None, HOW)
    builder.add({"x": x}, {"scores": answer(x)})
    few = JUDGED - 1
    builder.judge({"x": x[:few]}, {"scores": answer(x[:few])}, y[:few])
    monitor = Monitor(builder.finish(), ROWS, SCORES, None, HOW)
    monitor.observe({"x": x}, {"scores": answer(x)})
    assert monitor.accuracy(256) is None
    assert monitor.observe({"x": x[:1]}, {"scores": answer(x[:1])}).doubt is None
    assert monitor.status()["scales"]["256"]["accuracy"] is None
    assert "--eval and labels" in monitor.status()["unestimated"]
    with pytest.raises(UsageError, match="over 32, 256"):
        monitor.accuracy(100)


def test_a_model_without_classes_says_why_its_accuracy_is_never_estimated(reference):
    x, _ = samples(200, 1)
    value = (TensorSpec("value", (None, 1), "float32"),)
    builder = Builder(ROWS, value, None, how := Interpret(task="regression"))
    builder.add({"x": x}, {"value": x[:, :1]})
    assert "one class a sample" in Monitor(builder.finish(), ROWS, value, None, how).status()["unestimated"]
    assert Monitor(reference, ROWS, SCORES, None, HOW).status()["unestimated"] is None


@pytest.mark.parametrize(("shape", "sizes"), [
    ("picture", (12, 9, 3)), ("channels first", (3, 9, 12)), ("series", (40, 5)), ("series", (400,)), ("table", (7,)),
])  # fmt: skip
def test_copies_keep_shape_and_range_and_are_the_same_again(shape, sizes):
    x = np.random.default_rng(1).normal(size=(60, *sizes)).astype(np.float32)
    made = list(copies(x, shape, 10_000))
    assert len(made) >= 80
    for (kind, _, places, copy), (*_, again) in zip(made, copies(x, shape, 10_000), strict=True):
        assert (copy.shape, copy.dtype) == (x.shape, np.float32)
        assert np.isfinite(copy).all()
        assert not np.array_equal(copy, x[places]), kind.name
        np.testing.assert_array_equal(copy, again)
        if shape != "table":
            assert x.min() <= copy.min()
            assert copy.max() <= x.max()


def test_models_that_cost_little_are_judged_on_more_copies_and_none_on_fewer():
    small, table = copies_of(500_000, 784), copies_of(5_000, 64)
    assert small == table > 2 * copies_of(12_500_000, 32 * 32 * 3)
    for macs in (1, 10**6, 10**8, 10**10):
        counts = [copies_of(macs, elements) for elements in (1, 10**3, 10**5, 10**7)]
        assert counts == sorted(counts, reverse=True)
        assert min(counts) >= max(1200, min(8000, int(2e11 / macs)))


def test_what_has_no_room_is_not_fitted(monkeypatch):
    x, y = samples(200, 5)
    builder = Builder(ROWS, SCORES, None, HOW)
    builder.add({"x": x}, {"scores": answer(x)})
    builder.judge({"x": x}, {"scores": answer(x)}, y)
    for kind, level, places, copy in copies(x, "table", 2_000):
        drift = Drift(kind.name, kind.family, level)
        builder.judge({"x": copy}, {"scores": answer(copy)}, y[places], drift, places)
    fitted, fit = [], fitting.fit
    monkeypatch.setattr(fitting, "fit", lambda *parts: fitted.append(1) or fit(*parts))
    whole = builder.finish()
    assert len(fitted) == 1
    fitted.clear()
    least = builder.finish(room=1)
    assert len(fitted) == 1
    assert least.header.estimator.anchors < whole.header.estimator.anchors
    fitted.clear()
    middle = builder.finish(room=len(whole.to_bytes()) - 1)
    assert len(least.to_bytes()) < len(middle.to_bytes()) < len(whole.to_bytes())
    assert len(fitted) <= 3
