"""Checkpoints of a calibration: a run that was killed goes on where it was, and comes to the same ranges.

What observers have seen is a few numbers and histograms, a few megabytes however many samples there were. Every few
seconds it is written, whole or not at all, under a name that says what was observed: the bytes of the graph, the
samples and the options. A calibration of the same finds it, skips the samples that it holds, and removes it when it is
done. Short calibrations write nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit import files, npz
from edgekit.converters.stages import CalibrationOptions, Graph
from edgekit.errors import UsageError

State = dict[str, NDArray[Any]]

_KEPT = 8
"""Checkpoints that may lie in the folder; those of killed runs that nobody repeated go, the oldest first."""

_LARGEST = 64 << 20
"""Bytes; more is not written."""

_FORMAT = 2


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds: runs of the engine that are done, their samples, and each observer's state."""

    runs: int
    samples: int
    observers: dict[str, State]


class Checkpoint:
    """The checkpoint of one calibration.

    Args:
        path: Its file; its folder is made when it is first written.
        seconds: Between two writes.
    """

    def __init__(self, path: Path, seconds: float = 5.0) -> None:
        self._path = path
        self._seconds = seconds
        self._last = time.monotonic()

    def load(self) -> Saved | None:
        """What an earlier run left; None when there is nothing, or nothing whole."""
        try:
            stored = npz.read(self._path)
            about = json.loads(str(stored["about"]))
            observers: dict[str, State] = {name: {} for name in about["tensors"]}
            for key, array in stored.items():
                number, _, part = key.partition(".")
                if part:
                    observers[about["tensors"][int(number)]][part] = array
            return Saved(int(about["runs"]), int(about["samples"]), observers)
        except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile):
            return None

    def due(self) -> bool:
        """Whether it is time to write."""
        return time.monotonic() - self._last >= self._seconds

    def save(self, runs: int, samples: int, observers: Mapping[str, State]) -> None:
        """Replace the file. A folder that cannot be written costs the checkpoint, not the calibration."""
        arrays = {f"{number}.{part}": array for number, state in enumerate(observers.values())
                  for part, array in state.items()}  # fmt: skip
        about = {"runs": runs, "samples": samples, "tensors": list(observers)}
        content = npz.pack({"about": np.array(json.dumps(about)), **arrays})
        if len(content) <= _LARGEST:
            with contextlib.suppress(OSError, UsageError):
                self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._make_room()
                files.replace(self._path, content)
        self._last = time.monotonic()

    def clear(self) -> None:
        """Remove the file: the calibration is done."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _make_room(self) -> None:
        others = [path for path in self._path.parent.glob("*.npz") if path != self._path]
        for path in sorted(others, key=lambda path: path.stat().st_mtime)[: max(0, len(others) - _KEPT + 1)]:
            path.unlink(missing_ok=True)


def checkpoint(graph: Graph, data_sha256: str, options: CalibrationOptions) -> Checkpoint:
    """The checkpoint of observing `graph` on that data, in the user's cache folder."""
    whole = hashlib.sha256()
    about = {
        "format": _FORMAT,
        "graph": files.sha256(Path(graph.path)),
        "data": data_sha256,
        "turned": graph.turned,
        "observer": [options.observer, options.percentile, options.activations, options.threads],
        "numpy": np.__version__,
    }
    whole.update(json.dumps(about, sort_keys=True).encode())
    return Checkpoint(files.cache("calibration") / f"{whole.hexdigest()[:32]}.npz")
