"""Exponentials beyond all bounds that something undoes: computed in floats, alone, and right."""

from __future__ import annotations

import numpy as np
import pytest

import edgekit

onnx = pytest.importorskip("onnx")
pytest.importorskip("ai_edge_quantizer", reason="comes with the convert extra")
pytest.importorskip("onnxruntime", reason="comes with the onnx extra")

WIDTH = 16
SPELLINGS = {
    "softplus": "Exp h > e; Add e one > more; Log more > n",
    "selu": "Exp h > e; Sub e one > less; Mul less size > branch; Greater h zero > above; Where above h branch > n",
}


def network(spelling: str, size: float):
    """Two dense layers and what is spelled between them; `size` of what goes into the exponential."""
    make, random = onnx.helper.make_node, np.random.default_rng(8)
    nodes = [make("MatMul", ["x", "w"], ["h"])]
    for step in SPELLINGS[spelling].split(";"):
        (kind, *read), made = step.split(">")[0].split(), step.split(">")[1].strip()
        nodes.append(make(kind, read, [made]))
    nodes.append(make("MatMul", ["n", "v"], ["y"]))
    values = {
        "w": size * random.normal(size=(WIDTH, WIDTH)), "v": random.normal(size=(WIDTH, WIDTH)), "one": 1.0,
        "zero": 0.0, "size": 1.6,
    }  # fmt: skip
    used = {name for node in nodes for name in node.input}
    ends = [onnx.helper.make_tensor_value_info(name, 1, ["N", WIDTH]) for name in "xy"]
    constants = [
        onnx.numpy_helper.from_array(np.array(value, np.float32), name)
        for name, value in values.items()
        if name in used
    ]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)


def converted(model, kind, path, **options):
    data = np.random.default_rng(9).normal(size=(100, WIDTH)).astype(np.float32)
    made = edgekit.convert(model, to=kind, precision="int8", calibration=data, **options)
    made.write(path)
    return made, data


@pytest.mark.parametrize("kind", ["tflite", "onnx"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_what_undoes_an_exponential_keeps_its_small_values(tmp_path, spelling, kind):
    import onnxruntime

    model = network(spelling, 0.9)
    artifact, data = converted(
        model, kind, tmp_path / f"m.{kind}", observer="minmax", repairs=("float-exponentials",), allow_float_ops=True
    )
    assert "float-exponentials" in artifact.manifest.repaired
    wanted = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": data})[0]
    answered = edgekit.load(tmp_path / f"m.{kind}").run({"x": data})["y"]
    assert 10 * np.log10(np.square(wanted).mean() / np.square(wanted - answered).mean()) > 28


@pytest.mark.parametrize("kind", ["tflite", "onnx"])
def test_small_exponentials_stay_integers(tmp_path, kind):
    artifact, _ = converted(network("softplus", 0.1), kind, tmp_path / f"m.{kind}")
    assert "float-exponentials" not in (artifact.manifest.repaired or {})
