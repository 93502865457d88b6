"""Everything that a model file says of itself, ours or foreign, without an engine.

The file's own bytes are the authority on ops, sizes and work; the manifest, where there is one and its digest holds,
on names and on what the numbers mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgekit import artifact
from edgekit.codec import encode
from edgekit.formats import SignatureFacts, read_facts
from edgekit.manifest import Manifest
from edgekit.tensors import TensorSpec


@dataclass(frozen=True)
class Inspection:
    """What `edgekit inspect` shows.

    Attributes:
        path: As it was given.
        format: "tflite" or "onnx".
        precision: From the manifest; of a foreign file, by its element types (`edgekit.formats.facts.ModelFacts`).
        bytes: Of the whole file.
        sha256: Of the whole file.
        digest: "verified"; "absent": a foreign file has none; "skipped": it was not compared.
        inputs: Public names, from the manifest where there is one.
        outputs: The same.
        ops: Op kind -> how often, most frequent first.
        parameters: Elements of the constants that carry the model's numbers.
        weight_bytes: Bytes of all constants.
        arena_bytes: Peak of the activations as planned, free sizes counted as 1; None when unknown.
        macs: Multiply-accumulates of one run, free sizes counted as 1; None when unknown.
        tensors: How many there are.
        opsets: ONNX: domain -> version.
        signatures: TFLite.
        producer: Who wrote the file, as far as it says.
        description: The file's own words.
        metadata: Further entries of the file.
        external: Files beside the model that hold constants.
        selftest: Number of self-test vectors.
        manifest: None for a foreign file.
        notes: What a reader should know.
    """

    path: str
    format: Literal["tflite", "onnx"]
    precision: str
    bytes: int
    sha256: str
    digest: Literal["verified", "absent", "skipped"]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    ops: dict[str, int]
    parameters: int
    weight_bytes: int
    arena_bytes: int | None
    macs: int | None
    tensors: int
    opsets: dict[str, int]
    signatures: tuple[SignatureFacts, ...]
    producer: str
    description: str
    metadata: dict[str, str]
    external: tuple[str, ...]
    selftest: int
    manifest: Manifest | None
    notes: tuple[str, ...]

    def encode(self) -> dict[str, Any]:
        """As JSON; every field is there, what is not known is null."""
        return {name: encode(value) for name, value in self.__dict__.items()}

    def to_dict(self) -> dict[str, Any]:
        """The same as `encode`."""
        return self.encode()


def inspect(path: str | Path, *, verify: bool = True) -> Inspection:
    """Read a model file and say what is in it.

    Args:
        path: `.tflite` or `.onnx`, ours or foreign; the content decides.
        verify: Compare the digest of a file of ours.

    Raises:
        MissingFileError: `file-missing`.
        ArtifactError: `artifact-unknown`, `artifact-damaged`, `file-unreadable`, `model-unreadable`, or what is wrong
            with the manifest or the self-test.
    """
    opened = artifact.read(path, verify=verify)
    facts = read_facts(opened)
    about = opened.manifest
    selftest = opened.selftest
    return Inspection(
        path=str(path),
        format=opened.format,
        precision=about.precision if about else facts.precision,
        bytes=facts.bytes,
        sha256=opened.sha256,
        digest=("verified" if verify else "skipped") if opened.members else "absent",
        inputs=about.inputs if about else facts.inputs,
        outputs=about.outputs if about else facts.outputs,
        ops=facts.op_counts(),
        parameters=facts.parameters,
        weight_bytes=facts.weight_bytes,
        arena_bytes=facts.arena_bytes,
        macs=facts.macs,
        tensors=facts.tensors,
        opsets=facts.opsets,
        signatures=facts.signatures,
        producer=facts.producer,
        description=facts.description,
        metadata={name: text for name, text in facts.metadata.items() if name not in opened.members},
        external=facts.external,
        selftest=len(selftest.vectors) if selftest else 0,
        manifest=about,
        notes=facts.notes,
    )
