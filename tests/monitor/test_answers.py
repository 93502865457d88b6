"""What a capture makes of the answers of models of all kinds."""

from __future__ import annotations

import numpy as np
import pytest
from capture_case import Fake, Time, captured

from edgekit.collect import collect, dataset
from edgekit.collect.drift import summary
from edgekit.manifest import Interpret
from edgekit.monitor.answers import Answers
from edgekit.monitor.capture import Capture, Plan
from edgekit.monitor.strata import Draw
from edgekit.tensors import TensorSpec

ALL = Plan(quota_mb=2, window=1e9, random=Draw(1000), disagreeing=Draw(1000), status=1.0)
CLASSES = Interpret("classification", labels=("a", "b", "c"), scores="probabilities")


def model(how, shape, dtype="float32", inputs=(None, 4)):
    return Fake(how, inputs=(TensorSpec("x", inputs, "float32"),), outputs=(TensorSpec("p", shape, dtype),))


def opened(root, one, **known):
    return Capture("case", one, ALL, root=root, seed=0, clock=Time().clock, **known)


def x(number=0.0, count=1):
    return {"x": np.full((count, 4), number, np.float32)}


def sums(root, kind="status"):
    return [one.record for one in captured(root / "case") if one.record.kind == kind]


@pytest.mark.parametrize("shape", [(None,), (None, 1)])
def test_a_model_that_ends_in_an_arg_max_answers_the_class_itself(shape):
    answer = Answers().read(model(CLASSES, shape, "int64"), {"p": np.full((1,) + (1,) * (len(shape) - 1), 2)}, 0)
    assert (answer.value, answer.score, answer.label, answer.uncertainty) == (2.0, 1.0, "c", 0.0)


def test_scores_of_classes_may_have_axes_of_one():
    p = np.array([[[[0.1, 0.7, 0.2]]]], np.float32)
    answer = Answers().read(model(CLASSES, (None, 1, 1, 3)), {"p": p}, 0)
    assert (answer.value, answer.label) == (1.0, "b")
    assert answer.score == pytest.approx(0.7)


def test_a_model_without_a_batch_answers_one_sample(tmp_path):
    """One sample was taken for as many as it has classes, none of which had an answer."""
    bare = model(CLASSES, (3,), inputs=(4,))
    with opened(tmp_path, bare, shadow=bare) as capture:
        p, q = np.array([0.1, 0.7, 0.2], np.float32), np.array([0.8, 0.1, 0.1], np.float32)
        capture.offer({"x": np.zeros(4, np.float32)}, {"p": p}, shadow={"p": q})
        assert capture.status()["seen"] == 1
    (sample,) = sums(tmp_path, "sample")
    assert (sample.sample.answer, sample.sample.shadow) == (1.0, 0.0)
    (read,) = (one for one in captured(tmp_path / "case") if one.record.kind == "sample")
    assert (read.inputs["x"].shape, read.outputs["p"].tolist()) == ((4,), p.tolist())


def test_an_output_that_is_a_single_number_stops_no_app(tmp_path):
    with opened(tmp_path, model(CLASSES, (None, 3))) as capture:
        capture.offer(x(), {"p": np.eye(3, dtype=np.float32)[:1], "count": np.float32(3)})
        assert capture.status()["seen"] == 1


def test_the_answers_of_many_classes_are_counted_by_name(tmp_path):
    """From the hundredth class on none was counted any more, not even those that were known."""
    names = tuple(f"class {number}" for number in range(150))
    many = model(Interpret("classification", labels=names, scores="probabilities"), (None, 150))
    with opened(tmp_path, many) as capture:
        for number in range(300):
            capture.offer(x(number), {"p": np.eye(150, dtype=np.float32)[None, number % 120]})
    (status,) = sums(tmp_path)
    assert len(status.about["classes"]) == 100
    assert status.about["classes"]["class 0"] == 3


def test_how_far_samples_lie_is_nothing_where_nobody_watched(tmp_path):
    """A board without a monitor had a score of 0: the middle of the training data."""
    with opened(tmp_path, model(Interpret("regression"), (None, 1))) as capture:
        capture.offer(x(), {"p": np.ones((1, 1), np.float32)})
    collect([str(tmp_path)], tmp_path / "data")
    (point,) = summary([tmp_path / "data"])["boards"][0]["series"]
    assert (point["ood"], point["uncertainty"]) == (None, None)


def test_disagreements_are_counted_one_by_one(tmp_path):
    with opened(tmp_path, model(CLASSES, (None, 3)), shadow=Shadow()) as capture:
        for number in range(400):
            capture.offer(x(number), {"p": np.eye(3, dtype=np.float32)[:1]})
    (status,) = sums(tmp_path)
    found = status.about["strata"]
    assert (found["random"], found["disagreeing"]) == (400, status.about["kept"]["disagreeing"])


class Shadow(Fake):
    """Always answers another class."""

    def run(self, feeds):
        return {"p": np.array([[0.0, 1.0, 0.0]], np.float32)}


def test_values_are_not_right_or_wrong(tmp_path):
    """Labels of a regression were compared letter by letter, and the report said that all answers were wrong."""
    with opened(tmp_path / "board", model(Interpret("regression"), (None, 1))) as capture:
        for number in range(30):
            value = float("nan") if number == 7 else float("inf") if number == 8 else number + 0.01
            capture.offer(x(number), {"p": np.array([[value]], np.float32)})
    out = tmp_path / "data"
    collect([str(tmp_path / "board")], out)
    entries = dataset.read(out).samples
    assert [entries[place].answer for place in (6, 7, 8)] == ["6.01", "nan", "inf"]
    collect([], out, labels={entry.id: str(number) for number, entry in enumerate(entries)})
    document = summary([out])
    assert (document["labelled"], document["accuracy"]) == (30, None)
    assert [row["wrong"] for row in document["strata"]] == [None]
