"""ONNX's messages as plain records: only what inspection needs. `onnx_proto` reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

Field = tuple[int, int, int, int]
"""Field number, wire type, begin and end of the payload in the file."""

_NONE: Final[Mapping[str, Any]] = MappingProxyType({})
"""Shared by all nodes without such attributes: a hostile file has millions."""


@dataclass(frozen=True, slots=True)
class Const:
    """A TensorProto whose payload stays in the file.

    Attributes:
        dims: Sizes.
        dtype: Name as in `DATA_TYPES`.
        bytes: Of the data, wherever it lies.
        parts: Where it lies in the file: (field number, wire type, begin, end).
        location: The file beside the model, for external data.
    """

    name: str
    dims: tuple[int, ...]
    dtype: str
    bytes: int
    parts: tuple[Field, ...] = ()
    location: str | None = None


@dataclass(frozen=True, slots=True)
class Value:
    """A ValueInfoProto. `shape` is None for an unknown rank; a free size is None or the name of its parameter.

    `dtype` is "" for what is not a tensor, `what` says what it is then.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None
    what: str = "tensor"


@dataclass(slots=True)
class Node:
    """A NodeProto; attributes that are not wanted are missing.

    Attributes:
        counts: How many floats a wanted attribute lists.
        attribute_bytes: Of all attributes: where ai.onnx.ml keeps its weights.
    """

    op: str = ""
    domain: str = ""
    name: str = ""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    ints: Mapping[str, int] = field(default_factory=lambda: _NONE)
    floats: Mapping[str, float] = field(default_factory=lambda: _NONE)
    lists: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: _NONE)
    counts: Mapping[str, int] = field(default_factory=lambda: _NONE)
    texts: Mapping[str, str] = field(default_factory=lambda: _NONE)
    tensor: Const | None = None
    attribute_bytes: int = 0
    graphs: list[Graph] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """Op type, with its domain unless that is the standard one."""
        return self.op if self.domain in ("", "ai.onnx") else f"{self.domain}:{self.op}"

    def input(self, index: int) -> str:
        return self.inputs[index] if index < len(self.inputs) else ""


@dataclass(slots=True)
class Graph:
    """A GraphProto (or the body of a FunctionProto)."""

    name: str = ""
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, Const] = field(default_factory=dict)
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)


@dataclass(slots=True)
class Model:
    """A ModelProto."""

    ir_version: int = 0
    producer: str = ""
    producer_version: str = ""
    description: str = ""
    opsets: dict[str, int] = field(default_factory=dict)
    graph: Graph | None = None
    functions: dict[tuple[str, str], Graph] = field(default_factory=dict)
    metadata: dict[str, int] = field(default_factory=dict)
