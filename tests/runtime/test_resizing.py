"""Pictures of another size, against Pillow and OpenCV's formulas; `benchmarks/preparation.py` asks OpenCV."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from edgekit.errors import FeedError
from edgekit.feeding import ImageSteps, Preprocess
from edgekit.runtimes.preparation import resizing
from edgekit.runtimes.preparation.pictures import Geometry, fit, recolor
from edgekit.runtimes.preparation.resizing import resize
from edgekit.runtimes.preparation.taps import taps
from edgekit.runtimes.preprocess import Preparer
from edgekit.tensors import TensorSpec

SIZES = [((48, 64), (24, 32)), ((48, 64), (17, 23)), ((13, 9), (40, 31)), ((30, 40), (15, 90)), ((5, 7), (1, 1)),
         ((1, 1), (4, 3)), ((120, 97), (96, 96))]  # fmt: skip
BICUBIC = Image.Resampling.BICUBIC
PILLOW = {"nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR, "area": Image.Resampling.BOX}


@pytest.fixture
def numpy_only(monkeypatch):
    """As on a board where the app has imported neither library."""
    monkeypatch.delitem(sys.modules, "cv2", raising=False)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)


def picture(size, channels=3, seed=0):
    """Noise, which is the hardest, beside a ramp."""
    noise = np.random.default_rng(seed).integers(0, 256, (*size, channels), dtype=np.uint8)
    noise[: size[0] // 2] = np.linspace(0, 255, size[1])[:, None]
    return noise


def off(found, expected):
    assert found.shape == expected.shape
    assert found.dtype == np.uint8
    return np.abs(found.astype(int) - expected.astype(int)).max(initial=0)


@pytest.mark.parametrize("how", PILLOW)
@pytest.mark.parametrize(("size", "wanted"), SIZES)
def test_as_pillow_does_within_one_step(numpy_only, how, size, wanted):
    for channels in (1, 3):
        given = picture(size, channels)
        expected = Image.fromarray(given[..., 0] if channels == 1 else given).resize(wanted[::-1], PILLOW[how])
        found = resize(given, *wanted, how, "pillow")
        assert off(found, np.asarray(expected).reshape(*wanted, channels)) <= (0 if how == "nearest" else 1)


@pytest.mark.parametrize(("size", "wanted"), [*SIZES, ((180, 27), (166, 99)), ((200, 300), (10, 15))])
def test_bicubic_as_pillow_along_rows_and_then_columns(numpy_only, size, wanted):
    for channels in (1, 3):
        given = picture(size, channels)
        across = Image.fromarray(given[..., 0] if channels == 1 else given).resize((wanted[1], size[0]), BICUBIC)
        expected = np.asarray(across.resize(wanted[::-1], BICUBIC)).reshape(*wanted, channels)
        assert off(resize(given, *wanted, "bicubic", "pillow"), expected) <= 1


@pytest.mark.parametrize(("size", "wanted"), SIZES)
def test_bicubic_as_opencv_says_it_is(numpy_only, size, wanted):
    """`cv::resize` with INTER_CUBIC: sixteen neighbors, the edge's pixels repeated, a slope of -0.75."""

    def along(count, to):
        at = (np.arange(to) + 0.5) * count / to - 0.5
        near = np.floor(at)[:, None] + np.arange(-1, 3)
        x = np.abs(at[:, None] - near)
        weights = np.where(x <= 1, 1.25 * x**3 - 2.25 * x**2 + 1, -0.75 * (x**3 - 5 * x**2 + 8 * x - 4))
        table = np.zeros((to, count))
        np.add.at(table, (np.arange(to)[:, None], np.clip(near, 0, count - 1).astype(int)), weights)
        return table

    given = picture(size)
    made = np.einsum("yh,xw,hwc->yxc", along(size[0], wanted[0]), along(size[1], wanted[1]), given)
    assert off(resize(given, *wanted, "bicubic", "opencv"), np.clip(made + 0.5, 0, 255).astype(np.uint8)) <= 1


