"""Writing the objects of the TFLite schema as a flatbuffer in which equal parts stand once.

Apart from `graph` because of its size. The FlatBuffers library for Python shares virtual tables and nothing
else, and ignores the alignment that the schema demands for weights.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

IDENTIFIER = b"TFL3"
_OUTPUTS = 8
"""Where the virtual table of a SubGraph has its outputs: the third field."""
_ROOM = 256
"""Bytes that a tensor, an operator or a buffer takes beside its data, so that the builder need not grow: it doubles."""
_WEIGHT_ALIGNMENT = 16
"""`force_align` of Buffer.data in the schema."""


def write(model: Any) -> bytes:
    """Write a model as it is: indices of tensors, buffers and operator codes stay."""
    size = sum(0 if buffer.data is None else len(buffer.data) for buffer in model.buffers)
    parts = len(model.buffers) + sum(len(g.tensors) + len(g.operators or ()) for g in model.subgraphs)
    builder = _builder_class()(size + _ROOM * parts + (1 << 14))
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    return bytes(memoryview(builder.Bytes)[builder.head :])


def with_outputs(data: bytes, tensors: Sequence[int]) -> bytes:
    """A written model whose first graph answers other tensors: their list is appended, and the graph refers to it.

    Writing a model anew takes a second of Python for tens of megabytes of weights; this takes a copy.

    Args:
        data: The file; of its signatures, which name the outputs there were, there must be none.
        tensors: Indices of the tensors that it is to answer.
    """
    from ai_edge_litert.schema_py_generated import Model

    table = Model.GetRootAs(data).Subgraphs(0)._tab  # noqa: SLF001 - the generated classes tell no places
    field = int(table.Pos) + int(table.Offset(_OUTPUTS))
    made = bytearray(data)
    made.extend(bytes(-len(made) % 4))
    made[field : field + 4] = (len(made) - field).to_bytes(4, "little")
    made.extend(np.array([len(tensors), *tensors], "<i4").tobytes())
    return bytes(made)


def write_shared(model: Any, holders: Iterable[tuple[Any, str]]) -> bytes:
    """Write a model, and those of its tables that are equal only once.

    Args:
        model: The model.
        holders: Objects of the model and the field in which each holds a table or a list of tables; all tables that
            may be shared, those inside others first.
    """
    known: dict[Any, _Table] = {}

    def shared(table: Any) -> _Table:
        return known.setdefault(_content(table), _Table(table))

    held = [(holder, field, getattr(holder, field)) for holder, field in holders]
    for holder, field, table in held:
        if isinstance(table, list):
            setattr(holder, field, [shared(item) for item in table])
        elif table is not None:
            setattr(holder, field, shared(table))
    try:
        return write(model)
    finally:
        for holder, field, table in held:
            setattr(holder, field, table)


class _Table:
    """A table that many refer to and that is written once."""

    def __init__(self, table: Any) -> None:
        self._table = table
        self._offset: int | None = None

    def Pack(self, builder: Any) -> int:  # noqa: N802 - the generated classes' own spelling
        if self._offset is None:
            self._offset = int(self._table.Pack(builder))
        return self._offset


def _content(value: Any) -> Any:
    """A hashable picture of an object of the schema."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.tobytes()
    if isinstance(value, list):
        return tuple(_content(item) for item in value)
    if hasattr(value, "__dict__"):
        return type(value).__name__, tuple((key, _content(item)) for key, item in vars(value).items())
    return value


@cache
def _builder_class() -> Callable[[int], Any]:
    import flatbuffers

    class Builder(flatbuffers.Builder):  # type: ignore[misc, unused-ignore]
        """Writes each distinct vector and string once, and bytes on 16-byte boundaries."""

        def __init__(self, size: int) -> None:
            super().__init__(size)
            self._places: dict[Any, int] = {}

        def CreateNumpyVector(self, x: NDArray[Any]) -> int:  # noqa: N802
            key = (x.dtype.str, x.tobytes())
            if key not in self._places:
                alignment = _WEIGHT_ALIGNMENT if x.dtype == np.uint8 else x.dtype.alignment
                self.StartVector(x.itemsize, x.size, alignment)
                payload = key[1] if sys.byteorder == "little" else x.astype(x.dtype.newbyteorder("<")).tobytes()
                self.head -= len(payload)
                self.Bytes[self.head : self.head + len(payload)] = payload
                self.vectorNumElems = x.size
                self._places[key] = self.EndVector()
            return self._places[key]

        def CreateString(self, s: Any, encoding: str = "utf-8", errors: str = "strict") -> int:  # noqa: N802
            if s not in self._places:
                self._places[s] = super().CreateString(s, encoding, errors)
            return self._places[s]

    return Builder
