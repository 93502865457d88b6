"""How long a model would take on a board: `predict(facts, profile, engine, threads)`."""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict

from edgekit.predict.likeness import distance, factor
from edgekit.predict.parameters import Parameters, Spread, parameters
from edgekit.predict.plan import Plan, kernels
from edgekit.predict.prices import GROUPS, price
from edgekit.predict.settings import cache_bytes, default_threads, library, near_bytes, setting
from edgekit.predict.work import STORED, UNITS, Chip, Kernel, counted, held, merged, shared

if TYPE_CHECKING:
    from edgekit.device_profiles.schema import Profile
    from edgekit.formats.facts import ModelFacts


class Latency(TypedDict):
    """Predicted milliseconds a sample, the interval that holds 80 %, and what it rests on; None when not known."""

    estimate: float | None
    low: float | None
    high: float | None
    basis: str


@dataclass(frozen=True)
class OpTime:
    """One kernel's part.

    Attributes:
        name: The op's.
        kind: With what is fused into it: "Conv+Relu".
        precision: What it computes in.
        ms: Predicted.
        share: Of the whole run.
        limit: What most of its time goes into: "arithmetic", "memory", "overhead".
        macs: Multiply-accumulates.
        bytes: Read and written.
    """

    name: str
    kind: str
    precision: str
    ms: float
    share: float
    limit: str
    macs: float
    bytes: float


@dataclass(frozen=True)
class Prediction:
    """What a run would take.

    Attributes:
        latency: The contract's figures.
        engine: Which one.
        threads: How many.
        basis: "probe", "board", "core", "analogy", "engine" or "none".
        notes: What the figure leaves out.
    """

    latency: Latency
    engine: str
    threads: int
    basis: str
    notes: tuple[str, ...] = ()
    _apart: Callable[[], tuple[OpTime, ...]] = field(default=tuple, repr=False, compare=False)

    @functools.cached_property
    def ops(self) -> tuple[OpTime, ...]:
        """Every kernel in order; worked out when somebody asks, which few do of the many settings that are compared."""
        return self._apart()

    def slowest(self, count: int = 10) -> tuple[OpTime, ...]:
        """The kernels that take longest."""
        return tuple(sorted(self.ops, key=lambda op: -op.ms)[:count])


_LIMITS = {
    "gemm": "arithmetic", "conv": "arithmetic", "depthwise": "arithmetic", "recurrent": "arithmetic",
    "taps": "arithmetic", "idle": "arithmetic", "passes": "arithmetic", "places": "arithmetic", "norm": "arithmetic",
    "swish": "arithmetic", "math": "arithmetic", "scaled": "arithmetic", "soft": "arithmetic", "matrix": "arithmetic",
    "spread": "arithmetic", "grouped": "arithmetic", "blend": "arithmetic",
    "window": "arithmetic", "pick": "arithmetic", "average": "arithmetic", "select": "arithmetic",
    "reduce": "arithmetic",
    "convert": "arithmetic", "gemv": "memory", "outputs": "memory", "traffic": "memory", "far": "memory",
    "rows": "memory", "map": "memory", "move": "memory", "stride": "memory", "shuffle": "memory",
    "pad": "memory", "strips": "memory", "mid": "memory", "turn": "memory", "plane": "memory", "block": "memory",
    "apart": "arithmetic",
    "launch": "overhead", "batch": "overhead", "builtin": "overhead", "kernel": "overhead", "cold": "overhead",
    "state": "memory", "asking": "overhead", "fed": "memory",
    "run": "overhead",
    "step": "overhead",
}  # fmt: skip
_SLOW_INT16 = 30.0
"""TFLite runs int16 activations on reference kernels: 31 times as long as int8 on MobileNetV1 0.25 and 57 times on
ResNet8, on x86-64 with VNNI (LiteRT 2.3, one thread). Boards without int8 dot products have less to lose."""

