"""Make an ONNX file small without changing what it computes.

In a small model the graph is a third of the file: names, shapes and texts that a reader can do without are left out,
equal constants (zero points, scales that ops share) are stored once.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterable, Iterator
from typing import Any

from edgekit.converters.onnx_graphs.graph import has_subgraph


def slim(model: Any, keep: Iterable[str]) -> None:
    """Leave out what no reader needs, and store equal constants once.

    Args:
        model: Changed in place.
        keep: Tensors that keep their names, because they are looked up by them later (inputs, outputs, activations).
            All others get names of one to three letters.
    """
    graph = model.graph
    _merge_constants(graph)
    del graph.value_info[:]
    graph.doc_string = ""
    graph.name = "g"
    model.doc_string = model.producer_name = model.producer_version = model.domain = ""
    model.ClearField("training_info")
    props = [entry for entry in model.metadata_props if not entry.key.startswith(("onnx.infer", "onnx.quant"))]
    del model.metadata_props[:]
    model.metadata_props.extend(props)
    for node, name in zip(graph.node, _letters(), strict=False):
        # Not empty: onnxruntime before 1.21 makes names of new nodes from it, and refuses a name that comes twice.
        node.name, node.doc_string = name, ""
    for value in (*graph.input, *graph.output):
        value.doc_string = ""
    used = {node.domain for node in _all_nodes(graph)} | {""}
    imports = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(imports)
    if not any(has_subgraph(node) for node in graph.node):
        _shorten(graph, set(keep))


def _all_nodes(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield node
        for item in node.attribute:
            for inner in (*([item.g] if item.HasField("g") else []), *item.graphs):
                yield from _all_nodes(inner)


def _merge_constants(graph: Any) -> None:
    """Store equal constants once; drop those that nobody takes."""
    used = {name for node in _all_nodes(graph) for name in node.input} | {value.name for value in graph.output}
    first: dict[tuple[Any, ...], str] = {}
    alias: dict[str, str] = {}
    kept = []
    for tensor in graph.initializer:
        if tensor.name not in used:
            continue
        key = (tensor.data_type, tuple(tensor.dims), _bytes(tensor))
        if key in first:
            alias[tensor.name] = first[key]
        else:
            first[key] = tensor.name
            kept.append(tensor)
    # Bodies of If and Loop see these names too, but never change them.
    for node in _all_nodes(graph):
        for index, name in enumerate(node.input):
            if name in alias:
                node.input[index] = alias[name]
    outputs = {value.name for value in graph.output}
    kept += [tensor for tensor in graph.initializer if tensor.name in alias and tensor.name in outputs]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _bytes(tensor: Any) -> bytes:
    from onnx import TensorProto, numpy_helper

    if tensor.data_type == TensorProto.STRING:
        return b"\0".join(tensor.string_data)
    return numpy_helper.to_array(tensor).tobytes()


def _shorten(graph: Any, keep: set[str]) -> None:
    keep |= {value.name for value in (*graph.input, *graph.output)} | {""}
    names = (name for name in _letters() if name not in keep)
    short: dict[str, str] = {}
    for tensor in graph.initializer:
        if tensor.name not in keep:
            tensor.name = short.setdefault(tensor.name, next(names))
    for node in graph.node:
        for fields in (node.input, node.output):
            for index, name in enumerate(fields):
                if name in keep:
                    continue
                if name not in short:
                    short[name] = next(names)
                fields[index] = short[name]


def _letters() -> Iterator[str]:
    """a, b, ... z, aa, ab, ..."""
    for length in itertools.count(1):
        yield from map("".join, itertools.product(string.ascii_lowercase, repeat=length))
