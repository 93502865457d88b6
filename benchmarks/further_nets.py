"""Further networks for comparing int8: kinds that the other sets lack, trained here in seconds to a minute each.

Gates (squeeze and excitation), PReLU, a mixer of tokens, a batch norm behind its activation, residual nets that
normalize first, a recurrent net, and segmentation with skips; on the digits of MNIST's test set and on drawn squares.
They decide nothing in EdgeKit: no default was chosen by them. See `hard_nets` of the tests for the form.
"""

from __future__ import annotations

import gzip
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "convert"))

import hard_nets  # noqa: E402 - stands beside the tests
from hard_nets import Hard  # noqa: E402

DIGITS = ROOT.parent / "shared" / "data" / "mnist_t10k"
_TRAINED = 7000


@cache
def mnist() -> tuple[Any, Any]:
    """[10000, 1, 28, 28] in 0..1, and their classes, shuffled."""
    raw = gzip.decompress((DIGITS / "t10k-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((DIGITS / "t10k-labels-idx1-ubyte.gz").read_bytes())
    x = np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 1, 28, 28).astype(np.float32) / 255
    y = np.frombuffer(labels, np.uint8, offset=8).astype(np.int64)
    order = np.random.default_rng(1).permutation(len(x))
    return x[order], y[order]


def classifier(net: nn.Module, steps: int = 220) -> Hard:
    x, y = mnist()
    images, classes = torch.from_numpy(x[:_TRAINED]), torch.from_numpy(y[:_TRAINED])
    hard_nets.train(net, lambda pick: F.cross_entropy(net(images[pick]), classes[pick]), len(images), steps)
    return Hard(net, x[:100], x[_TRAINED : _TRAINED + 1000], y[_TRAINED : _TRAINED + 1000], y[:100])


def normed(conv: nn.Conv2d, *rest: nn.Module) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), *rest)


class _Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, width: int, act: Callable[[], nn.Module], gate: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.way = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, width // 4, 1), act(), nn.Conv2d(width // 4, width, 1), gate()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.way(x)


class _Inverted(nn.Module):
    """An inverted residual with a gate."""

    def __init__(self, width: int, act: Callable[[], nn.Module], inner: Callable[[], nn.Module],
                 gate: Callable[[], nn.Module]) -> None:  # fmt: skip
        super().__init__()
        wide = 3 * width
        self.way = nn.Sequential(
            normed(nn.Conv2d(width, wide, 1, bias=False), act()),
            normed(nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False), act()),
            _Gate(wide, inner, gate),
            normed(nn.Conv2d(wide, width, 1, bias=False)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.way(x)


def gated(act: Callable[[], nn.Module], inner: Callable[[], nn.Module], gate: Callable[[], nn.Module]) -> Hard:
    width = 16
    return classifier(nn.Sequential(
        normed(nn.Conv2d(1, width, 3, 2, 1, bias=False), act()),
        _Inverted(width, act, inner, gate),
        normed(nn.Conv2d(width, width, 3, 2, 1, groups=width, bias=False), act()),
        _Inverted(width, act, inner, gate),
        normed(nn.Conv2d(width, 48, 1, bias=False), act()),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10),
    ))  # fmt: skip


def gated_hardswish() -> Hard:
    """As MobileNetV3: HardSwish, gates of HardSigmoid."""
    return gated(nn.Hardswish, nn.ReLU, nn.Hardsigmoid)


def gated_silu() -> Hard:
    """As EfficientNet: SiLU, gates of a sigmoid."""
    return gated(nn.SiLU, nn.SiLU, nn.Sigmoid)


def prelu() -> Hard:
    """A slope a channel below zero."""
    parts: list[nn.Module] = []
    for before, after, stride in ((1, 16, 2), (16, 32, 1), (32, 32, 2), (32, 48, 1)):
        parts.append(normed(nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.PReLU(after)))
    return classifier(nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10)))


class _Mix(nn.Module):
    def __init__(self, tokens: int, size: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(size), nn.LayerNorm(size)
        self.tokens = nn.Sequential(nn.Linear(tokens, 2 * tokens), nn.GELU(), nn.Linear(2 * tokens, tokens))
        self.channels = nn.Sequential(nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, size))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.first(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.second(x))


class Mixer(nn.Module):
    """Patches of 4 x 4, mixed along tokens and channels by turns."""

    def __init__(self, size: int = 32) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, size, 4, 4)
        self.blocks = nn.Sequential(_Mix(49, size), _Mix(49, size))
        self.norm, self.head = nn.LayerNorm(size), nn.Linear(size, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.patches(x).flatten(2).transpose(1, 2))).mean(1))


