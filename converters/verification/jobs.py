"""The jobs of the engine's side that judge a graph and record its self-test; see `edgekit.converters.jobs`."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgekit import sample_axis
from edgekit.converters.jobs import Event, ProofKind, batch_size, edge_cases, length, opened
from edgekit.converters.stages import Graph
from edgekit.converters.verification.answers import Answers, read
from edgekit.converters.verification.answers import batches as answered
from edgekit.converters.verification.verdict import Verification
from edgekit.data_ref import DataRef
from edgekit.manifest import Interpret
from edgekit.selftest import SelfTest
from edgekit.tensors import TensorSpec

GLANCE = 128
"""Calibration samples that show how classes are spread."""


@dataclass(frozen=True)
class CompareRequest:
    """Compare the artifact's answers, through the real engine, with the source's."""

    graph: Graph
    answers: Answers
    data: DataRef
    proof_kind: ProofKind
    inputs: tuple[TensorSpec, ...]
    edges: str
    interpret: Interpret
    declared: bool
    max_drop: float
    scratch: str
    threads: int = 2
    calibration: DataRef | None = None
    ragged: tuple[str, ...] = ()
    half: bool = False
    squashed: tuple[str, ...] = ()


def compare(request: CompareRequest) -> Generator[Event, None, Verification]:
    """Measure and judge; nothing is written when the verdict is no."""
    from edgekit.converters import verify
    from edgekit.data import open_data

    data = open_data(request.data, request.inputs, Path(request.scratch))
    comparison = verify.Comparison(
        policy=_policy(request.graph.precision, half=request.half),
        interpret=request.interpret,
        declared=request.declared,
        max_drop=request.max_drop,
        labels=data.labels if request.proof_kind == "evaluation" else None,
        ragged=frozenset(request.ragged),
        squashed=frozenset(request.squashed),
        gaps=any(spec.missing for spec in request.inputs),
        fed=frozenset(spec.shape[1:] for spec in request.inputs),
        precision=request.graph.precision,
    )
    graph = request.graph
    turn = sample_axis.each(graph.turn, request.inputs, graph.inputs)
    with opened(graph, request.threads) as model:
        run = sample_axis.each(lambda feeds: model.run(graph.turn(feeds)), request.inputs, graph.inputs)
        done = 0
        batches = data.batches(batch_size(request.inputs, request.ragged))
        for batch, reference in zip(batches, answered(request.answers), strict=True):
            count = length(batch.feeds)
            comparison.add(turn(reference), run(batch.feeds), count)
            done += count
            yield {"done": done, "total": len(data)}
        held = zip(request.answers.edges, request.answers.nudged, strict=True)
        for feeds, files in zip(edge_cases(request.edges, request.ragged), held, strict=False):
            reference, nudged = (turn(read(file)) for file in files)
            comparison.add_edges(reference, run(feeds), nudged)
        if request.calibration is not None and request.proof_kind == "evaluation":
            some = replace(request.calibration, samples=min(GLANCE, request.calibration.samples or GLANCE))
            for batch in open_data(some, request.inputs).batches(batch_size(request.inputs, request.ragged)):
                comparison.add_calibration(run(batch.feeds))
    verification = comparison.finish(request.proof_kind)
    return replace(verification, warnings=(*verification.warnings, *_company(request)))


def _company(request: CompareRequest) -> tuple[str, ...]:
    if not request.answers.mixed:
        return ()
    names, fed = ", ".join(request.answers.mixed), request.inputs[0]
    sizes = ",".join("1" if size is None else str(size) for size in fed.shape)
    message = (
        f"{names} answers a sample otherwise when it is alone: samples of a batch change each other's answers in the "
        f"source. Fix the batch that the board will feed: --input {fed.name}={sizes}"
    )
    return (message,)


@dataclass(frozen=True)
class RecordRequest:
    """Record the self-test of the finished graph."""

    graph: Graph
    ranges: dict[str, tuple[float, float]]
    data: DataRef
    inputs: tuple[TensorSpec, ...]
    seed: int
    scratch: str


@dataclass(frozen=True)
class Recording:
    """What only the engine's side knows at the end."""

    selftest: SelfTest
    engine: str
    engine_version: str
    tools: dict[str, str] = field(default_factory=dict)


def record(request: RecordRequest) -> Recording:
    """Run the finished graph on seeded inputs, and on a few real samples where they cost next to nothing."""
    from edgekit.converters import record as recorder
    from edgekit.converters.verification import probes
    from edgekit.data import open_data
    from edgekit.formats import read_facts

    data = open_data(request.data, request.inputs, Path(request.scratch))
    budget = Path(request.graph.path).stat().st_size // 50
    first = next(iter(data.batches(4))).feeds
    some = list(sample_axis.taken(first, request.inputs, request.graph.inputs))
    if any(spec.missing for spec in request.inputs):
        gaps = {spec.name: probes.gapped(first[spec.name][:1], spec, at) for at, spec in enumerate(request.inputs)}
        some = [*sample_axis.taken(gaps, request.inputs, request.graph.inputs), *some]
    samples = [request.graph.turn(feeds) for feeds in some]
    with opened(request.graph, threads=1) as model:
        selftest = recorder.record(
            model,
            request.graph.raw_ranges(request.ranges),
            samples,
            arithmetic=_arithmetic(request.graph.precision),
            macs=read_facts(model.artifact).macs,
            budget_bytes=budget,
            seed=request.seed,
        )
        return Recording(selftest, model.engine, model.engine_version)


def _policy(precision: str, *, half: bool = False) -> str:
    """Of a precision of ours; a foreign file's mixture of integers and floats is judged as quantized.

    Args:
        precision: Of the artifact.
        half: The source itself computes in float16.
    """
    from edgekit.precision import precisions

    known = precisions.get(precision).policy if precision in precisions else "quantized"
    return "fp16" if half and known == "fp32" else known


def _arithmetic(precision: str) -> Any:
    from edgekit.converters import record as recorder
    from edgekit.precision import precisions

    if _policy(precision) != "quantized":
        return recorder.FLOATS
    known = precisions.get(precision) if precision in precisions else None
    return recorder.SIXTEEN_BITS if known and known.activations == "int16" else recorder.EIGHT_BITS
