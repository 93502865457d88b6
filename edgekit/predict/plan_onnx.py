"""What onnxruntime makes of an ONNX graph before it runs it: folded constants, fused ops, integer kernels for QDQ.

Follows the optimizer's rules for a CPU at the default level: what depends on constants only is gone, but not what
follows from a free size; BatchNormalization behind a convolution becomes its weights; an activation, and the addition
of a shortcut, become part of the convolution; MatMul and Add become Gemm; an op between DequantizeLinear and
QuantizeLinear runs on the integers; what a float op reads dequantized is dequantized at every run, weights too.
`plan_layout` knows which convolutions run in blocks of channels. Source: onnxruntime 1.32,
docs/performance/model-optimizations/graph-optimizations.md, core/optimizer, and the graphs that it saves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgekit.formats.facts import Operand, OpFacts
from edgekit.predict import plan_layout
from edgekit.predict.work import Kernel

_ACTIVATIONS = frozenset({"Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid"})
_CONVOLUTIONS = frozenset({"Conv", "com.microsoft:FusedConv"})
_QUANTIZE = frozenset({"QuantizeLinear", "com.microsoft:QuantizeLinear"})
_DEQUANTIZE = frozenset({"DequantizeLinear", "com.microsoft:DequantizeLinear"})
_INTEGER = {
    "Conv", "MatMul", "Gemm", "Add", "Mul", "AveragePool", "GlobalAveragePool", "Concat", "LeakyRelu", "Sigmoid",
    "Softmax", "Where", "MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Gather", "Resize",
    "Split", "Slice", "DepthToSpace", "Expand", "Tile",
}  # fmt: skip
"""Ops with kernels for 8-bit integers, or that do not care what they move."""
_MOVERS = frozenset({
    "DepthToSpace", "Expand", "Flatten", "Gather", "MaxPool", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Tile",
    "Transpose", "Unsqueeze", "Where",
})  # fmt: skip
"""Of these, those that do so whatever the sign."""
_EIGHT = frozenset({"int8", "uint8"})
_WHOLE = frozenset({"Add", "Concat", "Conv", "Gemm", "MatMul", "Mul", "Where"})
"""Of these, those that stay in float unless all their floats are dequantized, a bias too, and straight before them
(core/optimizer/qdq_transformer/selectors_actions/qdq_selectors.cc, CheckQDQNodes)."""
_PRODUCTS = frozenset({"Gemm", "MatMul"})
"""Ops with kernels that read integers and write floats."""
_BIASED = "com.microsoft:BiasGelu"
_GATED = {"HardSigmoid": "HardSwish", "Sigmoid": "com.microsoft:QuickGelu"}
"""What a gate, multiplied with its own input, becomes."""


def fused(ops: Sequence[OpFacts], *, free: bool = False, signed: bool = True) -> list[OpFacts]:
    """The ops that run, each with what was fused into it: kind "Conv+Relu".

    Args:
        ops: All of the file.
        free: The model's inputs have free sizes, so that what follows from sizes is not known beforehand.
        signed: There are kernels for signed activations, as on Arm. On x86-64 signed tensors between a QuantizeLinear
            and the one op that reads them are made unsigned, and what reads or writes others stays in float
            (core/optimizer/qdq_transformer/qdq_util.h, QDQIsInt8Allowed; qdq_s8_to_u8.cc).
    """
    alive = [op if free else _shaped(op) for op in (_loose(ops) if free else ops) if not _folded(op)]
    return _Graph(_Graph(alive, ops).integers(signed=signed)).floats(free=free)


def _folded(op: OpFacts) -> bool:
    return bool(op.writes) and all(entry is not None and entry.constant for entry in op.writes)


def _loose(ops: Sequence[OpFacts]) -> list[OpFacts]:
    """The ops; results that follow from sizes which are free are no constants."""
    loose: set[str] = set()
    found = []
    for op in ops:
        sized = op.kind in ("Shape", "Size") and not (op.reads and op.reads[0] is not None and op.reads[0].constant)
        follows = _folded(op) and (sized or bool(loose & set(op.inputs)))
        found.append(_reading(_unfolded(op) if follows else op, loose))
        loose.update(op.outputs if follows else ())
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
        kernel = kernel.counting({**kernel.units, "builtin": 1.0})
    if kernel.pieces == 1:
        return kernel
    if _MATRICES & kernel.units.keys():
        return kernel.counting(kernel.units, 1 + int(kernel.macs // _WORK))
    known = [count * _CYCLES[unit] for unit, count in kernel.units.items() if unit in _CYCLES]
    if not known:
        return kernel
    return kernel.counting(kernel.units, max(1, int((sum(known) - _START) / _START + 0.9)))


class _Graph:
    """Ops by the tensors that they make and read; `origin` holds also those that were folded."""

    def __init__(self, ops: list[OpFacts], origin: Sequence[OpFacts] = ()) -> None:
        self.ops = ops
        self.maker = {name: number for number, op in enumerate(ops) for name in op.outputs if name}
        self.stored = [op for op in origin if op.kind in _DEQUANTIZE and _folded(op)]
        self._rounded = {name for op in self.stored for name in op.outputs}
        for op in origin:  # copies of one bias that several ops share
            self._rounded.update(op.outputs if op.kind == "Identity" and op.inputs[0] in self._rounded else ())
        self.readers: dict[str, list[int]] = {}
        for number, op in enumerate(ops):
            for name in op.inputs:
                if name:
                    self.readers.setdefault(name, []).append(number)

    def only_reader(self, op: OpFacts) -> int | None:
        """Number of the one op that reads the one result of `op`."""
        readers = self.readers.get(op.outputs[0], []) if len(op.outputs) == 1 else []
        return readers[0] if len(readers) == 1 else None

    def _stays_signed(self, name: str) -> bool:
        """Whether a tensor of signed integers cannot be made unsigned: it is not between one op and one other."""
        at = self.maker.get(name)
        readers = self.readers.get(name, [])
        if at is None or self.ops[at].kind not in _QUANTIZE or len(readers) != 1:
            return True
        reader = self.ops[readers[0]]
        return reader.kind not in _DEQUANTIZE or len(self.readers.get(reader.outputs[0], [])) > 1

    def _unsupported(self, op: OpFacts) -> bool:
        """Whether an op of a QDQ group reads or writes signed activations that stay so."""
        if op.kind in _MOVERS:
            return False
        ends = [self.ops[at] for name in op.inputs if (at := self.maker.get(name)) is not None]
        tensors = [(end.inputs[0], end.reads[0]) for end in ends if end.kind in _DEQUANTIZE and end.reads]
        after = self.only_reader(op)
        if after is not None and self.ops[after].kind in ("Relu", "Clip"):
            after = self.only_reader(self.ops[after])
        if after is not None and self.ops[after].kind in _QUANTIZE:
            tensors.append((self.ops[after].outputs[0], self.ops[after].writes[0]))
        return any(
            entry is not None and not entry.constant and entry.dtype == "int8" and self._stays_signed(name)
            for name, entry in tensors
        )

    def integers(self, *, signed: bool) -> list[OpFacts]:
        """QDQ groups become ops on integers."""
        gone: set[int] = set()
        changed: dict[int, OpFacts] = {}
        for number, op in enumerate(self.ops):
            if not signed and op.kind in _INTEGER and self._unsupported(op):
                continue
            if op.kind in _INTEGER and number not in gone and not op.blends:
                self._integer(number, op, gone, changed)
        needed: dict[str, int] = {}
        for number, op in enumerate(self.ops):
            if number not in gone and number not in changed and op.kind not in _DEQUANTIZE:
                for name in op.inputs:
                    needed[name] = needed.get(name, 0) + 1
        weights = [_unfolded(op) for op in self.stored if op.outputs[0] in needed and op.reads[0]]
        again = {op.outputs[0] for op in weights}
        return [
            *weights,
            *(
                _reading(changed.get(number, op), again)
                for number, op in enumerate(self.ops)
                if number not in gone
                for _ in range(self._times(op, needed))
            ),
        ]

    def _times(self, op: OpFacts, needed: dict[str, int]) -> int:
        """How often an op runs: what is dequantized is so for each reader anew, and not for those of integers."""
        if op.kind not in _DEQUANTIZE or not self.readers.get(op.outputs[0]):
            return 1
        return needed.get(op.outputs[0], 0)

    def _blocks(self, op: OpFacts, name: str, *, constant: bool) -> bool:
        """Whether a tensor of floats that no op dequantizes at every run keeps an op in float."""
        return name not in self._rounded and (not constant or op.kind in _WHOLE)

    def _integer(self, number: int, op: OpFacts, gone: set[int], changed: dict[int, OpFacts]) -> None:
        inputs, reads = list(op.inputs), list(op.reads)
        stored = 0
        for place, (name, entry) in enumerate(zip(op.inputs, op.reads, strict=False)):
            at = self.maker.get(name)
            source = self.ops[at] if at is not None else None
            if source is not None and source.kind in _DEQUANTIZE:
                if source.reads[0] is not None and source.reads[0].dtype not in _EIGHT:
                    return  # integers of 16 bits have no kernels
                inputs[place], reads[place] = source.inputs[0], source.reads[0]
                stored += 1
            elif entry is not None and "int" not in entry.dtype and self._blocks(op, name, constant=entry.constant):
                return
        if not stored:
            return
        reads = [_weight(entry) if place else entry for place, entry in enumerate(reads)]
        made = replace(op, inputs=tuple(inputs), reads=tuple(reads))
        if len(op.outputs) > 1:
            ends = [self.readers.get(name, []) for name in op.outputs]
            if any(len(some) != 1 or self.ops[some[0]].kind not in _QUANTIZE for some in ends):
                return
            gone.update(some[0] for some in ends)
            last = [self.ops[some[0]] for some in ends]
            changed[number] = replace(
                made, outputs=tuple(end.outputs[0] for end in last), writes=tuple(end.writes[0] for end in last),
                dtype=last[0].dtype,
            )  # fmt: skip
            return
        after, between = self.only_reader(op), None
        if after is not None and self.ops[after].kind in ("Relu", "Clip"):
            between, after = after, self.only_reader(self.ops[after])
        if after is not None and self.ops[after].kind in _QUANTIZE:
            end = self.ops[after]
            kind = op.kind if between is None else f"{op.kind}+{self.ops[between].kind}"
            gone |= {after} | ({between} if between is not None else set())
            changed[number] = replace(made, kind=kind, outputs=end.outputs, writes=end.writes, dtype=end.dtype)
        elif op.kind in _PRODUCTS:
            changed[number] = made

    def floats(self, *, free: bool) -> list[OpFacts]:
        """Fusions of float ops."""
        blocked = plan_layout.blocked(self.ops)
        gone: set[int] = set()
        found = []
        for number, op in enumerate(self.ops):
            if number in gone or self._swallowed(op) or (not free and _same(op)):
                continue
            found.append(self._grown(number, gone, blocked, free=free))
        return found

    def _grown(self, number: int, gone: set[int], blocked: frozenset[str], *, free: bool) -> OpFacts:
        """An op with those behind it that become part of its kernel; they are added to `gone`."""
        op = last = self.ops[number]
        parts, before = [op.kind], set(gone)
        if (gate := self._gate(op)) is not None and op.kind in _CONVOLUTIONS and gate[0] == "HardSwish":
            gone.update(gate[1])
            parts.append(gate[0])
            last = self.ops[gate[1][-1]]
        while (
            (after := self.only_reader(last)) is not None
            and after not in gone
            and self._joins(parts, after, number, blocked, free=free)
        ):
            gone.add(after)
            parts.append(self.ops[after].kind)
            last = self.ops[after]
        at = self.maker.get(op.inputs[0]) if op.kind == "Gelu" else None
        if at is not None and at not in gone and self._swallowed(self.ops[at]):
            return replace(op, kind=_BIASED)
        if op.kind == "Sigmoid" and (gated := self._gated(number)) is not None and gated not in gone:
            gone.add(gated)
            parts, last = [_GATED["Sigmoid"]], self.ops[gated]
        return op if last is op else self._whole(op, last, parts, gone - before)

    def _whole(self, op: OpFacts, last: OpFacts, parts: list[str], more: set[int]) -> OpFacts:
        """The fused op, which reads also what the others read beside its results."""
        inner = {*op.inputs, *op.outputs, *(name for number in more for name in self.ops[number].outputs)}
        beside = [
            (name, entry)
            for number in sorted(more)
            for name, entry in zip(self.ops[number].inputs, self.ops[number].reads, strict=False)
            if name not in inner and entry is not None and not entry.constant
        ]
        return replace(
            op, kind="+".join(parts), outputs=last.outputs, writes=last.writes,
            inputs=(*op.inputs, *(name for name, _ in beside)), reads=(*op.reads, *(entry for _, entry in beside)),
        )  # fmt: skip

    def _gate(self, op: OpFacts) -> tuple[str, tuple[int, int]] | None:
        """What two ops that read a result, a gate and a multiplication with it, come to; and the two."""
        readers = self.readers.get(op.outputs[0], []) if len(op.outputs) == 1 else []
        for one in readers:
            if len(readers) == 2 and self.ops[one].kind in _GATED and (product := self._gated(one)) in readers:
                assert product is not None  # noqa: S101 - it is a reader
                return _GATED[self.ops[one].kind], (one, product)
        return None

    def _gated(self, number: int) -> int | None:
        """The multiplication of a gate's result with what the gate reads."""
        op = self.ops[number]
        after = self.only_reader(op)
        if after is None or self.ops[after].kind != "Mul" or set(self.ops[after].inputs) != {*op.inputs, *op.outputs}:
            return None
        return after if all(entry is None or "int" not in entry.dtype for entry in op.reads) else None

    def _joins(self, parts: list[str], after: int, number: int, blocked: frozenset[str], *, free: bool) -> bool:
        """Whether the next op becomes part of the kernel."""
        op, kind, first = self.ops[number], self.ops[after].kind, parts[0]
        if any(part in _ACTIVATIONS or part == "HardSwish" for part in parts[1:]) or after < number:
            return False
        constants = [entry.constant for entry in self.ops[after].reads if entry is not None]
        if first == "MatMulInteger":  # with what makes floats of its sums: MatMulIntegerToFloat
            floats = {1: "Cast", 2: "Mul"}.get(len(parts))
            return kind == floats or (len(parts) == 3 and kind == "Add" and any(constants))
        if op.reads and op.reads[0] is not None and "int" in op.reads[0].dtype:
            return False
        if first in _CONVOLUTIONS:
            known = all(entry is None or entry.constant for entry in op.reads[1:])
            if kind == "BatchNormalization":
                return known and parts.count(kind) < 1  # weights that an input may override are not rewritten
            if kind == "Add":
                return parts.count(kind) < 1 and len(set(self.ops[after].inputs)) == 2 and (
                    all(name in blocked for name in self.ops[after].inputs) or (any(constants) and known))  # fmt: skip
            return kind in _ACTIVATIONS
        if first == "Gemm":
            return kind == "Relu"
        if first != "MatMul" or len(parts) > 1:
            return False
        fixed = not free or all(entry is not None and len(entry.shape or ()) == 2 for entry in op.reads)
        weighted = op.reads[1] is not None and op.reads[1].constant
        return (kind == "Add" and fixed and weighted and constants.count(True) == 1) or (
            kind == "Mul" and _scales(self.ops[after]))  # fmt: skip

    def _swallowed(self, op: OpFacts) -> bool:
        """Whether the one op that reads this one's result does its work as well."""
        after = self.only_reader(op)
        if after is None or not op.reads or op.reads[0] is None or op.reads[0].dtype != "float32":
            return False
        if self.ops[after].inputs[0] != op.outputs[0] and op.kind == "Reshape":
            return False
        if op.kind == "Reshape":
            return self.ops[after].kind == "Reshape"
        if op.kind == "Mul" and self.ops[after].kind == "Mul" and op.reads[0].elements == 1:  # the product's scales
            other = self.maker.get(next((name for name in self.ops[after].inputs if name != op.outputs[0]), ""))
            return other is not None and self.ops[other].kind == "Cast"
        kind, constant = self.ops[after].kind, any(entry is not None and entry.constant for entry in op.reads)
        if op.kind == "Add":
            return kind == "Gelu" and constant
        return kind == "MatMul" and ((op.kind == "Mul" and _scales(op)) or (op.kind == "Transpose" and _swaps(op)))


