"""Prepare a board: find out what it is, choose the wheels that exist for it, install them into an environment there.

The versions are those of the device profiles' engine tables, so that what is installed is what profiles promise. The
environment is made beside the one in use and put in its place when its engines have been found; whoever is interrupted
keeps the old one, and the next setup goes on where this one ended.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit import files
from edgekit.child import Progress
from edgekit.device_profiles import Engine, all_profiles
from edgekit.device_profiles.software import ENGINES
from edgekit.errors import TargetError, UsageError
from edgekit.measure.machine import userland
from edgekit.targets.ssh import PYTHON, Ssh
from edgekit.targets.ssh_address import parse
from edgekit.targets.ssh_wire import old_python

NEEDED_MB = 400
"""What an environment with two engines takes on the way: 230 MB installed, the wheels beside it."""
_INSTALL = 3600.0
"""Seconds for pip on a slow card and a slow line, without a word in between."""


@dataclass(frozen=True)
class BoardFacts:
    """What a board is.

    Attributes:
        model: As its firmware says, "Raspberry Pi 4 Model B Rev 1.4"; None when it does not.
        machine: What wheels call the userland: aarch64, armv7l, armv6l, x86_64.
        kernel: What `uname -m` says.
        bits: Word size of the userland.
        glibc: Version of the C library; None for another one.
        python: Version of the Python that jobs run in, or would.
        executable: Its path.
        engines: Modules of engines that it has.
        numpy: Whether it has numpy.
        free_mb: Room left.
        kept_mb: What EdgeKit keeps there, environments not counted.
        ready: Whether jobs can run.
    """

    model: str | None
    machine: str
    kernel: str
    bits: int
    glibc: str | None
    python: str
    executable: str
    engines: tuple[str, ...]
    numpy: bool
    free_mb: int
    kept_mb: int
    ready: bool


@dataclass(frozen=True)
class Wheels:
    """What to install: requirements with their versions, and the engines' names."""

    requirements: tuple[str, ...]
    engines: tuple[str, ...]


def show(target: str, progress: Progress | None = None) -> BoardFacts:
    """Look at a board.

    Raises:
        TargetError: It cannot be reached.
    """
    with _board(target, progress) as place:
        return _facts(place, None)


def remove(target: str, progress: Progress | None = None) -> int:
    """Delete all that EdgeKit keeps on a board; returns the bytes that went."""
    with _board(target, progress) as place:
        return int(place.ask({"do": "forget"}, 300)["freed"])


def setup(
    target: str, *, python: str | None = None, offline: bool = False, progress: Progress | None = None
) -> BoardFacts:
    """Make a board ready.

    Args:
        target: Which.
        python: Path there of the Python to use, or to make the environment from; None for its own.
        offline: Bring the wheels from here at once; else only when the board has no network.
        progress: Told what goes on.

    Raises:
        UsageError: `target-address`.
        TargetError: It cannot be reached; `target-python-old`, `target-no-wheel`, `target-no-venv`,
            `target-disk-full`, `target-install-failed`.
    """
    with _board(target, progress) as place:
        facts = _facts(place, python or "")
        if tuple(map(int, facts.python.split(".")[:2])) < PYTHON:
            raise old_python(place.name, facts.python)
        if python is not None and facts.ready:
            place.ask({"do": "use", "python": python}, 150)
            return facts
        wheels = choose(facts)
        request = {
            "do": "environment", "python": facts.executable, "requirements": wheels.requirements, "wheels": [],
            "id": _identity(facts, wheels), "system": facts.machine == "armv7l" and facts.numpy,
        }  # fmt: skip
        _installed(place, facts, wheels, request, offline=offline)
        return _facts(place, None)


def choose(facts: BoardFacts) -> Wheels:
    """The newest wheels that fit a board, one engine a format.

    Raises:
        TargetError: `target-no-wheel`: with the reasons.
    """
    tables = [profile.engines for profile in all_profiles() if profile.os.machine == facts.machine]
    python = ".".join(facts.python.split(".")[:2])
    chosen: dict[str, Engine] = {}
    reasons = []
    for name in ENGINES:  # in this order, one engine a format
        known = [table[name] for table in tables if name in table]
        fitting = [e for e in known if e.version and python in e.pythons and _glibc(e.wheel) <= _version(facts.glibc)]
        if fitting and ENGINES[name] not in {ENGINES[taken] for taken in chosen}:
            chosen[name] = max(fitting, key=lambda engine: _version(engine.version))
        elif not fitting:
            reasons += [f"{name}: {_reason(known, python, facts)}"]
    if not chosen:
        raise TargetError(
            "target-no-wheel",
            f"no engine has a wheel for {facts.machine}, Python {python}, glibc {facts.glibc or 'unknown'}",
            cause="; ".join(reasons),
        )
    bounds = sorted({bound for engine in chosen.values() for bound in (engine.numpy or "").split(",") if bound})
    requirements = [f"{engine.distribution}=={engine.version}" for engine in chosen.values()]
    return Wheels((*requirements, "numpy" + ",".join(bounds)), tuple(chosen))


