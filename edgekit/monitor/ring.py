"""A ring of segments in one folder: bounded in bytes and in time, one writer, safe against kills and power cuts.

    FOLDER/
        lock                held by the writer while it lives; empty
        00000017.segment    see `edgekit.monitor.segments`; the oldest goes when room is needed

There are no other files, not even for a moment: a segment is appended to under its final name, and a write that was
cut ends what can be trusted of it. Room is made before it is needed, and counted in blocks of the file system, so
that the folder never takes more than its quota, whenever its writer is killed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import platform
import re
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edgekit import files
from edgekit.errors import TargetError, UsageError
from edgekit.monitor.segments import SCHEMA, Header, Scanned, scan
from edgekit.store.record import CLOCK_SET

if TYPE_CHECKING:
    from edgekit.monitor.sealing import Seal

SUFFIX = ".segment"
LOCK = "lock"
LEAST = 64 << 10
"""Bytes of the smallest quota: a ring needs room for several segments."""
_LARGEST = 4 << 20
_PARTS = 16
"""Segments a quota is divided into, and parts a retention: what goes at once is small beside what stays."""
_NAME = re.compile(r"(\d{8,12})\.segment\Z")


class Clock(NamedTuple):
    """How late it is.

    Attributes:
        wall: Seconds since 1970, as far as the clock was ever set.
        steady: Seconds since some moment; never goes back.
    """

    wall: Callable[[], float] = time.time
    steady: Callable[[], float] = time.monotonic


@dataclass(frozen=True)
class Bounds:
    """What a ring may take.

    Attributes:
        quota: Bytes of its folder, in blocks of the file system.
        retention: Seconds after which a record is gone, as long as somebody writes; None for no end.
        sync: Seconds between two flushes to the disk: what a power cut may take. A kill takes nothing.
    """

    quota: int
    retention: float | None = None
    sync: float = 10.0

    def __post_init__(self) -> None:
        if self.quota < LEAST:
            raise UsageError("option-value", f"a quota of {self.quota} bytes holds nothing; at least {LEAST}")
        if self.retention is not None and not self.retention > 0:
            raise UsageError("option-value", f"a retention of {self.retention} s keeps nothing")
        if not self.sync >= 0:
            raise UsageError("option-value", f"{self.sync} s are no interval")


@dataclass
class _Current:
    """The segment that is written to."""

    header: Header
    path: Path
    handle: int
    size: int
    records: int
    began: float


class Ring:
    """The writer; one a folder, in one thread at a time.

    Args:
        folder: Made when it is missing.
        name: What the model is called.
        bounds: Of the folder.
        seal: Encrypts; None for plain records.
        about: Goes into the header of each segment.
        clock: Of this device.

    Raises:
        TargetError: `capture-busy`: another process writes there; `capture-unwritable`. ArtifactError: `capture-newer`.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        bounds: Bounds,
        seal: Seal | None = None,
        about: dict[str, Any] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.folder = folder
        self.bounds = bounds
        self._name = name
        self._seal = seal
        self._about = about or {}
        self._clock = clock or Clock()
        self._current: _Current | None = None
        self._unsynced: float | None = None
        self._sizes: dict[int, int] = {}
        self._store, self._last = secrets.token_hex(8), 0
        self._limit = min(max(bounds.quota // _PARTS, LEAST // _PARTS), _LARGEST)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._block = max(os.statvfs(folder).f_frsize, 4096)
            self._lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _failed(folder, error) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._heal()
        except BlockingIOError as error:
            os.close(self._lock)
            raise TargetError("capture-busy", f"another process captures into {folder}") from error
        except (OSError, EdgeKitError) as error:  # captures of a later EdgeKit are none of ours to heal
            os.close(self._lock)
            if isinstance(error, EdgeKitError):
                raise
            raise _failed(folder, error) from error

    @property
    def used(self) -> int:
        """Bytes that the folder takes, in blocks, with the one of its own."""
        return self._block + sum(self._blocks(size) for size in self._sizes.values())

    def append(self, payload: bytes) -> bool:
        """Write a record, after what must go for it.

        Returns:
            Whether it is there. It is not where it is larger than half of the quota, or the disk is full.

        Raises:
            TargetError: `capture-unwritable`: the disk refuses for another reason.
        """
        try:
            return self._append(payload)
        except OSError as error:
            self._shorten()
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                return False
            raise _failed(self.folder, error) from error

    def describe(self, about: dict[str, Any]) -> None:
        """Say from now on something else of the model; a new segment begins if that is new.

        Raises:
            TargetError: `capture-unwritable`.
        """
        if about != self._about:
            self._about = about
            with self._mapped():
                self._finish()

    def expire(self) -> None:
        """Remove what is older than the retention.

        Raises:
            TargetError: `capture-unwritable`.
        """
        retention, now = self.bounds.retention, self._clock.wall()
        if retention is None or now < CLOCK_SET:
            return
        with self._mapped():
            if self._current is not None and self._aged(self._current):
                self._finish()
            for number in sorted(self._sizes):
                age = now - self._dated(number, now)
                if age > retention * (1 - 1 / _PARTS) and not self._writing(number):
                    self._remove(number)

    def sync(self, *, now: bool = False) -> None:
        """Bring what was written onto the disk, if it is time.

        Raises:
            TargetError: `capture-unwritable`.
        """
        if self._current is None or self._unsynced is None:
            return
        if now or self._clock.steady() - self._unsynced >= self.bounds.sync:
            with self._mapped():
                os.fsync(self._current.handle)
            self._unsynced = None

    def close(self) -> None:
        """Finish what is written to, and let others write. May be called twice."""
        if self._lock < 0:
            return
        try:
            with self._mapped():
                self._finish()
        finally:
            os.close(self._lock)
            self._lock = -1

    # -- Inside ------------------------------------------------------------------------------------------------

    def _append(self, payload: bytes) -> bool:
        current = self._ready(len(payload) + 64)
        if current is None:
            return False
        frame = current.header.frame(current.records, payload, self._seal)
        if current.records and current.size + len(frame) > self._limit:
            self._finish()
            return self._append(payload)
        if not self._make_room(self._blocks(current.size + len(frame)) - self._blocks(current.size)):
            return False
        _write(current.handle, frame)
        current.size += len(frame)
        current.records += 1
        self._sizes[current.header.number] = current.size
        if self._unsynced is None:
            self._unsynced = self._clock.steady()
        self.sync()
        return True

    def _ready(self, size: int) -> _Current | None:
        """The segment to write to, new where there is none or it is old."""
        if 2 * size > self.bounds.quota:
            return None
        if self._current is not None and self._aged(self._current):
            self._finish()
        return self._current or self._begin()

    def _begin(self) -> _Current | None:
        self._sizes = {number: size for number, size in self._sizes.items() if self._path(number).exists()}
        number, now = self._last + 1, self._clock.wall()
        header = Header(
            self._store, number, secrets.token_hex(16), self._name, platform.node(),
            self._seal.id if self._seal else None, now if now >= CLOCK_SET else None, self._about,
        )  # fmt: skip
        start, path = header.start(), self._path(number)
        if not self._make_room(self._blocks(len(start))):
            return None
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            _write(handle, start)
            os.fsync(handle)
            files.sync_folder(self.folder)
        except OSError:
            os.close(handle)
            path.unlink()
            raise
        self._last, self._sizes[number] = number, len(start)
        self._current = _Current(header, path, handle, len(start), 0, self._clock.steady())
        return self._current

    def _finish(self) -> None:
        current, self._current = self._current, None
        if current is not None:
            try:
                os.fsync(current.handle)
            finally:
                os.close(current.handle)
            self._unsynced = None

    def _shorten(self) -> None:
        """Take back what a refused write left of a record."""
        current = self._current
        if current is not None:
            with contextlib.suppress(OSError):  # what stays behind the last whole record is never read
                os.ftruncate(current.handle, current.size)
            with contextlib.suppress(OSError):
                self._sizes[current.header.number] = os.fstat(current.handle).st_size

    def _make_room(self, growth: int) -> bool:
        """Remove the oldest segments until so many bytes more fit."""
        removed = False
        for number in sorted(self._sizes):
            if self.used + growth <= self.bounds.quota:
                break
            if self._writing(number):
                continue
            self._remove(number)
            removed = True
        if removed:  # or a power cut might bring back what was removed, beside what took its place
            files.sync_folder(self.folder)
        return self.used + growth <= self.bounds.quota

    def _remove(self, number: int) -> None:
        self._path(number).unlink(missing_ok=True)
        del self._sizes[number]

    def _heal(self) -> None:
        """Count what is there, and cut off what the last writer left unfinished."""
        self._sizes = {number: path.stat().st_size for number, path in listed(self.folder)}
        self._last = max(self._sizes, default=0)
        for number in sorted(self._sizes, reverse=True):
            seen = scan(self._path(number).read_bytes())
            if seen.header is None:
                self._remove(number)
                continue
            self._store = seen.header.store
            if self._sizes[number] > seen.end:
                os.truncate(self._path(number), seen.end)
                self._sizes[number] = seen.end
            self._go_on(number, seen)
            break
        self._make_room(0)  # the quota may be smaller than it was
        self.expire()

    def _go_on(self, number: int, seen: Scanned) -> None:
        """Append to a segment of before, if it is young enough and of the same key."""
        header = seen.header
        age = self._clock.wall() - self._dated(number, self._clock.wall())
        young = self.bounds.retention is None or 0 <= age < self.bounds.retention / _PARTS
        wanted = self._seal.id if self._seal else None
        if (
            header is None
            or header.schema != SCHEMA
            or (header.key, header.about) != (wanted, self._about)
            or header.name != self._name
            or not young
        ):
            return
        if header.created is not None and self.bounds.retention is not None:
            age = max(age, self._clock.wall() - header.created)
        path = self._path(number)
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._current = _Current(header, path, handle, seen.end, seen.places, self._clock.steady() - age)

    def _aged(self, current: _Current) -> bool:
        retention = self.bounds.retention
        return retention is not None and self._clock.steady() - current.began > retention / _PARTS

    def _dated(self, number: int, now: float) -> float:
        """When a segment was last written to. One of an unset or wrong clock counts as written when it is first met."""
        try:
            found = self._path(number).stat().st_mtime
        except FileNotFoundError:  # collected meanwhile, and removed
            return now
        if now >= CLOCK_SET and not CLOCK_SET <= found <= now + 86400:
            os.utime(self._path(number), (now, now))
            return now
        return found

    def _writing(self, number: int) -> bool:
        return self._current is not None and self._current.header.number == number

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}{SUFFIX}"

    def _blocks(self, size: int) -> int:
        return -(-size // self._block) * self._block

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _failed(self.folder, error) from error


def listed(folder: Path) -> list[tuple[int, Path]]:
    """(number, path) of the segments of a folder, the oldest first."""
    found = ((_NAME.match(path.name), path) for path in folder.iterdir()) if folder.is_dir() else ()
    return sorted((int(match[1]), path) for match, path in found if match)


def _write(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def _failed(folder: Path, error: OSError) -> TargetError:
    said = error.strerror or str(error)
    return TargetError("capture-unwritable", f"nothing can be captured into {folder}: {said}", cause=said)
