"""From things to arrays, as the manifest says: value = (raw * scale - mean) / std.

Arrays pass as they are. Images are decoded and resized by Pillow, only if the app has it; sounds are PCM WAV files,
read by the standard library.
"""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import DataError, EngineMissingError, FeedError, MissingFileError
from edgekit.manifest import Preprocess
from edgekit.runtimes.base import Array
from edgekit.tensors import TensorSpec

SOUNDS = (".wav",)
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")


def prepare(thing: Any, inputs: tuple[TensorSpec, ...], how: Preprocess) -> dict[str, Any]:
    """The feed for a thing: a dict passes, an array is prepared unless it is a finished tensor.

    Args:
        thing: Feeds by name; an array; a Pillow image; the path of an image, a WAV file or an `.npy` file.
        inputs: Of the model; things other than dicts need exactly one.
        how: The manifest's.

    Raises:
        FeedError: `feed-name`, `feed-shape`, `feed-dtype`. MissingFileError: `file-missing`.
        DataError: `data-unreadable`. EngineMissingError: `pillow-missing`.
    """
    if isinstance(thing, dict):
        return thing
    if len(inputs) != 1:
        raise FeedError("feed-name", f"this model has {len(inputs)} inputs: pass a dict of arrays by name")
    (spec,) = inputs
    if isinstance(thing, (str, Path)):
        thing = _read(Path(thing), spec)
    if hasattr(thing, "convert") and hasattr(thing, "resize"):
        thing = image_array(thing, spec, how)
    try:
        array = np.asarray(thing)
    except (ValueError, TypeError, RuntimeError) as error:  # rows of unequal length; a tensor on another device
        raise FeedError("feed-dtype", f"{spec.name} takes an array, and this makes none: {error}") from error
    if how.kind == "array" or (array.dtype.kind == "f" and how.kind == "image"):
        return {spec.name: array}
    return {spec.name: normalize(array, how, spec)}


def normalize(raw: Array, how: Preprocess, spec: TensorSpec) -> Array:
    """(raw * scale - mean) / std in float32, along the channel axis of `spec`'s layout; integers stay what they are
    where the input takes integers without a scale. An image array may come in the other layout: it is prepared in its
    own, and `Model.run` turns it.

    Raises:
        FeedError: `feed-dtype`: no numbers; `feed-shape`: no axis has as many channels as there are means.
    """
    identity = how.scale == 1.0 and not any(how.mean) and all(value == 1.0 for value in how.std)
    if identity:
        return raw
    if raw.dtype.kind not in "fiub":
        raise FeedError("feed-dtype", f"{spec.name} takes real values, got {raw.dtype}")
    mean, std = (_channels(values, spec, raw) for values in (how.mean, how.std))
    return np.asarray((raw.astype(np.float32) * np.float32(how.scale) - mean) / std, np.float32)


def image_array(image: Any, spec: TensorSpec, how: Preprocess) -> Array:
    """A Pillow image resized (bilinear, stretched) to the input: uint8, in the input's layout, without a batch axis."""
    height, width, channels, first = _geometry(spec)
    image = _eight_bits(image).convert("L" if how.colors == "gray" or channels == 1 else "RGB")
    if image.size != (width, height):
        image = image.resize((width, height), 2)  # 2: bilinear
    array = np.asarray(image)
    if array.ndim == 2:
        array = array[..., None]
    elif how.colors == "BGR":
        array = array[..., ::-1]
    return np.ascontiguousarray(array.transpose(2, 0, 1) if first else array)


def _eight_bits(image: Any) -> Any:
    """Pictures of 16 bits a pixel, scaled: Pillow would clip them at 255, to a white page."""
    if not image.mode.startswith("I"):
        return image
    from PIL import Image

    return Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))