_PROBED = "measured on {}: prices fitted to tiny networks by `devices probe`"
_UNPUBLISHED = frozenset({"batch", "blend", "grouped", "matrix", "recurrent", "scaled", "soft", "spread", "step"})
"""Units that none of the networks with published figures has, or hardly any of."""
_STRANGE = 0.1
"""Share of the time in such units that makes a network one of a new kind, with the interval of a new processor."""
_ENOUGH = 10
"""With fewer figures than this a processor is as good as unknown."""
_RECENT: deque[tuple[ModelFacts, Chip, _Work]] = deque(maxlen=4)
LIKE = {"fp32": "fp32", "int8": "int8", "uint8": "int8", "dynamic": "int8", "int16x8": "int8", "fp16": "fp32"}
"""Arithmetic -> whose prices it pays."""


def cost_key(engine: str, precision: str, threads: int) -> str:
    """Name of a table of prices in a probed profile: "litert-int8-2"."""
    return f"{engine}-{precision}-{threads}"


def predict(
    facts: ModelFacts, profile: Profile, *, engine: str | None = None, threads: int | None = None
) -> Prediction:
    """Predict the time of one run, free sizes counted as 1.

    Args:
        facts: What the file holds.
        profile: The board.
        engine: "litert", "tflite-runtime" or "onnxruntime"; None for the first that the board has for the format.
        threads: None for the engine's own choice.
    """
    chosen = engine or _engine(facts.format, profile)
    if chosen is None:
        nothing = f"{profile.name} has no engine for .{facts.format} files"
        return Prediction(Latency(estimate=None, low=None, high=None, basis=nothing), "", threads or 1, "none")
    count = min(threads or default_threads(chosen, profile), profile.cpu.cores)
    work = _work(facts, chip(profile, facts.format))
    plan, known = work.plan, parameters()
    cost = _Costs(profile, chosen, count, known)
    share = work.away(cost.near)
    times = [cost.of(entry, share) for entry in work.merged(profile)]
    total = cost.run + sum(sum(parts.values()) for parts in times)
    measured = _own_key(profile, chosen, work.precision, count)
    level, said = ("probe", _probed(profile, measured)) if measured else _basis(profile, chosen, known)
    spread = _spread(known, level, work.precision, profile)
    if level == "board":
        spread = spread.grown(_unlike(times, total, known, work.precision))
    strange = sum(ns for parts in times for unit, ns in parts.items() if unit in _UNPUBLISHED) / total
    if level == "board" and strange >= _STRANGE:
        level, said = "core", f"extrapolated: {strange:.0%} in kernels that no published figure has; the rest {said}"
        spread = known.spread[level][work.precision]
    notes = _notes(facts, plan)
    said = f"lower bound; {said}" if notes else said
    ms = total / 1e6
    latency = Latency(estimate=_round(ms), low=_round(ms * spread.low), high=_round(ms * spread.high), basis=said)
    return Prediction(
        latency, chosen, count, level, notes,
        lambda: tuple(_op(entry, cost.of(entry, share), total) for entry in plan.kernels),
    )  # fmt: skip


def _unlike(times: Sequence[Mapping[str, float]], total: float, known: Parameters, precision: str) -> float:
    """By how much an interval grows because the network is unlike those with published figures."""
    shares: dict[str, float] = {}
    for parts in times:
        for unit, ns in parts.items():
            shares[unit] = shares.get(unit, 0.0) + ns / total
    shares["run"] = max(0.0, 1.0 - sum(shares.values()))
    return factor(distance(shares, known.mixes[precision].values()), known.widening[precision])


