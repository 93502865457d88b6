"""Networks that plain int8 has trouble with, small, trained in seconds on scikit-learn's digits or on drawn squares.

`NETS` names each: a function that gives the trained network, its data and its task. Seeds are fixed. The difficulties
are real ones, made worse: channels whose ranges are spread a hundred times (what folded batch norms do to depthwise
nets), activations without an upper end (SiLU, HardSwish), outlier channels behind a LayerNorm (what large transformers
grow), and a detector that answers boxes in pixels and scores in one tensor.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

SPREAD = 100.0
"""Ratio of the largest to the smallest factor that channels are scaled by."""
PIXELS = 640.0
CELLS = 6


@dataclass(frozen=True)
class Hard:
    """A trained network and its data; classifiers have labels."""

    net: nn.Module
    calibration: NDArray[np.float32]
    evaluation: NDArray[np.float32]
    labels: NDArray[np.int64] | None = None
    calibration_labels: NDArray[np.int64] | None = None


def digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The digits of scikit-learn, shuffled: [1797, 1, 8, 8] in 0..1, and their classes."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    return (found.images[order, None] / 16).astype(np.float32), found.target[order].astype(np.int64)


def _classifier(net: nn.Module, steps: int = 150) -> Hard:
    x, y = digits()
    images, classes = torch.from_numpy(x[:1200]), torch.from_numpy(y[:1200])
    train(net, lambda pick: F.cross_entropy(net(images[pick]), classes[pick]), len(images), steps)
    return Hard(net, x[:100], x[1200:], y[1200:], y[:100])


def train(net: nn.Module, loss: Callable[[Tensor], Tensor], count: int, steps: int, rate: float = 4e-3) -> None:
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    net.train()
    for _ in range(steps):
        optimizer.zero_grad()
        loss(torch.randint(count, (96,))).backward()
        optimizer.step()
        schedule.step()
    net.eval()


def _conv(
    inputs: int, outputs: int, kernel: int, act: type[nn.Module], groups: int = 1, stride: int = 1
) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs), act()]


def _mobile(act: type[nn.Module], width: int = 24) -> nn.Sequential:
    parts = _conv(1, width, 3, act)
    for stride in (1, 2, 1):
        parts += _conv(width, width, 3, act, groups=width, stride=stride)
        parts += _conv(width, width, 1, act)
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def _factors(count: int) -> Tensor:
    """Spread evenly over `SPREAD`, in random order."""
    return torch.logspace(-0.5, 0.5, count, base=SPREAD)[torch.randperm(count)]


def _spread(net: nn.Sequential) -> None:
    """Scale the channels between convolutions with a Relu in between; the function stays the same."""
    norms = [layer for layer in net if isinstance(layer, nn.BatchNorm2d)]
    convs = [layer for layer in net if isinstance(layer, nn.Conv2d)]
    with torch.no_grad():
        for norm, conv in zip(norms, convs[1:], strict=False):
            factors = _factors(norm.num_features)
            norm.weight *= factors
            norm.bias *= factors
            shaped = factors.reshape(-1, 1, 1, 1) if conv.groups > 1 else factors.reshape(1, -1, 1, 1)
            conv.weight /= shaped


def spread_mobilenet() -> Hard:
    """Depthwise and pointwise convolutions, Relu, channels spread a hundred times."""
    made = _classifier(_mobile(nn.ReLU))
    _spread(made.net)
    return made


def silu() -> Hard:
    """The same kind of net with SiLU; what no scaling can be carried through."""
    return _classifier(_mobile(nn.SiLU))


def hardswish() -> Hard:
    """And with HardSwish."""
    return _classifier(_mobile(nn.Hardswish))


class _Attention(nn.Module):
    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.mixed = nn.Linear(size, 3 * size)
        self.out = nn.Linear(size, size)

    def forward(self, x: Tensor) -> Tensor:
        count, tokens, size = x.shape
        q, k, v = self.mixed(x).reshape(count, tokens, 3, self.heads, size // self.heads).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(-1, -2) * (size // self.heads) ** -0.5, -1)
        return self.out((weights @ v).transpose(1, 2).reshape(count, tokens, size))


class Block(nn.Module):
    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(size), nn.LayerNorm(size)
        self.attention = _Attention(size, heads)
        self.wide, self.narrow = nn.Linear(size, 2 * size), nn.Linear(2 * size, size)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.first(x))
        return x + self.narrow(F.gelu(self.wide(self.second(x))))


class ViT(nn.Module):
    """A vision transformer of two blocks on patches of 2 x 2."""

    def __init__(self, size: int = 32) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, size, 2, 2)
        self.places = nn.Parameter(0.1 * torch.randn(1, 16, size))
        self.blocks = nn.Sequential(Block(size, 4), Block(size, 4))
        self.norm = nn.LayerNorm(size)
        self.head = nn.Linear(size, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.places
        return self.head(self.norm(self.blocks(x)).mean(1))


def vit() -> Hard:
    """A vision transformer with outlier channels behind its normalizations; the function stays the same."""
    made = _classifier(ViT(), 260)
    with torch.no_grad():
        for block in made.net.blocks:
            for norm, linear in ((block.first, block.attention.mixed), (block.second, block.wide)):
                factors = torch.ones(norm.weight.shape[0])
                factors[torch.randperm(len(factors))[:3]] = 40.0
                norm.weight *= factors
                norm.bias *= factors
                linear.weight /= factors
    return made


class Detector(nn.Module):
    """Answers [count, cells, 5]: a box in pixels and a score, in one tensor, for each of 6 x 6 cells."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_conv(1, 12, 3, nn.ReLU), *_conv(12, 24, 3, nn.ReLU, stride=2), *_conv(24, 24, 3, nn.ReLU, stride=2)
        )
        self.boxes, self.scores = nn.Conv2d(24, 4, 1), nn.Conv2d(24, 1, 1)
        middle = (torch.arange(CELLS) + 0.5) / CELLS
        rows, columns = torch.meshgrid(middle, middle, indexing="ij")
        self.register_buffer("centers", torch.stack([columns, rows, columns, rows])[None])

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        boxes = (self.centers + torch.tanh(self.boxes(x)) / 3) * PIXELS
        return torch.cat([boxes, torch.sigmoid(self.scores(x))], 1).flatten(2).transpose(1, 2)


