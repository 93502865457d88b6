"""Keras files and live Keras models, of both generations, loaded and answering."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgekit.converters import load_keras, load_saved_model
from edgekit.converters.stages import LoadedModel, Source
from edgekit.errors import FeedError, SourceError, UnsafeSourceError, UsageError

pytestmark = [
    # TensorFlow 2.21's tensors predate numpy 2's copy keyword.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
    # tf-keras would rather write .keras; HDF5 files are what is tested.
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file:UserWarning"),
]

keras = pytest.importorskip("keras", reason="comes with the tensorflow extra")
tf_keras = pytest.importorskip("tf_keras", reason="comes with the tensorflow extra")
tf = pytest.importorskip("tensorflow")


def load(path: Path, **options) -> LoadedModel:
    source = Source(str(path), "keras", sha256="", bytes=0, **options)
    return load_keras.load(source)


def samples(model: LoadedModel, count: int, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        spec.name: random.normal(size=(count, *(size or 5 for size in spec.shape[1:]))).astype(spec.dtype)
        for spec in model.facts.inputs
    }


def two_by_two(k):
    """Two inputs and two outputs of equal shape, which only names tell apart."""
    left, right = k.Input((4,), name="left"), k.Input((4,), name="right")
    joined = k.layers.Concatenate()([left, right])
    return k.Model([right, left], [k.layers.Dense(3, name="zeta")(joined), k.layers.Dense(3, name="alpha")(joined)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keras")


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("k", [keras, tf_keras], ids=["keras3", "keras2"])
def test_names_and_answers(k, suffix: str, folder: Path) -> None:
    model = two_by_two(k)
    path = folder / f"{k.__name__}{suffix}"
    model.save(path)
    loaded = load(path)
    assert [spec.describe() for spec in loaded.facts.inputs] == ["right float32 [N,4]", "left float32 [N,4]"]
    assert [spec.describe() for spec in loaded.facts.outputs] == ["zeta float32 [N,3]", "alpha float32 [N,3]"]
    assert ("tf-keras" if k is tf_keras else "keras") in loaded.facts.tools
    feeds = samples(loaded, 300)
    zeta, alpha = model.predict([feeds["right"], feeds["left"]], verbose=0, batch_size=300)
    answers = loaded.run(feeds)
    np.testing.assert_allclose(answers["zeta"], zeta, atol=1e-6)
    np.testing.assert_allclose(answers["alpha"], alpha, atol=1e-6)


def test_dicts_of_inputs_and_outputs(folder: Path) -> None:
    b, a = keras.Input((2,), name="b"), keras.Input((2,), name="a")
    model = keras.Model({"b": b, "a": a}, {"second": keras.layers.Dense(3)(a), "first": keras.layers.Dense(3)(b)})
    model.save(folder / "dicts.keras")
    loaded = load(folder / "dicts.keras")
    feeds = samples(loaded, 3)
    expected, answers = model(feeds), loaded.run(feeds)
    assert set(answers) == {"first", "second"}
    for name in answers:
        np.testing.assert_allclose(answers[name], expected[name].numpy(), atol=1e-6)


def test_one_layer_with_two_outputs_gets_two_names(folder: Path) -> None:
    steps = keras.Input((4, 3), name="steps")
    keras.Model(steps, keras.layers.LSTM(5, return_state=True, name="memory")(steps)).save(folder / "state.keras")
    assert [s.name for s in load(folder / "state.keras").facts.outputs] == ["memory", "memory_1", "memory_2"]


def test_any_number_of_samples_for_a_fixed_batch(folder: Path) -> None:
    x = keras.Input(batch_shape=(4, 3), name="x")
    model = keras.Model(x, keras.layers.Dense(2, name="y")(x))
    model.save(folder / "fixed.keras")
    loaded = load(folder / "fixed.keras")
    feeds = samples(loaded, 11)
    expected = feeds["x"] @ model.layers[-1].kernel.numpy()
    np.testing.assert_allclose(loaded.run(feeds)["y"], expected, atol=1e-6)


def test_texts_are_refused_by_name(folder: Path) -> None:
    words = keras.Input((1,), dtype="string", name="words")
    found = keras.layers.StringLookup(vocabulary=["a", "b"])(words)
    keras.Model(words, keras.layers.Embedding(3, 2)(found)).save(folder / "texts.keras")
    with pytest.raises(SourceError, match="'words' is string") as caught:
        load(folder / "texts.keras")
    assert caught.value.code == "source-dtype"


def test_layout_is_the_convolutions(folder: Path) -> None:
    k = keras.layers
    keras.Sequential([keras.Input((8, 8, 3)), k.Conv2D(2, 3), k.GlobalAveragePooling2D()]).save(folder / "conv.keras")
    keras.Sequential([keras.Input((8, 8, 3)), k.Dense(2)]).save(folder / "no_conv.keras")
    assert load(folder / "conv.keras").facts.inputs[0].layout == "NHWC"
    assert load(folder / "no_conv.keras").facts.inputs[0].layout is None


def test_shapes_can_be_set_where_they_are_free(folder: Path) -> None:
    x = keras.Input((None, 3), name="x")
    keras.Model(x, keras.layers.Dense(2, name="y")(x)).save(folder / "free.keras")
    loaded = load(folder / "free.keras", shapes={"x": (1, 7, 3)})
    assert (loaded.facts.inputs[0].shape, loaded.facts.outputs[0].shape) == ((1, 7, 3), (1, 7, 2))
    assert loaded.run({"x": np.ones((5, 7, 3), "float32")})["y"].shape == (5, 7, 2)
    with pytest.raises(UsageError, match="known: x") as unknown:
        load(folder / "free.keras", shapes={"z": (1, 7, 3)})
    assert unknown.value.code == "input-unknown"
    with pytest.raises(UsageError, match=r"x float32 \[N,N,3\]") as conflict:
        load(folder / "free.keras", shapes={"x": (1, 7, 4)})
    assert conflict.value.code == "shape-conflict"


def test_free_sizes_that_do_not_fit_name_the_option(folder: Path) -> None:
    picture = keras.Input((None, None, 3), name="picture")
    found = keras.layers.Conv2D(2, 3)(picture)
    keras.Model(picture, keras.layers.GlobalAveragePooling2D()(found)).save(folder / "sizes.keras")
    loaded = load(folder / "sizes.keras")
    assert loaded.run({"picture": np.ones((2, 5, 6, 3), "float32")})
    with pytest.raises(FeedError, match=r"does not take \[1, 1, 3\]") as wrong:
        loaded.run({"picture": np.ones((2, 1, 1, 3), "float32")})
    assert wrong.value.code == "source-run"
    assert "File" not in wrong.value.message
    assert "output size" in wrong.value.message
    assert "--input picture=N,64,64,3" in wrong.value.next_step


def test_wrong_feeds(folder: Path) -> None:
    two_by_two(keras).save(folder / "feeds.keras")
    loaded = load(folder / "feeds.keras")
    one = np.ones((2, 4), "float32")
    for feeds, code in [
        ({"left": one}, "feed-names"),
        ({"left": one, "right": one[:1]}, "feed-batch"),
        ({"left": one[:0], "right": one[:0]}, "feed-batch"),
        ({"left": one[:, :3], "right": one[:, :3]}, "source-run"),
    ]:
        with pytest.raises(FeedError) as wrong:
            loaded.run(feeds)
        assert wrong.value.code == code


@pytest.mark.parametrize("k", [keras, tf_keras], ids=["keras3", "keras2"])
def test_mixed_precision_is_computed_in_float32(k, folder: Path) -> None:
    x = k.Input((4,), name="x")
    hidden = k.layers.Dense(64, dtype="mixed_float16", name="half")(x)
    path = folder / f"mixed-{k.__name__}.keras"
    model = k.Model(x, k.layers.Dense(2, dtype="float32", name="y")(hidden))
    model.save(path)
    loaded = load(path)
    assert "float32" in loaded.facts.notes[0]
    feeds = samples(loaded, 20)
    (w1, b1), (w2, b2) = (layer.get_weights() for layer in model.layers if layer.get_weights())
    np.testing.assert_allclose(loaded.run(feeds)["y"], (feeds["x"] @ w1 + b1) @ w2 + b2, atol=1e-5)


@pytest.mark.parametrize("k", [keras, tf_keras], ids=["keras3", "keras2"])
def test_a_live_model_of_mixed_precision_is_computed_in_float32_and_left_as_it_was(k, tmp_path: Path) -> None:
    x = k.Input((4,), name="x")
    hidden = k.layers.Dense(64, dtype="mixed_float16", name="half")(x)
    model = k.Model(x, k.layers.Dense(2, dtype="float32", name="y")(hidden))
    loaded = load_saved_model.load_folder(
        Source(str(load_keras.save(model, tmp_path)), "keras", sha256="", bytes=0), framework="keras"
    )
    assert "mixed precision" in loaded.facts.notes[0]
    assert model.get_layer("half").compute_dtype == "float16"
    feeds = samples(loaded, 20)
    (w1, b1), (w2, b2) = (layer.get_weights() for layer in model.layers if layer.get_weights())
    np.testing.assert_allclose(loaded.run(feeds)["y"], (feeds["x"] @ w1 + b1) @ w2 + b2, atol=1e-5)


# -- What must not run, and what trust changes -----------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("k", [keras, tf_keras], ids=["keras3", "keras2"])
def test_lambda_is_refused_and_admitted_with_trust(
    k, suffix: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = k.Input((4,), name="x")
    doubled = k.layers.Lambda(
        lambda t: __import__("os").environ.__setitem__("EDGEKIT_TEST", "ran") or t * 2.0,
        output_shape=(4,),
        name="twice",
    )(x)
    path = folder / f"lambda-{k.__name__}{suffix}"
    k.Model(x, doubled).save(path)
    monkeypatch.setenv("EDGEKIT_TEST", "did not run")
    with pytest.raises(UnsafeSourceError, match="Lambda 'twice'") as refused:
        load(path)
    assert refused.value.code == "source-unsafe-code"
    assert os.environ["EDGEKIT_TEST"] == "did not run"
    loaded = load(path, trusted=True)
    assert any("trusted" in note for note in loaded.facts.notes)
    assert loaded.run({"x": np.ones((1, 4), "float32")})["twice"].tolist() == [[2.0] * 4]
    assert os.environ["EDGEKIT_TEST"] == "ran"


def test_class_of_the_author(folder: Path) -> None:
    @keras.saving.register_keras_serializable(package="mine")
    class Twice(keras.layers.Layer):
        def call(self, inputs):
            return inputs * 2.0

    x = keras.Input((4,), name="x")
    keras.Model(x, Twice(name="twice")(x)).save(folder / "custom.keras")
    with pytest.raises(UnsafeSourceError, match="mine>Twice"):
        load(folder / "custom.keras")
    with pytest.raises(SourceError) as missing:
        load(folder / "custom.keras", trusted=True)
    assert missing.value.code == "source-custom-class"


def test_unknown_class_of_keras_2(folder: Path) -> None:
    class Mine(tf_keras.layers.Dense):
        pass

    x = tf_keras.Input((4,), name="x")
    tf_keras.Model(x, Mine(2)(x)).save(folder / "unknown.h5")
    with pytest.raises(SourceError, match="Mine") as missing:
        load(folder / "unknown.h5")
    assert missing.value.code == "source-custom-class"


def test_damaged_weights(folder: Path, tmp_path: Path) -> None:
    two_by_two(keras).save(folder / "whole.keras")
    torn = tmp_path / "torn.keras"
    with zipfile.ZipFile(folder / "whole.keras") as whole, zipfile.ZipFile(torn, "w") as file:
        for name in whole.namelist():
            content = whole.read(name)
            if name == "config.json":
                config = json.loads(content)
                config["config"]["layers"][-1]["config"]["units"] = 5
                content = json.dumps(config).encode()
            file.writestr(name, content)
    with pytest.raises(SourceError, match=r"keras 3\.") as refused:
        load(torn)
    assert refused.value.code == "source-unreadable"


def test_content_counts_not_the_suffix(folder: Path) -> None:
    two_by_two(tf_keras).save(folder / "plain.h5")
    (folder / "model.bin").write_bytes((folder / "plain.h5").read_bytes())
    assert [spec.name for spec in load(folder / "model.bin").facts.inputs] == ["right", "left"]


# -- Live models -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [keras, tf_keras], ids=["keras3", "keras2"])
def test_live_model_with_code_of_its_own(k, tmp_path: Path) -> None:
    class Clamp(k.layers.Layer):
        def call(self, inputs):
            total = inputs
            for _ in tf.range(2) if k is tf_keras else range(2):  # Keras 2 has AutoGraph in its layers
                total = total + 1.0
            return total

    x = k.Input((4,), name="sensor")
    hidden = k.layers.Lambda(lambda t: t * 3.0, output_shape=(4,))(Clamp()(k.layers.Dense(4)(x)))
    model = k.Model(x, k.layers.Dropout(0.9, name="answer")(hidden))
    assert load_keras.accepts(model)
    assert not load_saved_model.accepts(model)
    path = load_keras.save(model, tmp_path)
    loaded = load(path)
    assert loaded.facts.framework == "keras"
    assert [spec.describe() for spec in loaded.facts.inputs] == ["sensor float32 [N,4]"]
    feeds = samples(loaded, 6)
    expected = (feeds["sensor"] @ model.layers[1].get_weights()[0] + 2.0) * 3.0
    np.testing.assert_allclose(loaded.run(feeds)["answer"], expected, atol=1e-5)


@pytest.mark.parametrize("k", [keras, tf_keras], ids=["keras3", "keras2"])
def test_live_subclassed_model(k, tmp_path: Path) -> None:
    class Own(k.Model):
        def __init__(self):
            super().__init__()
            self.dense = k.layers.Dense(2)
            self.drop = k.layers.Dropout(0.9)

        def call(self, inputs, training=None):
            return self.drop(self.dense(inputs), training=training)

    model = Own()
    with pytest.raises(SourceError) as unbuilt:
        load_keras.save(model, tmp_path)
    assert unbuilt.value.code == "live-shapes-missing"
    sample = np.ones((1, 3), "float32")
    expected = model(sample).numpy()
    loaded = load(load_keras.save(model, tmp_path / "called"))
    (name,) = (spec.name for spec in loaded.facts.inputs)
    (answer,) = loaded.run({name: np.repeat(sample, 3, 0)}).values()
    np.testing.assert_allclose(answer, np.repeat(expected, 3, 0), atol=1e-6)


@pytest.mark.parametrize("k", [keras, tf_keras], ids=["keras3", "keras2"])
def test_live_model_keeps_names_and_their_order(k, tmp_path: Path) -> None:
    b, a = k.Input((2,), name="b.first"), k.Input((2,), name="a.second")
    model = k.Model([b, a], [k.layers.Dense(3, name="z-score")(b), k.layers.Dense(3, name="alpha")(a)])
    facts = load(load_keras.save(model, tmp_path)).facts
    assert [spec.name for spec in facts.inputs] == ["b.first", "a.second"]
    assert [spec.name for spec in facts.outputs] == ["z-score", "alpha"]


def test_accepts_nothing_else() -> None:
    assert not any(load_keras.accepts(thing) for thing in (None, "model.keras", keras.layers.Dense(2), object()))


# -- Real models -----------------------------------------------------------------------------------------------


def test_a_file_that_keras_3_refuses(shared: Path) -> None:
    loaded = load(shared / "models" / "vww_mobilenet" / "vww_96.h5")
    assert "tf-keras" in loaded.facts.tools
    data = np.load(shared / "data" / "vww_mini_35.npz")
    answers = loaded.run({"input_1": data["x"].astype("float32") / 255})
    assert int((answers["dense"].argmax(1) == data["y"]).sum()) == 31


@pytest.mark.parametrize("k", [keras, tf_keras], ids=["keras", "tf_keras"])
def test_a_recurrent_layer_that_remembers_is_refused(k, tmp_path: Path) -> None:
    for stateful in (True, False):
        size = {"batch_size": 1} if k is keras else {"batch_input_shape": (1, 6, 3)}
        first = [k.Input((6, 3), **size)] if k is keras else []
        layer = k.layers.LSTM(2, stateful=stateful, **({} if k is keras else size))
        path = tmp_path / f"{stateful}.h5"
        k.Sequential([*first, layer]).save(path)
        if stateful:
            with pytest.raises(SourceError) as caught:
                load(path)
            assert caught.value.code == "source-stateful"
        else:
            assert load(path).facts.outputs[0].shape == (1, 2)
