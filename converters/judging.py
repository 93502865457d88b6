"""Labelled samples, as they are and as the field might spoil them, answered by the finished graph: what the estimate of
the accuracy without labels is fitted on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle

import numpy as np

from edgekit.converters.jobs import Event, opened
from edgekit.converters.perturbing import Span, drawn
from edgekit.converters.perturbing.feeds import FeedSpoiler, parts
from edgekit.converters.stages import Array, Feeds, Graph
from edgekit.data import Batch
from edgekit.feeding import Preprocess
from edgekit.monitor.build import Builder, Drift
from edgekit.monitor.features import Values, extractor
from edgekit.monitor.picture import Picture
from edgekit.runtimes.model import Model
from edgekit.tensors import TensorSpec, fixed_batch

_COPIES = (1200, 8000)
"""Spoilt samples that are judged, at least, and at most of any model."""

_CHEAP = 24_000
"""The most of those that cost little: three times as many bring 3 of 100 more estimates within 3 points, twice as many
more hardly any.
"""

_WORK = 2e11
"""Multiply-accumulates that judging may cost."""

_ELEMENT = 4000
"""Multiply-accumulates that an element of a copy is like: it is spoilt and described besides."""

_ENGINES = 2
"""Engines that answer copies at once, one thread each."""

_TOGETHER = 8 << 20
"""Elements of samples that are spoilt together: arrays of tens of megabytes."""


class Judge:
    """Hands labelled samples to the builder.

    Args:
        graph: The finished one.
        inputs: Of the source.
        preprocess: What is left to do before the graph.
        builder: Takes them.
        model: Answers.
        macs: Multiply-accumulates of an answer.
    """

    def __init__(
        self, graph: Graph, inputs: tuple[TensorSpec, ...], preprocess: Preprocess, builder: Builder, model: Model,
        macs: int | None,
    ) -> None:  # fmt: skip
        self._graph, self._builder, self._model = graph, builder, model
        how = preprocess if len(inputs) == 1 else Preprocess()
        self._parts = parts({spec.name: _shape(spec, how) for spec in inputs})
        self._macs = max(macs or 1, 1)
        self._labelled = 0
        self._elements = 0
        self._spans: list[list[Span]] = []

    def clean(self, batch: Batch, feeds: Feeds, answers: Feeds) -> None:
        """One batch of evaluation data."""
        labels = self._labels(batch)
        if labels is None:
            return
        self._labelled += len(labels)
        self._builder.judge(feeds, answers, labels)
        self._elements = sum(array[:1].size for array in map(np.asarray, batch.feeds.values()))
        if self._parts:
            self._spans.append([Span.of(part.of(batch.feeds), part.shape) for part in self._parts])

    @property
    def ready(self) -> bool:
        """Whether copies can be made: there were labels, and it is known how an input is spoilt."""
        return bool(self._spans)

    def spoil(self, batches: Iterable[Batch]) -> Iterator[Event]:
        """Copies of the same batches' samples, answered by an engine a core; the order is that of one."""
        spoiler = FeedSpoiler(self._parts, [Span.joined(spans) for spans in zip(*self._spans, strict=True)])
        chosen = drawn(self._labelled, spoiler.groups, copies_of(self._macs, self._elements))
        total, done = sum(map(len, chosen)), 0
        with ExitStack() as stack:
            models = [self._model]
            models += [stack.enter_context(opened(self._graph, threads=1)) for _ in range(_ENGINES - 1)]
            engines = [ThreadPoolExecutor(1) for _ in models]
            for engine in engines:
                stack.callback(engine.shutdown, cancel_futures=True)
            for some in self._sources(batches, np.unique(np.concatenate(chosen))):
                jobs = [(group, own) for group, places in enumerate(chosen) if (own := some.of(places)).size]
                waiting = [
                    engine.submit(self._judged, model, spoiler, some, group, own)
                    for (group, own), engine, model in zip(jobs, cycle(engines), cycle(models), strict=False)
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
            if labels is None:
                return
            own = wanted[(wanted >= begin) & (wanted < begin + len(labels))]
            if own.size:
                feeds = {name: np.asarray(array)[own - begin] for name, array in batch.feeds.items()}
                held.append(_Sources(feeds, labels[own - begin], own))
                elements += sum(array.size for array in feeds.values())
            begin += len(labels)
            if elements >= _TOGETHER:
                yield _Sources.joined(held)
                held, elements = [], 0
        if held:
            yield _Sources.joined(held)

    def _judged(self, model: Model, spoiler: FeedSpoiler, some: _Sources, group: int, own: Array) -> int:
        """Spoil samples one way, answer them, and hand them to the builder, which has one list a way."""
        feeds = {name: array[own] for name, array in some.feeds.items()}
        spoilt = self._graph.turn(spoiler.spoil(feeds, group, int(some.places[0])))
        answers = _whole(model, spoilt, fixed_batch(self._graph.inputs))
        self._builder.judge(spoilt, answers, some.labels[own], Drift(*spoiler.named(group)), some.places[own])
        return len(own)

    def _labels(self, batch: Batch) -> Array | None:
        labels = batch.labels
        judged = labels is not None and labels.ndim == 1 and labels.dtype.kind in "iub" and self._builder.rows.classes
        return labels if judged else None


def copies_of(macs: int, elements: int) -> int:
    """How many copies are judged of a model of so many multiply-accumulates, whose samples have so many elements."""
    least, most = _COPIES
    return int(max(least, min(most, _WORK / macs), min(_CHEAP, _WORK / (macs + _ELEMENT * elements))))


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
        feeds: Arrays [n, ...] by input name. labels: [n]. places: [n]: among all labelled ones, ascending.
    """

    feeds: Feeds
    labels: Array
    places: Array

    @classmethod
    def joined(cls, held: list[_Sources]) -> _Sources:
        feeds = {name: np.concatenate([one.feeds[name] for one in held]) for name in held[0].feeds}
        return cls(feeds, *(np.concatenate([getattr(one, name) for one in held]) for name in ("labels", "places")))

    def of(self, places: Array) -> Array:
        """Which of them are at any of these places."""
        return np.flatnonzero(np.isin(self.places, places))


def _shape(spec: TensorSpec, how: Preprocess) -> str | None:
    """What a spoiler takes an input for; None for what it cannot spoil."""
    if not spec.dtype.startswith("float"):
        return None
    made = extractor(spec, how)
    if isinstance(made, Picture):
        return "channels first" if made.first else "picture" if len(spec.shape) == 4 else "series"
    return "table" if isinstance(made, Values) and len(spec.shape) <= 2 else "series"
