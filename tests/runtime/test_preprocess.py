"""From things to tensors: pictures, sounds and arrays."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import wave

import numpy as np
import pytest

from edgekit.errors import DataError, FeedError, MissingFileError
from edgekit.manifest import Preprocess
from edgekit.runtimes.preprocess import Preparer, fit_wave, normalize, open_image, prepare, read_wav
from edgekit.tensors import TensorSpec

NHWC = TensorSpec("image", (None, 4, 6, 3), "float32", "NHWC")
NCHW = TensorSpec("image", (None, 3, 4, 6), "float32", "NCHW")
GRAY = TensorSpec("image", (1, 4, 6, 1), "float32")
SOUND = TensorSpec("sound", (1, 8), "float32")
IMAGENET = Preprocess("image", 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture
def picture(tmp_path):
    """6 by 4 pixels (width by height): each its own color."""
    from PIL import Image

    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path)
    return path, pixels


def test_an_image_in_both_layouts(picture):
    path, pixels = picture
    np.testing.assert_array_equal(prepare(path, (NHWC,), Preprocess("image"))["image"], pixels)
    np.testing.assert_array_equal(prepare(str(path), (NCHW,), Preprocess("image"))["image"], pixels.transpose(2, 0, 1))


def test_scale_mean_and_std_go_along_the_channels(picture):
    path, pixels = picture
    expected = (pixels / 255 - IMAGENET.mean) / IMAGENET.std
    np.testing.assert_allclose(prepare(path, (NHWC,), IMAGENET)["image"], expected, rtol=1e-5, atol=1e-6)
    found = prepare(path, (NCHW,), IMAGENET)["image"]
    np.testing.assert_allclose(found, expected.transpose(2, 0, 1), rtol=1e-5, atol=1e-6)
    assert found.dtype == np.float32


def test_colors(picture):
    path, pixels = picture
    np.testing.assert_array_equal(prepare(path, (NHWC,), Preprocess("image", colors="BGR"))["image"], pixels[..., ::-1])
    gray = prepare(path, (GRAY,), Preprocess("image"))["image"]
    assert gray.shape == (4, 6, 1)
    # ITU-R 601-2 luma, as Pillow documents for mode "L".
    np.testing.assert_allclose(gray[..., 0], pixels @ [0.299, 0.587, 0.114], atol=1)


def test_images_of_other_sizes_and_modes(tmp_path):
    from PIL import Image

    for mode in ("RGB", "RGBA", "L", "P", "CMYK"):
        image = Image.new(mode, (60, 40))
        assert prepare(image, (NHWC,), Preprocess("image"))["image"].shape == (4, 6, 3)


def test_finished_tensors_pass_untouched():
    tensor = np.full((1, 4, 6, 3), 0.5, np.float32)
    assert prepare(tensor, (NHWC,), IMAGENET)["image"] is tensor
    assert prepare({"image": tensor}, (NHWC,), IMAGENET)["image"] is tensor
    raw = np.full((4, 6, 3), 255, np.uint8)
    np.testing.assert_allclose(
        prepare(raw, (NHWC,), IMAGENET)["image"][0, 0], (1 - np.array(IMAGENET.mean)) / IMAGENET.std, rtol=1e-5
    )


def test_what_is_no_image(tmp_path, picture):
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(DataError) as caught:
        open_image(tmp_path / "text.png")
    assert caught.value.code == "data-unreadable"
    with pytest.raises(MissingFileError):
        open_image(tmp_path / "nowhere.png")
    with pytest.raises(FeedError, match="takes no images") as caught:
        prepare(picture[0], (TensorSpec("x", (None, 7), "float32"),), Preprocess("image"))
    assert caught.value.code == "feed-shape"
    with pytest.raises(FeedError, match="2 inputs") as caught:
        prepare(picture[0], (NHWC, GRAY), Preprocess("image"))
    assert caught.value.code == "feed-name"


def test_pillow_is_asked_for_only_when_it_is_needed(picture):
    code = """
import json, sys
sys.modules["PIL"] = None
from edgekit.errors import EdgeKitError
from edgekit.runtimes.preprocess import open_image
from pathlib import Path
try:
    open_image(Path(sys.argv[1]))
except EdgeKitError as error:
    print(json.dumps([error.code, error.next_step]))
