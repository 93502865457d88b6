"""Preparation inside the graph: it takes a picture as it is, and does scale, mean, std, color order and layout.

    convert net.onnx -o net.tflite --metadata feed.toml --fold-preprocess

For pictures it is one convolution of 1x1 before all others, which quantizes well (one weight a channel, exact in int8,
and a bias of 32 bits); for other inputs a multiplication and an addition. `Graph.folded` tells the other stages, which
think in the source's inputs, how to go back to raw values: calibration and verification feed the folded graph with them
and compare it with the source's own answers, so that a wrong folding is found like any other wrong conversion.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.converters.onnx_graphs import graph as onnx_graph
from edgekit.converters.stages import Array, Folded, Graph, Range, Ranges
from edgekit.converters.tflite_graphs import graph as tflite_graph
from edgekit.errors import FeedError, UsageError
from edgekit.feeding import Preprocess
from edgekit.runtimes.preparation.pictures import geometry
from edgekit.tensors import TensorSpec

_BYTES = Range(0.0, 255.0)
"""What raw pictures hold, whatever the calibration data shows: int8 inputs are then bytes moved by 128."""

_TURNED = (
    "the graph turns RGB into the model's BGR: arrays are taken for RGB from now on, a camera's frames go to "
    'predict(frame, colors="BGR")'
)


def fold(graph: Graph, how: Preprocess) -> Graph:
    """The float graph with its preparation inside, at the same path.

    Raises:
        UsageError: `fold-impossible`: says why.
    """
    spec = _checked(graph, how)
    image = how.kind == "image"
    first = image and geometry(spec).first
    size = geometry(spec).channels if image else (spec.shape[-1] or 1)
    swap = image and how.colors == "BGR" and size == 3
    mean, std = (np.broadcast_to(np.asarray(values, np.float64), (size,)) for values in (how.mean, how.std))
    factor, offset = (how.scale / std).astype(np.float32), (-mean / std).astype(np.float32)
    steps = {"tflite": _tflite, "onnx": _onnx}[graph.format]
    steps(graph, spec, factor, offset, image=image, first=first, swap=swap)
    order = (0, 2, 3, 1)
    shape = tuple(spec.shape[axis] for axis in order) if first else spec.shape
    layout = "NHWC" if image else spec.layout
    changed = replace(spec, shape=shape, layout=layout)
    turned = dict(graph.turned)
    if first:
        before = turned.get(spec.name, (0, 1, 2, 3))
        turned[spec.name] = tuple(before[axis] for axis in order)
    folded = Folded(tuple(map(float, factor)), tuple(map(float, offset)), reversed=swap, image=image)
    notes = (*graph.notes, _TURNED) if swap else graph.notes
    return replace(graph, inputs=(changed,), turned=turned, folded={spec.name: folded}, notes=notes)


def left(how: Preprocess, graph: Graph) -> Preprocess:
    """What is still to be done before the graph."""
    if not graph.folded:
        return how
    colors = "RGB" if how.colors == "BGR" else how.colors
    return replace(how, scale=1.0, mean=(0.0,), std=(1.0,), colors=colors)


def widened(graph: Graph, ranges: Ranges) -> Ranges:
    """Observed ranges, with that of a raw picture as it is known."""
    known = {
        spec.key: _BYTES
        for spec in graph.inputs
        if spec.name in graph.folded and graph.folded[spec.name].image and spec.key in ranges.tensors
    }
    return replace(ranges, tensors={**ranges.tensors, **known})


def _checked(graph: Graph, how: Preprocess) -> TensorSpec:
    if len(graph.inputs) != 1 or graph.inputs[0].dtype != "float32" or not graph.inputs[0].shape:
        said = ", ".join(spec.describe() for spec in graph.inputs)
        raise UsageError("fold-impossible", f"preparation is folded before one input of floats; the model takes {said}")
    (spec,) = graph.inputs
    if how.kind not in ("image", "array", "waveform") or (how.kind == "waveform" and how.audio is not None):
        raise UsageError("fold-impossible", f"what {how.kind}s go through before scale and mean is no part of a graph")
    try:
        first = how.kind == "image" and geometry(spec).first
    except FeedError as error:
        raise UsageError("fold-impossible", str(error)) from error
    size = spec.shape[1] if first else spec.shape[-1]
    for values in (how.mean, how.std):
        if len(values) not in (1, size):
            raise UsageError("fold-impossible", f"{len(values)} means or stds for {size} channels of {spec.describe()}")
    if how.identity and not first and how.colors != "BGR":
        raise UsageError("fold-impossible", "there is nothing to fold: [preprocess] changes neither values nor axes")
    return spec


def _kernel(factor: Array, *, swap: bool) -> Array:
    """[out, in]: each channel by its factor, taken from its own place or, swapped, from the other end."""
    kernel = np.diag(factor)
    return np.ascontiguousarray(kernel[:, ::-1] if swap else kernel)


def _onnx(
    graph: Graph, spec: TensorSpec, factor: Array, offset: Array, *, image: bool, first: bool, swap: bool
) -> None:
    from onnx import helper

    model = onnx_graph.read(graph.path)
    name, inside = spec.key, f"{spec.key}/prepared"
    for node in model.graph.node:
        for place, taken in enumerate(node.input):
            if taken == name:
                node.input[place] = inside
    for value in model.graph.output:
        if value.name == name:
            raise UsageError("fold-impossible", f"{name} is an output as well")
    constants, nodes, at = [], [], name
    turn = helper.make_node
    if image:  # what comes lies as cameras give it
        nodes.append(turn("Transpose", [at], [f"{name}/planes"], f"{name}/to_planes", perm=[0, 3, 1, 2]))
        at = f"{name}/planes"
    if image:
        constants += [onnx_graph.constant(f"{name}/factor", _kernel(factor, swap=swap)[:, :, None, None])]
        constants += [onnx_graph.constant(f"{name}/offset", offset)]
        made = inside if first else f"{name}/scaled"
        nodes.append(turn("Conv", [at, f"{name}/factor", f"{name}/offset"], [made], f"{name}/prepare"))
        if not first:
            nodes.append(turn("Transpose", [made], [inside], f"{name}/to_rows", perm=[0, 2, 3, 1]))
    else:
        constants += [onnx_graph.constant(f"{name}/factor", factor), onnx_graph.constant(f"{name}/offset", offset)]
        nodes.append(turn("Mul", [at, f"{name}/factor"], [f"{name}/scaled"], f"{name}/scale"))
        nodes.append(turn("Add", [f"{name}/scaled", f"{name}/offset"], [inside], f"{name}/shift"))
    model.graph.initializer.extend(constants)
    if first:
        (value,) = (value for value in model.graph.input if value.name == name)
        sizes = list(value.type.tensor_type.shape.dim)
        moved = [type(sizes[0]).FromString(sizes[axis].SerializeToString()) for axis in (0, 2, 3, 1)]
        del value.type.tensor_type.shape.dim[:]
        value.type.tensor_type.shape.dim.extend(moved)
    onnx_graph.prepend(model, nodes)
    onnx_graph.write(onnx_graph.infer_types(model), Path(graph.path))


def _tflite(
    graph: Graph, spec: TensorSpec, factor: Array, offset: Array, *, image: bool, first: bool, swap: bool
) -> None:
    model = tflite_graph.read(Path(graph.path).read_bytes())
    schema, main = tflite_graph.schema(), model.subgraphs[0]
    (place,) = tflite_graph.interface(model, [spec], "inputs")
    old = int(main.inputs[place])
    tensor = main.tensors[old]
    name = tflite_graph.name_of(tensor)
    order = [0, 2, 3, 1] if first else list(range(len(tensor.shape)))

    def made(title: str, turned: bool) -> int:
        like = schema.TensorT()
        like.name, like.type, like.hasRank = title.encode(), tensor.type, True
        for field in ("shape", "shapeSignature"):
            sizes = getattr(tensor, field)
            if tflite_graph.filled(sizes):
                setattr(like, field, np.array([sizes[i] for i in (order if turned else range(len(sizes)))], np.int32))
        main.tensors.append(like)
        return len(main.tensors) - 1

    tensor.name = f"{name}/prepared".encode()
    raw = made(name, first)
    operators: list[Any] = []

    def op(kind: str, inputs: list[int], output: int, options: str | None, **values: Any) -> None:
        one = schema.OperatorT()
        one.opcodeIndex = tflite_graph.use_op_code(model, getattr(schema.BuiltinOperator, kind), 1)
        one.inputs, one.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
        if options is not None:
            one.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            one.builtinOptions = getattr(schema, f"{options}T")()
            for key, value in values.items():
                setattr(one.builtinOptions, key, value)
        operators.append(one)

    add: Callable[[Array, str], int] = lambda values, title: tflite_graph.add_constant(model, main, values, title)  # noqa: E731
    if image:
        kernel = add(_kernel(factor, swap=swap)[:, None, None, :], f"{name}/factor")
        scaled = made(f"{name}/scaled", turned=True) if first else old
        op("CONV_2D", [raw, kernel, add(offset, f"{name}/offset")], scaled, "Conv2DOptions", strideW=1, strideH=1,
           dilationWFactor=1, dilationHFactor=1)  # fmt: skip
        if first:
            turn = add(np.array([0, 3, 1, 2], np.int32), f"{name}/order")
            op("TRANSPOSE", [scaled, turn], old, "TransposeOptions")
    else:
        scaled = made(f"{name}/scaled", turned=False)
        op("MUL", [raw, add(factor, f"{name}/factor")], scaled, "MulOptions")
        op("ADD", [scaled, add(offset, f"{name}/offset")], old, "AddOptions")
    main.operators = [*operators, *(main.operators or ())]
    main.inputs = np.array([raw if int(index) == old else int(index) for index in main.inputs], np.int32)
    for signature in model.signatureDefs or ():
        for entry in signature.inputs or ():
            if int(entry.tensorIndex) == old:
                entry.tensorIndex = raw
    Path(graph.path).write_bytes(tflite_graph.dump(model))
