"""A table as Parquet, which pandas, polars, DuckDB and Spark read with the types of its columns.

The plainest file that the format knows: one row group, each column one page, PLAIN, not compressed, nothing optional (a
number that is missing is NaN). Source: https://github.com/apache/parquet-format (parquet.thrift, Encodings.md), and the
compact protocol of Thrift (https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.artifact import as_varint

_MAGIC = b"PAR1"
_FLOAT, _DOUBLE, _BYTES = 4, 5, 6
_UTF8 = 0
_PLAIN, _RLE = 0, 3
_I32, _I64, _BINARY, _LIST, _STRUCT = 5, 6, 8, 9, 12

Field = tuple[int, int, bytes]
"""Number, type of the compact protocol, value as bytes."""


def table(names: Sequence[str], columns: Sequence[NDArray[Any] | Sequence[str]]) -> bytes:
    """A file of columns of equal length: floats, or texts.

    Args:
        names: Of the columns.
        columns: float32 or float64 [n], or n texts.
    """
    rows = len(columns[0]) if columns else 0
    content, chunks = bytearray(_MAGIC), []
    for name, column in zip(names, columns, strict=True):
        kind, data = _values(column)
        about = [_number(1, rows), _number(2, _PLAIN), _number(3, _RLE), _number(4, _RLE)]
        head = _struct([_number(1, 0), _number(2, len(data)), _number(3, len(data)), (5, _STRUCT, _struct(about))])
        begin = len(content)
        content += head + data
        size = len(head) + len(data)
        meta = [
            _number(1, kind), (2, _LIST, _list(_I32, [_zigzag(_PLAIN)])), (3, _LIST, _list(_BINARY, [_text(name)])),
            _number(4, 0), _number(5, rows, _I64), _number(6, size, _I64), _number(7, size, _I64),
            _number(9, begin, _I64),
        ]  # fmt: skip
        chunks.append((_struct([_number(2, begin, _I64), (3, _STRUCT, _struct(meta))]), kind, size))
    group = [
        (1, _LIST, _list(_STRUCT, [chunk for chunk, _, _ in chunks])),
        _number(2, sum(size for *_, size in chunks), _I64), _number(3, rows, _I64),
    ]  # fmt: skip
    root = _struct([(4, _BINARY, _text("schema")), _number(5, len(chunks))])
    schema = [root, *(_element(name, kind) for name, (_, kind, _) in zip(names, chunks, strict=True))]
    footer = _struct([
        _number(1, 1), (2, _LIST, _list(_STRUCT, schema)), _number(3, rows, _I64),
        (4, _LIST, _list(_STRUCT, [_struct(group)])), (6, _BINARY, _text("edgekit")),
    ])  # fmt: skip
    return bytes(content) + footer + struct.pack("<I", len(footer)) + _MAGIC


def _values(column: NDArray[Any] | Sequence[str]) -> tuple[int, bytes]:
    if isinstance(column, np.ndarray):
        kind = _FLOAT if column.dtype == np.float32 else _DOUBLE
        return kind, column.astype("<f4" if kind == _FLOAT else "<f8").tobytes()
    encoded = [text.encode() for text in column]
    return _BYTES, b"".join(struct.pack("<I", len(text)) + text for text in encoded)


def _element(name: str, kind: int) -> bytes:
    fields = [_number(1, kind), _number(3, 0), (4, _BINARY, _text(name))]
    return _struct([*fields, *([_number(6, _UTF8)] if kind == _BYTES else [])])


def _struct(fields: Sequence[Field]) -> bytes:
    """Fields in ascending order, each told by its distance to the one before."""
    made, last = bytearray(), 0
    for number, kind, value in fields:
        made.append((number - last) << 4 | kind)
        made += value
        last = number
    return bytes(made) + b"\0"


def _list(kind: int, items: Sequence[bytes]) -> bytes:
    head = bytes([len(items) << 4 | kind]) if len(items) < 15 else bytes([0xF0 | kind]) + as_varint(len(items))
    return head + b"".join(items)


def _number(field: int, value: int, kind: int = _I32) -> Field:
    return field, kind, _zigzag(value)


def _text(text: str) -> bytes:
    data = text.encode()
    return as_varint(len(data)) + data


def _zigzag(value: int) -> bytes:
    return as_varint(value << 1 if value >= 0 else (-value << 1) - 1)
