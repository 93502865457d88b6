"""Readers of both file formats: pure standard library, bounds-checked, safe on hostile files.

`read_facts` is what the rest of EdgeKit calls. It runs in the parent process and on devices, where no engine need be
installed and where an engine's own parser, written in C++, must not meet a file that nobody has looked at.
Work and memory are bounded by the file's size and by a fixed budget of steps (`edgekit.formats.facts.Budget`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.errors import ArtifactError, MissingFileError
from edgekit.formats.facts import ModelFacts as ModelFacts
from edgekit.formats.facts import OpFacts as OpFacts
from edgekit.formats.facts import SignatureFacts as SignatureFacts

if TYPE_CHECKING:
    from pathlib import Path

    from edgekit.artifact import Artifact

__all__ = ["ModelFacts", "OpFacts", "SignatureFacts", "read_facts", "require_external"]


def read_facts(artifact: Artifact) -> ModelFacts:
    """Everything that the model's own bytes say: tensors, ops, sizes, work.

    Args:
        artifact: Ours or foreign; its manifest is not looked at.

    Raises:
        ArtifactError: `model-unreadable`: the bytes contradict the format, point outside the file, are cut short, or
            describe more than a reader can walk through.
    """
    try:
        if artifact.format == "tflite":
            from edgekit.formats import tflite

            return tflite.read(artifact.data)
        from edgekit.formats import onnx

        return onnx.read(artifact.data, artifact.model_bytes)
    except (ValueError, ArithmeticError) as error:
        # Every check of the readers raises ValueError, as do TensorSpec and QuantParams for impossible values; a
        # number that no machine could hold overflows.
        where = artifact.path or f"the {artifact.format} model"
        raise ArtifactError("model-unreadable", f"{where} cannot be read: {error}") from error


def require_external(facts: ModelFacts, path: Path) -> None:
    """See to it that a model's weights are there which lie in files of their own.

    Raises:
        MissingFileError: `file-missing`: one is not beside the model, so that no engine could open it.
    """
    for name in facts.external:
        if facts.format == "onnx" and not (path.parent / name).is_file():
            raise MissingFileError(
                "file-missing", f"{path} keeps weights in {name}, which is not beside it",
                next_step="Copy that file into the model's folder, or save the model with its weights inside.",
            )  # fmt: skip
