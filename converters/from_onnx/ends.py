"""The ends of an ONNX graph: what it takes and what it answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit.converters.from_onnx import missing
from edgekit.errors import SourceError
from edgekit.tensors import INTEGER_RANGE, Layout, QuantParams, TensorSpec

_DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64", 12: "uint32", 13: "uint64",
}  # fmt: skip
"""TensorProto.DataType -> what can be fed and read."""

_SPATIAL = frozenset({
    "Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ConvInteger",
    "InstanceNormalization", "QLinearConv",
})  # fmt: skip
_ALONG = frozenset({
    "Add", "Sub", "Mul", "Div", "Cast", "Identity", "Pad", "Clip", "BatchNormalization", "QuantizeLinear",
    "DequantizeLinear", "Resize", "Upsample", "Slice", "Concat", "Relu", "LeakyRelu", "Sigmoid", "Tanh", "Abs", "Neg",
    "Sqrt", "Pow", "Exp", "Log", "Max", "Min",
})  # fmt: skip
"""Operators that leave axes where they are, as they stand before a first convolution."""
_FIRST: dict[int, Layout] = {3: "NCW", 4: "NCHW", 5: "NCDHW"}
_LAST: dict[int, Layout] = {3: "NWC", 4: "NHWC", 5: "NDHWC"}

_REALS = frozenset({"float16", "float32", "float64"})


def inputs(graph: Any, path: Path) -> tuple[TensorSpec, ...]:
    """What it takes, with the meaning of axes and of missing values.

    Raises:
        SourceError: `source-not-tensor`, `source-dtype`, `source-rank`.
    """
    return tuple(_admitting(_laid_out(_spec(value, path), graph), graph) for value in graph.input)


def outputs(model: Any, session: Any, path: Path) -> tuple[TensorSpec, ...]:
    """What it answers, as declared; where the file says nothing of a shape, or of other axes, as the engine derived it.

    Raises:
        SourceError: As of `inputs`.
    """
    known = {value.name: value.shape for value in session.get_outputs()}
    found = []
    for value in model.graph.output:
        derived = known.get(value.name) or ()
        if value.type.WhichOneof("value") == "tensor_type" and _misses(value.type.tensor_type, len(derived)):
            value.type.tensor_type.ClearField("shape")
            for size in derived:
                axis = value.type.tensor_type.shape.dim.add()
                if isinstance(size, int) and size > 0:
                    axis.dim_value = size
        spec = _spec(value, path)
        if len(derived) == len(spec.shape):
            sizes = [size if isinstance(size, int) and size > 0 else None for size in derived]
            spec = replace(spec, shape=tuple(a or b for a, b in zip(spec.shape, sizes, strict=True)))
        found.append(spec)
    return tuple(found)


def with_scales(
    graph: Any, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Integer inputs that go straight into a DequantizeLinear, and outputs of a QuantizeLinear, with its scale."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    takers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            takers.setdefault(name, []).append(node)
    makers = {name: node for node in graph.node for name in node.output}
    fed = []
    for spec in inputs:
        readers = takers.get(spec.name, [])
        plain = readers and all(node.op_type == "DequantizeLinear" for node in readers)
        fed.append(replace(spec, quant=_scale(readers[0], spec, constants)) if plain else spec)
    read = [
        replace(spec, quant=_scale(makers[spec.name], spec, constants))
        if spec.name in makers and makers[spec.name].op_type == "QuantizeLinear"
        else spec
        for spec in outputs
    ]
    return tuple(fed), tuple(read)


def _spec(value: Any, path: Path) -> TensorSpec:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        what = (kind or "nothing").removesuffix("_type").replace("_", " ")
        raise SourceError(
            "source-not-tensor", f"{path.name}: {value.name!r} is a {what}, not a tensor", name=value.name
        )
    tensor = value.type.tensor_type
    if tensor.elem_type not in _DTYPES:
        import onnx

        names = {number: name.lower() for name, number in onnx.TensorProto.DataType.items()}
        raise SourceError(
            "source-dtype",
            f"{path.name}: the tensor {value.name!r} is {names.get(tensor.elem_type, tensor.elem_type)}, "
            "which no engine on a device takes",
            name=value.name,
        )
    if not tensor.HasField("shape"):
        raise SourceError("source-rank", f"{path.name}: the tensor {value.name!r} has no fixed number of dimensions")
    sizes = tuple(axis.dim_value if axis.dim_value > 0 else None for axis in tensor.shape.dim)
    return TensorSpec(value.name, sizes, _DTYPES[tensor.elem_type])


def _admitting(spec: TensorSpec, graph: Any) -> TensorSpec:
    """An input with what it takes for a missing value."""
    return replace(spec, missing=True) if spec.dtype in _REALS and missing.takes(graph, spec.name) else spec


def _misses(tensor: Any, axes: int) -> bool:
    """Whether a declaration is no help beside so many axes; of 0, the engine may not know."""
    return not tensor.HasField("shape") or (axes > 0 and len(tensor.shape.dim) != axes)


def _scale(node: Any, spec: TensorSpec, constants: dict[str, Any]) -> QuantParams | None:
    from onnx import numpy_helper

    parts = [part for name in node.input[1:3] if (part := constants.get(name)) is not None]
    if spec.dtype not in INTEGER_RANGE or not parts or len(parts) < len(node.input[1:3]):
        return None
    values = [numpy_helper.to_array(part).reshape(-1) for part in parts]
    if any(len(value) != 1 for value in values) or not values[0][0] > 0:
        return None
    return QuantParams((float(values[0][0]),), (int(values[1][0]) if len(values) > 1 else 0,))


def _laid_out(spec: TensorSpec, graph: Any) -> TensorSpec:
    """An input with the meaning of its axes, where a convolution or pooling is what it leads to.

    ONNX' convolutions take channels first; an input that is turned before, as exporters from TensorFlow do, has them
    last.
    """
    rank = len(spec.shape)
    if rank not in _FIRST:
        return spec
    last_to_first = [0, rank - 1, *range(1, rank - 1)]
    reached: dict[str, Layout | None] = {spec.name: None}
    for node in graph.node:
        start = node.input[0] if node.input else ""
        if start not in reached:
            continue
        if node.op_type in _SPATIAL:
            return replace(spec, layout=reached[start] or _FIRST[rank])
        if node.op_type == "Transpose" and list(_permutation(node)) == last_to_first and reached[start] is None:
            reached[node.output[0]] = _LAST[rank]
        elif node.op_type in _ALONG:
            reached[node.output[0]] = reached[start]
    return spec


def _permutation(node: Any) -> Iterator[int]:
    for attribute in node.attribute:
        if attribute.name == "perm":
            yield from attribute.ints
