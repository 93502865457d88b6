"""Engines keep to themselves: no usage reports, no identifiers left on disk."""

from __future__ import annotations

import os
import subprocess
import sys


def test_onnxruntime_leaves_nothing_in_the_temporary_folder(tiny_files, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    script = f"import edgekit; edgekit.load({str(tiny_files['onnx'])!r}).close()"
    subprocess.run([sys.executable, "-c", script], env={**environment, "TMPDIR": str(tmp_path)}, check=True)
    assert os.listdir(tmp_path) == []
