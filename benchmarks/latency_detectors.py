"""Detectors that published latencies name, from their published descriptions.

Sources: EfficientDet-Lite (google/automl efficientdet/hparams_config.py); SSD, SSDLite, MobileDet, MobileNetV3 and the
feature pyramids (tensorflow/models research/object_detection, models/ and samples/configs).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from latency_classifiers import LITES, V3_LARGE, V3_SMALL, lite_body, resnet50_body, v1_body, v2_body, v3_block
from latency_layers import Map, Net

from edgekit.predict.work import Kernel

DETS = {
    "0": (0, 320, 64, 3, 3), "1": (1, 384, 88, 4, 3), "2": (2, 448, 112, 5, 3), "3": (3, 512, 160, 6, 4),
    "3x": (3, 640, 200, 6, 4), "4": (4, 640, 224, 7, 4),
}  # fmt: skip


def efficientdet(precision: str, name: str, *, classes: int = 90) -> list[Kernel]:
    backbone, side, channels, cells, repeats = DETS[name]
    net = Net(precision, (side, side, 3))
    levels = lite_body(net, *LITES[backbone][:2])
    p = {level: levels[level] for level in (3, 4, 5)}
    net.at = p[5]
    net.conv(channels)
    net.pool(3, 2)
    p[6] = net.at
    net.pool(3, 2)
    p[7] = net.at
    for cell in range(cells):
        for level in (6, 5, 4, 3):  # top down
            if cell == 0 and level <= 5:
                net.at = p[level]
                net.conv(channels)
            net.at = (p[level][0], p[level][1], channels)
            net.move(math.prod(net.at), "RESIZE_NEAREST_NEIGHBOR")
            net.map()
            net.separable(channels)
        for level in (4, 5, 6, 7):  # bottom up
            below = level - 1
            if cell == 0 and level <= 5:
                net.at = p[level]
                net.conv(channels)
            net.at = (p[below][0], p[below][1], channels)
            net.pool(3, 2)
            net.map()
            if level != 7:
                net.map()
            net.separable(channels)
        p = {level: (*shape[:2], channels) for level, shape in p.items()}
    anchors = 0
    for level in range(3, 8):
        for out in (9 * classes, 9 * 4):
            net.at = p[level]
            for _ in range(repeats):
                net.separable(channels)
            net.separable(out)
        anchors += 9 * p[level][0] * p[level][1]
    return _told(net, anchors, classes)


# -- SSD --------------------------------------------------------------------------------------------------------------

EXTRAS = [(256, 512), (128, 256), (128, 256), (64, 128)]


def _boxes(net: Net, maps: list[Map], *, lite: bool, box: int = 1, classes: int = 91,
           extras: Sequence[tuple[int, int]] = EXTRAS) -> list[Kernel]:  # fmt: skip
    """Further maps behind the last one, predictions from all, post-processing; `box`: size of the predictors."""
    net.at = maps[-1]
    for inner, out in extras:
        net.conv(inner)
        if lite:
            net.depthwise(3, 2)
            net.conv(out)
        else:
            net.conv(out, 3, 2)
        maps.append(net.at)
    anchors = 0
    for number, shape in enumerate(maps):
        each = 3 if number == 0 else 6
        for out in (each * 4, each * classes):
            net.at = shape
            if lite:
                net.separable(out)
            else:
                net.conv(out, box)
        anchors += each * shape[0] * shape[1]
    return _told(net, anchors, classes)


def _told(net: Net, anchors: int, classes: int) -> list[Kernel]:
    net.at = (1, anchors, classes)
    net.move(anchors * (classes + 4))
    net.map("LOGISTIC", 1)
    net.detections(anchors, classes)
    return net.kernels


def ssd(precision: str, backbone: str, *, width: float = 1.0, lite: bool = False, box: int = 1) -> list[Kernel]:
    net = Net(precision, (300, 300, 3))
    if backbone == "v1":
        seen = v1_body(net, width)
        return _boxes(net, [seen[11], seen[13]], lite=lite, box=box)
    wides = v2_body(net, width)
    return _boxes(net, [wides[13], net.conv(1280)], lite=lite, box=box)


def ssd_v3(precision: str, size: str, side: int = 320) -> list[Kernel]:
    """The detection variant: blocks from the last stride on have half of the channels."""
    table, start, last = (V3_LARGE, 12, 480) if size == "large" else (V3_SMALL, 8, 288)
    net = Net(precision, (side, side, 3))
    net.conv(16, 3, 2)
    net.map("HARD_SWISH", 1)
    first: Map = net.at
    for number, (kernel, wide, out, excite, act, stride) in enumerate(table):
        narrow = out // 2 if number >= start else out
        expanded = v3_block(net, kernel, wide // 2 if number > start else wide, narrow, excite, act, stride)
        first = expanded if number == start else first
    net.conv(last)
    net.map("HARD_SWISH", 1)
    return _boxes(net, [first, net.at], lite=True)


EDGE = [  # (kernel, expansion, channels, stride, fused)
    (3, 8, 32, 2, 1), *[(3, 4, 32, 1, 1)] * 3, (3, 8, 48, 2, 1), *[(3, 4, 48, 1, 1)] * 3, (3, 8, 96, 2, 0),
    *[(3, 4, 96, 1, 0)] * 3, (3, 8, 96, 1, 0), *[(3, 4, 96, 1, 0)] * 3, (5, 8, 160, 2, 0), *[(5, 4, 160, 1, 0)] * 3,
    (3, 8, 192, 1, 0),
]  # fmt: skip


def ssd_edgetpu(precision: str, side: int = 320) -> list[Kernel]:
    """MobileNet-EdgeTPU: MobileNetV3's table with fused convolutions first."""
    net = Net(precision, (side, side, 3))
    net.conv(32, 3, 2)
    net.conv(16)
    first: Map = net.at
    for number, (kernel, expansion, out, stride, fused) in enumerate(EDGE):
        before = net.at
        expanded = net.conv(before[2] * expansion, kernel if fused else 1, stride if fused else 1)
        first = expanded if number == 15 else first
        if not fused:
            net.depthwise(kernel, stride)
        net.conv(out)
        if stride == 1 and before[2] == out and number != 12:
            net.map()
    return _boxes(net, [first, net.at], lite=True)


