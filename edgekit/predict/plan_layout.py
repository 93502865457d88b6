"""How onnxruntime lays out the tensors of convolutions, and what turning them costs.

Float convolutions of two dimensions run on blocks of sixteen channels, rounded up, and so do the pools, sums and
activations between them: whoever else reads their results waits until they have been brought back into order. Integer
convolutions have their channels last. Those whose channels fill the kernel's vectors multiply and scale in one go; for
others the windows are written out, multiplied as matrices into 32-bit integers, and scaled after that.
Source: onnxruntime, core/optimizer/nchwc_transformer.cc, nhwc_transformer.cc, core/mlas/lib/convsym.cpp.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgekit.formats.facts import Operand, OpFacts
from edgekit.predict.work import LANES, Kernel, whole

BLOCK = 16
"""Channels of a block where vectors are widest (MlasNchwcGetBlockSize)."""
_ALIGNED = 4
"""Channels that enter or leave in groups have to be a multiple of this."""
_DOTS = 4
"""Channels that a dot product of 8-bit integers takes at once."""
_POOLS = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"})
_CONVOLUTIONS = frozenset({"Conv", "com.microsoft:FusedConv"})
_OF_BLOCKS = frozenset({"conv", "depthwise", "gemm", "idle", "passes", "places", "rows", "taps"})
"""What a convolution is counted in that does not write its windows out."""
_GROUP = 0.4
"""A group's product beside one of two activations: 160 ns, where those took 420."""
_WALKED = 4.0
"""Finding a place along three axes, beside two: windows of integers took 7 ns a place, where two axes take 1.6."""
_ALIKE = frozenset({"Relu", "Sigmoid", "Tanh", "HardSigmoid", "BatchNormalization", "com.microsoft:QuickGelu"})
"""Ops of one input that run on blocks as well as not."""
_INSIDE = frozenset({"Clip", "LeakyRelu"})
"""Activations that do so only as part of a convolution."""
_LAST = frozenset({
    "Add", "Mul", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat", "LeakyRelu", "Sigmoid", "QuantizeLinear",
    "DequantizeLinear", "HardSigmoid", "Clip", "Relu", "Gelu", "Tanh", "Erf",
})  # fmt: skip
"""Ops that run channels-last as well as channels-first, between integer convolutions."""


def blocked(ops: Sequence[OpFacts]) -> frozenset[str]:
    """The float tensors that lie in blocks of channels; activations may be fused into what makes their input."""
    found: set[str] = set()
    made: set[str] = set()
    for op in ops:
        if len(op.outputs) == 1 and _floats(op) and _blocks(op, found, made):
            found.add(op.outputs[0])
            if _enters(op) is not None:
                made.add(op.outputs[0])
    return frozenset(found)


def _blocks(op: OpFacts, found: set[str], made: set[str]) -> bool:
    """Whether an op makes blocks, given which of its inputs are, and which convolutions made."""
    kind = op.kind.split("+")[0]
    if kind in _INSIDE:
        return op.inputs[0] in made
    if _enters(op) is not None:
        return True
    if kind in _POOLS:
        return op.inputs[0] in found or (_rank(op) == 4 and _channels(op.reads[0]) % BLOCK == 0)
    if kind in _ALIKE:
        return op.inputs[0] in found
    if kind in ("Add", "Mul", "Sum"):
        return all(name in found for name in op.inputs) and len({e.shape for e in op.reads if e is not None}) == 1
    if kind == "Concat":
        whole_blocks = all(_channels(entry) % BLOCK == 0 for entry in op.reads)
        return all(name in found for name in op.inputs) and whole_blocks and _along_channels(op)
    return kind in ("Resize", "Upsample") and op.inputs[0] in found


