"""The job of the engine's side that repairs a float graph; see `edgekit.converters.jobs`."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit.converters import sampling
from edgekit.converters.repairs import mend as mending
from edgekit.converters.repairs.mend import Mended, Wanted
from edgekit.converters.stages import CalibrationOptions, Graph, QuantizeOptions
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
    seconds: float


def mend(request: MendRequest) -> Generator[dict[str, Any], None, Mended]:
    """The graph to calibrate and quantize instead."""
    from edgekit.data import open_data
    from edgekit.precision import precisions

    folder = Path(request.scratch) / "repairs"
    folder.mkdir()
    some = replace(request.data, samples=min(mending.SAMPLES, request.data.samples or mending.SAMPLES))
    data = open_data(some, request.inputs, Path(request.scratch))
    mended: Mended = yield from mending.mend(
        request.graph,
        (
            feeds
            for batch in data.batches(_BATCH)
            for feeds in sampling.taken(batch.feeds, request.inputs, request.graph.inputs)
        ),
        request.wanted,
        precision=precisions.get(request.precision),
        quantizing=request.quantizing,
        observing=request.observing,
        folder=folder,
        seconds=request.seconds,
    )
    return mended
