"""Ranges of what only an activation function reads: its answers err less, and nothing else is cut."""

from __future__ import annotations

import numpy as np
import pytest
from generators import result

from edgekit.converters.calibrate import calibrate
from edgekit.converters.calibration import observers
from edgekit.converters.calibration.bends import bends, cut
from edgekit.converters.calibration.clipping import GRIDS
from edgekit.converters.calibration.histogram import Histogram
from edgekit.converters.stages import CalibrationOptions, Graph, Range
from edgekit.converters.steps import Step
from edgekit.tensors import TensorSpec

GRID = GRIDS["int8"]
SWISH, SIXTH = ("x", "s"), (("alpha", 1 / 6), ("beta", 0.5))
READS = {
    "HardSwish": [Step("HardSwish", ("x",), ("y",))],
    "its parts": [Step("HardSigmoid", ("x",), ("s",), SIXTH), Step("Mul", SWISH, ("y",))],
    "SiLU": [Step("MUL", ("x", "s"), ("y",)), Step("LOGISTIC", ("x",), ("s",))],
    "GELU": [Step("GELU", ("x",), ("y",))],
    "sigmoid": [Step("Sigmoid", ("x",), ("y",))],
    "tanh": [Step("TANH", ("x",), ("y",))],
    "erf": [Step("Erf", ("x",), ("y",))],
    "ELU": [Step("Elu", ("x",), ("y",), (("alpha", 1.0),))],
}
BOTH = {"sigmoid", "tanh", "erf"}


def counted(values):
    histogram = Histogram()
    histogram.add(values.astype(np.float32), float(values.min()), float(values.max()))
    return histogram.counted()


def squares(function, values, seen: Range) -> float:
    """Of what the function makes of values on the grid of a range."""
    low, high = min(seen.min, 0.0), max(seen.max, 0.0)
    step = (high - low) / GRID.steps
    zero = np.rint(low / step)
    held = np.clip(np.rint(values / step), zero, zero + GRID.steps) * step
    return float(np.square(function(held) - function(values)).sum())


@pytest.mark.parametrize("name", READS)
def test_answers_err_less(name):
    function = bends(READS[name])["x"]
    values = np.random.default_rng(0).normal(0, 4, 20_000).astype(np.float32).astype(np.float64)
    whole = Range(float(values.min()), float(values.max()))
    made = cut(whole, counted(values), GRID, function)
    assert squares(function, values, made) < 0.7 * squares(function, values, whole)
    assert made.min > 0.7 * whole.min
    assert (made.max < 0.7 * whole.max) == (name in BOTH)
    assert name in BOTH or made.max == whole.max


def test_a_range_where_the_function_is_steep_stays():
    values = np.random.default_rng(1).uniform(-0.5, 0.5, 5000)
    whole = Range(float(values.min()), float(values.max()))
    for steps in READS.values():
        made = cut(whole, counted(values), GRID, bends(steps)["x"])
        assert made.max == whole.max
        assert made.min < 0.95 * whole.min


@pytest.mark.parametrize("ends", [(-9.0, -7.0), (7.0, 9.0), (0.0, 0.0), (-3.0, 0.0), (-1e-30, 1e-30), (-1e30, 1e30)])
@pytest.mark.parametrize("name", READS)
def test_any_range_comes_out_inside_itself(name, ends):
    values = np.linspace(*ends, 400)
    with np.errstate(over="ignore"):
        made = cut(Range(*ends), counted(values), GRID, bends(READS[name])["x"])
    assert ends[0] <= made.min <= made.max <= ends[1]


@pytest.mark.parametrize(
    "steps",
    [
        [*READS["SiLU"], Step("CONV_2D", ("x", "w"), ("z",))],
        [*READS["HardSwish"], Step("Add", ("x", "b"), ("z",))],
        [Step("Sigmoid", ("x",), ("s",)), Step("Mul", ("s", "other"), ("y",)), Step("Mul", ("x", "b"), ("z",))],
        [Step("Conv", ("x", "w"), ("y",))],
    ],
)
def test_what_others_read_as_well_is_no_function_s(steps):
    assert "x" not in bends(steps)


