"""Layers of a network as kernels: what `latency_nets` and `latency_detectors` are written in."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from edgekit.predict.work import Kernel, convolution, product, simple

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

    def conv(
        self, out: int, kernel: int | tuple[int, int] = 1, stride: int = 1, *, groups: int = 1, valid: bool = False
    ) -> Map:
        h, w, channels = self.at
        window = (kernel, kernel) if isinstance(kernel, int) else kernel
        if valid:
            h, w = ((n - size) // stride + 1 for n, size in zip((h, w), window, strict=True))
        else:
            h, w = -(-h // stride), -(-w // stride)
        found = convolution(self.at, (h, w, out), window, groups, self.size, self.size)
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

    def pool(self, window: int, stride: int, *, valid: bool = False, kind: str = "MAX_POOL_2D") -> None:
        h, w, channels = self.at
        side = (lambda n: (n - window) // stride + 1) if valid else (lambda n: -(-n // stride))
        self.at = (side(h), side(w), channels)
        taps = math.prod(self.at) * window * window
        unit = "window" if kind == "MAX_POOL_2D" else "average"
        moved = self.size * (h * w * channels + math.prod(self.at))
        self.kernels.append(simple("pool", kind, self.precision, unit, taps, moved))

    def excite(self, inner: int, gate: str = "LOGISTIC", act: str | None = None) -> None:
        """Squeeze and excite: a mean, two 1x1 convolutions, a gate, and the scaling of the whole map."""
        full = self.at
        self.mean()
        self.conv(inner)
        if act is not None:
            self.map(act, 1)
        self.conv(full[2])
        self.map(gate, 1)
        self.at = full
        self.map("MUL", 1)

    def branches(self, *paths: Callable[[], object]) -> None:
        """Each path starts at this map; their results are concatenated by channels."""
        start, found = self.at, []
        for path in paths:
            self.at = start
            path()
            found.append(self.at)
        self.at = (*found[0][:2], sum(shape[2] for shape in found))
        self.move(math.prod(self.at))

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
