"""Metrics: the labels decide what is measured, batches do not change the figure, impossible labels are refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import DataError
from edgekit.metrics import accumulator

RNG = np.random.default_rng(0)


def measure(output, labels, task="other", size=1):
    metric = accumulator(task, labels, output)
    for start in range(0, len(labels), size):
        metric.add(output[start : start + size], labels[start : start + size])
    return metric


@given(st.integers(1, 70))
def test_batches_do_not_change_the_figure(size):
    logits = RNG.normal(0.4, 1.0, (64, 1))
    labels = (RNG.random(64) > 0.4).astype(int)
    scores, truth = RNG.random((64, 3)), RNG.integers(0, 2, (64, 3))
    for output, wanted, task in (
        (logits, labels, "other"),
        (scores, truth, "multi-label"),
        (logits, scores[:, 0], "other"),
    ):
        assert measure(output, wanted, task, size).value == pytest.approx(measure(output, wanted, task, 64).value)


def test_one_logit_inside_the_unit_interval_is_still_a_logit():
    logits = np.array([[0.3], [0.2], [-4.0], [5.0]])
    assert measure(logits, np.array([1, 1, 0, 1])).value == 100


def test_quantized_probabilities_may_pass_one_by_a_step():
    assert measure(np.array([[1.004], [0.3], [-0.004]]), np.array([1, 0, 0])).value == 100


def test_multi_label_logits_are_cut_at_zero():
    logits = np.array([[0.2, -3.0], [4.0, 0.1]])
    assert measure(logits, np.array([[1, 0], [1, 1]]), "multi-label").value == 100


def test_one_hot_rows_are_class_labels():
    labels = np.eye(4)[[0, 3, 2, 2]]
    metric = measure(np.eye(4)[[0, 3, 2, 1]], labels)
    assert (metric.name, metric.value) == ("top1", 75)
    assert measure(labels, labels, "multi-label").name == "multi_label_f1"


def test_whole_numbers_for_one_value_are_a_regression():
    labels = np.array([151.0, 75.0, 141.0, 206.0])
    metric = measure(labels[:, None] + 1, labels)
    assert metric.name == "r2"
    assert metric.value > 99


def test_an_output_of_whole_numbers_is_the_class():
    metric = measure(np.array([[3], [1], [2]], np.int64), np.array([3, 1, 0]))
    assert (metric.name, round(metric.value)) == ("top1", 67)


@pytest.mark.parametrize(
    ("task", "output", "labels", "says"),
    [
        ("other", np.zeros((2, 10)), np.array([10, 1]), "10 classes"),
        ("classification", np.zeros((2, 10)), np.array([-1, 1]), "-1"),
        ("classification", np.zeros((2, 10)), np.array([0.5, 1]), "class index"),
        ("classification", np.zeros((2, 10)), np.eye(9)[:2], "10 classes"),
        ("other", np.zeros((2, 1)), np.array([0.5, np.nan]), "NaN"),
        ("regression", np.zeros((2, 1)), np.array([4.0, 4.0]), "equal"),
        ("regression", np.zeros((2, 3)), np.array([4.0, 5.0]), "3 values"),
        ("multi-label", np.zeros((2, 3)), np.array([[0, 1], [1, 1]]), "3 classes"),
        ("multi-label", np.zeros((2, 3)), np.array([0, 1]), "zeros and ones"),
        ("detection", np.zeros((2, 3)), np.array([0, 1]), "detection"),
        ("nonsense", np.zeros((2, 3)), np.array([0, 1]), "nonsense"),
    ],
)
def test_labels_that_cannot_be_are_refused_by_name(task, output, labels, says):
    with pytest.raises(DataError, match=says) as caught:
        accumulator(task, labels, output)
    assert caught.value.code == "labels-task"


def test_the_baseline_is_what_a_constant_answer_reaches():
    labels = np.array([0, 0, 0, 1])
    assert measure(np.eye(2)[[0, 1, 0, 1]], labels).baseline == 75
    assert measure(RNG.random((4, 1)), np.array([0.1, 0.2, 0.4, 0.9])).baseline == 0
    assert measure(RNG.random((2, 2)), np.array([[1, 0], [1, 1]]), "multi-label").baseline == pytest.approx(600 / 7)
