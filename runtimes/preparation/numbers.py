"""Scale, mean and std, then the tensor's own integers: by arithmetic for any values, by a table for bytes.

A byte has 256 values, so that whatever is done to it can be done once to all of them: the table is made by the same
arithmetic, and its integers are the same. Where scale, mean, std and quantization cancel, nothing is left to do but to
take the bytes as they are, or as signed ones, which flips one bit of each. For floats, two operations on whole rows do
what is otherwise four on single pixels; they differ from the plain formula by rounding only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from edgekit.errors import FeedError
from edgekit.feeding import Preprocess
from edgekit.runtimes.base import Array, quantize
from edgekit.runtimes.preparation.pictures import Geometry, geometry
from edgekit.tensors import TensorSpec

Fast = Callable[..., Array]
"""uint8 [H,W,C] -> the input's own dtype and layout, with a batch axis; into `out` where that is given, or
the picture itself where nothing has to be done to it."""


def normalize(raw: Array, how: Preprocess, spec: TensorSpec) -> Array:
    """(raw * scale - mean) / std in float32, along the channel axis of `spec`'s layout; integers stay what they are
    where the input takes integers without a scale. An image array may come in the other layout: it is prepared in its
    own, and `Model.run` turns it.

    Raises:
        FeedError: `feed-dtype`: no numbers; `feed-shape`: no axis has as many channels as there are means.
    """
    if how.identity:
        return raw
    if raw.dtype.kind not in "fiub":
        raise FeedError("feed-dtype", f"{spec.name} takes real values, got {raw.dtype}")
    mean, std = (_channels(values, spec, raw) for values in (how.mean, how.std))
    with np.errstate(over="ignore"):  # what becomes infinite is refused, with its place
        return np.asarray((raw.astype(np.float32) * np.float32(how.scale) - mean) / std, np.float32)


def fast(how: Preprocess, spec: TensorSpec) -> Fast | None:
    """From a picture of the input's size to the tensor; None where the general way must do it.

    Integers equal those of `normalize` and `quantize`; floats differ by less than 1e-6 of the input's range.
    """
    wanted = geometry(spec)
    if any(len(values) not in (1, wanted.channels) for values in (how.mean, how.std)):
        return None
    if spec.quant is None:
        if spec.dtype == "uint8":
            return _layout(wanted.first) if how.identity else None
        return _scaled(how, spec, wanted) if spec.dtype == "float32" else None
    if spec.dtype not in ("int8", "uint8") or spec.quant.axis is not None:
        return None
    return _looked_up(_table(how, spec, wanted.channels), first=wanted.first)


def _table(how: Preprocess, spec: TensorSpec, channels: int) -> Array:
    """[channels, 256]: what each byte becomes."""
    picture = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], channels, axis=2)
    last = TensorSpec(spec.name, (1, 256, 1, channels), spec.dtype, "NHWC", spec.quant)
    real = np.asarray(normalize(picture, how, last), np.float32)
    return np.ascontiguousarray((quantize(real, last) if spec.quant is not None else real)[:, 0].T)


def _looked_up(table: Array, *, first: bool) -> Fast:
    """Bytes to bytes. Python's own translation of bytes is four times as fast as numpy's indexing."""
    layout = _layout(first)
    counted = np.arange(256)
    if (table == table[0]).all():
        if np.array_equal(table[0], counted):
            return layout
        if np.array_equal(table[0], counted - 128):
            return functools.partial(_signed, layout)
        one = table[0].tobytes()

        def translated(picture: Array, out: Array | None = None) -> Array:
            turned = layout(picture)
            made = np.empty(turned.shape, table.dtype) if out is None else out
            made[...] = np.frombuffer(turned.tobytes().translate(one), table.dtype).reshape(turned.shape)
            return made

        return translated
    columns = [column.tobytes() for column in table]

    def each(picture: Array, out: Array | None = None) -> Array:
        height, width, channels = picture.shape
        shape = (1, channels, height, width) if first else (1, height, width, channels)
        made = np.empty(shape, table.dtype) if out is None else out
        for channel, column in enumerate(columns):
            plane = np.frombuffer(picture[..., channel].tobytes().translate(column), table.dtype)
            made[(0, channel) if first else (0, ..., channel)] = plane.reshape(height, width)
        return made

    return each


def _signed(layout: Fast, picture: Array, out: Array | None = None) -> Array:
    """Bytes less 128."""
    turned = layout(picture)
    made = np.empty(turned.shape, np.int8) if out is None else out
    np.bitwise_xor(turned, np.uint8(0x80), out=made.view(np.uint8))
    return made


def _scaled(how: Preprocess, spec: TensorSpec, wanted: Geometry) -> Fast | None:
    """Bytes to floats: byte * factor + offset."""
    layout = _layout(wanted.first)
    if how.identity:
        return functools.partial(_widened, layout)
    mean, std = (np.broadcast_to(np.asarray(v, np.float64), (wanted.channels,)) for v in (how.mean, how.std))
    factor, offset = (how.scale / std).astype(np.float32), (-mean / std).astype(np.float32)
    exact = _table(how, spec, wanted.channels)
    made = np.arange(256, dtype=np.float32) * factor[:, None] + offset[:, None]
    if np.abs(made - exact).max() > 1e-6 * np.abs(exact).max():
        return None  # a mean far outside of the bytes' range: subtracting first keeps the digits
    if wanted.first:
        factor, offset = factor[:, None, None], offset[:, None, None]
    else:  # a whole row at once
        factor, offset = np.tile(factor, wanted.width), np.tile(offset, wanted.width)

    def scaled(picture: Array, out: Array | None = None) -> Array:
        turned = layout(picture)
        made = np.empty(turned.shape, np.float32) if out is None else out
        rows = made if wanted.first else made.reshape(1, wanted.height, -1)
        np.multiply(turned.reshape(rows.shape), factor, dtype=np.float32, out=rows)
        rows += offset
        return made

    return scaled


def _widened(layout: Fast, picture: Array, out: Array | None = None) -> Array:
    turned = layout(picture)
    made = np.empty(turned.shape, np.float32) if out is None else out
    made[...] = turned
    return made


def _layout(first: bool) -> Fast:
    if first:
        return lambda picture, out=None: np.ascontiguousarray(picture.transpose(2, 0, 1))[None]  # noqa: ARG005
    return lambda picture, out=None: np.ascontiguousarray(picture)[None]  # noqa: ARG005


@functools.lru_cache(maxsize=64)
def _constants(values: tuple[float, ...]) -> Array:
    array = np.asarray(values, np.float32)
    array.flags.writeable = False
    return array


def _channels(values: tuple[float, ...], spec: TensorSpec, raw: Array) -> Array:
    """One value a channel, in a shape that meets the channels of `raw`: in the input's layout, else in the other."""
    array = _constants(values)
    if array.size == 1:
        return array.reshape(())
    image = len(spec.shape) == 4
    first = image and geometry(spec).first
    axes = ((-3, -1) if first else (-1, -3)) if image else (-1,)
    for axis in axes:
        if raw.ndim >= -axis and raw.shape[axis] == array.size:
            return array.reshape(-1, 1, 1) if axis == -3 else array
    sizes = ",".join(map(str, raw.shape))
    raise FeedError("feed-shape", f"{spec.describe()} is prepared with {array.size} channels, [{sizes}] has others")