def test_pillow_is_used_where_the_app_has_it():
    given = picture((48, 64))
    expected = np.asarray(Image.fromarray(given).resize((23, 17), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(resize(given, 17, 23, "bilinear", "pillow"), expected)


def two_by_two(given, wanted):
    """INTER_LINEAR, written out: the four nearest pixels around (i + 0.5) * ratio - 0.5."""
    made = np.zeros((*wanted, given.shape[2]))
    for y, x in np.ndindex(*wanted):
        at = [np.clip((i + 0.5) * s / w - 0.5, 0, s - 1) for i, s, w in zip((y, x), given.shape, wanted, strict=False)]
        low = [int(a) for a in at]
        high = [min(a + 1, s - 1) for a, s in zip(low, given.shape, strict=False)]
        part = [a - b for a, b in zip(at, low, strict=True)]
        for row, weight_y in ((low[0], 1 - part[0]), (high[0], part[0])):
            for column, weight_x in ((low[1], 1 - part[1]), (high[1], part[1])):
                made[y, x] += weight_y * weight_x * given[row, column]
    return np.rint(made).astype(np.uint8)


@pytest.mark.parametrize(("size", "wanted"), SIZES)
def test_as_opencv_says_it_does(numpy_only, size, wanted):
    given = picture(size)
    assert off(resize(given, *wanted, "bilinear", "opencv"), two_by_two(given, wanted)) <= 1
    rows, columns = (np.arange(w) * s // w for s, w in zip(size, wanted, strict=True))
    np.testing.assert_array_equal(resize(given, *wanted, "nearest", "opencv"), given[rows[:, None], columns])


def test_opencv_area_is_the_mean_of_what_a_pixel_covers(numpy_only):
    given = picture((48, 64))
    mean = given.reshape(24, 2, 16, 4, 3).mean(axis=(1, 3))
    assert off(resize(given, 24, 16, "area", "opencv"), np.rint(mean).astype(np.uint8)) <= 1
    fine = np.repeat(np.repeat(given.astype(float), 3, axis=0), 5, axis=1)  # 144 by 320, in steps of 2.25 and 6.4
    found = resize(given, 16, 20, "area", "opencv")
    expected = fine.reshape(16, 9, 20, 16, 3).mean(axis=(1, 3))
    assert off(found, np.rint(expected).astype(np.uint8)) <= 1


HARD = [((48, 64), (24, 32)), ((48, 64), (16, 16)), ((480, 64), (24, 8)), ((45, 70), (21, 7)), ((60, 64), (28, 28)),
        ((33, 29), (32, 30)), ((20, 30), (60, 90)), ((7, 200), (7, 10)), ((200, 7), (10, 7))]  # fmt: skip


@pytest.mark.parametrize(("size", "wanted"), HARD)
def test_whole_numbers_come_to_what_the_tables_say(numpy_only, size, wanted):
    """The hardest contrasts, all rows and columns against plain arithmetic on the same tables."""
    for channels in (1, 3):
        given = np.random.default_rng(3).choice([0, 255], (*size, channels)).astype(np.uint8)
        for how in PILLOW:
            for convention in ("pillow", "opencv"):
                grows = convention == "opencv" and how == "area" and (wanted[0] > size[0] or wanted[1] > size[1])
                expected = given.astype(float)
                for axis in (0, 1):
                    places, weights = taps(size[axis], wanted[axis], "spread" if grows else how, convention)
                    if size[axis] != wanted[axis] or how != "nearest":
                        parts = [np.take(expected, p, axis) * w.reshape(-1, *[1] * (2 - axis))
                                 for p, w in zip(places, weights, strict=True)]  # fmt: skip
                        expected = sum(parts)
                found = resize(given, *wanted, how, convention)
                assert np.abs(found - expected).max() <= 1.0


def test_halves_are_exact_means_rounded_up(numpy_only):
    given = picture((48, 64))
    sums = given.astype(int).reshape(24, 2, 32, 2, 3).sum(axis=(1, 3))
    for how, convention in (("area", "opencv"), ("bilinear", "opencv"), ("area", "pillow")):
        np.testing.assert_array_equal(resize(given, 24, 32, how, convention), (sums + 2) // 4)


def test_a_picture_cut_out_or_turned_is_as_its_copy(numpy_only):
    whole = picture((60, 80))
    for part in (whole[5:55, 7:71], whole[..., ::-1], whole[5:55, 7:71, ::-1]):
        for how in PILLOW:
            for wanted in ((20, 31), (25, 32)):
                expected = resize(np.ascontiguousarray(part), *wanted, how, "opencv")
                np.testing.assert_array_equal(resize(part, *wanted, how, "opencv"), expected)


def test_threads_do_not_meet(numpy_only):
    given = [picture((90, 120), seed=seed) for seed in range(4)]
    expected = [resize(one, 40, 50, "bilinear", "pillow") for one in given]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            found = pool.map(lambda one: resize(one, 40, 50, "bilinear", "pillow"), given * 4)
            for one, two in zip(found, expected * 4, strict=True):
                np.testing.assert_array_equal(one, two)


def test_positions_have_the_width_that_a_32_bit_board_takes(numpy_only):
    """numpy refuses to `take` by wider ones there; faces were not found on an emulated Zero 2 W."""
    for how in PILLOW:
        for convention in ("pillow", "opencv"):
            assert taps(64, 23, how, convention)[0].dtype == np.intp


def test_opencv_writes_where_it_is_told_and_reads_no_row_in_vain(monkeypatch):
    """A row in the middle of an odd number of them is what bilinear takes of these; of others it takes two."""
    given = []

    def compiled(picture, size, out, interpolation):
        given.append(picture)
        made = np.zeros((size[1], size[0], 3), np.uint8) if out is None else out
        made[...] = 7
        return made

    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(resize=compiled))
    whole = picture((30, 20))
    every, third, fifth = slice(None), slice(1, None, 3), slice(2, None, 5)
    cases = [(10, "bilinear", third), (6, "bilinear", fifth)]
    cases += [(height, "bilinear", every) for height in (15, 7, 90)] + [(10, "area", every), (10, "nearest", every)]
    for height, how, rows in cases:
        out = np.zeros((height, 5, 3), np.uint8)
        assert resize(whole, height, 5, how, "opencv", out) is out
        assert out.min() == 7
        np.testing.assert_array_equal(given.pop(), whole[rows])
        assert resize(whole, height, 5, how, "opencv").shape == (height, 5, 3)


@pytest.mark.parametrize(
    ("how", "size", "wanted", "at", "expected"),
    [("nearest", 6, 34, 17, 2), ("nearest", 6, 68, 34, 2), ("nearest", 10, 30, 3, 1), ("area", 116, 224, 56, 28),
     ("area", 81, 180, 60, 26), ("area", 5, 7, 3, 2)],
)  # fmt: skip
def test_pixels_on_edges_fall_as_opencv_rounds(numpy_only, how, size, wanted, at, expected):
    """As OpenCV 5.0.0 gave them: it multiplies by 1 / (wanted / size)."""
    ramp = np.arange(size, dtype=np.uint8)[None, :, None].repeat(3, 0)
    assert resize(ramp, 3, wanted, how, "opencv")[0, at, 0] == expected


def test_a_neighbor_that_weighs_next_to_nothing_adds_nothing(numpy_only, monkeypatch):
    exact = resizing.taps

    def nearly(size, wanted, how, convention):
        places, weights = exact(size, wanted, how, convention)
        return places, np.where(weights == 0, np.float32(1e-9), weights)

    given = picture((149, 147))
    expected = resize(given, 8, 3, "bilinear", "opencv")
    resizing._plan.cache_clear()
    monkeypatch.setattr(resizing, "taps", nearly)
    found = resize(given, 8, 3, "bilinear", "opencv")
    resizing._plan.cache_clear()
    assert off(found, expected) <= 1


def test_a_flat_picture_stays_flat(numpy_only):
    flat = np.full((37, 53, 3), 201, np.uint8)
    for how in (*PILLOW, "bicubic"):
        for convention in ("pillow", "opencv"):
            for wanted in ((11, 90), (90, 11), (100, 100), (3, 2)):
                assert np.unique(resize(flat, *wanted, how, convention)).tolist() == [201]


def test_letterbox_keeps_proportions_and_finds_the_way_back():
    given = np.full((20, 40, 3), 200, np.uint8)
    made, placement = fit(given, Geometry(32, 32, 3, first=False), ImageSteps("letterbox", border=7))
    assert np.unique(made[:8]).tolist() == [7]
    assert np.unique(made[8:24]).tolist() == [200]
    assert np.unique(made[24:]).tolist() == [7]
    np.testing.assert_allclose(
        placement.back(np.array([[0.0, 8.0], [32.0, 24.0], [16.0, 16.0]])), [[0, 0], [40, 20], [20, 10]]
    )
    np.testing.assert_allclose(placement.back(np.array([[-5.0, 0.0], [40.0, 40.0]])), [[0, 0], [40, 20]])
    corner, placement = fit(given, Geometry(32, 32, 3, first=False), ImageSteps("letterbox", place="corner"))
    assert np.unique(corner[16:]).tolist() == [114]
    assert placement.offset == (0.0, 0.0)


def test_crop_takes_the_middle():
    given = np.zeros((10, 30, 3), np.uint8)
    given[:, 10:20] = 255
    made, placement = fit(given, Geometry(5, 5, 3, first=False), ImageSteps("crop", "nearest"))
    assert made.min() == 255
    np.testing.assert_allclose(placement.back(np.array([[0.0, 0.0], [5.0, 5.0]])), [[10, 0], [20, 10]])


@pytest.mark.parametrize("library", [True, False])
@pytest.mark.parametrize("how", PILLOW)
@pytest.mark.parametrize("size", [(60, 91), (91, 60), (48, 48), (13, 300)])
def test_crop_of_a_picture_made_shorter_is_torchvisions(how, size, library, monkeypatch):
    """`Resize(40), CenterCrop((33, 24))` on Pillow's pictures."""
    given = picture(size)
    height, width = (40, int(40 * size[1] / size[0])) if size[0] <= size[1] else (int(40 * size[0] / size[1]), 40)
    top, left = round((height - 33) / 2), round((width - 24) / 2)
    whole = np.asarray(Image.fromarray(given).resize((width, height), PILLOW[how]))
    if not library:
        monkeypatch.setitem(sys.modules, "PIL.Image", None)
    made, placement = fit(given, Geometry(33, 24, 3, first=False), ImageSteps("crop", how, short=40))
    assert off(made, whole[top : top + 33, left : left + 24]) <= (0 if how == "nearest" or library else 1)
    np.testing.assert_allclose(placement.back(np.array([12.0, 16.5])) / size[::-1], [0.5, 0.5], atol=0.03)


def test_crop_shorter_than_the_input_is_refused():
    with pytest.raises(FeedError, match="short = 20") as caught:
        fit(picture((64, 64)), Geometry(24, 24, 3, first=False), ImageSteps("crop", short=20))
    assert caught.value.code == "feed-shape"
    with pytest.raises(ValueError, match="crop"):
        ImageSteps("letterbox", short=256)


@pytest.mark.parametrize("kind", ["float32", "uint8"])
def test_a_picture_of_the_inputs_size_is_made_shorter_too(kind):
    spec = TensorSpec("x", (1, 8, 8, 3), kind, layout="NHWC")
    preparer = Preparer((spec,), Preprocess("image", 1 / 255, image=ImageSteps("crop", "nearest", short=16)))
    given = picture((8, 8))
    expected = given[2:6, 2:6].repeat(2, 0).repeat(2, 1)
    np.testing.assert_allclose(preparer.real(given).feeds["x"].reshape(8, 8, 3), expected / np.float32(255), atol=1e-6)


def test_colors_of_arrays():
    given = picture((4, 5))
    model = Preprocess("image", colors="BGR")
    np.testing.assert_array_equal(recolor(given, None, model, 3), given)
    np.testing.assert_array_equal(recolor(given, "BGR", model, 3), given)
    np.testing.assert_array_equal(recolor(given, "RGB", model, 3), given[..., ::-1])
    gray = np.asarray(Image.fromarray(given).convert("L"))[..., None]
    np.testing.assert_array_equal(recolor(given, "RGB", Preprocess("image", colors="gray"), 1), gray)
    np.testing.assert_array_equal(recolor(given[..., ::-1], "BGR", Preprocess("image"), 1), gray)
    assert recolor(given[..., 0], None, Preprocess("image"), 1).shape == (4, 5, 1)
    for strange in (given[..., 0], np.concatenate([given, gray], axis=2)):
        with pytest.raises(FeedError) as caught:
            recolor(strange, None, Preprocess("image"), 3)
        assert caught.value.code == "feed-shape"
