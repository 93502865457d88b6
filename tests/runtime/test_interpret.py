"""From outputs to answers, as the manifest says."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.errors import UsageError
from edgekit.manifest import Interpret
from edgekit.runtimes.interpret import Classification, MultiLabel, Raw, Regression, interpret


def outputs(*values):
    return {"y": np.array([values], np.float32)}


def test_classification_by_probabilities():
    how = Interpret("classification", labels=("cat", "dog", "bird"), scores="probabilities", top_k=2)
    answer = interpret(outputs(0.2, 0.7, 0.1), how)
    assert isinstance(answer, Classification)
    assert answer.label == "dog"
    assert [(c.index, c.label) for c in answer.classes] == [(1, "dog"), (0, "cat")]
    assert answer.to_dict()["classes"][0] == {"index": 1, "label": "dog", "score": pytest.approx(0.7)}


def test_logits_become_probabilities():
    answer = interpret(outputs(1000, 1001, 999), Interpret("classification", scores="logits"))
    assert [c.index for c in answer.classes] == [1, 0, 2]
    assert sum(c.score for c in answer.classes) == pytest.approx(1)
    assert answer.classes[0].score == pytest.approx(0.66524, abs=1e-5)
    assert answer.label == "1"  # without labels, the index


def test_one_score_is_that_of_class_one():
    sure = interpret(outputs(0.9), Interpret("classification", scores="probabilities", labels=("no", "yes")))
    assert [(c.label, c.score) for c in sure.classes] == [("yes", pytest.approx(0.9)), ("no", pytest.approx(0.1))]
    torn = interpret(outputs(0.0), Interpret("classification", scores="logits"))
    assert [c.score for c in torn.classes] == [0.5, 0.5]


def test_an_integer_is_the_class_itself():
    """A model that ends in an arg max."""
    how = Interpret("classification", labels=("cat", "dog", "bird"), scores="logits")
    for dtype in ("int64", "int32", "uint8"):
        answer = interpret({"y": np.array([2, 0], dtype)}, how)
        assert [(c.index, c.label, c.score) for c in answer.classes] == [(2, "bird", 1.0)]
    assert interpret({"y": np.array([[7]])}, how).label == "7"


def test_ties_go_to_the_first():
    answer = interpret(outputs(0.25, 0.25, 0.25, 0.25), Interpret("classification", scores="probabilities"))
    assert [c.index for c in answer.classes] == [0, 1, 2, 3]


def test_multi_label_lists_all_above_half():
    how = Interpret("multi-label", scores="probabilities", labels=("a", "b", "c"))
    answer = interpret(outputs(0.5, 0.49, 0.9), how)
    assert isinstance(answer, MultiLabel)
    assert [c.label for c in answer.classes] == ["c", "a"]
    logits = interpret(outputs(0.0, -0.1, 3), Interpret("multi-label", scores="logits"))
    assert [c.index for c in logits.classes] == [2, 0]
    assert interpret(outputs(-5, -5), Interpret("multi-label", scores="logits")).classes == ()


def test_regression():
    answer = interpret({"y": np.array([[[1.5], [2.5]]], np.float32)}, Interpret("regression"))
    assert answer == Regression((1.5, 2.5))
    assert interpret({"y": np.float32(3)}, Interpret("regression")) == Regression((3.0,))


def test_without_a_reading_the_outputs_come_as_they_are():
    answer = interpret(outputs(*range(20)), Interpret("other"))
    assert isinstance(answer, Raw)
    assert answer.to_dict() == {"y": {"shape": [1, 20], "first": [0, 1, 2, 3, 4, 5, 6, 7]}}


def test_the_output_that_is_named():
    two = {**outputs(1, 2), "z": np.array([[7.0]])}
    assert interpret(two, Interpret("regression", output="z")) == Regression((7.0,))
    with pytest.raises(UsageError, match="no output w; known: y, z") as caught:
        interpret(two, Interpret("regression", output="w"))
    assert caught.value.code == "output-unknown"
