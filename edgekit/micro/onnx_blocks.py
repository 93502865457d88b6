"""Layers of tiny ONNX networks that are several operators: what transformers and gated networks are made of."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edgekit.micro.nets import Layer, Map

if TYPE_CHECKING:
    from edgekit.micro.onnx import Writer


def attend(writer: Writer, layer: Layer, before: Map, _: Map, at: str, number: int) -> str:
    """Every row by its likeness to every other: two products of activations, and a softmax between, in each head."""
    rows, heads = before[0] * before[1], layer.kernel
    flat = writer.shaped(at, (1, rows, heads, before[2] // heads), f"a{number}")
    apart = writer.step("Transpose", [flat], f"h{number}", perm=[0, 2, 1, 3])
    turned = writer.step("Transpose", [flat], f"t{number}", perm=[0, 2, 3, 1])
    scores = writer.step("MatMul", [apart, turned], f"s{number}")
    shares = writer.step("Softmax", [scores], f"p{number}", axis=3)
    found = writer.step("MatMul", [shares, apart], f"v{number}")
    joined = writer.step("Transpose", [found], f"j{number}", perm=[0, 2, 1, 3])
    return writer.shaped(joined, (1, before[2], *before[:2]), f"z{number}")


def cut(writer: Writer, _: Layer, before: Map, after: Map, at: str, number: int) -> str:
    """The first half of each row."""
    import numpy as np

    inputs = [_rows(writer, before, at, number)]
    for name, value in (("from", 0), ("to", after[2]), ("axes", 2)):
        inputs.append(writer.constant(np.array([value], np.int64), f"{name}{number}"))
    found = writer.step("Slice", inputs, f"y{number}")
    return writer.shaped(found, (1, after[2], *after[:2]), f"z{number}")


def join(writer: Writer, _: Layer, before: Map, after: Map, at: str, number: int) -> str:
    """Each row twice."""
    flat = _rows(writer, before, at, number)
    found = writer.step("Concat", [flat, flat], f"y{number}", axis=2)
    return writer.shaped(found, (1, after[2], *after[:2]), f"z{number}")


def softmax(writer: Writer, _: Layer, before: Map, __: Map, at: str, number: int) -> str:
    """Over the last axis, as networks have it: over another one onnxruntime would transpose."""
    found = writer.step("Softmax", [_rows(writer, before, at, number)], f"p{number}", axis=2)
    return writer.shaped(found, (1, before[2], *before[:2]), f"z{number}")


def linear(writer: Writer, layer: Layer, before: Map, after: Map, at: str, number: int) -> str:
    """A dense layer for each row."""
    import numpy as np

    flat = _rows(writer, before, at, number)
    shape = before[2], layer.out
    if writer.integer:  # the addition stays an operator of its own, of activations
        (weights,) = writer.weights(shape, before[2], layer.out, number, axis=1, parts="w")
        made = writer.step("MatMul", [flat, weights], f"m{number}")
        stored = writer.constant(np.full(layer.out, 128, np.uint8), f"c{number}")
        bias = writer.plain("DequantizeLinear", [stored, "scale", "zero"], f"d{number}")
    else:
        weights, bias = writer.weights(shape, before[2], layer.out, number, axis=1)
        made = writer.plain("MatMul", [flat, weights], f"m{number}")
    found = writer.step("Add", [made, bias], f"y{number}")
    return writer.shaped(found, (1, after[2], *after[:2]), f"z{number}")


def normalize(writer: Writer, _: Layer, before: Map, __: Map, at: str, number: int) -> str:
    """Mean 0 and variance 1 over the channels."""
    import numpy as np

    flat = _rows(writer, before, at, number)
    scale = writer.constant(np.ones(before[2], np.float32), f"g{number}")
    found = writer.step("LayerNormalization", [flat, scale], f"y{number}")
    return writer.shaped(found, (1, before[2], *before[:2]), f"z{number}")


def gate(writer: Writer, _: Layer, before: Map, __: Map, at: str, number: int) -> str:
    """Channels scaled by what two small convolutions make of their means."""
    channels, few = before[2], max(1, before[2] // 4)
    means = writer.step("GlobalAveragePool", [at], f"m{number}")
    weights = writer.weights((few, channels, 1, 1), channels, few, number, "u")
    narrow = writer.step("Conv", [means, *weights], f"n{number}")
    if not writer.integer:  # whose rounding cuts off as well, where the zero point is the lowest number
        narrow = writer.step("Relu", [narrow], f"r{number}")
    wide = writer.step("Conv", [narrow, *writer.weights((channels, few, 1, 1), few, channels, number)], f"e{number}")
    shares = writer.step("Sigmoid", [wide], f"s{number}")
    return writer.step("Mul", [at, shares], f"y{number}")


def spread(writer: Writer, layer: Layer, before: Map, _: Map, at: str, number: int) -> str:
    """A transposed convolution of windows of two by two, side by side; onnxruntime has none in integers."""
    import numpy as np

    shape = before[2], layer.out, 2, 2
    random = np.random.default_rng(number)
    weights = writer.constant((random.uniform(-1, 1, shape) / math.sqrt(before[2])).astype(np.float32), f"w{number}")
    return writer.step("ConvTranspose", [at, weights], f"y{number}", strides=[2, 2])


def _rows(writer: Writer, before: Map, at: str, number: int) -> str:
    """A row for each place: the elements as they lie, since only their number matters."""
    return writer.shaped(at, (1, before[0] * before[1], before[2]), f"a{number}")


def weave(writer: Writer, _: Layer, before: Map, __: Map, at: str, number: int) -> str:
    """Channels of both halves in turn."""
    height, width, channels = before
    apart = writer.shaped(at, (1, 2, channels // 2, height, width), f"a{number}")
    turned = writer.step("Transpose", [apart], f"t{number}", perm=[0, 2, 1, 3, 4])
    return writer.shaped(turned, (1, channels, height, width), f"z{number}")


BLOCKS = {
    "weave": weave,
    "attend": attend, "cut": cut, "gate": gate, "join": join, "linear": linear, "normalize": normalize,
    "softmax": softmax, "spread": spread,
}  # fmt: skip
