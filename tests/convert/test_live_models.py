"""Models as they are in memory after training, with data as it was fed to `fit`, through the whole pipeline."""

from __future__ import annotations

import numpy as np
import pytest

import edgekit
from edgekit.errors import SourceError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

keras = pytest.importorskip("keras", reason="comes with the tensorflow extra")
tf = pytest.importorskip("tensorflow")


@pytest.fixture(scope="module")
def trained():
    """A small network that knows wine, and its data."""
    x, y = pytest.importorskip("sklearn.datasets").load_wine(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x = ((x - x.mean(axis=0)) / x.std(axis=0)).astype(np.float32)[order]
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.Input((13,), name="wine"),
        keras.layers.Dense(16, activation="relu"),
        keras.layers.Dense(3, activation="softmax", name="cultivar"),
    ])  # fmt: skip
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x[:100], y[order][:100], epochs=40, batch_size=16, verbose=0)
    return model, x, y[order].astype(np.int32)


def test_a_model_and_its_data_sets_in_hand(trained, tmp_path):
    model, x, y = trained
    made = edgekit.convert(
        model,
        to="tflite",
        precision="int8",
        calibration=tf.data.Dataset.from_tensor_slices((x[:100], y[:100])).batch(32),
        evaluation=(x[100:], keras.utils.to_categorical(y[100:])),
    )
    assert made.manifest.proof.samples == len(x) - 100
    assert made.manifest.proof.metric.name == "top1"
    assert made.manifest.proof.metric.source > 85
    made.write(tmp_path / "wine.tflite")
    expected = np.asarray(model(x[100:])).argmax(axis=1)
    for opened in (made, tmp_path / "wine.tflite"):
        with edgekit.load(opened) as loaded:
            answers = loaded.run({"wine": x[100:]})
        (name,) = answers
        assert name == "cultivar"
        assert (answers[name].argmax(axis=1) == expected).mean() > 0.95


def test_a_live_model_that_remembers_is_refused():
    model = keras.Sequential([keras.Input((4, 2), batch_size=1), keras.layers.GRU(3, stateful=True)])
    with pytest.raises(SourceError) as caught:
        edgekit.convert(model, to="tflite")
    assert caught.value.code == "source-stateful"


@pytest.mark.parametrize("thing", [5, None, b"junk", lambda x: x])
def test_what_is_no_model_is_refused_by_its_type(thing):
    with pytest.raises(edgekit.EdgeKitError, match=type(thing).__name__):
        edgekit.convert(thing, to="tflite")
