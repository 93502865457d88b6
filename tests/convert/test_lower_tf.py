"""Keras and SavedModel sources become TFLite and ONNX files that give the source's answers under its names."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgekit.converters import (
    load_keras,
    load_saved_model,
    lower_onnx_tflite,
    lower_tf_onnx,
    lower_tf_tflite,
    quantize_tflite,
)
from edgekit.converters.stages import Graph, LoadedModel, QuantizeOptions, Ranges, Source
from edgekit.errors import ConversionError
from edgekit.precision import precisions

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file:UserWarning"),
]

keras = pytest.importorskip("keras", reason="comes with the tensorflow extra")
tf_keras = pytest.importorskip("tf_keras", reason="comes with the tensorflow extra")
tf = pytest.importorskip("tensorflow")

LOWERINGS = {"tflite": lower_tf_tflite, "onnx": lower_tf_onnx}
both = pytest.mark.parametrize("format", ["tflite", "onnx"])


def classifier(k: ModuleType) -> Any:
    layers = k.layers
    return k.Sequential([
        k.Input((12, 12, 3), name="image"), layers.Conv2D(4, 3, padding="same", activation="relu"),
        layers.BatchNormalization(), layers.DepthwiseConv2D(3), layers.SeparableConv2D(6, 3, activation="swish"),
        layers.GlobalAveragePooling2D(), layers.Dropout(0.5), layers.Dense(5, activation="softmax", name="classes"),
    ])  # fmt: skip


def two_by_two(k: ModuleType) -> Any:
    left, right = k.Input((4,), name="left"), k.Input((4,), name="right")
    joined = k.layers.Concatenate()([left, right])
    return k.Model([right, left], [k.layers.Dense(3, name="zeta")(joined), k.layers.Dense(3, name="alpha")(joined)])


def decoder(k: ModuleType) -> Any:
    x = k.Input((8, 8, 2), name="x")
    y = k.layers.UpSampling2D(2, interpolation="bilinear")(x)
    y = k.layers.Conv2DTranspose(3, 3, strides=2, padding="same", activation="gelu")(y)
    return k.Model(x, k.layers.LayerNormalization(name="picture")(y))


def attention(k: ModuleType) -> Any:
    x = k.Input((6, 8), name="x")
    return k.Model(x, k.layers.GlobalAveragePooling1D(name="y")(k.layers.MultiHeadAttention(2, 4)(x, x)))


def lstm(k: ModuleType) -> Any:
    x = k.Input((5, 3), name="steps")
    return k.Model(x, k.layers.Dense(2, name="y")(k.layers.LSTM(6)(x)))


def gru(k: ModuleType) -> Any:
    x = k.Input((5, 3), name="steps")
    return k.Model(x, k.layers.Dense(2, name="y")(k.layers.GRU(6)(x)))


CASES = [
    *((build, k, suffix) for build in (classifier, two_by_two) for k, suffix in ((keras, ".keras"), (tf_keras, ".h5"))),
    (decoder, keras, ".keras"),
    (attention, keras, ".keras"),
    (lstm, keras, ".keras"),
    (lstm, tf_keras, ".h5"),
    (gru, keras, ".keras"),
]


def build_case(case: tuple[Any, ModuleType, str], folder: Path) -> LoadedModel:
    build, k, suffix = case
    k.utils.set_random_seed(0)
    path = folder / f"{build.__name__}{suffix}"
    build(k).save(path)
    return load(path)


def load(path: Path, **options: Any) -> LoadedModel:
    loader = load_saved_model if path.is_dir() else load_keras
    return loader.load(Source(str(path), loader.NAME, sha256="", bytes=0, **options))


def feeds_for(model: LoadedModel, count: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    return {
        spec.name: random.normal(size=(count, *(size or 7 for size in spec.shape[1:]))).astype(spec.dtype)
        for spec in model.facts.inputs
    }


def batches(graph: Graph, feeds: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    fixed, count = graph.inputs[0].shape[0], len(next(iter(feeds.values())))
    for start in range(0, count, fixed or count):
        yield {name: array[start : start + (fixed or count)] for name, array in feeds.items()}


def answer(graph: Graph, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """By the file's own names and a bare engine."""
    parts = []
    if graph.format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(graph.path, providers=["CPUExecutionProvider"])
        for batch in batches(graph, feeds):
            values = session.run([s.key for s in graph.outputs], {s.key: batch[s.name] for s in graph.inputs})
            parts.append({s.name: value for s, value in zip(graph.outputs, values, strict=True)})
    else:
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_path=graph.path)
        interpreter.allocate_tensors()
        run = interpreter.get_signature_runner()
        for batch in batches(graph, feeds):
            interpreter.reset_all_variables()
            values = run(**{s.key: batch[s.name] for s in graph.inputs})
            parts.append({s.name: values[s.key].copy() for s in graph.outputs})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def relative_error(model: LoadedModel, graph: Graph, feeds: dict[str, np.ndarray]) -> float:
    """Largest error over an output's range in the source."""
    source, found = model.run(feeds), answer(graph, feeds)
    assert {n: a.shape for n, a in source.items()} == {n: a.shape for n, a in found.items()}
    return max(float(np.abs(source[n] - found[n]).max() / np.ptp(source[n])) for n in source)


