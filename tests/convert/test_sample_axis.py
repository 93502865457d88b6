"""Models without a batch axis: a frame with a state of two and a number, a vector, a picture, a wave."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from generators import result
from onnx import TensorProto, helper, numpy_helper

import edgekit
from edgekit import sample_axis
from edgekit.data_ref import DataRef
from edgekit.debugging import debug
from edgekit.errors import UsageError
from edgekit.targets import agent
from edgekit.tensors import TensorSpec, sampled

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
DICE = np.random.default_rng(0)


def detector(frames=1):
    """What a voice detector does: a frame and a state go in, a score and the next state come out."""
    nodes = [
        helper.make_node("Split", ["state"], ["h", "c"], axis=0),
        helper.make_node("Squeeze", ["h", "first"], ["hidden"]),
        helper.make_node("Concat", ["frame", "hidden"], ["both"], axis=1),
        helper.make_node("Gemm", ["both", "w"], ["raw"]),
        helper.make_node("Tanh", ["raw"], ["bent"]),
        helper.make_node("Unsqueeze", ["bent", "first"], ["next"]),
        helper.make_node("Concat", ["next", "c"], ["after"], axis=0),
        helper.make_node("Cast", ["rate"], ["speed"], to=FLOAT),
        helper.make_node("Mul", ["speed", "small"], ["share"]),
        helper.make_node("Add", ["bent", "share"], ["moved"]),
        helper.make_node("ReduceMean", ["moved"], ["score"], axes=[1]),
    ]
    shapes = {"frame": (FLOAT, [frames, 6]), "state": (FLOAT, [2, frames, 3]), "rate": (INT64, [])}
    constants = {
        "first": np.array([0]),
        "w": DICE.normal(size=(9, 3)).astype(np.float32),
        "small": np.array(1e-3, np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, *about) for name, about in shapes.items()],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in ("score", "after")],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def samples(count):
    return {
        "frame": DICE.normal(size=(count, 1, 6)).astype(np.float32),
        "state": DICE.normal(size=(count, 2, 1, 3)).astype(np.float32),
        "rate": np.full(count, 16, np.int64),
    }


def test_what_shares_no_first_axis_has_data_with_one_more():
    frame, state = TensorSpec("frame", (1, 6), "float32"), TensorSpec("state", (2, 1, 3), "float32")
    number = TensorSpec("rate", (), "int64")
    assert [spec.shape for spec in sampled((frame, state), ())] == [(None, 1, 6), (None, 2, 1, 3)]
    assert [spec.shape for spec in sampled((number,), ())] == [(None,)]
    free = (TensorSpec("a", (None, 6), "float32"), TensorSpec("b", (None, 2), "float32"))
    assert sampled(free, ()) == free


@pytest.mark.parametrize("to", ["tflite", "onnx"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_frame_with_a_state_is_converted_and_answers_as_it_is_fed(to, precision):
    model = detector()
    data = samples(24)
    artifact = edgekit.convert(model, to=to, precision=precision, calibration=data if precision == "int8" else None)
    assert artifact.manifest.proof.samples == (24 if precision == "int8" else 16)
    feeds = {name: np.asarray(array[0]) for name, array in data.items()}
    session = ort.InferenceSession(model.SerializeToString())
    wanted = dict(zip(("score", "after"), session.run(["score", "after"], feeds), strict=True))
    with edgekit.load(artifact) as opened:
        found = opened.run(feeds)
    for name, want in wanted.items():
        assert found[name].shape == want.shape
        np.testing.assert_allclose(found[name], want, atol=1e-5 if precision == "fp32" else 0.15)


def test_a_size_that_must_be_said_is_asked_for_without_a_batch():
    with pytest.raises(UsageError, match="state") as caught:
        edgekit.convert(detector("N"), to="tflite")
    assert "--input state=2,1,3" in str(caught.value.next_step)


def test_samples_that_came_before_are_left_out_whole_or_in_part():
    a, b = DICE.random((6, 2, 3)).astype("f4"), np.arange(6)
    first = {"a": a[[0, 1, 0]], "b": b[[0, 1, 0]]}
    # The same "a" beside another "b" is another sample.
    second, third = {"a": a[[1, 0]], "b": b[[1, 5]]}, {"a": a[[1]], "b": b[[1]]}
    found = list(sample_axis.distinct([first, second, third]))
    assert [len(one["a"]) for one in found] == [2, 1]
    np.testing.assert_array_equal(found[0]["a"], a[[0, 1]])
    np.testing.assert_array_equal(found[1]["b"], b[[5]])


def test_what_is_remembered_of_samples_is_bounded(monkeypatch):
    monkeypatch.setattr(sample_axis, "_REMEMBERED", 2)
    rows = {"x": np.array([[1.0], [2.0], [3.0], [3.0], [1.0]])}
    (found,) = sample_axis.distinct([rows])
    assert found["x"].ravel().tolist() == [1.0, 2.0, 3.0, 3.0]


def vector(sizes: list[int], answer: list[int]):
    """A linear model of a sample that has no batch axis."""
    width = int(np.prod(sizes))
    constants = {
        "flat": np.array([1, width]),
        "answer": np.array(answer),
        "w": DICE.normal(size=(width, int(np.prod(answer)))).astype(np.float32),
    }
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["row"]),
        helper.make_node("MatMul", ["row", "w"], ["scores"]),
        helper.make_node("Reshape", ["scores", "answer"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, sizes)],
        [helper.make_tensor_value_info("y", FLOAT, answer)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), constants["w"]


@pytest.mark.parametrize(
    ("sizes", "answer", "to", "precision"),
    [([4], [4], "tflite", "int8"), ([3, 6, 7], [5], "tflite", "int8"), ([64], [1, 5], "onnx", "int8"),
     ([4], [3], "tflite", "fp32"), ([6, 7], [3], "onnx", "fp32")],
)  # fmt: skip
def test_a_sample_without_a_batch_axis_is_one_sample_everywhere(tmp_path, sizes, answer, to, precision):
    model, weights = vector(sizes, answer)
    x = DICE.normal(size=(40, *sizes)).astype(np.float32)
    y = (x.reshape(40, -1) @ weights).argmax(1)
    data, path = tmp_path / "data.npz", tmp_path / f"model.{to}"
    np.savez(data, x=x, y=y)
    made = edgekit.convert(model, output=path, precision=precision, calibration=x, evaluation=data, max_drop=10)
    assert made.manifest.proof.samples == 40
    with edgekit.load(path) as opened:
        assert [answer.classes[0].index for answer in opened.predict_batch(list(x[:3]))] == y[:3].tolist()
        assert opened.run({"x": x[0]})["y"].shape == tuple(answer)
    opening = agent.Opening(str(path), engine=None, threads=1)
    found = result(agent.evaluate(agent.EvaluateRequest(opening, DataRef(str(data)))))
    assert found.metric.value == pytest.approx(made.manifest.proof.metric.artifact)
    shown = agent.run(agent.RunRequest(opening, DataRef(str(data)), samples=2))
    assert [one["classes"][0]["index"] for one in shown.answers] == y[:2].tolist()
    if precision == "int8":
        (output,) = debug(made, model, x).to_dict()["outputs"]
        assert output["sqnr_db"] > 20


def test_a_fixed_batch_stays_a_batch():
    pictures, scores = TensorSpec("x", (8, 6, 7, 3), "float32"), TensorSpec("y", (8, 5), "float32")
    assert sampled((pictures,), (scores,)) == (pictures,)
