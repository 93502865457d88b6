"""Rewrites of a float TFLite graph that come before, or stand in for, quantization by ai-edge-quantizer.

Each one exists because of something the quantizer or the kernels do not do; its function says what. All work on the
objects of `tflite_graphs.graph` in place and leave the graph computing what it did.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container

import numpy as np
from numpy.typing import NDArray

from edgekit.converters.tflite_graphs import graph as files
from edgekit.converters.tflite_graphs.graph import ModelT, OperatorT, SubGraphT, TensorT

_HALF_MAX = float(np.finfo(np.float16).max)
_HALF_TINY = float(np.finfo(np.float16).tiny)
_HALF_WORTH = 128
"""Elements; the DEQUANTIZE operator and its tensor take about as many bytes as half of these save."""

_INT8_MAX = 127
BRANCHES = "^@@"
"""Pattern for the tensors outside the main graph, once they have unique names."""

_LSTM_WEIGHTS = (*range(1, 9), *range(9, 12), 16)
"""Inputs of the LSTM operators that are matrices or peepholes: input and recurrent gates, peepholes, projection."""

_NEAR = 8
"""Ratio of the largest to the least of some divisors whose reciprocals lose at most three of eight bits."""


def give_unique_names(model: ModelT) -> None:
    """Name every tensor of the file differently: the quantizer keys its tables by name.

    Those of the main graph get the names that ranges are keyed by; those of branches and loop bodies are marked, so
    that one pattern (`BRANCHES`) says all of them.
    """
    for number, graph in enumerate(model.subgraphs):
        for tensor, name in zip(graph.tensors, files.unique_names(graph), strict=True):
            tensor.name = (f"@@{number}/{name}" if number else name).encode()


def plain(name: str) -> str:
    """A unique name without its mark, and of a fused one the last step."""
    return re.sub("^@@[0-9]+/", "", name).split(";", 1)[0]


def called(model: ModelT, graph: SubGraphT, op: OperatorT) -> str:
    """An operator for messages: "SOFTMAX (probs)"."""
    name = files.name_of(graph.tensors[int(op.outputs[0])]) if len(op.outputs) else ""
    return f"{files.op_name(model, op)} ({plain(name)})"


def matmul_to_fully_connected(model: ModelT) -> None:
    """Turn a BATCH_MATMUL by one constant matrix into a FULLY_CONNECTED, and a constant ADD behind it into its bias.

    It is the operator that runtimes have fast kernels for, and the one that takes a scale a channel and a bias.
    """
    operator = files.schema().BuiltinOperator
    for graph in model.subgraphs:
        for op in list(graph.operators or ()):
            if files.op_code(model, op) != operator.BATCH_MATMUL:
                continue
            weights = _matrix(model, graph, op)
            if weights is None:
                continue
            bias, last = _bias_behind(model, graph, op, weights.shape[0])
            _become_fully_connected(model, graph, op, weights, bias, last)


def _matrix(model: ModelT, graph: SubGraphT, op: OperatorT) -> NDArray[np.float32] | None:
    """The constant right side as [columns, rows], when it is one matrix and the left side is taken as it is."""
    left, right = (graph.tensors[int(index)] for index in op.inputs)
    if op.builtinOptions.adjX or not files.is_constant(model, right) or files.is_constant(model, left):
        return None
    if files.dtype_of(left) != "float32" or files.dtype_of(right) != "float32":
        return None
    sizes = [int(size) for size in right.shape]
    if any(size != 1 for size in sizes[:-2]) or len(sizes) > len(left.shape):
        return None
    matrix = files.constant(model, right).reshape(sizes[-2:])
    return np.ascontiguousarray(matrix if op.builtinOptions.adjY else matrix.T)


def _bias_behind(
    model: ModelT, graph: SubGraphT, op: OperatorT, columns: int
) -> tuple[NDArray[np.float32] | None, OperatorT | None]:
    """What a lone ADD of one constant a column adds to the product, and that ADD."""
    made = int(op.outputs[0])
    readers = [other for other in graph.operators if made in [int(i) for i in other.inputs]]
    if len(readers) != 1 or made in [int(i) for i in graph.outputs]:
        return None, None
    add = readers[0]
    if files.op_code(model, add) != files.schema().BuiltinOperator.ADD:
        return None, None
    other = next((int(i) for i in add.inputs if int(i) != made), made)
    tensor = graph.tensors[other]
    if other == made or not files.is_constant(model, tensor):
        return None, None
    values = files.constant(model, tensor)
    if values.size != columns or not values.ndim or values.shape[-1] != columns:
        return None, None
    if list(graph.tensors[int(add.outputs[0])].shape) != list(graph.tensors[made].shape):
        return None, None
    return values.reshape(-1), add


def _become_fully_connected(
    model: ModelT,
    graph: SubGraphT,
    op: OperatorT,
    weights: NDArray[np.float32],
    bias: NDArray[np.float32] | None,
    add: OperatorT | None,
) -> None:
    schema = files.schema()
    name = files.name_of(graph.tensors[int(op.inputs[1])])
    inputs = [int(op.inputs[0]), files.add_constant(model, graph, weights, f"{name}_transposed")]
    options = schema.FullyConnectedOptionsT()
    options.keepNumDims = True
    if bias is not None and add is not None:
        inputs.append(files.add_constant(model, graph, bias, f"{name}_bias"))
        options.fusedActivationFunction = add.builtinOptions.fusedActivationFunction
        op.outputs = add.outputs
        graph.operators.remove(add)
    op.inputs = np.array(inputs, np.int32)
    # Version 6 is the first that goes without a bias.
    op.opcodeIndex = files.use_op_code(model, schema.BuiltinOperator.FULLY_CONNECTED, 6)
    op.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    op.builtinOptions = options


def to_multiplication(model: ModelT) -> None:
    """Write SQUARE as x times x, NEG as x times -1 and DIV by constants as MUL by their reciprocals.

    SQUARE has no integer kernel, the int8 one of NEG ignores the zero point, and that of DIV is missing before runtime
    2.15; multiplication has all.
    """
    schema = files.schema()
    operator = schema.BuiltinOperator
    for graph in model.subgraphs:
        for op in graph.operators or ():
            x = int(op.inputs[0]) if len(op.inputs) else -1
            if x < 0 or files.dtype_of(graph.tensors[x]) != "float32":
                continue
            name = files.name_of(graph.tensors[int(op.outputs[0])])
            match files.op_code(model, op):
                case operator.SQUARE:
                    other, fused = x, 0
                case operator.NEG:
                    other, fused = files.add_constant(model, graph, np.array([-1], np.float32), f"{name}_minus"), 0
                case operator.DIV:
                    factors = _reciprocals(model, graph.tensors[int(op.inputs[1])])
                    if factors is None:
                        continue
                    other = files.add_constant(model, graph, factors, f"{name}_factor")
                    fused = op.builtinOptions.fusedActivationFunction
                case _:
                    continue
            op.inputs = np.array([x, other], np.int32)
            op.opcodeIndex = files.use_op_code(model, operator.MUL, 1)
            op.builtinOptionsType, op.builtinOptions = schema.BuiltinOptions.MulOptions, schema.MulOptionsT()
            op.builtinOptions.fusedActivationFunction = fused


def _reciprocals(model: ModelT, divisor: TensorT) -> NDArray[np.float32] | None:
    """Of constants near enough to each other that one scale holds all reciprocals as well as it holds them."""
    if not files.is_constant(model, divisor) or files.dtype_of(divisor) != "float32":
        return None
    values = files.constant(model, divisor)
    sizes = np.abs(values)
    if not values.size or not (sizes.min() > 0 and sizes.max() / sizes.min() <= _NEAR):
        return None
    factors: NDArray[np.float32] = (1 / values.astype(np.float64)).astype(np.float32)
    return factors if np.isfinite(factors).all() else None


def whole_pools_to_means(model: ModelT) -> None:
    """Write an AVERAGE_POOL_2D over all of height and width as a MEAN over them.

    Kernels of the pooling give the result on their input's scale, though an average of a whole map is several times
    smaller than its largest value: two or three of the eight bits are lost, just before the last layer. MEAN scales.
    """
    schema = files.schema()
    operator = schema.BuiltinOperator
    for graph in model.subgraphs:
        if _free_inside(graph):  # what is the whole map of one size is a part of a larger one
            continue
        for op in graph.operators or ():
            if files.op_code(model, op) != operator.AVERAGE_POOL_2D or not _pools_everything(graph, op):
                continue
            name = files.name_of(graph.tensors[int(op.outputs[0])])
            axes = files.add_constant(model, graph, np.array([1, 2], np.int32), f"{name}_axes")
            op.inputs = np.array([int(op.inputs[0]), axes], np.int32)
            op.opcodeIndex = files.use_op_code(model, operator.MEAN, 1)
            op.builtinOptionsType, op.builtinOptions = schema.BuiltinOptions.ReducerOptions, schema.ReducerOptionsT()
            op.builtinOptions.keepDims = True


def _pools_everything(graph: SubGraphT, op: OperatorT) -> bool:
    taken, made = graph.tensors[int(op.inputs[0])], graph.tensors[int(op.outputs[0])]
    if files.dtype_of(taken) != "float32" or op.builtinOptions.fusedActivationFunction:
        return False
    window = [op.builtinOptions.filterHeight, op.builtinOptions.filterWidth]
    return [int(n) for n in taken.shape[1:3]] == window and [int(n) for n in made.shape[1:3]] == [1, 1]


def _free_inside(graph: SubGraphT) -> bool:
    """Whether an input leaves other sizes free than the batch's."""
    shapes = (graph.tensors[int(index)].shapeSignature for index in graph.inputs)
    return any(size < 0 for shape in shapes if shape is not None for size in shape[1:])


