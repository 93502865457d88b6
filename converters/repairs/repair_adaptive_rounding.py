"""Adaptive rounding: each weight goes up or down so that the layer's outputs, not its weights, stay near.

Rounding to nearest minimizes |D|^2 for the difference D of the kernels; what counts is E |D x|^2 = tr(D C D^T), with C
the covariance of the inputs (a constant part is the bias's business). Nagel et al. 2020 (AdaRound, arXiv:2004.10568)
find a good choice by gradient descent; for one layer alone the problem is a least-squares one on a lattice, which
rounding column by column solves well and at once: each column makes up for the errors of those rounded before it, as
the triangular factor of C says (Babai's nearest plane; the same as GPTQ, Frantar et al. 2022, arXiv:2210.17323, without
its inverse). Deterministic, and a hundred times faster.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgekit.converters.repairs.grid import rounded, steps
from edgekit.converters.repairs.repair import Case, Change, Kind
from edgekit.converters.repairs.view import Floats, Layer, View, layers

TITLE = "each weight is rounded up or down so that the layer's outputs, not its weights, stay near"
KIND: Kind = "weights"
ORDER = 20

Doubles = NDArray[np.float64]

_DAMPING = 0.01
"""Share of the mean variance added to all variances; GPTQ's own figure."""
_BLOCK = 64


def adapt(kernel: Doubles, step: Doubles, covariance: Doubles, levels: int = 127) -> Doubles:
    """Kernels on their grids with the least expected error of the outputs, a stack of them at once.

    Args:
        kernel: [groups, out, n].
        step: [groups, out].
        covariance: Of the inputs, [groups, n, n].
        levels: Largest integer.

    Returns:
        [groups, out, n], multiples of `step`.
    """
    count = covariance.shape[-1]
    variance = np.diagonal(covariance, axis1=1, axis2=2)
    damping = np.maximum(_DAMPING * variance.mean(axis=1), 1e-12)
    # Columns are rounded from the last to the first: those that matter most while most others can still make up.
    order = np.argsort(variance, axis=1, kind="stable")
    rows = np.arange(len(order))[:, None]
    damped = covariance[rows[:, :, None], order[:, :, None], order[:, None, :]] + damping[:, None, None] * np.eye(count)
    upper = np.linalg.cholesky(damped).transpose(0, 2, 1)
    upper = upper / np.diagonal(upper, axis1=1, axis2=2)[:, :, None]
    wanted = np.take_along_axis(kernel, order[:, None, :], axis=2)
    made = np.empty_like(wanted)
    missing = np.zeros_like(wanted)
    for end in range(count, 0, -_BLOCK):
        start = max(0, end - _BLOCK)
        centers = wanted[:, :, start:end] + missing[:, :, end:] @ upper[:, start:end, end:].transpose(0, 2, 1)
        for place in range(end - 1, start - 1, -1):
            inner = missing[:, :, place + 1 : end] @ upper[:, place, place + 1 : end, None]
            made[:, :, place] = np.clip(
                np.rint((centers[:, :, place - start] + inner[:, :, 0]) / step), -levels, levels
            )
            made[:, :, place] *= step
            missing[:, :, place] = wanted[:, :, place] - made[:, :, place]
    back = np.empty_like(made)
    np.put_along_axis(back, np.broadcast_to(order[:, None, :], made.shape), made, axis=2)
    return back


def error(difference: Doubles, covariance: Doubles) -> Doubles:
    """Expected squared error of each output: [groups, out]."""
    return np.asarray(((difference @ covariance) * difference).sum(axis=-1))


def apply(case: Case, opened: View) -> Change:
    """Round the kernels of all layers whose inputs are known."""
    gains = []
    for layer in layers(opened):
        covariance = case.moments[layer.name].covariance() if layer.name in case.moments else None
        if covariance is None:
            continue
        kernel = opened.kernel(layer)
        step = steps(
            kernel.reshape(len(kernel), -1).astype(np.float64), per_channel=layer.per_channel, levels=case.levels
        )
        key = ("adapted", layer.name, step.tobytes())  # clipped or not
        if key not in case.memory:
            case.memory[key] = _adapted(case.kernels[layer.name], step, layer, covariance, case.levels)
        kernel, gain = case.memory[key]
        if gain > 0:
            opened.set_kernel(layer, kernel)
            gains.append(gain)
    if not gains:
        return Change()
    return Change(
        len(gains), f"weights of {len(gains)} layers: {np.mean(gains):.1f} dB less error of each on its inputs"
    )


def _adapted(kernel: Floats, step: Doubles, layer: Layer, covariance: Doubles, levels: int) -> tuple[Floats, float]:
    """The adapted kernel, and what it gains in dB; 0 where it must not be used."""
    flat = kernel.reshape(len(kernel), -1).astype(np.float64)
    nearest = rounded(flat, step, levels)
    stacked = (layer.groups, len(flat) // layer.groups, -1)
    wanted = flat.reshape(stacked)
    adapted = adapt(wanted, step.reshape(stacked[:2]), covariance, levels)
    was, becomes = (error(tried - wanted, covariance) for tried in (nearest.reshape(stacked), adapted))
    # The largest weight fixes the step that the quantizer will choose: a row that lost it keeps to nearest.
    largest = np.abs(adapted).max(axis=2) >= (step * (levels - 0.5)).reshape(stacked[:2])
    better = (largest | (not layer.per_channel)) & (becomes < was)
    made = np.where(better[:, :, None], adapted, nearest.reshape(stacked)).reshape(flat.shape)
    if not layer.per_channel and np.abs(made).max() < step[0] * (levels - 0.5):
        return kernel, 0.0
    before, after = float(was.sum()), float(np.where(better, becomes, was).sum())
    gain = float(10 * np.log10(before / after)) if 0 < after < before else 0.0
    return np.asarray(made.reshape(kernel.shape), np.float32), gain
