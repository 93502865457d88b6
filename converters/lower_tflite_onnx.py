"""TFLite to ONNX, by tf2onnx.

tf2onnx knows tensors by their names, which in TFLite are free text: empty, or the same for several. It takes a
scale without a zero point for no quantization at all. So it gets a tidied copy of the file: every tensor has a name of
its own, inputs and outputs have their public ones, zero points stand there where they are zero.

Integers stay integers: QuantizeLinear and DequantizeLinear with the file's own scales stand around the operators.
Onnxruntime rounds sums at other places than LiteRT does, so that an answer may be off by a few steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from edgekit import files
from edgekit.converters.from_tensorflow.model import unique
from edgekit.converters.from_tflite import lstm as tflite_lstm
from edgekit.converters.load_keras import reason
from edgekit.converters.lower_tf_onnx import OPSET, _graphs, _name_free_sizes, _quiet, _repeatable
from edgekit.converters.stages import Graph, LoadedModel
from edgekit.converters.tflite_graphs import graph as tflite_graph
from edgekit.errors import ConversionError
from edgekit.tensors import TensorSpec

if TYPE_CHECKING:
    from edgekit.converters.loaded import Loaded

FRAMEWORKS = ("tflite",)
FORMAT: Literal["tflite", "onnx"] = "onnx"
EXTRA = "tensorflow"


def lower(model: LoadedModel, path: Path) -> Graph:
    """Convert to an ONNX file.

    Args:
        model: Of the TFLite loader.
        path: Where the file goes.

    Returns:
        Inputs and outputs under the source's public names, in its layout and order.

    Raises:
        ConversionError: `op-unsupported-conversion`: lists the operators; `conversion-failed`; `conversion-names`.
    """
    import tensorflow as tf
    import tf2onnx

    source = cast("Loaded", model)
    facts = source.facts
    keys = unique([spec.name for spec in (*facts.inputs, *facts.outputs)])
    tidied = _tidied(source.handle, keys)
    with _quiet(), _repeatable():
        recurrent = tflite_lstm.set_aside(tidied)
        _refuse_unknown(tidied, recurrent)
        proto = _converted(tflite_graph.dump(tidied))
    tflite_lstm.put_back(proto.graph, recurrent)
    _refuse_foreign(proto)
    inputs = _described(facts.inputs, keys[: len(facts.inputs)], proto.graph.input, "input")
    outputs = _described(facts.outputs, keys[len(facts.inputs) :], proto.graph.output, "output")
    _name_free_sizes(proto.graph)
    path.write_bytes(proto.SerializeToString(deterministic=True))
    tools = {**facts.tools, "tf2onnx": str(tf2onnx.__version__), "tensorflow": str(tf.__version__)}
    return Graph("onnx", str(path), inputs, outputs, precision=source.precision, tools=tools)


def _tidied(data: bytes, keys: list[str]) -> Any:
    """The file as tf2onnx needs it; inputs, then outputs, are called `keys`.

    Raises:
        ConversionError: `conversion-names`: a tensor is input and output at once.
    """
    model = tflite_graph.read(data)
    main = model.subgraphs[0]
    ends = [int(index) for index in (*main.inputs, *main.outputs)]
    if len(set(ends)) != len(ends) or len(ends) != len(keys):
        raise ConversionError("conversion-names", "an input is also an output, or an output stands twice")
    taken = set(keys)
    for number, graph in enumerate(model.subgraphs):
        graph.name = f"graph_{number}".encode()
        for index, (tensor, name) in enumerate(zip(graph.tensors, tflite_graph.unique_names(graph), strict=True)):
            while name in taken:
                name = f"{name}_{number}_{index}"  # noqa: PLW2901 - until it is free
            taken.add(name)
            tensor.name = name.encode()
            _complete_scales(tensor)
    for index, key in zip(ends, keys, strict=True):
        main.tensors[index].name = key.encode()
    return model


def _complete_scales(tensor: Any) -> None:
    table = tensor.quantization
    if table is None or table.scale is None or not len(table.scale):
        return
    if tflite_graph.dtype_of(tensor).startswith("float"):
        tensor.quantization = None  # left over from training; kernels do not look at it
        return
    points = np.zeros(1, np.int64) if table.zeroPoint is None or not len(table.zeroPoint) else table.zeroPoint
    table.zeroPoint = np.array(np.broadcast_to(points, np.shape(table.scale)), np.int64)


def _refuse_unknown(model: Any, known_besides: Iterable[str]) -> None:
    from tf2onnx import handler, tflite_handlers

    del tflite_handlers  # imported so that they register themselves
    # Some rules lead to TensorFlow operators, others straight to ONNX.
    rules = (handler.tfl_op.create_tfl_to_tf_mapping(), handler.tf_op.create_mapping(OPSET, None))
    known = {name for rule in rules for name in rule}.union(_OWN_RULES, known_besides)
    used = {tflite_graph.op_name(model, op) for op in tflite_graph.operators(model)}
    unknown = sorted(name for name in used if f"TFL_{name}" not in known)
    if unknown:
        raise ConversionError(
            "op-unsupported-conversion",
            f"tf2onnx cannot turn {', '.join(unknown)} into ONNX",
            cause="It has no rule for these TFLite operators.",
            next_step="Convert the model that the .tflite file was made from (Keras or SavedModel), or keep TFLite.",
            ops=unknown,
            format="onnx",
        )


def _converted(data: bytes) -> Any:
    from tf2onnx import convert

    with files.scratch() as folder:
        path = folder / "edgekit.tflite"
        path.write_bytes(data)
        try:
            proto, _ = convert.from_tflite(
                str(path), opset=OPSET, custom_op_handlers={name: (rule, []) for name, rule in _OWN_RULES.items()}
            )
        except Exception as error:  # tf2onnx raises anything from AssertionError to KeyError
            raise ConversionError("conversion-failed", f"tf2onnx refused the model: {reason(error)}") from error
    return proto


def _gelu(context: Any, node: Any, name: str, arguments: Any) -> None:  # noqa: ARG001 - the form of a handler
    """x/2 (1 + erf(x / sqrt 2)), or with tanh as in arXiv:1606.08415; ONNX' own Gelu came with opset 20."""
    x, shape, dtype = node.input[0], node.output_shapes[0], node.output_dtypes[0]
    approximate = bool(node.get_attr_value("approximate"))
    context.remove_node(node.name)

    def made(kind: str, *inputs: str, **more: Any) -> str:
        return str(context.make_node(kind, list(inputs), shapes=[shape], dtypes=[dtype], **more).output[0])

    def number(value: float, what: str) -> str:
        return str(context.make_const(f"{name}_{what}", np.array(value, np.float32)).output[0])

    if approximate:
        cubed = made("Mul", made("Mul", made("Mul", x, x), x), number(0.044715, "cubic"))
        inner = made("Tanh", made("Mul", made("Add", x, cubed), number(math.sqrt(2 / math.pi), "scale")))
    else:
        inner = made("Erf", made("Mul", x, number(math.sqrt(0.5), "scale")))
    half = made("Mul", x, number(0.5, "half"))
    made("Mul", half, made("Add", inner, number(1.0, "one")), outputs=node.output)


