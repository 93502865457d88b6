"""Weight clipping: a kernel's range is the one of least squared error, not the one that holds its largest weight.

One weight far beyond the others makes the steps of its whole channel (of the whole kernel, where that has one scale)
coarse. Cutting it costs its own error once and saves a little of everybody's. The range is chosen among shares of the
full one by the squared error of the rounded weights (as OCTAV does: Sakr et al. 2022, arXiv:2206.06501), each counted
by the power of the input that it multiplies where that was measured. The quantizers take the largest weight for the
range, so clipped kernels are all they have to see; `adaptive-rounding`, behind, still aims at the unclipped ones.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgekit.converters.repairs.grid import rounded, steps
from edgekit.converters.repairs.repair import Case, Change, Kind
from edgekit.converters.repairs.view import View, layers

TITLE = "weights far beyond the others are cut, where that lessens the squared error of all"
KIND: Kind = "weights"
ORDER = 10

Doubles = NDArray[np.float64]

_SHARES = tuple(round(1 - 0.02 * number, 2) for number in range(1, 36))
"""Of the full range, down to 0.3: 4-bit kernels want about 0.6, 8-bit ones rarely less than 0.9."""
_WORTH = 0.98
"""Share of a channel's error that must remain at most; less than that is not worth a changed weight."""


def bounds(kernel: Doubles, counts: Doubles, *, per_channel: bool, levels: int = 127) -> tuple[Doubles, float, float]:
    """The ranges of least squared error.

    Args:
        kernel: [out, n].
        counts: How much the error of each weight counts, broadcast to the kernel.
        per_channel: A range a row, or one for all.
        levels: Largest integer.

    Returns:
        Largest absolute weight of each row, [out]; the squared error before and behind.
    """
    full = steps(kernel, per_channel=per_channel, levels=levels)
    before = best = _errors(kernel, full, counts, levels, per_channel=per_channel)
    chosen = np.ones(len(kernel))
    for share in _SHARES:
        found = _errors(kernel, full * share, counts, levels, per_channel=per_channel)
        better = found < np.minimum(best, _WORTH * before)
        chosen, best = np.where(better, share, chosen), np.where(better, found, best)
    whole = 1 if per_channel else len(kernel)
    return full * chosen * levels, float(before.sum()) / whole, float(best.sum()) / whole


def _errors(kernel: Doubles, step: Doubles, counts: Doubles, levels: int, *, per_channel: bool) -> Doubles:
    """Squared error of each row, or of all in each place: [out]."""
    found = (np.square(rounded(kernel, step, levels) - kernel) * counts).sum(axis=1)
    return np.asarray(found if per_channel else np.full(len(kernel), found.sum()))


def apply(case: Case, opened: View) -> Change:
    """Clip the kernels of all layers that keep the precision's weights."""
    gains = []
    for layer in layers(opened):
        if layer.name in case.lifted:
            continue
        kernel = opened.kernel(layer)
        flat = kernel.reshape(len(kernel), -1).astype(np.float64)
        if not np.isfinite(flat).all():
            continue
        ends, before, after = bounds(
            flat, _counts(case, layer.name, len(flat)), per_channel=layer.per_channel, levels=case.levels
        )
        if after < before:
            shaped = ends.reshape(-1, *[1] * (kernel.ndim - 1))
            opened.set_kernel(layer, np.clip(kernel, -shaped, shaped).astype(np.float32))
            gains.append(10 * np.log10(before / max(after, 1e-30)))
    if not gains:
        return Change()
    return Change(len(gains), f"kernels of {len(gains)} layers: {np.mean(gains):.1f} dB less error of their weights")


def _counts(case: Case, name: str, rows: int) -> Doubles:
    """The power around its mean of what each weight multiplies, [out, n]; one where it is not known."""
    seen = case.moments.get(name)
    covariance = None if seen is None else seen.covariance()
    if covariance is None:
        return np.ones((rows, 1))
    power = np.diagonal(covariance, axis1=1, axis2=2)
    return np.asarray(np.repeat(power, rows // len(power), axis=0))
