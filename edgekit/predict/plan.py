"""From a model's ops to the kernels that an engine runs: `kernels(facts)`.

What both formats share stands here: which unit an op's work is counted in (`KINDS`), and how matrix kernels are
described. `plan_onnx` first fuses what onnxruntime fuses. An op whose shapes are not known counts as a call of its
kernel only, and is named in `Plan.unknown`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgekit.formats.facts import INTEGER_WEIGHTS, ModelFacts, Operand, OpFacts, Shape, arithmetic
from edgekit.predict.work import LANES, Chip, Kernel, Product, convolution, product

_ANY = Chip()


@dataclass(frozen=True)
class Plan:
    """Kernels in order, and the ops whose work is not known."""

    kernels: tuple[Kernel, ...]
    unknown: tuple[str, ...] = ()


def kernels(facts: ModelFacts, chip: Chip = _ANY) -> Plan:
    """What one run of a model comes to, free sizes counted as 1.

    Args:
        facts: What the file holds.
        chip: Whose kernels they are.
    """
    from edgekit.predict.plan_layout import laid_out
    from edgekit.predict.plan_onnx import divided, fused
    from edgekit.predict.plan_tflite import marked, padded

    if facts.format == "onnx":
        free = any(size is None for spec in facts.inputs for size in spec.shape)
        ops = fused(facts.ops, free=free, signed=chip.signed)
        planned = [divided(entry) for entry in laid_out(ops, [kernel(op) for op in ops], free=free)]
    else:
        ops = padded(facts.ops)
        planned = marked(facts, ops, [kernel(op, chip) for op in ops])
    planned = _fed(ops, planned)
    found = _cooled([entry for entry in planned if entry is not None])
    return Plan(found, tuple(op.name for op, entry in zip(ops, planned, strict=True) if entry and not _known(op)))


def _fed(ops: Sequence[OpFacts], planned: Sequence[Kernel | None]) -> list[Kernel | None]:
    """With the inputs of the model that each reads: whoever called the engine has them in its own cache."""
    made = {name for op in ops for name in op.outputs}
    found = list(planned)
    for number, (op, entry) in enumerate(zip(ops, planned, strict=True)):
        reads = zip(op.inputs, op.reads, strict=False)
        fed = sum(size_of(e) for name, e in reads if e is not None and not e.constant and name not in made)
        if entry is not None and fed:
            found[number] = entry.counting({**entry.units, "fed": fed})
    return found


_WARM = 8
"""Kernels whose code and tables stay in the nearest caches from one run to the next."""


def _cooled(found: Sequence[Kernel]) -> tuple[Kernel, ...]:
    """In a run of many kernels each finds its code and tables farther away."""
    if len(found) <= _WARM:
        return tuple(found)
    share = 1 - _WARM / len(found)
    return tuple(entry.counting({**entry.units, "cold": share}) for entry in found)


_DEEP = 8
"""Inputs that XNNPACK's kernels for dot products of 8-bit integers take at once, in every place of the window
(src/configs/gemm-config.c: ...c8); those of Arm take four."""
_WIDE = 4 * LANES
"""Channels that XNNPACK's float convolutions compute at a time where `Chip.wide`."""
_ALIAS = frozenset({"BITCAST", "EXPAND_DIMS", "RESHAPE", "SQUEEZE"})
"""Ops of TFLite whose result is the same memory."""
FREE = _ALIAS | frozenset({
    "SHAPE", "RANK", "VAR_HANDLE", "CALL_ONCE",
    "Constant", "Dropout", "Flatten", "Identity", "Reshape", "Shape", "Squeeze", "Unsqueeze", "Size",
})  # fmt: skip
"""Ops that move nothing."""

