"""What a monitor knows, on disk: one file, whole or not there, written seldom.

A state belongs to a reference. That of another one (a new version of the model came) or of another layout is not read.
"""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import files, npz
from edgekit.errors import UsageError
from edgekit.monitor.columns import Array

NAME = "state.npz"
VERSION = 1

INTERVAL = 600.0
"""Seconds between snapshots."""

BUDGET = 1_000_000
"""Bytes that go to the disk in an hour at most."""

_HOUR = 3600.0
_HEADER = "about"


def pack(about: dict[str, Any], arrays: dict[str, Array]) -> bytes:
    """A header and arrays as one file's content."""
    text = json.dumps({"version": VERSION, **about}, sort_keys=True)
    return npz.pack({_HEADER: np.frombuffer(text.encode(), np.uint8), **arrays}, compressed=True)


def unpack(content: bytes) -> tuple[dict[str, Any], dict[str, Array]]:
    """The same back.

    Raises:
        ValueError: It is not such a content, or of another version.
    """
    try:
        arrays = npz.read(content)
        about = json.loads(arrays.pop(_HEADER).tobytes())
    except (OSError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"no state of a monitor: {error}") from error
    if not isinstance(about, dict) or about.get("version") != VERSION:
        raise ValueError("the state of another version")
    return about, arrays


class Keeper:
    """Writes states to a folder, within the budget.

    Args:
        folder: Made if it is not there.
        clock: Seconds that only go forward.

    Raises:
        UsageError: `output-unwritable`: the folder cannot be made.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError("output-unwritable", f"{folder} cannot be made: {error.strerror or error}") from error
        self.path = folder / NAME
        self._clock = clock
        self._due = clock() + INTERVAL
        self._written: list[tuple[float, int]] = []
        self.failed = 0

    @property
    def due(self) -> bool:
        """Whether it is time for the next one."""
        return self._clock() >= self._due

    def read(self) -> bytes | None:
        """The last one; None if there is none."""
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError:
            self.failed += 1
            return None

    def offer(self, content: bytes) -> bool:
        """Write it if the budget allows. A full disk does not stop whoever is watched: it is counted in `failed`."""
        now = self._clock()
        self._written = [(at, size) for at, size in self._written if now - at < _HOUR]
        spent = sum(size for _, size in self._written)
        # As many in an hour as fit, and no more often than said.
        self._due = now + max(INTERVAL, len(content) / BUDGET * _HOUR)
        if spent + len(content) > BUDGET:
            return False
        try:
            self.write(content)
        except UsageError:
            self.failed += 1
            return False
        return True

    def write(self, content: bytes) -> None:
        """Write it.

        Raises:
            UsageError: `output-unwritable`.
        """
        files.replace(self.path, content, mode=0o600)
        self._written.append((self._clock(), len(content)))
