"""Arm systems for emulation: Debian's Python and libraries with the wheels of a profile, unpacked into a cache.

A system is named by the digest of what it is made of, built beside its place and renamed into it: it is whole or not
there. Downloads are kept by digest, so that an interrupted setup goes on where it was, and a finished one needs no
network. Nothing is installed, no root is needed, and nothing outside the cache is written.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import io
import json
import os
import shutil
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekit import files
from edgekit.child import Progress
from edgekit.errors import TargetError, UsageError
from edgekit.targets import downloads
from edgekit.targets.downloads import Package

PYTHON = "3.11"
"""Of every system: Debian 12's, which each engine has wheels for."""

_NEEDED_MB = 600
_LEFT_OUT = ("usr/share/doc", "usr/share/man", "usr/share/lintian", "usr/share/bug", "usr/share/locale")
_ABOUT = "system.json"


@dataclass(frozen=True)
class Recipe:
    """What a system is made of.

    Attributes:
        machine: Userland: "aarch64", "armv7l".
        packages: Debian's.
        wheels: Requirements with exact versions.
    """

    machine: str
    packages: tuple[Package, ...]
    wheels: tuple[str, ...]

    @property
    def name(self) -> str:
        content = json.dumps([self.machine, [p.sha256 for p in self.packages], sorted(self.wheels)])
        return f"{self.machine}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class System:
    """One that is there.

    Attributes:
        folder: What `qemu -L` gets, through a board's folder.
        mb: Its size, in MB (10^6 bytes).
    """

    name: str
    machine: str
    wheels: tuple[str, ...]
    folder: str
    mb: float


@functools.cache
def data() -> dict[str, Any]:
    """The tables of `emulator.toml`."""
    return tomllib.loads((Path(__file__).parent / "emulator.toml").read_text(encoding="utf-8"))


def cache() -> Path:
    """`$EDGEKIT_CACHE`, else `edgekit` in the user's cache folder."""
    return files.cache("emulator")


def recipe(machine: str, wheels: dict[str, str]) -> Recipe:
    """The system for a userland with these wheels, distribution -> version.

    Raises:
        UsageError: `emulator-unsupported`: there are no libraries of that userland.
    """
    if machine not in data()["systems"]:
        raise UsageError(
            "emulator-unsupported",
            f"userlands of {machine} are not emulated; known: {', '.join(data()['systems'])}",
            cause="No engine has wheels for 32-bit ARMv6." if machine == "armv6l" else None,
        )
    numpy = data()["numpy"].get(machine)
    wanted = {**({"numpy": numpy} if numpy else {}), **wheels}
    packages = tuple(Package(**entry) for entry in data()["systems"][machine]["packages"])
    return Recipe(machine, packages, tuple(f"{name}=={version}" for name, version in sorted(wanted.items())))


def find(wanted: Recipe) -> System | None:
    """The system, if it was set up."""
    return _read(cache() / "systems" / wanted.name)


def installed() -> list[System]:
    """All that were set up."""
    folder = cache() / "systems"
    found = (_read(item) for item in sorted(folder.iterdir())) if folder.is_dir() else ()
    return [system for system in found if system is not None]


def build(wanted: Recipe, progress: Progress) -> System:
    """Set the system up, unless it is there.

    Raises:
        TargetError: `emulator-download`: nothing gives a part; `emulator-space`: the disk has too little room;
            `emulator-cache`: the cache cannot be written.
    """
    try:
        with _locked(progress):
            found = find(wanted)
            if found is not None:
                return found
            _require_space()
            return _assemble(wanted, progress)
    except OSError as error:
        raise TargetError("emulator-cache", f"{cache()} cannot be written: {error.strerror or error}") from error


