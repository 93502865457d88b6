"""SavedModels: which signature, which ops, and live TensorFlow objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekit.converters import load_saved_model
from edgekit.converters.from_tensorflow.scan_saved_model import judge, parse
from edgekit.converters.stages import LoadedModel, Source
from edgekit.errors import SourceError, UnsafeSourceError, UsageError

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

tf = pytest.importorskip("tensorflow", reason="comes with the tensorflow extra")
keras = pytest.importorskip("keras", reason="comes with the tensorflow extra")
tf_keras = pytest.importorskip("tf_keras", reason="comes with the tensorflow extra")


def load(path: Path, **options) -> LoadedModel:
    source = Source(str(path), "saved_model", sha256="", bytes=0, **options)
    return load_saved_model.load(source)


class Affine(tf.Module):
    """y = slope * x, and two named outputs of one shape."""

    def __init__(self, slope: float = 3.0) -> None:
        super().__init__()
        self.slope = tf.Variable(slope)

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
    def __call__(self, x):
        return {"up": self.slope * x, "down": -self.slope * x}

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="z")])
    def square(self, z):
        return {"squared": z * z}


def save(folder: Path, **signatures) -> Path:
    module = Affine()
    tf.saved_model.save(module, str(folder), signatures={k: getattr(module, v) for k, v in signatures.items()})
    return folder


def save_function(folder: Path, function) -> Path:
    tf.saved_model.save(tf.Module(), str(folder), signatures={"serving_default": function.get_concrete_function()})
    return folder


def test_names_and_answers(tmp_path: Path) -> None:
    path = save(tmp_path / "m", serving_default="__call__")
    assert load_saved_model.recognizes(path)
    assert load_saved_model.recognizes(path / "saved_model.pb")
    assert not load_saved_model.recognizes(tmp_path)
    for given in (path, path / "saved_model.pb"):
        loaded = load(given)
        assert [spec.describe() for spec in loaded.facts.inputs] == ["x float32 [N,2]"]
        answers = loaded.run({"x": np.ones((200, 2), "float32")})
        assert answers["up"].shape == (200, 2)
        assert (answers["up"][0, 0], answers["down"][0, 0]) == (3.0, -3.0)


def test_which_signature(tmp_path: Path) -> None:
    several = save(tmp_path / "several", affine="__call__", square="square")
    with pytest.raises(UsageError, match=r"affine \(x -> down, up\), square \(z -> squared\)") as ambiguous:
        load(several)
    assert ambiguous.value.code == "signature-ambiguous"
    with pytest.raises(UsageError, match="affine") as unknown:
        load(several, signature="cube")
    assert unknown.value.code == "signature-unknown"
    assert [spec.name for spec in load(several, signature="square").facts.inputs] == ["z"]
    usual = load(save(tmp_path / "usual", serving_default="square", other="__call__"))
    assert [spec.name for spec in usual.facts.inputs] == ["z"]
    assert "other" in usual.facts.notes[0]


def test_no_signature(tmp_path: Path) -> None:
    tf.saved_model.save(tf.Module(), str(tmp_path / "none"))
    with pytest.raises(SourceError) as missing:
        load(tmp_path / "none")
    assert missing.value.code == "signature-missing"


def test_shapes_can_be_set(tmp_path: Path) -> None:
    loaded = load(save(tmp_path / "m", serving_default="__call__"), shapes={"x": (1, 2)})
    assert (loaded.facts.inputs[0].shape, loaded.facts.outputs[0].shape) == ((1, 2), (1, 2))
    assert loaded.run({"x": np.ones((3, 2), "float32")})["up"].tolist() == [[3.0, 3.0]] * 3


def test_a_model_without_a_batch_axis(tmp_path: Path) -> None:
    @tf.function(input_signature=[tf.TensorSpec([3], tf.float32, name="a"), tf.TensorSpec([], tf.float32, name="b")])
    def scale(a, b):
        return {"c": a * b}

    loaded = load(save_function(tmp_path / "m", scale))
    answer = loaded.run({"a": np.arange(3, dtype="float32"), "b": np.float32(2.0)})
    assert answer["c"].tolist() == [0.0, 2.0, 4.0]


@pytest.mark.parametrize("damage", ["cut", "empty", "no variables"])
def test_damaged(tmp_path: Path, damage: str) -> None:
    path = save(tmp_path / "m", serving_default="__call__")
    graph = path / "saved_model.pb"
    if damage == "no variables":
        (path / "variables" / "variables.index").unlink()
    else:
        graph.write_bytes(graph.read_bytes()[: -len(graph.read_bytes()) // 2] if damage == "cut" else b"")
    with pytest.raises(SourceError) as refused:
        load(path)
    assert refused.value.code == "source-unreadable"


# -- Ops that must not run -------------------------------------------------------------------------------------

X = [tf.TensorSpec([1], tf.float32, name="x")]


def test_python_function(tmp_path: Path) -> None:
    mark = tmp_path / "ran"

    @tf.function(input_signature=X)
    def sneaky(x):
        tf.py_function(lambda: mark.write_text("x"), [], [])
        return {"y": x}

    path = save_function(tmp_path / "m", sneaky)
    with pytest.raises(UnsafeSourceError, match="EagerPyFunc") as refused:
        load(path)
    assert refused.value.code == "source-unsafe-code"
    assert not mark.exists()


def test_file_ops_anywhere_in_the_library(tmp_path: Path) -> None:
    secret, target = tmp_path / "secret", tmp_path / "target"
    secret.write_text("12")

    @tf.function(input_signature=X)
    def sneaky(x):
        def steal():
            tf.io.write_file(str(target), "stolen")
            return tf.strings.to_number(tf.io.read_file(str(secret)))

        return {"y": x + tf.cond(x[0] > 0, steal, lambda: 0.0)}

    path = save_function(tmp_path / "m", sneaky)
    with pytest.raises(UnsafeSourceError, match=r"ReadFile|WriteFile"):
        load(path)
    assert not target.exists()
    loaded = load(path, trusted=True)
    assert any("ReadFile" in note for note in loaded.facts.notes)
    assert loaded.run({"x": np.ones(1, "float32")})["y"].tolist() == [13.0]


def test_checkpoint_ops_in_a_signature(tmp_path: Path) -> None:
    @tf.function(input_signature=X)
    def sneaky(x):
        tf.raw_ops.SaveV2(prefix=str(tmp_path / "stolen"), tensor_names=["x"], shape_and_slices=[""], tensors=[x])
        return {"y": x}

    path = save_function(tmp_path / "m", sneaky)
    with pytest.raises(UnsafeSourceError, match="SaveV2"):
        load(path)


@pytest.mark.parametrize("k", [keras, tf_keras], ids=["keras3", "keras2"])
def test_what_keras_exports_passes(k, tmp_path: Path) -> None:
    x = k.Input((4,), name="x")
    model = k.Model(x, k.layers.Dense(2, name="y")(x))
    paths = [tmp_path / "export"]
    model.export(str(paths[0]), **({"verbose": False} if k is keras else {}))
    if k is tf_keras:
        model.save(tmp_path / "saved", save_format="tf")
        paths.append(tmp_path / "saved")
    for path in paths:
        assert not list(judge(parse(path)))
        assert load(path).facts.inputs[0].describe().endswith("float32 [N,4]")


# -- Live objects ----------------------------------------------------------------------------------------------


def test_live_objects(tmp_path: Path) -> None:
    module = Affine(2.0)
    function = module.square.get_concrete_function()
    again = tf.saved_model.load(str(save(tmp_path / "m", serving_default="__call__")))
    for number, (live, slope) in enumerate([(module, 2.0), (again, 3.0)]):
        assert load_saved_model.accepts(live)
        loaded = load(load_saved_model.save(live, tmp_path / str(number)))
        assert loaded.run({"x": np.ones((1, 2), "float32")})["up"].tolist() == [[slope, slope]]
    for number, live in enumerate([function, module.square]):
        assert load_saved_model.accepts(live)
        loaded = load(load_saved_model.save(live, tmp_path / f"f{number}"))
        assert loaded.run({"z": np.full((1, 2), 3, "float32")})["squared"].tolist() == [[9.0, 9.0]]


def test_live_function_with_a_variable_elsewhere(tmp_path: Path) -> None:
    weight = tf.Variable(5.0)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def scaled(x):
        return {"y": weight * x}

    loaded = load(load_saved_model.save(scaled, tmp_path))
    assert loaded.run({"x": np.ones(2, "float32")})["y"].tolist() == [5.0, 5.0]


def test_live_function_without_a_signature(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as missing:
        load_saved_model.save(tf.function(lambda x: x), tmp_path)
    assert missing.value.code == "live-signature-missing"
    with pytest.raises(SourceError) as empty:
        load_saved_model.save(tf.Module(), tmp_path)
    assert empty.value.code == "live-signature-missing"


class Counter(tf.Module):
    """Counts its calls, or not: its other function does not."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = tf.Variable(0.0)

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
    def count(self, x):
        if tf.reduce_sum(x) > 0:
            self.calls.assign_add(1.0)
        return {"y": x + self.calls}

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
    def ask(self, x):
        return {"y": x + self.calls}


def test_a_model_that_remembers_is_refused(tmp_path: Path) -> None:
    """The assignment lies in a branch of a called function; a signature that assigns nothing is served."""
    counter = Counter()
    tf.saved_model.save(counter, str(tmp_path), signatures={"count": counter.count, "ask": counter.ask})
    with pytest.raises(SourceError) as caught:
        load(tmp_path, signature="count")
    assert caught.value.code == "source-stateful"
    np.testing.assert_array_equal(
        load(tmp_path, signature="ask").run({"x": np.ones((1, 2), np.float32)})["y"], [[1, 1]]
    )
