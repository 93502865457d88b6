"""From things to feeds, as the manifest says: value = (raw * scale - mean) / std, after the steps of the thing's kind.

Arrays that are finished tensors pass as they are. Images are decoded by Pillow, only if the app has it; WAV files, rows
and text are read here. `Preparer` is made once a model; what a kind needs is imported when the first one comes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import DataError, FeedError, MissingFileError
from edgekit.feeding import ImageSteps, Preprocess
from edgekit.runtimes.base import Array, as_array
from edgekit.runtimes.preparation import audio, pictures, sounds
from edgekit.runtimes.preparation.numbers import normalize
from edgekit.runtimes.preparation.pictures import open_image
from edgekit.runtimes.preparation.quick import Pictures, Prepared, Rows, Waves, quick_of
from edgekit.runtimes.preparation.sounds import fit_wave, read_wav
from edgekit.tensors import TensorSpec

__all__ = ["IMAGES", "SOUNDS", "Prepared", "Preparer", "decode", "fit_wave", "image_array", "normalize", "open_image"]
__all__ += ["prepare", "read_wav"]

SOUNDS = sounds.SUFFIXES
IMAGES = pictures.SUFFIXES


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
        whole: The model takes a sample without the batch axis that `inputs` show, see `tensors.sampled`.

    Attributes:
        quick: The way of plain things; None where there is none.
        exact: What is `ready` also has the very shape that the input takes.
    """

    def __init__(self, inputs: tuple[TensorSpec, ...], how: Preprocess, *, whole: bool = False) -> None:
        self._inputs = inputs
        self._how = how
        self._names = {spec.name for spec in inputs}
        self.quick = None if whole else quick_of(inputs, how)
        self._whole = whole
        self.exact = self.quick is not None and self.quick.exact

    def __call__(self, thing: Any, colors: str | None = None) -> Prepared:
        """The feed for a thing: for bytes of pictures by a table, where there is one.

        Args:
            thing: Feeds by name; an array; a Pillow image; a row of named values, or a list of rows; text; a `Sound`;
                the path of an image, a WAV file or an `.npy` file; the bytes of an image or a WAV file, or a file that
                is open for reading them.
            colors: Order of a picture that is an array: "RGB" or "BGR"; None for the one that the model takes.

        Raises:
            FeedError: `feed-name`, `feed-shape`, `feed-dtype`, `feed-missing`, `feed-category`.
            MissingFileError: `file-missing`. DataError: `data-unreadable`. EngineMissingError: `pillow-missing`.
        """
        if self.quick is not None and (prepared := self.quick(thing, colors)) is not None:
            return prepared
        return self.general(thing, colors)

    def general(self, thing: Any, colors: str | None = None) -> Prepared:
        """The same for what is not plain, or where nothing is: what `quick` has no answer to."""
        return self._sample(self.real(thing, colors), thing)

    def take_back(self, prepared: Prepared) -> None:
        """Nobody looks at this feed any more: its memory is the next one's."""
        if prepared.lent is not None and isinstance(self.quick, Pictures):
            self.quick.take_back(prepared.lent)

    def _sample(self, prepared: Prepared, thing: Any) -> Prepared:
        """With a batch axis where the model has one, so that nothing is left to do; a dict stays what it is."""
        if prepared.feeds is thing or len(self._inputs) != 1:
            return prepared
        (spec,) = self._inputs
        array = prepared.feeds[spec.name]
        if self._whole:
            alone = array.ndim == len(spec.shape) and len(array) == 1
            return prepared._replace(feeds={spec.name: array[0]}) if alone else prepared
        return prepared._replace(feeds={spec.name: array[None]}) if array.ndim == len(spec.shape) - 1 else prepared

    def real(self, thing: Any, colors: str | None = None) -> Prepared:
        """The same in real values always; without a batch axis where the thing has none, but for rows."""
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
        if pictures.holds_a_file(thing) and kind == "waveform":
            thing = sounds.held_sound(pictures.opened(thing), spec)
        if kind == "table" and not isinstance(thing, np.ndarray):
            return Prepared({spec.name: self._rows(thing, spec)})
        if hasattr(thing, "convert") and hasattr(thing, "resize"):
            return self._image(pictures.pixels(thing, self._how, pictures.geometry(spec).channels), spec)
        if isinstance(thing, sounds.Sound) or (kind == "waveform" and self._is_sound(thing, spec)):
            return Prepared({spec.name: self._sound(thing, spec)})
        quick = self.quick
        if isinstance(quick, Pictures) and (picture := quick.picture(thing, colors)) is not None:
            own = picture.shape == (quick.wanted.height, quick.wanted.width, quick.wanted.channels)
            own &= self._how.image is None or self._how.image.short is None
            if own and spec.layout is not None:
                _, placement = pictures.fit(picture, quick.wanted, ImageSteps())
                return Prepared({spec.name: normalize(picture, self._how, spec)}, placement=placement)  # in its layout
            return self._image(picture, spec)
        return Prepared({spec.name: self._array(thing, spec, colors)})

    def _array(self, thing: Any, spec: TensorSpec, colors: str | None) -> Array:
        """Of numbers that are no picture, no sound and no row."""
        array = as_array(thing, spec.name)
        if colors not in (None, self._how.colors):
            raise FeedError(
                "feed-dtype", f"{spec.name} is fed with {array.dtype}; colors are turned in pictures of bytes"
            )
        kind = self._how.kind
        if kind == "image" and array.dtype.kind in "fiub":
            _check_picture(array, spec)
            _check_bytes(array, spec, self._how)
        finished = kind == "array" or (array.dtype.kind == "f" and kind == "image")
        return array if finished else normalize(array, self._how, spec)

    def _image(self, picture: Array, spec: TensorSpec) -> Prepared:
        wanted = pictures.geometry(spec)
        made, placement = pictures.fit(picture, wanted, self._how.image or ImageSteps())
        made = np.ascontiguousarray(made.transpose(2, 0, 1) if wanted.first else made)
        return Prepared({spec.name: normalize(made, self._how, spec)}, placement=placement)

    def _is_sound(self, thing: Any, spec: TensorSpec) -> bool:
        """With audio steps, whatever is as flat as a sound, or has a few channels side by side and is not the tensor;
        without them, an array passes as before.
        """
        if self._how.audio is None:
            return False
        shape = as_array(thing, spec.name).shape
        own = tuple(want or size for want, size in zip(spec.shape[1:], shape, strict=False))
        return len(shape) == 1 or (sounds.has_channels(shape) and shape != own)

    def _sound(self, thing: Any, spec: TensorSpec) -> Array:
        if isinstance(self.quick, Waves):
            return self.quick.tensor(thing)
        if self._how.kind != "waveform" and sum(size != 1 for size in spec.shape[1:]) > 1:
            raise FeedError(
                "feed-shape", f"{spec.describe()} is no wave, and nothing says how one becomes it",
                next_step="Convert with --metadata that says so: kind = 'waveform', and [preprocess.audio].",
            )  # fmt: skip
        return normalize(audio.sound_array(sounds.as_sound(thing, spec), spec, self._how), self._how, spec)

    def _text(self, thing: str | bytes, spec: TensorSpec) -> Array:
        from edgekit.feeding import TextSteps
        from edgekit.runtimes.preparation.texts import text_array

        return normalize(text_array(thing, self._how.text or TextSteps(), spec), self._how, spec)

    def _rows(self, thing: Any, spec: TensorSpec) -> Array:
        """[n, width] of a row or of several."""
        from edgekit.runtimes.preparation.rows import row_array

        steps = self._how.table
        if steps is None or not isinstance(thing, (Mapping, list, tuple)):
            raise FeedError("feed-dtype", f"{spec.name} takes a row of named values, got {type(thing).__name__}")
        plan = self.quick.plan if isinstance(self.quick, Rows) else None
        made = []
        for row in [thing] if isinstance(thing, Mapping) else thing:
            if not isinstance(row, Mapping):
                raise FeedError("feed-dtype", f"{spec.name} takes rows of named values, got {type(row).__name__}")
            plain = plan(row) if plan is not None else None
            made.append(normalize(row_array(row, steps, spec)[None], self._how, spec) if plain is None else plain)
        return np.concatenate(made) if made else np.zeros((0, steps.width), np.float32)

    def _read(self, path: Path) -> Any:
        if path.suffix.lower() in SOUNDS:
            return sounds.read_sound(path)
        if path.suffix.lower() == ".npy":
            return _read_array(path)
        if self._how.kind == "waveform":
            raise DataError("data-unreadable", f"{path} is no WAV file", next_step=sounds.CONVERT)
        return open_image(path)


