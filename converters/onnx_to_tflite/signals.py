"""Operators on sequences and signals: reading backwards, and Fourier transforms whole and short-time.

A transform of a known length is a product with a constant matrix, and a short-time one a convolution with it: what
boards compute fast, and what can be quantized.
"""

from __future__ import annotations

import numpy as np

from edgekit.converters.onnx_to_tflite import steps
from edgekit.converters.onnx_to_tflite.convolutions import Window, conv_2d
from edgekit.converters.onnx_to_tflite.draft import Array
from edgekit.converters.onnx_to_tflite.linears import dense
from edgekit.converters.onnx_to_tflite.lowering import Lowering
from edgekit.converters.onnx_to_tflite.nodes import Node, axis_of
from edgekit.converters.onnx_to_tflite.refusal import Refused
from edgekit.converters.onnx_to_tflite.registry import lowers

_LARGEST = 1 << 23
"""Numbers of a matrix that is written into the file."""


@lowers("ReverseSequence")
def _reverse_sequence(low: Lowering, node: Node) -> None:
    """As exporters of recurrent layers write "backwards": every sequence as long as the tensor."""
    value, lengths = node.value(), node.constant(1, "lengths")
    along = axis_of(node.attribute("time_axis", 0), value.rank)
    if lengths is None or not (lengths == value.shape[along]).all():
        raise Refused("its sequences are of several lengths")
    order = low.order([value])
    x = low.get(value, order)
    place = low.draft.ints([order.index(along)])
    low.put(node.output, low.draft.emit("REVERSE_V2", [x, place], x.shape), order)


@lowers("STFT")
def _stft(low: Lowering, node: Node) -> None:
    signal, output = node.value(0), node.output
    step, window = node.ints("frame_step", 1), node.constant(2, "window")
    length = node.ints("frame_length", 3, None if window is None else [len(window)])
    if step is None or length is None:
        raise Refused("it has no step, or no length of a frame")
    if signal.rank == 3 and signal.shape[2] != 1:
        raise Refused("its signal is complex")
    (size,) = length
    waves = _waves(size, size, output.shape[2], 1)
    if window is not None:
        waves = waves * window.reshape(-1)
    x = steps.reshape(low.draft, low.get(signal), (signal.shape[0], 1, signal.shape[1], 1))
    kernel = low.draft.constant(waves.astype(np.float32).reshape(len(waves), 1, size, 1))
    move = Window((1, size), (1, step[0]), (1, 1), ((0, 0), (0, 0)))
    bias = low.draft.constant(np.zeros(len(waves), np.float32))
    low.put(output, steps.reshape(low.draft, conv_2d(low, x, kernel, bias, move), output.shape))


@lowers("DFT", since=17)
def _dft(low: Lowering, node: Node) -> None:
    value, output = node.value(), node.output
    given = node.ints("axis", 2, [1 if node.version < 20 else -2]) or [-2]
    axis = axis_of(given[0], value.rank)
    size, parts, bins = value.shape[axis], value.shape[-1], output.shape[axis]
    asked = node.constant(1, "length")
    if node.attribute("inverse", 0):
        if output.shape[-1] != 1:
            raise Refused("its complex answers cancel to zero, where float32 keeps no digits")
        weights = _back(size, bins, parts)
    else:
        weights = _waves(size, size if asked is None else int(asked.reshape(-1)[0]), bins, parts)
    order = (*(place for place in range(value.rank - 1) if place != axis), axis, value.rank - 1)
    x = low.get(value, order)
    made = dense(low, steps.reshape(low.draft, x, (*x.shape[:-2], size * parts)), weights.astype(np.float32))
    low.put(output, steps.reshape(low.draft, made, (*x.shape[:-2], bins, output.shape[-1])), order)


def _waves(size: int, length: int, bins: int, parts: int) -> Array:
    """float64 [bins * 2, size * parts]: real and imaginary part of each bin, of `size` real or complex samples.

    Of a transform of `length`, to which samples are cut or filled up with zeros.
    """
    _check_size(length, bins * 2 * size * parts)
    turns = np.outer(np.arange(bins), np.arange(size)) % length / length
    spun = np.exp(-2j * np.pi * turns) * (np.arange(size) < length)
    made = np.empty((bins, 2, size, parts))
    made[:, 0, :, 0], made[:, 1, :, 0] = spun.real, spun.imag
    if parts == 2:
        made[:, 0, :, 1], made[:, 1, :, 1] = -spun.imag, spun.real
    return made.reshape(bins * 2, size * parts)


def _back(size: int, length: int, parts: int) -> Array:
    """The same of the inverse transform to real samples: float64 [length, size * parts].

    Of `size` real or complex bins, the first half of a spectrum that is symmetric.
    """
    _check_size(length, length * size * parts)
    bins = np.arange(size)
    twice = (bins > 0) & (2 * bins != length)
    weights = np.where(twice, 2.0, 1.0) * (bins < length // 2 + 1) / length
    spun = np.exp(2j * np.pi * (np.outer(np.arange(length), bins) % length / length)) * weights
    made = np.empty((length, size, parts))
    made[:, :, 0] = spun.real
    if parts == 2:
        made[:, :, 1] = -spun.imag
    return made.reshape(length, size * parts)


def _check_size(length: int, numbers: int) -> None:
    if numbers > _LARGEST:
        raise Refused(f"a transform of {length} samples would be a matrix of {numbers} numbers")
