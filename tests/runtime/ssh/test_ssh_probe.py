"""A board over SSH is probed with measurements: its profile validates, and predictions rest on it."""

from __future__ import annotations

import json

import pytest

from edgekit import cli
from edgekit.device_profiles import load_profile
from edgekit.micro import nets
from edgekit.targets import pricing


def test_what_a_board_takes_becomes_its_profile(board, artifacts, monkeypatch, tmp_path, capsys):
    pytest.importorskip("ai_edge_litert")
    every = nets.nets(quick=True)
    monkeypatch.setattr(pricing.nets, "nets", lambda *, quick: tuple(every[:: len(every) // 12]))
    monkeypatch.setattr(pricing, "QUICK_SECONDS", 0.1)
    monkeypatch.setattr(pricing, "thread_counts", lambda cores: [1])
    path = tmp_path / "kitchen.toml"
    assert cli.run(["devices", "probe", "--quick", "--target", board.target, "-o", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["target"] == board.target
    assert cli.run(["devices", "validate", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["profiles"][0]["valid"]
    profile = load_profile(path)
    assert {"litert-fp32-1", "litert-int8-1"} <= set(profile.costs)
    assert set(told["fit_error"]) == set(profile.costs)
    assert board.target in profile.source("costs.litert-fp32-1")
    words = ["check", str(artifacts["int8.tflite"]), "--device", str(path), "--threads", "1", "--json"]
    assert cli.run(words) == 0
    latency = json.loads(capsys.readouterr().out)["latency_ms"]
    assert latency["basis"].startswith(f"measured on {board.target}: ")
    assert 0 < latency["low"] < latency["estimate"] < latency["high"]