def open_image(path: Path) -> Any:
    """A Pillow image.

    Raises:
        EngineMissingError: `pillow-missing`. DataError: `data-unreadable`.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ModuleNotFoundError as error:
        raise EngineMissingError(
            "pillow-missing", f"reading {path.name} needs Pillow", next_step="pip install pillow"
        ) from error
    try:
        image = Image.open(path)
        image.load()
    except FileNotFoundError as error:
        raise MissingFileError("file-missing", f"there is no file {path}") from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError("data-unreadable", f"{path} is no image that Pillow reads: {error}") from error
    return image


def read_wav(path: Path) -> Array:
    """Mono samples in -1..1, float32, of a PCM WAV file of 8, 16, 24 or 32 bits.

    Raises:
        DataError: `data-unreadable`. MissingFileError: `file-missing`.
    """
    try:
        with wave.open(str(path), "rb") as file:
            width, channels = file.getsampwidth(), file.getnchannels()
            data = file.readframes(file.getnframes())
    except FileNotFoundError as error:
        raise MissingFileError("file-missing", f"there is no file {path}") from error
    except (wave.Error, EOFError, OSError) as error:
        raise DataError("data-unreadable", f"{path} is no PCM WAV file: {error}") from error
    if not 1 <= width <= 4:
        raise DataError("data-unreadable", f"{path} has samples of {8 * width} bits")
    data = data[: len(data) // width * width]  # a file that was cut short
    if width == 1:
        samples: Array = (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128
    elif width == 3:
        triples = np.frombuffer(data, np.uint8).reshape(-1, 3).astype(np.int32)
        joined = triples[:, 0] | triples[:, 1] << 8 | triples[:, 2] << 16
        samples = (joined - ((joined & 0x800000) << 1)).astype(np.float32) / (1 << 23)
    else:
        samples = np.frombuffer(data, f"<i{width}").astype(np.float32) / float(1 << (8 * width - 1))
    frames = samples[: len(samples) // channels * channels].reshape(-1, channels)
    return np.asarray(frames.mean(axis=1), np.float32)


def fit_wave(samples: Array, spec: TensorSpec) -> Array:
    """Cut, or pad with silence, to the input's length; in its shape without the batch axis."""
    shape = tuple(size or 1 for size in spec.shape[1:]) if all(spec.shape[1:]) else (len(samples),)
    length = int(np.prod(shape))
    fitted = np.zeros(length, np.float32)
    fitted[: min(length, len(samples))] = samples[:length]
    return fitted.reshape(shape)


def _read(path: Path, spec: TensorSpec) -> Any:
    if path.suffix.lower() in SOUNDS:
        return fit_wave(read_wav(path), spec)
    if path.suffix.lower() == ".npy":
        return _read_array(path)
    return open_image(path)


def _read_array(path: Path) -> Array:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except FileNotFoundError as error:
        raise MissingFileError("file-missing", f"there is no file {path}") from error
    except (ValueError, EOFError, OSError) as error:
        raise DataError("data-unreadable", f"{path} is no .npy file of plain numbers: {error}") from error


def _geometry(spec: TensorSpec) -> tuple[int, int, int, bool]:
    """Height, width, channels, and whether channels come first."""
    if len(spec.shape) == 4 and None not in spec.shape[1:]:
        a, b, c = (size or 0 for size in spec.shape[1:])
        first = spec.layout == "NCHW" if spec.layout else a in (1, 3) and c not in (1, 3)
        if first and a in (1, 3):
            return b, c, a, True
        if c in (1, 3):
            return a, b, c, False
    raise FeedError(
        "feed-shape", f"{spec.describe()} takes no images: it is not [N,H,W,C] or [N,C,H,W] with 1 or 3 channels"
    )


def _channels(values: tuple[float, ...], spec: TensorSpec, raw: Array) -> Array:
    """One value a channel, in a shape that meets the channels of `raw`: in the input's layout, else in the other."""
    array = np.asarray(values, np.float32)
    if array.size == 1:
        return array.reshape(())
    image = len(spec.shape) == 4
    first = image and _geometry(spec)[3]
    axes = ((-3, -1) if first else (-1, -3)) if image else (-1,)
    for axis in axes:
        if raw.ndim >= -axis and raw.shape[axis] == array.size:
            return array.reshape(-1, 1, 1) if axis == -3 else array
    sizes = ",".join(map(str, raw.shape))
    raise FeedError("feed-shape", f"{spec.describe()} is prepared with {array.size} channels, [{sizes}] has others")