def remove(name: str) -> bool:
    """Remove a system and its boards; False when there is none of that name.

    Raises:
        UsageError: `emulator-in-use`.
    """
    folder = cache() / "systems" / name
    found = _read(folder)
    if found is None:
        return False
    with open(folder / _ABOUT, "rb") as about:
        try:
            fcntl.flock(about, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError("emulator-in-use", f"{name} is in use by another process") from error
        (folder / _ABOUT).unlink()  # from here on it is not there
    shutil.rmtree(folder)
    for board in (cache() / "boards").glob(f"{name}-*"):
        shutil.rmtree(board)
    if not installed():
        shutil.rmtree(cache() / "downloads", ignore_errors=True)
    return True


@contextlib.contextmanager
def used(system: System) -> Iterator[None]:
    """Keep others from removing the system meanwhile."""
    with open(Path(system.folder) / _ABOUT, "rb") as about:
        fcntl.flock(about, fcntl.LOCK_SH)
        yield


def _assemble(wanted: Recipe, progress: Progress) -> System:
    store = cache() / "downloads"
    store.mkdir(parents=True, exist_ok=True)
    packages = downloads.packages(wanted.packages, _mirrors(), store, progress)
    wheels = [
        downloads.wheel(
            requirement, data()["platforms"][wanted.machine], PYTHON, store,
            digest=data()["wheels"].get(f"{requirement};{wanted.machine}"), progress=progress,
        )
        for requirement in wanted.wheels
    ]  # fmt: skip
    place = cache() / "systems" / wanted.name
    building = place.with_name(f"{wanted.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    for number, package in enumerate(packages):
        progress({"stage": "unpack", "done": number, "total": len(packages) + len(wheels)})
        _unpack_package(package, building)
    modules = building / "usr/lib/python3/dist-packages"
    for number, archive in enumerate(wheels):
        progress({"stage": "unpack", "done": len(packages) + number, "total": len(packages) + len(wheels)})
        _unpack_wheel(archive, modules)
    for name, goal in data()["systems"][wanted.machine].get("links", ()):
        (building / name).symlink_to(goal)
    megabytes = round(sum(p.stat().st_size for p in building.rglob("*") if p.is_file() and not p.is_symlink()) / 1e6, 1)
    system = System(wanted.name, wanted.machine, wanted.wheels, str(place), megabytes)
    files.replace(building / _ABOUT, json.dumps(asdict(system)).encode())
    os.sync()
    building.rename(place)
    files.sync_folder(place.parent)
    return system


def _unpack_package(path: Path, into: Path) -> None:
    """A .deb is an `ar` archive (see ar(5)): 60 bytes of header a member, the data on even places."""
    content = path.read_bytes()
    at = 8
    while at < len(content):
        name = content[at : at + 16].decode("ascii").strip().rstrip("/")
        size = int(content[at + 48 : at + 58])
        if name.startswith("data.tar"):
            with tarfile.open(fileobj=io.BytesIO(content[at + 60 : at + 60 + size])) as packed:
                packed.extractall(into, filter=_kept)  # noqa: S202 - the filter refuses what leaves the folder
            return
        at += 60 + size + size % 2
    raise TargetError("emulator-download", f"{path.name} is no Debian package")


def _kept(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
    name = member.name.removeprefix("./")
    return None if name.startswith(_LEFT_OUT) else tarfile.tar_filter(member, folder)


def _unpack_wheel(path: Path, modules: Path) -> None:
    modules.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path) as packed:
        packed.extractall(modules)  # noqa: S202 - zipfile keeps inside the folder


def _read(folder: Path) -> System | None:
    try:
        found = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    if folder.name.endswith(".building"):
        return None
    return System(**{**found, "wheels": tuple(found["wheels"]), "folder": str(folder)})


def _mirrors() -> list[str]:
    own = os.environ.get("EDGEKIT_DEBIAN_MIRROR")
    return [own] if own else list(data()["mirrors"])


def _require_space() -> None:
    cache().mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache()).free / 1e6
    if free < _NEEDED_MB:
        raise TargetError("emulator-space", f"{cache()} has {free:.0f} MB left; a system takes up to {_NEEDED_MB} MB")


@contextlib.contextmanager
def _locked(progress: Progress) -> Iterator[None]:
    """One setup at a time: the second one finds what the first one made."""
    cache().mkdir(parents=True, exist_ok=True)
    with open(cache() / "lock", "wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress({"stage": "waiting for another setup"})
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
