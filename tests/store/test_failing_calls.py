"""The disk refuses one call after the other: typed errors, and the active version stays."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from store_case import MARKER, NAME, NEW, OLD, healthy, install_new, leftovers, roll_back, script

from edgekit.store import Shelf

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
CALLS = ("write", "fsync", "rename")
CODES = {"ENOSPC": "store-full", "EIO": "store-unwritable", "EROFS": "store-unwritable"}
_EVERY = 29
"""In an ordinary run each n-th point; all of them with --run-stress."""


def points(root: Path, what: str, folder: Path) -> list[tuple[str, int]]:
    """(system call, its how-manyth in the process) of everything behind the marker."""
    copy, log = folder / "counted", folder / "log"
    shutil.copytree(root, copy)
    subprocess.run(["strace", "-o", log, *script(copy, what)], check=True, capture_output=True)
    shutil.rmtree(copy)
    lines = log.read_text(errors="replace").splitlines()
    begin = next(number for number, line in enumerate(lines) if MARKER in line)
    found = []
    for name in CALLS:
        numbers = [number for number, line in enumerate(lines) if re.match(rf"{name}\(", line)]
        found += [(name, which) for which, number in enumerate(numbers, 1) if number > begin]
    return found


def test_no_failing_call_changes_the_active_version(root, tmp_path, effort):
    installed = tmp_path / "installed"
    shutil.copytree(root, installed)
    install_new(installed)
    cases = [
        (before, what, name, which, code)
        for before, what in ((root, "install_new"), (installed, "roll_back"), (installed, "prune"))
        for name, which in points(before, what, tmp_path)
        for code in CODES
    ]
    assert {name for _, _, name, _, _ in cases} == set(CALLS)
    failed = 0
    for before, what, name, which, code in cases if effort > 1 else cases[::_EVERY]:
        copy = tmp_path / "copy"
        shutil.copytree(before, copy)
        inject = f"--inject={name}:error={code}:when={which}"
        done = subprocess.run(
            ["strace", "-o", "/dev/null", f"--trace={name}", inject, *script(copy, what)],
            check=False, capture_output=True, text=True,
        )  # fmt: skip
        where = (what, name, which, code, done.stderr[-300:])
        assert (done.returncode, done.stdout) == (9, f"{CODES[code]}\n"), where
        failed += 1
        assert healthy(copy) == (OLD if what == "install_new" else NEW), where
        install_new(copy)
        assert healthy(copy) == NEW, where
        assert leftovers(copy) == [], where
        roll_back(copy)
        assert not Shelf(NAME, copy).busy()
        shutil.rmtree(copy)
    print(f"{failed} failing calls")
    assert failed > (100 if effort > 1 else 3)
