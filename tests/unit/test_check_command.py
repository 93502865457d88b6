"""`edgekit check`: one document, the right exit code, an explanation, a page, and no engine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgekit import cli
from edgekit.device_profiles import all_profiles

HEAVY = {"tensorflow", "torch", "onnx", "onnxruntime", "ai_edge_litert", "tflite_runtime", "flatbuffers", "matplotlib",
         "PIL", "scipy", "sklearn"}  # fmt: skip


def run(capsys, *arguments: object) -> tuple[int, dict]:
    code = cli.run([*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("format", ["tflite", "onnx"])
def test_the_document(tiny_files, capsys, format):
    code, found = run(capsys, "check", tiny_files[format], "--device", "raspberry-pi-4b")
    assert (code, found["fits"], found["device"]) == (0, True, "raspberry-pi-4b")
    for limit in found["limits"]:
        assert set(limit) == {"resource", "required", "available", "unit", "ok", "why", "source"}
    assert set(found["latency_ms"]) == {"estimate", "low", "high", "basis"}
    assert found["latency_ms"]["low"] < found["latency_ms"]["estimate"] < found["latency_ms"]["high"]
    assert 40 < found["memory_mb"]["estimate"] < 70
    assert sum(part["mb"] for part in found["memory_mb"]["parts"]) == pytest.approx(found["memory_mb"]["run"], abs=0.05)
    assert "explain" not in found


def test_explain_adds_ops_memory_and_the_time_line(tiny_files, capsys):
    _, found = run(capsys, "check", tiny_files["tflite"], "--device", "raspberry-pi-4b", "--threads", "2", "--explain")
    explained = found["explain"]
    assert (explained["engine"], explained["threads"]) == ("litert", 2)
    assert 0 < sum(op["share"] for op in explained["ops"]) <= 1  # a call of the engine takes the rest
    line = explained["timeline"]
    assert line["moments"][line["peak"]]["bytes"] == max(moment["bytes"] for moment in line["moments"])
    assert cli.run(["check", str(tiny_files["tflite"]), "--device", "raspberry-pi-4b", "--explain"]) == 0
    shown = capsys.readouterr().out
    assert "Activations: " in shown
    assert "Memory: what it consists of" in shown


def test_a_board_without_an_engine_is_explained_too(tiny_files, capsys):
    code, found = run(capsys, "check", tiny_files["onnx"], "--device", "raspberry-pi-zero-w", "--explain")
    assert code == 6
    assert found["explain"]["engine"] is None
    assert found["explain"]["timeline"] is not None


def test_the_matrix_names_every_board_and_what_limits_it(tiny_files, capsys):
    code, found = run(capsys, "check", tiny_files["tflite"], "--all-devices")
    assert code == 0
    assert [row["device"] for row in found["devices"]] == [profile.name for profile in all_profiles()]
    assert all(row["limiting"] for row in found["devices"])
    assert cli.run(["check", str(tiny_files["tflite"]), "--all-devices"]) == 0
    shown = capsys.readouterr().out
    assert "fitted" in shown
    assert "raspberry-pi-zero-w " in shown


def test_a_budget_of_one_s_own_refuses_with_its_name(tiny_files, tmp_path, capsys):
    profile = tmp_path / "mine.toml"
    profile.write_text('title = "Mine"\ninherits = "raspberry-pi-4b"\n[budget]\nlatency_ms = 0.0001\n')
    code, found = run(capsys, "check", tiny_files["tflite"], "--device", profile)
    assert (code, [limit["resource"] for limit in found["limits"] if not limit["ok"]]) == (6, ["latency"])


def test_what_does_not_go_together(tiny_files, capsys):
    for more in (["--explain"], ["--report", "x.html"]):
        code, found = run(capsys, "check", tiny_files["tflite"], "--all-devices", *more)
        assert (code, found["error"]["code"]) == (2, "device-missing")


def test_the_page(tiny_files, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    page = tmp_path / "check.html"
    code, _ = run(capsys, "check", tiny_files["tflite"], "--device", "raspberry-pi-5", "--report", page)
    assert code == 0
    text = page.read_text()
    assert text.count("<svg") >= 5
    assert "peak" in text


@pytest.mark.parametrize("format", ["tflite", "onnx"])
def test_nothing_heavier_than_numpy_is_imported(tiny_files, format):
    code = (
        "import io, contextlib, json, sys, edgekit.cli\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        f"    assert edgekit.cli.run(['check', {str(tiny_files[format])!r}, '--device', 'raspberry-pi-4b', '--explain',"
        " '--json']) == 0\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seen = set(json.loads(done.stdout.splitlines()[-1]))
    assert not seen & HEAVY
    assert not seen & {"numpy", "rich"}  # not even those, with --json


def test_files_of_any_kind_give_an_error_of_ours(tmp_path, capsys):
    for number, content in enumerate([b"", b"\x00" * 100, b"\x18\x00\x00\x00TFL3" + b"\xff" * 200]):
        path = Path(tmp_path / f"{number}.tflite")
        path.write_bytes(content)
        code, found = run(capsys, "check", path, "--device", "raspberry-pi-4b")
        assert (code, found["error"]["code"]) in {
            (3, "artifact-unknown"),
            (3, "model-unreadable"),
            (3, "artifact-damaged"),
        }


def test_weights_that_are_not_beside_the_model_are_missed(tmp_path, capsys):
    onnx = pytest.importorskip("onnx")
    weights = onnx.numpy_helper.from_array(np.ones((256, 64), np.float32), "w")
    spec = [onnx.helper.make_tensor_value_info(n, 1, (1, size)) for n, size in (("x", 256), ("y", 64))]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])], "g", spec[:1], spec[1:], [weights]
    )
    path = tmp_path / "model.onnx"
    onnx.save(onnx.helper.make_model(graph), path, save_as_external_data=True, location="weights.bin")
    assert run(capsys, "check", path, "--device", "raspberry-pi-4b")[0] == 0
    (tmp_path / "weights.bin").rename(tmp_path / "elsewhere.bin")
    code, found = run(capsys, "check", path, "--device", "raspberry-pi-4b")
    assert (code, found["error"]["code"]) == (3, "file-missing")
    assert "weights.bin" in found["error"]["message"]
