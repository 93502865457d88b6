"""What a unit of work costs on a machine: a product of known facts and of fitted factors.

    price(unit) = fact(unit) * exp(sum of factors)      nanoseconds

The fact is what physics says: a multiply-add takes 1 / (lanes * clock), a byte from main memory 1 / memcpy. The
factors are what was fitted (`benchmarks/fit_latency.py`): one for every unit and kind of arithmetic, one for every
kernel library, and small departures of a core type and of a board, which are missing (zero) for cores and boards
without figures. Because the logarithm of a price is linear in the factors, the same terms serve the fit and the
prediction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

GROUPS = {
    "gemm": "dense", "conv": "dense", "taps": "dense", "idle": "dense", "passes": "dense", "rows": "dense",
    "gemv": "dense", "matrix": "dense", "spread": "dense", "grouped": "dense", "recurrent": "dense",
    "depthwise": "depthwise", "places": "depthwise",
    "outputs": "local", "traffic": "local", "map": "local", "move": "local", "reduce": "local", "window": "local",
    "pick": "local",
    "average": "local", "stride": "local", "shuffle": "local", "pad": "local", "strips": "local", "mid": "local",
    "turn": "local", "plane": "local", "block": "local", "apart": "local", "convert": "local",
    "math": "local", "norm": "local", "swish": "local", "scaled": "local", "soft": "local", "blend": "local",
    "far": "far", "launch": "fixed", "batch": "fixed", "builtin": "fixed", "kernel": "fixed", "cold": "fixed",
    "state": "local", "asking": "fixed", "fed": "local",
    "run": "fixed",
    "step": "fixed",
    "select": "fixed",
}  # fmt: skip
"""Unit -> the group that shares the departures of a core and of a board."""

RECURRENT = frozenset({"recurrent", "step"})
SERIAL = frozenset({"run", "step", "select"})
"""Units that one thread works off, however many there are."""

Terms = tuple[float, tuple[tuple[str, float], ...]]
"""Logarithm of the fact, and (name of a factor, how often it counts)."""


@dataclass(frozen=True)
class Core:
    """What is known of a core type.

    Attributes:
        macs: fp32 multiply-adds a cycle: half of the measured peak FLOP/s over the clock.
        ordered: It executes in order.
        dots: int8 multiply-adds by dot products, in multiples of the fp32 ones; 0 without such instructions.
    """

    macs: float
    ordered: bool
    dots: float = 0.0


@dataclass(frozen=True)
class Setting:
    """Where and how a model runs.

    Attributes:
        board: Name of the board's family, whose departures count: "raspberry-pi-4b".
        core: Of the fastest cores.
        kind: What is known of that core.
        ghz: Its clock.
        threads: How many.
        ideal: What the threads could do together, in multiples of the fastest core's work.
        slowest: The same if all had to wait for the slowest core that is in use.
        mixed: Threads run on cores of several kinds.
        memcpy: Main memory, one thread, GB/s.
        cache: Bytes of the last cache level.
        precision: "fp32", "int8".
        library: "xnnpack", "ruy", "mlas", "reference".
        release: Of the engine, where figures differ by it.
        bits: Word size of the userland.
    """

    board: str
    core: str
    kind: Core
    ghz: float
    threads: int
    ideal: float
    slowest: float
    mixed: bool
    memcpy: float
    cache: float
    precision: str
    library: str
    release: str
    bits: int


def terms(unit: str, at: Setting) -> Terms:
    """Of one unit in one setting."""
    group = GROUPS[unit]
    dots = at.kind.dots if at.precision == "int8" else 0.0
    arithmetic = "int8-dots" if dots else at.precision
    names: list[tuple[str, float]] = [(f"unit.{unit}", 1.0)]
    if group in ("dense", "depthwise"):
        fact = -math.log(at.ghz * at.kind.macs * (dots if dots and group == "dense" else 1.0))
        names.append((f"arithmetic.{group}.{arithmetic}", 1.0))
        names.append((f"library.{group}.{at.precision}.{at.library}", 1.0))
    elif group == "local":
        fact = -math.log(at.ghz)
        names.append((f"arithmetic.local.{at.precision}", 1.0))
        names.append((f"library.local.{at.precision}.{at.library}", 1.0))
    elif group == "far":
        fact = -math.log(at.memcpy)
    else:
        fact = -math.log(at.ghz)
        names.append((f"library.fixed.{at.library}", 1.0))
    if group != "far":
        names.append((f"order.{group}.{'in' if at.kind.ordered else 'out'}", 1.0))
        names.append((f"core.{group}.{at.core}", 1.0))
        if group != "fixed":
            names.append((f"core.{group}.{at.precision}.{at.core}", 1.0))
        if at.bits == 32:
            names.append((f"bits32.{group}.{at.precision}", 1.0))
    if unit in RECURRENT:  # their kernels are not those of the library's products
        names.append((f"recurrent.{unit}.{at.precision}.{at.library}", 1.0))
    names.append((f"board.{group}.{at.board}", 1.0))
    names.append((f"board.all.{at.board}", 1.0))
    names.append((f"board.all.{at.precision}.{at.board}", 1.0))
    names.append((f"release.{at.precision}.{at.library}.{at.release}", 1.0))
    names.append((f"release.{at.precision}.{at.library}.{at.release}.{at.board}", 1.0))
    if group == "dense" and at.precision == "fp32":
        # How much arithmetic stands against a byte of memory: 10 multiply-adds on the middle board.
        names.append(("balance.dense", math.log(at.ghz * at.kind.macs * at.ideal / at.memcpy / 10)))
    if at.threads > 1 and unit not in SERIAL:
        spread = math.log(at.ideal)
        kind = "fixed" if group == "fixed" else group
        names.append((f"threads.{kind}.{at.precision}", -spread))
        names.append((f"threads.{kind}.{at.library}", -spread))
        names.append((f"threads.board.{at.board}", -spread if group != "fixed" else 0.0))
        if at.mixed:
            names.append((f"mixed.{group}", 1.0))
            names.append((f"mixed.{group}.{at.precision}", 1.0))
        names.append((f"waiting.{at.library}", spread - math.log(at.slowest) if group != "fixed" else 0.0))
    return fact, tuple(names)


def price(unit: str, at: Setting, factors: Mapping[str, float]) -> float:
    """Nanoseconds a unit."""
    fact, names = terms(unit, at)
    return math.exp(fact + sum(count * factors.get(name, 0.0) for name, count in names))
