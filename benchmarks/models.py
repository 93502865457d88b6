"""Every model beside the checkout, by every route and precision: converted and verified, or refused with a reason.

    python benchmarks/models.py [--model NAME] [--precision NAME] [--keep FOLDER]

Prints one JSON line a conversion. Calibration: 100 samples of a seeded shuffle; evaluation: the rest.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

SHARED = Path(__file__).resolve().parents[2] / "shared"
NETS = str(Path(__file__).resolve().parents[1] / "tests" / "convert")
MOBILENET = "imagenet_mobilenet_tflite/mobilenet_v1"
PRECISIONS = ("fp32", "fp16", "dynamic", "int8", "int16x8")


@dataclass(frozen=True)
class Case:
    """One model and how its data is made."""

    name: str
    path: str
    data: str
    calibration: int = 100
    whole_evaluation: bool = False
    options: tuple[str, ...] = ()


CASES = (
    Case("ic_resnet8", "ic_resnet8/resnet8.h5", "cifar"),
    Case("ic_resnet8_tflite", "ic_resnet8/resnet8_fp32.tflite", "cifar"),
    Case("ic_resnet8_int8_tflite", "ic_resnet8/resnet8_int8.tflite", "cifar"),
    Case("kws_dscnn", "kws_dscnn/saved_model", "kws"),
    Case("kws_tflite", "kws_dscnn/kws_fp32.tflite", "kws"),
    Case("kws_int8_tflite", "kws_dscnn/kws_int8.tflite", "kws"),
    Case("vww_mobilenet", "vww_mobilenet/vww_96.h5", "vww", 35, whole_evaluation=True),
    Case("vww_int8_tflite", "vww_mobilenet/vww_96_int8.tflite", "vww", 35, whole_evaluation=True),
    Case("cifar_resnet20", "cifar_resnet20/resnet20-12fca82f.th", "cifar_nchw",
         options=("--model", "torch_nets:resnet20", "--input", "image=N,3,32,32")),
    Case("digits_mlp", "sklearn/digits_mlp.joblib", "sklearn/digits", options=("--trust",)),
    Case("breast_cancer_gb", "sklearn/breast_cancer_gb.joblib", "sklearn/breast_cancer", options=("--trust",)),
    Case("diabetes_rf", "sklearn/diabetes_rf.joblib", "sklearn/diabetes", options=("--trust",)),
    Case("mnist_cnn_onnx", "mnist_cnn_onnx/mnist.onnx", "mnist_nchw"),
    Case("mnist_conv_tflite", "mnist_conv_tflite/conv_fc_mnist.tflite", "mnist_nhwc"),
    Case("mnist_conv_a8w8", "mnist_conv_tflite/conv_fc_mnist_a8w8.tflite", "mnist_nhwc"),
    Case("mnist_lstm_tflite", "mnist_lstm_tflite/lstm_fp32.tflite", "mnist_rows"),
    Case("mnist_lstm_int8", "mnist_lstm_tflite/lstm_int8.tflite", "mnist_rows"),
    Case("ultraface", "face_ultraface_onnx/version-RFB-320.onnx", "faces", 12, whole_evaluation=True),
    Case("mobilenet_025", f"{MOBILENET}_0.25_128_quant.tflite", "photos128", 4, whole_evaluation=True),
    Case("mobilenet_05", f"{MOBILENET}_0.5_160_quant.tflite", "photos160", 4, whole_evaluation=True),
)  # fmt: skip


HARD = tuple(
    Case(f"hard_{name}", "", f"hard_{name}")
    for name in ("spread_mobilenet", "silu", "hardswish", "vit", "detector", "one_head")
)
"""Networks that plain int8 has trouble with, trained here in seconds: `tests/convert/hard_nets.py`."""
FURTHER = tuple(
    Case(f"further_{name}", "", f"further_{name}", options=options)
    for name, options in (
        ("gated_hardswish", ()), ("gated_silu", ()), ("prelu", ()), ("mixer", ()), ("norm_behind", ()),
        ("norm_first", ()), ("gru", ("--allow-float-ops",)), ("u_net", ()),
    )
)  # fmt: skip
"""Other kinds of networks, trained here: `further_nets.py`."""
UNSEEN = tuple(
    Case(f"unseen_{name}", "", f"unseen_{name}")
    for name in (
        "table_mlp", "table_regression", "convnext", "mobile_vit", "relu6_gated", "dilated", "hearer",
        "picture_autoencoder", "frame_autoencoder", "segmenter", "embedder",
    )
)  # fmt: skip
"""And more: `unseen_nets.py`."""
FRESH = tuple(
    Case(f"fresh_{name}", "", f"fresh_{name}", options=("--allow-float-ops",) if name == "bilstm" else ())
    for name in ("shuffle", "detr", "branches", "bilstm", "tasks", "wavenet", "larger")
)
"""And more: `fresh_nets.py`."""


@cache
def _trained(name: str) -> Any:
    sys.path.insert(0, NETS)
    import hard_nets

    if name.startswith("hard_"):
        return hard_nets.make(name.removeprefix("hard_"))
    import fresh_nets
    import further_nets
    import unseen_nets

    if name.startswith("fresh_"):
        return fresh_nets.make(name.removeprefix("fresh_"))
    if name.startswith("unseen_"):
        return unseen_nets.make(name.removeprefix("unseen_"))
    return further_nets.make(name.removeprefix("further_"))


def file(case: Case, folder: Path) -> Path:
    """The model's file; one that is trained here is made in `folder`."""
    if case not in (*HARD, *FURTHER, *UNSEEN, *FRESH):
        return SHARED / "models" / case.path
    made = _trained(case.data)
    import hard_nets

    hard_nets.export(made, folder / f"{case.name}.onnx")
    return folder / f"{case.name}.onnx"


