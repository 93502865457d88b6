"""Networks of kinds that nothing in EdgeKit was tried on while it was made, for comparing int8: trained in seconds.

Tables (a residual MLP, a regression), pictures (a ConvNeXt, a MobileViT, an inverted residual net with Relu6 and
gates), sound (a net of dilated convolutions, a transformer), autoencoders, segmentation with group norms, and
embeddings of length one. See `hard_nets` of the tests for the form.
"""

from __future__ import annotations

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

import further_nets  # noqa: E402 - stands beside this file
import hard_nets  # noqa: E402 - stands beside the tests
from hard_nets import Hard  # noqa: E402

SOUND = ROOT.parent / "shared" / "data" / "spoken_digits_300.npz"
FRAMES, BANDS = 48, 40


class Residual(nn.Module):
    """What goes in, added to what a way makes of it."""

    def __init__(self, *way: nn.Module) -> None:
        super().__init__()
        self.way = nn.Sequential(*way)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.way(x)


@cache
def _table() -> tuple[Any, Any]:
    """[5000, 20] of correlated columns with heavy tails, standardized, and their classes (4)."""
    from sklearn.datasets import make_classification

    x, y = make_classification(5000, 20, n_informative=12, n_redundant=4, n_classes=4, class_sep=1.6, random_state=3)
    x[:, ::3] = np.sign(x[:, ::3]) * np.expm1(np.abs(x[:, ::3]))
    return ((x - x.mean(0)) / x.std(0)).astype(np.float32), y.astype(np.int64)


def table_mlp() -> Hard:
    """Residual blocks with batch norms, as tables are learned."""
    x, y = _table()
    width = 64

    def block() -> nn.Module:
        return Residual(nn.BatchNorm1d(width), nn.Linear(width, 128), nn.ReLU(), nn.Linear(128, width))

    net = nn.Sequential(nn.Linear(20, width), block(), block(), block(), nn.BatchNorm1d(width), nn.ReLU(),
                        nn.Linear(width, 4))  # fmt: skip
    rows, classes = torch.from_numpy(x[:4000]), torch.from_numpy(y[:4000])
    hard_nets.train(net, lambda pick: F.cross_entropy(net(rows[pick]), classes[pick]), len(rows), 400)
    return Hard(net, x[:100], x[4000:], y[4000:], y[:100])


