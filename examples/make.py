"""Trains or takes the models of the examples, converts them, and proves them: the desk's part.

    python examples/make.py build/examples                     # all whose models are at hand
    python examples/make.py build/examples breast_cancer ...   # some

What the board then needs is the artifact alone: how things are prepared and answers are read stands inside.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import edgekit

SHARED = Path(__file__).resolve().parents[2] / "shared"
"""Trained models and data that are not part of the repository; what needs them is left out without them."""

RATE = 8000
SPEECH = {"rate": RATE, "samples": 5120, "features": "mfcc", "frame": 256, "hop": 160, "bands": 32, "coefficients": 13,
          "low": 60.0, "high": 3800.0}  # fmt: skip


def breast_cancer(folder: Path) -> dict[str, Any]:
    """30 measurements of a cell nucleus: malignant or benign. scikit-learn's bundled data, gradient boosting."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.ensemble import GradientBoostingClassifier

    about = load_breast_cancer()
    train, test = split(len(about.target))
    x = about.data.astype(np.float32)
    fitted = GradientBoostingClassifier(n_estimators=60, random_state=0).fit(x[train], about.target[train])
    names = [str(name) for name in about.feature_names]
    medians = {name: float(value) for name, value in zip(names, np.median(x[train], axis=0), strict=True)}
    metadata = {
        "preprocess": {"kind": "table", "table": {"columns": names, "missing": medians}},
        "interpret": {"task": "classification", "labels": ["malignant", "benign"], "scores": "probabilities"},
    }
    np.savez(folder / "breast_cancer.npz", x=x[test], y=about.target[test])
    rows(folder / "breast_cancer.csv", names, about.data[test][:20])
    return edgekit.convert(
        fitted, output=folder / "breast_cancer.tflite", evaluation=folder / "breast_cancer.npz", metadata=metadata
    ).manifest.proof.metric  # type: ignore[union-attr, return-value]


def anomaly_detector(folder: Path) -> Any:
    """13 measurements of a wine. Two kinds are normal, the third is not: an autoencoder that knows the two rebuilds it
    badly. scikit-learn's bundled data, a network of 13-8-4-8-13.
    """
    from sklearn.datasets import load_wine
    from sklearn.neural_network import MLPRegressor

    about = load_wine()
    normal = np.flatnonzero(about.target < 2)
    train, test = (normal[part] for part in split(len(normal)))
    mean, std = about.data[train].mean(axis=0), about.data[train].std(axis=0)
    scaled = ((about.data - mean) / std).astype(np.float32)
    network = MLPRegressor(hidden_layer_sizes=(8, 4, 8), activation="tanh", max_iter=4000, random_state=0, alpha=1e-3)
    network.fit(scaled[train], scaled[train])
    errors = ((network.predict(scaled) - scaled) ** 2).mean(axis=1)
    names = [str(name) for name in about.feature_names]
    metadata = {
        "preprocess": {"kind": "table", "mean": mean.tolist(), "std": std.tolist(), "table": {"columns": names}},
        "interpret": {
            "task": "anomaly", "threshold": float(np.quantile(errors[train], 0.97)),
            "anomaly": {"score": "reconstruction"},
        },
    }  # fmt: skip
    strange = np.flatnonzero(about.target == 2)
    rows(folder / "anomaly_normal.csv", names, about.data[test])
    rows(folder / "anomaly_strange.csv", names, about.data[strange])
    np.savez(folder / "anomaly.npz", x=scaled[test])
    return edgekit.convert(
        network, output=folder / "anomaly_detector.tflite", evaluation=folder / "anomaly.npz", metadata=metadata
    ).manifest


