"""How shapes follow from op to op in ONNX.

A rule returns the shapes of a node's outputs or raises `UnknownError`. No rule is a guess: an attribute or an operand
that it does not understand makes the outputs unknown. Source: https://onnx.ai/onnx/operators.
"""

from __future__ import annotations

import math

from edgekit.formats.facts import MAX_ELEMENTS, MAX_RANK, Shape
from edgekit.formats.onnx_content import CONTENT
from edgekit.formats.onnx_model import Node
from edgekit.formats.onnx_shapes import (
    NUMBERS,
    Rule,
    Shapes,
    UnknownError,
    axes_of,
    axis_of,
    broadcast,
    checked,
    slice_parts,
)


def infer(node: Node, at: Shapes) -> None:
    """Add to `at` what follows for the node's outputs."""
    rule = RULES.get(node.kind)
    if rule is None:
        return
    try:
        for name, shape in zip(node.outputs, rule(node, at), strict=False):
            if name and shape is not None:
                at.shapes[name] = checked(shape)
        _compute(node, at)
    except UnknownError:
        return


def _compute(node: Node, at: Shapes) -> None:
    follow = CONTENT.get(node.kind)
    output = node.outputs[0] if node.outputs else ""
    if follow is None or math.prod(at.shapes.get(output, (NUMBERS + 1,))) > NUMBERS:
        return
    found = follow(node, at)
    if len(found) == math.prod(at.shapes[output]) and all(abs(value) < MAX_ELEMENTS for value in found):
        at.numbers[output] = found


def _same(node: Node, at: Shapes) -> list[Shape]:
    shape = at.shape(node.input(0))
    return [shape, shape]


def _same_first(node: Node, at: Shapes) -> list[Shape]:
    return [at.shape(node.input(0))]


def _broadcast(node: Node, at: Shapes) -> list[Shape]:
    return [broadcast(*(at.shape(name) for name in node.inputs))]


def _broadcast_quantized(node: Node, at: Shapes) -> list[Shape]:
    return [broadcast(at.shape(node.input(0)), at.shape(node.input(3)))]