def lstm_weights_to_int8(model: ModelT) -> list[OperatorT]:
    """Store LSTM weights as int8, one scale a tensor, for the kernel that quantizes activations while running.

    The quantizer knows no recurrent operator.

    Returns:
        The operators done.
    """
    operator = files.schema().BuiltinOperator
    done = []
    for graph in model.subgraphs:
        for op in graph.operators or ():
            if files.op_code(model, op) not in (operator.UNIDIRECTIONAL_SEQUENCE_LSTM, operator.LSTM):
                continue
            inputs = [int(index) for index in op.inputs]
            present = [at for at in _LSTM_WEIGHTS if at < len(inputs) and inputs[at] >= 0]
            if not all(is_float_constant(model, graph.tensors[inputs[at]]) for at in present):
                continue
            for at in present:
                inputs[at] = _int8_copy(model, graph, inputs[at])
            op.inputs = np.array(inputs, np.int32)
            done.append(op)
    return done


def tables_to_int8(model: ModelT, least: int) -> None:
    """Store tables that GATHER looks rows up in as int8, and widen only the rows that were looked up.

    The quantizer knows tables of EMBEDDING_LOOKUP, which TensorFlow's converter does not write. Tables of single
    numbers stay as they are: such as thresholds of trees, which decide.

    Args:
        model: The float graph.
        least: Elements of a table that is worth it.
    """
    schema = files.schema()
    for graph in model.subgraphs:
        kept: list[OperatorT] = []
        for op in graph.operators or ():
            kept.append(op)
            if files.op_name(model, op) != "GATHER":
                continue
            table, made = graph.tensors[int(op.inputs[0])], int(op.outputs[0])
            shape = [int(size) for size in table.shape]
            if not is_float_constant(model, table) or len(shape) < 2 or math.prod(shape) < least:
                continue
            inputs = np.array(op.inputs, np.int32)
            inputs[0] = _int8_copy(model, graph, int(inputs[0]))
            like, rows = graph.tensors[made], schema.TensorT()
            rows.name = f"{files.name_of(like)}_int8".encode()
            rows.shape, rows.shapeSignature, rows.hasRank = like.shape, like.shapeSignature, like.hasRank
            rows.type, rows.quantization = schema.TensorType.INT8, graph.tensors[int(inputs[0])].quantization
            graph.tensors.append(rows)
            op.inputs, op.outputs = inputs, np.array([len(graph.tensors) - 1], np.int32)
            op.opcodeIndex = files.use_op_code(model, schema.BuiltinOperator.GATHER, 2)
            kept.append(_dequantize(model, int(op.outputs[0]), made))
        graph.operators = kept


