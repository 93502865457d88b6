"""Needs tensorflow (Keras 3) and tf_keras; tensorflow-model-optimization where it is installed. Weights random."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tried.case import Case, Made

APPLICATIONS = {
    "MobileNet": 64, "MobileNetV2": 64, "MobileNetV3Small": 64, "EfficientNetB0": 64, "EfficientNetV2B0": 64, "NASNetMobile": 224, "DenseNet121": 64,
    "ResNet50V2": 64, "InceptionV3": 80, "Xception": 80, "ConvNeXtTiny": 64, "VGG16": 32,
}  # fmt: skip


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def ids(high: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(2).integers(0, high, size=shape).astype(np.int32)


def cases() -> Iterator[Case]:
    import keras
    from tried import keras_custom

    K, L = keras, keras.layers

    def answers(model: Any, data: dict[str, np.ndarray]) -> Any:
        found = model(
            [data[one.name] for one in model.inputs] if len(model.inputs) > 1 else next(iter(data.values())),
            training=False,
        )
        if isinstance(found, dict):
            return {name: value.numpy() for name, value in found.items()}
        return [each.numpy() for each in found] if isinstance(found, (list, tuple)) else [found.numpy()]

    def kept(model: Any, data: dict[str, np.ndarray], suffix: str = "", **more: Any) -> Made:
        """The live model, or a file of it."""
        for layer in model.layers if hasattr(model, "layers") else ():
            for weight in layer.weights:
                if "bias" in weight.path or "beta" in weight.path or "gamma" in weight.path:
                    weight.assign(weight.numpy() + 0.1 * noise(*weight.shape))
        said = answers(model, data)
        if not suffix:
            return Made(model, data, said, **more)
        path = Path(tempfile.mkdtemp()) / f"model{suffix}"
        model.export(str(path), verbose=False) if suffix == ".saved" else model.save(path)
        return Made(path, data, said, **more)

    def sequential(*layers: Any, x: np.ndarray, suffix: str = "", **more: Any) -> Made:
        K.utils.set_random_seed(0)
        model = K.Sequential([K.Input(x.shape[1:], dtype=x.dtype.name, name="x"), *layers])
        return kept(model, {"x": x}, suffix, **more)

    def application(name: str, size: int) -> Made:
        K.utils.set_random_seed(0)
        model = getattr(K.applications, name)(weights=None, input_shape=(size, size, 3), classes=10)
        x = np.random.default_rng(0).uniform(0, 255, size=(6, size, size, 3)).astype(np.float32)
        return kept(model, {model.inputs[0].name: x}, precisions=("fp32",))

    small: dict[str, Callable[[], Made]] = {
        "conv1d dilated causal": lambda: sequential(L.Conv1D(8, 3, padding="causal", dilation_rate=2, activation="relu"), L.Conv1D(4, 3, strides=2), L.GlobalMaxPooling1D(), L.Dense(3), x=noise(32, 40, 5)),
        "conv3d": lambda: sequential(L.Conv3D(4, 3, activation="elu"), L.MaxPooling3D(2), L.Flatten(), L.Dense(3, activation="softmax"), x=noise(16, 8, 10, 10, 2)),
        "conv2d transpose": lambda: sequential(L.Conv2D(4, 3, strides=2, padding="same"), L.Conv2DTranspose(3, 3, strides=2, padding="same", activation="sigmoid"), L.Conv2DTranspose(2, 4, strides=2, padding="valid"), x=noise(16, 12, 12, 2)),
        "conv1d transpose": lambda: sequential(L.Conv1DTranspose(4, 3, strides=2), L.LeakyReLU(), x=noise(16, 10, 3)),
        "separable + depthwise": lambda: sequential(L.SeparableConv2D(8, 3, depth_multiplier=2), L.DepthwiseConv2D(3, depth_multiplier=2, strides=2), L.BatchNormalization(), L.ReLU(6.0), L.GlobalAveragePooling2D(), L.Dense(4), x=noise(24, 16, 16, 3)),
        "separable 1d, grouped": lambda: sequential(L.SeparableConv1D(8, 3), L.Conv1D(8, 3, groups=4), L.AveragePooling1D(2), L.Flatten(), L.Dense(2), x=noise(24, 20, 4)),
        "grouped conv2d": lambda: sequential(L.Conv2D(12, 3, groups=3, activation="gelu"), L.Conv2D(8, 1), L.GlobalAveragePooling2D(), x=noise(24, 12, 12, 6)),
        "conv3d transpose": lambda: sequential(L.Conv3DTranspose(2, 3, strides=2), x=noise(8, 4, 5, 5, 2)),
        "locally pooled, upsampling": lambda: sequential(L.UpSampling2D(2, interpolation="bilinear"), L.Cropping2D(1), L.ZeroPadding2D(((1, 0), (0, 2))), L.AveragePooling2D(3, 2, padding="same"), L.Conv2D(2, 1), x=noise(16, 9, 9, 3)),
        "adaptive + resizing": lambda: sequential(L.Resizing(7, 11), L.Conv2D(2, 3), x=noise(16, 12, 12, 3)),
        "lstm": lambda: sequential(L.LSTM(8), L.Dense(3, activation="softmax"), x=noise(48, 12, 5)),
        "lstm sequences, time distributed": lambda: sequential(L.LSTM(8, return_sequences=True), L.TimeDistributed(L.Dense(3)), x=noise(24, 12, 5)),
        "bidirectional lstm": lambda: sequential(L.Bidirectional(L.LSTM(6, return_sequences=True)), L.Bidirectional(L.LSTM(4)), L.Dense(3), x=noise(24, 12, 5)),
        "gru": lambda: sequential(L.GRU(8), L.Dense(3), x=noise(24, 12, 5)),
        "gru bidirectional, reset before": lambda: sequential(L.Bidirectional(L.GRU(6, reset_after=False), merge_mode="sum"), L.Dense(3), x=noise(24, 12, 5)),
        "simple rnn backwards": lambda: sequential(L.SimpleRNN(6, go_backwards=True, return_sequences=True), L.GlobalAveragePooling1D(), x=noise(24, 12, 5)),
        "conv lstm": lambda: sequential(L.ConvLSTM2D(4, 3), L.Flatten(), L.Dense(2), x=noise(12, 5, 8, 8, 2)),
        "masking + lstm": lambda: sequential(L.Masking(0.0), L.LSTM(6), L.Dense(2), x=noise(24, 12, 5) * (np.arange(12) < 8)[:, None].astype(np.float32)),
        "embedding + gru, mask zero": lambda: sequential(L.Embedding(20, 6, mask_zero=True), L.GRU(5), L.Dense(2), x=ids(20, 24, 9)),
        "embedding + conv": lambda: sequential(L.Embedding(50, 8), L.Conv1D(6, 3, activation="relu"), L.GlobalMaxPooling1D(), L.Dense(1, activation="sigmoid"), x=ids(50, 32, 15)),
        "normalizations": lambda: sequential(L.LayerNormalization(), L.Conv2D(8, 3), L.GroupNormalization(4), L.UnitNormalization(), L.Conv2D(4, 3), L.RMSNormalization() if hasattr(L, "RMSNormalization") else L.LayerNormalization(), x=noise(16, 12, 12, 3)),
        "activations": lambda: sequential(*(L.Dense(8, activation=a) for a in ("selu", "softplus", "softsign", "swish", "hard_sigmoid", "mish", "gelu", "exponential", "tanh", "hard_silu", "log_softmax")), x=0.3 * noise(48, 6)),
        "activations 2": lambda: sequential(*(L.Dense(8, activation=a) for a in ("celu", "glu", "hard_tanh", "leaky_relu", "relu6", "log_sigmoid", "soft_shrink", "hard_shrink", "squareplus", "sparse_plus", "sparsemax", "tanh_shrink", "threshold")), x=noise(48, 6)),
        "prelu, elu, thresholded": lambda: sequential(L.Conv2D(6, 3), L.PReLU(shared_axes=[1, 2]), L.Conv2D(4, 3), L.PReLU(), L.ELU(0.5), L.Flatten(), L.Dense(2), x=noise(16, 10, 10, 3)),
        "regularizing layers": lambda: sequential(L.GaussianNoise(0.3), L.Dropout(0.5), L.Dense(6), L.ActivityRegularization(0.1), L.AlphaDropout(0.2), L.Dense(3), x=noise(24, 6)),
        "augmentation": lambda: sequential(L.RandomFlip(), L.RandomRotation(0.1), L.RandomZoom(0.1), L.RandomContrast(0.2), L.RandomBrightness(0.1), L.RandomTranslation(0.1, 0.1), L.RandomCrop(10, 10), L.Rescaling(1 / 127.5, -1), L.Conv2D(4, 3), x=noise(16, 12, 12, 3)),
        "center crop, rescaling": lambda: sequential(L.CenterCrop(8, 8), L.Rescaling(1 / 255), L.Conv2D(4, 3), x=100 * noise(16, 12, 12, 3)),
        "uint8 input": lambda: sequential(L.Rescaling(1 / 255), L.Conv2D(4, 3), L.GlobalAveragePooling2D(), x=np.random.default_rng(0).integers(0, 256, size=(24, 12, 12, 3)).astype(np.uint8)),
        "category encoding": lambda: sequential(L.CategoryEncoding(8, output_mode="one_hot"), L.Dense(3), x=ids(8, 24, 1)),
        "integer lookup": lambda: sequential(L.IntegerLookup(vocabulary=[3, 7, 11]), L.Embedding(6, 4), L.Flatten(), x=ids(12, 24, 3).astype(np.int64)),
        "discretization": lambda: sequential(L.Discretization([-1.0, 0.0, 1.0], output_mode="one_hot"), L.Dense(2), x=noise(32, 1)),
        "hashing": lambda: sequential(L.Hashing(5), L.Embedding(5, 3), x=ids(100, 24, 3)),
        "string lookup": lambda: strings(K, L),
        "einsum dense, permute, reshape": lambda: sequential(L.Permute((2, 1)), L.EinsumDense("abc,cd->abd", output_shape=(None, 4), bias_axes="d"), L.Reshape((-1, 2)), L.Flatten(), L.RepeatVector(2), x=noise(16, 6, 5)),
    }  # fmt: skip
    for name, build in small.items():
        yield Case(f"layers: {name}", build)

    def functional(build: Callable[[], Any], data: dict[str, np.ndarray], suffix: str = "", **more: Any) -> Made:
        K.utils.set_random_seed(0)
        return kept(build(), data, suffix, **more)

    def attention() -> Any:
        a, b = K.Input((6, 8), name="query"), K.Input((5, 8), name="value")
        m = L.MultiHeadAttention(2, 4)(a, b)
        m = L.LayerNormalization()(L.Add()([a, m]))
        return K.Model([a, b], [L.Attention()([m, b]), L.AdditiveAttention()([a, b])])

    def causal() -> Any:
        a = K.Input((6, 8), name="x")
        m = L.MultiHeadAttention(2, 4)(a, a, use_causal_mask=True)
        return K.Model(a, L.GroupQueryAttention(4, 4, 2)(m, m) if hasattr(L, "GroupQueryAttention") else m)

    def merged() -> Any:
        a, b = K.Input((6,), name="left"), K.Input((6,), name="right")
        join = [
            L.Add()([a, b]),
            L.Subtract()([a, b]),
            L.Multiply()([a, b]),
            L.Maximum()([a, b]),
            L.Minimum()([a, b]),
            L.Average()([a, b]),
        ]
        return K.Model(
            {"left": a, "right": b}, {"joined": L.Dense(3, name="d")(L.Concatenate()(join)), "dot": L.Dot(1)([a, b])}
        )

    def shared() -> Any:
        base = K.Sequential([K.Input((8, 8, 1)), L.Conv2D(4, 3, activation="relu"), L.Flatten(), L.Dense(4)])
        a, b = K.Input((8, 8, 1), name="one"), K.Input((8, 8, 1), name="two")
        return K.Model(
            [a, b], L.Dense(1, activation="sigmoid")(L.Lambda(lambda t: abs(t[0] - t[1]))([base(a), base(b)]))
        )

    def normalized() -> Any:
        norm = L.Normalization()
        norm.adapt(3 + 2 * noise(100, 4))
        a = K.Input((4,), name="x")
        return K.Model(a, L.Dense(2)(norm(a)))

    def ops() -> Any:
        a = K.Input((6, 4), name="x")
        o = K.ops
        t = o.concatenate([o.cumsum(a, axis=1), o.sort(a, axis=1), o.flip(a, axis=1)], axis=-1)
        t = o.where(t > 0, o.log1p(o.abs(t)), o.expm1(-o.abs(t)))
        v, i = o.top_k(t, 2)
        return K.Model(
            a,
            {
                "values": v,
                "where": o.argmax(t, axis=-1),
                "norm": o.norm(t, axis=-1),
                "std": o.std(t, axis=1),
                "clip": o.clip(t, -1, 1),
                "erf": o.erf(t),
                "round": o.floor(t * 3),
            },
        )

    def free_steps() -> Any:
        a = K.Input((None, 5), name="x")
        return K.Model(a, L.Dense(2)(L.GlobalAveragePooling1D()(L.Conv1D(4, 3, padding="same")(a))))

    def free_size() -> Any:
        a = K.Input((None, None, 3), name="x")
        return K.Model(a, L.Conv2D(2, 1)(L.Conv2D(4, 3, padding="same", activation="relu")(a)))

    def stateful() -> Any:
        a = K.Input(batch_shape=(1, 6, 5), name="x")
        return K.Model(a, L.LSTM(4, stateful=True)(a))

    def fixed_batch() -> Any:
        a = K.Input(batch_shape=(4, 6), name="x")
        return K.Model(a, L.Dense(3)(a))

    def states() -> Any:
        a, h, c = K.Input((6, 5), name="x"), K.Input((4,), name="h"), K.Input((4,), name="c")
        return K.Model([a, h, c], L.LSTM(4, return_state=True)(a, initial_state=[h, c]))

    xy = {"query": noise(24, 6, 8), "value": noise(24, 5, 8)}
    two = {"left": noise(24, 6), "right": noise(24, 6) + 1}
    for suffix in ("", ".keras", ".h5", ".saved"):
        yield Case(
            f"attention{suffix}",
            lambda suffix=suffix: functional(
                attention, xy, suffix, precisions=("fp32", "int8") if not suffix else ("fp32",)
            ),
        )
        yield Case(
            f"merges, dicts{suffix}", lambda suffix=suffix: functional(merged, two, suffix, precisions=("fp32",))
        )
        yield Case(
            f"normalization{suffix}",
            lambda suffix=suffix: functional(normalized, {"x": 3 + 2 * noise(24, 4)}, suffix, precisions=("fp32",)),
        )
        yield Case(
            f"subclassed custom{suffix}", lambda suffix=suffix: keras_custom.subclassed(suffix, noise(16, 10, 10, 3))
        )
        yield Case(
            f"custom layer, activation{suffix}",
            lambda suffix=suffix: functional(
                lambda: keras_custom.functional(), {"x": noise(24, 6)}, suffix, precisions=("fp32",)
            ),
        )
    yield Case("causal attention", lambda: functional(causal, {"x": noise(24, 6, 8)}))
    yield Case(
        "siamese with Lambda", lambda: functional(shared, {"one": noise(24, 8, 8, 1), "two": noise(24, 8, 8, 1) * 2})
    )
    yield Case("ops", lambda: functional(ops, {"x": noise(24, 6, 4)}, precisions=("fp32",)))
    yield Case("free steps", lambda: functional(free_steps, {"x": noise(24, 9, 5)}))
    yield Case(
        "free steps, fixed",
        lambda: functional(free_steps, {"x": noise(24, 9, 5)}, options={"shapes": {"x": (None, 9, 5)}}),
    )
    yield Case("free picture size", lambda: functional(free_size, {"x": noise(8, 11, 13, 3)}))
    yield Case(
        "free picture size, fixed",
        lambda: functional(free_size, {"x": noise(8, 11, 13, 3)}, options={"shapes": {"x": (None, 11, 13, 3)}}),
    )
    yield Case("stateful lstm", lambda: functional(stateful, {"x": noise(1, 6, 5)}))
    yield Case("fixed batch 4", lambda: functional(fixed_batch, {"x": noise(4, 6)}))
    yield Case(
        "states in and out", lambda: functional(states, {"x": noise(24, 6, 5), "h": noise(24, 4), "c": noise(24, 4)})
    )
    yield Case("half policy", lambda: keras_custom.half(noise(24, 8)))
    yield Case("tf.Module signatures", lambda: keras_custom.signatures(noise(24, 6)))
    yield Case("tf.function control flow", lambda: keras_custom.control(noise(24, 6)))
    yield Case("tf signal", lambda: keras_custom.signal(noise(16, 400)))
    yield Case("legacy tf_keras", lambda: keras_custom.legacy(noise(24, 10, 10, 3)))
    yield Case("tfmot quantization-aware", lambda: keras_custom.aware(noise(32, 10, 10, 3)))
    for name, size in APPLICATIONS.items():
        yield Case(f"applications {name}", lambda name=name, size=size: application(name, size))


def strings(K: Any, L: Any) -> Made:
    text = np.array([["a"], ["b"], ["c"]] * 4)
    a = K.Input((1,), dtype="string", name="x")
    model = K.Model(a, L.Embedding(4, 3)(L.StringLookup(vocabulary=["a", "b"])(a)))
    import tensorflow as tf

    return Made(model, {"x": text}, [model(tf.constant(text)).numpy()], precisions=("fp32",))
