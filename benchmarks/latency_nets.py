"""The kernels of the networks that published latencies name, rebuilt from their published layer lists.

What a layer does to time depends on its sizes only, so that no weights are needed. `NETS[name](precision)` gives the
kernels that `edgekit.predict.plan` finds in the TFLite file of the same network; `python benchmarks/latency_nets.py`
compares MACs, depthwise MACs and activation traffic with model-facts.csv.

Sources: MobileNetV1 (arXiv 1704.04861), V2 (1801.04381), V3 (1905.02244), EfficientNet-Lite (tensorflow/tpu
efficientnet/lite), EfficientDet-Lite (google/automl efficientdet/hparams_config.py), SSD (tensorflow/models
research/object_detection/samples/configs), ResNet (1512.03385).
"""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.predict.work import Kernel, convolution, product, simple

TABLE = Path(__file__).resolve().parents[2] / "shared" / "data" / "model-facts.csv"
Map = tuple[int, int, int]


@dataclass
class Net:
    """Kernels of layers called one after the other; `at` is the feature map that they left."""

    precision: str
    at: Map
    kernels: list[Kernel] = field(default_factory=list)

    @property
    def size(self) -> float:
        return 1.0 if self.precision == "int8" else 4.0

    def conv(self, out: int, kernel: int = 1, stride: int = 1, *, groups: int = 1, valid: bool = False) -> Map:
        h, w, channels = self.at
        if valid:
            h, w = ((n - kernel) // stride + 1 for n in (h, w))
        else:
            h, w = -(-h // stride), -(-w // stride)
        found = convolution(self.at, (h, w, out), (kernel, kernel), groups, self.size, self.size)
        kind = "DEPTHWISE_CONV_2D" if groups == channels and groups > 1 else "CONV_2D"
        self.kernels.append(found.kernel(f"{len(self.kernels)}", kind, self.precision))
        self.at = (h, w, out)
        return self.at

    def depthwise(self, kernel: int = 3, stride: int = 1) -> Map:
        return self.conv(self.at[2], kernel, stride, groups=self.at[2])

    def separable(self, out: int, kernel: int = 3) -> None:
        self.depthwise(kernel)
        self.conv(out)

    def dense(self, out: int) -> None:
        depth = math.prod(self.at)
        self.kernels.append(
            product(1, depth, out, self.size, self.size).kernel("fc", "FULLY_CONNECTED", self.precision)
        )
        self.at = (1, 1, out)

    def map(self, kind: str = "ADD", reads: int = 2) -> None:
        count = math.prod(self.at)
        moved = self.size * count * (reads + 1)
        if kind in ("LOGISTIC", "SOFTMAX", "HARD_SWISH"):
            if kind == "HARD_SWISH":
                self.kernels.append(simple("act", kind, self.precision, "swish", count, moved))
            else:
                unit = "norm" if kind == "SOFTMAX" else "math"
                self.kernels.append(simple("act", kind, self.precision, unit, count, moved))
            return
        self.kernels.append(simple("map", kind, self.precision, "map", moved, moved))

    def mean(self) -> None:
        count = math.prod(self.at)
        self.kernels.append(simple("mean", "MEAN", self.precision, "reduce", count, self.size * count))
        self.at = (1, 1, self.at[2])

    def pool(self, window: int, stride: int, *, valid: bool = False) -> None:
        h, w, channels = self.at
        side = (lambda n: (n - window) // stride + 1) if valid else (lambda n: -(-n // stride))
        self.at = (side(h), side(w), channels)
        taps = math.prod(self.at) * window * window
        moved = self.size * (h * w * channels + math.prod(self.at))
        self.kernels.append(simple("pool", "MAX_POOL_2D", self.precision, "window", taps, moved))

    def move(self, count: float, kind: str = "CONCATENATION") -> None:
        moved = 2 * self.size * count
        unit = "shuffle" if kind.startswith("RESIZE") else "move"
        self.kernels.append(simple("move", kind, self.precision, unit, self.size * count, moved))

    def detections(self, anchors: int, classes: int) -> None:
        self.kernels.append(simple("boxes", "CUSTOM:TFLite_Detection_PostProcess", "fp32", "select",
                                   anchors * classes, 4.0 * anchors * (classes + 4)))  # fmt: skip


def eight(width: float, divisor: int = 8) -> int:
    """Channels as these networks round them."""
    rounded = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * width else rounded


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
    net.mean()
    net.dense(1001)
    net.map("SOFTMAX", 1)
    return net.kernels


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
    net.mean()
    net.dense(1001)
    net.map("SOFTMAX", 1)
    return net.kernels


def v3_block(net: Net, kernel: int, wide: int, out: int, excite: int, act: str, stride: int) -> None:
    before = net.at

    def activate() -> None:
        if act == "h":
            net.map("HARD_SWISH", 1)

    if wide != before[2]:
        net.conv(wide)
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


# -- EfficientNet and EfficientDet ------------------------------------------------------------------------------------

LITE = [(1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
        (6, 320, 1, 1, 3)]  # fmt: skip
LITES = {0: (1.0, 1.0, 224), 1: (1.0, 1.1, 240), 2: (1.1, 1.2, 260), 3: (1.2, 1.4, 280), 4: (1.4, 1.8, 300)}
DETS = {
    "0": (0, 320, 64, 3, 3), "1": (1, 384, 88, 4, 3), "2": (2, 448, 112, 5, 3), "3": (3, 512, 160, 6, 4),
    "3x": (3, 640, 200, 6, 4), "4": (4, 640, 224, 7, 4),
}  # fmt: skip


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
    net.mean()
    net.dense(1000)
    net.map("SOFTMAX", 1)
    return net.kernels


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
    net.at = (1, anchors, classes)
    net.move(anchors * (classes + 4))
    net.map("LOGISTIC", 1)
    net.detections(anchors, classes)
    return net.kernels


# -- SSD --------------------------------------------------------------------------------------------------------------


def ssd(precision: str, backbone: str, *, width: float = 1.0, lite: bool = False, box: int = 1,
        classes: int = 91) -> list[Kernel]:  # fmt: skip
    net = Net(precision, (300, 300, 3))
    if backbone == "v1":
        seen = v1_body(net, width)
        maps = [seen[11], seen[13]]
        extras = [(256, 512), (128, 256), (128, 256), (64, 128)]
    else:
        wides = v2_body(net, width)
        maps = [wides[13], net.conv(1280)]
        extras = [(256, 512), (128, 256), (128, 256), (64, 128)]
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
    net.at = (1, anchors, classes)
    net.move(anchors * (classes + 4))
    net.map("LOGISTIC", 1)
    net.detections(anchors, classes)
    return net.kernels


# -- the others -------------------------------------------------------------------------------------------------------


def resnet50(precision: str, *, newer: bool = True, side: int = 224) -> list[Kernel]:
    """`newer`: v1.5, the stride in the 3x3."""
    net = Net(precision, (side, side, 3))
    net.conv(64, 7, 2)
    net.pool(3, 2)
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
    net.mean()
    net.dense(1001)
    net.map("SOFTMAX", 1)
    return net.kernels


def vgg16(precision: str) -> list[Kernel]:
    net = Net(precision, (224, 224, 3))
    for channels, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            net.conv(channels, 3)
        net.pool(2, 2)
    for out in (4096, 4096, 1000):
        net.dense(out)
    return net.kernels


def _nets() -> dict[str, Callable[[str], list[Kernel]]]:
    found: dict[str, Callable[[str], list[Kernel]]] = {}
    for side in (128, 160, 192, 224):
        for width in (0.25, 0.5, 0.75, 1.0):
            found[f"mobilenet_v1_{width}_{side}"] = lambda p, w=width, s=side: mobilenet_v1(p, w, s)
    for width, sides in {
        0.35: (96, 128, 160, 192, 224), 0.5: (96, 128, 160, 192, 224), 0.75: (96, 128, 160, 192, 224),
        1.0: (96, 128, 160, 192, 224, 320), 1.3: (224,), 1.4: (224,),
    }.items():  # fmt: skip
        for side in sides:
            found[f"mobilenet_v2_{width}_{side}"] = lambda p, w=width, s=side: mobilenet_v2(p, w, s)
    for size in ("large", "small"):
        for width in (0.75, 1.0):
            found[f"mobilenet_v3_{size}_{width}_224"] = lambda p, z=size, w=width: mobilenet_v3(p, z, w)
        found[f"mobilenet_v3_{size}_minimalistic_1.0_224"] = lambda p, z=size: mobilenet_v3(p, z, 1.0, minimal=True)
    for number in LITES:
        found[f"efficientnet_lite{number}"] = lambda p, n=number: efficientnet_lite(p, n)
    for name in DETS:
        found[f"efficientdet_lite{name}"] = lambda p, n=name: efficientdet(p, n)
    found |= {
        "ssd_mobilenet_v1_300": lambda p: ssd(p, "v1"),
        "ssd_mobilenet_v1_0.75_300": lambda p: ssd(p, "v1", width=0.75),
        "ssd_mobilenet_v2_300": lambda p: ssd(p, "v2", box=3),
        "ssd_mobilenet_v2_quant_300": lambda p: ssd(p, "v2"),
        "ssdlite_mobilenet_v2_300": lambda p: ssd(p, "v2", lite=True),
        "resnet50_v1.5_224": resnet50,
        "resnet50_v1_224": lambda p: resnet50(p, newer=False),
        "vgg16_224": vgg16,
    }
    return found


NETS = _nets()


def main() -> int:
    """Beside the table of facts: the relative differences."""
    worst = 0.0
    for row in csv.DictReader(TABLE.read_text(encoding="utf-8").splitlines()):
        if row["model"] not in NETS:
            continue
        kernels = NETS[row["model"]]("fp32")
        macs = sum(kernel.macs for kernel in kernels) / 1e6
        depthwise = sum(kernel.units.get("depthwise", 0.0) for kernel in kernels) / 1e6
        traffic = sum(kernel.units.get("traffic", 0.0) + kernel.units.get("map", 0.0) for kernel in kernels) / 4e6
        line = {
            "model": row["model"],
            "macs": macs / float(row["macs_m"]) - 1,
            "kernels": len(kernels),
            "n_ops": row["n_ops"],
        }
        if float(row["dw_macs_m"] or 0):
            line["depthwise"] = depthwise / float(row["dw_macs_m"]) - 1
        if row["act_rw_m"]:
            line["traffic"] = traffic / float(row["act_rw_m"]) - 1
        worst = max(worst, abs(line["macs"]))
        print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()}))
    print(json.dumps({"worst_macs": round(worst, 4)}))
    return 0 if worst < 0.02 else 1


if __name__ == "__main__":
    sys.exit(main())