def volumes_to_int8(model: ModelT, least: int) -> None:
    """Store weights of three-dimensional convolutions, which have float kernels only, as int8, widened on loading."""
    for graph in model.subgraphs:
        first = []
        for op in graph.operators or ():
            if files.op_name(model, op) not in ("CONV_3D", "CONV_3D_TRANSPOSE"):
                continue
            weights = graph.tensors[int(op.inputs[1])]
            if is_float_constant(model, weights) and math.prod(int(size) for size in weights.shape) >= least:
                first.append(_dequantize(model, _int8_copy(model, graph, int(op.inputs[1])), int(op.inputs[1])))
                weights.buffer = 0
        graph.operators = [*first, *(graph.operators or ())]


def _int8_copy(model: ModelT, graph: SubGraphT, index: int) -> int:
    schema = files.schema()
    values = files.constant(model, graph.tensors[index])
    scale = float(np.abs(values).max(initial=0.0)) / _INT8_MAX or 1.0
    made = files.add_constant(
        model, graph, np.rint(values / scale).astype(np.int8), f"{files.name_of(graph.tensors[index])}_int8"
    )
    quantization = schema.QuantizationParametersT()
    quantization.scale = np.array([scale], np.float32)
    quantization.zeroPoint = np.array([0], np.int64)
    graph.tensors[made].quantization = quantization
    return made