def _enters(op: OpFacts) -> str | None:
    """How a float convolution on blocks takes its input: "blocks", or "plain" with fewer channels than a block."""
    if op.kind.split("+")[0] not in _CONVOLUTIONS or _rank(op) != 4 or len(op.reads) < 2:
        return None
    weight = op.reads[1]
    if weight is None or not weight.constant or not weight.shape or len(weight.shape) != 4 or not _floats(op):
        return None
    outputs, inner, groups = weight.shape[0], weight.shape[1], max(1, op.groups)
    if groups > 1:
        alone = inner == 1 and outputs == groups
        fits = alone or (inner % BLOCK == 0 and outputs // groups % BLOCK == 0)
        return "blocks" if outputs % _ALIGNED == 0 and fits else None
    if inner < BLOCK:
        return "plain"
    return "blocks" if inner % _ALIGNED == 0 else None


def laid_out(ops: Sequence[OpFacts], kernels: Sequence[Kernel | None], *, free: bool) -> list[Kernel | None]:
    """The kernels, with what they pay for turning their tensors.

    Args:
        ops: What runs.
        kernels: Of each op; None where nothing runs.
        free: As for `edgekit.predict.plan_onnx.fused`.
    """
    found = [_scaled_apart(op, kernel) for op, kernel in zip(ops, kernels, strict=True)]
    found = _in_blocks(ops, found)
    found = _channels_last(ops, found)
    if free:
        return found
    # A product of rows in several axes is brought into two, and back, where all sizes are known.
    made = {name for op in ops if op.kind == "Reshape" for name in op.outputs}
    read = {name for op in ops if op.kind == "Reshape" for name in op.inputs[:1]}
    return [
        _more(kernel, kernel=float((op.inputs[0] not in made) + (op.outputs[0] not in read)))
        if kernel and op.kind.startswith("MatMul+Add") and _rank(op) > 2 else kernel
        for op, kernel in zip(ops, found, strict=True)
    ]  # fmt: skip


def _more(kernel: Kernel, /, **units: float) -> Kernel:
    return kernel.counting({**kernel.units, **{u: kernel.units.get(u, 0.0) + n for u, n in units.items()}})


def _in_blocks(ops: Sequence[OpFacts], kernels: Sequence[Kernel | None]) -> list[Kernel | None]:
    """Float convolutions multiply whole blocks; what enters or leaves them is reordered, once each tensor."""
    held = blocked(ops)
    plain = _plain_readers(ops, held)
    entered: set[str] = set()
    found: list[Kernel | None] = []
    for op, kernel in zip(ops, kernels, strict=True):
        if kernel is not None and op.kind == "Transpose" and op.inputs[0] in held and _moved(op, to_first=False):
            found.append(None)  # blocks may be written in that order as well
            continue
        if kernel is None or not op.outputs or op.outputs[0] not in held:
            found.append(kernel and _written_out(op, kernel))
            continue
        moved = calls = 0
        name = op.inputs[0]
        if _enters(op) != "plain" and name not in held and name not in entered:
            entered.add(name)
            moved, calls = moved + _elements(op.reads[0]), calls + 1
        if plain.get(op.outputs[0], True):
            moved, calls = moved + _elements(op.writes[0]), calls + 1
        made = _rounded(op, kernel) if _enters(op) is not None else kernel
        found.append(_more(made, block=float(moved), kernel=float(calls)) if calls else made)
    return found


def _written_out(op: OpFacts, kernel: Kernel) -> Kernel:
    """A float convolution that blocks do not suit, with one axis or three above all: its windows are written out,
    packed and multiplied, group by group (core/mlas/lib/convolve.cpp).
    """
    weight = op.reads[1] if len(op.reads) > 1 and kernel.macs else None
    if op.kind.split("+")[0] not in _CONVOLUTIONS or not _floats(op) or weight is None or not weight.shape:
        return kernel
    groups, taps = max(1, op.groups), math.prod(weight.shape[2:])
    windows = kernel.macs * groups / max(1, weight.shape[0])
    times = (1 if taps == 1 else 2) * (2 if len(weight.shape) > 4 else 1)
    units = {unit: count for unit, count in kernel.units.items() if unit not in _OF_BLOCKS}
    units |= {"gemm": kernel.macs, "rows": windows, "move": times * 4.0 * windows}
    if groups > 1:
        units["batch"] = _GROUP * groups
    return kernel.counting(units)


def _plain_readers(ops: Sequence[OpFacts], held: frozenset[str]) -> dict[str, bool]:
    """Tensor -> whether anyone reads it who does not take blocks; nobody in there: the model's outputs."""
    found: dict[str, bool] = {}
    for op in ops:
        takes = bool(op.outputs) and op.outputs[0] in held and _enters(op) != "plain"
        for name in op.inputs:
            found[name] = found.get(name, False) or not takes
    return found


def _rounded(op: OpFacts, kernel: Kernel) -> Kernel:
    """With the multiply-adds of channels that only fill up blocks, beyond those that fill up vectors."""
    weight, target = op.reads[1], op.writes[0]
    kind = next((unit for unit in ("conv", "gemm", "depthwise") if unit in kernel.units), None)
    if weight is None or not weight.shape or target is None or kind is None or not kernel.macs:
        return kernel
    outputs, inner = weight.shape[0], weight.shape[1]
    if kind == "depthwise":
        more = kernel.macs * (whole(outputs, BLOCK) / outputs - 1)
    else:
        filled = whole(inner, BLOCK) if inner >= BLOCK else inner
        more = kernel.macs * (filled / inner * whole(outputs, BLOCK) / outputs - whole(outputs, LANES) / outputs)
    return kernel.counting({**kernel.units, "idle": max(0.0, more)})


def _scaled_apart(op: OpFacts, kernel: Kernel | None) -> Kernel | None:
    """Integer products whose results are scaled after, not while, they are multiplied; 1x1 convolutions lose little."""
    if kernel is None or kernel.precision != "int8" or "outputs" not in kernel.units:
        return kernel
    units = {**kernel.units, "apart": kernel.units["outputs"]}
    if op.kind.split("+")[0] != "Conv":
        return kernel.counting(units)
    weight = op.reads[1]
    if weight is None or not weight.shape or len(weight.shape) < 3 or not {"taps", "places"} & units.keys():
        return kernel
    outputs, inner, groups = weight.shape[0], weight.shape[1], max(1, op.groups)
    alone = groups > 1 and inner == 1 and outputs == groups
    volume = len(weight.shape) > 4
    if not volume and outputs % BLOCK == 0 and (alone or (groups == 1 and inner % _DOTS == 0)):
        return kernel
    if alone:
        units["grouped"] = units.pop("depthwise")
    elif "conv" in units:  # the windows are written out
        units["gemm"] = units.pop("conv")
        units["strips"] = units.pop("taps") * (_WALKED if volume else 1.0)
        units["move"] = units.get("move", 0.0) + units["rows"]
        units.pop("passes", None)
    return kernel.counting(units, 1 if volume else None)


def _channels_last(ops: Sequence[OpFacts], kernels: Sequence[Kernel | None]) -> list[Kernel | None]:
    """Integer convolutions pay for the turns to channels-last and back; transpositions that undo them are gone."""
    readers: dict[str, list[int]] = {}
    for number, op in enumerate(ops):
        for name in op.inputs:
            readers.setdefault(name, []).append(number)
    convolves = [_convolves(op, kernel) for op, kernel in zip(ops, kernels, strict=True)]
    last: set[str] = set()
    takes, undone = [False] * len(ops), [False] * len(ops)
    for number, op in enumerate(ops):
        if kernels[number] is None or len(op.outputs) != 1 or not op.reads:
            continue
        if op.kind == "Transpose":
            some = readers.get(op.outputs[0], [])
            brought = bool(some) and all(convolves[one] for one in some) and _moved(op, to_first=True)
            undone[number] = brought or (op.inputs[0] in last and _moved(op, to_first=False))
            last.update(op.outputs if brought else ())
        elif convolves[number] or (op.kind.split("+")[0] in _LAST and _all_last(op, last)):
            takes[number] = True
            last.update(op.outputs)
    turned = {name for op in ops if op.kind == "Transpose" for name in op.outputs}  # two turns become one
    found: list[Kernel | None] = []
    entered: set[str] = set()
    for number, (op, kernel) in enumerate(zip(ops, kernels, strict=True)):
        if kernel is None or not takes[number]:
            found.append(None if undone[number] else kernel)
            continue
        picks = op.kind == "MaxPool"
        units = {"pick" if picks and unit == "window" else unit: count for unit, count in kernel.units.items()}
        moved = []
        for name, entry in zip(op.inputs[: 1 if convolves[number] else None], op.reads, strict=False):
            there = name in last or name in entered or name in turned
            if not there and entry is not None and not entry.constant and _wide(entry):
                entered.add(name)
                moved.append(entry)
        some = readers.get(op.outputs[0], [])
        if (
            (not some or not all(takes[one] or undone[one] or ops[one].kind == "Transpose" for one in some))
            and op.writes[0]
            and _wide(op.writes[0])
        ):
            moved.append(op.writes[0])
        count = float(sum(map(_elements, moved)))
        made = kernel.counting(units)
        found.append(_more(made, turn=count, kernel=float(len(moved))) if moved else made)
    return found


def _all_last(op: OpFacts, last: set[str]) -> bool:
    read = [name for name, entry in zip(op.inputs, op.reads, strict=False) if entry is not None and not entry.constant]
    return bool(read) and all(name in last for name in read)


def _wide(entry: Operand) -> bool:
    """More than a few numbers, with channels and places to turn."""
    return len(entry.shape or ()) > 2 and entry.elements > 1


def _convolves(op: OpFacts, kernel: Kernel | None) -> bool:
    return op.kind.split("+")[0] == "Conv" and bool(op.reads) and kernel is not None and kernel.precision == "int8"


def _moved(op: OpFacts, *, to_first: bool) -> bool:
    """Whether a transposition brings channels to the front or to the end, as far as sizes tell."""
    source, target = op.reads[0], op.writes[0]
    if source is None or target is None or not source.shape or not target.shape or len(source.shape) < 3:
        return False
    outer, inner = (source.shape, target.shape) if to_first else (target.shape, source.shape)
    return inner[0] == outer[0] and inner[1] == outer[-1] and inner[2:] == outer[1:-1]


def _along_channels(op: OpFacts) -> bool:
    """Whether a concatenation joins channels."""
    shapes = [entry.shape for entry in (*op.reads, *op.writes) if entry is not None and entry.shape]
    return len(shapes) == len(op.reads) + 1 and shapes[-1][1] == sum(shape[1] for shape in shapes[:-1])


def _floats(op: OpFacts) -> bool:
    return bool(op.reads) and op.reads[0] is not None and op.reads[0].dtype == "float32"


def _rank(op: OpFacts) -> int:
    return len(op.reads[0].shape or ()) if op.reads and op.reads[0] is not None else 0


def _channels(entry: Operand | None) -> int:
    return entry.shape[1] if entry is not None and entry.shape and len(entry.shape) > 1 else 1


def _elements(entry: Operand | None) -> int:
    return math.prod(entry.shape) if entry is not None and entry.shape is not None else 0
