"""What must not leave a board, taken out of a sample before anything of it is written.

A redaction is any function from {name: array} to {name: array}, or to None for a sample that is not kept at all. These
are the usual ones; `chain` joins several.

    capture = Capture("people-counter", model, redact=blur_boxes(find_faces))
    capture = Capture("credit", model, redact=drop_columns(("age", "zip"), model.preprocess.table.columns))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import UsageError

Arrays = dict[str, NDArray[Any]]
Redaction = Callable[[Arrays], Arrays | None]
Box = Sequence[float]
_CELLS = 3


def blurred(image: NDArray[Any], boxes: Iterable[Box], *, cells: int = _CELLS) -> NDArray[Any]:
    """A copy of a picture in which each box shows a few even patches.

    The mean of each patch is all that stays of it, so that no sharpening brings a face back; a Gaussian blur, which
    is a convolution, can be undone to a good part.

    Args:
        image: [height, width] or [height, width, channels], any dtype.
        boxes: (left, top, right, bottom) each, in pixels; what lies outside of the picture is cut off.
        cells: Patches along each side of a box.

    Raises:
        UsageError: `option-value`: no such box can be: it ends before it begins (as left, top, width, height may), or
            is one in shares of the picture.
    """
    if cells < 1:
        raise UsageError("option-value", f"a box has {cells} patches; at least 1")
    made = np.array(image)
    height, width = made.shape[:2]
    for left, top, right, bottom in boxes:
        shares = 0 < max(right, bottom) <= 1 and any(float(edge) % 1 for edge in (left, top, right, bottom))
        if right < left or bottom < top or shares:
            box = f"({left:g}, {top:g}, {right:g}, {bottom:g})"
            raise UsageError("option-value", f"{box} is no box of left, top, right and bottom in pixels")
        x = _edges(left, right, width, cells)
        y = _edges(top, bottom, height, cells)
        for above, below in pairwise(y):
            for begin, end in pairwise(x):
                patch = made[above:below, begin:end]
                mean = patch.astype(np.float64).mean(axis=(0, 1))
                made[above:below, begin:end] = np.rint(mean) if made.dtype.kind in "iu" else mean
    return made


def blur_boxes(
    find: Callable[[NDArray[Any]], Iterable[Box]], *, name: str | None = None, first: bool = False, cells: int = _CELLS
) -> Redaction:
    """A redaction that blurs what a function finds: faces, number plates, screens.

    Args:
        find: From a picture [height, width, channels], as it would be kept, to its boxes in pixels.
        name: Of the array, which may be one without channels; None for all arrays of three or four axes. Samples
            without such a picture are refused, and not kept.
        first: Channels come first ([channels, height, width]).
        cells: As `blurred`.
    """

    def one(picture: NDArray[Any]) -> NDArray[Any]:
        if picture.ndim == 2:
            return blurred(picture, find(picture[..., None]), cells=cells)
        seen = np.moveaxis(picture, 0, -1) if first else picture
        made = blurred(seen, find(seen), cells=cells)
        return np.moveaxis(made, -1, 0) if first else made

    def redact(arrays: Arrays) -> Arrays:
        chosen = [key for key, array in arrays.items() if key == name or (name is None and array.ndim in (3, 4))]
        if not chosen or any(arrays[key].ndim not in (2, 3, 4) for key in chosen):
            known = ", ".join(f"{key} {list(array.shape)}" for key, array in arrays.items())
            raise UsageError("input-unknown", f"there is no picture{f' {name!r}' if name else ''} among {known}")
        changed = dict(arrays)
        for key in chosen:
            array = arrays[key]
            changed[key] = np.stack([one(picture) for picture in array]) if array.ndim == 4 else one(array)
        return changed

    return redact


def drop_columns(columns: Iterable[str | int], names: Sequence[str] = (), *, value: float = float("nan")) -> Redaction:
    """A redaction that overwrites columns of rows.

    Args:
        columns: Names or numbers of columns along the last axis.
        names: All columns in order, where columns are named.
        value: Stands there instead; NaN becomes 0 in arrays of integers.

    Raises:
        UsageError: `input-unknown`: there is no column of that name.
    """
    gone: list[int] = []
    for column in columns:
        if isinstance(column, str) and column not in names:
            raise UsageError("input-unknown", f"no column is called {column!r}; known: {', '.join(names)}")
        gone.append(names.index(column) if isinstance(column, str) else column)

    def redact(arrays: Arrays) -> Arrays:
        changed = {}
        for key, array in arrays.items():
            made = np.array(array)
            made[..., gone] = value if made.dtype.kind == "f" else 0
            changed[key] = made
        return changed

    return redact


def chain(*redactions: Redaction) -> Redaction:
    """Several redactions, one after the other."""

    def redact(arrays: Arrays) -> Arrays | None:
        found: Arrays | None = arrays
        for one in redactions:
            if found is not None:
                found = one(found)
        return found

    return redact


def _edges(low: float, high: float, size: int, cells: int) -> list[int]:
    """Whole pixels that a box covers, in parts; at least one pixel where it touches the picture."""
    begin, end = max(0, int(np.floor(low))), min(size, int(np.ceil(high)))
    if end <= begin:
        return []
    return sorted({int(edge) for edge in np.linspace(begin, end, cells + 1)})
