"""The reference of a conversion: what its data looked like, through the finished graph in the engine's child process.

Evaluation data comes first: what both data sets hold counts as evaluated, and outputs are described by what the model
was not trained with, where there is enough of it.
"""

from __future__ import annotations

import base64
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgekit.converters.jobs import Event, batch_size, opened
from edgekit.converters.perturbing import copies
from edgekit.converters.stages import Feeds, Graph
from edgekit.data import Batch
from edgekit.data_ref import DataRef
from edgekit.feeding import Preprocess
from edgekit.manifest import Interpret
from edgekit.monitor.build import LEAST, Builder
from edgekit.monitor.features import Values, extractor
from edgekit.monitor.picture import Picture
from edgekit.runtimes.model import Model
from edgekit.tensors import TensorSpec

_SAMPLES = (100, 2000)
"""Of each data set, at least and at most."""

_JUDGED = (60, 400)
"""Labelled samples that are judged, at least and at most; each is answered about twenty times."""

_TURNS = 2
"""Copies of each kind, of different strength."""

_SHARE = 12
"""A reference should take at most one part in so many of the model: small models have coarser ones."""

_WORK = 4e10
"""Multiply-accumulates that describing may cost: seconds at the desk."""


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
    with opened(graph, threads=1) as model:
        macs = read_facts(model.artifact).macs
        most = _samples(macs)
        for ref in (request.evaluation, request.calibration):
            if ref is None:
                continue
            some = replace(ref, samples=min(most, ref.samples or most))
            data = open_data(some, request.inputs, Path(request.scratch))
            judge = _Judge(request, builder, model, macs) if ref is request.evaluation else None
            done = 0
            for batch in data.batches(batch_size(request.inputs, request.ragged)):
                feeds = graph.turn(batch.feeds)
                answers = model.run(feeds)
                builder.add(feeds, answers, proven=ref is request.evaluation)
                if judge is not None:
                    judge.add(batch, feeds, answers)
                done += len(next(iter(feeds.values())))
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
        least, most = _JUDGED
        self._left = int(min(most, max(least, _WORK / max(macs or 1, 1) / 20)))
        self._batches = 0

    def add(self, batch: Batch, feeds: Feeds, answers: Feeds) -> None:
        """One batch of evaluation data."""
        labels = batch.labels
        if labels is None or not self._builder.rows.classes or labels.ndim != 1 or labels.dtype.kind not in "iub":
            return
        some = slice(0, self._left)
        count = len(labels[some])
        if not count:
            return
        self._left -= count
        self._batches += 1
        self._builder.judge(_cut(feeds, some), _cut(answers, some), labels[some], 0)
        if self._spec is None or self._shape is None:
            return
        x = np.asarray(batch.feeds[self._spec.name][some], np.float32)
        for turn in range(_TURNS):
            for kind, copy in enumerate(copies(x, self._shape, self._batches * _TURNS + turn), 1):
                spoilt = self._graph.turn({self._spec.name: copy})
                self._builder.judge(spoilt, self._model.run(spoilt), labels[some], kind)


def _cut(arrays: Feeds, some: slice) -> Feeds:
    return {name: array[some] for name, array in arrays.items()}


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
