"""Islands of float in a quantized TFLite graph: operators that the quantizer does not know, but int kernels do.

The quantizer surrounds them by DEQUANTIZE and QUANTIZE. Here they get integer tensors, by the ranges observed for
theirs, and the conversions around them that became superfluous go. The table below is what was checked, operator by
operator, against float on LiteRT 2.3; an operator that is not in it stays in float and is reported by the caller.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from edgekit.converters.stages import Range, Ranges
from edgekit.converters.tflite_graphs import graph as files
from edgekit.converters.tflite_graphs.graph import ModelT, OperatorT, SubGraphT, TensorT


@dataclass(frozen=True)
class _Rule:
    """How an operator's integer kernel wants its tensors.

    Attributes:
        output: "own": scaled by its own range; "same": as the input is; "fixed": by `scale` and `zero_point`, which
            the kernel insists on; "index": not a quantized tensor; "order": neither, and the operands are compared.
        activations: How many inputs are quantized tensors; the others are parameters.
        first: Place of the first of them.
        bits: Widths with a kernel.
        version: First operator version with that kernel.
        scale, zero_point: Of the output, where fixed.
    """

    output: Literal["own", "same", "fixed", "index", "order"]
    activations: int = 1
    first: int = 0
    bits: tuple[int, ...] = (8,)
    version: int = 2
    scale: float = 0.0
    zero_point: int = 0


_RULES = {
    "RELU6": _Rule("own", bits=(8, 16)),
    "RELU_N1_TO_1": _Rule("own", version=1),
    "LEAKY_RELU": _Rule("own", bits=(8, 16)),
    "PRELU": _Rule("own", activations=2, version=1),
    "ELU": _Rule("own", version=1),
    "ABS": _Rule("own", bits=(8, 16)),
    "EXP": _Rule("own", bits=(8, 16)),
    "LOG": _Rule("own", bits=(8, 16)),
    "EXPAND_DIMS": _Rule("same", bits=(8, 16), version=1),
    "SQUEEZE": _Rule("same", bits=(8, 16), version=1),
    "TILE": _Rule("same", bits=(8, 16), version=3),
    "REVERSE_V2": _Rule("same", bits=(8, 16), version=3),
    "BATCH_TO_SPACE_ND": _Rule("same", bits=(8, 16)),
    "SPACE_TO_BATCH_ND": _Rule("same", bits=(8, 16)),
    "DEPTH_TO_SPACE": _Rule("same"),
    "REDUCE_MAX": _Rule("same", bits=(8, 16)),
    "MINIMUM": _Rule("same", activations=2, bits=(8, 16)),
    "L2_NORMALIZATION": _Rule("fixed", scale=1 / 128, zero_point=0),
    "LOG_SOFTMAX": _Rule("fixed", scale=16 / 256, zero_point=127),
    "ARG_MAX": _Rule("index"),
    "ARG_MIN": _Rule("index"),
    "TOPK_V2": _Rule("same"),
    "SPLIT_V": _Rule("same", bits=(8, 16)),
    "ONE_HOT": _Rule("same", activations=2, first=2, version=1),
    "FILL": _Rule("same", first=1, bits=(8, 16)),
    **{
        kind: _Rule("order", activations=2, bits=(8, 16), version=1)
        for kind in ("EQUAL", "NOT_EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL")
    },
}

_PARTS = ("SPLIT", "SPLIT_V", "UNPACK")
_READ_NO_VALUES = ("SHAPE", "RANK")

_INTEGERS = {8: (-128, 127), 16: (-32767, 32767)}
_SMALLEST_SPAN = np.float32(1e-9)


def absorb(model: ModelT, ranges: Ranges, bits: int, others: Container[str]) -> None:
    """Give the operators in the table integer tensors of `bits` width, in place.

    Args:
        model: As the quantizer left it.
        ranges: By tensor.
        bits: 8 or 16.
        others: Tensors whose operators are left alone.
    """
    graph = model.subgraphs[0]
    _Absorber(model, graph, ranges, bits, others).run()


class _Absorber:
    def __init__(self, model: ModelT, graph: SubGraphT, ranges: Ranges, bits: int, others: Container[str]) -> None:
        schema = files.schema()
        self._schema = schema
        self._model = model
        self._graph = graph
        self._ranges = ranges
        self._bits = bits
        self._others = others
        self._type = schema.TensorType.INT8 if bits == 8 else schema.TensorType.INT16
        self._operators: list[OperatorT] = []
        self._integer: dict[int, int] = {}  # float tensor -> the integer tensor it is the DEQUANTIZE of

    def run(self) -> None:
        self._fill_in()
        self._unmix()
        dequantize = self._schema.BuiltinOperator.DEQUANTIZE
        for op in self._graph.operators:
            rule = _RULES.get(files.op_name(self._model, op))
            if rule is not None and self._bits in rule.bits and self._possible(op, rule):
                self._convert(op, rule)
                continue
            self._operators.append(op)
            if files.op_code(self._model, op) == dequantize:
                self._note(int(op.outputs[0]), int(op.inputs[0]))
        self._graph.operators = self._operators
        self._clean()

    def _fill_in(self) -> None:
        """Make unread parts as their siblings are: the quantizer passes over them, and engines refuse the mix."""
        tensors = self._graph.tensors
        read = {int(i) for i in self._graph.outputs} | {int(i) for op in self._graph.operators for i in op.inputs}
        for op in self._graph.operators:
            if files.op_name(self._model, op) not in _PARTS:
                continue
            made = [int(index) for index in op.outputs]
            whole = next((tensors[index] for index in made if tensors[index].type == self._type), None)
            for index in made:
                if whole is not None and index not in read and files.dtype_of(tensors[index]) == "float32":
                    tensors[index].type, tensors[index].quantization = whole.type, whole.quantization

    def _unmix(self) -> None:
        """Let operators that compute in float read floats: the quantizer gives them the integers of an output."""
        conversions = ("QUANTIZE", "DEQUANTIZE")
        tensors = self._graph.tensors
        source: dict[int, int] = {}
        for op in self._graph.operators:
            touched = [*(int(i) for i in op.inputs if int(i) >= 0), *(int(i) for i in op.outputs)]
            kind = files.op_name(self._model, op)
            if kind not in conversions and any(files.dtype_of(tensors[index]) == "float32" for index in touched):
                op.inputs = np.array([source.get(int(index), int(index)) for index in op.inputs], np.int32)
            if kind == "QUANTIZE" and files.dtype_of(tensors[int(op.inputs[0])]) == "float32":
                source[int(op.outputs[0])] = int(op.inputs[0])

    def _note(self, float_index: int, integer_index: int) -> None:
        if self._graph.tensors[integer_index].type == self._type:
            self._integer[float_index] = integer_index

    def _possible(self, op: OperatorT, rule: _Rule) -> bool:
        """It is meant and computes in float, and a range is known for all that it reads and makes."""
        if files.name_of(self._graph.tensors[int(op.outputs[0])]) in self._others:
            return False
        touched = [int(i) for i in op.inputs[rule.first : rule.first + rule.activations]]
        if rule.output not in ("index", "order"):
            touched += [int(op.outputs[0])]
        tensors = [self._graph.tensors[i] for i in touched]
        return (
            len(touched) > 0
            and len(op.inputs) >= rule.first + rule.activations
            and all(
                files.dtype_of(tensor) == "float32"
                and (
                    index in self._integer
                    or files.is_constant(self._model, tensor)
                    or files.name_of(tensor) in self._ranges.tensors
                )
                for index, tensor in zip(touched, tensors, strict=True)
            )
        )

    def _convert(self, op: OperatorT, rule: _Rule) -> None:
        made = int(op.outputs[0])
        read = [int(i) for i in op.inputs[rule.first : rule.first + rule.activations]]
        shared: Any = None
        if rule.output == "order":
            shared = self._common(read)
        elif rule.output == "same" and rule.activations > 1:
            # All operands are brought to the result's scale: what is clipped there cannot be the result.
            shared = self._parameters(self._ranges.tensors[files.name_of(self._graph.tensors[made])])
        inputs = [self._as_integer(index, shared) for index in read]
        if rule.output == "order":
            inputs = [self._bare(index) for index in inputs]
        op.inputs = np.array([*op.inputs[: rule.first], *inputs, *op.inputs[rule.first + len(read) :]], np.int32)
        op.opcodeIndex = files.use_op_code(self._model, files.op_code(self._model, op), rule.version)
        self._operators.append(op)
        if rule.output in ("index", "order"):
            return
        if rule.output == "same":
            parameters = self._graph.tensors[inputs[0]].quantization
        elif rule.output == "fixed":
            parameters = self._quantization(rule.scale, rule.zero_point)
        else:
            parameters = self._parameters(self._ranges.tensors[files.name_of(self._graph.tensors[made])])
        results = [int(index) for index in op.outputs]
        for place, made in enumerate(results):
            if files.dtype_of(self._graph.tensors[made]) == "float32":
                results[place] = self._integer[made] = self._integer_tensor(self._graph.tensors[made], parameters)
                self._operators.append(self._conversion("DEQUANTIZE", results[place], made))
        op.outputs = np.array(results, np.int32)

    def _as_integer(self, index: int, wanted: Any) -> int:
        """The integer tensor that stands for a float one, made where there is none."""
        tensor = self._graph.tensors[index]
        if index in self._integer:
            found = self._integer[index]
            if wanted is None or _same(self._graph.tensors[found].quantization, wanted):
                return found
            source = found
        elif files.is_constant(self._model, tensor):
            values = files.constant(self._model, tensor)
            parameters = wanted or self._parameters(Range(float(values.min()), float(values.max())))
            return self._integer_constant(tensor, parameters)
        else:
            source = index
        parameters = wanted or self._parameters(self._ranges.tensors[files.name_of(tensor)])
        made = self._integer_tensor(tensor, parameters)
        self._operators.append(self._conversion("QUANTIZE", source, made))
        return made

    def _common(self, indices: list[int]) -> Any:
        """Parameters whose range holds all of some tensors; one's own where it holds the others'."""
        seen = {index: self._seen(index) for index in indices}
        low, high = min(one.min for one in seen.values()), max(one.max for one in seen.values())
        for index, one in seen.items():
            if index in self._integer and (one.min, one.max) == (low, high):
                return self._graph.tensors[self._integer[index]].quantization
        return self._parameters(Range(low, high))

    def _seen(self, index: int) -> Range:
        """What a tensor holds: the values of a constant, what its integers can stand for, or what was observed."""
        tensor = self._graph.tensors[index]
        if index in self._integer:
            found = self._graph.tensors[self._integer[index]].quantization
            ends = [(end - int(found.zeroPoint[0])) * float(found.scale[0]) for end in _INTEGERS[self._bits]]
            return Range(*ends)
        if files.is_constant(self._model, tensor):
            values = files.constant(self._model, tensor)
            return Range(float(values.min()), float(values.max()))
        return self._ranges.tensors[files.name_of(tensor)]

    def _bare(self, index: int) -> int:
        """The integers themselves, as int32: the int8 kernels of comparisons round small scales away."""
        like, tensor = self._graph.tensors[index], self._schema.TensorT()
        tensor.name = files.name_of(like).encode() + b"_bare"
        tensor.shape, tensor.shapeSignature, tensor.hasRank = like.shape, like.shapeSignature, like.hasRank
        tensor.type = self._schema.TensorType.INT32
        self._graph.tensors.append(tensor)
        cast = self._conversion("CAST", index, len(self._graph.tensors) - 1)
        self._operators.append(cast)
        return len(self._graph.tensors) - 1

    def _integer_tensor(self, like: TensorT, parameters: Any) -> int:
        tensor = self._schema.TensorT()
        tensor.name = files.name_of(like).encode() + b"_int"
        tensor.shape, tensor.shapeSignature, tensor.hasRank = like.shape, like.shapeSignature, like.hasRank
        tensor.type = self._type
        tensor.quantization = parameters
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def _integer_constant(self, like: TensorT, parameters: Any) -> int:
        index = self._integer_tensor(like, parameters)
        low, high = _INTEGERS[self._bits]
        values = files.constant(self._model, like) / parameters.scale[0] + parameters.zeroPoint[0]
        integers = np.clip(np.rint(values), low, high).astype(np.int8 if self._bits == 8 else np.int16)
        files.set_constant(self._model, self._graph.tensors[index], integers)
        return index

    def _parameters(self, seen: Range) -> Any:
        """Scale and zero point for a range, by the quantizer's own rule, so that equal ranges give equal scales."""
        low, high = np.float32(min(seen.min, 0.0)), np.float32(max(seen.max, 0.0))
        first, last = _INTEGERS[self._bits]
        if self._bits == 8:
            scale = max(high - low, _SMALLEST_SPAN) / np.float32(last - first)
            zero = int(np.rint(first - low / scale))
        else:
            scale, zero = max(high, -low, _SMALLEST_SPAN) / np.float32(last), 0
        return self._quantization(float(scale), zero)

    def _quantization(self, scale: float, zero_point: int) -> Any:
        parameters = self._schema.QuantizationParametersT()
        parameters.scale = np.array([scale], np.float32)
        parameters.zeroPoint = np.array([zero_point], np.int64)
        return parameters

    def _conversion(self, kind: str, source: int, target: int) -> OperatorT:
        op = self._schema.OperatorT()
        op.opcodeIndex = files.use_op_code(self._model, getattr(self._schema.BuiltinOperator, kind), 2)
        op.inputs, op.outputs = np.array([source], np.int32), np.array([target], np.int32)
        return op

    def _clean(self) -> None:
        """Let QUANTIZE operators read the integers themselves, then drop conversions that nobody needs."""
        operator = self._schema.BuiltinOperator
        tensors = self._graph.tensors
        outputs = {int(i) for i in self._graph.outputs}
        alias: dict[int, int] = {}
        kept: list[OperatorT] = []
        for op in self._operators:
            op.inputs = np.array([alias.get(int(i), int(i)) for i in op.inputs], np.int32)
            if files.op_name(self._model, op) in _READ_NO_VALUES:
                op.inputs = np.array([self._integer.get(int(op.inputs[0]), int(op.inputs[0]))], np.int32)
            if files.op_code(self._model, op) == operator.QUANTIZE and int(op.inputs[0]) in self._integer:
                source, target = self._integer[int(op.inputs[0])], int(op.outputs[0])
                op.inputs = np.array([source], np.int32)
                equal = tensors[source].type == tensors[target].type and _same(
                    tensors[source].quantization, tensors[target].quantization
                )
                if equal and target not in outputs:
                    alias[target] = source
                    continue
            kept.append(op)
        read = outputs | {int(i) for op in kept for i in op.inputs}
        self._graph.operators = [
            op for op in kept if files.op_code(self._model, op) != operator.DEQUANTIZE or int(op.outputs[0]) in read
        ]


def _same(one: Any, other: Any) -> bool:
    return bool(
        one is not None
        and other is not None
        and np.array_equal(one.scale, other.scale)
        and np.array_equal(one.zeroPoint, other.zeroPoint)
    )
