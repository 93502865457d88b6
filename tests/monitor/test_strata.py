"""What belongs to a stratum: what is likely to be answered wrongly, not only what is unlike anything else."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.monitor.answers import Answer
from edgekit.monitor.plan import Plan
from edgekit.monitor.strata import Belonging, Draw, Window


def answered(score: float, value: float = 0.0) -> Answer:
    return Answer(value, score, is_class=True)


def test_strange_samples_are_those_that_a_model_is_unsure_of_wherever_the_stream_has_gone():
    """All lie far; before, all of them belonged, and a wrong one was no likelier among them than anywhere."""
    belongs, dice = Belonging(Plan().draws), np.random.default_rng(0)
    wrong, drawn = [], []
    for _ in range(4000):
        ood, unsure = 2 + dice.random(), 0.5 * dice.random() ** 3
        wrong.append(bool(dice.random() < unsure))
        drawn.append("out-of-distribution" in belongs(ood, unsure, answered(1 - unsure), None, 1.0))
    share = np.mean(np.array(wrong)[np.array(drawn)])
    assert 0.02 < np.mean(drawn) < 0.09
    assert share > 3 * np.mean(wrong)


def test_what_the_monitor_doubts_counts_before_what_the_model_does():
    """A model that is as sure where it is lost; a bound that was named stays one on its own confidence."""
    dice, belongs = np.random.default_rng(1), Belonging(Plan().draws)
    bounded = Belonging(Plan(uncertain=Draw(at=0.5)).draws)
    wrong, drawn = [], []
    for _ in range(2000):
        doubt, unsure = 0.6 * dice.random() ** 4, 0.1 + 0.1 * dice.random()
        wrong.append(bool(dice.random() < doubt))
        drawn.append("uncertain" in belongs(0.5, unsure, answered(1 - unsure), None, 1.0, doubt))
        assert "uncertain" not in bounded(0.5, unsure, answered(1 - unsure), None, 1.0, doubt)
    assert np.mean(np.array(wrong)[np.array(drawn)]) > 3 * np.mean(wrong)


def test_a_bound_is_one_on_the_score_alone_and_values_have_no_doubt():
    bounded = Belonging(Plan(strange=Draw(at=1.0)).draws)
    assert "out-of-distribution" in bounded(1.0, 0.0, answered(1.0), None, 1.0)
    assert "out-of-distribution" not in bounded(0.9, 0.9, answered(0.1), None, 1.0)
    values = Belonging(Plan().draws)
    found = [
        "out-of-distribution" in values(float(n % 100), 0.0, Answer(1.5), None, 1.0) for n in range(1000)
    ]  # fmt: skip
    assert all(n % 100 >= 90 for n in range(200, 1000) if found[n])
    assert sum(found[200:]) > 20
    assert "out-of-distribution" in values(float("nan"), 0.5, answered(0.5), None, 1.0)


@pytest.mark.parametrize("gain", [0.3, -0.3])
def test_of_disagreements_those_count_in_which_the_other_is_surer(gain):
    belongs = Belonging(Plan().draws)
    first = [belongs(None, None, answered(0.5 + 0.001 * n), answered(0.5, 1.0), 0.25) for n in range(64)]
    assert all(one["disagreeing"] == 0.25 for one in first)  # nobody knows yet what is much
    later = belongs(None, None, answered(0.5), answered(0.5 + gain, 1.0), 0.25)
    assert ("disagreeing" in later) == (gain > 0)
    assert "disagreeing" not in belongs(None, None, answered(0.5), answered(0.99), 0.25)
    assert "disagreeing" in belongs(None, None, answered(0.5), Answer(2.0, None, is_class=True), 0.25)


@pytest.mark.parametrize("random", [1, 0])
def test_what_a_second_model_was_not_asked_about_is_counted_once(random):
    """Those that would disagree and were not asked come by the other strata: the others must not stand for them too."""
    dice, weights = np.random.default_rng(2), [0.0, 0.0]
    windows, samples, asked = 4000, 20, 0.25
    for _ in range(windows):
        window = Window({"random": random, "uncertain": 1, "disagreeing": 2}, dice)
        for number in range(samples):
            disagrees, examined = number % 4 == 0, dice.random() < asked
            belongs = {"random": 1.0} | ({"disagreeing": asked} if disagrees and examined else {})
            if wanted := window.wants(window.keys(), belongs):
                window.keep(number, belongs, wanted)
        for drawn in window.close():
            weights[drawn.item % 4 == 0] += 1 / drawn.probability
    assert weights[1] / windows == pytest.approx(samples / 4, rel=0.06)
    assert weights[0] / windows == pytest.approx(samples * 3 / 4 if random else 0, rel=0.06)