def mixer() -> Hard:
    """An MLP mixer with GELU."""
    return classifier(Mixer(), 350)


class _Residual(nn.Module):
    def __init__(self, *way: nn.Module) -> None:
        super().__init__()
        self.way = nn.Sequential(*way)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.way(x)


def _conv(before: int, after: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride, 1, bias=False)


def norm_behind() -> Hard:
    """Batch norms behind the activation, which no convolution before them takes in."""

    def block(width: int) -> nn.Module:
        return _Residual(_conv(width, width), nn.ReLU(), nn.BatchNorm2d(width), _conv(width, width), nn.ReLU(),
                         nn.BatchNorm2d(width))  # fmt: skip

    return classifier(nn.Sequential(
        _conv(1, 16, 2), nn.ReLU(), nn.BatchNorm2d(16), block(16), _conv(16, 32, 2), nn.ReLU(), nn.BatchNorm2d(32),
        block(32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    ))  # fmt: skip


def norm_first() -> Hard:
    """A residual net that normalizes and activates before each convolution: what is added up is never cut at zero."""

    def block(width: int) -> nn.Module:
        return _Residual(nn.BatchNorm2d(width), nn.ReLU(), _conv(width, width), nn.BatchNorm2d(width), nn.ReLU(),
                         _conv(width, width))  # fmt: skip

    return classifier(nn.Sequential(
        _conv(1, 16, 2), block(16), block(16), nn.BatchNorm2d(16), nn.ReLU(), _conv(16, 32, 2), block(32), block(32),
        nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    ))  # fmt: skip


class Rows(nn.Module):
    """Reads a picture row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.reader, self.head = nn.GRU(28, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.reader(x.squeeze(1))[0][:, -1])


def gru() -> Hard:
    """A recurrent layer, which no quantizer here makes integers of, between layers that they do."""
    return classifier(Rows(), 500)


class UNet(nn.Module):
    """Answers [count, 1, 24, 24]: where squares are. A transposed convolution, a resize, and skips that are joined."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(normed(_conv(1, 8), nn.ReLU()), normed(_conv(8, 8), nn.ReLU()))
        self.second = nn.Sequential(normed(_conv(8, 16), nn.ReLU()), normed(_conv(16, 16), nn.ReLU()))
        self.bottom = nn.Sequential(normed(_conv(16, 32), nn.ReLU()), normed(_conv(32, 32), nn.ReLU()))
        self.up = nn.ConvTranspose2d(32, 16, 2, 2)
        self.third = normed(_conv(32, 16), nn.ReLU())
        self.wider = nn.Upsample(scale_factor=2, mode="nearest")
        self.fourth, self.head = normed(_conv(24, 8), nn.ReLU()), nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        second = self.second(F.max_pool2d(first, 2))
        x = self.third(torch.cat([self.up(self.bottom(F.max_pool2d(second, 2))), second], 1))
        return self.head(self.fourth(torch.cat([self.wider(x), first], 1)))


def u_net() -> Hard:
    """Segmentation of the detector's squares."""
    net, (x, boxes) = UNet(), hard_nets.squares(800, 0)
    images, inside = torch.from_numpy(x), torch.from_numpy(masks(boxes))
    hard_nets.train(
        net, lambda pick: F.binary_cross_entropy_with_logits(net(images[pick]), inside[pick]), len(images), 220
    )
    return Hard(net, hard_nets.squares(100, 1)[0], hard_nets.squares(200, 2)[0])


def masks(boxes: Any) -> Any:
    made = np.zeros((len(boxes), 1, 24, 24), np.float32)
    for mask, truth in zip(made, boxes, strict=True):
        for left, top, right, bottom, _ in truth[truth[:, 4] > 0]:
            rows, columns = (slice(round(24 * a), round(24 * b)) for a, b in ((top, bottom), (left, right)))
            mask[0, rows, columns] = 1
    return made


NETS: dict[str, Callable[[], Hard]] = {
    "gated_hardswish": gated_hardswish,
    "gated_silu": gated_silu,
    "prelu": prelu,
    "mixer": mixer,
    "norm_behind": norm_behind,
    "norm_first": norm_first,
    "gru": gru,
    "u_net": u_net,
}


def make(name: str) -> Hard:
    """A trained network; the same at each call."""
    return hard_nets.make(name, NETS)
