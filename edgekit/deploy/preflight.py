"""Before anything is sent: what the device says of itself. Whether that is enough is decided in `admission`."""

from __future__ import annotations

import os
import platform
import struct
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import EngineMissingError
from edgekit.store import Shelf

_FILES = 8
"""Files that a deployment makes at most, its temporary ones among them."""


@dataclass(frozen=True)
class FactsRequest:
    """What is asked of the device.

    Attributes:
        name, root: Of the model and of the folder of all.
        format, sha256: Of the file.
        copied: The file is brought there first, to where the target keeps such files.
    """

    name: str
    root: str | None
    format: str
    sha256: str
    copied: bool = False

    @property
    def path(self) -> str:
        """For messages that name the engine of such a file, when asking for its version is what kills."""
        return f"model.{self.format}"


@dataclass(frozen=True)
class DeviceFacts:
    """What a device says of itself.

    Attributes:
        machine: As `uname -m` has it. bits: Word size of its Python.
        python: Its version.
        engine, engine_version: What would run the format; "" where none is installed, and why.
        free: Bytes that the store may still take; 0 where no further file can be made.
        shared: What is brought there takes its room from the same file system.
        arrived: Bytes of this very file that are there already.
        writable: Whether the store can be written to.
        versions: Digests of the versions of this model that are there, the active one first, then the latest.
    """

    machine: str
    bits: int
    python: str
    engine: str
    engine_version: str
    missing: str
    free: int
    arrived: int
    writable: bool
    shared: bool = False
    versions: tuple[str, ...] = ()


def preflight(request: FactsRequest) -> DeviceFacts:
    """Ask; runs on the device."""
    from edgekit.runtimes import PREFERRED, engines

    shelf = Shelf(request.name, request.root)
    folder = _existing(shelf.folder)
    engine, version, missing = PREFERRED[request.format], "", ""
    try:
        version = engines.get(engine).version()
    except EngineMissingError as error:
        missing = error.message
    return DeviceFacts(
        machine=platform.machine(), bits=struct.calcsize("P") * 8, python=platform.python_version(),
        engine=engine, engine_version=version, missing=missing, free=_free(folder),
        arrived=shelf.arrived(request.sha256), writable=os.access(folder, os.W_OK),
        shared=request.copied and _brought().stat().st_dev == folder.stat().st_dev, versions=_versions(shelf),
    )  # fmt: skip


def _free(folder: Path) -> int:
    """Bytes; file systems without a fixed number of files tell of 0."""
    told = os.statvfs(folder)
    return 0 if told.f_files and told.f_favail < _FILES else told.f_bavail * told.f_frsize


def _brought() -> Path:
    """Where files lie that came over a link."""
    from edgekit.targets.ssh_board import home

    return _existing(Path(home()))


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def _versions(shelf: Shelf) -> tuple[str, ...]:
    record = shelf.record()
    there = [version for version in record.versions if shelf.path(version.sha256).is_file()]
    there.sort(key=lambda version: (version.sha256 != record.active, -version.number))
    return tuple(version.sha256 for version in there)
