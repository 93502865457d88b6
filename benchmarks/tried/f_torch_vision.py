"""Needs torchvision and timm: small variants of many families, weights random."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from tried.case import Case, Made

TORCHVISION = {
    "squeezenet1_1": 64, "shufflenet_v2_x0_5": 64, "mobilenet_v3_small": 64, "googlenet": 64, "regnet_y_400mf": 64,
    "efficientnet_b0": 64, "swin_t": 64, "swin_v2_t": 64, "maxvit_t": 224, "convnext_tiny": 64,
}  # fmt: skip
SEGMENTATION = {"lraspp_mobilenet_v3_large": 64, "fcn_resnet50": 64, "deeplabv3_mobilenet_v3_large": 64}
VIDEO = ("r3d_18", "mc3_18", "r2plus1d_18", "s3d", "mvit_v2_s")
TIMM = (
    "test_vit", "test_byobnet", "test_efficientnet_gn", "test_convnext2", "test_mambaout", "test_nfnet",
    "ghostnetv2_100", "edgenext_xx_small", "mobilevit_xxs", "mobilevitv2_050", "efficientformer_l1", "efficientvit_m0",
    "fastvit_t8", "levit_128s", "xcit_nano_12_p16_224", "coat_lite_tiny", "gmlp_ti16_224", "convit_tiny",
    "res2net50_26w_4s", "resnest14d", "skresnet18", "hrnet_w18_small", "nf_regnet_b0", "halonet26t", "botnet26t_256",
    "lambda_resnet26t", "bat_resnext26ts", "volo_d1_224", "twins_pcpvt_small", "pvt_v2_b0", "swiftformer_xs", "sequencer2d_s",
    "davit_tiny", "focalnet_tiny_srf", "eva02_tiny_patch14_224", "crossvit_9_240", "naflexvit_base_patch16_gap", "mobileone_s0",
)  # fmt: skip


def pictures(size: int, count: int = 24, seed: int = 0) -> np.ndarray:
    """Smooth random images [N,3,H,W]: noise alone has no structure."""
    random = np.random.default_rng(seed)
    coarse = random.normal(size=(count, 3, size // 8, size // 8))
    fine = random.normal(size=(count, 3, size, size))
    return (coarse.repeat(8, 2).repeat(8, 3) + 0.3 * fine).astype(np.float32)


def settle(model: Any, x: Any) -> Any:
    """Give batch normalizations the statistics of some data, as training does: else deep random nets say nothing."""
    import torch

    norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    random = torch.Generator().manual_seed(1)
    for norm in norms:
        norm.momentum = None
        norm.reset_running_stats()
        if norm.affine:
            norm.weight.data.uniform_(0.7, 1.3, generator=random)
            norm.bias.data.uniform_(-0.2, 0.2, generator=random)
    if norms:
        model.train()
        for module in model.modules():
            if (
                isinstance(module, (torch.nn.Dropout, torch.nn.AlphaDropout))
                or "StochasticDepth" in type(module).__name__
                or "DropPath" in type(module).__name__
            ):
                module.eval()
        with torch.no_grad():
            model(x)
    return model.eval()


def made(model: Any, x: np.ndarray, settled: bool = True, name: str = "", **more: Any) -> Made:
    import inspect

    import torch

    sample = torch.from_numpy(x)
    if settled:
        model = settle(model, sample)
    model.eval()
    with torch.no_grad():
        answer = model(sample)
    name = name or next(iter(inspect.signature(model.forward).parameters))
    more.setdefault("precisions", ("fp32",))
    return Made(
        model,
        {name: x},
        named(answer),
        chained=True,
        options={"shapes": {name: (None, *x.shape[1:])}, **more.pop("options", {})},
        **more,
    )


def named(answer: Any) -> Any:
    if isinstance(answer, dict):
        return {name: value.numpy() for name, value in answer.items()}
    if hasattr(answer, "_fields"):
        return {name: value.numpy() for name, value in answer._asdict().items() if value is not None}
    if isinstance(answer, (list, tuple)):
        return [value.numpy() for value in answer]
    return [answer.numpy()]


def cases() -> Iterator[Case]:
    import timm
    import torch
    import torchvision

    def classifier(name: str, size: int) -> Made:
        torch.manual_seed(0)
        more = {"init_weights": True, "aux_logits": False} if name in ("googlenet", "inception_v3") else {}
        return made(getattr(torchvision.models, name)(weights=None, num_classes=10, **more), pictures(size))

    def segmenter(name: str, size: int) -> Made:
        torch.manual_seed(0)
        return made(
            getattr(torchvision.models.segmentation, name)(weights=None, weights_backbone=None, num_classes=4),
            pictures(size, 8),
        )

    def video(name: str) -> Made:
        torch.manual_seed(0)
        size, frames = (224, 16) if "mvit" in name else (64, 16) if name == "s3d" else (32, 8)
        x = pictures(size, 4)[:, :, None].repeat(frames, 2)
        return made(getattr(torchvision.models.video, name)(weights=None, num_classes=10), np.ascontiguousarray(x))

    def image(name: str) -> Made:
        torch.manual_seed(0)
        model = timm.create_model(name, pretrained=False, num_classes=10)
        size = model.default_cfg["input_size"][-1]
        try:
            small = timm.create_model(name, pretrained=False, num_classes=10, img_size=96)
            model, size = small, 96
        except TypeError:
            if not model.default_cfg.get("fixed_input_size") and size > 96:
                size = 96
        except (AssertionError, ValueError, RuntimeError):
            pass
        try:
            return made(model, pictures(size, 16))
        except Exception:
            return made(
                timm.create_model(name, pretrained=False, num_classes=10),
                pictures(model.default_cfg["input_size"][-1], 12),
            )

    for name, size in TORCHVISION.items():
        yield Case(f"torchvision {name}", lambda name=name, size=size: classifier(name, size))
    for name, size in SEGMENTATION.items():
        yield Case(f"torchvision {name}", lambda name=name, size=size: segmenter(name, size))
    for name in VIDEO:
        yield Case(f"torchvision {name}", lambda name=name: video(name))
    for name in TIMM:
        yield Case(f"timm {name}", lambda name=name: image(name))
