"""Calibrations that are killed: the same ranges, without doing again what was done; files bounded and whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from generators import result
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgekit import files
from edgekit.converters import calibrate as module
from edgekit.converters.calibrate import calibrate
from edgekit.converters.calibration import checkpoints, observers
from edgekit.converters.calibration.checkpoints import Checkpoint, checkpoint
from edgekit.converters.stages import CalibrationOptions, Graph
from edgekit.tensors import TensorSpec

RUNS = 40
KINDS = ("minmax", "percentile", "auto", "mse", "entropy", "moving-average")

KILLED = """
import os, pickle, signal, sys
from pathlib import Path
import numpy as np
from edgekit.converters.calibrate import calibrate
from edgekit.converters.calibration.checkpoints import Checkpoint
from edgekit.converters.stages import CalibrationOptions, Graph
from edgekit.tensors import TensorSpec

format, path, shape, observer, saved, samples = sys.argv[1:]
values = np.load(samples)
image, probs = TensorSpec("image", eval(shape), "float32"), TensorSpec("probs", (None, 5), "float32")
graph = Graph(format, path, (image,), (probs,))

def feeds():
    for number, value in enumerate(values):
        if number == 23:
            os.kill(os.getpid(), signal.SIGKILL)
        yield {"image": value[None]}

for _ in calibrate(graph, feeds(), CalibrationOptions(observer), Checkpoint(Path(saved), seconds=0)):
    pass
"""


def small(tiny_files, format: str) -> Graph:
    shape = {"tflite": (None, 8, 8, 2), "onnx": (None, 2, 8, 8)}[format]
    inputs = (TensorSpec("image", shape, "float32"),)
    return Graph(format, str(tiny_files[format]), inputs, (TensorSpec("probs", (None, 5), "float32"),))


@pytest.fixture
def samples() -> np.ndarray:
    return np.random.default_rng(2).normal(size=(RUNS, 2, 8, 8)).astype(np.float32)


def feeds(graph: Graph, samples: np.ndarray):
    shaped = samples.reshape(RUNS, *graph.inputs[0].shape[1:])
    return ({"image": shaped[number : number + 1]} for number in range(RUNS))


@pytest.mark.parametrize(
    ("format", "observer"), [("tflite", "auto"), ("onnx", "percentile"), ("onnx", "moving-average")]
)
def test_a_killed_calibration_goes_on(tiny_files, tmp_path, samples, monkeypatch, format, observer):
    """It comes to the same ranges, and runs the engine for the rest of the samples only."""
    graph = small(tiny_files, format)
    shaped = samples.reshape(RUNS, *graph.inputs[0].shape[1:])
    np.save(tmp_path / "samples.npy", shaped)
    saved = tmp_path / "cache" / "state.npz"
    command = [sys.executable, "-c", KILLED, format, graph.path, str(graph.inputs[0].shape), observer, str(saved)]
    done = subprocess.run([*command, str(tmp_path / "samples.npy")], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = Checkpoint(saved).load()
    assert left is not None
    assert left.runs == left.samples == 23
    whole = result(calibrate(graph, feeds(graph, samples), CalibrationOptions(observer)))
    ran = []
    observe = module._observe
    monkeypatch.setattr(module, "_observe", lambda *args, **more: (ran.append(1), observe(*args, **more)))
    assert result(calibrate(graph, feeds(graph, samples), CalibrationOptions(observer), Checkpoint(saved))) == whole
    assert len(ran) == RUNS - 23
    assert not list(saved.parent.iterdir())


def test_in_several_passes_only_whole_blocks_count(tiny_files, tmp_path, samples, monkeypatch):
    graph = small(tiny_files, "onnx")
    options = CalibrationOptions("percentile")
    whole = result(calibrate(graph, feeds(graph, samples), options))
    made = sorted(set(whole.tensors) - {"image"})
    monkeypatch.setattr(module, "_plan", lambda *_: ([made[:2], made[2:]], 7))
    saved = Checkpoint(tmp_path / "state.npz", seconds=0)
    steps = calibrate(graph, feeds(graph, samples), options, saved)
    assert [next(steps)["samples"] for _ in range(3)] == [7, 14, 21]
    steps.close()
    assert saved.load().runs == 21
    assert result(calibrate(graph, feeds(graph, samples), options, saved)) == whole


@pytest.mark.parametrize("kind", KINDS)
@given(
    values=hnp.arrays(
        np.float32, st.integers(1, 300), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
    )
)
@settings(max_examples=15, deadline=None)
def test_what_observers_remember_survives_a_file(tmp_path_factory, kind, values):
    options = CalibrationOptions(kind)
    first, again = (observers.factory(kind)(options) for _ in range(2))
    first.update(values, float(values.min()), float(values.max()))
    saved = Checkpoint(tmp_path_factory.mktemp("state") / "one.npz")
    saved.save(3, 5, {"a/b:0": first.state(), "other": first.state()})
    found = saved.load()
    assert (found.runs, found.samples, list(found.observers)) == (3, 5, ["a/b:0", "other"])
    again.restore(found.observers["a/b:0"])
    assert again.range() == first.range()
    for watching in (first, again):
        watching.update(values / 2, float(values.min() / 2), float(values.max() / 2))
    assert again.range() == first.range()


@pytest.mark.parametrize("content", [b"", b"PK\3\4 damaged", os.urandom(99)], ids=["empty", "cut", "noise"])
def test_a_damaged_file_is_as_none(tmp_path, content):
    path = tmp_path / "state.npz"
    path.write_bytes(content)
    assert Checkpoint(path).load() is None
    assert Checkpoint(tmp_path / "missing.npz").load() is None


def test_few_files_stay_and_none_is_half(tmp_path):
    state = {"x": {"ends": np.array([0.0, 1.0])}}
    for number in range(20):
        Checkpoint(tmp_path / f"{number:02}.npz").save(1, 1, state)
        os.utime(tmp_path / f"{number:02}.npz", (number, number))
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{number}.npz" for number in range(12, 20)]


def test_what_is_too_large_or_has_no_place_is_not_written(tmp_path, monkeypatch):
    state = {"x": {"ends": np.zeros(1000)}}
    (tmp_path / "file").write_bytes(b"")
    Checkpoint(tmp_path / "file" / "state.npz").save(1, 1, state)  # its folder is a file
    monkeypatch.setattr(checkpoints, "_LARGEST", 4000)
    Checkpoint(tmp_path / "state.npz").save(1, 1, state)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_another_graph_sample_or_option_is_another_checkpoint(tiny_files, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path))
    graph = small(tiny_files, "onnx")
    options = CalibrationOptions("percentile")
    keys = {
        checkpoint(one, digest, chosen)._path
        for one in (graph, small(tiny_files, "tflite"))
        for digest in ("a" * 64, "b" * 64)
        for chosen in (options, CalibrationOptions("minmax"), CalibrationOptions("percentile", 99.0))
    }
    assert len(keys) == 12
    assert {path.parent for path in keys} == {files.cache("calibration")} == {tmp_path / "calibration"}
    assert checkpoint(graph, "a" * 64, CalibrationOptions("percentile"))._path in keys


def test_short_calibrations_write_nothing(tiny_files, tmp_path, samples):
    graph = small(tiny_files, "onnx")
    saved = Checkpoint(tmp_path / "cache" / "state.npz", seconds=1000)
    result(calibrate(graph, feeds(graph, samples), CalibrationOptions(), saved))
    assert not Path(tmp_path / "cache").exists()
