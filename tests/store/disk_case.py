"""A disk between two power cuts: recorded system calls, and the states that they may leave it in.

What was written but not synced may be there, or not, or in part; a name that was made, changed or removed in a folder
that was not synced since may be so or not, each for itself.
"""

from __future__ import annotations

import itertools
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from store_case import MARKER, NAME, NEW, healthy, install_new, leftovers, lost, script

from edgekit.errors import EdgeKitError

TRACED = "openat,write,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,ftruncate"
_FD = r"(\d+)<([^>]*)>"
_TEXT = r'"((?:\\x[0-9a-f]{2})*)"'


@dataclass(frozen=True)
class Step:
    """One system call, as the disk sees it."""

    kind: str
    path: str
    data: bytes = b""
    other: str = ""


@dataclass
class Disk:
    """What is surely on the disk, and what is on its way there.

    Attributes:
        names: Path -> inode, as synced. data: Inode -> bytes, as synced; folders have none.
        live_names, live_data: The same, as a running system sees it.
        pending: Changes of names that were not synced: (folder, path, inode or None).
    """

    names: dict[str, int] = field(default_factory=dict)
    data: dict[int, bytes] = field(default_factory=dict)
    live_names: dict[str, int] = field(default_factory=dict)
    live_data: dict[int, bytes] = field(default_factory=dict)
    pending: list[tuple[str, str, int | None]] = field(default_factory=list)
    count: itertools.count = field(default_factory=itertools.count)
    folders: set[str] = field(default_factory=set)

    def take(self, step: Step) -> None:
        match step.kind:
            case "create":
                if step.path not in self.live_names:
                    self._name(step.path, next(self.count))
                    self.live_data[self.live_names[step.path]] = b""
            case "write":
                self.live_data[self.live_names[step.path]] += step.data
            case "truncate":
                self.live_data[self.live_names[step.path]] = b""
            case "mkdir":
                self.folders.add(step.path)
                self._name(step.path, next(self.count))
            case "rename":
                inode = self.live_names[step.path]
                self._name(step.other, inode)
                self._name(step.path, None)
            case "unlink":
                self._name(step.path, None)
            case "sync":
                inode = self.live_names.get(step.path)
                if inode in self.live_data:
                    self.data[inode] = self.live_data[inode]
                for folder, path, inode in [p for p in self.pending if p[0] == step.path]:
                    self._settle(path, inode)
                    self.pending.remove((folder, path, inode))

    def _name(self, path: str, inode: int | None) -> None:
        self.pending.append((str(Path(path).parent), path, inode))
        if inode is None:
            self.live_names.pop(path, None)
        else:
            self.live_names[path] = inode

    def _settle(self, path: str, inode: int | None) -> None:
        if inode is None:
            self.names.pop(path, None)
        else:
            self.names[path] = inode

    def after_a_cut(self, dice: random.Random) -> dict[str, bytes]:
        """Path -> bytes of one state that the disk may be in."""
        names = dict(self.names)
        for _, path, inode in self.pending:
            if dice.random() < 0.5:
                if inode is None:
                    names.pop(path, None)
                else:
                    names[path] = inode
        state = {}
        for path, inode in names.items():
            if inode not in self.live_data or not self._reached(path, names):
                continue
            synced, live = self.data.get(inode, b""), self.live_data[inode]
            state[path] = synced if synced == live else dice.choice(_torn(synced, live, dice))
        return state

    def _reached(self, path: str, names: dict[str, int]) -> bool:
        """Whether all folders above it, as far as they were made here, are there."""
        return all(folder in names for folder in map(str, Path(path).parents) if folder in self.folders)


def _torn(synced: bytes, live: bytes, dice: random.Random) -> list[bytes]:
    """Not written, written in part, the last block full of zeros, written."""
    cut = dice.randrange(len(live) + 1)
    return [synced, live[:cut], live[:cut] + b"\0" * (len(live) - cut), b"\0" * len(live), live]


def steps(log: Path, root: Path) -> list[Step]:
    """What happened below `root` behind the marker."""
    text = log.read_text().splitlines()
    begin = next(number for number, line in enumerate(text) if MARKER.encode().hex(" ").replace(" ", "\\x") in line)
    found: list[Step] = []
    for line in text[begin:]:
        if (step := _step(line)) is not None and step.path.startswith(str(root)):
            found.append(step)
    return found


