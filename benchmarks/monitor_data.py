"""Models with their data for the benchmarks of the monitor: answers are taken once, streams are drawn from them.

`../shared` holds models and data (see its README); a subject whose files are not there is left out.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import edgekit
from edgekit.monitor.build import Builder
from edgekit.monitor.monitor import Monitor
from edgekit.monitor.reference import Reference
from edgekit.reading import Interpret
from edgekit.tensors import TensorSpec

SHARED = Path(__file__).resolve().parents[2] / "shared"
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Subject:
    """A model and two parts of its data: what the reference is made of, and what streams are drawn from.

    Attributes:
        kind: "image", "audio" or "table".
        answer: Arrays to answers, batch by batch.
        known, field: Samples of either part. labels: Of the field.
        labelled: Of the field, how many the desk has labels of, where half of it is more.
    """

    name: str
    kind: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    interpret: Interpret
    answer: Callable[[Array], Array]
    known: Array
    known_labels: Array | None
    field: Array
    labels: Array | None
    labelled: int = 1000

    def reference(self, *, whole: bool = True) -> Reference:
        """Of the known part; `whole`: of the field as well, as a conversion with evaluation data makes it."""
        builder = Builder(self.inputs, self.outputs, None, self.interpret)
        for x in (self.field, self.known) if whole else (self.known,):
            builder.add({self.inputs[0].name: x}, {self.outputs[0].name: self.answer(x)}, proven=x is self.field)
        return builder.finish()

    def monitor(self, reference: Reference, **options: Any) -> Monitor:
        return Monitor(reference, self.inputs, self.outputs, None, self.interpret, **options)

    def feeds(self, x: Array, answers: Array) -> tuple[dict[str, Array], dict[str, Array]]:
        return {self.inputs[0].name: x}, {self.outputs[0].name: answers}


def subjects(names: list[str] | None = None) -> Iterator[Subject]:
    """All whose files are there."""
    for name, make in MAKERS.items():
        if names is None or name in names:
            found = make(name)
            if found is not None:
                yield found


def more_subjects(names: list[str] | None = None) -> Iterator[Subject]:
    """Classifiers: those of `subjects`, and more of them for what is asked of models rather than of data."""
    for name, make in (MAKERS | MORE).items():
        if name != "diabetes" and (names is None or name in names):
            found = make(name)
            if found is not None:
                yield found


def _engine(path: Path, shape: tuple[int, ...]) -> Callable[[Array], Array]:
    model = edgekit.load(path, threads=1)
    name, out = model.inputs[0].name, model.outputs[0].name

    def answer(x: Array) -> Array:
        rows = [model.run({name: row.reshape(1, *shape)})[out] for row in x]
        return np.concatenate(rows).reshape(len(x), -1)

    return answer


def classes(number: int) -> tuple[tuple[TensorSpec, ...], Interpret]:
    how = Interpret(task="classification", scores="probabilities")
    return (TensorSpec("scores", (None, number), "float32"),), how


def _pictures(name: str) -> Subject | None:
    dice = np.random.default_rng(7)
    if name == "mnist":
        model, folder = SHARED / "models/mnist_conv_tflite/conv_fc_mnist.tflite", SHARED / "data/mnist_t10k"
        if not folder.is_dir():
            return None
        images, labels = (gzip.decompress(next(folder.glob(f"*{kind}*.gz")).read_bytes()) for kind in ("idx3", "idx1"))
        x = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28, 1).astype(np.float32) / 255
        y = np.frombuffer(labels, np.uint8, offset=8)
        cut = 1000
    else:
        model, path = SHARED / "models/ic_resnet8/resnet8_fp32.tflite", SHARED / "data/cifar10_jpeg_1000.npz"
        if not path.is_file():
            return None
        with np.load(path) as data:
            x, y = data["x"].astype(np.float32), data["y"]
        cut = 500
    order = dice.permutation(len(x))
    x, y = x[order], y[order]
    outputs, how = classes(10)
    shape = x.shape[1:]
    inputs = (TensorSpec("image", (None, *shape), "float32", layout="NHWC"),)
    return Subject(
        name, "image", inputs, outputs, how, _engine(model, shape), x[:cut], y[:cut], x[cut:], y[cut:]
    )  # fmt: skip


def _keywords(name: str) -> Subject | None:
    path = SHARED / "data/kws01_mfcc_500.npz"
    if not path.is_file():
        return None
    with np.load(path) as data:
        x = (data["x_int8"].astype(np.float32) - data["zero_point"]) * data["scale"]
        y = data["y"]
    order = np.random.default_rng(7).permutation(len(x))
    x, y = x[order], y[order]
    outputs, how = classes(12)
    inputs = (TensorSpec("mfcc", (None, 49, 10, 1), "float32"),)
    answer = _engine(SHARED / "models/kws_dscnn/kws_fp32.tflite", (49, 10, 1))
    return Subject(name, "audio", inputs, outputs, how, answer, x[:250], y[:250], x[250:], y[250:])


def _waves(name: str) -> Subject | None:
    """Half a second of speech, and a small network that tells its digit."""
    path = SHARED / "data/spoken_digits_300.npz"
    if not path.is_file():
        return None
    from sklearn.neural_network import MLPClassifier

    with np.load(path) as data:
        ends = np.cumsum(data["length"])
        clips = [data["samples"][end - size : end] for end, size in zip(ends, data["length"], strict=True)]
        y = data["digit"]
    x = np.stack([np.pad(clip[:4096], (0, max(0, 4096 - clip.size))) for clip in clips]).astype(np.float32) / 32768
    order = np.random.default_rng(7).permutation(len(x))
    x, y = x[order], y[order]

    def spectra(waves: Array) -> Array:
        frames = np.abs(np.fft.rfft(waves.reshape(len(waves), 16, 256), axis=2))[:, :, 1:65]
        return np.log(frames.reshape(len(waves), 16, 16, 4).mean(3) + 1e-3).reshape(len(waves), -1)

    net = MLPClassifier((64,), random_state=0, max_iter=400).fit(spectra(x[:150]), y[:150])
    outputs, how = classes(10)
    inputs = (TensorSpec("wave", (None, 4096), "float32"),)
    return Subject(
        name, "audio", inputs, outputs, how, lambda w: net.predict_proba(spectra(w)).astype(np.float32),
        x[:150], y[:150], x[150:], y[150:],
    )  # fmt: skip


def _tables(name: str) -> Subject | None:
    from sklearn import datasets
    from sklearn.ensemble import GradientBoostingClassifier, RandomForestRegressor
    from sklearn.model_selection import train_test_split
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    load, model = {
        "breast-cancer": (datasets.load_breast_cancer, GradientBoostingClassifier(n_estimators=60, random_state=0)),
        "digits": (datasets.load_digits, MLPClassifier((64,), alpha=1e-2, max_iter=300, random_state=0)),
        "diabetes": (datasets.load_diabetes, RandomForestRegressor(60, max_depth=7, random_state=0)),
    }[name]
    x, y = load(return_X_y=True)
    known, field, known_labels, labels = train_test_split(x.astype(np.float32), y, test_size=0.3, random_state=42)
    net = make_pipeline(StandardScaler(), model).fit(known, known_labels)
    inputs = (TensorSpec("x", (None, x.shape[1]), "float32"),)
    if name == "diabetes":
        outputs, how = (TensorSpec("value", (None, 1), "float32"),), Interpret(task="regression")
        return Subject(
            name, "table", inputs, outputs, how, lambda rows: net.predict(rows)[:, None].astype(np.float32),
            known, known_labels, field, labels,
        )  # fmt: skip
    outputs, how = classes(len(set(y.tolist())))
    return Subject(
        name, "table", inputs, outputs, how, lambda rows: net.predict_proba(rows).astype(np.float32),
        known, known_labels, field, labels,
    )  # fmt: skip


MAKERS: dict[str, Callable[[str], Subject | None]] = {
    "mnist": _pictures, "cifar": _pictures, "keywords": _keywords, "waves": _waves,
    "breast-cancer": _tables, "digits": _tables, "diabetes": _tables,
}  # fmt: skip


def _digit_models(name: str) -> Subject | None:
    """Other networks for MNIST's digits: old ONNX with logits, and a recurrent one."""
    subject = _pictures("mnist")
    if subject is None or name == "mnist-lstm":
        path = SHARED / "models/mnist_lstm_tflite/lstm_fp32.tflite"
        return subject and replace(subject, name=name, answer=_engine(path, (28, 28)))
    engine = _engine(SHARED / "models/mnist_cnn_onnx/mnist.onnx", (1, 28, 28))
    return replace(subject, name=name, answer=lambda x: _softmax(engine(255 * x)))


