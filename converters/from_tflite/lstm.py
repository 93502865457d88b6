"""TFLite's fused recurrent layer for ONNX, around tf2onnx, which does not know it.

Before tf2onnx runs, each UNIDIRECTIONAL_SEQUENCE_LSTM becomes a custom operator with its weights packed as ONNX wants
them, which tf2onnx hands through. Afterwards the operator becomes an ONNX LSTM; or, where the cell's limit could take
effect, a Scan that limits the cell: ONNX LSTM's own `clip` limits the gates instead.

A cell adds at most 1 a step (it is forget * cell + input * tanh, gates within 0..1), so that a limit of L does nothing
in a sequence of at most L steps. The kernel: tensorflow/lite/kernels/lstm_eval.cc, `LstmStepFloat`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.converters.tflite_graphs import graph as files
from edgekit.converters.tflite_graphs.graph import ModelT
from edgekit.errors import ConversionError

KIND = "UNIDIRECTIONAL_SEQUENCE_LSTM"
_STAND_IN = "EDGEKIT_LSTM_"
_TANH, _RANK = 4, 3
_ONNX_GATES = (0, 3, 1, 2)
"""Input, output, forget, cell: where they are in TFLite's input, forget, cell, output."""
_WEIGHTS, _RECURRENT, _BIASES, _STATES = (1, 2, 3, 4), (5, 6, 7, 8), (12, 13, 14, 15), (18, 19)
_VARIANTS = {
    "peephole connections": (9, 10, 11),
    "a projection": (16, 17),
    "layer normalization": (20, 21, 22, 23),
}
"""Inputs of the operator by position (tensorflow/lite/kernels/lstm_shared.h), those of its rarer forms last."""


@dataclass(frozen=True)
class Cell:
    """What a recurrent layer is, besides its weights.

    Attributes:
        batch, hidden: Sizes.
        time_major: Its input and output are [time, batch, ...], else [batch, time, ...].
        limit: Of the cell, where it could take effect; else None.
    """

    batch: int
    hidden: int
    time_major: bool
    limit: float | None


def set_aside(model: ModelT) -> dict[str, Cell]:
    """Replace recurrent layers by custom operators, in place; the operators' names as tf2onnx will write them.

    Raises:
        ConversionError: `op-unsupported-conversion`: a form of the layer that ONNX' does not have.
    """
    found: dict[str, Cell] = {}
    for graph in model.subgraphs:
        for op in graph.operators or ():
            if files.op_name(model, op) == KIND:
                name = f"{_STAND_IN}{len(found)}"
                found[f"TFL_{name}"] = _replaced(model, graph, op, name)
    return found


def put_back(graph: Any, cells: dict[str, Cell]) -> None:
    """Replace the custom operators in an ONNX graph and its bodies, in place."""
    nodes: list[Any] = []
    for node in graph.node:
        if node.op_type in cells:
            nodes += _as_onnx(node, cells[node.op_type])
            continue
        for attribute in node.attribute:
            for body in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                put_back(body, cells)
        nodes.append(type(node).FromString(node.SerializeToString()))
    del graph.node[:]
    graph.node.extend(nodes)


def _replaced(model: ModelT, graph: Any, op: Any, name: str) -> Cell:
    slots = [*(int(index) for index in op.inputs), *([-1] * 24)][:24]
    _refuse_variants(model, graph, op, slots)
    state = graph.tensors[slots[_STATES[1]]].shape
    batch, hidden = (int(size) for size in state)
    time_major = bool(op.builtinOptions.timeMajor)
    source = graph.tensors[slots[0]]
    sizes = source.shape if source.shapeSignature is None else source.shapeSignature
    steps = int(sizes[0 if time_major else 1]) if np.size(sizes) == _RANK else -1
    clip = float(op.builtinOptions.cellClip)
    cell = Cell(batch, hidden, time_major, clip if clip > 0 and not 0 <= steps <= clip else None)
    bias = _bias(model, graph, slots)
    if cell.limit is None:
        bias = np.concatenate([bias, np.zeros_like(bias)])[None]  # ONNX has one a matrix
    op.inputs = np.array([
        slots[0],
        _packed(model, graph, [slots[i] for i in _WEIGHTS], f"{name}/w", cell),
        _packed(model, graph, [slots[i] for i in _RECURRENT], f"{name}/r", cell),
        files.add_constant(model, graph, bias, f"{name}/b"),
    ], np.int32)  # fmt: skip
    op.intermediates = op.mutatingVariableInputs = op.builtinOptions = None
    op.builtinOptionsType = files.schema().BuiltinOptions.NONE
    custom = files.schema().BuiltinOperator.CUSTOM
    model.operatorCodes.append(files.schema().OperatorCodeT(custom, name.encode(), 1, custom))
    op.opcodeIndex = len(model.operatorCodes) - 1
    return cell


def _refuse_variants(model: ModelT, graph: Any, op: Any, slots: list[int]) -> None:
    has = [what for what, places in _VARIANTS.items() if any(slots[place] >= 0 for place in places)]
    if slots[1] < 0:
        has.append("coupled gates")
    if int(op.builtinOptions.fusedActivationFunction) != _TANH:
        has.append("another activation than tanh")
    if getattr(op.builtinOptions, "diagonalRecurrentTensors", False):
        has.append("diagonal recurrent weights")
    weights = [slots[place] for place in (*_WEIGHTS, *_RECURRENT, *_BIASES)]
    if not has and not all(index >= 0 and files.is_constant(model, graph.tensors[index]) for index in weights):
        has.append("weights that are not in the file")
    if any(slots[place] < 0 or not graph.tensors[slots[place]].isVariable for place in _STATES):
        has.append("a state that is fed")
    if has:
        raise ConversionError(
            "op-unsupported-conversion",
            f"a {KIND} has {' and '.join(has)}, which ONNX' LSTM cannot express",
            next_step="Keep TFLite, or convert the model that the .tflite file was made from.",
            ops=[KIND],
            format="onnx",
        )


