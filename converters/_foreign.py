"""What is recognized but not read: so that a refusal names the thing and says how to get from it to a source.

Everything is judged by a few bytes, the names in an archive, or, last, by the suffix. Nothing is unpickled,
unpacked or parsed by a framework.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

from edgekit.converters.from_onnx import scan as scan_onnx

_HEAD = 4096


@dataclass(frozen=True)
class Foreign:
    """A kind of file without a loader.

    Attributes:
        what: For messages, with its article: "a PyTorch checkpoint".
        route: How to make a source of it.
        suffixes: Names that promise it.
    """

    what: str
    route: str
    suffixes: tuple[str, ...] = ()


_EXPORT_TORCH = "In Python, where the model's class is: torch.onnx.export(model, sample, 'model.onnx', dynamo=True)"

TORCH_LITE = Foreign("a PyTorch Mobile file", _EXPORT_TORCH, (".ptl",))
FROZEN = Foreign(
    "a frozen TensorFlow 1 graph",
    "Name its inputs and outputs and save it as a SavedModel: tf.compat.v1.wrap_function, then tf.saved_model.save",
)
CHECKPOINT = Foreign(
    "a TensorFlow checkpoint: weights without a network",
    "Build the model, load_weights, and save the whole: model.save('model.keras')",
    (".index", ".meta"),
)
CORE_ML = Foreign(
    "a Core ML model", "Convert the model it was made from; Core ML files lead to Apple devices only", (".mlmodel",)
)
TENSORRT = Foreign(
    "a TensorRT engine, which fits one kind of GPU",
    "Convert the ONNX file it was built from",
    (".engine", ".plan", ".trt"),
)
ORT = Foreign("onnxruntime's own format", "Convert the .onnx file it was made from", (".ort",))
EXECUTORCH = Foreign("an ExecuTorch program", _EXPORT_TORCH, (".pte",))
TASK = Foreign("a bundle of models", "Unzip it and convert the .tflite inside", (".task",))
GGUF = Foreign("a GGUF file of a language model", "Language models are not what EdgeKit converts", (".gguf", ".ggml"))
TFJS = Foreign("a TensorFlow.js model", "Convert the Keras model or SavedModel it was made from")
OPENVINO = Foreign("an OpenVINO model", "Convert the model it was made from")
CAFFE = Foreign("a Caffe model", "Convert it to ONNX with a Caffe converter first", (".caffemodel", ".prototxt"))
PADDLE = Foreign("a PaddlePaddle model", "paddle2onnx writes ONNX", (".pdmodel", ".pdiparams"))
NCNN = Foreign("an ncnn model", "Convert the model it was made from", (".param",))
NUMPY = Foreign("numpy arrays: data, not a model", "Give data with --calibration or --eval", (".npz", ".npy"))
ARCHIVE = Foreign("an archive", "Unpack it and name the model inside", (".zip", ".tar", ".gz", ".tgz", ".7z"))
POINTER = Foreign("a Git LFS pointer, not the file itself", "git lfs pull")
WEB_PAGE = Foreign("a web page, not the file that it links to", "Download the file itself; on GitHub: 'Raw'")

_ALL = (
    TORCH_LITE, FROZEN, CHECKPOINT, CORE_ML, TENSORRT, ORT, EXECUTORCH, TASK, GGUF, TFJS, OPENVINO,
    CAFFE, PADDLE, NCNN, NUMPY, ARCHIVE, POINTER, WEB_PAGE,
)  # fmt: skip

_MAGICS = (
    (0, b"ftrt", TENSORRT),
    (0, b"ptrt", TENSORRT),
    (4, b"ORTM", ORT),
    (4, b"ET12", EXECUTORCH),
    (0, b"GGUF", GGUF),
    (0, b"\x93NUMPY", NUMPY),
    (0, b"version https://git-lfs", POINTER),
    (0, b"7767517", NCNN),
    (0, b"\x1f\x8b", ARCHIVE),
    (0, b"BZh", ARCHIVE),
    (0, b"\xfd7zXZ", ARCHIVE),
    (0, b"7z\xbc\xaf", ARCHIVE),
    (257, b"ustar", ARCHIVE),
)
"""Offset, bytes there, kind."""

_MEMBERS_LIMIT = 10_000


def by_content(path: Path) -> Foreign | None:
    """What a file is, by its bytes."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return None
    if head[:2] == b"PK":
        return _archive(path)
    for offset, magic, kind in _MAGICS:
        if head[offset : offset + len(magic)] == magic:
            return kind
    return _text(head) or _protobuf(path)


def torn(path: Path) -> bool:
    """Whether it begins as a zip archive does and lacks the end of one."""
    try:
        with open(path, "rb") as file:
            return file.read(4) == b"PK\x03\x04" and not zipfile.is_zipfile(file)
    except OSError:
        return False


def by_suffix(path: Path) -> Foreign | None:
    """What a file's name promises."""
    suffix = path.suffix.lower()
    return next((kind for kind in _ALL if suffix in kind.suffixes), None)


def by_class(model: object) -> Foreign | None:
    """What a live object is, by the modules of its classes."""
    roots = {kind.__module__.partition(".")[0] for kind in type(model).__mro__}
    if "torch" in roots:
        return Foreign("a PyTorch object", "An nn.Module, a ScriptModule or an ExportedProgram can be converted")
    if "catboost" in roots:
        return Foreign("a CatBoost model", "model.save_model('m.onnx', format='onnx') gives an ONNX model to convert")
    if roots & {"sklearn", "xgboost", "lightgbm"}:
        return Foreign("an object of scikit-learn's kind", "A fitted estimator, pipeline or Booster can be converted")
    return None


def _archive(path: Path) -> Foreign:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()[:_MEMBERS_LIMIT]
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, EOFError):
        return ARCHIVE
    ends = {
        "bytecode.pkl": TORCH_LITE, ".npy": NUMPY,
        ".tflite": TASK, ".mlmodel": CORE_ML,
    }  # fmt: skip
    for end, kind in ends.items():
        if any(name.endswith(end) for name in names):
            return kind
    return ARCHIVE


def _text(head: bytes) -> Foreign | None:
    start = head.lstrip()[:2000].lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return WEB_PAGE
    if start.startswith((b"<?xml", b"<net")) and b"<net " in start:
        return OPENVINO
    if start.startswith(b"{") and (b'"modeltopology"' in start or b'"weightsmanifest"' in start):
        return TFJS
    return None


def _protobuf(path: Path) -> Foreign | None:
    """Core ML has its kind of network in a field of three digits; a GraphDef is a list of nodes with name and op."""
    try:
        with open(path, "rb") as file:
            wire = scan_onnx.Wire(file)
            fields = list(wire.fields())
            numbers = {number for number, _, _, _ in fields}
            if {1, 2} <= numbers and any(200 <= number < 4000 for number in numbers):
                return CORE_ML
            nodes = [(begin, end) for number, kind, begin, end in fields if (number, kind) == (1, 2)]
            if nodes and numbers <= {1, 2, 3, 4, 5}:
                first = {(number, kind) for number, kind, _, _ in wire.fields(*nodes[0])}
                return FROZEN if {(1, 2), (2, 2)} <= first else None
    except (OSError, ValueError):
        pass
    return None
