"""Choosing among ranges by their effect: what is measured decides, in both formats, on logits, as real values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekit.converters import quantizers
from edgekit.converters.calibrate import calibrate
from edgekit.converters.calibration import range_choice
from edgekit.converters.calibration.observing import ObserveRequest, observe
from edgekit.converters.calibration.range_choice import Trial, choose
from edgekit.converters.calibration.taps import tap
from edgekit.converters.stages import CalibrationOptions, Graph, QuantizeOptions, Range, Ranges
from edgekit.converters.steps import Score, Step, scores, squashed
from edgekit.data_ref import DataRef
from edgekit.precision import precisions
from edgekit.tensors import TensorSpec

pytest.importorskip("ai_edge_quantizer", reason="comes with the convert extra")
pytest.importorskip("onnxruntime", reason="comes with the onnx extra")

FORMATS = ["tflite", "onnx"]
SHAPE = {"tflite": (None, 8, 8, 2), "onnx": (None, 2, 8, 8)}


def drain(steps):
    events = []
    while True:
        try:
            events.append(next(steps))
        except StopIteration as end:
            return end.value, events


def small(tiny_files, format: str) -> Graph:
    inputs = (TensorSpec("image", SHAPE[format], "float32"),)
    return Graph(format, str(tiny_files[format]), inputs, (TensorSpec("probs", (None, 5), "float32"),))


def data(graph: Graph, count: int = 24):
    random = np.random.default_rng(3)
    values = random.normal(size=(count, *graph.inputs[0].shape[1:])).astype(np.float32)
    return lambda: iter([{"image": values}])


def quantized(graph: Graph, **options):
    precision = precisions.get("int8")
    return lambda ranges, path: quantizers.get(graph.format).quantize(
        graph, ranges, precision, QuantizeOptions("float", **options), path
    )


def observed(graph: Graph, feeds, observer: str = "auto") -> Ranges:
    return drain(calibrate(graph, feeds(), CalibrationOptions(observer)))[0]


def squeezed(ranges: Ranges, share: float) -> dict[str, Range]:
    return {name: Range(seen.min * share, seen.max * share) for name, seen in ranges.tensors.items()}


@pytest.mark.parametrize("format", FORMATS)
def test_the_set_whose_answers_are_nearest_wins(tiny_files, tmp_path, format):
    graph = small(tiny_files, format)
    feeds = data(graph)
    plain = observed(graph, feeds, "minmax")
    ways = {"cut": squeezed(plain, 0.2), "wide": squeezed(plain, 30.0), "right": plain.tensors}
    choice, events = drain(choose(graph, replace(plain, alternatives=ways), quantized(graph), feeds, tmp_path))
    assert choice.ranges == Ranges("minmax: right", plain.samples, plain.tensors)
    assert choice.decibels["right"] > 25 > max(choice.decibels["cut"], choice.decibels["wide"])
    assert [event["comparing"] for event in events] == ["cut", "wide", "right"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", FORMATS)
def test_the_first_stays_where_another_is_hardly_better(tiny_files, tmp_path, format):
    graph = small(tiny_files, format)
    feeds = data(graph)
    plain = observed(graph, feeds, "minmax")
    ways = {"a": squeezed(plain, 1.0001), "b": plain.tensors}
    choice, _ = drain(choose(graph, replace(plain, alternatives=ways), quantized(graph), feeds, tmp_path))
    assert choice.ranges.observer == "minmax: a"


def test_the_first_stays_where_the_gain_hangs_on_a_few_samples(tiny_files, tmp_path, monkeypatch):
    """The samples that decide are those that ranges were taken from: a gain on one of them is no reason."""
    graph = small(tiny_files, "onnx")
    feeds = data(graph)
    plain = observed(graph, feeds, "minmax")
    ways = {"a": squeezed(plain, 1.1), "b": plain.tensors}
    random = np.random.default_rng(0)
    floats = [[random.normal(size=5).astype(np.float32)] for _ in range(24)]
    noise = [[random.normal(size=5).astype(np.float32) * 0.05] for _ in range(24)]
    lucky = [
        [w + n * (0.1 if number == 0 else 1)] for number, ((w,), (n,)) in enumerate(zip(floats, noise, strict=True))
    ]
    noise[0][0] *= 6
    answered = iter([floats, [[w + n] for (w,), (n,) in zip(floats, noise, strict=True)], lucky])
    monkeypatch.setattr(range_choice, "answers", lambda *_: next(answered))
    choice, _ = drain(choose(graph, replace(plain, alternatives=ways), quantized(graph), feeds, tmp_path))
    assert choice.decibels["b"] > choice.decibels["a"] + 0.3
    assert choice.ranges.observer == "minmax: a"


def test_equal_sets_are_not_measured(tiny_files, tmp_path):
    graph = small(tiny_files, "onnx")
    plain = observed(graph, data(graph), "minmax")
    ways = {"a": dict(plain.tensors), "b": dict(plain.tensors)}
    choice, events = drain(choose(graph, replace(plain, alternatives=ways), None, None, tmp_path))
    assert (choice.ranges.observer, choice.ranges.tensors, choice.decibels) == ("minmax: a", plain.tensors, {})
    assert events == []


def test_large_graphs_take_the_first(tiny_files, tmp_path, monkeypatch):
    monkeypatch.setattr(range_choice, "_LARGEST", 10)
    graph = small(tiny_files, "onnx")
    plain = observed(graph, data(graph), "minmax")
    ways = {"a": squeezed(plain, 0.5), "b": plain.tensors}
    choice, _ = drain(choose(graph, replace(plain, alternatives=ways), None, None, tmp_path))
    assert choice.ranges == Ranges("minmax: a", plain.samples, ways["a"])


def test_ways_are_measured_by_a_trial_and_taken_from_all(tiny_files, tmp_path):
    graph = small(tiny_files, "tflite")
    feeds = data(graph)
    plain = observed(graph, feeds, "minmax")
    ways = {"first": plain.tensors, "other": squeezed(plain, 0.98)}
    asked = data(graph, 7)
    # Of the samples that others were taken from, the first is far too narrow.
    trial = Trial({"first": squeezed(plain, 0.1), "other": plain.tensors}, asked)
    choice, _ = drain(choose(graph, replace(plain, alternatives=ways), quantized(graph), feeds, tmp_path, trial=trial))
    assert choice.ranges == Ranges("minmax: other", plain.samples, ways["other"])
    assert choice.decibels["other"] > choice.decibels["first"] + 5


def observing_of(graph: Graph, folder: Path, x, observer: str = "auto") -> ObserveRequest:
    np.savez(folder / "data.npz", image=x)
    (folder / "scratch").mkdir(exist_ok=True)
    return ObserveRequest(
        graph, DataRef(str(folder / "data.npz")), graph.inputs, CalibrationOptions(observer), "int8",
        QuantizeOptions("float"), str(folder / "scratch"),
    )  # fmt: skip


def test_samples_that_come_again_change_no_range(tiny_files, tmp_path):
    graph = small(tiny_files, "tflite")
    (feeds,) = data(graph, 12)()
    once, _ = drain(observe(observing_of(graph, tmp_path, feeds["image"])))
    again, _ = drain(observe(observing_of(graph, tmp_path, np.repeat(feeds["image"], 5, axis=0))))
    assert again == once
    counted, _ = drain(observe(observing_of(graph, tmp_path, np.repeat(feeds["image"], 5, axis=0), "percentile")))
    assert counted.samples == 60


def test_ways_are_tried_on_samples_that_their_ranges_do_not_know(tiny_files, tmp_path, monkeypatch):
    graph = small(tiny_files, "tflite")
    (feeds,) = data(graph, 12)()
    trials: list[Trial] = []

    def noted(*given, trial, **more):
        trials.append(trial)
        return choose(*given, trial=trial, **more)

    monkeypatch.setattr(range_choice, "choose", noted)
    drain(observe(observing_of(graph, tmp_path, feeds["image"])))
    asked = np.concatenate([one["image"] for one in trials[0].feeds()])
    np.testing.assert_array_equal(asked, feeds["image"][2::3])
    rest = np.delete(feeds["image"], np.arange(2, 12, 3), axis=0)
    assert trials[0].ways["minmax"] == observed(graph, lambda: iter([{"image": rest}])).alternatives["minmax"]
    # Two samples are too few for both.
    drain(observe(observing_of(graph, tmp_path, feeds["image"][:2])))
    assert trials[1] is None


@pytest.mark.parametrize("format", FORMATS)
def test_auto_observes_several_ways(tiny_files, tmp_path, format):
    graph = small(tiny_files, format)
    feeds = data(graph)
    ranges = observed(graph, feeds)
    assert set(ranges.alternatives) == {"room", "minmax", "percentile 99.99", "expected"}
    assert all(set(found) == set(ranges.tensors) for found in ranges.alternatives.values())
    assert ranges.alternatives["room"] == observed(graph, feeds, "room").tensors
    plain = observed(graph, feeds, "minmax").tensors
    answers = tap(graph, 1).answers()
    assert {n: r for n, r in ranges.alternatives["minmax"].items() if n not in answers} == {
        n: r for n, r in plain.items() if n not in answers
    }
    for name in answers:  # nothing that was seen of them is ever cut
        assert ranges.tensors[name].min <= plain[name].min
        assert ranges.tensors[name].max >= plain[name].max
    choice, _ = drain(choose(graph, ranges, quantized(graph), feeds, tmp_path))
    assert choice.ranges.observer == f"auto: {max(choice.decibels, key=choice.decibels.get)}" or (
        choice.ranges.observer == "auto: room"
    )
    assert choice.ranges.alternatives == {}


@pytest.mark.parametrize("format", FORMATS)
def test_answers_are_real_logits_of_integers(tiny_files, tmp_path, format):
    """Before the softmax, so that a constant added to them all would be seen; of the integers' scale."""
    graph = small(tiny_files, format)
    feeds = data(graph, 4)
    made = quantized(graph)(observed(graph, feeds, "minmax"), Path(tmp_path, f"made.{format}"))
    floats, integers = (range_choice.answers(one, feeds, 1) for one in (graph, made))
    assert len(floats) == len(integers) == 4
    for (before,), (after,) in zip(floats, integers, strict=True):
        assert before.shape == after.shape == (1, 5)
        assert after.dtype == np.float32
        assert not np.allclose(before.sum(), 1, atol=0.05)
        assert np.abs(before - after).max() < 0.1 * np.abs(before).max()