class _Work:
    """What a model's kernels come to, worked out once for all settings that it is asked about."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.precision = _main_precision(plan)
        self._held = held(plan.kernels)
        self._merged: dict[tuple[float, float, int], tuple[Kernel, ...]] = {}

    def away(self, near: float) -> float:
        """As `edgekit.predict.work.away`."""
        return max(0.0, 1.0 - near / self._held) if self._held else 0.0

    def merged(self, profile: Profile) -> tuple[Kernel, ...]:
        """Few kernels that cost the same there."""
        key = cache_bytes(profile), near_bytes(profile), profile.cpu.cores
        if key not in self._merged:
            self._merged[key] = merged(self.plan.kernels, *key)
        return self._merged[key]


def chip(profile: Profile, format: str) -> Chip:
    """What decides there on the kernels of a format's engine."""
    if format == "onnx":
        return Chip(signed=profile.os.machine != "x86_64")
    return Chip(wide=profile.has("avx512"))


def _work(facts: ModelFacts, made_for: Chip) -> _Work:
    """Of the last few models, because one is asked about for many boards and settings."""
    for seen, planned, work in tuple(_RECENT):
        if seen is facts and planned == made_for:
            return work
    work = _Work(kernels(facts, made_for))
    _RECENT.append((facts, made_for, work))
    return work


class _Costs:
    """Prices on one board, worked out once for each unit, arithmetic and number of threads."""

    def __init__(self, profile: Profile, engine: str, threads: int, known: Parameters) -> None:
        self._known, self._threads = known, threads
        self._at = functools.cache(lambda precision: setting(profile, engine, precision, threads, known))
        self._shipped = functools.cache(lambda unit, precision: price(unit, self._at(precision), known.factors))
        self._slow = _SLOW_INT16 if engine != "onnxruntime" else 1.0
        self._cache, self._near = cache_bytes(profile), near_bytes(profile)
        dots = any(map(profile.has, ("dotprod", "i8mm", "avx_vnni", "avx512")))
        self._undotted = dots and library(engine, profile) == "xnnpack"
        self._own = functools.cache(lambda precision, count: _own(profile, engine, precision, count))

    def _price(self, unit: str, precision: str, threads: int) -> float:
        own = self._own(precision, threads)
        if own is not None and unit == "state":  # profiles that were probed before it counted lack it
            return own.get(unit, 0.0)
        return own[unit] if own is not None and unit in own else self._shipped(unit, precision)

    @property
    def probed(self) -> bool:
        """Whether prices were measured on this machine."""
        return self._own("fp32", self._threads) is not None

    @property
    def run(self) -> float:
        """Nanoseconds of a run without kernels."""
        return self._price("run", "fp32", self._threads)

    @property
    def near(self) -> float:
        """Bytes as near as it gets, where it was measured what is farther."""
        return self._near if self.probed else math.inf

    def of(self, kernel: Kernel, share: float) -> dict[str, float]:
        """Nanoseconds by unit; `share` as `edgekit.predict.work.away` says."""
        like = LIKE[kernel.precision]
        # XNNPACK has no dot-product kernels for unsigned integers: they are multiplied about as fast as floats.
        dense = "fp32" if kernel.precision == "uint8" and self._undotted else like
        slow = self._slow if kernel.precision == "int16x8" else 1.0
        threads = min(self._threads, kernel.pieces)
        found: dict[str, float] = {}
        near = self._near if self._own(like, threads) else math.inf
        for unit, count in kernel.units.items():
            if amount := counted(unit, count, kernel.bytes, self._cache, near, share):
                unit = "mid" if unit == STORED else unit  # noqa: PLW2901 - priced as such
                ns = amount * self._price(unit, dense if GROUPS[unit] == "dense" else like, threads) * slow
                found[unit] = found.get(unit, 0.0) + ns
        own = self._own(like, threads) if threads > 1 else None
        return found | {unit: own.get(unit, 0.0) * count for unit, count in shared(kernel).items()} if own else found


def _own(profile: Profile, engine: str, precision: str, threads: int) -> Mapping[str, float] | None:
    """Prices that were measured on this machine."""
    key = _own_key(profile, engine, precision, threads)
    return None if key is None else profile.costs[key]


