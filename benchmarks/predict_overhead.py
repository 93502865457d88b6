"""`Model.predict` beside code that an app would write by hand for the same job with numpy and the engine.

    python benchmarks/predict_overhead.py [--rounds N]

Four jobs: a frame classified (int8 TFLite), faces found in a frame (ONNX), a keyword in a second of sound (int8
TFLite), a row judged (ONNX). Both give the same answers, which is checked first. Calls are interleaved in one process
and medians compared. Needs the trained models beside the checkout. One JSON line a job.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # for both; on a busy machine its threads wait for each other

import numpy as np
from openers import litert, onnx

import edgekit

SHARED = Path(__file__).resolve().parents[2] / "shared"
Call = Callable[[], Any]
CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
WORDS = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes", "silence", "unknown")


def classification(folder: Path) -> tuple[Call, Call, Callable[[Any, Any], bool]]:
    stored = np.load(SHARED / "data/cifar10_jpeg_1000.npz")["x"]
    chosen = np.random.default_rng(0).permutation(len(stored))[:100]
    np.savez(folder / "cifar.npz", x=stored[chosen].astype(np.float32))
    path = folder / "resnet8.tflite"
    metadata = {
        "preprocess": {"kind": "image"},
        "interpret": {"task": "classification", "labels": list(CIFAR), "scores": "probabilities", "top_k": 3},
    }
    edgekit.convert(
        SHARED / "models/ic_resnet8/resnet8_fp32.tflite", output=path, precision="int8", interface="int8",
        calibration=folder / "cifar.npz", metadata=metadata,
    )  # fmt: skip
    frame = np.ascontiguousarray(stored[7])
    model, engine = edgekit.load(path, threads=1), litert(path)
    taken, given = engine.get_input_details()[0], engine.get_output_details()[0]
    scale, zero = taken["quantization"]
    out_scale, out_zero = given["quantization"]

    def by_hand() -> Any:
        quantized = np.clip(np.rint(frame.astype(np.float32) / scale) + zero, -128, 127).astype(np.int8)[None]
        engine.set_tensor(taken["index"], quantized)
        engine.invoke()
        scores = (engine.get_tensor(given["index"])[0].astype(np.float32) - out_zero) * out_scale
        best = np.argsort(-scores, kind="stable")[:3]
        return [(CIFAR[index], float(scores[index])) for index in best]

    def same(ours: Any, theirs: Any) -> bool:
        return [(c.label, round(c.score, 5)) for c in ours.classes] == [(n, round(s, 5)) for n, s in theirs]

    return lambda: model.predict(frame), by_hand, same


def detection(folder: Path) -> tuple[Call, Call, Callable[[Any, Any], bool]]:
    from PIL import Image

    path = folder / "faces.onnx"
    metadata = {
        "preprocess": {"kind": "image", "mean": [127.0], "std": [128.0]},
        "interpret": {
            "task": "detection", "labels": ["face"], "threshold": 0.7, "output": "scores",
            "detection": {"boxes": "boxes", "scores": "scores", "background": True, "iou": 0.3},
        },
    }  # fmt: skip
    edgekit.convert(SHARED / "models/face_ultraface_onnx/version-RFB-320.onnx", output=path, metadata=metadata)
    photo = Image.open(SHARED / "data/photos/face.jpg").convert("RGB")
    frame = np.asarray(photo.resize((640, 480)))
    model, engine = edgekit.load(path, threads=1), onnx(path)

    def by_hand() -> Any:
        small = np.asarray(Image.fromarray(frame).resize((320, 240), Image.Resampling.BILINEAR))
        image = ((small.astype(np.float32) - 127) / 128).transpose(2, 0, 1)[None]
        scores, boxes = engine.run(["scores", "boxes"], {"input": np.ascontiguousarray(image)})
        sure = scores[0, :, 1] > 0.7
        boxes, scores = boxes[0][sure], scores[0, :, 1][sure]
        order, kept = np.argsort(-scores), []
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        while order.size:
            best, order = order[0], order[1:]
            kept.append(best)
            low, high = np.maximum(boxes[best, :2], boxes[order, :2]), np.minimum(boxes[best, 2:], boxes[order, 2:])
            shared = np.prod(np.clip(high - low, 0, None), axis=1)
            order = order[shared / (areas[best] + areas[order] - shared) <= 0.3]
        return [(float(scores[i]), (boxes[i] * [640, 480, 640, 480]).tolist()) for i in kept]

    def same(ours: Any, theirs: Any) -> bool:
        pairs = zip(ours.items, theirs, strict=True)
        return bool(theirs) and all(np.allclose(a.box, b[1], atol=1.0) and abs(a.score - b[0]) < 1e-3 for a, b in pairs)

    return lambda: model.predict(frame), by_hand, same


def keywords(folder: Path) -> tuple[Call, Call, Callable[[Any, Any], bool]]:
    path = folder / "kws.tflite"
    audio = {"rate": 16000, "samples": 16000, "features": "mfcc", "frame": 640, "hop": 320, "low": 20.0, "high": 4000.0,
             "coefficients": 10}  # fmt: skip
    metadata = {
        "preprocess": {"kind": "waveform", "audio": audio},
        "interpret": {"task": "classification", "labels": list(WORDS), "scores": "probabilities", "top_k": 1},
    }
    edgekit.convert(SHARED / "models/kws_dscnn/kws_int8.tflite", output=path, metadata=metadata)
    sound = (np.random.default_rng(0).normal(size=16000) / 10).astype(np.float32)
    model, engine = edgekit.load(path, threads=1), litert(path)
    taken, given = engine.get_input_details()[0], engine.get_output_details()[0]
    scale, zero = taken["quantization"]
    out_scale, out_zero = given["quantization"]
    from edgekit.feeding import AudioSteps
    from edgekit.runtimes.preparation.spectra import mel_matrix

    mel = mel_matrix(AudioSteps(**audio))
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(640) / 640)).astype(np.float32)
    cosines = np.cos(np.pi / 40 * (np.arange(40)[:, None] + 0.5) * np.arange(10)) * np.sqrt(2 / 40)
    cosines = cosines.astype(np.float32)
    frames = np.arange(640) + 320 * np.arange(49)[:, None]

    def by_hand() -> Any:
        magnitudes = np.abs(np.fft.rfft(sound[frames] * window, 1024)).astype(np.float32)
        mfcc = np.log(magnitudes @ mel + 1e-6) @ cosines
        quantized = np.clip(np.rint(mfcc / scale) + zero, -128, 127).astype(np.int8)
        engine.set_tensor(taken["index"], quantized[None, :, :, None])
        engine.invoke()
        scores = (engine.get_tensor(given["index"])[0].astype(np.float32) - out_zero) * out_scale
        best = int(np.argmax(scores))
        return WORDS[best], float(scores[best])

    def same(ours: Any, theirs: Any) -> bool:
        return bool(ours.label == theirs[0] and abs(ours.classes[0].score - theirs[1]) < 0.02)

    return lambda: model.predict(sound), by_hand, same


def tabular(folder: Path) -> tuple[Call, Call, Callable[[Any, Any], bool]]:
    from sklearn.datasets import load_breast_cancer
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    about = load_breast_cancer()
    scaler = StandardScaler().fit(about.data)
    fitted = LogisticRegression().fit(scaler.transform(about.data).astype(np.float32), about.target)
    names = [str(name) for name in about.feature_names]
    metadata = {
        "preprocess": {
            "kind": "table", "mean": scaler.mean_.tolist(), "std": scaler.scale_.tolist(), "table": {"columns": names},
        },
        "interpret": {"task": "classification", "labels": ["malignant", "benign"], "scores": "probabilities"},
    }  # fmt: skip
    path = folder / "cancer.onnx"
    edgekit.convert(fitted, output=path, metadata=metadata)
    model, engine = edgekit.load(path, threads=1), onnx(path)
    output = model.interpret.output or model.outputs[0].name
    name = engine.get_inputs()[0].name
    row = dict(zip(names, about.data[3].tolist(), strict=True))
    mean, std = scaler.mean_.astype(np.float32), scaler.scale_.astype(np.float32)

    def by_hand() -> Any:
        values = (np.array([float(row[column]) for column in names], np.float32) - mean) / std
        scores = engine.run([output], {name: values[None]})[0][0]
        return [(("malignant", "benign")[i], float(scores[i])) for i in np.argsort(-scores)]

    def same(ours: Any, theirs: Any) -> bool:
        return [(c.label, round(c.score, 4)) for c in ours.classes] == [(n, round(s, 4)) for n, s in theirs]

    return lambda: model.predict(row), by_hand, same


def interleaved(ours: Call, theirs: Call, rounds: int) -> dict[str, float]:
    """Medians of medians, in microseconds; in blocks, so that each finds its own things in the caches."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for which in (0, 1) if number % 2 else (1, 0):
            call, taken = (ours, theirs)[which], []
            for _ in range(20):
                start = time.perf_counter_ns()
                call()
                taken.append(time.perf_counter_ns() - start)
            times[which].append(statistics.median(taken) / 1000)
    mine, hand = (statistics.median(each) for each in times)
    ratios = [a / b for a, b in zip(*times, strict=True)]
    return {"edgekit_us": round(mine, 1), "by_hand_us": round(hand, 1), "ratio": round(statistics.median(ratios), 3)}


def main() -> None:
    """Each job in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    chosen = parser.parse_args()
    if not (SHARED / "models").is_dir():
        print(json.dumps({"skipped": "the trained models are not beside the checkout"}))
        return
    with tempfile.TemporaryDirectory() as temporary:
        for job in (classification, detection, keywords, tabular):
            ours, theirs, same = job(Path(temporary))
            if not same(ours(), theirs()):
                raise SystemExit(f"{job.__name__}: {ours()} is not {theirs()}")
            for call in (ours, theirs):
                for _ in range(50):
                    call()
            seen = interleaved(ours, theirs, chosen.rounds)
            print(json.dumps({"job": job.__name__, **seen, "asked": 1.05}), flush=True)


if __name__ == "__main__":
    main()