def test_scores_lie_behind_squashing_and_rescaling():
    steps = [
        Step("Conv", ("x", "w"), ("a",)),
        Step("QuantizeLinear", ("a", "s"), ("aq",)),
        Step("DequantizeLinear", ("aq", "s"), ("ad",)),
        Step("Softmax", ("ad",), ("p",)),
        Step("QuantizeLinear", ("p", "s"), ("pq",)),
        Step("DequantizeLinear", ("pq", "s"), ("y",)),
        Step("Sigmoid", ("p",), ("z",)),
    ]
    assert [one.name for one in scores(steps, ["y", "z", "a", "aq", "x"])] == ["ad", "ad", "a", "aq", "x"]
    assert {one.function for one in scores(steps, ["y", "z", "a", "aq", "x"])} == {None}


@pytest.mark.parametrize(("kind", "function"), [("LOGISTIC", "sigmoid"), ("Tanh", "tanh"), ("SOFTMAX", None)])
def test_scores_lie_behind_what_only_moves_the_answers(kind, function):
    steps = [
        Step("Conv", ("x", "w"), ("a",)),
        Step("Reshape", ("a", "s"), ("b",)),
        Step(kind, ("b",), ("c",)),
        Step("TRANSPOSE", ("c", "p"), ("d",)),
        Step("Reshape", ("d", "s"), ("y",)),
        Step("Reshape", ("a", "s"), ("z",)),
    ]
    assert scores(steps, ["y", "z"]) == [Score("b", function), Score("z")]
    assert squashed(steps, ["y", "z"]) == ({"b"} if function else set())
    assert squashed(steps, ["y", "b"]) == set()


