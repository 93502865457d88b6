"""What a conversion comes to: the artifact with its manifest, and the record of what happened on the way."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import artifact as artifacts
from edgekit.artifact import Artifact
from edgekit.codec import encode
from edgekit.converters.describing import Described
from edgekit.converters.repairs.repair import Report
from edgekit.converters.stages import Graph, LoadedFacts, Source
from edgekit.interface import SCHEMA
from edgekit.manifest import Manifest, Needs, Preprocess, Proof, Provenance
from edgekit.options import Options
from edgekit.tensors import TensorSpec

if TYPE_CHECKING:
    from edgekit.converters.jobs import Survey
    from edgekit.converters.verification.jobs import Recording
    from edgekit.converters.verification.verdict import Verification
    from edgekit.gate import Verdict
    from edgekit.targets.agent import Replayed


@dataclass(frozen=True)
class Conversion:
    """A finished conversion: the artifact and what happened on the way."""

    artifact: Artifact
    source: Source
    graph: Graph
    verification: Verification
    verdict: Verdict | None
    replayed: Replayed | None
    stages: tuple[tuple[str, float], ...]
    warnings: tuple[str, ...]
    repairs: tuple[Report, ...] = ()
    described: Described | None = None

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of `edgekit convert --json`."""
        document = {
            "artifact": {
                "path": str(self.artifact.path) if self.artifact.path else None,
                "format": self.artifact.format,
                "precision": self.graph.precision,
                "bytes": len(self.artifact.data),
                "sha256": self.artifact.sha256,
            },
            "source": {
                "framework": self.source.kind,
                "sha256": self.source.sha256,
                "path": self.source.path,
                "bytes": self.source.bytes,
            },
            "verification": _proof_document(self.verification.proof),
            "float_ops": list(self.graph.float_ops),
            "repairs": encode(self.repairs),
            "lifted": list(self.graph.lifted),
            "stages": [{"name": name, "seconds": round(seconds, 4)} for name, seconds in self.stages],
            "warnings": list(self.warnings),
        }
        if self.artifact.reference is not None and self.described is not None:
            document["reference"] = {"samples": self.described.samples, "bytes": len(self.artifact.reference)}
        if self.verdict is not None:
            seen = self.verdict.to_dict()
            document["device"] = {"name": seen.pop("device"), **seen}
        if self.replayed is not None:
            document["target"] = encode(self.replayed)
        return document

    def to_report(self) -> dict[str, Any]:
        """The same, with values of both sides' outputs to draw."""
        return {**self.to_dict(), "outputs": encode(self.verification.outputs)}


def about(
    source: Source,
    facts: LoadedFacts,
    graph: Graph,
    survey: Survey,
    verification: Verification,
    recording: Recording,
    preprocess: Preprocess,
    options: Options,
    repairs: tuple[Report, ...] = (),
) -> Manifest:
    """The manifest: what was made, from what and how, and what was proved."""
    from edgekit.formats import read_facts

    model = Path(graph.path).read_bytes()
    seen = read_facts(artifacts.from_bytes(model))
    return Manifest(
        schema=SCHEMA,
        format=graph.format,
        precision=graph.precision,
        inputs=graph.inputs,
        outputs=graph.outputs,
        model_sha256=hashlib.sha256(model).hexdigest(),
        model_bytes=len(model),
        provenance=Provenance(
            framework=source.kind,
            sha256=source.sha256,
            tools={**facts.tools, **graph.tools, **recording.tools},
            options=options.recorded(),
            calibration_sha256=survey.calibration_sha256,
        ),
        needs=Needs(
            engine=recording.engine,
            engine_version=recording.engine_version,
            ops=seen.op_counts(),
            weight_bytes=seen.weight_bytes,
            arena_bytes=seen.arena_bytes,
            macs=seen.macs,
        ),
        preprocess=preprocess,
        interpret=verification.interpret,
        proof=verification.proof,
        float_ops=graph.float_ops,
        lifted=graph.lifted,
        repaired={one.name: one.detail for one in repairs if one.kept},
    )


def with_embedding(
    graph: Graph, verification: Verification, embedding: TensorSpec | None
) -> tuple[Graph, Verification]:
    """The graph with an output that the source does not have, and how it is read: by monitors alone."""
    if embedding is None:
        return graph, verification
    more = () if embedding in graph.outputs else (embedding,)
    interpret = replace(verification.interpret, embedding=embedding.name)
    return replace(graph, outputs=(*graph.outputs, *more)), replace(verification, interpret=interpret)


def unique(messages: Iterable[str]) -> tuple[str, ...]:
    """Each message once, in order; empty ones are left out."""
    return tuple(dict.fromkeys(message for message in messages if message))


def _proof_document(proof: Proof) -> dict[str, Any]:
    """The contract's fields, always there; `metric` only with labels."""
    document: dict[str, Any] = asdict(proof)
    if proof.metric is None:
        del document["metric"]
    return document
