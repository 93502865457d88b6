"""Deploying over SSH: links that are cut, and what is there already."""

from __future__ import annotations

import random
import shutil

import numpy as np
import pytest

from edgekit import artifact as artifacts_module
from edgekit.deploy import fleet
from edgekit.deploy.trial import Bounds
from edgekit.errors import EdgeKitError
from edgekit.store import Shelf

NAME = "people-counter"
WORDS = 1 << 13
"""Bytes by which what is said beside the file may differ from one deployment to the next."""


def asked(path, root):
    return fleet.Deployment(path, NAME, str(root), seconds=0.2, bounds=Bounds(slower=1000))


def active(root):
    return Shelf(NAME, root).settled().active


def test_a_board_keeps_versions_and_returns_to_one(board, artifacts_of_both, tmp_path):
    old, new = artifacts_of_both
    root = tmp_path / "models"
    assert fleet.deploy(asked(old, root), board.target).number == 1
    assert fleet.deploy(asked(new, root), board.target).number == 2
    (shown,) = fleet.show(board.target, NAME, str(root))
    assert shown.record.active == artifacts_module.read(new).sha256
    assert fleet.roll_back(board.target, NAME, "test", str(root)).record.active == artifacts_module.read(old).sha256
    assert active(root) == artifacts_module.read(old).sha256


def test_cut_links_activate_nothing_half_and_nothing_is_sent_twice(proxy, board, tmp_path, monkeypatch, effort):
    """Whatever the offset: the old version or the new one, and the next run succeeds with what is left to send."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    paths = [tmp_path / "old.tflite", tmp_path / "new.tflite"]
    for number, path in enumerate(paths):
        path.write_bytes(_wide(float(number)))
    old, new = paths
    root, before = tmp_path / "models", tmp_path / "before"
    fleet.deploy(asked(old, root), board.through)
    shutil.copytree(root, before)
    known = {artifacts_module.read(path).sha256 for path in paths}

    def begin() -> None:
        """The old version is active, and nothing of the new one is on the board."""
        shutil.rmtree(root)
        shutil.copytree(before, root)
        for path in (board.base / "files").iterdir():
            path.unlink()
        shutil.rmtree(tmp_path / "cache")  # no differences: the whole file is sent

    def arrived() -> int:
        """Bytes of the new version that the board wrote down."""
        assert board.gone()
        return sum(path.stat().st_size for path in (board.base / "files").iterdir())

    begin()
    fleet.deploy(asked(new, root), board.through)
    whole, dice, again, parts = proxy.passed, random.Random(4), [], 0
    for _ in range(2 if effort == 1 else 200):
        begin()
        proxy.cut_after = dice.randrange(whole)
        try:
            fleet.deploy(asked(new, root), board.through)
        except EdgeKitError as error:
            assert error.exit_code == 8, error.code
        proxy.cut_after = None
        assert active(root) in known
        there = arrived()
        parts += 0 < there < new.stat().st_size
        fleet.deploy(asked(new, root), board.through)
        assert active(root) == artifacts_module.read(new).sha256
        again.append(proxy.passed - (whole - there))
        assert again[-1] <= WORDS, (there, whole, proxy.passed)
    again.sort()
    print(f"{len(again)} cuts, {parts} within the file; sent again: {again[-1]} bytes at most")


@pytest.fixture
def artifacts_of_both(artifacts):
    """Two versions of one model."""
    return artifacts["fp32.tflite"], artifacts["int8.tflite"]


def test_a_new_version_travels_as_a_difference(proxy, board, tmp_path, monkeypatch, artifacts):
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    old = tmp_path / "old.tflite"
    graph = _wide(0.0)
    old.write_bytes(graph)
    new = tmp_path / "new.tflite"
    new.write_bytes(_wide(1.0))
    sent = []
    for path in (old, new, old):
        fleet.deploy(asked(path, tmp_path / "models"), board.through)
        sent.append(proxy.passed)
    size = len(graph)
    assert sent[0] - sent[1] > 0.8 * size
    assert sent[0] - sent[2] > 0.9 * size
    assert active(tmp_path / "models") == artifacts_module.read(old).sha256


def _wide(last: float) -> bytes:
    """An artifact of half a megabyte; one weight differs."""
    import edgekit
    from edgekit.converters.tflite_graphs.builder import Builder

    weights = np.random.default_rng(0).normal(size=(256, 512)).astype(np.float32)
    weights[-1, -1] = last
    graph = Builder()
    x = graph.input("x", (-1, 512))
    made = graph.op("FULLY_CONNECTED", [x, graph.constant("w", weights), -1], (-1, 256), "y", "FullyConnectedOptions")
    return edgekit.convert(graph.finish([made], signature="serving_default"), to="tflite").data
