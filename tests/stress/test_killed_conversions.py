"""kill -9 at any moment of a conversion: never a partial file under the final name, no leftovers after the next run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from edgekit import artifact

POINTS = 4


def command(source, target) -> list[str]:
    return [sys.executable, "-m", "edgekit", "convert", str(source), "-o", str(target)]


def test_kill_at_any_point(tiny_files, effort, tmp_path):
    """Points are spread over the duration of one undisturbed run, which is measured first."""
    scratch, folder = tmp_path / "scratch", tmp_path / "out"
    scratch.mkdir()
    folder.mkdir()
    target = folder / "model.onnx"
    environment = {**os.environ, "TMPDIR": str(scratch)}
    started = time.monotonic()
    subprocess.run(command(tiny_files["onnx"], target), env=environment, check=True, capture_output=True)
    duration = time.monotonic() - started
    whole = target.read_bytes()
    target.unlink()
    killed = 0
    points = POINTS if effort == 1 else 200
    for point in range(points):
        process = subprocess.Popen(
            command(tiny_files["onnx"], target), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(timeout=1.1 * duration * (point + 1) / points)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
        if target.exists():
            assert target.read_bytes() == whole, f"point {point}: a partial or different file under the final name"
            target.unlink()
    assert killed, "no run was killed: the test proved nothing"
    subprocess.run(command(tiny_files["onnx"], target), env=environment, check=True, capture_output=True)
    artifact.read(target)
    assert os.listdir(folder) == ["model.onnx"], "leftovers in the output folder"
    assert [p for p in scratch.rglob("*") if p.is_file()] == [], "leftovers in the scratch folder"
