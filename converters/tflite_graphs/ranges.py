"""Ranges that integer kernels can compute with, from the ranges that were observed.

Kernels multiply integers and shift the sum to the output's scale; the fast ones take only factors between bounds, and a
file that passes them is refused by the engine, or its bias wraps around. What passes them carries no information: an
activation that was zero throughout, weights of a dead channel. Such ranges are widened until the kernels take them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from edgekit.converters.calibration.masks import nearest
from edgekit.converters.stages import Range
from edgekit.converters.tflite_graphs import graph as files
from edgekit.converters.tflite_graphs.graph import ModelT, OperatorT, SubGraphT
from edgekit.converters.tflite_graphs.rewrites import is_float_constant

Bits = int | Mapping[str, int]
"""Width of the activations: of all operators, or by the (first) tensor that each makes; 0 for those left in float."""

_INT8_MAX = 127
_ACCUMULATOR_ROOM = 2**29
"""A quarter of an int32 for the bias leaves the rest of the accumulator to the products."""

_NOTHING = 1e-9
"""Span below which the quantizer itself stops; nothing that small is an activation's signal."""

_FAR = 16.0
"""Softmax gives exp(-16) = 1e-7 of the largest score to one this far below, less than a step of 16 bits."""

_FACTORS = (2.0**-31, 2.0**7)
"""Input scale times weight scale over output scale: XNNPACK asks for at least 2**-32 and less than 2**8."""


