"""Which repairs a float graph gets: each is applied, checked, judged by what its quantized form answers, and reported.

    plan > floats > weights

Repairs of floats must leave the float answers as they are, in the real engine. Whether they help, and all repairs of
weights, is measured: the graph is quantized with and without, and both answer the same calibration samples. What does
not help is taken back. A few samples do: rounded weights err alike on all of them.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.converters.calibration import range_choice
from edgekit.converters.repairs import of_kind
from edgekit.converters.repairs import repairs as known
from edgekit.converters.repairs.ends import End, ends, shifts
from edgekit.converters.repairs.repair import Case, Change, Kind, Report
from edgekit.converters.repairs.samples import Samples, answers
from edgekit.converters.repairs.trying import Set, eliminate, gain
from edgekit.converters.repairs.view import open_view
from edgekit.converters.repairs.workbench import Workbench
from edgekit.converters.stages import LEVELS, CalibrationOptions, Feeds, Graph, QuantizeOptions, Ranges
from edgekit.errors import ConversionError
from edgekit.precision import Precision
from edgekit.rules import Rule
from edgekit.tensors import fixed_batch

SAMPLES = 96
"""Calibration samples that repairs see, at most."""
_FEWEST = 24
_WORK = 2e11
"""Multiply-accumulates of answering them once, some ten seconds at the desk: larger models are seen on fewer samples. A
number of the graph and not of the clock, so that the same comes out everywhere.
"""
_JUDGING = 2e12
"""The same for all judging together: a minute or two at the desk, and all that there is to judge for most models."""
_STORED = 2e3
"""Multiply-accumulates that take as long as rounding and storing one weight for a judgement."""
_FEWEST_JUDGEMENTS = 4
"""Without and with repairs of weights, on each of two graphs."""
_ENDED = (
    "repairs were judged {} times, as often as a model of this size is worth: the best of these was taken, others were "
    "not tried"
)
_SAME = 1e-4
"""Of an output's range: what the policy allows float conversions as well."""


@dataclass(frozen=True)
class Wanted:
    """What to repair, and for what.

    Attributes:
        names: Of repairs.
        demanded: They were asked for by name: those that cannot be done are errors, those of floats are not judged.
    """

    names: tuple[str, ...]
    demanded: bool = False


@dataclass(frozen=True)
class Mended:
    """A float graph after its repairs.

    Attributes:
        graph: The float graph to calibrate and quantize.
        reports: One a repair that found something to do.
        rules: Further ones of mixed precision.
        unrounded: The same without repairs of weights: where layers shall be lifted, theirs are not for integers.
        late: Said when not all was judged.
    """

    graph: Graph
    reports: tuple[Report, ...]
    rules: tuple[Rule, ...]
    unrounded: Graph
    late: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """For the user: what changes the look of the artifact, or was asked for in vain."""
        plans = [one for one in self.reports if one.kept and one.gain_db is None]
        return (*(one.detail for one in plans), *self.late)

    def told(self) -> Mended:
        """With its notes in both graphs."""
        noted = [replace(graph, notes=(*graph.notes, *self.notes)) for graph in (self.graph, self.unrounded)]
        return replace(self, graph=noted[0], unrounded=noted[1])


@dataclass
class _Candidate:
    """A float graph with its ranges, and how near its quantized form comes."""

    case: Case
    judged: range_choice.Score | None = None
    done: dict[str, Change] = field(default_factory=dict)

    @property
    def score(self) -> float:
        """In dB."""
        return -np.inf if self.judged is None else self.judged.decibels

    def surely_above(self, other: _Candidate) -> bool:
        """See `range_choice.Score`."""
        return self.judged is not None and other.judged is not None and self.judged.surely_above(other.judged)


