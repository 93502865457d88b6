"""ONNX's protobuf messages, as far as inspection needs them, read without protobuf.

Fields are found by `edgekit.artifact.scan`; payloads of weights are never copied. Source: onnx.proto (field numbers
stand beside the code that reads them) and https://protobuf.dev/programming-guides/encoding: repeated numbers may be
packed into one payload or stand one by one; both are read.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator

from edgekit.artifact import scan, varint
from edgekit.formats.facts import MAX_RANK, Budget, elements
from edgekit.formats.onnx_model import Const, Field, Graph, Model, Node, Value
from edgekit.formats.onnx_trees import LISTS
from edgekit.formats.onnx_trees import elements as elements_of

MAX_DEPTH = 32
"""Graphs inside graphs: If, Loop and Scan nest a few deep."""

SMALL = 4096
"""Constants of at most this many elements can be read: shapes, axes, scales."""

DATA_TYPES = (
    ("", 0), ("float32", 32), ("uint8", 8), ("int8", 8), ("uint16", 16), ("int16", 16), ("int32", 32), ("int64", 64),
    ("string", 0), ("bool", 8), ("float16", 16), ("float64", 64), ("uint32", 32), ("uint64", 64), ("complex64", 64),
    ("complex128", 128), ("bfloat16", 16), ("float8_e4m3fn", 8), ("float8_e4m3fnuz", 8), ("float8_e5m2", 8),
    ("float8_e5m2fnuz", 8), ("uint4", 4), ("int4", 4), ("float4_e2m1", 4), ("float8_e8m0", 8), ("uint2", 2),
    ("int2", 2),
)  # fmt: skip
"""TensorProto.DataType, by number: name and bits an element."""

_WANTED = """
N allowzero auto_pad axes axis blocksize ceil_mode channels_last coefficients dilations end ends group hidden_size
keep_aspect_ratio_policy keepdims kernel_shape layout mode n_targets noop_with_empty_axes output_dtype output_padding
output_shape pads perm shape split start starts strides to transA transB transBatchA transBatchB tree_roots value
value_float value_int value_ints
"""
WANTED = frozenset(_WANTED.split())
"""Attributes that are looked at; others may be long and are skipped."""

_RAW = {
    "float32": "f", "float64": "d", "float16": "e", "int8": "b", "uint8": "B", "int16": "h", "uint16": "H",
    "int32": "i", "uint32": "I", "int64": "q", "uint64": "Q", "bool": "?",
}  # fmt: skip


class Reader:
    """Reads one file's messages within one budget; every method raises ValueError on nonsense."""

    def __init__(self, data: bytes, end: int | None = None) -> None:
        self.data = data
        self._end = len(data) if end is None else end
        self._budget = Budget(self._end)

    def model(self) -> Model:
        found = Model()
        for number, wire, begin, end in self._fields(0, self._end):
            if (number, wire) == (1, 0):
                found.ir_version = self._int(begin, end)
            elif number == 2:
                found.producer = self._text(begin, end)
            elif number == 3:
                found.producer_version = self._text(begin, end)
            elif number == 6:
                found.description = self._text(begin, end)
            elif (number, wire) == (7, 2):
                found.graph = self._graph(begin, end, 0)
            elif (number, wire) == (8, 2):
                domain, version = self._opset(begin, end)
                found.opsets[domain] = version
            elif (number, wire) == (14, 2):
                name, size = self._entry(begin, end)
                found.metadata[name] = size
            elif (number, wire) == (25, 2):
                key, body = self._function(begin, end)
                found.functions[key] = body
        return found

    def values(self, const: Const) -> list[float]:
        """Elements of a small constant that lies in this file, int or float by its type; empty for others."""
        letter = _RAW.get(const.dtype)
        count = elements(const.dims)
        if letter is None or count > SMALL or const.location is not None:
            return []
        found: list[float] = []
        for number, wire, begin, end in const.parts:
            if number == 9 and end - begin == count * struct.calcsize(f"<{letter}"):
                found += struct.unpack_from(f"<{count}{letter}", self.data, begin)
            elif number in (4, 10):
                found += self._floats(wire, begin, end, "f" if number == 4 else "d")
            elif number in (5, 7, 11) and const.dtype != "float16":
                found += self._ints(wire, begin, end)
            elif number == 5:  # int32_data holds the bits of half-precision numbers
                halves = (bits & 0xFFFF for bits in self._ints(wire, begin, end))
                found += (struct.unpack("<e", struct.pack("<H", bits))[0] for bits in halves)
        return found if len(found) == count else []

    def _graph(self, begin: int, end: int, depth: int) -> Graph:
        if depth > MAX_DEPTH:
            raise ValueError(f"graphs nest more than {MAX_DEPTH} deep")
        self._budget.spend(Budget.OBJECT)
        found = Graph()
        for number, wire, at, stop in self._fields(begin, end):
            if wire != 2:
                continue
            if number == 1:
                found.nodes.append(self._node(at, stop, depth))
            elif number == 2:
                found.name = self._text(at, stop)
            elif number in (5, 15):
                const = self._tensor(at, stop) if number == 5 else self._sparse(at, stop)
                found.constants[const.name] = const
            elif number == 11:
                found.inputs.append(self._value(at, stop))
            elif number == 12:
                found.outputs.append(self._value(at, stop))
            elif number == 13:
                value = self._value(at, stop)
                found.values[value.name] = value
        return found

    def _function(self, begin: int, end: int) -> tuple[tuple[str, str], Graph]:
        """A FunctionProto: name 1, nodes 7, domain 10."""
        name = domain = ""
        body = Graph()
        for number, wire, at, stop in self._fields(begin, end):
            if number == 1:
                name = self._text(at, stop)
            elif (number, wire) == (7, 2):
                body.nodes.append(self._node(at, stop, 0))
            elif number == 10:
                domain = self._text(at, stop)
        return (domain, name), body

    def _node(self, begin: int, end: int, depth: int) -> Node:
        self._budget.spend(Budget.OBJECT)
        found = Node()
        inputs: list[str] = []
        outputs: list[str] = []
        for number, wire, at, stop in self._fields(begin, end):
            if wire != 2:
                continue
            if number == 1:
                inputs.append(self._text(at, stop))
            elif number == 2:
                outputs.append(self._text(at, stop))
            elif number == 3:
                found.name = self._text(at, stop)
            elif number == 4:
                found.op = self._text(at, stop)
            elif number == 5:
                self._attribute(found, at, stop, depth)
            elif number == 7:
                found.domain = self._text(at, stop)
        found.inputs, found.outputs = tuple(inputs), tuple(outputs)
        return found

    def _attribute(self, node: Node, begin: int, end: int, depth: int) -> None:
        """An AttributeProto. Writers put the name first; a long list behind an unwanted name is not walked."""
        self._budget.spend(Budget.OBJECT)
        node.attribute_bytes += end - begin
        name, floats = "", 0
        ints: list[int] = []
        for position, (number, wire, at, stop) in enumerate(self._fields(begin, end)):
            if number == 1:
                name = self._text(at, stop)
            elif (number, wire) == (2, 5) and name in WANTED:
                node.floats = {**node.floats, name: struct.unpack_from("<f", self.data, at)[0]}
            elif (number, wire) == (3, 0) and name in WANTED:
                node.ints = {**node.ints, name: self._int(at, stop)}
            elif number == 4 and name in WANTED:
                node.texts = {**node.texts, name: self._text(at, stop)}
            elif number in (5, 22) and wire == 2:
                node.tensor = self._tensor(at, stop) if number == 5 else self._sparse(at, stop)
            elif number in (6, 11) and wire == 2:
                node.graphs.append(self._graph(at, stop, depth + 1))
            elif number == 8 and name in WANTED:
                ints += self._ints(wire, at, stop)
            elif number == 7 and name not in LISTS:
                floats += max(1, (stop - at) // 4)
            if name in LISTS and number in (5, 7, 8):
                held = node.tensor if number == 5 else None
                floats = math.prod(held.dims) if held else elements_of(self.data, name, wire, at, stop, end)
                break
            if position and name and name not in WANTED and number not in (6, 11):
                return
        if ints:
            node.lists = {**node.lists, name: tuple(ints)}
        if floats:
            node.counts = {**node.counts, name: floats}

    def _tensor(self, begin: int, end: int) -> Const:
        """A TensorProto."""
        self._budget.spend(Budget.OBJECT)
        name, kind, location = "", 0, False
        dims: list[int] = []
        parts: list[Field] = []
        external: dict[str, str] = {}
        for number, wire, at, stop in self._fields(begin, end):
            if number == 1:
                dims += self._ints(wire, at, stop)
            elif (number, wire) == (2, 0):
                kind = self._int(at, stop)
            elif number in (4, 5, 7, 9, 10, 11):
                parts.append((number, wire, at, stop))
            elif number == 8:
                name = self._text(at, stop)
            elif (number, wire) == (13, 2):
                key, value = self._pair(at, stop)
                external[key] = value
            elif (number, wire) == (14, 0):
                location = self._int(at, stop) == 1
            if len(dims) > MAX_RANK:
                raise ValueError(f"constant {name!r} has more than {MAX_RANK} axes")
        if not 0 < kind < len(DATA_TYPES) or any(size < 0 for size in dims):
            raise ValueError(f"constant {name!r} has element type {kind} and shape {dims}")
        dtype, bits = DATA_TYPES[kind]
        size = (elements(dims) * bits + 7) // 8
        if location:
            return Const(name, tuple(dims), dtype, size, (), external.get("location", ""))
        self._check_payload(name, dtype, size, elements(dims), parts)
        return Const(name, tuple(dims), dtype, size, tuple(parts))

    def _check_payload(self, name: str, dtype: str, size: int, count: int, parts: list[Field]) -> None:
        """The data is there: exactly in raw form, at least a byte an element otherwise."""
        if dtype == "string":
            return
        raw = sum(stop - at for number, _, at, stop in parts if number == 9)
        typed = sum(stop - at for number, _, at, stop in parts if number != 9)
        if (raw and raw != size) or (not raw and typed < (count + 1) // 2):
            raise ValueError(f"constant {name!r} has {raw or typed} bytes of data where its shape asks for {size}")

    def _sparse(self, begin: int, end: int) -> Const:
        """A SparseTensorProto: values 1, indices 2, dims 3."""
        values = indices = None
        for number, wire, at, stop in self._fields(begin, end):
            if (number, wire) == (1, 2):
                values = self._tensor(at, stop)
            elif (number, wire) == (2, 2):
                indices = self._tensor(at, stop)
        if values is None:
            raise ValueError("a sparse constant has no values")
        return Const(values.name, values.dims, values.dtype, values.bytes + (indices.bytes if indices else 0))

    def _value(self, begin: int, end: int) -> Value:
        """A ValueInfoProto: name 1, type 2; a TypeProto: tensor 1, others 4 to 9."""
        self._budget.spend(Budget.OBJECT)
        name, found = "", None
        for number, wire, at, stop in self._fields(begin, end):
            if number == 1:
                name = self._text(at, stop)
            elif (number, wire) == (2, 2):
                for kind, how, inside, limit in self._fields(at, stop):
                    if (kind, how) == (1, 2):
                        found = self._tensor_type(inside, limit)
                    elif kind in (4, 5, 8, 9):
                        what = {4: "a sequence", 5: "a map", 8: "a sparse tensor", 9: "an optional"}[kind]
                        found = Value("", "", None, what)
        return Value(name, found.dtype, found.shape, found.what) if found else Value(name, "", None, "of unknown type")

    def _tensor_type(self, begin: int, end: int) -> Value:
        """TypeProto.Tensor: elem_type 1, shape 2; TensorShapeProto: dim 1."""
        dtype, shape = "", None
        for number, wire, at, stop in self._fields(begin, end):
            if (number, wire) == (1, 0):
                kind = self._int(at, stop)
                dtype = DATA_TYPES[kind][0] if 0 <= kind < len(DATA_TYPES) else f"type {kind}"
            elif (number, wire) == (2, 2):
                shape = tuple(self._dim(b, e) for n, w, b, e in self._fields(at, stop) if (n, w) == (1, 2))
                if len(shape) > MAX_RANK:
                    raise ValueError(f"a tensor of {len(shape)} axes")
        return Value("", dtype, shape)

    def _dim(self, begin: int, end: int) -> int | str | None:
        """A Dimension: dim_value 1, dim_param 2. Some writers say -1 for a free size."""
        for number, wire, at, stop in self._fields(begin, end):
            if (number, wire) == (1, 0):
                size = self._int(at, stop)
                return size if size >= 0 else None
            if number == 2:
                return self._text(at, stop) or None
        return None

    def _opset(self, begin: int, end: int) -> tuple[str, int]:
        domain, version = "", 0
        for number, wire, at, stop in self._fields(begin, end):
            if number == 1:
                domain = self._text(at, stop)
            elif (number, wire) == (2, 0):
                version = self._int(at, stop)
        return ("" if domain == "ai.onnx" else domain), version

    def _pair(self, begin: int, end: int) -> tuple[str, str]:
        """A StringStringEntryProto."""
        found = {n: self._text(b, e) for n, w, b, e in self._fields(begin, end) if w == 2}
        return found.get(1, ""), found.get(2, "")

    def _entry(self, begin: int, end: int) -> tuple[str, int]:
        """The key of a StringStringEntryProto, and the length of its value."""
        key, size = "", 0
        for number, wire, at, stop in self._fields(begin, end):
            if number == 1:
                key = self._text(at, stop)
            elif (number, wire) == (2, 2):
                size = stop - at
        return key, size

    def _fields(self, begin: int, end: int) -> Iterator[Field]:
        for found in scan(self.data, begin, end):
            self._budget.spend()
            yield found

    def _text(self, begin: int, end: int) -> str:
        self._budget.spend(Budget.TEXT + (end - begin) // 8)
        return self.data[begin:end].decode("utf-8", "replace")

    def _int(self, begin: int, end: int) -> int:
        return _signed(varint(self.data, begin, end)[0])

    def _ints(self, wire: int, begin: int, end: int) -> list[int]:
        """Repeated integers: packed (wire type 2) or one."""
        if wire == 0:
            return [self._int(begin, end)]
        if wire != 2:
            raise ValueError(f"wire type {wire} where integers should be, at byte {begin}")
        found, at = [], begin
        while at < end:
            self._budget.spend()
            value, at = varint(self.data, at, end)
            found.append(_signed(value))
        return found

    def _floats(self, wire: int, begin: int, end: int, letter: str) -> tuple[float, ...]:
        """Repeated floats or doubles: packed or one."""
        size = 4 if letter == "f" else 8
        if wire not in (1, 2, 5) or (end - begin) % size:
            raise ValueError(f"{end - begin} bytes where numbers should be, at byte {begin}")
        count = (end - begin) // size
        self._budget.spend(count)
        return struct.unpack_from(f"<{count}{letter}", self.data, begin)


def _signed(value: int) -> int:
    """A varint's 64 bits as int64."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value
