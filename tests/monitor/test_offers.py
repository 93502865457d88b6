"""Samples are decided on together: what is drawn is what would be drawn one by one, and a verdict is asked for late."""

from __future__ import annotations

import numpy as np
import pytest
from capture_case import Fake, Time, captured
from hypothesis import given
from hypothesis import strategies as st

from edgekit.monitor import offers
from edgekit.monitor.alarm import Verdict
from edgekit.monitor.build import Builder
from edgekit.monitor.capture import Capture, Plan
from edgekit.monitor.monitor import Monitor
from edgekit.monitor.strata import Draw, High, Window, _quantile

NAMES = ("random", "uncertain", "out-of-distribution", "disagreeing")


class Asked(Verdict):
    """Counts how often it is asked."""

    asked = 0

    def __getattribute__(self, name):
        if name == "ood_score":
            Asked.asked += 1
        return super().__getattribute__(name)


@given(
    st.lists(st.sets(st.sampled_from(NAMES[1:])), max_size=60),
    st.fixed_dictionaries({name: st.integers(0, 4) for name in NAMES}),
    st.integers(0, 2**32 - 1),
)
def test_each_stratum_draws_the_samples_of_its_smallest_keys(belonging, each, seed):
    window = Window(each, np.random.default_rng(seed))
    strata = [name for name in NAMES if each[name]]
    thrown = []
    for number, others in enumerate(belonging):
        keys, examined = window.keys(), dict.fromkeys(["random", *others], 1.0)
        possible = window.possible(keys)
        thrown.append(dict(zip(strata, keys, strict=True)))
        if wanted := window.wants(keys, examined):
            assert possible  # or there would be no copy of it
            window.keep(number, examined, wanted)
    expected: dict[int, set[str]] = {}
    for name in strata:
        own = [number for number, others in enumerate(belonging) if name == "random" or name in others]
        for number in sorted(own, key=lambda number: thrown[number][name])[: each[name]]:
            expected.setdefault(number, set()).add(name)
    drawn = window.close()
    assert {one.item: set(one.taken) for one in drawn} == expected
    assert [one.item for one in drawn] == sorted(expected)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200), st.floats(0, 1))
def test_a_quantile_is_that_of_numpy(values, share):
    array = np.array(values)
    assert _quantile(array, share) == pytest.approx(float(np.quantile(array, share)), rel=1e-9, abs=1e-9)


def test_a_bound_is_that_of_the_latest_scores():
    scores, high = np.random.default_rng(0).normal(size=3000), High(Draw(share=0.1))
    for count, score in enumerate(scores.tolist(), 1):
        high(score)
        if count >= 64 and count % 32 == 0:
            assert high.bound == pytest.approx(float(np.quantile(scores[max(0, count - 1024) : count], 0.9)))


def watched():
    """A monitor with labels, a stream, and its answers."""
    model, dice = Fake(), np.random.default_rng(0)
    x = dice.normal(size=(900, 4)).astype(np.float32)
    p = dice.dirichlet(np.ones(3), 900).astype(np.float32)
    builder = Builder(model.inputs, model.outputs, None, model.interpret)
    builder.add({"x": x[:400]}, {"p": p[:400]})
    builder.judge({"x": x[:400]}, {"p": p[:400]}, dice.integers(0, 3, 400))
    monitor = Monitor(builder.finish(), model.inputs, model.outputs, None, model.interpret)
    return model, monitor, x, p


@pytest.mark.parametrize("size", [1, 7])
def test_samples_decided_on_together_are_those_decided_on_one_by_one(tmp_path, monkeypatch, size):
    found = {}
    for together in (1, 32):
        monkeypatch.setattr(offers, "_TOGETHER", together)
        model, monitor, x, p = watched()
        time, plan = Time(), Plan(quota_mb=8, window=70, random=Draw(2), uncertain=Draw(2), strange=Draw(2))
        with Capture("case", model, plan, root=tmp_path / str(together), seed=3, clock=time.clock) as capture:
            for at in range(0, len(x), size):
                time.now += size
                feeds, answers = {"x": x[at : at + size]}, {"p": p[at : at + size]}
                capture.offer(feeds, answers, monitor.observe(feeds, answers))
        found[together] = [read for read in captured(tmp_path / str(together) / "case") if read.record.sample]
    assert len(found[1]) == len(found[32]) > 40
    for one, other in zip(found[1], found[32], strict=True):
        first, second = one.record.sample, other.record.sample
        assert (first.number, first.taken, first.chances) == (second.number, second.taken, second.chances)
        assert first.ood == pytest.approx(second.ood, rel=1e-9)
        assert first.uncertainty == pytest.approx(second.uncertainty, rel=1e-9)
        assert np.array_equal(one.inputs["x"], other.inputs["x"])
        assert np.array_equal(one.inputs["x"], x[first.number - 1])


@pytest.mark.parametrize("large", [False, True])
def test_a_buffer_that_the_app_fills_anew_is_kept_as_it_was_offered(tmp_path, monkeypatch, large):
    if large:
        monkeypatch.setattr(offers, "_LARGE", 0)
    x, p, time = np.zeros((1, 4), np.float32), np.zeros((1, 3), np.float32), Time()
    with Capture("case", Fake(), Plan(window=20), root=tmp_path, seed=0, clock=time.clock) as capture:
        for number in range(1, 200):
            time.now += 1
            x[:], p[:] = number, np.eye(3)[number % 3]
            capture.offer({"x": x}, {"p": p}, Verdict(number % 5, (number % 7) / 7))
            x[:], p[:] = -1, -1
    found = [read for read in captured(tmp_path / "case") if read.record.sample]
    assert len(found) > 10
    for read in found:
        number = read.record.sample.number
        assert (read.inputs["x"] == number).all()
        assert np.array_equal(read.outputs["p"], np.eye(3)[number % 3])
        assert (read.record.sample.ood, read.record.sample.answer) == (number % 5, number % 3)


def test_nobody_asks_for_a_verdict_before_many_can_be_given_together(tmp_path):
    Asked.asked, time = 0, Time()
    feeds, answers = {"x": np.zeros((1, 4), np.float32)}, {"p": np.array([[0.2, 0.5, 0.3]], np.float32)}
    with Capture("case", Fake(), Plan(status=100), root=tmp_path, seed=0, clock=time.clock) as capture:
        for _ in range(31):
            capture.offer(feeds, answers, Asked(0.0, 0.5))
        assert Asked.asked == 0
        assert capture.status()["seen"] == 31
        capture.offer(feeds, answers, Asked(0.0, 0.5))
        assert Asked.asked == 32
        capture.offer(feeds, answers, Asked(0.0, 0.5))
        time.now += 61  # the window ends with what was offered in it
        capture.offer(feeds, answers, Asked(0.0, 0.5))
        assert Asked.asked == 33
        capture.flush()
        assert Asked.asked == 34
    told = [read.record.about for read in captured(tmp_path / "case") if read.record.kind == "status"]
    assert sum(about["seen"] for about in told) == 34
    found = [read.record.sample for read in captured(tmp_path / "case") if read.record.sample]
    assert [sample.chances["random"] for sample in found] == [1 / 33, 1.0]
