"""Artifacts to judge predictions on: the trained models beside the checkout and small networks of the usual kinds.

python benchmarks/predict_artifacts.py [FOLDER]     # converts what is not there yet; some minutes
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

import edgekit
from edgekit.errors import EdgeKitError

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
NETS = ROOT / "tests" / "convert"
FOLDER = ROOT / "build" / "latency-artifacts"


def build(folder: Path) -> list[Path]:
    """All of them, sorted by name."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in [*SHARED.glob("models/*/*.tflite"), *SHARED.glob("models/*/*.onnx")]:
        if not (folder / file.name).exists():
            shutil.copyfile(file, folder / file.name)
    _trained(folder)
    _generated(folder)
    return sorted(path for path in folder.iterdir() if path.suffix in (".tflite", ".onnx"))


def _convert(folder: Path, name: str, source: Any, **options: Any) -> None:
    for to in ("tflite", "onnx"):
        for precision in ("fp32", "int8"):
            path = folder / f"{name}_{precision}_own.{to}"
            refused = path.with_suffix(f".{to}.refused")
            if path.exists() or refused.exists():
                continue
            try:
                edgekit.convert(source, to=to, output=path, precision=precision, max_drop=100.0, **options)
            except EdgeKitError as error:
                refused.write_text(f"{error.code}: {error}\n")
                print(f"{path.name}: {error.code}", file=sys.stderr)


def _trained(folder: Path) -> None:
    images = SHARED / "data" / "cifar10_jpeg_1000.npz"
    if images.is_file():
        with np.load(images) as stored:
            x = stored["x"][::10].astype(np.float32)
        _convert(
            folder, "ic_resnet8", SHARED / "models" / "ic_resnet8" / "resnet8.h5", calibration=x, evaluation=x[:20]
        )
    photos = SHARED / "data" / "vww_mini_35.npz"
    if photos.is_file():
        with np.load(photos) as stored:
            x = stored["x"].astype(np.float32) / 255
        _convert(folder, "vww", SHARED / "models" / "vww_mobilenet" / "vww_96.h5", calibration=x, evaluation=x[:20])
    words = SHARED / "data" / "kws01_mfcc_500.npz"
    if words.is_file():
        with np.load(words) as stored:
            x = (stored["x_int8"].astype(np.float32) - float(stored["zero_point"])) * float(stored["scale"])
        _convert(folder, "kws", SHARED / "models" / "kws_dscnn" / "saved_model", calibration=x[:100], evaluation=x[:20])
    face = SHARED / "models" / "face_ultraface_onnx" / "version-RFB-320.onnx"
    if face.is_file():
        x = np.random.default_rng(0).normal(size=(8, 3, 240, 320)).astype(np.float32)
        _convert(folder, "face", face, calibration=x, evaluation=x[:4])


def _generated(folder: Path) -> None:
    sys.path.insert(0, str(NETS))
    import torch_nets

    random = np.random.default_rng(0)
    for name, (factory, inputs) in torch_nets.NETS.items():
        feeds = {}
        for key, (shape, dtype) in inputs.items():
            whole = (32, *shape[1:])
            drawn = random.integers(0, 16, whole) if dtype == "int64" else random.normal(size=whole)
            feeds[key] = drawn.astype(dtype)
        shapes = {key: shape for key, (shape, _) in inputs.items()}
        dtypes = {key: dtype for key, (_, dtype) in inputs.items()}
        few = {key: value[:8] for key, value in feeds.items()}
        _convert(folder, name, factory(), shapes=shapes, dtypes=dtypes, calibration=feeds, evaluation=few)


if __name__ == "__main__":
    for made in build(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER):
        print(made)
