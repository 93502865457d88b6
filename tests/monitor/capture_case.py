"""A process that captures into a small ring, for tests that kill it; and a model that costs nothing."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from edgekit.feeding import Preprocess
from edgekit.manifest import Interpret
from edgekit.monitor.ages import Clock
from edgekit.monitor.bounds import Bounds
from edgekit.monitor.records import Record, Sample, pack, unpack
from edgekit.monitor.ring import LOCK, Ring, listed
from edgekit.monitor.segments import payloads
from edgekit.tensors import TensorSpec

MARKER = "/here-begins-the-capture"
QUOTA = 64 << 10


@dataclass
class Time:
    """A clock that tests turn; it stands in November 2026 at first."""

    now: float = 1_795_000_000.0
    step: float = 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now

    @property
    def clock(self) -> Clock:
        return Clock(self, self)


@dataclass
class Fake:
    """What a capture asks of a model."""

    interpret: Interpret = field(default_factory=lambda: Interpret("classification", scores="probabilities"))
    preprocess: Preprocess = field(default_factory=Preprocess)
    inputs: tuple[TensorSpec, ...] = (TensorSpec("x", (None, 4), "float32"),)
    outputs: tuple[TensorSpec, ...] = (TensorSpec("p", (None, 3), "float32"),)
    artifact: Any = field(default_factory=lambda: SimpleNamespace(sha256="a" * 64))


def numbered(number: int, size: int) -> bytes:
    """A record whose array tells its number, and that nobody can deflate."""
    dice = np.random.default_rng(number)
    sample = Sample("a" * 64, number, ("random",), {"random": 0.5}, 0.5)
    return pack(Record("sample", sample), {"x": dice.integers(0, 255, size, dtype=np.uint8)})


def whole(payload: bytes) -> int:
    """The number of a record, which must be as it was made."""
    found = unpack(payload)
    assert found.record.sample is not None
    number = found.record.sample.number
    size = found.inputs["x"].size
    assert np.array_equal(found.inputs["x"], np.random.default_rng(number).integers(0, 255, size, dtype=np.uint8))
    return number


def fill(folder: Path, count: int) -> None:
    """What the tests interrupt: records of many sizes, several times what the ring holds."""
    ring = Ring(folder, "case", Bounds(QUOTA, sync=0.0))
    sizes = np.random.default_rng(0).integers(10, 9000, count)
    for number, size in enumerate(sizes):
        ring.append(numbered(number, int(size)))
    ring.close()


def script(folder: Path, count: int) -> list[str]:
    """A process that does `fill`; everything before the marker is Python's start."""
    code = (
        f"import sys, os; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import capture_case\n"
        "capture_case.numbered(0, 10)\n"
        f"os.path.exists({MARKER!r})\n"
        f"capture_case.fill(capture_case.Path({str(folder)!r}), {count})\n"
    )
    return [sys.executable, "-c", code]


def taken(folder: Path) -> int:
    """Bytes of a folder and of everything in it, in blocks."""
    found = [folder, *folder.rglob("*")] if folder.exists() else []
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in found)


def records(folder: Path) -> list[int]:
    """Numbers of the records that are read, in order; all must be whole."""
    return [whole(payload) for _, path in listed(folder) for payload in payloads(path.read_bytes())]


def strays(folder: Path) -> list[str]:
    """Files that are neither segments nor the lock."""
    known = {path.name for _, path in listed(folder)} | {LOCK}
    return sorted(path.name for path in folder.rglob("*") if path.name not in known)


def captured(folder: Path) -> list[Any]:
    """All that a capture wrote, read."""
    return [unpack(payload) for _, path in listed(folder) for payload in payloads(path.read_bytes())]


if __name__ == "__main__":
    print(json.dumps(records(Path(sys.argv[1]))))
