"""Values at computed places, many elements a result, blocks that overlap, diagonals: what both engines answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="comes with the convert extra")
ort = pytest.importorskip("onnxruntime", reason="comes with the onnx extra")
pytest.importorskip("ai_edge_litert.interpreter", reason="comes with the tflite extra")

from onnx import helper  # noqa: E402
from onnx_sources import FLOAT, load, model_of  # noqa: E402

import edgekit  # noqa: E402
from edgekit.converters import lower_onnx_tflite  # noqa: E402

Feeds = dict[str, np.ndarray]


def check(
    folder: Path, node, feeds: Feeds, constants: Feeds | None = None, opset: int = 20, close: float = 2e-6
) -> None:
    """The first output of a model of one node, its batch free, is what onnxruntime answers."""
    inputs = {name: (FLOAT, ["N", *array.shape[1:]]) for name, array in feeds.items()}
    model = model_of([node], inputs, {"y": (FLOAT, None)}, constants, opset=opset)
    graph = lower_onnx_tflite.lower(load(model, folder), folder / "m.tflite")
    assert {spec.shape[0] for spec in graph.inputs} == {None}
    (expected,) = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)
    with edgekit.load(graph.path, verify=False) as runner:
        (found,) = runner.run(feeds).values()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=close * np.abs(expected).max())


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("corners", [0, 1])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
def test_values_at_places_inside_and_far_outside(mode: str, padding: str, corners: int, tmp_path: Path) -> None:
    grid = noise(3, 5, 4, 2, seed=1) * 1.5
    grid[0, 0, 0], grid[1, 0, 0] = (40.0, -40.0), (-1.0, 1.0)
    node = helper.make_node("GridSample", ["x", "grid"], ["y"], mode=mode, padding_mode=padding, align_corners=corners)
    check(tmp_path, node, {"x": noise(3, 2, 6, 7), "grid": grid}, close=1e-5)


def test_values_in_a_volume(tmp_path: Path) -> None:
    node = helper.make_node("GridSample", ["x", "grid"], ["y"], mode="linear", align_corners=1)
    check(tmp_path, node, {"x": noise(2, 2, 3, 4, 5), "grid": noise(2, 3, 2, 4, 3, seed=1)})


def test_opset_16_calls_the_modes_otherwise(tmp_path: Path) -> None:
    node = helper.make_node("GridSample", ["x", "grid"], ["y"], mode="bicubic")
    check(tmp_path, node, {"x": noise(2, 2, 6, 7), "grid": noise(2, 3, 4, 2, seed=1)}, opset=16, close=1e-5)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_many_elements_a_result_are_a_product_with_a_matrix(mode: str, tmp_path: Path) -> None:
    node = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode=mode, antialias=1, axes=[2, 3])
    check(tmp_path, node, {"x": noise(2, 2, 40, 61)}, {"sizes": np.array([5, 7], np.int64)})


@pytest.mark.parametrize(
    "how",
    [{}, {"strides": [2, 3]}, {"pads": [1, 0, 2, 1]}, {"dilations": [2, 1]}],
    ids=["plain", "far", "pads", "holes"],
)
def test_blocks_that_overlap_are_added_up(how: dict, tmp_path: Path) -> None:
    sizes, block = (9, 10), (3, 2)
    steps = zip(sizes, block, how.get("dilations", (1, 1)), how.get("strides", (1, 1)), (0, 1), strict=True)
    pads = how.get("pads", [0] * 4)
    counts = [(n + pads[at] + pads[at + 2] - (k - 1) * d - 1) // s + 1 for n, k, d, s, at in steps]
    node = helper.make_node("Col2Im", ["x", "sizes", "block"], ["y"], **how)
    constants = {"sizes": np.array(sizes, np.int64), "block": np.array(block, np.int64)}
    check(tmp_path, node, {"x": noise(2, 2 * 6, int(np.prod(counts)))}, constants)


@pytest.mark.parametrize("equation", ["bii->b", "bii->bi", "bijj->bj", "bij,bjj->bi"])
def test_diagonals(equation: str, tmp_path: Path) -> None:
    terms = equation.split("->", maxsplit=1)[0].split(",")
    sizes = {"b": 3, "i": 4, "j": 4}
    feeds = {f"x{at}": noise(*(sizes[letter] for letter in term), seed=at) for at, term in enumerate(terms)}
    check(tmp_path, helper.make_node("Einsum", list(feeds), ["y"], equation=equation), feeds)


@pytest.mark.parametrize(
    ("kind", "more", "constants"),
    [
        ("ReduceMean", {}, {"axes": np.array([1, 2, 3, 6], np.int64)}),
        ("ReduceSum", {"keepdims": 0}, {"axes": np.array([1, 2, 4], np.int64)}),
        ("Concat", {"axis": 3}, {"c": noise(2, 3, 2, 1, 2, 2, 3)[:1]}),
        ("Split", {"axis": 1, "num_outputs": 3}, {}),
        ("MatMul", {}, {"weights": noise(3, 4)}),
    ],
    ids=["mean", "sum", "concat", "split", "dense"],
)
def test_seven_axes_where_fast_kernels_take_six(kind: str, more: dict, constants: Feeds, tmp_path: Path) -> None:
    outputs = ["y", "z", "last"] if kind == "Split" else ["y"]
    node = helper.make_node(kind, ["x", *("x" if kind == "Concat" else name for name in constants)], outputs, **more)
    check(tmp_path, node, {"x": noise(2, 3, 2, 3, 2, 2, 3)}, {} if kind == "Concat" else constants)
