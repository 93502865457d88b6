"""TFLite to ONNX by tf2onnx. The interface keeps the file's names, order and layout."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit.converters.stages import Graph, LoadedModel
from edgekit.errors import ConversionError
from edgekit.tensors import TensorSpec

FRAMEWORKS = ("tflite",)
FORMAT = "onnx"
EXTRA = "tensorflow"
OPSET = 18


def lower(model: LoadedModel, path: Path) -> Graph:
    """Convert to ONNX.

    Raises:
        ConversionError: `conversion-failed`, `op-unsupported-conversion`, `conversion-names`.
    """
    import tf2onnx

    facts = model.facts
    with tempfile.TemporaryDirectory() as folder, _quiet() as said:
        file = Path(folder) / "source.tflite"
        file.write_bytes(model.handle.model)
        try:
            proto, _ = tf2onnx.convert.from_tflite(str(file), opset=OPSET)
        except Exception as error:  # tf2onnx raises anything from AssertionError to KeyError
            raise ConversionError("conversion-failed", f"tf2onnx refused the model: {_short(error)}") from error
    _refuse_foreign(proto, said.getvalue())
    inputs = _named(facts.inputs, [value.name for value in proto.graph.input])
    outputs = _named(facts.outputs, [value.name for value in proto.graph.output])
    path.write_bytes(proto.SerializeToString(deterministic=True))
    tools = {**facts.tools, "tf2onnx": str(tf2onnx.__version__)}
    return Graph("onnx", str(path), inputs, outputs, tools=tools)


def _named(specs: tuple[TensorSpec, ...], names: list[str]) -> tuple[TensorSpec, ...]:
    """Public names with the names inside the ONNX file, matched by name, not by position.

    tf2onnx writes the tensors' own names, some with a suffix that makes them unique.
    """
    found = []
    for spec in specs:
        matches = [name for name in names if name == spec.key or name.partition(":")[0] == spec.key.partition(":")[0]]
        if len(matches) != 1:
            if len(specs) == len(names) == 1:
                matches = names
            else:
                raise ConversionError("conversion-names", f"{spec.name} cannot be found among {', '.join(names)}")
        inside = matches[0]
        found.append(replace(spec, tensor=inside if inside != spec.name else None))
    return tuple(found)


def _refuse_foreign(proto: Any, said: str) -> None:
    foreign = sorted({node.op_type for node in proto.graph.node if node.domain not in ("", "ai.onnx", "ai.onnx.ml")})
    if foreign:
        raise ConversionError(
            "op-unsupported-conversion", f"tf2onnx has no ONNX for {', '.join(foreign)}", cause=said[-500:] or None
        )


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


@contextlib.contextmanager
def _quiet() -> Iterator[io.StringIO]:
    """What tf2onnx logs, kept instead of printed."""
    said = io.StringIO()
    logger = logging.getLogger("tf2onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            yield said
    finally:
        logger.setLevel(level)