def arrays(data: str) -> tuple[Any, Any]:
    """Samples and labels (or None) as the model wants them."""
    folder = SHARED / "data"
    if data.startswith(("hard_", "further_", "unseen_", "fresh_")):
        made = _trained(data)
        x = np.concatenate([made.calibration, made.evaluation])
        return x, None if made.labels is None else np.concatenate([made.calibration_labels, made.labels])
    if data == "cifar":
        stored = np.load(folder / "cifar10_jpeg_1000.npz")
        return stored["x"].astype(np.float32), stored["y"].astype(np.int64)
    if data == "cifar_nchw":
        x, y = arrays("cifar")
        mean, deviation = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
        return ((x / 255 - mean) / deviation).transpose(0, 3, 1, 2), y
    if data.startswith("sklearn/"):
        stored = np.load(folder / f"{data}_test.npz")
        return stored["x"].astype(np.float32), stored["y"]
    if data == "kws":
        stored = np.load(folder / "kws01_mfcc_500.npz")
        real = (stored["x_int8"].astype(np.float32) - stored["zero_point"]) * stored["scale"]
        return real.astype(np.float32), stored["y"].astype(np.int64)
    if data == "vww":
        stored = np.load(folder / "vww_mini_35.npz")
        return (stored["x"] / 255.0).astype(np.float32), stored["y"].astype(np.int64)
    if data.startswith("mnist"):
        raw = gzip.decompress((folder / "mnist_t10k/t10k-images-idx3-ubyte.gz").read_bytes())
        x = np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 28, 28).astype(np.float32)
        y = np.frombuffer(
            gzip.decompress((folder / "mnist_t10k/t10k-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8
        )
        shaped = {"mnist_nchw": x[:, None], "mnist_nhwc": x[..., None] / 255, "mnist_rows": x / 255}[data]
        return shaped.astype(np.float32), y.astype(np.int64)
    return photos(folder / "photos", data), None


def photos(folder: Path, data: str) -> Any:
    """The four photos, and for the face detector crops of them, resized."""
    from PIL import Image

    images = [Image.open(file).convert("RGB") for file in sorted(folder.iterdir())]
    if data == "faces":
        images += [image.crop((i * 20, i * 20, image.width - i * 10, image.height)) for image in images for i in (1, 2)]
        resized = [np.asarray(image.resize((320, 240)), np.float32).transpose(2, 0, 1) for image in images]
        return (np.stack(resized) - 127) / 128
    size = int(data.removeprefix("photos"))
    resized = np.stack([np.asarray(image.resize((size, size)), np.float32) for image in images])
    return (resized - 128) / 128  # real values: these files take uint8 of scale 1/128 and zero point 128


def split(case: Case, folder: Path) -> list[str]:
    """Write the data and return the options that name it."""
    x, y = arrays(case.data)
    order = np.random.default_rng(0).permutation(len(x))
    chosen, rest = order[: case.calibration], order[case.calibration :]
    rest = order if case.whole_evaluation else rest
    labels = [{"y": y[part]} if y is not None else {} for part in (chosen, rest)]
    np.savez(folder / f"{case.name}_calibration.npz", x=x[chosen], **labels[0])
    np.savez(folder / f"{case.name}_evaluation.npz", x=x[rest], **labels[1])
    return [
        "--calibration",
        str(folder / f"{case.name}_calibration.npz"),
        "--eval",
        str(folder / f"{case.name}_evaluation.npz"),
    ]


def convert(case: Case, format: str, precision: str, options: list[str], folder: Path) -> dict[str, Any]:
    """One row."""
    target = folder / f"{case.name}_{precision}.{format}"
    command = [sys.executable, "-m", "edgekit", "convert", str(SHARED / "models" / case.path), "-o", str(target)]
    command += ["--precision", precision, "--json", *options, *case.options]
    if "--trust" in command:
        command.append(hashlib.sha256((SHARED / "models" / case.path).read_bytes()).hexdigest())
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": NETS})
    answer = json.loads(done.stdout)
    row: dict[str, Any] = {"model": case.name, "format": format, "precision": precision, "exit": done.returncode}
    if "error" in answer:
        return row | {"code": answer["error"]["code"], "message": answer["error"]["message"]}
    proof = answer["verification"]
    row |= {"kb": round(answer["artifact"]["bytes"] / 1000, 1), "sqnr_db": _round(proof.get("sqnr_db"))}
    row |= {"agreement": _round(proof.get("agreement"), 4), "max_abs_error": proof["max_abs_error"]}
    if "metric" in proof:
        row |= {key: _round(proof["metric"][key], 2) for key in ("source", "artifact", "drop")}
    return row | {"float_ops": len(answer["float_ops"]), "seconds": _round(sum(s["seconds"] for s in answer["stages"]))}


def _round(value: float | None, digits: int = 1) -> float | None:
    return None if value is None else round(value, digits)


def main() -> None:
    """Parse and go through the cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append")
    parser.add_argument("--format", action="append")
    parser.add_argument("--precision", action="append")
    parser.add_argument("--keep", type=Path)
    chosen = parser.parse_args()
    if not SHARED.is_dir():
        print(json.dumps({"skipped": "the trained models and data are not beside the checkout"}))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.keep or Path(temporary)
        folder.mkdir(exist_ok=True)
        for case in CASES:
            if chosen.model and case.name not in chosen.model:
                continue
            options = split(case, folder)
            for format in chosen.format or ("tflite", "onnx"):
                for precision in chosen.precision or PRECISIONS:
                    print(json.dumps(convert(case, format, precision, options, folder)), flush=True)


if __name__ == "__main__":
    main()
