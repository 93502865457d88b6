"""Retraining: what replaces the old model, and what does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edgekit
from edgekit import artifact as artifacts
from edgekit.deploy import fleet
from edgekit.deploy.fleet import Deployment
from edgekit.deploy.trial import Bounds
from edgekit.errors import ArtifactError, DataError, UsageError, VerificationError
from edgekit.monitor.reference import Reference
from edgekit.retraining import Judged, _enforce, _renamed
from edgekit.store import Shelf
from edgekit.teaching import Labelled, divided, given

sklearn = pytest.importorskip("sklearn")


def fit(x, y, **known):
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=300, **known).fit(x, y)


@pytest.fixture(scope="module")
def digits():
    """(old train, old test, new): the new are the old, upside down."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    turned = x.reshape(-1, 8, 8)[:, ::-1, ::-1].reshape(-1, 64)
    return (x[:900], y[:900]), (x[900:1200], y[900:1200]), (turned[1200:], y[1200:])


@pytest.fixture(scope="module")
def deployed(digits, tmp_path_factory):
    """The artifact that a board has."""
    folder = tmp_path_factory.mktemp("old")
    train, test, _ = digits
    metadata = {"interpret": {"task": "classification", "labels": [f"digit {n}" for n in range(10)]}}
    edgekit.convert(fit(*train), output=folder / "old.onnx", evaluation=test, metadata=metadata)
    return folder / "old.onnx"


def both(model, old, new):
    assert model == "the old model"
    assert isinstance(old, Labelled)
    return fit(np.concatenate([old.x, new.x]), np.concatenate([old.y, new.y]))


