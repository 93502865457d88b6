"""The manifest: what an artifact is, where it came from, how to feed and read it, what was proved.

It travels inside the artifact as `edgekit.json`, so that whoever holds the file needs nothing else. Readers ignore
fields they do not know; a manifest of a newer schema is refused with the version that can read it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from edgekit.codec import decode, encode
from edgekit.feeding import Preprocess
from edgekit.interface import document
from edgekit.reading import Interpret, Task
from edgekit.tensors import TensorSpec

__all__ = ["Interpret", "Manifest", "Metric", "Needs", "Preprocess", "Proof", "Provenance", "Task", "parse"]


@dataclass(frozen=True)
class Provenance:
    """Where the artifact came from.

    Attributes:
        framework: "keras", "saved_model", "torch", "sklearn", "onnx", "tflite".
        sha256: Digest of the source file or folder.
        tools: Package name -> version, of everything that took part.
        options: The conversion's options that change bytes.
        calibration_sha256: Digest of the calibration samples used; None without calibration.
    """

    framework: str
    sha256: str
    tools: dict[str, str]
    options: dict[str, Any]
    calibration_sha256: str | None = None


@dataclass(frozen=True)
class Metric:
    """Accuracy on labelled data, of the source and of the artifact, in the metric's own unit.

    Attributes:
        name: "top1" (percent), "multi_label_f1" (percent) or "r2" (percent of variance).
        drop: source - artifact, in points.
    """

    name: str
    source: float
    artifact: float
    drop: float


@dataclass(frozen=True)
class Proof:
    """What verification measured; figures are worst over the outputs.

    Attributes:
        samples: How many samples were compared.
        data: What they were.
        max_abs_error: Largest absolute difference of an output value.
        relative_error: The same over that output's range in the source.
        sqnr_db: Signal to quantization noise ratio, 10 log10(sum s^2 / sum (s-a)^2); None when it is infinite.
        cosine: Cosine similarity of all values.
        agreement: Share (0..1) of samples with the same top-1; None when the output is not a class vector.
        decided_agreement: The same among samples that the source decides with a margin of at least 0.2.
        metric: With labels only.
    """

    samples: int
    data: Literal["evaluation", "calibration", "random"]
    max_abs_error: float
    relative_error: float
    sqnr_db: float | None
    cosine: float
    agreement: float | None = None
    decided_agreement: float | None = None
    metric: Metric | None = None


@dataclass(frozen=True)
class Needs:
    """What running the artifact takes.

    Attributes:
        engine: "litert" or "onnxruntime".
        engine_version: The version that verified it.
        ops: Op name -> how often.
        weight_bytes: Constant data.
        arena_bytes: Activations at their peak, for a batch of one, as planned; None when unknown.
        macs: Multiply-accumulates of one sample; None when unknown.
    """

    engine: str
    engine_version: str
    ops: dict[str, int]
    weight_bytes: int
    arena_bytes: int | None = None
    macs: int | None = None


@dataclass(frozen=True)
class Manifest:
    """The whole; see the module header.

    Attributes:
        float_ops: What computes in float in an integer precision. lifted: What rules took to another one.
        repaired: Repairs that the artifact has, and what each did: "equalize" -> "channels scaled by up to 11.7 ...";
            None where that was not recorded yet.
    """

    schema: int
    format: str
    precision: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    model_sha256: str
    model_bytes: int
    provenance: Provenance
    needs: Needs
    preprocess: Preprocess = field(default_factory=Preprocess)
    interpret: Interpret = field(default_factory=Interpret)
    proof: Proof | None = None
    float_ops: tuple[str, ...] = ()
    lifted: tuple[str, ...] = ()
    repaired: dict[str, str] | None = None

    def to_json(self) -> str:
        """Text with a fixed order and layout, on one line: equal manifests are equal bytes."""
        return json.dumps(encode(self), separators=(",", ": "), sort_keys=True, ensure_ascii=False)


def parse(text: str | bytes) -> Manifest:
    """Read a manifest.

    Raises:
        ArtifactError: `manifest-invalid`, or `manifest-newer` for a schema this version does not know.
    """
    return document(text, lambda data: decode(Manifest, data))
