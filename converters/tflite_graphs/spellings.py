"""Operators without an integer kernel, spelled by ones that have kernels, before quantization.

The tensors in between were not observed; their ranges follow from those that were.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from edgekit.converters.stages import Range
from edgekit.converters.tflite_graphs import graph as files
from edgekit.converters.tflite_graphs.graph import ModelT, OperatorT, SubGraphT
from edgekit.converters.tflite_graphs.ranges import width

_RELU6 = 3
"""ActivationFunctionType.RELU6 of the schema."""


def spell_out(model: ModelT, ranges: dict[str, Range], bits: int | dict[str, int]) -> None:
    """Rewrite what the integer kernels of this width lack, in place; `ranges` gains the tensors in between.

    So does `bits`, where it says the width of each operator by the tensor that it makes.
    """
    graph = model.subgraphs[0]
    operators: list[OperatorT] = []
    for op in list(graph.operators or ()):
        wide = width(bits, files.name_of(graph.tensors[int(op.outputs[0])])) if len(op.outputs) else 0
        spell = _SPELLINGS[wide].get(files.op_name(model, op))
        touched = [files.name_of(graph.tensors[int(index)]) for index in (op.inputs[0], op.outputs[0])] if spell else []
        if spell is None or not all(name in ranges for name in touched):
            operators.append(op)
            continue
        first = len(operators)
        spell(_Writer(model, graph, ranges, op, operators))
        if not isinstance(bits, int):
            bits |= {files.name_of(graph.tensors[int(new.outputs[0])]): wide for new in operators[first:]}
    graph.operators = operators


class _Writer:
    """Writes operators in the place of one; tensors are their numbers."""

    def __init__(
        self, model: ModelT, graph: SubGraphT, ranges: dict[str, Range], op: OperatorT, into: list[OperatorT]
    ) -> None:
        self._model, self._graph, self._ranges, self._into = model, graph, ranges, into
        self._op = op
        self.inputs = [int(index) for index in op.inputs]
        self.result = int(op.outputs[0])

    def seen(self, index: int) -> Range:
        """The range of an activation or a constant."""
        tensor = self._graph.tensors[index]
        if files.is_constant(self._model, tensor):
            values = files.constant(self._model, tensor)
            return Range(float(values.min()), float(values.max()))
        return self._ranges[files.name_of(tensor)]

    def number(self, value: float) -> int:
        name = f"{self._name}@{value:g}"
        return files.add_constant(self._model, self._graph, np.array([value], np.float32), name)

    def step(self, kind: str, read: list[int], seen: Range | None, like: int | None = None, **fields: Any) -> int:
        """One operator; without a range it gives the result of the whole, else one shaped so, or `like` another."""
        made = self.result if seen is None else self._between(kind, seen, self.result if like is None else like)
        schema = files.schema()
        op = schema.OperatorT()
        op.opcodeIndex = files.use_op_code(self._model, getattr(schema.BuiltinOperator, kind), 1)
        op.inputs, op.outputs = np.array(read, np.int32), np.array([made], np.int32)
        options = _OPTIONS.get(kind)
        if options is not None:
            op.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            op.builtinOptions = getattr(schema, f"{options}T")()
            for field, value in fields.items():
                setattr(op.builtinOptions, field, value)
        self._into.append(op)
        return made

    def constant(self, index: int) -> bool:
        return bool(files.is_constant(self._model, self._graph.tensors[index]))

    def itself(self, read: list[int]) -> None:
        """The operator as it was, of other inputs."""
        self._op.inputs = np.array(read, np.int32)
        self._into.append(self._op)

    @property
    def _name(self) -> str:
        return files.name_of(self._graph.tensors[self.result])

    def _between(self, kind: str, seen: Range, shaped: int) -> int:
        schema = files.schema()
        like = self._graph.tensors[shaped]
        tensor = schema.TensorT()
        name = f"{self._name}@{kind.lower()}{len(self._graph.tensors)}"
        tensor.name = name.encode()
        tensor.shape, tensor.shapeSignature, tensor.hasRank = like.shape, like.shapeSignature, like.hasRank
        tensor.type = schema.TensorType.FLOAT32
        self._ranges[name] = seen
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1


_OPTIONS = {
    "ADD": "AddOptions",
    "SUB": "SubOptions",
    "MUL": "MulOptions",
    "EXP": "ExpOptions",
    "MINIMUM": "MaximumMinimumOptions",
    "MAXIMUM": "MaximumMinimumOptions",
}


def _squared_difference(write: _Writer) -> None:
    """The difference, times itself."""
    bound = math.sqrt(max(write.seen(write.result).max, 0.0))
    difference = write.step("SUB", write.inputs, Range(-bound, bound))
    write.step("MUL", [difference, difference], None)


def _hard_swish(write: _Writer) -> None:
    """Hard swish is x relu6(x + 3) / 6."""
    (x,) = write.inputs
    gate = write.step("ADD", [x, write.number(3)], Range(0, 6), fusedActivationFunction=_RELU6)
    write.step("MUL", [x, write.step("MUL", [gate, write.number(1 / 6)], Range(0, 1))], None)


def _prelu(write: _Writer) -> None:
    """The sum of max(x, 0) and slope min(x, 0)."""
    x, slope = write.inputs
    above, below = _halves(write, x)
    low, slopes = write.seen(below).min, write.seen(slope)
    ends = (low * slopes.min, low * slopes.max, 0.0)
    write.step("ADD", [above, write.step("MUL", [below, slope], Range(min(ends), max(ends)))], None)


def _elu(write: _Writer) -> None:
    """The sum of max(x, 0) and exp(min(x, 0)) - 1."""
    above, below = _halves(write, write.inputs[0])
    least = math.exp(write.seen(below).min)
    raised = write.step("EXP", [below], Range(least, 1.0))
    write.step("ADD", [above, write.step("ADD", [raised, write.number(-1)], Range(least - 1, 0.0))], None)


def _halves(write: _Writer, x: int) -> tuple[int, int]:
    """max(x, 0) and min(x, 0)."""
    seen = write.seen(x)
    # A half that was empty takes the other's range, so that its steps are of the same order.
    high, low = max(seen.max, 0.0) or -seen.min, min(seen.min, 0.0) or -seen.max
    return write.step("RELU", [x], Range(0.0, high)), write.step("MINIMUM", [x, write.number(0)], Range(low, 0.0))


def _relu_of_unit(least: float) -> Callable[[_Writer], None]:
    """max(min(x, 1), least)."""

    def spell(write: _Writer) -> None:
        seen = write.seen(write.inputs[0])
        below = Range(min(seen.min, 0.0), min(max(seen.max, 0.0), 1.0))
        limited = write.step("MINIMUM", [write.inputs[0], write.number(1)], below)
        write.step("MAXIMUM", [limited, write.number(least)], None)

    return spell


def _zeros(write: _Writer) -> None:
    """What is left when x is taken from x."""
    write.step("SUB", [write.inputs[0], write.inputs[0]], None)


def _quotient(write: _Writer) -> None:
    """The divisor is held at half its least magnitude: kernels stop with an error at what is rounded to zero."""
    x, divisor = write.inputs
    seen = write.seen(divisor)
    if write.constant(divisor) or seen.min <= 0 <= seen.max:
        write.itself([x, divisor])
        return
    kind, limit = ("MAXIMUM", seen.min / 2) if seen.min > 0 else ("MINIMUM", seen.max / 2)
    held = write.step(kind, [divisor, write.number(limit)], seen, like=divisor)
    write.itself([x, held])


_ANY_WIDTH: dict[str, Callable[[_Writer], None]] = {
    "RELU_0_TO_1": _relu_of_unit(0.0),
    "ZEROS_LIKE": _zeros,
    "DIV": _quotient,
}

_INT16: dict[str, Callable[[_Writer], None]] = {
    "SQUARED_DIFFERENCE": _squared_difference,
    "HARD_SWISH": _hard_swish,
    "PRELU": _prelu,
    "ELU": _elu,
    "RELU_N1_TO_1": _relu_of_unit(-1.0),
}

_SPELLINGS: dict[int, dict[str, Callable[[_Writer], None]]] = {0: {}, 8: _ANY_WIDTH, 16: {**_ANY_WIDTH, **_INT16}}
