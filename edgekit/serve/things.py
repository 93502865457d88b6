"""What `predict` takes over the wire, and how its answers become JSON."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np

from edgekit.codec import encode
from edgekit.errors import DataError, EngineMissingError, FeedError, LimitError
from edgekit.runtimes.model import Model
from edgekit.runtimes.preparation import sounds
from edgekit.serve.bodies import Data, parsed
from edgekit.serve.payload import listed, present
from edgekit.serve.settings import Bounds
from edgekit.serve.wire import Kind
from edgekit.tensors import TensorSpec

_ONE = "predict answers one thing, and these are {}: ask once for each, or infer for all"
_PICTURES = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")
"""Formats of Pillow's that are decoded; its others read fonts, run Ghostscript, or are rare."""
_BEGINS: tuple[tuple[bytes, Kind], ...] = (
    (rb"\x89PNG|\xff\xd8\xff|GIF8|BM|II\*\0|MM\0\*|RIFF.{4}WEBP", "image"), (rb"RIFF.{4}WAVE", "sound"),
)  # fmt: skip
"""Files are known by their first bytes: no JSON begins like this."""


def thing(body: Data, kind: Kind, model: Model, bounds: Bounds) -> Any:
    """What `Model.predict` takes, of a body.

    Raises:
        FeedError: `body-thing`, `body-json`, `body-depth`. LimitError: `body-pixels`, `body-numbers`.
        EngineMissingError: `pillow-missing`.
    """
    if kind == "row":
        begins = bytes(body[:12])
        kind = next((known for pattern, known in _BEGINS if re.match(pattern, begins, re.DOTALL)), kind)
    if kind == "row":
        return _row(parsed(body, bounds), model)
    if kind == "sound":
        try:
            return sounds.sound_of(io.BytesIO(body), "the body")
        except DataError as error:
            raise FeedError("body-thing", error.message) from error
    return _picture(body, bounds)


def told(answer: Any) -> Any:
    """JSON values of an answer of `Model.predict`."""
    if hasattr(answer, "to_dict"):
        return _plain(answer.to_dict())
    return _plain(encode(answer))


def _row(found: Any, model: Model) -> Any:
    """A row of named values, a text, numbers for the only input, or numbers by input name."""
    specs = {spec.name: spec for spec in model.inputs}
    gaps = any(spec.missing for spec in model.inputs)
    if isinstance(found, dict) and specs and specs.keys() == found.keys():
        return {name: _single(_array(value, gaps=gaps), specs[name], model) for name, value in found.items()}
    if isinstance(found, str):
        if model.preprocess.kind != "text":
            raise FeedError("body-thing", "the model takes no text")
        return found.encode()  # never taken for a path
    if isinstance(found, dict):
        return found
    if isinstance(found, list) and model.preprocess.kind == "table":
        if len(found) == 1 and isinstance(found[0], dict):
            return found
        if found and all(isinstance(row, dict) for row in found):
            raise FeedError("body-thing", _ONE.format(len(found)))
        raise FeedError("body-thing", "the model takes a row of values by name, not a list")
    if isinstance(found, (list, int, float)):
        array = _array(found, gaps=gaps)
        return _single(array, model.inputs[0], model) if len(model.inputs) == 1 else array
    raise FeedError("body-thing", "the model takes no such value: a row of named values, a text or numbers")


def _single(array: Any, spec: TensorSpec, model: Model) -> Any:
    """An array that is one thing: of several samples, only the first would be read."""
    batch = spec.shape[:1] in ((None,), (1,)) and array.ndim == len(spec.shape)
    if batch and len(array) != 1 and model.interpret.task != "other" and _each(model, spec):
        raise FeedError("body-thing", _ONE.format(len(array)))
    return array


def _each(model: Model, spec: TensorSpec) -> bool:
    """Whether there is an answer for each entry of the first axis: it is no sequence that makes one answer."""
    return spec.shape[0] == 1 or all(output.shape[:1] == (None,) for output in model.outputs)


def _array(value: Any, *, gaps: bool) -> Any:
    """Numbers or texts; null is NaN where there may be gaps."""
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError) as error:
        raise FeedError("body-thing", "the lists are of unequal length") from error
    if gaps and array.dtype.kind == "O":
        array = present(array)
    if array.dtype.kind not in "biufU":
        raise FeedError("body-thing", "the lists hold something that is neither number nor text")
    return array


def _picture(body: Data, bounds: Bounds) -> Any:
    try:
        from PIL import Image, UnidentifiedImageError
    except ModuleNotFoundError as error:
        raise EngineMissingError("pillow-missing", "pictures are not decoded here: Pillow is missing") from error
    try:
        image = Image.open(io.BytesIO(body), formats=_PICTURES)
        if image.width * image.height > bounds.pixels:
            raise LimitError("body-pixels", f"the picture has more than {bounds.pixels} pixels")
        image.load()
    except Image.DecompressionBombError as error:
        raise LimitError("body-pixels", f"the picture has more than {bounds.pixels} pixels") from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError) as error:
        # What Pillow's readers raise on broken files.
        raise FeedError("body-thing", "the body is no picture that is read here") from error
    return image


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return {"shape": list(value.shape), "data": listed(value)}
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