def recommender(folder: Path) -> Any:
    """More of what somebody liked: items lie in a space where neighbors are alike. The catalog is scikit-learn's 1,797
    handwritten digits, the space its linear discriminants; the items' own vectors travel beside the model.
    """
    from sklearn.datasets import load_digits
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.linear_model import LinearRegression

    x, y = load_digits(return_X_y=True)
    x = x.astype(np.float32)
    train, test = split(len(y))
    space = LinearDiscriminantAnalysis().fit(x[train], y[train])
    linear = LinearRegression().fit(x[train], space.transform(x[train]))  # the same map, as a model that converts
    path = folder / "recommender.tflite"
    metadata = {"interpret": {"task": "embedding"}}
    np.savez(folder / "recommender_items.npz", x=x[test])
    artifact = edgekit.convert(linear, output=path, evaluation=folder / "recommender_items.npz", metadata=metadata)
    with edgekit.load(artifact) as model:
        vectors = np.stack([answer.vector for answer in model.predict_batch(list(x[train]))])
    names = np.array([f"item {number}, a {digit}" for number, digit in zip(train, y[train], strict=True)])
    np.savez(folder / "recommender_catalog.npz", vectors=vectors, names=names)
    np.savez(folder / "recommender_liked.npz", x=x[test], y=y[test])
    return artifact.manifest


def keyword_spotting(folder: Path) -> Any:
    """Ten spoken digits and silence, at 8 kHz: MFCCs into a small network. Free Spoken Digit Dataset (CC BY-SA 4.0),
    trained on takes 1 to 4, judged on take 0.
    """
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from edgekit.feeding import AudioSteps, Preprocess
    from edgekit.runtimes.preparation.sounds import Sound
    from edgekit.runtimes.preprocess import prepare
    from edgekit.tensors import TensorSpec

    stored = np.load(SHARED / "data" / "spoken_digits_300.npz")
    ends = np.cumsum(stored["length"])
    whole = stored["samples"] / np.float32(32768)
    clips = [whole[end - size : end] for end, size in zip(ends, stored["length"], strict=True)]
    how = Preprocess("waveform", audio=AudioSteps(**SPEECH))
    spec = TensorSpec("sound", (1, 31 * 13), "float32")
    dice = np.random.default_rng(0)
    x, y, take = [], [], []
    for clip, digit, number in zip(clips, stored["digit"], stored["take"], strict=True):
        shifts = (0,) if number == 0 else (0, 200, 600, 1200)  # words begin anywhere in a window
        for shift in shifts:
            noisy = np.append(np.zeros(shift, np.float32), clip) * dice.uniform(0.5, 1.5)
            x.append(prepare(Sound(noisy.astype(np.float32), RATE), (spec,), how)["sound"])
            y.append(int(digit))
            take.append(int(number))
    for number in range(400):  # noise of any loudness, and what a window shows of a word before and after it
        quiet = dice.normal(size=5120) * 10 ** dice.uniform(-6, -1.5)
        clip, part = clips[number % len(clips)], dice.uniform(0.1, 0.4)
        size = min(int(part * len(clip)), 2500)
        if number % 4 == 1:
            quiet[-size:] += clip[:size]
        elif number % 4 == 2:
            quiet[:size] += clip[len(clip) - size :]
        x.append(prepare(Sound(quiet.astype(np.float32), RATE), (spec,), how)["sound"])
        y.append(10)
        take.append(int(stored["take"][number % len(clips)]))
    inputs, labels, test = np.stack(x), np.array(y), np.array(take) == 0
    network = make_pipeline(StandardScaler(), MLPClassifier((96,), alpha=0.3, max_iter=600, random_state=0))
    network.fit(inputs[~test], labels[~test])
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "silence"]
    metadata = {
        "preprocess": {"kind": "waveform", "audio": SPEECH},
        "interpret": {
            "task": "wake-word", "labels": names, "scores": "probabilities", "threshold": 0.75,
            "wake": {"words": names[:10], "smoothing": 2, "refractory": 0.6},
        },
    }  # fmt: skip
    np.savez(folder / "keywords.npz", x=inputs[test], y=labels[test])
    write_wav(folder / "keywords.wav", clips, stored)
    artifact = edgekit.convert(
        network, output=folder / "keyword_spotting.tflite", evaluation=folder / "keywords.npz", metadata=metadata,
        task=None,
    )  # fmt: skip
    return artifact.manifest


