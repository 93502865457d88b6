"""The mean error of the answers, taken back by the layers that make them, in both formats."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from generators import result
from residual_nets import images, saved

from edgekit.converters import jobs
from edgekit.converters.calibrate import calibrate
from edgekit.converters.calibration import range_choice
from edgekit.converters.calibration.range_choice import choose, score
from edgekit.converters.repairs.ends import End, ends, evened, shifts
from edgekit.converters.repairs.samples import answers
from edgekit.converters.repairs.view import layers, open_view
from edgekit.converters.stages import CalibrationOptions, QuantizeOptions
from edgekit.rules import Rule

pytest.importorskip("ai_edge_quantizer", reason="comes with the convert extra")
pytest.importorskip("onnxruntime", reason="comes with the onnx extra")

FORMATS = ["tflite", "onnx"]


def flat(graph, count: int):
    """Pictures of one color but for a spot: most of every activation is one number."""
    made = images(graph, count)
    for name, array in made.items():
        array[...] = np.where(np.abs(array) > 1.8, array, 0.37)
        made[name] = array
    return [{name: array[place : place + 1] for name, array in made.items()} for place in range(count)]


@pytest.fixture(params=FORMATS)
def case(request, tmp_path):
    graph = saved(request.param, tmp_path, spread=1.0)
    samples = flat(graph, 48)
    ranges = result(calibrate(graph, iter(samples), CalibrationOptions("minmax")))

    def quantize(tried, path):
        options = QuantizeOptions("float")
        return jobs.quantize(jobs.QuantizeRequest(graph, tried, "int8", options, str(path)))

    return graph, samples, ranges, quantize


def test_answers_lose_what_they_are_off_by_on_average(case, tmp_path):
    graph, samples, ranges, quantize = case
    choice = result(choose(graph, ranges, quantize, lambda: iter(samples[:32]), tmp_path, even=True))
    if not choice.ranges.shifts:
        pytest.fail("there was nothing to take back")
    plain = result(choose(graph, ranges, quantize, lambda: iter(samples[:32]), tmp_path)).ranges
    assert plain.shifts == {}
    wanted = range_choice.answers(graph, lambda: iter(samples[32:]), 1)
    scores = {
        name: score(
            wanted,
            range_choice.answers(quantize(one, tmp_path / f"made.{graph.format}"), lambda: iter(samples[32:]), 1),
        )
        for name, one in (("before", plain), ("after", choice.ranges))
    }
    assert scores["after"].decibels > scores["before"].decibels
    assert not list(tmp_path.glob("choice.*"))


def test_shifts_hold_for_the_rules_that_they_were_measured_with(case, tmp_path):
    graph, samples, ranges, quantize = case
    layer = layers(open_view(graph))[-1]
    ranges = replace(ranges, shifts={layer.name: (100.0,) * len(open_view(graph).kernel(layer))})
    shifted = range_choice.answers(quantize(ranges, tmp_path / f"a.{graph.format}"), lambda: iter(samples[:1]), 1)
    other = replace(ranges, rules=(Rule("float", "*"),))
    apart = range_choice.answers(quantize(other, tmp_path / f"b.{graph.format}"), lambda: iter(samples[:1]), 1)
    assert not np.allclose(shifted[0][0], apart[0][0], atol=0.5)
    none = replace(ranges, shifts={})
    plain = range_choice.answers(quantize(none, tmp_path / f"c.{graph.format}"), lambda: iter(samples[:1]), 1)
    np.testing.assert_array_equal(apart[0][0], plain[0][0])


def test_biases_move_the_answers_by_just_that(case, tmp_path):
    graph, samples, *_ = case
    (end,) = ends(graph)
    assert end is not None
    layer = next(one for one in layers(open_view(graph)) if one.name == end.layer)
    more = np.linspace(-2, 2, len(open_view(graph).kernel(layer)))
    moved = evened(graph, {end.layer: tuple(more)}, tmp_path / f"evened.{graph.format}")
    before = range_choice.answers(graph, lambda: iter(samples[:4]), 1)
    after = range_choice.answers(moved, lambda: iter(samples[:4]), 1)
    (lack,) = shifts(after, before, [end])
    np.testing.assert_allclose(np.ravel(lack), more, atol=1e-4)
    for (one,), (other,) in zip(before, after, strict=True):
        np.testing.assert_allclose(one + lack, other, atol=1e-4)
    assert answers(graph, samples[:1], 1)[0].keys() == answers(moved, samples[:1], 1)[0].keys()


def test_means_are_taken_a_channel_and_over_all_places():
    random = np.random.default_rng(0)
    wanted = [[random.normal(size=(1, 3, 4, 5)).astype(np.float32)] for _ in range(6)]
    off = np.array([1.0, -2.0, 0.5]).reshape(1, 3, 1, 1)
    answered = [[(one - off + random.normal(size=one.shape) * 1e-3).astype(np.float32)] for (one,) in wanted]
    (found,) = shifts(wanted, answered, [End("a", 1)])
    np.testing.assert_allclose(found, off, atol=1e-3)
    assert score(wanted, answered, [found]).decibels > 55 > score(wanted, answered).decibels
    assert shifts(wanted, answered, [None]) == [None]
