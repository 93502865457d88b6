"""One model's folder: its record is read by anybody, and changed by whoever holds its lock.

Every change is a new record under the old name: temporary file, fsync, rename, fsync of the folder. Files of versions
are whole before a record names them. Whoever is interrupted leaves a record that was true before or after, and what
else lies around is removed by the next who holds the lock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from edgekit import files
from edgekit.codec import CodecError, decode, encode
from edgekit.errors import ArtifactError, MissingFileError, TargetError
from edgekit.store import places
from edgekit.store.record import SCHEMA, Record

RECORD, KEPT, LOCK, VERSIONS, INCOMING = "record.json", "record.kept", "lock", "versions", "incoming"
FAULTS, SHADOW = "faults", "shadow"
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_PIECE = 1 << 20
_GLANCE = 0.2
"""Seconds: whoever only asks whether somebody holds the lock (`Shelf.busy`) holds it for a moment."""
_RETRIES = 20
"""Readers meet a pruned version at most once a switch; so many switches in a row do not happen."""


class Shelf:
    """The versions of one model on this device.

    Args:
        name: The model's.
        root: The folder of all models; None for this device's.

    Raises:
        UsageError: `model-name`.
    """

    def __init__(self, name: str, root: str | Path | None = None) -> None:
        self.name = places.checked(name)
        self.folder = places.root(root) / name

    # -- Reading -----------------------------------------------------------------------------------------------

    @property
    def exists(self) -> bool:
        """Whether anything was ever received."""
        return (self.folder / RECORD).exists()

    def record(self) -> Record:
        """What is known now; empty before anything was received.

        Raises:
            ArtifactError: `store-damaged`: what stands there was not written by EdgeKit; `store-newer`.
        """
        try:
            data = (self.folder / RECORD).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return Record()
        except OSError as error:
            raise self._failed(error) from error
        try:
            document = json.loads(data)
            if isinstance(document, dict) and document.get("schema", SCHEMA) > SCHEMA:
                raise ArtifactError("store-newer", f"{self.folder} was written by a newer EdgeKit")
            return decode(Record, document)
        except (ValueError, TypeError, CodecError) as error:
            if isinstance(error, ArtifactError):
                raise
            raise ArtifactError("store-damaged", f"{self.folder / RECORD}: {error}") from error

    def mark(self) -> tuple[int, int, int]:
        """The state of the record's file, which is another after every change; zeros where there is none.

        Nothing is read.
        """
        try:
            seen = os.stat(self.folder / RECORD)  # noqa: PTH116 - on the way of calls
        except OSError:
            return (0, 0, 0)
        return seen.st_ino, seen.st_mtime_ns, seen.st_size

    def path(self, sha256: str) -> Path:
        """Where the file of a version lies."""
        return self.folder / VERSIONS / sha256

    def read_active(self) -> tuple[bytes, Record]:
        """The bytes of the active version, whole and as received, and the record that names it.

        Raises:
            MissingFileError: `model-unknown`: nothing is active. ArtifactError: `artifact-damaged`: storage changed it.
        """
        for _ in range(_RETRIES):
            record = self.settled()
            if record.active is None:
                raise MissingFileError("model-unknown", f"no version of {self.name} is active in {self.folder.parent}")
            try:
                data = self.path(record.active).read_bytes()
            except FileNotFoundError:
                if self.settled().active == record.active:
                    break
                continue  # a switch and a pruning came between
            except OSError as error:
                raise self._failed(error) from error
            if hashlib.sha256(data).hexdigest() != record.active:
                raise ArtifactError("artifact-damaged", f"{self.path(record.active)} is not what was received")
            return data, record
        raise ArtifactError("store-damaged", f"{self.folder} names a version whose file is gone")

    def settled(self) -> Record:
        """The record, with no trial that nobody supervises: whoever did was killed or lost power, so it is lost.

        A reader who may not write sees what the next one who may will make of it.
        """
        record = self.record()
        if record.trial is None or self.busy():
            return record
        with contextlib.suppress(TargetError), self.changing():
            return self.recover()
        return self._recovered(self.record())

    # -- Changing ----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def changing(self, patience: float = 0.0) -> Iterator[None]:
        """Hold the lock; what an interrupted predecessor left is removed first.

        Args:
            patience: Seconds to wait for another who holds it.

        Raises:
            TargetError: `store-busy`; `store-full`, `store-unwritable`.
        """
        with self._mapped():
            self._made(self.folder)
            lock = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._lock(lock, patience)
            with self._mapped():
                files.sync_folder(self.folder)
            self._sweep()
            yield
        finally:
            os.close(lock)

    def busy(self) -> bool:
        """Whether somebody changes it right now."""
        try:
            lock = os.open(self.folder / LOCK, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._failed(error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False

    def write(self, record: Record) -> Record:
        """Put a new record in place of the old one, at once; the lock must be held.

        Raises:
            TargetError: `store-full`, `store-unwritable`.
        """
        old, kept = self.folder / RECORD, self.folder / KEPT
        with self._mapped():
            existed = old.exists()
            if existed:
                kept.write_bytes(old.read_bytes())
            try:
                files.put(old, json.dumps(encode(record), indent=1).encode() + b"\n")
            except OSError:
                # The rename may have been done and its fsync refused: what is told to have failed must not stand there.
                kept.replace(old) if existed else old.unlink(missing_ok=True)
                raise
            finally:
                kept.unlink(missing_ok=True)
        return record

    def change(self, how: Callable[[Record], Record]) -> Record:
        """The record as it is now, changed; the lock must be held."""
        return self.write(how(self.record()))

    def recover(self) -> Record:
        """End a trial whose supervisor is gone; the lock must be held."""
        record = self.record()
        return record if record.trial is None else self.write(self._recovered(record))

    @staticmethod
    def _recovered(record: Record) -> Record:
        return record if record.trial is None else record.fall_back("its trial was interrupted")

    def receive(self, source: BinaryIO, sha256: str, size: int) -> Record:
        """Take a file in, under the name of its digest; what an earlier try left is used. The lock must be held.

        Raises:
            ArtifactError: `store-digest`: other bytes came. TargetError: `store-full`, `store-unwritable`.
        """
        target = self.path(sha256)
        with self._mapped():
            if not self._holds(target, sha256, size):
                part = self._made(self.folder / INCOMING) / sha256
                resumed = part.exists()
                found = _copied(source, part, size)
                if found != sha256 and resumed:  # a power cut tore what had arrived
                    part.unlink()
                    found = _copied(source, part, size)
                if found != sha256:
                    part.unlink()
                    raise ArtifactError("store-digest", f"{self.name}: {found[:12]} came in place of {sha256[:12]}")
                self._made(self.folder / VERSIONS)
                part.rename(target)
            files.sync_folder(target.parent)  # also of a file that a killed predecessor had renamed
        return self.change(lambda record: record.receive(sha256, size))

    def arrived(self, sha256: str) -> int:
        """Bytes of a file that need not be sent again."""
        for path in (self.path(sha256), self.folder / INCOMING / sha256):
            with contextlib.suppress(OSError):
                return path.stat().st_size
        return 0

    def prune(self, keep_bytes: int) -> tuple[str, ...]:
        """Remove the oldest versions that nothing leads back to, until the rest takes at most so many bytes.

        The record forgets them first: a file that nobody names is removed by the next who holds the lock.

        Returns:
            Their digests.
        """
        record = self.record()
        gone = record.prunable(keep_bytes)
        if gone:
            self.write(record.forget(gone))
            self._sweep()
        return tuple(version.sha256 for version in gone)

    def unhear(self) -> None:
        """Forget what apps told: before a trial, and after it; the lock must be held."""
        with self._mapped():
            for name in (FAULTS, SHADOW):
                (self.folder / name).unlink(missing_ok=True)

    # -- Inside ------------------------------------------------------------------------------------------------

    def _lock(self, lock: int, patience: float) -> None:
        until = time.monotonic() + max(patience, _GLANCE)
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise TargetError("store-busy", f"another deployment of {self.name} is under way") from None
                time.sleep(0.02)
            else:
                return

    def _sweep(self) -> None:
        """Remove what no record names; parts of files that are on their way stay."""
        known = {version.sha256 for version in self.record().versions}
        self.unhear()
        with self._mapped():
            files.sweep(self.folder)
            (self.folder / KEPT).unlink(missing_ok=True)
            folder = self.folder / VERSIONS
            stray = [path for path in folder.iterdir() if path.name not in known] if folder.is_dir() else []
            for path in stray:
                path.unlink()
            if stray:
                files.sync_folder(folder)
            parts = self.folder / INCOMING
            for path in parts.iterdir() if parts.is_dir() else ():
                if not _DIGEST.match(path.name) or path.name in known:
                    path.unlink()

    def _made(self, folder: Path) -> Path:
        """A folder that survives a power cut, with all above it that had to be made."""
        if not folder.is_dir():
            self._made(folder.parent)
            folder.mkdir(exist_ok=True)
            files.sync_folder(folder.parent)
        return folder

    @staticmethod
    def _holds(path: Path, sha256: str, size: int) -> bool:
        return path.is_file() and path.stat().st_size == size and files.sha256(path) == sha256

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if isinstance(error, MissingFileError):
                raise
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> TargetError:
        said = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return TargetError("store-full", f"{self.folder} is full: nothing was changed", cause=said)
        return TargetError("store-unwritable", f"{self.folder} cannot be used: {said}; nothing was changed", cause=said)


def names(root: str | Path | None = None) -> list[str]:
    """Models that something was received of, sorted."""
    folder = places.root(root)
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if places.is_name(p.name) and (p / RECORD).exists())


def _copied(source: BinaryIO, part: Path, size: int) -> str:
    """Bring the rest of `source` into `part`, durably; the digest of the whole."""
    whole = hashlib.sha256()
    with open(part, "a+b") as file:
        file.seek(0)
        while piece := file.read(_PIECE):
            whole.update(piece)
        if file.tell() > size:
            file.truncate(0)
            whole = hashlib.sha256()
        source.seek(file.tell() if file.tell() <= size else 0)
        while piece := source.read(_PIECE):
            file.write(piece)
            whole.update(piece)
        file.flush()
        os.fsync(file.fileno())
    return whole.hexdigest()
