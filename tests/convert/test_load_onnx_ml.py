"""Classifiers and regressors as skl2onnx and CatBoost write them: maps of probabilities, axes left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="comes with the convert extra")
ort = pytest.importorskip("onnxruntime", reason="comes with the onnx extra")

from onnx import helper  # noqa: E402

from edgekit.converters import load_onnx  # noqa: E402
from edgekit.converters.stages import Source  # noqa: E402


def classifier_with_maps(labels: dict):
    """As skl2onnx and CatBoost write classifiers: a label, and a list of maps."""
    float_type = onnx.TensorProto.FLOAT
    linear = helper.make_node(
        "LinearClassifier", ["x"], ["label", "p"], domain="ai.onnx.ml", post_transform="SOFTMAX", multi_class=1,
        coefficients=[1.0, -1.0, 0.5, 2.0, 0.0, -2.0], intercepts=[0.0, 0.1, -0.1], classlabels_ints=[0, 1, 2],
    )  # fmt: skip
    zipped = helper.make_node("ZipMap", ["p"], ["probabilities"], domain="ai.onnx.ml", **labels)
    key = onnx.TensorProto.STRING if "classlabels_strings" in labels else onnx.TensorProto.INT64
    maps = helper.make_sequence_type_proto(
        helper.make_map_type_proto(key, helper.make_tensor_type_proto(float_type, []))
    )
    graph = helper.make_graph(
        [linear, zipped], "g", [helper.make_tensor_value_info("x", float_type, ["N", 2])],
        [
            helper.make_tensor_value_info("label", onnx.TensorProto.INT64, ["N"]),
            onnx.ValueInfoProto(name="probabilities", type=maps),
        ],
    )  # fmt: skip
    opsets = [helper.make_opsetid("ai.onnx.ml", 3)]  # no other domain, as CatBoost writes it
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize("labels", [{"classlabels_int64s": [0, 1, 2]}, {"classlabels_strings": ["a", "b", "c"]}])
def test_maps_of_probabilities_become_a_tensor(labels: dict, tmp_path: Path) -> None:
    model = classifier_with_maps(labels)
    onnx.save(model, tmp_path / "m.onnx")
    loaded = load_onnx.load(Source(str(tmp_path / "m.onnx"), "onnx", sha256="", bytes=0))
    assert [spec.describe() for spec in loaded.facts.outputs] == ["label int64 [N]", "probabilities float32 [N,3]"]
    assert loaded.facts.classes == (("a", "b", "c") if "classlabels_strings" in labels else ())
    assert any("maps" in note for note in loaded.facts.notes)
    x = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = [list(row.values()) for row in session.run(["probabilities"], {"x": x})[0]]
    np.testing.assert_allclose(loaded.run({"x": x})["probabilities"], expected, atol=1e-6)


def test_regressors_whose_exporter_forgot_the_axis_of_targets(tmp_path: Path) -> None:
    """CatBoost declares `predictions [N]`; the operator answers [N, 1]."""
    node = helper.make_node(
        "TreeEnsembleRegressor", ["x"], ["predictions"], domain="ai.onnx.ml", n_targets=1,
        nodes_treeids=[0, 0, 0], nodes_nodeids=[0, 1, 2], nodes_featureids=[0, 0, 0], nodes_values=[0.0, 0.0, 0.0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"], nodes_truenodeids=[1, 0, 0], nodes_falsenodeids=[2, 0, 0],
        target_treeids=[0, 0], target_nodeids=[1, 2], target_ids=[0, 0], target_weights=[-1.0, 1.0],
    )  # fmt: skip
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 2])],
        [helper.make_tensor_value_info("predictions", onnx.TensorProto.FLOAT, ["N"])],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "m.onnx")
    loaded = load_onnx.load(Source(str(tmp_path / "m.onnx"), "onnx", sha256="", bytes=0))
    assert [spec.describe() for spec in loaded.facts.outputs] == ["predictions float32 [N,1]"]
    assert loaded.run({"x": np.array([[1, 0], [-1, 0]], np.float32)})["predictions"].tolist() == [[1.0], [-1.0]]
