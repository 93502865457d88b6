"""From things to feeds, as the manifest says: value = (raw * scale - mean) / std, after the steps of the thing's kind.

Arrays that are finished tensors pass as they are. Images are decoded by Pillow, only if the app has it; WAV files, rows
and text are read here. `Preparer` is made once a model; what a kind needs is imported when the first one comes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgekit.errors import DataError, FeedError, MissingFileError
from edgekit.feeding import ImageSteps, Preprocess
from edgekit.runtimes.base import Array
from edgekit.runtimes.preparation import audio, pictures, sounds
from edgekit.runtimes.preparation.numbers import Fast, fast, normalize
from edgekit.runtimes.preparation.pictures import open_image
from edgekit.runtimes.preparation.sounds import fit_wave, read_wav
from edgekit.tensors import TensorSpec

if TYPE_CHECKING:
    from edgekit.runtimes.preparation.pictures import Placement

__all__ = ["IMAGES", "SOUNDS", "Prepared", "Preparer", "decode", "fit_wave", "image_array", "normalize", "open_image"]
__all__ += ["prepare", "read_wav"]

SOUNDS = sounds.SUFFIXES
IMAGES = pictures.SUFFIXES


class Prepared(NamedTuple):
    """A feed.

    Attributes:
        feeds: Array by input name.
        ready: They are the tensors' own values, with a batch axis, and finite: nothing is left to do or to check.
        placement: Where a picture lies in the input; None for other things.
    """

    feeds: dict[str, Any]
    ready: bool = False
    placement: Placement | None = None


def prepare(thing: Any, inputs: tuple[TensorSpec, ...], how: Preprocess) -> dict[str, Any]:
    """The feed for a thing, in real values; see `Preparer`."""
    return Preparer(inputs, how).real(thing).feeds


def image_array(image: Any, spec: TensorSpec, how: Preprocess) -> Array:
    """A Pillow image in the input's size and layout: uint8, without a batch axis."""
    wanted = pictures.geometry(spec)
    made, _ = pictures.fit(pictures.pixels(image, how, wanted.channels), wanted, how.image or ImageSteps())
    return np.ascontiguousarray(made.transpose(2, 0, 1) if wanted.first else made)


def decode(path: Path, spec: TensorSpec, how: Preprocess) -> Array:
    """The real values of one input from a file of a picture or a sound, without the batch axis."""
    if path.suffix.lower() in SOUNDS:
        return normalize(audio.sound_array(sounds.read_sound(path), spec, how), how, spec)
    return normalize(image_array(open_image(path), spec, how), how, spec)


