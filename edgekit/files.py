"""Files that are whole or not there, and scratch folders that do not outlive a crash.

`replace` writes temporary file, fsync, rename, directory fsync: whoever is interrupted leaves the old state or
the new. A process that is killed leaves its temporary file behind; each one is held under a lock while its
writer lives, so that the next writer to that folder can tell and remove the stale ones.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edgekit.errors import SourceError, UsageError

_TEMPORARY = ".edgekit-tmp"
_LOCK = ".lock"


def sha256(path: Path) -> str:
    """Hex digest of a file; of a folder, the digest over its sorted relative names and contents."""
    if not path.is_dir():
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    whole = hashlib.sha256()
    for item in sorted(p for p in path.rglob("*") if p.is_file()):
        whole.update(item.relative_to(path).as_posix().encode() + b"\0")
        whole.update(bytes.fromhex(sha256(item)))
    return whole.hexdigest()


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if path.is_dir():
        return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    return path.stat().st_size


def replace(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Put `data` under `path` at once, with these permissions less the umask's.

    Raises:
        UsageError: `output-unwritable`: the folder is missing or not writable, or the disk is full.
    """
    try:
        put(path, data, mode=mode)
    except OSError as error:
        raise UsageError("output-unwritable", f"{path} cannot be written: {error.strerror or error}") from error


def put(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Like `replace`, for callers with words of their own for what the system refuses.

    Raises:
        OSError: The old file is untouched.
    """
    folder = path.parent
    temporary = folder / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{_TEMPORARY}"
    sweep(folder)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            temporary.rename(path)
        sync_folder(folder)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def cache(name: str) -> Path:
    """A folder of that name below `$EDGEKIT_CACHE`, else below `edgekit` in the user's cache folder; need not exist."""
    given = os.environ.get("EDGEKIT_CACHE")
    if given:
        return Path(given).absolute() / name
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base and base.startswith("/") else Path.home() / ".cache") / "edgekit" / name


def sync_folder(folder: Path) -> None:
    """Make a rename or an unlink in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep(folder: Path) -> None:
    """Remove temporary files in `folder` whose writer is gone."""
    for stale in folder.glob(f".*{_TEMPORARY}"):
        with contextlib.suppress(FileNotFoundError), open(stale, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            stale.unlink()


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A private folder that goes away with its owner; those of killed owners go with the next call.

    It lies under the system's temporary folder (`TMPDIR`), one folder a user.
    """
    root = Path(tempfile.gettempdir()) / f"edgekit-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    if root.is_symlink() or root.stat().st_uid != os.getuid():
        raise SourceError("scratch-unsafe", f"{root} belongs to somebody else")
    _sweep_scratch(root)
    folder, lock = _locked_folder(root)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        Path(f"{folder}{_LOCK}").unlink(missing_ok=True)
        os.close(lock)


def _locked_folder(root: Path) -> tuple[Path, int]:
    """A new folder whose lock file stands beside it: the lock comes first, so no folder is ever unowned."""
    while True:
        folder = root / f"run-{secrets.token_hex(8)}"
        name = Path(f"{folder}{_LOCK}")
        lock = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        # A sweep may have taken the file between its creation and its locking.
        if name.exists() and name.stat().st_ino == os.fstat(lock).st_ino:
            folder.mkdir(mode=0o700)
            return folder, lock
        os.close(lock)


def _sweep_scratch(root: Path) -> None:
    for name in root.glob(f"run-*{_LOCK}"):
        with contextlib.suppress(FileNotFoundError), open(name, "rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(str(name).removesuffix(_LOCK), ignore_errors=True)
            name.unlink()