def _reason(known: list[Engine], python: str, facts: BoardFacts) -> str:
    if not known:
        return f"nothing is known for {facts.machine}"
    said = next((engine.reason for engine in known if engine.reason), None)
    if said and not any(engine.version for engine in known):
        return said
    pythons = sorted({p for engine in known for p in engine.pythons}, key=_version)
    if python not in pythons:
        return f"its wheels are for Python {', '.join(pythons)}"
    return f"its wheels need glibc {min('.'.join(map(str, _glibc(e.wheel))) for e in known if e.version)}"


def _glibc(wheel: str | None) -> tuple[int, ...]:
    """The C library that a wheel's tag asks for (PEP 600; manylinux2014 is 2.17)."""
    found = re.match(r"manylinux_(\d+)_(\d+)_", wheel or "")
    return (int(found[1]), int(found[2])) if found else (2, 17)


def _version(text: str | None) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text or ""))


def _installed(place: Ssh, facts: BoardFacts, wheels: Wheels, request: dict[str, Any], *, offline: bool) -> None:
    if facts.free_mb < NEEDED_MB and not facts.ready:
        raise TargetError(
            "target-disk-full", f"{place.name} has {facts.free_mb} MB left; the environment takes {NEEDED_MB} MB"
        )
    try:
        if not offline:
            place.ask(request, _INSTALL)
            return
    except TargetError as error:
        if not error.details.get("offline"):
            raise
    place.ask({**request, "wheels": list(_pushed(place, facts, wheels))}, _INSTALL)


def _pushed(place: Ssh, facts: BoardFacts, wheels: Wheels) -> Iterator[dict[str, str]]:
    """Download the wheels here and bring them there."""
    with files.scratch() as folder:
        if place.progress is not None:
            place.progress({"stage": f"downloading wheels for {facts.machine}"})
        _download(folder, facts, wheels)
        for wheel in sorted(folder.glob("*.whl")):
            yield {"name": wheel.name, "file": Path(place.put(wheel)).name}


def _download(folder: Path, facts: BoardFacts, wheels: Wheels) -> None:
    python = ".".join(facts.python.split(".")[:2])
    major, minor = _version(facts.glibc)[:2]
    platforms = [f"manylinux_{major}_{number}_{facts.machine}" for number in range(minor, 16, -1)]
    platforms += [f"manylinux2014_{facts.machine}", f"linux_{facts.machine}"]
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--disable-pip-version-check"),
        *("--no-input", "--implementation=cp", f"--python-version={python}", f"--abi=cp{python.replace('.', '')}"),
        *("--abi=abi3", "--abi=none", *(f"--platform={name}" for name in platforms), f"--dest={folder}"),
        *("--", *wheels.requirements),
    ]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise TargetError(
            "target-install-failed",
            f"the wheels for {facts.machine} cannot be downloaded here either",
            cause=" ".join((done.stderr or done.stdout).split())[-800:],
        )


def _identity(facts: BoardFacts, wheels: Wheels) -> str:
    """Names an environment: another Python or other wheels make another one."""
    words = "\n".join((facts.executable, facts.python, facts.machine, *wheels.requirements))
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def _facts(place: Ssh, python: str | None) -> BoardFacts:
    found = place.ask({"do": "facts", "python": python}, 300)
    own, libc = found["own"], re.match(r"glibc (.+)", found["libc"] or "")
    bits, version = int(own["bits"]), ".".join(map(str, own["version"]))
    return BoardFacts(
        model=found["model"],
        machine=userland(str(found["kernel"]), bits),
        kernel=str(found["kernel"]),
        bits=bits,
        glibc=libc[1] if libc else None,
        python=version,
        executable=str(own["python"]),
        engines=tuple(own["engines"]),
        numpy=bool(own["numpy"]),
        free_mb=int(found["free"] / 1e6),
        kept_mb=int(found["kept"] / 1e6),
        ready=bool(own["numpy"] and own["engines"] and tuple(own["version"][:2]) >= PYTHON),
    )


def _board(target: str, progress: Progress | None) -> Ssh:
    kind, _, rest = target.partition(":")
    if kind != "ssh":
        raise UsageError("target-address", f"{target!r} is no board's address")
    place = Ssh(parse(rest))
    place.progress = progress
    return place
