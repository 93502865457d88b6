"""TFLite files as sources; LiteRT is their own framework.

The file's operators are read first by our own bounds-checked reader, so that custom ops are named before an engine
meets them. One signature, or the main graph where there is none, becomes the model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit import artifact as artifacts
from edgekit.artifact import Artifact
from edgekit.converters.stages import Feeds, LoadedFacts, Source
from edgekit.errors import SourceError, UsageError
from edgekit.formats import ModelFacts, read_facts
from edgekit.runtimes.model import Model
from edgekit.tensors import TensorSpec

NAME = "tflite"
TITLE = "TFLite (.tflite)"
EXTRA = "tflite"
SUFFIXES = (".tflite", ".lite", ".tfl")
PRELOAD = ("numpy", "ai_edge_litert.interpreter", "edgekit.runtimes.engine_litert")

_QUANTIZED = ("int8", "uint8", "int16", "int4")


class LoadedTFLite:
    """A TFLite file in LiteRT."""

    def __init__(self, artifact: Artifact, source: Source) -> None:
        self.handle = artifact
        facts = read_facts(artifact)
        _choose_signature(facts, source)
        _refuse_custom(facts, source)
        self._model = Model.from_artifact(artifact, threads=2)
        quantized = quantized_constants(facts)
        notes = ("the manifest of the source was left behind: the new one replaces it",) if artifact.members else ()
        self.facts = LoadedFacts(
            framework=NAME,
            inputs=_public(self._model.inputs, source),
            outputs=_public(self._model.outputs, source),
            quantized=quantized,
            notes=notes,
            tools={"litert": self._model.engine_version},
        )

    def run(self, feeds: Feeds) -> Feeds:
        return self._model.run(feeds)


def recognizes(path: Path) -> bool:
    """The flatbuffer's file identifier."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(8)[4:] == b"TFL3"


def load(source: Source) -> LoadedTFLite:
    """Open the file in LiteRT.

    Raises:
        SourceError: `source-unreadable`, `source-custom-ops`. UsageError: `signature-unknown`, `signature-ambiguous`.
        EngineError: LiteRT refuses the file.
    """
    opened = artifacts.read(source.path)
    return LoadedTFLite(
        artifacts.from_bytes(opened.model, path=Path(source.path)) if opened.members else opened, source
    )


def accepts(model: object) -> bool:
    """No live TFLite objects: bytes are recognized by their content."""
    del model
    return False


def save(model: object, folder: Path) -> Path:
    """Never asked: `accepts` refuses all."""
    raise UsageError("source-object", f"a {type(model).__name__} is no TFLite model for {folder}")


def quantized_constants(facts: ModelFacts) -> bool:
    """Whether activations are integers with a scale: then the float values are gone."""
    ends = (*facts.inputs, *facts.outputs)
    if any(spec.quant is not None and spec.dtype in _QUANTIZED for spec in ends):
        return True
    return any(op.kind == "QUANTIZE" or (op.dtype in _QUANTIZED and op.macs) for op in facts.ops)


def _choose_signature(facts: ModelFacts, source: Source) -> None:
    names = [signature.name for signature in facts.signatures]
    if source.signature is not None and source.signature not in names:
        listed = ", ".join(names) or "none"
        raise UsageError("signature-unknown", f"{source.path} has no signature {source.signature!r}; it has: {listed}")
    if len(names) > 1:
        raise UsageError(
            "signature-ambiguous",
            f"{source.path} has several signatures ({', '.join(names)}); a file of one model is needed",
            next_step="Export the signature you want to a file of its own.",
        )


def _refuse_custom(facts: ModelFacts, source: Source) -> None:
    custom = sorted({op.kind for op in facts.ops if op.kind.startswith("CUSTOM") or "Flex" in op.kind})
    if custom:
        raise SourceError("source-custom-ops", f"{source.path} uses ops that LiteRT does not have: {', '.join(custom)}")


def _public(specs: tuple[TensorSpec, ...], source: Source) -> tuple[TensorSpec, ...]:
    """The engine's own specs, with the sizes that the user fixed."""
    from dataclasses import replace

    found: list[TensorSpec] = []
    for spec in specs:
        wanted: Any = source.shapes.get(spec.name)
        if wanted is not None and (
            len(wanted) != len(spec.shape) or any(s not in (None, w) for s, w in zip(spec.shape, wanted, strict=True))
        ):
            raise UsageError("shape-conflict", f"--input {spec.name}={wanted} contradicts {spec.describe()}")
        found.append(replace(spec, shape=tuple(wanted)) if wanted is not None else spec)
    return tuple(found)
