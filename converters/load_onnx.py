"""ONNX files; onnxruntime is their own framework.

The file is parsed without its external data, which is then read by our own rules (`from_onnx.scan`): ONNX' own
loader follows links and trusts lengths in some versions. The answers come from the graph as it was exported, so
that verification covers everything that `from_onnx.current` does to it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from edgekit import artifact as artifacts
from edgekit.converters.from_onnx import current, declared, ends, scan
from edgekit.converters.from_onnx.ragged import ragged
from edgekit.converters.from_onnx.rounding import half, squashed
from edgekit.converters.loaded import Loaded
from edgekit.converters.stages import Feeds, LoadedFacts, LoadedModel, Source
from edgekit.converters.verification.answering import Answering
from edgekit.errors import ArtifactError, FeedError, SourceError, UsageError
from edgekit.tensors import TensorSpec

NAME = "onnx"
TITLE = "ONNX: .onnx files of any opset from 7"
EXTRA = "convert"
SUFFIXES: tuple[str, ...] = (".onnx",)
PRELOAD = ("numpy", "onnx", "onnxruntime")
TAKES_SIGNATURE = False

_STATIC = frozenset({"QuantizeLinear"})
_INTEGER = frozenset({
    "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", "DynamicQuantizeMatMul",
    "DynamicQuantizeLSTM", "MatMulIntegerToFloat", "MatMulNBits", "GatherBlockQuantized", "QAttention", "QGemm",
    "QMoE", "QEmbedLayerNormalization", "QOrderedMatMul",
})  # fmt: skip

_ENGINE_PREFIX = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : (Exception during initialization: )?"
    r"(/\S+:\d+ [^()]*\([^()]*\)\s*(const)?)?"
)
"""What onnxruntime puts before its messages: number, class, and a function of its own source."""

recognizes = scan.is_model
digest = scan.digest


def load(source: Source) -> LoadedModel:
    """Read an ONNX file.

    Raises:
        UnsafeSourceError: `source-unsafe-path`: external data outside the folder, or behind a link.
        SourceError: `source-unreadable`, `source-weights-missing`, `source-too-large`, `source-opset`,
            `source-custom-ops`, `source-not-tensor`, `source-dtype`, `source-rank`, `source-training-mode`.
        ArtifactError: `artifact-damaged`: an EdgeKit artifact that was changed.
        UsageError: `input-unknown`, `shape-conflict`: `source.shapes` does not fit.
    """
    import onnx
    import onnxruntime

    path = Path(source.path)
    data = _model_bytes(path)
    model = _parsed(data, path)
    changed = _embed(model, path)
    opened, classes = declared.open_maps(model)
    changed = declared.set_right(model.graph) or opened or changed
    current.check(model, path.name)
    foreign = current.foreign_ops(model)
    if foreign:
        raise SourceError(
            "source-custom-ops",
            f"{path.name} uses {', '.join(foreign)}, which onnxruntime does not know without a library of their own",
            ops=list(foreign),
        )
    if source.shapes:
        current.fix_sizes(model, source.shapes)
        changed = True
    modern, notes = current.modernize(model, path.name)
    inputs = ends.inputs(modern.graph, path)
    original = model.SerializeToString() if changed else data
    try:
        session, notes = _session(original, modern, path, notes)
    except SourceError as error:
        _blame_sizes(data, source, error)
        raise
    if opened:
        notes += ("probabilities are a tensor, a column a class, in place of the maps that the file answers in Python",)
    outputs = ends.outputs(modern, session, path)
    inputs, outputs = ends.with_scales(modern.graph, inputs, outputs)
    precision = _precision(modern)
    facts = LoadedFacts(
        NAME,
        inputs,
        outputs,
        quantized=precision not in ("fp32", "fp16"),
        notes=notes,
        tools={"onnx": str(onnx.__version__), "onnxruntime": str(onnxruntime.__version__)},
        classes=classes,
        ragged=ragged(modern.graph),
        half=half(modern.graph),
        squashed=squashed(modern.graph),
    )
    return Loaded(facts, modern, Answering(inputs, _caller(session, inputs, outputs)), precision)


def accepts(model: object) -> bool:
    """Whether it is a ModelProto, a model of onnx-ir, or the bytes of an ONNX file."""
    if isinstance(model, (bytes, bytearray, memoryview)):
        return artifacts.format_of(bytes(model)) == "onnx"
    kinds = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(model).__mro__}
    return bool(kinds & {("onnx", "ModelProto"), ("onnx_ir", "Model")}) or _is_proto(model)


def save(model: Any, folder: Path) -> Path:
    """Write a live model for `load`.

    Raises:
        SourceError: `source-too-large`: over the 2 GiB of a protobuf.
    """
    path = folder / "model.onnx"
    if isinstance(model, (bytes, bytearray, memoryview)):
        path.write_bytes(model)
        return path
    if not _is_proto(model):
        import onnx_ir

        model = onnx_ir.to_proto(model)
    from google.protobuf.message import EncodeError

    try:
        path.write_bytes(model.SerializeToString())
    except (ValueError, EncodeError) as error:
        raise SourceError("source-too-large", f"the model does not fit in a file of 2 GiB: {error}") from error
    return path


def _is_proto(model: object) -> bool:
    descriptor = getattr(type(model), "DESCRIPTOR", None)
    return getattr(descriptor, "full_name", None) == "onnx.ModelProto"


def _model_bytes(path: Path) -> bytes:
    """The file, without what an earlier conversion added."""
    try:
        return artifacts.read(path).model
    except ArtifactError as error:
        if error.code != "artifact-unknown":
            raise
        raise SourceError("source-unreadable", f"{path.name} is no ONNX model") from error


def _parsed(data: bytes, path: Path) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.ModelProto.FromString(data)
    except (DecodeError, ValueError) as error:
        raise SourceError("source-unreadable", f"{path.name} is damaged: {error}") from error


def _embed(model: Any, path: Path) -> bool:
    """Bring external data inside; whether there was any.

    Raises:
        UnsafeSourceError, SourceError: See `load`.
    """
    from onnx import TensorProto

    total, found = 0, False
    for tensor in current.tensors(model):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        found = True
        content = _external(tensor, path, artifacts.FILE_LIMIT - total)
        total += len(content)
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        tensor.raw_data = content
    return found


def _external(tensor: Any, path: Path, room: int) -> bytes:
    entry = {item.key: item.value for item in tensor.external_data}
    with scan.open_external(path.parent, entry.get("location", "")) as file:
        size = file.seek(0, 2)
        try:
            offset = int(entry.get("offset") or 0)
            length = int(entry["length"]) if entry.get("length") else size - offset
        except ValueError as error:
            raise SourceError(
                "source-unreadable", f"{path.name}: where the weights {tensor.name!r} lie is no number: {error}"
            ) from error
        if offset < 0 or length < 0 or offset + length > size:
            raise SourceError(
                "source-unreadable",
                f"{path.name}: the weights {tensor.name!r} lie at bytes {offset} to {offset + length} of "
                f"{entry['location']}, which has {size}",
            )
        if length > room:
            raise SourceError("source-too-large", f"{path.name} and its weights exceed the 2 GiB of one ONNX file")
        file.seek(offset)
        return file.read(length)


def _session(original: bytes, modern: Any, path: Path, notes: tuple[str, ...]) -> tuple[Any, tuple[str, ...]]:
    """A session of the graph as exported, or of the modern one where onnxruntime does not take that, saying so."""
    try:
        return _opened(original), notes
    except SourceError as error:
        try:
            opened = _opened(modern.SerializeToString())
        except SourceError:
            raise SourceError(
                "source-unreadable", f"onnxruntime refuses {path.name}: {error.message}", cause=error.message
            ) from error
        return opened, (*notes, f"onnxruntime does not take the file as it is, so the upgraded graph answers: {error}")


def _blame_sizes(data: bytes, source: Source, error: SourceError) -> None:
    """Whether it is the sizes that the engine does not take.

    Raises:
        UsageError: `shape-conflict`: it is.
    """
    if not source.shapes:
        return
    try:
        _opened(data)
    except SourceError:
        return
    raise UsageError(
        "shape-conflict",
        f"a part of {Path(source.path).name} does not fit the sizes that were given: {error.cause}",
        next_step="Give sizes that each part takes, branches that will not be taken (If) as well; or convert a file "
        "that has only the branch you need.",
    ) from error


def _opened(data: bytes) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exception classes share no base but Exception
        lines = _ENGINE_PREFIX.sub("", str(error)).strip().splitlines() or [type(error).__name__]
        raise SourceError("source-unreadable", lines[0][:300]) from error


def _caller(session: Any, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> Any:
    import numpy as np

    from edgekit.runtimes.base import dequantize, quantize

    names = [spec.name for spec in outputs]

    def call(feeds: Feeds) -> Feeds:
        arrays = {spec.name: quantize(feeds[spec.name], spec) if spec.quant else feeds[spec.name] for spec in inputs}
        try:
            # Not `ascontiguousarray`, which makes a vector of a scalar.
            answers = session.run(names, {name: np.asarray(array, order="C") for name, array in arrays.items()})
        except Exception as error:  # as above
            raise FeedError("source-run", f"the source cannot answer these inputs: {str(error)[:300]}") from error
        return {spec.name: dequantize(np.asarray(a), spec) for spec, a in zip(outputs, answers, strict=True)}

    return call


def _precision(model: Any) -> str:
    """The nearest of our precisions: by the kinds of nodes, and by what most numbers are stored as."""
    from onnx import TensorProto

    kinds = {node.op_type for node in current.all_nodes(model.graph)}
    if kinds & _STATIC or any(kind.startswith("QLinear") for kind in kinds):
        wide = (TensorProto.INT16, TensorProto.UINT16)
        return "int16x8" if any(tensor.data_type in wide for tensor in model.graph.initializer) else "int8"
    if kinds & _INTEGER:
        return "dynamic"
    half = sum(len(t.raw_data) for t in model.graph.initializer if t.data_type == TensorProto.FLOAT16)
    single = sum(len(t.raw_data) for t in model.graph.initializer if t.data_type == TensorProto.FLOAT)
    return "fp16" if half > single else "fp32"