_MATH = """
ATAN2 COS COMPLEX_ABS DIV ELU EXP FLOOR_DIV FLOOR_MOD GELU LOG LOGISTIC POW RSQRT SIN SQRT TANH
Acos Acosh Asin Asinh Atan Atanh Celu Cos Cosh Div Elu Erf Exp Gelu HardSwish Log Mish
Mod Pow Reciprocal Selu Sigmoid Sin Sinh Softplus Softsign Sqrt Swish Tan Tanh
com.microsoft:FastGelu com.microsoft:Gelu com.microsoft:QLinearSigmoid
"""
_SWISH = """
HARD_SWISH com.microsoft:BiasGelu com.microsoft:QuickGelu
"""
_NORM = """
L2_NORMALIZATION LOCAL_RESPONSE_NORMALIZATION LOG_SOFTMAX SOFTMAX
LRN LogSoftmax LpNormalization Softmax com.microsoft:QLinearSoftmax com.microsoft:BiasSoftmax
com.microsoft:SkipLayerNormalization LayerNormalization InstanceNormalization
GroupNormalization MeanVarianceNormalization RMSNormalization
"""
_MOVE = """
BROADCAST_TO CONCATENATION DYNAMIC_UPDATE_SLICE FILL PACK SLICE SPLIT SPLIT_V STRIDED_SLICE TILE TRANSPOSE UNPACK
Concat ConstantOfShape Expand Slice Split Tile Transpose com.microsoft:QLinearConcat
"""
_SHUFFLE = """
BATCH_TO_SPACE_ND DEPTH_TO_SPACE EMBEDDING_LOOKUP GATHER GATHER_ND ONE_HOT
RESIZE_NEAREST_NEIGHBOR REVERSE_V2 SCATTER_ND SPACE_TO_BATCH_ND SPACE_TO_DEPTH
Compress DepthToSpace Gather GatherElements GatherND GridSample OneHot Resize ReverseSequence ScatterElements
ScatterND SpaceToDepth Upsample
"""
_PAD = """
MIRROR_PAD PAD PADV2 Pad
"""
_REDUCE = """
ARG_MAX ARG_MIN CUMSUM MEAN REDUCE_ALL REDUCE_ANY REDUCE_MAX REDUCE_MIN REDUCE_PROD SUM
ArgMax ArgMin CumSum GlobalAveragePool GlobalMaxPool ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean
ReduceMin ReduceProd ReduceSum ReduceSumSquare com.microsoft:QLinearGlobalAveragePool com.microsoft:QLinearReduceMean
"""
_WINDOW = """
MAX_POOL_2D MaxPool com.microsoft:NhwcMaxPool
"""
_AVERAGE = """
AVERAGE_POOL_2D L2_POOL_2D AveragePool LpPool com.microsoft:QLinearAveragePool
"""
_CONVERT = """
CAST DENSIFY DEQUANTIZE FAKE_QUANT QUANTIZE
Cast CastLike DequantizeLinear DynamicQuantizeLinear QuantizeLinear com.microsoft:DequantizeLinear
com.microsoft:QuantizeLinear
"""
_SELECT = """
CUSTOM:TFLite_Detection_PostProcess NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5 TOPK_V2 UNIQUE WHERE
NonMaxSuppression NonZero TopK Unique
"""
_RECURRENT = """
BIDIRECTIONAL_SEQUENCE_LSTM BIDIRECTIONAL_SEQUENCE_RNN LSTM RNN SVDF UNIDIRECTIONAL_SEQUENCE_LSTM
UNIDIRECTIONAL_SEQUENCE_RNN GRU com.microsoft:DynamicQuantizeLSTM
"""
KINDS: dict[str, str] = {
    kind: unit
    for unit, names in (
        ("math", _MATH), ("norm", _NORM), ("swish", _SWISH), ("move", _MOVE), ("shuffle", _SHUFFLE), ("pad",
        _PAD), ("reduce", _REDUCE),
        ("window", _WINDOW), ("average", _AVERAGE), ("convert", _CONVERT), ("blend", "RESIZE_BILINEAR"),
        ("select", _SELECT), ("recurrent", _RECURRENT),
    )
    for kind in names.split()
}  # fmt: skip
"""Op kind -> unit of its work; ops that are not named are cheap elementwise ones ("map")."""