def _check_picture(array: Array, spec: TensorSpec) -> None:
    """What is no picture of bytes must be the tensor.

    Raises:
        FeedError: `feed-shape`.
    """
    from edgekit.runtimes.pieces import shaped

    try:
        shaped(array, spec)
    except FeedError as error:
        sizes = ",".join(map(str, array.shape))
        wanted = pictures.geometry(spec).channels
        raise FeedError(
            "feed-shape",
            f"{spec.name} takes a picture of any size as bytes, uint8 [H,W,{wanted}], or the finished tensor "
            f"{spec.describe()}; not {array.dtype} [{sizes}]",
            next_step="Pass one picture as uint8, several to predict_batch, or resize it yourself.",
        ) from error


def _check_bytes(array: Array, spec: TensorSpec, how: Preprocess) -> None:
    """Scale, mean and std are those of bytes: of 16 bits a pixel they make numbers that the model never saw.

    Raises:
        FeedError: `feed-dtype`.
    """
    if how.identity or array.dtype.kind not in "iu" or array.dtype.itemsize == 1 or not array.size:
        return
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > 255:
        raise FeedError(
            "feed-dtype", f"{spec.name} is prepared from bytes (0 to 255), and this {array.dtype} has {low} to {high}",
            next_step="Make them bytes (of 16 bits: array // 257, as uint8), or pass the finished tensor as floats.",
        )  # fmt: skip


def _read_array(path: Path) -> Array:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except FileNotFoundError as error:
        raise MissingFileError("file-missing", f"there is no file {path}") from error
    except (ValueError, EOFError, OSError) as error:
        raise DataError("data-unreadable", f"{path} is no .npy file of plain numbers: {error}") from error
