"""A free batch, found by drafting the same model for two batches: what differs between both depends on the batch.

Sizes that are multiples of the batch become free. A vector of sizes that an operator takes is computed on the device
from the shape of the first input; a constant that repeats itself along the batch is broadcast there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekit.converters.onnx_to_tflite.draft import Array, Draft, Op, Tensor

_BROADCASTS = frozenset({
    "ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SELECT_V2", "POW", "SQUARED_DIFFERENCE", "EQUAL", "NOT_EQUAL",
    "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "LOGICAL_AND", "LOGICAL_OR",
})  # fmt: skip
_SIZES = {"BROADCAST_TO": 1, "SLICE": 2, "TRANSPOSE_CONV": 0, "CONV_3D_TRANSPOSE": 0, "TILE": 1, "FILL": 0,
          "STRIDED_SLICE": 2, "SCATTER_ND": 2}  # fmt: skip
"""Operator -> its input that holds sizes."""


class Bound(Exception):  # noqa: N818 - an answer: the graph is not the same for every batch
    """Why the batch cannot be free."""


def release(one: Draft, other: Draft, batches: tuple[int, int]) -> None:
    """Free the batch of the first draft, in place, and let its sizes be those of a batch of one.

    Args:
        one: For the first batch.
        other: For the second.
        batches: Both; neither is 1, and no other size of the model should be a multiple of them.

    Raises:
        Bound: The drafts differ in more than sizes.
    """
    if [op.kind for op in one.ops] != [op.kind for op in other.ops]:
        raise Bound("its operators depend on the batch")
    pairs = _paired(one, other)
    _Release(one, pairs, batches).run()


def _paired(one: Draft, other: Draft) -> list[tuple[Op, Op]]:
    pairs = list(zip(one.ops, other.ops, strict=True))
    for a, b in pairs:
        if len(a.inputs) != len(b.inputs) or len(a.outputs) != len(b.outputs):
            raise Bound(f"{a.origin} depends on the batch")
        for key in a.options:
            if key != "newShape" and a.options[key] != b.options.get(key):
                raise Bound(f"{a.origin} depends on the batch")
    return pairs


class _Release:
    def __init__(self, draft: Draft, pairs: list[tuple[Op, Op]], batches: tuple[int, int]) -> None:
        self.draft, self.pairs, self.batches = draft, pairs, batches
        self._before: list[Op] = []
        self._size: Tensor | None = None
        self._vectors: dict[tuple[tuple[int, ...], tuple[int, ...]], Tensor] = {}

    def run(self) -> None:
        shapes: dict[Tensor, tuple[int, ...]] = {tensor: self._shape(tensor, tensor.shape, None)
                                                 for tensor in self.draft.inputs}  # fmt: skip
        ops: list[Op] = []
        for op, twin in self.pairs:
            self._before = []
            for place, (part, like) in enumerate(zip(op.inputs, twin.inputs, strict=True)):
                if part is None or part.data is None or like is None or like.data is None:
                    continue
                if part.shape != like.shape or not np.array_equal(part.data, like.data, equal_nan=True):
                    op.inputs[place] = self._constant(op, place, part.data, like.data)
            for made, like in zip(op.outputs, twin.outputs, strict=True):
                shapes[made] = self._shape(made, made.shape, like.shape)
            ops += [*self._before, op]
        self.draft.ops[:] = ops
        for tensor, sizes in shapes.items():
            tensor.free = frozenset(axis for axis, size in enumerate(tensor.shape) if size != sizes[axis])
            tensor.shape = sizes

    def _shape(self, tensor: Tensor, sizes: tuple[int, ...], like: tuple[int, ...] | None) -> tuple[int, ...]:
        a, b = self.batches
        if like is None:  # an input
            return (1, *sizes[1:])
        if len(sizes) != len(like):
            raise Bound(f"the number of axes of {tensor.name} depends on the batch")
        found = []
        for first, second in zip(sizes, like, strict=True):
            if first == second:
                found.append(first)
            elif first * b == second * a:
                found.append(first // a)
            else:
                raise Bound(f"a size of {tensor.name} is no multiple of the batch")
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
        raise Bound(f"a constant of {op.origin} depends on the batch")

    def _sizes(self, op: Op, data: Array, like: Array) -> Tensor:
        """A vector of sizes, some of them multiples of the batch."""
        a, b = self.batches
        factors, rest = [], []
        for first, second in zip(data.tolist(), like.tolist(), strict=True):
            step, left = divmod(second - first, b - a)
            if left:
                raise Bound(f"a size that {op.origin} takes is no multiple of the batch")
            factors.append(step)
            rest.append(first - step * a)
        key = (tuple(factors), tuple(rest))
        if key not in self._vectors:
            size = self._batch()
            scaled = Tensor("sizes", (len(factors),), "int32")
            self._emit("MUL", [size, self.draft.ints(factors)], scaled, fusedActivationFunction=0)
            if any(rest):
                added = Tensor("sizes", (len(rest),), "int32")
                self._emit("ADD", [scaled, self.draft.ints(rest)], added, fusedActivationFunction=0)
                scaled = added
            self._vectors[key] = scaled
        if op.kind == "RESHAPE":
            op.options.pop("newShape", None)
        return self._vectors[key]

    def _batch(self) -> Tensor:
        """[batch], int32."""
        if self._size is None:
            source = self.draft.inputs[0]
            whole, size = Tensor("shape", (source.rank,), "int32"), Tensor("batch", (1,), "int32")
            self._emit("SHAPE", [source], whole, outType=2)
            self._emit("SLICE", [whole, self.draft.ints([0]), self.draft.ints([1])], size)
            self._size = size
        return self._size

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

    def _emit(self, kind: str, inputs: list[Tensor | None], made: Tensor, **options: Any) -> None:
        made.name = f"batch/{made.name}"
        self._before.append(Op(kind, inputs, [made], options, made.name))

    def _repeated(self, op: Op, data: Array, like: Array) -> Tensor:
        """A constant that is the same for every sample."""
        a, b = self.batches
        axes = [axis for axis in range(data.ndim) if data.shape[axis] != like.shape[axis]]
        if not axes:
            raise Bound(f"a constant of {op.origin} holds other values for another batch")
        core = data
        for axis in axes:
            if data.shape[axis] * b != like.shape[axis] * a or data.shape[axis] != a:
                raise Bound(f"a constant of {op.origin} depends on the batch")
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
        if core.dtype in (np.float32, np.int32) and axes == [0]:
            # Not BROADCAST_TO, whose output has a size that only a run tells: everything after it could not be planned
            # ahead. The largest of anything and c, and then the smallest of that and c, is c.
            any_value = self._per_sample(core.ndim, core.dtype.name)
            larger = Tensor("constant", tuple(core.shape), data.dtype.name)
            larger.free = made.free
            self._emit("MAXIMUM", [any_value, kept], larger)
            self._emit("MINIMUM", [larger, kept], made)
            return made
        sizes = np.array([a if axis in axes else size for axis, size in enumerate(data.shape)], np.int32)
        others = np.array([b if axis in axes else size for axis, size in enumerate(data.shape)], np.int32)
        self._emit("BROADCAST_TO", [kept, self._sizes(op, sizes, others)], made)
        return made


def _begins(op: Op) -> Array:
    begin = op.inputs[1]
    if begin is None or begin.data is None:
        raise Bound(f"{op.origin} begins where the batch says")
    return begin.data
