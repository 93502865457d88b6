"""A camera's bytes reach the tensor by a table, and equal what arithmetic makes of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from edgekit.feeding import ImageSteps, Preprocess
from edgekit.runtimes.base import quantize
from edgekit.runtimes.preparation.numbers import fast, normalize
from edgekit.runtimes.preprocess import Preparer
from edgekit.tensors import QuantParams, TensorSpec

IMAGENET = Preprocess("image", 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
UNIT = Preprocess("image", 1 / 255)
CENTERED = Preprocess("image", 1 / 127.5, (1.0,))
PICTURE = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
PICTURE.reshape(-1)[:256] = np.arange(256)


def spec(dtype, scale=None, zero=0, first=False):
    quant = None if scale is None else QuantParams((scale,), (zero,))
    return TensorSpec("x", (1, 3, 16, 16) if first else (1, 16, 16, 3), dtype, "NCHW" if first else "NHWC", quant)


@pytest.mark.parametrize("first", [False, True], ids=["NHWC", "NCHW"])
@pytest.mark.parametrize(
    "how", [IMAGENET, UNIT, CENTERED, Preprocess("image")], ids=["imagenet", "unit", "centered", "plain"]
)
@pytest.mark.parametrize(
    "kind", [("int8", 1 / 255, -128), ("int8", 0.0187, -14), ("uint8", 1 / 128, 128), ("int8", 1.0, -128)]
)
def test_integers_equal_those_of_arithmetic(first, how, kind):
    wanted = spec(*kind, first=first)
    made = fast(how, wanted)(PICTURE)
    general = PICTURE.transpose(2, 0, 1) if first else PICTURE
    expected = quantize(np.asarray(normalize(general, how, wanted), np.float32), wanted)[None]
    np.testing.assert_array_equal(made, expected)
    assert made.dtype == expected.dtype
    assert made.flags.c_contiguous


@pytest.mark.parametrize("first", [False, True], ids=["NHWC", "NCHW"])
@pytest.mark.parametrize(
    "how", [IMAGENET, UNIT, CENTERED, Preprocess("image")], ids=["imagenet", "unit", "centered", "plain"]
)
def test_floats_differ_by_rounding_only(first, how):
    wanted = spec("float32", first=first)
    made = fast(how, wanted)(PICTURE)
    general = PICTURE.transpose(2, 0, 1) if first else PICTURE
    expected = np.asarray(normalize(general, how, wanted), np.float32)[None]
    assert np.abs(made - expected).max() <= 2e-6 * np.abs(expected).max()
    assert made.dtype == np.float32


class Watched(np.ndarray):
    """An array that tells which operations it and what follows from it go through."""

    seen: list

    def __array_finalize__(self, other):
        self.seen = getattr(other, "seen", [])

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        plain = [np.asarray(value) for value in inputs]
        self.seen.append((ufunc.__name__, [value.dtype.kind for value in plain]))
        made = getattr(ufunc, method)(*plain, **options).view(Watched)
        made.seen = self.seen
        return made


@pytest.mark.parametrize(
    ("how", "kind"),
    [(UNIT, ("int8", 1 / 255, -128)), (CENTERED, ("int8", 1 / 127.5, -1)), (UNIT, ("uint8", 1 / 255, 0))],
)
def test_where_scales_cancel_no_float_is_computed(how, kind):
    """Every operation on the way is seen; it takes integers only, and there is one at most."""
    wanted = spec(*kind)
    frame = PICTURE.view(Watched)
    frame.seen = []
    prepared = Preparer((wanted,), how)(frame)
    assert prepared.ready
    assert all(kinds == "u" or set(kinds) == {"u"} for _, kinds in frame.seen), frame.seen
    assert len(frame.seen) <= 1
    made = np.asarray(prepared.feeds["x"])
    assert made.dtype == np.dtype(kind[0])
    expected = quantize(np.asarray(normalize(PICTURE, how, wanted), np.float32), wanted)
    np.testing.assert_array_equal(made[0], expected)


def test_a_mean_far_away_keeps_its_digits():
    odd = Preprocess("image", 1.0, (1e6,), (1.0,))
    assert fast(odd, spec("float32")) is None or np.array_equal(
        fast(odd, spec("float32"))(PICTURE)[0], normalize(PICTURE, odd, spec("float32"))
    )


def test_what_a_table_cannot_say_goes_the_general_way():
    per_channel = TensorSpec("x", (1, 16, 16, 3), "int8", "NHWC", QuantParams((0.1, 0.2, 0.3), (0, 0, 0), 3))
    assert fast(UNIT, per_channel) is None
    assert fast(UNIT, spec("int16", 1 / 255, 0)) is None
    assert fast(Preprocess("image", 1.0, (0.0, 1.0)), spec("float32")) is None
    assert not Preparer((per_channel,), UNIT)(PICTURE).ready


@pytest.mark.parametrize("form", ["frame", "pillow", "other size"])
def test_all_forms_of_a_picture_come_to_the_same_shape(form):
    from PIL import Image

    things = {
        "frame": PICTURE,
        "pillow": Image.fromarray(PICTURE),
        "other size": np.repeat(PICTURE, 2, axis=1),
    }
    for how, wanted in itertools.product((IMAGENET, UNIT), (spec("int8", 0.02, 3), spec("float32", first=True))):
        prepared = Preparer((wanted,), how)(things[form])
        assert prepared.feeds["x"].shape == wanted.shape
        assert prepared.placement.target == (16, 16)
    boxed = Preprocess("image", image=ImageSteps("letterbox"))
    assert Preparer((spec("float32"),), boxed)(things["other size"]).placement.offset == (0.0, 4.0)
