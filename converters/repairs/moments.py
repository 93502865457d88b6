"""What the inputs of each layer are like: means and second moments of the patches that its kernel meets.

A layer's error through rounded weights is E |D x|^2 = D E[x x^T] D^T for the difference D of the kernels, whatever the
data: all that rounding and bias correction need are these moments, from a few thousand patches a layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.converters.repairs.samples import Array, Samples, look
from edgekit.converters.repairs.view import Layer, View, Window, layers
from edgekit.converters.stages import Graph, Range

Doubles = NDArray[np.float64]

_PATCHES = 8
"""Patches an element of the kernel's patch; so many give second moments to a few per cent."""
_FEWEST, _MOST = 2048, 8192
_AT_ONCE = 256
"""Patches whose products are added up together: of so many 8-bit numbers float32 holds every sum, and the square of all
features is gone through once for all of them."""
_DOUBT = 1e-9
"""Of the mean square: some hundred times what sums in float64 are off by."""
LARGEST = 4608
"""Elements of a patch (3 x 3 of 512 channels) up to which second moments are taken: their square is held."""


@dataclass
class Moments:
    """Of one layer's patches, a group of channels each: n features in the order of the kernel's [in, *window].

    Attributes:
        total: [groups, n], sums. rounded: The same of the patches as 8 or 16 bits will hold them.
        products: [groups, n, n], sums of products of the rounded patches; None where n is over `LARGEST`.
        count: Patches.
        waiting: Patches whose products are not in there yet, as integers, [groups, patches, n] each; and their step.
    """

    total: Doubles
    rounded: Doubles
    products: Doubles | None
    count: int = 0
    waiting: list[Array] = field(default_factory=list)
    step: float = 1.0

    def multiply(self, at_least: int = 1) -> None:
        """Add the products of those that wait, where there are so many."""
        if self.products is None or sum(part.shape[1] for part in self.waiting) < at_least:
            return
        every = np.concatenate(self.waiting, axis=1)
        self.waiting.clear()
        for start in range(0, every.shape[1], _AT_ONCE):
            some = every[:, start : start + _AT_ONCE]
            self.products += np.multiply(some.transpose(0, 2, 1) @ some, self.step**2, dtype=np.float64)

    @property
    def mean(self) -> Doubles:
        return self.total / max(1, self.count)

    @property
    def rounded_mean(self) -> Doubles:
        return self.rounded / max(1, self.count)

    def covariance(self) -> Doubles | None:
        """[groups, n, n] of the rounded patches around their mean."""
        if self.products is None:
            return None
        mean, square = self.rounded_mean, self.products / max(1, self.count)
        # The difference of two large numbers: what it may be off by is added, so that it stays positive definite.
        doubt = _DOUBT * np.trace(square, axis1=1, axis2=2) / square.shape[1]
        spread = square - mean[:, :, None] * mean[:, None, :]
        return np.asarray(spread + doubt[:, None, None] * np.eye(square.shape[1]))


def collect(
    graph: Graph, opened: View, samples: Samples, ranges: Mapping[str, Range], bits: int, threads: int
) -> dict[str, Moments]:
    """Moments of all layers but transposed convolutions, by the layers' names.

    Args:
        graph: The file that `opened` was read from.
        opened: Its view.
        samples: Calibration data.
        ranges: Of activations, from calibration.
        bits: Of activations.
        threads: Of the engine.
    """
    wanted: dict[str, list[Layer]] = {}
    for layer in layers(opened):
        if not layer.transposed and layer.source in ranges:
            wanted.setdefault(layer.source, []).append(layer)
    found: dict[str, Moments] = {}

    def show(number: int, name: str, values: Array) -> None:
        for layer in wanted[name]:
            if layer.name not in found:
                found[layer.name] = _empty(opened, layer)
            _add(found[layer.name], layer, values, number, len(samples), ranges[name], bits)

    look(graph, samples, list(wanted), show, threads)
    for moments in found.values():
        moments.multiply()
    return found


