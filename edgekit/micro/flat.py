"""Flatbuffers, written front to back: as much of the format as a TFLite model takes.

A table is a mapping from slot to value: a `Scalar`, a text, another table, or a `Vector`. Whatever a table refers to
follows it, so that all offsets are positive. Source: https://flatbuffers.dev/internals.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scalar:
    """A number in the form that `struct` calls `code`."""

    code: str
    value: float


@dataclass(frozen=True)
class Vector:
    """Bytes of `count` elements, aligned for what they are."""

    data: bytes
    count: int
    align: int = 4


Value = Scalar | str | Vector | Mapping[int, "Value"] | Sequence["Value"]
Table = Mapping[int, Value]


def vector(code: str, values: Sequence[float]) -> Vector:
    """Of numbers."""
    return Vector(struct.pack(f"<{len(values)}{code}", *values), len(values), max(4, struct.calcsize(f"<{code}")))


def write(root: Table, identifier: bytes) -> bytes:
    """The whole buffer."""
    out = bytearray(4) + identifier
    at = _table(out, root)
    struct.pack_into("<I", out, 0, at)
    return bytes(out)


def _align(out: bytearray, size: int, ahead: int = 0) -> None:
    """Pad so that what follows `ahead` more bytes is aligned."""
    out.extend(bytes(-(len(out) + ahead) % size))


def _table(out: bytearray, table: Table) -> int:
    slots = max(table, default=-1) + 1
    places, size = {}, 4
    for slot, value in sorted(table.items()):
        width = struct.calcsize(f"<{value.code}") if isinstance(value, Scalar) else 4
        size += -size % width
        places[slot] = size
        size += width
    _align(out, 8, 4 + 2 * slots)  # the table itself, behind its list of fields, starts at a multiple of 8
    fields = len(out)
    out += struct.pack(f"<{2 + slots}H", 4 + 2 * slots, size, *(places.get(slot, 0) for slot in range(slots)))
    start = len(out)
    out += struct.pack("<i", start - fields) + bytes(size - 4)
    for slot, place in places.items():
        value = table[slot]
        if isinstance(value, Scalar):
            struct.pack_into(f"<{value.code}", out, start + place, value.value)
        else:
            struct.pack_into("<I", out, start + place, _value(out, value) - start - place)
    return start


def _value(out: bytearray, value: Value) -> int:
    if isinstance(value, str):
        text = value.encode()
        _align(out, 4)
        start = len(out)
        out += struct.pack("<I", len(text)) + text + b"\0"
        return start
    if isinstance(value, Vector):
        _align(out, value.align, 4)
        start = len(out)
        out += struct.pack("<I", value.count) + value.data
        return start
    if isinstance(value, Mapping):
        return _table(out, value)
    assert not isinstance(value, Scalar)  # noqa: S101 - scalars stand in their table
    _align(out, 4)
    start = len(out)
    out += struct.pack("<I", len(value)) + bytes(4 * len(value))
    for number, item in enumerate(value):
        place = start + 4 + 4 * number
        struct.pack_into("<I", out, place, _value(out, item) - place)
    return start
