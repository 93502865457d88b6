"""ONNX files as sources; onnxruntime is their own framework.

The proto is read without its external data first, so that a path that leaves the model's folder (by name, symbolic link or
hard link) is refused before anything opens it. What the source answers is computed on its original graph, so that
verification covers every change made here: weights listed as inputs, and an opset from before 13, are brought up to date.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath
from typing import Any

from edgekit import artifact as artifacts
from edgekit.converters.stages import Feeds, LoadedFacts, Source
from edgekit.errors import ConversionError, SourceError, UnsafeSourceError, UsageError
from edgekit.runtimes.model import Model
from edgekit.tensors import Layout, TensorSpec

NAME = "onnx"
TITLE = "ONNX (.onnx)"
EXTRA = "convert"
SUFFIXES = (".onnx", ".ort")
PRELOAD = ("numpy", "onnx", "onnxruntime", "edgekit.runtimes.engine_onnxruntime")

OLDEST = 7
TARGET = 17
"""What an opset below 13 is raised to: per-channel quantization needs 13, and every onnxruntime since 1.12 reads 17."""

_LIMIT = 2 << 30
_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger")
_THROUGH = ("Add", "Sub", "Mul", "Div", "Cast", "Identity", "Pad", "Clip", "BatchNormalization")


class LoadedOnnx:
    """An ONNX graph, brought up to date, and the original in onnxruntime."""

    def __init__(self, source: Source, original: Any) -> None:
        import onnx

        notes: list[str] = []
        _check_domains(original, source)
        _fix_shapes(original, source)
        data = original.SerializeToString(deterministic=True)
        self._model = Model.from_artifact(artifacts.from_bytes(data, path=Path(source.path), verify=False), threads=2)
        self.handle = _current(original, notes)
        names = {value.name for value in self.handle.graph.input}
        inputs = tuple(_laid_out(spec, self.handle.graph) for spec in self._model.inputs if spec.name in names)
        for spec in (*inputs, *self._model.outputs):
            if spec.dtype == "string":
                raise SourceError("source-strings", f"{spec.describe()}: strings cannot be fed on a device")
        self.facts = LoadedFacts(
            framework=NAME,
            inputs=inputs,
            outputs=self._model.outputs,
            quantized=any(_is_quantized(node) for node in original.graph.node),
            notes=tuple(notes),
            tools={"onnx": str(onnx.__version__), "onnxruntime": self._model.engine_version},
        )

    def run(self, feeds: Feeds) -> Feeds:
        return self._model.run(feeds)


def recognizes(path: Path) -> bool:
    """A protobuf with the fields of a ModelProto at its top."""
    if not path.is_file() or path.stat().st_size > _LIMIT:
        return False
    with open(path, "rb") as file:
        head = file.read(8)
    if head[:1] not in (b"\x08", b"\x12", b"\x1a", b"\x22", b"\x28", b"\x32", b"\x3a", b"\x42") or head[4:8] == b"TFL3":
        return False
    try:
        return artifacts.format_of(path.read_bytes()) == "onnx"
    except ValueError:
        return False


def load(source: Source) -> LoadedOnnx:
    """Read, check and open the file.

    Raises:
        UnsafeSourceError: `source-unsafe-path`. SourceError: `source-unreadable`, `source-custom-ops`,
            `source-opset`, `source-too-large`, `source-strings`. UsageError: `shape-conflict`, `input-unknown`.
        EngineError: onnxruntime refuses the file; says why.
    """
    import onnx
    from google.protobuf.message import DecodeError

    path = Path(source.path)
    try:
        opened = artifacts.read(path)
        model = onnx.ModelProto.FromString(opened.model)
    except (DecodeError, ValueError) as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError("source-unreadable", f"{path} is no ONNX model: {error}") from error
    _embed(model, path.parent)
    for entry in [e for e in model.metadata_props if e.key.startswith("edgekit.")]:
        model.metadata_props.remove(entry)
    return LoadedOnnx(source, model)


def accepts(model: object) -> bool:
    """A ModelProto, by its class."""
    return type(model).__name__ == "ModelProto" and hasattr(model, "SerializeToString")


def save(model: Any, folder: Path) -> Path:
    """As bytes."""
    path = folder / "live.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


def opset(model: Any) -> int:
    """Version of the default domain."""
    return next((int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)


def _embed(model: Any, folder: Path) -> None:
    """Bring external data inside, after a look at every path."""
    total = 0
    for tensor in _tensors(model.graph):
        if tensor.data_location != 1:  # TensorProto.EXTERNAL
            continue
        entry = {item.key: item.value for item in tensor.external_data}
        data = _external(folder, entry, tensor.name)
        total += len(data)
        if total > _LIMIT:
            raise SourceError("source-too-large", f"the external data of {folder} exceeds 2 GiB")
        tensor.raw_data = data
        tensor.data_location = 0
        del tensor.external_data[:]


def _external(folder: Path, entry: dict[str, str], name: str) -> bytes:
    location = PurePosixPath(entry.get("location", ""))
    if not location.parts or location.is_absolute() or ".." in location.parts or "\\" in str(location):
        raise UnsafeSourceError(
            "source-unsafe-path", f"the weights of {name} lie at {str(location)!r}, outside the model's folder"
        )
    path = folder.joinpath(*location.parts)
    try:
        linked = path.resolve(strict=True) != folder.resolve().joinpath(*location.parts)
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if path.is_symlink():
            raise UnsafeSourceError("source-unsafe-path", f"{path} is a link") from error
        raise SourceError("source-unreadable", f"the weights of {name} lie in {path}: {error.strerror}") from error
    with os.fdopen(handle, "rb") as file:
        seen = os.fstat(file.fileno())
        if linked or not stat.S_ISREG(seen.st_mode) or seen.st_nlink > 1:
            raise UnsafeSourceError("source-unsafe-path", f"{path} is a link, or no regular file")
        try:
            offset = int(entry.get("offset", 0))
            length = int(entry.get("length", seen.st_size - offset))
        except ValueError as error:
            raise SourceError(
                "source-unreadable", f"the weights of {name} have no numeric offset and length"
            ) from error
        if offset < 0 or length < 0 or offset + length > seen.st_size:
            raise SourceError("source-unreadable", f"the weights of {name} run past the end of {path.name}")
        file.seek(offset)
        return file.read(length)


def _tensors(graph: Any, depth: int = 0) -> list[Any]:
    """All constants, those in subgraphs included."""
    if depth > 32:
        raise SourceError("source-unreadable", "subgraphs are nested more than 32 deep")
    found = list(graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            found += [attribute.t] if attribute.HasField("t") else []
            found += attribute.tensors
            for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                found += _tensors(inner, depth + 1)
    return found


def _check_domains(model: Any, source: Source) -> None:
    own = {(function.domain, function.name) for function in model.functions}
    foreign = {
        f"{node.domain}:{node.op_type}"
        for node in model.graph.node
        if node.domain not in _DOMAINS and (node.domain, node.op_type) not in own
    }
    if foreign:
        raise SourceError("source-custom-ops", f"{source.path} uses ops of other domains: {', '.join(sorted(foreign))}")
    if opset(model) < OLDEST:
        raise SourceError(
            "source-opset", f"{source.path} has opset {opset(model)}; {OLDEST} is the oldest that is read"
        )


def _fix_shapes(model: Any, source: Source) -> None:
    inputs = {value.name: value for value in model.graph.input}
    for name, sizes in source.shapes.items():
        if name not in inputs:
            raise UsageError("input-unknown", f"{source.path} has no input {name!r}; it has {', '.join(inputs)}")
        axes = inputs[name].type.tensor_type.shape.dim
        if len(axes) != len(sizes) or any(a.dim_value not in (0, s) for a, s in zip(axes, sizes, strict=True) if s):
            raise UsageError("shape-conflict", f"--input {name}={list(sizes)} contradicts the model's own shape")
        for axis, size in zip(axes, sizes, strict=True):
            if size is not None:
                axis.Clear()
                axis.dim_value = size


def _current(original: Any, notes: list[str]) -> Any:
    """A copy with a current opset, weights only as constants, and no leftovers."""
    import onnx
    from onnx import version_converter

    model = onnx.ModelProto()
    model.CopyFrom(original)
    weights = {tensor.name for tensor in model.graph.initializer}
    listed = [value for value in model.graph.input if value.name in weights]
    for value in listed:
        model.graph.input.remove(value)
    if listed:
        notes.append(f"{len(listed)} weights were listed as inputs: they are constants now")
    if (old := opset(model)) < 13:
        model.ir_version = max(model.ir_version, 4)
        try:
            model = version_converter.convert_version(model, TARGET)
        except (RuntimeError, ValueError, IndexError) as error:
            said = " ".join(str(error).split())[:300]
            raise ConversionError("opset-upgrade", f"opset {old} cannot be raised to {TARGET}: {said}") from error
        notes.append(f"opset {old} was raised to {TARGET}")
    model.ir_version = max(model.ir_version, 8)
    del model.metadata_props[:]
    return model


def _is_quantized(node: Any) -> bool:
    return node.op_type in _QUANTIZED or node.op_type.startswith("QLinear") or node.op_type.startswith("QGemm")


def _laid_out(spec: TensorSpec, graph: Any) -> TensorSpec:
    """An input that reaches a convolution unturned is NCHW (NCW, NCDHW), as ONNX defines Conv."""
    layouts: dict[int, Layout] = {3: "NCW", 4: "NCHW", 5: "NCDHW"}
    if len(spec.shape) not in layouts:
        return spec
    reached = {spec.name}
    for node in graph.node[:64]:
        if node.input and node.input[0] in reached:
            if node.op_type in ("Conv", "ConvTranspose", "MaxPool", "AveragePool"):
                return TensorSpec(spec.name, spec.shape, spec.dtype, layouts[len(spec.shape)], spec.quant, spec.tensor)
            if node.op_type in _THROUGH:
                reached.add(node.output[0])
    return spec
