"""Operators that ONNX' version converter moves to a newer opset under another meaning, spelled so that it cannot.

Which ones: found by comparing answers before and after, operator by operator, with onnx 1.23; the tests hold them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_ENLARGING = frozenset({"Upsample", "Resize"})
_SIMPLE_RESIZE, _LAST_AXIS_ALONE, _SCAN_WITHOUT_BATCH = 11, 13, 9
"""Opsets from which a Resize names its coordinates, a Hardmax is along one axis, and a Scan has no batch axis."""


def immovable(model: Any, before: int) -> str | None:
    """Why a model must keep its opset; None when it need not."""
    for graph in _graphs(model.graph):
        for node in graph.node:
            if node.op_type == "Scan" and before < _SCAN_WITHOUT_BATCH:
                return "Scan had a batch axis of its own then"
            if node.op_type == "Resize" and before < _SIMPLE_RESIZE and len(_rounding(model, node)) > 1:
                return "a Resize rounds up where it shrinks and down where it grows"
    return None


def prepare(model: Any, before: int) -> None:
    """Respell operators in the old opset, in place, so that the converter can move them."""
    if before >= _LAST_AXIS_ALONE:
        return
    for graph in _graphs(model.graph):
        if not any(node.op_type == "Hardmax" for node in graph.node):
            continue
        nodes = [new for node in graph.node for new in (_flat_hardmax(node) if node.op_type == "Hardmax" else [node])]
        copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)


def settle(model: Any, before: int) -> None:
    """Say, in place, what the old opset meant and the new one has another default for."""
    if before >= _SIMPLE_RESIZE:
        return
    from onnx import helper

    for graph in _graphs(model.graph):
        for node in graph.node:
            if node.op_type in _ENLARGING:
                kept = [a for a in node.attribute if a.name not in ("coordinate_transformation_mode", "nearest_mode")]
                kept.append(helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
                kept += [helper.make_attribute("nearest_mode", mode) for mode in _rounding(model, node)]
                copies = [type(attribute).FromString(attribute.SerializeToString()) for attribute in kept]
                del node.attribute[:]
                node.attribute.extend(copies)


def _rounding(model: Any, node: Any) -> list[str]:
    """How a nearest neighbor was found, one entry for each way that the axes need; none for other modes.

    onnxruntime took the one before while growing and the one behind while shrinking. Scales that are computed are
    taken for growing, as exporters used them; verification tells when they are not.
    """
    from onnx import numpy_helper

    if any(attribute.name == "mode" and attribute.s != b"nearest" for attribute in node.attribute):
        return []
    name = node.input[2] if len(node.input) > 2 else node.input[1]
    known = [tensor for graph in _graphs(model.graph) for tensor in graph.initializer if tensor.name == name]
    known += [
        attribute.t
        for graph in _graphs(model.graph)
        for maker in graph.node
        if maker.op_type == "Constant" and name in maker.output
        for attribute in maker.attribute
        if attribute.name == "value"
    ]
    scales = numpy_helper.to_array(known[0]) if known else ()
    ways = {"ceil" if scale < 1 else "floor" for scale in scales if scale != 1}
    return sorted(ways) or ["floor"]


def _flat_hardmax(node: Any) -> Iterator[Any]:
    """Over all axes from `axis` on at once, as Hardmax was defined."""
    from onnx import helper

    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    x, y = node.input[0], node.output[0]
    yield helper.make_node("Shape", [x], [f"{y}/shape"], f"{y}/shape_of")
    yield helper.make_node("Flatten", [x], [f"{y}/flat"], f"{y}/flatten", axis=axis)
    yield helper.make_node("Hardmax", [f"{y}/flat"], [f"{y}/hard"], node.name or f"{y}/hardmax", axis=1)
    yield helper.make_node("Reshape", [f"{y}/hard", f"{y}/shape"], [y], f"{y}/reshape")


def _graphs(graph: Any) -> Iterator[Any]:
    """A graph and all bodies inside; nesting is bounded by who parsed it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _graphs(body)
