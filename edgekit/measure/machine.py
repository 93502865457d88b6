"""What a machine is: cores, features, caches, memory, storage and system, from /proc, /sys and the device tree.

Every reader takes the folder that stands for `/`, and gives None for what the machine does not tell: nothing is
guessed.
"""

from __future__ import annotations

import os
import platform
import re
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edgekit.measure.kernel import read

ROOT = Path("/")
MIB = 2**20

PARTS = {
    0x41: {
        0xB76: "ARM1176JZF-S", 0xC07: "Cortex-A7", 0xC08: "Cortex-A8", 0xC09: "Cortex-A9", 0xC0F: "Cortex-A15",
        0xD03: "Cortex-A53", 0xD04: "Cortex-A35", 0xD05: "Cortex-A55", 0xD07: "Cortex-A57", 0xD08: "Cortex-A72",
        0xD09: "Cortex-A73", 0xD0A: "Cortex-A75", 0xD0B: "Cortex-A76", 0xD0C: "Neoverse-N1", 0xD40: "Neoverse-V1",
        0xD41: "Cortex-A78", 0xD44: "Cortex-X1", 0xD46: "Cortex-A510", 0xD47: "Cortex-A710", 0xD49: "Neoverse-N2",
    },
    0x4E: {0x003: "Denver 2", 0x004: "Carmel"},
}  # fmt: skip
"""Implementer and part of MIDR. Source: Linux, arch/arm64/include/asm/cputype.h and arch/arm's."""

_ISA = {
    "neon": ("neon", "asimd"),
    "vfp": ("vfp",),
    "fp16": ("asimdhp",),
    "dotprod": ("asimddp",),
    "i8mm": ("i8mm",),
    "bf16": ("bf16",),
    "sve": ("sve",),
    "avx2": ("avx2",),
    "fma": ("fma",),
    "f16c": ("f16c",),
    "avx_vnni": ("avx_vnni", "avx512_vnni"),
    "avx512": ("avx512f",),
}
"""Features as device profiles call them -> as the kernel does."""

_SIZES = {"K": 1, "M": 1024, "G": 1024 * 1024}


@dataclass(frozen=True)
class Cores:
    """Cores of one kind; `mhz` is the highest frequency the kernel allows."""

    core: str
    count: int
    mhz: int | None


@dataclass(frozen=True)
class Caches:
    """In KiB, of the fastest cores; `l2_per_core` where the kernel tells who shares it."""

    l1i_kib: int | None = None
    l1d_kib: int | None = None
    l2_kib: int | None = None
    l2_per_core: bool | None = None
    l3_kib: int | None = None


@dataclass(frozen=True)
class Machine:
    """All of it.

    Attributes:
        board: "Raspberry Pi 4 Model B Rev 1.4".
        soc: "BCM2711", or the processor's name.
        isa: Features that all cores have, in the words of device profiles.
        seen_mib, available_mib: MemTotal and MemAvailable, bounded by the container's limit.
        storage: Kind of the device behind the home folder: "microSD", "eMMC", "NVMe", "SSD", "disk".
        machine: What wheels call the userland: "aarch64", "armv7l", "armv6l", "x86_64".
        glibc: Its version; None for another C library.
        throttle_c, limit_c: First passive and critical trip point, degrees Celsius.
    """

    board: str | None
    soc: str | None
    clusters: tuple[Cores, ...]
    isa: tuple[str, ...]
    caches: Caches
    seen_mib: int | None
    available_mib: int | None
    storage: str | None
    capacity_gb: int | None
    free_mib: int | None
    os: str | None
    machine: str
    kernel_bits: int
    userland_bits: int
    glibc: str | None
    python: str
    throttle_c: float | None
    limit_c: float | None


def machine(root: Path = ROOT, home: Path | None = None) -> Machine:
    """This machine, or the one whose files lie below `root`."""
    bits = struct.calcsize("P") * 8
    kernel = platform.machine() if root == ROOT else (read(root / "proc/sys/kernel/arch") or platform.machine())
    clusters = _clusters(root)
    kind, capacity, free = _storage(root, home or Path.home())
    seen, available = _memory(root)
    return Machine(
        board=board(root) or _product(root), soc=_soc(root), clusters=clusters, isa=_isa(root), caches=_caches(root),
        seen_mib=seen, available_mib=available, storage=kind, capacity_gb=capacity, free_mib=free, os=_os(root),
        machine=userland(kernel, bits), kernel_bits=64 if kernel.endswith("64") else 32, userland_bits=bits,
        glibc=_glibc(), python=f"{sys.version_info[0]}.{sys.version_info[1]}", throttle_c=_trip(root, "passive"),
        limit_c=_trip(root, "critical"),
    )  # fmt: skip


