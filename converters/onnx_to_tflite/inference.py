"""What ONNX itself says of a node: its outputs' shapes, its value where all is known, its body in simpler operators."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from edgekit.converters.onnx_to_tflite.draft import Array, Shape
from edgekit.converters.onnx_to_tflite.nodes import Value
from edgekit.converters.onnx_to_tflite.refusal import Refused

STANDARD = ("",)
"""Domains of which ONNX infers the outputs' sizes."""
_COMPUTED = ("", "ai.onnx.ml")
"""Domains of which ONNX computes the operators."""
SELF_SHAPED = frozenset({"If", "Loop", "Scan"})
"""Their rules find out about their outputs."""

_KEPT = SELF_SHAPED | {
    "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli",
}  # fmt: skip
"""Not computed here though all inputs are known."""
_LARGEST = 1 << 26
"""Elements of a result that is still worth keeping as a constant."""

_NEWEST = 16
"""Operator set in which the last of those operators got theirs."""

Kind = tuple[Shape, str]
OpenKind = tuple[tuple[int | None, ...], str]
"""A size is None where only a run tells."""


def kind_of(type_proto: Any) -> Kind | None:
    """Shape and dtype of a TypeProto; None where anything of it is unknown or it is no tensor of numbers."""
    found = open_kind_of(type_proto)
    sizes = tuple(size for size in found[0] if size is not None) if found is not None else ()
    return (sizes, found[1]) if found is not None and len(sizes) == len(found[0]) else None


def open_kind_of(type_proto: Any) -> OpenKind | None:
    """The same of a TypeProto of which only the number of axes and the dtype have to be known."""
    if type_proto.WhichOneof("value") != "tensor_type" or not type_proto.tensor_type.HasField("shape"):
        return None
    axes = type_proto.tensor_type.shape.dim
    known = [axis.WhichOneof("value") == "dim_value" and axis.dim_value >= 0 for axis in axes]
    name = dtype_name(type_proto.tensor_type.elem_type)
    if name is None:
        return None
    return tuple(int(axis.dim_value) if there else None for axis, there in zip(axes, known, strict=True)), name


def dtype_name(element: int) -> str | None:
    """Numpy's name of a TensorProto.DataType."""
    from onnx import helper

    if element in (0, 8):
        return None
    return str(helper.tensor_dtype_to_np_dtype(element).name)


def declared(graph: Any) -> dict[str, Kind]:
    """What the file says about its values."""
    found = {info.name: kind_of(info.type) for info in (*graph.value_info, *graph.output)}
    return {name: kind for name, kind in found.items() if kind is not None}


def array(tensor: Any) -> Array | None:
    """Values of a TensorProto; None for texts."""
    from onnx import numpy_helper

    return None if tensor.data_type == 8 else np.asarray(numpy_helper.to_array(tensor))


def attributes(proto: Any) -> dict[str, Any]:
    """Attributes as Python and numpy values; bodies stay GraphProtos."""
    from onnx import AttributeProto, helper

    found: dict[str, Any] = {}
    for attribute in proto.attribute:
        value = helper.get_attribute_value(attribute)
        if attribute.type == AttributeProto.TENSOR:
            value = array(value)
        elif attribute.type == AttributeProto.STRING:
            value = value.decode("utf-8", "replace")
        elif attribute.type == AttributeProto.STRINGS:
            value = [item.decode("utf-8", "replace") for item in value]
        found[attribute.name] = value
    return found


def schema_of(op: str, domain: str, version: int) -> Any | None:
    """ONNX' definition of an operator in a version of its operator set."""
    from onnx import defs

    try:
        return defs.get_schema(op, version, domain)
    except defs.SchemaError:
        return None


def fold(
    proto: Any, domain: str, version: int, inputs: Sequence[Value | None], *, measured: bool = False
) -> list[Array] | None:
    """The outputs of a node that depends on constants only; None where it must run on the device.

    Args:
        proto: The node.
        domain: Of its operator.
        version: Of its operator set.
        inputs: Its inputs.
        measured: Only a run tells the sizes of these.

    Raises:
        Refused: It cannot be computed.
    """
    if proto.op_type in ("Shape", "Size") and not domain and inputs and inputs[0] is not None:
        return None if measured else [_sizes(proto, inputs[0])]
    present = [value for value in inputs if value is not None]
    if proto.op_type in _KEPT or any(value.data is None for value in present) or domain not in _COMPUTED:
        return None
    if proto.op_type == "DequantizeLinear":
        return None
    return _evaluate(proto, domain, version, inputs)


def _sizes(proto: Any, value: Value) -> Array:
    if proto.op_type == "Size":
        return np.array(value.size, np.int64)
    found = attributes(proto)
    start, end = int(found.get("start", 0)), int(found.get("end", value.rank))
    return np.array(value.shape[slice(*slice(start, end).indices(value.rank)[:2])], np.int64)