def _own_key(profile: Profile, engine: str, precision: str, threads: int) -> str | None:
    """Of the prices for as many threads, else for the next fewer that were tried."""
    keys = (cost_key(engine, precision, count) for count in range(threads, 0, -1))
    return next((key for key in keys if key in profile.costs), None)


def _probed(profile: Profile, key: str) -> str:
    """Which machine it was: the probe writes "measured on ssh://pi@kitchen on 2026-01-31"."""
    head, _, rest = profile.source(f"costs.{key}").partition(" on ")
    return _PROBED.format(rest.partition(" on ")[0] if head == "measured" and rest else "this machine")


def _op(kernel: Kernel, parts: Mapping[str, float], total: float) -> OpTime:
    taken = sum(parts.values())
    sums: dict[str, float] = {}
    for unit, ns in parts.items():
        sums[_LIMITS[unit]] = sums.get(_LIMITS[unit], 0.0) + ns
    limit = max(sums, key=lambda name: sums[name]) if sums else "overhead"
    return OpTime(
        kernel.name, kernel.kind, kernel.precision, taken / 1e6, taken / total, limit, kernel.macs, kernel.bytes
    )


def _engine(format: str, profile: Profile) -> str | None:
    from edgekit.device_profiles.software import ENGINES

    usable = (
        n for n, runs in ENGINES.items() if runs == format and n in profile.engines and profile.engines[n].version
    )
    return next(usable, None)


def _main_precision(plan: Plan) -> str:
    """What most of the multiplying is done in."""
    macs: dict[str, float] = {}
    for kernel in plan.kernels:
        macs[LIKE[kernel.precision]] = macs.get(LIKE[kernel.precision], 0.0) + kernel.macs
    return max(macs, key=lambda name: macs[name]) if macs else "fp32"


def _basis(profile: Profile, engine: str, known: Parameters) -> tuple[str, str]:
    soc = known.aliases.get(profile.cpu.soc, profile.cpu.soc)
    core = profile.cpu.clusters[0].core
    board = known.boards.get(soc)
    others = sorted((b.figures, name) for name, b in known.boards.items() if b.core == core)
    if board is not None and board.figures >= _ENOUGH:
        level, said = "board", f"fitted from {board.figures} published figures of this processor ({soc})"
    elif others:
        count = sum(figures for figures, _ in others)
        level = "core"
        said = f"extrapolated by analogy: {count} published figures of the same core ({core}) on {others[-1][1]}"
        said += " and others" if len(others) > 1 else ""
    else:
        level = "analogy"
        said = f"extrapolated by analogy with similar cores: no published figures of a {core}"
    if engine == "onnxruntime":
        return "engine", (
            "extrapolated: there are no usable published figures of onnxruntime on such boards; its kernels' ratio to"
            f" TFLite's as measured on x86-64, {said}"
        )
    return level, said


def _spread(known: Parameters, level: str, precision: str, profile: Profile) -> Spread:
    own = known.boards.get(known.aliases.get(profile.cpu.soc, profile.cpu.soc)) if level == "board" else None
    return (own.spread(precision) if own else None) or known.spread[level][precision]


def _notes(facts: ModelFacts, plan: Plan) -> tuple[str, ...]:
    notes = []
    if facts.unsized:
        some = ", ".join(facts.unsized[:3])
        notes.append(f"free sizes of the inputs are counted as 1, so that the time is a lower bound: {some}")
    if facts.macs is None or plan.unknown:
        some = ", ".join(plan.unknown[:3])
        notes.append(
            "the work of some ops is not known, so that the time is a lower bound" + (f": {some}" if some else "")
        )
    return tuple(notes)


def _round(ms: float) -> float:
    """Four figures: more would be made up."""
    return round(ms, 3 - math.floor(math.log10(ms))) if ms > 0 else 0.0


__all__ = ["UNITS", "Latency", "OpTime", "Prediction", "predict"]
