"""The machine a figure was measured on, and what happened to it meanwhile: a latency without them means nothing.

Whatever is read comes from below a root folder, so that tests plant the /proc and /sys of a board. What a machine does
not tell is None, never "no".
"""

from __future__ import annotations

import os
import platform
import re
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgekit.measure import activity, machine, throttle
from edgekit.measure.kernel import read

ROOT = Path("/")
FREQUENCY_DROP = 0.9
"""Below this share of the highest frequency seen during a measurement, the clock fell."""
_LOOK_EVERY = 1.0
_FEATURES = (
    "neon", "vfpv4", "asimd", "asimdhp", "fphp", "asimddp", "i8mm", "bf16", "sve", "sve2", "atomics", "crc32",
    "sse4_1", "avx", "f16c", "avx2", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16",
    "amx_tile", "amx_int8",
)  # fmt: skip
"""CPU features that engines choose kernels by."""


def environment(root: Path = ROOT) -> dict[str, Any]:
    """What this machine tells of itself; what it does not tell is None.

    Fields: `machine`, `board`, `cpu`, `features`, `cores` (usable), `affinity`, `cpu_quota` (CPUs), `memory_mb` (MiB),
    `kernel`, `python`, `numpy`, `governor`, `frequency_mhz` and `frequency_max_mhz` (of the first core),
    `temperature_c` (the CPU's zone, else the first), `load` (mean runnable processes of the last minute).
    """
    import numpy as np

    return {
        "machine": platform.machine(),
        "board": machine.board(root),
        "cpu": _cpu(root),
        "features": _features(root),
        "cores": _cores(root),
        "affinity": activity.affinity(root),
        "cpu_quota": activity.cpu_quota(root),
        "memory_mb": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "governor": read(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "frequency_mhz": frequency(root),
        "frequency_max_mhz": _scaled(root / "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq"),
        "temperature_c": temperature(root),
        "load": _load(root),
    }


class Watch:
    """Looks at the machine before, now and then during, and after a measurement.

    Args:
        root: Where /proc and /sys are.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root
        self._facts = environment(root)
        self._flags = [throttle.read_throttle(root)]
        self._cooled = throttle.cooled(root)
        self._seen = [self._sample(0.0)]
        self._started = time.monotonic()
        self._first = activity.snapshot(root)

    def look(self) -> None:
        """Read frequency, temperature and flags again, at most once a second; between runs, not within one."""
        at = time.monotonic() - self._started
        if at - self._seen[-1]["at_s"] >= _LOOK_EVERY:
            self._seen.append(self._sample(at))
            self._flags.append(throttle.read_throttle(self._root, spawn=False))

    def finish(self) -> tuple[dict[str, Any], list[str]]:
        """The environment with what happened, and the reasons why a figure measured meanwhile cannot be trusted."""
        last = activity.snapshot(self._root)
        at = time.monotonic() - self._started
        happened = activity.between(self._first, last, at)
        self._seen.append(self._sample(at))
        self._flags.append(throttle.read_throttle(self._root))
        told = [flags for flags in self._flags if flags.source == self._flags[0].source]
        found = throttle.reasons(told)
        found += _cooling(self._cooled, throttle.cooled(self._root)) + _slowed(self._seen)
        found += happened.reasons(self._facts["cores"])
        facts = self._facts | {
            "frequency_after_mhz": self._seen[-1]["frequency_mhz"],
            "temperature_after_c": self._seen[-1]["temperature_c"],
            "throttle": {"before": asdict(self._flags[0]), "after": asdict(self._flags[-1])},
            "activity": asdict(happened),
            "timeline": self._seen,
        }
        return facts, found

    def _sample(self, at: float) -> dict[str, Any]:
        return {
            "at_s": round(at, 3),
            "frequency_mhz": frequency(self._root),
            "temperature_c": temperature(self._root),
        }


def frequency(root: Path = ROOT) -> float | None:
    """MHz of the first core, as the kernel believes. On a Raspberry Pi that is what was asked for: its firmware may
    give less, which only the throttle flags tell (raspberrypi/linux issue 2986).
    """
    told = _scaled(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
    if told is not None:
        return told
    found = re.search(r"^cpu MHz\s*:\s*([\d.]+)", read(root / "proc/cpuinfo") or "", re.MULTILINE)
    return float(found[1]) if found else None


def temperature(root: Path = ROOT) -> float | None:
    """Degrees Celsius of the CPU's thermal zone, else of the first."""
    zones = sorted(root.glob("sys/class/thermal/thermal_zone*"))
    zones.sort(key=lambda zone: not re.search(r"cpu|x86_pkg|soc", read(zone / "type") or ""))
    return next((value for zone in zones if (value := _scaled(zone / "temp")) is not None), None)


def identity(facts: dict[str, Any]) -> dict[str, Any]:
    """What must be equal for two results to be of one machine."""
    return {key: facts.get(key) for key in ("machine", "board", "cpu", "cores", "memory_mb")}


def peak_rss_mb() -> float:
    """Largest resident memory this program ever had, in MB (10^6 bytes).

    Linux's own high-water mark belongs to the address space, and is new after exec; that of getrusage (getrusage(2))
    begins with the peak of the process that started this one.
    """
    import resource

    known = re.search(r"^VmHWM:\s*(\d+) kB", read(Path("/proc/self/status")) or "", re.MULTILINE)
    if known:
        return int(known[1]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def rss_bytes() -> int | None:
    """Resident memory now."""
    fields = (read(Path("/proc/self/statm")) or "").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else None


def thread_count() -> int | None:
    """Operating system threads of this process."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:  # not Linux
        return None


def _slowed(seen: list[dict[str, Any]]) -> list[str]:
    told = [sample["frequency_mhz"] for sample in seen[1:] if sample["frequency_mhz"] is not None]
    if told and told[-1] < FREQUENCY_DROP * max(told):
        return [f"the clock fell from {max(told):.0f} to {told[-1]:.0f} MHz during the measurement"]
    return []


def _cooling(before: dict[str, int], after: dict[str, int]) -> list[str]:
    found = []
    for name, state in after.items():
        risen = state > before.get(name, 0)
        if risen or (state > 0 and "events" not in name):
            found.append(f"the kernel slowed the CPU down because of heat: {name} is at {state}")
    return found


def _cpu(root: Path) -> str | None:
    name = _info(root, "model name")
    part = machine.number(_info(root, "CPU part"))
    known = machine.PARTS[0x41].get(part) if part and _info(root, "CPU implementer") == "0x41" else None
    return known or name or _info(root, "Hardware") or platform.processor() or None


def _features(root: Path) -> list[str] | None:
    told = _info(root, "flags") or _info(root, "Features")
    return None if told is None else [name for name in _FEATURES if name in told.split()]


def _cores(root: Path) -> int:
    told = activity.affinity(root)
    if told is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    edges = [part.partition("-") for part in told.split(",")]
    return sum(int(last or first) - int(first) + 1 for first, _, last in edges)


def _load(root: Path) -> float | None:
    fields = (read(root / "proc/loadavg") or "").split()
    return float(fields[0]) if fields else None


def _info(root: Path, name: str) -> str | None:
    for line in (read(root / "proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def _scaled(path: Path) -> float | None:
    text = read(path)
    return int(text) / 1000 if text and text.lstrip("-").isdigit() else None
