"""The job of the engine's side that repairs a float graph; see `edgekit.converters.jobs`."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit import sample_axis
from edgekit.converters.repairs import mend as mending
from edgekit.converters.repairs import settle as settling
from edgekit.converters.repairs.mend import Mended, Wanted
from edgekit.converters.repairs.settle import Settled
from edgekit.converters.repairs.workbench import Workbench
from edgekit.converters.stages import CalibrationOptions, Feeds, Graph, QuantizeOptions, Ranges
from edgekit.data_ref import DataRef
from edgekit.tensors import TensorSpec

_BATCH = 8
"""Samples that are read at once; they are looked at one by one."""


@dataclass(frozen=True)
class MendRequest:
    """Repair a float graph, on some of the calibration data."""

    graph: Graph
    data: DataRef
    inputs: tuple[TensorSpec, ...]
    wanted: Wanted
    precision: str
    quantizing: QuantizeOptions
    observing: CalibrationOptions
    scratch: str


@dataclass(frozen=True)
class SettleRequest:
    """The repairs that come last, by the ranges that were chosen."""

    graph: Graph
    reference: Graph
    data: DataRef
    inputs: tuple[TensorSpec, ...]
    names: tuple[str, ...]
    ranges: Ranges
    precision: str
    quantizing: QuantizeOptions
    scratch: str
    threads: int = 2


def mend(request: MendRequest) -> Generator[dict[str, Any], None, Mended]:
    """The graph to calibrate and quantize instead."""
    from edgekit.precision import precisions

    folder = Path(request.scratch) / "repairs"
    folder.mkdir()
    mended: Mended = yield from mending.mend(
        request.graph,
        _feeds(request, mending.SAMPLES),
        request.wanted,
        precision=precisions.get(request.precision),
        quantizing=request.quantizing,
        observing=request.observing,
        folder=folder,
    )
    return mended


def settle(request: SettleRequest) -> Settled:
    """The graph to quantize instead."""
    folder = Path(request.scratch) / "settled"
    folder.mkdir()
    return settling.settle(
        request.graph,
        request.reference,
        _feeds(request, settling.SAMPLES),
        request.names,
        Workbench(folder, request.precision, request.quantizing),
        ranges=request.ranges,
        threads=request.threads,
    )


def _feeds(request: MendRequest | SettleRequest, most: int) -> Iterator[Feeds]:
    """The first samples as the graph takes them, each once."""
    from edgekit.data import open_data

    some = replace(request.data, samples=min(most, request.data.samples or most))
    data = open_data(some, request.inputs, Path(request.scratch))
    for batch in sample_axis.distinct(batch.feeds for batch in data.batches(_BATCH)):
        yield from sample_axis.taken(batch, request.inputs, request.graph.inputs)