def userland(kernel: str, bits: int) -> str:
    """What wheels call the userland: a 64-bit kernel may run a 32-bit one, and `uname` tells only of the kernel."""
    if bits == 64:
        return {"arm64": "aarch64", "amd64": "x86_64"}.get(kernel, kernel)
    return {"aarch64": "armv7l", "arm64": "armv7l", "armv8l": "armv7l", "x86_64": "i686"}.get(kernel, kernel)


def _clusters(root: Path) -> tuple[Cores, ...]:
    """Cores by kind, the fastest first; those of the container only matter to measurements."""
    found: dict[tuple[str, int | None], int] = {}
    for place, block in enumerate(_processors(root)):
        core = _core(block, root, place)
        mhz = _mhz(root, place, block)
        found[core, mhz] = found.get((core, mhz), 0) + 1
    clusters = [Cores(core, count, mhz) for (core, mhz), count in found.items()]
    return tuple(sorted(clusters, key=lambda cores: -(cores.mhz or 0)))


def _processors(root: Path) -> list[dict[str, str]]:
    blocks: list[dict[str, str]] = []
    shared: dict[str, str] = {}
    for line in (read(root / "proc/cpuinfo") or "").splitlines():
        name, colon, value = line.partition(":")
        key = name.strip()
        if not colon:
            continue
        if key == "processor":
            blocks.append({})
        # Old 32-bit kernels tell the same of all cores once, at the end.
        (blocks[-1] if blocks else shared).setdefault(key, value.strip())
    return [{**shared, **(blocks[-1] if len(block) < 2 else block)} for block in blocks]


def _core(block: dict[str, str], root: Path, place: int) -> str:
    midr = number(read(root / f"sys/devices/system/cpu/cpu{place}/regs/identification/midr_el1"))
    implementer, part = number(block.get("CPU implementer")), number(block.get("CPU part"))
    if midr is not None:
        implementer, part = midr >> 24 & 0xFF, midr >> 4 & 0xFFF
    if implementer is not None and part is not None:
        return PARTS.get(implementer, {}).get(part, f"part {part:#x} of implementer {implementer:#x}")
    return " ".join((block.get("model name") or block.get("Processor") or "unknown").split())


def _mhz(root: Path, place: int, block: dict[str, str]) -> int | None:
    base = root / f"sys/devices/system/cpu/cpu{place}/cpufreq"
    for name in ("scaling_max_freq", "cpuinfo_max_freq"):
        told = number(read(base / name))
        if told:
            return round(told / 1000)
    said = re.match(r"\d+(\.\d+)?", block.get("cpu MHz", ""))
    return round(float(said.group())) or None if said else None


def _isa(root: Path) -> tuple[str, ...]:
    blocks = _processors(root)
    words = [set((block.get("Features") or block.get("flags") or "").split()) for block in blocks]
    common = set.intersection(*words) if words else set()
    found = [name for name, spellings in _ISA.items() if common & set(spellings)]
    return tuple(name for name in found if name != "vfp" or "neon" not in found)


def _caches(root: Path) -> Caches:
    """Of the first core of the fastest kind."""
    frequencies = {n: number(read(p / "cpufreq/cpuinfo_max_freq")) or 0 for n, p in _cpu_folders(root)}
    if not frequencies:
        return Caches()
    first = max(frequencies, key=lambda n: (frequencies[n], -n))
    sizes: dict[str, int] = {}
    shared: bool | None = None
    for index in sorted((root / f"sys/devices/system/cpu/cpu{first}/cache").glob("index*")):
        size = _kib(read(index / "size"))
        level, kind = read(index / "level"), read(index / "type")
        if size is None or not level:
            continue
        sizes.setdefault({"1Data": "l1d", "1Instruction": "l1i"}.get(f"{level}{kind}", f"l{level}"), size)
        if level == "2" and (cpus := read(index / "shared_cpu_list")):
            shared = not re.search("[,-]", cpus)
    return Caches(sizes.get("l1i"), sizes.get("l1d"), sizes.get("l2"), shared, sizes.get("l3"))


