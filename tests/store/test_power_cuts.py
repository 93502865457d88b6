"""The power goes: from recorded traces of system calls, the states that a disk may be left in.

From every such state the active version must be the old one or the new one, whole. A build that leaves any one of its
fsyncs out must fail this test, or it proves nothing.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
from pathlib import Path

import pytest
from disk_case import Step, disk_of, looked_at, record
from store_case import NAME, change, healthy, install_new, site

from edgekit import files
from edgekit.store import shelf

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
HOW = ("again", "first", "resumed")
SITES = {
    "_copied file": "again",
    "put file": "again",
    "put folder": "again",
    "receive folder": "again",
    "_sweep folder": "again",
    "_made folder": "first",
    "changing folder": "resumed",
}
"""Every fsync -> the way in which it matters."""


def ways(root: Path, folder: Path, how: str, without: str = "", kill: str = "") -> tuple[Path, Path, list[Step]]:
    """(the store before, where the trace was recorded, the trace)

    `again`: a store with versions gets another; `first`: there is no store; `resumed`: whoever did it was killed, and
    the next one goes on.
    """
    before, at = folder / "before", folder / "at"
    for made in (before, at):
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        if how != "first":
            shutil.copytree(root, made, dirs_exist_ok=True)
    if how != "resumed":
        return before, at, record(at, folder / "log", "change" if how == "again" else "install_new", without)
    begun = record(at, folder / "log", "change", without, kill)
    return before, at, begun + record(at, folder / "log", "install_new", without)


def kills(root: Path, folder: Path, without: str = "") -> list[str]:
    """Each fsync of a change, as a place to be killed at: right before it the most is on its way."""
    copy = folder / "counted"
    shutil.copytree(root, copy)
    record(copy, folder / "log", without=without)
    count = len(re.findall(r"^\d+ +fsync\(", (folder / "log").read_text(), re.MULTILINE))
    return [f"fsync:signal=KILL:when={number}" for number in range(1, count + 1)]


def test_no_power_cut_leaves_half_a_version(root, tmp_path, effort):
    many = effort > 1
    seen = 0
    for how in ("again", "first"):
        before, at, trace = ways(root, tmp_path / how, how)
        kinds = {step.kind for step in trace}
        assert kinds == {"create", "write", "sync", "rename", "unlink"} | ({"mkdir"} if how == "first" else set())
        wrong = list(looked_at(disk_of(before, at), trace, at, tmp_path / "cut", 40 if many else 1, heal_every=29))
        assert not any(wrong), next(filter(None, wrong))
        seen += len(wrong)
    points = kills(root, tmp_path)
    for kill in points if many else points[-2:-1]:
        before, at, trace = ways(root, tmp_path / "resumed", "resumed", kill=kill)
        wrong = list(looked_at(disk_of(before, at), trace, at, tmp_path / "cut", 3 if many else 1, heal_every=29))
        assert not any(wrong), (kill, next(filter(None, wrong)))
        seen += len(wrong)
    print(f"{seen} states")
    assert seen > (5000 if many else 150)


@pytest.mark.parametrize("where", SITES)
def test_a_missing_fsync_is_noticed(root, tmp_path, where):
    how = SITES[where]
    for kill in kills(root, tmp_path, where)[-2:] if how == "resumed" else [""]:
        before, at, trace = ways(root, tmp_path / "way", how, where, kill)
        if any(looked_at(disk_of(before, at), trace, at, tmp_path / "cut", per_step=2, heal_every=10**9)):
            return
    pytest.fail(f"without the fsync of {where} nothing was noticed")


def test_these_are_all_fsyncs(root, tmp_path, monkeypatch):
    """Those that run, and those that stand in the source."""
    met: set[str] = set()
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (met.add(site()), real(handle)))
    change(root)
    (tmp_path / "fresh").mkdir()
    install_new(tmp_path / "fresh" / "models")
    assert met == set(SITES)
    written = 0
    for module in (files, shelf):
        for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
            called = node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""
            called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else called
            written += called in ("fsync", "sync_folder")
    assert written == len(SITES) + 1  # and the one inside `sync_folder`


def test_the_old_version_is_what_the_test_began_with(root):
    assert healthy(root) == b"old model " * 900
    assert (root / NAME).is_dir()