DET_CPU = [  # (kernel, expansion, channels, stride, added)
    (3, 4, 16, 2, 0), (3, 8, 32, 2, 0), *[(3, 4, 32, 1, 1)] * 3, (5, 8, 72, 2, 0), (3, 8, 72, 1, 1), (5, 4, 72, 1, 1),
    (3, 4, 72, 1, 1), (3, 8, 72, 1, 0), *[(3, 8, 72, 1, 1)] * 3, (5, 8, 104, 2, 0), *[(5, 4, 104, 1, 1)] * 2,
    (3, 4, 104, 1, 1), (3, 8, 144, 1, 0),
]  # fmt: skip
DET_TPU = [  # (kernel, expansion, channels, stride, added, fused)
    (3, 8, 16, 2, 0, 1), (3, 4, 16, 1, 1, 1), (3, 8, 16, 1, 1, 1), (3, 4, 16, 1, 1, 1), (5, 8, 40, 2, 0, 1),
    *[(3, 4, 40, 1, 1, 1)] * 3, (3, 8, 72, 2, 0, 0), (3, 8, 72, 1, 1, 0), *[(3, 4, 72, 1, 1, 1)] * 2,
    (5, 8, 96, 1, 0, 0), (5, 8, 96, 1, 1, 0), *[(3, 8, 96, 1, 1, 0)] * 2, (5, 8, 120, 2, 0, 0), (3, 8, 120, 1, 1, 0),
    (5, 4, 120, 1, 1, 0), (3, 8, 120, 1, 1, 0), (5, 8, 384, 1, 0, 0),
]  # fmt: skip


def mobiledet_cpu(precision: str, side: int = 320) -> list[Kernel]:
    net = Net(precision, (side, side, 3))

    def excite() -> None:
        net.map("HARD_SWISH", 1)
        net.excite(max(8, int(net.at[2] / 32 + 0.5) * 8), act="HARD_SWISH")

    net.conv(16, 3, 2)
    net.map("HARD_SWISH", 1)
    net.depthwise()
    excite()
    net.conv(8)
    maps = []
    for number, (kernel, expansion, out, stride, added) in enumerate(DET_CPU):
        net.conv(net.at[2] * expansion)
        net.map("HARD_SWISH", 1)
        net.depthwise(kernel, stride)
        excite()
        net.conv(out)
        if added:
            net.map()
        if number in (12, len(DET_CPU) - 1):
            maps.append(net.at)
    return _boxes(net, maps, lite=True)


def mobiledet_edgetpu(precision: str, side: int = 320) -> list[Kernel]:
    net = Net(precision, (side, side, 3))
    for out, kernel, stride in ((32, 3, 2), (8, 1, 1), (16, 3, 1), (16, 1, 1)):
        net.conv(out, kernel, stride)
    maps = []
    for number, (kernel, expansion, out, stride, added, fused) in enumerate(DET_TPU):
        net.conv(net.at[2] * expansion, kernel if fused else 1, stride if fused else 1)
        if not fused:
            net.depthwise(kernel, stride)
        net.conv(out)
        if added:
            net.map()
        if number in (15, len(DET_TPU) - 1):
            maps.append(net.at)
    return _boxes(net, maps, lite=True)


def pyramid(precision: str, backbone: str, side: int = 640, classes: int = 91) -> list[Kernel]:
    """SSD with a feature pyramid and shared predictors of four 3x3 convolutions (RetinaNet)."""
    net = Net(precision, (side, side, 3))
    if backbone == "v1":
        seen = v1_body(net, 1.0)
        levels = [seen[5], seen[11], seen[13]]
    else:
        levels = resnet50_body(net, newer=False)[1:]
    shapes = []
    for number, level in enumerate(reversed(levels)):
        net.at = level
        net.conv(256)
        if number:
            net.move(math.prod(net.at), "RESIZE_NEAREST_NEIGHBOR")
            net.map()
            net.conv(256, 3)
        shapes.append(net.at)
    net.at = shapes[0]
    for _ in range(2):
        shapes.append(net.conv(256, 3, 2))
    anchors = 0
    for shape in shapes:
        for out in (6 * 4, 6 * classes):
            net.at = shape
            for _ in range(4):
                net.conv(256, 3)
            net.conv(out, 3)
        anchors += 6 * shape[0] * shape[1]
    return _told(net, anchors, classes)