def mend(
    graph: Graph,
    batches: Iterable[Feeds],
    wanted: Wanted,
    *,
    precision: Precision,
    quantizing: QuantizeOptions,
    observing: CalibrationOptions,
    folder: Path,
) -> Generator[dict[str, Any], None, Mended]:
    """Repair a float graph.

    Args:
        graph: The float graph.
        batches: Calibration data, arrays [n, ...] by public input name; the first `SAMPLES` are used, of large models
            fewer.
        wanted: Which repairs.
        precision: A static one.
        quantizing: How it will be quantized.
        observing: How it will be calibrated.
        folder: For files.

    Yields:
        `{"done", "total"}`, in steps.

    Returns:
        The graph to go on with: a new file in `folder`, or the same.

    Raises:
        ConversionError: `repair-changed-answers`: a repair that was demanded changes what the float graph answers; and
            whatever calibration and the quantizer refuse.
        DataError, EngineError: See `calibrate`.
    """
    most, judgements = _worth(graph)
    samples = Samples(batches, most, fixed_batch(graph.inputs))
    bench = _Bench(graph, samples, precision, quantizing, observing, folder, even="bias-correction" in wanted.names)
    plain = _Candidate(bench.case(graph))
    reference = answers(graph, samples, observing.threads)
    yield {"done": 1, "total": 5}
    reports, rules, plain = _planned(bench, plain, _modules(wanted, "plan"), reference)
    bench.work.quantizing = replace(quantizing, rules=(*quantizing.rules, *rules))
    floats = _modules(wanted, "floats")
    based = yield from _floated(bench, plain, floats, wanted, reference)
    reports += bench.refused
    bases = [one for one in (plain, based) if one is not None]
    if based is not None and wanted.demanded:
        bases = [based]
    weights = _modules(wanted, "weights")
    if not weights and len(bases) == 1:
        return Mended(bases[0].case.graph, (*reports, *_kept(bases[0], {})), rules, bases[0].case.graph)
    tried: list[dict[Set, _Candidate]] = [{} for _ in bases]
    late: tuple[str, ...] = ()

    def judge(number: int, chosen: Set) -> float | None:
        nonlocal late
        if chosen not in tried[number]:
            if sum(map(len, tried)) >= judgements:
                late = (_ENDED.format(judgements),)
                return None
            tried[number][chosen] = bench.judge(bases[number], {name: weights[name] for name in chosen})
        return tried[number][chosen].score

    for number in range(len(bases)):
        for chosen in dict.fromkeys(((), tuple(weights))):
            judge(number, chosen)
        yield {"done": 3 + number, "total": 5}
    best = max(range(len(bases)), key=lambda one: max((made.score for made in tried[one].values()), default=-np.inf))
    found = eliminate(
        tuple(weights),
        lambda chosen: judge(best, chosen),
        lambda one, other: tried[best][one].surely_above(tried[best][other]),
    )
    yield {"done": 5, "total": 5}
    reports += _judged(bases, tried, best, found.chosen, found.scores)
    return Mended(tried[best][found.chosen].case.graph, tuple(reports), rules, bases[best].case.graph, late)


def _worth(graph: Graph) -> tuple[int, int]:
    """Samples and judgements that are worth their time."""
    from edgekit import artifact
    from edgekit.formats import read_facts

    facts = read_facts(artifact.read(graph.path, verify=False))
    macs = max(facts.macs or 1, 1)
    most = int(np.clip(_WORK / macs, _FEWEST, SAMPLES))
    return most, max(_FEWEST_JUDGEMENTS, int(_JUDGING / (most * macs + _STORED * facts.parameters)))


class _Bench:
    """Makes, quantizes and measures candidates."""

    def __init__(
        self,
        graph: Graph,
        samples: Samples,
        precision: Precision,
        quantizing: QuantizeOptions,
        observing: CalibrationOptions,
        folder: Path,
        *,
        even: bool,
    ) -> None:
        self.samples = samples
        self._even = even
        self.work = Workbench(folder, precision.name, quantizing)
        self._wide = precision.activations == "int16"
        self._observing = observing
        self.refused: list[Report] = []
        self.scores = self._scores(graph)
        self._squashed = range_choice.squashes(graph)

    def _scores(self, graph: Graph) -> list[range_choice.Answers]:
        """The samples' answers before they are squashed."""
        return range_choice.answers(graph, lambda: (graph.turn(one) for one in self.samples), self._observing.threads)

    def case(self, graph: Graph) -> Case:
        from edgekit.converters.calibrate import calibrate

        ranges = _last(calibrate(graph, (graph.turn(one) for one in self.samples), self._observing))
        # Which of several ways is best is decided after the repairs; the first one does for comparing them.
        first = next(iter(ranges.alternatives.values()), ranges.tensors)
        ranges = Ranges(ranges.observer, ranges.samples, dict(first))
        quantizing = self.work.quantizing
        lifted = open_view(graph).lifted(quantizing.rules) if quantizing.rules else frozenset()
        bits, levels = 16 if self._wide else 8, LEVELS[quantizing.weight_bits]
        return Case(graph, self.samples, ranges, bits, levels, self._observing.threads, lifted)

    def _ends(self, case: Case) -> list[End | None]:
        """Where the mean error of the answers will be taken back in the end, whatever the repairs."""
        if not self._even:
            return []
        if "ends" not in case.memory:
            case.memory["ends"] = ends(case.graph)
        found: list[End | None] = case.memory["ends"]
        return found

    def judge(self, base: _Candidate, modules: dict[str, Any]) -> _Candidate:
        """Apply repairs of weights to a graph, quantize it, and let it answer."""
        made = _Candidate(base.case, done=dict(base.done))
        if modules:
            opened = open_view(base.case.graph)
            made.done |= {name: module.apply(base.case, opened) for name, module in modules.items()}
            made.case = replace(base.case, graph=self.work.written(base.case.graph, opened, "weights"))
        quantized = self.work.quantized(made.case.graph, base.case.ranges)
        answered = self._scores(quantized)
        lack = shifts(self.scores, answered, self._ends(base.case))
        made.judged = range_choice.score(self.scores, answered, lack, self._squashed)
        Path(quantized.path).unlink()
        return made


