"""An ONNX graph as exported, brought to one modern form that every later stage can rely on.

Weights are constants, functions are inlined, nodes stand in order, sizes that the user fixed are fixed, and the
opset is at least 13. Only that far: 13 is the lowest opset in which a scale a channel can be written, every
onnxruntime since 1.6 runs it, and each further step is one more rewriting that could go wrong. Newer files keep their
opset. Whoever needs more (16-bit integers need 21) raises it where it is needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from edgekit.converters.from_onnx import aged as onnx_aged
from edgekit.converters.from_onnx import declared
from edgekit.converters.from_onnx import sparse as onnx_sparse
from edgekit.errors import SourceError, UsageError, first_line

OLDEST, TARGET = 7, 13
"""Opset 7 is the oldest that onnxruntime guarantees to run."""

STANDARD = ("", "ai.onnx")
KNOWN = (*STANDARD, "ai.onnx.ml", "com.microsoft")
"""Domains whose operators onnxruntime brings along; others need libraries of their own."""

_TRAINING_BY_ATTRIBUTE = 14
"""Opset from which BatchNormalization says that it trains; before, its further outputs did."""

_BOOL = 9
_DEPTH = 32
_ELEMENTS = 1 << 31
"""Of one tensor; larger ones cannot be in a file of 2 GiB, nor be fed on a board."""
_SHOWN = 4
_BITS = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16,
    17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4,
}  # fmt: skip
"""TensorProto.DataType -> bits of an element."""

Shapes = Mapping[str, tuple[int | None, ...]]


def opset(model: Any) -> int:
    """Version of the standard operators that a model imports; 0 when it imports none."""
    return max((int(entry.version) for entry in model.opset_import if entry.domain in STANDARD), default=0)


def check(model: Any, name: str) -> None:
    """Refuse what cannot be read at all.

    Raises:
        SourceError: `source-opset`; `source-unreadable`: no graph, contents that contradict their shapes, nodes in a
            circle; `source-too-large`; `source-training-mode`.
    """
    from onnx import defs

    version, newest = opset(model), defs.onnx_opset_version()
    if not model.graph.node and not model.graph.output:
        raise SourceError("source-unreadable", f"{name} holds no graph")
    if 0 < version < OLDEST or (version == 0 and any(node.domain in STANDARD for node in model.graph.node)):
        raise SourceError("source-opset", f"{name} has opset {version or 'none'}; {OLDEST} is the oldest that is read")
    if version > newest:
        raise SourceError(
            "source-opset",
            f"{name} has opset {version}; {newest} is the newest that the installed onnx knows",
            cause="What its operators mean is defined in a later version of onnx.",
            next_step=f"Export the model with opset {newest} or older, or install newer onnx and onnxruntime.",
        )
    for tensor in tensors(model):
        _check_tensor(tensor, name)
    learning = _in_training(model)
    if learning:
        raise SourceError(
            "source-training-mode",
            f"{name} was exported in training mode: {', '.join(learning[:_SHOWN])} drop values at random or normalize "
            "by the batch",
            nodes=learning,
        )
    for value in (*model.graph.input, *model.graph.output):
        sizes = [axis.dim_value for axis in value.type.tensor_type.shape.dim if axis.dim_value > 0]
        if math.prod(sizes) > _ELEMENTS:
            raise SourceError("source-too-large", f"{name}: {value.name} would have {math.prod(sizes)} elements")


def foreign_ops(model: Any) -> tuple[str, ...]:
    """Operators of domains that onnxruntime does not bring along and that the file does not define itself."""
    own = {(function.domain, function.name) for function in model.functions}
    graphs = [model.graph, *model.functions]
    nodes = (node for graph in graphs for node in all_nodes(graph))
    found = {(node.domain, node.op_type) for node in nodes if node.domain not in KNOWN}
    return tuple(sorted(f"{domain}.{kind}" for domain, kind in found - own))


def fix_sizes(model: Any, shapes: Shapes) -> None:
    """Replace free sizes of the inputs, and the same symbols elsewhere, in place.

    Args:
        model: A ModelProto.
        shapes: Input name -> all sizes; None where it stays free.

    Raises:
        UsageError: `input-unknown`, `shape-conflict`.
    """
    constant = {tensor.name for tensor in model.graph.initializer}
    inputs = {value.name: value for value in model.graph.input if value.name not in constant}
    symbols: dict[str, int] = {}
    for name, shape in shapes.items():
        if name not in inputs:
            raise UsageError("input-unknown", f"no input is called {name!r}; known: {', '.join(inputs)}")
        axes = inputs[name].type.tensor_type.shape.dim
        fits = len(axes) == len(shape) and all(
            axis.dim_value <= 0 or axis.dim_value == size for axis, size in zip(axes, shape, strict=True)
        )
        if not fits:
            raise UsageError(
                "shape-conflict", f"the shape {_sizes(shape)} does not fit {name} {_sizes(_shape(inputs[name]))}"
            )
        for axis, size in zip(axes, shape, strict=True):
            if size is None or axis.dim_value > 0:
                continue
            # Paddle calls every unknown size "?": what is no name says nothing of other sizes.
            if axis.dim_param.isidentifier() and symbols.setdefault(axis.dim_param, size) != size:
                raise UsageError(
                    "shape-conflict", f"{axis.dim_param} would be {symbols[axis.dim_param]} and {size} at once"
                )
            axis.dim_value = size
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param in symbols:
                axis.dim_value = symbols[axis.dim_param]


def modernize(model: Any, name: str) -> tuple[Any, tuple[str, ...]]:
    """The model in the form that the module header describes, and what to tell the user.

    Args:
        model: A ModelProto with all data inside; left as it is.
        name: For messages.

    Raises:
        SourceError: `source-unreadable`: the graph breaks ONNX' own rules; says which. `source-too-large`: a sparse
            constant.
    """
    import onnx
    from onnx import inliner

    before = opset(model)
    current = onnx.ModelProto()
    current.CopyFrom(model)
    for leftover in ("training_info", "metadata_props", "doc_string"):
        current.ClearField(leftover)
    current.graph.ClearField("quantization_annotation")
    notes = _plain_weights(current.graph)
    sparse = onnx_sparse.write_out(current.graph, name)
    if sparse:
        notes.append(f"{sparse} sparse weights were written out in full")
    if current.functions:
        current = inliner.inline_local_functions(current)
    _one_opset_each(current)
    _order(current.graph, name)
    declared.free_odd_sizes(current.graph)
    current.ir_version = max(current.ir_version, 4)  # from 4 on, weights need not be inputs
    if 0 < before < TARGET:
        current, note = _raise_opset(current)
        notes.append(note)
    _set_ir_version(current)
    doubted = declared.doubt_scalars(current.graph)
    made, said = _checked(current, name, notes)
    declared.settle_scalars(made.graph, doubted)
    return made, said


def tensors(model: Any) -> Iterator[Any]:
    """All constants of a model: of the graph, of loop bodies, functions and attributes."""
    for graph in (model.graph, *(info.algorithm for info in model.training_info)):
        yield from _graph_tensors(graph)
    for function in model.functions:
        for node in all_nodes(function):
            yield from _node_tensors(node)


def all_nodes(graph: Any, depth: int = 0) -> Iterator[Any]:
    """The nodes of a graph or function and of all bodies inside."""
    for node in graph.node:
        yield node
        for body in bodies(node, depth):
            yield from all_nodes(body, depth + 1)


def bodies(node: Any, depth: int = 0) -> Iterator[Any]:
    """Graphs inside a node (If, Loop, Scan).

    Raises:
        SourceError: `source-unreadable`: nested without end.
    """
    for attribute in node.attribute:
        for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            if depth > _DEPTH:
                raise SourceError("source-unreadable", f"graphs are nested more than {_DEPTH} deep")
            yield body


def _in_training(model: Any) -> list[str]:
    """Nodes that do in this model what they do in training only."""
    modern = opset(model) >= _TRAINING_BY_ATTRIBUTE
    graphs = (model.graph, *model.functions)
    nodes = [node for graph in graphs for node in all_nodes(graph)]
    true = {tensor.name for tensor in tensors(model) if tensor.name and _is_true(tensor)}
    true |= {node.output[0] for node in nodes if node.op_type == "Constant" and any(map(_is_true, _node_tensors(node)))}
    found = []
    for node in nodes:
        attributes = {attribute.name: attribute.i for attribute in node.attribute}
        drops = node.op_type == "Dropout" and len(node.input) > 2 and node.input[2] in true
        normalizes = node.op_type == "BatchNormalization" and (
            attributes.get("training_mode") if modern else any(node.output[1:])
        )
        if node.domain in STANDARD and (drops or normalizes):
            found.append(node.name or f"{node.op_type} that makes {node.output[0]}")
    return found


def _is_true(tensor: Any) -> bool:
    return bool(tensor.data_type == _BOOL and (tensor.raw_data == b"\1" or list(tensor.int32_data) == [1]))


def _graph_tensors(graph: Any) -> Iterator[Any]:
    for body in (graph, *(inner for node in all_nodes(graph) for inner in bodies(node))):
        yield from body.initializer
        for sparse in body.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in all_nodes(graph):
        yield from _node_tensors(node)


def _node_tensors(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        yield from [attribute.t] if attribute.HasField("t") else []
        yield from attribute.tensors
        for sparse in (*([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []),
                       *attribute.sparse_tensors):  # fmt: skip
            yield from (sparse.values, sparse.indices)


def _check_tensor(tensor: Any, name: str) -> None:
    """Contents as long as the shape says, because engines have believed the shape."""
    count = math.prod(tensor.dims)
    if any(size < 0 for size in tensor.dims) or count > _ELEMENTS:
        raise SourceError("source-too-large", f"{name}: the constant {tensor.name!r} has the shape {list(tensor.dims)}")
    bits = _BITS.get(tensor.data_type)
    if bits and tensor.HasField("raw_data") and len(tensor.raw_data) != -(-count * bits // 8):
        raise SourceError(
            "source-unreadable",
            f"{name}: the constant {tensor.name!r} has {len(tensor.raw_data)} bytes; "
            f"its shape {list(tensor.dims)} needs {-(-count * bits // 8)}",
        )


def _plain_weights(graph: Any) -> list[str]:
    constant = {tensor.name for tensor in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    inputs = [value for value in graph.input if value.name not in constant]
    listed = len(graph.input) - len(inputs)
    if not listed:
        return []
    del graph.input[:]
    graph.input.extend(inputs)
    return [f"{listed} weights that were listed as inputs became constants"]


def _order(graph: Any, name: str) -> None:
    """Put nodes behind those whose results they take, where an exporter did not.

    Raises:
        SourceError: `source-unreadable`: they depend on each other in a circle.
    """
    made = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer} | {""}
    made |= {tensor.values.name for tensor in graph.sparse_initializer}
    makes = {output: index for index, node in enumerate(graph.node) for output in node.output if output}
    needs = [{makes[item] for item in _reads(node) if item in makes and item not in made} for node in graph.node]
    if all(index > max(before, default=-1) for index, before in enumerate(needs)):
        return
    waits = [len(before) for before in needs]
    takers: dict[int, list[int]] = {}
    for index, before in enumerate(needs):
        for producer in before:
            takers.setdefault(producer, []).append(index)
    ready = [index for index, count in enumerate(waits) if not count]
    for index in ready:  # grows while it is walked
        for taker in takers.get(index, ()):
            waits[taker] -= 1
            if not waits[taker]:
                ready.append(taker)
    if len(ready) < len(needs):
        stuck = [graph.node[index] for index, count in enumerate(waits) if count][:_SHOWN]
        listed = ", ".join(node.name or f"{node.op_type} that makes {node.output[0]}" for node in stuck)
        raise SourceError("source-unreadable", f"{name}: nodes depend on each other in a circle: {listed}")
    nodes = [type(node).FromString(node.SerializeToString()) for node in graph.node]
    del graph.node[:]
    graph.node.extend(nodes[index] for index in ready)


def _reads(node: Any, depth: int = 0) -> Iterator[str]:
    """Names that a node takes, those that its bodies take from outside included."""
    yield from node.input
    for body in bodies(node, depth):
        inside = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
        inside |= {output for inner in body.node for output in inner.output}
        for inner in body.node:
            yield from (item for item in _reads(inner, depth + 1) if item not in inside)
        yield from (value.name for value in body.output if value.name not in inside)


def _one_opset_each(model: Any) -> None:
    """One import a domain, the standard one among them: exporters of estimators repeat it or leave it out."""
    versions = {"": opset(model) or TARGET}
    for entry in model.opset_import:
        if entry.domain not in STANDARD:
            versions[entry.domain] = max(versions.get(entry.domain, 0), int(entry.version))
    del model.opset_import[:]
    for domain, version in versions.items():
        model.opset_import.add(domain=domain, version=version)
    for node in all_nodes(model.graph):
        if node.domain in STANDARD:
            node.domain = ""


def _raise_opset(model: Any) -> tuple[Any, str]:
    """The model in opset 13, or as it is where an operator has no way there; the note says which."""
    from onnx import version_converter

    before = opset(model)
    reason = onnx_aged.immovable(model, before)
    if reason:
        return model, f"opset {before} stays, since it cannot be raised to {TARGET}: {reason}"
    moved = type(model)()
    moved.CopyFrom(model)
    onnx_aged.prepare(moved, before)
    try:
        raised = version_converter.convert_version(moved, TARGET)
    except Exception as error:  # noqa: BLE001 - it raises RuntimeError, its own ConvertError and C++ exceptions
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return model, f"opset {before} stays, since it cannot be raised to {TARGET}: {line[:200]}"
    onnx_aged.settle(raised, before)
    return raised, f"opset {before} was raised to {TARGET}"


def _set_ir_version(model: Any) -> None:
    """The IR version that came with the opsets: engines on devices refuse newer ones, the checker older ones."""
    from onnx import helper

    model.ir_version = max(4, helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True))


def _checked(model: Any, name: str, notes: list[str]) -> tuple[Any, tuple[str, ...]]:
    """By ONNX' own checker, and by strict shape inference where that can follow."""
    import onnx

    # The checker wants a shape of each, where engines do without; `load_onnx` says what is wrong with it.
    ends = (*model.graph.input, *model.graph.output)
    shapeless = [value.type.tensor_type for value in ends if value.type.HasField("tensor_type")]
    shapeless = [kind for kind in shapeless if not kind.HasField("shape")]
    for kind in shapeless:
        kind.shape.SetInParent()
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise SourceError("source-unreadable", f"{name} breaks ONNX' rules: {first_line(error)}") from error
    for kind in shapeless:
        kind.ClearField("shape")
    try:
        return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True), tuple(notes)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        pass
    # Shapes written down by an exporter, or by the conversion to another opset, may be what is wrong.
    model.graph.ClearField("value_info")
    try:
        return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True), tuple(notes)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        return model, (*notes, f"not all shapes can be derived: {first_line(error)}")


def _shape(value: Any) -> tuple[int | None, ...]:
    return tuple(axis.dim_value if axis.dim_value > 0 else None for axis in value.type.tensor_type.shape.dim)


def _sizes(shape: tuple[int | None, ...]) -> str:
    return "[" + ",".join("N" if size is None else str(size) for size in shape) + "]"
