"""What may stand in a device profile: one frozen dataclass a table, each refusing values that no board has.

A profile says facts only; what follows from them is `edgekit.gate`'s business. A figure that no public source gives
is left out (None), never guessed, and whoever reads the profile must do without it.

Memory is in MiB (2**20 bytes) as Linux shows it, bandwidth and storage speed in MB/s (10**6), clocks in MHz.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

from edgekit.codec import encode
from edgekit.device_profiles.software import ENGINES, Engine, Os

ISA = {
    "vfp": "scalar floating point only",
    "neon": "128-bit SIMD (Arm Advanced SIMD)",
    "fp16": "arithmetic on half floats (asimdhp)",
    "dotprod": "int8 dot products (asimddp)",
    "i8mm": "int8 matrix products",
    "bf16": "bfloat16 products",
    "sve": "scalable vectors",
    "avx2": "256-bit integer SIMD",
    "fma": "fused multiply-add (x86)",
    "f16c": "conversion from and to half floats (x86)",
    "avx_vnni": "int8 dot products (x86)",
    "avx512": "512-bit SIMD (x86)",
}
"""Names of instruction set features that a profile may state."""

_ABSURD = 1e12
COSTS = re.compile(r"(litert|tflite-runtime|onnxruntime)-(fp32|int8)-[1-9]\d{0,3}\Z")


def _positive(owner: object, names: Iterable[str]) -> None:
    for name in names:
        value = getattr(owner, name)
        if value is not None and not 0 < value < _ABSURD:
            raise ValueError(f"{name} is {value!s:.24}; it must be positive and below {_ABSURD:g}")


def _ascending(owner: object, *names: str) -> None:
    """Each figure at most the next one; those that are unknown are passed over."""
    known = [(name, getattr(owner, name)) for name in names if getattr(owner, name) is not None]
    for (low, small), (high, large) in itertools.pairwise(known):
        if small > large:
            raise ValueError(f"{low} ({small}) exceeds {high} ({large})")


@dataclass(frozen=True)
class Cluster:
    """Cores of one kind: their name ("Cortex-A76"), how many, and their highest sustained clock where it is known."""

    core: str
    count: int
    clock_mhz: int | None = None

    def __post_init__(self) -> None:
        _positive(self, ("count", "clock_mhz"))
        if not self.core:
            raise ValueError("core is empty")


@dataclass(frozen=True)
class Cpu:
    """The processor: clusters, fastest first, and the features that all of them have (see `ISA`)."""

    soc: str
    clusters: tuple[Cluster, ...]
    isa: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.clusters:
            raise ValueError("clusters is empty: a board has at least one core")
        for name in self.isa:
            if name not in ISA:
                raise ValueError(f"isa: {name!r} is unknown; known: {', '.join(ISA)}")
        if len(set(self.isa)) != len(self.isa):
            raise ValueError("isa names a feature twice")

    @property
    def cores(self) -> int:
        return sum(cluster.count for cluster in self.clusters)


@dataclass(frozen=True)
class Cache:
    """Caches in KiB, of the fastest cluster; l1 and l2 with `l2_per_core` are one core's own."""

    l1i_kib: int | None = None
    l1d_kib: int | None = None
    l2_kib: int | None = None
    l2_per_core: bool | None = None
    l3_kib: int | None = None

    def __post_init__(self) -> None:
        _positive(self, ("l1i_kib", "l1d_kib", "l2_kib", "l3_kib"))


@dataclass(frozen=True)
class Memory:
    """Main memory in MiB.

    Attributes:
        nominal_mib: As sold.
        seen_mib: What Linux reports as total.
        idle_mib: What is available when nothing else runs.
        usable_mib: What one model and its process may take.
        kind: "LPDDR4".
    """

    nominal_mib: int
    usable_mib: int
    seen_mib: int | None = None
    idle_mib: int | None = None
    kind: str | None = None

    def __post_init__(self) -> None:
        _positive(self, ("nominal_mib", "seen_mib", "idle_mib", "usable_mib"))
        _ascending(self, "usable_mib", "idle_mib", "seen_mib", "nominal_mib")


@dataclass(frozen=True)
class Storage:
    """Where files lie.

    Attributes:
        kind: "microSD", "eMMC", "NVMe".
        capacity_gb: The smallest one that the board is used with, in 10**9 bytes.
        usable_mib: What models may take.
        read_mb_s: Sequential reading.
    """

    kind: str | None = None
    capacity_gb: int | None = None
    usable_mib: int | None = None
    read_mb_s: float | None = None

    def __post_init__(self) -> None:
        _positive(self, ("capacity_gb", "usable_mib", "read_mb_s"))
        if self.capacity_gb and self.usable_mib and self.usable_mib * 2**20 > self.capacity_gb * 10**9:
            raise ValueError(f"usable_mib ({self.usable_mib}) exceeds capacity_gb ({self.capacity_gb})")


@dataclass(frozen=True)
class Thermal:
    """Heat.

    Attributes:
        throttle_c: Degrees Celsius at which the clock starts to drop.
        limit_c: What firmware will not let it exceed.
        sustained_mhz: The clock that the first cluster falls to at `throttle_c`, where it is a fixed one.
    """

    throttle_c: float | None = None
    limit_c: float | None = None
    sustained_mhz: int | None = None

    def __post_init__(self) -> None:
        _positive(self, ("throttle_c", "limit_c", "sustained_mhz"))
        _ascending(self, "throttle_c", "limit_c")


