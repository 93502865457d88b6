"""The board's part of collecting: what lies there, some of it as one file, and its removal.

Jobs of a target (`edgekit.targets.base.Target.perform`). Nothing here needs the key: what is encrypted travels so.
"""

from __future__ import annotations

import errno
import hashlib
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import TargetError
from edgekit.monitor.ring import listed
from edgekit.monitor.segments import Header, scan
from edgekit.store import places

_START = 1 << 16
"""Bytes that hold any header."""


@dataclass(frozen=True)
class SurveyRequest:
    """Which captures.

    Attributes:
        root: Folder of all captures, or of one model's; None for the device's own.
        name: Of this model alone.
    """

    root: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class Segment:
    """One file there.

    Attributes:
        path: Of it.
        header: What it says of itself.
        size: Its bytes, with what may be torn at its end.
        last: The newest of its folder, which may still be written to.
    """

    path: str
    header: Header
    size: int
    last: bool


@dataclass(frozen=True)
class Survey:
    """What lies there, the oldest first.

    Attributes:
        unreadable: Files whose very beginning is not what was written.
    """

    segments: tuple[Segment, ...]
    unreadable: tuple[str, ...] = ()


def survey(request: SurveyRequest) -> Survey:
    """Look at all segments.

    Raises:
        TargetError: `capture-unreadable`. ArtifactError: `capture-newer`.
    """
    root = places.captures(request.root)
    try:
        folders = [root, *sorted(path for path in root.iterdir() if path.is_dir())] if root.is_dir() else []
        found = [one for folder in folders for one in _segments(folder)]
    except OSError as error:
        raise _failed(root, error) from error
    segments = tuple(one for one in found if isinstance(one, Segment) and request.name in (None, one.header.name))
    return Survey(segments, tuple(str(one) for one in found if isinstance(one, Path)))


def _segments(folder: Path) -> list[Segment | Path]:
    found: list[Segment | Path] = []
    paths = [path for _, path in listed(folder)]
    for path in paths:
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                header = scan(file.read(_START)).header
        except FileNotFoundError:  # made room for another
            continue
        if header is not None:
            found.append(Segment(str(path), header, size, path == paths[-1]))
        elif size and path != paths[-1]:  # the last may have been begun just now
            found.append(path)
    return found


@dataclass(frozen=True)
class ExportRequest:
    """Segments to put behind each other into a file."""

    paths: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class Part:
    """One of them.

    Attributes:
        bytes: What of it can be trusted; 0 when it is gone.
        sha256: Of those.
    """

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Exported:
    """What the file holds, in order."""

    parts: tuple[Part, ...]


def export(request: ExportRequest) -> Exported:
    """Write the whole records of some segments into one file.

    Raises:
        TargetError: `capture-unreadable`; `target-disk-full`.
    """
    parts = []
    try:
        with open(request.output, "wb") as file:
            for name in request.paths:
                data = _trusted(Path(name))
                file.write(data)
                parts.append(Part(name, len(data), hashlib.sha256(data).hexdigest()))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise TargetError(
                "target-disk-full", f"there is no room in {Path(request.output).parent} for what is on its way",
                next_step="Make some room there, or read the disk in another computer: a folder is a target as well.",
            ) from error  # fmt: skip
        raise _failed(Path(request.output), error) from error
    return Exported(tuple(parts))


def _trusted(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:  # made room for another
        return b""
    return data[: scan(data).end]


@dataclass(frozen=True)
class RemoveRequest:
    """Segments that are no longer needed there."""

    paths: tuple[str, ...]


@dataclass(frozen=True)
class Removed:
    """How many went."""

    count: int


def remove(request: RemoveRequest) -> Removed:
    """Remove segments; none that is still written to.

    Raises:
        TargetError: `capture-unreadable`.
    """
    count = 0
    for name in request.paths:
        path = Path(name)
        try:
            if path not in [other for _, other in listed(path.parent)][:-1]:
                continue
            path.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _failed(path, error) from error
        count += 1
    return Removed(count)


def _failed(path: Path, error: OSError) -> TargetError:
    return TargetError("capture-unreadable", f"the captures in {path} cannot be read: {error.strerror or error}")