def usable(model: ModelT, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """The ranges, those of no width replaced by the widest range that the tensor is computed from.

    Args:
        model: The float graph, its tensors named uniquely.
        ranges: What was observed, by tensor.
    """
    found = {name: seen if seen.span > _NOTHING else Range(0.0, 1.0) for name, seen in ranges.items()}
    graph = model.subgraphs[0]
    for op in graph.operators or ():
        read = [files.name_of(graph.tensors[int(index)]) for index in op.inputs if int(index) >= 0]
        widest = max((found[name].span for name in read if name in found), default=1.0)
        for index in op.outputs:
            name = files.name_of(graph.tensors[int(index)])
            if name in ranges and ranges[name].span <= _NOTHING:
                found[name] = Range(0.0, widest)
    return found


def width(bits: Bits, made: str) -> int:
    """Bits of the activations of the operator that makes a tensor; 0 where it computes in float."""
    return bits if isinstance(bits, int) else bits[made]


def scale(seen: Range, bits: int) -> float:
    """What the quantizer will choose: asymmetric in 8 bits, symmetric in 16, zero always representable."""
    if bits == 8:
        return seen.span / 255
    return max(abs(seen.min), abs(seen.max)) / 32767


def tame_masks(model: ModelT, ranges: dict[str, Range]) -> None:
    """Bring masks of attention near the scores that they mask, in place.

    Softmax ignores what lies far below the largest score, so masks select or add -1e9 there. As part of a range that
    number leaves one step of 8 or 16 bits to all true scores. `_FAR` below the least score does the same.
    """
    graph = model.subgraphs[0]
    makers = {int(index): op for op in graph.operators or () for index in op.outputs}
    softmax = {int(op.inputs[0]) for op in graph.operators or () if files.op_name(model, op) == "SOFTMAX"}
    others = {
        int(index) for op in graph.operators or () if files.op_name(model, op) != "SOFTMAX" for index in op.inputs
    } | {int(index) for index in graph.outputs}
    for index in sorted(softmax - others):
        op = makers.get(index)
        kind = "" if op is None else files.op_name(model, op)
        if op is None or kind not in ("SELECT", "SELECT_V2", "ADD"):
            continue
        operands = [int(i) for i in (op.inputs if kind == "ADD" else op.inputs[1:])]
        masks = [at for at in operands if is_float_constant(model, graph.tensors[at])]
        scores = [files.name_of(graph.tensors[at]) for at in operands if at not in masks]
        if len(masks) != 1 or len(scores) != 1 or scores[0] not in ranges:
            continue
        seen = ranges[scores[0]]
        # Added to the largest score a mask must still come out below the least.
        lowest = min(seen.min, 0.0) - _FAR if kind != "ADD" else -(seen.span + _FAR)
        values = files.constant(model, graph.tensors[masks[0]])
        if values.size and float(values.min()) < lowest:
            near = np.maximum(values, np.float32(lowest))
            name = f"{files.name_of(graph.tensors[index])}@mask"
            at = files.add_constant(model, graph, near, name)
            op.inputs = np.array([at if int(i) == masks[0] else int(i) for i in op.inputs], np.int32)
            ranges[files.name_of(graph.tensors[index])] = Range(min(seen.min, 0.0) - _FAR, max(seen.max, 0.0))


def near_constants(model: ModelT, ranges: Mapping[str, Range]) -> None:
    """Bring constants far below what integers show of a result near to it, in place: kernels take no others."""
    graph = model.subgraphs[0]
    for op in graph.operators or ():
        kind = files.op_name(model, op)
        if kind not in ("SELECT", "SELECT_V2", "ADD", "MUL"):
            continue
        made = ranges.get(files.name_of(graph.tensors[int(op.outputs[0])]))
        operands = [int(index) for index in op.inputs][-2:]
        for at, beside in (operands, operands[::-1]):
            if made is None or not is_float_constant(model, graph.tensors[at]):
                continue
            values = files.constant(model, graph.tensors[at])
            least = nearest(kind, made, ranges.get(files.name_of(graph.tensors[beside])))
            if values.size and float(values.min()) < least:
                name = f"{files.name_of(graph.tensors[int(op.outputs[0])])}@near"
                near = files.add_constant(model, graph, np.maximum(values, np.float32(least)), name)
                op.inputs = np.array([near if int(index) == at else int(index) for index in op.inputs], np.int32)


def widen_results(model: ModelT, ranges: dict[str, Range], bits: Bits) -> None:
    """Give results of weighted operators steps that are not absurdly finer than those of the products, in place."""
    for graph, op, (at_input, at_weights, _, _) in weighted(model):
        inputs = [int(index) for index in op.inputs]
        weights, made = graph.tensors[inputs[at_weights]], files.name_of(graph.tensors[int(op.outputs[0])])
        read = files.name_of(graph.tensors[inputs[at_input]])
        if read not in ranges or made not in ranges or not is_float_constant(model, weights):
            continue
        wide = width(bits, made)
        if not wide:
            continue
        products = scale(ranges[read], wide) * float(np.abs(files.constant(model, weights)).max()) / _INT8_MAX
        excess = products / (scale(ranges[made], wide) * _FACTORS[1])
        if excess > 1:
            seen = ranges[made]
            ranges[made] = Range(seen.min * excess, seen.max * excess)


def wide_weights(
    model: ModelT, ranges: Mapping[str, Range], bits: Bits
) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Ranges of weights, wide enough in each channel for the kernel's arithmetic.

    A bias is stored in units of input scale times weight scale. Where a channel's weights are (nearly) zero, as
    training leaves dead channels, those units are so small that the bias overflows an int32, and the quantizer lets it
    wrap around to the opposite sign; or so small beside the output's that fast kernels refuse the factor.

    Args:
        model: The float graph, its tensors named uniquely.
        ranges: Of activations, by name.
        bits: Width of the activations; weights of operators in float are left out.

    Returns:
        Weight name -> (min, max), shaped to broadcast, for weights that need widening.
    """
    widened: dict[str, NDArray[np.float32]] = {}
    for graph, op, (at_input, at_weights, at_bias, axis) in weighted(model):
        inputs = [int(index) for index in op.inputs]
        weights = graph.tensors[inputs[at_weights]]
        read, made = (files.name_of(graph.tensors[i]) for i in (inputs[at_input], int(op.outputs[0])))
        if read not in ranges or made not in ranges or not is_float_constant(model, weights):
            continue
        wide = width(bits, made)
        if not wide:
            continue
        units = scale(ranges[read], wide)
        values = files.constant(model, weights)
        bound = np.abs(values).max(axis=tuple(n for n in range(values.ndim) if n != axis), keepdims=True)
        needed = np.full(bound.shape, _FACTORS[0] * scale(ranges[made], wide) / units * _INT8_MAX)
        if len(inputs) > at_bias and inputs[at_bias] >= 0:
            bias = graph.tensors[inputs[at_bias]]
            if is_float_constant(model, bias):
                biases = np.abs(files.constant(model, bias).astype(np.float64)).reshape(bound.shape)
                needed = np.maximum(needed, biases / (units * _ACCUMULATOR_ROOM) * _INT8_MAX)
        name = files.name_of(weights)
        if (needed > bound).any():
            # Several operators may share the weights: the widest holds for all.
            widened[name] = np.maximum(np.maximum(bound, needed).astype(np.float32), widened.get(name, 0))
    return {name: (-wide, wide) for name, wide in widened.items()}


def divisions_near_zero(model: ModelT, ranges: Mapping[str, Range], bits: Bits) -> list[str]:
    """Output names of DIV operators whose divisor comes near enough to zero to be rounded to it: the kernel fails."""
    graph = model.subgraphs[0]
    found = []
    for op in graph.operators or ():
        if files.op_name(model, op) != "DIV":
            continue
        divisor, made = graph.tensors[int(op.inputs[1])], files.name_of(graph.tensors[int(op.outputs[0])])
        wide = width(bits, made)
        if not wide:
            continue
        if files.is_constant(model, divisor):
            values = files.constant(model, divisor)
            nearest, step = float(np.abs(values).min()), scale(Range(float(values.min()), float(values.max())), wide)
        else:
            seen = ranges.get(files.name_of(divisor), Range(0.0, 0.0))
            nearest, step = max(seen.min, -seen.max, 0.0), scale(seen, wide)
        if nearest <= 2 * step:  # half of it must not be rounded to zero
            found.append(made)
    return found


def weighted(model: ModelT) -> Iterator[tuple[SubGraphT, OperatorT, tuple[int, int, int, int]]]:
    """Operators with weights and a bias: positions of input, weights and bias, and the channel axis of the weights."""
    operator = files.schema().BuiltinOperator
    layout = {
        operator.CONV_2D: (0, 1, 2, 0),
        operator.DEPTHWISE_CONV_2D: (0, 1, 2, 3),
        operator.FULLY_CONNECTED: (0, 1, 2, 0),
        operator.TRANSPOSE_CONV: (2, 1, 3, 0),
    }
    for graph in model.subgraphs:
        for op in graph.operators or ():
            code = files.op_code(model, op)
            if code in layout:
                yield graph, op, layout[code]
