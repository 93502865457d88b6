"""The job that calibrates: observes the float graph on data, and chooses among ranges by their effect.

It runs in the engine child, as those of `jobs` do.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import sample_axis
from edgekit.converters.jobs import Event, QuantizeRequest, batch_size, quantize_to_compare
from edgekit.converters.stages import CalibrationOptions, Feeds, Graph, QuantizeOptions, Ranges
from edgekit.data_ref import DataRef
from edgekit.tensors import TensorSpec, fixed_batch, whole

if TYPE_CHECKING:
    from edgekit.converters.calibration import range_choice

FORESEEING = ("auto", "room")
"""Observers that conclude from how often values come: a sample that comes again counts once."""


@dataclass(frozen=True)
class ObserveRequest:
    """Calibrate: observe the float graph on data, for a precision.

    Attributes:
        data_sha256: Of the samples, by which a calibration that was killed is found again; None to begin anew.
        even: The biases of the layers that make the answers shall take their mean error back.
    """

    graph: Graph
    data: DataRef
    inputs: tuple[TensorSpec, ...]
    options: CalibrationOptions
    precision: str
    quantizing: QuantizeOptions
    scratch: str
    data_sha256: str | None = None
    even: bool = False


def observe(request: ObserveRequest) -> Generator[Event, None, Ranges]:
    """Ranges of all activations over the calibration data."""
    from edgekit.converters.calibrate import calibrate
    from edgekit.converters.calibration import range_choice
    from edgekit.converters.calibration.checkpoints import checkpoint
    from edgekit.data import open_data

    graph, data = request.graph, open_data(request.data, request.inputs, Path(request.scratch))

    def feeds() -> Iterator[Feeds]:
        batches = (batch.feeds for batch in data.batches(batch_size(request.inputs)))
        for batch in sample_axis.distinct(batches) if request.options.observer in FORESEEING else batches:
            yield from map(graph.turn, sample_axis.taken(batch, request.inputs, graph.inputs))

    resumed = None
    if request.data_sha256 is not None:
        resumed = checkpoint(request.graph, request.data_sha256, request.options)
    ranges = yield from _counted(calibrate(request.graph, feeds(), request.options, resumed), len(data))
    if not ranges.alternatives and not request.even:
        return ranges

    def quantized(candidate: Ranges, path: Path) -> Graph:
        tried = replace(candidate, rules=request.quantizing.rules)
        return quantize_to_compare(QuantizeRequest(graph, tried, request.precision, request.quantizing, str(path)))

    trial = (yield from _trial(request, feeds)) if len(ranges.alternatives) > 1 else None
    steps = range_choice.choose(
        graph, ranges, quantized, feeds, Path(request.scratch), request.options.threads, even=request.even, trial=trial
    )
    return replace((yield from steps).ranges, rules=request.quantizing.rules)


def _trial(
    request: ObserveRequest, feeds: Callable[[], Iterator[Feeds]]
) -> Generator[Event, None, range_choice.Trial | None]:
    """Ranges of some samples, and others to measure them by; None where there are too few for both."""
    from edgekit.converters.calibrate import calibrate
    from edgekit.converters.calibration import range_choice
    from edgekit.converters.repairs.samples import Samples

    graph = request.graph
    if whole(graph.inputs, graph.outputs) or range_choice.too_large(graph):
        return None
    some = list(Samples(feeds(), range_choice.TRIED, fixed_batch(graph.inputs)))
    asked = some[range_choice.EVERY - 1 :: range_choice.EVERY]
    if not asked:
        return None
    rest = [feed for number, feed in enumerate(some) if (number + 1) % range_choice.EVERY]
    found = yield from _counted(calibrate(graph, iter(rest), request.options), len(rest))
    return range_choice.Trial(found.alternatives, lambda: iter(asked))


def _counted(steps: Generator[Event, None, Ranges], total: int) -> Generator[Event, None, Ranges]:
    """Calibration's progress as the command line shows it."""
    while True:
        try:
            yield {"done": next(steps).get("samples", 0), "total": total}
        except StopIteration as end:
            ranges: Ranges = end.value
            return ranges