_DIRECTED = frozenset({"LSTM", "GRU", "RNN"})
"""Recurrent operators of ONNX, whose result has an axis of directions."""
_CHANNELS_LAST = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "CONV_3D", "CONV_3D_TRANSPOSE"})
_CONVOLUTIONS = frozenset({"Conv", "ConvInteger", "ConvTranspose", "QLinearConv", "com.microsoft:FusedConv"})
_PRODUCTS = frozenset({
    "FULLY_CONNECTED", "BATCH_MATMUL", "Gemm", "MatMul", "MatMulInteger", "QLinearMatMul", "com.microsoft:QGemm",
    "com.microsoft:FusedGemm", "com.microsoft:FusedMatMul", "com.microsoft:DynamicQuantizeMatMul",
    "com.microsoft:MatMulIntegerToFloat", "com.microsoft:MatMulNBits",
})  # fmt: skip
BYTES = {
    "float32": 4, "float16": 2, "bfloat16": 2, "float64": 8, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4,
    "uint32": 4, "int64": 8, "uint64": 8, "bool": 1, "int4": 0.5, "uint4": 0.5, "int2": 0.25, "uint2": 0.25,
}  # fmt: skip


def kernel(op: OpFacts, chip: Chip = _ANY) -> Kernel | None:
    """The kernel of one op; None where nothing runs."""
    kind = op.kind.split("+")[0]
    if op.writes and all(entry is None or entry.constant for entry in op.writes):
        return None
    precision = _precision(op)
    if kind in FREE:
        nothing = kind in _ALIAS or kind in ("Constant", "Identity", "Dropout")
        return None if nothing else Kernel(op.name, op.kind, precision, {"kernel": 1.0})
    if (found := _matrix(kind, op, chip)) is not None:
        return found.kernel(op.name, op.kind, precision)
    inputs = [entry for entry in op.reads if entry is not None and not entry.constant]
    outputs = [entry for entry in op.writes if entry is not None]
    read, written = sum(map(size_of, inputs)), sum(map(size_of, outputs))
    moved = read + written
    units, macs = {"mid": moved, "far": moved, "kernel": 1.0}, float(op.macs or 0)
    match unit := "stride" if op.visits else KINDS.get(kind, "map"):
        case "stride":
            rows = count_of(outputs[:1]) // max(1, (outputs[0].shape or (1,))[-1]) if outputs else 1
            units[unit] = _VISIT * float(op.visits * max(1, rows))
        case "map":
            units[unit] = read + written
        case "shuffle" if kind == "Resize" and op.blends:
            units["blend"] = float(count_of(outputs[:1]))
        case "blend":
            units[unit] = float(count_of(outputs[:1]))
        case "math" | "norm" | "swish" | "convert":
            units[unit] = float(max(count_of(inputs[:1]), count_of(outputs[:1])))
            if unit == "norm" and kind.isupper() and outputs and outputs[0].shape:
                units["plane"] = outputs[0].elements / max(1, outputs[0].shape[-1])
        case "pad":
            units[unit] = sum(entry.elements / entry.shape[-1] for entry in outputs if entry.shape and entry.shape[-1])
        case "move" if _strided(kind, op):
            units["stride"] = float(count_of(outputs[:1]))
        case "move" | "shuffle":
            units[unit] = written
            if kind in _TURNED and not _along(inputs, outputs):
                units["turn"] = float(count_of(outputs[:1]))
                if kind == "TRANSPOSE":
                    units["strips"] = outputs[0].elements / max(1, (outputs[0].shape or (1,))[-1])
                    units["plane"] = apart if (apart := _prefix(inputs, outputs)) > 1 else 0.0
            elif runs := _runs(kind, inputs, outputs):
                units["strips"] = runs
        case "reduce":
            units[unit] = float(count_of(inputs[:1]))
        case "window" | "average":
            units[unit] = float(count_of(outputs[:1]) * math.prod(op.window or (1,)))
        case "select":
            units[unit] = float(max((entry.elements for entry in inputs), default=0))
        case _:
            steps = math.prod((inputs[0].shape or (1,))[:-1]) if inputs else 1
            if kind in _DIRECTED and outputs and len(outputs[0].shape or ()) == 4:
                steps *= (outputs[0].shape or (1, 1))[1]
            units |= {"recurrent": macs, "step": float(steps), "builtin": 1.0}
    return Kernel(op.name, op.kind, precision, units, read + written, macs, max(1, int(written // _BLOCK)))


_VISIT = 4.0
"""A node of a tree beside an element that is picked: 3 to 5 ns, forests of 10 to 300 trees and boosted ones
(onnxruntime 1.32, x86-64); the same sample again and again, whose way the processor knows."""
_BLOCK = 4096
"""Bytes that XNNPACK's elementwise kernels work off at a time (src/operators/unary-elementwise-nc.c)."""


_PARTS = frozenset({"SLICE", "SPLIT", "SPLIT_V", "STRIDED_SLICE", "Slice", "Split"})
_TURNED = frozenset({"TRANSPOSE", "Transpose"})
_JOINED = frozenset({"CONCATENATION", "Concat", "com.microsoft:QLinearConcat"})


def _runs(kind: str, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> float:
    """How many runs are copied where the innermost axis is cut, joined, or turned away."""
    if kind in _TURNED and inputs and outputs and inputs[0].shape and outputs[0].shape:
        return outputs[0].elements / max(1, outputs[0].shape[-1])
    whole, parts = (inputs, outputs) if kind in _PARTS else (outputs, inputs)
    if kind not in _PARTS | _JOINED or not whole or not whole[0].shape or not parts or not parts[0].shape:
        return 0.0
    if whole[0].shape[-1] == parts[0].shape[-1]:
        return 0.0
    return sum(entry.elements / entry.shape[-1] for entry in parts if entry.shape and entry.shape[-1])


def _prefix(inputs: Sequence[Operand], outputs: Sequence[Operand]) -> float:
    """Places along the first axes, as far as a transposition leaves them."""
    if not inputs or not outputs or not inputs[0].shape or not outputs[0].shape:
        return 1.0
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(inputs[0].shape, outputs[0].shape, strict=False))
    return float(math.prod(size for size, _ in same))


def _along(inputs: Sequence[Operand], outputs: Sequence[Operand]) -> bool:
    """Whether a transposition leaves the innermost axis in its place, as far as sizes tell."""
    shapes = [entry.shape for entry in (*inputs[:1], *outputs[:1]) if entry.shape]
    return len(shapes) == 2 and shapes[0][-1] == shapes[1][-1]


def _strided(kind: str, op: OpFacts) -> bool:
    """A slice that takes every second place along two axes or more: files state steps as data, but shapes show it."""
    if kind not in ("STRIDED_SLICE", "Slice") or not op.reads or op.reads[0] is None or op.writes[0] is None:
        return False
    source, target = op.reads[0].shape or (), op.writes[0].shape or ()
    halved = sum(1 for before, after in zip(source, target, strict=False) if before > 1 and after == -(-before // 2))
    return len(source) == len(target) and halved > 1


def _known(op: OpFacts) -> bool:
    return all(entry is None or entry.shape is not None for entry in op.writes)


def _matrix(kind: str, op: OpFacts, chip: Chip) -> Product | None:
    """A matrix kernel whose operands are all known."""
    place = 2 if "TRANSPOSE" in kind and kind in _CHANNELS_LAST else 0
    weight_place = 3 if kind in ("QLinearConv", "QLinearMatMul", "com.microsoft:QGemm") else 1
    if max(place, weight_place) >= len(op.reads) or not op.writes:
        return None
    data, weight, result = op.reads[place], op.reads[weight_place], op.writes[0]
    if data is None or weight is None or result is None:
        return None
    source, filters, target = data.shape, weight.shape, result.shape
    if not source or not filters or not target or 0 in (*source, *filters, *target):
        return None
    size, stored = BYTES.get(data.dtype, 4), BYTES.get(weight.dtype, 4)
    if kind in _CHANNELS_LAST:
        made = _channels_last(kind, source, filters, target, size, stored)
        if made is None or stored == 1:
            return made and replace(made, deep=_DEEP)
        wide = chip.wide and kind == "CONV_2D" and made.taps > 1 and made.columns > made.tile
        return replace(made, tile=_WIDE) if wide else made
    if kind in _CONVOLUTIONS and len(source) > 2 and len(filters) > 2:
        last = (source[0], *source[2:], source[1]), (target[0], *target[2:], target[1])
        if kind == "ConvTranspose":
            return replace(_spread(last[0], last[1], filters[2:], size, stored), tile=1)
        made = convolution(last[0], last[1], filters[2:], max(1, op.groups), size, stored)
        return made if weight.constant else replace(made, gathered=True)
    if kind in _PRODUCTS and op.macs:
        columns = target[-1]
        rows = math.prod(target[:-1])
        made = product(rows, max(1, op.macs // (rows * columns)), columns, size, stored)
        return made if weight.constant else replace(made, packed=True, matrices=math.prod(filters[:-2]))
    return None


def _channels_last(
    kind: str, source: Shape, filters: Shape, target: Shape, size: float, stored: float
) -> Product | None:
    if len(source) < 3 or len(filters) != len(source):
        return None
    if kind == "DEPTHWISE_CONV_2D":
        return convolution(source, target, filters[1:3], max(1, source[-1]), size, stored)
    if kind == "CONV_2D":
        return convolution(source, target, filters[1:3], max(1, source[-1] // filters[3]), size, stored)
    if kind == "TRANSPOSE_CONV":
        return _spread(source, target, filters[1:3], size, stored)
    if kind == "CONV_3D":
        return convolution(source, target, filters[:3], max(1, source[-1] // filters[3]), size, stored)
    return _spread(source, target, filters[:3], size, stored)


def _spread(source: Shape, target: Shape, window: Sequence[int], size: float, stored: float) -> Product:
    """A transposed convolution: every input is multiplied into a window of outputs."""
    taps = math.prod(window)
    return Product(
        rows=math.prod(source[:-1]), columns=target[-1], depth=taps * source[-1], groups=1, taps=max(2, taps),
        inputs=math.prod(source), outputs=math.prod(target), weights=taps * source[-1] * target[-1], size=size,
        weight_size=stored, scattered=True,
    )  # fmt: skip


def _precision(op: OpFacts) -> str:
    """What an op computes in, by the element types of its data and weights; between floats and integers: integers."""
    if KINDS.get(op.kind) == "convert" and any(e and e.dtype in INTEGER_WEIGHTS for e in (*op.reads[:1], *op.writes)):
        return "int8"
    shaped = op.kind in ("TRANSPOSE_CONV", "CONV_3D_TRANSPOSE")  # the first input is the result's shape
    reads = [entry for entry in op.reads[shaped:] if entry is not None]
    data = next((entry.dtype for entry in reads if not entry.constant), op.dtype)
    weights = [entry.dtype for entry in reads if entry.constant and entry.elements > 1]
    matrix = op.kind.split("+")[0] in _CHANNELS_LAST | _CONVOLUTIONS | _PRODUCTS or bool(op.macs)
    if matrix and weights:
        if data == weights[0] == "uint8":
            return "uint8"
        return {"fp16": "fp32"}.get(found := arithmetic(data, weights[0]), found)
    if "int16" in data:
        return "int16x8"
    return "int8" if data in INTEGER_WEIGHTS else "fp32"


def size_of(entry: Operand) -> float:
    return entry.elements * BYTES.get(entry.dtype, 4)


def count_of(entries: Sequence[Operand]) -> int:
    return sum(entry.elements for entry in entries)
