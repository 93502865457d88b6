"""Small networks of the usual kinds, complete but tiny, with seeded weights.

Importable as a plain module, so that `--model torch_nets:resnet20` finds it from its folder. `NETS` names each with
what it takes: name -> (factory, {input name: (shape with None for a free size, dtype)}).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Inputs = dict[str, tuple[tuple[int | None, ...], str]]


def seeded(factory: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """The same weights at each call; normalization layers have statistics as if they had seen data."""

    @functools.wraps(factory)
    def make() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = factory()
            for layer in net.modules():
                if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
                    layer.running_mean.uniform_(-0.2, 0.2)
                    layer.running_var.uniform_(0.5, 1.5)
                    nn.init.uniform_(layer.weight, 0.5, 1.5)
                    nn.init.uniform_(layer.bias, -0.2, 0.2)
        return net.eval()

    return make


def conv_norm(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, act: Callable[[], nn.Module] | None = None
) -> nn.Sequential:
    parts = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*parts, *([act()] if act else []))


# -- ResNet-20 of He et al. 2016 for CIFAR ----------------------------------------------------------------------


class CifarBlock(nn.Module):
    """Two convolutions; where the size halves, the shortcut takes every second pixel and pads channels evenly."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.missing = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.missing or self.stride != 1:
            side = self.missing // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, side, self.missing - side))
        return F.relu(x + y)


class CifarResNet(nn.Module):
    def __init__(self, blocks: int, widths: tuple[int, ...] = (16, 32, 64), classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        before = widths[0]
        for number, width in enumerate(widths, 1):
            strides = [1 if number == 1 else 2] + [1] * (blocks - 1)
            stage = []
            for stride in strides:
                stage.append(CifarBlock(before, width, stride))
                before = width
            setattr(self, f"layer{number}", nn.Sequential(*stage))
        self.stages = len(widths)
        self.linear = nn.Linear(before, classes)

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(image)))
        for number in range(1, self.stages + 1):
            x = getattr(self, f"layer{number}")(x)
        return self.linear(F.avg_pool2d(x, x.shape[3]).flatten(1))


@seeded
def resnet20() -> nn.Module:
    return CifarResNet(3)


@seeded
def resnet() -> nn.Module:
    return CifarResNet(1, (8, 16))