@both
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0].__name__}-{case[1].__name__}")
def test_same_answers_under_the_same_names(case: tuple[Any, ModuleType, str], format: str, tmp_path: Path) -> None:
    model = build_case(case, tmp_path)
    graph = LOWERINGS[format].lower(model, tmp_path / f"m.{format}")
    assert (graph.format, graph.precision) == (format, "fp32")
    assert [s.name for s in graph.inputs] == [s.name for s in model.facts.inputs]
    assert [s.name for s in graph.outputs] == [s.name for s in model.facts.outputs]
    assert relative_error(model, graph, feeds_for(model, 9)) < 1e-5


@both
def test_free_batch_stays_free_and_layout_stays(format: str, tmp_path: Path) -> None:
    model = build_case((classifier, keras, ".keras"), tmp_path)
    graph = LOWERINGS[format].lower(model, tmp_path / f"m.{format}")
    assert graph.inputs[0].describe() == "image float32 [N,12,12,3]"
    assert (graph.inputs[0].layout, graph.inputs[0].tensor) == ("NHWC", None)
    assert graph.outputs[0].describe() == "classes float32 [N,5]"


def live(model: Any, folder: Path) -> LoadedModel:
    return load(load_keras.save(model, folder))


@pytest.mark.parametrize("build", [lstm, gru])
@pytest.mark.parametrize("given", ["file", "live"])
def test_recurrent_layers_keep_a_free_batch_and_no_state(build: Any, given: str, tmp_path: Path) -> None:
    model = build_case((build, keras, ".keras"), tmp_path) if given == "file" else live(build(keras), tmp_path)
    graph = lower_tf_tflite.lower(model, tmp_path / "m.tflite")
    assert graph.inputs[0].shape == (None, 5, 3)
    assert "by way of ONNX" in graph.notes[0]
    assert not any("state" in note for note in graph.notes)
    assert relative_error(model, graph, feeds_for(model, 9)) < 1e-5


def test_layers_that_read_backwards(tmp_path: Path) -> None:
    x = keras.Input((5, 3), name="steps")
    layers = keras.layers
    y = layers.Bidirectional(layers.GRU(4, return_sequences=True), name="y")(
        layers.SimpleRNN(4, return_sequences=True)(x)
    )
    model = live(keras.Model(x, y), tmp_path)
    graph = lower_tf_tflite.lower(model, tmp_path / "m.tflite")
    assert relative_error(model, graph, feeds_for(model, 9)) < 1e-5


def test_what_only_our_own_lowering_writes(tmp_path: Path) -> None:
    x = keras.Input((4, 6, 6, 2), name="volume")
    model = live(keras.Model(x, keras.layers.MaxPooling3D(2, name="y")(x)), tmp_path)
    graph = lower_tf_tflite.lower(model, tmp_path / "m.tflite")
    assert "MaxPool3D" in graph.notes[0]
    assert relative_error(model, graph, feeds_for(model, 3)) == 0


