"""The quick ways of `predict` answer what the general ones answer, to the bit, and fetch no more than is read."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgekit
from edgekit.errors import FeedError, UsageError
from edgekit.feeding import Preprocess, TableSteps
from edgekit.reading import DetectionReading, Interpret
from edgekit.runtimes.flow.metrics import Metrics
from edgekit.runtimes.interpret import interpret, read_of, reader
from edgekit.runtimes.interpretation.classes import classification
from edgekit.runtimes.preparation.numbers import normalize
from edgekit.runtimes.preparation.rows import row_array, row_plan
from edgekit.runtimes.preparation.scratch import Spare
from edgekit.runtimes.preprocess import Preparer
from edgekit.tensors import QuantParams, TensorSpec

SCORE = st.one_of(st.floats(0, 1, width=32), st.sampled_from([0.0, 0.5, -0.0, float("nan"), float("inf")]))


@settings(max_examples=300, deadline=None)
@given(st.lists(SCORE, min_size=2, max_size=18), st.integers(0, 6), st.sampled_from([None, 0.0, 0.3]))
def test_few_classes_are_ranked_as_many(scores, top, threshold):
    how = Interpret("classification", labels=("a", "b", "c"), scores="probabilities", top_k=top, threshold=threshold)
    array = np.array([scores], np.float32)
    try:
        expected = classification(array[0].astype(np.float64), how)
    except UsageError as error:
        with pytest.raises(UsageError, match=re.escape(error.message)):
            interpret({"y": array}, how)
        return
    assert repr(interpret({"y": array}, how)) == repr(expected)


VALUE = st.one_of(st.floats(width=64), st.integers(-(10**12), 10**12), st.booleans(), st.sampled_from([None, "", "7"]))
STEPS = TableSteps(("a", "color", "b"), {"a": 1.5, "color": "red"}, {"color": ("red", "None", "nan", "2")})


@settings(max_examples=300, deadline=None)
@given(VALUE, VALUE, st.sampled_from(["red", "None", None, "nan", float("nan"), 2, "2", " ", "blue"]))
@pytest.mark.parametrize("encode", ["one-hot", "index"])
@pytest.mark.filterwarnings("ignore:overflow")
def test_rows_by_plan_are_those_of_the_general_way(encode, a, b, color):
    steps = TableSteps(STEPS.columns, STEPS.missing, STEPS.categories, encode)
    how = Preprocess("table", 2.0, (0.5,), (3.0,), table=steps)
    spec, row = TensorSpec("row", (None, steps.width), "float32"), {"a": a, "color": color, "b": b}
    found = row_plan(how)(row)
    try:
        expected = normalize(row_array(row, steps, spec)[None], how, spec)
    except FeedError:
        assert found is None
        return
    if found is not None:
        np.testing.assert_array_equal(found, expected)
    plain = [isinstance(value, (int, float)) and abs(value) < 1e30 for value in (a, b)]
    assert found is not None or not all(plain) or color not in ("red", "2", 2)


def test_rows_of_what_is_no_row():
    how = Preprocess("table", table=TableSteps(("a", "b")))
    with pytest.raises(FeedError, match="rows of named values, got list"):
        Preparer((TensorSpec("row", (None, 2), "float32"),), how).real([[1.0, 2.0]])


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_a_pictures_memory_is_used_again_and_its_answers_stay(layout):
    shape = (1, 6, 8, 3) if layout == "NHWC" else (1, 3, 6, 8)
    spec = TensorSpec("image", shape, "float32", layout)
    preparer = Preparer((spec,), Preprocess("image", mean=(127.0,), std=(128.0,)))
    frames = np.random.default_rng(0).integers(0, 256, (3, 6, 8, 3), np.uint8)
    first = preparer(frames[0])
    held = preparer(frames[1])  # before the first was given back: memory of its own
    assert first.lent is not held.lent
    kept = first.feeds["image"].copy()
    preparer.take_back(first)
    third = preparer(frames[2])
    assert third.lent is first.lent
    for prepared, frame in ((held, frames[1]), (third, frames[2])):
        expected = preparer.real(frame).feeds["image"]
        made = expected if layout == "NHWC" else expected.transpose(2, 0, 1)
        np.testing.assert_allclose(prepared.feeds["image"][0], made, atol=1e-6)
    assert not np.array_equal(kept, third.feeds["image"])


def test_a_picture_that_is_the_tensor_is_not_copied():
    preparer = Preparer((TensorSpec("image", (1, 6, 8, 3), "uint8", "NHWC"),), Preprocess("image"))
    frame = np.zeros((6, 8, 3), np.uint8)
    prepared = preparer(frame)
    assert prepared.lent is None
    assert np.shares_memory(prepared.feeds["image"], frame)


def test_spare_things_are_made_when_none_is_free():
    made = []
    spare = Spare(lambda: made.append(len(made)) or made[-1])
    assert [spare.take(), spare.take()] == [0, 1]
    spare.give(0)
    assert [spare.take(), spare.take()] == [0, 2]


def test_threads_predict_with_memory_of_their_own(picture_models):
    """Of an engine that many threads call at once."""
    frames = np.random.default_rng(1).integers(0, 256, (40, 8, 8, 3), np.uint8)
    with edgekit.load(picture_models["fp32.onnx"], threads=1) as model:
        expected = [model.predict(frame) for frame in frames]
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(model.predict, [*frames] * 10)) == expected * 10


def test_outputs_that_nobody_reads_are_not_fetched():
    all_of_them = ("boxes", "scores", "mask")
    for how, wanted in (
        (Interpret("classification"), ("boxes",)),
        (Interpret("classification", output="mask"), ("mask",)),
        (Interpret("classification", output="nowhere"), all_of_them),
        (Interpret(), all_of_them),
        (Interpret("detection"), all_of_them),
        (Interpret("detection", detection=DetectionReading()), all_of_them),
        (Interpret("detection", detection=DetectionReading(boxes="boxes", scores="scores")), ("boxes", "scores")),
        (Interpret("detection", output="mask", detection=DetectionReading("yolo")), ("mask",)),
        (Interpret("detection", detection=DetectionReading("yolo")), all_of_them),
    ):
        assert read_of(how, all_of_them) == wanted
    assert read_of(Interpret("classification"), ()) == ()


@pytest.mark.parametrize("kind", ["tflite", "onnx"])
def test_one_of_several_outputs(kind, tmp_path):
    """By both engines, as by `run`."""
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Softmax", ["x"], ["probs"], axis=1), helper.make_node("Neg", ["x"], ["off"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in ("off", "probs")],
    )  # fmt: skip
    source = tmp_path / "two.onnx"
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    source.write_bytes(made.SerializeToString())
    about = {"interpret": {"task": "classification", "output": "probs", "scores": "probabilities"}}
    path = tmp_path / f"made.{kind}"
    edgekit.convert(source, output=path, metadata=about)
    row = np.array([[0.0, 2.0, 1.0, -1.0]], np.float32)
    with edgekit.load(path, threads=1) as model:
        answer, outputs = model.predict(row), model.run({"x": row})
    assert [score.score for score in answer.classes] == sorted(outputs["probs"][0].tolist(), reverse=True)
    assert list(outputs) == [spec.name for spec in model.outputs]


def test_an_error_is_counted_once(picture_models, monkeypatch):
    metrics = Metrics()
    with edgekit.load(picture_models["fp32.onnx"], metrics=metrics) as model:
        model.predict(np.zeros((8, 8, 3), np.uint8))
        with pytest.raises(FeedError):
            model.predict(np.zeros((8, 8, 2), np.uint8))
        monkeypatch.setattr(model, "_pid", -1)
        with pytest.raises(edgekit.errors.EngineError):
            model.predict(np.zeros((8, 8, 3), np.uint8))
    seen = metrics.snapshot()
    assert seen["errors"] == {"feed-shape": 1, "model-forked": 1}
    assert (seen["run_seconds"]["count"], seen["predict_seconds"]["count"]) == (1, 1)


@pytest.mark.parametrize("array", [
    np.ones((1, 3), np.float32), np.arange(3, dtype=np.float32), np.ones((3, 1), np.float32)[:, 0],
    np.ones((2, 3), np.float32), np.ones((1, 3)), np.ones(3, ">f4"), np.ones((1, 4), np.float32),
    np.array([1, np.nan, 2], np.float32), [1.0, 2.0, 3.0],
])  # fmt: skip
@pytest.mark.parametrize("batch", [1, 2, None])
def test_arrays_go_straight_only_as_the_very_tensor(array, batch):
    spec = TensorSpec("x", (batch, 3), "float32")
    preparer = Preparer((spec,), Preprocess())
    quick = preparer.quick(array, None)
    own = isinstance(array, np.ndarray) and array.dtype == np.float32 and np.isfinite(array).all()
    shapes = [(batch or 1, 3), (3,)] if batch != 2 else [(2, 3)]
    assert (quick is not None) == (own and array.shape in shapes)
    if quick is None:
        return
    assert quick.ready
    assert quick.feeds["x"].shape == ((batch or 1), 3)
    assert np.shares_memory(quick.feeds["x"], array)
    np.testing.assert_array_equal(quick.feeds["x"], preparer.general(array).feeds["x"])


def test_arrays_that_are_not_finite_go_the_way_that_says_so():
    spec = TensorSpec("x", (None, 3), "float32")
    quick = Preparer((spec,), Preprocess()).quick
    for value in (np.nan, np.inf, -np.inf):
        assert quick(np.array([[0, value, 0]], np.float32), None) is None
    assert quick(np.zeros((1, 3), np.float32), None).ready
    assert Preparer((TensorSpec("x", (None, 3), "int8", quant=QuantParams((0.1,), (0,))),), Preprocess()).quick is None


@pytest.mark.parametrize("task", ["regression", "embedding", "anomaly"])
@pytest.mark.parametrize("shape", [(2,), (2, 1), (2, 3), (2, 3, 2)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
def test_vectors_are_read_straight_as_they_are_in_general(task, shape, dtype):
    how = Interpret(task, threshold=1.5)
    outputs = {"y": np.arange(1, 1 + np.prod(shape)).reshape(shape).astype(dtype)}
    for sample in (0, 1):
        found, expected = reader(how)(outputs, sample, None, None), interpret(outputs, how, sample=sample)
        assert type(found) is type(expected)
        assert repr(found) == repr(expected)
    with pytest.raises(UsageError) as caught:
        reader(Interpret(task, output="z", threshold=1.5))(outputs, 0, None, None)
    assert caught.value.code == "output-unknown"
