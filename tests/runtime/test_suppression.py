"""Non-maximum suppression against onnxruntime's own, on a thousand random sets with ties and boxes without an area."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.runtimes.interpretation.suppression import suppress, suppress_classes

SETS = 1000


@pytest.fixture(scope="module")
def reference():
    """(boxes [N,4], scores [C,N], limit, iou, least) -> pairs of class and place."""
    onnxruntime = pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    def value(name, kind, shape):
        return helper.make_tensor_value_info(name, kind, shape)

    names = ["boxes", "scores", "limit", "iou", "least"]
    inputs = [
        value("boxes", TensorProto.FLOAT, [1, "n", 4]), value("scores", TensorProto.FLOAT, [1, "c", "n"]),
        value("limit", TensorProto.INT64, [1]),
        *(value(name, TensorProto.FLOAT, [1]) for name in ("iou", "least")),
    ]  # fmt: skip
    node = helper.make_node("NonMaxSuppression", names, ["kept"])
    graph = helper.make_graph([node], "nms", inputs, [value("kept", TensorProto.INT64, ["k", 3])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def answer(boxes, scores, limit, iou, least):
        feeds = {"boxes": boxes[None], "scores": scores[None], "limit": np.array([limit]),
                 "iou": np.array([iou], np.float32), "least": np.array([least], np.float32)}  # fmt: skip
        return session.run(None, feeds)[0][:, 1:]

    return answer


def drawn(dice):
    """Boxes on a coarse or a fine grid, some twice, some without an area, corners in either order; scores with ties."""
    count = int(dice.integers(1, 60))
    corner = dice.integers(0, 8, (count, 2)) if dice.random() < 0.5 else dice.random((count, 2)) * 8
    size = dice.integers(0, 5, (count, 2)) if dice.random() < 0.5 else dice.random((count, 2)) * 5
    boxes = np.concatenate([corner, corner + size], axis=1).astype(np.float32)
    if dice.random() < 0.3:
        boxes = boxes[:, [2, 3, 0, 1]]
    scores = dice.random((int(dice.integers(1, 5)), count)).astype(np.float32)
    if dice.random() < 0.3:
        scores = np.round(scores, 1)
    return boxes, scores


def test_a_thousand_random_sets_equal_onnxruntime(reference):
    dice = np.random.default_rng(0)
    kept = 0
    for _ in range(SETS):
        boxes, scores = drawn(dice)
        limit, least = int(dice.integers(1, 30)), np.float32(dice.choice([0.0, 0.3, 0.5]))
        iou = float(dice.choice([0.0, 0.25, 0.45, 0.5, 0.7, 1.0]))
        expected = reference(boxes, scores, limit, iou, least)
        found = []
        for one, row in enumerate(scores):
            places = np.flatnonzero(row > least)
            chosen = places[suppress(boxes[places], row[places], iou, limit)]
            found += [(one, place) for place in chosen]
        np.testing.assert_array_equal(np.array(found, np.int64).reshape(-1, 2), expected)
        kept += len(found)
    assert kept > SETS


def test_classes_do_not_suppress_each_other():
    boxes = np.array([[0, 0, 4, 4], [0, 0, 4, 4], [0, 0, 4, 4.1], [9, 9, 10, 10]], np.float32)
    scores, classes = np.array([0.5, 0.9, 0.7, 0.6], np.float32), np.array([0, 1, 0, 0])
    assert suppress_classes(boxes, scores, classes, 0.5, 10).tolist() == [1, 2, 3]
    assert suppress_classes(boxes, scores, classes, 0.5, 2).tolist() == [1, 2]
    assert suppress(boxes, scores, 0.5, 10).tolist() == [1, 3]
    empty = suppress_classes(boxes[:0], scores[:0], classes[:0], 0.5, 10)
    assert empty.shape == (0,)
