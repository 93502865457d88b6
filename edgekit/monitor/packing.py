"""How a reference becomes few bytes: text and arrays deflated, the arrays with their alike bytes together.

In a model of 10 kB a reference must not be what one notices of its size. Numbers are rounded before anything is made of
them (`trimmed`), never afterwards, so that what is read back is what the statistics were made with.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from edgekit.monitor.columns import Array

_TEXT_LIMIT = 1 << 20
"""Bytes of the header: names of 1,024 columns and 4,096 classes."""

_GRID = ",".join(f'"brightness at {row}, {column} of 4"' for row in range(1, 5) for column in range(1, 5))
_BANDS = ",".join(f'"{what} of band {band}"' for what in ("mean", "spread") for band in range(16))
_STEPS = ",".join(f'"change over {1 << level} steps"' for level in range(8))
_VALUES = ",".join(f'"value {place}"' for place in range(64))
_KNOWN = (
    f'"share of ids in heap 1 of 16""length""share of letters"{_VALUES}"mean","spread","smallest","largest"'
    f'"mean","loudness",{_STEPS},"clipped share"{_BANDS},"change over time"'
    f'"brightness","contrast","red","green","blue",{_GRID},"edges","fine detail","direction of edges",'
    '"slant of edges","coarse detail"],"noun":"picture","role":"input","source":"input"},{"names":["value"],"noun":'
    '"feature","role":"output","source":"output"}],"labels":["0","1","2","3","4","5","6","7","8","9"],"narrow":true,'
    '"proven":100,"relations":true,"samples":100,"shrink":0.0,"unfamiliar":[0.9,1.9],"version":2}'
    '"estimator":{"accuracy":0.9,"samples":100},"evaluated":true,{"bins":8,"classes":10,"groups":[{"names":["brightness"'
).encode()
"""What headers are likely to say, as deflate takes it; belongs to the layout, whatever the features are called."""


def trimmed(values: Array, bits: int) -> Array:
    """Floats with so many bits of significance."""
    part, power = np.frexp(np.asarray(values, np.float64))
    return np.asarray(np.ldexp(np.rint(np.ldexp(part, bits)), power - bits))


def packed(header: Any, arrays: Iterable[Array]) -> bytes:
    """A header of JSON values and arrays as bytes; equal ones give equal bytes."""
    text = _deflated(json.dumps(header, separators=(",", ":"), sort_keys=True).encode(), _KNOWN)
    # One by one: each has its own frequent bytes.
    return text + b"".join(_deflated(_planes(array)) for array in arrays)


def header_of(data: bytes) -> tuple[Any, bytes]:
    """The header, and what comes behind it.

    Raises:
        ValueError: There is none.
    """
    text, rest = _inflated(data, _TEXT_LIMIT, _KNOWN)
    return json.loads(text), rest


def arrays_of(data: bytes, dtypes: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    """The arrays, by name, in the order in which they were packed.

    Raises:
        ValueError: They are others, or hold what is no number.
    """
    found = {}
    for name, shape in shapes.items():
        dtype = np.dtype(dtypes[name])
        size = math.prod(shape) * dtype.itemsize
        content, data = _inflated(data, size)
        if len(content) != size:
            raise ValueError(f"{name} has {len(content)} bytes, not {size}")
        planes = np.frombuffer(content, np.uint8).reshape(dtype.itemsize, -1)
        array = np.ascontiguousarray(planes.T).view(dtype).reshape(shape)
        if dtype.kind == "f" and np.isnan(array).any():
            raise ValueError(f"{name} holds what is no number")
        found[name] = array
    if data:
        raise ValueError(f"{len(data)} bytes too many")
    return found


def _planes(array: Array) -> bytes:
    """First bytes of all numbers, then their second ones, ..."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(np.uint8).reshape(flat.size, flat.itemsize).T.tobytes()


def _deflated(content: bytes, known: bytes = b"") -> bytes:
    made = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, known)
    return made.compress(content) + made.flush()


def _inflated(data: bytes, limit: int, known: bytes = b"") -> tuple[bytes, bytes]:
    """What was deflated, and what comes behind it."""
    made = zlib.decompressobj(-15, known)
    try:
        content = made.decompress(data, limit + 1)
    except zlib.error as error:
        raise ValueError(f"it cannot be inflated: {error}") from error
    if not made.eof or len(content) > limit:
        raise ValueError("it ends too early or too late")
    return content, made.unused_data
