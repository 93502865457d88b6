"""What a monitor knows, on disk: one file, whole or not there, written seldom.

A state belongs to a reference. That of another one (a new version of the model came) or of another layout is not read.
A folder belongs to one process, and in it to the monitor that was made last: two that write to one would each go on
from what the other saw.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
import weakref
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgekit import files, npz
from edgekit.errors import TargetError, UsageError
from edgekit.monitor.columns import Array

NAME = "state.npz"
LOCK = "lock"
VERSION = 2

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


class _Owner(NamedTuple):
    """Who writes to a folder: the process, its descriptor of the lock, and what stands for the keeper in it."""

    process: int
    handle: int
    token: object


_OWNERS: dict[tuple[int, int], _Owner] = {}
"""By the lock's device and number."""


class Keeper:
    """Writes states to a folder, within the budget.

    Args:
        folder: Made if it is not there.
        clock: Seconds that only go forward.

    Attributes:
        failed: States that could not be read or written.

    Raises:
        UsageError: `output-unwritable`: the folder cannot be made.
        TargetError: `monitor-busy`: another process writes to it.
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
        self._token = object()
        self._place: tuple[int, int] | None = None
        try:
            self._place = _claim(folder / LOCK, self._token)
        except BlockingIOError as error:
            raise TargetError("monitor-busy", f"another process watches with the folder {folder}") from error
        except OSError:  # nothing can be written: the states that come will fail as well
            self.failed += 1
        if self._place is not None:
            weakref.finalize(self, _release, self._place, self._token)

    @property
    def due(self) -> bool:
        """Whether it is time for the next one."""
        return self._clock() >= self._due

    @property
    def spent(self) -> dict[str, Any]:
        """What was written in the last hour, and that this is written now, as JSON values: part of a state, or each
        restart had an hour's budget of its own.
        """
        now = self._clock()
        return {"written": [[at, size] for at, size in self._recent(now)], "at": now}

    def resume(self, spent: dict[str, Any], size: int) -> None:
        """Go on with what a state of so many bytes says; clocks of before a start of the board tell nothing."""
        now = self._clock()
        written = [*spent["written"], [spent["at"], size]]
        self._written = [(float(at), int(size)) for at, size in written if 0 <= now - at < _HOUR]

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
        self._written = self._recent(now)
        spent = sum(size for _, size in self._written)
        # As many in an hour as fit, and no more often than said.
        self._due = now + max(INTERVAL, len(content) / BUDGET * _HOUR)
        if spent + len(content) > BUDGET or not self._owns():
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

    def _recent(self, now: float) -> list[tuple[float, int]]:
        return [(at, size) for at, size in self._written if now - at < _HOUR]

    def _owns(self) -> bool:
        """Whether the folder is still this one's: of a later version's monitor, or a parent's, it is not."""
        if self._place is None:
            return True
        owner = _OWNERS.get(self._place)
        return owner is not None and owner.process == os.getpid() and owner.token is self._token


def _claim(lock: Path, token: object) -> tuple[int, int] | None:
    """Make a folder this process's, and within it this token's; None where the file system knows no locks.

    The lock is one of POSIX: it is the process's, and ends with it, however that ends. Closing any descriptor of the
    file would end it as well, so that it is opened but once.

    Raises:
        BlockingIOError: It is another process's. OSError: The file cannot be made.
    """
    place = _place(lock)
    known = None if place is None else _OWNERS.get(place)
    if place is not None and known is not None and known.process == os.getpid():
        _OWNERS[place] = known._replace(token=token)
        return place
    handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise BlockingIOError(*error.args) from error
        return None
    place = _place(lock)
    if place is None:  # gone again
        os.close(handle)
        return None
    _OWNERS[place] = _Owner(os.getpid(), handle, token)
    return place


def _place(lock: Path) -> tuple[int, int] | None:
    try:
        about = lock.stat()
    except OSError:
        return None
    return about.st_dev, about.st_ino


def _release(place: tuple[int, int], token: object) -> None:
    """Let go of a folder, unless another keeper has it."""
    owner = _OWNERS.get(place)
    if owner is not None and owner.token is token and owner.process == os.getpid():
        del _OWNERS[place]
        os.close(owner.handle)
