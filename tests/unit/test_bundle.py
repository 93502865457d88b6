"""What travels to a board is enough to run there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from edgekit.parts import place_of
from edgekit.targets.bundle import bundle

MODULES = ("targets.agent", "targets.tasks", "deploy.install", "runtimes.model", "runtimes.flow.watch")


def test_every_module_of_the_device_side_is_in_the_bundle(tmp_path):
    bundle().unpack(tmp_path)
    for package in ("runtimes", "store", "deploy", "measure", "targets", "formats"):
        folder = Path(getattr(__import__(f"edgekit.{package}"), package).__path__[0])
        for file in folder.rglob("*.py"):
            inside = file.relative_to(folder).with_suffix("").parts
            if place_of(".".join(["edgekit", package, *inside])) == "board":
                continue  # asked at the desk; no carried module imports it (tests/packaging/test_device_wheel.py)
            assert (tmp_path / "edgekit" / package / file.relative_to(folder)).is_file(), file
    assert not (tmp_path / "edgekit" / "cli").exists()


def test_it_answers_with_nothing_else_of_edgekit(tmp_path, tiny_files):
    bundle().unpack(tmp_path / "modules")
    code = (
        "import sys\nsys.path[:] = [p for p in sys.path if 'site-packages' not in p]\n"
        f"sys.path[:0] = [{str(tmp_path / 'modules')!r}, *{[str(Path(np.__file__).parents[1])]!r}]\n"
        "sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]\n"
        f"import importlib\nfor name in {MODULES!r}: importlib.import_module('edgekit.' + name)\n"
        "import edgekit, numpy\n"
        f"assert edgekit.__file__.startswith({str(tmp_path)!r})\n"
        f"model = edgekit.load({str(tiny_files['tflite'])!r})\n"
        "print(model.predict(numpy.zeros((1, 8, 8, 2), 'float32')))\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-1500:]
    assert "probs" in done.stdout
