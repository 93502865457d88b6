"""What a device imports to answer: by module names, in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

UNWANTED = {"click", "rich", "tensorflow", "keras", "onnx", "ai_edge_quantizer", "PIL", "tomllib", "tempfile", "email"}
UNWANTED_OURS = ("edgekit.converters", "edgekit.cli", "edgekit.pipeline", "edgekit.manifest", "edgekit.selftest",
                 "edgekit.child", "edgekit.files", "edgekit.data", "edgekit.measure")  # fmt: skip
CODE = """
import json, sys
import numpy as np
import {engine}
before = set(sys.modules)
import edgekit
model = edgekit.load(sys.argv[1])
model.run({{"image": np.ones([1, *model.inputs[0].shape[1:]], np.float32)}})
print(json.dumps(sorted(set(sys.modules) - before)))
"""


@pytest.mark.parametrize(
    ("kind", "engine"), [("int8.tflite", "ai_edge_litert.interpreter"), ("fp32.onnx", "onnxruntime")]
)
def test_an_answer_costs_few_modules(artifacts, kind, engine):
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(engine=engine), str(artifacts[kind])],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    added = json.loads(done.stdout.splitlines()[-1])
    assert not {name.partition(".")[0] for name in added} & UNWANTED
    assert "importlib.metadata" not in added
    assert "numpy.typing" not in added
    ours = [name for name in added if name.startswith("edgekit")]
    assert not [name for name in ours if name.startswith(UNWANTED_OURS)]
    assert len(ours) <= 12, ours
    assert len(added) <= 45, added


PREDICT = """
import json, sys
import numpy as np
import edgekit
with edgekit.load(sys.argv[1]) as model:
    thing = np.ones(model.inputs[0].shape[1:], np.float32)
    model.predict(thing), model.predict_batch([thing, thing])
    edgekit.Metrics().text()
    list(edgekit.Stream(model, [thing]))
with edgekit.Pool(sys.argv[1]) as pool:
    pool.predict(thing)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


@pytest.mark.parametrize(("kind", "engine"), [("int8.tflite", "ai_edge_litert"), ("fp32.onnx", "onnxruntime")])
def test_predicting_takes_numpy_and_one_engine(artifacts, kind, engine):
    done = subprocess.run(
        [sys.executable, "-c", PREDICT, str(artifacts[kind])], capture_output=True, text=True, check=True
    )
    tops = set(json.loads(done.stdout.splitlines()[-1]))
    assert {"edgekit", "numpy", engine} <= tops
    assert not tops & (UNWANTED - {"tomllib", "tempfile", "email"})
    assert not tops & ({"ai_edge_litert", "onnxruntime", "tflite_runtime", "scipy", "cv2"} - {engine})
