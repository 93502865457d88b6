"""The ways on which most things go, one a kind: everything that the manifest says is looked up before the first thing.

Each answers None for a thing that is not plain, which the general way (`edgekit.runtimes.preprocess`) then prepares, or
says what is wrong with it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgekit.errors import FeedError
from edgekit.feeding import ImageSteps, Preprocess
from edgekit.runtimes.base import Array
from edgekit.runtimes.preparation import audio, pictures, sounds
from edgekit.runtimes.preparation.numbers import fast, normalize
from edgekit.runtimes.preparation.rows import row_plan
from edgekit.runtimes.preparation.scratch import Spare
from edgekit.tensors import TensorSpec


class Memory(NamedTuple):
    """What a picture is prepared in.

    Attributes:
        tensor: Of the input's dtype and shape, with a batch axis.
        picture: uint8 [H,W,C] of the input's size; the tensor's own bytes where it is as large.
    """

    tensor: Array
    picture: Array


class Prepared(NamedTuple):
    """A feed.

    Attributes:
        feeds: Array by input name.
        ready: They are the tensors' own values, with a batch axis, and finite: nothing is left to do or to check.
        placement: Where a picture lies in the input; None for other things.
        lent: Memory of the preparer's own, for `Preparer.take_back` when nobody looks at the feed any more.
    """

    feeds: dict[str, Any]
    ready: bool = False
    placement: pictures.Placement | None = None
    lent: Memory | None = None


_BYTES = np.dtype(np.uint8)
_SIZES = 16
"""Shapes of pictures whose way into the input is kept: a camera has one."""
_new = tuple.__new__
"""Half of what the call of a named tuple takes."""


class Arrays:
    """Arrays that are the tensor, finite, with its batch axis or without.

    Attributes:
        exact: Of this way and the others: what is ready also has the very shape that the input takes.
    """

    exact = True

    def __init__(self, spec: TensorSpec) -> None:
        self._name, self._dtype = spec.name, np.dtype(spec.dtype)
        self._one = spec.shape[1:]
        self._shape = (1 if spec.shape[0] is None else spec.shape[0], *self._one)
        self._real = self._dtype.kind == "f"

    @staticmethod
    def takes(spec: TensorSpec) -> bool:
        """Whether arrays may be the tensor: real values of quantized ones are not."""
        return spec.quant is None and spec.dtype != "string" and bool(spec.shape) and None not in spec.shape[1:]

    def __call__(self, thing: Any, colors: str | None) -> Prepared | None:
        if type(thing) is not np.ndarray or thing.dtype != self._dtype or colors is not None:
            return None
        if thing.shape != self._shape:
            if thing.shape != self._one or self._shape[0] != 1:
                return None
            thing = thing[None]
        if self._real and 0 in np.isfinite(thing).tobytes():
            return None
        return _new(Prepared, ({self._name: thing}, True, None, None))


class Rows:
    """Dicts of numbers and categories in which nothing is missing or strange."""

    def __init__(self, spec: TensorSpec, how: Preprocess) -> None:
        self._name = spec.name
        self.plan = row_plan(how)
        self._ready = spec.quant is None and spec.dtype == "float32"
        width = how.table.width if how.table is not None else 0
        self.exact = spec.shape[1:] == (width,) and spec.shape[0] in (None, 1)

    def __call__(self, thing: Any, colors: str | None) -> Prepared | None:
        del colors
        if self.plan is None or type(thing) is not dict or self._name in thing:
            return None
        row = self.plan(thing)
        return None if row is None else _new(Prepared, ({self._name: row}, self._ready, None, None))


class Waves:
    """Sounds as arrays [n]."""

    exact = False

    def __init__(self, spec: TensorSpec, how: Preprocess) -> None:
        self._spec, self._how = spec, how
        self._plan = audio.SoundPlan(spec, how)
        self._identity = how.identity

    def __call__(self, thing: Any, colors: str | None) -> Prepared | None:
        del colors
        if type(thing) is not np.ndarray or thing.ndim != 1:
            return None
        return Prepared({self._spec.name: self.tensor(thing)[None]})

    def tensor(self, thing: Any) -> Array:
        """Of a `Sound` or an array, without the batch axis."""
        made = self._plan(sounds.as_sound(thing, self._spec))
        return made if self._identity else normalize(made, self._how, self._spec)


class Pictures:
    """Pictures of bytes: files, Pillow's and arrays.

    Raises:
        FeedError: `feed-shape`: the input takes none.
    """

    def __init__(self, spec: TensorSpec, how: Preprocess) -> None:
        self._name, self._how, self._steps = spec.name, how, how.image or ImageSteps()
        self.wanted = wanted = pictures.geometry(spec)
        self._fast = fast(how, spec)
        self.exact = spec.shape[0] in (None, 1)
        size = (wanted.height, wanted.width)
        self._shape = (1, wanted.channels, *size) if wanted.first else (1, *size, wanted.channels)
        self._dtype = np.dtype(spec.dtype if self._fast is not None else "uint8")
        self._spare = Spare(self._memory)
        self._fittings: dict[tuple[int, ...], pictures.Fitting] = {}
        self._twofold = wanted.first and wanted.width == wanted.channels  # a shape may be that of either layout

    def __call__(self, thing: Any, colors: str | None) -> Prepared | None:
        if self._fast is None:
            return None
        fitting = None
        if type(thing) is np.ndarray and thing.dtype == _BYTES and colors is None:
            fitting = self._fittings.get(thing.shape)
        if fitting is None:
            picture = self.picture(thing, colors)
            if picture is None:
                return None
            plain = picture is thing and not self._twofold
            fitting = self._fitting(picture.shape, kept=plain)
            thing = picture
        placement, lent = fitting.placement, self._spare.take()
        thing = fitting(thing, lent.picture)
        made = self._fast(thing, lent.tensor)
        if made is not lent.tensor and thing is not lent.picture:  # nothing had to be done to it
            self._spare.give(lent)
            return _new(Prepared, ({self._name: made}, True, placement, None))
        return _new(Prepared, ({self._name: made}, True, placement, lent))

    def take_back(self, lent: Memory) -> None:
        """For the next picture."""
        self._spare.give(lent)

    def _memory(self) -> Memory:
        tensor = np.empty(self._shape, self._dtype)
        bytes_last = self._dtype.itemsize == 1 and not self.wanted.first
        wanted = self.wanted
        size = (wanted.height, wanted.width, wanted.channels)
        return Memory(tensor, tensor.view(_BYTES)[0] if bytes_last else np.empty(size, _BYTES))

    def _fitting(self, shape: tuple[int, ...], *, kept: bool) -> pictures.Fitting:
        """Of pictures of this shape; kept where those that come so need nothing else."""
        made = pictures.Fitting(shape[:2], self.wanted, self._steps)
        if kept:
            if len(self._fittings) >= _SIZES:
                self._fittings.clear()
            self._fittings[shape] = made
        return made

    def picture(self, thing: Any, colors: str | None) -> Array | None:
        """uint8 [H,W,C] in the model's colors; None for what is no single picture of bytes."""
        wanted = self.wanted
        if isinstance(thing, np.ndarray):
            own = (wanted.channels, wanted.height, wanted.width)
            if (
                thing.dtype != np.uint8
                or hasattr(thing, "mask")
                or (wanted.first and thing.shape == own)
                or not thing.size
            ):
                return None
            gray = wanted.channels == 1 or self._how.colors == "gray"
            if (thing.ndim == 2 and gray) or (thing.ndim == 3 and thing.shape[2] in (1, 3, 4)):
                return pictures.recolor(thing, colors, self._how, wanted.channels)
            return None
        if isinstance(thing, (str, Path)) and Path(thing).suffix.lower() in pictures.SUFFIXES:
            thing = pictures.open_image(Path(thing))
        elif pictures.holds_a_file(thing):
            thing = pictures.read_image(thing, self._name)
        if hasattr(thing, "convert") and hasattr(thing, "resize"):
            return pictures.pixels(thing, self._how, wanted.channels)
        return None


def quick_of(inputs: tuple[TensorSpec, ...], how: Preprocess) -> Arrays | Rows | Waves | Pictures | None:
    """The way of these things; None where there is none."""
    if len(inputs) != 1:
        return None
    (spec,) = inputs
    if how.kind == "array":
        return Arrays(spec) if Arrays.takes(spec) else None
    if how.kind == "table":
        return Rows(spec, how)
    if how.kind == "waveform" and how.audio is not None:
        return Waves(spec, how)
    if how.kind == "image":
        try:
            return Pictures(spec, how)
        except FeedError:
            return None  # said when a picture comes
    return None
