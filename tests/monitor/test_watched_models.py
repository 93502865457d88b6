"""From a conversion to a model that is watched: the reference travels in the artifact."""

from __future__ import annotations

import json

import numpy as np
import pytest

import edgekit
from edgekit import artifact as artifacts
from edgekit.errors import ArtifactError
from edgekit.feeding import Preprocess
from edgekit.monitor.rows import Rows
from edgekit.monitor.watch import reference_of
from edgekit.reading import Interpret
from edgekit.tensors import TensorSpec


@pytest.fixture(scope="module")
def converted(tiny_files, tmp_path_factory):
    """The tiny classifier as int8 with a reference, as path; and its data."""
    folder = tmp_path_factory.mktemp("converted")
    dice = np.random.default_rng(1)
    images = dice.random((400, 8, 8, 2), np.float32)
    np.savez(folder / "calibration.npz", x=images[:200])
    np.savez(folder / "evaluation.npz", x=images[100:])
    path = folder / "model.tflite"
    edgekit.convert(
        tiny_files["tflite"],
        output=path,
        precision="int8",
        interface="int8",
        calibration=folder / "calibration.npz",
        evaluation=folder / "evaluation.npz",
        task="classification",
    )
    return path, images


def test_the_reference_is_small_and_counts_each_sample_once(converted):
    about = artifacts.read(converted[0])
    made = reference_of(about)
    assert len(about.reference) < 64 * 1024
    assert (made.header.samples, made.header.proven, made.header.classes) == (400, 300, 5)


@pytest.mark.parametrize("to", ["tflite", "onnx"])
def test_equal_data_gives_equal_bytes_and_no_reference_none(tiny_files, tmp_path, to):
    images = np.random.default_rng(1).random((60, *((8, 8, 2) if to == "tflite" else (2, 8, 8))), np.float32)
    make = [edgekit.convert(tiny_files[to], to=to, evaluation=images, reference=r) for r in (True, True, False)]
    assert make[0].data == make[1].data
    assert reference_of(artifacts.from_bytes(make[0].data)).header.samples == 60
    assert make[2].reference is None
    with pytest.raises(ArtifactError) as caught, edgekit.load(make[2]) as model:
        model.monitor()
    assert caught.value.code == "reference-missing"


@pytest.mark.parametrize("to", ["tflite", "onnx"])
def test_labels_bring_an_estimate_of_the_accuracy_that_is_the_same_again(tiny_files, tmp_path, to):
    images = np.random.default_rng(1).random((80, *((8, 8, 2) if to == "tflite" else (2, 8, 8))), np.float32)
    with edgekit.load(edgekit.convert(tiny_files[to], to=to)) as model:
        scores = model.run({model.inputs[0].name: images})[model.outputs[0].name]
    unsure = scores.max(1).argsort().argsort() < 20  # three of four are right
    labels = np.where(unsure, (scores.argmax(1) + 1) % 5, scores.argmax(1))
    options = {"to": to, "evaluation": (images, labels), "task": "classification", "max_drop": 50.0}
    made = [edgekit.convert(tiny_files[to], **options) for _ in range(2)]
    assert made[0].data == made[1].data
    reference = reference_of(artifacts.from_bytes(made[0].data))
    estimator = reference.header.estimator
    assert estimator.accuracy == 0.75
    assert estimator.samples == 80
    assert estimator.anchors > 24  # one of every kind at least, though this model leaves little room
    assert len(reference.anchors["places"]) == estimator.anchors
    with edgekit.load(made[0]) as model:
        monitor = model.monitor()
        for _ in range(4):
            model.run({model.inputs[0].name: images})
        told = monitor.accuracy(256)
    assert told["low"] <= 0.75 <= told["high"]


