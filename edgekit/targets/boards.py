"""A live machine becomes a device profile, beside the shipped one of its board."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from edgekit import __version__, files
from edgekit.child import Limits, Progress
from edgekit.device_profiles import Profile, all_profiles
from edgekit.device_profiles.reading import Definition, parse, resolve
from edgekit.device_profiles.software import ENGINES
from edgekit.device_profiles.writing import toml
from edgekit.doctor import Finding, try_engines
from edgekit.errors import TargetError, UsageError
from edgekit.targets import open_target
from edgekit.targets import probe as probing
from edgekit.targets.pricing import Priced, measure_prices
from edgekit.targets.probe import Probed
from edgekit.targets.suspect import Scene, suspect

SOLD_MIB = (256, 512, 1024, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 65536, 131072)
"""Memory as it is sold: the kernel and the GPU keep some of it."""

_NOT_THERE = "it is not installed on the machine that was probed"


@dataclass(frozen=True)
class Board:
    """What a probe found.

    Attributes:
        profile: TOML text, for `--device FILE`.
        probed: What the machine told.
        engines: What each engine did there.
        known: The shipped profile of this board; None when it is not known.
        differences: Where the machine differs from that profile, in words.
        fit_error: Engine, arithmetic and threads -> median relative error with which the fitted prices give the
            measured times back; empty when nothing was measured.
    """

    profile: str
    target: str
    probed: Probed
    engines: tuple[Finding, ...]
    known: str | None
    differences: tuple[str, ...]
    fit_error: dict[str, float] = field(default_factory=dict)


def probe(
    target: str = "local", *, measure: bool = True, quick: bool = False, progress: Progress | None = None
) -> Board:
    """Look at a machine, try its engines, and write its profile.

    Args:
        target: Where.
        measure: Also the speeds of memory and storage, and what the kernels of the engines cost.
        quick: Spend a third of the time on the kernels.
        progress: Told what goes on.

    Raises:
        UsageError: `probe-emulated`.
        TargetError: It cannot be reached; `probe-incomplete`: it does not tell what a profile must state.
    """
    with files.scratch() as folder, open_target(target, progress) as place:
        if not place.timed:
            raise UsageError("probe-emulated", f"{place.name} has the memory and the storage of this machine")
        request = probing.ProbeRequest(measure)
        probed = place.perform(probing.probe, request, limits=Limits(seconds=120), progress=progress)
        engines = try_engines(place, folder, progress)
        found: dict[str, tuple[str, str]] = {}
        for engine in engines:
            scene = Scene(f"model.{'onnx' if engine.name == 'onnxruntime' else 'tflite'}", engine.name)
            named = place.perform(suspect, scene) if engine.status == "ok" else None
            if named is not None:
                found[engine.name] = (named.distribution, named.version)
        name = place.name
        text, error = describe(probed, found, name), {}
        if measure and found:
            profile = resolve(parse(f"{name}.toml", text), _no_parent)
            usable = [_named(engine, distribution) for engine, (distribution, _) in found.items()]
            priced = measure_prices(place, folder, profile, usable, quick=quick, progress=progress)
            text, error = describe(probed, found, name, priced), priced.error
    known = recognize(probed)
    told = differences(probed, found, known)
    return Board(text, name, probed, tuple(engines), known.name if known else None, told, error)


def _no_parent(name: str, child: Definition) -> Definition:
    raise UsageError("profile-parent", f"{child.name} inherits from {name!r}: a probed profile has no parent")


def describe(probed: Probed, engines: dict[str, tuple[str, str]], target: str, priced: Priced | None = None) -> str:
    """The profile's text; `engines` maps an engine to its distribution and version there.

    Raises:
        TargetError: `probe-incomplete`.
    """
    machine = probed.machine
    if not machine.clusters or machine.seen_mib is None:
        raise TargetError("probe-incomplete", f"{target} tells neither its cores nor its memory: /proc is not readable")
    idle = machine.available_mib or machine.seen_mib
    usable = idle * 3 // 4
    nominal = next((size for size in SOLD_MIB if size >= machine.seen_mib), machine.seen_mib)
    caches = machine.caches
    tables: dict[str, dict[str, Any]] = {
        "cpu": {
            "soc": machine.soc or "unknown",
            "clusters": [{"core": c.core, "count": c.count, "clock_mhz": c.mhz} for c in machine.clusters],
            "isa": list(machine.isa),
        },
        "cache": vars(caches),
        "memory": {"nominal_mib": nominal, "seen_mib": machine.seen_mib, "idle_mib": idle, "usable_mib": usable},
        "storage": {
            "kind": machine.storage, "capacity_gb": machine.capacity_gb, "usable_mib": machine.free_mib or None,
            "read_mb_s": probed.read_mb_s,
        },
        "bandwidth": {"memcpy_mb_s": probed.memcpy_mb_s, "memset_mb_s": probed.memset_mb_s},
        "thermal": {"throttle_c": machine.throttle_c, "limit_c": machine.limit_c},
        "os": {
            "name": machine.os or "Linux", "machine": machine.machine, "kernel_bits": machine.kernel_bits,
            "userland_bits": machine.userland_bits, "glibc": machine.glibc, "python": machine.python,
        },
        **_engines(engines, machine.python),
        "budget": {"latency_ms": 100, "model_mib": max(1, usable // 4)},
        **{f"costs.{key}": prices for key, prices in (priced.costs if priced else {}).items()},
    }  # fmt: skip
    where = "this machine" if target == "local" else target
    said = f"measured on {where} on {datetime.now(UTC):%Y-%m-%d} with edgekit {__version__}"
    sources = {name: said for name in tables if name != "budget"}
    for key, error in (priced.error if priced else {}).items():
        sources[f"costs.{key}"] = (
            f"{said}: fitted to {priced.networks if priced else 0} tiny networks, median error {100 * error:.1f} %"
        )
    sources |= {
        "memory.nominal_mib": "derived: the smallest size that is sold and holds seen_mib",
        "memory.usable_mib": "policy: three quarters of idle_mib",
        "budget.latency_ms": "policy: the default of all profiles",
        "budget.model_mib": "policy: a quarter of usable_mib, because an engine holds a file two to four times",
    }
    notes = ("a 32-bit userland on a 64-bit kernel: the 64-bit system of this board runs every engine",)
    return toml(machine.board or f"{machine.soc or machine.machine}, probed", tables, sources,
                notes if machine.kernel_bits > machine.userland_bits else ())  # fmt: skip


def recognize(probed: Probed) -> Profile | None:
    """The shipped profile whose title is the board's model: of its memory and its userland, as far as there is one."""
    model = re.sub(r"\s+Rev\b.*$", "", probed.machine.board or "")
    near = [profile for profile in all_profiles() if model and profile.title.split(",")[0] == model]
    if not near:
        return None
    seen = probed.machine.seen_mib or 0

    def distance(profile: Profile) -> tuple[bool, int, int]:
        wrong = profile.os.userland_bits != probed.machine.userland_bits
        return wrong, abs(profile.memory.nominal_mib - seen), len(profile.name)

    return min(near, key=distance)


