"""Arrays as files that people can look at and listen to: PNG (ISO/IEC 15948) and WAV, by the standard library alone."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.feeding import Preprocess

_COLORS = {1: 0, 3: 2, 4: 6}
"""Channels -> PNG's color type."""


@dataclass(frozen=True)
class Pixels:
    """A picture in bytes.

    Attributes:
        values: uint8 [height, width, channels].
        exact: They give the captured values back.
    """

    values: NDArray[np.uint8]
    exact: bool


def is_picture(array: NDArray[Any], how: Preprocess) -> bool:
    """Whether an array [h, w], [h, w, c] or [c, h, w] can be looked at."""
    if how.kind not in ("image", "array") or array.dtype.kind not in "fui":
        return False
    if array.ndim == 2:
        return how.kind == "image" and min(array.shape) > 4
    return array.ndim == 3 and min(array.shape) in _COLORS and sorted(array.shape)[1] > 4


def pixels(array: NDArray[Any], how: Preprocess) -> Pixels:
    """An array as the bytes it was made of, as the manifest says: raw = (value * std + mean) / scale.

    Plain arrays say nothing; values between 0 and 1, or -1 and 1, are taken as the whole range of bytes.
    """
    image = array[..., None] if array.ndim == 2 else array
    if image.shape[-1] not in _COLORS or (image.shape[0] in _COLORS and image.shape[-1] > 4):
        image = np.moveaxis(image, 0, -1)
    if image.dtype == np.uint8:
        raw = image.astype(np.float64)
    elif how.kind == "image":
        raw = (image.astype(np.float64) * np.asarray(how.std) + np.asarray(how.mean)) / how.scale
    else:
        raw = _whole_range(image.astype(np.float64))
    if how.colors == "BGR" and raw.shape[-1] == 3:
        raw = raw[..., ::-1]
    values = np.clip(np.rint(np.nan_to_num(raw)), 0, 255).astype(np.uint8)
    return Pixels(np.ascontiguousarray(values), bool(np.abs(raw - values).max(initial=0.0) < 1e-3))


def _whole_range(image: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = float(np.nanmin(image)), float(np.nanmax(image))
    if low >= 0 and high <= 1:
        return image * 255
    if low >= -1 and high <= 1:
        return (image + 1) * 127.5
    if low >= 0 and high <= 255:
        return image
    return (image - low) * (255 / (high - low if high > low else 1))


def png(picture: Pixels) -> bytes:
    """A PNG file."""
    height, width, channels = picture.values.shape
    rows = picture.values.reshape(height, -1)
    filtered = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1)
    head = struct.pack(">IIBBBBB", width, height, 8, _COLORS[channels], 0, 0, 0)
    body = zlib.compress(filtered.tobytes(), 6)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def wav(samples: NDArray[Any], rate: int) -> tuple[bytes, bool]:
    """A WAV file of 16 bits, and whether it gives the samples (-1..1, or int16) back."""
    flat = samples.reshape(-1)
    steps = flat.astype(np.float64) if flat.dtype == np.int16 else flat.astype(np.float64) * 32768
    values = np.clip(np.rint(np.nan_to_num(steps)), -32768, 32767).astype("<i2")
    body = values.tobytes()
    head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + len(body), b"WAVE", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16,
                       b"data", len(body))  # fmt: skip
    return head + body, bool(np.abs(steps - values).max(initial=0.0) < 1e-3)
