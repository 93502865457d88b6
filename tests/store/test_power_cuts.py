"""The power goes: from a recorded trace of system calls, the states that a disk may be left in.

What was written but not synced may be there, or not, or in part; a name that was made, changed or removed in a folder
that was not synced since may be so or not, each for itself. From every such state the active version must be the old
one or the new one, whole. A trace with any one of its fsyncs taken out must fail this test, or it proves nothing.
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

import pytest
from store_case import MARKER, NAME, NEW, OLD, change, healthy, leftovers, script

from edgekit.errors import EdgeKitError

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
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
        names: Path -> inode, as synced. data: Inode -> bytes, as synced.
        live_names, live_data: The same, as a running system sees it.
        pending: Changes of names that were not synced: (folder, path, inode or None).
    """

    names: dict[str, int] = field(default_factory=dict)
    data: dict[int, bytes] = field(default_factory=dict)
    live_names: dict[str, int] = field(default_factory=dict)
    live_data: dict[int, bytes] = field(default_factory=dict)
    pending: list[tuple[str, str, int | None]] = field(default_factory=list)
    count: itertools.count = field(default_factory=itertools.count)

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
            case "rename":
                inode = self.live_names[step.path]
                self._name(step.other, inode)
                self._name(step.path, None)
            case "unlink":
                self._name(step.path, None)
            case "sync":
                if step.path in self.live_names:
                    inode = self.live_names[step.path]
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
            synced, live = self.data.get(inode, b""), self.live_data[inode]
            state[path] = synced if synced == live else dice.choice(_torn(synced, live, dice))
        return state


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
    if " = -1 " in line:
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
    if match := re.match(rf"(?:unlink|mkdir)\({_TEXT}", line):
        return Step("unlink", _plain(match[1])) if line.startswith("unlink") else None
    if line.startswith(("+++", "---", "stat", "newfstatat")) or MARKER.encode().hex(" ").replace(" ", "\\x") in line:
        return None
    raise AssertionError(f"not understood: {line[:200]}")


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def _plain(text: str) -> str:
    return _bytes(text).decode()


@pytest.fixture
def traced(root, tmp_path):
    """(the store before, the steps, the path that they were recorded at)"""
    copy, log = tmp_path / "traced", tmp_path / "log"
    shutil.copytree(root, copy)
    command = ["strace", "-f", "-o", log, "-y", "-xx", "-s", "10000000", f"--trace={TRACED},?stat,?newfstatat"]
    subprocess.run([*command, *script(copy)], check=True, capture_output=True)
    return root, steps(log, copy), copy


def disk_of(root: Path, at: Path) -> Disk:
    """A disk that surely holds what lies below `root`."""
    disk = Disk()
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        inode = next(disk.count)
        name = str(at / path.relative_to(root))
        disk.names[name] = disk.live_names[name] = inode
        disk.data[inode] = disk.live_data[inode] = path.read_bytes()
    return disk


def looked_at(root: Path, trace: list[Step], at: Path, place: Path, per_step: int, heal_every: int) -> Iterator[bool]:
    """For each state, laid out at `place`: whether it holds what it must."""
    disk, dice = disk_of(root, at), random.Random(1)
    seen = 0
    for number, step in enumerate(trace, 1):
        disk.take(step)
        for _ in range(per_step if number < len(trace) else 20):
            shutil.rmtree(place, ignore_errors=True)
            (place / NAME).mkdir(parents=True)
            for path, data in disk.after_a_cut(dice).items():
                target = place / Path(path).relative_to(at)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
            seen += 1
            try:
                found = healthy(place)
                assert found == NEW or number < len(trace)  # what was told to be done stays done
                if seen % heal_every == 0:
                    change(place)
                    assert healthy(place) == NEW
                    assert leftovers(place) == []
            except (EdgeKitError, AssertionError):
                yield False
            else:
                yield True


def test_no_power_cut_leaves_half_a_version(traced, tmp_path, effort):
    root, trace, at = traced
    assert {step.kind for step in trace} == {"create", "write", "sync", "rename", "unlink"}
    right = list(looked_at(root, trace, at, tmp_path / "cut", per_step=3 if effort == 1 else 40, heal_every=29))
    assert all(right)
    assert len(right) > (2000 if effort > 1 else 200)


def test_a_missing_fsync_is_noticed(traced, tmp_path):
    """Taking out the syncs of one file, or of one folder, makes states that are neither old nor new."""
    root, trace, at = traced
    synced = sorted({_role(step.path, at) for step in trace if step.kind == "sync"})
    assert synced == ["incoming file", "model folder", "record", "versions folder"]
    for role in synced:
        less = [step for step in trace if not (step.kind == "sync" and _role(step.path, at) == role)]
        right = looked_at(root, less, at, tmp_path / "cut", per_step=6, heal_every=10**9)
        assert not all(right), f"without the fsync of {role} nothing was noticed"


def _role(path: str, at: Path) -> str:
    relative = Path(path).relative_to(at)
    if relative == Path(NAME):
        return "model folder"
    if relative.name == "versions":
        return "versions folder"
    return (
        "incoming file"
        if relative.parent.name == "incoming"
        else "record"
        if "record" in relative.name
        else str(relative)
    )


def test_the_old_version_is_what_the_test_began_with(root):
    assert healthy(root) == OLD