def _shaped(op: OpFacts) -> OpFacts:
    """A transposition that moves axes of size one only is a change of shape."""
    if op.kind != "Transpose" or not op.reads or op.reads[0] is None or not op.writes or op.writes[0] is None:
        return op
    before, after = ([size for size in entry.shape or () if size > 1] for entry in (op.reads[0], op.writes[0]))
    return replace(op, kind="Reshape") if before == after and len({*before}) == len(before) else op


def _same(op: OpFacts) -> bool:
    """Changes nothing: a shape into the same."""
    source, target = (op.reads[0], op.writes[0]) if op.kind == "Reshape" and op.reads else (None, None)
    return source is not None and target is not None and source.shape is not None and source.shape == target.shape


def _scales(op: OpFacts) -> bool:
    """Multiplies with one constant number."""
    return any(entry is not None and entry.constant and entry.elements == 1 for entry in op.reads)


def _swaps(op: OpFacts) -> bool:
    """Turns the last two axes around, as far as sizes tell."""
    source, target = op.reads[0], op.writes[0]
    if source is None or target is None or not source.shape or not target.shape or len(source.shape) < 2:
        return False
    return target.shape == (*source.shape[:-2], source.shape[-1], source.shape[-2])


def _unfolded(op: OpFacts) -> OpFacts:
    """The op that runs although it reads constants only, or what follows from sizes."""
    return replace(op, writes=tuple(entry and replace(entry, constant=False) for entry in op.writes))


def _reading(op: OpFacts, again: set[str]) -> OpFacts:
    """The op that knows that these tensors are made at every run."""
    if not again & set(op.inputs):
        return op
    return replace(op, reads=tuple(
        entry and replace(entry, constant=False) if name in again else entry
        for name, entry in zip(op.inputs, op.reads, strict=False)
    ))  # fmt: skip


def _weight(entry: Operand | None) -> Operand | None:
    """Weights behind a DequantizeLinear that was folded: the float constant stands for the stored integers."""
    if entry is not None and entry.constant and entry.dtype == "float32" and entry.shape and len(entry.shape) > 1:
        return replace(entry, dtype="int8")
    return entry
