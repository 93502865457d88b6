"""Layers of tiny TFLite networks that are several ops: what transformers and gated networks are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.micro.flat import Scalar
from edgekit.micro.nets import Layer, Map

if TYPE_CHECKING:
    from edgekit.micro.tflite import Writer

_RELU = 1
_SHARE = 1 / 256, -128
"""Scale and zero point of what lies between 0 and 1."""
_SMALL = 1.0e-3
_COARSE, _FINE = (0.06, -2), (0.05, 3)
"""Grids to change between."""


def attend(writer: Writer, layer: Layer, before: Map, _: Map, at: int, number: int) -> int:
    """Every row by its likeness to every other: two products of activations, and a softmax between, in each head."""
    import numpy as np

    rows, heads = before[0] * before[1], layer.kernel
    shape = (1, heads, rows, before[2] // heads)
    order = writer.constant(np.array([0, 2, 1, 3], np.int32), f"order{number}")
    flat = writer.shaped(at, (1, rows, heads, shape[3]), f"a{number}")
    if heads > 1:
        apart = writer.tensor(shape, f"h{number}")
        writer.op("TRANSPOSE", [flat, order], apart, {})
    else:
        apart = writer.shaped(flat, shape, f"h{number}")
    scores = writer.tensor((1, heads, rows, rows), f"s{number}")
    writer.op("BATCH_MATMUL", [apart, apart], scores, {1: Scalar("B", 1)})
    shares = writer.tensor((1, heads, rows, rows), f"p{number}", _SHARE)
    writer.op("SOFTMAX", [scores], shares, {0: Scalar("f", 1.0)})
    found = writer.tensor(shape, f"v{number}")
    writer.op("BATCH_MATMUL", [shares, apart], found, {})
    if heads > 1:
        joined = writer.tensor((1, rows, heads, shape[3]), f"j{number}")
        writer.op("TRANSPOSE", [found, order], joined, {})
        found = joined
    return writer.shaped(found, (1, *before), f"z{number}")


def linear(writer: Writer, layer: Layer, before: Map, after: Map, at: int, number: int) -> int:
    """A dense layer for each row."""
    rows = before[0] * before[1]
    flat = writer.shaped(at, (1, rows, before[2]), f"a{number}")
    found = writer.tensor((1, rows, layer.out), f"y{number}")
    weights = writer.weights((layer.out, before[2]), 0, number)
    writer.op("FULLY_CONNECTED", [flat, *weights], found, {2: Scalar("B", 1)})
    return writer.shaped(found, (1, *after), f"z{number}")


def normalize(writer: Writer, _: Layer, before: Map, __: Map, at: int, number: int) -> int:
    """Mean 0 and variance 1 over the channels, op by op, as converters write it."""
    import numpy as np

    height, width, channels = before
    axis = writer.constant(np.array([3], np.int32), f"axis{number}")

    def mean(source: int, name: str) -> int:
        found = writer.tensor((1, height, width, 1), f"{name}{number}")
        writer.op("MEAN", [source, axis], found, {0: Scalar("B", 1)})
        return found

    def both(kind: str, one: int, other: int, name: str, size: int = channels) -> int:
        found = writer.tensor((1, height, width, size), f"{name}{number}")
        writer.op(kind, [one, other], found, {})
        return found

    centered = both("SUB", at, mean(at, "m"), "c")
    variance = mean(both("MUL", centered, centered, "q"), "v")
    held = both("ADD", variance, writer.filled((1, 1, 1, 1), _SMALL, f"e{number}"), "h", 1)
    spread = writer.tensor((1, height, width, 1), f"r{number}")
    writer.op("RSQRT", [held], spread, {})
    return both("MUL", centered, spread, "y")


def gate(writer: Writer, _: Layer, before: Map, __: Map, at: int, number: int) -> int:
    """Channels scaled by what two small convolutions make of their means."""
    import numpy as np

    channels, few = before[2], max(1, before[2] // 4)
    axes = writer.constant(np.array([1, 2], np.int32), f"axes{number}")
    means = writer.tensor((1, 1, 1, channels), f"m{number}")
    writer.op("MEAN", [at, axes], means, {0: Scalar("B", 1)})
    one = {1: Scalar("i", 1), 2: Scalar("i", 1)}
    narrow = writer.tensor((1, 1, 1, few), f"n{number}")
    weights = writer.weights((few, 1, 1, channels), 0, number, "u")
    writer.op("CONV_2D", [means, *weights], narrow, {**one, 3: Scalar("b", _RELU)})
    wide = writer.tensor((1, 1, 1, channels), f"g{number}")
    writer.op("CONV_2D", [narrow, *writer.weights((channels, 1, 1, few), 0, number)], wide, one)
    shares = writer.tensor((1, 1, 1, channels), f"s{number}", _SHARE)
    writer.op("LOGISTIC", [wide], shares, {})
    found = writer.tensor((1, *before), f"y{number}")
    writer.op("MUL", [at, shares], found, {})
    return found


def spread(writer: Writer, layer: Layer, before: Map, after: Map, at: int, number: int) -> int:
    """A transposed convolution of windows of two by two, side by side."""
    import numpy as np

    shape = writer.constant(np.array([1, *after], np.int32), f"size{number}")
    weights = writer.weights((layer.out, 2, 2, before[2]), 0, number)
    found = writer.tensor((1, *after), f"y{number}")
    two = Scalar("i", 2)
    writer.op("TRANSPOSE_CONV", [shape, weights[0], at, weights[1]], found, {1: two, 2: two})
    return found


def rescale(writer: Writer, _: Layer, before: Map, __: Map, at: int, number: int) -> int:
    """Another grid of integers; of floats rounded to one and back."""
    shape = (1, *before)
    if writer.integer:
        found = writer.tensor(shape, f"y{number}", _COARSE if number % 2 == 0 else _FINE)
        writer.op("QUANTIZE", [at], found, {})
        return found
    stored = writer.tensor(shape, f"q{number}", _COARSE, integer=True)
    writer.op("QUANTIZE", [at], stored, {})
    found = writer.tensor(shape, f"y{number}")
    writer.op("DEQUANTIZE", [stored], found, {})
    return found


def weave(writer: Writer, _: Layer, before: Map, __: Map, at: int, number: int) -> int:
    """Channels of both halves in turn: matrices of two rows are turned, one a place."""
    import numpy as np

    height, width, channels = before
    order = writer.constant(np.array([0, 1, 2, 4, 3], np.int32), f"order{number}")
    apart = writer.shaped(at, (1, height, width, 2, channels // 2), f"a{number}")
    turned = writer.tensor((1, height, width, channels // 2, 2), f"t{number}")
    writer.op("TRANSPOSE", [apart, order], turned, {})
    return writer.shaped(turned, (1, *before), f"z{number}")


BLOCKS = {
    "rescale": rescale,
    "weave": weave,
    "attend": attend,
    "linear": linear,
    "normalize": normalize,
    "gate": gate,
    "spread": spread,
}