def _softmax(logits: Array) -> Array:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def _resnet20(name: str) -> Subject | None:
    """PyTorch's ResNet-20 of K. He et al., Deep residual learning, CVPR 2016, on the pictures of "cifar"."""
    import torch
    from torch.nn import functional

    subject, path = _pictures("cifar"), SHARED / "models/cifar_resnet20/resnet20-12fca82f.th"
    if subject is None or not path.is_file():
        return None
    torch.set_num_threads(1)
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    state = {key.removeprefix("module."): value for key, value in state.items()}
    mean, deviation = (torch.tensor(v).reshape(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

    def norm(x: Any, at: str) -> Any:
        parts = (state[f"{at}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return functional.batch_norm(x, *parts)

    def run(x: Any) -> Any:
        x = functional.relu(
            norm(functional.conv2d((x / 255 - mean) / deviation, state["conv1.weight"], padding=1), "bn1")
        )
        for stage in (1, 2, 3):
            for block in range(3):
                at, step = f"layer{stage}.{block}", 1 + (stage > 1 and block == 0)
                made = functional.conv2d(x, state[f"{at}.conv1.weight"], stride=step, padding=1)
                made = functional.conv2d(
                    functional.relu(norm(made, f"{at}.bn1")), state[f"{at}.conv2.weight"], padding=1
                )
                if step == 2:
                    more = x.shape[1] // 2
                    x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, more, more))
                x = functional.relu(norm(made, f"{at}.bn2") + x)
        return functional.linear(x.mean((2, 3)), state["linear.weight"], state["linear.bias"])

    def answer(x: Array) -> Array:
        with torch.no_grad():
            pictures = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2), dtype=np.float32))
            return torch.cat([run(part) for part in pictures.split(100)]).softmax(1).numpy()

    return replace(subject, name=name, answer=answer)


