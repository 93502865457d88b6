"""Networks of yet other kinds, for comparing int8: trained in seconds on the digits, sounds and squares of the others.

A ShuffleNet, a detector of learned queries (as DETR), sums of branches of very different size, a bidirectional LSTM,
classes and numbers from one net, gates of tanh and sigmoid over time (as WaveNet), and enlarging by shuffled pixels.
They decide nothing in EdgeKit. See `hard_nets` of the tests for the form.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
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
import unseen_nets  # noqa: E402 - stands beside this file
from hard_nets import Hard  # noqa: E402


class _Shuffled(nn.Module):
    """Half of the channels pass, the other half goes through a bottleneck; then both are mixed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half, norm = width // 2, further_nets.normed
        self.way = nn.Sequential(
            norm(nn.Conv2d(half, half, 1, bias=False), nn.ReLU()),
            norm(nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)),
            norm(nn.Conv2d(half, half, 1, bias=False), nn.ReLU()),
        )

    def forward(self, x: Tensor) -> Tensor:
        one, other = x.chunk(2, 1)
        return F.channel_shuffle(torch.cat([one, self.way(other)], 1), 2)


def shuffle() -> Hard:
    norm = further_nets.normed
    return further_nets.classifier(nn.Sequential(
        norm(nn.Conv2d(1, 24, 3, 2, 1, bias=False), nn.ReLU()), _Shuffled(24), _Shuffled(24),
        norm(nn.Conv2d(24, 48, 3, 2, 1, bias=False), nn.ReLU()), _Shuffled(48), _Shuffled(48),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10),
    ), 250)  # fmt: skip


