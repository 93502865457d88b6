"""The reference of a conversion: what its data looked like, through the finished graph in the engine's child process.

Evaluation data comes first: what both data sets hold counts as evaluated, and outputs are described by what the model
was not trained with, where there is enough of it.
"""

from __future__ import annotations

import base64
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from edgekit.converters.jobs import Event, batch_size, opened
from edgekit.converters.perturbing import LEVELS, Span, Spoiler, drawn
from edgekit.converters.stages import Array, Feeds, Graph
from edgekit.data import Batch
from edgekit.data_ref import DataRef
from edgekit.feeding import Preprocess
from edgekit.manifest import Interpret
from edgekit.monitor.build import LEAST, Builder, Drift
from edgekit.monitor.features import Values, extractor
from edgekit.monitor.picture import Picture
from edgekit.runtimes.model import Model
from edgekit.tensors import TensorSpec

_SAMPLES = (100, 2000)
"""Of each data set, at least and at most."""

_COPIES = (1200, 16_000)
"""Spoilt samples that are judged, at least and at most."""

_SHARE = 12
"""A reference should take at most one part in so many of the model: small models have coarser ones."""

_WORK = 4e10
"""Multiply-accumulates that describing may cost: seconds at the desk; and what judging may, a few times as many."""

_JUDGING = 5.0


@dataclass(frozen=True)
class DescribeRequest:
    """Describe the data of a conversion.

    Attributes:
        graph: The finished one.
        evaluation, calibration: The data.
        inputs: Of the source.
        preprocess: What is left to do before the graph.
        interpret: How its outputs are read.
        ragged: Outputs of another size for each sample.
        scratch: A folder.
    """

    graph: Graph
    evaluation: DataRef | None
    calibration: DataRef | None
    inputs: tuple[TensorSpec, ...]
    preprocess: Preprocess
    interpret: Interpret
    ragged: tuple[str, ...]
    scratch: str


@dataclass(frozen=True)
class Described:
    """The reference.

    Attributes:
        text: Its bytes in base64; None where there are too few samples for one.
        samples: Different ones behind it.
    """

    text: str | None
    samples: int = 0

    @property
    def content(self) -> bytes | None:
        """As bytes."""
        return None if self.text is None else base64.b64decode(self.text)


