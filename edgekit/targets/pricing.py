"""What the kernels of a machine cost: tiny networks are written here, run there, and their times become prices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import artifact
from edgekit.child import Limits, Progress
from edgekit.device_profiles.schema import Profile
from edgekit.device_profiles.software import ENGINES
from edgekit.formats import read_facts
from edgekit.measure.micro import Group, MicroRequest, measure
from edgekit.micro import nets, onnx, tflite
from edgekit.predict.fitting import prices
from edgekit.predict.latency import LIKE, chip, cost_key
from edgekit.predict.parameters import parameters
from edgekit.predict.plan import kernels
from edgekit.predict.prices import price
from edgekit.predict.settings import cache_bytes, near_bytes, setting
from edgekit.predict.work import SHARED_ONLY, UNITS, away, shared, total
from edgekit.targets.base import Target

if TYPE_CHECKING:
    from edgekit.formats.facts import ModelFacts
    from edgekit.predict.work import Kernel

SECONDS = 60.0
QUICK_SECONDS = 20.0
PRECISIONS = ("fp32", "int8")
_EACH = 4
"""Up to this many threads every number is measured; beyond it powers of two and all cores."""
_FEWEST = 10
"""With fewer networks than this that an engine could run, prices would be guesses."""
DIGITS = 4
WRITERS: dict[str, Any] = {"tflite": tflite, "onnx": onnx}


@dataclass(frozen=True)
class Priced:
    """Prices by engine, arithmetic and threads (`cost_key`), and how well they give the times they came from.

    Attributes:
        costs: Key -> unit -> nanoseconds.
        networks: How many were measured for each.
        error: Key -> median relative error of the fit.
    """

    costs: dict[str, dict[str, float]]
    networks: int
    error: dict[str, float]


def thread_counts(cores: int) -> list[int]:
    """How many threads are tried on a machine."""
    counts = set(range(1, min(cores, _EACH) + 1)) | {cores}
    step = _EACH
    while step < cores:
        counts.add(step)
        step *= 2
    return sorted(counts)


def measure_prices(
    place: Target, folder: Path, profile: Profile, engines: Sequence[str], *, quick: bool = False,
    progress: Progress | None = None,
) -> Priced:  # fmt: skip
    """Run the networks there and fit.

    Args:
        place: Where.
        folder: Ours to write to.
        profile: What is known of the machine so far.
        engines: Those that run there: "litert", "tflite-runtime", "onnxruntime".
        quick: A third of the time, half of the networks.
        progress: Told what goes on.
    """
    tiny = {format: tuple(net for net in nets.nets(quick=quick) if WRITERS[format].writes(net)) for format in WRITERS}
    seconds = QUICK_SECONDS if quick else SECONDS
    files = {(ENGINES[e], p): _write(tiny[ENGINES[e]], ENGINES[e], p, folder) for e in engines for p in PRECISIONS}
    there = {key: tuple(place.put(path) for path in paths) for key, paths in files.items()}
    asked = [
        (engine, precision, threads)
        for engine in engines
        for precision in PRECISIONS
        for threads in thread_counts(profile.cpu.cores)
    ]
    # The runtime knows one engine for the format: "litert" stands for tflite-runtime, where that is installed.
    groups = tuple(Group(_opened_as(e), t, there[ENGINES[e], p]) for e, p, t in asked)
    limits = Limits(seconds=300 + 4 * seconds)
    done = place.perform(measure, MicroRequest(groups, seconds), limits=limits, progress=progress)
    counts = {key: [counted(read_facts(artifact.read(p)), profile) for p in paths] for key, paths in files.items()}
    found = Priced({}, max(map(len, files.values())), {})
    seen = {key: group.ns for key, group in zip(asked, done.groups, strict=True)}
    for engine, precision, threads in asked:
        some = [(c, seen[engine, p, threads]) for p in PRECISIONS if (c := counts[ENGINES[engine], p])]
        every = [(count, ns) for group, times in some for count, ns in zip(group, times, strict=True)]
        fit(found, profile, engine, precision, threads, *zip(*every, strict=True))
    return found


def _opened_as(engine: str) -> str:
    return "litert" if engine == "tflite-runtime" else engine


def _write(tiny: Sequence[nets.Net], format: str, precision: str, folder: Path) -> list[Path]:
    made = []
    for net in tiny:
        path = folder / f"{net.name}-{precision}.{format}"
        path.write_bytes(WRITERS[format].model(net, precision))
        made.append(path)
    return made


Counted = Mapping[tuple[str, int], Mapping[str, float]]
"""Units of a network's run, by whose prices they pay (those of floats, those of integers), and by pieces, how many
threads can share their kernels."""


def counted(facts: ModelFacts, profile: Profile) -> Counted:
    """Of one file."""
    groups: dict[tuple[str, int], list[Kernel]] = {("fp32", profile.cpu.cores): []}
    whole, near = kernels(facts, chip(profile, facts.format)).kernels, near_bytes(profile)
    for kernel in whole:
        groups.setdefault((LIKE[kernel.precision], min(kernel.pieces, profile.cpu.cores)), []).append(kernel)
    share = away(whole, near)
    found = {key: total(some, cache_bytes(profile), near, share) | _of_several(some) for key, some in groups.items()}
    return {
        key: units if key == ("fp32", profile.cpu.cores) else {u: n for u, n in units.items() if u != "run"}
        for key, units in found.items()
    }


def _of_several(some: Sequence[Kernel]) -> dict[str, float]:
    """Counts of what only several threads pay."""
    found: dict[str, float] = {}
    for units in map(shared, some):
        for unit, count in units.items():
            found[unit] = found.get(unit, 0.0) + count
    return found


def _prior(profile: Profile, engine: str, precision: str, threads: int, found: Priced) -> Mapping[str, float]:
    """What a unit costs by the fewest threads that were fitted, else by published figures."""
    fitted = found.costs.get(cost_key(engine, precision, 1), {})
    known = parameters()
    at = setting(profile, engine, precision, threads, known)
    floats = found.costs.get(cost_key(engine, "fp32", threads), {}) if precision != "fp32" else {}
    fitted = {**{unit: floats[unit] for unit in _SHARED if unit in floats}, **fitted}
    start = {unit: fitted.get(unit) or price(unit, at, known.factors) for unit in UNITS}
    # A unit without published figures starts where its like stands.
    return {
        unit: ns if f"unit.{unit}" in known.factors or unit in fitted else start[_LIKE.get(unit, "kernel")]
        for unit, ns in start.items()
    }


_LIKE = {
    "apart": "outputs", "asking": "launch", "average": "window", "batch": "launch", "blend": "math", "block": "move",
    "fed": "far", "grouped": "gemv", "matrix": "gemm", "mid": "far", "pick": "window", "plane": "pad",
    "scaled": "math", "soft": "norm", "spread": "conv", "state": "far", "strips": "pad",
}  # fmt: skip
"""Unit -> one that it resembles."""


_SHARED = {"builtin": 0.3, "cold": 0.5, "kernel": 0.5}
"""Units whose price has little to do with arithmetic: it starts at the floats' one, and may depart so far from it."""


