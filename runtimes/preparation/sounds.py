"""Sounds: WAV files (PCM of 8, 16, 24 and 32 bits, floats of 32 and 64), mixed to one channel.

The standard library's `wave` reads no floats, and refuses the extensible header before Python 3.12.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from edgekit.errors import DataError, FeedError, MissingFileError, UsageError
from edgekit.runtimes.base import Array, as_array
from edgekit.tensors import TensorSpec

SUFFIXES = (".wav",)

CONVERT = "Write it as PCM, for example by `ffmpeg -i IN -c:a pcm_s16le OUT.wav`."
"""What helps against a sound that is not read."""
_CHANNELS = 8
"""More of them than this are taken for something else."""
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE


@dataclass(frozen=True)
class Sound:
    """A waveform.

    Args:
        samples: Floats in -1..1, or integers over their whole range; [n], or [n, channels], which are mixed.
        rate: Samples a second; None where nobody said it: taken as the model's.

    Attributes:
        samples: float32 [n], -1..1.
        rate: As given.

    Raises:
        FeedError: `feed-dtype`, `feed-shape`. UsageError: `option-value`: the rate is no whole number of at least 1.
    """

    samples: Array
    rate: int | None

    def __post_init__(self) -> None:
        samples, rate = self.samples, self.rate
        if type(samples) is not np.ndarray or samples.dtype != np.float32 or samples.ndim != 1:
            object.__setattr__(self, "samples", mixed(samples, "Sound"))
        if rate is not None and (type(rate) is not int or rate < 1):
            object.__setattr__(self, "rate", _whole(rate))


def read_sound(path: Path) -> Sound:
    """A WAV file, its channels mixed to one.

    Raises:
        DataError: `data-unreadable`. MissingFileError: `file-missing`.
    """
    try:
        with path.open("rb") as file:
            return sound_of(file, str(path))
    except FileNotFoundError as error:
        raise MissingFileError("file-missing", f"there is no file {path}") from error
    except OSError as error:
        raise DataError("data-unreadable", f"{path} is no PCM WAV file: {error}") from error


def sound_of(file: BinaryIO, name: str) -> Sound:
    """The same of an open file.

    Args:
        file: It.
        name: What it is called in messages.

    Raises:
        DataError: `data-unreadable`.
    """
    try:
        kind, channels, rate, bits, data = _chunks(file)
    except (ValueError, struct.error) as error:
        raise DataError("data-unreadable", f"{name} is no PCM WAV file: {error}", next_step=CONVERT) from error
    samples = _decoded(kind, bits, data)
    if samples is None:
        said = f"{name} has samples of {bits} bits in coding {kind}, which is not read"
        raise DataError("data-unreadable", said, next_step=CONVERT)
    if len(samples) < channels:
        raise DataError("data-unreadable", f"{name} holds no samples")
    frames = samples[: len(samples) // channels * channels].reshape(-1, channels)
    mixed = frames[:, 0] if channels == 1 else frames.mean(axis=1, dtype=np.float32)
    return Sound(np.ascontiguousarray(mixed, np.float32), rate)


def held_sound(file: BinaryIO, spec: TensorSpec) -> Sound:
    """The same of a file in memory, for this input.

    Raises:
        FeedError: `feed-dtype`: it holds no sound.
    """
    try:
        return sound_of(file, "it")
    except DataError as error:
        said = f"{spec.name} takes a sound, and what was given holds none: {error.message}"
        raise FeedError("feed-dtype", said, next_step=CONVERT) from error


def read_wav(path: Path) -> Array:
    """float32 [n] in -1..1 of a WAV file, at its own rate; the errors are those of `read_sound`."""
    return read_sound(path).samples


def as_sound(thing: object, spec: TensorSpec) -> Sound:
    """A waveform given as an array: floats in -1..1, or integers over their whole range; [n], or [n, channels].

    Raises:
        FeedError: `feed-dtype`, `feed-shape`.
    """
    return thing if isinstance(thing, Sound) else Sound(mixed(thing, spec.name), None)


def has_channels(shape: tuple[int, ...]) -> bool:
    """Whether an array looks like a sound of several channels, a sample a row."""
    return len(shape) == 2 and shape[1] <= _CHANNELS < shape[0]


def mixed(thing: object, name: str) -> Array:
    """Samples as float32 [n] in -1..1, of [n] or [n, channels].

    Args:
        thing: They; an array, or what becomes one.
        name: Of what is fed with it.

    Raises:
        FeedError: `feed-dtype`, `feed-shape`.
    """
    array = as_array(thing, name)
    if array.dtype.kind == "S":
        raise FeedError(
            "feed-dtype", f"{name} is fed with samples, not bytes",
            next_step="np.frombuffer(chunk, np.int16) makes samples of 16 bits of them.",
        )  # fmt: skip
    if array.ndim == 1:
        return _as_real(array, name)
    if array.ndim != 2 or not 1 <= array.shape[1] <= _CHANNELS:
        sizes = ",".join(map(str, array.shape))
        raise FeedError("feed-shape", f"{name} is fed with a sound [n] or [n, channels], not [{sizes}]")
    return np.asarray(_as_real(array, name).mean(axis=1, dtype=np.float32))


def _whole(rate: object) -> int:
    try:
        number = float(rate)  # type: ignore[arg-type]  # or the error that is caught
    except (TypeError, ValueError):
        number = 0.0
    if number < 1 or not number.is_integer():
        raise UsageError("option-value", f"the rate of a sound is {rate!r}; it is a whole number, at least 1")
    return int(number)


def _as_real(array: Array, name: str) -> Array:
    if array.dtype.kind == "f":
        return np.asarray(array, np.float32)
    if array.dtype.kind not in "iu" or array.dtype.itemsize > 4:
        raise FeedError("feed-dtype", f"{name} is fed with floats, or integers of 8 to 32 bits, not {array.dtype}")
    half = float(1 << (8 * array.dtype.itemsize - 1))
    real = array.astype(np.float32)
    if array.dtype.kind == "u":
        real -= np.float32(half)
    real /= np.float32(half)
    return real


def fit_wave(samples: Array, spec: TensorSpec) -> Array:
    """Cut, or pad with silence, to the input's length; in its shape without the batch axis."""
    shape = tuple(size or 1 for size in spec.shape[1:]) if all(spec.shape[1:]) else (len(samples),)
    return fit_length(samples, int(np.prod(shape))).reshape(shape)


