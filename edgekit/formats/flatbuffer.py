"""A minimal reader of flatbuffer tables that checks every offset against the file.

Only what TFLite's schema uses: tables, scalars, strings, vectors of scalars and of tables.
Source: https://flatbuffers.dev/internals: a table starts with a signed offset back to its vtable; the vtable holds
its own size, the table's size, then for every field the offset inside the table (0: absent, the default holds);
tables, strings and vectors are referred to by an unsigned offset that counts from where it stands.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable

from edgekit.formats.facts import Budget

SIZES = {"b": 1, "B": 1, "h": 2, "H": 2, "i": 4, "I": 4, "q": 8, "Q": 8, "f": 4}
"""Bytes of the scalars, by their `struct` letter."""
_READERS = {kind: (size, struct.Struct(f"<{kind}").unpack_from) for kind, size in SIZES.items()}


_UNSIGNED = _READERS["I"][1]
_HEAD = struct.Struct("<HH").unpack_from


@functools.cache
def _slots(count: int) -> Callable[[bytes, int], tuple[int, ...]]:
    """Reads so many offsets of fields: at most some 32,000 different ones."""
    return struct.Struct(f"<{count}H").unpack_from


class Table:
    """One table.

    Every method raises ValueError when the bytes would lead outside the file.
    """

    __slots__ = ("_at", "_budget", "_data", "_offsets", "_size")

    def __init__(self, data: bytes, at: int, budget: Budget) -> None:
        budget.spend(Budget.OBJECT)
        self._data, self._at, self._budget = data, at, budget
        vtable = at - _read("i", data, at)
        if not 0 <= vtable <= len(data) - 4:
            raise _beyond(vtable, data)
        length, self._size = _HEAD(data, vtable)
        if length < 4 or length % 2 or vtable + length > len(data) or at + self._size > len(data):
            raise ValueError(f"the table at byte {at} runs outside the file")
        self._offsets = _slots(length // 2 - 2)(data, vtable + 4)

    @classmethod
    def root(cls, data: bytes, budget: Budget) -> Table:
        return cls(data, _read("I", data, 0), budget)

    def scalar(self, slot: int, kind: str, default: int = 0) -> int:
        """An integer field."""
        size, read = _READERS[kind]
        self._budget.spend()
        offset = self._offsets[slot] if slot < len(self._offsets) else 0
        if not offset:
            return default
        if offset < 4 or offset + size > self._size:
            raise self._outside(slot)
        value: int = read(self._data, self._at + offset)[0]  # it lies in the table, which lies in the file
        return value

    def table(self, slot: int) -> Table | None:
        at = self._target(slot)
        return Table(self._data, at, self._budget) if at else None

    def tables(self, slot: int) -> list[Table]:
        """A vector of tables; empty when absent."""
        start, count = self._vector(slot, 4)
        self._budget.spend(count)
        places = struct.unpack_from(f"<{count}I", self._data, start)
        return [Table(self._data, start + 4 * i + place, self._budget) for i, place in enumerate(places)]

    def scalars(self, slot: int, kind: str) -> tuple[int, ...] | None:
        """A vector of integers (or of floats, for "f"); None when absent."""
        start, count = self._vector(slot, SIZES[kind])
        if not start:
            return None
        self._budget.spend(count)
        return struct.unpack_from(f"<{count}{kind}", self._data, start)

    def floats(self, slot: int) -> tuple[float, ...]:
        return self.scalars(slot, "f") or ()

    def length(self, slot: int, kind: str = "B") -> int:
        """How many items a vector of scalars has, without reading them."""
        return self._vector(slot, SIZES[kind])[1]

    def blob(self, slot: int, limit: int) -> bytes:
        """The first `limit` bytes of a byte vector."""
        start, count = self._vector(slot, 1)
        count = min(count, limit)
        self._budget.spend(count // 8)
        return self._data[start : start + count]

    def text(self, slot: int) -> str:
        """A string; "" when absent. What is not UTF-8 is replaced."""
        start, count = self._vector(slot, 1)
        self._budget.spend(Budget.TEXT + count // 8)
        return self._data[start : start + count].decode("utf-8", "replace")

    def _outside(self, slot: int) -> ValueError:
        return ValueError(f"field {slot} of the table at byte {self._at} lies outside it")

    def _target(self, slot: int) -> int:
        """What a field refers to; 0 when it is absent."""
        self._budget.spend()
        offset = self._offsets[slot] if slot < len(self._offsets) else 0
        if not offset:
            return 0
        if offset < 4 or offset + 4 > self._size:
            raise self._outside(slot)
        at = self._at + offset
        place: int = _UNSIGNED(self._data, at)[0]
        return at + place

    def _vector(self, slot: int, size: int) -> tuple[int, int]:
        at = self._target(slot)
        if not at:
            return 0, 0
        count = _read("I", self._data, at)
        if at + 4 + count * size > len(self._data):
            raise ValueError(f"a vector of {count} items at byte {at} runs past the end of the file")
        return at + 4, count


def _read(kind: str, data: bytes, at: int) -> int:
    size, read = _READERS[kind]
    if at < 0 or at + size > len(data):
        raise _beyond(at, data)
    value: int = read(data, at)[0]
    return value


def _beyond(at: int, data: bytes) -> ValueError:
    return ValueError(f"an offset leads to byte {at} of {len(data)}: the file is cut short or damaged")