def _more_tables(name: str) -> Subject | None:
    from sklearn import datasets
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    load, model = {
        "digits-forest": (datasets.load_digits, RandomForestClassifier(60, random_state=0)),
        "digits-linear": (datasets.load_digits, LogisticRegression(max_iter=500)),
        "breast-linear": (datasets.load_breast_cancer, LogisticRegression(C=10, max_iter=2000)),
    }[name]
    x, y = load(return_X_y=True)
    known, field, known_labels, labels = train_test_split(x.astype(np.float32), y, test_size=0.6, random_state=1)
    net = make_pipeline(StandardScaler(), model).fit(known, known_labels)
    outputs, how = classes(len(set(y.tolist())))
    inputs = (TensorSpec("x", (None, x.shape[1]), "float32"),)
    return Subject(
        name, "table", inputs, outputs, how, lambda rows: net.predict_proba(rows).astype(np.float32),
        known, known_labels, field, labels,
    )  # fmt: skip


def _made_tables(name: str) -> Subject | None:
    """Clusters in many numbers; as many labels as one likes."""
    from sklearn.datasets import make_classification
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.neural_network import MLPClassifier

    (numbers, telling, count, apart), model = {
        "made-net": ((20, 12, 4, 1.5), MLPClassifier((64, 32), max_iter=200, random_state=0)),
        "made-boosted": ((12, 8, 3, 1.2), GradientBoostingClassifier(n_estimators=60, random_state=0)),
    }[name]
    x, y = make_classification(
        8000, n_features=numbers, n_informative=telling, n_classes=count, class_sep=apart, random_state=3
    )
    x = x.astype(np.float32)
    net = model.fit(x[:3000], y[:3000])
    outputs, how = classes(count)
    inputs = (TensorSpec("x", (None, numbers), "float32"),)
    return Subject(
        name, "table", inputs, outputs, how, lambda rows: net.predict_proba(rows).astype(np.float32),
        x[:3000], y[:3000], x[3000:], y[3000:],
    )  # fmt: skip


MORE: dict[str, Callable[[str], Subject | None]] = {
    "resnet20": _resnet20, "mnist-onnx": _digit_models, "mnist-lstm": _digit_models,
    "digits-forest": _more_tables, "digits-linear": _more_tables, "breast-linear": _more_tables,
    "made-net": _made_tables, "made-boosted": _made_tables,
}  # fmt: skip
