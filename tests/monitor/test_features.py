"""What is taken of tensors: the same of a sample alone and among others, whatever it is."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.monitor.features import Bands, Ids, Values, extractor
from edgekit.monitor.picture import Picture
from edgekit.tensors import QuantParams, TensorSpec

SHAPES = {
    (30,): Values, (28, 28, 1): Picture, (32, 32, 3): Picture, (96, 80, 3): Picture, (3, 64, 40): Picture,
    (30, 31, 4): Picture, (17, 23): Picture, (49, 10, 1): Bands, (5000, 3): Bands, (16_000,): Bands, (65,): Bands,
}  # fmt: skip


def rows(made, batch):
    return made.rows(*(np.ascontiguousarray(view) for view in made.views(batch)))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_samples_numbers_do_not_depend_on_its_neighbors(shape):
    """Bit for bit, or a camera that stands still would not be seen to."""
    made = extractor(TensorSpec("x", (None, *shape), "float32"), None)
    assert type(made) is SHAPES[shape]
    dice = np.random.default_rng(1)
    x = (dice.normal(size=(13, *shape)) * dice.uniform(0.1, 3, (13, *(1 for _ in shape)))).astype(np.float32)
    together = rows(made, x)
    assert together.shape == (13, len(made.names))
    for size in (1, 2, 5, 8):
        parts = [rows(made, x[at : at + size]) for at in range(0, 13, size)]
        np.testing.assert_array_equal(np.concatenate(parts), together)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [24, 90])
def test_the_numbers_of_a_picture_by_their_definitions(size, channels):
    made = extractor(TensorSpec("x", (None, size, size, channels), "float32"), None)
    x = np.random.default_rng(2).random((2, size, size, channels), np.float32)
    step = -(-size // 32)
    wide = x[:, ::step, ::step].astype(np.float64)
    gray = wide[..., channels // 2]
    corner = (size - 32) // 2
    near = gray if step == 1 else x[:, corner : corner + 32, corner : corner + 32, channels // 2].astype(np.float64)
    right, below = near[:, :-1, 1:] - near[:, :-1, :-1], near[:, 1:, :-1] - near[:, :-1, :-1]
    fine = near[:, 1:, 1:] - near[:, :-1, 1:] - below
    energy = np.square(right).sum((1, 2)) + np.square(below).sum((1, 2))
    known = {
        "edges": np.log(energy / right[0].size),
        "fine detail": np.log(np.square(fine).sum((1, 2)) / energy),
        "direction of edges": (np.square(right).sum((1, 2)) - np.square(below).sum((1, 2))) / energy,
        "slant of edges": (right * below).sum((1, 2)) / energy,
    }
    if gray.shape[1] % 4 == 0:
        known["brightness"] = gray.mean((1, 2))
        known["brightness at 2, 3 of 4"] = gray.reshape(2, 4, gray.shape[1] // 4, 4, -1).mean((2, 4))[:, 1, 2]
        known["contrast"] = np.log(gray.std((1, 2)))
        if channels == 3:
            known["red"] = wide[..., 0].mean((1, 2)) - gray.mean((1, 2))
            known["blue"] = wide[..., 2].mean((1, 2)) - gray.mean((1, 2))
    found = rows(made, x)
    for name, expected in known.items():
        np.testing.assert_allclose(found[:, made.names.index(name)], expected, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("shape", [(30,), (12, 12, 3), (3, 40, 40), (49, 10), (5000,)])
def test_integers_of_a_tensor_are_its_reals(shape):
    quant = QuantParams((0.05,), (-7,))
    integers = np.random.default_rng(3).integers(-128, 128, (4, *shape)).astype(np.int8)
    reals = (integers.astype(np.float32) + 7) * np.float32(0.05)
    made = extractor(TensorSpec("x", (None, *shape), "int8", quant=quant), None)
    np.testing.assert_allclose(rows(made, integers), rows(made, reals), rtol=1e-6)


def test_ids_by_their_definition():
    ids = np.random.default_rng(4).integers(0, 40, (5, 30))
    ids[3] = 0
    found = Ids().rows(*Ids().views(ids))
    for row, given in zip(found, ids, strict=True):
        used = given[given != 0]
        assert row[0] == pytest.approx(used.size / 30)
        heaps = np.bincount(used % 16, minlength=16) / max(1, used.size)
        np.testing.assert_allclose(row[1:], heaps)


def test_a_wave_of_nothing_and_a_picture_of_one_color_are_finite():
    for shape in ((16_000,), (40, 40, 3), (49, 10)):
        made = extractor(TensorSpec("x", (None, *shape), "float32"), None)
        assert np.isfinite(rows(made, np.zeros((2, *shape), np.float32))).all()
        assert np.isfinite(rows(made, np.full((2, *shape), 255, np.float32))).all()


@pytest.mark.parametrize(("channels", "colors"), [(1, ()), (3, ("red", "blue")), (4, ("green", "blue", "alpha"))])
def test_no_number_of_a_picture_is_always_the_same(channels, colors):
    """Green beside gray, which is green, was 0 for pictures of bytes and rounding noise for others: a false alarm."""
    made = extractor(TensorSpec("x", (None, 32, 32, channels), "float32", "NHWC"), None)
    assert made.names[2 : 2 + channels - 1] == colors
    bytes_of = np.random.default_rng(1).integers(0, 256, (40, 32, 32, channels)).astype(np.float32)
    assert rows(made, bytes_of).std(axis=0).min() > 1e-3


@pytest.mark.parametrize("size", [32, 96])
@pytest.mark.parametrize("channels", [3, 4])
def test_a_picture_is_the_same_whichever_axis_its_channels_are(size, channels):
    x = np.random.default_rng(3).random((3, size, size, channels), np.float32)
    last = extractor(TensorSpec("x", (None, size, size, channels), "float32", layout="NHWC"), None)
    first = extractor(TensorSpec("x", (None, channels, size, size), "float32", layout="NCHW"), None)
    assert isinstance(first, Picture)
    assert first.first
    np.testing.assert_array_equal(rows(first, np.ascontiguousarray(np.moveaxis(x, 3, 1))), rows(last, x))
    if channels == 4:  # gray is the first where there are not three
        alone = extractor(TensorSpec("x", (None, size, size, 1), "float32"), None)
        np.testing.assert_array_equal(rows(alone, x[..., :1])[:, :2], rows(last, x)[:, :2])
