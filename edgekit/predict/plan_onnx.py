"""What onnxruntime makes of an ONNX graph before it runs it: folded constants, fused ops, integer kernels for QDQ.

Follows the optimizer's rules for a CPU at the default level: what depends on constants only is gone; BatchNormalization
behind a convolution becomes its weights; an activation, and the addition of a shortcut, become part of the convolution;
MatMul and Add become Gemm; an op between DequantizeLinear and QuantizeLinear runs on the integers.
Source: onnxruntime, docs/performance/model-optimizations/graph-optimizations.md and core/optimizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgekit.formats.facts import Operand, OpFacts
from edgekit.predict.work import Kernel

_ACTIVATIONS = frozenset({"Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid"})
_CONVOLUTIONS = frozenset({"Conv", "com.microsoft:FusedConv"})
_QUANTIZE = frozenset({"QuantizeLinear", "com.microsoft:QuantizeLinear"})
_DEQUANTIZE = frozenset({"DequantizeLinear", "com.microsoft:DequantizeLinear"})
_INTEGER = {
    "Conv", "MatMul", "Gemm", "Add", "Mul", "AveragePool", "GlobalAveragePool", "Concat", "LeakyRelu", "ReduceMean",
    "Sigmoid", "Softmax", "Where", "MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Gather",
    "Resize", "Split", "Slice", "DepthToSpace", "Expand", "Tile", "Pad", "Relu", "Clip",
}  # fmt: skip
"""Ops with kernels for 8-bit integers, or that do not care what they move."""


def fused(ops: Sequence[OpFacts]) -> list[OpFacts]:
    """The ops that run, each with what was fused into it: kind "Conv+Relu"."""
    alive = [op for op in ops if not (op.writes and all(entry and entry.constant for entry in op.writes))]
    return _Graph(_Graph(alive).integers()).floats()


_LAST = frozenset(
    {"Conv", "Add", "Mul", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat", "LeakyRelu", "Sigmoid"}
)
"""Ops on integers that run channels-last as well as channels-first."""


def turned(ops: Sequence[OpFacts], kernels: Sequence[Kernel | None]) -> list[Kernel | None]:
    """The kernels, integer convolutions paying for the turns to channels-last and back.

    onnxruntime's integer convolutions are channels-last: what enters or leaves a group of them is
    transposed.
    """
    last = {name for op, kernel in zip(ops, kernels, strict=True) if _is_last(op, kernel) for name in op.outputs}
    readers: dict[str, list[bool]] = {}
    for op, kernel in zip(ops, kernels, strict=True):
        for name in op.inputs:
            readers.setdefault(name, []).append(_is_last(op, kernel))
    found: list[Kernel | None] = []
    for op, kernel in zip(ops, kernels, strict=True):
        if kernel is not None and op.kind == "MaxPool" and kernel.precision == "int8" and op.inputs[0] in last:
            units = {"pick" if unit == "window" else unit: count for unit, count in kernel.units.items()}
            found.append(replace(kernel, units=units))
            continue
        if not (op.reads and op.writes and op.kind.split("+")[0] == "Conv" and _is_last(op, kernel)):
            found.append(kernel)
            continue
        entering = op.reads[0].elements if op.inputs[0] not in last and op.reads[0] else 0
        leaving = op.writes[0].elements if op.writes[0] and not all(readers.get(op.outputs[0], [False])) else 0
        assert kernel is not None  # noqa: S101 - it runs on integers
        found.append(replace(kernel, units={**kernel.units, "turn": float(entering + leaving)}))
    return found


_MATRICES = frozenset({"gemm", "conv", "gemv", "spread"})
_WORK = 65536
"""MLAS_SGEMM_THREAD_COMPLEXITY and MLAS_QGEMM_THREAD_COMPLEXITY (core/mlas/lib/mlasi.h): MACs worth another thread."""
_CYCLES = {"math": 15.0, "norm": 15.0, "swish": 15.0, "blend": 15.0, "map": 0.75, "move": 0.75, "convert": 3.0}
_START = 1.0e5
"""kStartupCycles and kPerThreadCycles of the thread pool (core/common/threadpool.cc, CostModel): elementwise kernels
with less to do stay on one thread. Cycles a unit as their TensorOpCost says, about."""


_LOOKED_UP = frozenset({"Expand", "Gather", "Pad", "Resize", "Slice", "Split", "Tile"})
"""Operators that read their settings from tensors, and prepare for them, at every run."""


def divided(kernel: Kernel | None) -> Kernel | None:
    """The kernel, with how many threads onnxruntime would give it at most, and what it prepares at every run."""
    if kernel is None:
        return None
    if kernel.kind in _LOOKED_UP:
        kernel = replace(kernel, units={**kernel.units, "builtin": 1.0})
    if _MATRICES & kernel.units.keys():
        return replace(kernel, pieces=1 + int(kernel.macs // _WORK))
    known = [count * _CYCLES[unit] for unit, count in kernel.units.items() if unit in _CYCLES]
    if not known:
        return kernel
    return replace(kernel, pieces=max(1, int((sum(known) - _START) / _START + 0.9)))


def _is_last(op: OpFacts, kernel: Kernel | None) -> bool:
    return kernel is not None and kernel.precision == "int8" and op.kind.split("+")[0] in _LAST


class _Graph:
    """Ops by the tensors that they make and read."""

    def __init__(self, ops: list[OpFacts]) -> None:
        self.ops = ops
        self.maker = {name: number for number, op in enumerate(ops) for name in op.outputs if name}
        self.readers: dict[str, list[int]] = {}
        for number, op in enumerate(ops):
            for name in op.inputs:
                if name:
                    self.readers.setdefault(name, []).append(number)

    def only_reader(self, op: OpFacts) -> int | None:
        """Number of the one op that reads the one result of `op`."""
        readers = self.readers.get(op.outputs[0], []) if len(op.outputs) == 1 else []
        return readers[0] if len(readers) == 1 else None

    def integers(self) -> list[OpFacts]:
        """QDQ groups become ops on integers."""
        gone: set[int] = set()
        changed: dict[int, OpFacts] = {}
        for number, op in enumerate(self.ops):
            if op.kind in _INTEGER and number not in gone:
                self._integer(number, op, gone, changed)
        needed = {name for number, op in enumerate(self.ops) if number not in gone
                  for name in changed.get(number, op).inputs}  # fmt: skip
        return [
            changed.get(number, op)
            for number, op in enumerate(self.ops)
            if number not in gone
            and not (op.kind in _DEQUANTIZE and self.readers.get(op.outputs[0]) and op.outputs[0] not in needed)
        ]

    def _integer(self, number: int, op: OpFacts, gone: set[int], changed: dict[int, OpFacts]) -> None:
        inputs, reads = list(op.inputs), list(op.reads)
        stored = 0
        for place, (name, entry) in enumerate(zip(op.inputs, op.reads, strict=False)):
            at = self.maker.get(name)
            source = self.ops[at] if at is not None else None
            if source is not None and source.kind in _DEQUANTIZE:
                inputs[place], reads[place] = source.inputs[0], source.reads[0]
                stored += 1
            elif entry is not None and not entry.constant:
                return
        last, after = op, self.only_reader(op)
        parts = [op.kind]
        if after is not None and self.ops[after].kind in ("Relu", "Clip"):
            last, parts, between = self.ops[after], [*parts, self.ops[after].kind], after
            after = self.only_reader(last)
        else:
            between = None
        if not stored or after is None or self.ops[after].kind not in _QUANTIZE:
            return
        end = self.ops[after]
        gone |= {after} | ({between} if between is not None else set())
        reads = [_weight(entry) if place else entry for place, entry in enumerate(reads)]
        changed[number] = replace(
            op, kind="+".join(parts), inputs=tuple(inputs), reads=tuple(reads), outputs=end.outputs, writes=end.writes,
            dtype=end.dtype,
        )  # fmt: skip

    def floats(self) -> list[OpFacts]:
        """Fusions of float ops."""
        gone: set[int] = set()
        found = []
        for number, op in enumerate(self.ops):
            if number in gone:
                continue
            parts, last = [op.kind], op
            while (
                (after := self.only_reader(last)) is not None
                and after not in gone
                and self._joins(parts, after, number)
            ):
                gone.add(after)
                parts.append(self.ops[after].kind)
                last = self.ops[after]
            if len(parts) > 1:
                found.append(replace(op, kind="+".join(parts), outputs=last.outputs, writes=last.writes))
            else:
                found.append(op)
        return found

    def _joins(self, parts: list[str], after: int, number: int) -> bool:
        """Whether the next op becomes part of the kernel."""
        kind, first = self.ops[after].kind, parts[0]
        if any(part in _ACTIVATIONS for part in parts[1:]) or after < number:
            return False
        if first in _CONVOLUTIONS:
            if kind == "BatchNormalization" and not all(e is None or e.constant for e in self.ops[number].reads[1:]):
                return False  # weights that an input may override are not rewritten
            return kind in _ACTIVATIONS or (kind in ("BatchNormalization", "Add") and parts.count(kind) < 1)
        if first in ("MatMul", "Gemm"):
            constant = sum(1 for entry in self.ops[after].reads if entry is not None and entry.constant) == 1
            return (kind == "Add" and len(parts) == 1 and constant) or (kind == "Relu" and first == "Gemm")
        return False


def _weight(entry: Operand | None) -> Operand | None:
    """Weights behind a DequantizeLinear that was folded: the float constant stands for the stored integers."""
    if entry is not None and entry.constant and entry.dtype == "float32" and entry.shape and len(entry.shape) > 1:
        return replace(entry, dtype="int8")
    return entry