def _packed(model: ModelT, graph: Any, indices: list[int], name: str, cell: Cell) -> int:
    """The four gates' matrices as one constant; integers keep their scales, one a row.

    For an LSTM: [1, 4 * hidden, inputs]; for a Scan, whose body multiplies from the right: [inputs, 4 * hidden].
    """
    order = [graph.tensors[indices[gate]] for gate in _ONNX_GATES]
    values = np.concatenate([files.constant(model, tensor) for tensor in order])
    index = files.add_constant(model, graph, values[None] if cell.limit is None else values.T.copy(), name)
    if values.dtype != np.float32:
        table = files.schema().QuantizationParametersT()
        table.scale = np.repeat([np.float32(tensor.quantization.scale[0]) for tensor in order], cell.hidden)
        table.zeroPoint = np.zeros(len(table.scale), np.int64)
        table.quantizedDimension = 1
        graph.tensors[index].quantization = table
    return index


def _bias(model: ModelT, graph: Any, slots: list[int]) -> NDArray[np.float32]:
    """The four gates' biases in real numbers: [4 * hidden]."""
    parts = []
    for gate in _ONNX_GATES:
        tensor = graph.tensors[slots[_BIASES[gate]]]
        values = files.constant(model, tensor).astype(np.float32)
        real = files.dtype_of(tensor) == "float32"
        parts.append(values if real else values * np.float32(tensor.quantization.scale[0]))
    return np.concatenate(parts)


def _as_onnx(node: Any, cell: Cell) -> Iterator[Any]:
    from onnx import helper

    x, w, r, b = node.input
    name = node.name or node.output[0]
    if cell.limit is not None:
        yield from _scan(name, [x, w, r, b], node.output[0], cell, cell.limit)
        return
    turned, made = f"{name}/turned", f"{name}/y"
    if not cell.time_major:
        yield helper.make_node("Transpose", [x], [turned], f"{name}/turn", perm=[1, 0, 2])
    yield helper.make_node("LSTM", [x if cell.time_major else turned, w, r, b], [made], name, hidden_size=cell.hidden)
    one = f"{name}/direction"
    yield _constant(one, np.array([1], np.int64))
    flat = node.output[0] if cell.time_major else f"{name}/flat"
    yield helper.make_node("Squeeze", [made, one], [flat], f"{name}/squeeze")
    if not cell.time_major:
        yield helper.make_node("Transpose", [flat], [node.output[0]], f"{name}/turn_back", perm=[1, 0, 2])


def _scan(name: str, parts: list[str], output: str, cell: Cell, limit: float) -> Iterator[Any]:
    """The layer step by step: what the inputs contribute is multiplied at once, ahead of the steps."""
    from onnx import TensorProto, helper

    x, w, r, b = parts
    yield helper.make_node("MatMul", [x, w], [f"{name}/xw"], f"{name}/input")
    yield helper.make_node("Add", [f"{name}/xw", b], [f"{name}/xwb"], f"{name}/bias")
    yield _constant(f"{name}/zero", np.zeros((cell.batch, cell.hidden), np.float32))
    shape = [cell.batch, cell.hidden]
    steps: list[tuple[str, list[str], list[str], dict[str, Any]]] = [
        ("MatMul", ["h", r], ["hr"], {}),
        ("Add", ["x", "hr"], ["gates"], {}),
        ("Split", ["gates"], ["ai", "ao", "af", "ac"], {"axis": 1, "num_outputs": 4}),
        *(("Sigmoid", [f"a{gate}"], [gate], {}) for gate in "iof"),
        ("Tanh", ["ac"], ["g"], {}),
        ("Mul", ["f", "c"], ["kept"], {}),
        ("Mul", ["i", "g"], ["new"], {}),
        ("Add", ["kept", "new"], ["sum"], {}),
        ("Clip", ["sum", "low", "high"], ["c_out"], {}),
        ("Tanh", ["c_out"], ["squashed"], {}),
        ("Mul", ["o", "squashed"], ["h_out"], {}),
        ("Identity", ["h_out"], ["y"], {}),
    ]
    inside = {"low", "high", "h", "c", "x"} | {item for _, _, outputs, _ in steps for item in outputs}

    def place(item: str) -> str:
        return f"{name}/{item}" if item in inside else item

    nodes = [_constant(place("low"), np.float32(-limit)), _constant(place("high"), np.float32(limit))]
    nodes += [
        helper.make_node(kind, [place(i) for i in takes], [place(o) for o in gives], place(gives[0]) + "_node", **more)
        for kind, takes, gives, more in steps
    ]

    def value(item: str, sizes: list[int]) -> Any:
        return helper.make_tensor_value_info(place(item), TensorProto.FLOAT, sizes)

    body = helper.make_graph(
        nodes,
        f"{name}/step",
        [value("h", shape), value("c", shape), value("x", [cell.batch, 4 * cell.hidden])],
        [value("h_out", shape), value("c_out", shape), value("y", shape)],
    )
    axis = [0 if cell.time_major else 1]
    yield helper.make_node(
        "Scan",
        [f"{name}/zero", f"{name}/zero", f"{name}/xwb"],
        [f"{name}/h_last", f"{name}/c_last", output],
        name,
        body=body,
        num_scan_inputs=1,
        scan_input_axes=axis,
        scan_output_axes=axis,
    )


def _constant(name: str, values: Any) -> Any:
    from onnx import helper, numpy_helper

    value = numpy_helper.from_array(np.asarray(values))
    return helper.make_node("Constant", [], [name], f"{name}_constant", value=value)