class OneHead(Detector):
    """The same by one convolution of five channels: corners in pixels of the picture, and a score.

    Its body also sees where it is, so that the head can tell.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scores = self.boxes = None
        self.head = nn.Conv2d(26, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.body(x)
        places = 8 * self.centers[:, :2] + 0 * seen[:, :2]
        return self.head(torch.cat([seen, places], 1)).flatten(2).transpose(1, 2)


def squares(count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Noisy images with one to three bright squares: [count, 1, 24, 24], and [count, cells, 5] of what is there."""
    random = np.random.default_rng(seed)
    images = random.normal(0, 0.1, (count, 1, 24, 24)).astype(np.float32)
    wanted = np.zeros((count, CELLS * CELLS, 5), np.float32)
    for image, truth in zip(images, wanted, strict=True):
        for _ in range(random.integers(1, 4)):
            size = random.integers(3, 7)
            top, left = random.integers(0, 24 - size, 2)
            image[0, top : top + size, left : left + size] += 1
            cell = (top + size // 2) // 4 * CELLS + (left + size // 2) // 4
            truth[cell] = [left / 24, top / 24, (left + size) / 24, (top + size) / 24, 1]
    return images, wanted


def detector() -> Hard:
    """Boxes 0..640 and scores 0..1 in one output."""
    net = Detector()
    x, y = (torch.from_numpy(part) for part in squares(800, 0))

    def loss(pick: Tensor) -> Tensor:
        made, truth = net(x[pick]), y[pick]
        there = truth[..., 4:]
        boxes = (F.smooth_l1_loss(made[..., :4] / PIXELS, truth[..., :4], reduction="none") * there).sum() / there.sum()
        return 5 * boxes + F.binary_cross_entropy(made[..., 4], truth[..., 4], weight=1 + 4 * truth[..., 4])

    train(net, loss, len(x), 260)
    return Hard(net, squares(100, 1)[0], squares(200, 2)[0])


def one_head() -> Hard:
    """Boxes 0..640 and scores about 0..1, channels of one layer."""
    net = OneHead()
    x, y = (torch.from_numpy(part) for part in squares(800, 0))

    def loss(pick: Tensor) -> Tensor:
        made, truth = net(x[pick]), y[pick]
        there = truth[..., 4:]
        boxes = (F.smooth_l1_loss(made[..., :4], truth[..., :4], reduction="none") * there).sum() / there.sum()
        weight = 1 + 4 * truth[..., 4]
        return 5 * boxes + F.binary_cross_entropy_with_logits(made[..., 4], truth[..., 4], weight=weight)

    train(net, loss, len(x), 500)
    with torch.no_grad():
        factors = torch.tensor([PIXELS] * 4 + [1 / 20])
        net.head.weight *= factors[:, None, None, None]
        net.head.bias *= factors
        net.head.bias[4] += 0.5
    return Hard(net, squares(100, 1)[0], squares(200, 2)[0])


def kept(
    reference: NDArray[np.float32], answered: NDArray[np.float32], least: float = 0.5, overlap: float = 0.5
) -> float:
    """Share of the reference's detections (score over `least`) that another answer has; boxes by their IoU."""
    there = reference[..., 4] > least
    a, b = reference[there][:, :4], answered[there][:, :4]
    inner = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None).prod(axis=1)
    union = (a[:, 2:] - a[:, :2]).prod(axis=1) + (b[:, 2:] - b[:, :2]).prod(axis=1) - inner
    return float(((answered[there][:, 4] > least) & (inner / np.maximum(union, 1e-9) > overlap)).mean())


NETS: dict[str, Callable[[], Hard]] = {
    "spread_mobilenet": spread_mobilenet,
    "silu": silu,
    "hardswish": hardswish,
    "vit": vit,
    "detector": detector,
    "one_head": one_head,
}


def make(name: str, nets: Mapping[str, Callable[[], Hard]] | None = None) -> Hard:
    """A trained network, of `NETS` or others; the same at each call."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return (NETS if nets is None else nets)[name]()
    finally:
        torch.set_num_threads(threads)


def export(hard: Hard, path: Path) -> None:
    """Write the network as ONNX: input "x" of a free batch, output "y"."""
    import onnx

    example = torch.from_numpy(hard.calibration[:2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch about itself
        made = torch.onnx.export(
            hard.net, (example,), input_names=["x"], output_names=["y"], dynamo=True, verbose=False,
            dynamic_shapes=({0: torch.export.Dim("n")},),
        )  # fmt: skip
    onnx.save(made.model_proto, str(path))
