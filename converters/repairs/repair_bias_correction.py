"""Bias correction: what rounding shifts on average is taken back by the bias, which costs nothing.

A layer answers W x + b; its integers answer W' x' + b, for rounded weights W' and for inputs x' rounded and cut to
their range. On average that is off by W' E[x'] - W E[x], measured on calibration data (Nagel et al. 2019,
arXiv:1906.04721, section 4.2, the empirical form).
"""

from __future__ import annotations

import numpy as np

from edgekit.converters.repairs.grid import as_stored
from edgekit.converters.repairs.repair import Case, Change, Kind
from edgekit.converters.repairs.view import View, add_bias, layers

TITLE = "what rounding shifts on average is taken back by the biases"
KIND: Kind = "weights"
ORDER = 30


def apply(case: Case, opened: View) -> Change:
    """Correct all layers whose inputs are known and that have a place for a bias; kernels may be adapted already."""
    largest = 0.0
    count = 0
    for layer in layers(opened):
        if layer.name not in case.moments or not (layer.biased or layer.addend):
            continue
        seen = case.moments[layer.name]
        stored = as_stored(opened.kernel(layer), per_channel=layer.per_channel, levels=case.levels)
        kernel = case.kernels[layer.name].reshape(stored.shape).astype(np.float64)
        shares = np.split(np.arange(len(stored)), layer.groups)
        means = zip(shares, seen.mean, seen.rounded_mean, strict=True)
        shift = np.concatenate([stored[rows] @ given - kernel[rows] @ real for rows, real, given in means])
        add_bias(opened, layer, -shift)
        size = np.concatenate([kernel[rows] @ real for rows, real in zip(shares, seen.mean, strict=True)])
        largest = max(largest, float(np.abs(shift).max() / max(np.sqrt(np.square(size).mean()), 1e-12)))
        count += 1
    if not count:
        return Change()
    return Change(count, f"biases of {count} layers, by up to {100 * largest:.2g} % of the layer's mean answer")
