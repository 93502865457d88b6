"""PyTorch operations that torch.onnx does not write, or writes wrongly: written out before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="comes with the torch extra")
pytest.importorskip("onnxscript", reason="comes with the torch extra")
ort = pytest.importorskip("onnxruntime", reason="comes with the onnx extra")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from edgekit.converters import load_torch, lower_onnx_onnx, lower_onnx_tflite  # noqa: E402
from edgekit.converters.loaded import Loaded  # noqa: E402
from edgekit.converters.stages import Source  # noqa: E402
from edgekit.errors import ConversionError  # noqa: E402


class Of(nn.Module):
    """A function of one tensor, with the modules it uses."""

    def __init__(self, call, **parts: nn.Module) -> None:
        super().__init__()
        self.call = call
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.call(self, x)


def loaded(module: nn.Module, folder: Path, *sizes: int) -> Loaded:
    path = load_torch.save_shaped(module.eval(), folder, {"x": (None, *sizes)}, {})
    return load_torch.load(Source(str(path), "torch", "", path.stat().st_size, trusted=True))


def check(module: nn.Module, folder: Path, *sizes: int) -> Loaded:
    """What is written answers as the network does, for any batch."""
    source = loaded(module, folder, *sizes)
    graph = lower_onnx_onnx.lower(source, folder / "m.onnx")
    session = ort.InferenceSession(graph.path)
    for batch in (1, 3):
        x = np.random.default_rng(batch).normal(size=(batch, *sizes)).astype(np.float32)
        with torch.no_grad():
            expected = module(torch.from_numpy(x))
        for one, found in zip(expected if isinstance(expected, tuple) else (expected,), session.run(None, {"x": x}),
                              strict=True):  # fmt: skip
            np.testing.assert_allclose(found, one.numpy(), rtol=1e-5, atol=1e-5)
    return source


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_lstm_with_projections(tmp_path: Path) -> None:
    lstm = nn.LSTM(5, 6, 2, batch_first=True, proj_size=3, bidirectional=True)
    check(Of(lambda s, x: (s.lstm(x)[0], s.lstm(x)[1][1].transpose(0, 1)), lstm=lstm), tmp_path, 4, 5)


@pytest.mark.parametrize(
    "pool",
    [
        lambda _, x: F.adaptive_avg_pool2d(x, (5, 7)),
        lambda _, x: F.adaptive_max_pool2d(x, (5, None)),
        lambda _, x: F.adaptive_avg_pool1d(x.flatten(2), 7),
        lambda _, x: F.adaptive_max_pool1d(x.flatten(2), 7),
        lambda _, x: F.adaptive_avg_pool3d(x.unsqueeze(2).expand(-1, -1, 5, -1, -1), (2, 4, 3)),
    ],
    ids=["averages", "maxima", "averages of rows", "maxima of rows", "averages of volumes"],
)
def test_pools_with_windows_of_several_sizes(pool, tmp_path: Path) -> None:
    source = check(Of(pool), tmp_path, 2, 9, 10)
    graph = lower_onnx_tflite.lower(source, tmp_path / "m.tflite")
    assert graph.inputs[0].shape == (None, 2, 9, 10)


def test_an_average_with_a_divisor_of_its_own(tmp_path: Path) -> None:
    check(Of(lambda _, x: F.avg_pool2d(x, (3, 2), 2, 1, divisor_override=5)), tmp_path, 2, 9, 9)


@pytest.mark.parametrize("power", [0.0, 1.0, 3.0, float("inf")])
def test_distances_of_other_norms(power: float, tmp_path: Path) -> None:
    check(Of(lambda _, x: torch.cdist(x, x.flip(1), p=power)), tmp_path, 4, 5)


@pytest.mark.parametrize("rows", [4, 25, 26])
def test_euclidean_distances_of_few_rows_and_of_many(rows: int, tmp_path: Path) -> None:
    check(Of(lambda _, x: torch.cdist(x, x.flip(1) + 1)), tmp_path, rows, 5)


@pytest.mark.parametrize("right", [False, True])
def test_places_in_a_sorted_row(right: bool, tmp_path: Path) -> None:
    edges = torch.tensor([-1.0, 0.0, 1.0])
    check(Of(lambda _, x: torch.searchsorted(edges, x.round(), right=right)), tmp_path, 6)


def test_a_transformer_that_is_given_its_causal_mask(tmp_path: Path) -> None:
    layer = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)
    mask = nn.Transformer.generate_square_subsequent_mask(5)
    check(Of(lambda s, x: s.all(x, x, tgt_mask=mask), all=nn.TransformerDecoder(layer, 2)), tmp_path, 5, 8)


class Windows(nn.Module):
    """Attention inside windows of 3 by 3, with a bias for each pair of places."""

    def __init__(self) -> None:
        super().__init__()
        self.parts, self.joined = nn.Linear(64, 192), nn.Linear(64, 64)
        self.bias = nn.Parameter(torch.randn(2, 9, 9, generator=torch.Generator().manual_seed(0)))

    def forward(self, x):
        cut = x.view(-1, 2, 3, 2, 3, 64).permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, 3, 3, 64)
        q, k, v = self.parts(cut).view(cut.shape[0], -1, 2, 96).transpose(1, 2).chunk(3, dim=3)
        made = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias.unsqueeze(0).contiguous())
        made = self.joined(made.transpose(1, 2).reshape((*cut.shape[:-1], -1)))
        return made.view(-1, 2, 2, 3, 3, 64).permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, 6, 6, 64)


def test_attention_whose_answer_is_cut_into_windows(tmp_path: Path) -> None:
    """PyTorch's fused attention lies in memory as the written one does not: views of it failed."""
    check(Windows(), tmp_path, 6, 6, 64)


def test_operations_on_complex_numbers_are_refused_as_such(tmp_path: Path) -> None:
    def turned(_, x):
        angles = torch.outer(torch.arange(3.0), torch.arange(4.0))
        spun = torch.view_as_complex(x.unflatten(-1, (4, 2))) * torch.polar(torch.ones_like(angles), angles)[None]
        return torch.view_as_real(spun).flatten(2)

    with pytest.raises(ConversionError, match="complex numbers") as caught:
        loaded(Of(turned), tmp_path, 3, 8)
    assert caught.value.code == "op-unsupported-conversion"


def test_what_torch_writes_wrongly_is_its_exporters_fault(tmp_path: Path) -> None:
    window = torch.hann_window(64)

    def there_and_back(_, x):
        return torch.istft(torch.stft(x, 64, 16, window=window, return_complex=True), 64, 16, window=window)

    with pytest.raises(ConversionError) as caught:
        loaded(Of(there_and_back), tmp_path, 304)
    assert caught.value.code == "torch-conversion-failed"
