"""Steps that many rules share: casts, reshapes, elementwise operators with promotion and broadcasting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgekit.converters.onnx_to_tflite.draft import Draft, Shape, Tensor, kernels
from edgekit.converters.onnx_to_tflite.refusal import Refused

_CARRIERS = {"float16": "float32", "bfloat16": "float32", "float64": "float32", "uint32": "int64", "uint64": "int64"}
_WIDER = {
    "int8": ("int16", "int32", "int64"), "uint8": ("int16", "int32", "int64"), "int16": ("int32", "int64"),
    "uint16": ("int32", "int64"), "int32": ("int64",), "int64": ("int32",), "bool": ("uint8", "int8", "int32"),
}  # fmt: skip
"""What can stand in for a type that a kernel does not take. int64 in 32 bits is for sizes and indices only."""

_LARGEST = 1 << 28
"""Elements of a constant that is written out."""


def carrier(dtype: str) -> str:
    """The type of the tensors that hold values of an ONNX type: kernels compute in float32 and signed integers."""
    if dtype in ("float32", "int8", "uint8", "int16", "uint16", "int32", "int64", "bool"):
        return dtype
    if dtype not in _CARRIERS:
        raise Refused(f"no kernel of TFLite computes in {dtype}")
    return _CARRIERS[dtype]


def cast(draft: Draft, x: Tensor, dtype: str) -> Tensor:
    """Another element type."""
    if x.dtype == dtype:
        return x
    if x.data is not None:
        return draft.constant(x.data.astype(dtype), x.name)
    return draft.emit("CAST", [x], x.shape, dtype)


def reshape(draft: Draft, x: Tensor, shape: Sequence[int]) -> Tensor:
    """Other sizes, the same elements in the same order."""
    sizes = tuple(int(size) for size in shape)
    if x.shape == sizes:
        return x
    if x.data is not None:
        return draft.constant(x.data.reshape(sizes), x.name, x.quant)
    return draft.emit("RESHAPE", [x, draft.ints(sizes)], sizes, newShape=np.array(sizes, np.int32), quant=x.quant)


def transpose(draft: Draft, x: Tensor, permutation: Sequence[int]) -> Tensor:
    """Axes in another order; a reshape where only axes of size 1 move."""
    order = tuple(int(axis) for axis in permutation)
    sizes = tuple(x.shape[axis] for axis in order)
    if order == tuple(range(x.rank)):
        return x
    if x.data is not None:
        return draft.constant(np.transpose(x.data, order), x.name)
    moving = [axis for axis in order if x.shape[axis] != 1]
    if moving == sorted(moving):
        return reshape(draft, x, sizes)
    merged, permuted = _merged(x.shape, order)
    if len(merged) < x.rank > 4 or x.rank > kernels()["TRANSPOSE"].rank:
        made = transpose_of(draft, reshape(draft, x, merged), permuted)
        return reshape(draft, made, sizes)
    return transpose_of(draft, x, order)


def transpose_of(draft: Draft, x: Tensor, order: Sequence[int]) -> Tensor:
    """TRANSPOSE as it is."""
    return draft.emit("TRANSPOSE", [x, draft.ints(order)], [x.shape[axis] for axis in order], quant=x.quant)


def _merged(shape: Shape, order: Sequence[int]) -> tuple[list[int], list[int]]:
    """The same transposition over fewer axes: those of size 1 dropped, neighbours that stay together joined."""
    kept = [axis for axis in order if shape[axis] != 1]
    runs: list[list[int]] = []
    for axis in kept:
        before = [a for a in range(axis) if shape[a] != 1]
        if runs and before and runs[-1][-1] == before[-1]:
            runs[-1].append(axis)
        else:
            runs.append([axis])
    natural = sorted(runs)
    sizes = [int(np.prod([shape[axis] for axis in run])) for run in natural]
    return sizes, [natural.index(run) for run in runs]


def unary(draft: Draft, kind: str, x: Tensor, **options: Any) -> Tensor:
    """An operator of one input that keeps the sizes."""
    fits = _fitting(kind, x.dtype)
    made = draft.emit(kind, [cast(draft, x, fits)], x.shape, **options)
    return cast(draft, made, x.dtype)


def binary(draft: Draft, kind: str, a: Tensor, b: Tensor, dtype: str | None = None, **options: Any) -> Tensor:
    """An operator of two inputs that broadcasts, with its inputs' types widened where no kernel takes them.

    Args:
        draft: Where it goes.
        kind: The operator.
        a: Of one element type with b; ranks may differ (then axes are added in front).
        b: See a.
        dtype: Of the output, where it is not that of the inputs; comparisons give "bool".
        options: Of the operator.
    """
    rank = max(a.rank, b.rank)
    a, b = reshape(draft, a, (1,) * (rank - a.rank) + a.shape), reshape(draft, b, (1,) * (rank - b.rank) + b.shape)
    own, fits = a.dtype, _fitting(kind, a.dtype)
    a, b = cast(draft, a, fits), cast(draft, b, fits)
    shape = np.broadcast_shapes(a.shape, b.shape)
    made = _broadcasting(draft, kind, [a, b], shape, dtype or fits, options)
    return cast(draft, made, dtype or own)


def select(draft: Draft, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Elements of a where the condition holds, else of b."""
    rank = max(condition.rank, a.rank, b.rank)
    parts = [reshape(draft, t, (1,) * (rank - t.rank) + t.shape) for t in (condition, a, b)]
    own, fits = a.dtype, _fitting("SELECT_V2", a.dtype)
    parts[1:] = [cast(draft, part, fits) for part in parts[1:]]
    shape = np.broadcast_shapes(*(part.shape for part in parts))
    return cast(draft, _broadcasting(draft, "SELECT_V2", parts, shape, fits, {}), own)


