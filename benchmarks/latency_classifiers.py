"""Classifiers that published latencies name, from their published layer lists; detectors use them as backbones.

Sources: MobileNetV1 (arXiv 1704.04861), V2 (1801.04381), V3 (1905.02244), EfficientNet-Lite (tensorflow/tpu
efficientnet/lite), ResNet (1512.03385), VGG (1409.1556), Inception-v4 and Inception-ResNet-v2 (1602.07261, tensorflow/
models research/slim/nets).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from latency_layers import Map, Net, eight

from edgekit.predict.work import Kernel


def _classes(net: Net, count: int = 1001) -> list[Kernel]:
    net.mean()
    net.dense(count)
    net.map("SOFTMAX", 1)
    return net.kernels


# -- MobileNets -------------------------------------------------------------------------------------------------------

V1 = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
V2 = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
V3_LARGE = [
    (3, 16, 16, 0, "r", 1), (3, 64, 24, 0, "r", 2), (3, 72, 24, 0, "r", 1), (5, 72, 40, 1, "r", 2),
    (5, 120, 40, 1, "r", 1), (5, 120, 40, 1, "r", 1), (3, 240, 80, 0, "h", 2), (3, 200, 80, 0, "h", 1),
    (3, 184, 80, 0, "h", 1), (3, 184, 80, 0, "h", 1), (3, 480, 112, 1, "h", 1), (3, 672, 112, 1, "h", 1),
    (5, 672, 160, 1, "h", 2), (5, 960, 160, 1, "h", 1), (5, 960, 160, 1, "h", 1),
]  # fmt: skip
V3_SMALL = [
    (3, 16, 16, 1, "r", 2), (3, 72, 24, 0, "r", 2), (3, 88, 24, 0, "r", 1), (5, 96, 40, 1, "h", 2),
    (5, 240, 40, 1, "h", 1), (5, 240, 40, 1, "h", 1), (5, 120, 48, 1, "h", 1), (5, 144, 48, 1, "h", 1),
    (5, 288, 96, 1, "h", 2), (5, 576, 96, 1, "h", 1), (5, 576, 96, 1, "h", 1),
]  # fmt: skip


def v1_body(net: Net, width: float, stop: int = 13) -> list[Map]:
    seen = [net.conv(eight(32 * width), 3, 2)]
    for channels, stride in V1[:stop]:
        net.depthwise(3, stride)
        seen.append(net.conv(eight(channels * width)))
    return seen


def mobilenet_v1(precision: str, width: float, side: int) -> list[Kernel]:
    net = Net(precision, (side, side, 3))
    v1_body(net, width)
    return _classes(net)


def inverted(net: Net, expand: int, out: int, stride: int, kernel: int = 3) -> Map:
    """Expanded map is returned, for SSD."""
    before = net.at
    wide = net.conv(before[2] * expand) if expand != 1 else before
    net.depthwise(kernel, stride)
    net.conv(out)
    if stride == 1 and before[2] == out:
        net.map()
    return wide


def v2_body(net: Net, width: float) -> list[Map]:
    net.conv(eight(32 * width), 3, 2)
    wides = []
    for expand, channels, count, stride in V2:
        for number in range(count):
            wides.append(inverted(net, expand, eight(channels * width), stride if number == 0 else 1))
    return wides


def mobilenet_v2(precision: str, width: float, side: int) -> list[Kernel]:
    net = Net(precision, (side, side, 3))
    v2_body(net, width)
    net.conv(eight(1280 * max(1.0, width)))
    return _classes(net)


def v3_block(net: Net, kernel: int, wide: int, out: int, excite: int, act: str, stride: int) -> Map:
    """Expanded map is returned, for SSD."""
    before = expanded = net.at

    def activate() -> None:
        if act == "h":
            net.map("HARD_SWISH", 1)

    if wide != before[2]:
        expanded = net.conv(wide)
        activate()
    net.depthwise(kernel, stride)
    activate()
    if excite:
        full = net.at
        net.mean()
        net.conv(eight(wide / 4))
        net.conv(wide)
        net.map("ADD", 1)
        net.map("MUL", 1)
        net.at = full
        net.map("MUL", 1)
    net.conv(out)
    if stride == 1 and before[2] == out:
        net.map()
    return expanded


def mobilenet_v3(precision: str, size: str, width: float, *, minimal: bool = False, side: int = 224) -> list[Kernel]:
    net = Net(precision, (side, side, 3))
    net.conv(16, 3, 2)
    if not minimal:
        net.map("HARD_SWISH", 1)
    table, last, head = (V3_LARGE, 960, 1280) if size == "large" else (V3_SMALL, 576, 1024)
    for kernel, wide, out, excite, act, stride in table:
        wide_now = (
            eight(wide / _inner(table, wide, out) * eight(_inner(table, wide, out) * width)) if width != 1 else wide
        )
        v3_block(net, 3 if minimal else kernel, wide_now, eight(out * width), 0 if minimal else excite,
                 "r" if minimal else act, stride)  # fmt: skip
    net.conv(eight(last * width))
    if not minimal:
        net.map("HARD_SWISH", 1)
    net.mean()
    net.conv(head if width <= 1 else eight(head * width))
    if not minimal:
        net.map("HARD_SWISH", 1)
    net.dense(1001)
    net.map("SOFTMAX", 1)
    return net.kernels


def _inner(table: list[tuple[int, int, int, int, str, int]], wide: int, out: int) -> int:
    """Channels before a block: its expansion is a multiple of them."""
    before = 16
    for _, w, o, *_ in table:
        if (w, o) == (wide, out):
            return before
        before = o
    return before


# -- EfficientNet ---------------------------------------------------------------------------------------------------

LITE = [(1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
        (6, 320, 1, 1, 3)]  # fmt: skip
LITES = {0: (1.0, 1.0, 224), 1: (1.0, 1.1, 240), 2: (1.1, 1.2, 260), 3: (1.2, 1.4, 280), 4: (1.4, 1.8, 300)}


def lite_body(net: Net, width: float, depth: float) -> dict[int, Map]:
    """Feature maps by level (stride 2**level)."""
    net.conv(32, 3, 2)
    levels, level = {}, 1
    for number, (expand, channels, count, stride, kernel) in enumerate(LITE):
        repeats = count if number in (0, len(LITE) - 1) else math.ceil(count * depth)
        for n in range(repeats):
            inverted(net, expand, eight(channels * width), stride if n == 0 else 1, kernel)
        level += stride == 2
        levels[level] = net.at
    return levels


def efficientnet_lite(precision: str, number: int) -> list[Kernel]:
    width, depth, side = LITES[number]
    net = Net(precision, (side, side, 3))
    lite_body(net, width, depth)
    net.conv(1280)
    return _classes(net, 1000)


# -- the others -------------------------------------------------------------------------------------------------------


def resnet50_body(net: Net, *, newer: bool = True) -> list[Map]:
    """Feature maps of strides 4 to 32; `newer`: v1.5, the stride in the 3x3."""
    net.conv(64, 7, 2)
    net.pool(3, 2)
    seen = []
    for stage, (channels, count) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)]):
        for number in range(count):
            stride = 2 if stage and number == 0 else 1
            before = net.at
            net.conv(channels, 1, 1 if newer else stride)
            net.conv(channels, 3, stride if newer else 1)
            after = net.conv(4 * channels)
            if number == 0:
                net.at = before
                net.conv(4 * channels, 1, stride)
            net.at = after
            net.map()
        seen.append(net.at)
    return seen


def resnet50(precision: str, *, newer: bool = True, side: int = 224) -> list[Kernel]:
    net = Net(precision, (side, side, 3))
    resnet50_body(net, newer=newer)
    return _classes(net)


def vgg16(precision: str) -> list[Kernel]:
    net = Net(precision, (224, 224, 3))
    for channels, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            net.conv(channels, 3)
        net.pool(2, 2)
    for out in (4096, 4096, 1000):
        net.dense(out)
    return net.kernels


# -- Inception --------------------------------------------------------------------------------------------------------


def _path(net: Net, *layers: tuple[int, int | tuple[int, int]] | tuple[int, int, int]) -> Callable[[], None]:
    """Convolutions one after the other: (channels, kernel), or (channels, kernel, 2) without padding, of stride 2."""

    def run() -> None:
        for out, kernel, *stride in layers:
            if stride:
                net.conv(out, kernel, 2, valid=True)
            else:
                net.conv(out, kernel)

    return run


def _halved(net: Net) -> Callable[[], None]:
    return lambda: net.pool(3, 2, valid=True)


def _averaged(net: Net, out: int) -> Callable[[], None]:
    def run() -> None:
        net.pool(3, 1, kind="AVERAGE_POOL_2D")
        net.conv(out)

    return run


def inception_v4(precision: str) -> list[Kernel]:
    net = Net(precision, (299, 299, 3))
    net.conv(32, 3, 2, valid=True)
    net.conv(32, 3, valid=True)
    net.conv(64, 3)
    net.branches(_halved(net), _path(net, (96, 3, 2)))

    def last(*before: tuple[int, int | tuple[int, int]]) -> Callable[[], None]:
        def run() -> None:
            _path(net, *before)()
            net.conv(96, 3, valid=True)

        return run

    net.branches(last((64, 1)), last((64, 1), (64, (1, 7)), (64, (7, 1))))
    net.branches(_path(net, (192, 3, 2)), _halved(net))
    for _ in range(4):
        net.branches(_path(net, (96, 1)), _path(net, (64, 1), (96, 3)), _path(net, (64, 1), (96, 3), (96, 3)),
                     _averaged(net, 96))  # fmt: skip
    net.branches(_path(net, (384, 3, 2)), _path(net, (192, 1), (224, 3), (256, 3, 2)), _halved(net))
    for _ in range(7):
        net.branches(
            _path(net, (384, 1)), _path(net, (192, 1), (224, (1, 7)), (256, (7, 1))),
            _path(net, (192, 1), (192, (7, 1)), (224, (1, 7)), (224, (7, 1)), (256, (1, 7))), _averaged(net, 128),
        )  # fmt: skip
    net.branches(_path(net, (192, 1), (192, 3, 2)), _path(net, (256, 1), (256, (1, 7)), (320, (7, 1)), (320, 3, 2)),
                 _halved(net))  # fmt: skip

    def forked(*before: tuple[int, int | tuple[int, int]]) -> Callable[[], None]:
        def run() -> None:
            _path(net, *before)()
            net.branches(_path(net, (256, (1, 3))), _path(net, (256, (3, 1))))

        return run

    for _ in range(3):
        net.branches(_path(net, (256, 1)), forked((384, 1)), forked((384, 1), (448, (3, 1)), (512, (1, 3))),
                     _averaged(net, 256))  # fmt: skip
    return _classes(net)


def _residual(net: Net, *paths: Callable[[], None]) -> None:
    before = net.at
    net.branches(*paths)
    net.conv(before[2])
    net.map("MUL", 1)  # the branch is scaled before it is added
    net.map()


def inception_resnet_v2(precision: str) -> list[Kernel]:
    net = Net(precision, (299, 299, 3))
    net.conv(32, 3, 2, valid=True)
    net.conv(32, 3, valid=True)
    net.conv(64, 3)
    net.pool(3, 2, valid=True)
    net.conv(80)
    net.conv(192, 3, valid=True)
    net.pool(3, 2, valid=True)
    net.branches(_path(net, (96, 1)), _path(net, (48, 1), (64, 5)), _path(net, (64, 1), (96, 3), (96, 3)),
                 _averaged(net, 64))  # fmt: skip
    for _ in range(10):
        _residual(net, _path(net, (32, 1)), _path(net, (32, 1), (32, 3)), _path(net, (32, 1), (48, 3), (64, 3)))
    net.branches(_path(net, (384, 3, 2)), _path(net, (256, 1), (256, 3), (384, 3, 2)), _halved(net))
    for _ in range(20):
        _residual(net, _path(net, (192, 1)), _path(net, (128, 1), (160, (1, 7)), (192, (7, 1))))
    net.branches(_path(net, (256, 1), (384, 3, 2)), _path(net, (256, 1), (288, 3, 2)),
                 _path(net, (256, 1), (288, 3), (320, 3, 2)), _halved(net))  # fmt: skip
    for _ in range(10):
        _residual(net, _path(net, (192, 1)), _path(net, (192, 1), (224, (1, 3)), (256, (3, 1))))
    net.conv(1536)
    return _classes(net)
