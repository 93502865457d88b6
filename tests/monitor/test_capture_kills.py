"""Killed at every system call of capturing: the quota holds at that moment, and no sample is torn."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from capture_case import MARKER, QUOTA, fill, records, script, strays, taken
from kill_points import calls, killed

from edgekit.monitor.bounds import Bounds
from edgekit.monitor.ring import Ring

_COUNT = 16
_EVERY = 89
"""In an ordinary run each n-th point; all of them with --run-stress."""

_VARYING = {"futex", "mmap", "munmap", "mprotect", "mremap", "madvise", "brk"}
"""Memory and locks, which touch no file: how often they are asked for differs a little from run to run."""


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
    points = [point for point in calls(script(copy, _COUNT), MARKER, tmp_path / "log") if point[0] not in _VARYING]
    assert len(points) > 200
    codes = Counter()
    for number, (name, which) in enumerate(points):
        if effort == 1 and number % _EVERY:
            continue
        copy = tmp_path / f"run-{number}"
        shutil.copytree(before, copy)
        codes[killed(script(copy, _COUNT), name, which)] += 1
        assert taken(copy) <= QUOTA, (name, which)
        left = records(copy)
        assert strays(copy) == []
        assert not left or left[-1] in (old[-1], *range(_COUNT)), (name, which)
        Ring(copy, "case", Bounds(QUOTA)).close()  # the next writer heals
        assert records(copy) == left, (name, which)
        assert taken(copy) <= QUOTA
        shutil.rmtree(copy)
    assert codes[-9] + codes[137] == codes.total() > 0, codes


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
        torn = [pair for pair in pairwise(numbers) if pair[1] not in (pair[0] + 1, 0)]  # a new process counts from 0
        assert torn == []
