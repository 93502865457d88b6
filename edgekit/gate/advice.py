"""What to know although it breaks no limit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgekit.gate.case import Case
from edgekit.gate.choices import sentences
from edgekit.gate.latency import slowdown, stated_budget
from edgekit.gate.verdict import figure

if TYPE_CHECKING:
    from edgekit.gate.verdict import Choice
    from edgekit.memory import Memory
    from edgekit.predict import Prediction


_NARROW = frozenset({"ARM1176JZF-S", "Cortex-A5", "Cortex-A7", "Cortex-A8", "Cortex-A9", "Cortex-A15", "Cortex-A17"})
"""Cores that have no 64-bit mode (Arm, Technical Reference Manuals)."""


def advice(case: Case, memory: Memory | None, time: Prediction | None, others: tuple[Choice, ...]) -> Iterator[str]:
    profile = case.profile
    if case.installed is None:
        return
    if profile.os.use_python:
        yield (
            f"{profile.os.name} ships Python {profile.os.python}; EdgeKit and the engine need"
            f" {profile.os.use_python}, installed beside it"
        )
    if profile.os.userland_bits == 32 and profile.cpu.clusters[0].core not in _NARROW:
        yield (
            "a 64-bit system on this board has newer engines and XNNPACK: in published logs 1.02 to 1.16 times as fast"
            " in fp32, 1.25 to 1.35 times in int8 (github:NobuoTsukamoto/benchmarks)"
        )
    if case.installed.numpy and "<2" in case.installed.numpy:
        yield f"{case.installed.distribution} needs numpy {case.installed.numpy}: with numpy 2 it fails inside"
    if memory and memory.lower_bound:
        yield "some sizes are known only when it runs, and count too little: the memory estimate is a lower bound"
    if time:
        yield from time.notes
        yield from _budget(case, time)
    needs = case.manifest.needs if case.manifest else None
    if needs and (needs.engine, needs.engine_version) != (case.engine, case.installed.version):
        yield (
            f"verified with {needs.engine} {needs.engine_version}, there it is {case.engine} {case.installed.version}:"
            " run `edgekit verify` on the device once"
        )
    yield from _precision_advice(case)
    yield from sentences(case, time, others)
    if case.threads and case.threads > profile.cpu.cores:
        yield f"{case.threads} threads on {profile.cpu.cores} cores: more threads than cores only wait for each other"
    elif case.threads and case.threads > profile.cpu.clusters[0].count:
        first = profile.cpu.clusters[0]
        yield f"more than {first.count} threads use slower cores than the {first.core}, which then set the pace"


def _budget(case: Case, time: Prediction) -> Iterator[str]:
    budget, stated = case.profile.budget.latency_ms, stated_budget(case)
    ms, high = time.latency["estimate"], time.latency["high"]
    thermal = case.profile.thermal
    if stated is None and ms is not None and (slower := slowdown(case)) > 1:
        yield (
            f"from {thermal.throttle_c:g} C on the clock falls to {thermal.sustained_mhz} MHz, and a run takes about"
            f" {figure(slower * ms, 3)} ms"
        )
    if budget is None:
        return
    if stated is not None and thermal.throttle_c is not None and thermal.sustained_mhz is None:
        yield (
            f"from {thermal.throttle_c:g} C on the clock drops, how far is not known: the budget is checked for a cool"
            " board only"
        )
    if stated is not None and ms is None:
        yield f"the budget of {budget:g} ms is not checked: the time cannot be predicted"
    elif stated is not None and ms is not None and high is not None and ms <= budget < high:
        yield f"the budget of {budget:g} ms lies within the interval of the estimate: measure it on the board"
    elif stated is None and ms is not None and ms > budget:
        yield f"a run takes about {figure(ms, 3)} ms, longer than the {budget:g} ms that people take for at once"


def _precision_advice(case: Case) -> Iterator[str]:
    profile, precision, tflite = case.profile, case.precision, case.facts.format == "tflite"
    core = profile.cpu.clusters[0].core
    if precision == "int16x8":
        yield "int16 activations: " + (
            "TFLite runs them on reference kernels, several times slower than int8"
            if tflite
            else "onnxruntime has no such kernels and computes in float: the gain is size, not speed"
        )
    elif precision in ("int8", "dynamic") and not any(map(profile.has, ("dotprod", "i8mm", "avx_vnni"))):
        yield f"the {core} has no int8 dot products: " + (
            "expect at most 2.5 times the speed of float (MLPerf logs of Raspberry Pi 4), not four times"
            if tflite
            else "on onnxruntime int8 may be no faster than float; measure both, or convert to .tflite"
        )
    elif precision == "fp16":
        yield "fp16 halves the file only: the weights are expanded to 32-bit floats on loading" + (
            "" if profile.has("fp16") or profile.has("f16c") else f" (the {core} computes no half floats anyway)"
        )
