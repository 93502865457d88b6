"""Inputs that no data set holds: seeded random ones where there is no data, and the edges of the input range.

A model that answers real samples well may still give NaN on a black frame, and a user without data deserves a check.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import npz
from edgekit.converters.stages import Array, Feeds
from edgekit.data_ref import DataRef
from edgekit.runtimes.base import absent
from edgekit.selftest import generate, noise
from edgekit.tensors import INTEGER_RANGE, TensorSpec, fixed_batch

Bounds = dict[str, tuple[float, float]]

NUDGE = 2.0**-20
"""Eight steps of float32: what a layer or two make of a step by rounding."""

_GAPPED = 12

RANDOM_SAMPLES = 16
"""Enough for the parity of a float graph, few enough for a large one."""


def input_ranges(inputs: tuple[TensorSpec, ...], observed: Mapping[str, tuple[float, float]]) -> Bounds:
    """Range of each input's real values: as observed, else by its quantization, else its type's usual range.

    Without data and scale: [-1, 1] for floats (what most normalizations give), 0 and 1 for integers and booleans
    (valid as an index into any table of two rows).
    """
    ranges: Bounds = {}
    for spec in inputs:
        if spec.name in observed:
            low, high = observed[spec.name]
        elif spec.quant is not None and spec.dtype in INTEGER_RANGE:
            scale, zero = spec.quant.scale[0], spec.quant.zero_point[0]
            low, high = (scale * (edge - zero) for edge in INTEGER_RANGE[spec.dtype])
        elif spec.dtype == "uint8":
            low, high = 0.0, 255.0
        else:
            low, high = (-1.0, 1.0) if spec.dtype.startswith("float") else (0.0, 1.0)
        ranges[spec.name] = (float(low), float(high))
    return ranges


def write_random(inputs: tuple[TensorSpec, ...], ranges: Bounds, seed: int, path: Path) -> DataRef:
    """Seeded samples, evenly spread over the ranges, as a data file."""
    step = fixed_batch(inputs)
    count = max(1, RANDOM_SAMPLES // step) * step
    arrays = {
        spec.name: generate(_fed(spec), (count, *_sample(spec)), ranges[spec.name], seed, stream)
        for stream, spec in enumerate(inputs)
    }
    for stream, spec in enumerate(inputs):
        half = count // 2
        arrays[spec.name][half:] = gapped(arrays[spec.name][half:], spec, stream)
    npz.write(path, arrays)
    return DataRef(str(path))


def write_edges(inputs: tuple[TensorSpec, ...], ranges: Bounds, path: Path) -> None:
    """Four samples, again and again until they fill the batches of the model: zeros, the lowest, the highest, and both
    in turn. Where values may be missing, as many more with gaps, the last of which is empty.
    """
    step = fixed_batch(inputs)
    gaps = any(spec.missing for spec in inputs)
    count = -(-(4 + _GAPPED * gaps) // step) * step
    arrays: dict[str, Any] = {}
    for stream, spec in enumerate(inputs):
        low, high = ranges[spec.name]
        shape = _sample(spec)
        turns = np.where(np.arange(int(np.prod(shape, dtype=np.int64))).reshape(shape) % 2, high, low)
        real = np.stack([np.full(shape, min(max(0.0, low), high)), np.full(shape, low), np.full(shape, high), turns])
        real = np.resize(real, (count, *shape))
        dtype = _fed(spec).dtype
        made = arrays[spec.name] = (real if dtype.startswith("float") else np.rint(real)).astype(dtype)
        if gaps:
            made[4:] = gapped(made[4:], spec, stream)
            made[-1:] = gapped(made[-1:], spec, stream, 1.0)
    npz.write(path, arrays)


def gapped(samples: Array, spec: TensorSpec, stream: int, share: float = 0.5) -> Array:
    """Samples [n, ...] of an input, this share of the values that may be missing taken out of them."""
    if not spec.missing:
        return samples
    unit = (noise(samples.size, 1, stream) >> np.uint64(40)).astype(np.float64).reshape(samples.shape) / float(1 << 24)
    gone = np.where(unit < share, np.asarray(np.nan, samples.dtype), samples)
    return np.where(absent(gone, spec), gone, samples)


def nudged(feeds: Feeds) -> Feeds:
    """The same, each float up to `NUDGE` of its input's largest magnitude greater; other numbers stay.

    Only greater, so that numbers which a source truncates to an index stay that index.
    """
    return {
        name: _nudge(array, stream) if array.dtype.kind == "f" else array
        for stream, (name, array) in enumerate(feeds.items())
    }


def _nudge(array: Array, stream: int) -> Array:
    size = float(np.abs(array).max(initial=0.0, where=~np.isnan(array))) or 1.0
    unit = (noise(array.size, 0, stream) >> np.uint64(40)).astype(np.float64).reshape(array.shape) / float(1 << 24)
    return (array + NUDGE * size * unit).astype(array.dtype)


def _sample(spec: TensorSpec) -> tuple[int, ...]:
    """Shape of one sample without the batch axis; free sizes become 1."""
    return tuple(1 if size is None else size for size in spec.shape[1:])


def _fed(spec: TensorSpec) -> TensorSpec:
    """What data for an input looks like: real values where it is quantized."""
    return spec if spec.quant is None else replace(spec, dtype="float32", quant=None)
