"""Killed at every system call of a snapshot: the state is the one before or the new one, and nothing else is left."""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from kill_points import calls, killed

from edgekit.monitor import state
from edgekit.monitor.build import Builder
from edgekit.monitor.monitor import Monitor
from edgekit.reading import Interpret
from edgekit.tensors import TensorSpec

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
MARKER = "/here-begins-the-snapshot"
BEFORE, AFTER = 100, 160
_EVERY = 7
"""In an ordinary run each n-th point; all of them with --run-stress."""

HOW = Interpret("regression")
ROWS, VALUE = (TensorSpec("x", (None, 3), "float32"),), (TensorSpec("y", (None, 1), "float32"),)


def watched(folder: Path, number: int) -> Monitor:
    """A monitor that goes on with so many samples, the same ones for everybody."""
    x = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
    builder = Builder(ROWS, VALUE, None, HOW)
    builder.add({"x": x}, {"y": x[:, :1]})
    monitor = Monitor(builder.finish(), ROWS, VALUE, None, HOW, folder=folder, degrees=lambda: None)
    monitor.observe({"x": x[:number]}, {"y": x[:number, :1]})
    return monitor


def snapshot(folder: Path) -> None:
    """What is interrupted; everything before the marker is Python's start, and what the process does at its end is no
    part of it.
    """
    monitor = watched(folder, AFTER - BEFORE)
    os.path.exists(MARKER)  # noqa: PTH110 - the call that is looked for
    monitor.snapshot()
    os._exit(0)


def script(folder: Path) -> list[str]:
    code = (
        f"import sys; sys.path[:0] = {[str(Path(__file__).parent), *sys.path]!r}\n"
        "import test_state_kills\n"
        f"test_state_kills.snapshot(test_state_kills.Path({str(folder)!r}))\n"
    )
    return [sys.executable, "-c", code]


def test_whoever_is_killed_leaves_one_whole_state(tmp_path, effort):
    before = tmp_path / "before"
    watched(before, BEFORE).snapshot()
    copy = tmp_path / "traced"
    shutil.copytree(before, copy)
    points = calls(script(copy), MARKER, tmp_path / "log")
    assert len({name for name, _ in points} & {"fsync", "rename", "write"}) == 3
    found, codes = Counter(), Counter()
    for number, (name, which) in enumerate(points):
        if effort == 1 and number % _EVERY and name not in ("fsync", "rename"):
            continue
        copy = tmp_path / f"run-{number}"
        shutil.copytree(before, copy)
        codes[killed(script(copy), name, which)] += 1
        after = watched(copy, 0)
        assert after.status()["state"] == {"found": "resumed", "failed": 0}
        found[after.samples] += 1
        after.snapshot()  # takes away what the other left
        assert {path.name for path in copy.iterdir()} == {state.NAME, state.LOCK}, (name, which)
    assert set(found) == {BEFORE, AFTER}, found
    assert codes[-9] + codes[137] >= 0.95 * codes.total(), codes
