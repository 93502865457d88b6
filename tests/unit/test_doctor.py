"""The doctor: engines that run, and engines that crash."""

from __future__ import annotations

import json

from edgekit import artifact, cli, doctor
from edgekit.formats import read_facts


def test_both_engines_answer_the_tiny_models(capsys):
    assert cli.run(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ready"] is True
    assert {(engine["name"], engine["status"]) for engine in report["engines"]} == {
        ("litert", "ok"), ("onnxruntime", "ok"),
    }  # fmt: skip


def test_the_tiny_models_are_models():
    for data, format in ((doctor.tiny_onnx(), "onnx"), (doctor.tiny_tflite(), "tflite")):
        opened = artifact.from_bytes(data)
        assert opened.format == format
        assert read_facts(opened).op_counts() in ({"Relu": 1}, {"RELU": 1})


def test_a_broken_engine_is_explained(monkeypatch, capsys):
    """A file that no engine opens stands in for an engine that fails."""
    monkeypatch.setattr(doctor, "tiny_tflite", lambda: doctor.tiny_tflite_broken)
    monkeypatch.setattr(doctor, "tiny_tflite_broken", b"\x1c\0\0\0TFL3" + b"\xff" * 64, raising=False)
    monkeypatch.setattr(doctor, "tiny_onnx", lambda: b"\x08\x07:\x02\x12\x00B\x04\n\x00\x10\r")
    assert cli.run(["doctor", "--json"]) == 7
    report = json.loads(capsys.readouterr().out)
    assert report["ready"] is False
    for engine in report["engines"]:
        assert engine["status"] == "broken"
        assert engine["detail"]