def weights_to_half(model: ModelT, only: Container[str] | None = None) -> list[str]:
    """Store float constants as float16 and widen them where they are read, once, when the model is loaded.

    Runtimes recognize this form: XNNPACK unpacks the weights itself, the builtin DEQUANTIZE kernel runs on a constant
    only once. The quantizer's own casting knows five operators; this takes any.

    Args:
        model: Changed in place.
        only: Names of the constants that are meant; None for all.

    Returns:
        Names of constants that stay in float32, because float16 cannot hold them.
    """
    left = []
    for graph in model.subgraphs:
        first = []
        for index, tensor in enumerate(list(graph.tensors)):
            if not is_float_constant(model, tensor) or tensor.isVariable:
                continue
            if only is not None and files.name_of(tensor) not in only:
                continue
            values = files.constant(model, tensor)
            if values.size < _HALF_WORTH:
                continue
            largest = float(np.abs(values).max())
            if not largest <= _HALF_MAX or 0 < largest < _HALF_TINY:
                left.append(files.name_of(tensor))
                continue
            half = files.add_constant(model, graph, values.astype(np.float16), f"{files.name_of(tensor)}_half")
            tensor.buffer = 0
            first.append(_dequantize(model, half, index))
        graph.operators = [*first, *(graph.operators or ())]
    return left


def _dequantize(model: ModelT, source: int, target: int) -> OperatorT:
    """To float, of a tensor of float16 or int8."""
    schema = files.schema()
    op = schema.OperatorT()
    # Version 3 is the first that takes float16.
    op.opcodeIndex = files.use_op_code(model, schema.BuiltinOperator.DEQUANTIZE, 3)
    op.inputs, op.outputs = np.array([source], np.int32), np.array([target], np.int32)
    return op


def plain_int16_sums(model: ModelT) -> None:
    """Tell ADD and SUB that scales are no powers of two: where they happen to be, the special kernel refuses some."""
    for graph in model.subgraphs:
        for op in graph.operators or ():
            if files.op_name(model, op) in ("ADD", "SUB") and op.builtinOptions is not None:
                op.builtinOptions.potScaleInt16 = False


def dense_of_several_rows(model: ModelT) -> list[str]:
    """Output names of FULLY_CONNECTED operators that multiply more than one row."""
    code = files.schema().BuiltinOperator.FULLY_CONNECTED
    found = []
    for graph in model.subgraphs:
        for op in graph.operators or ():
            if files.op_code(model, op) != code:
                continue
            shape = [int(size) for size in graph.tensors[int(op.inputs[0])].shape]
            weights = graph.tensors[int(op.inputs[1])]
            # What is computed while the model runs may have no shape in the file.
            if len(weights.shape) and math.prod(shape) > int(weights.shape[-1]):
                found.append(files.name_of(graph.tensors[int(op.outputs[0])]))
    return found


def matmuls_of_constant_left(model: ModelT) -> list[str]:
    """Output names of BATCH_MATMUL operators whose left side is a constant."""
    code = files.schema().BuiltinOperator.BATCH_MATMUL
    return [
        files.name_of(graph.tensors[int(op.outputs[0])])
        for graph in model.subgraphs
        for op in graph.operators or ()
        if files.op_code(model, op) == code and files.is_constant(model, graph.tensors[int(op.inputs[0])])
    ]


def ranks_of_constants_beside(model: ModelT) -> dict[str, int]:
    """Results that share their scale with a constant operand -> its rank.

    ai-edge-quantizer shapes such a scale for the constant, and shapes it wrongly unless it has that rank already.
    """
    operator = files.schema().BuiltinOperator
    sharing = (operator.CONCATENATION, operator.MAXIMUM, operator.MINIMUM, operator.PACK, operator.SELECT_V2)
    found = {}
    for graph in model.subgraphs:
        for op in graph.operators or ():
            if files.op_code(model, op) in sharing:
                operands = [graph.tensors[int(i)] for i in op.inputs if int(i) >= 0]
                ranks = [len(part.shape) for part in operands if is_float_constant(model, part)]
                if ranks and max(ranks) > 1:
                    found[files.name_of(graph.tensors[int(op.outputs[0])])] = max(ranks)
    return found


def empty_unread(model: ModelT) -> None:
    """Take constants from tensors that no operator reads any more, in place.

    Equal constants share a buffer, and ai-edge-quantizer asks all tensors of a buffer who reads them: it fails on those
    that rewriting left without a reader (a KeyError with the tensor's name, 0.10).
    """
    nothing = len(model.buffers)
    model.buffers.append(files.schema().BufferT())
    for graph in model.subgraphs:
        used = {int(i) for i in (*graph.inputs, *graph.outputs)}
        used |= {int(i) for op in graph.operators or () for i in (*op.inputs, *op.outputs)}
        for index, tensor in enumerate(graph.tensors):
            if index not in used and files.is_constant(model, tensor):
                tensor.buffer = nothing


def is_float_constant(model: ModelT, tensor: TensorT) -> bool:
    """Whether the file holds the tensor's values, as float32."""
    return files.dtype_of(tensor) == "float32" and files.is_constant(model, tensor)