def _step(line: str) -> Step | None:
    line = re.sub(r"^\d+ +", "", line)
    if " = -1 " in line or " = ?" in line:  # refused, or killed before it was done
        return None
    if match := re.match(rf"openat\([^,]*, {_TEXT}, ([A-Z_|]+)", line):
        return Step("create", _plain(match[1])) if "O_CREAT" in match[2] else None
    if match := re.match(rf"write\({_FD}, {_TEXT}", line):
        return Step("write", _plain(match[2]), _bytes(match[3]))
    if match := re.match(rf"f(?:data)?sync\({_FD}\)", line):
        return Step("sync", _plain(match[2]))
    if match := re.match(rf"ftruncate\({_FD}, 0\)", line):
        return Step("truncate", _plain(match[2]))
    if match := re.match(rf"rename\({_TEXT}, {_TEXT}\)", line):
        return Step("rename", _plain(match[1]), other=_plain(match[2]))
    if match := re.match(rf"(unlink|mkdir)\({_TEXT}", line):
        return Step(match[1], _plain(match[2]))
    if line.startswith(("+++", "---", "stat", "newfstatat")) or MARKER.encode().hex(" ").replace(" ", "\\x") in line:
        return None
    raise AssertionError(f"not understood: {line[:200]}")


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def _plain(text: str) -> str:
    return _bytes(text).decode()


def record(root: Path, log: Path, what: str = "change", without: str = "", kill: str = "") -> list[Step]:
    """Do something to the store at `root`, in a process of its own; what it did to the disk.

    Args:
        root: Folder of all models.
        log: Where strace writes.
        what, without: See `store_case.script`.
        kill: Where it is killed, as strace injects it; "" for nowhere.
    """
    inject = [f"--inject={kill}"] if kill else []
    command = ["strace", "-f", "-o", log, "-y", "-xx", "-s", "10000000", f"--trace={TRACED},?stat,?newfstatat", *inject]
    subprocess.run([*command, *script(root, what, without)], check=not kill, capture_output=True)
    return steps(log, root)


def disk_of(root: Path, at: Path) -> Disk:
    """A disk that surely holds what lies below `root`, as if that were `at`."""
    disk = Disk()
    for path in sorted(root.rglob("*")):
        name, inode = str(at / path.relative_to(root)), next(disk.count)
        disk.names[name] = disk.live_names[name] = inode
        if path.is_dir():
            disk.folders.add(name)
        else:
            disk.data[inode] = disk.live_data[inode] = path.read_bytes()
    return disk


def looked_at(disk: Disk, trace: list[Step], at: Path, place: Path, per_step: int, heal_every: int) -> Iterator[str]:
    """For each state, laid out at `place`: what is wrong with it, "" for nothing.

    All versions that the record names are whole, the active one is the one before or the new one; after the last step
    it is what was told to be so, and versions that were told to be gone are.
    """
    dice = random.Random(1)
    allowed = (
        {None, NEW} if not disk.names else {NEW, *(data for data in disk.data.values() if data.startswith(b"old"))}
    )
    seen = 0
    for number, step in enumerate(trace, 1):
        disk.take(step)
        over = number == len(trace)
        for _ in range(20 if over else per_step):
            lay_out(disk.after_a_cut(dice), at, place)
            seen += 1
            try:
                if over:  # what was told to be gone is; the rest goes with the next run
                    assert not [path for path in leftovers(place) if path.startswith("versions")], leftovers(place)
                found = healthy(place)
                assert found in ({NEW} if over else allowed), found
                assert lost(place) == [], lost(place)
                if seen % heal_every == 0:
                    install_new(place)
                    assert healthy(place) == NEW
                    assert leftovers(place) == []
            except (EdgeKitError, AssertionError) as error:
                yield f"after step {number} of {len(trace)}, {step.kind} {step.path}: {error}"
            else:
                yield ""


def lay_out(state: dict[str, bytes], at: Path, place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    (place / NAME).mkdir(parents=True)
    for path, data in state.items():
        target = place / Path(path).relative_to(at)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