def _bounded(low: float) -> Any:
    """A rule for x limited to low..1."""

    def rule(context: Any, node: Any, name: str, arguments: Any) -> None:  # noqa: ARG001 - the form of a handler
        shapes, dtypes = node.output_shapes, node.output_dtypes
        context.remove_node(node.name)
        numbers = [np.array(value, np.float32) for value in (low, 1.0)]
        bounds = [context.make_const(f"{name}_{value:g}", value).output[0] for value in numbers]
        context.make_node("Clip", [node.input[0], *bounds], outputs=node.output, shapes=shapes, dtypes=dtypes)

    return rule


_OWN_RULES = {"TFL_GELU": _gelu, "TFL_RELU_N1_TO_1": _bounded(-1.0), "TFL_RELU_0_TO_1": _bounded(0.0)}
"""Operators that tf2onnx 1.17 has no rule for."""


def _refuse_foreign(proto: Any) -> None:
    """tf2onnx leaves what it cannot convert as it is, with the name it had."""
    from onnx import defs

    nodes = [node for body in _graphs(proto.graph) for node in body.node]
    foreign = sorted({node.op_type for node in nodes if not defs.has(node.op_type, OPSET, node.domain)})
    if foreign:
        raise ConversionError(
            "op-unsupported-conversion", f"ONNX has no counterpart of {', '.join(foreign)}", ops=foreign, format="onnx"
        )


def _described(specs: tuple[TensorSpec, ...], keys: list[str], found: Any, side: str) -> tuple[TensorSpec, ...]:
    """The specs with their names in the file, in the source's order; shapes as the file has them."""
    values = {value.name: value for value in found}
    if set(values) != set(keys):
        raise ConversionError(
            "conversion-names", f"the file's {side}s are {', '.join(values)}; the source's are {', '.join(keys)}"
        )
    result = []
    for spec, key in zip(specs, keys, strict=True):
        axes = values[key].type.tensor_type.shape.dim
        shape = tuple(axis.dim_value if axis.HasField("dim_value") else None for axis in axes)
        if len(shape) != len(spec.shape):
            raise ConversionError(
                "conversion-names", f"the {side} {spec.name!r} has {len(shape)} dimensions, not {len(spec.shape)}"
            )
        result.append(replace(spec, shape=shape, tensor=key if key != spec.name else None))
    return tuple(result)
