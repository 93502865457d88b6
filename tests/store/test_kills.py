"""Killed at every system call of receive, install, switch, roll back and prune."""

from __future__ import annotations

import shutil
from collections import Counter

import pytest
from kill_points import calls, killed
from store_case import MARKER, NAME, NEW, OLD, change, healthy, leftovers, script

from edgekit.store import Shelf

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
_EVERY = 53
"""In an ordinary run each n-th point; all of them with --run-stress."""


def test_whoever_is_killed_leaves_the_old_version_or_the_new(root, tmp_path, effort):
    copy = tmp_path / "traced"
    shutil.copytree(root, copy)
    points = calls(script(copy), MARKER, tmp_path / "log")
    assert len(points) > 500
    codes = Counter()
    for number, (name, which) in enumerate(points):
        if effort == 1 and number % _EVERY:
            continue
        copy = tmp_path / f"run-{number}"
        shutil.copytree(root, copy)
        codes[killed(script(copy), name, which)] += 1
        assert healthy(copy) in (OLD, NEW), (name, which)
        change(copy)  # the next run heals
        assert healthy(copy) == NEW, (name, which)
        assert leftovers(copy) == [], (name, which)
        assert not Shelf(NAME, copy).busy()
        shutil.rmtree(copy)
    print(f"{codes.total()} of {len(points)} points")
    assert codes[-9] + codes[137] >= 0.95 * codes.total(), codes