# -- Mobile networks --------------------------------------------------------------------------------------------


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, gate: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, max(4, channels // 4), 1)
        self.expand = nn.Conv2d(max(4, channels // 4), channels, 1)
        self.gate = gate()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.expand(F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1)))))


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project; a shortcut where the shape stays."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        expand: int,
        kernel: int,
        stride: int,
        act: Callable[[], nn.Module],
        excite: Callable[[], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        wide = inputs * expand
        parts: list[nn.Module] = [conv_norm(inputs, wide, 1, act=act)] if expand > 1 else []
        parts.append(conv_norm(wide, wide, kernel, stride, wide, act))
        if excite:
            parts.append(SqueezeExcite(wide, excite))
        self.body = nn.Sequential(*parts, conv_norm(wide, outputs, 1))
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.shortcut else self.body(x)


class Mobile(nn.Module):
    def __init__(self, blocks: list[nn.Module], act: Callable[[], nn.Module], last: int, head: nn.Module) -> None:
        super().__init__()
        self.features = nn.Sequential(conv_norm(3, 8, 3, 2, act=act), *blocks, conv_norm(16, last, 1, act=act))
        self.head = head

    def forward(self, image: Tensor) -> Tensor:
        return self.head(F.adaptive_avg_pool2d(self.features(image), 1).flatten(1))


@seeded
def mobilenet_v2() -> nn.Module:
    act = nn.ReLU6
    blocks = [
        InvertedResidual(8, 8, 1, 3, 1, act),
        InvertedResidual(8, 16, 6, 3, 2, act),
        InvertedResidual(16, 16, 6, 3, 1, act),
    ]
    return Mobile(blocks, act, 48, nn.Sequential(nn.Dropout(0.2), nn.Linear(48, 10)))


@seeded
def mobilenet_v3() -> nn.Module:
    act = nn.Hardswish
    blocks = [
        InvertedResidual(8, 8, 1, 3, 1, nn.ReLU, nn.Hardsigmoid),
        InvertedResidual(8, 16, 4, 5, 2, act, nn.Hardsigmoid),
        InvertedResidual(16, 16, 4, 5, 1, act, nn.Hardsigmoid),
    ]
    head = nn.Sequential(nn.Linear(48, 32), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(32, 10))
    return Mobile(blocks, act, 48, head)


@seeded
def efficientnet_lite() -> nn.Module:
    """No squeeze-and-excitation, ReLU6 in place of Swish: what makes it "lite"."""
    act = nn.ReLU6
    blocks = [
        InvertedResidual(8, 8, 1, 3, 1, act),
        InvertedResidual(8, 16, 6, 5, 2, act),
        InvertedResidual(16, 16, 6, 5, 1, act),
    ]
    return Mobile(blocks, act, 64, nn.Sequential(nn.Dropout(0.2), nn.Linear(64, 10)))


# -- Dense prediction -------------------------------------------------------------------------------------------


class UNet(nn.Module):
    """Two levels down, two up: one by a transposed convolution, one by interpolation; sigmoid mask."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = self.double(3, 8), self.double(8, 16), self.double(16, 32)
        self.up2 = nn.ConvTranspose2d(32, 16, 2, 2)
        self.up1 = nn.Conv2d(16, 8, 1)
        self.join2, self.join1 = self.double(32, 16), self.double(16, 8)
        self.mask = nn.Conv2d(8, 1, 1)

    @staticmethod
    def double(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(conv_norm(inputs, outputs, 3, act=nn.ReLU), conv_norm(outputs, outputs, 3, act=nn.ReLU))

    def forward(self, image: Tensor) -> Tensor:
        a = self.down1(image)
        b = self.down2(F.max_pool2d(a, 2))
        c = self.bottom(F.max_pool2d(b, 2))
        d = self.join2(torch.cat([self.up2(c), b], 1))
        e = self.up1(F.interpolate(d, scale_factor=2.0, mode="bilinear", align_corners=False))
        return torch.sigmoid(self.mask(self.join1(torch.cat([e, a], 1))))


class Yolo(nn.Module):
    """Two scales, SiLU, a spatial pyramid, nearest up-sampling; boxes decoded from a grid, scores of classes."""

    def __init__(self, classes: int = 4, size: int = 64) -> None:
        super().__init__()
        act = nn.SiLU
        self.stem = nn.Sequential(conv_norm(3, 8, 3, 2, act=act), conv_norm(8, 16, 3, 2, act=act))
        self.fine = conv_norm(16, 24, 3, 2, act=act)
        self.coarse = conv_norm(24, 32, 3, 2, act=act)
        self.pyramid = conv_norm(96, 24, 1, act=act)
        self.merge = conv_norm(48, 24, 3, act=act)
        self.heads = nn.ModuleList([nn.Conv2d(24, 4 + classes, 1), nn.Conv2d(24, 4 + classes, 1)])
        self.classes = classes
        cells, strides = [], []
        for stride in (8, 16):
            count = size // stride
            y, x = torch.meshgrid(torch.arange(count), torch.arange(count), indexing="ij")
            cells.append(torch.stack([x, y]).reshape(2, -1).float() + 0.5)
            strides.append(torch.full((1, count * count), float(stride)))
        self.register_buffer("cells", torch.cat(cells, 1))
        self.register_buffer("strides", torch.cat(strides, 1))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        fine = self.fine(self.stem(image))
        pooled = [self.coarse(fine)]
        for _ in range(2):
            pooled.append(F.max_pool2d(pooled[-1], 5, 1, 2))
        coarse = self.pyramid(torch.cat(pooled, 1))
        merged = self.merge(torch.cat([F.interpolate(coarse, scale_factor=2.0, mode="nearest"), fine], 1))
        raw = torch.cat([head(x).flatten(2) for head, x in zip(self.heads, (merged, coarse), strict=True)], 2)
        box, score = raw.split([4, self.classes], 1)
        near, far = F.softplus(box).chunk(2, 1)
        corners = torch.cat([self.cells - near, self.cells + far], 1) * self.strides
        return {"boxes": corners.transpose(1, 2), "scores": score.sigmoid().transpose(1, 2)}


# -- Attention --------------------------------------------------------------------------------------------------


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.qkv, self.out, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, width))


class VitBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.attention = nn.LayerNorm(width), nn.LayerNorm(width), Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Patches by a convolution, a class token, learned positions."""

    def __init__(self, size: int = 32, patch: int = 8, width: int = 32, heads: int = 4, depth: int = 2) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, (size // patch) ** 2 + 1, width) * 0.02)
        self.blocks = nn.Sequential(*(VitBlock(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


class TextEncoder(nn.Module):
    """Token numbers, sine positions, `nn.TransformerEncoder`, mean over the tokens."""

    def __init__(self, vocabulary: int = 100, width: int = 32, length: int = 16) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        angle = torch.arange(length)[:, None] * torch.exp(torch.arange(0, width, 2) * (-math.log(1e4) / width))
        self.register_buffer("positions", torch.stack([angle.sin(), angle.cos()], 2).reshape(length, width))
        layer = nn.TransformerEncoderLayer(width, 4, 64, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.encoder(self.embedding(ids) + self.positions).mean(1))


class FeatureEncoder(nn.Module):
    """`nn.TransformerEncoder` as it is made, on frames of features."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(width, 2, 32, batch_first=True), 2)
        self.head = nn.Linear(width, 5)

    def forward(self, frames: Tensor) -> Tensor:
        return self.head(self.encoder(frames)[:, -1])


# -- Sequences --------------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self, cell: type[nn.RNNBase], *, bidirectional: bool = False, layers: int = 1) -> None:
        super().__init__()
        self.cell = cell(8, 16, num_layers=layers, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(32 if bidirectional else 16, 4)

    def forward(self, frames: Tensor) -> Tensor:
        steps, _ = self.cell(frames)
        return self.head(steps[:, -1])


class CausalBlock(nn.Module):
    """Two dilated convolutions that see the past only."""

    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        self.past = 2 * dilation
        self.conv1 = nn.Conv1d(inputs, outputs, 3, dilation=dilation)
        self.conv2 = nn.Conv1d(outputs, outputs, 3, dilation=dilation)
        self.shortcut = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv1(F.pad(x, (self.past, 0))))
        y = F.relu(self.conv2(F.pad(y, (self.past, 0))))
        return F.relu(y + self.shortcut(x))


class Tcn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(CausalBlock(4, 12, 1), CausalBlock(12, 12, 2), CausalBlock(12, 12, 4))
        self.head = nn.Linear(12, 6)

    def forward(self, signal: Tensor) -> Tensor:
        return self.head(self.blocks(signal)[:, :, -1])


@seeded
def u_net() -> nn.Module:
    return UNet()


@seeded
def yolo() -> nn.Module:
    return Yolo()


@seeded
def vit() -> nn.Module:
    return ViT()


@seeded
def text_encoder() -> nn.Module:
    return TextEncoder()


@seeded
def feature_encoder() -> nn.Module:
    return FeatureEncoder()


@seeded
def gru() -> nn.Module:
    return Recurrent(nn.GRU)


@seeded
def lstm() -> nn.Module:
    return Recurrent(nn.LSTM)


@seeded
def bidirectional_lstm() -> nn.Module:
    return Recurrent(nn.LSTM, bidirectional=True, layers=2)


@seeded
def tcn() -> nn.Module:
    return Tcn()


_IMAGE: Inputs = {"image": ((None, 3, 32, 32), "float32")}
_FRAMES: Inputs = {"frames": ((None, 12, 8), "float32")}

NETS: dict[str, tuple[Callable[[], nn.Module], Inputs]] = {
    "mobilenet_v2": (mobilenet_v2, _IMAGE),
    "mobilenet_v3": (mobilenet_v3, _IMAGE),
    "efficientnet_lite": (efficientnet_lite, _IMAGE),
    "resnet": (resnet, _IMAGE),
    "u_net": (u_net, _IMAGE),
    "vit": (vit, _IMAGE),
    "gru": (gru, _FRAMES),
    "lstm": (lstm, _FRAMES),
    "bidirectional_lstm": (bidirectional_lstm, _FRAMES),
    "tcn": (tcn, {"signal": ((None, 4, 40), "float32")}),
    "yolo": (yolo, {"image": ((None, 3, 64, 64), "float32")}),
    "text_encoder": (text_encoder, {"ids": ((None, 16), "int64")}),
    "feature_encoder": (feature_encoder, {"frames": ((None, 10, 16), "float32")}),
}