def face_detection(folder: Path) -> Any:
    """Ultra-Light-Fast-Generic-Face-Detector 320 (MIT), as its authors trained it; the graph decodes its boxes."""
    metadata = {
        "preprocess": {"kind": "image", "mean": [127.0], "std": [128.0], "image": {"fit": "letterbox", "border": 127}},
        "interpret": {
            "task": "detection", "labels": ["face"], "threshold": 0.7, "output": "scores",
            "detection": {"boxes": "boxes", "scores": "scores", "background": True, "iou": 0.3},
        },
    }  # fmt: skip
    return edgekit.convert(
        SHARED / "models" / "face_ultraface_onnx" / "version-RFB-320.onnx", output=folder / "face_detection.tflite",
        metadata=metadata, layout="nhwc",
    ).manifest  # fmt: skip


def people_counter(folder: Path) -> Any:
    """Is somebody in view? MobileNetV1 0.25 of MLPerf Tiny (Apache-2.0), its owners' int8 file, with the manifest that
    it lacks: bytes of a 96x96 picture reach its tensor without a float operation.
    """
    metadata = {
        "preprocess": {"kind": "image", "scale": 1 / 255, "image": {"fit": "crop"}},
        "interpret": {"task": "classification", "labels": ["nobody", "somebody"], "scores": "probabilities"},
    }
    return edgekit.convert(
        SHARED / "models" / "vww_mobilenet" / "vww_96_int8.tflite", output=folder / "people_counter.tflite",
        metadata=metadata,
    ).manifest  # fmt: skip


def split(count: int) -> tuple[Any, Any]:
    """Indices of seven tenths to train on, and of the rest; seeded."""
    order = np.random.default_rng(0).permutation(count)
    return order[: count * 7 // 10], order[count * 7 // 10 :]


def rows(path: Path, names: list[str], values: Any) -> None:
    """A CSV file with a header."""
    lines = [",".join(names), *(",".join(f"{value:.6g}" for value in row) for row in values)]
    path.write_text("\n".join(lines) + "\n")


def write_wav(path: Path, clips: list[Any], stored: Any) -> None:
    """A recording of one speaker's test words with pauses: three, one, four, one, five, nine."""
    import wave

    pause = (np.random.default_rng(1).normal(size=RATE) / 2000).astype(np.float32)
    parts = [pause]
    for digit in (3, 1, 4, 1, 5, 9):
        chosen = np.flatnonzero((stored["digit"] == digit) & (stored["take"] == 0))[0]
        parts += [clips[chosen], pause]
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((np.concatenate(parts) * 32767).astype("<i2").tobytes())


FREE: dict[str, Callable[[Path], Any]] = {
    "breast_cancer": breast_cancer,
    "anomaly_detector": anomaly_detector,
    "recommender": recommender,
}
WITH_SHARED: dict[str, Callable[[Path], Any]] = {
    "keyword_spotting": keyword_spotting,
    "face_detection": face_detection,
    "people_counter": people_counter,
}


def main(folder: Path, *names: str) -> None:
    """Make them."""
    folder.mkdir(parents=True, exist_ok=True)
    at_hand = {**FREE, **(WITH_SHARED if (SHARED / "models").is_dir() else {})}
    for name in names or at_hand:
        if name not in at_hand:
            raise SystemExit(f"{name} is none of {', '.join(at_hand)}")
        at_hand[name](folder)
        print(f"made {name}", flush=True)
    for name in sorted(set(WITH_SHARED) - set(at_hand)):
        print(f"left out {name}: its model is not beside the checkout")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), *sys.argv[2:])