@both
def test_rows_of_zeros_have_a_length_of_one_too(format: str, tmp_path: Path) -> None:
    """XNNPACK's 1 / sqrt(0) is NaN, which the bound behind it would keep."""
    x = keras.Input((6,), name="x")
    model = live(keras.Model(x, keras.layers.UnitNormalization(name="y")(x)), tmp_path)
    graph = LOWERINGS[format].lower(model, tmp_path / f"m.{format}")
    rows = np.random.default_rng(0).normal(size=(6, 6)) * 10.0 ** np.arange(-16, 2, 3)[:, None]
    rows[2] = 0
    feeds = {"x": rows.astype(np.float32)}
    found, source = answer(graph, feeds)["y"], model.run(feeds)["y"]
    assert not found[2].any()
    assert np.abs(found - source).max() < 1e-6


def test_what_was_trained_to_be_quantized_is_not_rounded_twice(tmp_path: Path) -> None:
    x = keras.Input((6,), name="x")
    rounded = keras.layers.Lambda(lambda v: tf.quantization.fake_quant_with_min_max_args(v, -3.0, 3.0))(x)
    model = live(keras.Model(x, keras.layers.Dense(3, name="y")(rounded)), tmp_path)
    graph = lower_tf_tflite.lower(model, tmp_path / "m.tflite")
    assert relative_error(model, graph, feeds_for(model, 9)) < 1e-5
    with pytest.raises(ConversionError, match="rounds to integers") as caught:
        quantize_tflite.quantize(
            graph, Ranges("minmax", 1, {}), precisions.get("int8"), QuantizeOptions(), tmp_path / "q.tflite"
        )
    assert caught.value.code == "source-quantized"


def test_recurrent_layers_that_no_other_way_takes_fix_the_batch_and_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> None:
        raise ConversionError("op-unsupported-conversion", "it has more than 512 rounds")

    model = build_case((lstm, tf_keras, ".h5"), tmp_path)
    monkeypatch.setattr(lower_onnx_tflite, "lower", refused)
    tflite = lower_tf_tflite.lower(model, tmp_path / "m.tflite")
    assert tflite.inputs[0].shape == (1, 5, 3)
    assert any("batch is fixed" in note for note in tflite.notes)
    assert any("state" in note for note in tflite.notes)
    assert lower_tf_onnx.lower(model, tmp_path / "m.onnx").inputs[0].shape == (None, 5, 3)
    with pytest.raises(ConversionError, match="TensorListReserve") as caught:
        lower_tf_tflite.lower(live(lstm(keras), tmp_path), tmp_path / "live.tflite")
    assert "more than 512 rounds" in caught.value.cause


@both
@pytest.mark.parametrize("kind", ["Conv1D", "Conv2D"])
def test_convolutions_of_groups(format: str, kind: str, tmp_path: Path) -> None:
    x = keras.Input((9, 9, 6)[-3 if kind == "Conv2D" else -2 :], name="x")
    model = live(keras.Model(x, getattr(keras.layers, kind)(4, 3, groups=2, name="y")(x)), tmp_path)
    graph = LOWERINGS[format].lower(model, tmp_path / f"m.{format}")
    assert relative_error(model, graph, feeds_for(model, 3)) < 1e-5


@both
def test_given_shapes_are_the_files(format: str, tmp_path: Path) -> None:
    x = keras.Input((None, 3), name="x")
    keras.Model(x, keras.layers.Conv1D(2, 3, name="y")(x)).save(tmp_path / "m.keras")
    model = load(tmp_path / "m.keras", shapes={"x": (1, 9, 3)})
    graph = LOWERINGS[format].lower(model, tmp_path / f"m.{format}")
    assert (graph.inputs[0].shape, graph.outputs[0].shape) == ((1, 9, 3), (1, 7, 2))
    assert relative_error(model, graph, {"x": feeds_for(model, 4)["x"]}) < 1e-5


@both
def test_names_that_are_no_keywords(format: str, tmp_path: Path) -> None:
    x = tf_keras.Input((4,), name="x-ray.1")
    tf_keras.Model(x, tf_keras.layers.Dense(3, name="x-ray.2")(x)).save(tmp_path / "m.h5")
    model = load(tmp_path / "m.h5")
    graph = LOWERINGS[format].lower(model, tmp_path / f"m.{format}")
    assert [s.name for s in (*graph.inputs, *graph.outputs)] == ["x-ray.1", "x-ray.2"]
    assert relative_error(model, graph, feeds_for(model, 3)) < 1e-5


