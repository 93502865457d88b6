"""Killed at every system call of receive, install, switch, roll back and prune."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from store_case import MARKER, NAME, NEW, OLD, change, healthy, leftovers, script

from edgekit.store import Shelf

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
_SYSCALL = re.compile(r"^(?:\d+ +)?([a-z0-9_]+)\(")
_EVERY = 53
"""In an ordinary run each n-th point; all of them with --run-stress."""


def calls(root: Path, log: Path) -> list[tuple[str, int]]:
    """(system call, its how-manyth in the process) of everything behind the marker."""
    subprocess.run(["strace", "-f", "-o", log, *script(root)], check=True, capture_output=True)
    seen: Counter[str] = Counter()
    found, begun = [], False
    for line in log.read_text(errors="replace").splitlines():
        if (match := _SYSCALL.match(line)) is None:
            continue
        seen[match[1]] += 1
        begun = begun or MARKER in line
        if begun and match[1] not in ("exit_group", "execve"):
            found.append((match[1], seen[match[1]]))
    return found


def test_whoever_is_killed_leaves_the_old_version_or_the_new(root, tmp_path, effort):
    copy = tmp_path / "traced"
    shutil.copytree(root, copy)
    points = calls(copy, tmp_path / "log")
    assert len(points) > 500
    killed = Counter()
    for number, (name, which) in enumerate(points):
        if effort == 1 and number % _EVERY:
            continue
        copy = tmp_path / f"run-{number}"
        shutil.copytree(root, copy)
        inject = f"--inject={name}:signal=KILL:when={which}"
        done = subprocess.run(
            ["strace", "-f", "-o", "/dev/null", f"--trace={name}", inject, *script(copy)],
            check=False, capture_output=True,
        )  # fmt: skip
        killed[done.returncode] += 1
        assert healthy(copy) in (OLD, NEW), (name, which)
        change(copy)  # the next run heals
        assert healthy(copy) == NEW, (name, which)
        assert leftovers(copy) == [], (name, which)
        assert not Shelf(NAME, copy).busy()
        shutil.rmtree(copy)
    print(f"{killed.total()} of {len(points)} points")
    assert killed[-9] + killed[137] >= 0.95 * killed.total(), killed
