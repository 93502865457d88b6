"""The accuracy without labels of models with several inputs: each is spoilt, alone and with those like it."""

from __future__ import annotations

import numpy as np
import pytest

import edgekit
from edgekit.converters.perturbing import Span
from edgekit.converters.perturbing.feeds import FeedSpoiler, Part, parts
from edgekit.monitor.watch import reference_of

FEEDS = {
    "left": np.random.default_rng(0).random((6, 8, 8, 3), np.float32),
    "right": np.random.default_rng(1).random((6, 8, 8, 3), np.float32),
    "age": np.random.default_rng(2).random((6, 1), np.float32),
    "pulse": np.random.default_rng(3).random(6, np.float32),
    "place": np.arange(6),
}
SHAPES = {"left": "picture", "right": "picture", "age": "table", "pulse": "table", "place": None}


def spoiler():
    made = parts(SHAPES)
    return FeedSpoiler(made, [Span.of(part.of(FEEDS), part.shape) for part in made])


def test_columns_are_one_table_and_what_cannot_be_spoilt_is_in_no_part():
    assert parts(SHAPES) == (
        Part(("age", "pulse"), "table"), Part(("left",), "picture"), Part(("right",), "picture"),
    )  # fmt: skip
    (table, *_) = parts(SHAPES)
    back = table.put(table.of(FEEDS), FEEDS)
    assert {name: array.shape for name, array in back.items()} == {"age": (6, 1), "pulse": (6,)}
    assert all(np.array_equal(back[name], FEEDS[name]) for name in back)


def test_each_input_is_spoilt_alone_and_those_alike_also_together():
    found = spoiler()
    changed = set()
    for group in range(found.groups):
        copy = found.spoil(FEEDS, group, 0)
        assert {name: array.shape for name, array in copy.items()} == {n: a.shape for n, a in FEEDS.items()}
        assert copy["place"] is FEEDS["place"]
        changed.add(frozenset(name for name in FEEDS if not np.array_equal(copy[name], FEEDS[name])))
    assert {frozenset({"left"}), frozenset({"right"}), frozenset({"left", "right"})} <= changed
    assert frozenset({"age", "pulse"}) in changed
    assert not any(one & {"left", "right"} and one & {"age", "pulse"} for one in changed)
    assert len({found.named(group) for group in range(found.groups)}) == found.groups


def test_the_same_samples_are_spoilt_in_the_same_way_again():
    one, other = spoiler(), spoiler()
    for group in range(0, one.groups, 7):
        first, second = one.spoil(FEEDS, group, 3), other.spoil(FEEDS, group, 3)
        assert all(np.array_equal(first[name], second[name]) for name in FEEDS)


def samples(number, seed, light=1.0):
    """Four corners of a picture, of which one is bright, and two numbers that say the same less clearly."""
    dice = np.random.default_rng(seed)
    labels = dice.integers(0, 4, number)
    picture = 0.3 * dice.random((number, 8, 8, 1))
    for one, label in zip(picture, labels.tolist(), strict=True):
        row, column = divmod(label, 2)
        one[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += dice.uniform(0, 0.5)
    numbers = np.stack([labels // 2, labels % 2], axis=1) + dice.normal(0, 0.7, (number, 2))
    feeds = {"photo": light * picture, "down": numbers[:, :1], "across": numbers[:, 1:]}
    return {name: array.astype(np.float32) for name, array in feeds.items()}, labels


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A model that adds up what each input says, converted with labelled samples."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    weights = np.zeros((66, 4), np.float32)
    for label in range(4):
        row, column = divmod(label, 2)
        own = np.zeros((8, 8), np.float32)
        own[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 1.0
        weights[:64, label] = own.reshape(-1)
        weights[64:, label] = 2 * row - 1, 2 * column - 1
    shapes = {"photo": ["N", 8, 8, 1], "down": ["N", 1], "across": ["N", 1]}
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["photo"], ["flat"]),
            helper.make_node("Concat", ["flat", "down", "across"], ["all"], axis=1),
            helper.make_node("MatMul", ["all", "weights"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["scores"], axis=1),
        ],
        "corners",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(weights, "weights")],
    )
    folder = tmp_path_factory.mktemp("corners")
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, folder / "source.onnx")
    feeds, labels = samples(400, 1)
    np.savez(folder / "evaluation.npz", **feeds, y=labels)
    edgekit.convert(folder / "source.onnx", output=folder / "model.onnx", evaluation=folder / "evaluation.npz")
    with edgekit.load(folder / "model.onnx", threads=1) as model:
        yield model


def test_the_accuracy_of_a_model_with_several_inputs_is_told_under_drift(watched):
    assert reference_of(watched.artifact).header.estimator.anchors > 24  # without copies there are 13
    for change in ({}, {"light": 0.6}, {"light": 0.3}):
        feeds, labels = samples(2048, 7, **change)
        monitor = watched.monitor()
        truth = float((watched.run(feeds)["scores"].argmax(1) == labels).mean())
        told = monitor.accuracy(2048)
        assert told["low"] <= truth <= told["high"], change
        assert told["high"] - told["low"] < 0.5, change