@pytest.mark.parametrize("format", ["tflite", "onnx"])
def test_a_changed_reference_is_noticed(tiny_files, format):
    images = np.random.default_rng(1).random((30, *((8, 8, 2) if format == "tflite" else (2, 8, 8))), np.float32)
    data = edgekit.convert(tiny_files[format], to=format, evaluation=images).data
    assert artifacts.from_bytes(data).reference
    at = data.index(b"edgekit.reference") + 60
    for place in (at, at + len(artifacts.from_bytes(data).reference) // 2):
        damaged = bytearray(data)
        damaged[place] ^= 1
        with pytest.raises(ArtifactError) as caught:
            artifacts.from_bytes(bytes(damaged))
        assert caught.value.code == "artifact-damaged"


@pytest.mark.parametrize("way", ["run", "raw", "bare", "single", "predict", "out"])
def test_every_way_of_asking_is_observed_alike(converted, way):
    path, images = converted
    with edgekit.load(path) as model:
        monitor = model.monitor()
        rates = []
        for image in images[:32]:
            feeds = {model.inputs[0].name: image[None]}
            if way == "run":
                model.run(feeds)
            elif way == "raw":
                spec = model.inputs[0]
                integers = np.rint(image / spec.quant.scale[0] + spec.quant.zero_point[0])
                model.run({spec.name: np.clip(integers, -128, 127).astype(np.int8)[None]}, raw=True)
            elif way == "bare":
                model.run(image[None])
            elif way == "single":
                model.run(image)
            elif way == "predict":
                model.predict(image)
            else:
                model.run(feeds, out={model.outputs[0].name: np.empty((1, 5), np.float32)})
            rates.append(model.watch.verdict.ood_score)
        assert monitor.status()["samples"] == 32
        with edgekit.load(path) as other:
            other.monitor()
            other.run({model.inputs[0].name: images[31:32]})
            assert rates[-1] == pytest.approx(other.watch.verdict.ood_score, abs=0.15)


def test_what_is_taken_has_its_verdict(converted):
    path, images = converted
    taken = []

    class Taker:
        def offer(self, inputs, outputs, verdict):
            taken.append((inputs, outputs, verdict))

    with edgekit.load(path) as model:
        model.monitor(capture=Taker())
        answer = model.run(images[0])
    ((inputs, outputs, verdict),) = taken
    np.testing.assert_array_equal(inputs[model.inputs[0].name], images[:1])
    assert outputs is answer or all(outputs[name] is answer[name] for name in answer)
    assert verdict.uncertainty == pytest.approx(1 - answer[model.outputs[0].name].max(), abs=1e-6)


def test_dark_pictures_raise_an_alarm(converted):
    path, images = converted
    with edgekit.load(path) as model:
        monitor = model.monitor()
        for image in images:
            model.run(image)
        assert monitor.alarms == ()
        for image in images[:200]:
            model.run(image * 0.6)
        kinds = {alarm.kind for alarm in monitor.alarms}
        assert "input-shift" in kinds
        json.dumps(monitor.status())


def test_calls_without_all_outputs_are_counted(converted):
    path, images = converted
    with edgekit.load(path) as model:
        monitor = model.monitor()
        model.run(images[:1], out={})
        assert (monitor.status()["calls"], monitor.status()["passed_over"]) == (1, 1)


@pytest.mark.parametrize("batch", [None, 1])
def test_an_output_whose_batch_is_not_in_front_is_read_whole(batch):
    inputs = (TensorSpec("x", (batch, 4), "float32"),)
    steps = np.arange(3 * 5 * 2, dtype=np.float32).reshape(3, 5, 2)
    # As a run gives several of them: along the free axis, or one by one.
    given = steps if batch is None else steps.transpose(1, 0, 2)[:, :, None]
    rows = Rows(inputs, (TensorSpec("steps", (3, batch, 2), "float32"),), Preprocess(), Interpret())
    for sample in range(5):  # more than there are steps
        together, alone = np.empty((1, rows.width + len(rows.outputs))), np.empty((1, rows.width + len(rows.outputs)))
        x = np.zeros((5, 4), np.float32)
        rows.features(rows.views({"x": x}, {"steps": given}, sample, 1), together)
        rows.features(rows.views({"x": x}, {"steps": steps[:, sample : sample + 1]}, 0, 1), alone)
        np.testing.assert_array_equal(together, alone)
        assert together.any() == bool(len(rows.outputs))


def test_a_pool_is_watched_as_one(converted, tmp_path):
    path, images = converted
    with edgekit.Pool(path, sessions=2, monitor=tmp_path) as pool:
        answers = [pool.submit(image) for image in images[:50]]
        assert all(answer.result() is not None for answer in answers)
        assert pool.monitor.samples == 50
    with edgekit.Pool(path, sessions=2, monitor=tmp_path) as pool:
        assert pool.monitor.samples == 50
    with edgekit.Pool(path, sessions=1) as pool:
        assert pool.monitor is None


def test_warming_up_is_nothing_that_was_seen(converted):
    with edgekit.load(converted[0]) as model:
        monitor = model.monitor()
        model.warm_up(5)
        assert (monitor.calls, monitor.samples) == (0, 0)


def test_things_that_do_not_go_together_are_seen_once_each(tmp_path):
    """A sum over the batch is not one a sample: each batch was asked for whole, and then again one by one."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    node = helper.make_node("ReduceMax", ["x"], ["y"], axes=[0], keepdims=1)
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", kind, ["n", 2])],
        [helper.make_tensor_value_info("y", kind, [1, 2])],
    )  # fmt: skip
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)

    class Seen:
        calls = 0

        def run(self, *_, **__):
            self.calls += 1

        def close(self):
            pass

    rows = list(np.array([[1, 2], [3, 0]], np.float32))
    with edgekit.load(path) as model:
        model.watch = seen = Seen()
        for _ in range(3):
            answers = [answer.outputs["y"].tolist() for answer in model.predict_batch(rows)]
            assert answers == [[[1, 2]], [[3, 0]]]
        assert seen.calls == 1 + 3 * 2
