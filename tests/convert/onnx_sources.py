"""Small ONNX models: made, loaded, lowered, and compared with their source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from edgekit.converters import load_onnx, lower_onnx_onnx
from edgekit.converters.sources import identify

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def model_of(nodes, inputs, outputs, constants=None, opset=17, ir_version=None, domains=(), functions=(), **more):
    """inputs, outputs: name -> (element type, shape); constants: name -> array."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, *about) for name, about in inputs.items()],
        [helper.make_tensor_value_info(name, *about) for name, about in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
        **more,
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(*domain) for domain in domains)]
    model = helper.make_model(graph, opset_imports=opsets, functions=functions)
    model.ir_version = ir_version or helper.find_min_ir_version_for(opsets, ignore_unknown=True)
    return model


def load(model, folder: Path, **about):
    path = folder / "m.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return load_onnx.load(identify(path, **about))


def lowered(model, folder: Path) -> dict:
    """What the lowered file holds and how it answers."""
    path = folder / "lowered.onnx"
    graph = lower_onnx_onnx.lower(model, path)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return {"graph": graph, "proto": onnx.load(str(path)), "run": lambda feeds: session.run(None, feeds)}


def agrees(model, folder: Path, feeds: dict, tolerance: float = 1e-5) -> dict:
    """The lowered file gives the source's answers; returns them."""
    answers = model.run(feeds)
    made = lowered(model, folder)
    for spec, got in zip(model.facts.outputs, made["run"](feeds), strict=True):
        np.testing.assert_allclose(got, answers[spec.name], rtol=tolerance, atol=tolerance)
    return answers
