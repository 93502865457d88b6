"""From a board's profile, an engine and a number of threads to a `Setting` of the cost model."""

from __future__ import annotations

import math

from edgekit.device_profiles.schema import Cluster, Profile
from edgekit.predict.parameters import Parameters
from edgekit.predict.prices import Core, Setting

LIBRARIES = {"litert": "xnnpack", "tflite-runtime": "xnnpack", "onnxruntime": "mlas"}
"""Engine -> the kernels it runs. The 32-bit wheels of tflite-runtime leave XNNPACK out: ruy."""

_MEMCPY = 2.0
_CLOCK = 1.0
_CACHE = 512 * 1024
_MOST_L3_KIB = 8192
_ORDERED_SHARE = 0.75
"""In mixed company a core that executes in order does this much of its peak, beside one that does not."""

_UNKNOWN = Core(macs=4.0, ordered=False)


def library(engine: str, profile: Profile) -> str:
    """Kernel library of an engine there."""
    if engine == "tflite-runtime" and profile.os.userland_bits == 32:
        return "ruy"
    return LIBRARIES[engine]


def default_threads(engine: str, profile: Profile) -> int:
    """What the engine takes when nobody says: LiteRT one, onnxruntime a thread a core."""
    return profile.cpu.cores if engine == "onnxruntime" else 1


def setting(profile: Profile, engine: str, precision: str, threads: int, known: Parameters) -> Setting:
    """Where and how a model would run; what a profile does not say is filled in by its core type."""
    first = profile.cpu.clusters[0]
    kind = core(profile, first, known)
    speeds = _speeds(profile, known)[:threads]
    kernels = library(engine, profile)
    mixed = threads > first.count and len(profile.cpu.clusters) > 1
    soc = profile.cpu.soc
    memcpy = profile.bandwidth.memcpy_mb_s
    return Setting(
        board=known.aliases.get(soc, soc), core=first.core, kind=kind, ghz=_ghz(first), threads=max(1, len(speeds)),
        ideal=sum(speeds), slowest=len(speeds) * min(speeds), mixed=mixed,
        memcpy=memcpy / 1000 if memcpy else _MEMCPY,
        cache=cache_bytes(profile), precision=precision, library=kernels,
        release=known.releases.get(f"{kernels}-{precision}", ""), bits=profile.os.userland_bits,
    )  # fmt: skip


def cache_bytes(profile: Profile) -> float:
    """What stays near the cores: the second level, and the share of the third that one core would take."""
    cache = profile.cache
    return 1024.0 * ((cache.l2_kib or 0) + min(cache.l3_kib or 0, _MOST_L3_KIB)) or _CACHE


def near_bytes(profile: Profile) -> float:
    """What is as near as it gets: half of the second level, since others have their share of it."""
    return 512.0 * (profile.cache.l2_kib or _CACHE / 1024)


def core(profile: Profile, cluster: Cluster, known: Parameters) -> Core:
    """What is known of a core: our table, else what the profile's own peak says."""
    if cluster.core in known.cores:
        return known.cores[cluster.core]
    peak = profile.peak.fp32_one
    macs = peak / 2 / _ghz(cluster) if peak else 8.0 if profile.has("avx2") else 4.0 if profile.has("neon") else 0.5
    dots = 4.0 if profile.has("dotprod") else 2.0 if profile.has("avx_vnni") else 0.0
    return Core(macs=macs, ordered=_UNKNOWN.ordered, dots=dots)


def _ghz(cluster: Cluster) -> float:
    return cluster.clock_mhz / 1000 if cluster.clock_mhz else _CLOCK


def _speeds(profile: Profile, known: Parameters) -> list[float]:
    """Of each core, in multiples of the first one's; a thread beyond the last core adds nothing."""
    clusters = profile.cpu.clusters
    kinds = [core(profile, cluster, known) for cluster in clusters]
    mixed = len(clusters) > 1
    rates = [
        kind.macs * _ghz(cluster) * (_ORDERED_SHARE if mixed and kind.ordered else 1.0)
        for kind, cluster in zip(kinds, clusters, strict=True)
        for _ in range(cluster.count)
    ]
    return [min(1.0, rate / rates[0]) if math.isfinite(rate) else 1.0 for rate in rates]
