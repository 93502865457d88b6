"""Masks of attention, as exporters write them, leave the scores their steps in 8-bit integers of both formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from generators import result

onnx = pytest.importorskip("onnx", reason="comes with the convert extra")
ort = pytest.importorskip("onnxruntime", reason="comes with the onnx extra")
pytest.importorskip("ai_edge_litert.interpreter", reason="comes with the tflite extra")

from onnx import helper  # noqa: E402
from onnx_sources import FLOAT, INT64, load, model_of  # noqa: E402

import edgekit  # noqa: E402
from edgekit.converters import lower_onnx_onnx, lower_onnx_tflite, quantizers  # noqa: E402
from edgekit.converters.calibrate import calibrate  # noqa: E402
from edgekit.converters.calibration.masks import Masks, nearest  # noqa: E402
from edgekit.converters.stages import CalibrationOptions, QuantizeOptions, Range  # noqa: E402
from edgekit.converters.steps import Step  # noqa: E402
from edgekit.errors import ConversionError  # noqa: E402
from edgekit.precision import precisions  # noqa: E402

TIME, WIDTH, SAMPLES = 8, 16, 60
LEAST = float(np.finfo(np.float32).min)


def _feeds() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    lengths = random.integers(3, TIME + 1, (SAMPLES, 1))
    x = random.normal(size=(SAMPLES, TIME, WIDTH)).astype(np.float32)
    return {"x": x, "mask": (np.arange(TIME)[None] < lengths).astype(np.int64)}


def attention(mask: list, masked: list, after: list, never: float):
    """Scores of x with itself, masked as these nodes do it; and x weighed by them."""
    random = np.random.default_rng(1)
    constants = {
        "query": random.normal(size=(WIDTH, WIDTH)) * 0.4, "key": random.normal(size=(WIDTH, WIDTH)) * 0.4,
        "scale": 0.25, "one": 1.0, "zero": 0.0, "never": never,
    }  # fmt: skip
    held = {name: np.asarray(value, np.float32) for name, value in constants.items()}
    held |= {"none": np.int64(0), "axis": np.array([1], np.int64)}
    make = helper.make_node
    nodes = [
        make("MatMul", ["x", "query"], ["q"]),
        make("MatMul", ["x", "key"], ["k"]),
        make("Transpose", ["k"], ["turned"], perm=[0, 2, 1]),
        make("MatMul", ["q", "turned"], ["raw"]),
        make("Mul", ["raw", "scale"], ["scores"]),
        make("Unsqueeze", ["mask", "axis"], ["wide"]),
        *(make(kind, read, [made]) for kind, read, made in (*mask, *masked)),
        make("Softmax", ["masked"], ["shares"], axis=-1),
        *(make(kind, read, [made]) for kind, read, made in after),
        make("MatMul", ["shares" if not after else "kept", "x"], ["y"]),
    ]
    ends = {"x": (FLOAT, ["N", TIME, WIDTH]), "mask": (INT64, ["N", TIME])}
    return model_of(nodes, ends, {"y": (FLOAT, ["N", TIME, WIDTH])}, held, opset=17)


_ADDED = ([("Cast", ["wide"], "m"), ("Sub", ["one", "m"], "gone"), ("Mul", ["gone", "never"], "far")],
          [("Add", ["scores", "far"], "masked")], [])  # fmt: skip
_CHOSEN = ([("Equal", ["wide", "none"], "out")], [("Where", ["out", "never", "scores"], "masked")], [])
_BOTH = ([("Equal", ["wide", "none"], "out"), ("Where", ["out", "never", "zero"], "far")],
         [("Add", ["scores", "far"], "masked")],
         [("IsNaN", ["shares"], "lost"), ("Where", ["lost", "zero", "shares"], "kept")])  # fmt: skip
WAYS = {
    "added, -10000": attention(*_ADDED, -1e4), "added, the least": attention(*_ADDED, LEAST),
    "selected, infinity": attention(*_CHOSEN, -np.inf), "selected, -1e9": attention(*_CHOSEN, -1e9),
    "selected, then added": attention(*_BOTH, -np.inf),
}  # fmt: skip
for model in WAYS.values():
    for node in model.graph.node:
        if node.op_type == "Cast":
            node.attribute.append(helper.make_attribute("to", FLOAT))


@pytest.mark.parametrize("to", ["tflite", "onnx"])
@pytest.mark.parametrize("way", WAYS)
def test_scores_keep_their_steps(way: str, to: str, tmp_path: Path) -> None:
    feeds, source = _feeds(), load(WAYS[way], tmp_path)
    lowering = lower_onnx_tflite if to == "tflite" else lower_onnx_onnx
    graph = lowering.lower(source, tmp_path / f"float.{to}")
    ranges = result(calibrate(graph, iter([feeds]), CalibrationOptions(observer="minmax")))
    assert min(seen.min for seen in ranges.tensors.values()) > -100
    made = quantizers.get(to).quantize(graph, ranges, precisions.get("int8"), QuantizeOptions(), tmp_path / f"m.{to}")
    assert made.float_ops == ()
    with edgekit.load(made.path, verify=False) as runner:
        (found,) = runner.run(feeds).values()
    expected = source.run(feeds)["y"].astype(np.float64)
    noise = np.square(expected - found).sum()
    assert 10 * np.log10(np.square(expected).sum() / noise) > 28


def test_infinity_elsewhere_is_refused_as_before(tmp_path: Path) -> None:
    nodes = [helper.make_node("Where", ["b", "x", "never"], ["far"]), helper.make_node("Relu", ["far"], ["y"])]
    held = {"b": np.array([True, False]), "never": np.float32(-np.inf)}
    model = model_of(nodes, {"x": (FLOAT, ["N", 2])}, {"y": (FLOAT, ["N", 2])}, held)
    graph = lower_onnx_onnx.lower(load(model, tmp_path), tmp_path / "m.onnx")
    with pytest.raises(ConversionError) as caught:
        list(calibrate(graph, iter([{"x": np.ones((2, 2), np.float32)}]), CalibrationOptions()))
    assert caught.value.code == "activation-not-finite"


SUM = [Step("ADD", ("scores", "bias"), ("sum",)), Step("SOFTMAX", ("sum",), ("y",))]


@pytest.mark.parametrize(
    ("bias", "steps"),
    [
        (Range(-12.0, 4.0), SUM),  # of the scores' own size
        (Range(-500.0, -400.0), SUM),  # never about zero: it shifts them all
        (Range(-500.0, 0.0), [*SUM, Step("RELU", ("bias",), ("z",))]),  # read by others too
    ],
)
def test_what_is_no_mask_keeps_its_range(bias: Range, steps: list[Step]) -> None:
    ranges = {"scores": Range(-5.0, 5.0), "bias": bias}
    assert Masks(steps, ["y", "z"]).tamed(ranges) == ranges


def test_a_mask_that_layers_share_reaches_below_the_widest_scores() -> None:
    steps = [
        Step("MUL", ("m", "c"), ("mask",)), Step("RESHAPE", ("mask",), ("wide",)),
        Step("ADD", ("a", "wide"), ("sum_a",)), Step("SOFTMAX", ("sum_a",), ("y",)),
        Step("ADD", ("wide", "b"), ("sum_b",)), Step("SOFTMAX", ("sum_b",), ("z",)),
    ]  # fmt: skip
    ranges = {name: Range(-1e5, 0.0) for name in ("mask", "wide")}
    ranges |= {"a": Range(-2.0, 2.0), "b": Range(-20.0, 20.0), "sum_a": Range(-1e5, 2.0), "sum_b": Range(-1e5, 20.0)}
    tamed = Masks(steps, ["y", "z"]).tamed(ranges)
    assert tamed["mask"] == tamed["wide"] == Range(-56.0, 0.0)
    assert tamed["sum_a"] == Range(-18.0, 2.0)
    assert tamed["sum_b"] == Range(-36.0, 20.0)


def test_constants_come_no_nearer_than_their_result_shows() -> None:
    made, other = Range(-30.0, 5.0), Range(0.0, 2.0)
    assert nearest("SELECT_V2", made, None) == -30.0
    assert nearest("Add", made, other) == -32.0
    assert nearest("MUL", made, other) == -60.0
    assert nearest("Mul", made, Range(-1.0, 1.0)) == nearest("Add", made, None) == -np.inf
