"""Repairs that go by what the integer kernels answer: applied last, when the ranges are chosen.

Judged on samples that they have not seen, since each has a number a channel to fit, and taken where they help by more
than chance: where nothing is left to take back, they change answers by as much as they improve them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from edgekit import artifact
from edgekit.converters.calibration import range_choice
from edgekit.converters.repairs import repairs as known
from edgekit.converters.repairs.repair import EngineCase, Report
from edgekit.converters.repairs.samples import Samples
from edgekit.converters.repairs.view import View, open_view
from edgekit.converters.stages import LEVELS, Feeds, Graph, QuantizeOptions, Ranges
from edgekit.formats import read_facts
from edgekit.tensors import fixed_batch

SAMPLES = 144
"""Calibration samples that are seen, at most."""
_JUDGING = 3
"""Of so many one judges, the others are what is gone by."""


@dataclass(frozen=True)
class Settled:
    """A float graph to quantize by the same ranges as the one before, and what was done."""

    graph: Graph
    reports: tuple[Report, ...] = ()


def settle(
    graph: Graph,
    reference: Graph,
    batches: Iterable[Feeds],
    names: Iterable[str],
    quantize: Callable[[Graph, Path], Graph],
    *,
    ranges: Ranges,
    quantizing: QuantizeOptions,
    folder: Path,
    threads: int,
) -> Settled:
    """Apply repairs whose KIND is "engine", in this order.

    Args:
        graph: The float graph.
        reference: The same without repairs of weights, which change what a float graph answers.
        batches: Calibration data, arrays [n, ...] by public input name; the first `SAMPLES` are used.
        names: Of the repairs.
        quantize: Makes the quantized graph, of float interface, at a path.
        ranges: The chosen ones.
        quantizing: How it will be quantized.
        folder: For files.
        threads: Of the engine.

    Raises:
        EngineError: `calibration-engine`. And what `quantize` raises.
    """
    step = fixed_batch(graph.inputs)
    seen = list(Samples(batches, SAMPLES, step))
    judging = [one for number, one in enumerate(seen) if number % _JUDGING == _JUDGING - 1]
    fitting = [one for number, one in enumerate(seen) if number % _JUDGING != _JUDGING - 1]
    if not judging:
        return Settled(graph)

    def scores(of: Graph) -> list[range_choice.Answers]:
        return range_choice.answers(of, lambda: map(graph.turn, judging), threads)

    bench = _Bench(graph.format, folder, quantize)
    wanted = scores(reference)
    best = range_choice.score(wanted, scores(bench.quantized(graph)))
    reports = []
    for name in names:
        opened = open_view(graph)
        case = EngineCase(
            graph, Samples(fitting, SAMPLES, step), ranges, 8, LEVELS[quantizing.weight_bits], threads,
            opened.lifted(quantizing.rules) if quantizing.rules else frozenset(),
            quantized=bench.quantized, written=bench.written, reference=reference, macs=_macs(graph),
        )  # fmt: skip
        change = known.get(name).apply(case, opened)
        if not change.changed:
            continue
        repaired = bench.written(graph, opened)
        found = range_choice.score(wanted, scores(bench.quantized(repaired)))
        gain, kept = found.decibels - best.decibels, found.surely_above(best)
        detail = change.detail if kept else f"taken back, it did not help: {change.detail}"
        reports.append(Report(name, change.changed, kept, round(gain, 2), detail))
        if kept:
            graph, best = repaired, found
    return Settled(graph, tuple(reports))


class _Bench:
    """Makes files."""

    def __init__(self, format: str, folder: Path, quantize: Callable[[Graph, Path], Graph]) -> None:
        self._format, self._folder, self._quantize = format, folder, quantize
        self._count = 0

    def quantized(self, graph: Graph) -> Graph:
        return self._quantize(graph, self._path("quantized"))

    def written(self, graph: Graph, opened: View) -> Graph:
        path = self._path("settled")
        opened.write(path)
        return replace(graph, path=str(path))

    def _path(self, stem: str) -> Path:
        self._count += 1
        return self._folder / f"{stem}{self._count}.{self._format}"


def _macs(graph: Graph) -> int:
    return max(read_facts(artifact.read(graph.path, verify=False)).macs or 0, 1)