class Preparer:
    """What a model's things become. Call it; threads may share it.

    Args:
        inputs: Of the model; things other than dicts by input name need exactly one.
        how: The manifest's.
    """

    def __init__(self, inputs: tuple[TensorSpec, ...], how: Preprocess) -> None:
        self._inputs = inputs
        self._how = how
        self._names = {spec.name for spec in inputs}
        self._wanted: pictures.Geometry | None = None
        self._fast: Fast | None = None
        self._ready = False
        # A picture of the very size, and where it lies.
        self._exact: tuple[int, ...] = ()
        self._whole: Placement | None = None
        self._name = inputs[0].name if inputs else ""
        self._scaled = _scaled_row(how, inputs[0]) if how.table is not None and len(inputs) == 1 else None
        if how.kind == "image" and len(inputs) == 1:
            (spec,) = inputs
            try:
                self._wanted, self._fast = pictures.geometry(spec), fast(how, spec)
            except FeedError:
                self._wanted = None  # an input that takes no pictures: said when one comes
            self._ready = self._fast is not None
            if self._wanted is not None:
                size = (self._wanted.height, self._wanted.width)
                self._exact = (*size, self._wanted.channels)
                self._whole = pictures.Placement(size, size, (1.0, 1.0), (0.0, 0.0))

    def __call__(self, thing: Any, colors: str | None = None) -> Prepared:
        """The feed for a thing: for bytes of pictures by a table, where there is one.

        Args:
            thing: Feeds by name; an array; a Pillow image; a row of named values, or a list of rows; text; a `Sound`;
                the path of an image, a WAV file or an `.npy` file.
            colors: Order of a picture that is an array: "RGB" or "BGR"; None for the one that the model takes.

        Raises:
            FeedError: `feed-name`, `feed-shape`, `feed-dtype`, `feed-missing`, `feed-category`.
            MissingFileError: `file-missing`. DataError: `data-unreadable`. EngineMissingError: `pillow-missing`.
        """
        if self._scaled is not None and type(thing) is dict and self._names.isdisjoint(thing):
            return Prepared({self._name: self._scaled(thing)})
        if self._wanted is None or self._fast is None:
            return self.real(thing, colors)
        if type(thing) is np.ndarray and thing.shape == self._exact and thing.dtype == np.uint8 and colors is None:
            return Prepared({self._name: self._fast(thing)}, self._ready, self._whole)
        picture = self._picture(thing, colors, self._wanted)
        if picture is None:
            return self.real(thing, colors)
        made, placement = pictures.fit(picture, self._wanted, self._how.image or ImageSteps())
        return Prepared({self._name: self._fast(made)}, self._ready, placement)

    def real(self, thing: Any, colors: str | None = None) -> Prepared:
        """The same in real values always, without a batch axis where the thing has none."""
        if isinstance(thing, dict) and (self._how.kind != "table" or not self._names.isdisjoint(thing)):
            return Prepared(thing)
        if len(self._inputs) != 1:
            raise FeedError("feed-name", f"this model has {len(self._inputs)} inputs: pass a dict of arrays by name")
        (spec,) = self._inputs
        kind = self._how.kind
        if kind == "text" and isinstance(thing, (str, bytes)):
            return Prepared({spec.name: self._text(thing, spec)})
        if isinstance(thing, (str, Path)):
            thing = self._read(Path(thing))
        if kind == "table" and not isinstance(thing, np.ndarray):
            return Prepared({spec.name: self._row(thing, spec)})
        if hasattr(thing, "convert") and hasattr(thing, "resize"):
            return self._image(pictures.pixels(thing, self._how, pictures.geometry(spec).channels), spec)
        if isinstance(thing, sounds.Sound) or (kind == "waveform" and self._is_sound(thing)):
            return Prepared({spec.name: self._sound(thing, spec)})
        if self._wanted is not None and (picture := self._picture(thing, colors, self._wanted)) is not None:
            if picture.shape == (self._wanted.height, self._wanted.width, self._wanted.channels):
                _, placement = pictures.fit(picture, self._wanted, ImageSteps())
                return Prepared({spec.name: normalize(picture, self._how, spec)}, placement=placement)  # in its layout
            return self._image(picture, spec)
        try:
            array = np.asarray(thing)
        except (ValueError, TypeError, RuntimeError) as error:  # rows of unequal length; a tensor on another device
            raise FeedError("feed-dtype", f"{spec.name} takes an array, and this makes none: {error}") from error
        if kind == "array" or (array.dtype.kind == "f" and kind == "image"):
            return Prepared({spec.name: array})
        return Prepared({spec.name: normalize(array, self._how, spec)})

    def _picture(self, thing: Any, colors: str | None, wanted: pictures.Geometry) -> Array | None:
        """uint8 [H,W,C] in the model's colors; None for what is no single picture of bytes."""
        if isinstance(thing, (str, Path)) and Path(thing).suffix.lower() in IMAGES:
            thing = open_image(Path(thing))
        if isinstance(thing, np.ndarray):
            own = (wanted.channels, wanted.height, wanted.width)
            if thing.dtype != np.uint8 or (wanted.first and thing.shape == own) or not thing.size:
                return None
            if (thing.ndim == 2 and wanted.channels == 1) or (thing.ndim == 3 and thing.shape[2] in (1, 3, 4)):
                return pictures.recolor(thing, colors, self._how, wanted.channels)
            return None
        if hasattr(thing, "convert") and hasattr(thing, "resize"):
            return pictures.pixels(thing, self._how, wanted.channels)
        return None

    def _image(self, picture: Array, spec: TensorSpec) -> Prepared:
        wanted = pictures.geometry(spec)
        made, placement = pictures.fit(picture, wanted, self._how.image or ImageSteps())
        made = np.ascontiguousarray(made.transpose(2, 0, 1) if wanted.first else made)
        return Prepared({spec.name: normalize(made, self._how, spec)}, placement=placement)

    def _is_sound(self, thing: Any) -> bool:
        """With audio steps, whatever is as flat as a sound; without them, an array passes as before."""
        return self._how.audio is not None and np.ndim(thing) == 1

    def _sound(self, thing: Any, spec: TensorSpec) -> Array:
        return normalize(audio.sound_array(sounds.as_sound(thing, spec), spec, self._how), self._how, spec)

    def _text(self, thing: str | bytes, spec: TensorSpec) -> Array:
        from edgekit.feeding import TextSteps
        from edgekit.runtimes.preparation.texts import text_array

        return normalize(text_array(thing, self._how.text or TextSteps(), spec), self._how, spec)

    def _row(self, thing: Any, spec: TensorSpec) -> Array:
        from edgekit.runtimes.preparation.rows import row_array, table_array

        steps = self._how.table
        if steps is None or not isinstance(thing, (Mapping, list, tuple)):
            raise FeedError("feed-dtype", f"{spec.name} takes a row of named values, got {type(thing).__name__}")
        rows = row_array(thing, steps, spec)[None] if isinstance(thing, Mapping) else table_array(thing, steps, spec)
        return normalize(rows, self._how, spec)

    def _read(self, path: Path) -> Any:
        if path.suffix.lower() in SOUNDS:
            return sounds.read_sound(path)
        if path.suffix.lower() == ".npy":
            return _read_array(path)
        return open_image(path)


def _scaled_row(how: Preprocess, spec: TensorSpec) -> Callable[[Mapping[str, Any]], Array] | None:
    """What `real` does to a single row, without asking what it is; None where scale, mean and std do not fit it."""
    from edgekit.runtimes.preparation.rows import row_array

    steps = how.table
    if steps is None or any(len(values) not in (1, steps.width) for values in (how.mean, how.std)):
        return None  # said when a row comes
    mean, std = np.asarray(how.mean, np.float32), np.asarray(how.std, np.float32)
    scale, identity = np.float32(how.scale), how.identity

    def scaled(row: Mapping[str, Any]) -> Array:
        values = row_array(row, steps, spec)
        if not identity:
            values = (values * scale - mean) / std
        return values[None]

    return scaled


def _read_array(path: Path) -> Array:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except FileNotFoundError as error:
        raise MissingFileError("file-missing", f"there is no file {path}") from error
    except (ValueError, EOFError, OSError) as error:
        raise DataError("data-unreadable", f"{path} is no .npy file of plain numbers: {error}") from error
