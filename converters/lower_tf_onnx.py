"""Keras and SavedModel -> float ONNX, by tf2onnx.

tf2onnx has its own Keras and SavedModel readers, which differ by Keras generation and pair names with tensors by
position. It gets the frozen graph of our trace instead, with a table of names, so that Keras 2, Keras 3 and
SavedModels are one case. The interface keeps the source's layout; transposes around the convolutions are what
tf2onnx' optimizer leaves of them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgekit.converters.from_tensorflow.model import TfModel, unique
from edgekit.converters.load_keras import reason
from edgekit.converters.stages import Graph, LoadedModel
from edgekit.errors import ConversionError
from edgekit.tensors import TensorSpec

FRAMEWORKS = ("keras", "saved_model")
FORMAT: Literal["tflite", "onnx"] = "onnx"
EXTRA = "tensorflow"

OPSET = 18
"""The newest that tf2onnx 1.17 writes (with IR version 8)."""

_FIRST_NUMBER = 1 << 40
"""Where a name may hold an address or an index, tf2onnx tells them by their size."""


def lower(model: LoadedModel, path: Path) -> Graph:
    """Convert to a float ONNX file.

    Args:
        model: Of a Keras or SavedModel loader.
        path: Where the file goes.

    Returns:
        Its inputs and outputs in the source's order and layout; sizes are free where the source's are.

    Raises:
        ConversionError: `op-unsupported-conversion`: lists the ops; `conversion-failed`; `conversion-names`.
    """
    import tensorflow as tf
    import tf2onnx

    handle: TfModel = model.handle
    inputs, outputs, tensors = _names(handle)
    with _quiet(), _repeatable(), tf.device("/cpu:0"):
        proto = _convert(handle.function, tensors, len(inputs))
    _check(proto, inputs, outputs)
    _name_free_sizes(proto.graph)
    path.write_bytes(proto.SerializeToString(deterministic=True))
    tools = {"tf2onnx": str(tf2onnx.__version__), "tensorflow": str(tf.__version__)}
    return Graph("onnx", str(path), inputs, outputs, tools=tools)


def _names(model: TfModel) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], dict[str, str]]:
    """Specs for the ONNX file, and a table: tensor of the TensorFlow graph -> name in the file.

    Inputs and outputs share one namespace in ONNX: an output named as an input gets another name inside.
    """
    keys = unique([spec.name for spec in (*model.inputs, *model.outputs)])
    specs = [
        replace(spec, tensor=key if key != spec.name else None)
        for spec, key in zip((*model.inputs, *model.outputs), keys, strict=True)
    ]
    inputs, outputs = tuple(specs[: len(model.inputs)]), tuple(specs[len(model.inputs) :])
    function = model.function
    placeholders = {tensor.op.get_attr("_user_specified_name").decode(): tensor.name for tensor in _fed(function)}
    table = {placeholders[source.key]: spec.key for source, spec in zip(model.inputs, inputs, strict=True)}
    for source, spec in zip(model.outputs, outputs, strict=True):
        table[function.structured_outputs[source.key].name] = spec.key
    if len(table) != len(specs):
        raise ConversionError("conversion-names", "two outputs of the traced model are one tensor")
    return inputs, outputs, table


def _fed(function: Any) -> list[Any]:
    """The graph's own inputs, without captured variables."""
    captured = {id(tensor) for tensor in function.graph.internal_captures}
    return [tensor for tensor in function.inputs if id(tensor) not in captured]


def _convert(function: Any, tensors: dict[str, str], inputs: int) -> Any:
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
    from tf2onnx import convert

    names = list(tensors)
    try:
        # Loops stay whole: tf2onnx turns them into ONNX LSTM, GRU or Loop.
        frozen = convert_variables_to_constants_v2(function, lower_control_flow=False, aggressive_inlining=True)
        proto, _ = convert.from_graph_def(
            _inlinable(frozen.graph.as_graph_def(add_shapes=True)),
            name="edgekit",
            input_names=names[:inputs],
            output_names=names[inputs:],
            opset=OPSET,
            tensors_to_rename=tensors,
            custom_op_handlers={"Erfc": (_erfc, [])},
        )
    except Exception as error:  # tf2onnx raises anything from AssertionError to KeyError
        raise ConversionError("conversion-failed", f"tf2onnx refused the model: {reason(error)}") from error
    return proto