@both
def test_an_output_named_as_an_input(format: str, tmp_path: Path) -> None:
    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
    def double(x: Any) -> Any:
        return {"x": 2.0 * x, "y": 3.0 * x}

    signatures = {"serving_default": double.get_concrete_function()}
    tf.saved_model.save(tf.Module(), str(tmp_path / "m"), signatures=signatures)
    model = load(tmp_path / "m")
    graph = LOWERINGS[format].lower(model, tmp_path / f"m.{format}")
    assert [s.name for s in graph.outputs] == ["x", "y"]
    assert relative_error(model, graph, feeds_for(model, 3)) < 1e-6


@both
def test_an_output_that_is_the_input(format: str, tmp_path: Path) -> None:
    x = keras.Input((4,), name="x")
    keras.Model(x, [keras.layers.Identity(name="same")(x), keras.layers.Dense(2, name="y")(x)]).save(
        tmp_path / "m.keras"
    )
    model = load(tmp_path / "m.keras")
    graph = LOWERINGS[format].lower(model, tmp_path / f"m.{format}")
    assert relative_error(model, graph, feeds_for(model, 3)) < 1e-6


@both
def test_ops_without_a_kernel_are_named(format: str, tmp_path: Path) -> None:
    class Strange(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
        def __call__(self, x: Any) -> Any:
            return {"y": tf.math.igamma(x, x)}

    model = load(load_saved_model.save(Strange(), tmp_path))
    with pytest.raises(ConversionError, match="Igamma") as refused:
        LOWERINGS[format].lower(model, tmp_path / f"m.{format}")
    assert refused.value.code == "op-unsupported-conversion"
    assert refused.value.details["ops"] == ["Igamma"]


def test_equal_sources_give_equal_bytes(tmp_path: Path) -> None:
    """In processes like the worker's: one conversion a process, and a fixed PYTHONHASHSEED."""
    for build in (attention, classifier):
        build_case((build, keras, ".keras"), tmp_path)
    script = """
import sys
from pathlib import Path
from edgekit.converters import load_keras, lower_tf_onnx, lower_tf_tflite
from edgekit.converters.stages import Source
folder, number = Path(sys.argv[1]), sys.argv[2]
for path in sorted(folder.glob("*.keras")):
    model = load_keras.load(Source(str(path), "keras", sha256="", bytes=0))
    lower_tf_onnx.lower(model, path.with_suffix(f".{number}.onnx"))
    lower_tf_tflite.lower(model, path.with_suffix(f".{number}.tflite"))
"""
    environment = {**os.environ, "PYTHONHASHSEED": "0", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path), str(i)], env=environment, stderr=subprocess.DEVNULL
        )
        for i in range(2)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    first = sorted(tmp_path.glob("*.0.*"))
    assert len(first) == 4
    for path in first:
        assert path.read_bytes() == path.with_name(path.name.replace(".0.", ".1.")).read_bytes(), path.name


def test_lowering_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = build_case((two_by_two, keras, ".keras"), tmp_path)
    capfd.readouterr()
    for format, lowering in LOWERINGS.items():
        lowering.lower(model, tmp_path / f"m.{format}")
    assert capfd.readouterr().out == ""


@both
@pytest.mark.parametrize("name", ["ic_resnet8/resnet8.h5", "kws_dscnn/saved_model", "vww_mobilenet/vww_96.h5"])
def test_trained_models(name: str, format: str, shared: Path, tmp_path: Path) -> None:
    model = load(shared / "models" / name)
    data = shared / "data"
    if name.startswith("ic"):
        x = np.load(data / "cifar10_jpeg_1000.npz")["x"][::10].astype("float32")
    elif name.startswith("kws"):
        kws = np.load(data / "kws01_mfcc_500.npz")
        x = ((kws["x_int8"].astype("float32") - kws["zero_point"]) * kws["scale"]).astype("float32")[:100]
    else:
        x = np.load(data / "vww_mini_35.npz")["x"].astype("float32") / 255
    graph = LOWERINGS[format].lower(model, tmp_path / f"m.{format}")
    feeds = {"input_1": x}
    assert relative_error(model, graph, feeds) < 1e-5
    same = model.run(feeds)["dense"].argmax(1) == answer(graph, feeds)["dense"].argmax(1)
    assert same.all()
