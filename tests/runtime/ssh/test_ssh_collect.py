"""Collecting over SSH: whatever the offset at which the link is cut, the same command goes on."""

from __future__ import annotations

import random

import numpy as np
from capture_case import Fake, Time

from edgekit.collect import collect, dataset
from edgekit.monitor.capture import Capture, Plan
from edgekit.monitor.strata import Draw


def test_cut_links_lose_and_double_nothing(proxy, board, tmp_path, effort):
    root = tmp_path / "captures"
    plan = Plan(quota_mb=2, window=1e9, random=Draw(1000))
    dice = np.random.default_rng(0)
    with Capture("noise", Fake(), plan, root=root, clock=Time().clock) as capture:
        for _ in range(20):
            answer = {"p": np.eye(3, dtype=np.float32)[None, 0]}
            capture.offer({"x": dice.normal(size=(1, 20_000)).astype(np.float32)}, answer)
    whole = collect([board.through], tmp_path / "whole", captures=str(root))
    assert (whole.samples, whole.boards[0].error) == (20, None)
    passed, chance = proxy.passed, random.Random(2)
    for number in range(1 if effort == 1 else 60):
        out = tmp_path / f"cut-{number}"
        proxy.cut_after = chance.randrange(passed)
        done = collect([board.through], out, captures=str(root))
        assert done.boards[0].error is None or done.boards[0].error["code"].startswith("target-")
        proxy.cut_after = None
        assert collect([board.through], out, captures=str(root)).samples == 20
        assert {entry.count for entry in dataset.read(out).samples} == {1}
