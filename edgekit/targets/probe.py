"""What a target is and how fast its memory and storage are: the job behind `edgekit devices probe`."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from edgekit.measure.machine import MIB, Machine, machine

_TIMES = 9
_LARGEST = 32 * MIB
_FILE = 64 * MIB
_PIECE = 4 * MIB
_PATIENCE_S = 4.0


@dataclass(frozen=True)
class ProbeRequest:
    """Whether to measure as well; without it nothing is written there."""

    measure: bool = True


@dataclass(frozen=True)
class Probed:
    """A machine and its speeds, in MB/s (10^6 bytes): copying counts each byte once, reading is sequential."""

    machine: Machine
    memcpy_mb_s: float | None = None
    memset_mb_s: float | None = None
    read_mb_s: float | None = None


def probe(request: ProbeRequest) -> Generator[dict[str, str], None, Probed]:
    """Look at this machine, and measure it; one thread, a few seconds."""
    yield {"stage": "machine"}
    found = machine()
    if not request.measure:
        return Probed(found)
    yield {"stage": "memory speed"}
    copy, fill = _memory_speeds(found.available_mib)
    yield {"stage": "storage speed"}
    return Probed(found, copy, fill, _read_speed(Path.home(), found.free_mib))


def _memory_speeds(available_mib: int | None) -> tuple[float, float]:
    """Medians over buffers far larger than caches, as tinymembench takes them."""
    import numpy as np

    size = min(_LARGEST, max(MIB, (available_mib or 256) * MIB // 16))
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    copies, fills = [], []
    for _ in range(_TIMES):
        start = time.perf_counter()
        np.copyto(target, source)
        middle = time.perf_counter()
        target.fill(7)
        copies.append(middle - start)
        fills.append(time.perf_counter() - middle)
    return round(size / median(copies) / 1e6, 1), round(size / median(fills) / 1e6, 1)


def _read_speed(home: Path, free_mib: int | None) -> float | None:
    """Sequential reading of a file of our own that the page cache was asked to forget; None where that cannot be."""
    if not hasattr(os, "posix_fadvise") or (free_mib or 0) * MIB < 4 * _FILE:
        return None
    try:
        with tempfile.TemporaryFile(dir=home) as file:
            written = 0
            end = time.monotonic() + _PATIENCE_S
            piece = os.urandom(_PIECE)
            while written < _FILE and time.monotonic() < end:
                written += file.write(piece)
            file.flush()
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            start = time.perf_counter()
            read = 0
            while read < written and time.monotonic() < end + _PATIENCE_S:
                read += len(file.read(_PIECE))
            return round(read / (time.perf_counter() - start) / 1e6, 1)
    except OSError:  # a home that cannot be written tells nothing
        return None