def fit_length(samples: Array, length: int) -> Array:
    """Cut, or padded with silence; itself where it has the length."""
    if len(samples) == length and samples.dtype == np.float32:
        return samples
    fitted = np.zeros(length, np.float32)
    fitted[: min(length, len(samples))] = samples[:length]
    return fitted


def _chunks(file: BinaryIO) -> tuple[int, int, int, int, bytes]:
    """Coding, channels, rate, bits and data of a RIFF file; sizes that lie are cut to what is there."""
    if len(head := file.read(12)) < 12 or head[:4] != b"RIFF" or head[8:] != b"WAVE":
        raise ValueError("it does not begin as one")
    about: tuple[int, int, int, int] | None = None
    at, end = 12, 8 + struct.unpack("<I", head[4:8])[0]
    while len(header := file.read(8)) == 8:
        name, size = header[:4], struct.unpack("<I", header[4:])[0]
        at += 8
        if name == b"data":
            if about is None:
                raise ValueError("its data comes before its format")
            # Whoever was killed, or could not go back, left 0 for the sizes: it is what is there, as libsndfile has it.
            return (*about, file.read(size if size or at < end else -1))
        content = file.read(min(size, 1 << 16))
        if name == b"fmt ":
            kind, channels, rate, _, _, bits = struct.unpack("<HHIIHH", content[:16])
            if kind == _EXTENSIBLE:
                kind = struct.unpack("<H", content[24:26])[0]
            if not channels or not rate:
                raise ValueError(f"it says {channels} channels at {rate} Hz")
            about = kind, channels, rate, bits
        at += size + size % 2
        left = size - len(content) + size % 2
        while left and (skipped := file.read(min(left, 1 << 16))):  # a pipe does not seek
            left -= len(skipped)
    raise ValueError("it holds no data")


def _decoded(kind: int, bits: int, data: bytes) -> Array | None:
    """float32, channels in turn; None for a coding that is not known."""
    width = bits // 8
    if bits % 8 or (kind, width) not in ((_PCM, 1), (_PCM, 2), (_PCM, 3), (_PCM, 4), (_FLOAT, 4), (_FLOAT, 8)):
        return None
    data = data[: len(data) // width * width]  # a file that was cut short
    if kind == _FLOAT:
        real = np.frombuffer(data, f"<f{width}").astype(np.float32)
        return np.nan_to_num(real, nan=0.0, posinf=1.0, neginf=-1.0)
    if width == 1:
        return np.asarray((np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128)
    if width == 3:
        triples = np.frombuffer(data, np.uint8).reshape(-1, 3).astype(np.int32)
        joined = triples[:, 0] | triples[:, 1] << 8 | triples[:, 2] << 16
        return np.asarray((joined - ((joined & 0x800000) << 1)).astype(np.float32) / (1 << 23))
    return np.asarray(np.frombuffer(data, f"<i{width}").astype(np.float32) / float(1 << (8 * width - 1)))
