"""Pictures: decoded by Pillow, brought to the input's size and colors, and where they then lie in it.

Arrays are taken as height, width, channels, in the color order that the model takes unless another is said.
"""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from edgekit.errors import DataError, EngineMissingError, FeedError, MissingFileError, UsageError
from edgekit.feeding import ImageSteps, Preprocess
from edgekit.runtimes.base import Array
from edgekit.runtimes.preparation.resizing import Window, resize
from edgekit.tensors import TensorSpec

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")

_ORIENTATION = 0x0112
"""EXIF's tag."""

# ITU-R 601-2 luma in 16 bits, as Pillow converts to "L" (src/libImaging/ConvertYCbCr.c, `L24`).
_LUMA = (19595, 38470, 7471)


@dataclass(frozen=True)
class Geometry:
    """What an image input takes.

    Attributes:
        first: Channels come first.
    """

    height: int
    width: int
    channels: int
    first: bool


@dataclass(frozen=True)
class Placement:
    """Where a picture lies in the input: input = source * scale + offset, both as (x, y), in pixels.

    Attributes:
        source: Height and width of the picture that was given.
        target: Height and width of the input.
        scale, offset: Along x and y.
    """

    source: tuple[int, int]
    target: tuple[int, int]
    scale: tuple[float, float]
    offset: tuple[float, float]

    def back(self, points: Array) -> Array:
        """Points [..., 2] (x, y) of the input, in pixels of the picture; clipped to it."""
        real = (points - np.asarray(self.offset)) / np.asarray(self.scale)
        return np.asarray(np.clip(real, 0, [self.source[1], self.source[0]]))


def geometry(spec: TensorSpec) -> Geometry:
    """Size and layout of an image input.

    Raises:
        FeedError: `feed-shape`: the input takes no images.
    """
    if len(spec.shape) == 4 and None not in spec.shape[1:]:
        a, b, c = (size or 0 for size in spec.shape[1:])
        first = spec.layout == "NCHW" if spec.layout else a in (1, 3) and c not in (1, 3)
        if first and a in (1, 3):
            return Geometry(b, c, a, first=True)
        if c in (1, 3):
            return Geometry(a, b, c, first=False)
    raise FeedError(
        "feed-shape", f"{spec.describe()} takes no images: it is not [N,H,W,C] or [N,C,H,W] with 1 or 3 channels"
    )


def holds_a_file(thing: Any) -> bool:
    """Bytes, or something that bytes can be read from."""
    return isinstance(thing, (bytes, bytearray)) or callable(getattr(thing, "read", None))


def opened(thing: Any) -> BinaryIO:
    """Of what holds a file, to be read from."""
    return io.BytesIO(thing) if isinstance(thing, (bytes, bytearray)) else thing


def read_image(thing: Any, name: str) -> Any:
    """`open_image` of what holds a file, for the input of this name.

    Raises:
        FeedError: `feed-dtype`: it holds no picture. EngineMissingError: `pillow-missing`.
    """
    try:
        return open_image(opened(thing))
    except DataError as error:
        said = f"{name} takes a picture, and {type(thing).__name__} holds none: {error.message}"
        raise FeedError("feed-dtype", said, next_step="Pass the whole file, a PNG or JPEG.") from error


def open_image(path: Path | BinaryIO) -> Any:
    """A Pillow image, turned as its EXIF data says it is to be seen.

    Args:
        path: Where it is, or an open file.

    Raises:
        EngineMissingError: `pillow-missing`. DataError: `data-unreadable`. MissingFileError: `file-missing`.
    """
    name = path.name if isinstance(path, Path) else "a file in memory"
    said = str(path) if isinstance(path, Path) else "it"
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ModuleNotFoundError as error:
        raise EngineMissingError(
            "pillow-missing", f"reading {name} needs Pillow", next_step="pip install pillow"
        ) from error
    try:
        image = Image.open(path)
        image.load()
        if image.mode == "F":
            raise DataError(
                "data-unreadable",
                f"{said} is a picture of floats, whose scale nobody knows",
                next_step="Save it with 8 or 16 bits a pixel, or as .npy in the numbers that the model takes.",
            )
        ImageOps.exif_transpose(image, in_place=True)
    except FileNotFoundError as error:
        raise MissingFileError("file-missing", f"there is no file {path}") from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        # Of what it does not know, Pillow says the path again, or where in memory it lies.
        why = "" if isinstance(error, UnidentifiedImageError) else f": {error}"
        raise DataError(
            "data-unreadable",
            f"{said} is no image that Pillow reads{why}",
            next_step="Leave the file out, or save it again as PNG or JPEG.",
        ) from error
    return image


def pixels(image: Any, how: Preprocess, channels: int) -> Array:
    """uint8 [H,W,C] of a Pillow image, in the model's colors; gray ones three times where the model takes three
    channels. What Pillow has opened and nobody has changed since is turned as its EXIF data says, like the file.
    """
    image, gray = _upright(image), how.colors == "gray" or channels == 1
    array = np.asarray(_eight_bits(image).convert("L" if gray else "RGB"))
    if array.ndim == 2:
        return array[..., None] if channels == 1 else np.repeat(array[..., None], channels, axis=2)
    return array[..., ::-1] if how.colors == "BGR" else array


def fit(picture: Array, wanted: Geometry, steps: ImageSteps) -> tuple[Array, Placement]:
    """A picture in the input's size, and where it lies there.

    Args:
        picture: uint8 [H,W,C].
        wanted: The input.
        steps: How.
    """
    fitting = Fitting(picture.shape[:2], wanted, steps)
    return fitting(picture), fitting.placement


