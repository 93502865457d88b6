"""Keras and TensorFlow models with classes of their own."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tried.case import Made


@keras.saving.register_keras_serializable("tried")
class Scale(keras.layers.Layer):
    def build(self, shape: Any) -> None:
        self.factor = self.add_weight(shape=(shape[-1],), initializer="random_normal", name="factor")

    def call(self, x: Any) -> Any:
        return x * self.factor + keras.ops.mean(x, axis=-1, keepdims=True)


@keras.saving.register_keras_serializable("tried")
def bent(x: Any) -> Any:
    return keras.ops.sign(x) * keras.ops.sqrt(keras.ops.abs(x) + 0.5)


@keras.saving.register_keras_serializable("tried")
class Net(keras.Model):
    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.stem = keras.layers.Conv2D(6, 3, activation="relu")
        self.blocks = [keras.layers.Conv2D(6, 3, padding="same") for _ in range(2)]
        self.head = keras.layers.Dense(4)

    def call(self, picture: Any, training: bool = False) -> Any:
        x = self.stem(picture)
        for block in self.blocks:
            x = x + keras.ops.relu(block(x))
        return {"scores": self.head(keras.ops.mean(x, axis=(1, 2))), "map": x[..., :1]}


def functional() -> Any:
    a = keras.Input((6,), name="x")
    return keras.Model(a, keras.layers.Dense(3)(keras.layers.Activation(bent)(Scale()(keras.layers.Dense(5)(a)))))


def subclassed(suffix: str, x: np.ndarray) -> Made:
    keras.utils.set_random_seed(0)
    model = Net()
    said = {name: value.numpy() for name, value in model(x).items()}
    if not suffix:
        return Made(model, {"x": x}, said)
    path = Path(tempfile.mkdtemp()) / f"model{suffix}"
    model.export(str(path), verbose=False) if suffix == ".saved" else model.save(path)
    return Made(path, {"x": x}, said, precisions=("fp32",))


def half(x: np.ndarray) -> Made:
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((8,), name="x"),
        keras.layers.Dense(16, "relu", dtype="mixed_float16"),
        keras.layers.Dense(3, dtype="float32"),
    ]
    model = keras.Sequential(layers)
    return Made(model, {"x": x}, [model(x).numpy()])


class Signed(tf.Module):
    def __init__(self) -> None:
        self.w = tf.Variable(np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32))

    @tf.function(input_signature=[tf.TensorSpec([None, 6], tf.float32, name="x")])
    def embed(self, x: Any) -> Any:
        return {"embedding": tf.math.l2_normalize(x @ self.w, axis=-1)}

    @tf.function(input_signature=[tf.TensorSpec([None, 6], tf.float32, name="x")])
    def score(self, x: Any) -> Any:
        return {"score": tf.nn.softmax(x @ self.w)}


def signatures(x: np.ndarray) -> Made:
    module = Signed()
    path = Path(tempfile.mkdtemp()) / "saved"
    tf.saved_model.save(module, str(path), signatures={"embed": module.embed, "score": module.score})
    return Made(path, {"x": x}, {"score": module.score(x)["score"].numpy()}, {"signature": "score"})


class Flow(tf.Module):
    def __init__(self) -> None:
        self.w = tf.Variable(0.3 * np.random.default_rng(0).normal(size=(6, 6)).astype(np.float32))

    @tf.function(input_signature=[tf.TensorSpec([None, 6], tf.float32, name="x")])
    def __call__(self, x: Any) -> Any:
        for _ in tf.range(3):
            x = tf.tanh(x @ self.w) + x
        if tf.reduce_sum(x) > 1e6:
            x = x * 0.5
        return {"y": x}


def control(x: np.ndarray) -> Made:
    module = Flow()
    return Made(module, {"x": x}, {"y": module(x)["y"].numpy()}, precisions=("fp32",))


class Signal(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None, 400], tf.float32, name="sound")])
    def __call__(self, sound: Any) -> Any:
        spectrum = tf.abs(tf.signal.stft(sound, 128, 64))
        mel = tf.signal.linear_to_mel_weight_matrix(20, 65, 8000, 20.0, 4000.0)
        return {"mfcc": tf.signal.mfccs_from_log_mel_spectrograms(tf.math.log(spectrum @ mel + 1e-3))[..., :10]}


def signal(x: np.ndarray) -> Made:
    module = Signal()
    return Made(module, {"sound": x}, {"mfcc": module(x)["mfcc"].numpy()}, precisions=("fp32",))


def legacy(x: np.ndarray) -> Made:
    import tf_keras as k

    k.utils.set_random_seed(0)
    layers = [
        k.Input((10, 10, 3), name="x"),
        k.layers.Conv2D(4, 3, activation="relu"),
        k.layers.BatchNormalization(),
        k.layers.SpatialDropout2D(0.1),
    ]
    layers += [
        k.layers.SeparableConv2D(6, 3, activation=k.activations.swish),
        k.layers.GlobalMaxPooling2D(),
        k.layers.Dense(3, activation="softmax"),
    ]
    model = k.Sequential(layers)
    path = Path(tempfile.mkdtemp()) / "model.h5"
    model.save(path)
    return Made(path, {"x": x}, [model(x).numpy()])


def aware(x: np.ndarray) -> Made:
    import os

    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import tensorflow_model_optimization as tfmot
    import tf_keras as k

    k.utils.set_random_seed(0)
    model = k.Sequential(
        [
            k.Input((10, 10, 3), name="x"),
            k.layers.Conv2D(6, 3, activation="relu"),
            k.layers.Flatten(),
            k.layers.Dense(3),
        ]
    )
    model = tfmot.quantization.keras.quantize_model(model)
    model.compile("adam", "mse")
    model.fit(x, x.mean((1, 2)), epochs=2, verbose=0)
    return Made(model, {model.inputs[0].name: x}, [model(x).numpy()])