def _inlinable(definition: Any) -> Any:
    """The GraphDef with functions that may be inlined: those that Keras asks XLA to compile (convolutions of groups)
    would be left as calls.
    """
    for owner in (*definition.library.function, definition):
        for node in owner.node_def if hasattr(owner, "node_def") else owner.node:
            node.attr.pop("_XlaMustCompile", None)
    for function in definition.library.function:
        for reason_against in ("_XlaMustCompile", "_noinline"):
            function.attr.pop(reason_against, None)
    return definition


def _erfc(context: Any, node: Any, name: str, arguments: Any) -> None:  # noqa: ARG001 - the form of a handler
    """Erfc(x) = 1 - Erf(x). tf2onnx does not know it, and TensorFlow's exact GELU consists of it."""
    shapes, dtypes = node.output_shapes, node.output_dtypes
    context.remove_node(node.name)
    one = context.make_const(f"{name}_one", np.array(1, np.float32))
    erf = context.make_node("Erf", node.input, shapes=shapes, dtypes=dtypes)
    context.make_node("Sub", [one.output[0], erf.output[0]], outputs=node.output, shapes=shapes, dtypes=dtypes)


def _check(proto: Any, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
    """Refuse a graph with TensorFlow ops left in it, or with another interface than the source's."""
    from onnx import defs

    # tf2onnx leaves what it cannot convert as it is, with the name it had.
    nodes = [node for body in _graphs(proto.graph) for node in body.node]
    foreign = sorted({node.op_type for node in nodes if not defs.has(node.op_type, OPSET, node.domain)})
    if foreign:
        raise ConversionError(
            "op-unsupported-conversion", f"ONNX has no counterpart of {', '.join(foreign)}", ops=foreign, format="onnx"
        )
    for kind, specs, found in (("input", inputs, proto.graph.input), ("output", outputs, proto.graph.output)):
        names = {value.name for value in found}
        if names != {spec.key for spec in specs}:
            raise ConversionError(
                "conversion-names",
                f"the file's {kind}s are {', '.join(sorted(names))}; the source's are "
                f"{', '.join(spec.key for spec in specs)}",
            )


def _name_free_sizes(graph: Any) -> None:
    """Name free sizes by what they are; tf2onnx numbers them through."""
    for value in (*graph.input, *graph.output):
        for axis, size in enumerate(value.type.tensor_type.shape.dim):
            if not size.HasField("dim_value"):
                size.dim_param = "N" if axis == 0 else f"{value.name}_{axis}"
    for body in _graphs(graph):
        del body.value_info[:]  # intermediate shapes, full of numbered sizes; engines infer them


def _graphs(graph: Any) -> Iterator[Any]:
    """A graph and the bodies of its loops and branches, to any depth."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for body in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from _graphs(body)


@contextmanager
def _repeatable() -> Iterator[None]:
    """Let tf2onnx number objects in the order in which it meets them, not by memory address, beginning anew.

    Which of several equal nodes survives its merging, the order of nodes, and names of einsums depend on it: without
    this, equal models give different bytes. (Sets of names depend on PYTHONHASHSEED, which a worker fixes.)
    """
    from tf2onnx import utils
    from tf2onnx.graph import Node
    from tf2onnx.optimizer import einsum_optimizer

    numbers: dict[int, tuple[int, Any]] = {}  # holds the objects as well, so that no address is used twice

    def number(thing: Any) -> int:
        return numbers.setdefault(id(thing), (_FIRST_NUMBER + len(numbers), thing))[0]

    utils.INTERNAL_NAME = 1
    Node.__hash__ = number
    einsum_optimizer.id = number
    try:
        yield
    finally:
        del Node.__hash__, einsum_optimizer.id


@contextmanager
def _quiet() -> Iterator[None]:
    """tf2onnx reports its progress through logging, and TensorFlow that tf2onnx calls old functions."""
    loggers = [logging.getLogger(name) for name in ("tf2onnx", "tensorflow")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
