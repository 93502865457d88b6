"""What a quantized TFLite graph takes and gives: integers or floats, at its inputs and outputs.

Decided after quantization and not by its quantizer, which leaves the operators around an output in float when the
output is to be float and something else reads it too.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from edgekit.converters.tflite_graphs import graph as files
from edgekit.converters.tflite_graphs.graph import ModelT, OperatorT, TensorT

_WIDTHS = ("int8", "int16")


def settle(model: ModelT, interface: Literal["int8", "float"]) -> None:
    """Bring inputs and outputs of the main graph to integers or floats, in place; index tensors stay.

    An output that an operator computes in float stays float under either; the caller reports that operator.
    """
    _Interface(model).settle(interface)
    drop_idle_conversions(model)


def drop_idle_conversions(model: ModelT) -> None:
    """Remove QUANTIZE and DEQUANTIZE operators of the main graph whose results nobody reads."""
    graph = model.subgraphs[0]
    read = {int(index) for index in graph.outputs}
    kept: list[OperatorT] = []
    for op in reversed(graph.operators):
        idle = not any(int(index) in read for index in op.outputs)
        if idle and files.op_name(model, op) in ("QUANTIZE", "DEQUANTIZE"):
            continue
        kept.append(op)
        read |= {int(index) for index in op.inputs}
    graph.operators = kept[::-1]


class _Interface:
    def __init__(self, model: ModelT) -> None:
        self._model = model
        self._graph = model.subgraphs[0]
        self._made_by = {int(index): op for op in self._graph.operators for index in op.outputs}

    def settle(self, interface: Literal["int8", "float"]) -> None:
        if interface == "float":
            replaced = {index: self._float_input(index) for index in self._places("inputs") if self._whole(index)}
            self._replace("inputs", replaced)
            given = {index: replaced.get(index) for index in self._places("outputs") if self._whole(index)}
            self._replace(
                "outputs", {index: self._float_output(index) if at is None else at for index, at in given.items()}
            )
        else:
            sources = {index: self._source(index, "DEQUANTIZE") for index in self._places("outputs")}
            self._replace("outputs", {index: at for index, at in sources.items() if at is not None and self._whole(at)})
            self._replace("outputs", {index: at for index in self._places("outputs") if (at := self._computed(index))})

    def _places(self, side: Literal["inputs", "outputs"]) -> list[int]:
        return list(dict.fromkeys(int(index) for index in getattr(self._graph, side)))

    def _whole(self, index: int) -> bool:
        """Whether a tensor holds integers that stand for real numbers."""
        tensor = self._graph.tensors[index]
        scaled = tensor.quantization is not None and files.filled(tensor.quantization.scale)
        return scaled and files.dtype_of(tensor) in _WIDTHS

    def _source(self, index: int, kind: str) -> int | None:
        op = self._made_by.get(index)
        return int(op.inputs[0]) if op is not None and files.op_name(self._model, op) == kind else None

    def _computed(self, index: int) -> int | None:
        """The floats that an operator computes, where the quantizer put an output's integers behind them."""
        source = self._source(index, "QUANTIZE")
        if source is None or files.dtype_of(self._graph.tensors[source]) != "float32":
            return None
        maker = self._made_by.get(source)
        if maker is None or files.op_name(self._model, maker) == "DEQUANTIZE" or self._divides(maker):
            return None
        return source

    def _divides(self, op: OperatorT) -> bool:
        """Whether its divisor may be rounded to zero: integers end where floats would be infinite."""
        read = self._graph.tensors[int(op.inputs[-1])]
        return files.op_name(self._model, op) == "DIV" and not files.is_constant(self._model, read)

    def _float_input(self, index: int) -> int:
        """A float tensor that is converted to the integers; what read their DEQUANTIZE reads it itself."""
        made = self._float_like(self._graph.tensors[index])
        for op in list(self._graph.operators):
            if files.op_name(self._model, op) == "DEQUANTIZE" and int(op.inputs[0]) == index:
                self._rename(int(op.outputs[0]), made)
            if files.op_name(self._model, op) == "QUANTIZE" and int(op.inputs[0]) == index:
                op.inputs = np.array([made], np.int32)  # of another width: not by way of this one
        self._graph.operators.insert(0, self._conversion("QUANTIZE", index, made, to_float=False))
        return made

    def _float_output(self, index: int) -> int:
        """A float tensor with an output's values: before they were quantized, or what the integers stand for."""
        source = self._source(index, "QUANTIZE")
        if source is not None and files.dtype_of(self._graph.tensors[source]) == "float32":
            return source
        made = self._float_like(self._graph.tensors[index])
        self._graph.operators.append(self._conversion("DEQUANTIZE", index, made, to_float=True))
        return made

    def _float_like(self, tensor: TensorT) -> int:
        schema = files.schema()
        made = schema.TensorT()
        made.name = files.name_of(tensor).encode() + b"_float"
        made.shape, made.shapeSignature, made.hasRank = tensor.shape, tensor.shapeSignature, tensor.hasRank
        made.type = schema.TensorType.FLOAT32
        self._graph.tensors.append(made)
        return len(self._graph.tensors) - 1

    def _conversion(self, kind: str, integers: int, floats: int, *, to_float: bool) -> OperatorT:
        schema = files.schema()
        op = schema.OperatorT()
        op.opcodeIndex = files.use_op_code(self._model, getattr(schema.BuiltinOperator, kind), 2)
        source, target = (integers, floats) if to_float else (floats, integers)
        op.inputs, op.outputs = np.array([source], np.int32), np.array([target], np.int32)
        return op

    def _rename(self, old: int, new: int) -> None:
        for op in self._graph.operators:
            op.inputs = np.array([new if int(index) == old else int(index) for index in op.inputs], np.int32)
        self._replace("outputs", {old: new})

    def _replace(self, side: Literal["inputs", "outputs"], new: dict[int, int]) -> None:
        """Let the graph's side be other tensors."""
        places: Any = [new.get(int(index), int(index)) for index in getattr(self._graph, side)]
        setattr(self._graph, side, np.array(places, np.int32))