def test_many_values_are_compared_as_their_function_answers_them():
    random = np.random.default_rng(3)
    wanted = [[random.choice(np.float32([-40.0, 1.0]), size=(1, 200))] for _ in range(8)]
    flat = [[np.where(one < 0, one + 5, one)] for (one,) in wanted]
    steep = [[np.where(one < 0, one, one + 0.5)] for (one,) in wanted]
    by_score = [range_choice.score(wanted, one).decibels for one in (flat, steep)]
    by_answer = [range_choice.score(wanted, one, squashed=["sigmoid"]).decibels for one in (flat, steep)]
    assert by_score[0] < by_score[1]
    assert by_answer[0] > by_answer[1] + 20
    few = [[[array[:, :20] for array in one] for one in answers] for answers in (wanted, flat)]
    assert range_choice.score(*few, squashed=["sigmoid"]).decibels == range_choice.score(*few).decibels


def test_only_what_holds_from_sample_to_sample_is_surely_above():
    random = np.random.default_rng(5)
    wanted = [[random.normal(size=20).astype(np.float32)] for _ in range(64)]

    def noisy(size, spread=0.0):
        sizes = size * np.exp(spread * random.normal(size=64))
        return range_choice.score(
            wanted, [[w + s * random.normal(size=20).astype(np.float32)] for (w,), s in zip(wanted, sizes, strict=True)]
        )

    plain = noisy(0.05)
    assert 20 < plain.decibels < 32
    assert noisy(0.04).surely_above(plain)
    assert not plain.surely_above(noisy(0.04))
    assert not plain.surely_above(plain)
    perfect = range_choice.score(wanted, wanted)
    assert perfect.surely_above(plain)
    assert not perfect.surely_above(perfect)
    lucky = sum(noisy(0.05, 0.5).surely_above(noisy(0.05, 0.5)) for _ in range(300))
    assert lucky < 0.06 * 300
