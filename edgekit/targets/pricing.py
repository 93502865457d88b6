"""What the kernels of a machine cost: tiny networks are written here, run there, and their times become prices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit import artifact
from edgekit.child import Limits, Progress
from edgekit.device_profiles.schema import ENGINES, Profile
from edgekit.formats import read_facts
from edgekit.measure.micro import Group, Measured, MicroRequest, measure
from edgekit.micro import nets, onnx, tflite
from edgekit.predict.fitting import prices
from edgekit.predict.latency import cost_key
from edgekit.predict.parameters import parameters
from edgekit.predict.plan import kernels
from edgekit.predict.prices import price
from edgekit.predict.settings import cache_bytes, setting
from edgekit.predict.work import UNITS, total
from edgekit.targets.base import Target

SECONDS = 60.0
QUICK_SECONDS = 20.0
PRECISIONS = ("fp32", "int8")
_EACH = 4
"""Up to this many threads every number is measured; beyond it powers of two and all cores."""
_FEWEST = 10
"""With fewer networks than this that an engine could run, prices would be guesses."""
DIGITS = 4
_RECURRENT = {"fp32": (0.35, 2.5e-5), "int8": (1.7, 4.5e-4), "onnx": (0.2, 1.5e-5)}
"""Price of a step and of a MAC of recurrent ops, in multiples of a run's. TFLite's were measured on x86-64
(UNIDIRECTIONAL_SEQUENCE_LSTM, a net of 28 steps, floats and integers); onnxruntime's LSTM is taken to be like them."""


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
    tiny = nets.nets(quick=quick)
    seconds = QUICK_SECONDS if quick else SECONDS
    files = {(ENGINES[engine], p): _write(tiny, ENGINES[engine], p, folder) for engine in engines for p in PRECISIONS}
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
    counts = {key: [_counts(path, profile) for path in paths] for key, paths in files.items()}
    found = Priced({}, len(tiny), {})
    for (engine, precision, threads), seen in zip(asked, done.groups, strict=True):
        _fit(found, counts[ENGINES[engine], precision], seen, cost_key(engine, precision, threads),
             _prior(profile, engine, precision, threads, found))  # fmt: skip
    return found


def _opened_as(engine: str) -> str:
    return "litert" if engine == "tflite-runtime" else engine


def _write(tiny: Sequence[nets.Net], format: str, precision: str, folder: Path) -> list[Path]:
    made = []
    for net in tiny:
        path = folder / f"{net.name}-{precision}.{format}"
        path.write_bytes((tflite if format == "tflite" else onnx).model(net, precision))
        made.append(path)
    return made


def _counts(path: Path, profile: Profile) -> dict[str, float]:
    return total(kernels(read_facts(artifact.read(path))).kernels, cache_bytes(profile))


def _prior(profile: Profile, engine: str, precision: str, threads: int, found: Priced) -> Mapping[str, float]:
    """What a unit costs by the fewest threads that were fitted, else by published figures."""
    fitted = found.costs.get(cost_key(engine, precision, 1), {})
    known = parameters()
    at = setting(profile, engine, precision, threads, known)
    return {unit: fitted.get(unit) or price(unit, at, known.factors) for unit in UNITS}


def _recurrent(costs: dict[str, float], key: str) -> None:
    """No network here is recurrent: the steps' prices follow those of plain code, which a bare run is made of."""
    step, mac = _RECURRENT[key.split("-")[-2] if key.startswith(("litert", "tflite")) else "onnx"]
    costs["step"], costs["recurrent"] = _short(step * costs["run"]), _short(mac * costs["run"])


def _fit(
    found: Priced, counts: Sequence[Mapping[str, float]], seen: Measured, key: str, prior: Mapping[str, float]
) -> None:
    pairs = [(count, ns) for count, ns in zip(counts, seen.ns, strict=True) if ns]
    if len(pairs) < _FEWEST:
        return
    fitted = prices([count for count, _ in pairs], [ns for _, ns in pairs], prior)
    off = sorted(abs(sum(fitted[u] * n for u, n in count.items() if u in fitted) / ns - 1) for count, ns in pairs)
    found.costs[key] = {unit: _short(value) for unit, value in {**prior, **fitted}.items()}
    _recurrent(found.costs[key], key)
    found.error[key] = round(off[len(off) // 2], 3)


def _short(value: float) -> float:
    return round(value, DIGITS - 1 - math.floor(math.log10(value))) if value > 0 else 0.0
