"""The machine a figure was measured on: a latency without it means nothing."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any


def environment() -> dict[str, Any]:
    """What this machine tells of itself; what it does not tell is None.

    Fields: `machine`, `cpu`, `cores`, `memory_mb` (MiB), `kernel`, `python`, `numpy`, `governor`, `frequency_mhz`
    (of the first core, now), `temperature_c` (first thermal zone), `load` (mean runnable processes of the last minute).
    """
    import numpy as np

    return {
        "machine": platform.machine(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mb": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "frequency_mhz": _scaled("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq"),
        "temperature_c": _scaled("/sys/class/thermal/thermal_zone0/temp"),
        "load": round(os.getloadavg()[0], 2),
    }


def peak_rss_mb() -> float:
    """Largest resident memory this process ever had, in MB (10^6 bytes)."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def _cpu() -> str | None:
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model", "Hardware"):
            return value.strip()
    return platform.processor() or None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:  # this kernel does not tell
        return None


def _scaled(path: str) -> float | None:
    text = _read(path)
    return int(text) / 1000 if text and text.lstrip("-").isdigit() else None