def table_regression() -> Hard:
    """One number of a row: LayerNorm and SiLU."""
    x, _ = _table()
    wanted = (np.sin(x[:, 0]) + 0.5 * x[:, 1] * x[:, 2] + np.abs(x[:, 4])).astype(np.float32)[:, None]
    net = nn.Sequential(
        nn.Linear(20, 64), nn.LayerNorm(64), nn.SiLU(), nn.Linear(64, 64), nn.LayerNorm(64), nn.SiLU(), nn.Linear(64, 1)
    )
    rows, numbers = torch.from_numpy(x[:4000]), torch.from_numpy(wanted[:4000])
    hard_nets.train(net, lambda pick: F.smooth_l1_loss(net(rows[pick]), numbers[pick]), len(rows), 500)
    return Hard(net, x[:100], x[4000:])


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of a picture."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Scaled(nn.Module):
    """ConvNeXt's block: depthwise 7 x 7, norm, two dense layers with GELU, and a small factor a channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depth, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.factor = nn.Parameter(0.1 * torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depth(x).permute(0, 2, 3, 1))
        return x + (self.factor * self.narrow(F.gelu(self.wide(y)))).permute(0, 3, 1, 2)


def convnext() -> Hard:
    width = 24
    return further_nets.classifier(nn.Sequential(
        nn.Conv2d(1, width, 4, 4), ChannelNorm(width), Scaled(width), Scaled(width), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.LayerNorm(width), nn.Linear(width, 10),
    ), 300)  # fmt: skip


class MobileViT(nn.Module):
    """Convolutions, then attention among patches of their map, then convolutions again."""

    def __init__(self, size: int = 32) -> None:
        super().__init__()
        norm = further_nets.normed
        self.stem = nn.Sequential(norm(nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.SiLU()),
                                  norm(nn.Conv2d(16, size, 3, 2, 1, bias=False), nn.SiLU()))  # fmt: skip
        self.blocks = nn.Sequential(hard_nets.Block(size, 4), hard_nets.Block(size, 4))
        self.norm = nn.LayerNorm(size)
        self.join = norm(nn.Conv2d(2 * size, size, 3, padding=1, bias=False), nn.SiLU())
        self.head = nn.Linear(size, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        count, size, rows, columns = x.shape
        y = self.norm(self.blocks(x.flatten(2).transpose(1, 2))).transpose(1, 2).reshape(count, size, rows, columns)
        return self.head(self.join(torch.cat([x, y], 1)).mean((2, 3)))


def mobile_vit() -> Hard:
    return further_nets.classifier(MobileViT(), 250)


def relu6_gated() -> Hard:
    """Inverted residuals with Relu6, gates of HardSigmoid."""
    return further_nets.gated(nn.ReLU6, nn.ReLU, nn.Hardsigmoid)


@cache
def _sound() -> tuple[Any, Any]:
    """[300, 40, 48] of log-mel frames of spoken digits, standardized, and the digits, shuffled."""
    stored = np.load(SOUND)
    ends = np.cumsum(stored["length"])
    window, bank = np.hanning(256), _bank()
    made = np.full((len(ends), BANDS, FRAMES), np.log(1e-6), np.float32)
    for picture, start, end in zip(made, ends - stored["length"], ends, strict=True):
        wave = stored["samples"][start:end].astype(np.float64) / 32768
        frames = np.lib.stride_tricks.sliding_window_view(wave, 256)[::96][:FRAMES]
        power = np.abs(np.fft.rfft(frames * window)) ** 2
        picture[:, : len(power)] = np.log(power @ bank + 1e-6).T
    order = np.random.default_rng(5).permutation(len(ends))
    made = (made - made.mean()) / made.std()
    return made[order], stored["digit"].astype(np.int64)[order]


def _bank() -> Any:
    """[129, 40] of triangles that are even in mel."""
    mel = np.linspace(0, 2595 * np.log10(1 + 4000 / 700), BANDS + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    at = np.linspace(0, 4000, 129)[:, None]
    up, down = (at - edges[:-2]) / (edges[1:-1] - edges[:-2]), (edges[2:] - at) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(up, down))


def listener(net: nn.Module, steps: int) -> Hard:
    x, y = _sound()
    frames, digits = torch.from_numpy(x[:200]), torch.from_numpy(y[:200])

    def loss(pick: Tensor) -> Tensor:
        noisy = frames[pick] + 0.2 * torch.randn(len(pick), 1, FRAMES)
        return F.cross_entropy(net(torch.roll(noisy, int(torch.randint(-3, 4, ())), 2)), digits[pick])

    hard_nets.train(net, loss, len(frames), steps)
    return Hard(net, x[:100], x[200:], y[200:], y[:100])


class _Causal(nn.Module):
    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.ahead = 2 * dilation
        self.first = nn.Conv1d(width, width, 3, dilation=dilation)
        self.second = nn.Conv1d(width, width, 3, dilation=dilation)
        self.norms = nn.ModuleList([nn.BatchNorm1d(width), nn.BatchNorm1d(width)])

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norms[0](self.first(F.pad(x, (self.ahead, 0)))))
        y = torch.relu(self.norms[1](self.second(F.pad(y, (self.ahead, 0)))))
        return torch.relu(x + y)


def dilated() -> Hard:
    """Causal convolutions along time, each looking twice as far back."""
    return listener(nn.Sequential(
        nn.Conv1d(BANDS, 32, 1), _Causal(32, 1), _Causal(32, 2), _Causal(32, 4), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
        nn.Linear(32, 10),
    ), 200)  # fmt: skip


class Hearer(nn.Module):
    """A transformer over frames, and attention that pools them."""

    def __init__(self, size: int = 40) -> None:
        super().__init__()
        self.blocks = nn.Sequential(hard_nets.Block(size, 4), hard_nets.Block(size, 4))
        self.norm, self.score, self.head = nn.LayerNorm(size), nn.Linear(size, 1), nn.Linear(size, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.blocks(x.transpose(1, 2)))
        return self.head((torch.softmax(self.score(x), 1) * x).sum(1))


def hearer() -> Hard:
    return listener(Hearer(), 250)


def _copier(net: nn.Module, x: Any, evaluated: Any, loss: Callable[[Tensor, Tensor], Tensor], steps: int) -> Hard:
    samples = torch.from_numpy(x)
    hard_nets.train(net, lambda pick: loss(net(samples[pick]), samples[pick]), len(samples), steps)
    return Hard(net, x[:100], evaluated)


def picture_autoencoder() -> Hard:
    """Digits through 16 numbers and back by transposed convolutions; answers of a sigmoid."""
    x, _ = further_nets.mnist()
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(32 * 49, 16), nn.Linear(16, 32 * 49), nn.ReLU(), nn.Unflatten(1, (32, 7, 7)),
        nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(16, 1, 4, 2, 1), nn.Sigmoid(),
    )  # fmt: skip
    return _copier(net, x[:7000], x[7000:7500], F.binary_cross_entropy, 400)


def frame_autoencoder() -> Hard:
    """Frames of sound through 8 numbers and back, dense layers with batch norms, as anomalies are found."""
    x, _ = _sound()
    rows = np.ascontiguousarray(x.transpose(0, 2, 1)[:, : FRAMES // 4 * 4].reshape(-1, 4 * BANDS))
    parts: list[nn.Module] = []
    for before, after in ((160, 128), (128, 128), (128, 8), (8, 128), (128, 128)):
        parts += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU()]
    net = nn.Sequential(*parts, nn.Linear(128, 160))
    return _copier(net, rows[:2400], rows[2400:3000], F.mse_loss, 600)


class Segmenter(nn.Module):
    """Answers [count, 3, 24, 24], scores of three classes: group norms, SiLU, bilinear resizing."""

    def __init__(self) -> None:
        super().__init__()

        def conv(before: int, after: int) -> nn.Module:
            return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.GroupNorm(4, after), nn.SiLU())

        self.first, self.second, self.bottom = conv(1, 16), conv(16, 32), conv(32, 32)
        self.third, self.fourth, self.head = conv(64, 16), conv(32, 16), nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        def wider(y: Tensor) -> Tensor:
            return F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)

        first = self.first(x)
        second = self.second(F.avg_pool2d(first, 2))
        y = self.third(torch.cat([wider(self.bottom(F.avg_pool2d(second, 2))), second], 1))
        return self.head(self.fourth(torch.cat([wider(y), first], 1)))


def segmenter() -> Hard:
    """Squares, their rims and the rest."""
    net, (x, boxes) = Segmenter(), hard_nets.squares(800, 0)
    masks = torch.from_numpy(further_nets.masks(boxes))
    inner = -F.max_pool2d(-masks, 3, 1, 1)
    images, classes = torch.from_numpy(x), (masks + inner)[:, 0].long()
    hard_nets.train(net, lambda pick: F.cross_entropy(net(images[pick]), classes[pick]), len(images), 250)
    return Hard(net, hard_nets.squares(100, 1)[0], hard_nets.squares(200, 2)[0])


class Embedder(nn.Module):
    """Answers 16 numbers of length one."""

    def __init__(self) -> None:
        super().__init__()
        norm = further_nets.normed
        self.body = nn.Sequential(
            norm(nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.LeakyReLU(0.1)),
            norm(nn.Conv2d(16, 32, 3, 2, 1, bias=False), nn.LeakyReLU(0.1)),
            norm(nn.Conv2d(32, 32, 3, 1, 1, bias=False), nn.ELU()), nn.Flatten(), nn.Linear(32 * 49, 16),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.body(x), dim=-1)


def embedder() -> Hard:
    """Digits of a class near each other."""
    x, y = further_nets.mnist()
    net, images, classes = Embedder(), torch.from_numpy(x[:7000]), torch.from_numpy(y[:7000])

    def loss(pick: Tensor) -> Tensor:
        near = net(images[pick])
        alike = 8 * near @ near.T - 1e9 * torch.eye(len(pick))
        same = (classes[pick][:, None] == classes[pick]) & ~torch.eye(len(pick), dtype=torch.bool)
        return -(F.log_softmax(alike, -1) * same).sum(1).div(same.sum(1).clamp(1)).mean()

    hard_nets.train(net, loss, len(images), 250)
    return Hard(net, x[:100], x[7000:7500])


NETS: dict[str, Callable[[], Hard]] = {
    "table_mlp": table_mlp,
    "table_regression": table_regression,
    "convnext": convnext,
    "mobile_vit": mobile_vit,
    "relu6_gated": relu6_gated,
    "dilated": dilated,
    "hearer": hearer,
    "picture_autoencoder": picture_autoencoder,
    "frame_autoencoder": frame_autoencoder,
    "segmenter": segmenter,
    "embedder": embedder,
}


def make(name: str) -> Hard:
    """A trained network; the same at each call."""
    return hard_nets.make(name, NETS)
