"""Free sizes, found by drafting the same model for two: what differs between both drafts depends on the size.

The batch is such a size, and so is what only a run tells (`measures`). Multiples of it become free. A vector of sizes
that an operator takes is computed on the device from the shape of a tensor that shows the size; a constant that repeats
itself along it is broadcast there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekit.converters.onnx_to_tflite.draft import Array, Draft, Op, Tensor, kernels

_BROADCASTS = frozenset({
    "ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SELECT_V2", "POW", "SQUARED_DIFFERENCE", "EQUAL", "NOT_EQUAL",
    "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "LOGICAL_AND", "LOGICAL_OR",
})  # fmt: skip
_SIZES = {"BROADCAST_TO": 1, "SLICE": 2, "TRANSPOSE_CONV": 0, "CONV_3D_TRANSPOSE": 0, "TILE": 1, "FILL": 0,
          "STRIDED_SLICE": 2, "SCATTER_ND": 2}  # fmt: skip
"""Operator -> its input that holds sizes."""


class Bound(Exception):  # noqa: N818 - an answer: the graph is not the same for every size
    """Why a size cannot be free."""


def release(one: Draft, other: Draft, *sizes: tuple[int, int]) -> None:
    """Free the sizes by which two drafts differ, in place of the first; they become those of a size of one.

    Args:
        one: For the first of each pair.
        other: For the second.
        sizes: Pairs of what stands for a size; none is 1, and no other size of the model should be a multiple of them.

    Raises:
        Bound: The drafts differ in more than sizes.
    """
    if [op.kind for op in one.ops] != [op.kind for op in other.ops]:
        raise Bound("its operators depend on the size")
    pairs = _paired(one, other)
    _Release(one, other, pairs, sizes).run()


def _paired(one: Draft, other: Draft) -> list[tuple[Op, Op]]:
    pairs = list(zip(one.ops, other.ops, strict=True))
    for a, b in pairs:
        if len(a.inputs) != len(b.inputs) or len(a.outputs) != len(b.outputs):
            raise Bound(f"{a.origin} depends on the size")
        for key in a.options:
            if key != "newShape" and a.options[key] != b.options.get(key):
                raise Bound(f"{a.origin} depends on the size")
    return pairs


class _Release:
    def __init__(
        self, draft: Draft, other: Draft, pairs: list[tuple[Op, Op]], sizes: tuple[tuple[int, int], ...]
    ) -> None:
        self.draft, self.other, self.pairs, self.sizes = draft, other, pairs, sizes
        self._before: list[Op] = []
        self._shown: dict[tuple[int, int], tuple[Tensor, int]] = {}
        self._measured: dict[tuple[int, int], Tensor] = {}
        self._vectors: dict[Any, Tensor] = {}

    def run(self) -> None:
        shapes: dict[Tensor, tuple[int, ...]] = {}
        for tensor, twin in zip(self.draft.inputs, self.other.inputs, strict=True):
            shapes[tensor] = self._shape(tensor, tensor.shape, twin.shape)
        ops: list[Op] = []
        for op, twin_op in self.pairs:
            self._before = []
            for place, (part, like) in enumerate(zip(op.inputs, twin_op.inputs, strict=True)):
                if part is None or part.data is None or like is None or like.data is None:
                    continue
                if part.shape != like.shape or not np.array_equal(part.data, like.data, equal_nan=True):
                    op.inputs[place] = self._constant(op, place, part.data, like.data)
            for made, like_made in zip(op.outputs, twin_op.outputs, strict=True):
                shapes[made] = self._shape(made, made.shape, like_made.shape)
            ops += [*self._before, op]
        self.draft.ops[:] = ops
        for tensor, sizes in shapes.items():
            tensor.free = frozenset(axis for axis, size in enumerate(tensor.shape) if size != sizes[axis])
            tensor.shape = sizes

    def _shape(self, tensor: Tensor, sizes: tuple[int, ...], like: tuple[int, ...]) -> tuple[int, ...]:
        """Its sizes where those that are free are 1; remembers which tensor shows one of them as it is."""
        if len(sizes) != len(like):
            raise Bound(f"the number of axes of {tensor.name} depends on the size")
        found = []
        for axis, (first, second) in enumerate(zip(sizes, like, strict=True)):
            if first == second:
                found.append(first)
                continue
            pair = next(((a, b) for a, b in self.sizes if first * b == second * a and first % a == 0), None)
            if pair is None:
                raise Bound(f"a size of {tensor.name} is no multiple of one that is free")
            if first == pair[0]:
                self._shown.setdefault(pair, (tensor, axis))
            found.append(first // pair[0])
        return tuple(found)

    def _constant(self, op: Op, place: int, data: Array, like: Array) -> Tensor:
        if data.dtype == np.int32 and data.shape == like.shape and data.ndim == 1:
            free = np.flatnonzero(data != like)
            if op.kind == "RESHAPE" and place == 1 and len(free) == 1:
                held = data.copy()
                held[free] = -1
                op.options["newShape"] = held
                return self.draft.ints(held)
            if op.kind == "SLICE" and place == 2 and not _begins(op)[free].any():
                held = data.copy()
                held[free] = -1  # to the end
                return self.draft.ints(held)
            if _SIZES.get(op.kind) == place or op.kind == "RESHAPE":
                return self._sizes(op, data, like)
        if data.ndim == like.ndim and data.dtype == like.dtype:
            return self._repeated(op, data, like)
        raise Bound(f"a constant of {op.origin} depends on the size")

    def _sizes(self, op: Op, data: Array, like: Array) -> Tensor:
        """A vector of sizes, some of them multiples of free ones."""
        rest = list(data.tolist())
        factors: dict[tuple[int, int], list[int]] = {}
        for place, (first, second) in enumerate(zip(data.tolist(), like.tolist(), strict=True)):
            if first != second:
                pair, step = self._factor(op, first, second)
                factors.setdefault(pair, [0] * len(rest))[place] = step
                rest[place] = first - step * pair[0]
        key = (tuple((pair, tuple(steps)) for pair, steps in factors.items()), tuple(rest))
        if key not in self._vectors:
            terms = []
            for pair, steps in factors.items():
                terms.append(Tensor("sizes", (len(rest),), "int32"))
                parts: list[Tensor | None] = [self._measure(op, pair), self.draft.ints(steps)]
                self._emit("MUL", parts, terms[-1], fusedActivationFunction=0)
            if any(rest):
                terms.append(self.draft.ints(rest))
            total = terms[0]
            for term in terms[1:]:
                added = Tensor("sizes", (len(rest),), "int32")
                self._emit("ADD", [total, term], added, fusedActivationFunction=0)
                total = added
            self._vectors[key] = total
        if op.kind == "RESHAPE":
            op.options.pop("newShape", None)
        return self._vectors[key]

    def _factor(self, op: Op, first: int, second: int) -> tuple[tuple[int, int], int]:
        """Which free size a number is a multiple of, and of how many; of the only one, plus something, too."""
        for a, b in self.sizes:
            if first * b == second * a and first % a == 0:
                return (a, b), first // a
        a, b = self.sizes[0]
        step, left = divmod(second - first, b - a)
        if left or len(self.sizes) > 1:
            raise Bound(f"a size that {op.origin} takes is no multiple of one that is free")
        return (a, b), step

    def _measure(self, op: Op, pair: tuple[int, int]) -> Tensor:
        """A free size as the device finds it: [1], int32."""
        if pair not in self._measured:
            if pair not in self._shown:
                raise Bound(f"{op.origin} takes a size before anything has it")
            source, axis = self._shown[pair]
            whole, size = Tensor("shape", (source.rank,), "int32"), Tensor("size", (1,), "int32")
            self._emit("SHAPE", [source], whole, outType=2)
            self._emit("SLICE", [whole, self.draft.ints([axis]), self.draft.ints([1])], size)
            self._measured[pair] = size
        return self._measured[pair]

    def _per_sample(self, rank: int, dtype: str) -> Tensor:
        """[batch, 1, ...] of something."""
        source = self.draft.inputs[0]
        first = Tensor("sample", (1,) * source.rank, source.dtype)
        ints = self.draft.ints
        cut: list[Tensor | None] = [
            source,
            ints([0] * source.rank),
            ints([0] + [1] * (source.rank - 1)),
            ints([1] * source.rank),
        ]
        self._emit("STRIDED_SLICE", cut, first, beginMask=1, endMask=1, ellipsisMask=0, newAxisMask=0, shrinkAxisMask=0)
        if source.dtype != dtype:
            cast = Tensor("sample", first.shape, dtype)
            self._emit("CAST", [first], cast)
            first = cast
        made = Tensor("sample", (1,) * rank, dtype)
        sizes = np.array([-1] + [1] * (rank - 1), np.int32)
        self._emit("RESHAPE", [first, ints(sizes)], made, newShape=sizes)
        for tensor in (first, made):
            tensor.free = frozenset({0})
        return made

    def _fed(self) -> tuple[int, int] | None:
        """What stands for the batch, where the first input has it."""
        return next(
            (pair for pair, (tensor, axis) in self._shown.items() if tensor in self.draft.inputs and not axis), None
        )

    def _emit(self, kind: str, inputs: list[Tensor | None], made: Tensor, **options: Any) -> None:
        made.name = f"batch/{made.name}"
        self._before.append(Op(kind, inputs, [made], options, made.name))

    def _repeated(self, op: Op, data: Array, like: Array) -> Tensor:
        """A constant that is the same all along a free axis."""
        axes = [axis for axis in range(data.ndim) if data.shape[axis] != like.shape[axis]]
        if not axes:
            raise Bound(f"a constant of {op.origin} holds other values for another size")
        core = data
        for axis in axes:
            if (data.shape[axis], like.shape[axis]) not in self.sizes:
                raise Bound(f"a constant of {op.origin} depends on the size")
            core = core.take([0], axis)
        if not np.array_equal(np.broadcast_to(core, data.shape), data, equal_nan=True) or not np.array_equal(
            np.broadcast_to(core, like.shape), like, equal_nan=True
        ):
            raise Bound(f"a constant of {op.origin} differs from sample to sample")
        kept = self.draft.constant(core)
        if op.kind in _BROADCASTS and any(
            part is not None and part.data is None and part.shape == op.output.shape for part in op.inputs
        ):
            return kept
        made = Tensor("constant", tuple(core.shape), data.dtype.name)
        made.free = frozenset(axes)
        fed = (data.shape[0], like.shape[0]) if axes == [0] else None
        if core.dtype in (np.float32, np.int32) and fed == self._fed():
            # Not BROADCAST_TO, whose output has a size that only a run tells: everything after it could not be planned
            # ahead. The largest of anything and c, and then the smallest of that and c, is c.
            any_value = self._per_sample(core.ndim, core.dtype.name)
            larger = Tensor("constant", tuple(core.shape), data.dtype.name)
            larger.free = made.free
            self._emit("MAXIMUM", [any_value, kept], larger)
            self._emit("MINIMUM", [larger, kept], made)
            return made
        sizes, others = (np.array(held.shape, np.int32) for held in (data, like))
        self._emit("BROADCAST_TO", [kept, self._sizes(op, sizes, others)], made)
        return made


def readable(draft: Draft) -> None:
    """Let outputs of a free size come from operators whose results the engine can hand out when they are empty.

    It cannot of those that find their size themselves; of a RESHAPE behind them it can, or of the larger of equals.
    """
    makers = draft.producers()
    for tensor in draft.outputs:
        maker = makers[tensor]
        if not tensor.free or maker.kind in ("CAST", "CONCATENATION"):
            continue
        inner = Tensor(f"{tensor.name}/selected", tensor.shape, tensor.dtype, tensor.data, tensor.quant, tensor.free)
        maker.outputs[maker.outputs.index(tensor)] = inner
        for op in draft.ops:
            op.inputs[:] = [inner if part is tensor else part for part in op.inputs]
        if len(tensor.free) == 1:
            sizes = np.array([-1 if axis in tensor.free else size for axis, size in enumerate(tensor.shape)], np.int32)
            draft.ops.append(Op("RESHAPE", [inner, draft.ints(sizes)], [tensor], {"newShape": sizes}, maker.origin))
        elif tensor.dtype in kernels()["MAXIMUM"].dtypes:
            draft.ops.append(Op("MAXIMUM", [inner, inner], [tensor], {}, maker.origin))
        else:
            raise Bound(f"several sizes of {tensor.name}, of {tensor.dtype}, are free")


def _begins(op: Op) -> Array:
    begin = op.inputs[1]
    if begin is None or begin.data is None:
        raise Bound(f"{op.origin} begins where a free size says")
    return begin.data
