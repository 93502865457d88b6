"""Models whose answer has no batch axis: read, measured and described as one sample's."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgekit
from edgekit.data_ref import DataRef
from edgekit.targets import agent, tasks
from edgekit.tensors import TensorSpec, unbatched

CLASSES = ("a", "b", "c", "d")
X = np.eye(4, dtype=np.float32).repeat(10, axis=0) * 9 + np.random.default_rng(0).random((40, 4), np.float32)
Y = np.arange(4).repeat(10)


def source():
    """[1, 4] -> [4]: a product with the identity, squeezed."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Squeeze", ["m", "first"], ["y"])]
    ends = [
        helper.make_tensor_value_info(*end) for end in (("x", TensorProto.FLOAT, [1, 4]), ("y", TensorProto.FLOAT, [4]))
    ]
    held = [numpy_helper.from_array(np.eye(4, dtype=np.float32), "w"), numpy_helper.from_array(np.array([0]), "first")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("to", ["onnx", "tflite"])
def test_all_of_the_answer_is_read(to, tmp_path):
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    path = tmp_path / f"m.{to}"
    options = {"calibration": (X,), "evaluation": (X, Y), "labels": CLASSES, "precision": "int8"}
    about = edgekit.convert(source(), output=path, to=to, **options).manifest
    assert about.proof.metric.artifact == 100
    model = edgekit.load(path)
    assert [model.predict(x).label for x in X[::10]] == list(CLASSES)
    assert [answer.label for answer in model.predict_batch(list(X[::10]))] == list(CLASSES)
    opening = agent.Opening(str(path))
    ran = tasks.run(opening, DataRef(str(tmp_path / "d.npz")), samples=11, output=tmp_path / "o.npz")
    assert ran.answers[10]["classes"][0]["label"] == "b"
    with np.load(tmp_path / "o.npz") as kept:
        assert kept["y"].shape == (11, 4)
    assert tasks.evaluate(opening, DataRef(str(tmp_path / "d.npz"))).metric.value == 100


@pytest.mark.parametrize(("task", "length"), [("regression", 4), ("embedding", 4), ("multi-label", 4)])
def test_other_readings(task, length):
    told = {"interpret": {"task": task, **({"threshold": 1e-9} if task == "multi-label" else {})}}
    answer = edgekit.load(edgekit.convert(source(), to="onnx", metadata=told)).predict(X[0])
    values = {"regression": "values", "embedding": "vector", "multi-label": "classes"}[task]
    assert len(getattr(answer, values)) == length


def test_which_outputs_have_no_batch_axis():
    def bare(shape, *inputs):
        specs = tuple(TensorSpec(f"x{place}", one, "float32") for place, one in enumerate(inputs))
        return bool(unbatched(specs, (TensorSpec("y", shape, "float32"),)))

    assert bare((4,), (1, 4))
    assert bare((1000,), (3, 8, 8))
    assert bare((4,), (None, 3))
    assert not bare((None, 4), (None, 4))
    assert not bare((1, 4), (1, 4))
    assert not bare((8, 4), (8, 2))
    assert not bare((), (1, 4))
    assert not bare((1,), (1, 4))
