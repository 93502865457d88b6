"""The jobs of a conversion: what runs in the two child processes.

The *framework* child holds the source: it loads, lowers and answers by the source's own framework. The *engine* child
holds what a device would hold: it observes, quantizes, compares and records through the real engine. Two, because
TensorFlow's hundreds of megabytes have no place beside a calibration with a memory bound, because a crash then names
its side, and because one can work while the other still imports.

A job is a function from one dataclass to another (see `edgekit.child`). The loaded source is the only state
that outlives a job; it stays here, in its process.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from edgekit import sample_axis
from edgekit.converters.lint import Finding
from edgekit.converters.stages import (
    Feeds,
    Graph,
    LoadedFacts,
    LoadedModel,
    QuantizeOptions,
    Ranges,
    Source,
    complete,
)
from edgekit.converters.verification.answers import Answers, keep, mixed, read
from edgekit.converters.verification.answers import batches as answered
from edgekit.converters.verify import Verification
from edgekit.data_ref import DataRef
from edgekit.errors import InternalError, UsageError
from edgekit.feeding import Preprocess
from edgekit.manifest import Interpret
from edgekit.selftest import SelfTest
from edgekit.tensors import TensorSpec

GLANCE = 128
"""Calibration samples that show how classes are spread."""

_loaded: list[LoadedModel] = []

Event = dict[str, Any]
ProofKind = Literal["evaluation", "calibration", "random"]


# -- The framework's side --------------------------------------------------------------------------------------


def load(source: Source) -> LoadedFacts:
    """Load the source and keep it for the jobs that follow."""
    from edgekit.converters import loaders

    _loaded[:] = [loaders.get(source.kind).load(source)]
    return _loaded[0].facts


@dataclass(frozen=True)
class LowerRequest:
    """Make the float graph of one format.

    Attributes:
        lowering, path: By whom, and where to.
        layout: Of images.
        fold: What goes into the graph of what comes before it.
        exact: For a file that stays float32, see `Loaded.exact`.
        floats: Its numbers stay real ones: nothing in it will be quantized.
    """

    lowering: str
    path: str
    layout: str = "keep"
    fold: Preprocess | None = None
    exact: bool = False
    floats: bool = False


def lower(request: LowerRequest) -> Graph:
    """Lower the loaded source to `request.path`. A source that is quantized already keeps its integers."""
    from edgekit import artifact
    from edgekit.converters import lowerings
    from edgekit.formats import read_facts

    source: Any = loaded()
    lowering: Any = lowerings.get(request.lowering)
    if request.exact and lowering.FORMAT in getattr(source, "exact", {}):
        source = replace(source, handle=source.exact[lowering.FORMAT])
    if getattr(lowering, "TURNS", False):
        graph: Graph = lowering.lower(source, Path(request.path), layout=request.layout, floats=request.floats)
    elif request.layout == "keep":
        graph = lowering.lower(source, Path(request.path))
    else:
        raise UsageError(
            "layout-fixed",
            f"the way from {source.facts.framework} to {lowering.FORMAT} keeps the source's layout",
        )
    if request.fold is not None:
        from edgekit.converters.fold import fold

        graph = fold(graph, request.fold)
    if source.facts.quantized:
        return replace(graph, precision=read_facts(artifact.read(graph.path)).precision)
    return graph


@dataclass(frozen=True)
class AnswerRequest:
    """Answer data by the source's own framework, and edge cases when `edges` names a file of feeds."""

    data: DataRef
    inputs: tuple[TensorSpec, ...]
    folder: str
    edges: str | None = None
    ragged: tuple[str, ...] = ()


