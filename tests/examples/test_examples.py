"""Each example does what its page says: made at the desk, run as on a board."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.errors import EdgeKitError
from edgekit.targets import open_target

pytest.importorskip("sklearn", reason="the examples' own models are trained with it")

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


def run(*words: object) -> str:
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    run(EXAMPLES / "make.py", folder, "breast_cancer", "anomaly_detector", "recommender")
    return folder


@pytest.fixture(scope="module")
def taken(tmp_path_factory, shared):
    """Those whose models or data are not part of the repository."""
    folder = tmp_path_factory.mktemp("examples")
    run(EXAMPLES / "make.py", folder, "keyword_spotting", "face_detection", "people_counter")
    return folder


def test_breast_cancer(made):
    said = run(EXAMPLES / "breast_cancer.py", made / "breast_cancer.tflite", made / "breast_cancer.csv")
    lines = said.splitlines()
    assert len(lines) == 20
    assert {line.split()[2] for line in lines} == {"malignant", "benign"}


def test_anomalies(made):
    shares = []
    for kind in ("normal", "strange"):
        said = run(EXAMPLES / "anomaly_detector.py", made / "anomaly_detector.tflite", made / f"anomaly_{kind}.csv")
        strange, total = map(int, re.findall(r"(\d+) of (\d+) are strange", said)[0])
        shares.append(strange / total)
    assert shares[0] < 0.25
    assert shares[1] > 0.8


def test_recommender(made):
    said = run(EXAMPLES / "recommender.py", made / "recommender.tflite", made / "recommender_catalog.npz",
               made / "recommender_liked.npz")  # fmt: skip
    assert float(re.findall(r"([\d.]+) % are of the kind", said)[0]) > 90


def test_keywords(taken):
    said = run(EXAMPLES / "keyword_spotting.py", taken / "keyword_spotting.tflite", taken / "keywords.wav")
    heard = [line.split()[2] for line in said.splitlines()]
    spoken = ["three", "one", "four", "one", "five", "nine"]
    assert len(heard) <= len(spoken)  # nothing in the pauses
    assert sum(word in spoken for word in heard) >= 4


def test_faces(taken, shared):
    said = run(EXAMPLES / "face_detection.py", taken / "face_detection.tflite", shared / "data" / "photos" / "face.jpg")
    assert said.startswith("picture 0: 4 faces")
    boxes = [[int(n) for n in re.findall(r"\d+", line)] for line in said.splitlines()[1:]]
    assert all(right > left and bottom > top for _, left, top, right, bottom in boxes)


def test_people(taken, shared):
    said = run(EXAMPLES / "people_counter.py", taken / "people_counter.tflite", shared / "data" / "vww_mini_35.npz")
    with_people, total = map(int, re.findall(r"(\d+) of (\d+) pictures show somebody", said)[0])
    assert total == 35
    assert 5 <= with_people <= 12  # 8 do; the model is right on 31 of 35


@pytest.mark.parametrize("target", ["local", "emulator:raspberry-pi-4b"])
def test_the_loop_closes(tmp_path, target):
    """Trained, deployed, watched, collected, retrained, redeployed: right, alarmed, and right again."""
    pytest.importorskip("scipy", reason="it turns the digits")
    if target != "local":
        try:
            open_target(target).close()
        except EdgeKitError as error:
            pytest.skip(f"{error.message}: {error.next_step}")
    run(EXAMPLES / "drift_loop.py", tmp_path, target)
    seen = json.loads((tmp_path / "loop.json").read_text())
    assert seen["healthy"]["right"] > 92
    assert seen["healthy"]["alarms"] == []
    assert seen["drifted"]["right"] < 70
    assert seen["drifted"]["alarms"][0].startswith("The inputs have moved")
    assert seen["healed"]["right"] > seen["drifted"]["right"] + 20
    assert seen["healed"]["alarms"] == []
    assert seen["version"] == 2
    old, new = seen["judged"]
    assert old["after"] >= old["before"] - 3  # it forgot nothing
    assert new["after"] > new["before"] + 20
    assert seen["collected"]["labelled"] == seen["collected"]["samples"] == seen["drifted"]["capture"]["kept"]
    accuracy = seen["accuracy"]  # estimated from what was captured, beside the truth of the whole stream
    assert accuracy["low"] < seen["drifted"]["right"] / 100 < accuracy["high"]
    page = (tmp_path / "drift.html").read_text()
    assert "The inputs have moved" in page
    assert "out-of-distribution" in page


def test_what_is_not_at_hand_is_left_out(tmp_path):
    code = f"""
import sys
sys.path.insert(0, {str(EXAMPLES)!r})
import make
from pathlib import Path
make.SHARED = Path("/nowhere")
make.FREE.clear()
make.main(Path({str(tmp_path)!r}))
"""
    said = run("-c", code)
    assert said.count("left out") == 3


DEVICE = """
import json, sys
import edgekit
model = edgekit.load(sys.argv[1], threads=1)
import csv
with open(sys.argv[2], newline="") as file:
    for row in csv.DictReader(file):
        model.predict(row)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names))))
"""


def test_a_board_imports_numpy_and_one_engine(made):
    said = run("-c", DEVICE, made / "breast_cancer.tflite", made / "breast_cancer.csv")
    found = {name for name in json.loads(said.splitlines()[-1]) if not name.startswith(("_", "sitecustomize"))}
    assert found - {"edgekit", "numpy", "ai_edge_litert"} <= {"flatbuffers", "google", "cython_runtime"}, found