def expand(draft: Draft, x: Tensor, shape: Sequence[int]) -> Tensor:
    """Broadcast to a shape of the same rank or more."""
    x = reshape(draft, x, (1,) * (len(shape) - x.rank) + x.shape)
    if x.shape == tuple(shape):
        return x
    if x.data is not None:
        if np.prod(shape, dtype=np.float64) > _LARGEST:
            raise Refused(f"a constant of {list(shape)} is larger than a file should be")
        return draft.constant(np.broadcast_to(x.data, shape))
    own, fits = x.dtype, _fitting("BROADCAST_TO", x.dtype)
    made = draft.emit("BROADCAST_TO", [cast(draft, x, fits), draft.ints(shape)], shape)
    return cast(draft, made, own)


def _fitting(kind: str, dtype: str) -> str:
    takes = kernels()[kind].dtypes
    if dtype in takes:
        return dtype
    for wider in _WIDER.get(dtype, ()):
        if wider in takes:
            return wider
    raise Refused(f"TFLite's {kind} takes {', '.join(takes)}, not {dtype}")


def _broadcasting(
    draft: Draft, kind: str, parts: Sequence[Tensor], shape: Shape, dtype: str, options: dict[str, Any]
) -> Tensor:
    """Emit, over as few axes as the kernel takes."""
    limit = kernels()[kind].rank
    if len(shape) <= limit:
        return draft.emit(kind, list(parts), shape, dtype, **options)
    runs: list[list[int]] = []
    for axis in range(len(shape)):
        pattern = [part.shape[axis] == 1 for part in parts]
        before = [all(part.shape[a] == 1 for a in runs[-1]) for part in parts] if runs else []
        if runs and (shape[axis] == 1 or pattern == before):
            runs[-1].append(axis)
        else:
            runs.append([axis])
    if len(runs) > limit:
        parts = [expand(draft, part, shape) for part in parts]
        runs = [list(range(len(shape)))]

    def joined(sizes: Shape) -> list[int]:
        return [int(np.prod([sizes[axis] for axis in run])) for run in runs]

    made = draft.emit(kind, [reshape(draft, p, joined(p.shape)) for p in parts], joined(shape), dtype, **options)
    return reshape(draft, made, shape)