def _window(node: Node, spatial: Shape, kernel: Shape) -> list[int]:
    """Output sizes of a convolution or a pool over `spatial`."""
    axes = len(spatial)
    strides = node.lists.get("strides", (1,) * axes)
    dilations = node.lists.get("dilations", (1,) * axes)
    pads = node.lists.get("pads", (0,) * (2 * axes))
    mode = node.texts.get("auto_pad", "NOTSET")
    if {len(kernel), len(strides), len(dilations)} != {axes} or len(pads) != 2 * axes or min(strides, default=1) < 1:
        raise UnknownError("window attributes")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        return [-(-size // stride) for size, stride in zip(spatial, strides, strict=True)]
    pads = (0,) * (2 * axes) if mode == "VALID" else pads
    ceil = node.ints.get("ceil_mode", 0)
    sizes = []
    for i, size in enumerate(spatial):
        room = size + pads[i] + pads[axes + i] - dilations[i] * (kernel[i] - 1) - 1
        count = (-(-room // strides[i]) if ceil else room // strides[i]) + 1
        # The last window must start inside the input or its left padding.
        sizes.append(count - 1 if ceil and (count - 1) * strides[i] >= size + pads[i] else count)
    return sizes


def _conv(weights: int) -> Rule:
    def rule(node: Node, at: Shapes) -> list[Shape]:
        data, kernel = at.shape(node.input(0)), at.shape(node.input(weights))
        if len(data) < 3 or len(kernel) != len(data):
            raise UnknownError("ranks")
        return [(data[0], kernel[0], *_window(node, data[2:], kernel[2:]))]

    return rule


def _conv_transpose(node: Node, at: Shapes) -> list[Shape]:
    data, kernel = at.shape(node.input(0)), at.shape(node.input(1))
    axes = len(data) - 2
    strides, dilations = node.lists.get("strides", (1,) * axes), node.lists.get("dilations", (1,) * axes)
    extra, pads = node.lists.get("output_padding", (0,) * axes), node.lists.get("pads", (0,) * (2 * axes))
    if axes < 1 or len(kernel) != len(data) or {len(strides), len(dilations), len(extra), len(pads) // 2} != {axes}:
        raise UnknownError("attributes")
    out = kernel[1] * node.ints.get("group", 1)
    if "output_shape" in node.lists:
        return [(data[0], out, *node.lists["output_shape"][-axes:])]
    same = node.texts.get("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER")
    taps = [(kernel[2 + i] - 1) * dilations[i] + 1 for i in range(axes)]
    grown = [strides[i] * (data[2 + i] - 1) + taps[i] + extra[i] - pads[i] - pads[axes + i] for i in range(axes)]
    sizes = [data[2 + i] * strides[i] for i in range(axes)] if same else grown
    return [(data[0], out, *sizes)]


def _pool(node: Node, at: Shapes) -> list[Shape]:
    data, kernel = at.shape(node.input(0)), node.lists.get("kernel_shape", ())
    if len(data) < 3 or node.ints.get("channels_last"):
        raise UnknownError("layout")
    shape = (*data[:2], *_window(node, data[2:], kernel))
    return [shape, shape]


def _global_pool(node: Node, at: Shapes) -> list[Shape]:
    data = at.shape(node.input(0))
    if len(data) < 2 or node.ints.get("channels_last"):
        raise UnknownError("layout")
    return [(*data[:2], *(1 for _ in data[2:]))]


def _gemm(node: Node, at: Shapes) -> list[Shape]:
    left, right = at.shape(node.input(0), 2), at.shape(node.input(1), 2)
    return [(left[1 if node.ints.get("transA") else 0], right[0 if node.ints.get("transB") else 1])]


def _matmul(second: int) -> Rule:
    def rule(node: Node, at: Shapes) -> list[Shape]:
        left, right = at.shape(node.input(0)), at.shape(node.input(second))
        if node.ints.get("transBatchA") or node.ints.get("transBatchB") or not left or not right:
            raise UnknownError("operands")
        if node.ints.get("transA") and len(left) > 1:
            left = (*left[:-2], left[-1], left[-2])
        if node.ints.get("transB") and len(right) > 1:
            right = (*right[:-2], right[-1], right[-2])
        rows, columns = left[-2:-1], right[-1:] if len(right) > 1 else ()
        return [(*broadcast(left[:-2], right[:-2]), *rows, *columns)]

    return rule


def _matmul_nbits(node: Node, at: Shapes) -> list[Shape]:
    return [(*at.shape(node.input(0))[:-1], node.ints.get("N", -1))]


def _flatten(node: Node, at: Shapes) -> list[Shape]:
    data = at.shape(node.input(0))
    axis = node.ints.get("axis", 1)
    axis = axis if axis == len(data) else axis_of(axis, len(data))
    return [(math.prod(data[:axis]), math.prod(data[axis:]))]


def _reshape(node: Node, at: Shapes) -> list[Shape]:
    data = at.shape(node.input(0))
    wanted = list(node.lists["shape"]) if "shape" in node.lists else at.ints(node.input(1))
    if len(wanted) > MAX_RANK:
        raise UnknownError("too many axes")
    if not node.ints.get("allowzero"):
        if any(size == 0 and i >= len(data) for i, size in enumerate(wanted)):
            raise UnknownError("a zero beyond the rank")
        wanted = [data[i] if size == 0 else size for i, size in enumerate(wanted)]
    if wanted.count(-1) == 1:
        rest = math.prod(size for size in wanted if size != -1)
        if rest < 1 or math.prod(data) % rest:
            raise UnknownError("sizes do not divide")
        wanted[wanted.index(-1)] = math.prod(data) // rest
    if math.prod(wanted) != math.prod(data):
        raise UnknownError("another number of elements")
    return [tuple(wanted)]


def _transpose(node: Node, at: Shapes) -> list[Shape]:
    data = at.shape(node.input(0))
    order = node.lists.get("perm", tuple(reversed(range(len(data)))))
    if sorted(order) != list(range(len(data))):
        raise UnknownError("perm")
    return [tuple(data[i] for i in order)]


def _concat(node: Node, at: Shapes) -> list[Shape]:
    parts = [at.shape(name) for name in node.inputs]
    if not parts or len({len(part) for part in parts}) != 1 or not parts[0]:
        raise UnknownError("ranks")
    axis = axis_of(node.ints.get("axis", 1), len(parts[0]))
    if len({part[:axis] + part[axis + 1 :] for part in parts}) != 1:
        raise UnknownError("sizes differ")
    return [(*parts[0][:axis], sum(part[axis] for part in parts), *parts[0][axis + 1 :])]


def _squeeze(node: Node, at: Shapes) -> list[Shape]:
    data = at.shape(node.input(0))
    axes = axes_of(node, at, 1)
    gone = {i for i, s in enumerate(data) if s == 1} if axes is None else {axis_of(a, len(data)) for a in axes}
    if any(data[i] != 1 for i in gone):
        raise UnknownError("an axis is not of size 1")
    return [tuple(size for i, size in enumerate(data) if i not in gone)]


def _unsqueeze(node: Node, at: Shapes) -> list[Shape]:
    data, axes = at.shape(node.input(0)), axes_of(node, at, 1)
    if axes is None or len(data) + len(axes) > MAX_RANK:
        raise UnknownError("axes")
    rank = len(data) + len(axes)
    new = {axis_of(a, rank) for a in axes}
    rest = iter(data)
    if len(new) != len(axes):
        raise UnknownError("an axis twice")
    return [tuple(1 if i in new else next(rest) for i in range(rank))]


def _pad(node: Node, at: Shapes) -> list[Shape]:
    data = at.shape(node.input(0))
    pads = list(node.lists["pads"]) if "pads" in node.lists else at.ints(node.input(1))
    if len(pads) != 2 * len(data) or node.input(3):
        raise UnknownError("pads")
    return [tuple(size + pads[i] + pads[len(data) + i] for i, size in enumerate(data))]


def _reduce(node: Node, at: Shapes) -> list[Shape]:
    data = at.shape(node.input(0))
    axes = axes_of(node, at, 1)
    if not axes and node.ints.get("noop_with_empty_axes"):
        return [data]
    gone = {axis_of(a, len(data)) for a in axes} if axes else set(range(len(data)))
    return [_without(data, gone, keep=node.ints.get("keepdims", 1) != 0)]


def _arg(node: Node, at: Shapes) -> list[Shape]:
    data = at.shape(node.input(0))
    return [_without(data, {axis_of(node.ints.get("axis", 0), len(data))}, keep=node.ints.get("keepdims", 1) != 0)]


def _without(data: Shape, gone: set[int], *, keep: bool) -> Shape:
    return tuple(1 if i in gone else size for i, size in enumerate(data) if keep or i not in gone)


def _slice(node: Node, at: Shapes) -> list[Shape]:
    data = list(at.shape(node.input(0)))
    for axis, part in slice_parts(node, at, len(data)):
        data[axis] = len(range(*part.indices(data[axis])))
    return [tuple(data)]


def _split(node: Node, at: Shapes) -> list[Shape]:
    data = at.shape(node.input(0))
    axis = axis_of(node.ints.get("axis", 0), len(data))
    if "split" in node.lists:
        sizes = list(node.lists["split"])
    elif node.input(1):
        sizes = at.ints(node.input(1))
    else:
        count = max(1, len(node.outputs))
        each = -(-data[axis] // count)
        sizes = [each] * (count - 1) + [data[axis] - each * (count - 1)]
    if len(sizes) != len(node.outputs) or sum(sizes) != data[axis]:
        raise UnknownError("split sizes")
    return [(*data[:axis], size, *data[axis + 1 :]) for size in sizes]


def _gather(node: Node, at: Shapes) -> list[Shape]:
    data, indices = at.shape(node.input(0)), at.shape(node.input(1))
    axis = axis_of(node.ints.get("axis", 0), len(data))
    return [(*data[:axis], *indices, *data[axis + 1 :])]


def _shape(node: Node, at: Shapes) -> list[Shape]:
    return [(len(at.shape(node.input(0))[node.ints.get("start", 0) : node.ints.get("end")]),)]


def _resize(node: Node, at: Shapes) -> list[Shape]:
    data = at.shape(node.input(0))
    if "axes" in node.lists or node.texts.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise UnknownError("partial resize")
    if node.input(3):
        return [tuple(at.ints(node.input(3)))]
    scales = at.content(node.input(2 if len(node.inputs) > 2 else 1))
    if len(scales) != len(data) or not all(0 < scale < MAX_ELEMENTS for scale in scales):
        raise UnknownError("scales")
    return [tuple(math.floor(size * scale) for size, scale in zip(data, scales, strict=True))]


def _expand(node: Node, at: Shapes) -> list[Shape]:
    return [broadcast(at.shape(node.input(0)), checked(tuple(at.ints(node.input(1)))))]


def _tile(node: Node, at: Shapes) -> list[Shape]:
    data, repeats = at.shape(node.input(0)), at.ints(node.input(1))
    if len(data) != len(repeats):
        raise UnknownError("repeats")
    return [tuple(size * repeat for size, repeat in zip(data, repeats, strict=True))]


def _depth_to_space(node: Node, at: Shapes) -> list[Shape]:
    n, c, h, w = at.shape(node.input(0), 4)
    block = node.ints.get("blocksize", 0)
    if block < 1:
        raise UnknownError("blocksize")
    if node.op == "DepthToSpace":
        return [(n, c // block**2, h * block, w * block)]
    return [(n, c * block**2, h // block, w // block)]


def _recurrent(node: Node, at: Shapes) -> list[Shape]:
    data, recurrence = at.shape(node.input(0), 3), at.shape(node.input(2), 3)
    directions, hidden = recurrence[0], node.ints.get("hidden_size", recurrence[2])
    if node.ints.get("layout"):
        last = (data[0], directions, hidden)
        return [(data[0], data[1], directions, hidden), last, last]
    last = (directions, data[1], hidden)
    return [(data[0], directions, data[1], hidden), last, last]


def _ensemble(node: Node, at: Shapes) -> list[Shape]:
    return [(math.prod(at.shape(node.input(0))[:-1]), node.ints.get("n_targets", 1))]


def _constant_of_shape(node: Node, at: Shapes) -> list[Shape]:
    return [tuple(at.ints(node.input(0)))]


def _dynamic_quantize(node: Node, at: Shapes) -> list[Shape]:
    return [at.shape(node.input(0)), (), ()]


_ELEMENTWISE = """
Abs Acos Acosh Asin Asinh Atan Atanh BatchNormalization BitwiseNot Cast CastLike Ceil Celu Clip Cos Cosh
CumSum DequantizeLinear Elu Erf Exp Floor Gelu GroupNormalization Hardmax HardSigmoid HardSwish Identity
InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu Log LogSoftmax LpNormalization
MeanVarianceNormalization Mish Neg Not PRelu QuantizeLinear RMSNormalization Reciprocal Relu Round Selu Shrink Sigmoid
Sign Sin Sinh Softmax Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu Trilu ai.onnx.ml:Scaler
com.microsoft:DequantizeLinear com.microsoft:FastGelu com.microsoft:Gelu com.microsoft:QLinearLeakyRelu
com.microsoft:QLinearSigmoid com.microsoft:QLinearSoftmax com.microsoft:QuantizeLinear com.microsoft:QuickGelu
"""
ELEMENTWISE = frozenset(_ELEMENTWISE.split())
"""Ops whose first output has the shape of the first input."""

_BROADCAST = """
Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul
Or Pow Sub Sum Where Xor
"""
_REDUCE = """
ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare
"""

RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, _same_first),
    **dict.fromkeys(_BROADCAST.split(), _broadcast),
    **dict.fromkeys(_REDUCE.split(), _reduce),
    **dict.fromkeys(("com.microsoft:QLinearAdd", "com.microsoft:QLinearMul"), _broadcast_quantized),
    **dict.fromkeys(("Conv", "ConvInteger", "com.microsoft:FusedConv"), _conv(1)),
    **dict.fromkeys(("MatMul", "MatMulInteger", "com.microsoft:FusedMatMul"), _matmul(1)),
    **dict.fromkeys(("com.microsoft:DynamicQuantizeMatMul", "com.microsoft:MatMulIntegerToFloat"), _matmul(1)),
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool", "com.microsoft:QLinearAveragePool"), _pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"), _global_pool),
    **dict.fromkeys(("Gemm", "com.microsoft:FusedGemm"), _gemm),
    **dict.fromkeys(("ArgMax", "ArgMin"), _arg),
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), _depth_to_space),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
    **dict.fromkeys(("ai.onnx.ml:TreeEnsemble", "ai.onnx.ml:TreeEnsembleRegressor"), _ensemble),
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "ConvTranspose": _conv_transpose,
    "Dropout": _same,
    "DynamicQuantizeLinear": _dynamic_quantize,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Pad": _pad,
    "QLinearConv": _conv(3),
    "QLinearMatMul": _matmul(3),
    "Reshape": _reshape,
    "Shape": _shape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "com.microsoft:MatMulNBits": _matmul_nbits,
    "com.microsoft:QLinearGlobalAveragePool": _global_pool,
}
"""Op kind -> rule for the shapes of its outputs."""