"""
    done = subprocess.run([sys.executable, "-c", code, str(picture[0])], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["pillow-missing", "pip install pillow"]


def write_wav(path, width, channels, values):
    """Values in -1..1, one a frame, on all channels."""
    pack = {
        1: lambda v: struct.pack("B", round(v * 127) + 128),
        2: lambda v: struct.pack("<h", round(v * 32767)),
        3: lambda v: struct.pack("<i", round(v * (2**23 - 1)))[:3],
        4: lambda v: struct.pack("<i", round(v * (2**31 - 1))),
    }[width]
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(8000)
        file.writeframes(b"".join(pack(v) * channels for v in values))


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 2])
def test_wav_of_every_width(tmp_path, width, channels):
    values = [0, 0.5, -0.5, 1, -1, 0.25]
    write_wav(tmp_path / "a.wav", width, channels, values)
    found = read_wav(tmp_path / "a.wav")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, values, atol=1.1 / 2 ** (8 * width - 1) + 1e-6)


def test_sounds_are_cut_or_padded(tmp_path):
    write_wav(tmp_path / "a.wav", 2, 1, [0.5, 0.25])
    fed = prepare(tmp_path / "a.wav", (SOUND,), Preprocess("waveform"))["sound"]
    np.testing.assert_allclose(fed, [0.5, 0.25, 0, 0, 0, 0, 0, 0], atol=1e-4)
    np.testing.assert_array_equal(fit_wave(np.arange(20, dtype=np.float32), SOUND), np.arange(8))
    free = TensorSpec("sound", (None, None), "float32")
    assert fit_wave(np.arange(20, dtype=np.float32), free).shape == (20,)


def test_what_is_no_sound(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"RIFF????")
    with pytest.raises(DataError) as caught:
        read_wav(tmp_path / "a.wav")
    assert caught.value.code == "data-unreadable"
    with pytest.raises(MissingFileError):
        read_wav(tmp_path / "nowhere.wav")


def test_arrays_from_files_are_never_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(8, dtype=np.float32))
    np.testing.assert_array_equal(prepare(tmp_path / "a.npy", (SOUND,), Preprocess())["sound"], np.arange(8))
    np.save(tmp_path / "b.npy", np.array([print], object), allow_pickle=True)
    with pytest.raises(DataError) as caught:
        prepare(tmp_path / "b.npy", (SOUND,), Preprocess())
    assert caught.value.code == "data-unreadable"
    with pytest.raises(MissingFileError):
        prepare(tmp_path / "nowhere.npy", (SOUND,), Preprocess())


def test_normalize_keeps_what_needs_nothing():
    raw = np.arange(6, dtype=np.uint8)
    assert normalize(raw, Preprocess("waveform"), SOUND) is raw
    np.testing.assert_allclose(normalize(raw, Preprocess("waveform", scale=2), SOUND), raw * 2.0)


def test_a_sound_is_no_table_of_features(tmp_path):
    write_wav(tmp_path / "a.wav", 2, 1, [0.5] * 40)
    table = TensorSpec("input", (None, 49, 10, 1), "float32")
    with pytest.raises(FeedError, match="no wave") as caught:
        prepare(tmp_path / "a.wav", (table,), Preprocess())
    assert caught.value.code == "feed-shape"
    flat = TensorSpec("input", (1, 1, 8), "float32")
    assert prepare(tmp_path / "a.wav", (flat,), Preprocess())["input"].shape == (1, 8)


def test_gray_is_gray_however_the_picture_comes(picture):
    from PIL import Image

    path, pixels = picture
    gray = np.asarray(Image.fromarray(pixels).convert("L"))
    how = Preprocess("image", colors="gray")
    for spec, size in ((NHWC, (4, 6)), (NCHW, (4, 6)), (TensorSpec("image", (None, 8, 8, 3), "float32", "NHWC"), None)):
        seen = [Preparer((spec,), how)(thing).feeds["image"][0] for thing in (path, pixels, Image.open(path), gray)]
        for made in seen[1:]:
            np.testing.assert_array_equal(made, seen[0])
        last = seen[0] if spec.layout == "NHWC" else seen[0].transpose(1, 2, 0)
        assert last.shape[2] == 3
        assert (last == last[..., :1]).all()
        if size is not None:
            np.testing.assert_array_equal(last[..., 0], gray)
            np.testing.assert_array_equal(prepare(path, (spec,), how)["image"], seen[0])
    bgr = Preparer((NHWC,), how)(pixels[..., ::-1], "BGR").feeds["image"][0]
    np.testing.assert_array_equal(bgr[..., 1], gray)


def test_pictures_of_sixteen_bits_are_no_bytes():
    how, bytes_ = Preprocess("image", 1 / 255), np.arange(72, dtype=np.uint8).reshape(4, 6, 3) * 3
    for dtype in (np.uint16, np.int32, np.int64):
        same = Preparer((NHWC,), how)(bytes_.astype(dtype)).feeds["image"]
        np.testing.assert_allclose(same, Preparer((NHWC,), how)(bytes_).feeds["image"], atol=1e-6)
        with pytest.raises(FeedError, match="prepared from bytes") as caught:
            Preparer((NHWC,), how)(bytes_.astype(dtype) * 257)
        assert caught.value.code == "feed-dtype"
    twelve = bytes_.astype(np.uint16) * 16  # the tensor itself, where nothing is done to it
    np.testing.assert_array_equal(Preparer((NHWC,), Preprocess("image"))(twelve).feeds["image"][0], twelve)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_picture_that_pillow_opened_is_turned_as_the_file(tmp_path, suffix):
    from PIL import Image, ImageOps

    path, how = tmp_path / f"turned{suffix}", Preprocess("image")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(path, exif=exif)
    upright = prepare(path, (NHWC,), how)["image"]
    with Image.open(path) as opened:
        np.testing.assert_array_equal(prepare(opened, (NHWC,), how)["image"], upright)
        by_hand = ImageOps.exif_transpose(opened)
    np.testing.assert_array_equal(prepare(by_hand, (NHWC,), how)["image"], upright)
    with Image.open(path) as opened:
        rotated = opened.rotate(-90, expand=True)  # which keeps the EXIF data
    np.testing.assert_array_equal(prepare(rotated, (NHWC,), how)["image"], upright)


def test_bytes_that_are_no_picture_are_told_alike_each_time():
    said = set()
    for _ in range(2):
        with pytest.raises(FeedError, match="holds none") as caught:
            Preparer((NHWC,), Preprocess("image"))(b"garbage" * 3)
        said.add((caught.value.message, caught.value.next_step))
    ((message, step),) = said
    assert "0x" not in message
    assert "PNG" in step


def test_a_picture_with_a_mask_is_no_picture():
    frame = np.ma.masked_array(np.full((9, 9, 3), 200, np.uint8), mask=False)
    frame[0, 0] = np.ma.masked
    for take in (Preparer((NHWC,), IMAGENET), Preparer((NHWC,), IMAGENET).real):
        with pytest.raises(FeedError):
            take(frame)