def describe(request: DescribeRequest) -> Generator[Event, None, Described]:
    """Run the graph on the data and keep what a monitor needs."""
    from edgekit.data import open_data
    from edgekit.formats import read_facts

    graph = request.graph
    builder = Builder(graph.inputs, graph.outputs, request.preprocess, request.interpret)
    size = batch_size(request.inputs, request.ragged)
    with opened(graph, threads=1) as model:
        macs = read_facts(model.artifact).macs
        most = _samples(macs)
        judge = _Judge(request, builder, model, macs)
        for ref in (request.evaluation, request.calibration):
            if ref is None:
                continue
            some = replace(ref, samples=min(most, ref.samples or most))
            data = open_data(some, request.inputs, Path(request.scratch))
            done = 0
            for batch in data.batches(size):
                feeds = graph.turn(batch.feeds)
                answers = model.run(feeds)
                builder.add(feeds, answers, proven=ref is request.evaluation)
                if ref is request.evaluation:
                    judge.clean(batch, feeds, answers)
                done += len(next(iter(feeds.values())))
                yield {"done": done, "total": len(data)}
            if ref is request.evaluation and judge.ready:
                done = 0
                for batch in data.batches(size):
                    judge.spoil(batch)
                    done += len(next(iter(batch.feeds.values())))
                    yield {"done": done, "total": len(data)}
    if builder.samples < LEAST:
        return Described(None, builder.samples)
    room = Path(graph.path).stat().st_size // _SHARE
    # Text in an ONNX file, a quarter longer.
    reference = builder.finish(room * 4 // 5 if graph.format == "onnx" else room)
    return Described(base64.b64encode(reference.to_bytes()).decode(), builder.samples)


class _Judge:
    """Hands labelled samples to the builder, as they are and as the field might spoil them.

    Args:
        request: The job's.
        builder: Takes them.
        model: Answers.
        macs: Multiply-accumulates of an answer.
    """

    def __init__(self, request: DescribeRequest, builder: Builder, model: Model, macs: int | None) -> None:
        self._graph, self._builder, self._model = request.graph, builder, model
        self._spec = request.inputs[0] if len(request.inputs) == 1 else None
        self._shape = _shape(self._spec, request.preprocess)
        least, most = _COPIES
        self._copies = int(min(most, max(least, _JUDGING * _WORK / max(macs or 1, 1))))
        self._labelled = self._seen = 0
        self._spans: list[Span] = []

    def clean(self, batch: Batch, feeds: Feeds, answers: Feeds) -> None:
        """One batch of evaluation data."""
        labels = self._labels(batch)
        if labels is None:
            return
        self._labelled += len(labels)
        self._builder.judge(feeds, answers, labels)
        if self._spec is not None and self._shape is not None:
            self._spans.append(Span.of(np.asarray(batch.feeds[self._spec.name], np.float32), self._shape))

    @property
    def ready(self) -> bool:
        """Whether copies can be made: there were labels, and it is known how this input is spoilt."""
        return bool(self._spans)

    @cached_property
    def _plan(self) -> tuple[Spoiler, list[Array]]:
        """How samples are spoilt, and which ones each way: once all labelled ones were seen."""
        spoiler = Spoiler(str(self._shape), Span.joined(self._spans))
        return spoiler, drawn(self._labelled, len(spoiler.kinds) * LEVELS, self._copies)

    def spoil(self, batch: Batch) -> None:
        """The same batch again: copies of its samples. The next ones are made while the engine answers."""
        labels, spec = self._labels(batch), self._spec
        if labels is None or spec is None or self._shape is None:
            return
        x = np.asarray(batch.feeds[spec.name], np.float32)
        begin, self._seen = self._seen, self._seen + len(labels)
        spoiler, chosen = self._plan
        waiting: tuple[Feeds, Future[Feeds], Array, Drift] | None = None
        with ThreadPoolExecutor(1) as engine:
            for number, places in enumerate(chosen):
                own = places[(places >= begin) & (places < begin + len(labels))] - begin
                if not own.size:
                    continue
                kind, level = divmod(number, LEVELS)
                dice = np.random.default_rng([kind, level, begin])
                spoilt = self._graph.turn({spec.name: spoiler.spoil(x[own], kind, level, dice)})
                drift = Drift(spoiler.kinds[kind].name, spoiler.kinds[kind].family, level)
                before, waiting = waiting, (spoilt, engine.submit(self._model.run, spoilt), labels[own], drift)
                if before is not None:
                    self._answered(*before)
            if waiting is not None:
                self._answered(*waiting)

    def _answered(self, spoilt: Feeds, answers: Future[Feeds], labels: Array, drift: Drift) -> None:
        self._builder.judge(spoilt, answers.result(), labels, drift)

    def _labels(self, batch: Batch) -> Array | None:
        labels = batch.labels
        judged = labels is not None and labels.ndim == 1 and labels.dtype.kind in "iub" and self._builder.rows.classes
        return labels if judged else None


def _shape(spec: TensorSpec | None, how: Preprocess) -> str | None:
    """What `copies` takes an input for; None for what it cannot spoil."""
    if spec is None or not spec.dtype.startswith("float"):
        return None
    made = extractor(spec, how)
    if isinstance(made, Picture):
        return "channels first" if made.first else "picture" if len(spec.shape) == 4 else "series"
    return "table" if isinstance(made, Values) and len(spec.shape) == 2 else "series"


def _samples(macs: int | None) -> int:
    """As many as the work allows; a number of the graph and not of the clock, for the same bytes."""
    least, most = _SAMPLES
    return int(min(most, max(least, _WORK / max(macs or 1, 1))))
