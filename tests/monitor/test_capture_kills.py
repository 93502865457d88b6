"""Killed at every system call of capturing: the quota holds at that moment, and no sample is torn."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from capture_case import MARKER, QUOTA, fill, records, script, strays, taken

from edgekit.monitor.ring import Bounds, Ring

_SYSCALL = re.compile(r"^(?:\d+ +)?([a-z0-9_]+)\(")
_COUNT = 16
_EVERY = 89
"""In an ordinary run each n-th point; all of them with --run-stress."""


def calls(folder: Path, log: Path) -> list[tuple[str, int]]:
    """(system call, its how-manyth in the process) of everything behind the marker."""
    subprocess.run(["strace", "-f", "-o", log, *script(folder, _COUNT)], check=True, capture_output=True)
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


def sound(folder: Path) -> list[int]:
    """Whatever happened: within the quota, in order, whole, and nothing else lies there."""
    assert taken(folder) <= QUOTA
    found = records(folder)
    assert found == list(range(found[0], found[-1] + 1)) if found else True
    assert strays(folder) == []
    return found


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_whoever_is_killed_tears_nothing_and_takes_no_more(tmp_path, effort):
    before = tmp_path / "before"
    fill(before, 25)  # full: much of what is traced makes room
    old = sound(before)
    copy = tmp_path / "traced"
    shutil.copytree(before, copy)
    points = calls(copy, tmp_path / "log")
    assert len(points) > 200
    killed = Counter()
    for number, (name, which) in enumerate(points):
        if effort == 1 and number % _EVERY:
            continue
        copy = tmp_path / f"run-{number}"
        shutil.copytree(before, copy)
        inject = f"--inject={name}:signal=KILL:when={which}"
        done = subprocess.run(
            ["strace", "-f", "-o", "/dev/null", f"--trace={name}", inject, *script(copy, _COUNT)],
            check=False, capture_output=True,
        )  # fmt: skip
        killed[done.returncode] += 1
        assert taken(copy) <= QUOTA, (name, which)
        left = records(copy)
        assert strays(copy) == []
        assert not left or left[-1] in (old[-1], *range(_COUNT)), (name, which)
        Ring(copy, "case", Bounds(QUOTA)).close()  # the next writer heals
        assert records(copy) == left, (name, which)
        assert taken(copy) <= QUOTA
        shutil.rmtree(copy)
    # How often some calls come (futex, mmap) differs a little from run to run: the last ones may not come at all.
    assert killed[-9] + killed[137] >= min(0.95 * killed.total(), killed.total() - 1), killed


def test_whoever_is_killed_at_any_time_tears_nothing(tmp_path, effort):
    """The same without strace, by the clock: also in the middle of what is no system call."""
    dice = random.Random(3)
    folder = tmp_path / "c"
    for _ in range(6 if effort == 1 else 200):
        process = subprocess.Popen(script(folder, 100_000))
        while not folder.exists():
            assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(dice.uniform(0.0, 0.4))
        process.kill()
        process.wait()
        assert taken(folder) <= QUOTA
        assert strays(folder) == []
        numbers = records(folder)
        steps = {after - before for before, after in pairwise(numbers)}
        assert all(step == 1 or step < 0 for step in steps), steps  # a new process counts from 0
