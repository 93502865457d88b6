"""The workshop of one conversion: a scratch folder, two child processes with limits, and a clock for the stages.

Children are started before they are needed, so that they import their frameworks while this process still looks at
options; what one does while the other works is submitted first and collected later. Every method is one job.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from edgekit import files, parts
from edgekit.child import Child, Limits, Spawned
from edgekit.codec import encode
from edgekit.converters import describing, inner, jobs, mixed
from edgekit.converters.calibration import observing
from edgekit.converters.repairs import jobs as mending
from edgekit.converters.repairs.mend import Mended, Wanted
from edgekit.converters.repairs.settle import Settled
from edgekit.converters.stages import CalibrationOptions, Graph, LoadedFacts, QuantizeOptions, Ranges, Source
from edgekit.converters.verification import jobs as verifying
from edgekit.converters.verification.answers import Answers
from edgekit.converters.verification.verdict import Verification
from edgekit.converters.waiting import Waiting
from edgekit.data_ref import DataRef
from edgekit.early import ENVIRONMENTS, Begun
from edgekit.errors import InternalError
from edgekit.feeding import Preprocess
from edgekit.manifest import Interpret
from edgekit.metadata import Metadata
from edgekit.precision import precisions
from edgekit.tensors import TensorSpec

if TYPE_CHECKING:  # a quarter of what the parent would import, and a plain conversion needs none of it
    from edgekit.converters.debugging import naming
    from edgekit.converters.debugging.pictures import ExamineRequest
    from edgekit.converters.debugging.results import Examination

Progress = Callable[[dict[str, Any]], None]

_PRELOAD = {
    "tflite": ("numpy", "edgekit.converters.jobs", "ai_edge_litert.interpreter"),
    "onnx": ("numpy", "edgekit.converters.jobs", "onnxruntime"),
}
_QUANTIZERS = {"tflite": "ai_edge_quantizer.quantizer", "onnx": "onnxruntime.quantization"}


class Workshop:
    """Everything of one conversion that must be cleaned up. Use in `with`.

    Args:
        limits: Of each child.
        progress: Told what goes on.
        waiting: Where children come from and go to, for who converts the same source again; None: they end with this.
        begun: Children that were started before, for who converts once.
    """

    def __init__(
        self,
        limits: Limits,
        progress: Progress | None = None,
        waiting: Waiting | None = None,
        begun: Begun | None = None,
    ) -> None:
        self.seconds: list[tuple[str, float]] = []
        self._limits = limits
        self._progress = progress or (lambda _: None)
        self._stage = ""
        self._stack = ExitStack()
        self._answers: Answers | None = None
        self._answering: tuple[Any, ...] | None = None
        self._inner: inner.InnerRequest | None = None
        self._framework: Child | None = None
        self._preload: tuple[str, ...] = ()
        self._engine: Child | None = None
        self._waiting = waiting
        self._begun = begun
        self._source: Source | None = None
        self._loaded = False

    def __enter__(self) -> Workshop:
        self.scratch = self._stack.enter_context(files.scratch())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage and tell the observer of the progress about it."""
        self._stage = name
        self._progress({"stage": name})
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds.append((name, time.perf_counter() - started))

    def start(self, preload: tuple[str, ...], format: str, *, quantizes: bool) -> None:
        """Start both children; they import at once.

        Raises:
            UsageError: `installed-twice`: they would import modules of two versions.
        """
        parts.refuse_a_mixture()
        engine = (*_PRELOAD[format], *((_QUANTIZERS[format],) if quantizes else ()))
        self._preload = ("edgekit.converters.jobs", *preload)
        key = ("framework", self._preload, self._limits)
        if self._waiting is None or self._waiting.idle(key) or not self._waiting.known:
            self._framework = self._child("framework", self._preload)  # else nothing more may be asked of the source
        self._engine = self._child("engine", engine)

    def load(self, source: Source) -> LoadedFacts:
        self._source = source
        known: LoadedFacts | None = self._recalled("facts")
        return self._load(source) if known is None else known

    def _load(self, source: Source) -> LoadedFacts:
        self._loaded = True
        if self._framework is None:
            self._framework = self._child("framework", self._preload)
        facts: LoadedFacts = self._framework.call(jobs.load, source, stage="load")
        self._keep(facts, "facts")
        return facts

    def survey(
        self,
        facts: LoadedFacts,
        calibration: DataRef | None,
        evaluation: DataRef | None,
        seed: int,
        activations: str,
    ) -> jobs.Survey:
        request = jobs.SurveyRequest(
            facts.samples, calibration, evaluation, str(self.scratch), seed, facts.ranges, activations
        )
        return self.engine.call(jobs.survey, request, stage="survey")

    def lower(
        self,
        lowering: str,
        format: str,
        layout: str = "keep",
        fold: Preprocess | None = None,
        exact: bool = False,
        floats: bool = False,
    ) -> Graph:
        asked = ("lower", lowering, format, layout, fold, exact, floats)
        known: Graph | None = self._recalled(*asked)
        if known is not None:
            return known
        request = jobs.LowerRequest(lowering, str(self._place(f"float.{format}")), layout, fold, exact, floats)
        graph = self.framework.call(jobs.lower, request, stage="lower")
        self._keep(graph, *asked)
        return graph

    def start_answering(self, facts: LoadedFacts, survey: jobs.Survey) -> None:
        lasts = not Path(survey.proof.path).is_relative_to(self.scratch)  # live data is written anew each time
        if lasts:
            self._answering = ("answer", survey.proof, _state(survey.proof.path), files.sha256(Path(survey.edges)))
            self._answers = self._recalled(*self._answering)
        if self._answers is None:
            folder = str(self._place("answers") if lasts else self.scratch / "answers")
            request = jobs.AnswerRequest(survey.proof, facts.samples, folder, survey.edges, facts.ragged)
            self.framework.submit(jobs.answer, request, stage="answer")

    def answer(self, facts: LoadedFacts, data: DataRef) -> Answers:
        """The source's own answers, all of them."""
        request = jobs.AnswerRequest(data, facts.samples, str(self.scratch / "answers"), None, facts.ragged)
        return self.framework.call(jobs.answer, request, stage="answer", progress=self._tick)

    def describe(self) -> naming.Described:
        from edgekit.converters.debugging import naming

        request = naming.DescribeRequest(str(self.scratch / "source.onnx"))
        return self.framework.call(naming.describe, request, stage="describe")

    def examine(self, request: ExamineRequest) -> Examination:
        from edgekit.converters.debugging.examine import examine

        return self.engine.call(examine, request, stage="examine", progress=self._tick)

    def observe(
        self,
        graph: Graph,
        facts: LoadedFacts,
        data: DataRef,
        options: CalibrationOptions,
        precision: str,
        quantizing: QuantizeOptions,
        survey: jobs.Survey | None,
        *,
        even: bool = False,
    ) -> Ranges:
        """Calibrate; `survey` says which samples, so that one that was killed is found again, None begins anew."""
        digest = None if survey is None else survey.calibration_sha256
        request = observing.ObserveRequest(
            graph, data, facts.samples, options, precision, quantizing, str(self.scratch), digest, even
        )
        return self.engine.call(observing.observe, request, stage="calibrate", progress=self._tick)

    def probe(
        self, graph: Graph, facts: LoadedFacts, survey: jobs.Survey, ranges: Ranges, options: QuantizeOptions
    ) -> mixed.Noise:
        """The noise that each layer brings when it alone is quantized."""
        path = str(self.scratch / f"probe.{graph.format}")
        request = mixed.ProbeRequest(graph, ranges, options, survey.proof, facts.samples, path)
        noise: mixed.Noise = self.engine.call(mixed.probe, request, stage="probe", progress=self._tick)
        return noise

    def tell(self, event: dict[str, Any]) -> None:
        """What goes on in the present stage."""
        self._tick(event)

    def mend(
        self,
        graph: Graph,
        facts: LoadedFacts,
        data: DataRef,
        wanted: Wanted,
        precision: str,
        quantizing: QuantizeOptions,
        observing: CalibrationOptions,
    ) -> Mended:
        """Repair the float graph, on some of the calibration data."""
        request = mending.MendRequest(
            graph, data, facts.samples, wanted, precision, quantizing, observing, str(self.scratch)
        )
        mended: Mended = self.engine.call(mending.mend, request, stage="repair", progress=self._tick)
        return mended

    def settle(
        self,
        graph: Graph,
        reference: Graph,
        facts: LoadedFacts,
        data: DataRef,
        names: tuple[str, ...],
        ranges: Ranges,
        precision: str,
        quantizing: QuantizeOptions,
    ) -> Settled:
        """Repair what the integer kernels answer, on some of the calibration data."""
        request = mending.SettleRequest(
            graph, reference, data, facts.samples, names, ranges, precision, quantizing, str(self.scratch)
        )
        settled: Settled = self.engine.call(mending.settle, request, stage="settle", progress=self._tick)
        return settled

    def quantize(self, graph: Graph, ranges: Ranges | None, precision: str, options: QuantizeOptions) -> Graph:
        path = str(self.scratch / f"{precision}.{graph.format}")
        request = jobs.QuantizeRequest(graph, ranges, precision, options, path)
        return self.engine.call(jobs.quantize, request, stage="quantize")

    def seek(self, graph: Graph, name: str | None, said: Metadata, modules: dict[str, str]) -> Graph:
        """See that the float graph has the tensor inside that is to be an output, where one is named; the graph."""
        name = name or said.interpret.embedding
        if name is not None:
            self._inner = inner.InnerRequest(graph, name, said.interpret.output or graph.outputs[0].name,
                                              modules=modules)  # fmt: skip
            self.engine.call(inner.find, self._inner, stage="lower")
        return graph

    def expose(self, graph: Graph) -> tuple[Graph, TensorSpec | None]:
        """The finished graph with that tensor as its last output, which its `outputs` do not list; and the tensor."""
        if self._inner is None:
            return graph, None
        path = str(self.scratch / f"embedding.{graph.format}")
        exposed = self.engine.call(inner.expose, replace(self._inner, final=graph, path=path), stage="quantize")
        return exposed.graph, exposed.spec

    def verify(
        self,
        graph: Graph,
        facts: LoadedFacts,
        survey: jobs.Survey,
        said: Metadata,
        *,
        calibration: DataRef | None,
        max_drop: float,
        threads: int,
    ) -> Verification:
        """Collect the source's answers and compare the artifact's with them."""
        if self._answers is None:
            self._answers = self.framework.result(jobs.answer, progress=self._tick)
            if self._answering is not None:
                self._keep(self._answers, *self._answering)
        request = verifying.CompareRequest(
            graph, self._answers, survey.proof, survey.proof_kind, facts.samples, survey.edges,
            said.interpret, said.declared, max_drop, str(self.scratch), threads, calibration,
            facts.ragged, facts.half, facts.squashed,
        )  # fmt: skip
        return self.engine.call(verifying.compare, request, stage="verify", progress=self._tick)

    def paced(
        self, verification: Verification, before: Graph, after: Graph, facts: LoadedFacts, survey: jobs.Survey
    ) -> Verification:
        """The verification, which also says so when integers are larger, or slower, than floats."""
        known = precisions.get(after.precision) if after.precision in precisions else None
        if not verification.passed or known is None or known.weights == "float32":
            return verification
        from edgekit.converters import pace

        verification = replace(verification, warnings=(*verification.warnings, *pace.heavier(before, after)))
        if known.activations != "int8":
            return verification
        request = pace.PaceRequest(before, after, survey.proof, facts.samples, str(self.scratch))
        found = self.engine.call(pace.pace, request, stage="verify")
        return replace(verification, warnings=(*verification.warnings, *pace.advice(found, after)))

    def describe_data(
        self,
        graph: Graph,
        facts: LoadedFacts,
        evaluation: DataRef | None,
        calibration: DataRef | None,
        reading: tuple[Preprocess, Interpret],
    ) -> describing.Described:
        """The reference of the data, for monitors."""
        request = describing.DescribeRequest(
            graph, evaluation, calibration, facts.samples, *reading, facts.ragged, str(self.scratch)
        )
        return self.engine.call(describing.describe, request, stage="describe", progress=self._tick)

    def record(self, graph: Graph, facts: LoadedFacts, survey: jobs.Survey, seed: int) -> verifying.Recording:
        request = verifying.RecordRequest(graph, survey.ranges, survey.proof, facts.samples, seed, str(self.scratch))
        return self.engine.call(verifying.record, request, stage="record")

    @property
    def framework(self) -> Child:
        """It holds the source."""
        if not self._loaded and self._source is not None:
            self._load(self._source)
        return _started(self._framework)

    @property
    def engine(self) -> Child:
        return _started(self._engine)

    def _child(self, name: str, preload: tuple[str, ...]) -> Child:
        def make(log: Path) -> Child:
            begun = None if self._begun is None else self._begun.take(name)
            process = begun or Spawned(log, environment=ENVIRONMENTS[name])
            return Child(process, self._limits, preload=preload, doing=f"the {name} process")

        if self._waiting is None:
            return self._stack.enter_context(make(self.scratch / f"{name}.log"))
        waiting, key = self._waiting, (name, preload, self._limits)
        child = waiting.take(key, make)

        def end(kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
            waiting.give(key, child, None if kind or self._source is None else self._source.sha256)

        self._stack.push(end)
        return child

    def _place(self, name: str) -> Path:
        """For a file of the source, which may serve the next conversion of it as well."""
        return self.scratch / name if self._waiting is None else self._waiting.place(f".{name}")

    def _recalled(self, *asked: Any) -> Any:
        return None if self._waiting is None else self._waiting.recall(self._key(asked))

    def _keep(self, value: Any, *asked: Any) -> None:
        if self._waiting is not None and self._source is not None:
            self._waiting.keep(self._key(asked), value, self._source.sha256)

    def _key(self, asked: tuple[Any, ...]) -> str:
        return json.dumps(encode((self._source, *asked)), sort_keys=True)

    def _tick(self, event: dict[str, Any]) -> None:
        self._progress({"stage": self._stage, **event})


def _state(path: str) -> tuple[int, int]:
    """By which a file that was written again is told."""
    found = Path(path).stat()
    return found.st_mtime_ns, found.st_size


def _started(child: Child | None) -> Child:
    if child is None:
        raise InternalError("job-order", "the workshop was not started")
    return child
