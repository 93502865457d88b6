"""What captured samples are worth: how often each stratum's are answered wrongly, beside a random sample of the stream.

    python benchmarks/capture.py [STREAM ...]

Streams are labelled data that the model was not trained with, shuffled, one sample a second; each stratum draws one
sample a window of 20. The monitor's reference is a half of the data, the stream the other half. Prints JSON lines:
errors of the stream and of each stratum in percent, how many times as many, the accuracy that labels and weights tell
with its interval, and the median cost of `offer` in microseconds. The second model is the first one in int8, or, where
a stream says so, another network: where two models that err as often as each other disagree, each is wrong in hardly
more than half of the cases, so that three times is beyond them where a sixth of all is wrong.
"""

from __future__ import annotations

import gzip
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import edgekit
from edgekit.collect import collect, dataset, drift
from edgekit.monitor.ages import Clock
from edgekit.monitor.capture import Capture, Plan
from edgekit.monitor.records import digest
from edgekit.monitor.strata import Draw

SHARED = Path(__file__).resolve().parents[2] / "shared"
MODELS, DATA = SHARED / "models", SHARED / "data"
SEEDS = 3


def mnist():
    with (
        gzip.open(next((DATA / "mnist_t10k").glob("*images*"))) as images,
        gzip.open(next((DATA / "mnist_t10k").glob("*labels*"))) as labels,
    ):
        x = np.frombuffer(images.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28).astype(np.float32)
        return MODELS / "mnist_cnn_onnx" / "mnist.onnx", x, np.frombuffer(labels.read(), np.uint8, offset=8), {}


def mnist_slanted():
    from scipy.ndimage import rotate

    source, x, y, known = mnist()
    return source, rotate(x[:4000], 25, axes=(2, 3), reshape=False, order=1).astype(np.float32), y[:4000], known


def cifar():
    stored = np.load(DATA / "cifar10_jpeg_1000.npz")
    return MODELS / "ic_resnet8" / "resnet8.h5", stored["x"].astype(np.float32), stored["y"], {}


def keywords():
    stored = np.load(DATA / "kws01_mfcc_500.npz")
    x = (stored["x_int8"].astype(np.float32) - stored["zero_point"]) * stored["scale"]
    return MODELS / "kws_dscnn" / "saved_model", x.astype(np.float32), stored["y"], {}


def digits():
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    return LogisticRegression(max_iter=500).fit(x[:600], y[:600]), x[600:], y[600:], {}


def lstm(x):
    """MNIST's other network."""
    with edgekit.load(MODELS / "mnist_lstm_tflite" / "lstm_fp32.tflite", threads=1) as model:
        name, out = model.inputs[0].name, model.outputs[0].name
        return np.concatenate([model.run({name: row.reshape(1, 28, 28) / 255})[out].reshape(1, -1) for row in x])


def resnet20(x):
    """Another network for CIFAR-10."""
    from monitor_data import more_subjects

    (subject,) = more_subjects(["resnet20"])
    return subject.answer(x)


def forest(x):
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestClassifier

    known, labels = load_digits(return_X_y=True)
    return RandomForestClassifier(60, random_state=0).fit(known[:600] / 16, labels[:600]).predict_proba(x)


STREAMS = {"mnist": mnist, "mnist_slanted": mnist_slanted, "cifar": cifar, "keywords": keywords, "digits": digits}
BESIDE = {"mnist_slanted+lstm": lstm, "cifar+resnet20": resnet20, "digits+forest": forest}


def measure(name: str, folder: Path) -> dict:
    source, x, y, known = STREAMS[name.partition("+")[0]]()
    order = np.random.default_rng(0).permutation(len(y))
    half = order[: min(1000, len(y) // 2)]
    path = folder / f"{name}.onnx"
    small = folder / f"{name}-int8.onnx"
    convert = {"calibration": x[half][:200], "evaluation": (x[half], y[half]), "max_drop": 20.0, **known}
    edgekit.convert(source, output=path, **convert)
    edgekit.convert(source, output=small, precision="int8", **convert)
    stream = order[len(half) :]
    second = BESIDE[name](x[stream]).astype(np.float32) if name in BESIDE else None
    rows = [one(name, path, small, x[stream], y[stream], folder, seed, second) for seed in range(SEEDS)]
    found = {key: float(np.nanmean([row[key] for row in rows])) for key in rows[0]}
    return {"stream": name, "samples": len(stream), "seeds": SEEDS, **{k: round(v, 3) for k, v in found.items()}}


def one(name: str, path: Path, small: Path, x, y, folder: Path, seed: int, second) -> dict:
    now = [1.795e9]
    clock = Clock(lambda: now[0], lambda: now[0])
    plan = Plan(quota_mb=500, window=20, status=1e6, sync=1e9, shadow_share=1.0, disagreeing=Draw(1))
    order = np.random.default_rng(seed).permutation(len(y))
    wrong, costs = 0, []
    root = folder / f"{name}-{seed}"
    with edgekit.load(path, threads=1) as model, edgekit.load(small, threads=1) as other:
        key, answer = model.inputs[0].name, model.interpret.output or model.outputs[0].name
        monitor = model.monitor()
        with Capture(
            "model", model, plan, root=root, shadow=other if second is None else None, seed=seed, clock=clock
        ) as capture:
            for row in order:
                now[0] += 1
                feeds = {key: x[row][None]}
                outputs = model.run(feeds)
                wrong += outputs[answer].reshape(-1).argmax() != y[row]
                verdict = monitor.observe(feeds, outputs)
                shadow = other.run(feeds) if second is None else {answer: second[row][None]}
                began = time.perf_counter()
                capture.offer(feeds, outputs, verdict, shadow=shadow)
                costs.append(time.perf_counter() - began)
    with edgekit.load(path) as model:
        labels = model.interpret.labels
    out = root / "dataset"
    collect([str(root)], out)
    truth = {digest({key: x[row]}): labels[int(y[row])] if labels else str(int(y[row])) for row in order}
    collect([], out, labels={entry.id: truth[entry.id] for entry in dataset.read(out).samples})
    seen = drift.summary([out])
    rate = wrong / len(y)
    shares = {row["stratum"]: row["wrong"] for row in seen["strata"]}
    named = {
        "random": "random",
        "uncertain": "uncertain",
        "strange": "out-of-distribution",
        "disagreeing": "disagreeing",
    }
    found = {"stream_wrong": 100 * rate, "captured": seen["samples"]}
    for short, long in named.items():
        found[f"{short}_wrong"] = 100 * shares[long] if shares.get(long) is not None else float("nan")
        found[f"{short}_times"] = found[f"{short}_wrong"] / (100 * rate) if rate else float("nan")
    accuracy = seen["accuracy"]
    covered = accuracy["low"] <= 1 - rate <= accuracy["high"]
    return {**found, "estimated_right": 100 * accuracy["estimate"], "true_right": 100 * (1 - rate),
            "interval_covers": float(covered), "offer_us": 1e6 * float(np.median(costs))}  # fmt: skip


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        for name in sys.argv[1:] or (*STREAMS, *BESIDE):
            print(json.dumps(measure(name, Path(scratch))), flush=True)
