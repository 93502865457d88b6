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
from edgekit.data_ref import DataRef
from edgekit.errors import InternalError, UsageError
from edgekit.feeding import Preprocess
from edgekit.tensors import TensorSpec

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
        if free and number == 0 and not request.ragged and length(batch.feeds) > 1:
            last = length(batch.feeds) - 1
            for at in sorted({0, last // 2, last}):  # what hangs on a sign, or on the loudest, may be as it was
                alone = run({name: array[at : at + 1] for name, array in batch.feeds.items()})
                found = found or mixed(said, alone, at)
        done += length(batch.feeds)
        yield {"done": done, "total": len(data)}
    edges, nudged = [], []
    if request.edges is not None:
        for number, feeds in enumerate(edge_cases(request.edges, request.ragged)):
            edges.append(keep(folder / f"edges{number}.npz", run(feeds)))
            nudged.append(keep(folder / f"nudged{number}.npz", run(probes.nudged(feeds))))
    return Answers(str(folder), done, tuple(edges), tuple(nudged), found)


def edge_cases(path: str, ragged: tuple[str, ...]) -> Iterator[Feeds]:
    """Edge cases: together, or one by one where answers cannot be stacked."""
    feeds = read(path)
    size = 1 if ragged else length(feeds)
    for start in range(0, length(feeds), size):
        yield {name: array[start : start + size] for name, array in feeds.items()}


def loaded() -> LoadedModel:
    """The source of this process."""
    if not _loaded:
        raise InternalError("job-order", "no source is loaded in this process")
    return _loaded[0]


# -- The engine's side -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SurveyRequest:
    """Look at the data before any work.

    `ranges` are the source's own, see `LoadedFacts`; `activations` the precision's.
    """

    inputs: tuple[TensorSpec, ...]
    calibration: DataRef | None
    evaluation: DataRef | None
    scratch: str
    seed: int = 0
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    activations: str = "int8"


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
    report = lint.lint(calibration, evaluation, request.inputs, request.activations)
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


def length(feeds: Feeds) -> int:
    return int(next(iter(feeds.values())).shape[0])
