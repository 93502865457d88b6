"""`emulator:PROFILE`: the board's own wheels on the board's own instruction set, on this machine.

qemu-user runs the programs of an Arm system (see `systems`) with the processor model of the profile's cores: an
instruction that the board lacks is missing here too. It needs no root and no chroot, because qemu looks for absolute
paths below a folder first. That folder holds a `/proc/cpuinfo` of the board as well: engines read it, and some crash
when it tells of another kind of processor. Times measured here say nothing about the board.

A wheel can be replaced by another version: `emulator:raspberry-pi-4b+onnxruntime==1.21.0`.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from edgekit import files
from edgekit.child import Link, Progress, Spawned
from edgekit.device_profiles import Profile, load_profile
from edgekit.errors import EngineError, TargetError, UsageError
from edgekit.targets import systems
from edgekit.targets.bundle import bundle
from edgekit.targets.local import Local

_REPLACED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([0-9][A-Za-z0-9.]*)")


@dataclass(frozen=True)
class Board:
    """What is emulated.

    Attributes:
        name: As the user names it, after `emulator:`.
        profile: Of the board.
        recipe: Of its system.
        qemu: The program.
        cpu: What it calls the core.
        cpuinfo: `/proc/cpuinfo` of the board.
    """

    name: str
    profile: Profile
    recipe: systems.Recipe
    qemu: str
    cpu: str
    cpuinfo: str

    @property
    def core(self) -> str:
        return self.profile.cpu.clusters[0].core


@dataclass(frozen=True)
class Tried:
    """An engine of an emulated board: whether it runs the tiny model of its format."""

    name: str
    version: str
    ok: bool
    detail: str


class Emulated(Local):
    """See `Target`; files are where they are, jobs run in the board's Python.

    Attributes:
        python: Of the board: a program that this machine can start.
        modules: EdgeKit's for it; what PYTHONPATH names there.
    """

    timed: ClassVar[bool] = False

    def __init__(self, board: Board, system: systems.System, qemu: str) -> None:
        super().__init__()
        self.name = f"emulator:{board.name}"
        self.core = board.core
        self._stack.enter_context(systems.used(system))
        self.python = _launcher(board, system, qemu)
        self.modules = _modules()

    def link(self, log: Path) -> Link:
        return Spawned(log, [str(self.python), "-P"], {"PYTHONPATH": str(self.modules)})


def open_target(rest: str) -> Emulated:
    """The board `emulator:REST`.

    Raises:
        TargetError: `emulator-missing`: it was not set up; `emulator-qemu`: qemu is not installed.
        UsageError: `unknown-name`; `emulator-unsupported`: no emulation of that board.
    """
    board = describe(rest)
    system = systems.find(board.recipe)
    if system is None:
        raise TargetError(
            "emulator-missing",
            f"{rest} is not set up here",
            next_step=f"Run `edgekit emulator setup {rest}` once; it takes about a minute.",
        )
    return Emulated(board, system, _qemu(board))


def setup(rest: str, progress: Progress) -> tuple[systems.System, list[Tried]]:
    """Set a board up, and try its engines there.

    Raises:
        TargetError: `emulator-qemu`, `emulator-download`, `emulator-pip`, `emulator-space`, `emulator-cache`.
    """
    board = describe(rest)
    qemu = _qemu(board)
    system = systems.build(board.recipe, progress)
    progress({"stage": "engines"})
    with Emulated(board, system, qemu) as place:
        return system, [_try(place, board, name) for name in _engines(board.profile)]


def describe(rest: str) -> Board:
    """What `emulator:REST` means."""
    name, *replaced = rest.split("+")
    profile = load_profile(name)
    machine = profile.os.machine
    table = systems.data()
    core = profile.cpu.clusters[0].core
    known = table["cores"].get(core, {})
    if machine == "x86_64" or (machine in table["systems"] and machine not in known):
        raise UsageError(
            "emulator-unsupported", f"{core} cores are not emulated; known: {', '.join(table['cores'])}",
            next_step="Use --target local for a board of this machine's kind, or ssh:// for the board itself.",
        )  # fmt: skip
    recipe = systems.recipe(machine, _wheels(profile, replaced))
    return Board(rest, profile, recipe, table["systems"][machine]["qemu"], known[machine], _cpuinfo(profile))


def _wheels(profile: Profile, replaced: list[str]) -> dict[str, str]:
    """Distribution -> version: the profile's engines, one a format, with those that the name replaces."""
    wheels = {}
    for name, engine in _engines(profile).items():
        if systems.PYTHON not in engine.pythons:
            raise UsageError(
                "emulator-unsupported",
                f"{name} {engine.version} has no wheel for Python {systems.PYTHON}, which is what is emulated",
            )
        wheels[engine.distribution] = str(engine.version)
    for text in replaced:
        match = _REPLACED.fullmatch(text)
        if match is None:
            raise UsageError("unknown-target", f"{text!r} names no wheel; write it like onnxruntime==1.21.0")
        wheels[match[1]] = match[2]
    return wheels


