"""The monitor on models of other kinds: several inputs, ids, detections, rows of text, and many threads."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from edgekit.monitor.build import Builder
from edgekit.monitor.monitor import Monitor
from edgekit.reading import Interpret
from edgekit.tensors import TensorSpec

TWO = (TensorSpec("image", (None, 8, 8, 3), "float32", "NHWC"), TensorSpec("ids", (None, 12), "int32"))
VALUE = (TensorSpec("value", (None, 1), "float32"),)
PICTURE = TWO[:1]
FOUND = (
    TensorSpec("boxes", (None, 20, 4), "float32"),
    TensorSpec("scores", (None, 20, 2), "float32"),
    TensorSpec("count", (None, 1), "float32"),
)
DETECTION = Interpret(task="detection")


def two(number, seed, *, vocabulary=50, bright=0.0):
    dice = np.random.default_rng(seed)
    images = np.clip(dice.random((number, 8, 8, 3)) * dice.uniform(0.5, 1, (number, 1, 1, 1)) + bright, 0, 1)
    ids = dice.integers(0, vocabulary, (number, 12))
    value = images.mean(axis=(1, 2, 3), keepdims=True)[:, :, 0, 0] + dice.normal(size=(number, 1)) * 0.05
    return {"image": images.astype("f4"), "ids": ids.astype("i4")}, {"value": value.astype("f4")}


def detections(number, seed, *, crowd=5):
    dice = np.random.default_rng(seed)
    inputs, _ = two(number, seed)
    counts = np.minimum(dice.poisson(crowd, number), 20)
    shown = np.arange(20) < counts[:, None]
    boxes = dice.random((number, 20, 4)) * shown[..., None]
    scores = np.stack([shown * dice.uniform(0.5, 1, (number, 20)), np.zeros((number, 20))], axis=-1)
    outputs = {"boxes": boxes, "scores": scores, "count": counts[:, None]}
    return {"image": inputs["image"]}, {name: array.astype("f4") for name, array in outputs.items()}


def built(inputs, outputs, data, how=None):
    builder = Builder(inputs, outputs, None, how)
    builder.add(*data)
    return builder.finish()


def fed(monitor, data, start=0):
    """Alarms of a stream, one call a sample."""
    inputs, outputs = data
    number = len(next(iter(inputs.values())))
    return [
        alarm
        for at in range(start, number)
        for alarm in monitor.observe(
            {name: array[at : at + 1] for name, array in inputs.items()},
            {name: array[at : at + 1] for name, array in outputs.items()},
        ).alarms
    ]


def test_two_inputs_are_watched_and_the_one_that_moved_is_named():
    reference = built(TWO, VALUE, two(500, 1))
    calm = Monitor(reference, TWO, VALUE)
    assert fed(calm, two(1500, 2)) == []
    for change, source in (({"bright": 0.25}, "image"), ({"vocabulary": 15}, "ids")):
        alarms = fed(Monitor(reference, TWO, VALUE), two(400, 3, **change))
        assert alarms, change
        assert any(source in alarm.where or source in alarm.message for alarm in alarms), [a.message for a in alarms]


def test_detections_are_watched_without_classes():
    reference = built(PICTURE, FOUND, detections(400, 1), DETECTION)
    assert reference.header.classes == 0
    monitor = Monitor(reference, PICTURE, FOUND, None, DETECTION)
    assert fed(monitor, detections(1200, 2)) == []
    assert monitor.accuracy(2048) is None
    assert fed(Monitor(reference, PICTURE, FOUND, None, DETECTION), detections(400, 3, crowd=14))


def test_threads_share_one_monitor():
    reference = built(TWO, VALUE, two(300, 1))
    monitor = Monitor(reference, TWO, VALUE)
    streams = [two(160, 10 + number) for number in range(6)]
    failed = []

    def work(data):
        try:
            fed(monitor, data)
        except BaseException as error:  # noqa: BLE001 - told below
            failed.append(error)

    threads = [threading.Thread(target=work, args=(data,)) for data in streams]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    status = monitor.status()
    assert (status["samples"], status["calls"], status["passed_over"]) == (960, 960, 0)
    assert status["alarms"] == []


@pytest.mark.parametrize("missing", ["image", "value"])
def test_a_tensor_that_is_missing_is_named(missing):
    reference = built(TWO, VALUE, two(100, 1))
    inputs, outputs = two(1, 2)
    with pytest.raises(KeyError, match=missing):
        Monitor(reference, TWO, VALUE).observe(
            {name: array for name, array in inputs.items() if name != missing},
            {name: array for name, array in outputs.items() if name != missing},
        )


@pytest.mark.parametrize("by", [2.0, -3.0, 6.0])
def test_what_has_moved_and_varies_as_before_is_not_said_to_vary(by):
    """All of its samples are far away, which is not that they lie far apart."""
    dice = np.random.default_rng(3)
    inputs, value = (TensorSpec("x", (None, 8), "float32"),), (TensorSpec("y", (None, 1), "float32"),)
    builder = Builder(inputs, value, None, Interpret(task="regression"))
    x = dice.normal(size=(1000, 8)).astype(np.float32)
    builder.add({"x": x}, {"y": x[:, :1]})
    monitor = Monitor(builder.finish(), inputs, value, None, Interpret(task="regression"))
    x = dice.normal(size=(960, 8)).astype(np.float32)
    x[320:, 3] += by
    told = [a for part in np.split(x, 30) for a in monitor.observe({"x": part}, {"y": part[:, :1]}).alarms]
    assert any("value 3" in alarm.message for alarm in told)
    assert not any(word in alarm.message for alarm in told for word in ("varies", "closely")), told
    x[320:, 5] *= 3  # and what lies further apart is
    again = Monitor(monitor.reference, inputs, value, None, Interpret(task="regression"))
    told = [a for part in np.split(x, 30) for a in again.observe({"x": part}, {"y": part[:, :1]}).alarms]
    assert any("value 5 varies more" in alarm.message for alarm in told)
