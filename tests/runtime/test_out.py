"""Answers into the caller's arrays, several things at once, `asyncio`, and memory that does not grow."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading

import numpy as np
import pytest

import edgekit
from edgekit.errors import EngineError, FeedError
from edgekit.runtimes.prediction import zeros


@pytest.mark.parametrize("raw", [False, True], ids=["real", "raw"])
def test_answers_come_into_the_given_array(model, samples, raw):
    feeds = {"image": samples(model)}
    spec = model.outputs[0]
    if raw and model.inputs[0].quant:
        feeds = {"image": np.arange(128, dtype=np.int8).reshape(1, *model.inputs[0].shape[1:])}
    expected = model.run(feeds, raw=raw)["probs"]
    buffer = np.full((1, 5), 99, expected.dtype)
    for _ in range(2):
        found = model.run(feeds, raw=raw, out={"probs": buffer})
        assert found["probs"] is buffer
        np.testing.assert_array_equal(buffer, expected)
        buffer[:] = 0
    assert spec.name == "probs"


def test_the_general_way_fills_it_too(model, samples):
    batch = samples(model, 3).astype(np.float64)
    buffer = np.zeros((3, 5), np.float32)
    assert model.run(batch, out={"probs": buffer})["probs"] is buffer
    np.testing.assert_array_equal(buffer, model.run(batch)["probs"])


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 5), np.float64), np.zeros((1, 6), np.float32), np.zeros((5,), np.float32),
        np.zeros((1, 10), np.float32)[:, ::2],
        [0.0] * 5, np.broadcast_to(np.float32(0), (1, 5)),
    ],
    ids=["dtype", "shape", "rank", "strided", "list", "read-only"],
)  # fmt: skip
@pytest.mark.parametrize("exact", [True, False])
def test_arrays_that_cannot_take_the_answer(model, samples, wrong, exact):
    feeds = {"image": samples(model) if exact else samples(model).astype(np.float64)}
    with pytest.raises(FeedError) as caught:
        model.run(feeds, out={"probs": wrong})
    assert caught.value.code == "out-array"
    with pytest.raises(FeedError, match="no output other"):
        model.run(feeds, out={"other": np.zeros((1, 5), np.float32)})
    assert model.run(feeds)["probs"].shape == (1, 5)


def test_outputs_without_an_array_are_not_fetched(model, samples):
    assert model.run({"image": samples(model)}, out={}) == {}


STEADY = """
import gc, json, sys, tracemalloc
import numpy as np
import edgekit

kept = []
for path in sys.argv[1:]:
    model = edgekit.load(path, threads=1)
    feeds = {"image": np.random.default_rng(0).random((1, *model.inputs[0].shape[1:]), np.float32)}
    buffer = {"probs": np.zeros((1, 5), np.float32)}
    gc.collect()
    gc.disable()  # a collection empties the lists of free objects, which are then filled again
    tracemalloc.start()
    for runs in (1000, 500):
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(runs):
            model.run(feeds, out=buffer)
    kept.append(tracemalloc.get_traced_memory()[0] - before)
    tracemalloc.stop()
    gc.enable()