def _empty(opened: View, layer: Layer) -> Moments:
    kernel = opened.kernel(layer)
    features = int(np.prod(kernel.shape[1:]))
    products = np.zeros((layer.groups, features, features)) if features <= LARGEST else None
    return Moments(np.zeros((layer.groups, features)), np.zeros((layer.groups, features)), products)


def _add(moments: Moments, layer: Layer, values: Array, number: int, runs: int, seen: Range, bits: int) -> None:
    features = moments.total.shape[1]
    most = int(np.clip(_PATCHES * features, _FEWEST, _MOST)) // max(1, runs) + 1
    real = patches(values, layer, most, number)
    rounded, moments.step = _rounded(real, seen, bits)
    moments.count += real.shape[1]
    moments.total += real.sum(axis=1, dtype=np.float64)
    moments.rounded += rounded.sum(axis=1, dtype=np.float64) * moments.step
    if moments.products is not None:
        moments.waiting.append(rounded if bits == 8 else rounded.astype(np.float64))
        moments.multiply(_AT_ONCE)


def _rounded(values: Array, seen: Range, bits: int) -> tuple[Array, float]:
    """As the quantized graph holds them, and the step of these integers: asymmetric in 8 bits, symmetric in 16."""
    if bits == 8:
        low, high = min(seen.min, 0.0), max(seen.max, 0.0)
    else:
        high = max(abs(seen.min), abs(seen.max))
        low = -high
    step = (high - low) / (2**bits - 1)
    if not step > 0:
        return values, 1.0
    zero = np.rint(low / step)
    clipped = np.clip(np.rint(values / step), zero, zero + 2**bits - 1)
    return np.asarray(clipped, np.float32), float(step)


def patches(values: Array, layer: Layer, most: int, number: int) -> Array:
    """At most `most` patches of a layer's input, evenly spread, others in each run: [groups, patches, features]."""
    if layer.window is None:
        rows = np.moveaxis(values, layer.axis, -1).reshape(1, -1, values.shape[layer.axis])
        return np.asarray(rows[:, _spread(rows.shape[1], most, number)], np.float32)
    return _windows(np.moveaxis(values, layer.axis, 1), layer.window, layer.groups, most, number)


def _windows(images: Array, window: Window, groups: int, most: int, number: int) -> Array:
    """Patches by their places alone: the rest of a large image is never touched."""
    reach = [(n - 1) * d + 1 for n, d in zip(window.size, window.dilations, strict=True)]
    sizes = zip(images.shape[2:], window.before, window.after, reach, window.strides, strict=True)
    places = [max(0, (size + before + after - far) // step + 1) for size, before, after, far, step in sizes]
    chosen = np.unravel_index(_spread(len(images) * int(np.prod(places)), most, number), (len(images), *places))
    rank = len(places)
    inside = np.ones((1,) * (rank + 1), bool)
    index = [chosen[0].reshape(-1, *[1] * rank)]
    for axis in range(rank):
        walk = np.arange(window.size[axis]) * window.dilations[axis] - window.before[axis]
        at = chosen[axis + 1][:, None] * window.strides[axis] + walk
        at = at.reshape(len(at), *[window.size[axis] if axis == other else 1 for other in range(rank)])
        inside = inside & (at >= 0) & (at < images.shape[axis + 2])
        index.append(np.clip(at, 0, images.shape[axis + 2] - 1))
    places_of: Any = (index[0], slice(None), *index[1:])
    taken = images[places_of] * inside[..., None]  # [patches, *window, channels]
    taken = np.moveaxis(taken, -1, 1)
    return np.ascontiguousarray(taken.reshape(len(taken), groups, -1).transpose(1, 0, 2), np.float32)


def _spread(count: int, most: int, number: int) -> NDArray[np.intp]:
    if count <= most:
        return np.arange(count)
    # A step of the golden ratio from run to run, so that runs complete each other.
    shift = (number * 0.6180339887) % 1.0
    return np.asarray(((np.arange(most) + shift) * count / most).astype(np.intp) % count)
