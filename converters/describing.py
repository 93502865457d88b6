"""The reference of a conversion: what its data looked like, through the finished graph in the engine's child process.

Evaluation data comes first: what both data sets hold counts as evaluated, and outputs are described by what the model
was not trained with, where there is enough of it.
"""

from __future__ import annotations

import base64
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path

from edgekit.converters.jobs import Event, batch_size, opened
from edgekit.converters.judging import Judge
from edgekit.converters.stages import Graph
from edgekit.data_ref import DataRef
from edgekit.feeding import Preprocess
from edgekit.manifest import Interpret
from edgekit.monitor.build import LEAST, Builder
from edgekit.tensors import TensorSpec

_SAMPLES = (100, 2000)
"""Of each data set, at least and at most."""

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
    size = batch_size(request.inputs, request.ragged)
    with opened(graph, threads=1) as model:
        macs = read_facts(model.artifact).macs
        most = _samples(macs)
        judge = Judge(graph, request.inputs, request.preprocess, builder, model, macs)
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


def _samples(macs: int | None) -> int:
    """As many as the work allows; a number of the graph and not of the clock, for the same bytes."""
    least, most = _SAMPLES
    return int(min(most, max(least, _WORK / max(macs or 1, 1))))
