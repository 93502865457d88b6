"""Versions of a named model, watched and captured whichever is active."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest

import edgekit
from edgekit.converters.tflite_graphs.builder import Builder
from edgekit.errors import ArtifactError
from edgekit.monitor.capture import Capture
from edgekit.monitor.plan import Plan
from edgekit.monitor.records import unpack
from edgekit.monitor.ring import listed
from edgekit.monitor.segments import payloads
from edgekit.monitor.strata import Draw
from edgekit.store import Record, Shelf

NAME = "rows"
DRIFTED = 3.0


def rows(number: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(number, 8)).astype(np.float32)


def net(seed: int, *, reference: bool = True) -> bytes:
    """An artifact: rows of 8 numbers -> probabilities of 3 classes, with what its data looked like."""
    graph = Builder()
    x = graph.input("row", (-1, 8))
    weights = graph.constant("w", np.random.default_rng(seed).normal(size=(3, 8)).astype(np.float32))
    bias = graph.constant("b", np.zeros(3, np.float32))
    made = graph.op("FULLY_CONNECTED", [x, weights, bias], (-1, 3), "scores", "FullyConnectedOptions")
    probabilities = graph.op("SOFTMAX", [made], (-1, 3), "probs", "SoftmaxOptions", {"beta": 1.0})
    model = graph.finish([probabilities], signature="serving_default")
    return edgekit.convert(
        model, to="tflite", evaluation=rows(200, 1), task="classification", reference=reference
    ).data  # fmt: skip


@pytest.fixture(scope="module")
def nets():
    return {"first": net(0), "second": net(1), "bare": net(2, reference=False)}


@pytest.fixture
def put(tmp_path, monkeypatch):
    """Makes a version active; models and captures lie in a folder of the test."""
    monkeypatch.setenv("EDGEKIT_CAPTURES", str(tmp_path / "captures"))
    shelf = Shelf(NAME, tmp_path / "models")

    def active(data: bytes) -> None:
        digest = hashlib.sha256(data).hexdigest()
        with shelf.changing():
            shelf.receive(io.BytesIO(data), digest, len(data))
            shelf.change(lambda record: record.advance(digest, "verified"))
            shelf.change(lambda record: record.advance(digest, "tested"))
            shelf.change(lambda record: record.switch(digest, 60.0, None))
            shelf.change(Record.commit)

    return active


def ask(model, number: int, seed: int, shift: float = 0.0) -> None:
    """See the record now, and not in a quarter of a second; then answer rows one by one."""
    model._asked = -1e9
    for row in rows(number, seed) + np.float32(shift):
        model.run(row[None])


def captured(tmp_path):
    """Samples that were kept: (version, number of strata that drew it)."""
    folder = tmp_path / "captures" / NAME
    found = [unpack(data) for _, path in listed(folder) for data in payloads(path.read_bytes())]
    return [one.record.sample for one in found if one.record.sample is not None]


def test_whichever_version_is_active_is_watched_and_captured(nets, put, tmp_path):
    put(nets["first"])
    plan = Plan(quota_mb=2, window=1e9, random=Draw(1000), strange=Draw(1000, at=1.0))
    with edgekit.watch(NAME, root=tmp_path / "models", monitor=tmp_path / "state", capture=plan, cycle=9) as model:
        assert model.monitor.cycle == 9
        ask(model, 64, 2)
        before = model.monitor
        assert before.status()["samples"] == 64
        assert before.alarms == ()
        put(nets["second"])
        ask(model, 96, 3, DRIFTED)
        assert before.status()["samples"] == 64
        assert model.monitor.status()["samples"] == 96
        assert model.monitor.alarms
        put(nets["bare"])
        ask(model, 10, 4)
        assert model.monitor is None
        assert model.capture.status()["seen"] == 170
    kept = captured(tmp_path)
    digests = [hashlib.sha256(nets[name]).hexdigest() for name in ("first", "second", "bare")]
    assert [sum(one.version == digest for one in kept) for digest in digests] == [64, 96, 10]
    strange = [one for one in kept if "out-of-distribution" in one.taken]
    assert sum(one.version == digests[1] for one in strange) > 90
    assert sum(one.version != digests[1] for one in strange) < 10
    assert all(one.ood is None for one in kept if one.version == digests[2])


def test_an_app_makes_its_own_capture(nets, put, tmp_path):
    """With a redaction, say; the monitor is in memory then."""
    put(nets["first"])

    def made(model):
        plan = Plan(quota_mb=2, window=1e9, random=Draw(1000))
        return Capture(NAME, model, plan, redact=lambda arrays: {name: array * 0 for name, array in arrays.items()})

    with edgekit.watch(NAME, root=tmp_path / "models", capture=made) as model:
        ask(model, 20, 2)
        assert model.monitor.status()["samples"] == 20
        assert model.monitor.status()["state"] is None
    folder = tmp_path / "captures" / NAME
    found = [unpack(data) for _, path in listed(folder) for data in payloads(path.read_bytes())]
    arrays = [one.inputs["row"] for one in found if one.record.sample is not None]
    assert len(arrays) == 20
    assert not np.any(arrays)
    told = [one.record.about["monitor"]["samples"] for one in found if one.record.kind == "status"]
    assert told == [20]


def test_a_monitor_tells_the_capture_that_it_hands_its_calls_to(nets, tmp_path):
    path = tmp_path / "rows.tflite"
    path.write_bytes(nets["first"])
    with edgekit.load(path) as model, Capture(NAME, model, root=tmp_path / "captures") as capture:
        model.monitor(capture=capture)
        ask(model, 40, 2)
    folder = tmp_path / "captures" / NAME
    found = [unpack(data) for _, path in listed(folder) for data in payloads(path.read_bytes())]
    (told,) = [one.record.about["monitor"] for one in found if one.record.kind == "status"]
    assert (told["samples"], told["over"]) == (40, 32)


def test_a_first_version_that_says_nothing_of_its_data_is_refused_if_it_is_to_be_watched(nets, put, tmp_path):
    put(nets["bare"])
    with pytest.raises(ArtifactError) as caught:
        edgekit.watch(NAME, root=tmp_path / "models", monitor=tmp_path / "state")
    assert caught.value.code == "reference-missing"
    with edgekit.watch(NAME, root=tmp_path / "models", capture=Plan(quota_mb=1)) as model:
        ask(model, 5, 2)
        assert model.monitor is None
        assert model.capture.status()["seen"] == 5


def test_nothing_is_watched_unless_it_is_asked_for(nets, put, tmp_path):
    put(nets["first"])
    with edgekit.watch(NAME, root=tmp_path / "models") as model:
        ask(model, 3, 2)
        assert (model.monitor, model.capture) == (None, None)
    assert not (tmp_path / "captures").exists()


def test_what_a_version_before_still_finishes_is_not_kept():
    """It would stand among the captures as answered by the version that is active."""
    from edgekit.monitor.field import Field

    class Taken:
        offers = 0

        def offer(self, *_):
            self.offers += 1

    field = Field(NAME, None, None, demanded=False)
    field.capture = Taken()
    before, after = object(), object()
    field._model = after
    field.offered(before, {}, {}, None)
    assert field.capture.offers == 0
    field.offered(after, {}, {}, None)
    assert field.capture.offers == 1
