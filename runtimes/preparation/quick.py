"""The ways on which most things go, one a kind: everything that the manifest says is looked up before the first thing.

Each answers None for a thing that is not plain, which the general way (`edgekit.runtimes.preprocess`) then prepares, or
says what is wrong with it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from edgekit.errors import FeedError
from edgekit.feeding import ImageSteps, Preprocess
from edgekit.runtimes.base import Array
from edgekit.runtimes.preparation import audio, pictures, sounds
from edgekit.runtimes.preparation.numbers import fast, normalize
from edgekit.runtimes.preparation.rows import row_plan
from edgekit.runtimes.preparation.scratch import Spare
from edgekit.tensors import TensorSpec


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
    lent: Array | None = None


_new = tuple.__new__
"""Half of what the call of a named tuple takes."""


class Quick(Protocol):
    """One way.

    Attributes:
        exact: What is ready also has the very shape that the input takes.
    """

    exact: bool

    def __call__(self, thing: Any, colors: str | None) -> Prepared | None: ...


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
        shape = (1, wanted.channels, *size) if wanted.first else (1, *size, wanted.channels)
        self._spare = Spare(lambda: np.empty(shape, spec.dtype))
        # A picture of the very size, and where it lies.
        self._own = (*size, wanted.channels)
        self._whole = pictures.Placement(size, size, (1.0, 1.0), (0.0, 0.0))

    def __call__(self, thing: Any, colors: str | None) -> Prepared | None:
        if self._fast is None:
            return None
        placement = self._whole
        if type(thing) is not np.ndarray or thing.shape != self._own or thing.dtype != np.uint8 or colors is not None:
            picture = self.picture(thing, colors)
            if picture is None:
                return None
            thing, placement = pictures.fit(picture, self.wanted, self._steps)
        lent = self._spare.take()
        made = self._fast(thing, lent)
        if made is not lent:  # nothing had to be done to it
            self._spare.give(lent)
            return Prepared({self._name: made}, ready=True, placement=placement)
        return Prepared({self._name: made}, ready=True, placement=placement, lent=lent)

    def take_back(self, lent: Array) -> None:
        """For the next picture."""
        self._spare.give(lent)

    def picture(self, thing: Any, colors: str | None) -> Array | None:
        """uint8 [H,W,C] in the model's colors; None for what is no single picture of bytes."""
        wanted = self.wanted
        if isinstance(thing, (str, Path)) and Path(thing).suffix.lower() in pictures.SUFFIXES:
            thing = pictures.open_image(Path(thing))
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


def quick_of(inputs: tuple[TensorSpec, ...], how: Preprocess) -> Rows | Waves | Pictures | None:
    """The way of these things; None where there is none."""
    if len(inputs) != 1:
        return None
    (spec,) = inputs
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