def _engines(profile: Profile) -> dict[str, Any]:
    """The newest engine of each format that has wheels there."""
    found = {name: engine for name, engine in profile.engines.items() if engine.version}
    if "litert" in found:
        found.pop("tflite-runtime", None)
    return found


def _cpuinfo(profile: Profile) -> str:
    table = systems.data()
    features = table["features"][profile.os.machine]
    words = [features["always"], *(features[name] for name in profile.cpu.isa if name in features)]
    cores = [cluster.core for cluster in profile.cpu.clusters for _ in range(cluster.count)]
    blocks = []
    for number, core in enumerate(cores):
        part = table["cores"].get(core, table["cores"][profile.cpu.clusters[0].core])["part"]
        blocks.append(
            f"processor\t: {number}\nBogoMIPS\t: 108.00\nFeatures\t: {' '.join(words)}\nCPU implementer\t: 0x41\n"
            f"CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {part}\nCPU revision\t: 3\n"
        )
    return "\n".join(blocks) + "\n"


def _try(place: Emulated, board: Board, engine: str) -> Tried:
    from edgekit.doctor import Trial, try_engine, write_tiny

    name = "onnxruntime" if engine == "onnxruntime" else "litert"
    distribution = board.profile.engines[engine].distribution
    version = next(wheel for wheel in board.recipe.wheels if wheel.startswith(f"{distribution}==")).partition("==")[2]
    with files.scratch() as folder:
        trial = Trial(name, place.put(write_tiny(name, folder)))
        try:
            return Tried(engine, place.perform(try_engine, trial).version, ok=True, detail="ok")
        except EngineError as error:
            return Tried(engine, version, ok=False, detail=error.message)


def _qemu(board: Board) -> str:
    for name in (board.qemu, f"{board.qemu}-static"):
        found = shutil.which(name)
        if found is not None:
            return found
    raise TargetError(
        "emulator-qemu", f"{board.qemu} is not installed, which emulates {board.core}", next_step=_how_to_install()
    )


def _how_to_install() -> str:
    try:
        told = Path("/etc/os-release").read_text(encoding="utf-8")
    except OSError:
        return "Install qemu's user-mode emulation (on Linux; there is none elsewhere)."
    for word, command in (
        ("fedora", "sudo dnf install qemu-user"),
        ("arch", "sudo pacman -S qemu-user"),
        ("suse", "sudo zypper install qemu-linux-user"),
        ("alpine", "sudo apk add qemu-aarch64 qemu-arm"),
    ):
        if re.search(rf"^ID(_LIKE)?=.*{word}", told, re.MULTILINE):
            return f"Run `{command}`."
    return "Run `sudo apt install qemu-user`."


def _launcher(board: Board, system: systems.System, qemu: str) -> Path:
    """The board's Python: a script that anything may start which starts a Python."""
    key = hashlib.sha256(f"{qemu} {board.cpu} {board.cpuinfo}".encode()).hexdigest()[:12]
    place = systems.cache() / "boards" / f"{system.name}-{key}"
    python = place / "python"
    if python.exists():
        return python
    building = place.with_name(f"{place.name}.{os.getpid()}")
    shutil.rmtree(building, ignore_errors=True)
    (building / "proc").mkdir(parents=True)
    for item in Path(system.folder).iterdir():
        if item.is_dir():
            (building / item.name).symlink_to(os.path.relpath(item, place))
    (building / "proc" / "cpuinfo").write_text(board.cpuinfo, encoding="utf-8")
    home = place / "usr"
    command = [
        qemu, "-L", str(place), "-cpu", board.cpu, "-E", f"PYTHONHOME={home}", "-0", str(python),
        str(home / "bin" / f"python{systems.PYTHON}"),
    ]  # fmt: skip
    script = building / "python"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    try:
        building.rename(place)
    except OSError:  # another process was faster
        shutil.rmtree(building)
    return python


def _modules() -> Path:
    """EdgeKit's modules for the board, by content."""
    packed = bundle()
    place = systems.cache() / "modules" / packed.digest[:16]
    if not place.is_dir():
        building = place.with_name(f"{place.name}.{os.getpid()}")
        packed.unpack(building)
        try:
            building.rename(place)
        except OSError:  # another process was faster
            shutil.rmtree(building)
    return place
