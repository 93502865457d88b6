"""A version on trial beside the one before, on what a running app asks."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_case import NAME, digest, receive

import edgekit
from edgekit import artifact as artifacts
from edgekit.deploy import fleet
from edgekit.deploy.trial import Bounds
from edgekit.errors import FeedError, UsageError, VerificationError
from edgekit.runtimes.flow.shadow import difference
from edgekit.store import Record, Shadow, Shelf, lines, shadow
from edgekit.store.faults import told
from edgekit.store.shelf import SHADOW

X = np.random.default_rng(3).normal(size=(4, 16)).astype(np.float32)


def net(seed: int, width: int = 16, scale: float = 1.0) -> bytes:
    """An artifact: rows of 16 numbers -> probabilities of 5 classes."""
    from edgekit.converters.tflite_graphs.builder import Builder

    dice = np.random.default_rng(seed)
    graph = Builder()
    x = graph.input("row", (-1, width))
    weights = graph.constant("w", dice.normal(size=(5, width)).astype(np.float32) * np.float32(scale))
    bias = graph.constant("b", np.zeros(5, np.float32))
    made = graph.op("FULLY_CONNECTED", [x, weights, bias], (-1, 5), "scores", "FullyConnectedOptions")
    probabilities = graph.op("SOFTMAX", [made], (-1, 5), "probs", "SoftmaxOptions", {"beta": 1.0})
    return edgekit.convert(graph.finish([probabilities], signature="serving_default"), to="tflite").data


@pytest.fixture(scope="module")
def nets() -> dict[str, bytes]:
    return {"old": net(0), "alike": net(0, scale=1.01), "other": net(1), "narrow": net(0, width=8)}


@pytest.fixture
def place(nets, tmp_path):
    """A folder of models where `old` is active."""
    shelf = Shelf(NAME, tmp_path / "models")
    with shelf.changing():
        begin(shelf, nets["old"], None)
        shelf.change(Record.commit)
    return tmp_path / "models"


def begin(shelf: Shelf, data: bytes, asked: Shadow | None) -> None:
    receive(shelf, data)
    for stage in ("verified", "tested"):
        shelf.change(lambda record, stage=stage: record.advance(digest(data), stage))
    shelf.change(lambda record: record.switch(digest(data), 60.0, asked))


@contextmanager
def on_trial(root, data: bytes, asked: Shadow | None):
    """A trial that is supervised here."""
    shelf = Shelf(NAME, root)
    with shelf.changing():
        begin(shelf, data, asked)
        yield shelf


def follow(model) -> None:
    """See the record now, and not in a quarter of a second."""
    model._asked = -1e9


def test_a_share_of_the_calls_is_compared(nets, place):
    asked = Shadow(share=0.25)
    with edgekit.watch(NAME, root=place) as model, on_trial(place, nets["alike"], asked) as shelf:
        follow(model)
        for _ in range(12):
            model.run(X)
        assert model.sha256 == digest(nets["alike"])
        assert shadow.seen(shelf, model.sha256, asked, over=True) == (
            "", "3 of 3 answers of apps agreed with the version before"
        )  # fmt: skip


@pytest.mark.parametrize("how", ["run", "predict"])
def test_other_answers_are_told_and_the_app_has_the_new_ones(nets, place, how):
    asked = Shadow(share=1.0)
    with edgekit.watch(NAME, root=place) as model, on_trial(place, nets["other"], asked) as shelf:
        follow(model)
        with edgekit.load(artifacts.from_bytes(nets["other"])) as direct:
            for row in X:
                got, want = getattr(model, how)(row), getattr(direct, how)(row)
                assert str(got) == str(want)
        fault, said = shadow.seen(shelf, model.sha256, asked, over=True)
        assert fault.startswith(said)
        assert ", 0.98 of them must: " in fault
        assert shadow.seen(shelf, model.sha256, asked, over=False)[0] == ""  # four are too few to judge by
        for _ in range(5):
            for row in X:
                model.run(row)
        assert shadow.seen(shelf, model.sha256, asked, over=False)[0]


@pytest.mark.parametrize("trial", [None, Shadow(share=1.0)], ids=["alone", "compared"])
def test_a_followed_model_takes_what_a_model_takes(nets, place, trial):
    """Answers in the caller's arrays are the new version's, whatever is asked of the one before."""
    new = nets["other"] if trial else nets["old"]
    pause = on_trial(place, new, trial) if trial else nullcontext()
    with edgekit.watch(NAME, root=place) as model, pause, edgekit.load(artifacts.from_bytes(new)) as direct:
        follow(model)
        for raw in (False, True):
            out = {"probs": np.zeros((4, 5), np.float32)}
            found = model.run({"row": X}, raw=raw, out=out)
            assert found["probs"] is out["probs"]
            np.testing.assert_array_equal(out["probs"], direct.run({"row": X})["probs"])
        with pytest.raises(FeedError) as caught:
            model.run({"row": X}, out={"probs": np.zeros((4, 6), np.float32)})
        assert caught.value.code == "out-array"
        rows = list(X)
        assert str(model.predict_batch(iter(rows))) == str(direct.predict_batch(rows))
        assert model.predict_batch([]) == []
        assert str(asyncio.run(model.apredict(rows[0]))) == str(direct.predict(rows[0]))
        whys = [message["why"] for message in lines.about(model._shelf.folder / SHADOW, digest(new))]
        assert len(whys) == (5 if trial else 0)
        assert all(whys)  # each was compared with the version before, and none with itself


def test_a_followed_model_takes_opencvs_frames(tmp_path):
    from onnx import TensorProto, helper

    sides = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, size)]
             for name, size in (("x", ["N", 3, 4, 4]), ("y", ["N", 3]))]  # fmt: skip
    node = helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0)
    made = helper.make_model(
        helper.make_graph([node], "g", *sides), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    about = {"preprocess": {"kind": "image"}, "interpret": {"task": "regression"}}
    artifact = edgekit.convert(made, to="tflite", metadata=about)
    shelf = Shelf(NAME, tmp_path)
    with shelf.changing():
        begin(shelf, artifact.data, None)
        shelf.change(Record.commit)
    frame = np.zeros((4, 4, 3), np.uint8)
    frame[..., 0] = 200
    with edgekit.watch(NAME, root=tmp_path) as model, edgekit.load(artifact) as direct:
        follow(model)
        for colors in (None, "RGB", "BGR"):
            expected = direct.predict(frame, colors=colors)
            assert model.predict(frame, colors=colors) == expected
            assert model.predict_batch([frame], colors=colors) == [expected]
            assert asyncio.run(model.apredict(frame, colors=colors)) == expected
            with edgekit.Stream(model, [frame], colors=colors) as stream:
                assert [seen.answer for seen in stream] == [expected]
        assert model.predict(frame, colors="BGR") != model.predict(frame)


def test_nothing_compared_is_no_agreement(nets, place):
    asked = Shadow()
    with on_trial(place, nets["alike"], asked) as shelf:
        assert shadow.seen(shelf, digest(nets["alike"]), asked, over=False) == ("", "")
        assert "no answer of an app" in shadow.seen(shelf, digest(nets["alike"]), asked, over=True)[0]


def test_comparing_ends_when_enough_was_seen(nets, place):
    with edgekit.watch(NAME, root=place) as model, on_trial(place, nets["alike"], Shadow(share=1.0)) as shelf:
        follow(model)
        (shelf.folder / "shadow").write_bytes(b"\n" * (1 << 17))
        for _ in range(3):
            model.run(X)
        assert (shelf.folder / "shadow").stat().st_size == 1 << 17
        assert not model._comparing.wanted


@pytest.mark.parametrize("late", [False, True])
def test_what_the_old_version_takes_and_the_new_one_refuses_is_a_fault(nets, place, late):
    """`late`: the app starts in the trial."""
    with on_trial(place, nets["narrow"], Shadow()) as shelf:
        if not late:
            shelf.change(lambda record: record.fall_back("test"))
        with edgekit.watch(NAME, root=place) as model:
            want = {"probs": model.run(X)["probs"]} if not late else None
            if not late:
                shelf.change(lambda record: record.advance(digest(nets["narrow"]), "verified"))
                shelf.change(lambda record: record.advance(digest(nets["narrow"]), "tested"))
                shelf.change(lambda record: record.switch(digest(nets["narrow"]), 60.0, Shadow()))
                follow(model)
            with pytest.raises(FeedError):
                model.run(X[:, :3])  # neither takes it
            assert told(shelf, digest(nets["narrow"])) == ""
            answer = model.run(X)
            assert told(shelf, digest(nets["narrow"]))
            if want:
                np.testing.assert_array_equal(answer["probs"], want["probs"])
            assert answer["probs"].shape == (4, 5)


def test_an_app_that_starts_in_a_trial_compares_too_and_begins_on_the_old_one_when_it_must(nets, place, monkeypatch):
    asked = Shadow(share=1.0)
    with on_trial(place, nets["alike"], asked) as shelf:
        with edgekit.watch(NAME, root=place) as model:
            model.run(X)
            assert "1 of 1" in shadow.seen(shelf, digest(nets["alike"]), asked, over=True)[1]
            with model.using() as active:
                assert active.artifact.sha256 == digest(nets["alike"])
        shelf.change(lambda record: record.fall_back("test"))
        receive(shelf, b"no model")
        begin(shelf, b"no model", asked)
        with edgekit.watch(NAME, root=place) as model:
            assert model.sha256 == digest(nets["old"])
            assert model.run(X)["probs"].shape == (4, 5)
        assert told(shelf, digest(b"no model"))


def test_with_a_watchdog_an_engine_that_dies_on_trial_is_a_fault(nets, place):
    with edgekit.watch(NAME, root=place, watchdog=60.0) as model, on_trial(place, nets["alike"], None) as shelf:
        want = model.run(X)["probs"]
        follow(model)
        model.run(X)
        assert model.sha256 == digest(nets["alike"])
        os.kill(model._active.model._session.pid, signal.SIGKILL)
        np.testing.assert_array_equal(model.run(X)["probs"], want)
        assert "SIGKILL" in told(shelf, digest(nets["alike"]))


def test_deploy_with_shadow(nets, place, tmp_path):
    paths = {}
    for name, data in nets.items():
        paths[name] = tmp_path / f"{name}.tflite"
        paths[name].write_bytes(data)

    def deploy(name: str, seconds: float, asked: Shadow) -> None:
        bounds = Bounds(slower=1000)
        fleet.deploy(fleet.Deployment(paths[name], NAME, str(place), seconds, bounds, shadow=asked), "local")

    with pytest.raises(VerificationError, match="no answer of an app"):
        deploy("alike", 0.2, Shadow())
    stop = threading.Event()

    def app() -> None:
        with edgekit.watch(NAME, root=place) as model:
            while not stop.is_set():
                model.run(X)
                stop.wait(0.01)

    running = threading.Thread(target=app)
    running.start()
    try:
        deploy("alike", 2.0, Shadow(share=0.5))
        assert "answers of apps agreed" in Shelf(NAME, place).record().events[-1].detail
        with pytest.raises(VerificationError, match="of them must: probs: class") as rolled_back:
            deploy("other", 60.0, Shadow(share=1.0))  # ends before its time
    finally:
        stop.set()
        running.join()
    record = Shelf(NAME, place).record()
    assert record.active == digest(nets["alike"])
    assert record.events[-1].detail == rolled_back.value.details["reason"]


@given(st.integers(0, 99), st.one_of(st.just(0.0), st.floats(1e-9, 0.5)))  # less is the rounding of the sums here
def test_values_agree_within_the_tolerance_of_their_range(seed, tolerance):
    dice = np.random.default_rng(seed)
    old = {"y": dice.normal(size=(3, 4))}
    step = float(np.ptp(old["y"]))
    near = {"y": old["y"] + step * (tolerance * 0.99)}
    far = {"y": old["y"] - step * (tolerance * 1.01 + 0.001)}
    assert difference(near, old, task="regression", tolerance=tolerance) == ""
    assert "of its range" in difference(far, old, task="regression", tolerance=tolerance)


@pytest.mark.parametrize(
    ("new", "old", "task", "agrees"),
    [
        ([[0.4, 0.6]], [[0.6, 0.4]], "classification", False),
        ([[0.4, 0.6]], [[0.501, 0.499, 0.0]], "classification", False),
        ([[0.4, 0.6, 0.0]], [[0.501, 0.499, 0.0]], "classification", True),  # the old one hardly preferred its own
        ([[0.1, 0.9]], [[0.4, 0.6]], "classification", True),
        ([[0.1, 0.9]], [[0.4, 0.6]], "other", False),
        ([[0.62]], [[0.6]], "classification", True),
        ([[5.0]], [[0.6]], "regression", False),
        ([[np.nan, 1.0]], [[np.nan, 1.0]], "other", True),
        ([[np.nan, 1.0]], [[0.0, 1.0]], "other", False),
        ([[1, 2]], [[1, 2]], "other", True),
        ([], [], "other", True),
    ],
)
def test_what_counts_as_agreement(new, old, task, agrees):
    found = difference({"y": np.array(new)}, {"y": np.array(old)}, task=task, tolerance=0.1)
    assert (found == "") == agrees


def test_other_outputs_texts_and_impossible_shares():
    assert difference({"a": X}, {"b": X}, task="other", tolerance=1.0) == "it gives a in place of b"
    words = np.array(["yes", "no"], object)
    assert difference({"a": words}, {"a": words.copy()}, task="other", tolerance=1.0) == ""
    assert difference({"a": words[::-1]}, {"a": words}, task="other", tolerance=1.0) == "a is another"
    for wrong in ({"share": 0.0}, {"share": 1.1}, {"agree": 0.0}, {"tolerance": -1.0}, {"tolerance": float("nan")}):
        with pytest.raises(ValueError, match="shares"):
            Shadow(**wrong)


def test_an_impossible_share_is_a_usage_error(tmp_path, capsys):
    from edgekit import cli

    assert cli.run(["deploy", "m.tflite", "--name", NAME, "--shadow", "2"]) == UsageError.exit_code
    assert "--shadow" in capsys.readouterr().err
