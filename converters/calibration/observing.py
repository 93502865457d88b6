"""The job that calibrates: observes the float graph on data, and chooses among ranges by their effect.

It runs in the engine child, as those of `jobs` do.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from edgekit.converters import sampling
from edgekit.converters.jobs import Event, QuantizeRequest, batch_size, quantize_to_compare
from edgekit.converters.stages import CalibrationOptions, Feeds, Graph, QuantizeOptions, Ranges
from edgekit.data_ref import DataRef
from edgekit.tensors import TensorSpec


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
        for batch in data.batches(batch_size(request.inputs)):
            yield from map(graph.turn, sampling.taken(batch.feeds, request.inputs, graph.inputs))

    resumed = None
    if request.data_sha256 is not None:
        resumed = checkpoint(request.graph, request.data_sha256, request.options)
    ranges = yield from _counted(calibrate(request.graph, feeds(), request.options, resumed), len(data))
    if not ranges.alternatives and not request.even:
        return ranges

    def quantized(candidate: Ranges, path: Path) -> Graph:
        tried = replace(candidate, rules=request.quantizing.rules)
        return quantize_to_compare(QuantizeRequest(graph, tried, request.precision, request.quantizing, str(path)))

    steps = range_choice.choose(
        graph, ranges, quantized, feeds, Path(request.scratch), request.options.threads, even=request.even
    )
    return replace((yield from steps).ranges, rules=request.quantizing.rules)


def _counted(steps: Generator[Event, None, Ranges], total: int) -> Generator[Event, None, Ranges]:
    """Calibration's progress as the command line shows it."""
    while True:
        try:
            yield {"done": next(steps).get("samples", 0), "total": total}
        except StopIteration as end:
            ranges: Ranges = end.value
            return ranges
