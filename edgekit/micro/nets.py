"""The tiny networks: what they are made of, apart from any format."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["conv", "depthwise", "dense", "add", "mul", "max", "average", "mean", "softmax", "sigmoid", "swish",
               "tanh", "concat", "transpose", "pad", "resize", "slice", "lstm", "gru", "attend", "linear", "normalize",
               "gelu", "relu", "gate", "spread", "larger", "cut", "join", "bilinear", "turn", "rescale",
               "weave", "back"]  # fmt: skip
Map = tuple[int, int, int]


@dataclass(frozen=True)
class Layer:
    """One layer. Convolutions and dense layers end in a ReLU; `add`, `mul` and `larger` (a maximum) take their input
    and the first tensor of its shape, for engines have shorter ways with the same one twice; `concat` takes its input
    twice; `slice` keeps every second row and column, `cut` the first half of the channels; `join` doubles
    them, row by row; `turn` brings them to the front, `back` the first axis to
    the end. `lstm` and `gru` take each place of the map as a step, `attend`,
    `linear` and `normalize` as a row: products of a map with itself and a softmax between, in as many heads as the
    kernel says; a dense layer without activation; a normalization. `gate` scales channels by what two small
    convolutions make of their means, `spread` is a transposed convolution that doubles the size, `relu` an op of
    its own; `weave` takes channels from either half in turn,
    `rescale` changes the grid of integers, or rounds floats to one and back.

    Attributes:
        kind: What it is.
        out: Channels, where they change.
        kernel, stride: Of convolutions and pooling.
    """

    kind: Kind
    out: int = 0
    kernel: int = 1
    stride: int = 1


@dataclass(frozen=True)
class Net:
    """Layers one after the other.

    Attributes:
        name: Unique.
        shape: Height, width and channels of the input.
        layers: In order.
        free: Its number of samples is left open, where the format says what that means for the graph.
    """

    name: str
    shape: Map
    layers: tuple[Layer, ...]
    free: bool = False

    def maps(self) -> Iterator[tuple[Layer, Map, Map]]:
        """Each layer with its input's and its output's shape."""
        at = self.shape
        for layer in self.layers:
            after = _after(layer, at)
            yield layer, at, after
            at = after


def _after(layer: Layer, at: Map) -> Map:
    height, width, channels = at
    match layer.kind:
        case "lstm" | "gru":
            return height, width, layer.out
        case "slice":
            return -(-height // 2), -(-width // 2), channels
        case "linear":
            return height, width, layer.out
        case "turn":
            return channels, height, width
        case "back":
            return width, channels, height
        case "cut":
            return height, width, channels // 2
        case "spread":
            return 2 * height, 2 * width, layer.out
        case "conv" | "depthwise" | "max" | "average":
            out = layer.out or channels
            return -(-height // layer.stride), -(-width // layer.stride), out
        case "dense":
            return 1, 1, layer.out
        case "mean":
            return 1, 1, channels
        case "concat" | "join":
            return height, width, 2 * channels
        case "transpose":
            return width, height, channels
        case "pad":
            return height + 2, width + 2, channels
        case "resize" | "bilinear":
            return 2 * height, 2 * width, channels
        case _:
            return at


def _conv(out: int, kernel: int = 1, stride: int = 1) -> Layer:
    return Layer("conv", out, kernel, stride)


def _wise(kernel: int = 3, stride: int = 1) -> Layer:
    return Layer("depthwise", 0, kernel, stride)


def _chain(name: str, shape: Map, *layers: Layer, free: bool = False) -> Net:
    return Net(name, shape, layers, free)


def _cells(count: int) -> tuple[Layer, ...]:
    """Steps of a recurrence, written out: many ops with little to do."""
    return (
        Layer("dense", 32), Layer("sigmoid"), Layer("mul"), Layer("dense", 32), Layer("tanh"), Layer("add"),
        Layer("cut"), Layer("join"),
    ) * count  # fmt: skip


def _curves(count: int) -> tuple[Layer, ...]:
    """Elementwise ops with others of two tensors between them, so that none holds the next."""
    return (Layer("mul"), Layer("sigmoid"), Layer("mul"), Layer("tanh"), Layer("add"), Layer("rescale")) * count


def _mixed() -> tuple[Layer, ...]:
    """Different ops one after the other, as real networks have them: their code is not warm."""
    return (
        _conv(16), Layer("add"), Layer("sigmoid"), Layer("mul"), Layer("transpose"), _wise(), Layer("concat"),
        _conv(16), Layer("softmax"), Layer("add"), Layer("pad"), Layer("max", 0, 2, 2), Layer("tanh"), Layer("mul"),
        Layer("average", 0, 2, 2),
    )  # fmt: skip


def nets(*, quick: bool = False) -> tuple[Net, ...]:
    """All of them, from the fastest on; with `quick` about every second."""
    found = [
        _chain("nothing", (1, 1, 8), Layer("add")),
        _chain("attending", (1, 17, 32), Layer("attend", 0, 4)),
        _chain("attending-alone", (1, 17, 32), Layer("attend"), Layer("attend")),
        _chain("attending-long", (1, 64, 32), Layer("attend", 0, 2)),
        _chain("attending-wide", (1, 32, 96), Layer("attend", 0, 8), Layer("attend")),
        _chain("lines", (1, 16, 32), Layer("linear", 32), Layer("linear", 64), Layer("linear", 32)),
        _chain("lines-wide", (1, 50, 96), Layer("linear", 192), Layer("linear", 96), free=True),
        _chain("normal", (1, 16, 32), Layer("normalize"), Layer("normalize")),
        _chain("normal-wide", (1, 64, 96), Layer("normalize")),
        _chain("errors", (1, 16, 64), Layer("gelu"), Layer("gelu")),
        _chain("errors-large", (1, 64, 128), Layer("gelu")),
        _chain("block", (1, 16, 32), Layer("linear", 32), Layer("attend", 0, 4), Layer("add"), Layer("normalize"),
            Layer("linear", 64), Layer("gelu"), Layer("linear", 32), Layer("add"), Layer("normalize"), free=True),
        _chain("block-wide", (1, 49, 64), Layer("normalize"), Layer("linear", 64), Layer("attend", 0, 4), Layer("add"),
            Layer("normalize"), Layer("linear", 256), Layer("gelu"), Layer("linear", 64), Layer("add"), free=True),
        _chain("cutoff", (16, 16, 32), *[Layer("relu")] * 3),
        _chain("cutoff-large", (48, 48, 32), Layer("relu")),
        _chain("gates", (12, 12, 32), _wise(), Layer("gate"), _conv(32), Layer("gate")),
        _chain("gates-small", (4, 4, 16), Layer("gate"), Layer("gate")),
        _chain("spreading", (8, 8, 16), Layer("spread", 16), Layer("spread", 8)),
        _chain("largest", (16, 16, 32), *[Layer("larger")] * 3),
        _chain("cutting", (24, 24, 32), Layer("cut"), Layer("cut")),
        _chain("weaving", (12, 12, 16), Layer("join"), Layer("cut"), Layer("join"), Layer("cut")),
        _chain("smooth", (12, 12, 16), Layer("bilinear"), Layer("bilinear")),
        _chain("many-small", (4, 4, 8), *[_conv(8), Layer("add"), _wise(), Layer("relu"), Layer("sigmoid")] * 4),
        _chain("inverted", (16, 16, 16), _conv(64), _wise(), _conv(16), Layer("add"), _conv(64), _wise(3, 2), _conv(24),
            _conv(96), _wise(), _conv(24), Layer("add")),
        _chain("residual", (16, 16, 16), _conv(16, 3), _conv(16, 3), Layer("add"), _conv(32, 3, 2), _conv(32, 3),
            Layer("add"), Layer("relu")),
        _chain("pyramid", (16, 16, 16), _conv(16, 3), Layer("max", 0, 2, 2), _conv(32, 3), Layer("resize"),
            _conv(16, 3), Layer("concat"), _conv(16, 3)),
        _chain("short", (1, 1, 64), *[Layer("add")] * 8),
        _chain("dense-small", (1, 1, 64), *[Layer("dense", 64)] * 4),
        _chain("dense", (1, 1, 256), *[Layer("dense", 256)] * 4),
        _chain("dense-large", (1, 1, 1024), Layer("dense", 1024), Layer("dense", 1024)),
        _chain("image-small", (32, 32, 3), _conv(16, 3)),
        _chain("image", (96, 96, 3), _conv(16, 3, 2)),
        _chain("narrow", (32, 32, 16), *[_conv(16, 3)] * 3),
        _chain("middle", (16, 16, 32), *[_conv(32, 3)] * 3),
        _chain("wide", (8, 8, 64), *[_conv(64, 3)] * 3),
        _chain("heavy", (14, 14, 128), *[_conv(128, 3)] * 2),
        _chain("point-narrow", (48, 48, 8), _conv(16), _conv(16), _conv(16)),
        _chain("point-middle", (24, 24, 32), _conv(64), _conv(64), _conv(32)),
        _chain("point-wide", (7, 7, 256), _conv(256), _conv(256)),
        _chain("point-tiny", (3, 3, 128), *[_conv(128)] * 4),
        _chain("large-window", (24, 24, 16), _conv(16, 5), _conv(16, 5)),
        _chain("halving", (32, 32, 16), _conv(32, 3, 2), _conv(64, 3, 2), _conv(64, 1, 2)),
        _chain("wise-narrow", (48, 48, 8), *[_wise()] * 3),
        _chain("wise-middle", (24, 24, 64), *[_wise()] * 3),
        _chain("wise-wide", (6, 6, 256), *[_wise()] * 4),
        _chain("wise-five", (20, 20, 64), *[_wise(5)] * 3),
        _chain("wise-seven", (16, 16, 32), _wise(7), _wise(7)),
        _chain("next", (16, 16, 24), _wise(7), Layer("normalize"), Layer("linear", 96), Layer("gelu"),
            Layer("linear", 24), Layer("add"), free=True),
        _chain("turned", (32, 32, 3), Layer("turn")),
        _chain("turned-large", (64, 64, 16), Layer("turn")),
        _chain("turned-wide", (8, 8, 64), Layer("turn")),
        _chain("cells", (1, 1, 32), *_cells(3)),
        _chain("cells-many", (1, 1, 16), *_cells(20)),
        _chain("cells-hundreds", (1, 1, 16), *_cells(80)),
        _chain("curves", (16, 16, 32), *_curves(2)),
        _chain("curves-small", (1, 4, 16), *_curves(10)),
        _chain("wise-halving", (48, 48, 32), _wise(3, 2), _wise(3, 2)),
        _chain("separable-large", (48, 48, 16), _wise(), _conv(32), _wise(3, 2), _conv(64)),
        _chain("separable-small", (12, 12, 64), *[_wise(), _conv(64)] * 3),
        _chain("adding", (32, 32, 32), *[Layer("add")] * 4),
        _chain("adding-large", (64, 64, 64), *[Layer("add")] * 2),
        _chain("scaling", (24, 24, 32), *[Layer("mul")] * 4),
        _chain("sigmoids", (16, 16, 32), *[Layer("sigmoid")] * 3),
        _chain("swishes", (16, 16, 32), *[Layer("swish")] * 2),
        _chain("tangents", (16, 16, 32), *[Layer("tanh")] * 2),
        _chain("classes", (1, 1, 1000), Layer("softmax")),
        _chain("pooling", (32, 32, 16), Layer("max", 0, 2, 1), Layer("max", 0, 3, 2)),
        _chain("averaging", (28, 28, 8), Layer("average", 0, 2, 2), Layer("average", 0, 3, 1)),
        _chain("one-channel", (28, 28, 1), _conv(8, 3, 2)),
        _chain("image-wide", (48, 48, 3), _conv(32, 3, 2)),
        _chain("few", (40, 40, 8), _conv(8, 3), _conv(8, 3)),
        _chain("means", (16, 16, 64), Layer("mean")),
        _chain("joining", (24, 24, 16), Layer("concat"), Layer("concat")),
        _chain("turning", (48, 64, 16), Layer("transpose")),
        _chain("padding", (24, 24, 16), *[Layer("pad")] * 3),
        _chain("growing", (16, 16, 16), Layer("resize"), Layer("resize")),
        _chain("thinning", (32, 32, 16), Layer("slice"), Layer("slice")),
        _chain("thinning-large", (48, 48, 32), Layer("slice")),
        _chain("remembering-short", (1, 8, 32), Layer("lstm", 32)),
        _chain("remembering", (1, 32, 16), Layer("lstm", 24)),
        _chain("remembering-wide", (1, 12, 64), Layer("lstm", 96)),
        _chain("gated-short", (1, 8, 32), Layer("gru", 32)),
        _chain("gated", (1, 32, 16), Layer("gru", 24)),
        _chain("gated-wide", (1, 12, 64), Layer("gru", 96)),
        _chain("mixed", (4, 4, 16), *_mixed()),
        _chain("mixed-twice", (8, 8, 8), *_mixed(), Layer("resize"), *_mixed()),
        _chain("mixed-large", (16, 16, 24), *_mixed(), _conv(24), *_mixed()),
        _chain("odd", (20, 20, 12), _conv(20, 3), _conv(40), _conv(12, 3, 2), _conv(36, 3)),
        _chain("odd-wide", (10, 10, 52), _conv(52, 3), _conv(84), _conv(28), _conv(76, 3, 2)),
        _chain("odd-points", (16, 16, 20), *[_conv(60), _conv(20), Layer("add")] * 2),
        _chain("odd-wise", (24, 24, 24), *[_wise()] * 2, _wise(5, 2), _wise(5)),
        _chain("odd-inverted", (14, 14, 20), *[_conv(72), _wise(5), _conv(20), Layer("add")] * 2),
        _chain("dense-blocks", (12, 12, 16), _conv(12, 3), Layer("concat"), _conv(20, 3), Layer("concat"), _conv(28, 3),
            Layer("concat"), _conv(12, 3), Layer("mean"), Layer("dense", 10)),
        _chain("deep", (4, 4, 8), *[_conv(24), _wise(), _conv(8), Layer("add"), Layer("relu"), Layer("mul")] * 14),
        _chain("deep-dense", (1, 1, 48), *[Layer("dense", 48), Layer("add"), Layer("sigmoid")] * 24),
        _chain("deep-lines", (1, 12, 32), *[Layer("linear", 64), Layer("gelu"), Layer("linear", 32), Layer("add"),
            Layer("normalize")] * 6, free=True),
        _chain("encoder", (1, 20, 48), *[Layer("linear", 48), Layer("attend", 0, 4), Layer("linear", 48), Layer("add"),
            Layer("normalize"), Layer("linear", 96), Layer("relu"), Layer("linear", 48), Layer("add"),
            Layer("normalize")] * 2, free=True),
        _chain("detector", (48, 48, 3), _conv(12, 3, 2), Layer("sigmoid"), Layer("mul"), _conv(24, 3, 2), Layer("relu"),
            _conv(24, 3), Layer("add"), Layer("max", 0, 5), Layer("concat"), _conv(24), Layer("resize"),
            Layer("concat"), _conv(20, 3), _conv(12)),
        _chain("rescaling", (16, 16, 32), *[Layer("rescale")] * 4),
        _chain("rescaling-small", (2, 2, 24), *[Layer("rescale"), Layer("add")] * 4),
        _chain("weaving-channels", (16, 16, 8), Layer("weave"), Layer("weave"), Layer("add")),
        _chain("back", (3, 32, 32), Layer("back")),
        _chain("back-large", (3, 64, 64), Layer("back")),
        _chain("back-image", (3, 48, 48), Layer("back"), _conv(16, 3, 2), Layer("turn")),
        _chain("back-wide", (16, 28, 28), Layer("back")),
        _chain("few-rows", (2, 2, 48), _conv(96), _conv(48), Layer("add"), _conv(96), _conv(48), Layer("add")),
        _chain("few-rows-wide", (3, 4, 32), _conv(64, 3), _conv(32, 3), Layer("add"), _conv(64), _conv(32)),
        _chain("tiny-classifier", (8, 8, 4), _conv(8, 3), _wise(), _conv(16, 1, 2), _wise(), _conv(16), Layer("mean"),
            Layer("dense", 8), Layer("sigmoid")),
        _chain("digits", (28, 28, 1), _conv(8, 5), Layer("max", 0, 2, 2), _conv(16, 5), Layer("max", 0, 3, 3),
            Layer("dense", 10)),
        _chain("small-classifier", (32, 32, 3), _conv(16, 3), _conv(16, 3), _conv(32, 3, 2), _conv(64, 3, 2),
            Layer("mean"), Layer("dense", 10), Layer("softmax")),
        _chain("mobile", (96, 96, 3), _conv(8, 3, 2), *[_wise(), _conv(16)], *[_wise(3, 2), _conv(32)], *[_wise(),
            _conv(32)], *[_wise(3, 2), _conv(64)], *[_wise(), _conv(64)], Layer("mean"), Layer("dense", 10),
            Layer("softmax")),
        _chain("spreading-wide", (16, 16, 48), Layer("spread", 24), Layer("spread", 3)),
    ]  # fmt: skip
    return tuple(found[::2] if quick else found)


def elements(shape: Map) -> int:
    return math.prod(shape)
