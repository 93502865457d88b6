"""Which precision, engine and number of threads would be faster there, by the latency predictor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from edgekit.device_profiles.software import ENGINES
from edgekit.formats.facts import Operand, OpFacts
from edgekit.gate.case import Case
from edgekit.gate.verdict import Choice, figure
from edgekit.gate.verdict import threads as counted
from edgekit.predict import Prediction, predict

if TYPE_CHECKING:
    from edgekit.formats.facts import ModelFacts

_WORTH = 1.15
"""Gains below this are within the predictor's own error between two settings of one board."""

_SWAPS = {"fp32": ("int8", {"float32": "int8"}), "int8": ("fp32", {"int8": "float32", "uint8": "float32"})}

_COMPARISONS = frozenset({"GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL"})
_PLACING = frozenset({"CAST", "ADD", "MUL", "SUB", "RESHAPE"})
"""Operators by which TFLite makes a place in a table of the answers of comparisons, level by level of a tree."""


def choices(case: Case, now: Prediction | None) -> tuple[Choice, ...]:
    """Settings of the same network on the same board, fastest first; empty when nothing is predicted."""
    ms = now.latency["estimate"] if now else None
    if now is None or not ms:
        return ()
    found = []
    for precision, facts in _variants(case):
        for engine in _engines(case):
            for threads in _threads(case, now):
                said = predict(facts, case.profile, engine=engine, threads=threads).latency["estimate"]
                if said:
                    found.append(Choice(precision, engine, threads, said, round(ms / said, 2)))
    return tuple(sorted(found, key=lambda choice: choice.latency_ms))


def sentences(case: Case, now: Prediction | None, found: tuple[Choice, ...]) -> Iterator[str]:
    """What the choices come to: one step at a time, and only what is worth it."""
    if now is None or not found or now.notes:
        return
    ms, best = now.latency["estimate"] or 0.0, found[0]
    mine = (case.precision if case.precision in _SWAPS else "", now.engine)
    threads = [c for c in found if c.engine == now.engine and c.precision == (mine[0] or c.precision)]
    other = [c for c in found if c.engine == now.engine and c.precision != case.precision and c.threads == now.threads]
    if threads and threads[0].gain >= _WORTH and threads[0].threads != now.threads:
        yield (
            f"{counted(threads[0].threads)}: about {figure(threads[0].latency_ms, 3)} ms in place of {figure(ms, 3)}"
            f" with {now.threads} ({threads[0].gain:.3g} times as fast)"
        )
    if other and other[0].precision == "int8":
        if other[0].gain >= _WORTH:
            yield (
                f"int8: about {figure(other[0].latency_ms, 3)} ms in place of {figure(ms, 3)}"
                f" ({other[0].gain:.3g} times as fast), and a quarter of the file"
            )
        elif other[0].gain != 1:  # a network without arithmetic has nothing to gain
            said = f"about {figure(other[0].latency_ms, 3)} ms in place of {figure(ms, 3)}"
            yield f"int8 would be no faster there ({said}): its gain is size"
    if other and other[0].precision == "fp32" and other[0].gain > 1 / _WORTH:
        word = "be faster" if other[0].gain >= _WORTH else "take about the same time"
        yield f"fp32 would {word} there ({figure(other[0].latency_ms, 3)} ms, int8 {figure(ms, 3)}): int8 saves memory"
    if best.gain >= _WORTH and (best.precision, best.engine, best.threads) != (case.precision, now.engine, now.threads):
        yield (
            f"fastest there: {best.precision}, {best.engine}, {counted(best.threads)}, about"
            f" {figure(best.latency_ms, 3)} ms ({best.gain:.3g} times as fast as now)"
        )


def _variants(case: Case) -> Iterator[tuple[str, ModelFacts]]:
    """The file, and its network in the other of the two usual precisions; of QDQ graphs of ONNX the file alone."""
    yield case.precision, case.facts
    fixed = case.facts.format == "onnx" and case.precision != "fp32"
    if case.precision in _SWAPS and not fixed and not _decides(case.facts.ops):
        precision, types = _SWAPS[case.precision]
        ops = tuple(_retyped(case.facts.ops, types))
        yield precision, replace(case.facts, ops=ops, precision=precision)


def _decides(ops: Sequence[OpFacts]) -> bool:
    """Whether there are trees, whose thresholds no integers stand for: `convert` refuses them in int8."""
    if any("TreeEnsemble" in op.kind for op in ops):
        return True
    places = {id(op.reads[1]) for op in ops if op.kind == "GATHER" and len(op.reads) > 1}
    for op in reversed(ops):
        if not places.isdisjoint(map(id, op.writes)):
            if op.kind in _COMPARISONS:
                return True
            if op.kind in _PLACING:
                places |= set(map(id, op.reads))
    return False


def _retyped(ops: Sequence[OpFacts], types: dict[str, str]) -> Iterator[OpFacts]:
    """The ops between tensors of the other types; a tensor that several ops meet stays one."""
    made: dict[int, Operand] = {}

    def other(operand: Operand | None) -> Operand | None:
        if operand is None or operand.dtype not in types:
            return operand
        if id(operand) not in made:
            made[id(operand)] = Operand(operand.shape, types[operand.dtype], operand.constant)
        return made[id(operand)]

    for op in ops:
        if op.kind not in ("QUANTIZE", "DEQUANTIZE"):
            yield OpFacts(
                op.kind, op.name, op.version, op.inputs, op.outputs, op.macs, types.get(op.dtype, op.dtype),
                tuple(map(other, op.reads)), tuple(map(other, op.writes)), op.window, op.groups, op.blends, op.visits,
            )  # fmt: skip


def _engines(case: Case) -> list[str]:
    return [
        name
        for name, engine in case.profile.engines.items()
        if engine.version and ENGINES[name] == case.facts.format and case.profile.os.running_python in engine.pythons
    ]


def _threads(case: Case, now: Prediction) -> list[int]:
    first = case.profile.cpu.clusters[0].count
    return sorted({now.threads, 1, 2, first, case.profile.cpu.cores} - {n for n in (2,) if case.profile.cpu.cores < n})
