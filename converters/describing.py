"""The reference of a conversion: what its data looked like, through the finished graph in the engine's child process.

Evaluation data comes first: what both data sets hold counts as evaluated, and outputs are described by what the model
was not trained with, where there is enough of it.
"""

from __future__ import annotations

import base64
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path

import numpy as np

from edgekit.converters.jobs import Event, batch_size, opened
from edgekit.converters.perturbing import Span, Spoiler, drawn
from edgekit.converters.stages import Array, Feeds, Graph
from edgekit.data import Batch
from edgekit.data_ref import DataRef
from edgekit.feeding import Preprocess
from edgekit.manifest import Interpret
from edgekit.monitor.build import LEAST, Builder, Drift
from edgekit.monitor.features import Values, extractor
from edgekit.monitor.picture import Picture
from edgekit.runtimes.model import Model
from edgekit.tensors import TensorSpec, fixed_batch

_SAMPLES = (100, 2000)
"""Of each data set, at least and at most."""

_COPIES = (1200, 8000)
"""Spoilt samples that are judged, at least and at most."""

_SHARE = 12
"""A reference should take at most one part in so many of the model: small models have coarser ones."""

_WORK = 4e10
"""Multiply-accumulates that describing may cost: seconds at the desk; and what judging may, a few times as many."""

_JUDGING = 5.0

_ENGINES = 2
"""Engines that answer copies at once, one thread each."""

_TOGETHER = 8 << 20
"""Elements of samples that are spoilt together: arrays of tens of megabytes."""


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
                yield from judge.spoil(data.batches(size))
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
        self._labelled = 0
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

    def spoil(self, batches: Iterable[Batch]) -> Iterator[Event]:
        """Copies of the same batches' samples, answered by an engine a core; the order is that of one."""
        spoiler = Spoiler(str(self._shape), Span.joined(self._spans))
        chosen = drawn(self._labelled, len(spoiler.kinds) * spoiler.levels, self._copies)
        total, done = sum(map(len, chosen)), 0
        with ExitStack() as stack:
            models = [self._model]
            models += [stack.enter_context(opened(self._graph, threads=1)) for _ in range(_ENGINES - 1)]
            engines = [ThreadPoolExecutor(1) for _ in models]
            for engine in engines:
                stack.callback(engine.shutdown, cancel_futures=True)
            for some in self._sources(batches, np.unique(np.concatenate(chosen))):
                jobs = [(number, own) for number, places in enumerate(chosen) if (own := some.of(places)).size]
                waiting = [
                    engine.submit(self._judged, model, spoiler, some, number, own)
                    for (number, own), engine, model in zip(jobs, cycle(engines), cycle(models), strict=False)
                ]
                for judged in waiting:
                    done += judged.result()
                    yield {"done": done, "total": total}

    def _sources(self, batches: Iterable[Batch], wanted: Array) -> Iterator[_Sources]:
        """Labelled samples at these places, as many together as there is room for."""
        held: list[_Sources] = []
        begin = elements = 0
        for batch in batches:
            labels = self._labels(batch)
            if labels is None or self._spec is None:
                return
            own = wanted[(wanted >= begin) & (wanted < begin + len(labels))]
            if own.size:
                x = np.asarray(batch.feeds[self._spec.name], np.float32)[own - begin]
                held.append(_Sources(x, labels[own - begin], own))
                elements += x.size
            begin += len(labels)
            if elements >= _TOGETHER:
                yield _Sources.joined(held)
                held, elements = [], 0
        if held:
            yield _Sources.joined(held)

    def _judged(self, model: Model, spoiler: Spoiler, some: _Sources, number: int, own: Array) -> int:
        """Spoil samples one way, answer them, and hand them to the builder, which has one list a way."""
        assert self._spec is not None  # noqa: S101  `ready` says so
        kind, level = divmod(number, spoiler.levels)
        dice = np.random.default_rng([kind, level, int(some.places[0])])
        spoilt = self._graph.turn({self._spec.name: spoiler.spoil(some.x[own], kind, level, dice)})
        answers = _whole(model, spoilt, fixed_batch(self._graph.inputs))
        drift = Drift(spoiler.kinds[kind].name, spoiler.kinds[kind].family, level)
        self._builder.judge(spoilt, answers, some.labels[own], drift, some.places[own])
        return len(own)

    def _labels(self, batch: Batch) -> Array | None:
        labels = batch.labels
        judged = labels is not None and labels.ndim == 1 and labels.dtype.kind in "iub" and self._builder.rows.classes
        return labels if judged else None


def _whole(model: Model, feeds: Feeds, size: int) -> Feeds:
    """Answers to any number of samples by a model that takes so many at once: the last ones fill its batch."""
    count = len(next(iter(feeds.values())))
    if not count % size:
        return model.run(feeds)
    places = np.minimum(np.arange(-(-count // size) * size), count - 1)
    answers = model.run({name: array[places] for name, array in feeds.items()})
    return {name: array[:count] for name, array in answers.items()}


@dataclass(frozen=True)
class _Sources:
    """Samples of which copies are made.

    Attributes:
        x: [n, ...] float32. labels: [n]. places: [n]: among all labelled ones, ascending.
    """

    x: Array
    labels: Array
    places: Array

    @classmethod
    def joined(cls, parts: list[_Sources]) -> _Sources:
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("x", "labels", "places")))

    def of(self, places: Array) -> Array:
        """Which of them are at any of these places."""
        return np.flatnonzero(np.isin(self.places, places))


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