def test_the_gate_of_a_product_is_a_sigmoid_s_answer():
    found = bends([Step("Sigmoid", ("x",), ("s",)), Step("Mul", ("s", "other"), ("y",))])
    assert found["x"](np.array([0.0])) == 0.5
    assert "s" not in found


@pytest.mark.parametrize("kind", ["Sigmoid", "Tanh"])
def test_scores_of_a_model_lose_what_their_function_does_not_tell_apart(kind):
    random = np.random.default_rng(4)
    scores = np.concatenate([random.uniform(-60, -8, 20_000), np.linspace(1, 5, 5)]).astype(np.float32)
    observer = observers.Answers(CalibrationOptions("auto"))
    observer.update(scores, float(scores.min()), float(scores.max()))
    whole = observer.range()
    assert whole.min <= scores.min()
    function = bends([Step(kind, ("x",), ("y",))])["x"]
    observer.read_by(function)
    made = observer.range()
    assert made.min > -15
    if kind == "Sigmoid":
        assert made.max > 4.7  # what is rare stays
    ends = function(np.array([made.min, min(made.max, 5.0), scores.min(), 5.0]))
    assert np.abs(ends[:2] - ends[2:]).max() <= 0.5 * (ends[3] - ends[2]) / GRID.steps + 1e-9


@pytest.mark.parametrize(("observer", "shown"), [("auto", False), ("auto", True), ("mse", False), ("room", False)])
def test_calibration_cuts_scores_that_are_no_answers_themselves(tmp_path, observer, shown):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    nodes = [onnx.helper.make_node("Mul", ["x", "one"], ["a"]), onnx.helper.make_node("Sigmoid", ["a"], ["s"])]
    nodes += [onnx.helper.make_node("Flatten", ["s"], ["y"])]
    value = lambda name: onnx.helper.make_tensor_value_info(name, 1, ["N", 64])  # noqa: E731
    one = onnx.numpy_helper.from_array(np.float32([1.0]), "one")
    ends = [value("y"), *([value("a")] if shown else [])]
    graph = onnx.helper.make_graph(nodes, "g", [value("x")], ends, [one])
    opset = onnx.helper.make_opsetid("", 17)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), tmp_path / "m.onnx")
    made = Graph("onnx", str(tmp_path / "m.onnx"), (TensorSpec("x", (None, 64), "float32"),), ())
    samples = np.random.default_rng(2).uniform(-62, 3, (50, 64)).astype(np.float32)
    found = result(calibrate(made, iter([{"x": samples}]), CalibrationOptions(observer))).tensors["a"]
    assert (found.min > -15) == (observer == "auto" and not shown)
    assert found.max > 2.8


@pytest.mark.parametrize("gated", [True, False])
def test_calibration_cuts_for_the_automatic_choice_alone(tmp_path, gated):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    make = onnx.helper.make_node
    nodes = [make("Mul", ["x", "one"], ["a"])]
    nodes += [make("HardSigmoid", ["a"], ["g"], alpha=1 / 6), make("Mul", ["a", "g"], ["h"])] if gated else []
    nodes += [make("Mul", ["h" if gated else "a", "one"], ["b"]), make("Add", ["b", "one"], ["y"])]
    value = lambda name: onnx.helper.make_tensor_value_info(name, 1, ["N", 64])  # noqa: E731
    one = onnx.numpy_helper.from_array(np.float32([1.0]), "one")
    graph = onnx.helper.make_graph(nodes, "g", [value("x")], [value("y")], [one])
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8),
        tmp_path / "m.onnx",
    )
    made = Graph("onnx", str(tmp_path / "m.onnx"), (TensorSpec("x", (None, 64), "float32"),), ())
    samples = np.random.default_rng(2).normal(0, 4, (50, 64)).astype(np.float32)

    def ranges(observer):
        return result(calibrate(made, iter([{"x": samples}]), CalibrationOptions(observer)))

    low = float(samples.min())
    assert ranges("minmax").tensors["a"].min == low
    found = ranges("auto").alternatives["minmax"]
    assert found["x"].min == low
    assert (found["a"].min > -4) == gated
    assert found["a"].max == float(samples.max())