def _evaluate(proto: Any, domain: str, version: int, inputs: Sequence[Value | None]) -> list[Array] | None:
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    feeds = {name: value.data for name, value in zip(proto.input, inputs, strict=False) if value is not None}
    infos = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in feeds]
    outs = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in proto.output if name]
    model = helper.make_model(
        helper.make_graph([proto], "one", infos, outs), opset_imports=[helper.make_opsetid(domain, version)]
    )
    if proto.op_type in ("ConstantOfShape", "Expand", "Tile"):
        sizes = next(iter(reversed(list(feeds.values()))), None)
        if sizes is not None and np.prod(np.asarray(sizes, np.float64)) > _LARGEST:
            return None
    try:
        answers = ReferenceEvaluator(model).run([info.name for info in outs], feeds)
    except Exception as error:  # its operators raise whatever numpy raises
        raise Refused(f"it depends on constants only and cannot be computed: {error}") from error
    if not all(isinstance(answer, (np.ndarray, np.generic)) for answer in answers):
        raise Refused("it makes a list of tensors, and TFLite has tensors only")
    found = iter(np.asarray(answer) for answer in answers)
    return [next(found) if name else np.zeros(0) for name in proto.output]


def outputs(
    proto: Any, domain: str, version: int, inputs: Sequence[Value | None], versions: Mapping[str, int]
) -> dict[str, OpenKind]:
    """Shapes and dtypes of a node's outputs, as far as ONNX' own inference finds them."""
    from onnx import helper, numpy_helper, shape_inference

    schema = schema_of(proto.op_type, domain, version)
    if schema is None or proto.op_type in SELF_SHAPED:
        return {}
    if not schema.has_type_and_shape_inference_function and schema.has_function:
        # Some of the first operators that have bodies got their rules of sizes later.
        schema = schema_of(proto.op_type, domain, max(version, _NEWEST)) or schema
    types, data = {}, {}
    for name, value in zip(proto.input, inputs, strict=False):
        if value is None:
            continue
        element = helper.np_dtype_to_tensor_dtype(np.dtype(_numpy_type(value.dtype)))
        types[name] = helper.make_tensor_type_proto(element, value.shape)
        if value.data is not None and value.size <= 1024:
            data[name] = numpy_helper.from_array(np.asarray(value.data), name)
    imports = [helper.make_opsetid(known, number) for known, number in {**versions, domain: version}.items()]
    try:
        found = shape_inference.infer_node_outputs(schema, proto, types, data, opset_imports=imports)
    except (shape_inference.InferenceError, ValueError, RuntimeError) as error:
        raise Refused(f"ONNX' own rules refuse it: {str(error).strip().splitlines()[0]}") from error
    kinds = {name: open_kind_of(kind) for name, kind in found.items()}
    return {name: kind for name, kind in kinds.items() if kind is not None}


def _numpy_type(name: str) -> Any:
    if name in np.sctypeDict:
        return name
    import ml_dtypes

    return getattr(ml_dtypes, name)


def body(proto: Any, domain: str, version: int, inputs: Sequence[Value | None]) -> Any | None:
    """The FunctionProto by which ONNX defines an operator, or None."""
    from onnx import FunctionProto, helper

    schema = schema_of(proto.op_type, domain, version)
    if schema is None:
        return None
    if schema.has_function:
        return schema.function_body
    if schema.has_context_dependent_function:
        types = [
            helper.make_tensor_type_proto(
                helper.np_dtype_to_tensor_dtype(np.dtype(_numpy_type(value.dtype))), value.shape
            ).SerializeToString()
            if value is not None
            else b""
            for value in inputs
        ]
        made = schema.get_context_dependent_function(proto.SerializeToString(), types)
        return FunctionProto.FromString(made)
    return None


def instantiate(function: Any, call: Any, given: Collection[str], prefix: str) -> Iterator[Any]:
    """Nodes of a function's body as one call means them, with its attributes and without inputs that it leaves out.

    Args:
        function: A FunctionProto.
        call: The node that calls it.
        given: Names of the inputs that the call gives.
        prefix: For names of nodes.
    """
    from onnx import NodeProto

    schema_defaults = _defaults(function, call)
    values = {attribute.name: attribute for attribute in call.attribute}
    absent = set(function.input) - set(given)
    for number, template in enumerate(function.node):
        node = NodeProto()
        node.CopyFrom(template)
        node.name = f"{prefix}/{template.op_type}_{number}"
        kept = []
        for attribute in node.attribute:
            if attribute.ref_attr_name:
                source = values.get(attribute.ref_attr_name) or schema_defaults.get(attribute.ref_attr_name)
                if source is None:
                    continue
                name = attribute.name
                attribute.CopyFrom(source)
                attribute.name = name
            kept.append(type(attribute).FromString(attribute.SerializeToString()))
        del node.attribute[:]
        node.attribute.extend(kept)
        for index, name in enumerate(node.input):
            if name in absent:
                node.input[index] = ""
        yield node


def _defaults(function: Any, call: Any) -> dict[str, Any]:
    found = {attribute.name: attribute for attribute in function.attribute_proto}
    newest = max((int(entry.version) for entry in function.opset_import if entry.domain == call.domain), default=1)
    schema = schema_of(call.op_type, "" if call.domain == "ai.onnx" else call.domain, newest)
    for name, attribute in (schema.attributes if schema is not None else {}).items():
        if attribute.default_value.name and name not in found:
            found[name] = attribute.default_value
    return found