def _modules(wanted: Wanted, kind: Kind) -> dict[str, Any]:
    """The wanted repairs of a kind, in their order."""
    return {name: known.get(name) for name in of_kind(wanted.names, kind)}


def _planned(
    bench: _Bench, plain: _Candidate, modules: dict[str, Any], reference: Sequence[Feeds]
) -> tuple[list[Report], tuple[Rule, ...], _Candidate]:
    """What is to be computed otherwise, and the graph that was rewritten for it where it had to be."""
    reports: list[Report] = []
    rules: tuple[Rule, ...] = ()
    for name, module in modules.items():
        opened = open_view(plain.case.graph)
        change = module.apply(plain.case, opened)
        if change.rewrites:
            repaired = bench.work.written(plain.case.graph, opened, "planned")
            error = _difference(reference, answers(repaired, bench.samples, plain.case.threads))
            if error > _SAME:
                reports.append(_refused(name, change, error))
                continue
            plain = _Candidate(bench.case(repaired))
        rules += change.rules
        if change.changed:
            reports.append(Report(name, change.changed, kept=True, gain_db=None, detail=change.detail))
    return reports, rules, plain


def _floated(
    bench: _Bench, plain: _Candidate, modules: dict[str, Any], wanted: Wanted, reference: Sequence[Feeds]
) -> Generator[dict[str, Any], None, _Candidate | None]:
    """The graph after the repairs of floats; None when there was nothing to do."""
    case, done = plain.case, dict[str, Change]()
    for name, module in modules.items():
        opened = open_view(case.graph)
        change = module.apply(case, opened)
        if not change.changed:
            continue
        repaired = bench.work.written(case.graph, opened, "floats")
        error = _difference(reference, answers(repaired, bench.samples, case.threads))
        if error > _SAME:
            if wanted.demanded:
                raise ConversionError(
                    "repair-changed-answers",
                    f"{name} would change the float model's answers by {error:.2g} of their range",
                    repair=name,
                )
            bench.refused.append(_refused(name, change, error))
            continue
        case = bench.case(repaired)
        done[name] = change
    yield {"done": 2, "total": 5}
    return _Candidate(case, done=done) if done else None


def _refused(name: str, change: Change, error: float) -> Report:
    detail = f"refused, it would change the float answers by {error:.2g} of their range: {change.detail}"
    return Report(name, change.changed, kept=False, gain_db=None, detail=detail)


def _difference(reference: Sequence[Feeds], answered: Sequence[Feeds]) -> float:
    """The largest error of any output, beside that output's range."""
    worst = 0.0
    for name in reference[0]:
        spread = max(float(np.ptp([np.max(one[name]), np.min(one[name])])) for one in reference)
        errors = (
            np.abs(np.asarray(a[name], np.float64) - b[name]).max() for a, b in zip(reference, answered, strict=True)
        )
        worst = max(worst, float(max(errors)) / max(spread, 1e-12))
    return worst


def _kept(candidate: _Candidate, gains: dict[str, float]) -> Iterator[Report]:
    for name, change in candidate.done.items():
        yield Report(name, change.changed, kept=True, gain_db=gains.get(name), detail=change.detail)


def _judged(
    bases: Sequence[_Candidate],
    tried: Sequence[dict[Set, _Candidate]],
    best: int,
    chosen: Set,
    scores: dict[Set, float],
) -> Iterator[Report]:
    """Reports of all repairs that were tried; what was taken back says so."""
    tops = [max((made.score for made in one.values()), default=-np.inf) for one in tried]
    for name, change in bases[-1].done.items():
        known = len(bases) > 1 and np.isfinite(tops).all()
        yield _report(name, change, kept=best == len(bases) - 1, gain=tops[-1] - tops[0] if known else None)
    whole = max(tried[best], key=len)
    for name in whole:
        change = tried[best][whole].done[name]
        if change.changed:
            yield _report(name, change, kept=name in chosen, gain=gain(scores, name, chosen))


def _report(name: str, change: Change, *, kept: bool, gain: float | None) -> Report:
    detail = change.detail if kept else f"taken back, it did not help: {change.detail}"
    return Report(name, change.changed, kept, None if gain is None else round(gain, 2), detail)


def _last(steps: Generator[Any, None, Ranges]) -> Ranges:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: Ranges = end.value
            return found