def test_a_model_that_learned_replaces_the_old_one(digits, deployed, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_STORE", str(tmp_path / "models"))
    train, test, new = digits
    asked = Deployment(deployed, "digits", seconds=0.2, bounds=Bounds(slower=1000))
    fleet.deploy(asked, "local")
    seen = []
    done = edgekit.retrain(
        both, "the old model", "digits", train, new, old_test=test, max_drop=8, output=tmp_path / "new.onnx",
        deploy=asked, progress=seen.append,
    )  # fmt: skip
    old, fresh = done.judged
    assert (old.data, old.metric, old.samples) == ("old", "top1", 300)
    assert fresh.samples == round(0.3 * len(new[1]))
    assert fresh.after - fresh.before > 25
    assert old.drop <= 8
    assert done.artifact.path == tmp_path / "new.onnx"
    assert done.artifact.manifest.interpret.labels[3] == "digit 3"
    assert Shelf("digits", tmp_path / "models").settled().active == done.artifact.sha256
    assert done.deployed[0].installed.number == 2
    assert {"train", "verify", "trial"} <= {event.get("stage") for event in seen}
    assert done.conversion.warnings == ()
    reference = Reference.from_bytes(done.artifact.reference)
    assert reference.header.samples <= len(new[1]), "monitors go by the new data alone"
    assert reference.header.estimator is not None, "the accuracy is estimated as it was"
    document = done.to_dict()
    assert document["judged"][1]["drop"] == fresh.drop
    assert document["artifact"]["sha256"] == done.artifact.sha256


def test_a_function_that_returns_nothing_is_told_so(digits, deployed, tmp_path):
    train, test, new = digits
    before = deployed.read_bytes()
    with pytest.raises(UsageError) as caught:
        edgekit.retrain(
            lambda model, old, new: None, "the old model", deployed, train, new, old_test=test,
            output=tmp_path / "new.onnx",
        )  # fmt: skip
    assert caught.value.code == "retrain-nothing"
    assert not (tmp_path / "new.onnx").exists()
    assert deployed.read_bytes() == before


def test_other_names_of_inputs_and_outputs_are_told(deployed):
    old = artifacts.read(deployed)
    assert _renamed(old.manifest, old) == []
    (spec,) = old.manifest.inputs
    about = replace(old.manifest, inputs=(replace(spec, name="pixels"),))
    assert _renamed(about, old) == [
        f"the inputs are called {spec.name}, and were pixels: apps that name them must follow"
    ]


def test_a_model_that_forgot_does_not(digits, deployed, tmp_path):
    train, test, new = digits
    with pytest.raises(VerificationError) as refused:
        edgekit.retrain(
            lambda model, old, new: fit(new.x, new.y), None, deployed, train, new, old_test=test,
            output=tmp_path / "new.onnx",
            deploy=Deployment(Path(), "digits", str(tmp_path / "models"), seconds=0.2),
        )  # fmt: skip
    assert refused.value.code == "retrain-forgot"
    assert refused.value.details["before"] > refused.value.details["after"] + 20
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_worse_on_what_the_boards_meet_does_not(digits, deployed, tmp_path):
    _, test, turned = digits
    with pytest.raises(VerificationError) as refused:
        edgekit.retrain(lambda model, old, new: fit(old.x, old.y), None, deployed, turned, test,
                        output=tmp_path / "new.onnx")  # fmt: skip
    assert refused.value.code == "retrain-worse"
    assert list(tmp_path.iterdir()) == []


def test_samples_that_stand_for_many_stay():
    weights = np.repeat([1.0, 10.0], 500)
    thinned = Labelled({"x": np.arange(1000.0)}, np.zeros(1000), weights).thinned(seed=3)
    heavy = int((thinned.weights == 10).sum())
    assert heavy == 500
    assert 25 < len(thinned) - heavy < 90
    alike = Labelled({"x": np.arange(50.0)}, np.zeros(50), np.ones(50))
    assert len(alike.thinned(seed=3)) == 50


def test_what_may_be_lost_and_what_not():
    _enforce(Judged("new", "top1", 100, 90.0, 89.0), 1.0)
    for data, code in (("old", "retrain-forgot"), ("new", "retrain-worse")):
        for after in (88.9, float("nan")):
            with pytest.raises(VerificationError) as refused:
                _enforce(Judged(data, "top1", 100, 90.0, after), 1.0)
            assert refused.value.code == code


def test_what_makes_no_sense_is_refused(digits, deployed, tmp_path):
    train, _, new = digits

    def never(*_):
        raise AssertionError("nothing may be trained")

    def refused(kind, code, *data, old=deployed, **known):
        with pytest.raises(kind) as error:
            edgekit.retrain(never, None, old, *data, **known)
        assert error.value.code == code

    few = tuple(part[:30] for part in new)
    refused(DataError, "retrain-few", train, few)
    refused(DataError, "labels-missing", train, {"x": new[0]})
    for wrong in ({"holdout": 1.0}, {"holdout": 0.0}, {"max_drop": -1.0}):
        refused(UsageError, "option-value", train, new, **wrong)
    opened = artifacts.read(deployed)
    (tmp_path / "foreign.onnx").write_bytes(opened.model)
    refused(ArtifactError, "retrain-foreign", train, new, old=tmp_path / "foreign.onnx")
    with pytest.raises(UsageError) as error:
        edgekit.retrain(both, "the old model", deployed, train, new, precsion="int8")
    assert error.value.code == "option-unknown"


def test_samples_are_read_divided_and_joined(deployed, tmp_path):
    about = artifacts.read(deployed).manifest
    dice = np.random.default_rng(0)
    x, y = dice.random((50, 64)).astype(np.float32), np.array([f"digit {n % 10}" for n in range(50)])
    np.savez(tmp_path / "data.npz", x=x, y=y, weight=np.arange(50.0))
    whole = given(tmp_path / "data.npz", about)
    assert whole.y.tolist() == [n % 10 for n in range(50)]
    rest, kept = divided(whole, 0.3, 4)
    assert (len(rest), len(kept)) == (35, 15)
    assert sorted([*rest.weights, *kept.weights]) == list(range(50))
    assert np.array_equal(divided(whole, 0.3, 4)[1].x, kept.x)
    again = given(rest.joined(kept).save(tmp_path / "joined.npz"), about)
    assert sorted(map(bytes, again.x)) == sorted(map(bytes, x))
    assert again.weights.tolist() == [1.0] * 50
    two = Labelled({"a": x, "b": x}, whole.y, whole.weights)
    with pytest.raises(DataError):
        _ = two.x