def _cpu_folders(root: Path) -> Iterable[tuple[int, Path]]:
    for folder in (root / "sys/devices/system/cpu").glob("cpu[0-9]*"):
        if folder.name[3:].isdigit():
            yield int(folder.name[3:]), folder


def _memory(root: Path) -> tuple[int | None, int | None]:
    told = dict(re.findall(r"^(\w+):\s+(\d+) kB$", read(root / "proc/meminfo") or "", re.MULTILINE))
    total, available = (int(told[name]) // 1024 if name in told else None for name in ("MemTotal", "MemAvailable"))
    limits = (number(read(root / f"sys/fs/cgroup/{name}")) for name in ("memory.max", "memory/memory.limit_in_bytes"))
    for limit in limits:
        if limit is not None and total is not None and limit // MIB < total:
            total = limit // MIB
            available = min(available or total, total)
    return total, available


def _storage(root: Path, home: Path) -> tuple[str | None, int | None, int | None]:
    """Kind, capacity in GB and free MiB of what the home folder lies on."""
    try:
        seen = os.statvfs(home)
        device = home.stat().st_dev
    except OSError:
        return None, None, None
    free = seen.f_bavail * seen.f_frsize // MIB
    capacity = round(seen.f_blocks * seen.f_frsize / 1e9)
    link = root / f"sys/dev/block/{os.major(device)}:{os.minor(device)}"
    name = link.resolve().name if link.exists() else ""
    return _kind(root, name), capacity or None, free


def _kind(root: Path, device: str) -> str | None:
    if device.startswith("nvme"):
        return "NVMe"
    if found := re.match(r"mmcblk\d+", device):
        told = read(root / f"sys/block/{found.group()}/device/type")
        return {"SD": "microSD", "MMC": "eMMC"}.get(told or "", "microSD or eMMC")
    if found := re.match(r"(sd|vd|xvd)[a-z]+", device):
        spins = read(root / f"sys/block/{found.group()}/queue/rotational")
        return {"0": "SSD", "1": "disk"}.get(spins or "")
    return None


def board(root: Path = ROOT) -> str | None:
    """The model as the device tree names it, else as the kernel does."""
    tree = read(root / "proc/device-tree/model") or read(root / "sys/firmware/devicetree/base/model")
    named = (block["Model"] for block in reversed(_processors(root)) if block.get("Model"))
    return (tree.strip("\0 ") if tree else None) or next(named, None)


def _product(root: Path) -> str | None:
    """As the firmware of a computer without a device tree names it."""
    names = (read(root / f"sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name"))
    return " ".join(name for name in names if name) or None


def _soc(root: Path) -> str | None:
    tree = read(root / "proc/device-tree/compatible")
    if tree:
        return tree.strip("\0").split("\0")[-1].partition(",")[2].upper() or None
    blocks = _processors(root)
    return blocks[0].get("Hardware") or blocks[0].get("model name") if blocks else None


def _os(root: Path) -> str | None:
    told = re.search(r'^PRETTY_NAME="?(.*?)"?$', read(root / "etc/os-release") or "", re.MULTILINE)
    return told[1] if told else None


def _glibc() -> str | None:
    name, version = platform.libc_ver()
    return version if name == "glibc" and version else None


def _trip(root: Path, kind: str) -> float | None:
    """The lowest trip point of a kind in the processor's thermal zone."""
    zones = sorted((root / "sys/class/thermal").glob("thermal_zone*"))
    named = [zone for zone in zones if re.search("cpu|soc|x86_pkg", read(zone / "type") or "")] or zones[:1]
    degrees = [
        number(read(zone / file.name.replace("type", "temp")))
        for zone in named
        for file in zone.glob("trip_point_*_type")
        if read(file) == kind
    ]
    known = [value / 1000 for value in degrees if value and value > 0]
    return min(known, default=None)


def _kib(text: str | None) -> int | None:
    found = re.fullmatch(r"(\d+)([KMG])", text or "")
    return int(found[1]) * _SIZES[found[2]] if found else None


def number(text: str | None) -> int | None:
    """A number as the kernel writes them, `0x` before hexadecimal ones."""
    try:
        return int(text, 0) if text else None
    except ValueError:
        return None
