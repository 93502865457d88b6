"""What an ONNX file says of the sizes of its inputs and outputs, where exporters write what they do not mean."""

from __future__ import annotations

from typing import Any

_FLOAT = 1
"""TensorProto's number of float32."""
_REGRESSORS = {"TreeEnsembleRegressor": "n_targets", "LinearRegressor": "targets", "SVMRegressor": ""}
"""Operators of ai.onnx.ml that answer [N, targets], and where they say how many."""


_OPSET = 13
"""Given to files that use operators of ai.onnx.ml alone, and so name none (CatBoost)."""


def open_maps(model: Any) -> tuple[bool, tuple[str, ...]]:
    """Let outputs that are lists of maps (class -> probability) be the tensors that they are made of.

    Exporters of classifiers (skl2onnx, CatBoost) add such a map for Python; boards have tensors.

    Returns:
        Whether there were any; and the names of the classes, where the map has names.
    """
    outputs = {value.name: value for value in model.graph.output}
    found, names = False, ()
    for node in model.graph.node:
        if node.op_type != "ZipMap" or node.output[0] not in outputs:
            continue
        labels = next((entry.strings for entry in node.attribute if entry.name == "classlabels_strings"), ())
        found, names = True, tuple(label.decode() for label in labels)
        node.op_type, node.domain = "Identity", ""
        del node.attribute[:]
        outputs[node.output[0]].type.Clear()
        outputs[node.output[0]].type.tensor_type.elem_type = _FLOAT
    if found and all(entry.domain for entry in model.opset_import):
        model.opset_import.add().version = _OPSET
    return found, names


def set_right(graph: Any) -> bool:
    """Give the outputs of regressors the axis that some exporters (CatBoost) leave out; whether any lacked it."""
    makers = {name: node for node in graph.node if node.op_type in _REGRESSORS for name in node.output}
    changed = False
    for value in graph.output:
        dims = value.type.tensor_type.shape.dim
        if value.name in makers and len(dims) == 1:
            said = {entry.name: entry.i for entry in makers[value.name].attribute}
            dims.add().dim_value = said.get(_REGRESSORS[makers[value.name].op_type], 1)
            changed = True
    return changed


def free_odd_sizes(graph: Any) -> None:
    """Some exporters write 0 or -1 for a free size."""
    for value in (*graph.input, *graph.output):
        for axis, size in enumerate(value.type.tensor_type.shape.dim):
            if size.HasField("dim_value") and size.dim_value <= 0:
                size.dim_param = f"{value.name}_{axis}"


def doubt_scalars(graph: Any) -> set[str]:
    """Forget that outputs have no axes, and say whose: converters write that of any shape that they do not know."""
    doubted = set()
    for value in graph.output:
        kind = value.type.tensor_type
        if value.type.WhichOneof("value") == "tensor_type" and kind.HasField("shape") and not kind.shape.dim:
            kind.ClearField("shape")
            doubted.add(value.name)
    return doubted


def settle_scalars(graph: Any, doubted: set[str]) -> None:
    """What inference found no axes of has none after all."""
    for value in graph.output:
        if value.name in doubted and not value.type.tensor_type.HasField("shape"):
            value.type.tensor_type.shape.SetInParent()
