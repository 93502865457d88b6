"""Protobuf's wire format: the fields of a message, found without its schema, and written.

Source: https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator

FIELD_LIMIT = 100_000
"""Of one message, unless said: real ModelProtos have tens. Memory stays bounded on a hostile file."""


class TornError(ValueError):
    """A field runs past the end of its message.

    Attributes:
        end: Where the field would end.
        number: Which one.
    """

    def __init__(self, number: int, end: int) -> None:
        super().__init__(f"field {number} ends at byte {end}, behind the end")
        self.number, self.end = number, end


def fields(
    data: bytes, start: int = 0, end: int | None = None, *, limit: int = FIELD_LIMIT
) -> list[tuple[int, int, int, int]]:
    """Fields of one protobuf message without looking inside: (number, wire type, begin, end of its payload).

    For a varint the payload is the varint itself.

    Args:
        data: Holds the message.
        start: Where the message begins.
        end: Where it ends; None for the end of `data`.
        limit: More fields than this are refused, so that two-byte fields cannot fill the memory.

    Raises:
        ValueError: Not a protobuf message, or over the limit.
    """
    found: list[tuple[int, int, int, int]] = []
    for one in scan(data, start, end):
        if len(found) == limit:
            raise ValueError(f"more than {limit} fields in one message")
        found.append(one)
    return found


def scan(data: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int, int, int]]:
    """Like `fields`, one at a time."""
    end = len(data) if end is None else end
    at = start
    while at < end:
        tag, at = varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        begin = at
        if wire == 0:
            _, at = varint(data, at, end)
        elif wire == 1:
            at += 8
        elif wire == 2:
            size, begin = varint(data, at, end)
            at = begin + size
        elif wire == 5:
            at += 4
        else:
            raise ValueError(f"wire type {wire} at byte {begin}")
        if number == 0:
            raise ValueError(f"field 0 at byte {begin}")
        if at > end:
            raise TornError(number, at)
        yield number, wire, begin, at


def varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A base-128 varint at `at`: (value, position behind it)."""
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, at
        shift += 7
    raise ValueError(f"no varint at byte {at}")


def field(number: int, payload: bytes | int) -> bytes:
    """One protobuf field: of bytes, or a varint."""
    if isinstance(payload, int):
        return as_varint(number << 3) + as_varint(payload)
    return as_varint(number << 3 | 2) + as_varint(len(payload)) + payload


def as_varint(value: int) -> bytes:
    """A number as protobuf and Thrift write it: seven bits a byte, the lowest first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
