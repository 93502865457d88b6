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
from collections.abc import Callable, Iterable, Iterator
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
    sweep(folder)
    temporary, handle = _locked(lambda: folder / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{_TEMPORARY}", mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            temporary.rename(path)
        sync_folder(folder)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_outputs(outputs: Iterable[Path | None], inputs: Iterable[object] = ()) -> None:
    """Before minutes of work: can these files be written, and would none of them take the place of another?

    Args:
        outputs: Files that will be written; None for those that were not asked for.
        inputs: What is read. Only paths count, also as text.

    Raises:
        UsageError: `output-unwritable`; `output-is-source`: it is an input, or two outputs are one file.
    """
    read = [Path(path) for path in inputs if isinstance(path, (str, Path))]
    for path in outputs:
        if path is None:
            continue
        reason = _unwritable(path)
        if reason is not None:
            raise UsageError("output-unwritable", f"{path} cannot be written: {reason}")
        for other in read:
            if _same(path, other):
                raise UsageError("output-is-source", f"{other} would be overwritten by the output {path}")
        read.append(path)


def _unwritable(path: Path) -> str | None:
    folder = path.parent
    try:
        if path.is_dir():
            return "it is a folder"
        if path.exists() and not path.is_file():
            return "it is no ordinary file"
        if not folder.is_dir():
            return f"there is no folder {folder}"
    except OSError as error:
        return error.strerror or str(error)
    # The file is put into the folder beside the old one: permissions of the old one do not matter.
    effective = os.access in os.supports_effective_ids
    allowed = os.access(folder, os.W_OK | os.X_OK, effective_ids=effective)
    return None if allowed else f"the folder {folder} is not writable"


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # one of them is not there yet
        return os.path.realpath(one) == os.path.realpath(other)


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
        # Those of other users are theirs to remove: in a folder for all, this is not allowed to us.
        with contextlib.suppress(FileNotFoundError, PermissionError), open(stale, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            stale.unlink()


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A private folder that goes away with its owner; those of killed owners go with the next call.

    It lies under the system's temporary folder (`TMPDIR`), one folder a user.

    Raises:
        SourceError: `scratch-unsafe`. UsageError: `scratch-unwritable`.
    """
    try:
        root = Path(tempfile.gettempdir()) / f"edgekit-{os.getuid()}"
        root.mkdir(mode=0o700, exist_ok=True)
        if root.is_symlink() or root.stat().st_uid != os.getuid():
            raise SourceError("scratch-unsafe", f"{root} belongs to somebody else")
        _sweep_scratch(root)
        folder, lock = _locked_folder(root)
    except OSError as error:
        raise UsageError("scratch-unwritable", f"there is no folder for temporary files: {error}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        Path(f"{folder}{_LOCK}").unlink(missing_ok=True)
        os.close(lock)


def _locked_folder(root: Path) -> tuple[Path, int]:
    """A new folder whose lock file stands beside it: the lock comes first, so no folder is ever unowned."""
    name, lock = _locked(lambda: root / f"run-{secrets.token_hex(8)}{_LOCK}", 0o600)
    folder = Path(str(name).removesuffix(_LOCK))
    folder.mkdir(mode=0o700)
    return folder, lock


def _locked(name: Callable[[], Path], mode: int) -> tuple[Path, int]:
    """A new file under a lock, of the first of these names that no sweep takes between its creation and its locking."""
    while True:
        path = name()
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        fcntl.flock(handle, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(handle).st_ino:
                return path, handle
        os.close(handle)


def _sweep_scratch(root: Path) -> None:
    for name in root.glob(f"run-*{_LOCK}"):
        with contextlib.suppress(FileNotFoundError), open(name, "rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(str(name).removesuffix(_LOCK), ignore_errors=True)
            name.unlink()
