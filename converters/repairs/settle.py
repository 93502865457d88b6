"""Repairs that go by what the integer kernels answer: applied last, when the ranges are chosen.

Judged on samples that they have not seen, since each has a number a channel to fit, and taken where they help by more
than chance: where nothing is left to take back, they change answers by as much as they improve them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edgekit import artifact
from edgekit.converters.calibration import range_choice
from edgekit.converters.repairs import repairs as known
from edgekit.converters.repairs.repair import EngineCase, Report
from edgekit.converters.repairs.samples import Samples
from edgekit.converters.repairs.view import open_view
from edgekit.converters.repairs.workbench import Workbench
from edgekit.converters.stages import LEVELS, Feeds, Graph, Ranges
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
    bench: Workbench,
    *,
    ranges: Ranges,
    threads: int,
) -> Settled:
    """Apply repairs whose KIND is "engine", in this order.

    Args:
        graph: The float graph.
        reference: The same without repairs of weights, which change what a float graph answers.
        batches: Calibration data, arrays [n, ...] by public input name; the first `SAMPLES` are used.
        names: Of the repairs.
        bench: Quantizes as the artifact will be.
        ranges: The chosen ones.
        threads: Of the engine.

    Raises:
        EngineError: `calibration-engine`. And what quantizing raises.
    """
    step = fixed_batch(graph.inputs)
    seen = list(Samples(batches, SAMPLES, step))
    judging = [one for number, one in enumerate(seen) if number % _JUDGING == _JUDGING - 1]
    fitting = [one for number, one in enumerate(seen) if number % _JUDGING != _JUDGING - 1]
    if not judging:
        return Settled(graph)

    def scores(of: Graph) -> list[range_choice.Answers]:
        return range_choice.answers(of, lambda: map(graph.turn, judging), threads)

    def judged(one: Graph) -> range_choice.Score:
        return range_choice.score(wanted, scores(quantized(one)), squashed=squashed)

    def quantized(one: Graph) -> Graph:
        return bench.quantized(one, ranges)

    rules = bench.quantizing.rules
    wanted, squashed = scores(reference), range_choice.squashes(reference)
    best = judged(graph)
    reports = []
    for name in names:
        opened = open_view(graph)
        case = EngineCase(
            graph, Samples(fitting, SAMPLES, step), ranges, 8, LEVELS[bench.quantizing.weight_bits], threads,
            opened.lifted(rules) if rules else frozenset(),
            quantized=quantized, written=bench.written, reference=reference, macs=_macs(graph),
        )  # fmt: skip
        change = known.get(name).apply(case, opened)
        if not change.changed:
            continue
        repaired = bench.written(graph, opened)
        found = judged(repaired)
        gain, kept = found.decibels - best.decibels, found.surely_above(best)
        detail = change.detail if kept else f"taken back, it did not help: {change.detail}"
        reports.append(Report(name, change.changed, kept, round(gain, 2), detail))
        if kept:
            graph, best = repaired, found
    return Settled(graph, tuple(reports))


def _macs(graph: Graph) -> int:
    return max(read_facts(artifact.read(graph.path, verify=False)).macs or 0, 1)