def answer(request: AnswerRequest) -> Generator[Event, None, Answers]:
    """Run the source over the data; the answers go to files, so that any number of samples fits."""
    from edgekit.converters.verification import probes
    from edgekit.data import open_data

    model = loaded()
    run = sample_axis.each(model.run, request.inputs, model.facts.inputs)
    folder = Path(request.folder)
    folder.mkdir()
    data = open_data(request.data, request.inputs, folder.parent)
    done = 0
    found: tuple[str, ...] = ()
    free = all(spec.shape and spec.shape[0] is None for spec in model.facts.inputs)
    for number, batch in enumerate(data.batches(batch_size(request.inputs, request.ragged))):
        said = run(batch.feeds)
        keep(folder / f"{number:06}.npz", said)
        if free and number == 0 and not request.ragged and _length(batch.feeds) > 1:
            last = _length(batch.feeds) - 1
            for at in sorted({0, last // 2, last}):  # what hangs on a sign, or on the loudest, may be as it was
                alone = run({name: array[at : at + 1] for name, array in batch.feeds.items()})
                found = found or mixed(said, alone, at)
        done += _length(batch.feeds)
        yield {"done": done, "total": len(data)}
    edges, nudged = [], []
    if request.edges is not None:
        for number, feeds in enumerate(_edges(request.edges, request.ragged)):
            edges.append(keep(folder / f"edges{number}.npz", run(feeds)))
            nudged.append(keep(folder / f"nudged{number}.npz", run(probes.nudged(feeds))))
    return Answers(str(folder), done, tuple(edges), tuple(nudged), found)


def _edges(path: str, ragged: tuple[str, ...]) -> Iterator[Feeds]:
    """Edge cases: together, or one by one where answers cannot be stacked."""
    feeds = read(path)
    size = 1 if ragged else _length(feeds)
    for start in range(0, _length(feeds), size):
        yield {name: array[start : start + size] for name, array in feeds.items()}


def loaded() -> LoadedModel:
    """The source of this process."""
    if not _loaded:
        raise InternalError("job-order", "no source is loaded in this process")
    return _loaded[0]


# -- The engine's side -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SurveyRequest:
    """Look at the data before any work; `ranges` are the source's own, see `LoadedFacts`."""

    inputs: tuple[TensorSpec, ...]
    calibration: DataRef | None
    evaluation: DataRef | None
    scratch: str
    seed: int = 0
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Survey:
    """What the data is like.

    Attributes:
        findings: Of the lint.
        ranges: Input name -> (low, high) over all data, or what stands in for it when there is none.
        calibration_samples, evaluation_samples: How many there are.
        calibration_sha256: Of exactly the samples used.
        labelled: The evaluation data has labels.
        class_names: From folder names or text labels.
        proof: The data to compare answers on, and what it is.
        edges: File of edge cases: zeros and extremes.
    """

    findings: tuple[Finding, ...]
    ranges: dict[str, tuple[float, float]]
    calibration_samples: int
    evaluation_samples: int
    calibration_sha256: str | None
    labelled: bool
    class_names: tuple[str, ...]
    proof: DataRef
    proof_kind: ProofKind
    edges: str

    @property
    def warnings(self) -> tuple[str, ...]:
        """For the user: what the lint found short of errors."""
        return tuple(f"{finding.message} {finding.fix}" for finding in self.findings if finding.severity == "warning")


def survey(request: SurveyRequest) -> Survey:
    """Lint the data and decide what the answers are compared on."""
    from edgekit.converters import lint
    from edgekit.converters.verification import probes
    from edgekit.data import open_data

    scratch = Path(request.scratch)
    calibration = open_data(request.calibration, request.inputs, scratch) if request.calibration else None
    evaluation = open_data(request.evaluation, request.inputs, scratch) if request.evaluation else None
    if evaluation is not None:
        evaluation.require_classes()
    report = lint.lint(calibration, evaluation, request.inputs)
    ranges = probes.input_ranges(request.inputs, {**request.ranges, **report.ranges})
    kind: ProofKind = "evaluation" if request.evaluation else "calibration" if request.calibration else "random"
    proof = request.evaluation or request.calibration
    if proof is None:
        proof = probes.write_random(request.inputs, ranges, request.seed, scratch / "random.npz")
    edges = scratch / "edges.npz"
    probes.write_edges(request.inputs, ranges, edges)
    return Survey(
        findings=report.findings,
        ranges=ranges,
        calibration_samples=len(calibration) if calibration else 0,
        evaluation_samples=len(evaluation) if evaluation else 0,
        calibration_sha256=calibration.sha256 if calibration else None,
        labelled=bool(evaluation and evaluation.labelled),
        class_names=tuple(evaluation.class_names or ()) if evaluation else (),
        proof=proof,
        proof_kind=kind,
        edges=str(edges),
    )


@dataclass(frozen=True)
class QuantizeRequest:
    """Quantize a float graph."""

    graph: Graph
    ranges: Ranges | None
    precision: str
    options: QuantizeOptions
    path: str


def quantize(request: QuantizeRequest) -> Graph:
    """The quantized graph at `request.path`."""
    from edgekit.converters import quantizers
    from edgekit.converters.fold import widened
    from edgekit.converters.repairs.ends import evened
    from edgekit.precision import precisions

    precision = precisions.get(request.precision)
    if precision.kind == "float" and precision.weights == "float32":
        return request.graph
    quantizer, graph, path = quantizers.get(request.graph.format), request.graph, Path(request.path)
    ranges = None if request.ranges is None else widened(graph, request.ranges)
    if ranges is not None and ranges.shifts and ranges.rules == request.options.rules:
        graph = evened(graph, ranges.shifts, path.with_name(f"evened.{graph.format}"))
    if precision.calibrated:
        graph = replace(graph, inputs=complete(graph.inputs))
    return quantizer.quantize(graph, ranges, precision, request.options, path)


def quantize_to_compare(request: QuantizeRequest) -> Graph:
    """The same with floats at its ends, so that its answers are beside the float graph's."""
    return quantize(replace(request, options=replace(request.options, interface="float")))


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
    )
    graph = request.graph
    turn = sample_axis.each(graph.turn, request.inputs, graph.inputs)
    with opened(graph, request.threads) as model:
        run = sample_axis.each(lambda feeds: model.run(graph.turn(feeds)), request.inputs, graph.inputs)
        done = 0
        batches = data.batches(batch_size(request.inputs, request.ragged))
        for batch, reference in zip(batches, answered(request.answers), strict=True):
            count = _length(batch.feeds)
            comparison.add(turn(reference), run(batch.feeds), count)
            done += count
            yield {"done": done, "total": len(data)}
        held = zip(request.answers.edges, request.answers.nudged, strict=True)
        for feeds, files in zip(_edges(request.edges, request.ragged), held, strict=False):
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


def opened(graph: Graph, threads: int) -> Any:
    """A graph through the real engine, as a `Model` with the graph's own inputs and outputs; use in `with`."""
    from edgekit import artifact
    from edgekit.runtimes.model import Model

    opened = artifact.read(graph.path)
    return Model.from_artifact(opened, inputs=graph.inputs, outputs=graph.outputs, threads=threads)


def batch_size(inputs: tuple[TensorSpec, ...], ragged: tuple[str, ...] = ()) -> int:
    """Samples a batch: about a million elements, so that memory stays small and calls stay few; one where answers
    cannot be stacked.
    """
    if ragged:
        return 1
    elements = max((spec.elements for spec in inputs), default=1)
    return max(1, min(64, (1 << 20) // max(1, elements)))


def _length(feeds: Feeds) -> int:
    return int(next(iter(feeds.values())).shape[0])