def fit(
    found: Priced, profile: Profile, engine: str, precision: str, threads: int, counts: Sequence[Counted],
    ns: Sequence[float | None],
) -> None:  # fmt: skip
    """Add the prices of one engine, arithmetic and number of threads; floats come before integers, fewer threads before
    more. A network that mixes arithmetics tells the price of the last of them that it has.
    """
    prior = _prior(profile, engine, precision, threads, found)
    rows = [
        (*_parts(each, found, engine, precision, threads), taken)
        for each, taken in zip(counts, ns, strict=True)
        if taken and _last(each) == precision
    ]
    if len(rows) < _FEWEST:
        return
    some, fixed, times = zip(*rows, strict=True)
    fitted = prices(some, times, prior, fixed=fixed, widths=_SHARED if precision != "fp32" else None)
    off = sorted(abs((sum(fitted[u] * n for u, n in count.items() if u in fitted) + rest) / taken - 1)
                 for count, rest, taken in rows)  # fmt: skip
    key = cost_key(engine, precision, threads)
    floats = found.costs.get(cost_key(engine, "fp32", threads), {})
    shared = {"run": floats["run"]} if precision == "int8" and floats else {}  # a run pays the floats' price
    found.costs[key] = {unit: _short(value) for unit, value in {**prior, **fitted, **shared}.items()}
    found.error[key] = round(off[len(off) // 2], 3)


def _last(counts: Counted) -> str:
    """The arithmetic in the order of fits; every run has one of floats, if without kernels."""
    worked = {like for (like, _), units in counts.items() if units.keys() - {"run"}}
    return PRECISIONS[max(map(PRECISIONS.index, worked or {"fp32"}))]


def _parts(counts: Counted, found: Priced, engine: str, precision: str, threads: int) -> tuple[dict[str, float], float]:
    """What the prices that are sought pay for, and nanoseconds of the rest, whose prices are known already."""
    own: dict[str, float] = {}
    known = 0.0
    for (like, pieces), units in counts.items():
        if like == precision and pieces >= threads:
            for unit, count in units.items():
                if threads > 1 or unit not in SHARED_ONLY:
                    own[unit] = own.get(unit, 0.0) + count
            continue
        costs = _known(found, engine, like, min(pieces, threads))
        several = min(pieces, threads) > 1
        known += sum(costs.get(unit, 0.0) * n for unit, n in units.items() if several or unit not in SHARED_ONLY)
    return own, known


def _known(found: Priced, engine: str, like: str, threads: int) -> Mapping[str, float]:
    for count in range(threads, 0, -1):
        if (costs := found.costs.get(cost_key(engine, like, count))) is not None:
            return costs
    return {}


def _short(value: float) -> float:
    return round(value, DIGITS - 1 - math.floor(math.log10(value))) if value > 0 else 0.0
