"""Needs torch, and transformers and torchaudio where they are installed: small nets of many kinds, weights random."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from tried.case import Case, Made


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).normal(size=shape).astype(np.float32)


def ids(high: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(4).integers(0, high, size=shape).astype(np.int64)


def made(
    model: nn.Module, data: dict[str, np.ndarray], precisions: tuple[str, ...] = ("fp32", "int8"), **more: Any
) -> Made:
    model = model.eval()
    with torch.no_grad():
        answer = model(**{name: torch.from_numpy(value) for name, value in data.items()})
    if hasattr(answer, "items"):
        said: Any = {name: value.numpy() for name, value in answer.items() if isinstance(value, torch.Tensor)}
    else:
        said = [value.numpy() for value in (answer if isinstance(answer, (tuple, list)) else [answer])]
    shapes = {name: (None, *value.shape[1:]) for name, value in data.items()}
    dtypes = {name: str(value.dtype) for name, value in data.items() if value.dtype != np.float32}
    return Made(model, data, said, {"shapes": shapes, "dtypes": dtypes}, chained=True, precisions=precisions, **more)


class Of(nn.Module):
    """A function with modules."""

    def __init__(self, call: Any, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)
        self.call = call

    def forward(self, x: torch.Tensor) -> Any:
        return self.call(self, x)


def own() -> Iterator[tuple[str, Any, Any]]:
    yield (
        "gru, last state",
        Of(lambda s, x: s.head(s.rnn(x)[1][-1]), rnn=nn.GRU(5, 8, 2, batch_first=True), head=nn.Linear(8, 3)),
        noise(24, 10, 5),
    )
    yield (
        "lstm bidirectional",
        Of(
            lambda s, x: s.head(s.rnn(x)[0].mean(1)),
            rnn=nn.LSTM(5, 6, batch_first=True, bidirectional=True),
            head=nn.Linear(12, 3),
        ),
        noise(24, 10, 5),
    )
    yield "lstm proj", Of(lambda s, x: s.rnn(x)[0], rnn=nn.LSTM(5, 6, batch_first=True, proj_size=3)), noise(24, 8, 5)
    yield (
        "rnn relu",
        Of(lambda s, x: s.rnn(x)[0], rnn=nn.RNN(5, 6, nonlinearity="relu", batch_first=True)),
        noise(24, 8, 5),
    )
    yield (
        "gru cell, unrolled",
        Of(
            lambda s, x: [h := torch.zeros(x.shape[0], 6)] and [h := s.cell(x[:, i], h) for i in range(4)][-1],
            cell=nn.GRUCell(5, 6),
        ),
        noise(24, 4, 5),
    )
    yield (
        "transformer encoder",
        Of(
            lambda s, x: s.t(x).mean(1),
            t=nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2),
        ),
        noise(24, 7, 16),
    )
    yield (
        "transformer",
        Of(lambda s, x: s.t(x, x[:, :3]), t=nn.Transformer(16, 2, 1, 1, 32, batch_first=True)),
        noise(24, 7, 16),
    )
    yield (
        "causal attention",
        Of(
            lambda s, x: nn.functional.scaled_dot_product_attention(s.q(x), s.k(x), x, is_causal=True),
            q=nn.Linear(8, 8),
            k=nn.Linear(8, 8),
        ),
        noise(24, 6, 8),
    )
    yield (
        "unfold, fold",
        Of(lambda s, x: nn.functional.fold(nn.functional.unfold(x, 3, stride=3) * 2, (9, 9), 3, stride=3)),
        noise(24, 2, 9, 9),
    )
    yield (
        "pixel shuffle",
        Of(lambda s, x: nn.functional.pixel_unshuffle(nn.functional.pixel_shuffle(s.c(x), 2), 2), c=nn.Conv2d(3, 8, 3)),
        noise(24, 3, 8, 8),
    )
    yield (
        "grid sample",
        Of(
            lambda s, x: nn.functional.grid_sample(x, torch.tanh(s.g(x).permute(0, 2, 3, 1)), align_corners=False),
            g=nn.Conv2d(3, 2, 3, padding=1),
        ),
        noise(24, 3, 8, 8),
    )
    yield (
        "resizes",
        Of(
            lambda s, x: [
                nn.functional.interpolate(x, scale_factor=1.5, mode="bilinear"),
                nn.functional.interpolate(x, size=5, mode="bicubic"),
                nn.functional.interpolate(x, size=(12, 3), mode="area"),
                nn.functional.interpolate(x, scale_factor=2),
            ]
        ),
        noise(8, 3, 8, 8),
    )
    yield (
        "pools",
        Of(
            lambda s, x: [
                nn.functional.adaptive_avg_pool2d(x, (3, 2)),
                nn.functional.adaptive_max_pool2d(x, 2),
                nn.functional.lp_pool2d(x.abs(), 2, 2),
                nn.functional.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
            ]
        ),
        noise(8, 3, 9, 9),
    )
    yield (
        "conv transpose dilated groups",
        Of(
            lambda s, x: s.b(s.a(x)),
            a=nn.Conv2d(4, 8, 3, dilation=2, groups=2, padding=2, padding_mode="reflect"),
            b=nn.ConvTranspose2d(8, 4, 3, stride=2, groups=4, output_padding=1),
        ),
        noise(12, 4, 8, 8),
    )
    yield (
        "conv3d, pool3d",
        Of(lambda s, x: nn.functional.max_pool3d(s.a(x), 2), a=nn.Conv3d(2, 4, 3)),
        noise(8, 2, 6, 8, 8),
    )
    yield (
        "norms",
        Of(
            lambda s, x: s.d(s.c(s.b(s.a(x)))),
            a=nn.InstanceNorm2d(4, affine=True),
            b=nn.GroupNorm(2, 4),
            c=nn.LayerNorm([4, 8, 8]),
            d=nn.LocalResponseNorm(2),
        ),
        noise(12, 4, 8, 8),
    )
    yield (
        "activations",
        Of(
            lambda s, x: [
                getattr(nn.functional, n)(x)
                for n in (
                    "gelu",
                    "silu",
                    "mish",
                    "hardswish",
                    "hardsigmoid",
                    "softplus",
                    "selu",
                    "celu",
                    "logsigmoid",
                    "softsign",
                    "tanhshrink",
                    "glu",
                    "hardtanh",
                    "rrelu",
                )
            ]
        ),
        noise(24, 8),
    )
    yield (
        "einsum, cumsum, sort",
        Of(
            lambda s, x: [
                torch.einsum("bij,bkj->bik", x, x),
                x.cumsum(1),
                x.sort(dim=1)[0],
                x.topk(2, dim=1)[1],
                torch.flip(x, [1]),
                torch.roll(x, 1, 2),
            ]
        ),
        noise(12, 5, 4),
    )
    yield (
        "linear algebra",
        Of(
            lambda s, x: [
                torch.linalg.norm(x, dim=1),
                torch.cdist(x, x),
                torch.cosine_similarity(x, x[:, :1], dim=2),
                x.var(1),
                x.logsumexp(1),
                x.prod(1),
                torch.triu(x),
            ]
        ),
        noise(12, 4, 4),
    )
    yield (
        "index, scatter, where",
        Of(
            lambda s, x: [
                x[:, [2, 0]],
                x.gather(1, (x > 0).long()),
                torch.zeros_like(x).scatter_add(1, (x > 0).long(), x),
                torch.where(x > 0, x, -x),
                x.masked_fill(x > 1, 0),
                x.clamp(-1, 1),
                torch.bucketize(x, torch.tensor([-1.0, 0.0, 1.0])),
            ]
        ),
        noise(12, 5, 4),
    )
    yield (
        "stft magnitude",
        Of(lambda s, x: torch.stft(x, 32, 16, window=torch.hann_window(32), return_complex=True, center=False).abs()),
        noise(12, 200),
    )
    yield "fft real", Of(lambda s, x: torch.view_as_real(torch.fft.rfft(x))), noise(12, 32)
    yield (
        "complex product",
        Of(
            lambda s, x: torch.view_as_real(
                torch.view_as_complex(x) * torch.exp(torch.complex(torch.tensor(0.0), torch.tensor(1.0)))
            )
        ),
        noise(12, 6, 2),
    )
    yield "dict of nested", Of(lambda s, x: {"a": x * 2, "b": (x + 1, [x - 1, {"c": x.abs()}])}), noise(12, 4)
    yield "only some outputs", Of(lambda s, x: (x * 2, None, 3, x.abs())), noise(12, 4)
    yield (
        "batch norm 1d, prelu, dropout",
        nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.PReLU(8), nn.Dropout(), nn.Linear(8, 3), nn.Softmax(-1)),
        noise(48, 6),
    )
    yield (
        "weight norm, spectral norm",
        nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Linear(6, 8)),
            nn.Tanh(),
            nn.utils.parametrizations.spectral_norm(nn.Linear(8, 3)),
        ),
        noise(48, 6),
    )
    yield (
        "double network",
        nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double(),
        noise(24, 6).astype(np.float64),
    )
    yield (
        "half network",
        nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).half(),
        noise(24, 6).astype(np.float16),
    )
    yield "branch by value", Of(lambda s, x: x * 2 if x.sum() > 0 else x), noise(12, 4)
    yield "torch.cond", Of(lambda s, x: torch.cond(x.sum() > 0, lambda v: v * 2, lambda v: v - 1, (x,))), noise(12, 4)
    yield "embedding bag", Of(lambda s, x: s.e(x), e=nn.EmbeddingBag(20, 4)), ids(20, 12, 5)
    yield (
        "embedding, mask",
        Of(
            lambda s, x: (s.e(x) * (x != 0)[..., None]).sum(1) / (x != 0).sum(1, keepdim=True).clamp(min=1),
            e=nn.Embedding(20, 4, padding_idx=0),
        ),
        ids(20, 12, 5),
    )
    yield "packed lengths", Packed(), {"x": noise(12, 6, 5), "lengths": np.sort(ids(5, 12) + 1)[::-1].copy()}


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(5, 4, batch_first=True)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        return self.rnn(packed)[1][0]


def language() -> Iterator[tuple[str, Any, Any]]:
    import transformers as t

    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    words = {"input_ids": ids(40, 8, 7), "attention_mask": np.ones((8, 7), np.int64)}
    yield (
        "BERT",
        t.BertForSequenceClassification(t.BertConfig(vocab_size=40, max_position_embeddings=16, **small)),
        words,
    )
    yield (
        "DistilBERT",
        t.DistilBertModel(
            t.DistilBertConfig(vocab_size=40, dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=16)
        ),
        words,
    )
    yield (
        "ViT",
        t.ViTForImageClassification(t.ViTConfig(image_size=16, patch_size=4, num_labels=4, **small)),
        {"pixel_values": noise(8, 3, 16, 16)},
    )
    yield (
        "T5 encoder",
        t.T5EncoderModel(t.T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)),
        {"input_ids": ids(40, 8, 7)},
    )
    yield (
        "GPT-2",
        t.GPT2Model(t.GPT2Config(vocab_size=40, n_positions=16, n_embd=16, n_layer=2, n_head=2, use_cache=False)),
        {"input_ids": ids(40, 8, 7)},
    )
    yield (
        "SegFormer",
        t.SegformerForSemanticSegmentation(
            t.SegformerConfig(depths=[1] * 4, hidden_sizes=[8, 8, 16, 16], decoder_hidden_size=16, num_labels=3)
        ),
        {"pixel_values": noise(4, 3, 32, 32)},
    )
    yield (
        "Wav2Vec2",
        t.Wav2Vec2Model(
            t.Wav2Vec2Config(
                conv_dim=(8, 8),
                conv_stride=(5, 4),
                conv_kernel=(10, 5),
                num_feat_extract_layers=2,
                num_conv_pos_embeddings=8,
                num_conv_pos_embedding_groups=2,
                **small,
            )
        ),
        {"input_values": noise(4, 400)},
    )
    yield (
        "Whisper encoder",
        Of(
            lambda s, x: s.e(x).last_hidden_state,
            e=t.WhisperModel(
                t.WhisperConfig(
                    vocab_size=40,
                    d_model=16,
                    encoder_layers=1,
                    decoder_layers=1,
                    encoder_attention_heads=2,
                    decoder_attention_heads=2,
                    encoder_ffn_dim=32,
                    decoder_ffn_dim=32,
                    max_source_positions=20,
                    num_mel_bins=8,
                    pad_token_id=0,
                    bos_token_id=1,
                    eos_token_id=2,
                    decoder_start_token_id=1,
                )
            ).encoder,
        ),
        noise(4, 8, 40),
    )
    yield (
        "MobileViT",
        t.MobileViTForImageClassification(
            t.MobileViTConfig(
                image_size=64, hidden_sizes=[8, 12, 16], neck_hidden_sizes=[4, 8, 8, 8, 12, 16, 32], num_labels=3
            )
        ),
        {"pixel_values": noise(4, 3, 64, 64)},
    )


def sound() -> Iterator[tuple[str, Any, Any]]:
    import torchaudio as a

    yield "wav2letter", a.models.Wav2Letter(num_classes=6, input_type="mfcc", num_features=8), noise(2, 8, 64)
    yield (
        "conv-tasnet",
        a.models.ConvTasNet(
            num_sources=2, enc_num_feats=8, msk_num_feats=8, msk_num_hidden_feats=8, msk_num_layers=2, msk_num_stacks=1
        ),
        noise(2, 1, 400),
    )
    yield (
        "conformer",
        Of(lambda s, x: s.c(x, torch.full((x.shape[0],), 12))[0], c=a.models.Conformer(8, 2, 16, 1, 3)),
        noise(4, 12, 8),
    )
    yield (
        "mel spectrogram",
        Of(lambda s, x: s.m(x), m=a.transforms.MelSpectrogram(8000, 64, hop_length=32, n_mels=8, center=False)),
        noise(8, 400),
    )
    yield "deep speech", a.models.DeepSpeech(8, n_hidden=16, n_class=5), noise(2, 1, 12, 8)


def cases() -> Iterator[Case]:
    sources = [
        own(),
        *([language()] if importlib.util.find_spec("transformers") else []),
        *([sound()] if importlib.util.find_spec("torchaudio") else []),
    ]
    for source in sources:
        torch.manual_seed(0)
        for name, model, x in source:
            import inspect

            if not isinstance(x, dict):
                x = {next(iter(inspect.signature(model.forward).parameters)): x}
            yield Case(name, lambda model=model, x=x: made(model, x))