class Queries(nn.Module):
    """Answers scores [count, 4] and boxes [count, 4, 4] in pixels of four learned queries."""

    def __init__(self, size: int = 32) -> None:
        super().__init__()
        norm = further_nets.normed
        self.stem = nn.Sequential(norm(nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.ReLU()),
                                  norm(nn.Conv2d(16, size, 3, 2, 1, bias=False), nn.ReLU()))  # fmt: skip
        self.places = nn.Parameter(0.1 * torch.randn(1, 36, size))
        self.encoder = hard_nets.Block(size, 4)
        self.queries = nn.Parameter(torch.randn(1, 4, size))
        self.q, self.k, self.v = nn.Linear(size, size), nn.Linear(size, size), nn.Linear(size, size)
        self.norm, self.inner = nn.LayerNorm(size), nn.Sequential(nn.Linear(size, 64), nn.ReLU(), nn.Linear(64, size))
        self.score, self.box = nn.Linear(size, 1), nn.Linear(size, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.encoder(self.stem(x).flatten(2).transpose(1, 2) + self.places)
        near = torch.softmax(self.q(self.queries) @ self.k(tokens).transpose(1, 2) / 32**0.5, -1)
        found = self.norm(self.queries + near @ self.v(tokens))
        found = found + self.inner(found)
        return torch.sigmoid(self.score(found)[..., 0]), 640 * torch.sigmoid(self.box(found))


def detr() -> Hard:
    """The detector's squares; the query of a square's quarter is taught it."""
    net, (x, boxes) = Queries(), hard_nets.squares(800, 0)
    images = torch.from_numpy(x)
    there, wanted = np.zeros((len(x), 4), np.float32), np.zeros((len(x), 4, 4), np.float32)
    for number, truth in enumerate(boxes):
        for left, top, right, bottom, found in truth:
            if found > 0:
                quarter = 2 * int(top + bottom > 1) + int(left + right > 1)
                there[number, quarter], wanted[number, quarter] = 1, (left, top, right, bottom)
    scores, places = torch.from_numpy(there), torch.from_numpy(wanted)

    def loss(pick: Tensor) -> Tensor:
        found, at = net(images[pick])
        off = (at / 640 - places[pick]).abs().sum(-1)
        return F.binary_cross_entropy(found, scores[pick]) + (off * scores[pick]).mean()

    hard_nets.train(net, loss, len(images), 300)
    return Hard(net, hard_nets.squares(100, 1)[0], hard_nets.squares(200, 2)[0])


class _Branches(nn.Module):
    """Three ways whose answers differ a thousand times in size, summed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        norm = further_nets.normed
        self.ways = nn.ModuleList(
            norm(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(width, width, 1))
            for _ in range(3)
        )
        self.sizes = (10.0, 0.3, 0.01)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + sum(size * way(x) for size, way in zip(self.sizes, self.ways, strict=True)))


def branches() -> Hard:
    norm = further_nets.normed
    return further_nets.classifier(nn.Sequential(
        norm(nn.Conv2d(1, 12, 3, 2, 1, bias=False), nn.ReLU()), _Branches(12),
        norm(nn.Conv2d(12, 24, 3, 2, 1, bias=False), nn.ReLU()), _Branches(24),
        nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(24, 10),
    ), 220)  # fmt: skip


class Both(nn.Module):
    """A bidirectional LSTM over frames, and the mean over time."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.reader = nn.Linear(40, 32), nn.LSTM(32, 24, batch_first=True, bidirectional=True)
        self.head = nn.Sequential(nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.reader(torch.relu(self.first(x.transpose(1, 2))))[0].mean(1))


def bilstm() -> Hard:
    return unseen_nets.listener(Both(), 300)


class Tasks(nn.Module):
    """Answers classes [count, 10] and three numbers of very different size [count, 3]: ink, height, middle row."""

    def __init__(self) -> None:
        super().__init__()
        norm = further_nets.normed
        self.body = nn.Sequential(norm(nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.ELU()),
                                  norm(nn.Conv2d(16, 32, 3, 2, 1, bias=False), nn.ELU()), nn.Flatten())  # fmt: skip
        self.classes, self.numbers = nn.Linear(32 * 49, 10), nn.Linear(32 * 49, 3)
        self.register_buffer("sizes", torch.tensor([300.0, 28.0, 0.5]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.body(x)
        return self.classes(y), self.numbers(y) * self.sizes


def tasks() -> Hard:
    x, y = further_nets.mnist()
    net, images, classes = Tasks(), torch.from_numpy(x[:7000]), torch.from_numpy(y[:7000])
    rows = images.sum((1, 3))
    ink = rows.sum(1)
    middle = (rows * torch.linspace(-1, 1, 28)).sum(1) / ink
    wanted = torch.stack([ink, (rows > 0.5).sum(1).float(), middle], 1) / net.sizes

    def loss(pick: Tensor) -> Tensor:
        one, other = net(images[pick])
        return F.cross_entropy(one, classes[pick]) + F.smooth_l1_loss(other / net.sizes, wanted[pick])

    hard_nets.train(net, loss, len(images), 250)
    return Hard(net, x[:100], x[7000:8000], y[7000:8000], y[:100])


class _Gated(nn.Module):
    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.ahead = 2 * dilation
        self.both, self.out = nn.Conv1d(width, 2 * width, 3, dilation=dilation), nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        one, gate = self.both(F.pad(x, (self.ahead, 0))).chunk(2, 1)
        return x + self.out(torch.tanh(one) * torch.sigmoid(gate))


def wavenet() -> Hard:
    return unseen_nets.listener(nn.Sequential(
        nn.Conv1d(40, 24, 1), _Gated(24, 1), _Gated(24, 2), _Gated(24, 4), nn.ReLU(), nn.AdaptiveAvgPool1d(1),
        nn.Flatten(), nn.Linear(24, 10),
    ), 300)  # fmt: skip


class Larger(nn.Module):
    """Digits at twice their size: what a plain enlargement misses is added."""

    def __init__(self) -> None:
        super().__init__()
        self.way = nn.Sequential(nn.Conv2d(1, 24, 5, padding=2), nn.PReLU(24), nn.Conv2d(24, 16, 3, padding=1),
                                 nn.PReLU(16), nn.Conv2d(16, 4, 3, padding=1), nn.PixelShuffle(2))  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return (F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False) + self.way(x)).clamp(0, 1)


def larger() -> Hard:
    x, _ = further_nets.mnist()
    small = x.reshape(-1, 1, 14, 2, 14, 2).mean((3, 5))
    net, given, wanted = Larger(), torch.from_numpy(small[:7000]), torch.from_numpy(x[:7000])
    hard_nets.train(net, lambda pick: F.mse_loss(net(given[pick]), wanted[pick]), len(given), 300)
    return Hard(net, small[:100], small[7000:7400])


NETS: dict[str, Callable[[], Any]] = {
    "shuffle": shuffle, "detr": detr, "branches": branches, "bilstm": bilstm, "tasks": tasks, "wavenet": wavenet,
    "larger": larger,
}  # fmt: skip


def make(name: str) -> Hard:
    """A trained network; the same at each call."""
    return hard_nets.make(name, NETS)
