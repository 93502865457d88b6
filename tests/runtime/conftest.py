"""Artifacts to run: the tiny classifier, converted once."""

from __future__ import annotations

import numpy as np
import pytest

import edgekit

KINDS = ["fp32.tflite", "int8.tflite", "fp32.onnx", "int8.onnx"]


@pytest.fixture(scope="session")
def artifacts(tiny_files, tmp_path_factory):
    """Kind ("int8.tflite") -> path."""
    folder = tmp_path_factory.mktemp("artifacts")
    found = {}
    for kind in KINDS:
        precision, _, suffix = kind.partition(".")
        shape = (40, 8, 8, 2) if suffix == "tflite" else (40, 2, 8, 8)
        np.savez(folder / "calibration.npz", x=np.random.default_rng(1).random(shape, np.float32))
        found[kind] = folder / kind
        data = folder / "calibration.npz"
        edgekit.convert(tiny_files[suffix], output=found[kind], precision=precision, calibration=data)
    return found


@pytest.fixture(params=KINDS)
def model(artifacts, request):
    """Each kind, opened."""
    with edgekit.load(artifacts[request.param], threads=1) as opened:
        yield opened


@pytest.fixture
def samples():
    """Real inputs for a model: [n, ...] float32 in its layout."""

    def make(opened, count=1, seed=0):
        shape = [count, *opened.inputs[0].shape[1:]]
        return np.random.default_rng(seed).random(shape, np.float32)

    return make


@pytest.fixture
def bare():
    """The engine driven by hand: one real sample in, the real answer out."""
    return answer_bare


def answer_bare(opened, sample):
    data = opened.artifact.data
    spec, out = opened.inputs[0], opened.outputs[0]
    raw = sample
    if spec.quant:
        steps = np.rint(sample / np.float32(spec.quant.scale[0])) + spec.quant.zero_point[0]
        raw = np.clip(steps, -128, 127).astype(spec.dtype)
    if opened.artifact.format == "tflite":
        from ai_edge_litert.interpreter import Interpreter

        engine = Interpreter(model_content=data, num_threads=1)
        engine.allocate_tensors()
        engine.set_tensor(engine.get_input_details()[0]["index"], raw)
        engine.invoke()
        answer = engine.get_tensor(engine.get_output_details()[0]["index"])
    else:
        import onnxruntime

        engine = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        (answer,) = engine.run(None, {engine.get_inputs()[0].name: raw})
    if out.quant:
        answer = (answer.astype(np.float32) - out.quant.zero_point[0]) * np.float32(out.quant.scale[0])
    return answer