print(json.dumps(kept))
"""


def test_a_steady_state_allocates_nothing(artifacts):
    """In a process of its own: memory is counted for all threads."""
    command = [sys.executable, "-c", STEADY, *map(str, artifacts.values())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    kept = json.loads(done.stdout)
    assert len(kept) == len(artifacts)
    assert max(kept) < 2000, dict(zip(artifacts, kept, strict=True))


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    """Format -> path of y = x W + b, and twice = 2 y."""
    from onnx import TensorProto, helper, numpy_helper

    folder, dice = tmp_path_factory.mktemp("linear"), np.random.default_rng(0)
    parts = [numpy_helper.from_array(dice.normal(size=size).astype(np.float32), name)
             for name, size in (("W", (4, 3)), ("b", 3))]  # fmt: skip
    nodes = [helper.make_node("MatMul", ["x", "W"], ["m"]), helper.make_node("Add", ["m", "b"], ["y"]),
             helper.make_node("Add", ["y", "y"], ["twice"])]  # fmt: skip
    sides = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size]) for name, size in side]
             for side in ([("x", 4)], [("y", 3), ("twice", 3)])]  # fmt: skip
    made = helper.make_model(
        helper.make_graph(nodes, "g", *sides, parts), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    found = {}
    for suffix in ("tflite", "onnx"):
        found[suffix] = folder / f"linear.{suffix}"
        edgekit.convert(made, to=suffix, output=found[suffix])
    return found


@pytest.mark.parametrize("suffix", ["tflite", "onnx"])
@pytest.mark.parametrize("wide", [np.float32, np.float64])
def test_answers_into_the_feeds_own_memory(linear, suffix, wide):
    """A recurrent state that is written where it was read; `wide` goes the general way."""
    with edgekit.load(linear[suffix]) as model:
        shared = np.arange(7, dtype=np.float32)
        x, y = shared[:4].reshape(1, 4), shared[1:4].reshape(1, 3)
        expected = model.run({"x": x.copy()})["y"]
        feeds = {"x": x if wide == np.float32 else x.astype(wide)}
        assert model.run(feeds, out={"y": y})["y"] is y
        np.testing.assert_array_equal(y, expected)
        x[:] = np.arange(4)
        both = {"y": y, "twice": shared[3:6].reshape(1, 3)}
        with pytest.raises(FeedError, match="y and twice are written into the same memory") as caught:
            model.run(feeds, out=both)
        assert caught.value.code == "out-array"


@pytest.mark.parametrize("suffix", ["tflite", "onnx"])
def test_a_batch_that_the_array_does_not_fit_is_told_quietly(linear, suffix, capfd):
    """Alike by every engine, and once: what the engine has to say of it is not printed."""
    with edgekit.load(linear[suffix], threads=1) as model:
        feeds, right = {"x": np.ones((2, 4), np.float32)}, np.zeros((2, 3), np.float32)
        capfd.readouterr()
        for wrong in (np.zeros((1, 3), np.float32), np.zeros((3, 3), np.float32)):
            with pytest.raises(FeedError, match=r"^y is \[2, 3\], the array for it \[\d, 3\]$") as caught:
                model.run(feeds, out={"y": wrong})
            assert caught.value.code == "out-array"
        np.testing.assert_array_equal(model.run(feeds, out={"y": right})["y"], model.run(feeds)["y"])
        assert capfd.readouterr() == ("", "")


def test_several_things_are_answered_as_one_by_one(model, samples):
    things = list(samples(model, 5))
    one_by_one = [model.predict(thing) for thing in things]
    together = model.predict_batch(things)
    for a, b in zip(one_by_one, together, strict=True):
        assert [score.index for score in a.classes] == [score.index for score in b.classes]
        np.testing.assert_allclose([s.score for s in a.classes], [s.score for s in b.classes], atol=1e-6)
    assert model.predict_batch([]) == []
    assert model.predict_batch(things[:1]) == one_by_one[:1]


def test_things_that_do_not_go_together_are_answered_alone(model, samples):
    one, two = samples(model, 2)
    things = [one, two.astype(np.float64), {"image": two[None]}]  # some are the tensor already, some become it
    assert model.predict_batch(things) == [model.predict(thing) for thing in things]
    with pytest.raises(FeedError, match="image holds 2"):  # of which one would be answered
        model.predict_batch([samples(model, 2), one])


def test_from_an_event_loop(model, samples):
    things = list(samples(model, 4))

    async def all_of_them():
        return await asyncio.gather(*(model.apredict(thing) for thing in things))

    assert asyncio.run(all_of_them()) == [model.predict(thing) for thing in things]


def test_an_error_is_raised_where_it_is_awaited(model, samples):
    async def wrong():
        with pytest.raises(FeedError) as caught:
            await model.apredict(np.zeros((3, 3, 3, 3, 3), np.float32))
        return caught.value.code, await model.apredict(samples(model)[0])

    code, answer = asyncio.run(wrong())
    assert code == "feed-shape"
    assert answer == model.predict(samples(model)[0])


def test_a_call_that_is_cancelled_harms_no_other(model, samples, monkeypatch):
    """The engine goes on with what it has begun; nobody gets that answer, and the next call its own."""
    one, two = samples(model, 2)
    begun, go, ended = threading.Event(), threading.Event(), threading.Event()
    predict = model.predict

    def slow(thing, colors=None):
        begun.set()
        go.wait()
        try:
            return predict(thing, colors=colors)
        finally:
            ended.set()

    async def cancelled():
        monkeypatch.setattr(model, "predict", slow)
        task = asyncio.create_task(model.apredict(one))
        await asyncio.to_thread(begun.wait)
        monkeypatch.setattr(model, "predict", predict)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go.set()
        answer = await model.apredict(two)
        await asyncio.to_thread(ended.wait)
        return answer

    assert asyncio.run(cancelled()) == model.predict(two)


def test_warm_up(model, tiny_files):
    model.warm_up(2)
    feeds = zeros(model.inputs)
    assert feeds["image"].dtype == np.dtype(model.inputs[0].dtype)
    opened = edgekit.load(tiny_files["onnx"])
    opened.close()
    with pytest.raises(EngineError):
        opened.warm_up()
