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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import files
from edgekit.errors import EdgeKitError, TargetError
from edgekit.monitor.ages import Ages, Clock
from edgekit.monitor.bounds import LEAST, Bounds
from edgekit.monitor.device import device
from edgekit.monitor.segments import SCHEMA, Header, Scanned, scan
from edgekit.store.record import CLOCK_SET

if TYPE_CHECKING:
    from edgekit.monitor.sealing import Seal

SUFFIX = ".segment"
LOCK = "lock"
_LARGEST = 4 << 20
_PARTS = 16
"""Segments a quota is divided into, and parts a retention: what goes at once is small beside what stays."""
_ENTRIES = 100
"""Files whose names take a block of the folder: ext4 has room for 170."""
_NAME = re.compile(r"(\d{8,12})\.segment\Z")


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
        self._closed, self._device = False, device()
        self._store, self._last, self._lock = secrets.token_hex(8), 0, -1
        self._limit = min(max(bounds.quota // _PARTS, LEAST // _PARTS), _LARGEST)
        with self._mapped():
            self._enter()

    @property
    def used(self) -> int:
        """Bytes that the folder takes, in blocks, with those of its own."""
        own = self._block * (1 + len(self._sizes) // _ENTRIES)
        return own + sum(self._blocks(size) for size in self._sizes.values())

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
        except BaseException:  # a signal's, while it was written: an app may go on behind it
            self._shorten()
            raise

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
        retention = self.bounds.retention
        if retention is None:
            return
        with self._mapped():
            for number, date in self._ages.dates():
                with contextlib.suppress(FileNotFoundError):  # collected meanwhile, and removed
                    os.utime(self._path(number), (date, date))
            if self._current is not None and self._aged(self._current):
                self._finish()
            for number in sorted(self._sizes):
                if self._ages.of(number) > retention * (1 - 1 / _PARTS) and not self._writing(number):
                    self._remove(number)

    def sync(self, *, now: bool = False) -> None:
        """Bring what was written onto the disk, if it is time.

        Raises:
            TargetError: `capture-unwritable`.
        """
        if self._current is None or self._unsynced is None:
            return
        if now or self._clock.steady() - self._unsynced >= self.bounds.sync:
            self._unsynced = None
            with self._mapped():
                os.fsync(self._current.handle)

    def close(self) -> None:
        """Finish what is written to, and let others write. May be called twice."""
        self._closed = True
        try:
            with self._mapped():
                self._finish()
        finally:
            self._leave()

    def abandon(self) -> None:
        """In a process that was forked from the writer's: hold nothing of its."""
        self._closed = True
        if self._current is not None:
            os.close(self._current.handle)
            self._current = None
        self._leave()

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
        # Together: no signal comes between.
        current.size, current.records = current.size + len(frame), current.records + 1
        self._sizes[current.header.number] = current.size
        self._ages.written(current.header.number)
        if self._unsynced is None:
            self._unsynced = self._clock.steady()
        self.sync()
        return True

    def _ready(self, size: int) -> _Current | None:
        """The segment to write to, new where there is none or it is old."""
        if self._closed or 2 * size > self.bounds.quota:
            return None
        current = self._current
        if current is not None and (self._aged(current) or not os.fstat(current.handle).st_nlink):
            self._finish()
        return self._current or self._begin()

    def _begin(self) -> _Current | None:
        if not self._entered():
            self._leave()
            self._enter()
            if self._current is not None:
                return self._current
        for number in [number for number in self._sizes if not self._path(number).exists()]:
            self._remove(number)
        number, now = self._last + 1, self._clock.wall()
        header = Header(
            self._store, number, secrets.token_hex(16), self._name, platform.node(),
            self._seal.id if self._seal else None, now if now >= CLOCK_SET else None, self._device, self._about,
        )  # fmt: skip
        start, path = header.start(), self._path(number)
        if not self._make_room(self._blocks(len(start)) + self._block):
            return None
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._last, self._sizes[number] = number, len(start)
        self._ages.written(number)
        try:
            _write(handle, start)
            os.fsync(handle)
            files.sync_folder(self.folder)
        except BaseException:
            os.close(handle)
            self._remove(number)
            raise
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
        """Take back what a refused write left of a record; where that is refused too, go on in another segment."""
        current = self._current
        if current is None:
            return
        try:
            os.ftruncate(current.handle, current.size)
        except OSError:
            self._sizes[current.header.number] = os.fstat(current.handle).st_size
            self._current = self._unsynced = None
            os.close(current.handle)

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
        self._ages.forget(number)

    def _enter(self) -> None:
        """Make the folder, keep others out of it, and heal what lies there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._block = max(os.statvfs(self.folder).f_frsize, 4096)
        self._lock = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._heal()
        except BlockingIOError as error:
            self._leave()
            raise TargetError("capture-busy", f"another process captures into {self.folder}") from error
        except (OSError, EdgeKitError):  # captures of a later EdgeKit are none of ours to heal
            self._leave()
            raise

    def _leave(self) -> None:
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def _entered(self) -> bool:
        """Whether the folder is still that one: it may have been removed, or mounted over."""
        if self._lock < 0:
            return False
        try:
            return os.path.samestat((self.folder / LOCK).stat(), os.fstat(self._lock))
        except FileNotFoundError:
            return False

    def _heal(self) -> None:
        """Count what is there, and cut off what the last writer left unfinished."""
        found = {number: path.stat() for number, path in listed(self.folder)}
        self._sizes = {number: stat.st_size for number, stat in found.items()}
        self._last = max(self._last, *self._sizes, 0)
        dates = {number: stat.st_mtime for number, stat in found.items()}
        self._ages = Ages(self._clock, self.bounds.retention or float("inf"), dates)
        for number in sorted(self._sizes, reverse=True):
            seen = scan(self._path(number).read_bytes())
            if seen.header is None:
                self._remove(number)
                continue
            copied = None not in (self._device, seen.header.device) and self._device != seen.header.device
            if copied:  # from another board's card: it goes on there, under these numbers
                break
            self._store = seen.header.store
            if self._sizes[number] > seen.end:
                os.truncate(self._path(number), seen.end)
                self._sizes[number] = seen.end
            self._go_on(number, seen)
            break
        self._make_room(0)  # the quota may be smaller than it was
        self.expire()

    def _go_on(self, number: int, seen: Scanned) -> None:
        """Append to a segment of before, if it is young enough and of the same key.

        One of an earlier boot may be older than its date tells, and would stay as long as what is appended to it.
        """
        header = seen.header
        retention = self.bounds.retention
        age = self._ages.of(number)
        wanted = self._seal.id if self._seal else None
        if (
            header is None
            or header.schema != SCHEMA
            or (header.key, header.about) != (wanted, self._about)
            or header.name != self._name
            or (retention is not None and (age >= retention / _PARTS or number not in self._ages.of_this_boot))
        ):
            return
        if header.created is not None and retention is not None:
            age = max(age, self._clock.wall() - header.created)
        path = self._path(number)
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._current = _Current(header, path, handle, seen.end, seen.places, self._clock.steady() - age)

    def _aged(self, current: _Current) -> bool:
        retention = self.bounds.retention
        return retention is not None and self._clock.steady() - current.began > retention / _PARTS

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
