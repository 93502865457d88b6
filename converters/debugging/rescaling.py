"""Channels that repairs scaled against each other (equalizing, smoothing), while the net as a whole stayed the same.

Such a tensor holds the float graph's values times a factor a channel. Which factors is not recorded, but some samples
tell: where channels agree in direction and not in size, the ratio of both is the factor.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.converters.debugging.layers import Watched, channel_axis
from edgekit.converters.debugging.nets import Array
from edgekit.converters.debugging.pictures import Pictures, real_values
from edgekit.converters.stages import Feeds

SAMPLES = 8
_APART = 1.15
"""A ratio from which a channel counts as scaled: rounding to 8 bits shifts sizes by less."""
_ALIKE = 0.9
"""Cosine of a channel's values from which the ratio means something."""
_SCALED = 0.15
"""Share of channels that must be scaled: repairs scale most of a layer's, faults few."""
_WHOLE = 0.7
"""Share of channels that must agree in direction."""


def rescale(pictures: Pictures, watched: Sequence[Watched], early: Sequence[Feeds], threads: int) -> int:
    """Find the factors of all layers on some samples; how many were scaled."""
    artifact, reference = pictures.artifact, pictures.reference
    origins = list(dict.fromkeys(layer.reference for layer in watched))
    tapped = [name for name in dict.fromkeys(map(reference.seen, origins)) if name not in reference.inputs]
    shown = [name for name in dict.fromkeys(layer.seen for layer in watched) if name not in artifact.inputs]
    gauges = [Gauge(channel_axis(artifact, layer.origin)) for layer in watched]
    with (
        reference.open(reference.inputs, tapped, threads, as_written=True) as float_runner,
        artifact.open(artifact.inputs, shown, threads) as runner,
    ):
        for feeds in early:
            theirs, mine = pictures.reference_entrance.feed(feeds), pictures.artifact_entrance.feed(feeds)
            found = {**mine, **runner.run(mine)}
            values = real_values(reference, origins, {**theirs, **float_runner.run(theirs)})
            for layer, gauge in zip(watched, gauges, strict=True):
                real, expected = artifact.tensors[layer.seen].reals(found[layer.seen]), values[layer.reference]
                if layer.order is not None or layer.lies(expected, real):
                    gauge.add(layer.aligned(expected), real)
    for layer, gauge in zip(watched, gauges, strict=True):
        # Inputs and outputs are the source's own.
        layer.factors = None if layer.how == "interface" else gauge.factors()
    return sum(layer.factors is not None for layer in watched)


class Gauge:
    """Streams pairs of arrays of one layer; `factors` tells at the end."""

    def __init__(self, axis: int) -> None:
        self._axis = axis
        self._sums: Array | None = None
        self._shape: tuple[int, ...] = ()

    def add(self, reference: Array, artifact: Array) -> None:
        """Take in one run: real values of the same shape."""
        if reference.ndim < 2 or reference.shape != artifact.shape:
            return
        f, a = (np.moveaxis(np.asarray(side, np.float64), self._axis, 0) for side in (reference, artifact))
        f, a = f.reshape(len(f), -1), a.reshape(len(a), -1)
        sums = np.stack([(f * f).sum(axis=1), (a * a).sum(axis=1), (f * a).sum(axis=1)])
        self._sums = sums if self._sums is None or self._sums.shape != sums.shape else self._sums + sums
        shape = [1] * reference.ndim
        shape[self._axis] = -1
        self._shape = tuple(shape)

    def factors(self) -> Array | None:
        """One a channel, 1 for dead ones, shaped to broadcast; None where channels were not scaled."""
        if self._sums is None:
            return None
        f, a, both = self._sums
        alive = (f > 0) & (a > 0)
        cosine = np.where(alive, both / np.sqrt(np.where(alive, f * a, 1.0)), 0.0)
        ratio = np.where(alive & (both > 0), both / np.where(alive, f, 1.0), 1.0)
        agreeing = cosine >= _ALIKE
        scaled = agreeing & ((ratio > _APART) | (ratio < 1 / _APART))
        count = max(1, int(alive.sum()))
        if agreeing.sum() < _WHOLE * count or scaled.sum() < _SCALED * count:
            return None
        return np.where(agreeing, ratio, 1.0).astype(np.float32).reshape(self._shape)