def differences(probed: Probed, engines: dict[str, tuple[str, str]], known: Profile | None) -> tuple[str, ...]:
    """Where the machine differs from its shipped profile, as far as it matters to models."""
    if known is None:
        return ()
    machine = probed.machine
    said = []
    if machine.userland_bits != known.os.userland_bits:
        said.append(f"its userland is {machine.userland_bits}-bit, the profile's {known.os.userland_bits}-bit")
    if machine.seen_mib is not None and not 0.8 <= machine.seen_mib / known.memory.nominal_mib <= 1:
        said.append(f"it has {machine.seen_mib} MiB of memory, the profile {known.memory.nominal_mib}")
    cores = sum(cluster.count for cluster in machine.clusters)
    if cores != known.cpu.cores:
        said.append(f"it has {cores} cores, the profile {known.cpu.cores}")
    missing = sorted(set(known.cpu.isa) - set(machine.isa))
    if missing:
        said.append(f"it lacks {', '.join(missing)}")
    if machine.python != known.os.running_python:
        said.append(f"it runs Python {machine.python}, the profile {known.os.running_python}")
    there = dict(engines.values())
    for engine in known.engines.values():
        if engine.version and engine.distribution in there and there[engine.distribution] != engine.version:
            said.append(f"its {engine.distribution} is {there[engine.distribution]}, the profile's {engine.version}")
    formats = {ENGINES[name] for name in known.engines if known.engines[name].version}
    for format in sorted(formats - {ENGINES[name] for name in engines}):
        said.append(f"no engine for .{format} files is installed")
    return tuple(said)


def _named(engine: str, distribution: str) -> str:
    """What profiles call an engine: ours called "litert" may be tflite-runtime."""
    return "tflite-runtime" if distribution == "tflite-runtime" else engine


def _engines(engines: dict[str, tuple[str, str]], python: str) -> dict[str, dict[str, Any]]:
    tables: dict[str, dict[str, Any]] = {}
    for name, (distribution, version) in engines.items():
        table = _named(name, distribution)
        tables[f"engines.{table}"] = {"distribution": distribution, "version": version, "pythons": [python]}
    for name, distribution in (("litert", "ai-edge-litert"), ("onnxruntime", "onnxruntime")):
        if name not in engines:
            tables[f"engines.{name}"] = {"distribution": distribution, "reason": _NOT_THERE}
    return tables