class Fitting:
    """How pictures of one size come into an input. Call it with one; threads may share it.

    Args:
        size: Height and width of the pictures.
        wanted: The input.
        steps: How.

    Attributes:
        placement: Where they lie there.

    Raises:
        FeedError: `feed-shape`: `short` is less than the input.
    """

    def __init__(self, size: tuple[int, ...], wanted: Geometry, steps: ImageSteps) -> None:
        height, width = size
        self._target = self._inner = target = (wanted.height, wanted.width)
        self._how, self._border = (steps.resize, steps.convention), steps.border
        self._cut: tuple[slice, slice] | None = None
        self._at, self._window = (0, 0), None
        scale, offset = (wanted.width / width, wanted.height / height), (0.0, 0.0)
        if steps.short is not None:
            inner = _shorter(height, width, steps.short)
            if inner[0] < target[0] or inner[1] < target[1]:
                sizes = f"{inner[1]}x{inner[0]} holds no {target[1]}x{target[0]}"
                raise FeedError("feed-shape", f"short = {steps.short} is less than the input: {sizes}")
            # As torchvision cuts.
            top, left = round((inner[0] - target[0]) / 2), round((inner[1] - target[1]) / 2)
            self._window = Window(*inner, top, left)
            scale, offset = (inner[1] / width, inner[0] / height), (-float(left), -float(top))
        elif steps.fit != "stretch" and height * wanted.width != width * wanted.height:
            if steps.fit == "crop":
                # The middle that has the input's proportions: what lies outside is never computed.
                ratio = max(target[0] / height, target[1] / width)
                kept = min(max(round(target[0] / ratio), 1), height), min(max(round(target[1] / ratio), 1), width)
                top, left = (height - kept[0]) // 2, (width - kept[1]) // 2
                self._cut = slice(top, top + kept[0]), slice(left, left + kept[1])
                scale = target[1] / kept[1], target[0] / kept[0]
                offset = -left * scale[0], -top * scale[1]
            else:
                ratio = min(wanted.height / height, wanted.width / width)
                self._inner = inner = max(round(height * ratio), 1), max(round(width * ratio), 1)
                free = target[0] - inner[0], target[1] - inner[1]
                self._at = top, left = (0, 0) if steps.place == "corner" else (free[0] // 2, free[1] // 2)
                scale, offset = (inner[1] / width, inner[0] / height), (float(left), float(top))
        self.placement = Placement((height, width), target, scale, offset)

    def __call__(self, picture: Array, out: Array | None = None) -> Array:
        """uint8 [H,W,C] of the input; in `out`, of that shape and C-ordered, where that saves a copy."""
        if self._cut is not None:
            picture = picture[self._cut]
        if self._inner == self._target:
            return resize(picture, *self._target, *self._how, out, self._window)
        made = np.empty((*self._target, picture.shape[2]), np.uint8) if out is None else out
        (top, left), (height, width) = self._at, self._inner
        for border in (made[:top], made[top + height :], made[:, :left], made[:, left + width :]):
            border[...] = self._border
        inside = made[top : top + height, left : left + width]
        resized = resize(picture, height, width, *self._how, inside)
        if resized is not inside:
            inside[...] = resized
        return made


def _shorter(height: int, width: int, short: int) -> tuple[int, int]:
    """Height and width as torchvision's `Resize` of one number has them."""
    return (short, int(short * width / height)) if height <= width else (int(short * height / width), short)


def recolor(picture: Array, given: str | None, how: Preprocess, channels: int) -> Array:
    """uint8 [H,W,C] in the model's colors, from an array [H,W,C], or [H,W] of grays. Colors become gray where the model
    takes gray, three times where it takes three channels of it; nothing else is added or left out.

    Args:
        picture: What was given.
        given: Its order: "RGB" or "BGR"; None for the model's own.
        how: The manifest's.
        channels: Of the input.

    Raises:
        FeedError: `feed-shape`: another number of channels. UsageError: `option-value`: no order of colors.
    """
    if given not in (None, "RGB", "BGR"):
        raise UsageError("option-value", f"colors is {given!r}; it is 'RGB' or 'BGR'")
    if picture.ndim == 2:
        picture = picture[..., None]
    gray = how.colors == "gray" or channels == 1
    if gray and picture.shape[2] == 3:
        weights = np.asarray(_LUMA if given != "BGR" else _LUMA[::-1], np.uint32)
        picture = (picture @ weights + 0x8000 >> 16).astype(np.uint8)[..., None]
    if gray and picture.shape[2] == 1:
        return picture if channels == 1 else np.repeat(picture, channels, axis=2)
    if picture.shape[2] != channels:
        raise FeedError("feed-shape", f"the picture has {picture.shape[2]} channels, the model takes {channels}")
    turned = given is not None and how.colors in ("RGB", "BGR") and given != how.colors
    return picture[..., ::-1] if turned and channels == 3 else picture


def _upright(image: Any) -> Any:
    """A copy's orientation may be stale: what turns a picture by hand leaves it in."""
    files = sys.modules.get("PIL.ImageFile")  # what was not opened by it, says nothing
    if files is None or not isinstance(image, files.ImageFile) or image.getexif().get(_ORIENTATION, 1) == 1:
        return image
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def _eight_bits(image: Any) -> Any:
    """Pictures of 16 bits a pixel, scaled: Pillow would clip them at 255, to a white page."""
    if not image.mode.startswith("I"):
        return image
    from PIL import Image

    return Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