@dataclass(frozen=True)
class Bandwidth:
    """Main memory, one thread, in MB/s: copying counts each byte once, as tinymembench does."""

    memcpy_mb_s: float | None = None
    memset_mb_s: float | None = None

    def __post_init__(self) -> None:
        _positive(self, ("memcpy_mb_s", "memset_mb_s"))


@dataclass(frozen=True)
class Peak:
    """Measured arithmetic peaks in 10**9 operations a second (a multiply-add is two).

    Attributes:
        fp32_one, fp16_one, int8_one: Of one core.
        fp32_all, fp16_all, int8_all: Of all cores of the fastest cluster.
    """

    fp32_one: float | None = None
    fp32_all: float | None = None
    fp16_one: float | None = None
    fp16_all: float | None = None
    int8_one: float | None = None
    int8_all: float | None = None

    def __post_init__(self) -> None:
        names = [f.name for f in fields(self)]
        _positive(self, names)
        for kind in ("fp32", "fp16", "int8"):
            _ascending(self, f"{kind}_one", f"{kind}_all")


@dataclass(frozen=True)
class Budget:
    """Defaults for what a model may take, where the user sets none: milliseconds a sample, MiB of the file."""

    latency_ms: float | None = None
    model_mib: float | None = None

    def __post_init__(self) -> None:
        _positive(self, ("latency_ms", "model_mib"))


@dataclass(frozen=True)
class Profile:
    """A board.

    Attributes:
        name: Public name, or the path of a user's own file.
        title: For people.
        engines: By the engine's name: "litert", "tflite-runtime", "onnxruntime".
        costs: Engine, arithmetic and threads ("litert-int8-2") -> unit of work -> nanoseconds, as `devices probe`
            measured them; see `edgekit.predict`.
        sources: Dotted path of every figure -> where it comes from.
        notes: What a user of the board should know.
    """

    name: str
    title: str
    cpu: Cpu
    memory: Memory
    os: Os
    engines: dict[str, Engine]
    cache: Cache = field(default_factory=Cache)
    storage: Storage = field(default_factory=Storage)
    thermal: Thermal = field(default_factory=Thermal)
    bandwidth: Bandwidth = field(default_factory=Bandwidth)
    peak: Peak = field(default_factory=Peak)
    budget: Budget = field(default_factory=Budget)
    costs: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    sources: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.engines:
            if name not in ENGINES:
                raise ValueError(f"engines: {name!r} is unknown; known: {', '.join(ENGINES)}")
        for key, prices in self.costs.items():
            if not COSTS.match(key):
                raise ValueError(f"costs: {key!r} is not ENGINE-PRECISION-THREADS, as in 'litert-int8-2'")
            for unit, ns in prices.items():
                if not 0 <= ns < _ABSURD:
                    raise ValueError(f"costs.{key}.{unit} is {ns!s:.24}; it must not be negative")

    def has(self, feature: str) -> bool:
        """Whether every core has this instruction set feature."""
        return feature in self.cpu.isa

    def source(self, path: str) -> str:
        """Where the figure at `path` ("memory.usable_mib") comes from; empty when it is not stated."""
        return self.sources.get(path, "")

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; what is unknown is left out."""
        return dict(encode(self))

    def summary(self) -> dict[str, Any]:
        """One row of `edgekit devices list`."""
        return {
            "name": self.name,
            "cpu": " + ".join(f"{cluster.count}x {cluster.core}" for cluster in self.cpu.clusters),
            "ram_mib": self.memory.nominal_mib,
            "usable_mib": self.memory.usable_mib,
            "bits": self.os.userland_bits,
            "tflite": self.describe_engine("litert") or self.describe_engine("tflite-runtime") or "none",
            "onnx": self.describe_engine("onnxruntime") or "none",
        }

    def figures(self) -> list[tuple[str, str, str]]:
        """Every figure: (dotted path, value for people, source), table by table."""
        order = [f.name for f in fields(self)]
        found = []
        for path in sorted(self.sources, key=lambda path: order.index(path.split(".")[0])):
            value: Any = self
            for part in path.split("."):
                value = value[part] if isinstance(value, dict) else getattr(value, part)
            found.append((path, _plain(value), self.sources[path]))
        return found

    def lines(self) -> list[tuple[str, object]]:
        """(name, value) pairs of `edgekit devices show`; below each value stands its source."""
        pairs: list[tuple[str, object]] = [("title", self.title)]
        pairs += [(path, f"{value}\n  [{source}]") for path, value, source in self.figures()]
        return [*pairs, *(("note", note) for note in self.notes)]

    def describe_cpu(self) -> str:
        """`4x Cortex-A76 2.4 GHz`."""
        return " + ".join(
            f"{c.count}x {c.core}" + (f" {c.clock_mhz / 1000:.4g} GHz" if c.clock_mhz else "")
            for c in self.cpu.clusters
        )

    def describe_engine(self, name: str) -> str | None:
        """`litert 2.3.0`; None when it cannot be installed there."""
        engine = self.engines.get(name)
        return f"{name} {engine.version}" if engine and engine.version else None


def _plain(value: Any) -> str:
    if isinstance(value, Engine):
        if value.reason:
            return f"none ({value.reason})"
        numpy = f", numpy {value.numpy}" if value.numpy else ""
        return f"{value.distribution} {value.version} (Python {', '.join(value.pythons)}{numpy})"
    if isinstance(value, Cluster):
        return f"{value.count}x {value.core}" + (f" at {value.clock_mhz} MHz" if value.clock_mhz else "")
    if isinstance(value, dict):
        return ", ".join(f"{name} {item:g}" for name, item in value.items()) + " ns"
    if isinstance(value, (tuple, list)):
        return " + ".join(_plain(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
