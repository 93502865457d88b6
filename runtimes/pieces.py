"""Batches of any size through an engine that takes one: how arrays are shaped, cut, and answers joined."""

from __future__ import annotations

import numpy as np

from edgekit.errors import FeedError
from edgekit.runtimes.base import Array, dequantize
from edgekit.tensors import TensorSpec

_CHANNELS_LAST = {"NHWC": "NCHW", "NWC": "NCW", "NDHWC": "NCDHW"}
_CHANNELS_FIRST = {first: last for last, first in _CHANNELS_LAST.items()}


def shaped(array: Array, spec: TensorSpec) -> Array:
    """The array as the tensor's shape wants it, batch aside.

    Raises:
        FeedError: `feed-shape`.
    """
    if _fits(array.shape, spec.shape):
        return array
    if _fits((1, *array.shape), spec.shape):
        return array[None]
    turned = _turned(array, spec)
    if turned is not None:
        return turned
    hint = ""
    if (
        spec.layout is None
        and array.ndim in (3, 4)
        and sorted(array.shape[1:]) == sorted(s or 0 for s in spec.shape[1:])
    ):
        hint = "; the axes look transposed (NHWC against NCHW), and the model does not say which it means"
    sizes = ",".join(map(str, array.shape))
    raise FeedError("feed-shape", f"{spec.describe()} does not take [{sizes}]{hint}")


def _turned(array: Array, spec: TensorSpec) -> Array | None:
    """From the other layout, when the manifest says which one is meant."""
    if spec.layout in _CHANNELS_LAST:
        for candidate in (array, array[None]):
            if candidate.ndim == len(spec.shape) and _fits((moved := np.moveaxis(candidate, 1, -1)).shape, spec.shape):
                return moved
    if spec.layout in _CHANNELS_FIRST:
        for candidate in (array, array[None]):
            if candidate.ndim == len(spec.shape) and _fits((moved := np.moveaxis(candidate, -1, 1)).shape, spec.shape):
                return moved
    return None


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    """Equal but for the first axis, which is the batch, and free sizes."""
    if len(shape) != len(wanted):
        return False
    return all(
        want in (None, size) or (axis == 0 and size > 0)
        for axis, (size, want) in enumerate(zip(shape, wanted, strict=True))
    )


def calls(arrays: list[Array], inputs: tuple[TensorSpec, ...], *, whole: bool) -> tuple[int, list[int]]:
    """How often the engine is called, and how much of each array a call takes; 0 for all of it.

    Where some first axes are free, they are the batch, and an input of exactly its fixed size (a table, a threshold)
    goes into every call. Where none is free, arrays that fit go in one call, and longer ones are cut.

    Args:
        arrays: In the order of `inputs`.
        inputs: What the model takes.
        whole: The engine takes any number of samples where an axis is free.
    """
    pairs = [(spec, spec.shape[0], array.shape[0]) for spec, array in zip(inputs, arrays, strict=True) if spec.shape]
    free = {spec.name: size for spec, first, size in pairs if first is None}
    fits = all(first in (None, size) for _, first, size in pairs)
    if not free and fits:
        return 1, [0] * len(arrays)
    # What is cut, and into how many.
    counts = free | {
        spec.name: _divided(size, first) for spec, first, size in pairs if first and (first != size or not free)
    }
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{spec.name} {size}" for spec, _, size in pairs if spec.name in counts)
        raise FeedError("feed-shape", f"inputs have different numbers of samples: {said}")
    number = next(iter(counts.values()))
    if number == 0:
        raise FeedError("feed-shape", "the feed holds no samples")
    if whole and fits:
        return 1, [0] * len(arrays)
    return number, [((spec.shape[0] or 1) if spec.name in counts else 0) for spec in inputs]


def _divided(size: int, first: int) -> int:
    if size % first:
        raise FeedError("feed-shape", f"the model takes batches of {first}, {size} samples do not divide by it")
    return size // first


def join(pieces: list[Array], spec: TensorSpec, steps: list[int], *, raw: bool, free: bool) -> Array:
    """One answer from those of several calls, which took `steps` samples; answers without a batch axis get one.

    Where the batch is free, the only free size of an answer is its batch, wherever that stands.
    """
    if not raw:
        pieces = [dequantize(piece, spec) for piece in pieces]
    if len(pieces) == 1:
        return pieces[0]
    if free and spec.shape.count(None) == 1:
        return np.concatenate(pieces, axis=spec.shape.index(None))
    if all(piece.ndim and piece.shape[0] in steps for piece in pieces):
        return np.concatenate(pieces)
    if len({piece.shape for piece in pieces}) > 1:
        shapes = " and ".join(str(list(piece.shape)) for piece in pieces[:2])
        raise FeedError("feed-uneven", f"{spec.name} has another size for each sample, such as {shapes}")
    return np.stack(pieces)
