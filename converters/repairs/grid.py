"""The grids that weights are rounded to: what both formats' quantizers do by themselves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgekit.converters.repairs.view import Floats

Doubles = NDArray[np.float64]


def steps(kernel: Doubles, *, per_channel: bool, levels: int = 127) -> Doubles:
    """The quantizers' step sizes of a kernel [out, ...], as [out]: largest weight over the largest integer."""
    flat = np.abs(kernel.reshape(len(kernel), -1))
    bound = flat.max(axis=1) if per_channel else np.full(len(kernel), flat.max())
    return np.asarray(np.where(bound > 0, bound / levels, 1.0))


def rounded(kernel: Doubles, step: Doubles, levels: int = 127) -> Doubles:
    """To nearest: what the quantizers do by themselves. `kernel` [out, n], `step` [out]."""
    return np.asarray(np.clip(np.rint(kernel / step[:, None]), -levels, levels) * step[:, None])


def as_stored(kernel: Floats, *, per_channel: bool, levels: int = 127) -> Doubles:
    """A kernel as its integers will stand for it, [out, n]; one that was adapted already stays as it is."""
    flat = kernel.reshape(len(kernel), -1).astype(np.float64)
    return rounded(flat, steps(flat, per_channel=per_channel, levels=levels), levels)
