"""Frames that show nothing new: a camera before an empty room need not keep the processor awake."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekit.errors import FeedError
from edgekit.runtimes.base import Array


class Motion:
    """Says of each frame whether it differs from the last that did. A `gate` of `Stream`.

    Frames are arrays [H,W] or [H,W,C], or Pillow images. Every 8th pixel of every 8th row is compared: a 640x480 frame
    takes some tens of microseconds. Floats and booleans from 0 to 1 count in steps of 255, as bytes do.

    Args:
        threshold: Mean difference, in steps of 255, from which a frame is new; noise of cameras lies at 1 to 3.
        share: Share of the compared pixels (0..1) that must differ by four thresholds at least, for small things.
    """

    def __init__(self, threshold: float = 4.0, share: float = 0.01) -> None:
        self._threshold = threshold
        self._share = share
        self._last: Array | None = None

    def __call__(self, frame: Any) -> bool:
        """Whether there is something new in it.

        Raises:
            FeedError: `feed-dtype`, `feed-shape`: it is no picture.
        """
        seen = _steps(frame)
        if self._last is None or self._last.shape != seen.shape:
            self._last = seen
            return True
        off = np.abs(seen - self._last)
        mean = float(off.mean())  # NaN is told as new: what comes after the gate says what is wrong with it
        new = not mean < self._threshold or float((off >= 4 * self._threshold).mean()) >= self._share
        if new:
            self._last = seen
        return bool(new)


def _steps(frame: Any) -> Array:
    """Pixels that are compared, as signed numbers in steps of 255."""
    array = np.asarray(frame)
    if array.dtype.kind not in "fiub":
        raise FeedError("feed-dtype", f"frames that are compared are pictures of numbers, not {type(frame).__name__}")
    if array.ndim not in (2, 3) or not array.size:
        sizes = ",".join(map(str, array.shape))
        raise FeedError("feed-shape", f"frames that are compared are pictures [H,W] or [H,W,C], not [{sizes}]")
    seen = array[::8, ::8]
    if array.dtype.itemsize == 1 and array.dtype.kind != "b":
        return seen.astype(np.int16)
    seen = seen.astype(np.float32)
    unit = array.dtype.kind == "b" or (array.dtype.kind == "f" and 0 <= seen.min() <= seen.max() <= 1)
    return seen * np.float32(255) if unit else seen
