"""A tensor inside the model, as a few numbers of each sample: its mean over places, sketched.

What a network makes of a sample tells of changes that no statistic of the input shows. Channels are averaged over
places (pixels, steps of time), and where there are many, added up in `SKETCH` heaps, each with a sign that is drawn
once for all (M. Charikar, K. Chen, M. Farach-Colton, "Finding frequent items in data streams", ICALP 2002). Means,
variances and correlations of these sums are a sketch, of fixed size, of the mean and the covariance of the channels:
what moves those moves some of the sums (Y. Chen, Y. Chi, A. Goldsmith, "Exact and stable covariance estimation from
quadratic sampling", IEEE Transactions on Information Theory 61, 2015).
"""

from __future__ import annotations

import numpy as np

from edgekit.monitor.columns import EMBEDDING, Array
from edgekit.monitor.picture import TINY, Real, dots
from edgekit.tensors import TensorSpec

SKETCH = 24
"""Sums that a longer embedding becomes; as many channels are watched one by one."""

_PLACES = 256
"""Places that are averaged at most: evenly spread ones."""

_SEED = 10


class Inner:
    """See the module header.

    Args:
        spec: Of the tensor: [N, ..., channels], or [N, channels, ...] by its layout. The number of channels is known.
    """

    noun = EMBEDDING

    def __init__(self, spec: TensorSpec) -> None:
        self._real = Real(spec)
        self._first = spec.layout == "NCHW"
        channels = spec.shape[1 if self._first else -1] or 1
        self._channels = channels
        count = min(channels, SKETCH)
        self._sketch = np.eye(channels, count, dtype=np.float32)
        if channels > SKETCH:
            from edgekit.selftest import noise

            drawn = noise(channels, _SEED, channels)
            order = np.argsort(drawn, kind="stable")
            heap = np.arange(channels) % count
            signs = np.where(drawn & np.uint64(1), 1.0, -1.0)
            self._sketch[:] = 0
            self._sketch[order, heap] = signs[order] / np.sqrt(np.bincount(heap))[heap]
        one = "sum" if channels > SKETCH else "channel"
        self.names = (*(f"{one} {place + 1} of {count}" for place in range(count)), "size")

    def views(self, batch: Array) -> tuple[Array, ...]:
        """Some places [n, places, channels]."""
        if self._first:
            table = np.moveaxis(batch.reshape(len(batch), self._channels, -1), 1, 2)
        else:
            table = batch.reshape(len(batch), -1, self._channels)
        return (table[:, :: max(1, -(-table.shape[1] // _PLACES))],)

    def rows(self, *views: Array) -> Array:
        """[n, len(names)]; of each sample by itself, bit for bit."""
        real = np.ascontiguousarray(self._real(views[0]))
        number, places, _ = real.shape
        mean = np.ones((1, places), np.float32) @ real / np.float32(max(1, places))
        made = np.empty((number, len(self.names)))
        made[:, :-1] = (mean @ self._sketch)[:, 0]
        flat = mean[:, 0]
        made[:, -1] = np.log(dots(flat, flat) / self._channels + TINY) / 2
        return made
